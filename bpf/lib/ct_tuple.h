/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the connection tracker reads of a packet: its tuple, and what it says
 * to its protocol.  Where a header is cut short or makes no sense, the packet
 * is of no connection, as in net/netfilter/nf_conntrack_core.c and
 * nf_conntrack_proto*.c.  Checksums are not looked at.
 */
#ifndef OVS_CT_TUPLE_H
#define OVS_CT_TUPLE_H

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "ctx.h"
#include "ct_table.h"

#define OVS_CT_INET	2		/* AF_INET */
#define OVS_CT_INET6	10		/* AF_INET6 */

/* Types of ICMP; <linux/icmp.h> wants the C library. */
#define OVS_CT_ECHO_REPLY	0
#define OVS_CT_UNREACHABLE	3
#define OVS_CT_SOURCE_QUENCH	4
#define OVS_CT_REDIRECT		5
#define OVS_CT_ECHO		8
#define OVS_CT_TIME_EXCEEDED	11
#define OVS_CT_PARAMETER	12
#define OVS_CT_TIMESTAMP	13
#define OVS_CT_TIMESTAMP_REPLY	14
#define OVS_CT_INFO		15
#define OVS_CT_INFO_REPLY	16
#define OVS_CT_ADDRESS		17
#define OVS_CT_ADDRESS_REPLY	18

/* ... and of ICMPv6. */
#define OVS_CT_ECHO6		128
#define OVS_CT_ECHO6_REPLY	129
#define OVS_CT_NI_QUERY		139	/* ICMPv6, RFC 4620 */
#define OVS_CT_NI_REPLY		140

#define OVS_CT_FIN	0x01		/* flags of TCP */
#define OVS_CT_SYN	0x02
#define OVS_CT_RST	0x04
#define OVS_CT_PSH	0x08
#define OVS_CT_ACK	0x10
#define OVS_CT_URG	0x20

/* What kind of segment it is: rows of the table in ct_tcp.h. */
enum ovs_ct_tcp_index {
	OVS_CT_I_SYN,
	OVS_CT_I_SYNACK,
	OVS_CT_I_FIN,
	OVS_CT_I_ACK,
	OVS_CT_I_RST,
	OVS_CT_I_NONE,
};

#define OVS_CT_TCP_HLEN		20
#define OVS_CT_TS_ONLY		0x0101080a	/* NOP, NOP, timestamps */
#define OVS_CT_MAX_OPTS		40

/* Bytes behind the IP header and its extensions. */
static __always_inline __u32 ovs_ct_l4_len(const struct ovs_ct_pkt *st)
{
	__u32 head = st->l4_off - st->l3_off;

	return st->l4_off > st->l3_off && st->len > head ? st->len - head : 0;
}

/* Addresses, and the length; 0 when there is no such header. */
static __always_inline int ovs_ct_read_l3(struct ovs_ctx *ctx,
					  struct ovs_ct_pkt *st)
{
	struct ovs_ct_tuple *t = &st->tuple;
	__u32 len = ctx_len(ctx) - st->l3_off, said;

	if (st->family == OVS_CT_INET) {
		struct iphdr *ip = ctx_at(ctx, st->l3_off, sizeof(*ip));

		if (!ip)
			return 0;
		t->w[0] = ip->saddr;
		t->w[1] = 0;
		t->w[2] = ip->daddr;
		t->w[3] = 0;
		said = bpf_ntohs(ip->tot_len);
	} else if (st->family == OVS_CT_INET6) {
		struct ipv6hdr *ip6 = ctx_at(ctx, st->l3_off, sizeof(*ip6));

		if (!ip6)
			return 0;
		__builtin_memcpy(t->src, &ip6->saddr, 32);
		said = bpf_ntohs(ip6->payload_len);
		if (said)
			said += sizeof(*ip6);
	} else {
		return 0;
	}
	/* What pads the frame is not the packet's; 0: more than 65535. */
	st->len = said && said < len ? said : len;
	return 1;
}

struct ovs_ct_walk {
	struct ovs_ct_pkt *st;
};

