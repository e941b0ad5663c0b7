/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The connection tracker.  It knows packets as ctx.h hands them over, and no
 * more of the hook than that; it knows nothing of flows and actions either.
 *
 *	st->now, st->zone, st->policy, and from the headers st->l3_off,
 *	st->l4_off, st->l4_proto, st->family
 *	  |
 *	ovs_ct_find(ctx, st)	st->verdict: of connection st->id, in direction
 *	  |			st->dir; or the beginning of one, which is in
 *	  |			st->fresh; or none.  st->ct_state: what the
 *	  |			kernel's ovs_ct_get_state() says.
 *	  |
 *	ovs_ct_expect_take(st)	of a new one that was expected and is to be
 *	  |			committed: it may be none after all
 *	NAT, marks, labels	of a new one: st->fresh.reply, .status, .mark,
 *	  |			.labels; ovs_ct_is_used() asks for a tuple
 *	  |
 *	ovs_ct_commit(st)	a new one is in the table from here on
 *
 * A connection that is known is updated by ovs_ct_find(): once a packet and
 * zone.  ovs_ct_record(st) is its record, to be read, and ovs_ct_drop(st) ends
 * it.  st may be kept while the packet goes on its way; it holds no lock and
 * no reference: when the connection has gone meanwhile, ovs_ct_record() says
 * so.
 */
#ifndef OVS_CT_H
#define OVS_CT_H

#include "ct_expect.h"
#include "ct_icmp.h"
#include "ct_sctp.h"
#include "ct_tcp.h"

/* Replies from this long after the first packet on: a stream, no query. */
#define OVS_CT_STREAM_NS	(2 * OVS_CT_NS)

/*
 * Read what is neither TCP nor UDP.  Return: 0: no connection's; 1: the tuple
 * is that of the packet; 2: of what would answer the one in an ICMP error.
 */
__noinline int ovs_ct_read_other(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	__u8 proto, type;

	if (!st)
		return 0;
	proto = st->l4_proto;
	if (proto == IPPROTO_SCTP)
		return ovs_ct_read_sctp(ctx, st);
	if (st->family == OVS_CT_INET6 && proto == IPPROTO_NONE)
		return 0;
	if (!ovs_ct_read_ports(ctx, &st->tuple, st->l4_off))
		return 0;
	if (proto != IPPROTO_ICMP && proto != IPPROTO_ICMPV6)
		return 1;
	if (ovs_ct_l4_len(st) < 8)
		return 0;
	/* One family's messages mean nothing in the other one. */
	if ((proto == IPPROTO_ICMP) != (st->family == OVS_CT_INET))
		return 0;
	type = st->tuple.dport & 0xff;
	if (ovs_ct_icmp_is_none(proto, type))
		return 0;
	if (!ovs_ct_icmp_is_error(proto, type))
		return 1;
	return ovs_ct_icmp_inner(ctx, st) ? 2 : 0;
}

/* Lock a record when another CPU is about to unlock it; 0: it was in vain. */
__noinline int ovs_ct_lock_wait(struct ovs_ct *ct, __u64 word)
{
	__u32 i;

	if (!ct)
		return 0;
#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_CT_TRIES; i++)
		if (__sync_val_compare_and_swap(&ct->word, word, word + 1) ==
		    word)
			return 1;
	return 0;
}

/* A live `word` becomes locked. */
static __always_inline int ovs_ct_lock(struct ovs_ct *ct, __u64 word)
{
	return likely(__sync_val_compare_and_swap(&ct->word, word, word + 1) ==
		      word) || ovs_ct_lock_wait(ct, word);
}

static __always_inline void ovs_ct_unlock(struct ovs_ct *ct, __u64 word)
{
	asm volatile("" : : : "memory");
	*(volatile __u64 *)&ct->word = word;
}

