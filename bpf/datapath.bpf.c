// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * The fixed programs of the datapath.  A packet comes in by the entry stage
 * of its bridge (entry.h) or, when it was sent by the provider or deferred
 * by a program, by ovs_inject; tail calls lead to ovs_rx, and from there to
 * ovs_act unless one output is all that is to be done.  All end in ovs_exit()
 * (drop.h): a redirect, or CTX_DROP with a counted reason, so that no
 * packet of a port ever gets to the host's stack.
 */
#include "lib/common.h"
#include "lib/config.h"
#include "lib/maps.h"
#include "lib/ctx.h"
#include "lib/drop.h"
#include "lib/parse.h"
#include "lib/lookup.h"
#include "lib/stats.h"
#include "lib/actions.h"
#include "lib/act_ct.h"
#include "lib/ct_ask.h"
#include "lib/ct_sweep.h"
#include "lib/layer3.h"
#include "lib/exact_fill.h"
#include "lib/entry.h"

/*
 * Look the key up.  A single output, which most flows are, is done here;
 * every other list of actions is stage ACT's, and what no flow matches is
 * an upcall.
 */
static __always_inline int ovs_process(struct ovs_ctx *ctx,
				       struct ovs_cpu *cpu,
				       struct ovs_pkt *pkt)
{
	struct ovs_dp_stats *stats = ovs_dp_stats_of(pkt->bridge);
	struct ovs_insn *insn;
	__u32 id, pc;

	id = ovs_classify(pkt);
	if (stats) {
		__u32 probes = pkt->probes;

		if (unlikely(probes >= OVS_STEPS)) {
			stats->more += probes - (OVS_STEPS - 1);
			probes = OVS_STEPS - 1;
		}
		stats->steps[probes]++;
		if (unlikely(pkt->cached))
			stats->cache_hit++;
	}
	if (unlikely(!id)) {
		if (stats)
			stats->missed++;
		pkt->upcall_cmd = OVS_PACKET_CMD_MISS;
		pkt->upcall_desc = 0;
		return ovs_drop(cpu, pkt, ovs_upcall(ctx, pkt));
	}
	pkt->flow = id - 1;
	ovs_count_flow(ctx, cpu, pkt);
	if (pkt->exact)
		ovs_exact_fill(ctx, pkt);
	pc = pkt->list.pc;
	insn = bpf_map_lookup_elem(&ovs_acts, &pc);
	if (likely(insn && insn->op == OVS_OP_OUTPUT_LAST &&
		   !(pkt->cutlen | pkt->mru)))
		return ovs_output_only(ctx, cpu, pkt, insn->imm);
	pkt->list.sent = 0;
	/* The key is the packet's: it has just been looked up. */
	pkt->list.next = insn && insn->op == OVS_OP_CT ? OVS_STAGE_CT :
							 OVS_STAGE_ACT_OWN;
	return ovs_stage(ctx, cpu, pkt, OVS_STAGE_ACT);
}

/* The entry stage without bcc, for tests: every port is of bridge 0. */
SEC("tc")
int ovs_entry(struct ovs_ctx *ctx)
{
	return ovs_entry_run(ctx);
}

/*
 * Stage RX, after the entry, and stage LOOKUP, when the key has a new
 * recirc_id: one program, so that the verifier goes through the lookup, which
 * takes it the longest by far, once.
 */
SEC("tc")
int ovs_rx(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_pkt *pkt;
	__u32 err, i;

	if (!cpu)
		return CTX_DROP;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return CTX_DROP;
	if (likely(!pkt->recirc_depth) && unlikely(pkt->cpu.dirty) &&
	    likely(!(pkt->flags & OVS_PKT_F_TUNNEL))) {
#pragma unroll
		for (i = OVS_KEY_W(dp_hash); i < OVS_KEY_BASE; i++)
			pkt->key.w[i] = 0;
		pkt->cpu.dirty = 0;
	}
	if (!pkt->parsed) {
		pkt->key.skb_priority = ctx_priority(ctx);
		pkt->key.skb_mark = ctx_mark(ctx);
		err = ovs_parse(ctx, pkt);
		if (unlikely(err))
			return ovs_drop(cpu, pkt, err);
		pkt->parsed = 1;
	}
	return ovs_process(ctx, cpu, pkt);
}

