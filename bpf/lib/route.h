/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What most flows do that change packets: they give them MAC addresses and a
 * TTL, and send them to a port, as a router does.  For a packet whose headers
 * are known exactly it is known as well what they become, and what that
 * changes in checksums.  So a line of ovs_exact has the bytes, the entry hands
 * them on, and stage ROUTE writes them: without a key, without instructions.
 *
 * Stage ROUTE gets a packet that has been counted, and has no state.  The
 * packet, its counters and its end are those that stage ACT would give it.
 */
#ifndef OVS_ROUTE_H
#define OVS_ROUTE_H

#include "act_set.h"
#include "drop.h"
#include "exact.h"
#include "object.h"

#define OVS_ROUTE_INSNS		4	/* that are looked at */

/* How far a list has been looked at, and what the frame is by then. */
struct ovs_route_plan {
	__u64 first;		/* as in struct ovs_exact */
	__u64 second;
	__u64 sum;		/* by which that of IP has changed */
	__u32 ttl;		/* with the protocol beside it */
	__u32 ip6;
	__u32 pc;
	__u32 out;
	__u32 kind;		/* 0: not a list for this */
};

static __always_inline void ovs_route_eth(struct ovs_route_plan *plan,
					  __u32 at)
{
	__u64 dst = OVS_MAC_FIRST(plan->first);
	__u64 src = plan->first >> 48 | (plan->second & 0xffffffff) << 16;

	dst = OVS_MASKED(dst, ovs_operand(at), ovs_operand(at + 2));
	src = OVS_MASKED(src, ovs_operand(at + 1), ovs_operand(at + 3));
	plan->first = dst | src << 48;
	plan->second = plan->second >> 32 << 32 | src >> 16;
}

static __always_inline void ovs_route_ttl(struct ovs_route_plan *plan,
					  __u16 ttl)
{
	plan->sum += OVS_SUM_DIFF2(plan->ttl, ttl);
	plan->ttl = ttl;
}

/* ToS and TTL, not addresses; returns 0 when it is more. */
static __always_inline int ovs_route_ip4(struct ovs_route_plan *plan,
					 __u32 at)
{
	__u64 op = ovs_operand(at + 2);		/* ToS, mask, TTL, mask */
	__u16 old = plan->second >> 48, tos;	/* with the byte before it */

	if (plan->ip6 || ovs_operand(at + 1))
		return 0;
	tos = OVS_MASKED(old, (__u8)op << 8, (__u8)(op >> 8) << 8);
	plan->second = plan->second << 16 >> 16 | (__u64)tos << 48;
	plan->sum += OVS_SUM_DIFF2(old, tos);
	ovs_route_ttl(plan, OVS_MASKED(plan->ttl, (__u8)(op >> 16),
				       (__u8)(op >> 24)));
	return 1;
}

/* The hop limit alone. */
static __always_inline int ovs_route_ip6(struct ovs_route_plan *plan,
					 __u32 at)
{
	__u64 op = ovs_operand(at + 9);		/* class, mask, limit, mask */

	if (!plan->ip6 || ovs_operand(at + 4) || ovs_operand(at + 5) ||
	    ovs_operand(at + 6) || ovs_operand(at + 7) ||
	    ovs_operand(at + 8) >> 32 || (__u8)(op >> 8))
		return 0;
	ovs_route_ttl(plan, OVS_MASKED(plan->ttl, (__u8)(op >> 16) << 8,
				       (__u8)(op >> 24) << 8));
	return 1;
}

/* One that does not end. */
static __always_inline int ovs_route_dec(struct ovs_route_plan *plan,
					 __u32 at)
{
	__u16 ttl = plan->ttl;

	if ((plan->ip6 ? ttl >> 8 : ttl & 0xff) <= 1)
		return 0;
	ovs_route_ttl(plan, ttl - (plan->ip6 ? 0x100 : 1));
	plan->pc += (__u32)ovs_operand(at);
	return 1;
}

/* One instruction; 0 to go on with the next. */
static long ovs_route_step(__u32 i, struct ovs_route_plan *plan)
{
	__u32 pc = plan->pc, at = pc + 1;
	struct ovs_insn *insn = bpf_map_lookup_elem(&ovs_acts, &pc);

	if (!insn)
		return 1;
	plan->pc = at + insn->len;
	switch (insn->op) {
	case OVS_OP_OUTPUT_LAST:
		plan->out = insn->imm;
		plan->kind = i ? OVS_EXACT_ROUTE : OVS_EXACT_OUTPUT;
		return 1;
	case OVS_OP_CT:
		plan->kind = i ? 0 : OVS_EXACT_CT;
		return 1;
	case OVS_OP_SET_ETH:
		ovs_route_eth(plan, at);
		return 0;
	case OVS_OP_SET_IPV4:
		return !ovs_route_ip4(plan, at);
	case OVS_OP_SET_IPV6:
		return !ovs_route_ip6(plan, at);
	case OVS_OP_DEC_TTL:
		return !ovs_route_dec(plan, at);
	}
	return 1;
}

/*
 * Fill in what the instructions at `pc` make of the frame of a line that is
 * otherwise complete.  Returns OVS_EXACT_OUTPUT or OVS_EXACT_ROUTE, or 0 when
 * they do more, or drop it; OVS_EXACT_CT when they begin with that.
 */
static __always_inline __u32 ovs_route_fill(struct ovs_exact *e, __u32 pc)
{
	struct ovs_route_plan plan = {
		.first = e->first,
		.second = e->second,
		.ip6 = (__u16)(e->second >> 32) == bpf_htons(ETH_P_IPV6),
		.pc = pc,
	};

	plan.ttl = (__u16)(e->third >> (plan.ip6 ? 48 : 16));
	bpf_loop(OVS_ROUTE_INSNS, ovs_route_step, &plan, 0);
	e->out = plan.out;
	e->new_first = plan.first;
	e->new_second = plan.second;
	plan.sum = ovs_sum_fold(plan.sum);
	plan.sum = (plan.sum & 0xffff) + (plan.sum >> 16);
	plan.sum = (plan.sum & 0xffff) + (plan.sum >> 16);
	e->new_ip = plan.ttl | plan.sum << 16;
	return plan.kind;
}

static __always_inline int ovs_route_drop(__u32 reason)
{
	struct ovs_cpu *cpu = ovs_cpu_get();

	if (cpu)
		ovs_count_drop(cpu->route_bridge, reason);
	return CTX_DROP;
}

/* Write what the entry found into a packet that is not shared, and send it. */
static __always_inline int ovs_route_packet(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	void *data = ctx_data(ctx);
	__u64 sum;
	__u32 ip;

	if (!cpu)
		return CTX_DROP;
	if (unlikely(data + OVS_EXACT_IP4 > ctx_end(ctx)))
		return ovs_route_drop(OVS_DROP_SET);
	ip = cpu->route_ip;
	sum = ip >> 16;
	OVS_AT64(data, 0) = cpu->route_first;
	OVS_AT64(data, 8) = cpu->route_second;
	if (OVS_AT16(data, 12) == bpf_htons(ETH_P_IP)) {
		OVS_AT16(data, 22) = ip;
		sum += (__u16)~OVS_AT16(data, 24);
		OVS_AT16(data, 24) = ~(sum + (sum >> 16));
	} else if (sum) {
		OVS_AT16(data, 20) = ip;
		ctx_csum_update(ctx, sum);
	}
	return ctx_output(ctx, cpu->route_dev);
}

#endif /* OVS_ROUTE_H */
