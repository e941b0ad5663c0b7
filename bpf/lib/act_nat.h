/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * NAT: which addresses and ports a new connection gets, and how packets get
 * them.  As net/netfilter/nf_nat_core.c, nf_nat_proto.c and nf_nat_ovs.c, but
 * for these:
 *
 * - A source does not get the mapping that it has with other destinations:
 *   there is no table by source.  Where there are several addresses, the
 *   kernel's hash of source and destination chooses, as for its first
 *   connection (PERSISTENT: of the source alone).
 * - Checksums are updated, not computed.  One that was wrong stays as wrong;
 *   of an SCTP packet inside an ICMP error it stays as it is.
 */
#ifndef OVS_ACT_NAT_H
#define OVS_ACT_NAT_H

#include "act_flow.h"
#include "act_sctp.h"
#include "act_set.h"
#include "ct.h"

#define OVS_NAT_SRC	1	/* what of a packet is translated, bits */
#define OVS_NAT_DST	2
#define OVS_NAT_TRIES	128	/* ports, from one place on */
#define OVS_NAT_MIN	16	/* fewer are not worth another place */
#define OVS_NAT_HARDER	32	/* the last ones, which connections give up */
#define OVS_NAT_ALL	(2 * OVS_NAT_TRIES)
#define OVS_NAT_L4_MIN	8	/* of a transport header, to translate it */

static __always_inline struct ovs_ct_work *ovs_ct_work_of(struct ovs_cpu *cpu)
{
	__u32 level = cpu->level - 1;

	return bpf_map_lookup_elem(&ovs_ct_work, &level);
}

/* The kernel's jhash2() of four words. */
static __always_inline __u32 ovs_jhash4(const __u32 *k, __u32 basis)
{
	__u32 a, b, c;

	a = b = c = basis + OVS_JHASH_INITVAL + 16;
	a += k[0];
	b += k[1];
	c += k[2];
	a -= c;
	a ^= ovs_rol(c, 4);
	c += b;
	b -= a;
	b ^= ovs_rol(a, 6);
	a += c;
	c -= b;
	c ^= ovs_rol(b, 8);
	b += a;
	a -= c;
	a ^= ovs_rol(c, 16);
	c += b;
	b -= a;
	b ^= ovs_rol(a, 19);
	a += c;
	c -= b;
	c ^= ovs_rol(b, 4);
	b += a;
	a += k[3];
	return ovs_jhash_final(a, b, c);
}

/*
 * The connection of now that is answered by what answers n->tuple; 0: none is,
 * -1: it cannot be told.
 */
static __always_inline int ovs_nat_used(struct ovs_ct_pkt *st,
					struct ovs_ct_nat *n)
{
	if (!ovs_ct_invert(&n->reply, &n->tuple))
		return -1;
	return ovs_ct_is_used(st, &n->reply);
}

/* Whether one address is less than another one. */
static __always_inline int ovs_nat_less(const __u64 *a, const __u64 *b)
{
	__u64 a0 = bpf_be64_to_cpu(a[0]), b0 = bpf_be64_to_cpu(b[0]);
	__u64 a1 = bpf_be64_to_cpu(a[1]), b1 = bpf_be64_to_cpu(b[1]);

	return a0 < b0 || (a0 == b0 && a1 < b1);
}

/* The port, or the ICMP identifier, that may be changed, in host order. */
static __always_inline __u32 ovs_nat_port(const struct ovs_ct_nat *n)
{
	__u8 proto = n->tuple.proto;

	if (n->dst && proto != IPPROTO_ICMP && proto != IPPROTO_ICMPV6)
		return bpf_ntohs(n->tuple.dport);
	return bpf_ntohs(n->tuple.sport);
}

static __always_inline void ovs_nat_set_port(struct ovs_ct_nat *n, __u32 port)
{
	__u8 proto = n->tuple.proto;

	if (n->dst && proto != IPPROTO_ICMP && proto != IPPROTO_ICMPV6)
		n->tuple.dport = bpf_htons(port);
	else
		n->tuple.sport = bpf_htons(port);
}

static __always_inline int ovs_nat_has_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP ||
	       proto == IPPROTO_UDPLITE || proto == IPPROTO_SCTP;
}

/* Whether messages have an identifier that is translated. */
static __always_inline int ovs_nat_has_id(__u8 proto, __u8 type)
{
	return ovs_ct_icmp_answer(proto, type) >= 0 &&
	       type != OVS_CT_NI_QUERY && type != OVS_CT_NI_REPLY;
}

