/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The end of connections, without anybody who waits for it: a timer that goes
 * over all expiries once a second, or so, in slices.  What has expired, or was
 * flushed with its zone, is removed from the table; what was removed is given
 * back OVS_CT_LIMBO seconds later, when no program can hold it any more.
 *
 * The timer is in a map of its own: it runs for as long as that is pinned or
 * held, whether there is a provider or not.
 */
#ifndef OVS_CT_SWEEP_H
#define OVS_CT_SWEEP_H

#include "ct_table.h"

#define OVS_CT_LIMBO		2	/* s: a whole one at the least */
#define OVS_CT_SLICE		512	/* elements of ovs_ct_exp at once */
#define OVS_CT_PERIOD		OVS_CT_NS
#define OVS_CT_PAUSE		(4 * 1000000ULL)	/* ns, between slices */

#define OVS_CT_MONOTONIC	1	/* CLOCK_MONOTONIC */

struct ovs_ct_timer {
	struct bpf_timer timer;
};

/* The sweep's timer.  ovs_ct_start() alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_ct_timer);
} ovs_ct_timer SEC(".maps");

struct ovs_ct_slice {
	__u64 at;	/* element of ovs_ct_exp */
	__u64 now;	/* ns */
	__u64 freed;
};

/* A record whose expiry lies behind, or whose zone was flushed; 1: freed. */
__noinline int ovs_ct_sweep_one(__u32 id, __u64 now)
{
	struct ovs_ct *ct = ovs_ct_get(id);
	__u32 *exp = ovs_ct_expiry(id), at, second = now / OVS_CT_NS;
	__u64 word, gen;

	if (!ct || !exp)
		return 0;
	at = OVS_READ_ONCE(*exp);
	word = OVS_READ_ONCE(ct->word);
	gen = word >> OVS_CT_GEN_SHIFT;
	if (ovs_ct_is_live(word)) {
		if (ovs_ct_is_current(ct, id, now))
			return 0;
		if (ovs_ct_kill(id, gen, 0, second))
			ovs_ct_count(OVS_CT_STAT_EXPIRED);
		return 0;
	}
	if ((__u32)word == OVS_CT_TENTATIVE || at == OVS_CT_EXP_FREE ||
	    at == OVS_CT_EXP_TAKEN || at + OVS_CT_LIMBO > second)
		return 0;
	*(volatile __u64 *)&ct->word = gen << OVS_CT_GEN_SHIFT | OVS_CT_FREE;
	if (__sync_val_compare_and_swap(exp, at, OVS_CT_EXP_FREE) != at)
		return 0;
	ovs_ct_count(OVS_CT_STAT_FREED);
	return 1;
}

/* Whether a zone was flushed after record `id` was made. */
static __always_inline int ovs_ct_is_flushed(__u32 id)
{
	struct ovs_ct *ct = ovs_ct_get(id);
	struct ovs_ct_zone *zone;

	if (!ct)
		return 0;
	zone = ovs_ct_zone_of(ct->orig.zone);
	return zone && OVS_READ_ONCE(zone->word) >> 32 != ct->zone_gen;
}

static long ovs_ct_sweep_step(__u32 i, struct ovs_ct_slice *slice)
{
	__u32 second = slice->now / OVS_CT_NS, n, b = slice->at + i;
	struct ovs_ct_use *use;
	struct ovs_ct_exp *exp;
	__u32 zero = 0;
	int flushed;

	use = bpf_map_lookup_elem(&ovs_ct_use, &zero);
	exp = bpf_map_lookup_elem(&ovs_ct_exp, &b);
	if (!exp || !use)
		return 1;
	flushed = use->flush > use->sweeps;
#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_EXP; n++) {
		__u32 at = OVS_READ_ONCE(exp->at[n]), id = b * OVS_CT_EXP + n;

		if (at == OVS_CT_EXP_FREE || at == OVS_CT_EXP_TAKEN)
			continue;
		use->sweep_seen++;
		if (at <= second || (flushed && ovs_ct_is_flushed(id)))
			slice->freed += ovs_ct_sweep_one(id, slice->now);
	}
	return 0;
}

/* One slice; how long to wait for the next one, in ns. */
__noinline __u64 ovs_ct_sweep(__u64 now)
{
	struct ovs_ct_slice slice = { .now = now };
	__u32 zero = 0, blocks = cfg_ct_max / OVS_CT_EXP, n;
	struct ovs_ct_use *use;
	__u64 pause;

	use = bpf_map_lookup_elem(&ovs_ct_use, &zero);
	if (!use)
		return OVS_CT_PERIOD;
	if (!use->sweep_at) {
		if (!OVS_READ_ONCE(use->count) && OVS_READ_ONCE(use->idle))
			return OVS_CT_PERIOD;
		/* Unless somebody comes to an end meanwhile, or is met. */
		*(volatile __u64 *)&use->idle = 1;
	}
	slice.at = use->sweep_at;
	n = blocks > slice.at ? blocks - slice.at : 0;
	if (n > OVS_CT_SLICE)
		n = OVS_CT_SLICE;
	bpf_loop(n, ovs_ct_sweep_step, &slice, 0);
	if (slice.freed)
		use->freed++;
	use->sweep_spent += bpf_ktime_get_ns() - now;
	use->sweep_at = slice.at + n;
	if (use->sweep_at >= blocks) {
		use->sweep_at = 0;
		use->sweeps++;
		use->sweep_ns = use->sweep_spent;
		use->sweep_spent = 0;
		if (use->sweep_seen)
			*(volatile __u64 *)&use->idle = 0;
		use->sweep_seen = 0;
	}
	pause = OVS_CT_PERIOD * OVS_CT_SLICE / (blocks ?: 1);
	return pause < OVS_CT_PAUSE ? OVS_CT_PAUSE :
	       pause > OVS_CT_PERIOD ? OVS_CT_PERIOD : pause;
}

static int ovs_ct_tick(void *map, __u32 *key, struct ovs_ct_timer *timer)
{
	bpf_timer_start(&timer->timer, ovs_ct_sweep(bpf_ktime_get_ns()), 0);
	return 0;
}

/*
 * Start the timer, or make this program's the one that it runs.  Return: 0, or
 * -errno.
 */
static __always_inline int ovs_ct_start(void)
{
	struct ovs_ct_timer *timer;
	__u32 zero = 0;
	long error;

	timer = bpf_map_lookup_elem(&ovs_ct_timer, &zero);
	if (!timer)
		return -2;
	/* -EBUSY: it was there, with the callback of another generation. */
	bpf_timer_init(&timer->timer, &ovs_ct_timer, OVS_CT_MONOTONIC);
	error = bpf_timer_set_callback(&timer->timer, ovs_ct_tick);
	if (error)
		return error;
	return bpf_timer_start(&timer->timer, 0, 0);
}

#endif /* OVS_CT_SWEEP_H */
