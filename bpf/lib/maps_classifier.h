/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Maps and configuration of the classifier.  The loader sets the sizes that
 * dpif_bpf/core/classifier/sizes.py computes.
 */
#ifndef OVS_MAPS_CLASSIFIER_H
#define OVS_MAPS_CLASSIFIER_H

#include "common.h"

/* Buckets that a hash chooses from, minus 1; the others are overflow. */
const volatile __u32 cfg_bucket_mask = 0;

#define OVS_CLS_ARRAY(type_)				\
	__uint(type, BPF_MAP_TYPE_ARRAY);		\
	__uint(map_flags, BPF_F_MMAPABLE);		\
	__uint(max_entries, 1);				\
	__type(key, __u32);				\
	__type(value, type_)

/* Written by the provider through mmap, read by lookup.h. */
struct {
	OVS_CLS_ARRAY(struct ovs_bucket);
} ovs_buckets SEC(".maps");

/* As ovs_buckets; one element, so that no index is looked up. */
struct {
	OVS_CLS_ARRAY(struct ovs_descs);
} ovs_descs SEC(".maps");

/* As ovs_buckets; `acts` is also read by what runs the actions. */
struct {
	OVS_CLS_ARRAY(struct ovs_flow);
} ovs_flows SEC(".maps");

/* As ovs_buckets.  Index: as ovs_flows. */
struct {
	OVS_CLS_ARRAY(struct ovs_values);
} ovs_values SEC(".maps");

/* As ovs_buckets.  Index: bridge. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, OVS_MAX_BRIDGES);
	__type(key, __u32);
	__type(value, struct ovs_root);
} ovs_roots SEC(".maps");

/* Flows found recently, edges by a hash of the key.  Used by programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OVS_CACHE_LINES);
	__type(key, __u32);
	__type(value, __u64[8]);
} ovs_cls_cache SEC(".maps");

/* Packets seen recently, by a hash of the key.  Used by programs only. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, OVS_EXACT_LINES);
	__type(key, __u32);
	__type(value, struct ovs_exact);
} ovs_exact SEC(".maps");

/* Lookups that met a bound; written by lookup.h, read by the provider. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} ovs_cls_bound SEC(".maps");

#endif /* OVS_MAPS_CLASSIFIER_H */