/*
 * Whether a GRE header can be translated: eight bytes have to be there, and of
 * those whose destination is, only versions 0 and 1 are known.
 */
static __always_inline int ovs_nat_gre(struct ovs_ctx *ctx, __u32 off,
				       __u32 dst)
{
	void *tp = ctx_at(ctx, off, OVS_NAT_L4_MIN);

	return tp && (!dst || bpf_ntohs(OVS_AT16(tp, 0) &
					OVS_CT_GRE_VERSION) < 2);
}

/* Whether the port is one of those that are asked for. */
static __always_inline int ovs_nat_in_ports(const struct ovs_ct_nat *n)
{
	__u32 port = ovs_nat_port(n);
	__u8 proto = n->tuple.proto;

	if (!ovs_nat_has_ports(proto) && proto != IPPROTO_GRE &&
	    proto != IPPROTO_ICMP && proto != IPPROTO_ICMPV6)
		return 1;
	return port >= n->min_port && port <= n->max_port;
}

/* The address: find_best_ips_proto(). */
static __always_inline void ovs_nat_address(struct ovs_ct_nat *n)
{
	__u32 *to = n->dst ? (__u32 *)n->tuple.dst : (__u32 *)n->tuple.src;
	__u32 *dst = (__u32 *)n->tuple.dst, *min = (__u32 *)n->min;
	__u32 *max = (__u32 *)n->max, j, i, basis = 0, from, span, was, word;
	int whole = 0, last = n->tuple.family == OVS_CT_INET ? 0 : 3;

	if (n->min[0] == n->max[0] && n->min[1] == n->max[1]) {
		__u64 *words = n->dst ? &n->tuple.w[2] : &n->tuple.w[0];

		words[0] = n->min[0];
		words[1] = n->min[1];
		return;
	}
	if (!(n->flags & OVS_CTA_NAT_PERSISTENT))
		basis = dst[last & 3] ^ n->tuple.zone;
	j = ovs_jhash4((__u32 *)n->tuple.src, basis);
#pragma unroll
	for (i = 0; i < 4; i++) {
		from = whole ? 0 : bpf_ntohl(min[i]);
		span = whole ? ~0U : bpf_ntohl(max[i]) - from + 1;
		word = bpf_htonl(from + ((__u64)j * span >> 32));
		to[i] = i > last ? 0 : word;
		if (word != max[i])
			whole = 1;
		/* The one that was just written, where it is the destination,
		 * as the kernel has it. */
		was = dst[i];
		if (!(n->flags & OVS_CTA_NAT_PERSISTENT))
			j ^= was;
	}
}

/*
 * End connection `id`, which has n->reply, if it is one of TCP that is over and
 * the new one begins behind its sequence numbers: nf_nat_used_tuple_harder().
 * 1: the tuple is free.
 */
__noinline int ovs_nat_evict(struct ovs_ct_pkt *st, struct ovs_ct_nat *n,
			     __u32 id)
{
	struct ovs_ct *ct = ovs_ct_get(id);
	__u64 word;

	if (!st || !n || !ct || n->tuple.proto != IPPROTO_TCP ||
	    st->fresh.state != OVS_CT_TCP_SYN_SENT)
		return 0;
	word = OVS_READ_ONCE(ct->word);
	if (!ovs_ct_is_live(word) || !ovs_ct_same(&ct->reply, &n->reply) ||
	    ct->state < OVS_CT_TCP_TIME_WAIT ||
	    (ct->status & (OVS_CT_S_FIXED_TIMEOUT | OVS_CT_S_SRC_NAT)) !=
	    OVS_CT_S_SRC_NAT ||
	    (__s32)(st->fresh.tcp.seen[0].end - ct->tcp.seen[0].end) <= 0 ||
	    !ovs_ct_kill(id, word >> OVS_CT_GEN_SHIFT, 0,
			 st->now / OVS_CT_NS))
		return 0;
	ovs_ct_count(OVS_CT_STAT_KILLED);
	return 1;
}

struct ovs_nat_loop {
	struct ovs_ct_pkt *st;
	struct ovs_ct_nat *n;
};