/* The timeout of a packet of a protocol whose records are not locked. */
static __always_inline __u32 ovs_ct_plain(struct ovs_ct *ct,
					  const struct ovs_ct_pkt *st)
{
	__u32 id = ct->policy, proto = ct->orig.proto, first, status;
	struct ovs_ct_policy *policy;

	policy = bpf_map_lookup_elem(&ovs_ct_policy, &id);
	if (!policy)
		return 0;
	status = OVS_READ_ONCE(ct->status);
	if (proto == IPPROTO_UDP)
		first = OVS_CT_T_UDP;
	else if (proto == IPPROTO_UDPLITE)
		first = OVS_CT_T_UDPLITE;
	else if (proto == IPPROTO_GRE)
		first = OVS_CT_T_GRE;
	else
		return policy->timeout[proto == IPPROTO_ICMP ? OVS_CT_T_ICMP :
				       proto == IPPROTO_ICMPV6 ?
				       OVS_CT_T_ICMPV6 : OVS_CT_T_GENERIC];
	if (!(status & OVS_CT_S_SEEN_REPLY) ||
	    (proto != IPPROTO_GRE && st->now <= ct->start + OVS_CT_STREAM_NS))
		return policy->timeout[first];
	if (!(status & OVS_CT_S_ASSURED))
		__sync_fetch_and_or(&ct->status, OVS_CT_S_ASSURED);
	return policy->timeout[first + 1];
}

/* When a connection ends that lasts for another `timeout` seconds. */
static __always_inline __u32 ovs_ct_end(__u64 now, __u32 timeout)
{
	return now / OVS_CT_NS + timeout + 1;
}

/* A packet was accepted: count it, and put the end off. */
static __always_inline void ovs_ct_seen(struct ovs_ct *ct,
					struct ovs_ct_pkt *st, __u32 *exp,
					int locked)
{
	__u32 dir = st->dir & 1, end = ovs_ct_end(st->now, st->timeout);

	if (locked) {
		ct->packets[dir]++;
		ct->bytes[dir] += st->len;
	} else {
		__sync_fetch_and_add(&ct->packets[dir], 1);
		__sync_fetch_and_add(&ct->bytes[dir], st->len);
	}
	if (ct->status & OVS_CT_S_FIXED_TIMEOUT)
		return;
	if (*exp != end)
		*(volatile __u32 *)exp = end;
}

/* What a packet in direction st->dir of a connection is called. */
static __always_inline int ovs_ct_state_of(const struct ovs_ct_pkt *st,
					   __u32 status)
{
	int state = OVS_CT_TRACKED;

	if (st->dir)
		state |= OVS_CT_ESTABLISHED | OVS_CT_REPLY;
	else if (status & OVS_CT_S_SEEN_REPLY)
		state |= OVS_CT_ESTABLISHED;
	else
		state |= status & OVS_CT_S_EXPECTED ? OVS_CT_RELATED :
						      OVS_CT_NEW;
	if (status & OVS_CT_S_EXPECTED)
		state |= OVS_CT_RELATED;
	return state;
}

