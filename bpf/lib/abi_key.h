/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about flow keys. */
#ifndef OVS_ABI_KEY_H
#define OVS_ABI_KEY_H

#include <linux/types.h>

#define OVS_KEY_WORDS		128	/* a power of two: bounds by masking */
#define OVS_KEY_USED		67	/* words that struct ovs_key names */
#define OVS_KEY_BASE		35	/* words before the tunnel options */

#define OVS_MAC_PROTO_ETHERNET	0
#define OVS_MAC_PROTO_NONE	1	/* layer-3 packet, no Ethernet header */

/*
 * The flow key.  Masking, hashing and comparing are operations on w[].
 * A field is zero in the key when the packet does not carry it.
 */
struct ovs_key {
	union {
		__u64 w[OVS_KEY_WORDS];
		struct {
			/* w0, w1: the words that every megaflow matches */
			__u16 in_port;
			__u8 tun_proto;		/* AF_INET, AF_INET6 or 0: no
						 * packet of a tunnel */
			__u8 pad4;
			__u32 recirc_id;
			__be16 eth_type;
			__u8 mac_proto;		/* OVS_MAC_PROTO_* */
			__u8 ip_frag;		/* enum ovs_frag_type */
			__u8 ip_proto;		/* ARP: low byte of op */
			__u8 ip_tos;
			__u8 ip_ttl;
			__u8 ct_state;		/* OVS_CS_F_* */
			/* w2, w3 */
			__u8 eth_dst[6];
			__be16 vlan_tci;	/* VLAN_CFI set when present */
			__u8 eth_src[6];
			__be16 vlan_tpid;
			/* w4 */
			__be16 tp_src;		/* ICMP: htons(type) */
			__be16 tp_dst;		/* ICMP: htons(code) */
			__be16 tcp_flags;
			__u16 ct_zone;
			/* w5 */
			__u32 skb_priority;
			__u32 skb_mark;
			/* w6 .. w9 */
			union {
				struct {
					__be32 ipv4_src; /* ARP: sender */
					__be32 ipv4_dst; /* ARP: target */
				};
				struct {
					__u8 ipv6_src[16];
					__u8 ipv6_dst[16];
				};
			};
			/* w10 */
			__be32 ipv6_label;
			__u16 ipv6_exthdrs;
			__u16 pad0;
			/* w11, w12 */
			__u8 nd_target[16];
			/* w13, w14 */
			union {
				__u8 arp_sha[6];
				__u8 nd_sll[6];
			};
			__be16 cvlan_tci;
			union {
				__u8 arp_tha[6];
				__u8 nd_tll[6];
			};
			__be16 cvlan_tpid;
			/* w15 */
			__u32 dp_hash;
			__u32 ct_mark;
			/* w16, w17 */
			__u8 ct_labels[16];
			/* w18 .. w21 */
			union {
				struct {
					__be32 ct_orig_ipv4_src;
					__be32 ct_orig_ipv4_dst;
				};
				struct {
					__u8 ct_orig_ipv6_src[16];
					__u8 ct_orig_ipv6_dst[16];
				};
			};
			/* w22 */
			__be16 ct_orig_tp_src;
			__be16 ct_orig_tp_dst;
			__u8 ct_orig_proto;
			__u8 pad1[3];
			/* w23, w24 */
			__be32 mpls_lse[3];
			__u32 mpls_labels;	/* bit n: mpls_lse[n] is one */
			/* w25 .. w27 */
			__u8 nsh_flags;
			__u8 nsh_mdtype;
			__u8 nsh_np;
			__u8 nsh_ttl;
			__be32 nsh_path_hdr;
			__be32 nsh_context[4];
			/* w28 */
			__be64 tun_id;
			/* w29 .. w32 */
			union {
				struct {
					__be32 tun_ipv4_src;
					__be32 tun_ipv4_dst;
				};
				struct {
					__u8 tun_ipv6_src[16];
					__u8 tun_ipv6_dst[16];
				};
			};
			/* w33 */
			__be16 tun_flags;
			__u8 tun_tos;
			__u8 tun_ttl;
			__be16 tun_tp_src;
			__be16 tun_tp_dst;
			/* w34 */
			__be32 tun_label;
			__u8 tun_opts_len;
			__u8 pad3[3];
			/* w35 .. w66 */
			__u8 tun_opts[256];
		};
	};
};

/*
 * A tunnel that a packet is to be sent into, in the layout of the key's words
 * from tun_id on.
 */
#define OVS_TUNNEL_WORDS	39
#define OVS_TUNNEL_BASE		7	/* words before the options */
struct ovs_tunnel {
	union {
		__u64 w[OVS_TUNNEL_WORDS];
		struct {
			__be64 id;
			union {
				struct {
					__be32 ipv4_src;
					__be32 ipv4_dst;
				};
				struct {
					__u8 ipv6_src[16];
					__u8 ipv6_dst[16];
				};
			};
			__be16 flags;	/* OVS_TUNNEL_* */
			__u8 tos;
			__u8 ttl;
			__be16 tp_src;
			__be16 tp_dst;
			__be32 label;
			__u8 opts_len;
			__u8 proto;	/* AF_INET or AF_INET6 */
			__u8 pad[2];
			__u8 opts[256];
		};
	};
};

/* Of tun_flags, a be16: TUNNEL_* of <linux/if_tunnel.h>. */
#define OVS_TUNNEL_CSUM			0x0001
#define OVS_TUNNEL_KEY			0x0004
#define OVS_TUNNEL_DONT_FRAGMENT	0x0100
#define OVS_TUNNEL_OAM			0x0200
#define OVS_TUNNEL_GENEVE_OPT		0x0800
#define OVS_TUNNEL_VXLAN_OPT		0x1000
#define OVS_TUNNEL_ERSPAN_OPT		0x4000

#define OVS_AF_INET	2		/* of tun_proto */
#define OVS_AF_INET6	10

_Static_assert(sizeof(struct ovs_tunnel) == OVS_TUNNEL_WORDS * 8,
	       "ovs_tunnel");
_Static_assert(__builtin_offsetof(struct ovs_tunnel, opts) ==
	       OVS_TUNNEL_BASE * 8, "OVS_TUNNEL_BASE");
_Static_assert(__builtin_offsetof(struct ovs_key, tun_id) / 8 +
	       OVS_TUNNEL_BASE == OVS_KEY_BASE, "ovs_tunnel");
_Static_assert(sizeof(struct ovs_key) == OVS_KEY_WORDS * 8, "ovs_key");
_Static_assert(__builtin_offsetof(struct ovs_key, tun_opts) ==
	       OVS_KEY_BASE * 8, "OVS_KEY_BASE");
_Static_assert(__builtin_offsetof(struct ovs_key, tun_opts) + 256 ==
	       OVS_KEY_USED * 8, "OVS_KEY_USED");

#endif /* OVS_ABI_KEY_H */