/* Try one port; 1 to end. */
static long ovs_nat_try(__u32 i, struct ovs_nat_loop *loop)
{
	struct ovs_ct_nat *n = loop->n;
	__u32 tries = n->left >> 16, left = n->left & 0xffff;
	int used;

	if (!left) {
		/* From another place, half as many. */
		if (tries >= n->range || tries < OVS_NAT_MIN)
			return 1;
		tries /= 2;
		left = tries;
		n->off = bpf_get_prandom_u32();
	}
	ovs_nat_set_port(n, n->first + n->off % (n->range ?: 1));
	n->off++;
	n->left = tries << 16 | (left - 1);
	used = ovs_nat_used(loop->st, n);
	n->found = !used || (used > 0 && left <= OVS_NAT_HARDER &&
			     ovs_nat_evict(loop->st, n, used));
	return n->found;
}

/*
 * A port that makes n->tuple one of its own: nf_nat_l4proto_unique_tuple().
 * Where there is none, the tuple is one that somebody has, and cannot be
 * committed.
 */
__noinline int ovs_nat_ports(struct ovs_ct_pkt *st, struct ovs_ct_nat *n)
{
	struct ovs_nat_loop loop = { .st = st, .n = n };
	__u32 port, tries, min, max;
	__u8 proto;

	if (!st || !n)
		return 0;
	proto = n->tuple.proto;
	port = ovs_nat_port(n);
	if (n->flags & OVS_CTA_NAT_PORTS) {
		min = n->min_port;
		max = n->max_port;
		if (max < min) {
			max = min;
			min = n->max_port;
		}
	} else {
		min = 0;
		max = 65535;
	}
	if (proto != IPPROTO_ICMP && proto != IPPROTO_ICMPV6) {
		if (!ovs_nat_has_ports(proto))
			return 0;
		if (!(n->flags & OVS_CTA_NAT_PORTS)) {
			if (n->dst)
				return 0;
			min = port < 512 ? 1 : port < 1024 ? 600 : 1024;
			max = port < 512 ? 511 : port < 1024 ? 1023 : 65535;
		}
	}
	n->first = min;
	n->range = max - min + 1;
	n->off = 0;
	if (!n->dst || n->flags & OVS_CTA_NAT_RANDOM)
		n->off = bpf_get_prandom_u32();
	tries = n->range < OVS_NAT_TRIES ? n->range : OVS_NAT_TRIES;
	n->left = tries << 16 | tries;
	n->found = 0;
	bpf_loop(OVS_NAT_ALL, ovs_nat_try, &loop, 0);
	return n->found;
}

/*
 * Choose what n->tuple is to be: get_unique_tuple().  It begins as what the
 * connection's packets are now.  1: a port has to be looked for.
 */
static __always_inline int ovs_nat_choose(struct ovs_ct_pkt *st,
					   struct ovs_ct_nat *n)
{
	__u64 *src = &n->tuple.w[0];

	if (!n->dst && !(n->flags & OVS_CTA_NAT_RANDOM) &&
	    (!(n->flags & OVS_CTA_NAT_IPS) ||
	     (!ovs_nat_less(src, n->min) && !ovs_nat_less(n->max, src))) &&
	    (!(n->flags & OVS_CTA_NAT_PORTS) || ovs_nat_in_ports(n)) &&
	    !ovs_nat_used(st, n))
		return 0;
	if (n->flags & OVS_CTA_NAT_IPS)
		ovs_nat_address(n);
	if (!(n->flags & OVS_CTA_NAT_RANDOM)) {
		if (n->flags & OVS_CTA_NAT_PORTS) {
			if (ovs_nat_in_ports(n) &&
			    (n->min_port == n->max_port ||
			     !ovs_nat_used(st, n)))
				return 0;
		} else if (!ovs_nat_used(st, n)) {
			return 0;
		}
	}
	return 1;
}

/*
 * Choose what a new connection, w->pkt.fresh, is to have as its source or,
 * `dst`, its destination.  `null`: it is to stay as it is, but for a port that
 * another one has.  1: a port has to be looked for.
 */
__noinline int ovs_nat_begin(struct ovs_ct_work *w, __u32 dst, __u32 null)
{
	__u32 at;
	struct ovs_ct_nat *n;
	struct ovs_ct *ct;
	__u64 ports;

	if (!w)
		return 0;
	n = &w->nat;
	ct = &w->pkt.fresh;
	if (!ovs_ct_invert(&n->tuple, &ct->reply))
		return 0;
	n->dst = dst;
	if (!null) {
		at = w->at;
		n->flags = w->flags;
		n->min[0] = ovs_operand(at + 5);
		n->min[1] = ovs_operand(at + 6);
		n->max[0] = ovs_operand(at + 7);
		n->max[1] = ovs_operand(at + 8);
		ports = ovs_operand(at + 9);
		n->min_port = ports;
		n->max_port = ports >> 16;
	} else {
		__u64 *own = dst ? &n->tuple.w[2] : &n->tuple.w[0];

		n->flags = OVS_CTA_NAT_IPS;
		n->min[0] = own[0];
		n->min[1] = own[1];
		n->max[0] = own[0];
		n->max[1] = own[1];
		n->min_port = 0;
		n->max_port = 0;
	}
	return ovs_nat_choose(&w->pkt, n);
}

