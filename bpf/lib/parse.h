/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow extract: the words of the key that come from the packet, with the
 * results of the kernel datapath's key_extract() (net/openvswitch/flow.c).
 * A header that is short or malformed leaves its fields zero; the packet is
 * still looked up.  Only a frame without an Ethernet header is refused, and a
 * malformed NSH.  Of a layer-3 packet the Ethernet header is no part
 * (act_encap.h), only its type counts.
 *
 * Words are put together in registers and stored whole: the lookup reads them
 * whole soon afterwards, and a load that spans several stores has to wait.
 */
#ifndef OVS_PARSE_H
#define OVS_PARSE_H

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "ctx.h"
#include "parse_ip6.h"

#define ARPHRD_ETHER		1
#define ICMP_HLEN		8
#define IP_MF			0x2000
#define IP_OFFSET		0x1fff
#define SCTP_HLEN		12
#define MPLS_HLEN		4
#define MPLS_BOS		0x100
#define MPLS_KEY_LABELS		3
#define MPLS_MAX_LABELS		64
#define NSH_BASE_HLEN		8
#define NSH_MD1_HLEN		24
#define NSH_MD1			1
#define NSH_MD2			2

#define OVS_SKB_GSO_UDP		(1 << 16)	/* SKB_GSO_UDP: UFO */

/* Key words 1 to 4 while they are put together. */
union ovs_word {
	__u64 w;
	struct {
		__be16 eth_type;
		__u8 mac_proto;
		__u8 ip_frag;
		__u8 ip_proto;
		__u8 ip_tos;
		__u8 ip_ttl;
		__u8 ct_state;
	};
	struct {
		__u8 mac[6];
		__be16 tag;
	};
	struct {
		__be16 tp_src;
		__be16 tp_dst;
		__be16 tcp_flags;
		__u16 ct_zone;
	};
};

/* What the layers hand to each other. */
struct ovs_parser {
	struct __sk_buff *skb;
	struct ovs_pkt *pkt;
	union ovs_word ip;	/* w1 */
	union ovs_word tp;	/* w4 */
	__u32 off;		/* of the header that comes next */
	int err;		/* OVS_DROP_* */
};

/* `n` bytes at `p->off`; NULL when the packet is shorter, or on an error. */
static __always_inline void *ovs_parse_at(struct ovs_parser *p, __u32 n)
{
	void *at = ctx_at(p->skb, p->off, n);

	if (unlikely(!at && ctx_len(p->skb) >= p->off + n))
		p->err = OVS_DROP_PULL;
	return at;
}

/* A VLAN tag in the frame at `p->off`, where the Ethernet type is. */
static __always_inline int ovs_parse_tag(struct ovs_parser *p, __be16 *tci,
					 __be16 *tpid)
{
	__be16 *tag = ovs_parse_at(p, VLAN_HLEN + sizeof(__be16));

	if (!tag || !ovs_is_vlan(tag[0]))
		return 0;
	*tpid = tag[0];
	*tci = tag[1] | bpf_htons(VLAN_CFI_MASK);
	p->off += VLAN_HLEN;
	return 1;
}

/* The Ethernet type at `p->off`, or that of an LLC/SNAP header. */
static __always_inline void ovs_parse_type(struct ovs_parser *p)
{
	__be16 *type = ovs_parse_at(p, sizeof(*type));
	__u8 *llc;

	p->ip.eth_type = bpf_htons(ETH_P_802_2);
	if (!type)
		return;
	p->off += sizeof(*type);
	if (likely(bpf_ntohs(*type) >= ETH_P_802_3_MIN)) {
		p->ip.eth_type = *type;
		return;
	}
	llc = ovs_parse_at(p, 8);
	if (!llc || llc[0] != 0xaa || llc[1] != 0xaa ||
	    (llc[3] | llc[4] | llc[5]))
		return;
	p->off += 8;
	type = (__be16 *)(llc + 6);
	if (bpf_ntohs(*type) >= ETH_P_802_3_MIN)
		p->ip.eth_type = *type;
}

