// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Runs ovs_frame_parse() and ovs_parse() on a frame and compares. */
#include "object.h"
#include "parse.h"
#include "frame.h"

#define TEST_JUNK	0xa5a5a5a5a5a5a5a5ULL

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct ovs_pkt);
} test_pkts SEC(".maps");

/* As the entry leaves it, and whatever the last packet left. */
static __always_inline struct ovs_pkt *test_pkt(__u32 i)
{
	struct ovs_pkt *pkt = bpf_map_lookup_elem(&test_pkts, &i);
	__u32 j;

	if (!pkt)
		return NULL;
	for (j = 0; j < OVS_KEY_WORDS; j++)
		pkt->key.w[j] = TEST_JUNK;
	pkt->key.w[1] = 0;
	pkt->key.w[4] = 0;
	pkt->l3_off = pkt->l4_off = 0xa5a5;
	pkt->l4_proto = pkt->routing = 0xa5;
	pkt->stale = 0;
	pkt->cpu.dirty = 0;
	return pkt;
}

/*
 * 0: not a frame for ovs_frame_parse(); 1: both say the same; else the number
 * of the key word that differs, plus 100, or 99 where something else does.
 * Bit 0 of the mark: a tag is pushed first.
 */
SEC("tc")
int t_frame(struct __sk_buff *skb)
{
	struct ovs_pkt *a = test_pkt(0), *b = test_pkt(1);
	struct ovs_frame f;
	__u32 i;

	if (!a || !b ||
	    (skb->mark & 1 &&
	     bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021AD), 0x6123)))
		return -1;
	if (!ovs_frame_parse(skb, &f))
		return 0;
	ovs_frame_store(&f, a);
	b->key.skb_priority = skb->priority;
	b->key.skb_mark = skb->mark;
	if (ovs_parse(skb, b))
		return 99;
	for (i = 0; i < OVS_KEY_WORDS; i++) {
		if (a->key.w[i] != b->key.w[i])
			return 100 + i;
	}
	if (a->l3_off != b->l3_off || a->l4_off != b->l4_off ||
	    a->l4_proto != b->l4_proto || a->routing != b->routing ||
	    f.tcp_flags != bpf_ntohs(b->key.tcp_flags))
		return 99;
	return 1;
}

char LICENSE[] SEC("license") = "GPL";
