/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The connection tracker's maps.  They take memory as soon as they are made:
 * they are those of the objects that include ct.h, and of no other.
 */
#ifndef OVS_MAPS_CT_H
#define OVS_MAPS_CT_H

#include "common.h"
#include "abi_ct.h"

/* Records, a multiple of OVS_CT_EXP: elements of ovs_ct. */
const volatile __u32 cfg_ct_max = 1 << 12;

/* Elements of ovs_ct_tab, a power of two, less 1. */
const volatile __u32 cfg_ct_bucket_mask = (1 << 11) - 1;

/* Connections.  Sized by the provider, who reads; programs write. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 12);
	__type(key, __u32);
	__type(value, struct ovs_ct);
} ovs_ct SEC(".maps");

/* Where a tuple's hash leads.  Sized likewise; programs alone. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 11);
	__type(key, __u32);
	__type(value, struct ovs_ct_bucket);
} ovs_ct_tab SEC(".maps");

/* Expiries, cfg_ct_max / OVS_CT_EXP.  Programs write, the provider reads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, (1 << 12) / OVS_CT_EXP);
	__type(key, __u32);
	__type(value, struct ovs_ct_exp);
} ovs_ct_exp SEC(".maps");

/* Zones.  Programs count; limits are the provider's. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_CT_ZONES);
	__type(key, __u32);
	__type(value, struct ovs_ct_zone);
} ovs_ct_zones SEC(".maps");

/* Timeouts.  The provider writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_CT_POLICIES);
	__type(key, __u32);
	__type(value, struct ovs_ct_policy);
} ovs_ct_policy SEC(".maps");

/* Configuration that may change.  The provider writes. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_ct_conf);
} ovs_ct_conf SEC(".maps");

/* Connections in all, and the sweep.  Programs write. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_ct_use);
} ovs_ct_use SEC(".maps");

/* Connections that will come.  The provider fills in, programs take. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_CT_EXPECTS);
	__type(key, __u32);
	__type(value, struct ovs_ct_expect);
} ovs_ct_expect SEC(".maps");

/* Where each CPU takes records from, and counters.  Programs write. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_ct_cpu);
} ovs_ct_cpu SEC(".maps");

/* What the provider asks, and answers (ct_ask.h).  Both write, in turn. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_ct_asks);
} ovs_ct_asked SEC(".maps");

/* For the next provider.  Programs do not read it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_CT_KEPT_WORDS);
	__type(key, __u32);
	__type(value, __u64);
} ovs_ct_kept SEC(".maps");

/* The packets in flight on this CPU, by level.  Used by programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct ovs_ct_work);
} ovs_ct_work SEC(".maps");

#endif /* OVS_MAPS_CT_H */
