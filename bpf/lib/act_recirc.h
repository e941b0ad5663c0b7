/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Recirculation, and copies that are deferred: a slot of ovs_slots takes the
 * metadata that the packet cannot carry, and the copy enters again at the
 * inject device, where ovs_inject finds the slot by its mark.
 */
#ifndef OVS_ACT_RECIRC_H
#define OVS_ACT_RECIRC_H

#include "config.h"
#include "ctx.h"
#include "drop.h"
#include "tunnel.h"

#define OVS_MAX_COPIES	8	/* that a list defers without a break, so
				 * that those of a whole NAPI poll, 64
				 * packets, find room in the backlog: 1000 */
#define OVS_MAX_CALLS	27	/* tail calls that actions may take without a
				 * break: the kernel allows 33 in a row, of
				 * which a packet has taken some by then */
#define OVS_RECIRC_CALLS	3	/* ... of a recirculation */
#define OVS_CT_CALLS	2	/* ... of ct() */
#define OVS_SLOT_TRIES	8	/* slots that are looked at for a free one */
#define OVS_SLOT_STRIDE	128	/* between where two CPUs begin to look */
#define OVS_SLOT_STALE	1024	/* 2^20 ns: a packet that old was lost;
				 * core/actions/programs.py knows it, too */

/*
 * Copy the metadata of a key: what does not come from the packet's headers.
 */
static __always_inline void ovs_copy_meta(struct ovs_key *to,
					  const struct ovs_key *from)
{
	__u32 i;

	to->w[0] = from->w[0];
	to->mac_proto = from->mac_proto;
	to->ct_state = from->ct_state;
	to->ct_zone = from->ct_zone;
	to->w[5] = from->w[5];
#pragma unroll
	for (i = OVS_KEY_W(dp_hash); i <= OVS_KEY_W(ct_orig_tp_src); i++)
		to->w[i] = from->w[i];
#pragma unroll
	for (i = OVS_KEY_W(tun_id); i < OVS_KEY_BASE; i++)
		to->w[i] = from->w[i];
	if (!from->tun_opts_len)
		return;
#pragma unroll
	for (i = OVS_KEY_BASE; i < OVS_KEY_USED; i++)
		to->w[i] = from->w[i];
}

/*
 * Take a slot: one that is free, or whose packet was lost on its way; `since`
 * goes into its state, 0: now.  Returns what its mark is to be, or 0 when none
 * was found.
 */
static __always_inline __u32 ovs_slot_take(struct ovs_cpu *cpu, __u32 *since,
					   struct ovs_slot **slot)
{
	__u64 now = bpf_ktime_get_coarse_ns() >> 20;
	__u32 try, first, i;

	if (!*since)
		*since = now;

	first = cpu->defer_next + bpf_get_smp_processor_id() * OVS_SLOT_STRIDE;
	for (try = 0; try < OVS_SLOT_TRIES; try++) {
		__u64 old, new, gen;

		i = OVS_EXEC_SLOTS + (first + try) % OVS_DEFER_SLOTS;
		*slot = bpf_map_lookup_elem(&ovs_slots, &i);
		if (!*slot)
			return 0;
		old = (*slot)->state;
		if (old & OVS_SLOT_ARMED &&
		    (__s32)(now - (old >> OVS_SLOT_TIME_SHIFT)) <
		    OVS_SLOT_STALE)
			continue;
		gen = (old >> OVS_SLOT_GEN_SHIFT) + 1 & OVS_SLOT_GEN_MASK;
		new = (__u64)*since << OVS_SLOT_TIME_SHIFT |
		      gen << OVS_SLOT_GEN_SHIFT | OVS_SLOT_ARMED;
		if (__sync_val_compare_and_swap(&(*slot)->state, old, new) !=
		    old)
			continue;
		cpu->defer_next += try + 1;
		return gen << OVS_SLOT_BITS | (i + 1);
	}
	return 0;
}

