/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What a hit is counted in. */
#ifndef OVS_STATS_H
#define OVS_STATS_H

#include "config.h"
#include "ctx.h"
#include "maps.h"

#define OVS_NS_PER_MS	1000000

/*
 * The coarse clock changes with the tick, and a look at jiffies is one load
 * where the clock is a call.
 */
static __always_inline __u64 ovs_now(struct ovs_cpu *cpu)
{
	__u64 tick = bpf_jiffies64();

	if (unlikely(cpu->tick != tick)) {
		cpu->tick = tick;
		cpu->now = bpf_ktime_get_coarse_ns();
		cpu->now_ms = cpu->now / OVS_NS_PER_MS;
	}
	return cpu->now;
}

static __always_inline __u64 ovs_now_ms(struct ovs_cpu *cpu)
{
	ovs_now(cpu);
	return cpu->now_ms;
}

/*
 * Count the packet for a flow.  Where each CPU has a stripe of its own, plain
 * adds serve: nothing else on the CPU counts between a load and its store,
 * because hooks run with softirqs off.
 */
static __always_inline void ovs_count_flow(struct __sk_buff *skb,
					   struct ovs_cpu *cpu,
					   const struct ovs_pkt *pkt)
{
	__u32 i = bpf_get_smp_processor_id();
	__u32 bytes = ctx_wire_len(skb);
	__u16 flags = bpf_ntohs(pkt->key.tcp_flags);
	struct ovs_flow_stats *stats;

	if (cfg_shared_stats)
		i %= cfg_stripes;
	i = i * cfg_max_flows + pkt->flow;
	if (unlikely(pkt->key.mac_proto != OVS_MAC_PROTO_ETHERNET))
		bytes -= ETH_HLEN;
	stats = bpf_map_lookup_elem(&ovs_flow_stats, &i);
	if (!stats)
		return;
	if (cfg_shared_stats) {
		__sync_fetch_and_add(&stats->packets, 1);
		__sync_fetch_and_add(&stats->bytes, bytes);
		if (flags & ~stats->tcp_flags)
			__sync_fetch_and_or(&stats->tcp_flags, (__u64)flags);
	} else {
		stats->packets++;
		stats->bytes += bytes;
		stats->tcp_flags |= flags;
	}
	stats->used = ovs_now(cpu);
}

#endif /* OVS_STATS_H */
