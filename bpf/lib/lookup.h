/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Megaflow lookup: the reader of the hash decision forest that
 * abi_classifier.h describes.  Global functions, so that the verifier looks at
 * each one once, whatever calls it.
 *
 * The provider changes the forest meanwhile.  Every word that leads on is
 * read once, and what it leads to stays as it is until this program has ended
 * (the provider waits for a grace period before it uses anything again).
 *
 * A walk through one tree.  An edge is one word: it names a descriptor (which
 * words of the key, under which masks) and what it leads to.
 *
 *   root edge of the bridge's tree:  descriptor 3, node 7
 *      | hash(node 7, the masked words of descriptor 3)   ovs_cls_hash()
 *      v
 *   bucket --- tag equal? ---> edge: descriptor 9, node 12     ovs_cls_probe()
 *      | hash(node 12, the masked words of descriptor 9)
 *      v
 *   bucket --- tag equal? ---> edge: LEAF, descriptor 21, flow 1234
 *      | compare with the flow's whole mask (descriptor 21)     ovs_cls_same()
 *      v
 *   flow 1234, or the bridge's next tree
 *
 * A tag is 26 bits of the hash: a probe may take another node's edge for its
 * own.  That does no harm, as the leaf is compared with the whole mask, and as
 * the provider gives no two edges of one chain of buckets the same tag.
 */
#ifndef OVS_LOOKUP_H
#define OVS_LOOKUP_H

#include "maps_classifier.h"

#define OVS_EDGE_LEAF	(1ULL << OVS_EDGE_LEAF_SHIFT)


static __always_inline __u32 ovs_edge_desc(__u64 edge)
{
	return edge >> OVS_EDGE_DESC_SHIFT & (OVS_DESCS - 1);
}

/* All descriptors: an address that depends on nothing. */
static __always_inline const struct ovs_descs *ovs_cls_descs(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&ovs_descs, &zero);
}

/* The low half of a word; clang 14 makes two shifts of a plain cast. */
static __always_inline __u64 ovs_low(__u64 word)
{
	__u32 low = word;

	asm("%0 = %0" : "+w"(low));
	return low;
}

/* The masked key word that entry j of a descriptor names. */
static __always_inline __u64 ovs_cls_word(const struct ovs_pkt *pkt,
					  const struct ovs_desc *d, __u32 j)
{
	return pkt->key.w[d->idx[j] & (OVS_KEY_WORDS - 1)] & d->mask[j];
}

/*
 * One term of the NH hash (Black et al., "UMAC", 1999): the random words make
 * it unlikely, 2^-32, that two keys of anybody's choice collide.  Where the
 * descriptor has no entry j it depends on nothing.
 */
static __always_inline __u64 ovs_cls_term(const struct ovs_pkt *pkt,
					  const struct ovs_desc *d,
					  const struct ovs_desc *random,
					  __u32 j)
{
	const __u32 *r = (const __u32 *)&random->mask[j];
	__u64 t = ovs_cls_word(pkt, d, j);

	return (ovs_low(t) + r[0]) * ((t >> 32) + r[1]);
}

/*
 * Terms a to b of a descriptor.  Straight code: loops whose length depends on
 * the descriptor cost a wrong branch each, and the verifier follows them all.
 * One at a time, or clang loads all words before it uses any, which takes 200
 * bytes of stack: with those of the callers more than 6.1 allows.
 */
#define OVS_CLS_TERMS(pkt, d, random, h, a, b) do {		\
	__u32 j_;						\
	_Pragma("unroll")					\
	for (j_ = (a); j_ < (b); j_++) {			\
		(h) += ovs_cls_term(pkt, d, random, j_);	\
		if (j_ >= OVS_CLS_FIRST)			\
			asm volatile("" : "+r"(h) : : "memory");\
	}							\
} while (0)

/* Sum of the terms of a descriptor's further records. */
__noinline __u64 ovs_cls_hash_more(struct ovs_pkt *pkt, __u32 next)
{
	const struct ovs_descs *descs = ovs_cls_descs();
	__u64 h = 0;
	__u32 i;

	if (!pkt || !descs)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 1; i < OVS_CLS_RECORDS && next; i++) {
		const struct ovs_desc *d = &descs->d[next & (OVS_DESCS - 1)];

		OVS_CLS_TERMS(pkt, d, &descs->d[i], h, 0, OVS_CLS_WORDS);
		next = d->next;
	}
	return h;
}

