/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow extract: the words of the key that come from the packet, with the
 * results of the kernel datapath's key_extract() (net/openvswitch/flow.c).
 * A header that is short or malformed leaves its fields zero; the packet is
 * still looked up.  Only a frame without an Ethernet header is refused, and a
 * malformed NSH.  Of a layer-3 packet the Ethernet header is no part
 * (act_room.h), only its type counts.
 */
#ifndef OVS_PARSE_H
#define OVS_PARSE_H

#include "frame.h"
#include "parse_encap.h"
#include "parse_ip.h"
#include "parser.h"

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
	union ovs_word dst, src;
	__be16 ctci = 0, ctpid = 0;
	struct ethhdr *eth;

	p->err = OVS_DROP_MALFORMED;
	eth = ctx_at(p->ctx, 0, sizeof(*eth));
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
	dst.w = OVS_MAC_FIRST(OVS_AT64((void *)eth, 0));
	src.w = OVS_MAC_LAST(OVS_AT64((void *)eth, 4));
	p->off = 2 * ETH_ALEN;
	if (likely(!ctx_vlan(p->ctx) && !ovs_is_vlan(eth->h_proto) &&
		   bpf_ntohs(eth->h_proto) >= ETH_P_802_3_MIN)) {
		p->ip.eth_type = eth->h_proto;
		p->off += sizeof(__be16);
	} else {
		if (ctx_vlan(p->ctx)) {
			dst.tag = bpf_htons(ctx_vlan_tci(p->ctx) | VLAN_CFI_MASK);
			src.tag = ctx_vlan_tpid(p->ctx);
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

/*
 * Fill in words 1 to 14 and 23 to 27 of the key and the offsets of the packet's
 * headers; what the key has of metadata stays.  Returns 0, or OVS_DROP_*.
 */
__noinline int ovs_parse(struct ovs_ctx *ctx, struct ovs_pkt *pkt)
{
	struct ovs_parser p = { .ctx = ctx, .pkt = pkt };
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
	if (unlikely(pkt->cpu.dirty & OVS_DIRTY_MPLS)) {
		key->w[23] = 0;
		key->w[24] = 0;
		pkt->cpu.dirty &= ~OVS_DIRTY_MPLS;
	}
	if (unlikely(pkt->cpu.dirty & OVS_DIRTY_NSH)) {
		key->w[25] = 0;
		key->w[26] = 0;
		key->w[27] = 0;
		pkt->cpu.dirty &= ~OVS_DIRTY_NSH;
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
	if (unlikely(p.err == OVS_DROP_PULL) && ctx_is_shared(ctx))
		return OVS_DROP_SHARED;
	return p.err;
}

#endif /* OVS_PARSE_H */
