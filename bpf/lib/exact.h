/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The cache of exact matches in front of the classifier (struct ovs_exact of
 * abi_classifier.h): the entry looks in it, and stage RX fills in what it
 * missed.  A line is taken by the packet that was missed there last.
 *
 * The entry makes no key: it compares the frame, as it is, with that of the
 * packet which filled the line in.  What is equal there has the same key.
 * What ovs_frame_parse() wants of a frame besides is asked of each
 * (ovs_exact_l4()), or follows from what is equal.
 */
#ifndef OVS_EXACT_H
#define OVS_EXACT_H

#include "frame.h"

/* Bytes of a frame that are looked at before those of TCP's header. */
#define OVS_EXACT_IP4	(ETH_HLEN + 20 + 8)
#define OVS_EXACT_IP6	(ETH_HLEN + 40 + 8)

#define OVS_EXACT_MULT	0x2c1b3c6d
#define OVS_EXACT_SPAN	(1ULL << 52)	/* of a hash, to each line */
_Static_assert(OVS_EXACT_SPAN * OVS_EXACT_LINES == 0, "ovs_exact_line");

/*
 * Whether what is at `l4`, a constant, is TCP or UDP as ovs_frame_parse()
 * takes it; `*flags` become those of TCP, in network order.
 */
static __always_inline int ovs_exact_l4(struct ovs_ctx *ctx, void *data,
					void *end, const __u64 l4,
					__u64 proto, __u64 *flags)
{
	__u64 word, hlen;

	*flags = 0;
	if (proto == IPPROTO_UDP)
		return !ctx_gso(ctx);
	if (proto != IPPROTO_TCP || data + l4 + 20 > end)
		return 0;
	word = OVS_AT16(data, l4 + 12);
	hlen = word >> 2 & 0x3c;
	if (unlikely(hlen < 20 || ctx_len(ctx) < l4 + hlen))
		return 0;
	*flags = word & OVS_BE16(OVS_EXACT_FLAGS);
	return 1;
}

/*
 * struct ovs_exact.third: without the checksum and whether it may be
 * fragmented, or the length of IPv6, which are in no key.
 */
static __always_inline __u64 ovs_exact_third(void *data, const int ip6)
{
	return ip6 ? OVS_AT64(data, 14) & 0xffff0000ffffffffULL :
		     OVS_AT64(data, 20) & 0xffff0000ffffff3fULL;
}

static __always_inline __u64 ovs_exact_addr(void *data, const int ip6)
{
	return OVS_AT64(data, ip6 ? 22 : 26);
}

static __always_inline __u64 ovs_exact_last(void *data, const int ip6)
{
	return OVS_AT64(data, ip6 ? 50 : 30);
}

/*
 * The line of a frame, by what most packets differ in.  A sender who makes its
 * packets collide makes them miss, no more.
 */
static __always_inline __u64 ovs_exact_line(void *data, __u64 port,
					    const int ip6)
{
	__u64 a = OVS_AT64(data, 0) + ovs_exact_addr(data, ip6);
	__u64 b = OVS_AT64(data, 8) + ovs_exact_last(data, ip6) + port;

	if (ip6) {
		a += OVS_AT64(data, 46);
		b += OVS_AT64(data, 30) + OVS_AT64(data, 38) * 3;
	}
	return (a * OVS_EXACT_MULT + b) * OVS_HASH_MULT / OVS_EXACT_SPAN;
}

/* In what a frame differs from a line; 0: it is the line's. */
static __always_inline __u64 ovs_exact_diff(const struct ovs_exact *e,
					    void *data, const int ip6)
{
	__u64 diff = e->first ^ OVS_AT64(data, 0);

	diff |= e->second ^ OVS_AT64(data, 8);
	diff |= e->third ^ ovs_exact_third(data, ip6);
	diff |= e->addr ^ ovs_exact_addr(data, ip6);
	diff |= e->last ^ ovs_exact_last(data, ip6);
	if (ip6) {
		diff |= e->more[0] ^ OVS_AT64(data, 30);
		diff |= e->more[1] ^ OVS_AT64(data, 38);
		diff |= e->more[2] ^ OVS_AT64(data, 46);
	}
	/* Or clang has what IPv4 and IPv6 share done for both, at variable
	 * offsets. */
	asm volatile("" : "+r"(diff) : "i"(ip6));
	return diff;
}

/* Where a frame came in, and whether it has a tag, a mark or a priority. */
static __always_inline __u64 ovs_exact_port(const struct ovs_ctx *ctx,
					    __u64 port_no, __u64 bridge)
{
	__u64 port = port_no | bridge << 16;

	if (unlikely(ctx_vlan(ctx) || ctx_priority(ctx) || ctx_mark(ctx)))
		port |= OVS_EXACT_ODD;
	return port;
}

static __always_inline __u64 ovs_exact_port_no(__u64 port)
{
	return port & 0xffff;
}

/* The tag beside a frame, as struct ovs_exact has it; 0: none. */
static __always_inline __u64 ovs_exact_tag(const struct ovs_ctx *ctx)
{
	return ctx_vlan(ctx) ?
	       ctx_vlan_tci(ctx) | ctx_vlan_tpid(ctx) << 16 : 0;
}

static __always_inline __u64 ovs_exact_meta(const struct ovs_ctx *ctx)
{
	return (__u64)ctx_priority(ctx) | (__u64)ctx_mark(ctx) << 32;
}

#endif /* OVS_EXACT_H */
