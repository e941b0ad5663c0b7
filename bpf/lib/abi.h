/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Every structure and constant that the programs share with the provider
 * (dpif_bpf/abi.py mirrors this file; tests/unit/test_abi.py compares the two
 * through the BTF of the compiled object).
 *
 * Byte order: fields that come from packets keep network order, everything
 * else is in host order.
 */
#ifndef OVS_ABI_H
#define OVS_ABI_H

#include <linux/types.h>

#include "abi_meter.h"

#define OVS_ABI_VERSION		2

#define OVS_MAX_PORTS		65536	/* DP_MAX_PORTS + 1 */
#define OVS_MAX_BRIDGES		1024	/* 0: ports that no bridge owns */
#define OVS_KEY_WORDS		128	/* a power of two: bounds by masking */
#define OVS_KEY_USED		67	/* words that struct ovs_key names */
#define OVS_KEY_BASE		35	/* words before the tunnel options */
#define OVS_LEVELS		8	/* per-CPU packet states, power of two */
#define OVS_DEV_CACHE		256	/* devices in ovs_cpu, power of two */
#define OVS_MAX_NESTING		5	/* as the kernel datapath */
#define OVS_MAX_RECIRC		30	/* of one packet, as the kernel datapath */
/*
 * What the deferred copies of one packet, and their copies, may cause
 * together: so many lookups, and a copy counts as OVS_COPY_COST of them, which
 * take about as long.  What the packet itself causes is not counted: its lists
 * of actions say how much that is, and are OVS_MAX_RECIRC + 1 at most.
 *
 * The kernel datapath makes copies within three levels at once, as many as
 * there are, and defers ten beyond them.  This is more than it makes of lists
 * of seven copies each (7 * 7 + 7 * 7 * 7), and at most half of what a CPU's
 * backlog holds (netdev_max_backlog, 1000).
 */
#define OVS_COPY_BUDGET		2048
#define OVS_COPY_COST		4
#define OVS_MAX_INSNS		65536	/* more than any list of actions has */
#define OVS_EXEC_SLOTS		1024	/* owned by the provider */
#define OVS_DEFER_SLOTS		4096	/* owned by the programs */
#define OVS_SLOTS		(OVS_EXEC_SLOTS + OVS_DEFER_SLOTS)
#define OVS_SLOT_BITS		13	/* of a mark: index, plus 1 */

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
			__u32 in_port;
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
			__u8 tun_proto;		/* AF_INET, AF_INET6 or 0 */
			__u16 pad3;
			/* w35 .. w66 */
			__u8 tun_opts[256];
		};
	};
};

/* How far a packet has come in a list of actions. */
struct ovs_pkt_list {
	__u32 pc;		/* next instruction, index into ovs_acts */
	__u32 since;		/* when the list began, if copies of it were
				 * deferred: as in a slot's state */
	__u32 copies;		/* deferred, until the rest is deferred, too */
	__u8 sent;		/* this list of actions made a copy */
	__u8 next;		/* enum ovs_stage that the actions wait for */
	__u16 pad;
};

/*
 * What a CPU keeps from one packet to the next at the same level: what the last
 * one left behind in the key, and whether the cache of the classifier pays
 * (lookup.h).
 */
#define OVS_DIRTY_META	1	/* w15 .. w22 or w28 .. w34 are not all zero */
#define OVS_DIRTY_MPLS	2	/* w23, w24 are not all zero */
#define OVS_DIRTY_NSH	4	/* w25 .. w27 are not all zero */
struct ovs_pkt_cpu {
	__u32 dirty;		/* OVS_DIRTY_* */
	__u32 cache_on;
	__u32 cache_left;	/* lookups until it is judged again */
	__u32 cache_hits;	/* since it was judged */
	__u32 cache_probes;	/* of lookups that it did not answer */
	__u32 cache_depth;	/* probes of such a lookup, in sixteenths */
	__u32 cache_wait;	/* periods without it when it does not pay */
	__u32 cache_period;	/* lookups from the last time to the next */
};

/*
 * State of one packet in flight, in ovs_cpu.pkt[level].  Its own fields are
 * about the packet, `list` is about the list of actions that it is in, and
 * `cpu` outlives it.  entry.h says what the entry must fill in.
 */
#define OVS_STALE_KEY		1	/* the key */
#define OVS_STALE_OFFSETS	2	/* the offsets of headers */
#define OVS_PKT_F_COPY		1	/* deferred, not the packet that came
					 * in */
#define OVS_PKT_F_ONE_OUTPUT	2	/* a copy for the output at pc, which
					 * truncates it, and no more */
