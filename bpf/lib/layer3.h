/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Packets of devices whose frames have no Ethernet header (ARPHRD_NONE): they
 * get the room for one that act_room.h says all packets have.
 */
#ifndef OVS_LAYER3_H
#define OVS_LAYER3_H

#include "act_room.h"

/*
 * As key_extract_mac_proto() of the kernel's flow.c: what the device gives the
 * type of Ethernet (ETH_P_TEB) is a frame, everything else is layer 3.
 */
static __always_inline int ovs_receive_l3(struct ovs_ctx *ctx,
					  struct ovs_pkt *pkt)
{
	struct ethhdr eth = { .h_proto = ctx_protocol(ctx) };

	if (unlikely(ctx_is_shared(ctx)))
		return OVS_DROP_SHARED;
	if (ctx_room_add(ctx, ETH_HLEN) ||
	    ctx_store(ctx, 0, &eth, sizeof(eth)))
		return OVS_DROP_ENCAP;
	if (eth.h_proto == bpf_htons(ETH_P_TEB))
		return ovs_uncover(ctx, ETH_HLEN);
	pkt->key.mac_proto = OVS_MAC_PROTO_NONE;
	return 0;
}

#endif /* OVS_LAYER3_H */