/* It has what was chosen. */
__noinline int ovs_nat_end(struct ovs_ct_work *w)
{
	struct ovs_ct_nat *n;
	struct ovs_ct *ct;
	__u8 dst;

	if (!w)
		return 0;
	n = &w->nat;
	ct = &w->pkt.fresh;
	dst = n->dst;
	if (!ovs_ct_invert(&n->reply, &n->tuple))
		return 0;
	if (!ovs_ct_same(&n->reply, &ct->reply)) {
		ct->reply = n->reply;
		ct->status |= dst ? OVS_CT_S_DST_NAT : OVS_CT_S_SRC_NAT;
	}
	ct->status |= dst ? OVS_CT_S_DST_NAT_DONE : OVS_CT_S_SRC_NAT_DONE;
	return 1;
}

/* Give a new connection its NAT: nf_nat_setup_info(). */
static __always_inline void ovs_nat_setup(struct ovs_ct_work *w, __u32 dst,
					  __u32 null)
{
	if (ovs_nat_begin(w, dst, null))
		ovs_nat_ports(&w->pkt, &w->nat);
	ovs_nat_end(w);
}

/*
 * The tuple that answers the packets that are to be: the connection's other
 * direction.  A packet is to have what answers it.
 */
static __always_inline const struct ovs_ct_tuple *
ovs_nat_other(const struct ovs_ct_pkt *st)
{
	const struct ovs_ct *ct;

	if (st->verdict == OVS_CT_V_NEW)
		return &st->fresh.reply;
	ct = ovs_ct_get(st->id);
	if (!ct)
		return NULL;
	return st->dir ? &ct->orig : &ct->reply;
}

/* New addresses; the sum of the pseudo header follows.  OVS_DROP_*. */
static __always_inline int ovs_nat_l3(struct ovs_ctx *ctx,
				      struct ovs_pkt *pkt,
				      const struct ovs_ct_tuple *to,
				      __u32 bits)
{
	__u64 old, addr[4], diff = 0;
	__u32 off = pkt->l3_off, i;
	__u8 proto = pkt->l4_proto;
	void *ip;
	int err;

	if (to->family == OVS_CT_INET) {
		ip = ctx_at(ctx, off, sizeof(struct iphdr));
		if (!ip)
			return OVS_DROP_SET;
		old = OVS_AT64(ip, 12);
		addr[0] = old;
		if (bits & OVS_NAT_SRC)
			addr[0] = (addr[0] & ~0xffffffffULL) | to->dst4;
		if (bits & OVS_NAT_DST)
			addr[0] = (addr[0] & 0xffffffffULL) |
				  (__u64)to->src4 << 32;
		diff = ovs_sum_diff8(old, addr[0]);
		OVS_AT64(ip, 12) = addr[0];
		OVS_AT16(ip, 10) = ovs_csum_update(OVS_AT16(ip, 10),
						   ovs_sum_fold(diff));
		pkt->key.w[OVS_KEY_W(ipv4_src)] = addr[0];
		if (proto == IPPROTO_ICMPV6)
			return 0;
	} else {
		ip = ctx_at(ctx, off, sizeof(struct ipv6hdr));
		if (!ip)
			return OVS_DROP_SET;
#pragma unroll
		for (i = 0; i < 4; i++) {
			old = OVS_AT64(ip, 8 + 8 * i);
			addr[i] = old;
			if (i < 2 && bits & OVS_NAT_SRC)
				addr[i] = to->w[2 + i];
			if (i >= 2 && bits & OVS_NAT_DST)
				addr[i] = to->w[i - 2];
			diff += ovs_sum_diff8(old, addr[i]);
			OVS_AT64(ip, 8 + 8 * i) = addr[i];
			pkt->key.w[OVS_KEY_W(ipv6_src) + i] = addr[i];
		}
		ctx_csum_update(ctx, ovs_sum_fold(diff));
	}
	if (proto == IPPROTO_UDPLITE)
		return ctx_len(ctx) >= pkt->l4_off + OVS_UDP_HLEN &&
		       ctx_l4_csum(ctx, pkt->l4_off + 6, 0,
				   ovs_sum_fold(diff), BPF_F_PSEUDO_HDR |
				   BPF_F_MARK_MANGLED_0) ?
		       OVS_DROP_SET : 0;
	err = ovs_update_l4(ctx, pkt->l4_off, proto, ovs_sum_fold(diff));
	return err;
}

