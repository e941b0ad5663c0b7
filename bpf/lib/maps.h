/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Every map but those of the classifier (lookup.h).  The provider sizes those
 * that say so before it loads the object.  Mapped ones (BPF_F_MMAPABLE) are
 * written in the provider's memory, by aligned stores.
 */
#ifndef OVS_MAPS_H
#define OVS_MAPS_H

#include "common.h"

/* Packets in flight on this CPU.  Used by programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_cpu);
} ovs_cpu SEC(".maps");

/* Ports by number.  The provider writes, output reads. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_ports);
} ovs_ports SEC(".maps");

/* Interface index to port number.  The provider writes, the entry reads. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, OVS_MAX_PORTS);
	__type(key, __u32);
	__type(value, __u32);
} ovs_devs SEC(".maps");

/* Counters by bridge.  Programs write, the provider sums over the CPUs. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OVS_MAX_BRIDGES);
	__type(key, __u32);
	__type(value, struct ovs_dp_stats);
} ovs_dpstats SEC(".maps");

/* Drops by bridge and reason.  Programs write, the provider reads. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OVS_MAX_BRIDGES * OVS_DROP_MAX);
	__type(key, __u32);
	__type(value, __u64);
} ovs_drops SEC(".maps");

/* Upcalls: struct ovs_upcall and packet.  Sized by the provider, who reads. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 24);
} ovs_upcalls SEC(".maps");

/*
 * How much each port has in ovs_upcalls and behind it; the last element is the
 * sum of all.  Programs take and refuse, the provider gives back.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_UPCALL_ALL + 1);
	__type(key, __u32);
	__type(value, struct ovs_upcall_use);
} ovs_upcall_use SEC(".maps");

/* Instructions.  Sized and written by the provider; word 0 is never used. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 20);
	__type(key, __u32);
	__type(value, __u64);
} ovs_acts SEC(".maps");

/*
 * Metadata of packets on their way to ovs_inject.  The provider arms the
 * first OVS_EXEC_SLOTS, programs the others; programs free them all.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_SLOTS);
	__type(key, __u32);
	__type(value, struct ovs_slot);
} ovs_slots SEC(".maps");

/* Statistics of flows, max_flows for each stripe.  Sized by the provider. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4096);
	__type(key, __u32);
	__type(value, struct ovs_flow_stats);
} ovs_flow_stats SEC(".maps");

/*
 * Meters.  The provider sets them up, programs count and take from buckets.
 * A new generation takes the old one's, with all that is in them.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_METERS + OVS_METER_EXTRA);
	__type(key, __u32);
	__type(value, struct ovs_meter);
} ovs_meters SEC(".maps");

/* The stages of the fixed programs; the loader fills it in. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, OVS_STAGE_MAX);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} ovs_progs SEC(".maps");

/* Netlink records of the provider, kept over its restarts.  Sized by it. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, __u64);
} ovs_nlmem SEC(".maps");

#endif /* OVS_MAPS_H */