struct ovs_pkt {
	struct ovs_key key;
	__u32 bridge;
	__u32 slot;		/* mark of the one to free at the exit; 0: none */
	__u32 flow;		/* id of the flow that matched */
	__u32 cutlen;		/* bytes that OP_TRUNC cuts from the next copy */
	__u32 upcall_desc;	/* OP_USERSPACE descriptor */
	__s32 verdict;		/* what the program returns */
	__u32 probes;		/* hash probes of the last lookup */
	__u32 exact;		/* line of ovs_exact to fill in, plus 1 */
	__u16 l3_off;		/* in the frame; 0 when there is none */
	__u16 l4_off;
	__u16 family;		/* see struct ovs_slot */
	__u8 l4_proto;		/* of the header at l4_off; 0: later fragment */
	__u8 routing;		/* an IPv6 routing header has segments left */
	__u8 flags;		/* OVS_PKT_F_* */
	__u8 recirc_depth;
	__u8 stale;		/* OVS_STALE_*: not the packet's any more */
	__u8 parsed;		/* the entry did */
	__u8 cached;		/* the last lookup was answered by the cache */
	__u8 upcall_cmd;	/* OVS_PACKET_CMD_* */
	__u8 drop;		/* enum ovs_drop_reason for the exit */
	__u8 pad;
	struct ovs_pkt_list list;
	__u64 cache_hash;	/* of the key, when the cache was asked */
	struct ovs_pkt_cpu cpu;
};

/* A device's port, as the entry last found it: true while ovs_ports says so. */
struct ovs_dev {
	__u32 ifindex;
	__u32 port_no;
};

struct ovs_cpu {
	__u32 level;		/* packets in flight: entries of pkt in use */
	__u32 defer_next;	/* where to look for a free deferral slot */
	__u64 tick;		/* jiffies at which `now` was read */
	__u64 now;		/* ns, CLOCK_MONOTONIC_COARSE */
	__u64 now_ms;		/* the same in ms */
	/* Of ovs_exact (exact.h): */
	__u32 exact_rest;	/* lookups without it until it is tried again */
	__u32 exact_hits;	/* since it was judged */
	__u32 exact_misses;
	__u32 exact_wait;	/* how often in a row it did not pay */
	struct ovs_dev dev[OVS_DEV_CACHE];	/* by low bits of ifindex */
	struct ovs_pkt pkt[OVS_LEVELS];
};

/*
 * ovs_ports[port_no]: written by the provider, read by the programs.  Two words
 * that are stored one by one, the second one last when a port comes and first
 * when it goes.  It may change at any time, so that each is loaded once.
 */
#define OVS_PORT_F_USED		1
#define OVS_PORT_F_INTERNAL	2	/* ifindex is the hidden end's */
#define OVS_PORT_F_L3		4	/* carries no Ethernet header */
#define OVS_PORT_F_VETH		8	/* hands GSO packets on as they are */
struct ovs_port {
	__u32 ifindex;		/* where packets of this port are sent */
	__u32 mtu;		/* largest layer-3 packet; 0: no limit */
	__u16 bridge;
	__u8 flags;		/* OVS_PORT_F_* */
	__u8 pad;
	__u32 pad2;
};

/* Statistics of one flow in one stripe: index stripe * max_flows + id. */
struct ovs_flow_stats {
	__u64 packets;
	__u64 bytes;
	__u64 used;		/* ns, CLOCK_MONOTONIC; 0: never */
	__u64 tcp_flags;	/* OR of all, host order */
};

#define OVS_STEPS		32	/* ovs_dp_stats.steps */

/* Statistics of one bridge, per CPU (ovs_dpstats[bridge]). */
struct ovs_dp_stats {
	__u64 exact;		/* found in ovs_exact, in no other count */
	__u64 missed;		/* of the lookups, those without a flow */
	__u64 lost;
	__u64 cache_hit;
	__u64 steps[OVS_STEPS];	/* lookups by hash probes; the last: or more */
	__u64 more;		/* probes beyond those of the last */
};

