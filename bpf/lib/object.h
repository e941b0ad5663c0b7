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

#define OVS_MAP_ACTS		ovs_acts
#define OVS_MAP_CPU		ovs_cpu
#define OVS_MAP_DEVS		ovs_devs
#define OVS_MAP_DPSTATS		ovs_dpstats
#define OVS_MAP_DROPS		ovs_drops
#define OVS_MAP_EXACT		ovs_exact
#define OVS_MAP_FLOW_STATS	ovs_flow_stats
#define OVS_MAP_FLOWS		ovs_flows
#define OVS_MAP_PORTS		ovs_ports

#define OVS_CFG_MAX_FLOWS	cfg_max_flows
#define OVS_CFG_SHARED_STATS	cfg_shared_stats
#define OVS_CFG_STRIPES		cfg_stripes

#endif /* OVS_OBJECT_H */
