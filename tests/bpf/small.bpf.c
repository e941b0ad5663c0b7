// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* What the tests of dpif_bpf/edge/libbpf.py load. */
#include <linux/bpf.h>
#include <linux/types.h>
#include <bpf/bpf_helpers.h>

struct pair {
	__u32 a;
	__u64 b;
	__u32 c;
};

const volatile __u32 cfg_add = 1;
const volatile __u64 cfg_big = 2;
const volatile __s16 cfg_small = -3;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32[3]);
} t_array SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct pair);
} t_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} t_percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u32);
} t_progs SEC(".maps");

/* Returns cfg_add + mark; changes a byte, the mark, and the maps. */
SEC("tc")
int t_main(struct __sk_buff *skb)
{
	__u32 index = 1;
	__u32 *words = bpf_map_lookup_elem(&t_array, &index);
	__u32 *count = bpf_map_lookup_elem(&t_percpu, &index);
	__u32 ret = cfg_add + skb->mark;
	__u8 byte = 0x5a;

	if (words) {
		words[0] += 1;
		words[1] = cfg_big >> 32;
		words[2] = (__s32)cfg_small;
	}
	if (count)
		*count += 1;
	bpf_skb_store_bytes(skb, 6, &byte, 1, 0);
	skb->mark = 77;
	return ret;
}

/* 42 when the tail call is taken, else 7. */
SEC("tc")
int t_jump(struct __sk_buff *skb)
{
	bpf_tail_call(skb, &t_progs, skb->mark & 3);
	return 7;
}

SEC("tc")
int t_target(struct __sk_buff *skb)
{
	return 42;
}

/* The verifier refuses this one. */
SEC("tc")
int t_refused(struct __sk_buff *skb)
{
	__u32 index = 0;
	struct pair *pair = bpf_map_lookup_elem(&t_hash, &index);

	return pair->a;
}

char LICENSE[] SEC("license") = "GPL";
