/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ICMP and ICMPv6 errors: they are related to the connection of the packet
 * that they are about, whose header is in them.  As in
 * net/netfilter/nf_conntrack_proto_icmp.c and nf_conntrack_proto_icmpv6.c.
 */
#ifndef OVS_CT_ICMP_H
#define OVS_CT_ICMP_H

#include "ct_tuple.h"

#define OVS_CT_ICMP_MAX		18	/* the last type that is known */
#define OVS_CT_ICMPV6_INFO	128	/* below: errors */
#define OVS_CT_MLD_QUERY	130	/* to 136, neighbour advertisements: */
#define OVS_CT_ND_ADVERT	136	/* part of no connection */
#define OVS_CT_ND_REDIRECT	137
#define OVS_CT_MLD2_REPORT	143
#define OVS_CT_EXTENSIONS	32	/* of the packet inside */

static __always_inline int ovs_ct_icmp_is_error(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMPV6)
		return type < OVS_CT_ICMPV6_INFO;
	return type == OVS_CT_UNREACHABLE || type == OVS_CT_SOURCE_QUENCH ||
	       type == OVS_CT_REDIRECT || type == OVS_CT_TIME_EXCEEDED ||
	       type == OVS_CT_PARAMETER;
}

/* Types that are of no connection, whatever there is. */
static __always_inline int ovs_ct_icmp_is_none(__u8 proto, __u8 type)
{
	if (proto == IPPROTO_ICMP)
		return type > OVS_CT_ICMP_MAX;
	return (type >= OVS_CT_MLD_QUERY && type <= OVS_CT_ND_ADVERT) ||
	       type == OVS_CT_ND_REDIRECT || type == OVS_CT_MLD2_REPORT;
}

struct ovs_ct_ext {
	struct ovs_ctx *ctx;
	struct ovs_ct_pkt *st;
};

/* One extension header at inner_l4, of the type in tuple.proto. */
static long ovs_ct_ext_step(__u32 i, struct ovs_ct_ext *ext)
{
	struct ovs_ct_pkt *st = ext->st;
	__u8 proto = st->tuple.proto, h[4];
	__u32 len;

	if (proto != IPPROTO_HOPOPTS && proto != IPPROTO_ROUTING &&
	    proto != IPPROTO_FRAGMENT && proto != IPPROTO_AH &&
	    proto != IPPROTO_DSTOPTS) {
		st->bad = proto == IPPROTO_NONE;
		return 1;
	}
	st->bad = 1;
	if (st->inner_l4 > 16384 || ctx_load(ext->ctx, st->inner_l4, h, 4))
		return 1;
	len = (h[1] + 1) * 8;
	if (proto == IPPROTO_AH) {
		len = (h[1] + 2) * 4;
	} else if (proto == IPPROTO_FRAGMENT) {
		if (h[2] || h[3] & 0xf8)
			return 1;	/* a later one */
		len = 8;
	}
	st->tuple.proto = h[0];
	st->inner_l4 += len;
	return 0;
}

/*
 * The packet that an error at l4_off is about: makes st->tuple that of what
 * would answer it, and sets inner_l3 and inner_l4.  0 when the error is about
 * nothing, or was sent to somebody else than the packet's sender.
 */
__noinline int ovs_ct_icmp_inner(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	struct ovs_ct_ext ext = { .ctx = ctx, .st = st };
	struct ovs_ct_tuple *t, inner;
	__u64 to[2];
	__u32 off;

	if (!st)
		return 0;
	t = &st->tuple;
	to[0] = t->w[2];
	to[1] = t->w[3];
	off = st->l4_off + 8;
	st->inner_l3 = off;
	if (st->family == OVS_CT_INET) {
		struct iphdr *ip = ctx_at(ctx, off, sizeof(*ip));

		if (!ip || ip->frag_off & bpf_htons(0x1fff))
			return 0;
		t->w[0] = ip->saddr;
		t->w[2] = ip->daddr;
		t->proto = ip->protocol;
		st->inner_l4 = off + ip->ihl * 4;
	} else {
		struct ipv6hdr *ip6 = ctx_at(ctx, off, sizeof(*ip6));

		if (!ip6)
			return 0;
		__builtin_memcpy(t->src, &ip6->saddr, 32);
		t->proto = ip6->nexthdr;
		st->inner_l4 = off + sizeof(*ip6);
		st->bad = 1;
		bpf_loop(OVS_CT_EXTENSIONS, ovs_ct_ext_step, &ext, 0);
		if (st->bad)
			return 0;
	}
	if (st->inner_l4 > st->l3_off + st->len ||
	    !ovs_ct_read_ports(ctx, t, st->inner_l4))
		return 0;
	if (!ovs_ct_invert(&inner, t) || inner.w[2] != to[0] ||
	    inner.w[3] != to[1])
		return 0;
	*t = inner;
	return 1;
}

#endif /* OVS_CT_ICMP_H */
