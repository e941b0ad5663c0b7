/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about packets for user space. */
#ifndef OVS_ABI_UPCALL_H
#define OVS_ABI_UPCALL_H

#include <linux/types.h>

#include "abi_key.h"
#include "abi_port.h"

/*
 * A record of the ovs_upcalls ring: this header, then `len` bytes of packet
 * from its Ethernet header on, without the tag that vlan_tci holds.
 */
#define OVS_CSUM_NONE		0	/* ip_summed of <linux/skbuff.h> */
#define OVS_CSUM_UNNECESSARY	1
#define OVS_CSUM_COMPLETE	2
#define OVS_CSUM_PARTIAL	3
#define OVS_UPCALL_FRAGMENT	0x80	/* for ct(), at `desc` in ovs_acts */
#define OVS_UPCALL_SPLIT	0x81	/* to port `desc`, in fragments */
#define OVS_UPCALL_TUNNEL	4	/* of hash_flags: there is a struct
					 * ovs_upcall_tunnel */
#define OVS_UPCALL_HELP		0x82	/* of a control connection, for its
					 * helper: it goes on at `desc` */

struct ovs_upcall {
	__u32 len;		/* packet bytes in this record: all, or all
				 * that truncation leaves */
	__u32 pkt_len;		/* packet bytes without truncation, no tag */
	__u8 cmd;		/* OVS_PACKET_CMD_MISS or _ACTION, or OVS_UPCALL_*:
				 * it is for the provider itself */
	__u8 ip_summed;		/* OVS_CSUM_* */
	__u16 csum_start;	/* from the packet's first byte (PARTIAL) */
	__u16 csum_offset;
	__u16 gso_size;		/* 0: not GSO */
	__u32 gso_type;		/* SKB_GSO_* of <linux/skbuff.h> */
	__u32 desc;		/* OVS_OP_USERSPACE descriptor (ACTION) */
	__u32 hash;
	__u16 hash_flags;	/* bit 0: software, bit 1: layer 4; and
				 * OVS_UPCALL_TUNNEL */
	__u16 mru;		/* as in struct ovs_pkt */
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
 * Behind the header of a record, when gso_type is SKB_GSO_SCTP: bytes
 * of each packet that it is to be cut into, without headers; then 0.
 */
#define OVS_UPCALL_PARTS	144	/* of 512 bytes at least, as SCTP has it */
#define OVS_SKB_GSO_SCTP	(1 << 14)
struct ovs_upcall_parts {
	__u16 len[OVS_UPCALL_PARTS];
};

/*
 * Behind that, before the packet, if OVS_UPCALL_TUNNEL says so: what tunnels
 * have that is not in `key`.
 */
struct ovs_upcall_tunnel {
	__u64 opts[OVS_KEY_USED - OVS_KEY_BASE];	/* of the key */
	struct ovs_tunnel to;	/* where it is to go; proto 0: nowhere */
};

_Static_assert(sizeof(struct ovs_upcall) % 8 == 0, "ovs_upcall");
_Static_assert(sizeof(struct ovs_upcall_parts) % 8 == 0, "ovs_upcall_parts");
_Static_assert(sizeof(struct ovs_upcall_use) == 24, "ovs_upcall_use");

#endif /* OVS_ABI_UPCALL_H */