/* A packet of connection st->id.  Return: enum ovs_ct_result. */
static __always_inline int ovs_ct_update(struct ovs_ctx *ctx,
					 struct ovs_ct_pkt *st,
					 const struct ovs_ct_conf *conf,
					 const struct ovs_ct_at *at)
{
	__u64 word = (__u64)st->gen << OVS_CT_GEN_SHIFT | OVS_CT_LIVE;
	__u32 proto = st->tuple.proto, status;
	struct ovs_ct *ct = at->ct;
	int result, state;

	st->helper = ct->helper;
	status = OVS_READ_ONCE(ct->status);
	state = ovs_ct_state_of(st, status);
	if (proto == IPPROTO_TCP || proto == IPPROTO_SCTP) {
		if (!ovs_ct_lock(ct, word)) {
			if (OVS_READ_ONCE(ct->word) - word > 1)
				return OVS_CT_R_REOPEN;	/* it has gone */
			ovs_ct_count(OVS_CT_STAT_BUSY);
			st->busy = 1;
			goto accept;
		}
		if (proto == IPPROTO_TCP)
			result = ovs_ct_tcp_segment(ct, st, conf);
		else
			result = ovs_ct_sctp(ctx, ct, st);
		if (likely(result == OVS_CT_R_ACCEPT)) {
			if (st->timeout)
				ovs_ct_seen(ct, st, at->exp, 1);
			if (st->dir)
				ct->status |= OVS_CT_S_SEEN_REPLY;
			if (conf->flags & OVS_CT_F_OVS &&
			    proto == IPPROTO_TCP &&
			    ovs_ct_tcp_is_established(ct)) {
				ct->tcp.seen[0].flags |= OVS_CT_TCP_F_LIBERAL;
				ct->tcp.seen[1].flags |= OVS_CT_TCP_F_LIBERAL;
			}
			ovs_ct_unlock(ct, word);
			goto accept;
		}
		if (result == OVS_CT_R_INVALID) {
			ovs_ct_unlock(ct, word);
			return result;
		}
		ovs_ct_kill(st->id, st->gen, 1, st->now / OVS_CT_NS);
		if (result == OVS_CT_R_REOPEN) {
			ovs_ct_count(OVS_CT_STAT_REOPEN);
			return result;
		}
		ovs_ct_count(OVS_CT_STAT_KILLED);
		ct->packets[st->dir & 1]++;
		ct->bytes[st->dir & 1] += st->len;
		goto accept;
	}
	st->timeout = ovs_ct_plain(ct, st);
	ovs_ct_seen(ct, st, at->exp, 0);
	if (st->dir && !(status & OVS_CT_S_SEEN_REPLY))
		__sync_fetch_and_or(&ct->status, OVS_CT_S_SEEN_REPLY);
accept:
	st->verdict = OVS_CT_V_FOUND;
	st->ct_state = state;
	return OVS_CT_R_ACCEPT;
}

/* An ICMP error about connection st->id, which does not change. */
static __always_inline void ovs_ct_relate(struct ovs_ct_pkt *st)
{
	st->verdict = OVS_CT_V_RELATED;
	st->helper = 0;
	st->ct_state = OVS_CT_TRACKED | OVS_CT_RELATED;
	if (st->dir)
		st->ct_state |= OVS_CT_REPLY;
}

/* Whether word i of a record is in one of its tuples. */
#define OVS_CT_IN(i, tuple)						\
	((i) - __builtin_offsetof(struct ovs_ct, tuple) / 8 <		\
	 sizeof(struct ovs_ct_tuple) / 8)

/*
 * A packet of no connection: what it begins, in st->fresh, unless it begins
 * none.
 */
__noinline int ovs_ct_begin(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	__u32 i, proto, zero = 0;
	struct ovs_ct_use *use;
	struct ovs_ct *ct;
	__u64 *words;

	if (!st || !conf)
		return 0;
	ct = &st->fresh;
	words = (__u64 *)ct;
	/* All but the tuples. */
#pragma clang loop unroll(full)
	for (i = 0; i < sizeof(*ct) / 8; i++)
		if (!OVS_CT_IN(i, orig) && !OVS_CT_IN(i, reply))
			*(volatile __u64 *)&words[i] = 0;
	st->id = 0;
	st->gen = 0;
	st->dir = 0;
	st->helper = 0;
	st->expect = 0;
	if (!ovs_ct_invert(&ct->reply, &st->tuple))
		return 0;
	ct->orig = st->tuple;
	ct->policy = st->policy & (OVS_CT_POLICIES - 1);
	ct->start = st->now;
	proto = st->tuple.proto;
	if (proto == IPPROTO_TCP) {
		if (!ovs_ct_tcp_begin(ct, st, conf) ||
		    ovs_ct_tcp(ct, st) != OVS_CT_R_ACCEPT)
			return 0;
	} else if (proto == IPPROTO_SCTP) {
		if (!ovs_ct_sctp_begin(ctx, ct, st) ||
		    ovs_ct_sctp(ctx, ct, st) != OVS_CT_R_ACCEPT)
			return 0;
	} else {
		if ((proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) &&
		    !ovs_ct_icmp_begins(proto, st->tuple.dport & 0xff))
			return 0;
		st->timeout = ovs_ct_plain(ct, st);
	}
	ct->packets[0] = 1;
	ct->bytes[0] = st->len;
	st->verdict = OVS_CT_V_NEW;
	st->ct_state = OVS_CT_TRACKED | OVS_CT_NEW;
	use = bpf_map_lookup_elem(&ovs_ct_use, &zero);
	if (use && unlikely(OVS_READ_ONCE(use->expects)))
		ovs_ct_expect_find(st);
	return 1;
}