/*
 * Stage ACT: the instructions at pc are those of a packet that is…  When they
 * begin with ct(), the interpreter need not be asked where that is.
 */
static __always_inline int ovs_act_as(struct ovs_ctx *ctx, int shared)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_pkt *pkt;

	if (!cpu)
		return CTX_DROP;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return CTX_DROP;
	return ovs_stage(ctx, cpu, pkt, unlikely(shared) ?
			 OVS_STAGE_ACT_SHARED : pkt->list.next);
}

SEC("tc")
int ovs_act(struct ovs_ctx *ctx)
{
	return ovs_act_as(ctx, ctx_is_shared(ctx));
}

/* In the place of ovs_act where the kernel has what it takes. */
SEC("tc")
int ovs_act_cast(struct ovs_ctx *ctx)
{
	return ovs_act_as(ctx, ctx_is_shared_cast(ctx));
}

/* … shared with its sender: they leave it as it is. */
SEC("tc")
int ovs_act_shared(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_pkt *pkt;

	if (!cpu)
		return CTX_DROP;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return CTX_DROP;
	return ovs_run_acts(ctx, cpu, pkt, 0);
}

/* … not shared. */
SEC("tc")
int ovs_act_own(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_pkt *pkt;

	if (!cpu)
		return CTX_DROP;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return CTX_DROP;
	return ovs_run_acts(ctx, cpu, pkt, 1);
}

/* Stage CT, from ACT or ACT_OWN, and back to the latter. */
SEC("tc")
int ovs_act_ct(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_pkt *pkt;

	if (!cpu)
		return CTX_DROP;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return CTX_DROP;
	return ovs_run_ct(ctx, cpu, pkt);
}

/* Stage ROUTE: what is to be written is in ovs_cpu, of a packet that is… */
static __always_inline int ovs_route_as(struct ovs_ctx *ctx, int shared)
{
	__u32 stage = OVS_STAGE_ROUTE_OWN;

	if (unlikely(shared))
		return ovs_route_drop(OVS_DROP_SHARED);
	barrier_var(stage);
	bpf_tail_call(ctx, &ovs_progs, stage);
	return ovs_route_drop(OVS_DROP_TAIL_CALL);
}

SEC("tc")
int ovs_route(struct ovs_ctx *ctx)
{
	return ovs_route_as(ctx, ctx_is_shared(ctx));
}

SEC("tc")
int ovs_route_cast(struct ovs_ctx *ctx)
{
	return ovs_route_as(ctx, ctx_is_shared_cast(ctx));
}

/* … not shared. */
SEC("tc")
int ovs_route_own(struct ovs_ctx *ctx)
{
	return ovs_route_packet(ctx);
}

/* Stage RX_L3, which leads to RX. */
SEC("tc")
int ovs_rx_l3(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_pkt *pkt;
	__u32 err;

	if (!cpu)
		return CTX_DROP;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return CTX_DROP;
	err = ovs_receive_l3(ctx, pkt);
	if (unlikely(err))
		return ovs_drop(cpu, pkt, err);
	return ovs_stage(ctx, cpu, pkt, OVS_STAGE_RX);
}

/* Stage RX_TUNNEL, which leads to RX, or to RX_L3. */
SEC("tc")
int ovs_rx_tunnel(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	struct ovs_port *port;
	struct ovs_pkt *pkt;
	__u32 err;

	if (!cpu)
		return CTX_DROP;
	pkt = ovs_pkt_of(cpu);
	if (!pkt)
		return CTX_DROP;
	err = ovs_tunnel_receive(ctx, pkt);
	port = OVS_PORT(pkt->key.in_port);
	if (unlikely(err || !port))
		return ovs_drop(cpu, pkt, err ?: OVS_DROP_NO_STATE);
	return ovs_stage(ctx, cpu, pkt,
			 OVS_READ_ONCE(port->flags) & OVS_PORT_F_L3 ?
			 OVS_STAGE_RX_L3 : OVS_STAGE_RX);
}

