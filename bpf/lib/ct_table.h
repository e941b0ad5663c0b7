/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The connection tracker's table: from a tuple to its record.
 *
 * The hash is the same for both directions of a connection, so that one edge
 * leads to it; where NAT makes the reply another one, there are two.
 *
 * A record is free, tentative, live, dead, and free again (ovs_ct.word):
 *
 * - Whoever commits takes a free one, fills it in, puts its edges into the
 *   table, looks whether somebody else has one of its tuples, and then makes
 *   it live.  Of two tentative ones that clash the one with the lower id ends
 *   the other; a live one, every tentative one.  As both are compare-and-swaps
 *   of `word`, exactly one of those that clash becomes live.
 * - Whoever makes a live one dead removes its edges.  It is in limbo until no
 *   program can hold it any more, and then the sweep gives it back.
 */
#ifndef OVS_CT_TABLE_H
#define OVS_CT_TABLE_H

#include <linux/in6.h>

#include "maps_ct.h"

#define OVS_CT_ID_MASK		((1 << OVS_CT_ID_BITS) - 1)
#define OVS_CT_TAG_MASK		(~0ULL << OVS_CT_TAG_SHIFT)
#define OVS_CT_MULT		0xd6e8feb86659fd93ULL
#define OVS_CT_TRIES		64	/* to change a word that others change */
#define OVS_CT_NS		1000000000ULL

static __always_inline struct ovs_ct_conf *ovs_ct_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&ovs_ct_conf, &zero);
}

static __always_inline struct ovs_ct *ovs_ct_get(__u32 id)
{
	return bpf_map_lookup_elem(&ovs_ct, &id);
}

/* Where the expiry of a record is. */
static __always_inline __u32 *ovs_ct_expiry(__u32 id)
{
	__u32 i = id / OVS_CT_EXP;
	struct ovs_ct_exp *exp = bpf_map_lookup_elem(&ovs_ct_exp, &i);

	return exp ? &exp->at[id % OVS_CT_EXP] : NULL;
}

static __always_inline struct ovs_ct_zone *ovs_ct_zone_of(__u32 zone)
{
	zone &= OVS_CT_ZONES - 1;
	return bpf_map_lookup_elem(&ovs_ct_zones, &zone);
}

static __always_inline void ovs_ct_count(enum ovs_ct_stat stat)
{
	__u32 zero = 0;
	struct ovs_ct_cpu *cpu = bpf_map_lookup_elem(&ovs_ct_cpu, &zero);

	if (cpu)
		cpu->stat[stat & (OVS_CT_STAT_MAX - 1)]++;
}

/* One end of a connection, as a part of its hash. */
static __always_inline __u64 ovs_ct_hash_end(const struct ovs_ct_conf *conf,
					     __u64 a, __u64 b, __u64 port)
{
	__u64 h;

	h = ((__u64)(__u32)a + conf->random[0]) * ((a >> 32) + conf->random[1]);
	h += ((__u64)(__u32)b + conf->random[2]) *
	     ((b >> 32) + conf->random[3]);
	h += port * conf->random64[0];
	h ^= h >> 32;
	h *= OVS_CT_MULT;
	return h ^ h >> 29;
}

/*
 * The hash of a tuple and of its inverse; never without a bit of the tag.  An
 * NH hash (see lookup.h) of each end, so that nobody who does not know the
 * random words can make tuples collide.
 */
static __always_inline __u64 ovs_ct_hash_of(const struct ovs_ct_conf *conf,
					    const struct ovs_ct_tuple *t)
{
	__u16 sport = t->sport, dport = t->dport;
	__u64 h;

	/* The answer has another type. */
	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6)
		dport = sport;
	h = ovs_ct_hash_end(conf, t->w[0], t->w[1], sport) +
	    ovs_ct_hash_end(conf, t->w[2], t->w[3], dport);
	h ^= (((__u64)t->proto << 16 | t->zone) + 1) * conf->random64[1];
	h ^= h >> 32;
	h *= OVS_CT_MULT;
	return (h ^ h >> 32) | 1ULL << 63;
}

__noinline __u64 ovs_ct_hash(const struct ovs_ct_tuple *t)
{
	struct ovs_ct_conf *conf = ovs_ct_config();

	return t && conf ? ovs_ct_hash_of(conf, t) : 0;
}

/* The bucket of a hash that is looked into as number `n`. */
static __always_inline __u32 ovs_ct_bucket_of(__u64 h, __u32 n)
{
	return (h + n * (h >> 20 | 1)) & cfg_ct_bucket_mask;
}

