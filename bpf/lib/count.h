/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What a hit is counted in.  Maps and constants are named as entry.h says,
 * which counts, too.
 */
#ifndef OVS_COUNT_H
#define OVS_COUNT_H

#include "abi.h"
#include "ctx_base.h"

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
 * Count a packet for a flow.  Where each CPU has a stripe of its own, plain
 * adds serve: nothing else on the CPU counts between a load and its store,
 * because hooks run with softirqs off.  What is often the same is looked at
 * before it is written.
 *
 * @now: ovs_now()
 * @i: ovs_count_index()
 * @tcp_flags: in host order
 */
static __always_inline void ovs_count(__u64 now, __u32 i, __u64 bytes,
				      __u64 tcp_flags)
{
	struct ovs_flow_stats *stats;

	stats = OVS_LOOKUP(OVS_MAP_FLOW_STATS, &i);
	if (!stats)
		return;
	if (OVS_CFG_SHARED_STATS) {
		__sync_fetch_and_add(&stats->packets, 1);
		__sync_fetch_and_add(&stats->bytes, bytes);
		if (tcp_flags & ~stats->tcp_flags)
			__sync_fetch_and_or(&stats->tcp_flags, tcp_flags);
	} else {
		stats->packets++;
		stats->bytes += bytes;
		if (tcp_flags & ~stats->tcp_flags)
			stats->tcp_flags |= tcp_flags;
	}
	if (stats->used != now)
		stats->used = now;
}

#endif /* OVS_COUNT_H */