/* The tiers of OVS_CLS_TERMS: words, one cache line. */
#define OVS_TIER1	3
#define OVS_TIER2	OVS_CLS_FIRST

/* Hash what a descriptor names; `seed` is the edge that leads there. */
static __always_inline __u64 ovs_cls_hash(struct ovs_pkt *pkt,
					  const struct ovs_descs *descs,
					  const struct ovs_desc *d,
					  __u64 seed)
{
	/* Tag and leaf bit go: node and descriptor seed the hash. */
	__u64 h = seed << (63 - OVS_EDGE_LEAF_SHIFT);
	const struct ovs_desc *random = &descs->d[0];

	OVS_CLS_TERMS(pkt, d, random, h, 0, OVS_TIER1);
	if (d->n > OVS_TIER1) {
		OVS_CLS_TERMS(pkt, d, random, h, OVS_TIER1, OVS_TIER2);
		if (d->n > OVS_TIER2) {
			OVS_CLS_TERMS(pkt, d, random, h, OVS_TIER2,
				      OVS_CLS_WORDS);
			if (d->next)
				h += ovs_cls_hash_more(pkt, d->next);
		}
	}
	h ^= h >> 32;
	h *= OVS_HASH_MULT;
	return h ^ h >> 32;
}

/*
 * The edge of a bucket that has the tag of `h`, or 0.  A tag is unique in its
 * chain of buckets, and never zero.
 */
static __always_inline __u64 ovs_cls_scan(const struct ovs_bucket *bucket,
					  __u64 h)
{
	__u64 found = 0;
	__u32 i;

#pragma unroll
	for (i = 0; i < OVS_BUCKET_EDGES; i++) {
		__u64 edge = OVS_READ_ONCE(bucket->edge[i]), differs;

		differs = ((edge ^ h) >> OVS_EDGE_TAG_SHIFT) - 1;
		/*
		 * clang 14 would make branches of this, whose 2^7 paths are
		 * more than the verifiers of 6.1 and 6.18 follow.
		 */
		asm volatile("" : "+r"(differs));
		found ^= (found ^ edge) & ((__s64)differs >> 63);
	}
	return found;
}

/* Find an edge in overflow buckets, from `next` on. */
__noinline __u64 ovs_cls_overflow(__u64 h, __u32 next)
{
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 1; i < OVS_BUCKET_CHAIN && next; i++) {
		struct ovs_bucket *bucket;
		__u64 edge;

		bucket = bpf_map_lookup_elem(&ovs_buckets, &next);
		if (!bucket)
			return 0;
		edge = ovs_cls_scan(bucket, h);
		if (edge)
			return edge;
		next = OVS_READ_ONCE(bucket->next);
	}
	return 0;
}

/* Find the edge that the hash `h` leads to; 0 when there is none. */
static __always_inline __u64 ovs_cls_probe(__u64 h)
{
	__u32 b = h & cfg_bucket_mask;
	/* Where an edge is unless another one was there before. */
	__u32 first = (h >> 20 & 0xffff) * OVS_BUCKET_EDGES >> 16;
	struct ovs_bucket *bucket;
	__u64 edge;

	bucket = bpf_map_lookup_elem(&ovs_buckets, &b);
	if (!bucket)
		return 0;
	edge = OVS_READ_ONCE(bucket->edge[first]);
	if ((edge ^ h) >> OVS_EDGE_TAG_SHIFT == 0)
		return edge;
	edge = ovs_cls_scan(bucket, h);
	if (edge)
		return edge;
	b = OVS_READ_ONCE(bucket->next);
	return b ? ovs_cls_overflow(h, b) : 0;
}

/* As OVS_CLS_TERMS: what differs from the values of v, from entry a on. */
#define OVS_CLS_DIFF(pkt, d, v, diff, a, b) do {			\
	__u32 j_;							\
	_Pragma("unroll")						\
	for (j_ = (a); j_ < (b); j_++)					\
		(diff) |= ovs_cls_word(pkt, d, j_) ^			\
			  (v)->value[j_ - (a)];				\
} while (0)

