/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Masked sets of header fields.  The field is read from the packet, not from
 * the key, and written in place; the key follows, unless so many tags were
 * pushed that flow extract does not get to the header.  Checksums are updated,
 * not computed: those of TCP, UDP and ICMPv6 by the kernel's helper, which
 * knows offloaded ones (CHECKSUM_PARTIAL: only the pseudo header counts) and
 * that a UDP checksum of zero stays zero.  That of the whole packet
 * (CHECKSUM_COMPLETE) is one of what follows the Ethernet header, and an IPv4
 * header adds nothing to it whatever it is, as its own checksum sees to that.
 * The packet's hash goes with what it was made of, as in the kernel datapath:
 * with addresses that differ and with ports.  So does its connection.
 *
 * Global functions, so that the verifier looks at each one once, but for the
 * two that each routed packet meets.  They return 0 or OVS_DROP_*; `at` is the
 * index of their operand in ovs_acts.
 */
#ifndef OVS_ACT_SET_H
#define OVS_ACT_SET_H

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "ctx.h"
#include "frame.h"
#include "maps.h"

#define OVS_TCP_HLEN	20
#define OVS_UDP_HLEN	8
#define OVS_ICMPV6_HLEN	8

static __always_inline __u64 ovs_operand(__u32 i)
{
	__u64 *word = bpf_map_lookup_elem(&ovs_acts, &i);

	return word ? *word : 0;
}

/*
 * Fill in an operand structure, word by word: it is declared with
 * OVS_WORDS, or clang 19 puts it where no word may be ("misaligned stack
 * access").
 */
#define OVS_WORDS	__attribute__((aligned(8)))
#define OVS_OPERAND(op, at) ({						\
	__u64 *__word = (__u64 *)(op);					\
									\
	for (__u32 __i = 0; __i < sizeof(*(op)) / 8; __i++)		\
		__word[__i] = ovs_operand((at) + __i);			\
})

#define OVS_MASKED(old, value, mask)	(((old) & ~(mask)) | (value))

/* Addresses are words of the key, which VLAN tags share. */
#define OVS_MAC_MASK	0xffffffffffffULL

static __always_inline int ovs_set_eth(struct ovs_ctx *ctx,
				       struct ovs_pkt *pkt, __u32 at)
{
	void *eth = ctx_at(ctx, 0, 2 * ETH_ALEN);
	__u64 dst, src;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (!eth)
		return OVS_DROP_SET;
	dst = OVS_MASKED(OVS_MAC_FIRST(OVS_AT64(eth, 0)), ovs_operand(at),
			 ovs_operand(at + 2));
	src = OVS_MASKED(OVS_MAC_LAST(OVS_AT64(eth, 4)), ovs_operand(at + 1),
			 ovs_operand(at + 3));
	OVS_AT64(eth, 0) = dst | src << 48;
	OVS_AT32(eth, 8) = src >> 16;
	pkt->key.w[2] = (pkt->key.w[2] & ~OVS_MAC_MASK) | dst;
	pkt->key.w[3] = (pkt->key.w[3] & ~OVS_MAC_MASK) | src;
	return 0;
}

/*
 * Carry a change of addresses, whose sum is `diff`, into the checksum of the
 * transport header.  Without a whole header there is nothing to do.
 */
static __always_inline int ovs_update_l4(struct ovs_ctx *ctx, __u32 off,
					 __u8 proto, __s64 diff)
{
	__u64 flags = BPF_F_PSEUDO_HDR;
	__u32 check, hlen;

	if (proto == IPPROTO_TCP) {
		check = 16;
		hlen = OVS_TCP_HLEN;
	} else if (proto == IPPROTO_UDP) {
		check = 6;
		hlen = OVS_UDP_HLEN;
		flags |= BPF_F_MARK_MANGLED_0;
	} else if (proto == IPPROTO_ICMPV6) {
		check = 2;
		hlen = OVS_ICMPV6_HLEN;
	} else {
		return 0;
	}
	if (ctx_len(ctx) < off + hlen)
		return 0;
	return ctx_l4_csum(ctx, off + check, 0, diff, flags) ?
	       OVS_DROP_SET : 0;
}

