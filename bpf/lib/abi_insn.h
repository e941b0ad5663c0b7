/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about instructions. */
#ifndef OVS_ABI_INSN_H
#define OVS_ABI_INSN_H

#include <linux/types.h>

#define OVS_MAX_INSNS		65536	/* more than any list of actions has */

/*
 * Instructions: what the provider compiles a list of actions into.  An
 * instruction is one word, and `len` words of data after it, in ovs_acts.
 */
enum ovs_op {
	OVS_OP_END,		/* end of the list; drop when nothing was sent */
	OVS_OP_OUTPUT,		/* imm: port; a copy is sent */
	OVS_OP_OUTPUT_LAST,	/* imm: port; the packet itself goes; ends */
	OVS_OP_USERSPACE,	/* imm: descriptor; upcall, then go on */
	OVS_OP_RECIRC,		/* imm: recirc_id; a copy is looked up again */
	OVS_OP_RECIRC_LAST,	/* imm: recirc_id; the packet itself; ends */
	OVS_OP_DROP,		/* imm: error code or 0; ends */
	OVS_OP_PUSH_VLAN,	/* arg: tpid (be16), imm: tci (be16) */
	OVS_OP_POP_VLAN,
	OVS_OP_SET_PRIORITY,	/* imm: value; data: mask */
	OVS_OP_SET_MARK,	/* imm: value; data: mask */
	OVS_OP_SET_ETH,		/* data: struct ovs_set_eth */
	OVS_OP_SET_IPV4,	/* data: struct ovs_set_ipv4 */
	OVS_OP_SET_IPV6,	/* data: struct ovs_set_ipv6 */
	OVS_OP_SET_TP,		/* arg: IPPROTO_TCP/UDP; data: ovs_set_tp */
	OVS_OP_HEADER,		/* arg: enum ovs_header; push, pop, set one */
	OVS_OP_TRUNC,		/* imm: bytes that the next copy keeps; 0: all */
	OVS_OP_JUMP,		/* imm: words, from the next instruction */
	OVS_OP_CLONE,		/* imm: words of the block that follows, which
				 * a copy runs; the packet goes on after it */
	OVS_OP_SAMPLE,		/* imm: probability; data: words to jump over
				 * when it does not happen */
	OVS_OP_CHECK_PKT_LEN,	/* imm: length; data: words to jump over when
				 * the packet is longer */
	OVS_OP_HASH,		/* imm: basis; of layer 4, into dp_hash */
	OVS_OP_DEC_TTL,		/* imm: a block for packets whose TTL ends
				 * follows; data: its words, to jump over */
	OVS_OP_METER,		/* imm: id; a packet that exceeds it is dropped,
				 * or, in a block that leaves the packet as it
				 * is, jumps over the words that data says */
	OVS_OP_CT,		/* arg: zone; imm: OVS_CTA_*, and a row of
				 * ovs_ct_policy; data, when it commits:
				 * struct ovs_act_ct */
	OVS_OP_CT_CLEAR,
	OVS_OP_MAX,
};

/*
 * What OVS_OP_HEADER does to a header that few flows touch: it pushes, pops or
 * sets it.
 */
enum ovs_header {
	OVS_HEADER_PUSH_MPLS,	/* imm: entry (be32); data: type (be16) */
	OVS_HEADER_ADD_MPLS,	/* likewise, before the Ethernet header */
	OVS_HEADER_POP_MPLS,	/* imm: type of what follows (be16) */
	OVS_HEADER_POP_MPLS_ETH, /* what follows begins with Ethernet */
	OVS_HEADER_SET_MPLS,	/* imm: value (be32); data: mask (be32) */
	OVS_HEADER_PUSH_ETH,	/* data: dst, 2 bytes, src, 2 bytes */
	OVS_HEADER_POP_ETH,
	OVS_HEADER_PUSH_NSH,	/* imm: bytes of the header, which are the data;
				 * its next protocol is filled in */
	OVS_HEADER_POP_NSH,
	OVS_HEADER_SET_NSH,	/* data: struct ovs_set_nsh */
	OVS_HEADER_SET_SCTP,	/* data: struct ovs_set_tp */
	OVS_HEADER_SET_TUNNEL,	/* imm: words of struct ovs_tunnel, the data */
	OVS_HEADER_MAX,
};

