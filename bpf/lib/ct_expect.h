/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Connections that were expected: what a helper has read in the packets of
 * another one, their master, will come (net/netfilter/nf_conntrack_expect.c).
 * The provider reads and expects; a packet of no connection is looked for here
 * before it begins one.
 *
 * An expectation is for one connection: it is taken when that is committed, by
 * a compare-and-swap of a word that has its incarnation.  Of two CPUs one gets
 * it, and the other one's packet begins a connection like any other.
 */
#ifndef OVS_CT_EXPECT_H
#define OVS_CT_EXPECT_H

#include "ct_tuple.h"

#define OVS_CT_S_NAT	(OVS_CT_S_SRC_NAT | OVS_CT_S_DST_NAT | \
			 OVS_CT_S_SRC_NAT_DONE | OVS_CT_S_DST_NAT_DONE)

static __always_inline struct ovs_ct_expect *ovs_ct_expect_get(__u32 i)
{
	return bpf_map_lookup_elem(&ovs_ct_expect, &i);
}

/* The first one of the bucket: ovs_ct_hash_of(), whatever the source port. */
static __always_inline __u32 ovs_ct_expect_first(const struct ovs_ct_conf *conf,
						 const struct ovs_ct_tuple *t)
{
	__u64 h;

	h = ovs_ct_hash_end(conf, t->w[0], t->w[1], 0) +
	    ovs_ct_hash_end(conf, t->w[2], t->w[3], t->dport);
	h ^= (((__u64)t->proto << 16 | t->zone) + 1) * conf->random64[1];
	h ^= h >> 32;
	h *= OVS_CT_MULT;
	h ^= h >> 32;
	return h % (OVS_CT_EXPECTS / OVS_CT_EXPECT_WAYS) * OVS_CT_EXPECT_WAYS;
}

static __always_inline int ovs_ct_expect_same(const struct ovs_ct_tuple *a,
					      const struct ovs_ct_tuple *b)
{
	return !((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) |
		 (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3])) &&
	       a->dport == b->dport && a->zone == b->zone &&
	       a->proto == b->proto && a->family == b->family;
}

/* The master, if it still is a connection. */
static __always_inline struct ovs_ct *
ovs_ct_expect_master(const struct ovs_ct_expect *e, __u64 now)
{
	__u32 id = e->master & OVS_CT_ID_MASK;
	struct ovs_ct *ct = id ? ovs_ct_get(id) : NULL;
	__u64 word;

	if (!ct)
		return NULL;
	word = OVS_READ_ONCE(ct->word);
	if (!ovs_ct_is_live(word) ||
	    word >> OVS_CT_GEN_SHIFT != e->master_gen ||
	    !ovs_ct_is_current(ct, id, now))
		return NULL;
	return ct;
}

static __always_inline void ovs_ct_expect_labels(struct ovs_ct *ct,
						 const struct ovs_ct *master)
{
	const __u64 *from = (const __u64 *)master->labels;
	__u64 *to = (__u64 *)ct->labels;

	to[0] = OVS_READ_ONCE(from[0]);
	to[1] = OVS_READ_ONCE(from[1]);
}

/* Whether a packet that begins st->fresh is what element `i` expects. */
__noinline int ovs_ct_expect_is(struct ovs_ct_pkt *st, __u32 i)
{
	struct ovs_ct_expect *e = ovs_ct_expect_get(i);
	struct ovs_ct *ct, *master;
	__u64 word;
	__be16 sport;

	if (!st || !e)
		return 0;
	word = OVS_READ_ONCE(e->word);
	if ((__u32)word != OVS_CT_EXPECT_READY ||
	    !ovs_ct_expect_same(&e->tuple, &st->tuple) ||
	    e->end <= st->now / OVS_CT_NS)
		return 0;
	master = ovs_ct_expect_master(e, st->now);
	if (!master)
		return 0;
	ct = &st->fresh;
	sport = st->tuple.sport;
	ct->status = OVS_CT_S_EXPECTED;
	ct->mark = OVS_READ_ONCE(master->mark);
	ovs_ct_expect_labels(ct, master);
	ct->master = e->master;
	ct->master_gen = e->master_gen;
	if (e->flags & OVS_CT_EXPECT_F_NAT) {
		ct->reply = e->reply;
		ct->reply.dport = sport;
		ct->status |= OVS_CT_S_SRC_NAT_DONE | OVS_CT_S_DST_NAT_DONE;
		if ((ct->reply.w[2] ^ ct->orig.w[0]) |
		    (ct->reply.w[3] ^ ct->orig.w[1]))
			ct->status |= OVS_CT_S_SRC_NAT;
		if ((ct->reply.w[0] ^ ct->orig.w[2]) |
		    (ct->reply.w[1] ^ ct->orig.w[3]) |
		    (ct->reply.sport ^ ct->orig.dport))
			ct->status |= OVS_CT_S_DST_NAT;
	}
	st->expect = i + 1;
	st->expect_gen = word >> OVS_CT_GEN_SHIFT;
	/* Another one may have come in its place while it was read. */
	asm volatile("" : : : "memory");
	return OVS_READ_ONCE(e->word) == word;
}

