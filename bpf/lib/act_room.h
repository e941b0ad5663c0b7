/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Room for headers in front of a packet: how it is made and taken away.
 *
 * A packet without Ethernet header (layer 3, key.mac_proto is
 * OVS_MAC_PROTO_NONE) keeps 14 bytes before its network header all the same:
 * its type is in them as in a frame, and the addresses say nothing.  So the
 * first bytes of a packet are always a header that the kernel's helpers can
 * work with, and pushing Ethernet is writing the addresses.
 *
 * New headers come in by ctx_room_add(), as a part of the MAC header to the
 * kernel.  Pushing an MPLS label:
 *
 *   as it came        |        dst src | 0800 | IP ...
 *   ctx_room_add(4)   | xxxx | dst src | 0800 | IP ...
 *   ovs_put_head()    | dst src | 8847 | xxxx | IP ...
 *   its store         | dst src | 8847 | label | IP ...
 *
 * ctx_room_del(), which would take headers out, does so of IP packets only;
 * ctx_vlan_pop() does of every packet, 4 bytes at a time and its protocol with
 * them, once they look like VLAN tags.
 *
 * Taking two words (two MPLS labels) out in front of an IP header:
 *
 *   as it came        | dst src | 8847 | label 1 | label 2 | IP ...
 *                                  ^ OVS_TYPE_OFF
 *   ovs_take_out()    | dst src | 8100 xxxx | 8100 xxxx | 0800 | IP ...
 *                                 a "tag"     a "tag"     the type that
 *                                                         follows them
 *   ovs_cut()         the same, with two more tags in front of these: one in
 *                     the frame, one beside it (ctx_vlan())
 *   4 x vlan_pop()    | dst src | 0800 | IP ...     ctx_protocol() is IP, too
 *
 * A word goes with each pop, from where the type was, so that the two bytes of
 * the type move behind the last one: the labels' 8 bytes are the tags' 8 bytes
 * shifted by two.
 *
 * A frame below a label becomes the packet (ovs_uncover()); 14 bytes of
 * Ethernet and 4 of the label are no whole words, so that two bytes come first:
 *
 *   as it came        |      dst src | 8847 | label | DST SRC | 0800 | IP ...
 *   ctx_room_add(2)   | xx | dst src | 8847 | label | DST SRC | 0800 | IP ...
 *   its addresses     | DST SRC | 20 bytes, five words         | 0800 | IP ...
 *   ovs_take_out(5)   | DST SRC | 0800 | IP ...
 */
#ifndef OVS_ACT_ROOM_H
#define OVS_ACT_ROOM_H

#include "ctx.h"

#define OVS_TYPE_OFF	(2 * ETH_ALEN)
#define OVS_MAX_CUT	72	/* words of a header that is taken out */

/*
 * Bytes on one side of the end of the MAC header, where the sum over the packet
 * begins.
 */
static __always_inline long ovs_store(struct ovs_ctx *ctx, __u32 off,
				      const void *from, __u32 n)
{
	if (off < ctx_mac_len(ctx))
		return ctx_store(ctx, off, from, n);
	return ctx_store_csum(ctx, off, from, n);
}

/* Two bytes, as the MAC header ends between 16-bit words. */
static __always_inline long ovs_store_word(struct ovs_ctx *ctx, __u32 off,
					   __u16 word)
{
	return ovs_store(ctx, off, &word, sizeof(word));
}

/*
 * The type at OVS_TYPE_OFF, or 0 where there is a tag or LLC: no flow with such
 * actions matches those.
 */
static __always_inline __be16 ovs_plain_type(struct ovs_ctx *ctx)
{
	__be16 type;

	if (ctx_vlan(ctx) ||
	    ctx_load(ctx, OVS_TYPE_OFF, &type, sizeof(type)) ||
	    bpf_ntohs(type) < ETH_P_802_3_MIN || ovs_is_vlan(type))
		return 0;
	return type;
}

static long ovs_pop_tag(__u32 i, struct ovs_ctx **ctx)
{
	return ctx_vlan_pop(*ctx) ? 1 : 0;
}

/*
 * Take out the `n` words that were made to look like tags, and make the type
 * behind them the packet's protocol.  Two tags are pushed first, so that one is
 * in the frame: only then does the kernel look for more there.  The last tag
 * popped is the one beside the frame.
 */