static __always_inline __u64 ovs_ct_edge(__u64 h, __u32 id)
{
	return (h & OVS_CT_TAG_MASK) | id;
}

/* An edge of a bucket with the tag of `h`, the last one; 0: there is none. */
static __always_inline __u64 ovs_ct_scan(const struct ovs_ct_bucket *bucket,
					 __u64 h)
{
	__u64 found = 0;
	__u32 i;

#pragma unroll
	for (i = 0; i < OVS_CT_EDGES; i++) {
		__u64 edge = OVS_READ_ONCE(bucket->edge[i]), differs;

		differs = ((edge ^ h) >> OVS_CT_TAG_SHIFT) - 1;
		/* As in lookup.h: no branches. */
		asm volatile("" : "+r"(differs));
		found ^= (found ^ edge) & ((__s64)differs >> 63);
	}
	return found;
}

static __always_inline int ovs_ct_same(const struct ovs_ct_tuple *a,
				       const struct ovs_ct_tuple *b)
{
	return !((a->w[0] ^ b->w[0]) | (a->w[1] ^ b->w[1]) |
		 (a->w[2] ^ b->w[2]) | (a->w[3] ^ b->w[3]) |
		 (a->w[4] ^ b->w[4]));
}

/* Which direction of a connection a tuple is, plus 1; 0: none. */
static __always_inline int ovs_ct_match(const struct ovs_ct *ct,
					const struct ovs_ct_tuple *t)
{
	if (ovs_ct_same(&ct->orig, t))
		return 1;
	return ovs_ct_same(&ct->reply, t) ? 2 : 0;
}

static __always_inline int ovs_ct_is_live(__u64 word)
{
	__u32 low = word;

	return low == OVS_CT_LIVE || low == OVS_CT_LOCKED;
}

/* Whether a record with a live `word`, which ends at `exp`, still is one. */
static __always_inline int ovs_ct_is_until(const struct ovs_ct *ct,
					   const __u32 *exp, __u64 now)
{
	struct ovs_ct_zone *zone = ovs_ct_zone_of(ct->orig.zone);

	return zone && OVS_READ_ONCE(zone->word) >> 32 == ct->zone_gen &&
	       OVS_READ_ONCE(*exp) > now / OVS_CT_NS;
}

static __always_inline int ovs_ct_is_current(const struct ovs_ct *ct,
					     __u32 id, __u64 now)
{
	__u32 *exp = ovs_ct_expiry(id);

	return exp && ovs_ct_is_until(ct, exp, now);
}

/* Where a connection is. */
struct ovs_ct_at {
	struct ovs_ct *ct;
	__u32 *exp;
};

/*
 * Whether record `id` is the one that the packet is of; it is noted if so, and
 * in `at`, for which there is no room on some stacks.
 */
static __always_inline int ovs_ct_is(struct ovs_ct_pkt *st, __u32 id,
				     struct ovs_ct_at *at)
{
	struct ovs_ct *ct = ovs_ct_get(id);
	__u32 *exp = ovs_ct_expiry(id);
	__u64 word;
	int dir;

	if (!ct || !exp)
		return 0;
	word = OVS_READ_ONCE(ct->word);
	dir = ovs_ct_match(ct, &st->tuple);
	if (!dir || !ovs_ct_is_live(word) ||
	    !ovs_ct_is_until(ct, exp, st->now))
		return 0;
	st->id = id;
	st->gen = word >> OVS_CT_GEN_SHIFT;
	st->dir = dir - 1;
	if (at) {
		at->ct = ct;
		at->exp = exp;
	}
	return 1;
}

/* As ovs_ct_lookup(), wherever it is. */
__noinline int ovs_ct_lookup_more(struct ovs_ct_pkt *st)
{
	__u32 n, i;

	if (!st)
		return 0;
#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_PROBES; n++) {
		__u32 b = ovs_ct_bucket_of(st->hash, n);
		struct ovs_ct_bucket *bucket;

		bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
		if (!bucket)
			return 0;
#pragma clang loop unroll(disable)
		for (i = 0; i < OVS_CT_EDGES; i++) {
			__u64 edge = OVS_READ_ONCE(bucket->edge[i]);

			if ((edge ^ st->hash) >> OVS_CT_TAG_SHIFT)
				continue;
			if (ovs_ct_is(st, edge & OVS_CT_ID_MASK, NULL))
				return 1;
		}
		if (!OVS_READ_ONCE(bucket->spill))
			break;
	}
	return 0;
}