static __always_inline void ovs_parse_eth(struct ovs_parser *p)
{
	struct ovs_key *key = &p->pkt->key;
	union ovs_word dst = {}, src = {};
	__be16 ctci = 0, ctpid = 0;
	struct ethhdr *eth;

	p->err = OVS_DROP_MALFORMED;
	eth = ctx_at(p->skb, 0, sizeof(*eth));
	if (!eth)
		return;
	p->err = 0;
	if (unlikely(p->ip.mac_proto != OVS_MAC_PROTO_ETHERNET)) {
		if (ovs_is_vlan(eth->h_proto))
			p->err = OVS_DROP_MALFORMED;
		p->ip.eth_type = eth->h_proto;
		p->off = sizeof(*eth);
		key->w[2] = 0;
		key->w[3] = 0;
		return;
	}
	__builtin_memcpy(dst.mac, eth->h_dest, sizeof(dst.mac));
	__builtin_memcpy(src.mac, eth->h_source, sizeof(src.mac));
	p->off = 2 * ETH_ALEN;
	if (likely(!ctx_get(p->skb, vlan_present) && !ovs_is_vlan(eth->h_proto) &&
		   bpf_ntohs(eth->h_proto) >= ETH_P_802_3_MIN)) {
		p->ip.eth_type = eth->h_proto;
		p->off += sizeof(__be16);
	} else {
		if (ctx_get(p->skb, vlan_present)) {
			dst.tag = bpf_htons(ctx_get(p->skb, vlan_tci) | VLAN_CFI_MASK);
			src.tag = ctx_get(p->skb, vlan_proto);
			ovs_parse_tag(p, &ctci, &ctpid);
		} else if (ovs_parse_tag(p, &dst.tag, &src.tag)) {
			ovs_parse_tag(p, &ctci, &ctpid);
		}
		ovs_parse_type(p);
		key->cvlan_tci = ctci;
		key->cvlan_tpid = ctpid;
	}
	key->w[2] = dst.w;
	key->w[3] = src.w;
}

/* TCP, UDP, SCTP and ICMP at `p->off`; ICMPv6 has its own. */
static __always_inline void ovs_parse_l4(struct ovs_parser *p)
{
	if (p->ip.ip_proto == IPPROTO_TCP) {
		struct tcphdr *tcp = ovs_parse_at(p, sizeof(*tcp));
		__u32 hlen;

		if (!tcp)
			return;
		hlen = tcp->doff * 4;
		if (hlen < sizeof(*tcp) || ctx_len(p->skb) < p->off + hlen)
			return;
		p->tp.tp_src = tcp->source;
		p->tp.tp_dst = tcp->dest;
		p->tp.tcp_flags = ((__be16 *)tcp)[6] & bpf_htons(0x0fff);
	} else if (p->ip.ip_proto == IPPROTO_UDP) {
		struct udphdr *udp = ovs_parse_at(p, sizeof(*udp));

		if (!udp)
			return;
		p->tp.tp_src = udp->source;
		p->tp.tp_dst = udp->dest;
	} else if (p->ip.ip_proto == IPPROTO_SCTP) {
		__be16 *sctp = ovs_parse_at(p, SCTP_HLEN);

		if (!sctp)
			return;
		p->tp.tp_src = sctp[0];
		p->tp.tp_dst = sctp[1];
	}
}

/* A UDP packet that is still to be cut into fragments is a first one. */
static __always_inline int ovs_is_ufo(struct ovs_parser *p)
{
	return p->ip.ip_proto == IPPROTO_UDP && ctx_get(p->skb, gso_size) &&
	       ctx_gso_type(p->skb) & OVS_SKB_GSO_UDP;
}

static __always_inline void ovs_parse_ipv4(struct ovs_parser *p)
{
	struct ovs_key *key = &p->pkt->key;
	__u32 hlen, frag;
	struct iphdr *ip;

	ip = ovs_parse_at(p, sizeof(*ip));
	if (!ip)
		return;
	hlen = ip->ihl * 4;
	if (hlen < sizeof(*ip) || ctx_len(p->skb) < p->off + hlen)
		return;
	p->pkt->l3_off = p->off;
	p->ip.ip_proto = ip->protocol;
	p->ip.ip_tos = ip->tos;
	p->ip.ip_ttl = ip->ttl;
	key->ipv4_src = ip->saddr;
	key->ipv4_dst = ip->daddr;
	frag = bpf_ntohs(ip->frag_off);
	p->off += hlen;
	p->pkt->l4_off = p->off;

	if (frag & IP_OFFSET) {
		p->ip.ip_frag = OVS_FRAG_TYPE_LATER;
		return;
	}
	p->pkt->l4_proto = p->ip.ip_proto;
	if (frag & IP_MF || ovs_is_ufo(p))
		p->ip.ip_frag = OVS_FRAG_TYPE_FIRST;
	if (p->ip.ip_proto == IPPROTO_ICMP) {
		__u8 *icmp = ovs_parse_at(p, ICMP_HLEN);

		if (!icmp)
			return;
		p->tp.tp_src = bpf_htons(icmp[0]);
		p->tp.tp_dst = bpf_htons(icmp[1]);
	} else {
		ovs_parse_l4(p);
	}
}