/* Index of ovs_drops: bridge * OVS_DROP_MAX + reason, per CPU. */
enum ovs_drop_reason {
	OVS_DROP_NONE,			/* not a drop */
	OVS_DROP_EXPLICIT,		/* the flow has no output */
	OVS_DROP_ACTION,		/* a drop action */
	OVS_DROP_ACTION_ERROR,		/* a drop action with an error code */
	OVS_DROP_MALFORMED,		/* headers that flow extract refuses */
	OVS_DROP_TAIL_CALL,		/* a stage is missing or the limit met */
	OVS_DROP_NESTING,		/* more than OVS_MAX_NESTING */
	OVS_DROP_RECIRC_LIMIT,		/* more than OVS_MAX_RECIRC */
	OVS_DROP_DEFER_FULL,		/* no slot for a deferred copy */
	OVS_DROP_NO_PORT,		/* output to a port that has gone */
	OVS_DROP_MTU,			/* larger than the port's MTU */
	OVS_DROP_UPCALL_FULL,		/* the upcall ring is full: lost */
	OVS_DROP_REDIRECT,		/* the kernel refused a copy */
	OVS_DROP_SET,			/* a field could not be written */
	OVS_DROP_VLAN,			/* a tag could not be pushed or popped */
	OVS_DROP_BAD_INSN,		/* an instruction that is none */
	OVS_DROP_UNKNOWN_PORT,		/* a device that is no port */
	OVS_DROP_NO_STATE,		/* per-CPU state missing */
	OVS_DROP_SLOT,			/* an execute slot that is not armed */
	OVS_DROP_PULL,			/* packet data could not be pulled */
	OVS_DROP_UPCALL_SIZE,		/* too large for an upcall: lost */
	OVS_DROP_ENCAP,			/* a header that cannot be pushed or popped */
	OVS_DROP_GSO,			/* a GSO packet that cannot be changed so */
	OVS_DROP_LAYER3,		/* no Ethernet header for such a port */
	OVS_DROP_TRUNC,			/* a copy could not be cut */
	OVS_DROP_TTL,			/* a TTL that ended */
	OVS_DROP_METER,			/* a meter's band was exceeded */
	OVS_DROP_SHARED,		/* somebody else's packet, too: no change */
	OVS_DROP_COPIES,		/* more than the copies of a packet may cause */
	OVS_DROP_UPCALL_SHARE,		/* beyond the port's share: lost */
	OVS_DROP_MAX = 64,
};

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
	OVS_HEADER_MAX,
};

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

/*
 * A record of the ovs_upcalls ring: this header, then `len` bytes of packet
 * from its Ethernet header on, without the tag that vlan_tci holds.
 */
#define OVS_CSUM_NONE		0	/* ip_summed of <linux/skbuff.h> */
#define OVS_CSUM_UNNECESSARY	1
#define OVS_CSUM_COMPLETE	2
#define OVS_CSUM_PARTIAL	3
struct ovs_upcall {
	__u32 len;		/* packet bytes in this record: all, or all
				 * that truncation leaves */
	__u32 pkt_len;		/* packet bytes without truncation, no tag */
	__u8 cmd;		/* OVS_PACKET_CMD_MISS or _ACTION */
	__u8 ip_summed;		/* OVS_CSUM_* */
	__u16 csum_start;	/* from the packet's first byte (PARTIAL) */
	__u16 csum_offset;
	__u16 gso_size;		/* 0: not GSO */
	__u32 gso_type;		/* SKB_GSO_* of <linux/skbuff.h> */
	__u32 desc;		/* OVS_OP_USERSPACE descriptor (ACTION) */
	__u32 hash;
	__u32 hash_flags;	/* bit 0: software, bit 1: layer 4 */
	__u32 cpu;
	__u32 bridge;
	__be16 vlan_tci;	/* offloaded outer tag; tpid 0: none */
	__be16 vlan_tpid;
	__u32 cutlen;		/* bytes that truncation takes away */
	__u64 key[OVS_KEY_BASE];
};

/*
 * What is under way to user space of one port's upcalls, and of those of all
 * (OVS_UPCALL_ALL), from a packet's miss until ovs-vswitchd's socket has it.
 * A packet of `len` bytes takes 1 + len / OVS_UPCALL_UNIT units.
 */
#define OVS_UPCALL_UNIT		512
#define OVS_UPCALL_UNITS	4096	/* under way in all */
#define OVS_UPCALL_ALL		OVS_MAX_PORTS
struct ovs_upcall_use {
	__u64 taken;		/* units since the start */
	__u64 given;		/* those of them that are done with */
	__u64 refused;		/* upcalls beyond the port's share */
};

/*
 * Between header and packet of a record, when gso_type is SKB_GSO_SCTP: bytes
 * of each packet that it is to be cut into, without headers; then 0.
 */
#define OVS_UPCALL_PARTS	144	/* of 512 bytes at least, as SCTP has it */
#define OVS_SKB_GSO_SCTP	(1 << 14)
struct ovs_upcall_parts {
	__u16 len[OVS_UPCALL_PARTS];
};

