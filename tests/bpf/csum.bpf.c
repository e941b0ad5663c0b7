// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Whether a checksum over the whole packet (CHECKSUM_COMPLETE) is right. */
#include "kern.h"
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#include "abi.h"

#define T_MAX	256

struct sk_buff___csum {
	__u8 ip_summed:2;
	__u32 csum;
} OVS_CORE;

/* 0: packets with such a sum; 1: of them, those where it is wrong. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} t_counts SEC(".maps");

static void t_count(__u32 what)
{
	__u64 *count = bpf_map_lookup_elem(&t_counts, &what);

	if (count)
		*count += 1;
}

/* At an ingress hook: skb->csum begins behind the Ethernet header. */
SEC("tc")
int t_csum(struct __sk_buff *skb)
{
	struct sk_buff___csum *k = (void *)skb;
	__u32 len = skb->len, i, csum;
	__u16 half[2];
	__u64 sum = 0;

	if (BPF_CORE_READ_BITFIELD_PROBED(k, ip_summed) != OVS_CSUM_COMPLETE ||
	    len <= ETH_HLEN)
		return TC_ACT_OK;
	len -= ETH_HLEN;
	t_count(0);
	for (i = 0; i < T_MAX && i < len; i += sizeof(half)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + i, half, sizeof(half)))
			break;
		sum += half[0] + half[1];
	}
	csum = ~BPF_CORE_READ(k, csum);
	sum += (csum & 0xffff) + (csum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	/* Frames of the tests are words. */
	if (i != len || sum != 0xffff)
		t_count(1);
	return TC_ACT_OK;
}

char LICENSE[] SEC("license") = "GPL";
