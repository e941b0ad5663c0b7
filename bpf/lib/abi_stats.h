/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about what is counted. */
#ifndef OVS_ABI_STATS_H
#define OVS_ABI_STATS_H

#include <linux/types.h>

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
	OVS_DROP_SHARED,		/* the skb is shared: no change */
	OVS_DROP_COPIES,		/* more than the copies of a packet may cause */
	OVS_DROP_UPCALL_SHARE,		/* beyond the port's share: lost */
	OVS_DROP_CONNTRACK,		/* a connection that cannot be */
	OVS_DROP_TUNNEL,		/* a port of a tunnel: to nowhere, or
					 * to what it cannot do */
	OVS_DROP_MAX = 64,
};

_Static_assert(sizeof(struct ovs_flow_stats) == 32, "ovs_flow_stats");

#endif /* OVS_ABI_STATS_H */