static __always_inline void ovs_parse_ipv6(struct ovs_parser *p)
{
	struct ovs_key *key = &p->pkt->key;
	struct ipv6hdr *nh;
	__u32 word;

	nh = ovs_parse_at(p, sizeof(*nh));
	if (!nh)
		return;
	p->pkt->l3_off = p->off;
	word = bpf_ntohl(*(__be32 *)nh);
	p->ip.ip_proto = nh->nexthdr;
	p->ip.ip_tos = word >> 20;
	p->ip.ip_ttl = nh->hop_limit;
	key->ipv6_label = bpf_htonl(word & 0xfffff);
	__builtin_memcpy(key->ipv6_src, &nh->saddr, 32);
	p->off += sizeof(*nh);

	if (unlikely(ovs_is_ip6_ext(p->ip.ip_proto))) {
		ovs_parse_ip6_ext(p->skb, p->pkt, p->off, p->ip.ip_proto);
		p->ip.ip_proto = key->ip_proto;
		p->ip.ip_frag = key->ip_frag;
		p->off = p->pkt->l4_off;
		if (!p->off)
			return;
	} else {
		p->pkt->l4_off = p->off;
		p->pkt->l4_proto = p->ip.ip_proto;
	}
	if (ovs_is_ufo(p))
		p->ip.ip_frag = OVS_FRAG_TYPE_FIRST;
	if (p->ip.ip_proto == IPPROTO_ICMPV6) {
		__u8 *icmp = ovs_parse_at(p, ICMP_HLEN);

		if (!icmp)
			return;
		p->tp.tp_src = bpf_htons(icmp[0]);
		p->tp.tp_dst = bpf_htons(icmp[1]);
		if (p->tp.tp_dst == 0 &&
		    (p->tp.tp_src == bpf_htons(ND_SOLICIT) ||
		     p->tp.tp_src == bpf_htons(ND_ADVERT)))
			ovs_parse_nd(p->skb, key, p->off);
	} else {
		ovs_parse_l4(p);
	}
}

struct ovs_arp {
	__be16 hrd;
	__be16 pro;
	__u8 hln;
	__u8 pln;
	__be16 op;
	__u8 sha[6];
	__u8 sip[4];
	__u8 tha[6];
	__u8 tip[4];
};

static __always_inline void ovs_parse_arp(struct ovs_parser *p)
{
	struct ovs_key *key = &p->pkt->key;
	struct ovs_arp *arp;

	arp = ovs_parse_at(p, sizeof(*arp));
	if (!arp || arp->hrd != bpf_htons(ARPHRD_ETHER) ||
	    arp->pro != bpf_htons(ETH_P_IP) || arp->hln != ETH_ALEN ||
	    arp->pln != 4)
		return;
	if (bpf_ntohs(arp->op) <= 0xff)
		p->ip.ip_proto = bpf_ntohs(arp->op);
	__builtin_memcpy(&key->ipv4_src, arp->sip, sizeof(arp->sip));
	__builtin_memcpy(&key->ipv4_dst, arp->tip, sizeof(arp->tip));
	__builtin_memcpy(key->arp_sha, arp->sha, sizeof(arp->sha));
	__builtin_memcpy(key->arp_tha, arp->tha, sizeof(arp->tha));
}

struct ovs_mpls {
	struct __sk_buff *skb;
	struct ovs_key *key;
	__u32 off;
	__u32 labels;		/* as ovs_key.mpls_labels; 0 until the bottom */
};

static long ovs_parse_lse(__u32 i, struct ovs_mpls *mpls)
{
	__be32 lse;

	if (ctx_load(mpls->skb, mpls->off + i * MPLS_HLEN, &lse, sizeof(lse)))
		return 1;
	if (i < MPLS_KEY_LABELS)
		mpls->key->mpls_lse[i] = lse;
	if (!(lse & bpf_htonl(MPLS_BOS)))
		return 0;
	mpls->labels = i == 0 ? 1 : i == 1 ? 3 : 7;
	return 1;
}

