/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow extract of what most frames are: TCP or UDP over IPv4 without options
 * or IPv6 without extensions, no fragment, the headers in the packet's linear
 * part, at most one VLAN tag, and that beside the frame, as devices and the
 * kernel leave it.  Straight code, since it is all that such a packet meets;
 * parse.h is for all others and gives such a frame the same key
 * (tests/bpf/test_frame.py).
 */
#ifndef OVS_FRAME_H
#define OVS_FRAME_H

#include <linux/if_ether.h>
#include <linux/in.h>

#include "abi.h"
#include "ctx_base.h"

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define OVS_BE16(x)	((__u16)((__u16)(x) << 8 | (__u16)(x) >> 8))
#define OVS_BE32(x)	__builtin_bswap32(x)
#define OVS_MAC_FIRST(w)	((w) & 0xffffffffffffULL)
#define OVS_MAC_LAST(w)		((w) >> 16)
#define OVS_MAC_TAG(tag)	((__u64)(tag) << 48)
#else
#error "MAC addresses are words of a little-endian machine"
#endif

#define OVS_FRAME_WORDS	11		/* of the key; those after are zero */
#define OVS_FRAME_ZERO	15		/* words before the metadata begin here */
#define OVS_FRAME_CT_END	23	/* ... of which these are conntrack's */

/* What is known of the frame. */
struct ovs_frame {
	__u64 w[OVS_FRAME_WORDS];	/* from w[1] on */
	__u64 l4_off;
	__u64 l4_proto;
	__u64 tcp_flags;		/* in host order */
};

#define OVS_AT8(p, off)		(*(volatile __u8 *)((p) + (off)))
#define OVS_AT16(p, off)	(*(volatile __u16 *)((p) + (off)))
#define OVS_AT32(p, off)	(*(volatile __u32 *)((p) + (off)))
#define OVS_AT64(p, off)	(*(volatile __u64 *)((p) + (off)))

/* Key word 1 of a frame that is no fragment. */
#define OVS_FRAME_W1(type, proto, tos, ttl)				\
	((type) | (proto) << 32 | (tos) << 40 | (ttl) << 48)

/* TCP or UDP at `l4`, a constant; 0: another, or not whole. */
static __always_inline int ovs_frame_l4(struct ovs_ctx *ctx, void *data,
					void *end, const __u64 l4,
					struct ovs_frame *f)
{
	__u64 flags, hlen;

	f->l4_off = l4;
	f->tcp_flags = 0;
	if (f->l4_proto == IPPROTO_TCP) {
		if (data + l4 + 20 > end)
			return 0;
		/* doff, then the flags. */
		flags = OVS_BE16(OVS_AT16(data, l4 + 12));
		hlen = flags >> 12 << 2;
		if (unlikely(hlen < 20 || ctx_len(ctx) < l4 + hlen))
			return 0;
		f->tcp_flags = flags & 0xfff;
		f->w[4] = OVS_AT32(data, l4) |
			  (__u64)OVS_BE16(flags & 0xfff) << 32;
		return 1;
	}
	/* Before a device cuts a UDP packet, it may be a fragment. */
	if (f->l4_proto != IPPROTO_UDP || ctx_gso(ctx))
		return 0;
	f->w[4] = OVS_AT32(data, l4);
	return 1;
}

/* Fill `f` in; 0 when the frame is of another kind. */
static __always_inline int ovs_frame_parse(struct ovs_ctx *ctx,
					   struct ovs_frame *f)
{
	void *data = ctx_data(ctx), *end = ctx_end(ctx);
	__u64 type, word, tci;

	if (unlikely(data + ETH_HLEN + 28 > end))
		return 0;
	f->w[2] = OVS_MAC_FIRST(OVS_AT64(data, 0));
	f->w[3] = OVS_MAC_LAST(OVS_AT64(data, 4));
	if (ctx_vlan(ctx)) {
		tci = ctx_vlan_tci(ctx) | 0x1000;	/* CFI: there is one */
		f->w[2] |= OVS_MAC_TAG(OVS_BE16(tci));
		f->w[3] |= OVS_MAC_TAG((__u16)ctx_vlan_tpid(ctx));
	}
	f->w[5] = ctx_priority(ctx) | (__u64)ctx_mark(ctx) << 32;
	f->w[8] = 0;
	f->w[9] = 0;
	f->w[10] = 0;
	type = OVS_AT16(data, 12);
	if (type == OVS_BE16(ETH_P_IP)) {
		/* No options; neither more fragments nor an offset. */
		if (OVS_AT8(data, ETH_HLEN) != 0x45 ||
		    OVS_AT16(data, ETH_HLEN + 6) & OVS_BE16(0x3fff))
			return 0;
		f->l4_proto = OVS_AT8(data, ETH_HLEN + 9);
		f->w[1] = OVS_FRAME_W1(type, f->l4_proto,
				       (__u64)OVS_AT8(data, ETH_HLEN + 1),
				       (__u64)OVS_AT8(data, ETH_HLEN + 8));
		f->w[6] = OVS_AT64(data, ETH_HLEN + 12);
		f->w[7] = 0;
		return ovs_frame_l4(ctx, data, end, ETH_HLEN + 20, f);
	}
	if (type != OVS_BE16(ETH_P_IPV6) || data + ETH_HLEN + 48 > end)
		return 0;
	word = OVS_BE32(OVS_AT32(data, ETH_HLEN));
	f->l4_proto = OVS_AT8(data, ETH_HLEN + 6);
	f->w[1] = OVS_FRAME_W1(type, f->l4_proto, word >> 20 & 0xff,
			       (__u64)OVS_AT8(data, ETH_HLEN + 7));
	f->w[6] = OVS_AT64(data, ETH_HLEN + 8);
	f->w[7] = OVS_AT64(data, ETH_HLEN + 16);
	f->w[8] = OVS_AT64(data, ETH_HLEN + 24);
	f->w[9] = OVS_AT64(data, ETH_HLEN + 32);
	f->w[10] = OVS_BE32((__u32)word & 0xfffff);
	return ovs_frame_l4(ctx, data, end, ETH_HLEN + 40, f);
}

static __always_inline int ovs_frame_is_ip6(const struct ovs_frame *f)
{
	return (__u16)f->w[1] == OVS_BE16(ETH_P_IPV6);
}

/* Write what is known into the packet's state: all that ovs_parse() does. */
static __always_inline void ovs_frame_store(const struct ovs_frame *f,
					    struct ovs_pkt *pkt)
{
	int i;

#pragma unroll
	for (i = 1; i < OVS_FRAME_WORDS; i++)
		pkt->key.w[i] = f->w[i];
#pragma unroll
	for (i = OVS_FRAME_WORDS; i < OVS_FRAME_ZERO; i++)
		pkt->key.w[i] = 0;
	pkt->l3_off = ETH_HLEN;
	pkt->l4_off = f->l4_off;
	pkt->l4_proto = f->l4_proto;
	pkt->routing = 0;
	pkt->parsed = 1;
}

#endif /* OVS_FRAME_H */