/*
 * Find the connection that has st->tuple, whose hash is in st->hash: fills in
 * id, gen and dir, and `at`, and returns 1, or returns 0.
 */
static __always_inline int ovs_ct_lookup(struct ovs_ct_pkt *st,
					 struct ovs_ct_at *at)
{
	__u32 b = ovs_ct_bucket_of(st->hash, 0);
	struct ovs_ct_bucket *bucket;
	__u64 edge;

	st->id = 0;
	bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
	if (!bucket)
		return 0;
	/* Where it is unless another one was there before. */
	edge = OVS_READ_ONCE(bucket->edge[0]);
	if ((edge ^ st->hash) >> OVS_CT_TAG_SHIFT)
		edge = ovs_ct_scan(bucket, st->hash);
	if (edge && ovs_ct_is(st, edge & OVS_CT_ID_MASK, at))
		return 1;
	/* Two with one tag, or in the next bucket. */
	if ((!edge && !OVS_READ_ONCE(bucket->spill)) || !ovs_ct_lookup_more(st))
		return 0;
	at->ct = ovs_ct_get(st->id);
	at->exp = ovs_ct_expiry(st->id);
	return at->ct && at->exp;
}

/* Put an edge into the table; 0 when there is no place for it. */
__noinline int ovs_ct_edge_add(__u64 h, __u32 id)
{
	struct ovs_ct_bucket *bucket;
	__u32 n, i, b;

#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_PROBES; n++) {
		b = ovs_ct_bucket_of(h, n);
		bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
		if (!bucket)
			return 0;
#pragma clang loop unroll(disable)
		for (i = 0; i < OVS_CT_EDGES; i++) {
			__u64 *edge = &bucket->edge[i];

			if (!OVS_READ_ONCE(*edge) &&
			    !__sync_val_compare_and_swap(edge, 0,
							 ovs_ct_edge(h, id)))
				return 1;
		}
		__sync_fetch_and_add(&bucket->spill, 1);
	}
#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_PROBES; n++) {
		b = ovs_ct_bucket_of(h, n);
		bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
		if (bucket)
			__sync_fetch_and_add(&bucket->spill, -1ULL);
	}
	return 0;
}

/* Remove what ovs_ct_edge_add() put there. */
__noinline int ovs_ct_edge_del(__u64 h, __u32 id)
{
	__u64 edge = ovs_ct_edge(h, id);
	struct ovs_ct_bucket *bucket;
	__u32 n, i, b, at = 0;

#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_PROBES; n++) {
		b = ovs_ct_bucket_of(h, n);
		bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
		if (!bucket)
			return 0;
#pragma clang loop unroll(disable)
		for (i = 0; i < OVS_CT_EDGES; i++)
			if (OVS_READ_ONCE(bucket->edge[i]) == edge) {
				*(volatile __u64 *)&bucket->edge[i] = 0;
				at = n + 1;
				break;
			}
		if (at)
			break;
	}
	if (!at)
		return 0;
#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_PROBES; n++) {
		if (n + 1 >= at)
			break;
		b = ovs_ct_bucket_of(h, n);
		bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
		if (bucket)
			__sync_fetch_and_add(&bucket->spill, -1ULL);
	}
	return 1;
}

/* Both edges of a record. */
static __always_inline void ovs_ct_unlink(struct ovs_ct *ct, __u32 id)
{
	__u64 h = ovs_ct_hash(&ct->orig), r = ovs_ct_hash(&ct->reply);

	ovs_ct_edge_del(h, id);
	if (r != h)
		ovs_ct_edge_del(r, id);
}

/* One connection less in its zone, unless that was flushed meanwhile. */
static __always_inline void ovs_ct_uncount(const struct ovs_ct *ct)
{
	struct ovs_ct_zone *zone = ovs_ct_zone_of(ct->orig.zone);
	struct ovs_ct_use *use;
	__u32 i, zero = 0;
	__u64 word;

	use = bpf_map_lookup_elem(&ovs_ct_use, &zero);
	if (use) {
		/* It is in limbo, and counted no more: the sweep is to look. */
		*(volatile __u64 *)&use->idle = 0;
		__sync_fetch_and_add(&use->count, -1ULL);
	}
	if (!zone)
		return;
#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_CT_TRIES; i++) {
		word = OVS_READ_ONCE(zone->word);
		if (word >> 32 != ct->zone_gen || !(__u32)word)
			return;
		if (__sync_val_compare_and_swap(&zone->word, word, word - 1) ==
		    word)
			return;
	}
}

