/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Load-time configuration: constants that the loader sets in .rodata before
 * the programs are verified, so that the verifier removes what they disable.
 */
#ifndef OVS_CONFIG_H
#define OVS_CONFIG_H

#include "common.h"

/* What the provider compares with its own: whether this is another layout. */
const volatile __u32 cfg_abi = OVS_ABI_VERSION;

/* Flows that the tables hold: elements of one stripe of ovs_flow_stats. */
const volatile __u32 cfg_max_flows = 4096;

/* Stripes of ovs_flow_stats; a CPU counts in stripe `cpu % cfg_stripes`. */
const volatile __u32 cfg_stripes = 1;

/* 1: two CPUs may count in one stripe, so that counting is atomic. */
const volatile __u32 cfg_shared_stats = 1;

/* Device whose ingress runs ovs_inject: where deferred copies are sent. */
const volatile __u32 cfg_inject_ifindex = 0;

/* 1: bpf_skb_set_tunnel_key() has BPF_F_NO_TUNNEL_KEY. */
const volatile __u32 cfg_tunnel_keyless = 0;

#endif /* OVS_CONFIG_H */