/*
 * Metadata of a packet that enters at the inject device: the provider's
 * executes, and the programs' deferred copies.  Its mark names the slot: the
 * low OVS_SLOT_BITS bits are its index plus 1, those above the generation.
 *
 * state: bit 0 OVS_SLOT_ARMED; the next 19 bits the generation, which a new
 * use increments, so that a late packet of an earlier use is refused; from
 * bit 32 on a time in units of 2^20 ns, 0 in the provider's slots: that of
 * arming or, where `pc` says how a list goes on, when the first part of that
 * list was deferred.  So nothing is named long after it was found.  Arming is
 * the last store before the packet is sent; the programs clear the bit when the
 * actions are done.
 */
#define OVS_SLOT_FREE		0
#define OVS_SLOT_ARMED		1
#define OVS_SLOT_GEN_SHIFT	1
#define OVS_SLOT_GEN_MASK	0x7ffff
#define OVS_SLOT_TIME_SHIFT	32
struct ovs_slot {
	__u64 state;
	__u32 pc;		/* instructions to run; 0: look the key up */
	__u32 bridge;
	__u8 recirc_depth;
	__u8 flags;		/* OVS_PKT_F_* */
	__u16 family;		/* slot of the packet's first copy, plus 1 */
	__u32 cutlen;		/* as in struct ovs_pkt, these too */
	__u16 l3_off;		/* 0: as parsed */
	__u16 l4_off;
	__u8 l4_proto;
	__u8 routing;
	__u16 spent;		/* of OVS_COPY_BUDGET, by this family */
	struct ovs_key key;	/* metadata only; the rest is parsed */
};

/* Stages in a bridge's program array and in ovs_progs. */
enum ovs_stage {
	OVS_STAGE_RX,		/* parse, look up, output */
	OVS_STAGE_LOOKUP,	/* look a changed key up again (recirc) */
	OVS_STAGE_RX_L3,	/* a port without Ethernet headers: then RX */
	OVS_STAGE_ACT,		/* run instructions: in one of the next two */
	OVS_STAGE_ACT_OWN,	/* of a packet that is not shared */
	OVS_STAGE_ACT_SHARED,
	OVS_STAGE_MAX = 16,
};

/*
 * The classifier: a hash decision forest (dpif_bpf/core/classifier/forest.py
 * writes it, lookup.h reads it).
 *
 * A tree's node tests the mask bits of one descriptor, by one probe of a hash
 * table keyed by the node and the masked key words.  What the probe finds is
 * an edge: to a node below, or to a flow (a leaf), which is compared with the
 * key under the flow's whole mask.  A bridge's trees are tried in order.
 *
 * An edge is one word, so that every change is published by one store:
 *
 *	bits 63-38  tag: these bits of the hash that leads to the edge
 *	bit  37     leaf
 *	bits 36-22  descriptor: of the node, or of the flow's mask; never 0
 *	bits 21-0   node number (a part of the hash), or flow id
 *
 * The root of a tree is an edge whose tag is zero.
 */
#define OVS_EDGE_TAG_SHIFT	38
#define OVS_EDGE_LEAF_SHIFT	37
#define OVS_EDGE_DESC_SHIFT	22
#define OVS_EDGE_ID_BITS	22

#define OVS_HASH_MULT		0xd6e8feb86659fd93ULL
#define OVS_BUCKET_EDGES	7
#define OVS_BUCKET_CHAIN	8	/* buckets that a probe visits at most */
#define OVS_CLS_TREES		32	/* of one bridge */
#define OVS_CLS_DEPTH		64	/* probes in one tree at most */
#define OVS_CLS_WORDS		13	/* key words in one record */
#define OVS_CLS_FIRST		6	/* of them, those in ovs_flows */
#define OVS_CLS_RECORDS		6	/* records of a mask with all words */
#define OVS_CACHE_LINES		16384	/* of a CPU's cache, at most */
#define OVS_DESCS		32768	/* what 15 bits of an edge can name */

struct ovs_bucket {
	__u64 edge[OVS_BUCKET_EDGES];	/* 0: free */
	__u64 next;			/* overflow bucket; 0: none */
};

/*
 * A mask: of a node or of a flow.  Words beyond OVS_CLS_WORDS are in further
 * records.  Unused entries of idx and mask are zero.
 *
 * The first OVS_CLS_RECORDS descriptors are no masks: in mask[j] of
 * element i are the hash's random words for word j of a mask's record i, two
 * of 32 bits, the lower one in memory for the key word's low half.
 */
struct ovs_desc {
	__u8 n;				/* words in this record */
	__u8 idx[OVS_CLS_WORDS];	/* which words of the key */
	__u16 next;			/* next record; 0: none */
	__u64 mask[OVS_CLS_WORDS];
	__u64 pad;
};

