// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Runs ovs_classify() on keys of a table and checks what it returns. */
#include "../../bpf/lib/lookup.h"

#define TEST_KEYS	65536

struct test_key {
	__u64 w[OVS_KEY_USED];
	__u32 bridge;
	__u32 acts;		/* of the flow that matches, without bit 0 */
	__u32 stable;		/* the flow is always there */
	__u32 pad;
};

struct test_state {
	__u64 next;		/* key of the next run */
	__u64 keys;		/* number of keys, a power of two */
	__u64 runs;
	__u64 found;
	__u64 wrong;		/* another flow than the one that matches */
	__u64 lost;		/* a stable flow was not found */
	__u64 probes;
	__u64 result;		/* of the last run */
	__u64 bad;		/* `next` after the last wrong or lost one */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, TEST_KEYS);
	__type(key, __u32);
	__type(value, struct test_key);
} test_keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct test_state);
} test_state SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_pkt);
} test_pkt SEC(".maps");

SEC("tc")
int ovs_cls_test(struct __sk_buff *skb)
{
	__u32 zero = 0, i, j, found;
	struct test_state *state;
	struct test_key *key;
	struct ovs_flow *flow;
	struct ovs_pkt *pkt;

	state = bpf_map_lookup_elem(&test_state, &zero);
	pkt = bpf_map_lookup_elem(&test_pkt, &zero);
	if (!state || !pkt)
		return 2;
	i = state->next++ & (state->keys - 1);
	key = bpf_map_lookup_elem(&test_keys, &i);
	if (!key)
		return 2;
	for (j = 0; j < OVS_KEY_USED; j++)
		pkt->key.w[j] = key->w[j];
	pkt->bridge = key->bridge;

	found = ovs_classify(pkt);
	state->runs++;
	state->probes += pkt->probes;
	state->result = found;
	if (!found) {
		if (key->stable) {
			state->lost++;
			state->bad = state->next;
		}
		return 0;
	}
	state->found++;
	i = found - 1;
	flow = bpf_map_lookup_elem(&ovs_flows, &i);
	if (!flow || flow->acts >> 1 != key->acts >> 1) {
		state->wrong++;
		state->bad = state->next;
	}
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
