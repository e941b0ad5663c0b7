/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * VLAN tags.  The outer tag is outside of the frame (skb->vlan_tci), inner
 * ones are in it, and the kernel's helpers move them.  When that moves
 * headers, the key and the offsets are stale until ovs_parse() runs again.
 */
#ifndef OVS_ACT_VLAN_H
#define OVS_ACT_VLAN_H

#include "ctx.h"

/* `tpid` and `tci` are in network order; the CFI bit of `tci` says nothing. */
static __always_inline int ovs_push_vlan(struct __sk_buff *skb,
					 struct ovs_pkt *pkt, __be16 tpid,
					 __be16 tci)
{
	__u16 bits = bpf_ntohs(tci) & ~VLAN_CFI_MASK;

	if (bpf_skb_vlan_push(skb, tpid, bits))
		return OVS_DROP_VLAN;
	if (pkt->key.vlan_tci)
		pkt->stale = 1;
	pkt->key.vlan_tci = bpf_htons(bits | VLAN_CFI_MASK);
	pkt->key.vlan_tpid = tpid;
	return 0;
}

static __always_inline int ovs_pop_vlan(struct __sk_buff *skb,
					struct ovs_pkt *pkt)
{
	if (!ctx_get(skb, vlan_present) || pkt->key.cvlan_tci)
		pkt->stale = 1;
	if (bpf_skb_vlan_pop(skb))
		return OVS_DROP_VLAN;
	pkt->key.vlan_tci = 0;
	pkt->key.vlan_tpid = 0;
	return 0;
}

#endif /* OVS_ACT_VLAN_H */