/*
 * Find the connection of a packet, or what it begins: st->verdict and what
 * goes with it.  Returns the verdict.
 */
__noinline int ovs_ct_find(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	struct ovs_ct_at at;
	int what;

	if (!st || !conf)
		return OVS_CT_V_INVALID;
	st->verdict = OVS_CT_V_INVALID;
	st->ct_state = OVS_CT_TRACKED | OVS_CT_INVALID;
	st->id = 0;
	st->dir = 0;
	st->busy = 0;
	st->timeout = 0;
	st->inner_l3 = 0;
	st->inner_l4 = 0;
	if (!st->l4_off || !st->l4_proto || !ovs_ct_read_l3(ctx, st))
		goto invalid;
	st->tuple.sport = 0;
	st->tuple.dport = 0;
	st->tuple.zone = st->zone;
	st->tuple.proto = st->l4_proto;
	st->tuple.family = st->family;
	if (likely(st->l4_proto == IPPROTO_TCP))
		what = ovs_ct_read_tcp(ctx, st);
	else if (st->l4_proto == IPPROTO_UDP ||
		 st->l4_proto == IPPROTO_UDPLITE)
		what = ovs_ct_read_udp(ctx, st);
	else
		what = ovs_ct_read_other(ctx, st);
	if (!what)
		goto invalid;
	st->hash = ovs_ct_hash_of(conf, &st->tuple);
	if (ovs_ct_lookup(st, &at)) {
		int result;

		if (unlikely(what == 2)) {
			ovs_ct_relate(st);
			return OVS_CT_V_RELATED;
		}
		result = ovs_ct_update(ctx, st, conf, &at);
		if (likely(result == OVS_CT_R_ACCEPT))
			return OVS_CT_V_FOUND;
		if (result == OVS_CT_R_INVALID)
			goto invalid;
	} else if (what == 2) {
		goto invalid;
	}
	if (ovs_ct_begin(ctx, st))
		return OVS_CT_V_NEW;
invalid:
	st->id = 0;
	st->timeout = 0;
	ovs_ct_count(OVS_CT_STAT_INVALID);
	return OVS_CT_V_INVALID;
}

/*
 * Find the connection of a packet that has been at ovs_ct_find() before, when
 * that is not known any more: nothing is noted of it.  `natted`: it has been
 * translated since, and has the tuple that would be answered by one of its
 * connection's.  Returns 1, or 0 when there is none.
 */