/*
 * End a connection before its time.
 *
 * @gen: of its incarnation
 * @held: whether the caller has locked it
 * @now: s
 *
 * Return: 1, or 0 when it is not live any more, or somebody else has locked it.
 */
__noinline int ovs_ct_kill(__u32 id, __u32 gen, __u32 held, __u32 now)
{
	struct ovs_ct *ct = ovs_ct_get(id);
	__u64 base = (__u64)gen << OVS_CT_GEN_SHIFT, from;
	__u32 *exp = ovs_ct_expiry(id);

	if (!ct || !exp)
		return 0;
	/* The sweep gives back what ended long ago: not while we are here. */
	if (*exp <= now)
		*(volatile __u32 *)exp = now;
	from = base | (held ? OVS_CT_LOCKED : OVS_CT_LIVE);
	if (__sync_val_compare_and_swap(&ct->word, from, base | OVS_CT_DEAD) !=
	    from)
		return 0;
	ovs_ct_unlink(ct, id);
	ovs_ct_uncount(ct);
	*(volatile __u32 *)exp = now;
	return 1;
}

struct ovs_ct_search {
	struct ovs_ct_cpu *cpu;
	__u32 id;
};

/* Take a free record among those from the cursor on, to the next element. */
static long ovs_ct_search_one(__u32 i, struct ovs_ct_search *s)
{
	__u32 first = s->cpu->cursor, b = first / OVS_CT_EXP;
	__u32 n = first % OVS_CT_EXP;
	struct ovs_ct_exp *exp = bpf_map_lookup_elem(&ovs_ct_exp, &b);
	__u64 free = 0;

	if (first >= cfg_ct_max || !exp) {
		s->cpu->cursor = 1;
		return 0;
	}
	if (likely(OVS_READ_ONCE(exp->at[n]) == OVS_CT_EXP_FREE))
		goto found;
	/* A bit for each that is free; no branches, for the verifier's sake. */
#pragma unroll
	for (n = 0; n < OVS_CT_EXP; n++) {
		__u64 at = (__u64)OVS_READ_ONCE(exp->at[n]) - 1;

		asm volatile("" : "+r"(at));
		free |= at >> 63 << n;
	}
	free &= ~0ULL << first % OVS_CT_EXP;
	if (!free) {
		s->cpu->cursor = (b + 1) * OVS_CT_EXP;
		return 0;
	}
	/* The number of the lowest one: of the bits below it. */
	free = (free & -free) - 1;
	free -= free >> 1 & 0x5555;
	free = (free & 0x3333) + (free >> 2 & 0x3333);
	free = (free + (free >> 4)) & 0x0f0f;
	n = (free + (free >> 8)) & (OVS_CT_EXP - 1);
found:
	s->cpu->cursor = b * OVS_CT_EXP + n + 1;
	if (__sync_val_compare_and_swap(&exp->at[n], OVS_CT_EXP_FREE,
					OVS_CT_EXP_TAKEN) != OVS_CT_EXP_FREE)
		return 0;
	s->id = b * OVS_CT_EXP + n;
	return 1;
}

/*
 * Take a free record: its id, or 0.  Each CPU goes over all records in turns,
 * so that one that was given back rests for as long as there are others.  When
 * none was free, none is looked for until some have been given back.
 */
__noinline __u32 ovs_ct_alloc(void)
{
	struct ovs_ct_search s = {};
	struct ovs_ct_use *use;
	__u32 zero = 0;
	__u64 freed;

	s.cpu = bpf_map_lookup_elem(&ovs_ct_cpu, &zero);
	use = bpf_map_lookup_elem(&ovs_ct_use, &zero);
	if (!s.cpu || !use)
		return 0;
	freed = OVS_READ_ONCE(use->freed) + 1;
	if (unlikely(s.cpu->full == freed))
		return 0;
	/* Not where the others begin. */
	if (unlikely(!s.cpu->cursor))
		s.cpu->cursor = bpf_get_smp_processor_id() * 4096ULL %
				(cfg_ct_max ?: 1) + 1;
	if (!ovs_ct_search_one(0, &s)) {
		bpf_loop(cfg_ct_max / OVS_CT_EXP + 4, ovs_ct_search_one, &s, 0);
		if (!s.id)
			s.cpu->full = freed;
	}
	return s.id;
}