/* It is not expected, after all: as if nobody had been asked. */
__noinline int ovs_ct_expect_undo(struct ovs_ct_pkt *st)
{
	struct ovs_ct *ct;

	if (!st)
		return 0;
	ct = &st->fresh;
	st->expect = 0;
	ct->status &= ~(OVS_CT_S_EXPECTED | OVS_CT_S_NAT);
	ct->mark = 0;
	((__u64 *)ct->labels)[0] = 0;
	((__u64 *)ct->labels)[1] = 0;
	ct->master = 0;
	ct->master_gen = 0;
	ovs_ct_invert(&ct->reply, &ct->orig);
	st->ct_state = OVS_CT_TRACKED | OVS_CT_NEW;
	return 0;
}

/*
 * Whether somebody expects the connection that st->fresh is to be; that has
 * its master, mark, labels and NAT then.
 */
__noinline int ovs_ct_expect_find(struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	__u32 first, i;

	if (!st || !conf)
		return 0;
	first = ovs_ct_expect_first(conf, &st->tuple);
#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_CT_EXPECT_WAYS; i++) {
		if (ovs_ct_expect_is(st, first + i)) {
			st->ct_state = OVS_CT_TRACKED | OVS_CT_NEW |
				       OVS_CT_RELATED;
			return 1;
		}
		if (st->expect)
			ovs_ct_expect_undo(st);
	}
	return 0;
}

/*
 * Take what st->fresh was expected by, before it is committed, and before its
 * NAT.  When it was taken meanwhile, or has gone, the connection is one like
 * any other.
 *
 * Return: 1 when st->fresh and st->ct_state are others now.
 */
__noinline int ovs_ct_expect_take(struct ovs_ct_pkt *st)
{
	struct ovs_ct_expect *e;
	__u64 word;

	if (!st || !st->expect)
		return 0;
	e = ovs_ct_expect_get(st->expect - 1);
	word = (__u64)st->expect_gen << OVS_CT_GEN_SHIFT;
	if (!e || __sync_val_compare_and_swap(&e->word,
					      word | OVS_CT_EXPECT_READY,
					      word | OVS_CT_EXPECT_TAKEN) !=
			  (word | OVS_CT_EXPECT_READY)) {
		ovs_ct_expect_undo(st);
		return 1;
	}
	st->expect = 0;
	ovs_ct_count(OVS_CT_STAT_EXPECTED);
	return 0;
}

/*
 * The master's record, for as long as it is there: its original tuple is what
 * the key of an expected connection's packets has.
 */
static __always_inline const struct ovs_ct *
ovs_ct_master_of(const struct ovs_ct *ct)
{
	__u32 id = ct->master & OVS_CT_ID_MASK;
	struct ovs_ct *master = id ? ovs_ct_get(id) : NULL;
	__u64 word;

	if (!master)
		return NULL;
	word = OVS_READ_ONCE(master->word);
	return (__u32)word != OVS_CT_FREE &&
	       (__u16)(word >> OVS_CT_GEN_SHIFT) == ct->master_gen ?
		       master : NULL;
}

#endif /* OVS_CT_EXPECT_H */