/* By what a sum changes with 32-bit words, or halves of 16 bits. */
#define OVS_SUM_DIFF(old, new)	((__u64)(__u32)~(old) + (__u32)(new))
#define OVS_SUM_DIFF2(old, new)	((__u64)(__u16)~(old) + (__u16)(new))

static __always_inline __u64 ovs_sum_diff8(__u64 old, __u64 new)
{
	return OVS_SUM_DIFF(old, new) + OVS_SUM_DIFF(old >> 32, new >> 32);
}

/* Some such changes, as 32 bits. */
static __always_inline __u32 ovs_sum_fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	return sum + (sum >> 32);
}

/* `check` after data whose sum changed by `diff`. */
static __always_inline __sum16 ovs_csum_update(__sum16 check, __s64 diff)
{
	__u64 sum = (__u64)(__u32)diff + (__u16)~check;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int ovs_set_ipv4(struct ovs_ctx *ctx,
					 struct ovs_pkt *pkt, __u32 at)
{
	union {
		__u64 w;
		struct {
			__u8 tos;
			__u8 tos_mask;
			__u8 ttl;
			__u8 ttl_mask;
		};
	} op = { .w = ovs_operand(at + 2) };
	__u16 old_tos, tos, old_ttl, ttl;	/* with the byte beside each */
	__u64 old_addr, addr, diff;
	__u32 off;
	void *ip;
	int err;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	off = pkt->l3_off;
	ip = ctx_at(ctx, off, sizeof(struct iphdr));
	if (!off || !ip)
		return OVS_DROP_SET;
	old_addr = OVS_AT64(ip, 12);
	addr = OVS_MASKED(old_addr, ovs_operand(at), ovs_operand(at + 1));
	diff = ovs_sum_diff8(old_addr, addr);
	if (addr != old_addr) {
		if (pkt->l4_proto != IPPROTO_ICMPV6) {
			err = ovs_update_l4(ctx, pkt->l4_off, pkt->l4_proto,
					    ovs_sum_fold(diff));
			if (err)
				return err;
		}
		ctx_hash_clear(ctx);
		pkt->tracked = 0;
		ip = ctx_at(ctx, off, sizeof(struct iphdr));
		if (!ip)
			return OVS_DROP_SET;
		OVS_AT64(ip, 12) = addr;
	}
	old_tos = OVS_AT16(ip, 0);
	old_ttl = OVS_AT16(ip, 8);
	tos = OVS_MASKED(old_tos, op.tos << 8, op.tos_mask << 8);
	ttl = OVS_MASKED(old_ttl, op.ttl, op.ttl_mask);
	diff += OVS_SUM_DIFF2(old_tos, tos) + OVS_SUM_DIFF2(old_ttl, ttl);
	OVS_AT16(ip, 0) = tos;
	OVS_AT16(ip, 8) = ttl;
	OVS_AT16(ip, 10) = ovs_csum_update(OVS_AT16(ip, 10),
					   ovs_sum_fold(diff));
	if (pkt->key.eth_type != bpf_htons(ETH_P_IP))
		return 0;
	pkt->key.w[OVS_KEY_W(ipv4_src)] = addr;
	pkt->key.ip_tos = tos >> 8;
	pkt->key.ip_ttl = ttl;
	return 0;
}

/*
 * The destination is not the final one, and counts in no checksum, where a
 * routing header has segments left.
 */
__noinline int ovs_set_ipv6(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			    __u32 at)
{
	union {
		__u64 w[2];
		struct {
			__be32 label;
			__be32 label_mask;
			__u8 tclass;
			__u8 tclass_mask;
			__u8 hlimit;
			__u8 hlimit_mask;
		};
	} op = { .w = { ovs_operand(at + 8), ovs_operand(at + 9) } };
	__u64 old, addr[4], differ = 0, diff = 0, pseudo = 0;
	__u32 off, old_word, word;
	__u16 old_limit, limit;		/* with the protocol before it */
	void *ip;
	int err, i;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	off = pkt->l3_off;
	ip = ctx_at(ctx, off, sizeof(struct ipv6hdr));
	if (!off || !ip)
		return OVS_DROP_SET;
	old_word = OVS_AT32(ip, 0);
	old_limit = OVS_AT16(ip, 6);
	word = bpf_ntohl(old_word);
	word = OVS_MASKED(word, (__u32)op.tclass << 20,
			  (__u32)op.tclass_mask << 20);
	word = OVS_MASKED(word, bpf_ntohl(op.label), bpf_ntohl(op.label_mask));
	limit = OVS_MASKED(old_limit, op.hlimit << 8, op.hlimit_mask << 8);
	diff = OVS_SUM_DIFF(old_word, bpf_htonl(word)) +
	       OVS_SUM_DIFF2(old_limit, limit);
	OVS_AT32(ip, 0) = bpf_htonl(word);
	OVS_AT16(ip, 6) = limit;

#pragma unroll
	for (i = 0; i < 4; i++) {
		old = OVS_AT64(ip, 8 + 8 * i);
		addr[i] = OVS_MASKED(old, ovs_operand(at + i),
				     ovs_operand(at + 4 + i));
		differ |= old ^ addr[i];
		if (i < 2 || !pkt->routing)
			pseudo += ovs_sum_diff8(old, addr[i]);
		diff += ovs_sum_diff8(old, addr[i]);
		OVS_AT64(ip, 8 + 8 * i) = addr[i];
	}
	/* A checksum over the whole packet has all that changes. */
	ctx_csum_update(ctx, ovs_sum_fold(diff));
	if (differ) {
		ctx_hash_clear(ctx);
		pkt->tracked = 0;
		if (pkt->l4_proto) {
			err = ovs_update_l4(ctx, pkt->l4_off, pkt->l4_proto,
					    ovs_sum_fold(pseudo));
			if (err)
				return err;
		}
	}
	if (pkt->key.eth_type != bpf_htons(ETH_P_IPV6))
		return 0;
#pragma unroll
	for (i = 0; i < 4; i++)
		pkt->key.w[OVS_KEY_W(ipv6_src) + i] = addr[i];
	pkt->key.ip_tos = word >> 20;
	pkt->key.ip_ttl = limit >> 8;
	pkt->key.ipv6_label = bpf_htonl(word & 0xfffff);
	return 0;
}

/*
 * The ports that a packet with `old` ones gets from struct ovs_set_tp at `at`:
 * in memory order ports, then their masks.
 */
static __always_inline __u32 ovs_new_ports(__u32 old, __u32 at)
{
	__u64 word = ovs_operand(at);

	return OVS_MASKED(old, ((__u32 *)&word)[0], ((__u32 *)&word)[1]);
}

/*
 * The packet has new ports, and the key.  Where the key had none, the rest of
 * the header may be malformed: ovs_parse() decides.
 */
static __always_inline void ovs_key_ports(struct ovs_pkt *pkt, __u32 ports)
{
	if (pkt->key.tp_src | pkt->key.tp_dst)
		__builtin_memcpy(&pkt->key.tp_src, &ports, sizeof(ports));
	else
		pkt->stale |= OVS_STALE_KEY;
}

/* Ports of TCP or UDP; a later fragment has none. */
__noinline int ovs_set_tp(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			  __u32 at, __u32 proto)
{
	__u64 flags = sizeof(__u32);
	__u32 off, hlen, check, old, new;
	void *tp;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	off = pkt->l4_off;
	if (proto == IPPROTO_TCP) {
		hlen = OVS_TCP_HLEN;
		check = 16;
	} else {
		hlen = OVS_UDP_HLEN;
		check = 6;
		flags |= BPF_F_MARK_MANGLED_0;
	}
	if (pkt->l4_proto != proto || ctx_len(ctx) < off + hlen)
		return OVS_DROP_SET;
	tp = ctx_at(ctx, off, sizeof(old));
	if (!tp)
		return OVS_DROP_SET;
	old = OVS_AT32(tp, 0);
	new = ovs_new_ports(old, at);
	OVS_AT32(tp, 0) = new;
	if (ctx_l4_csum(ctx, off + check, old, new, flags))
		return OVS_DROP_SET;
	ctx_hash_clear(ctx);
	if (old != new)
		pkt->tracked = 0;
	ovs_key_ports(pkt, new);
	return 0;
}

#endif /* OVS_ACT_SET_H */