/*
 * Whether a packet may cause that much more.  What the copies of one packet
 * have caused is counted in the slot of the first one.  Should that slot be
 * taken by the first copy of another packet meanwhile, the two share what the
 * new one has.
 */
static __always_inline int ovs_may_cause(const struct ovs_pkt *pkt,
					 __u32 cost)
{
	__u32 i = pkt->family - 1;
	struct ovs_slot *slot;

	if (!(pkt->flags & OVS_PKT_F_COPY))
		return 1;
	slot = bpf_map_lookup_elem(&ovs_slots, &i);
	if (!slot || slot->spent + cost > OVS_COPY_BUDGET)
		return 0;
	slot->spent += cost;
	return 1;
}

/* A packet whose instructions are run. */
struct ovs_run {
	struct ovs_ctx *ctx;
	struct ovs_cpu *cpu;
	struct ovs_pkt *pkt;
};

/*
 * Send a copy to the inject device.  `pc` not 0: it runs the instructions
 * there; otherwise it is looked up again with `recirc_id`.  `flags` are those
 * of the copy; where it is the packet itself that goes on there, its own.
 */
static __noinline __u32 ovs_defer(struct ovs_run *run, __u32 recirc_id,
				  __u32 pc, __u8 flags)
{
	struct ovs_pkt *pkt = run->pkt;
	struct ovs_slot *slot;
	__u32 mark, now = 0;
	long err;

	mark = ovs_slot_take(run->cpu, pc ? &pkt->list.since : &now, &slot);
	if (!mark || !slot)
		return OVS_DROP_DEFER_FULL;
	slot->pc = pc;
	slot->bridge = pkt->bridge;
	slot->recirc_depth = pkt->recirc_depth;
	if (!pkt->family) {
		pkt->family = mark & ((1 << OVS_SLOT_BITS) - 1);
		slot->spent = 0;
	}
	slot->family = pkt->family;
	slot->flags = flags | (pkt->flags & OVS_PKT_F_TO_TUNNEL);
	if (unlikely(pkt->flags & OVS_PKT_F_TO_TUNNEL))
		ovs_tunnel_copy(&slot->tunnel, &pkt->tunnel);
	slot->cutlen = pkt->cutlen;
	slot->mru = pkt->mru;
	slot->l3_off = !pc || pkt->stale & OVS_STALE_OFFSETS ?
		       0 : pkt->l3_off;
	slot->l4_off = pkt->l4_off;
	slot->l4_proto = pkt->l4_proto;
	slot->routing = pkt->routing;
	ovs_copy_meta(&slot->key, &pkt->key);
	if (!pc) {
		slot->recirc_depth++;
		slot->key.recirc_id = recirc_id;
	}
	err = ctx_defer(run->ctx, cfg_inject_ifindex, mark);
	if (!err)
		return 0;
	ovs_slot_free(mark);
	return OVS_DROP_REDIRECT;
}

/* Whether a mark names a slot of the programs, and none of the provider. */
static __always_inline int ovs_slot_is_deferred(__u32 mark)
{
	return (mark & ((1 << OVS_SLOT_BITS) - 1)) > OVS_EXEC_SLOTS;
}

/*
 * The slot that a mark names, or NULL when it is not armed for it.  Of a
 * deferred copy that comes too late, the instructions may be gone.
 */
static __always_inline struct ovs_slot *ovs_slot_find(__u32 mark)
{
	struct ovs_slot *slot = ovs_slot_of(mark);
	__u64 state;

	if (!slot)
		return NULL;
	state = slot->state;
	if (ovs_slot_is_deferred(mark) &&
	    (__s32)((bpf_ktime_get_coarse_ns() >> 20) -
		    (state >> OVS_SLOT_TIME_SHIFT)) >= OVS_SLOT_STALE) {
		ovs_slot_free(mark);
		return NULL;
	}
	return ovs_slot_is_armed(state, mark) ? slot : NULL;
}

#endif /* OVS_ACT_RECIRC_H */