/* The only element of ovs_descs: 4 MiB, all that 6.1 allows. */
struct ovs_descs {
	struct ovs_desc d[OVS_DESCS];
};

/*
 * A flow: a cache line, and one more that few flows need, in ovs_values
 * under the same index.  value[] holds the masked key words in the order of
 * the descriptor's; those beyond OVS_CLS_WORDS are in further records, whose
 * desc is zero.  Statistics have the index of the first record: the flow id.
 */
struct ovs_flow {
	union {
		__u64 stamp;		/* of no other flow, ever */
		struct {
			__u16 desc;	/* mask; 0: not a flow */
			__u16 bridge;
			__u32 gen;	/* grows with each use of the record */
		};
	};
	__u32 acts;			/* first instruction, in ovs_acts */
	__u32 next;			/* next record; 0: none */
	__u64 value[OVS_CLS_FIRST];
};

struct ovs_values {
	__u64 value[OVS_CLS_WORDS - OVS_CLS_FIRST];
	__u64 pad;
};

/*
 * A flow that this CPU found of late for exactly these key words, all that
 * differ among fresh packets whose headers ovs_frame_parse() knows.  It holds
 * while the flow has that stamp.  Those of IPv4 take the first cache line
 * alone.
 */
#define OVS_EXACT_LINES	4096
struct ovs_exact {
	__u64 stamp;			/* of the flow; 0: none */
	__u32 flow;			/* id */
	__u32 port;			/* in_port | bridge << 16 */
	__u64 w1, w2, w3, w4, w5, w6;
	__u64 w7, w8, w9, w10;		/* of IPv6 */
	__u64 pad[4];
};

/* The trees of a bridge. */
struct ovs_root {
	__u16 ntrees;
	__u16 cache;			/* lines, a power of two; 0: no cache */
	__u32 desc;			/* all masks, for the cache; 0: none */
	__u64 tree[OVS_CLS_TREES];	/* edges; 0: no tree in this place */
};

_Static_assert(sizeof(struct ovs_key) == OVS_KEY_WORDS * 8, "ovs_key");
_Static_assert(sizeof(struct ovs_pkt) % 8 == 0, "ovs_pkt");
_Static_assert(sizeof(struct ovs_slot) % 8 == 0, "ovs_slot");
_Static_assert(OVS_SLOTS < 1 << OVS_SLOT_BITS, "OVS_SLOT_BITS");
_Static_assert(sizeof(struct ovs_insn) == 8, "ovs_insn");
_Static_assert(sizeof(struct ovs_set_eth) == 32, "ovs_set_eth");
_Static_assert(sizeof(struct ovs_set_ipv4) == 24, "ovs_set_ipv4");
_Static_assert(sizeof(struct ovs_set_ipv6) == 80, "ovs_set_ipv6");
_Static_assert(sizeof(struct ovs_set_tp) == 8, "ovs_set_tp");
_Static_assert(sizeof(struct ovs_set_nsh) == 48, "ovs_set_nsh");
_Static_assert(sizeof(struct ovs_port) == 16, "ovs_port");
_Static_assert(sizeof(struct ovs_flow_stats) == 32, "ovs_flow_stats");
_Static_assert(sizeof(struct ovs_upcall) % 8 == 0, "ovs_upcall");
_Static_assert(sizeof(struct ovs_upcall_parts) % 8 == 0, "ovs_upcall_parts");
_Static_assert(sizeof(struct ovs_upcall_use) == 24, "ovs_upcall_use");
_Static_assert(sizeof(struct ovs_bucket) == 64, "ovs_bucket");
_Static_assert(sizeof(struct ovs_desc) == 128, "ovs_desc");
_Static_assert(sizeof(struct ovs_flow) == 64, "ovs_flow");
_Static_assert(sizeof(struct ovs_values) == 64, "ovs_values");
_Static_assert(sizeof(struct ovs_exact) == 128, "ovs_exact");
_Static_assert(sizeof(struct ovs_root) == 264, "ovs_root");
_Static_assert(OVS_CLS_WORDS * OVS_CLS_RECORDS >= OVS_KEY_USED, "key words");
_Static_assert(__builtin_offsetof(struct ovs_key, tun_opts) ==
	       OVS_KEY_BASE * 8, "OVS_KEY_BASE");
_Static_assert(__builtin_offsetof(struct ovs_key, tun_opts) + 256 ==
	       OVS_KEY_USED * 8, "OVS_KEY_USED");

#endif /* OVS_ABI_H */
