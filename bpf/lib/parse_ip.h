/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow extract of IPv4, IPv6, ARP and of what IP carries.
 */
#ifndef OVS_PARSE_IP_H
#define OVS_PARSE_IP_H

#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/tcp.h>
#include <linux/udp.h>

#include "parse_ip6.h"
#include "parser.h"

#define ARPHRD_ETHER		1
#define ICMP_HLEN		8
#define IP_MF			0x2000
#define IP_OFFSET		0x1fff
#define SCTP_HLEN		12

#define OVS_SKB_GSO_UDP		(1 << 16)	/* SKB_GSO_UDP: UFO */

/* TCP, UDP, SCTP and ICMP at `p->off`; ICMPv6 has its own. */
static __always_inline void ovs_parse_l4(struct ovs_parser *p)
{
	if (p->ip.ip_proto == IPPROTO_TCP) {
		struct tcphdr *tcp = ovs_parse_at(p, sizeof(*tcp));
		__u32 hlen;

		if (!tcp)
			return;
		hlen = tcp->doff * 4;
		if (hlen < sizeof(*tcp) || ctx_len(p->ctx) < p->off + hlen)
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
	return p->ip.ip_proto == IPPROTO_UDP && ctx_gso(p->ctx) &&
	       ctx_gso_type(p->ctx) & OVS_SKB_GSO_UDP;
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
	if (hlen < sizeof(*ip) || ctx_len(p->ctx) < p->off + hlen)
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
		ovs_parse_ip6_ext(p->ctx, p->pkt, p->off, p->ip.ip_proto);
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
			ovs_parse_nd(p->ctx, key, p->off);
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

#endif /* OVS_PARSE_IP_H */
