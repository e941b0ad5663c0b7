/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The names that entry.h wants, for the programs of the object. */
#ifndef OVS_OBJECT_H
#define OVS_OBJECT_H

#include "config.h"
#include "maps.h"
#include "maps_classifier.h"

#define OVS_LOOKUP(map, key)	bpf_map_lookup_elem(&map, key)
#define OVS_TAIL_CALL(ctx, index) ({			\
	__u32 __stage = (index);			\
							\
	barrier_var(__stage);				\
	bpf_tail_call(ctx, &ovs_progs, __stage);	\
})

#define OVS_PORT(port_no)	ovs_port_of(port_no)
#define OVS_PORT_IS(port)	((port) != NULL)

static __always_inline struct ovs_port *ovs_port_of(__u32 port_no)
{
	__u32 zero = 0;
	struct ovs_ports *ports = bpf_map_lookup_elem(&ovs_ports, &zero);

	return ports ? &ports->p[port_no & (OVS_MAX_PORTS - 1)] : NULL;
}

#define OVS_MAP_CPU		ovs_cpu
#define OVS_MAP_DEVS		ovs_devs
#define OVS_MAP_DPSTATS		ovs_dpstats
#define OVS_MAP_DROPS		ovs_drops
#define OVS_MAP_EXACT		ovs_exact
#define OVS_MAP_FLOW_STATS	ovs_flow_stats
#define OVS_MAP_FLOWS		ovs_flows

#define OVS_CFG_BRIDGE		0	/* for tests: see ovs_entry() */
#define OVS_CFG_STAGE		OVS_STAGE_RX
#define OVS_CFG_SHARED_STATS	cfg_shared_stats

#endif /* OVS_OBJECT_H */
