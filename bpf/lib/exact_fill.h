/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What stage RX does for the cache of exact matches. */
#ifndef OVS_EXACT_FILL_H
#define OVS_EXACT_FILL_H

#include "exact.h"
#include "object.h"

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

/* Keep that a packet, which has not changed yet, matches pkt->flow. */
static __always_inline void ovs_exact_fill(struct ovs_cpu *cpu,
					   struct ovs_pkt *pkt)
{
	__u32 i = pkt->exact - 1, id = pkt->flow;
	struct ovs_flow *flow = bpf_map_lookup_elem(&ovs_flows, &id);
	struct ovs_exact *e = bpf_map_lookup_elem(&ovs_exact, &i);
	const __u64 *w = pkt->key.w;
	__u64 stamp;

	pkt->exact = 0;
	if (!flow || !e)
		return;
	stamp = OVS_READ_ONCE(flow->stamp);
	if (!(__u16)stamp)	/* it was deleted just now */
		return;
	e->stamp = stamp;
	e->flow = id;
	e->port = ovs_exact_port(pkt->key.in_port, pkt->bridge);
	e->w1 = w[1];
	e->w2 = w[2];
	e->w3 = w[3];
	e->w4 = w[4];
	e->w5 = w[5];
	e->w6 = w[6];
	if (pkt->key.eth_type == bpf_htons(ETH_P_IPV6)) {
		e->w7 = w[7];
		e->w8 = w[8];
		e->w9 = w[9];
		e->w10 = w[10];
	}
	ovs_exact_judge(cpu);
}

#endif /* OVS_EXACT_FILL_H */
