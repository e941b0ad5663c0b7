/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow extract of MPLS and NSH.
 */
#ifndef OVS_PARSE_ENCAP_H
#define OVS_PARSE_ENCAP_H

#include "parser.h"

#define MPLS_HLEN		4
#define MPLS_BOS		0x100
#define MPLS_KEY_LABELS		3
#define MPLS_MAX_LABELS		64
#define NSH_BASE_HLEN		8
#define NSH_MD1_HLEN		24
#define NSH_MD1			1
#define NSH_MD2			2

struct ovs_mpls {
	struct ovs_ctx *ctx;
	struct ovs_key *key;
	__u32 off;
	__u32 labels;		/* as ovs_key.mpls_labels; 0 until the bottom */
};

static long ovs_parse_lse(__u32 i, struct ovs_mpls *mpls)
{
	__be32 lse;

	if (ctx_load(mpls->ctx, mpls->off + i * MPLS_HLEN, &lse, sizeof(lse)))
		return 1;
	if (i < MPLS_KEY_LABELS)
		mpls->key->mpls_lse[i] = lse;
	if (!(lse & bpf_htonl(MPLS_BOS)))
		return 0;
	mpls->labels = i == 0 ? 1 : i == 1 ? 3 : 7;
	return 1;
}

static __always_inline void ovs_parse_mpls(struct ovs_parser *p)
{
	struct ovs_mpls mpls = {
		.ctx = p->ctx, .key = &p->pkt->key, .off = p->off,
	};

	p->pkt->cpu.dirty |= OVS_DIRTY_MPLS;
	p->pkt->l3_off = p->off;
	bpf_loop(MPLS_MAX_LABELS, ovs_parse_lse, &mpls, 0);
	p->pkt->key.mpls_labels = mpls.labels;
}

/* NSH, of which a malformed one is refused. */
static __always_inline void ovs_parse_nsh(struct ovs_parser *p)
{
	struct ovs_key *key = &p->pkt->key;
	__u32 word, len;
	__u8 *nsh;

	p->pkt->cpu.dirty |= OVS_DIRTY_NSH;
	p->pkt->l3_off = p->off;
	nsh = ovs_parse_at(p, NSH_BASE_HLEN);
	if (!nsh)
		goto bad;
	word = bpf_ntohs(*(__be16 *)nsh);
	len = (word & 0x3f) * 4;
	key->nsh_flags = word >> 12 & 3;
	key->nsh_ttl = word >> 6 & 0x3f;
	key->nsh_mdtype = nsh[2];
	key->nsh_np = nsh[3];
	key->nsh_path_hdr = *(__be32 *)(nsh + 4);
	if (word >> 14 || ctx_len(p->ctx) < p->off + len)
		goto bad;
	if (key->nsh_mdtype == NSH_MD2)
		return;
	if (key->nsh_mdtype != NSH_MD1 || len != NSH_MD1_HLEN)
		goto bad;
	nsh = ovs_parse_at(p, NSH_MD1_HLEN);
	if (!nsh)
		goto bad;
	__builtin_memcpy(key->nsh_context, nsh + NSH_BASE_HLEN,
			 sizeof(key->nsh_context));
	return;
bad:
	if (!p->err)
		p->err = OVS_DROP_MALFORMED;
}

#endif /* OVS_PARSE_ENCAP_H */
