/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What stage RX does for the cache of exact matches.
 *
 * It pays when packets come again before others have taken their lines.  So it
 * is judged when it has missed twice as often as it has lines, and is left
 * alone for a while when there were more misses than hits: a hit saves more
 * than a miss costs.  That while becomes longer each time.
 */
#ifndef OVS_EXACT_FILL_H
#define OVS_EXACT_FILL_H

#include "exact.h"
#include "object.h"
#include "route.h"
#include "stats.h"

#define OVS_EXACT_JUDGE		(2 * OVS_EXACT_LINES)	/* misses */
#define OVS_EXACT_REST		(16 * OVS_EXACT_LINES)	/* lookups */
#define OVS_EXACT_MAX_WAIT	6	/* rests become 2^6 times as long */

static __always_inline void ovs_exact_judge(struct ovs_cpu *cpu)
{
	if (likely(++cpu->exact_misses < OVS_EXACT_JUDGE))
		return;
	if (cpu->exact_hits > OVS_EXACT_JUDGE) {
		cpu->exact_wait = 0;
	} else {
		cpu->exact_rest = OVS_EXACT_REST << cpu->exact_wait;
		if (cpu->exact_wait < OVS_EXACT_MAX_WAIT)
			cpu->exact_wait++;
	}
	cpu->exact_hits = 0;
	cpu->exact_misses = 0;
}

/* The frame, which has not changed yet. */
static __always_inline int ovs_exact_store(struct ovs_exact *e, void *data,
					   void *end, const int ip6)
{
	if (data + (ip6 ? OVS_EXACT_IP6 : OVS_EXACT_IP4) > end)
		return 0;
	e->first = OVS_AT64(data, 0);
	e->second = OVS_AT64(data, 8);
	e->third = ovs_exact_third(data, ip6);
	e->addr = ovs_exact_addr(data, ip6);
	e->last = ovs_exact_last(data, ip6);
	if (ip6) {
		e->more[0] = OVS_AT64(data, 30);
		e->more[1] = OVS_AT64(data, 38);
		e->more[2] = OVS_AT64(data, 46);
	}
	return 1;
}

/*
 * Keep that a packet, which has not changed yet, matches pkt->flow.  Apart
 * from the rest of stage RX for the verifier.
 */
__noinline int ovs_exact_fill(struct ovs_ctx *ctx, struct ovs_pkt *pkt)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	void *data = ctx_data(ctx), *end = ctx_end(ctx);
	struct ovs_exact *e;
	struct ovs_flow *flow;
	__u64 stamp;
	__u32 i, id;

	if (!cpu || !pkt)
		return 0;
	i = pkt->exact - 1;
	id = pkt->flow;
	pkt->exact = 0;
	flow = bpf_map_lookup_elem(&ovs_flows, &id);
	e = bpf_map_lookup_elem(&ovs_exact, &i);
	if (!flow || !e)
		return 0;
	/* The actions are looked at later: they are not older than this. */
	stamp = OVS_READ_ONCE(flow->stamp);
	/* It was deleted just now, or moved to another bridge. */
	if (!(__u16)stamp || (__u16)(stamp >> 16) != pkt->bridge)
		return 0;
	e->gen = 0;
	if (pkt->key.eth_type == bpf_htons(ETH_P_IPV6) ?
	    !ovs_exact_store(e, data, end, 1) :
	    !ovs_exact_store(e, data, end, 0))
		return 0;
	e->flow = id;
	e->stats = ovs_count_index(bpf_get_smp_processor_id(), id);
	e->port = ovs_exact_port(ctx, pkt->key.in_port, pkt->bridge);
	e->tag = ovs_exact_tag(ctx);
	e->meta = ovs_exact_meta(ctx);
	e->flags = pkt->key.tcp_flags | ovs_route_fill(e, flow->acts);
	e->gen = stamp >> 32;
	ovs_exact_judge(cpu);
	return 0;
}

#endif /* OVS_EXACT_FILL_H */
