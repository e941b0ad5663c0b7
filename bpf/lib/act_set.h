/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Masked sets of header fields.  The field is read from the packet, not from
 * the key; the key follows, unless so many tags were pushed that flow extract
 * does not get to the header.  Checksums are updated, not computed, by the
 * kernel's helpers, which know offloaded ones (CHECKSUM_PARTIAL: only the
 * pseudo header counts) and that a UDP checksum of zero stays zero.
 *
 * Global functions, so that the verifier looks at each one once.  They return
 * 0 or OVS_DROP_*; `at` is the index of their operand in ovs_acts.
 */
#ifndef OVS_ACT_SET_H
#define OVS_ACT_SET_H

#include <linux/ip.h>
#include <linux/ipv6.h>

#include "ctx.h"
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

__noinline int ovs_set_eth(struct __sk_buff *skb, struct ovs_pkt *pkt,
			   __u32 at)
{
	struct ovs_set_eth op OVS_WORDS;
	__u16 mac[6], *dst = (__u16 *)op.dst, *src = (__u16 *)op.src;
	__u16 *dst_mask = (__u16 *)op.dst_mask;
	__u16 *src_mask = (__u16 *)op.src_mask;
	int i;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	OVS_OPERAND(&op, at);
	if (ctx_load(skb, 0, mac, sizeof(mac)))
		return OVS_DROP_SET;
#pragma unroll
	for (i = 0; i < 3; i++) {
		mac[i] = OVS_MASKED(mac[i], dst[i], dst_mask[i]);
		mac[i + 3] = OVS_MASKED(mac[i + 3], src[i], src_mask[i]);
	}
	if (bpf_skb_store_bytes(skb, 0, mac, sizeof(mac), 0))
		return OVS_DROP_SET;
	__builtin_memcpy(pkt->key.eth_dst, mac, 6);
	__builtin_memcpy(pkt->key.eth_src, mac + 3, 6);
	return 0;
}

/*
 * Carry a change of addresses, whose sum is `diff`, into the checksum of the
 * transport header.  Without a whole header there is nothing to do.
 */
static __always_inline int ovs_update_l4(struct __sk_buff *skb, __u32 off,
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
	if (ctx_len(skb) < off + hlen)
		return 0;
	return bpf_l4_csum_replace(skb, off + check, 0, diff, flags) ?
	       OVS_DROP_SET : 0;
}

/* By what the sum of words changes: bpf_csum_diff() without the call. */
#define OVS_SUM_DIFF(old, new, words) ({				\
	const __u32 *__old = (const __u32 *)(old);			\
	const __u32 *__new = (const __u32 *)(new);			\
	__u64 __sum = 0;						\
									\
	for (int __i = 0; __i < (words); __i++)				\
		__sum += (__u64)(__u32)~__old[__i] + __new[__i];	\
	__sum = (__sum & 0xffffffff) + (__sum >> 32);			\
	(__u32)(__sum + (__sum >> 32));					\
})

#define OVS_DIFFER(old, new, words) ({					\
	__u32 __differ = 0;						\
									\
	for (int __i = 0; __i < (words); __i++)				\
		__differ |= (old)[__i] ^ (new)[__i];			\
	__differ;							\
})