/* Whether the further records of a flow match. */
__noinline __u32 ovs_cls_same_more(struct ovs_pkt *pkt, __u32 dnext,
				   __u32 fnext)
{
	const struct ovs_descs *descs = ovs_cls_descs();
	__u64 diff = 0;
	__u32 i;

	if (!pkt || !descs)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 1; i < OVS_CLS_RECORDS && dnext; i++) {
		const struct ovs_desc *d = &descs->d[dnext & (OVS_DESCS - 1)];
		struct ovs_flow *f = bpf_map_lookup_elem(&ovs_flows, &fnext);
		struct ovs_values *v = bpf_map_lookup_elem(&ovs_values, &fnext);

		if (!f || !v)
			return 0;
		OVS_CLS_DIFF(pkt, d, f, diff, 0, OVS_CLS_FIRST);
		OVS_CLS_DIFF(pkt, d, v, diff, OVS_CLS_FIRST, OVS_CLS_WORDS);
		dnext = d->next;
		fnext = f->next;
	}
	return !diff;
}

/*
 * Whether the flow that `edge` names matches in all bits of its mask; where
 * its actions begin goes to pkt->list.pc.
 *
 * @cached: the edge is not from a tree of the packet's bridge
 */
static __always_inline int ovs_cls_same(struct ovs_pkt *pkt,
					const struct ovs_descs *descs,
					__u64 edge, int cached)
{
	__u32 id = edge & ((1 << OVS_EDGE_ID_BITS) - 1);
	__u32 desc = ovs_edge_desc(edge);
	struct ovs_flow *f = bpf_map_lookup_elem(&ovs_flows, &id);
	const struct ovs_desc *d = &descs->d[desc];
	__u64 diff;

	if (!f)
		return 0;
	diff = OVS_READ_ONCE(f->desc) ^ desc;
	if (cached)
		diff |= f->bridge ^ pkt->bridge;
	OVS_CLS_DIFF(pkt, d, f, diff, 0, OVS_CLS_FIRST);
	if (d->n > OVS_CLS_FIRST) {
		struct ovs_values *v = bpf_map_lookup_elem(&ovs_values, &id);

		if (!v)
			return 0;
		OVS_CLS_DIFF(pkt, d, v, diff, OVS_CLS_FIRST, OVS_CLS_WORDS);
	}
	if (diff)
		return 0;
	pkt->list.pc = f->acts;
	return !d->next || ovs_cls_same_more(pkt, d->next, f->next);
}

/* Steps of a walk without a call. */
#define OVS_CLS_STRIDE	16

/* Follow up to OVS_CLS_STRIDE edges, from `edge` on, to a leaf or to none. */
static __always_inline __u64 ovs_cls_steps(struct ovs_pkt *pkt,
					   const struct ovs_descs *descs,
					   __u64 edge)
{
	__u32 i;

#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_CLS_STRIDE; i++) {
		__u32 desc = ovs_edge_desc(edge);

		if (edge & OVS_EDGE_LEAF)
			break;
		edge = ovs_cls_probe(ovs_cls_hash(pkt, descs,
						  &descs->d[desc], edge));
		if (!edge) {
			pkt->probes += i + 1;
			return 0;
		}
	}
	pkt->probes += i;
	return edge;
}

__noinline __u64 ovs_cls_more_steps(struct ovs_pkt *pkt, __u64 edge)
{
	const struct ovs_descs *descs = ovs_cls_descs();

	return pkt && descs ? ovs_cls_steps(pkt, descs, edge) : 0;
}

/*
 * The rest of a walk that is longer than ovs_cls_steps() goes.  Functions of
 * their own: the verifier follows every step of a loop.
 */
__noinline __u64 ovs_cls_deep(struct ovs_pkt *pkt, __u64 edge)
{
	__u32 i, zero = 0;
	__u64 *bound;

	if (!pkt)
		return 0;
#pragma clang loop unroll(disable)
	for (i = OVS_CLS_STRIDE; i < OVS_CLS_DEPTH; i += OVS_CLS_STRIDE) {
		edge = ovs_cls_more_steps(pkt, edge);
		if (!edge || edge & OVS_EDGE_LEAF)
			return edge;
	}
	bound = bpf_map_lookup_elem(&ovs_cls_bound, &zero);
	if (bound)
		(*bound)++;
	return 0;
}

/* The end of a walk: the edge of the flow if it matches, or 0. */
static __always_inline __u64 ovs_cls_end(struct ovs_pkt *pkt,
					 const struct ovs_descs *descs,
					 __u64 edge)
{
	if (unlikely(edge && !(edge & OVS_EDGE_LEAF)))
		edge = ovs_cls_deep(pkt, edge);
	return edge && ovs_cls_same(pkt, descs, edge, 0) ? edge : 0;
}

