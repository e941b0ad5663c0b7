// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Gives a packet a hash that nobody would compute, and goes on. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} t_next SEC(".maps");

SEC("tc")
int t_hash(struct __sk_buff *skb)
{
	bpf_set_hash(skb, 0x12345678);
	bpf_tail_call(skb, &t_next, 0);
	return -1;
}

char LICENSE[] SEC("license") = "GPL";