/* New ports, or another identifier of ICMP.  OVS_DROP_*. */
__noinline int ovs_nat_l4(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			  const struct ovs_ct_tuple *to, __u32 bits)
{
	__u32 off, old, new, check = 0;
	__u64 flags = sizeof(__u32);
	__u8 proto;
	void *tp;

	if (!pkt || !to)
		return OVS_DROP_NO_STATE;
	off = pkt->l4_off;
	proto = pkt->l4_proto;
	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
		__u16 id = to->sport, was;
		__u8 type;

		tp = ctx_at(ctx, off, 8);
		if (!tp)
			return OVS_DROP_SET;
		type = OVS_AT8(tp, 0);
		was = OVS_AT16(tp, 4);
		if (was == id || !ovs_nat_has_id(proto, type))
			return 0;
		OVS_AT16(tp, 4) = id;
		return ctx_l4_csum(ctx, off + 2, was, id, sizeof(id)) ?
		       OVS_DROP_SET : 0;
	}
	if (proto == IPPROTO_GRE &&
	    !ovs_nat_gre(ctx, off, bits & OVS_NAT_DST))
		return OVS_DROP_CONNTRACK;
	if (!ovs_nat_has_ports(proto))
		return 0;
	tp = ctx_at(ctx, off, sizeof(old));
	if (!tp)
		return OVS_DROP_SET;
	old = OVS_AT32(tp, 0);
	new = old;
	if (bits & OVS_NAT_SRC)
		new = (new & ~0xffffU) | to->dport;
	if (bits & OVS_NAT_DST)
		new = (new & 0xffffU) | (__u32)to->sport << 16;
	if (old == new)
		return 0;
	if (proto == IPPROTO_SCTP)
		return ovs_sctp_ports(ctx, pkt, new);
	check = proto == IPPROTO_TCP ? 16 : 6;
	if (proto == IPPROTO_UDP || proto == IPPROTO_UDPLITE)
		flags |= BPF_F_MARK_MANGLED_0;
	OVS_AT32(tp, 0) = new;
	if (ctx_l4_csum(ctx, off + check, old, new, flags))
		return OVS_DROP_SET;
	if (proto != IPPROTO_UDPLITE)
		ovs_key_ports(pkt, new);
	return 0;
}

/* Translate a packet: nf_nat_manip_pkt().  OVS_DROP_*. */
__noinline int ovs_nat_packet(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			      struct ovs_ct_pkt *st, __u32 bits)
{
	const struct ovs_ct_tuple *to;
	int err;

	if (!pkt || !st)
		return OVS_DROP_NO_STATE;
	to = ovs_nat_other(st);
	if (!to)
		return OVS_DROP_CONNTRACK;
	err = ovs_nat_l3(ctx, pkt, to, bits);
	if (err)
		return err;
	return ovs_nat_l4(ctx, pkt, to, bits);
}

/*
 * Translate the packet inside an ICMP error, the other way round; by what the
 * error's checksum changes, or a bit above 32 bits when that failed.
 */