/* Give back a record that never was live, and its incarnation with it. */
static __always_inline void ovs_ct_free(struct ovs_ct *ct, __u32 id)
{
	__u32 *exp = ovs_ct_expiry(id);
	__u64 gen = ct->word >> OVS_CT_GEN_SHIFT;

	*(volatile __u64 *)&ct->word = gen << OVS_CT_GEN_SHIFT | OVS_CT_FREE;
	if (exp)
		*(volatile __u32 *)exp = OVS_CT_EXP_FREE;
}

/* Whether two connections have a tuple in common. */
__noinline int ovs_ct_shares(const struct ovs_ct *a, const struct ovs_ct *b)
{
	return a && b && (ovs_ct_match(a, &b->orig) ||
			  ovs_ct_match(a, &b->reply));
}

/*
 * Whether record `other` has a tuple of record `id`, which is tentative, and
 * goes first.  When it has one but does not go first, it is ended.
 *
 * @now: ns
 */
__noinline int ovs_ct_rival(__u32 other, __u32 id, __u64 now)
{
	struct ovs_ct *ct = ovs_ct_get(id), *o = ovs_ct_get(other);
	__u64 word, gen;

	if (!ct || !o)
		return 0;
	word = OVS_READ_ONCE(o->word);
	if (!ovs_ct_shares(o, ct))
		return 0;
	if (ovs_ct_is_live(word)) {
		if (ovs_ct_is_current(o, other, now))
			return 1;
		ovs_ct_kill(other, word >> OVS_CT_GEN_SHIFT, 0,
			    now / OVS_CT_NS);
	} else if ((__u32)word == OVS_CT_TENTATIVE) {
		if (other < id)
			return 1;
		__sync_val_compare_and_swap(&o->word, word,
					    word - OVS_CT_TENTATIVE +
					    OVS_CT_DEAD);
	}
	/* Where that failed it was live before, or withdrawn, or ended. */
	gen = word >> OVS_CT_GEN_SHIFT;
	word = OVS_READ_ONCE(o->word);
	return ovs_ct_is_live(word) && word >> OVS_CT_GEN_SHIFT == gen;
}

/*
 * Whether somebody else has, at the hash `h`, a tuple of record `id`, and goes
 * first.
 */
__noinline int ovs_ct_clash(__u64 h, __u32 id, __u64 now)
{
	__u32 n, i;

#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_PROBES; n++) {
		__u32 b = ovs_ct_bucket_of(h, n);
		struct ovs_ct_bucket *bucket;

		bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
		if (!bucket)
			return 1;
#pragma clang loop unroll(disable)
		for (i = 0; i < OVS_CT_EDGES; i++) {
			__u64 edge = OVS_READ_ONCE(bucket->edge[i]);
			__u32 other = edge & OVS_CT_ID_MASK;

			if ((edge ^ h) >> OVS_CT_TAG_SHIFT == 0 &&
			    other != id && ovs_ct_rival(other, id, now))
				return 1;
		}
		if (!OVS_READ_ONCE(bucket->spill))
			break;
	}
	return 0;
}

/*
 * The connection of now that has `t` as one of its tuples (for NAT): 0: none
 * has; -1: one that is about to be.
 */
__noinline int ovs_ct_is_used(struct ovs_ct_pkt *st,
			      const struct ovs_ct_tuple *t)
{
	__u64 h = ovs_ct_hash(t);
	__u32 n, i;

	if (!st || !t)
		return -1;
#pragma clang loop unroll(disable)
	for (n = 0; n < OVS_CT_PROBES; n++) {
		__u32 b = ovs_ct_bucket_of(h, n);
		struct ovs_ct_bucket *bucket;

		bucket = bpf_map_lookup_elem(&ovs_ct_tab, &b);
		if (!bucket)
			return -1;
#pragma clang loop unroll(disable)
		for (i = 0; i < OVS_CT_EDGES; i++) {
			__u64 edge = OVS_READ_ONCE(bucket->edge[i]), word;
			__u32 id = edge & OVS_CT_ID_MASK;
			struct ovs_ct *ct;

			if ((edge ^ h) >> OVS_CT_TAG_SHIFT)
				continue;
			ct = ovs_ct_get(id);
			if (!ct)
				continue;
			word = OVS_READ_ONCE(ct->word);
			if (!ovs_ct_match(ct, t))
				continue;
			if ((__u32)word == OVS_CT_TENTATIVE)
				return -1;
			if (ovs_ct_is_live(word) &&
			    ovs_ct_is_current(ct, id, st->now))
				return id;
		}
		if (!OVS_READ_ONCE(bucket->spill))
			break;
	}
	return 0;
}

#endif /* OVS_CT_TABLE_H */