static __always_inline int ovs_cut(struct ovs_ctx *ctx, __u32 n)
{
	if (ctx_vlan_push(ctx, bpf_htons(ETH_P_8021Q), 0) ||
	    ctx_vlan_push(ctx, bpf_htons(ETH_P_8021Q), 0))
		return OVS_DROP_ENCAP;
	if (bpf_loop(n + 2, ovs_pop_tag, &ctx, 0) != n + 2)
		return OVS_DROP_ENCAP;
	return 0;
}

struct ovs_tags {
	struct ovs_ctx *ctx;
	int err;
};

static long ovs_make_tag(__u32 i, struct ovs_tags *tags)
{
	__u32 off = OVS_TYPE_OFF + i * VLAN_HLEN;

	if (ovs_store_word(tags->ctx, off, bpf_htons(ETH_P_8021Q))) {
		tags->err = OVS_DROP_ENCAP;
		return 1;
	}
	return 0;
}

/* Take `n` words out after the addresses; `type` is what follows them. */
__noinline int ovs_take_out(struct ovs_ctx *ctx, __u32 n, __be16 type)
{
	struct ovs_tags tags = { .ctx = ctx };

	if (n > OVS_MAX_CUT ||
	    ctx_len(ctx) < OVS_TYPE_OFF + n * VLAN_HLEN + sizeof(type))
		return OVS_DROP_ENCAP;
	bpf_loop(n, ovs_make_tag, &tags, 0);
	if (tags.err ||
	    ovs_store_word(ctx, OVS_TYPE_OFF + n * VLAN_HLEN, type))
		return OVS_DROP_ENCAP;
	return ovs_cut(ctx, n);
}

/* The frame within a packet becomes the packet: `n` words before it go. */
static __always_inline int ovs_uncover(struct ovs_ctx *ctx, __u32 len)
{
	struct ethhdr eth;
	__u32 n;

	/* The Ethernet header in front of it is half a word too short. */
	if (ctx_room_add(ctx, 2))
		return OVS_DROP_ENCAP;
	len += 2;
	if (ctx_load(ctx, len, &eth, sizeof(eth)) ||
	    ctx_store(ctx, 0, &eth, 2 * ETH_ALEN))
		return OVS_DROP_ENCAP;
	n = len / VLAN_HLEN;
	return ovs_take_out(ctx, n, eth.h_proto);
}

/*
 * Take `len` bytes out behind the Ethernet header, which becomes `eth`, all
 * at once: ctx_room_del() does so behind the MAC header of what it
 * takes for IP.  Returns 0, OVS_DROP_*, or a negative number where that
 * cannot be; nothing but the Ethernet header has changed then.
 */
static __always_inline int ovs_shrink(struct ovs_ctx *ctx, __u32 len,
				      struct ethhdr *eth)
{
	__be16 type = eth->h_proto;

	if (ctx_mac_len(ctx) > ETH_HLEN || ctx_gso(ctx))
		return -1;
	if (type != bpf_htons(ETH_P_IPV6))
		eth->h_proto = bpf_htons(ETH_P_IP);
	if (ctx_store(ctx, 0, eth, sizeof(*eth)) || ovs_cut(ctx, 0))
		return OVS_DROP_ENCAP;
	if (ctx_room_del(ctx, len))
		return -1;
	if (eth->h_proto == type)
		return 0;
	if (ctx_store(ctx, OVS_TYPE_OFF, &type, sizeof(type)))
		return OVS_DROP_ENCAP;
	return ovs_cut(ctx, 0);
}

/*
 * A GSO packet stays what it is to the kernel, with all that is before its IP
 * header as the MAC header.  That is enough for software that cuts it and for
 * a veth, which hands it on; what other devices would make of it is another
 * matter, and act_output.h does not let them.
 */
static __always_inline int ovs_gso_is_ip(struct ovs_ctx *ctx)
{
	__be16 type = ctx_protocol(ctx);

	return type == bpf_htons(ETH_P_IP) || type == bpf_htons(ETH_P_IPV6);
}

/* Make room for `n` bytes in front, and write the header `eth` there. */
static __always_inline int ovs_put_head(struct ovs_ctx *ctx, __u32 n,
					const struct ethhdr *eth)
{
	if (ctx_gso(ctx) && !ovs_gso_is_ip(ctx))
		return OVS_DROP_GSO;
	if (ctx_room_add(ctx, n) ||
	    ctx_store(ctx, 0, eth, sizeof(*eth)))
		return OVS_DROP_ENCAP;
	return 0;
}

static __always_inline int ovs_is_mpls(__be16 type)
{
	return type == bpf_htons(ETH_P_MPLS_UC) ||
	       type == bpf_htons(ETH_P_MPLS_MC);
}

#endif /* OVS_ACT_ROOM_H */
