/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The kernel's types that the programs look into, and libbpf.  Fields are
 * found by name when the object is loaded (CO-RE), so that only those that
 * are used are declared here.
 */
#ifndef OVS_KERN_H
#define OVS_KERN_H

#include <linux/types.h>
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>

#define OVS_CORE __attribute__((preserve_access_index))

struct ovs_atomic {
	int counter;
} OVS_CORE;

struct ovs_refcount {
	struct ovs_atomic refs;
} OVS_CORE;

struct sk_buff {
	struct sk_buff *next;
	struct ovs_refcount users;
	unsigned int len;
	unsigned long _skb_refdst;
	__u8 ip_summed:2;
	__u8 l4_hash:1;
	__u8 sw_hash:1;
	__u16 csum_start;
	__u16 csum_offset;
	__u16 mac_len;
	__u32 end;
	unsigned char *head;
	unsigned char *data;
} OVS_CORE;

struct ip_tunnel_key {
	__be16 tp_src;
	__be16 tp_dst;
} OVS_CORE;

struct ip_tunnel_info {
	struct ip_tunnel_key key;
} OVS_CORE;

struct metadata_dst {
	union {
		struct ip_tunnel_info tun_info;
	} u;
} OVS_CORE;

struct skb_shared_info {
	unsigned int gso_type;
	struct sk_buff *frag_list;
} OVS_CORE;

#endif /* OVS_KERN_H */
