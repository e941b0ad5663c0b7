// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* Flow extract and lookup at XDP. */
#define OVS_CTX_XDP
#include "object.h"
#include "ctx.h"
#include "frame.h"
#include "parse.h"
#include "lookup.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_pkt);
} t_pkt SEC(".maps");

/* The flow that a frame from port 1 of bridge 0 matches, plus 1; or 0. */
SEC("xdp")
int t_xdp(struct xdp_md *ctx)
{
	__u32 zero = 0;
	struct ovs_pkt *pkt = bpf_map_lookup_elem(&t_pkt, &zero);
	struct ovs_frame f;
	__u32 i;

	if (!pkt)
		return -1;
	pkt->key.w[0] = 1;
	pkt->key.w[1] = 0;
	pkt->key.w[4] = 0;
	pkt->key.w[5] = 0;
	pkt->bridge = 0;
	if (pkt->cpu.dirty) {
		for (i = OVS_KEY_W(dp_hash); i < OVS_KEY_BASE; i++)
			pkt->key.w[i] = 0;
		pkt->cpu.dirty = 0;
	}
	if (ovs_frame_parse(ctx, &f))
		ovs_frame_store(&f, pkt);
	else if (ovs_parse(ctx, pkt))
		return -1;
	return ovs_classify(pkt);
}

char LICENSE[] SEC("license") = "GPL";
