/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about packets in flight on a CPU. */
#ifndef OVS_ABI_PKT_H
#define OVS_ABI_PKT_H

#include <linux/types.h>

#include "abi_key.h"

#define OVS_LEVELS		8	/* per-CPU packet states, power of two */
#define OVS_DEV_CACHE		256	/* devices in ovs_cpu, power of two */
#define OVS_MAX_NESTING		5	/* as the kernel datapath */
#define OVS_MAX_RECIRC		30	/* of one packet, as the kernel datapath */

/* Stages in a bridge's program array and in ovs_progs. */
enum ovs_stage {
	OVS_STAGE_RX,		/* parse, look up, output */
	OVS_STAGE_LOOKUP,	/* look a changed key up again (recirc) */
	OVS_STAGE_RX_L3,	/* a port without Ethernet headers: then RX */
	OVS_STAGE_ACT,		/* run instructions: in one of the next two */
	OVS_STAGE_ACT_OWN,	/* of a packet that is not shared */
	OVS_STAGE_ACT_SHARED,
	OVS_STAGE_CT,		/* one OVS_OP_CT, then go on */
	OVS_STAGE_ROUTE,	/* a change that the entry knows: in the next */
	OVS_STAGE_ROUTE_OWN,	/* of a packet that is not shared */
	OVS_STAGE_RX_TUNNEL,	/* a port of a tunnel: then RX, or RX_L3 */
	OVS_STAGE_MAX = 16,
};

/* How far a packet has come in a list of actions. */
struct ovs_pkt_list {
	__u32 pc;		/* next instruction, index into ovs_acts */
	__u32 since;		/* when the list began, if copies of it were
				 * deferred: as in a slot's state */
	__u32 copies;		/* deferred, until the rest is deferred, too */
	__u8 sent;		/* this list of actions made a copy */
	__u8 next;		/* enum ovs_stage that the actions wait for, or,
				 * from stage ACT on, that they begin in */
	__u8 calls;		/* tail calls that its actions took, in a row */
	__u8 pad;
};

/*
 * What a CPU keeps from one packet to the next at the same level: what the last
 * one left behind in the key, and whether the cache of the classifier pays
 * (lookup.h).
 */
#define OVS_DIRTY_META	1	/* w15 .. w22 or w28 .. w34 are not all zero */
#define OVS_DIRTY_MPLS	2	/* w23, w24 are not all zero */
#define OVS_DIRTY_NSH	4	/* w25 .. w27 are not all zero */
#define OVS_DIRTY_CT	8	/* w15 .. w22 are not all zero */
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
#define OVS_PKT_F_TUNNEL	4	/* it came by a tunnel, which the key
					 * has, and nothing of others */
#define OVS_PKT_F_TO_TUNNEL	8	/* `tunnel` says where it is to go */
struct ovs_pkt {
	struct ovs_key key;
	__u32 bridge;
	__u32 slot;		/* mark of that to free at the exit; 0: none */
	__u32 flow;		/* id of the flow that matched */
	__u32 cutlen;		/* bytes that TRUNC cuts from the next copy */
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
	__u8 tracked;		/* ovs_ct_work has its connection, if ct_state
				 * says that it was tracked */
	__u16 mru;		/* bytes of its largest fragment, when it was
				 * in fragments; 0: it was not */
	__u16 line;		/* of ovs_exact that it came in by, plus 1; 0:
				 * none */
	__u16 pad[2];
	struct ovs_pkt_list list;
	__u64 cache_hash;	/* by which the cache was asked */
	struct ovs_tunnel tunnel;
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
	__u32 exact_rest;	/* packets without it until it is tried again */
	__u32 exact_hits;	/* since it was judged */
	__u32 exact_misses;
	__u32 exact_wait;	/* how often in a row it did not pay */
	/* From the entry to stage ROUTE, as in struct ovs_exact: */
	__u64 route_first;
	__u64 route_second;
	__u32 route_ip;
	__u32 route_dev;	/* interface index */
	__u32 route_bridge;
	__u32 pad;
	struct ovs_dev dev[OVS_DEV_CACHE];	/* by low bits of ifindex */
	struct ovs_pkt pkt[OVS_LEVELS];
};

_Static_assert(sizeof(struct ovs_pkt) % 8 == 0, "ovs_pkt");

#endif /* OVS_ABI_PKT_H */