/* Walk one tree. */
static __always_inline __u64 ovs_cls_walk(struct ovs_pkt *pkt, __u64 edge)
{
	const struct ovs_descs *descs = ovs_cls_descs();

	if (!descs)
		return 0;
	return ovs_cls_end(pkt, descs, ovs_cls_steps(pkt, descs, edge));
}

/* The same, for the trees after the first one: apart for the verifier. */
__noinline __u64 ovs_cls_walk_one(struct ovs_pkt *pkt, __u64 edge)
{
	const struct ovs_descs *descs = ovs_cls_descs();

	if (!pkt || !descs)
		return 0;
	return ovs_cls_end(pkt, descs, ovs_cls_more_steps(pkt, edge));
}

/* Walk the trees of a bridge from the second one on. */
__noinline __u64 ovs_cls_walk_more(struct ovs_pkt *pkt)
{
	struct ovs_root *root;
	__u32 bridge, t, n;
	__u64 found;

	if (!pkt)
		return 0;
	bridge = pkt->bridge;
	root = bpf_map_lookup_elem(&ovs_roots, &bridge);
	if (!root)
		return 0;
	n = OVS_READ_ONCE(root->ntrees);
#pragma clang loop unroll(disable)
	for (t = 1; t < OVS_CLS_TREES; t++) {
		__u64 edge;

		if (t >= n)
			break;
		edge = OVS_READ_ONCE(root->tree[t]);
		if (!edge)
			continue;
		found = ovs_cls_walk_one(pkt, edge);
		if (found)
			return found;
	}
	return 0;
}

/* Walk all trees of a bridge. */
static __always_inline __u64 ovs_cls_forest(struct ovs_pkt *pkt,
					    const struct ovs_root *root)
{
	__u64 edge = OVS_READ_ONCE(root->tree[0]);

	if (edge)
		edge = ovs_cls_walk(pkt, edge);
	if (!edge && root->ntrees > 1)
		edge = ovs_cls_walk_more(pkt);
	return edge;
}

/*
 * The cache: edges of flows that this CPU found recently, two to a set, the
 * newer one first, four sets to a line.  The hash is over all bits that the
 * bridge's masks have; what is found is compared like any other flow, so that
 * nothing need be removed from it.
 *
 * It pays when flows are deep in their trees and few of them are in use, and
 * costs otherwise.  So it is judged after each period of OVS_CACHE_PERIOD
 * lookups: what the hits saved, in probes, against what looking in it costs.
 * When it did not pay it is left alone, each time for longer.
 */
#define OVS_CACHE_PERIOD	8192
#define OVS_CACHE_REST		32	/* periods at most */
#define OVS_CACHE_COST		56	/* of looking, in sixteenths of probes */

__noinline int ovs_cache_judge(struct ovs_pkt *pkt)
{
	__u32 asked;

	if (!pkt)
		return 0;
	asked = pkt->cpu.cache_period - pkt->cpu.cache_hits;
	if (asked > OVS_CACHE_PERIOD / 64)
		pkt->cpu.cache_depth = pkt->cpu.cache_probes * 16 / asked;
	pkt->cpu.cache_period = OVS_CACHE_PERIOD;
	if (!pkt->cpu.cache_on) {
		pkt->cpu.cache_on = pkt->cpu.cache_depth > OVS_CACHE_COST;
	} else if ((__u64)pkt->cpu.cache_hits * pkt->cpu.cache_depth >
		   OVS_CACHE_PERIOD * OVS_CACHE_COST) {
		pkt->cpu.cache_wait = 0;
	} else {
		pkt->cpu.cache_on = 0;
		pkt->cpu.cache_wait = pkt->cpu.cache_wait * 2 ?: 1;
		if (pkt->cpu.cache_wait > OVS_CACHE_REST)
			pkt->cpu.cache_wait = OVS_CACHE_REST;
		pkt->cpu.cache_period *= pkt->cpu.cache_wait;
	}
	pkt->cpu.cache_left = pkt->cpu.cache_period;
	pkt->cpu.cache_hits = 0;
	pkt->cpu.cache_probes = 0;
	return 0;
}

/* The set of a hash: the place of its newer edge; the older one is next. */
static __always_inline __u32 ovs_cache_place(__u64 h)
{
	return h >> 20 & 6;
}