static __always_inline void ovs_parse_mpls(struct ovs_parser *p)
{
	struct ovs_mpls mpls = {
		.skb = p->skb, .key = &p->pkt->key, .off = p->off,
	};

	p->pkt->dirty |= OVS_DIRTY_MPLS;
	p->pkt->l3_off = p->off;
	bpf_loop(MPLS_MAX_LABELS, ovs_parse_lse, &mpls, 0);
	p->pkt->key.mpls_labels = mpls.labels;
}

/* NSH, of which a malformed one is refused. */
static __always_inline void ovs_parse_nsh(struct ovs_parser *p)
{
	struct ovs_key *key = &p->pkt->key;
	__u32 word, len;
	__u8 *nsh;

	p->pkt->dirty |= OVS_DIRTY_NSH;
	p->pkt->l3_off = p->off;
	nsh = ovs_parse_at(p, NSH_BASE_HLEN);
	if (!nsh)
		goto bad;
	word = bpf_ntohs(*(__be16 *)nsh);
	len = (word & 0x3f) * 4;
	key->nsh_flags = word >> 12 & 3;
	key->nsh_ttl = word >> 6 & 0x3f;
	key->nsh_mdtype = nsh[2];
	key->nsh_np = nsh[3];
	key->nsh_path_hdr = *(__be32 *)(nsh + 4);
	if (word >> 14 || ctx_len(p->skb) < p->off + len)
		goto bad;
	if (key->nsh_mdtype == NSH_MD2)
		return;
	if (key->nsh_mdtype != NSH_MD1 || len != NSH_MD1_HLEN)
		goto bad;
	nsh = ovs_parse_at(p, NSH_MD1_HLEN);
	if (!nsh)
		goto bad;
	__builtin_memcpy(key->nsh_context, nsh + NSH_BASE_HLEN,
			 sizeof(key->nsh_context));
	return;
bad:
	if (!p->err)
		p->err = OVS_DROP_MALFORMED;
}

/*
 * Fill in words 1 to 14 and 23 to 27 of the key and the offsets of the packet's
 * headers; what the key has of metadata stays.  Returns 0, or OVS_DROP_*.
 */
__noinline int ovs_parse(struct __sk_buff *skb, struct ovs_pkt *pkt)
{
	struct ovs_parser p = { .skb = skb, .pkt = pkt };
	struct ovs_key *key;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	key = &pkt->key;
	p.ip.mac_proto = key->mac_proto;
	p.ip.ct_state = key->ct_state;
	p.tp.ct_zone = key->ct_zone;
#pragma unroll
	for (int i = 6; i < 15; i++)
		key->w[i] = 0;
	if (unlikely(pkt->dirty & OVS_DIRTY_MPLS)) {
		key->w[23] = 0;
		key->w[24] = 0;
		pkt->dirty &= ~OVS_DIRTY_MPLS;
	}
	if (unlikely(pkt->dirty & OVS_DIRTY_NSH)) {
		key->w[25] = 0;
		key->w[26] = 0;
		key->w[27] = 0;
		pkt->dirty &= ~OVS_DIRTY_NSH;
	}
	pkt->l3_off = 0;
	pkt->l4_off = 0;
	pkt->l4_proto = 0;
	pkt->routing = 0;
	pkt->stale = 0;

	ovs_parse_eth(&p);
	if (p.err)
		return p.err;
	if (p.ip.eth_type == bpf_htons(ETH_P_IP))
		ovs_parse_ipv4(&p);
	else if (p.ip.eth_type == bpf_htons(ETH_P_IPV6))
		ovs_parse_ipv6(&p);
	else if (p.ip.eth_type == bpf_htons(ETH_P_ARP) ||
		 p.ip.eth_type == bpf_htons(ETH_P_RARP))
		ovs_parse_arp(&p);
	else if (p.ip.eth_type == bpf_htons(ETH_P_MPLS_UC) ||
		 p.ip.eth_type == bpf_htons(ETH_P_MPLS_MC))
		ovs_parse_mpls(&p);
	else if (p.ip.eth_type == bpf_htons(ETH_P_NSH))
		ovs_parse_nsh(&p);
	key->w[1] = p.ip.w;
	key->w[4] = p.tp.w;
	return p.err;
}

#endif /* OVS_PARSE_H */
