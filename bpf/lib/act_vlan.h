/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * VLAN tags.  The outer tag is outside of the frame (ctx_vlan()), inner ones
 * are in it; the kernel's helpers move them in and out, which moves the
 * headers behind.  The key is then stale until ovs_parse().
 */
#ifndef OVS_ACT_VLAN_H
#define OVS_ACT_VLAN_H

#include "ctx.h"

/* Headers behind the tags are `delta` bytes further on. */
static __always_inline void ovs_move_headers(struct ovs_pkt *pkt, int delta)
{
	if (pkt->l3_off)
		pkt->l3_off += delta;
	if (pkt->l4_off)
		pkt->l4_off += delta;
}

/* `tpid` and `tci` are in network order; the CFI bit of `tci` says nothing. */
static __always_inline int ovs_push_vlan(struct ovs_ctx *ctx,
					 struct ovs_pkt *pkt, __be16 tpid,
					 __be16 tci)
{
	__u16 bits = bpf_ntohs(tci) & ~VLAN_CFI_MASK;
	__u32 len = ctx_len(ctx);

	if (ctx_vlan_push(ctx, tpid, bits))
		return OVS_DROP_VLAN;
	ovs_move_headers(pkt, ctx_len(ctx) - len);
	if (pkt->key.vlan_tci)
		pkt->stale |= OVS_STALE_KEY;
	pkt->key.vlan_tci = bpf_htons(bits | VLAN_CFI_MASK);
	pkt->key.vlan_tpid = tpid;
	return 0;
}

static __always_inline int ovs_pop_vlan(struct ovs_ctx *ctx,
					struct ovs_pkt *pkt)
{
	__u32 len = ctx_len(ctx);

	if (ctx_vlan_pop(ctx))
		return OVS_DROP_VLAN;
	ovs_move_headers(pkt, ctx_len(ctx) - len);
	if (ctx_vlan(ctx))
		pkt->stale |= OVS_STALE_KEY;
	pkt->key.vlan_tci = 0;
	pkt->key.vlan_tpid = 0;
	return 0;
}

#endif /* OVS_ACT_VLAN_H */