__noinline __u64 ovs_nat_inner(struct ovs_ctx *ctx, struct ovs_ct_pkt *st,
			       __u32 bits)
{
	const struct ovs_ct_tuple *to = st ? ovs_nat_other(st) : NULL;
	__u64 old, new, addr = 0, sum = 0, ports = 0;
	__u32 off, old_ports, new_ports, i;
	__u16 check = 0, was;
	__u8 proto;
	void *ip, *tp;

	if (!st || !to)
		return 1ULL << 32;
	if (st->family == OVS_CT_INET) {
		ip = ctx_at(ctx, st->inner_l3, sizeof(struct iphdr));
		if (!ip)
			return 1ULL << 32;
		old = OVS_AT64(ip, 12);
		new = old;
		if (bits & OVS_NAT_DST)
			new = (new & ~0xffffffffULL) | to->src4;
		if (bits & OVS_NAT_SRC)
			new = (new & 0xffffffffULL) | (__u64)to->dst4 << 32;
		addr = ovs_sum_diff8(old, new);
		was = OVS_AT16(ip, 10);
		OVS_AT64(ip, 12) = new;
		OVS_AT16(ip, 10) = ovs_csum_update(was, ovs_sum_fold(addr));
		sum = addr + OVS_SUM_DIFF2(was, OVS_AT16(ip, 10));
	} else {
		ip = ctx_at(ctx, st->inner_l3, sizeof(struct ipv6hdr));
		if (!ip)
			return 1ULL << 32;
#pragma unroll
		for (i = 0; i < 4; i++) {
			old = OVS_AT64(ip, 8 + 8 * i);
			new = old;
			if (i < 2 && bits & OVS_NAT_DST)
				new = to->w[i];
			if (i >= 2 && bits & OVS_NAT_SRC)
				new = to->w[i];
			addr += ovs_sum_diff8(old, new);
			OVS_AT64(ip, 8 + 8 * i) = new;
		}
		addr = ovs_sum_fold(addr);
		sum = addr;
	}
	/* The tuple has the protocol that it has inside. */
	proto = to->proto;
	off = st->inner_l4;
	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
		tp = ctx_at(ctx, off, OVS_NAT_L4_MIN);
		if (!tp)
			return 1ULL << 32;
		if (ovs_nat_has_id(proto, OVS_AT8(tp, 0))) {
			was = OVS_AT16(tp, 4);
			OVS_AT16(tp, 4) = to->sport;
			ports = OVS_SUM_DIFF2(was, to->sport);
		}
		check = 2;
		if (proto == IPPROTO_ICMP)
			addr = 0;
	} else if (proto == IPPROTO_GRE) {
		if (!ovs_nat_gre(ctx, off, bits & OVS_NAT_SRC))
			return 1ULL << 32;
	} else if (ovs_nat_has_ports(proto)) {
		tp = ctx_at(ctx, off, OVS_NAT_L4_MIN);
		if (!tp)
			return 1ULL << 32;
		old_ports = OVS_AT32(tp, 0);
		new_ports = old_ports;
		if (bits & OVS_NAT_DST)
			new_ports = (new_ports & ~0xffffU) | to->sport;
		if (bits & OVS_NAT_SRC)
			new_ports = (new_ports & 0xffffU) |
				    (__u32)to->dport << 16;
		OVS_AT32(tp, 0) = new_ports;
		ports = OVS_SUM_DIFF(old_ports, new_ports);
		check = 6;
		if (proto == IPPROTO_TCP) {
			tp = ctx_at(ctx, off, OVS_TCP_HLEN);
			check = tp ? 16 : 0;
		} else if (proto == IPPROTO_SCTP ||
			   (proto == IPPROTO_UDP && !OVS_AT16(tp, 6))) {
			check = 0;
		}
	}
	sum = (__u64)ovs_sum_fold(sum) + ovs_sum_fold(ports);
	if (check && tp) {
		__u16 now;

		tp = ctx_at(ctx, off + check, 2);
		if (!tp)
			return 1ULL << 32;
		was = OVS_AT16(tp, 0);
		now = ovs_csum_update(was, ovs_sum_fold(
			(__u64)ovs_sum_fold(addr) + ovs_sum_fold(ports)));
		if ((proto == IPPROTO_UDP || proto == IPPROTO_UDPLITE) && !now)
			now = 0xffff;
		OVS_AT16(tp, 0) = now;
		sum += OVS_SUM_DIFF2(was, now);
	}
	return ovs_sum_fold(sum);
}

/*
 * Translate an ICMP error, and the packet that it is about:
 * nf_nat_icmp_reply_translation() and its like.  OVS_DROP_*.
 */
__noinline int ovs_nat_error(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			     struct ovs_ct_pkt *st, __u32 bits)
{
	const struct ovs_ct_tuple *to;
	__u64 sum;
	void *tp;

	if (!pkt || !st)
		return OVS_DROP_NO_STATE;
	sum = ovs_nat_inner(ctx, st, bits);
	to = ovs_nat_other(st);
	if (sum >> 32 || !to)
		return OVS_DROP_CONNTRACK;
	tp = ctx_at(ctx, pkt->l4_off, 8);
	if (!tp)
		return OVS_DROP_SET;
	if (ctx_csum_kind(ctx) != OVS_CSUM_PARTIAL)
		OVS_AT16(tp, 2) = ovs_csum_update(OVS_AT16(tp, 2), sum);
	return ovs_nat_l3(ctx, pkt, to, bits);
}

#endif /* OVS_ACT_NAT_H */