__noinline int ovs_ct_find_again(struct ovs_ctx *ctx, struct ovs_ct_pkt *st,
				 __u32 natted)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	struct ovs_ct_tuple inverse;
	struct ovs_ct_at at;

	if (!st || !conf)
		return 0;
	st->id = 0;
	st->busy = 0;
	st->timeout = 0;
	st->inner_l3 = 0;
	st->inner_l4 = 0;
	if (!st->l4_off || !st->l4_proto || !ovs_ct_read_l3(ctx, st))
		return 0;
	st->tuple.zone = st->zone;
	st->tuple.proto = st->l4_proto;
	st->tuple.family = st->family;
	if (!ovs_ct_read_ports(ctx, &st->tuple, st->l4_off))
		return 0;
	if (natted) {
		if (!ovs_ct_invert(&inverse, &st->tuple))
			return 0;
		st->tuple = inverse;
	}
	st->hash = ovs_ct_hash_of(conf, &st->tuple);
	if (!ovs_ct_lookup(st, &at))
		return 0;
	if (natted)
		st->dir ^= 1;
	st->verdict = OVS_CT_V_FOUND;
	st->helper = at.ct->helper;
	st->ct_state = ovs_ct_state_of(st, OVS_READ_ONCE(at.ct->status));
	return 1;
}

/* The record of what was found or committed; NULL when it has gone. */
static __always_inline struct ovs_ct *ovs_ct_record(const struct ovs_ct_pkt *st)
{
	struct ovs_ct *ct = st->id ? ovs_ct_get(st->id) : NULL;

	if (!ct || OVS_READ_ONCE(ct->word) >> OVS_CT_GEN_SHIFT != st->gen)
		return NULL;
	return ct;
}

/* End the connection that was found: a forced commit makes another one. */
static __always_inline int ovs_ct_drop(struct ovs_ct_pkt *st)
{
	int done = st->id && ovs_ct_kill(st->id, st->gen, 0,
					 st->now / OVS_CT_NS);

	if (done)
		ovs_ct_count(OVS_CT_STAT_KILLED);
	return done;
}

/* One connection more in all and in the zone; 0: that is one too many. */
static __always_inline int ovs_ct_admit(struct ovs_ct *ct,
					const struct ovs_ct_conf *conf)
{
	struct ovs_ct_zone *zone = ovs_ct_zone_of(ct->orig.zone);
	struct ovs_ct_use *use;
	__u32 limit, zero = 0;
	__u64 word;

	use = bpf_map_lookup_elem(&ovs_ct_use, &zero);
	if (!use || !zone)
		return 0;
	word = __sync_fetch_and_add(&zone->word, 1);
	ct->zone_gen = word >> 32;
	limit = OVS_READ_ONCE(zone->limit);
	if (limit && (__u32)word >= limit) {
		__sync_fetch_and_add(&use->count, 1);	/* for uncount */
		ovs_ct_count(OVS_CT_STAT_LIMIT);
		return 0;
	}
	if (__sync_fetch_and_add(&use->count, 1) >= conf->max && conf->max) {
		ovs_ct_count(OVS_CT_STAT_MAX_CONNS);
		return 0;
	}
	return 1;
}

/*
 * Somebody else was first: his record, if both of its tuples are ours.
 * Return: enum ovs_ct_made.
 */
__noinline int ovs_ct_yield(struct ovs_ct_pkt *st)
{
	struct ovs_ct *ct;
	__u32 i;

	if (!st)
		return OVS_CT_C_CLASH;
	/* It may not be live yet. */
#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_CT_TRIES; i++) {
		if (!ovs_ct_lookup_more(st))
			continue;
		ct = ovs_ct_get(st->id);
		if (!ct || st->dir || !ovs_ct_same(&ct->reply,
						   &st->fresh.reply))
			break;
		st->verdict = OVS_CT_V_FOUND;
		st->helper = ct->helper;
		ovs_ct_count(OVS_CT_STAT_CLASH);
		return OVS_CT_C_DONE;
	}
	st->id = 0;
	ovs_ct_count(OVS_CT_STAT_CLASH_LOST);
	return OVS_CT_C_CLASH;
}

