/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Network service headers (RFC 8300).  What is pushed becomes the front of a
 * layer-3 packet; a frame goes below it as it is, with its tags.
 */
#ifndef OVS_ACT_NSH_H
#define OVS_ACT_NSH_H

#include "act_room.h"
#include "act_set.h"
#include "parse_encap.h"

/* Next protocols: TUN_P_* of the kernel's <net/tun_proto.h>. */
#define OVS_TUN_P_IPV4		1
#define OVS_TUN_P_IPV6		2
#define OVS_TUN_P_ETHERNET	3
#define OVS_TUN_P_NSH		4
#define OVS_TUN_P_MPLS_UC	5

#define OVS_NSH_LEN_MASK	0x3f	/* words, in the second byte */
#define OVS_NSH_MDTYPE		2	/* offsets */
#define OVS_NSH_NP		3

/* The Ethernet type of a next protocol, and the other way round; or 0. */
static __always_inline __be16 ovs_nsh_type(__u8 np)
{
	switch (np) {
	case OVS_TUN_P_IPV4:
		return bpf_htons(ETH_P_IP);
	case OVS_TUN_P_IPV6:
		return bpf_htons(ETH_P_IPV6);
	case OVS_TUN_P_ETHERNET:
		return bpf_htons(ETH_P_TEB);
	case OVS_TUN_P_NSH:
		return bpf_htons(ETH_P_NSH);
	case OVS_TUN_P_MPLS_UC:
		return bpf_htons(ETH_P_MPLS_UC);
	}
	return 0;
}

static __always_inline __u8 ovs_nsh_np(__be16 type)
{
	switch (type) {
	case bpf_htons(ETH_P_IP):
		return OVS_TUN_P_IPV4;
	case bpf_htons(ETH_P_IPV6):
		return OVS_TUN_P_IPV6;
	case bpf_htons(ETH_P_TEB):
		return OVS_TUN_P_ETHERNET;
	case bpf_htons(ETH_P_NSH):
		return OVS_TUN_P_NSH;
	case bpf_htons(ETH_P_MPLS_UC):
		return OVS_TUN_P_MPLS_UC;
	}
	return 0;
}

struct ovs_nsh_copy {
	struct ovs_ctx *ctx;
	__u32 at;
};

static long ovs_nsh_word(__u32 i, struct ovs_nsh_copy *copy)
{
	__u64 word = ovs_operand(copy->at + i);

	return ctx_store(copy->ctx, ETH_HLEN + i * sizeof(word), &word,
			 sizeof(word)) ? 1 : 0;
}

/* Write the header of `len` bytes, a multiple of 4, that is at `at`. */
static __always_inline int ovs_nsh_write(struct ovs_ctx *ctx, __u32 at,
					 __u32 len, __u8 np)
{
	struct ovs_nsh_copy copy = { .ctx = ctx, .at = at };
	__u32 words = len / sizeof(__u64);
	__u64 last;

	if (bpf_loop(words, ovs_nsh_word, &copy, 0) != words)
		return OVS_DROP_ENCAP;
	if (len % sizeof(__u64)) {
		last = ovs_operand(at + words);
		if (ctx_store(ctx, ETH_HLEN + words * sizeof(last), &last, 4))
			return OVS_DROP_ENCAP;
	}
	return ctx_store(ctx, ETH_HLEN + OVS_NSH_NP, &np, sizeof(np)) ?
	       OVS_DROP_ENCAP : 0;
}

__noinline int ovs_push_nsh(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			    __u32 len, __u32 at)
{
	struct ethhdr eth = {};
	__u32 room = len, tags;
	__u8 np;
	int err;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	tags = ctx_vlan(ctx);
	if (pkt->key.mac_proto == OVS_MAC_PROTO_ETHERNET) {
		np = OVS_TUN_P_ETHERNET;
		room += ETH_HLEN;
		/* The tag that is beside the frame goes into it. */
		if (tags && ctx_vlan_push(ctx, bpf_htons(ETH_P_8021Q), 0))
			return OVS_DROP_ENCAP;
	} else {
		np = ovs_nsh_np(ovs_plain_type(ctx));
		if (!np)
			return OVS_DROP_ENCAP;
	}
	eth.h_proto = bpf_htons(ETH_P_NSH);
	err = ovs_put_head(ctx, room, &eth);
	if (!err)
		err = ovs_nsh_write(ctx, at, len, np);
	if (err)
		return err;
	pkt->key.mac_proto = OVS_MAC_PROTO_NONE;
	pkt->l3_off = ETH_HLEN;
	pkt->stale |= OVS_STALE_KEY | OVS_STALE_OFFSETS;
	if (ctx_gso(ctx))
		return 0;
	return ovs_cut(ctx, tags ? 1 : 0);
}

