/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The state of the packet in flight, the one exit of all programs, and what
 * is counted there.
 */
#ifndef OVS_DROP_H
#define OVS_DROP_H

#include "maps.h"

/*
 * The packet that this run of programs handles; NULL when there is none.  A
 * program that a tail call runs checks both, `cpu` and this: with one check of
 * what may be NULL for either reason, clang 14 keeps both on the stack, and the
 * verifier goes through half as many instructions more.
 */
static __always_inline struct ovs_pkt *ovs_pkt_of(struct ovs_cpu *cpu)
{
	__u32 level = cpu->level - 1;

	return level < OVS_LEVELS ? &cpu->pkt[level & (OVS_LEVELS - 1)] : NULL;
}

static __always_inline struct ovs_cpu *ovs_cpu_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&ovs_cpu, &zero);
}

static __always_inline struct ovs_dp_stats *ovs_dp_stats_of(__u32 bridge)
{
	return bpf_map_lookup_elem(&ovs_dpstats, &bridge);
}

static __always_inline void ovs_count_drop(__u32 bridge, __u32 reason)
{
	__u32 i = bridge * OVS_DROP_MAX + reason;
	__u64 *count = bpf_map_lookup_elem(&ovs_drops, &i);

	if (count)
		*count += 1;
}

/* The slot that a mark names; NULL when there is none of that number. */
static __always_inline struct ovs_slot *ovs_slot_of(__u32 mark)
{
	__u32 i = (mark & ((1 << OVS_SLOT_BITS) - 1)) - 1;

	return bpf_map_lookup_elem(&ovs_slots, &i);
}

/* Whether a slot in that state is armed for the packet with that mark. */
static __always_inline int ovs_slot_is_armed(__u32 state, __u32 mark)
{
	return state & OVS_SLOT_ARMED &&
	       (state >> OVS_SLOT_GEN_SHIFT & OVS_SLOT_GEN_MASK) ==
	       mark >> OVS_SLOT_BITS;
}

/*
 * Free the slot that a mark names.  A packet may be so late that it counted as
 * lost and another one has taken its slot: it is not the late one's to free.
 */
static __always_inline void ovs_slot_free(__u32 mark)
{
	struct ovs_slot *slot = ovs_slot_of(mark);
	__u64 state;

	if (!slot)
		return;
	state = OVS_READ_ONCE(slot->state);
	if (ovs_slot_is_armed(state, mark))
		__sync_val_compare_and_swap(&slot->state, state,
					    state & ~(__u64)OVS_SLOT_ARMED);
}

/* The end of a packet's way: `verdict` is for the program to return. */
static __always_inline int ovs_exit(struct ovs_cpu *cpu, struct ovs_pkt *pkt,
				    int verdict)
{
	if (pkt->slot)
		ovs_slot_free(pkt->slot);
	if (pkt->drop)
		ovs_count_drop(pkt->bridge, pkt->drop);
	cpu->level--;
	return verdict;
}

static __always_inline int ovs_drop(struct ovs_cpu *cpu, struct ovs_pkt *pkt,
				    __u32 reason)
{
	pkt->drop = reason;
	return ovs_exit(cpu, pkt, CTX_DROP);
}

/*
 * Go on in another program.  The index is made a variable: the jump is then
 * never patched to a constant one, which is what replaces programs safely
 * under traffic on all kernels that were tried.
 */
static __always_inline int ovs_stage(struct ovs_ctx *ctx,
				     struct ovs_cpu *cpu, struct ovs_pkt *pkt,
				     __u32 stage)
{
	barrier_var(stage);
	bpf_tail_call(ctx, &ovs_progs, stage);
	return ovs_drop(cpu, pkt, OVS_DROP_TAIL_CALL);
}

#endif /* OVS_DROP_H */
