/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Flow extract of what IPv6 puts behind its header: extension headers, and
 * the addresses and options of neighbour discovery.  Off the common way, so
 * they copy what they read, and their loops are bpf_loop()s.
 *
 * What a loop decides upon is in the key, not on the stack.  Linux 6.1 verifies
 * the callback of bpf_loop() once, with what is on the stack before the loop:
 * it believes those values to be the only ones and removes what they do not
 * reach (found as wrong bits in ipv6_exthdrs).  What is behind a pointer is
 * unknown to it.
 */
#ifndef OVS_PARSE_IP6_H
#define OVS_PARSE_IP6_H

#include "ctx.h"

#define OVS_IP6_MAX_OFF		16384	/* of the transport header */
#define OVS_IP6_MAX_EXT		64	/* extension headers */

/* Bits of ovs_key.ipv6_exthdrs: OFPIEH12_* of <openvswitch/types.h>. */
#define OVS_IEH_NONEXT		0x001
#define OVS_IEH_AUTH		0x004
#define OVS_IEH_DEST		0x008
#define OVS_IEH_FRAG		0x010
#define OVS_IEH_ROUTER		0x020
#define OVS_IEH_HOP		0x040
#define OVS_IEH_UNREP		0x080
#define OVS_IEH_UNSEQ		0x100
#define OVS_IEH_DEST_TWICE	0x8000	/* while walking */

#define ND_SOLICIT		135
#define ND_ADVERT		136
#define ND_HLEN			24	/* ICMPv6 header and target */
#define ND_MAX_OPTS		256
#define ND_OPT_SLL		1
#define ND_OPT_TLL		2

/*
 * Walk over extension headers.  In the packet's state: key.ip_proto is the
 * type of the header at l4_off, key.ip_frag and key.ipv6_exthdrs what has been
 * found; l4_proto is set when the transport header is reached.
 */
struct ovs_ip6 {
	struct ovs_ctx *ctx;
	struct ovs_pkt *pkt;
};

static __always_inline int ovs_is_ip6_ext(__u8 proto)
{
	return proto == IPPROTO_HOPOPTS || proto == IPPROTO_ROUTING ||
	       proto == IPPROTO_FRAGMENT || proto == IPPROTO_AH ||
	       proto == IPPROTO_NONE || proto == IPPROTO_DSTOPTS;
}

/*
 * Note a header: `bit` is its bit, `before` are the bits of those that may
 * precede it in the order that RFC 8200, 4.1 recommends.
 */
static __always_inline void ovs_ip6_note(struct ovs_key *key, __u16 bit,
					 __u16 before)
{
	__u16 seen = key->ipv6_exthdrs, add = bit;

	if (seen & bit)
		add |= OVS_IEH_UNREP;
	if (seen & ~(before | OVS_IEH_UNREP))
		add |= OVS_IEH_UNSEQ;
	key->ipv6_exthdrs = seen | add;
}

/* Destination options may come before a routing header, and at the end. */
static __always_inline void ovs_ip6_note_dest(struct ovs_key *key)
{
	__u16 seen = key->ipv6_exthdrs, add;

	if (!(seen & OVS_IEH_DEST)) {
		add = OVS_IEH_DEST;
		if (seen & ~(OVS_IEH_HOP | OVS_IEH_UNREP))
			add |= OVS_IEH_UNSEQ;
	} else if (!(seen & OVS_IEH_DEST_TWICE)) {
		add = OVS_IEH_DEST_TWICE;
		if (seen & ~(OVS_IEH_HOP | OVS_IEH_DEST | OVS_IEH_ROUTER |
			     OVS_IEH_FRAG | OVS_IEH_AUTH | OVS_IEH_UNREP))
			add |= OVS_IEH_UNSEQ;
	} else {
		add = OVS_IEH_UNREP;
	}
	key->ipv6_exthdrs = seen | add;
}

