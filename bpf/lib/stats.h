/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What a hit of a lookup is counted in. */
#ifndef OVS_STATS_H
#define OVS_STATS_H

#include "ctx.h"
#include "object.h"
#include "count.h"

/* Count the packet for the flow that it matched. */
static __always_inline void ovs_count_flow(struct ovs_ctx *ctx,
					   struct ovs_cpu *cpu,
					   const struct ovs_pkt *pkt)
{
	__u32 bytes = ctx_wire_len(ctx);

	if (unlikely(pkt->key.mac_proto != OVS_MAC_PROTO_ETHERNET))
		bytes -= ETH_HLEN;
	ovs_count(cpu, pkt->flow, bytes, bpf_ntohs(pkt->key.tcp_flags));
}

#endif /* OVS_STATS_H */
