/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * OVS_OP_HEADER: headers that few flows push, pop or set.  MPLS and Ethernet
 * are here, NSH is in act_nsh.h, and SCTP, of which ports are set, in
 * act_sctp.h.
 */
#ifndef OVS_ACT_HEADER_H
#define OVS_ACT_HEADER_H

#include "act_nsh.h"
#include "act_room.h"
#include "act_sctp.h"
#include "act_set.h"
#include "drop.h"
#include "tunnel.h"

/* `before`: the label goes before Ethernet, of a packet that has it. */
__noinline int ovs_push_mpls(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			     __be32 lse, __be16 type, int before)
{
	struct ethhdr eth = {};
	int err;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (before ? ctx_vlan(ctx) :
		     !ovs_plain_type(ctx) ||
		     ctx_load(ctx, 0, &eth, sizeof(eth)))
		return OVS_DROP_ENCAP;
	eth.h_proto = type;
	err = ovs_put_head(ctx, MPLS_HLEN + (before ? ETH_HLEN : 0), &eth);
	if (err)
		return err;
	if (ctx_store(ctx, ETH_HLEN, &lse, sizeof(lse)))
		return OVS_DROP_ENCAP;
	if (before)
		pkt->key.mac_proto = OVS_MAC_PROTO_NONE;
	pkt->l3_off = ETH_HLEN;
	pkt->stale |= OVS_STALE_KEY | OVS_STALE_OFFSETS;
	return ctx_gso(ctx) ? 0 : ovs_cut(ctx, 0);
}

/* `uncover`: Ethernet follows, of which the packet now has a header. */
__noinline int ovs_pop_mpls(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			    __be16 type, int uncover)
{
	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (!ovs_is_mpls(ovs_plain_type(ctx)))
		return OVS_DROP_ENCAP;
	/* How far the labels of a GSO packet go would not be known. */
	if (ctx_gso(ctx) && ovs_is_mpls(type))
		return OVS_DROP_GSO;
	pkt->stale |= OVS_STALE_KEY | OVS_STALE_OFFSETS;
	if (!uncover)
		return ovs_take_out(ctx, 1, type);
	pkt->key.mac_proto = OVS_MAC_PROTO_ETHERNET;
	return ovs_uncover(ctx, ETH_HLEN + MPLS_HLEN);
}

/* A label, most of which lie on one side of that border. */
static __always_inline long ovs_store_lse(struct ovs_ctx *ctx, __u32 off,
					  __be32 lse)
{
	__u16 *half = (__u16 *)&lse;
	__u32 mac_len = ctx_mac_len(ctx);

	if (off >= mac_len)
		return ctx_store_csum(ctx, off, &lse, sizeof(lse));
	if (off + sizeof(lse) <= mac_len)
		return ctx_store(ctx, off, &lse, sizeof(lse));
	return ovs_store_word(ctx, off, half[0]) ?:
	       ovs_store_word(ctx, off + 2, half[1]);
}

static __always_inline int ovs_set_mpls(struct ovs_ctx *ctx,
					struct ovs_pkt *pkt, __be32 value,
					__be32 mask)
{
	__u32 off = pkt->l3_off;
	__be32 lse;

	if (!off || ctx_load(ctx, off, &lse, sizeof(lse)))
		return OVS_DROP_SET;
	/* Labels below are in the key, or not any more. */
	if ((lse ^ value) & mask & bpf_htonl(MPLS_BOS))
		pkt->stale |= OVS_STALE_KEY;
	lse = OVS_MASKED(lse, value, mask);
	if (ovs_store_lse(ctx, off, lse))
		return OVS_DROP_SET;
	pkt->cpu.dirty |= OVS_DIRTY_MPLS;
	pkt->key.mpls_lse[0] = lse;
	return 0;
}

static __always_inline int ovs_push_eth(struct ovs_ctx *ctx,
					struct ovs_pkt *pkt, __u32 at)
{
	struct {
		__u8 dst[8];
		__u8 src[8];
	} op OVS_WORDS;

	OVS_OPERAND(&op, at);
	if (ctx_store(ctx, 0, op.dst, ETH_ALEN) ||
	    ctx_store(ctx, ETH_ALEN, op.src, ETH_ALEN))
		return OVS_DROP_ENCAP;
	pkt->key.mac_proto = OVS_MAC_PROTO_ETHERNET;
	pkt->stale |= OVS_STALE_KEY;
	return 0;
}

static __always_inline int ovs_pop_eth(struct ovs_ctx *ctx,
				       struct ovs_pkt *pkt)
{
	if (!ovs_plain_type(ctx))
		return OVS_DROP_ENCAP;
	pkt->key.mac_proto = OVS_MAC_PROTO_NONE;
	pkt->stale |= OVS_STALE_KEY;
	return 0;
}

/* OVS_OP_HEADER, whose data begin at `at`.  Returns 0 or OVS_DROP_*. */
__noinline int ovs_header(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			  __u32 kind, __u32 imm, __u32 at)
{
	if (!pkt)
		return OVS_DROP_NO_STATE;
	switch (kind) {
	case OVS_HEADER_PUSH_MPLS:
	case OVS_HEADER_ADD_MPLS:
		return ovs_push_mpls(ctx, pkt, imm, ovs_operand(at),
				     kind == OVS_HEADER_ADD_MPLS);
	case OVS_HEADER_POP_MPLS:
	case OVS_HEADER_POP_MPLS_ETH:
		return ovs_pop_mpls(ctx, pkt, imm,
				    kind == OVS_HEADER_POP_MPLS_ETH);
	case OVS_HEADER_SET_MPLS:
		return ovs_set_mpls(ctx, pkt, imm, ovs_operand(at));
	case OVS_HEADER_PUSH_ETH:
		return ovs_push_eth(ctx, pkt, at);
	case OVS_HEADER_POP_ETH:
		return ovs_pop_eth(ctx, pkt);
	case OVS_HEADER_PUSH_NSH:
		return ovs_push_nsh(ctx, pkt, imm, at);
	case OVS_HEADER_POP_NSH:
		return ovs_pop_nsh(ctx, pkt);
	case OVS_HEADER_SET_NSH:
		return ovs_set_nsh(ctx, pkt, at);
	case OVS_HEADER_SET_SCTP:
		return ovs_set_sctp(ctx, pkt, at);
	case OVS_HEADER_SET_TUNNEL:
		return ovs_set_tunnel(pkt, at, imm);
	}
	return OVS_DROP_BAD_INSN;
}

#endif /* OVS_ACT_HEADER_H */
