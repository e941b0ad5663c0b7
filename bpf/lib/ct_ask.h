/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the provider does to connections.  It has no atomic operations on
 * mapped memory: what programs change as well it asks a program to change.
 */
#ifndef OVS_CT_ASK_H
#define OVS_CT_ASK_H

#include "ct.h"

/* Count anew.  TCP's and SCTP's counters are the lock's. */
static __always_inline void ovs_ct_zero(struct ovs_ct *ct,
					struct ovs_ct_asked *one)
{
	one->packets[0] = __sync_lock_test_and_set(&ct->packets[0], 0);
	one->packets[1] = __sync_lock_test_and_set(&ct->packets[1], 0);
	one->bytes[0] = __sync_lock_test_and_set(&ct->bytes[0], 0);
	one->bytes[1] = __sync_lock_test_and_set(&ct->bytes[1], 0);
}

/* A helper has changed the length of what was sent. */
static __always_inline void ovs_ct_shift(struct ovs_ct *ct,
					 const struct ovs_ct_asked *one)
{
	__u64 *to = (__u64 *)ct->adj_pos;

	*(volatile __u64 *)&to[0] = one->packets[0];
	*(volatile __u64 *)&to[1] = one->packets[1];
	*(volatile __u64 *)&to[2] = one->bytes[0];
	ct->status |= OVS_CT_S_SEQ_ADJUST;
}

/* Return: OVS_CT_ANSWER_*. */
__noinline int ovs_ct_ask_one(struct ovs_ct_asks *asks, __u32 i, __u32 now)
{
	struct ovs_ct_asked *one;
	struct ovs_ct *ct;
	__u64 word, seen;

	if (!asks || i >= OVS_CT_ASKS)
		return OVS_CT_ANSWER_GONE;
	one = &asks->one[i];
	ct = one->id ? ovs_ct_get(one->id) : NULL;
	if (!ct)
		return OVS_CT_ANSWER_GONE;
	word = (__u64)one->gen << OVS_CT_GEN_SHIFT | OVS_CT_LIVE;
	if (!ovs_ct_lock(ct, word)) {
		seen = OVS_READ_ONCE(ct->word);
		return seen - word > 1 ? OVS_CT_ANSWER_GONE :
					 OVS_CT_ANSWER_BUSY;
	}
	switch (asks->what) {
	case OVS_CT_ASK_END:
		return ovs_ct_kill(one->id, one->gen, 1, now) ?
			       OVS_CT_ANSWER_DONE : OVS_CT_ANSWER_GONE;
	case OVS_CT_ASK_ZERO:
		ovs_ct_zero(ct, one);
		break;
	case OVS_CT_ASK_SHIFT:
		ovs_ct_shift(ct, one);
		break;
	case OVS_CT_ASK_UNTIMEOUT:
		if (ct->policy == asks->policy)
			ct->policy = 0;
		break;
	}
	ovs_ct_unlock(ct, word);
	return OVS_CT_ANSWER_DONE;
}

struct ovs_ct_asking {
	struct ovs_ct_asks *asks;
	__u32 now;
};

static long ovs_ct_ask_step(__u32 i, struct ovs_ct_asking *asking)
{
	struct ovs_ct_asks *asks = asking->asks;

	if (i >= OVS_CT_ASKS)
		return 1;
	asks->one[i].answer = ovs_ct_ask_one(asks, i, asking->now);
	return 0;
}

/* Answer what is asked in ovs_ct_asked.  Return: 0, or -errno. */
static __always_inline int ovs_ct_answer(void)
{
	struct ovs_ct_asking asking = {};
	__u32 zero = 0, count;

	asking.asks = bpf_map_lookup_elem(&ovs_ct_asked, &zero);
	if (!asking.asks)
		return -2;
	asking.now = bpf_ktime_get_coarse_ns() / OVS_CT_NS;
	count = asking.asks->count;
	bpf_loop(count < OVS_CT_ASKS ? count : OVS_CT_ASKS, ovs_ct_ask_step,
		 &asking, 0);
	return 0;
}

#endif /* OVS_CT_ASK_H */
