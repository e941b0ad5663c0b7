// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * Ways to find a megaflow, beside one another: the forest of lib/lookup.h;
 * tuple space search; and tuple space search as the RFC of 2018 did it.  All
 * programs copy the next packet's key and count what they find.
 */
#include "../bpf/lib/lookup.h"

#define BENCH_KEYS	65536
#define BENCH_MASKS	8192

struct bench_key {
	__u64 w[OVS_KEY_BASE];
};

struct bench_state {
	__u64 next;
	__u64 keys;		/* a power of two */
	__u64 masks;
	__u64 found;
	__u64 sum;		/* of the flow ids found */
	__u64 probes;
};

#define BENCH_ARRAY(name_, entries_, type_)		\
	struct {					\
		__uint(type, BPF_MAP_TYPE_ARRAY);	\
		__uint(map_flags, BPF_F_MMAPABLE);	\
		__uint(max_entries, entries_);		\
		__type(key, __u32);			\
		__type(value, type_);			\
	} name_ SEC(".maps")

BENCH_ARRAY(bench_keys, BENCH_KEYS, struct bench_key);
BENCH_ARRAY(bench_state, 1, struct bench_state);
BENCH_ARRAY(bench_descs, BENCH_MASKS, __u32);	/* tuple space search */
BENCH_ARRAY(bench_masks, BENCH_MASKS, struct bench_key); /* the RFC's */

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_pkt);
} bench_pkt SEC(".maps");

/* The RFC's: masked key and mask number to flow id. */
struct rfc_key {
	__u64 w[OVS_KEY_BASE];
	__u64 mask;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct rfc_key);
} bench_masked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, struct rfc_key);
	__type(value, __u32);
} bench_flows SEC(".maps");

static __always_inline struct bench_state *state_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&bench_state, &zero);
}

static __always_inline struct ovs_pkt *next_packet(struct bench_state *state)
{
	__u32 zero = 0, i = state->next++ & (state->keys - 1), j;
	struct bench_key *key = bpf_map_lookup_elem(&bench_keys, &i);
	struct ovs_pkt *pkt = bpf_map_lookup_elem(&bench_pkt, &zero);

	if (!key || !pkt)
		return 0;
#pragma unroll
	for (j = 0; j < OVS_KEY_BASE; j++)
		pkt->key.w[j] = key->w[j];
	pkt->bridge = 0;
	return pkt;
}

static __always_inline int count(struct bench_state *state, __u32 found)
{
	if (found) {
		state->found++;
		state->sum += found - 1;
	}
	return 0;
}

/* What all of them do. */
SEC("tc")
int bench_base(struct __sk_buff *skb)
{
	struct bench_state *state = state_get();
	struct ovs_pkt *pkt = state ? next_packet(state) : 0;

	if (!pkt)
		return 2;
	return count(state, pkt->key.w[0] & 1);
}

SEC("tc")
int bench_forest(struct __sk_buff *skb)
{
	struct bench_state *state = state_get();
	struct ovs_pkt *pkt = state ? next_packet(state) : 0;
	__u32 found;

	if (!pkt)
		return 2;
	found = ovs_classify(pkt);
	state->probes += pkt->probes;
	return count(state, found);
}

/*
 * Tuple space search with all that the forest has to offer: one probe of the
 * same hash table for each mask, significant words alone, the same compare.
 */
struct tss {
	struct ovs_pkt *pkt;
	const struct ovs_descs *descs;
	__u32 found;
};

static long tss_mask(__u32 i, struct tss *tss)
{
	__u32 *desc = bpf_map_lookup_elem(&bench_descs, &i);
	__u64 edge;

	if (!desc)
		return 1;
	i = *desc & (OVS_DESCS - 1);
	edge = (__u64)i << OVS_EDGE_DESC_SHIFT;
	edge = ovs_cls_probe(ovs_cls_hash(tss->pkt, tss->descs,
					  &tss->descs->d[i], edge));
	if (!edge || !ovs_cls_same(tss->pkt, tss->descs, edge, 0))
		return 0;
	tss->found = (edge & ((1 << OVS_EDGE_ID_BITS) - 1)) + 1;
	return 1;
}

SEC("tc")
int bench_tss(struct __sk_buff *skb)
{
	struct bench_state *state = state_get();
	struct tss tss = { state ? next_packet(state) : 0 };

	tss.descs = ovs_cls_descs();
	if (!tss.pkt || !tss.descs)
		return 2;
	bpf_loop(state->masks, tss_mask, &tss, 0);
	return count(state, tss.found);
}

/* For each mask: mask the whole key, and ask a hash map of the kernel. */
struct rfc {
	struct ovs_pkt *pkt;
	struct rfc_key *masked;
	__u32 found;
};

static long rfc_mask(__u32 i, struct rfc *rfc)
{
	struct bench_key *mask = bpf_map_lookup_elem(&bench_masks, &i);
	__u32 *flow, j;

	if (!mask)
		return 1;
#pragma unroll
	for (j = 0; j < OVS_KEY_BASE; j++)
		rfc->masked->w[j] = rfc->pkt->key.w[j] & mask->w[j];
	rfc->masked->mask = i;
	flow = bpf_map_lookup_elem(&bench_flows, rfc->masked);
	if (!flow)
		return 0;
	rfc->found = *flow + 1;
	return 1;
}

SEC("tc")
int bench_rfc(struct __sk_buff *skb)
{
	struct bench_state *state = state_get();
	struct rfc rfc = {};
	__u32 zero = 0;

	if (!state)
		return 2;
	rfc.masked = bpf_map_lookup_elem(&bench_masked, &zero);
	rfc.pkt = next_packet(state);
	if (!rfc.masked || !rfc.pkt)
		return 2;
	bpf_loop(state->masks, rfc_mask, &rfc, 0);
	return count(state, rfc.found);
}

char _license[] SEC("license") = "Dual BSD/GPL";