/* One option of TCP; the first selective acknowledgement is the last one. */
static long ovs_ct_opt(__u32 i, struct ovs_ct_walk *walk)
{
	struct ovs_ct_pkt *st = walk->st;
	__u32 off = st->opt_off, len = st->opt_len, kind, size, b, edge;

	if (off >= len)
		return 1;
	kind = st->opts[off & 63];
	if (kind == 0)
		return 1;
	if (kind == 1) {
		st->opt_off = off + 1;
		return 0;
	}
	size = st->opts[(off + 1) & 63];
	if (off + 2 > len || size < 2 || off + size > len)
		return 1;
	st->opt_off = off + size;
	if (kind == 3 && size == 3) {
		st->opt_flags |= OVS_CT_TCP_F_WSCALE;
		st->opt_scale = st->opts[(off + 2) & 63];
		if (st->opt_scale > 14)
			st->opt_scale = 14;
	} else if (kind == 4 && size == 2) {
		st->opt_flags |= OVS_CT_TCP_F_SACK;
	} else if (kind == 5 && size >= 10 && (size - 2) % 8 == 0 &&
		   !st->bad) {
		st->bad = 1;	/* another one is not looked at */
#pragma unroll
		for (b = 0; b < 4; b++) {
			__u32 at = off + 6 + 8 * b;

			if (8 * b + 10 > size)
				break;
			edge = (__u32)st->opts[at & 63] << 24 |
			       (__u32)st->opts[(at + 1) & 63] << 16 |
			       (__u32)st->opts[(at + 2) & 63] << 8 |
			       st->opts[(at + 3) & 63];
			if ((__s32)(edge - st->sack) > 0)
				st->sack = edge;
		}
	}
	return 0;
}

/* Read st->opt_len bytes of options: opt_flags, opt_scale, sack. */
__noinline int ovs_ct_tcp_opts(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	struct ovs_ct_walk walk = { .st = st };
	__u32 n;

	if (!st)
		return 0;
	/* 1 to 64: the verifier of 6.1 learns nothing from `n != 0`. */
	n = st->opt_len - 1;
	asm volatile("%0 &= 0x3f" : "+r"(n));
	n++;
	if (ctx_load(ctx, st->l4_off + OVS_CT_TCP_HLEN, st->opts, n))
		return 0;
	st->opt_off = 0;
	st->bad = 0;
	bpf_loop(OVS_CT_MAX_OPTS, ovs_ct_opt, &walk, 0);
	return 1;
}

/* Whether SYN, FIN, RST, ACK and URG go together: nine sets do. */
static __always_inline int ovs_ct_tcp_flags_ok(__u32 flags)
{
	flags &= OVS_CT_FIN | OVS_CT_SYN | OVS_CT_RST | OVS_CT_ACK | OVS_CT_URG;
	return (1ULL << OVS_CT_SYN |
		1ULL << (OVS_CT_SYN | OVS_CT_URG) |
		1ULL << (OVS_CT_SYN | OVS_CT_ACK) |
		1ULL << OVS_CT_RST |
		1ULL << (OVS_CT_RST | OVS_CT_ACK) |
		1ULL << (OVS_CT_FIN | OVS_CT_ACK) |
		1ULL << (OVS_CT_FIN | OVS_CT_ACK | OVS_CT_URG) |
		1ULL << OVS_CT_ACK |
		1ULL << (OVS_CT_ACK | OVS_CT_URG)) >> flags & 1;
}

static __always_inline int ovs_ct_read_tcp(struct ovs_ctx *ctx,
					   struct ovs_ct_pkt *st)
{
	__u32 len = ovs_ct_l4_len(st), hlen, flags;
	struct tcphdr *th = ctx_at(ctx, st->l4_off, sizeof(*th));

	if (!th)
		return 0;
	st->tuple.sport = th->source;
	st->tuple.dport = th->dest;
	hlen = th->doff * 4;
	flags = ((__u8 *)th)[13];
	if (hlen < OVS_CT_TCP_HLEN || len < hlen || !ovs_ct_tcp_flags_ok(flags))
		return 0;
	st->seq = bpf_ntohl(th->seq);
	st->ack = bpf_ntohl(th->ack_seq);
	st->sack = st->ack;
	st->win = bpf_ntohs(th->window);
	st->tcp_flags = flags;
	st->end = st->seq + len - hlen + !!(flags & OVS_CT_SYN) +
		  !!(flags & OVS_CT_FIN);
	st->index = flags & OVS_CT_RST ? OVS_CT_I_RST :
		    flags & OVS_CT_SYN ? (flags & OVS_CT_ACK ?
					  OVS_CT_I_SYNACK : OVS_CT_I_SYN) :
		    flags & OVS_CT_FIN ? OVS_CT_I_FIN : OVS_CT_I_ACK;
	st->opt_flags = 0;
	st->opt_scale = 0;
	st->opt_len = hlen - OVS_CT_TCP_HLEN;
	if (st->opt_len) {
		__be32 *first = NULL;

		if (st->opt_len == 12)
			first = ctx_at(ctx, st->l4_off,
				       OVS_CT_TCP_HLEN + sizeof(*first));
		if (!first || first[5] != bpf_htonl(OVS_CT_TS_ONLY))
			ovs_ct_tcp_opts(ctx, st);
	}
	return 1;
}