/* One header; the walk ends at the transport header, or in the middle. */
static long ovs_ip6_step(__u32 i, struct ovs_ip6 *ip6)
{
	struct ovs_pkt *pkt = ip6->pkt;
	struct ovs_key *key = &pkt->key;
	__u8 proto = key->ip_proto, h[4];	/* type of the next, length, … */
	__u32 off = pkt->l4_off, len;

	switch (proto) {
	case IPPROTO_HOPOPTS:
		if (key->ipv6_exthdrs & OVS_IEH_HOP)
			key->ipv6_exthdrs |= OVS_IEH_UNREP;
		key->ipv6_exthdrs |= key->ipv6_exthdrs ? OVS_IEH_UNSEQ :
							 OVS_IEH_HOP;
		break;
	case IPPROTO_DSTOPTS:
		ovs_ip6_note_dest(key);
		break;
	case IPPROTO_ROUTING:
		ovs_ip6_note(key, OVS_IEH_ROUTER, OVS_IEH_HOP | OVS_IEH_DEST);
		break;
	case IPPROTO_FRAGMENT:
		ovs_ip6_note(key, OVS_IEH_FRAG,
			     OVS_IEH_HOP | OVS_IEH_DEST | OVS_IEH_ROUTER);
		break;
	case IPPROTO_AH:
		ovs_ip6_note(key, OVS_IEH_AUTH,
			     OVS_IEH_HOP | OVS_IEH_DEST | OVS_IEH_ROUTER |
			     OVS_IEH_FRAG);
		break;
	case IPPROTO_NONE:
		key->ipv6_exthdrs |= OVS_IEH_NONEXT;
		/* fallthrough */
	default:
		pkt->l4_proto = proto;
		return 1;
	}

	if (off > OVS_IP6_MAX_OFF || ctx_load(ip6->ctx, off, h, 2))
		return 1;
	len = (h[1] + 1) * 8;
	if (proto == IPPROTO_AH) {
		len = (h[1] + 2) * 4;
	} else if (proto == IPPROTO_ROUTING) {
		if (ctx_load(ip6->ctx, off, h, 4))
			return 1;
		if (h[3])
			pkt->routing = 1;
	} else if (proto == IPPROTO_FRAGMENT) {
		/* Marked even where it is cut short. */
		key->ip_frag = OVS_FRAG_TYPE_FIRST;
		if (ctx_load(ip6->ctx, off, h, 4))
			return 1;
		len = 8;
		if (h[2] || h[3] & 0xf8) {
			/*
			 * Nothing of a later fragment is a header, but the
			 * kernel calls it one only when what the fragment
			 * header names is no extension either.
			 */
			if (!ovs_is_ip6_ext(h[0]) || h[0] == IPPROTO_NONE)
				key->ip_frag = OVS_FRAG_TYPE_LATER;
			return 1;
		}
	}
	key->ip_proto = h[0];
	pkt->l4_off = off + len;
	return 0;
}

/*
 * Go over the extension headers at `off`, the first of type `proto`.  Leaves
 * in key.ip_proto what the key has: the transport protocol, IPPROTO_FRAGMENT
 * of a later fragment, or IPPROTO_NONE when the headers are cut short; in the
 * last two l4_off and l4_proto are 0.
 */
static __always_inline void ovs_parse_ip6_ext(struct ovs_ctx *ctx,
					      struct ovs_pkt *pkt, __u32 off,
					      __u8 proto)
{
	struct ovs_ip6 ip6 = { .ctx = ctx, .pkt = pkt };
	struct ovs_key *key = &pkt->key;

	key->ip_proto = proto;
	key->ip_frag = OVS_FRAG_TYPE_NONE;
	pkt->l4_off = off;
	bpf_loop(OVS_IP6_MAX_EXT, ovs_ip6_step, &ip6, 0);
	key->ipv6_exthdrs &= ~OVS_IEH_DEST_TWICE;
	if (!pkt->l4_proto || pkt->l4_off > OVS_IP6_MAX_OFF) {
		key->ip_proto = key->ip_frag == OVS_FRAG_TYPE_LATER ?
				IPPROTO_FRAGMENT : IPPROTO_NONE;
		pkt->l4_proto = 0;
		pkt->l4_off = 0;
	}
}

struct ovs_nd {
	struct ovs_ctx *ctx;
	struct ovs_key *key;
	__u32 off;		/* of the next option */
	__u32 bad;		/* an address is given twice */
};

static long ovs_nd_step(__u32 i, struct ovs_nd *nd)
{
	__u32 left = ctx_len(nd->ctx) - nd->off, len;
	struct {
		__u8 type;
		__u8 len;
		__u8 addr[6];
	} opt;
	__u8 *addr;

	if (nd->off + 8 > ctx_len(nd->ctx) ||
	    ctx_load(nd->ctx, nd->off, &opt, sizeof(opt)))
		return 1;
	len = opt.len * 8;
	if (!len || len > left)
		return 1;
	if (len == 8 && (opt.type == ND_OPT_SLL || opt.type == ND_OPT_TLL)) {
		addr = opt.type == ND_OPT_SLL ? nd->key->nd_sll :
						nd->key->nd_tll;
		if (addr[0] | addr[1] | addr[2] | addr[3] | addr[4] | addr[5]) {
			nd->bad = 1;
			return 1;
		}
		__builtin_memcpy(addr, opt.addr, sizeof(opt.addr));
	}
	nd->off += len;
	return 0;
}

/* A neighbour solicitation or advertisement at `off`. */
static __always_inline void ovs_parse_nd(struct ovs_ctx *ctx,
					 struct ovs_key *key, __u32 off)
{
	struct ovs_nd nd = { .ctx = ctx, .key = key, .off = off + ND_HLEN };

	if (ctx_len(ctx) < off + ND_HLEN ||
	    ctx_load(ctx, off + 8, key->nd_target, sizeof(key->nd_target)))
		return;
	if (bpf_loop(ND_MAX_OPTS, ovs_nd_step, &nd, 0) == ND_MAX_OPTS)
		nd.bad = 1;
	if (nd.bad) {
		__builtin_memset(key->nd_target, 0, sizeof(key->nd_target));
		__builtin_memset(key->nd_sll, 0, sizeof(key->nd_sll));
		__builtin_memset(key->nd_tll, 0, sizeof(key->nd_tll));
	}
}

#endif /* OVS_PARSE_IP6_H */