/* Put record `id` into the table.  Return: enum ovs_ct_made. */
__noinline int ovs_ct_publish(struct ovs_ct_pkt *st, __u32 id)
{
	struct ovs_ct *ct = ovs_ct_get(id);
	__u32 *exp = ovs_ct_expiry(id);
	__u64 word, hash, reply;
	int made = OVS_CT_C_REFUSED;

	if (!st || !ct || !exp)
		return OVS_CT_C_REFUSED;
	word = ct->word;
	hash = st->hash;
	reply = hash;
	/* Without NAT both tuples have one hash. */
	if (unlikely((ct->orig.w[0] ^ ct->reply.w[2]) |
		     (ct->orig.w[1] ^ ct->reply.w[3]) |
		     (ct->orig.w[2] ^ ct->reply.w[0]) |
		     (ct->orig.w[3] ^ ct->reply.w[1]) |
		     (ct->orig.sport ^ ct->reply.dport) |
		     (ct->orig.dport ^ ct->reply.sport)))
		reply = ovs_ct_hash(&ct->reply);
	if (!ovs_ct_edge_add(hash, id)) {
		ovs_ct_count(OVS_CT_STAT_BUCKETS);
		goto free;
	}
	if (reply != hash && !ovs_ct_edge_add(reply, id)) {
		ovs_ct_count(OVS_CT_STAT_BUCKETS);
		goto unlink;
	}
	made = OVS_CT_C_CLASH;
	if (!ovs_ct_clash(hash, id, st->now) &&
	    (reply == hash || !ovs_ct_clash(reply, id, st->now))) {
		*(volatile __u32 *)exp = ovs_ct_end(st->now, st->timeout);
		if (__sync_val_compare_and_swap(
			    &ct->word, word,
			    word - OVS_CT_TENTATIVE + OVS_CT_LIVE) == word) {
			st->id = id;
			st->gen = word >> OVS_CT_GEN_SHIFT;
			st->verdict = OVS_CT_V_FOUND;
			return OVS_CT_C_DONE;
		}
	}
	if (reply != hash)
		ovs_ct_edge_del(reply, id);
unlink:
	ovs_ct_edge_del(hash, id);
free:
	ovs_ct_free(ct, id);
	return made;
}

/*
 * Make what ovs_ct_find() found to be new a connection.  Of others nothing is
 * to be done.  Return: enum ovs_ct_made.
 */
__noinline int ovs_ct_commit(struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	struct ovs_ct *ct;
	__u64 gen, *to, *from;
	__u32 id, i;
	int made;

	if (!st || !conf)
		return OVS_CT_C_REFUSED;
	if (st->verdict != OVS_CT_V_NEW)
		return OVS_CT_C_DONE;
	if (unlikely(st->expect))
		ovs_ct_expect_take(st);
	if (!ovs_ct_admit(&st->fresh, conf))
		goto refused;
	id = ovs_ct_alloc();
	ct = id ? ovs_ct_get(id) : NULL;
	if (!ct) {
		ovs_ct_count(OVS_CT_STAT_FULL);
		goto refused;
	}
	st->fresh.status |= OVS_CT_S_CONFIRMED;
	gen = (ct->word >> OVS_CT_GEN_SHIFT) + 1;
	*(volatile __u64 *)&ct->word = gen << OVS_CT_GEN_SHIFT |
				       OVS_CT_TENTATIVE;
	to = (__u64 *)ct;
	from = (__u64 *)&st->fresh;
#pragma clang loop unroll(full)
	for (i = 1; i < sizeof(*ct) / 8; i++)
		*(volatile __u64 *)&to[i] = from[i];
	made = ovs_ct_publish(st, id);
	if (likely(made == OVS_CT_C_DONE)) {
		ovs_ct_count(OVS_CT_STAT_COMMIT);
		return made;
	}
	ovs_ct_uncount(&st->fresh);
	return made == OVS_CT_C_CLASH ? ovs_ct_yield(st) : made;

refused:
	ovs_ct_uncount(&st->fresh);
	return OVS_CT_C_REFUSED;
}

#endif /* OVS_CT_H */