static __always_inline int ovs_ct_read_udp(struct ovs_ctx *ctx,
					   struct ovs_ct_pkt *st)
{
	struct udphdr *uh = ctx_at(ctx, st->l4_off, sizeof(*uh));
	__u32 len = ovs_ct_l4_len(st), said;

	if (!uh || len < sizeof(*uh))
		return 0;
	st->tuple.sport = uh->source;
	st->tuple.dport = uh->dest;
	said = bpf_ntohs(uh->len);
	if (st->l4_proto == IPPROTO_UDPLITE)
		/* How much the checksum covers; it is not optional. */
		return (!said || (said >= sizeof(*uh) && said <= len)) &&
		       uh->check;
	return said <= len && said >= sizeof(*uh);
}

/* The type that answers one of ICMP or ICMPv6; -1: none does. */
static __always_inline int ovs_ct_icmp_answer(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		switch (type) {
		case OVS_CT_ECHO: return OVS_CT_ECHO_REPLY;
		case OVS_CT_ECHO_REPLY: return OVS_CT_ECHO;
		case OVS_CT_TIMESTAMP: return OVS_CT_TIMESTAMP_REPLY;
		case OVS_CT_TIMESTAMP_REPLY: return OVS_CT_TIMESTAMP;
		case OVS_CT_INFO: return OVS_CT_INFO_REPLY;
		case OVS_CT_INFO_REPLY: return OVS_CT_INFO;
		case OVS_CT_ADDRESS: return OVS_CT_ADDRESS_REPLY;
		case OVS_CT_ADDRESS_REPLY: return OVS_CT_ADDRESS;
		default: return -1;
		}
	switch (type) {
	case OVS_CT_ECHO6: return OVS_CT_ECHO6_REPLY;
	case OVS_CT_ECHO6_REPLY: return OVS_CT_ECHO6;
	case OVS_CT_NI_QUERY: return OVS_CT_NI_REPLY;
	case OVS_CT_NI_REPLY: return OVS_CT_NI_QUERY;
	default: return -1;
	}
}

/* Whether a message of ICMP or ICMPv6 may begin a connection. */
static __always_inline int ovs_ct_icmp_begins(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		return type == OVS_CT_ECHO || type == OVS_CT_TIMESTAMP ||
		       type == OVS_CT_INFO || type == OVS_CT_ADDRESS;
	return type == OVS_CT_ECHO6 || type == OVS_CT_NI_QUERY;
}

/* Make `to` the tuple of what answers `t`; 0 when nothing does. */
static __always_inline int ovs_ct_invert(struct ovs_ct_tuple *to,
					 const struct ovs_ct_tuple *t)
{
	to->w[0] = t->w[2];
	to->w[1] = t->w[3];
	to->w[2] = t->w[0];
	to->w[3] = t->w[1];
	to->w[4] = t->w[4];
	if (t->proto == IPPROTO_ICMP || t->proto == IPPROTO_ICMPV6) {
		int type = ovs_ct_icmp_answer(t->proto, t->dport & 0xff);

		if (type < 0)
			return 0;
		to->dport = (t->dport & 0xff00) | type;
	} else {
		to->sport = t->dport;
		to->dport = t->sport;
	}
	return 1;
}

#define OVS_CT_GRE_VERSION	bpf_htons(0x0007)
#define OVS_CT_GRE_PPP		bpf_htons(0x880b)

/*
 * The ports, or what stands for them, of what is at `off`: of the packet, or
 * of what an ICMP error tells about, which may end there.  0: cut short.
 */
static __always_inline int ovs_ct_read_ports(struct ovs_ctx *ctx,
					     struct ovs_ct_tuple *t, __u32 off)
{
	__be16 *p;

	t->sport = 0;
	t->dport = 0;
	switch (t->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_UDPLITE:
	case IPPROTO_SCTP:
		p = ctx_at(ctx, off, 4);
		if (!p)
			return 0;
		t->sport = p[0];
		t->dport = p[1];
		return 1;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		p = ctx_at(ctx, off, 8);
		if (!p)
			return 0;
		t->sport = p[2];
		t->dport = p[0];	/* type and code as they are */
		return 1;
	case IPPROTO_GRE:
		p = ctx_at(ctx, off, 4);
		if (!p || (p[0] & OVS_CT_GRE_VERSION) != bpf_htons(1))
			return 1;
		if (p[1] != OVS_CT_GRE_PPP)
			return 0;
		p = ctx_at(ctx, off, 8);
		if (p)
			t->dport = p[3];
		return 1;
	default:
		return 1;
	}
}

#endif /* OVS_CT_TUPLE_H */