__noinline int ovs_pop_nsh(struct ovs_ctx *ctx, struct ovs_pkt *pkt)
{
	struct ethhdr eth = {};
	__u8 base[4];
	__be16 type;
	__u32 len;
	int err;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (ovs_plain_type(ctx) != bpf_htons(ETH_P_NSH) ||
	    ctx_load(ctx, ETH_HLEN, base, sizeof(base)))
		return OVS_DROP_ENCAP;
	len = (base[1] & OVS_NSH_LEN_MASK) * 4;
	type = ovs_nsh_type(base[OVS_NSH_NP]);
	if (len < NSH_BASE_HLEN || !type)
		return OVS_DROP_ENCAP;
	/* As with labels: where a GSO packet's headers end is not known. */
	if (ctx_gso(ctx) &&
	    (ovs_is_mpls(type) || type == bpf_htons(ETH_P_NSH)))
		return OVS_DROP_GSO;
	pkt->stale |= OVS_STALE_KEY | OVS_STALE_OFFSETS;
	if (type != bpf_htons(ETH_P_TEB)) {
		pkt->key.mac_proto = OVS_MAC_PROTO_NONE;
		eth.h_proto = type;
		err = ovs_shrink(ctx, len, &eth);
		return err >= 0 ? err :
				  ovs_take_out(ctx, len / VLAN_HLEN, type);
	}
	pkt->key.mac_proto = OVS_MAC_PROTO_ETHERNET;
	len += ETH_HLEN;
	if (ctx_load(ctx, len, &eth, sizeof(eth)))
		return OVS_DROP_ENCAP;
	err = ovs_shrink(ctx, len, &eth);
	return err >= 0 ? err : ovs_uncover(ctx, len);
}

/*
 * Flags, TTL, path and, of metadata type 1, context.  The operand is struct
 * ovs_set_nsh, three words and their masks.
 */
__noinline int ovs_set_nsh(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			   __u32 at)
{
	struct ovs_key *key;
	__u64 op[6], nsh[3];
	__u8 *base = (__u8 *)nsh;
	__be16 type;
	__u32 off;
	int i;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	OVS_OPERAND(&op, at);
	key = &pkt->key;
	off = pkt->l3_off;
	if (!off || ctx_load(ctx, off - sizeof(type), &type, sizeof(type)) ||
	    type != bpf_htons(ETH_P_NSH) ||
	    ctx_load(ctx, off, nsh, NSH_BASE_HLEN))
		return OVS_DROP_SET;
	nsh[0] = OVS_MASKED(nsh[0], op[0], op[3]);
	if (ovs_store(ctx, off, nsh, NSH_BASE_HLEN))
		return OVS_DROP_SET;
	if (key->eth_type == bpf_htons(ETH_P_NSH)) {
		key->nsh_flags = base[0] >> 4 & 3;
		key->nsh_ttl = (base[0] & 0xf) << 2 | base[1] >> 6;
		key->nsh_path_hdr = ((__be32 *)nsh)[1];
	}
	if (base[OVS_NSH_MDTYPE] != NSH_MD1)
		return 0;
	off += NSH_BASE_HLEN;
	if (ctx_load(ctx, off, nsh + 1, NSH_MD1_HLEN - NSH_BASE_HLEN))
		return OVS_DROP_SET;
	for (i = 1; i < 3; i++)
		nsh[i] = OVS_MASKED(nsh[i], op[i], op[3 + i]);
	if (ovs_store(ctx, off, nsh + 1, NSH_MD1_HLEN - NSH_BASE_HLEN))
		return OVS_DROP_SET;
	if (key->eth_type == bpf_htons(ETH_P_NSH))
		__builtin_memcpy(key->nsh_context, nsh + 1,
				 sizeof(key->nsh_context));
	return 0;
}

#endif /* OVS_ACT_NSH_H */