/*
 * At the ingress of the inject device: packets of the provider, and copies
 * that a program deferred.  What has no armed slot is not for us.
 */
SEC("tc")
int ovs_inject(struct ovs_ctx *ctx)
{
	struct ovs_cpu *cpu = ovs_cpu_get();
	__u32 mark = ctx_mark(ctx), level, err;
	struct ovs_slot *slot;
	struct ovs_pkt *pkt;

	slot = ovs_slot_find(mark);
	if (!cpu || !slot) {
		ovs_count_drop(0, cpu ? OVS_DROP_SLOT : OVS_DROP_NO_STATE);
		return CTX_DROP;
	}
	level = cpu->level;
	if (level >= OVS_MAX_NESTING) {
		ovs_count_drop(slot->bridge, OVS_DROP_NESTING);
		ovs_slot_free(mark);
		return CTX_DROP;
	}
	cpu->level = level + 1;
	pkt = &cpu->pkt[level & (OVS_LEVELS - 1)];
	ovs_copy_meta(&pkt->key, &slot->key);
	pkt->cpu.dirty |= OVS_DIRTY_META;
	pkt->bridge = slot->bridge;
	pkt->slot = mark;
	pkt->recirc_depth = slot->recirc_depth;
	pkt->cutlen = slot->cutlen;
	pkt->mru = slot->mru;
	pkt->list.copies = 0;
	pkt->list.calls = 0;
	pkt->tracked = 0;
	pkt->parsed = 1;
	pkt->exact = 0;
	pkt->line = 0;
	pkt->list.since = slot->pc ? slot->state >> OVS_SLOT_TIME_SHIFT : 0;
	pkt->family = slot->family;
	pkt->flags = slot->flags;
	if (unlikely(slot->flags & OVS_PKT_F_TO_TUNNEL))
		ovs_tunnel_copy(&pkt->tunnel, &slot->tunnel);
	pkt->list.pc = slot->pc;
	/* A block that sends nothing is no drop: the list does, or not. */
	pkt->list.sent = ovs_slot_is_deferred(mark);
	pkt->list.next = OVS_STAGE_ACT_OWN;
	pkt->drop = 0;
	ctx_set_mark(ctx, pkt->key.skb_mark);
	ctx_set_priority(ctx, pkt->key.skb_priority);

	err = ovs_parse(ctx, pkt);
	/* The device's receive path forgot where the labels of it end. */
	if (!err && ctx_gso(ctx) && pkt->key.mpls_labels)
		err = OVS_DROP_GSO;
	if (unlikely(err))
		return ovs_drop(cpu, pkt, err);
	if (slot->l3_off) {	/* exact, also behind many tags */
		pkt->l3_off = slot->l3_off;
		pkt->l4_off = slot->l4_off;
		pkt->l4_proto = slot->l4_proto;
		pkt->routing = slot->routing;
	}
	if (pkt->list.pc)
		return ovs_stage(ctx, cpu, pkt, OVS_STAGE_ACT);
	if (!pkt->recirc_depth)
		pkt->recirc_depth = 1;	/* its metadata stay */
	return ovs_stage(ctx, cpu, pkt, OVS_STAGE_LOOKUP);
}

/* The end of an internal port's pair that people use: at its egress… */
SEC("tc")
int ovs_keep(struct ovs_ctx *ctx)
{
	ctx_keep(ctx);
	return CTX_NEXT;
}

/* … and at its ingress. */
SEC("tc")
int ovs_restore(struct ovs_ctx *ctx)
{
	if (ctx_kept(ctx))
		ctx_restore(ctx);
	return CTX_NEXT;
}

/* The provider runs it once, when the generation becomes valid. */
SEC("tc")
int ovs_ct_sweeper(struct ovs_ctx *ctx)
{
	return ovs_ct_start();
}

/* The provider runs it to have done what it asks in ovs_ct_asked. */
SEC("tc")
int ovs_ct_answerer(struct ovs_ctx *ctx)
{
	return ovs_ct_answer();
}

char ovs_license[] SEC("license") = "GPL";