/* `check` after data whose sum changed by `diff`. */
static __always_inline __sum16 ovs_csum_update(__sum16 check, __s64 diff)
{
	__u64 sum = (__u64)(__u32)diff + (__u16)~check;

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

__noinline int ovs_set_ipv4(struct __sk_buff *skb, struct ovs_pkt *pkt,
			    __u32 at)
{
	struct ovs_set_ipv4 op OVS_WORDS;
	struct iphdr ip, old;
	__u32 diff;
	int err;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	OVS_OPERAND(&op, at);
	if (!pkt->l3_off || ctx_load(skb, pkt->l3_off, &old, sizeof(old)))
		return OVS_DROP_SET;
	ip = old;
	ip.saddr = OVS_MASKED(ip.saddr, op.src, op.src_mask);
	ip.daddr = OVS_MASKED(ip.daddr, op.dst, op.dst_mask);
	ip.tos = OVS_MASKED(ip.tos, op.tos, op.tos_mask);
	ip.ttl = OVS_MASKED(ip.ttl, op.ttl, op.ttl_mask);

	if ((ip.saddr != old.saddr || ip.daddr != old.daddr) &&
	    pkt->l4_proto != IPPROTO_ICMPV6) {
		diff = OVS_SUM_DIFF(&old.saddr, &ip.saddr, 2);
		err = ovs_update_l4(skb, pkt->l4_off, pkt->l4_proto, diff);
		if (err)
			return err;
	}
	diff = OVS_SUM_DIFF(&old, &ip, 5);
	ip.check = ovs_csum_update(old.check, diff);
	if (ctx_store(skb, pkt->l3_off, &ip, sizeof(ip)))
		return OVS_DROP_SET;
	if (pkt->key.eth_type != bpf_htons(ETH_P_IP))
		return 0;
	pkt->key.ipv4_src = ip.saddr;
	pkt->key.ipv4_dst = ip.daddr;
	pkt->key.ip_tos = ip.tos;
	pkt->key.ip_ttl = ip.ttl;
	return 0;
}

/*
 * The destination is not the final one, and counts in no checksum, where a
 * routing header has segments left.
 */
__noinline int ovs_set_ipv6(struct __sk_buff *skb, struct ovs_pkt *pkt,
			    __u32 at)
{
	__u32 ip[10] OVS_WORDS, old[10] OVS_WORDS, word;
	__u64 *addr = (__u64 *)(ip + 2);	/* source, destination */
	struct ovs_set_ipv6 op OVS_WORDS;
	__u32 differ, diff;
	int err, i;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (!pkt->l3_off || ctx_load(skb, pkt->l3_off, old, sizeof(old)))
		return OVS_DROP_SET;
	__builtin_memcpy(ip, old, sizeof(ip));
#pragma unroll
	for (i = 0; i < 4; i++)
		addr[i] = OVS_MASKED(addr[i], ovs_operand(at + i),
				     ovs_operand(at + 4 + i));
	/* Only what follows the addresses. */
	((__u64 *)&op)[8] = ovs_operand(at + 8);
	((__u64 *)&op)[9] = ovs_operand(at + 9);
	word = bpf_ntohl(ip[0]);
	word = OVS_MASKED(word, (__u32)op.tclass << 20,
			  (__u32)op.tclass_mask << 20);
	word = OVS_MASKED(word, bpf_ntohl(op.label), bpf_ntohl(op.label_mask));
	ip[0] = bpf_htonl(word);
	((__u8 *)ip)[7] = OVS_MASKED(((__u8 *)ip)[7], op.hlimit,
				     op.hlimit_mask);

	differ = OVS_DIFFER(old + 2, ip + 2, 4);
	diff = OVS_SUM_DIFF(old + 2, ip + 2, 4);
	if (!pkt->routing && OVS_DIFFER(old + 6, ip + 6, 4)) {
		differ = 1;
		diff = OVS_SUM_DIFF(old + 2, ip + 2, 8);
	}
	if (differ && pkt->l4_proto) {
		err = ovs_update_l4(skb, pkt->l4_off, pkt->l4_proto, diff);
		if (err)
			return err;
	}
	if (ctx_store_csum(skb, pkt->l3_off, ip, sizeof(ip)))
		return OVS_DROP_SET;
	if (pkt->key.eth_type != bpf_htons(ETH_P_IPV6))
		return 0;
	__builtin_memcpy(pkt->key.ipv6_src, ip + 2, 32);
	pkt->key.ip_tos = word >> 20;
	pkt->key.ip_ttl = ((__u8 *)ip)[7];
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
__noinline int ovs_set_tp(struct __sk_buff *skb, struct ovs_pkt *pkt,
			  __u32 at, __u32 proto)
{
	__u64 flags = sizeof(__u32);
	__u32 off, hlen, check, old, new;

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
	if (pkt->l4_proto != proto || ctx_len(skb) < off + hlen ||
	    ctx_load(skb, off, &old, sizeof(old)))
		return OVS_DROP_SET;

	new = ovs_new_ports(old, at);
	if (bpf_l4_csum_replace(skb, off + check, old, new, flags) ||
	    ctx_store(skb, off, &new, sizeof(new)))
		return OVS_DROP_SET;
	ovs_key_ports(pkt, new);
	return 0;
}

#endif /* OVS_ACT_SET_H */
