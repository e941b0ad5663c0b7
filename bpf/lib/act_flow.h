/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What decides how the list goes on, and what needs few lines.
 *
 * A block of sample, clone or check_pkt_len is a list for a copy.  Where
 * nothing follows it, or where it leaves the packet as it is, the packet
 * itself runs it (dpif_bpf/core/actions/layout.py); otherwise a copy is
 * deferred until the packet is done (act_recirc.h).  An error in a block that a
 * copy runs ends that copy alone, whereas the kernel datapath drops the packet,
 * too.
 */
#ifndef OVS_ACT_FLOW_H
#define OVS_ACT_FLOW_H

#include "act_set.h"
#include "ctx.h"
#include "parse_ip.h"

#define OVS_SKB_GSO_UDP_L4	(1 << 17)	/* SKB_GSO_UDP_L4 */
#define OVS_JHASH_INITVAL	0xdeadbeef

/* The packet's length; a layer-3 packet has no Ethernet header. */
static __always_inline __u32 ovs_packet_len(struct ovs_ctx *ctx,
					    struct ovs_pkt *pkt)
{
	__u32 len = ctx_len(ctx);

	return pkt->key.mac_proto == OVS_MAC_PROTO_ETHERNET ? len :
							      len - ETH_HLEN;
}

/* `keep` bytes, of those that the packet has now, go out next; 0: all. */
static __always_inline void ovs_trunc(struct ovs_ctx *ctx,
				      struct ovs_pkt *pkt, __u32 keep)
{
	__u32 len = ovs_packet_len(ctx, pkt);

	if (!keep)
		pkt->cutlen = 0;
	else if (len > keep)
		pkt->cutlen = len - keep;
}

static __always_inline int ovs_sampled(__u32 probability)
{
	return probability && bpf_get_prandom_u32() <= probability;
}

struct ovs_sctp_parts {
	struct sk_buff *part;
	__u32 longest;
};

static long ovs_sctp_part(__u32 i, struct ovs_sctp_parts *parts)
{
	struct sk_buff *part = parts->part;
	__u32 len;

	if (!part)
		return 1;
	len = ctx_part_len(part);
	if (len > parts->longest)
		parts->longest = len;
	parts->part = ctx_part_next(part);
	return 0;
}

/* Bytes of an SCTP GSO packet's longest packet, without headers. */
__noinline int ovs_sctp_longest(struct ovs_ctx *ctx)
{
	struct ovs_sctp_parts parts = { .part = ctx_frag_list(ctx) };

	bpf_loop(OVS_UPCALL_PARTS, ovs_sctp_part, &parts, 0);
	return parts.longest;
}

/* Bytes of a segment of a GSO packet; 0 when that is not known. */
static __always_inline __u32 ovs_segment_len(struct ovs_ctx *ctx,
					     struct ovs_pkt *pkt)
{
	__u32 len = pkt->l4_off + ctx_gso(ctx);
	__u8 doff;

	if (!pkt->l4_off)
		return 0;
	if (pkt->l4_proto == IPPROTO_TCP) {
		if (ctx_load(ctx, pkt->l4_off + 12, &doff, sizeof(doff)))
			return 0;
		return len + (doff >> 4) * 4;
	}
	if (pkt->l4_proto == IPPROTO_SCTP)
		return pkt->l4_off + SCTP_HLEN + ovs_sctp_longest(ctx);
	if (ctx_gso_type(ctx) & OVS_SKB_GSO_UDP_L4)
		return len + OVS_UDP_HLEN;
	return len;
}

/* Whether a packet, or each segment of it, is longer than `max`. */
static __always_inline int ovs_longer(struct ovs_ctx *ctx,
				      struct ovs_pkt *pkt, __u32 max)
{
	__u32 len = ovs_packet_len(ctx, pkt), segment;

	if (len > max && ctx_gso(ctx)) {
		segment = ovs_segment_len(ctx, pkt);
		if (segment)
			return segment > max;
	}
	return len > max;
}

static __always_inline __u32 ovs_rol(__u32 word, __u32 by)
{
	return word << by | word >> (32 - by);
}

/* How each of the kernel's jhash() functions ends. */
static __always_inline __u32 ovs_jhash_final(__u32 a, __u32 b, __u32 c)
{
	c ^= b;
	c -= ovs_rol(b, 14);
	a ^= c;
	a -= ovs_rol(c, 11);
	b ^= a;
	b -= ovs_rol(a, 25);
	c ^= b;
	c -= ovs_rol(b, 16);
	a ^= c;
	a -= ovs_rol(c, 4);
	b ^= a;
	b -= ovs_rol(a, 14);
	c ^= b;
	c -= ovs_rol(b, 24);
	return c;
}

/* Bob Jenkins' hash of one word: jhash_1word() of the kernel. */
static __always_inline __u32 ovs_jhash(__u32 word, __u32 basis)
{
	__u32 a, b, c;

	a = b = c = basis + OVS_JHASH_INITVAL + 4;
	a += word;
	return ovs_jhash_final(a, b, c);
}

static __always_inline void ovs_hash(struct ovs_ctx *ctx,
				     struct ovs_pkt *pkt, __u32 basis)
{
	__u32 hash = ovs_jhash(ctx_hash(ctx), basis);

	pkt->key.dp_hash = hash ? hash : 1;
	pkt->cpu.dirty |= OVS_DIRTY_META;
}

/*
 * Decrement the TTL or hop limit; other packets pass.  Returns OVS_DROP_TTL
 * when it ends, and leaves the packet as it is.
 */
__noinline int ovs_dec_ttl(struct ovs_ctx *ctx, struct ovs_pkt *pkt)
{
	__be16 protocol;
	__u16 old, new;		/* with the protocol behind or before it */
	__u32 off;
	void *ip;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	off = pkt->l3_off;
	protocol = ctx_protocol(ctx);
	if (protocol == bpf_htons(ETH_P_IP)) {
		ip = ctx_at(ctx, off, sizeof(struct iphdr));
		if (!off || !ip)
			return OVS_DROP_SET;
		old = OVS_AT16(ip, 8);
		if ((__u8)old <= 1)
			return OVS_DROP_TTL;
		new = old - 1;
		OVS_AT16(ip, 8) = new;
		OVS_AT16(ip, 10) = ovs_csum_update(
			OVS_AT16(ip, 10), OVS_SUM_DIFF2(old, new));
		if (pkt->key.eth_type == protocol)
			pkt->key.ip_ttl = new;
	} else if (protocol == bpf_htons(ETH_P_IPV6)) {
		ip = ctx_at(ctx, off, sizeof(struct ipv6hdr));
		if (!off || !ip)
			return OVS_DROP_SET;
		old = OVS_AT16(ip, 6);
		if (old >> 8 <= 1)
			return OVS_DROP_TTL;
		new = old - 0x100;
		OVS_AT16(ip, 6) = new;
		ctx_csum_update(ctx, OVS_SUM_DIFF2(old, new));
		if (pkt->key.eth_type == protocol)
			pkt->key.ip_ttl = new >> 8;
	}
	return 0;
}

#endif /* OVS_ACT_FLOW_H */
