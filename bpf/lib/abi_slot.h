/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about packets that enter at the inject device. */
#ifndef OVS_ABI_SLOT_H
#define OVS_ABI_SLOT_H

#include <linux/types.h>

#include "abi_key.h"

#define OVS_EXEC_SLOTS		1024	/* owned by the provider */
#define OVS_DEFER_SLOTS		4096	/* owned by the programs */
#define OVS_SLOTS		(OVS_EXEC_SLOTS + OVS_DEFER_SLOTS)
#define OVS_SLOT_BITS		13	/* of a mark: index, plus 1 */

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

/*
 * Metadata of a packet that enters at the inject device: the provider's
 * executes, and the programs' deferred copies.  Its mark names the slot: the
 * low OVS_SLOT_BITS bits are its index plus 1, those above the generation.
 *
 * state: bit 0 OVS_SLOT_ARMED; the next 19 bits the generation, which a new
 * use increments, so that a late packet of an earlier use is refused; from
 * bit 32 on a time in units of 2^20 ns, 0 in the provider's slots: that of
 * arming or, where `pc` says how a list goes on, when the first part of that
 * list was deferred: no slot names instructions for long.  Arming is
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
	__u16 mru;		/* as in struct ovs_pkt */
	__u16 pad[3];
	struct ovs_key key;	/* metadata only; the rest is parsed */
	struct ovs_tunnel tunnel;	/* if OVS_PKT_F_TO_TUNNEL */
};

_Static_assert(sizeof(struct ovs_slot) % 8 == 0, "ovs_slot");
_Static_assert(OVS_SLOTS < 1 << OVS_SLOT_BITS, "OVS_SLOT_BITS");

#endif /* OVS_ABI_SLOT_H */