/*
 * Whether a packet is looked up again that came in by a line of ovs_exact.
 * Most packets of a line take the same way then, and what leads there is known
 * without a hash of the key.  As such packets come often, it pays always.
 */
static __always_inline int ovs_cache_is_again(const struct ovs_pkt *pkt)
{
	return pkt->line && pkt->recirc_depth;
}

/* A hash of that line, and of what a recirculation is made for. */
static __always_inline __u64 ovs_cache_again(const struct ovs_pkt *pkt)
{
	__u64 h = pkt->key.w[0] >> 32 << 24 | pkt->line;

	h += (__u64)pkt->key.ct_state << 16;
	h *= OVS_HASH_MULT;
	return h ^ h >> 32;
}

/*
 * Find a flow's edge in the cache; 0 when there is none that matches.
 *
 * @desc: ovs_root.desc of the packet's bridge; 0: ovs_cache_is_again()
 */
__noinline __u64 ovs_cache_find(struct ovs_pkt *pkt, __u32 lines, __u32 desc)
{
	const struct ovs_descs *descs = ovs_cls_descs();
	__u64 h, edge, *words;
	__u32 set, place;

	if (!pkt || !descs)
		return 0;
	h = desc ? ovs_cls_hash(pkt, descs, &descs->d[desc & (OVS_DESCS - 1)],
				pkt->bridge) : ovs_cache_again(pkt);
	pkt->cache_hash = h;
	set = h & (lines - 1);
	words = bpf_map_lookup_elem(&ovs_cls_cache, &set);
	if (!words)
		return 0;
	place = ovs_cache_place(h);
	edge = words[place];
	if ((edge ^ h) >> OVS_EDGE_TAG_SHIFT)
		edge = words[place + 1];
	if ((edge ^ h) >> OVS_EDGE_TAG_SHIFT ||
	    !ovs_cls_same(pkt, descs, edge, 1))
		return 0;
	pkt->probes = 1;
	pkt->cached = 1;
	if (desc)
		pkt->cpu.cache_hits++;
	return edge;
}

/* Keep what ovs_cache_find() did not find. */
static __always_inline void ovs_cache_store(struct ovs_pkt *pkt, __u32 lines,
					    __u64 edge)
{
	__u64 h = pkt->cache_hash, *words;
	__u32 set = h & (lines - 1), place = ovs_cache_place(h);

	words = bpf_map_lookup_elem(&ovs_cls_cache, &set);
	if (!words)
		return;
	if ((words[place] ^ h) >> OVS_EDGE_TAG_SHIFT)
		words[place + 1] = words[place];
	words[place] = (edge & ((1ULL << OVS_EDGE_TAG_SHIFT) - 1)) |
		       h >> OVS_EDGE_TAG_SHIFT << OVS_EDGE_TAG_SHIFT;
}

/*
 * Look pkt->key up among the flows of pkt->bridge.  pkt->probes becomes the
 * number of hash probes made, which is what mask_hit of ovs_dp_stats counts,
 * and pkt->cached whether the cache had the flow (cache_hit).
 *
 * Return: flow id plus 1, or 0 when no flow matches.
 */
static __always_inline __u32 ovs_classify(struct ovs_pkt *pkt)
{
	__u32 bridge = pkt->bridge, lines;
	struct ovs_root *root;
	__u64 edge = 0;

	pkt->probes = 0;
	pkt->cached = 0;
	root = bpf_map_lookup_elem(&ovs_roots, &bridge);
	if (!root)
		return 0;
	lines = OVS_READ_ONCE(root->cache);
	if (lines && ovs_cache_is_again(pkt)) {
		edge = ovs_cache_find(pkt, lines, 0);
	} else if (lines) {
		if (!pkt->cpu.cache_left)
			ovs_cache_judge(pkt);
		pkt->cpu.cache_left--;
		if (pkt->cpu.cache_on)
			edge = ovs_cache_find(pkt, lines,
					      OVS_READ_ONCE(root->desc));
	}
	if (!edge) {
		edge = ovs_cls_forest(pkt, root);
		if (lines) {
			int again = ovs_cache_is_again(pkt);

			if (!again)
				pkt->cpu.cache_probes += pkt->probes;
			if (edge && (again || pkt->cpu.cache_on))
				ovs_cache_store(pkt, lines, edge);
		}
	}
	if (!edge)
		return 0;
	return (edge & ((1 << OVS_EDGE_ID_BITS) - 1)) + 1;
}

#endif /* OVS_LOOKUP_H */
