/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What a hit of a lookup is counted in. */
#ifndef OVS_STATS_H
#define OVS_STATS_H

#include "ctx.h"
#include "object.h"
#include "count.h"

/* Where a flow is counted by a CPU (bpf_get_smp_processor_id()). */
static __always_inline __u32 ovs_count_index(__u32 number, __u32 flow)
{
	if (cfg_shared_stats)
		number %= cfg_stripes;
	return number * cfg_max_flows + flow;
}

/*
 * Count the packet for the flow that it matched.  In this order, the verifier
 * goes through a third less of stage RX than in others.
 */
static __always_inline void ovs_count_flow(struct ovs_ctx *ctx,
					   struct ovs_cpu *cpu,
					   const struct ovs_pkt *pkt)
{
	__u32 bytes = ctx_wire_len(ctx), flow = pkt->flow, number;
	__u64 tcp_flags = bpf_ntohs(pkt->key.tcp_flags), now;

	if (unlikely(pkt->key.mac_proto != OVS_MAC_PROTO_ETHERNET))
		bytes -= ETH_HLEN;
	number = bpf_get_smp_processor_id();
	now = ovs_now(cpu);
	ovs_count(now, ovs_count_index(number, flow), bytes, tcp_flags);
}

#endif /* OVS_STATS_H */