/* imm of OVS_OP_CT: how. */
#define OVS_CTA_COMMIT		0x0001
#define OVS_CTA_FORCE		0x0002	/* a commit, in this direction */
#define OVS_CTA_NAT		0x0004	/* as it is said when it begins */
#define OVS_CTA_NAT_SRC		0x0008
#define OVS_CTA_NAT_DST		0x0010
#define OVS_CTA_NAT_IPS		0x0020	/* to addresses from min to max */
#define OVS_CTA_NAT_PORTS	0x0040	/* to ports, or ICMP ids */
#define OVS_CTA_NAT_PERSISTENT	0x0080	/* each source has its address */
#define OVS_CTA_NAT_RANDOM	0x0100	/* ports by chance */
#define OVS_CTA_MARK		0x0200
#define OVS_CTA_LABELS		0x0400
#define OVS_CTA_POLICY_SHIFT	16

struct ovs_insn {
	__u8 op;		/* enum ovs_op */
	__u8 len;		/* data words after this one */
	__u16 arg;
	__u32 imm;
};

/* Operands of masked sets: new = (old & ~mask) | value; value has no bit
 * outside of mask. */
struct ovs_set_eth {		/* 4 words: the layout of key words 2 and 3 */
	__u8 dst[6];
	__u8 pad0[2];
	__u8 src[6];
	__u8 pad1[2];
	__u8 dst_mask[6];
	__u8 pad2[2];
	__u8 src_mask[6];
	__u8 pad3[2];
};

struct ovs_set_ipv4 {		/* 3 words */
	__be32 src;
	__be32 dst;
	__be32 src_mask;
	__be32 dst_mask;
	__u8 tos;
	__u8 tos_mask;
	__u8 ttl;
	__u8 ttl_mask;
	__u32 pad;
};

struct ovs_set_ipv6 {		/* 10 words */
	__u8 src[16];
	__u8 dst[16];
	__u8 src_mask[16];
	__u8 dst_mask[16];
	__be32 label;
	__be32 label_mask;
	__u8 tclass;
	__u8 tclass_mask;
	__u8 hlimit;
	__u8 hlimit_mask;
	__u32 pad;
};

struct ovs_set_tp {		/* 1 word */
	__be16 src;
	__be16 dst;
	__be16 src_mask;
	__be16 dst_mask;
};

struct ovs_set_nsh {		/* 6 words: the header as in the packet */
	__u8 base[8];
	__u8 context[16];	/* of metadata type 1 */
	__u8 base_mask[8];
	__u8 context_mask[16];
};

struct ovs_act_ct {		/* 10 words */
	__u32 mark;
	__u32 mark_mask;
	__u8 labels[16];	/* no bit outside of the mask */
	__u8 labels_mask[16];
	__u8 min_addr[16];	/* IPv4: the first four bytes */
	__u8 max_addr[16];
	__u16 min_port;		/* host order */
	__u16 max_port;
	__u16 helper;		/* OVS_CT_HELPER_*; 0: none */
	__u16 pad;
};

_Static_assert(sizeof(struct ovs_insn) == 8, "ovs_insn");
_Static_assert(sizeof(struct ovs_act_ct) == 80, "ovs_act_ct");
_Static_assert(sizeof(struct ovs_set_eth) == 32, "ovs_set_eth");
_Static_assert(sizeof(struct ovs_set_ipv4) == 24, "ovs_set_ipv4");
_Static_assert(sizeof(struct ovs_set_ipv6) == 80, "ovs_set_ipv6");
_Static_assert(sizeof(struct ovs_set_tp) == 8, "ovs_set_tp");
_Static_assert(sizeof(struct ovs_set_nsh) == 48, "ovs_set_nsh");

#endif /* OVS_ABI_INSN_H */
