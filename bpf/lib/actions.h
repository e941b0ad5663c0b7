/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The interpreter of a flow's actions: one bpf_loop() over the instructions
 * in ovs_acts.  What is expensive to verify is a global function, which is
 * verified on its own.  No action leads to another program but the last one,
 * when that is a recirculation: the kernel allows 33 tail calls in a row, a
 * limit that no list of actions may reach.  A packet that is about to reach it
 * is deferred.
 */
#ifndef OVS_ACTIONS_H
#define OVS_ACTIONS_H

#include "act_ct.h"
#include "act_header.h"
#include "act_flow.h"
#include "act_meter.h"
#include "act_output.h"
#include "act_recirc.h"
#include "act_set.h"
#include "act_vlan.h"
#include "parse.h"
#include "upcall.h"

/* End the list: the packet is dropped, and counted unless `reason` is 0. */
static __always_inline long ovs_end(struct ovs_pkt *pkt, __u32 reason)
{
	pkt->drop = reason;
	return 1;
}

static __always_inline long ovs_set_u32(struct ovs_pkt *pkt, __u32 *field,
					__u32 value, __u32 at)
{
	*field = OVS_MASKED(*field, value, (__u32)ovs_operand(at));
	return 0;
}

static __always_inline __u32 ovs_recirc_last(struct ovs_run *run, __u32 id,
					     const int own)
{
	struct ovs_pkt *pkt = run->pkt;

	if (pkt->recirc_depth >= OVS_MAX_RECIRC)
		return OVS_DROP_RECIRC_LIMIT;
	if (!ovs_may_cause(pkt, 1))
		return OVS_DROP_COPIES;
	if (unlikely(pkt->list.calls > OVS_MAX_CALLS - OVS_RECIRC_CALLS))
		return own ? ovs_defer(run, id, 0, pkt->flags) :
			     OVS_DROP_SHARED;
	pkt->recirc_depth++;
	pkt->list.calls += OVS_RECIRC_CALLS;
	pkt->list.since = 0;
	pkt->key.recirc_id = id;
	pkt->list.next = OVS_STAGE_LOOKUP;
	return OVS_DROP_NONE;
}

/* Send an upcall; when it is lost, that is counted and the list goes on. */
static __always_inline void ovs_userspace(struct ovs_ctx *ctx,
					  struct ovs_pkt *pkt, __u32 desc)
{
	__u32 reason;

	pkt->list.sent = 1;
	pkt->upcall_cmd = OVS_PACKET_CMD_ACTION;
	pkt->upcall_desc = desc;
	reason = ovs_upcall(ctx, pkt);
	if (unlikely(reason))
		ovs_count_drop(pkt->bridge, reason);
	pkt->cutlen = 0;
}

/*
 * Defer the packet itself: behind the copies that it has deferred, it runs the
 * rest of its list, from the instruction at `pc` on.  Where there is no room
 * for it, it goes on with that instruction at once.
 */
static __always_inline long ovs_defer_rest(struct ovs_run *run, __u32 pc)
{
	struct ovs_pkt *pkt = run->pkt;

	pkt->list.copies = 0;
	pkt->list.pc = pc;
	return ovs_defer(run, 0, pc, pkt->flags) ? 0 :
	       ovs_end(pkt, OVS_DROP_NONE);
}

/* Whether a copy may be made to run instructions or, `recirc`, a lookup. */
static __always_inline __u32 ovs_may_copy(struct ovs_pkt *pkt, int recirc)
{
	if (recirc && pkt->recirc_depth >= OVS_MAX_RECIRC)
		return OVS_DROP_RECIRC_LIMIT;
	return ovs_may_cause(pkt, OVS_COPY_COST) ? OVS_DROP_NONE :
						   OVS_DROP_COPIES;
}

/*
 * Defer a copy, which runs instructions from `pc` on or, when that is 0, is
 * looked up again as `id`.  One that is lost is counted, and the list goes on.
 */
static __always_inline void ovs_copy(struct ovs_run *run, __u32 id, __u32 pc,
				     __u8 flags)
{
	struct ovs_pkt *pkt = run->pkt;
	__u32 err = ovs_may_copy(pkt, !pc);

	pkt->list.sent = 1;
	pkt->list.copies++;
	if (!err)
		err = ovs_defer(run, id, pc, flags | OVS_PKT_F_COPY);
	if (err)
		ovs_count_drop(pkt->bridge, err);
}

/*
 * Make the key that of the packet.  The offsets stay where they are exact,
 * also where more tags have been pushed than flow extract goes over.
 */
static __always_inline int ovs_refresh(struct ovs_ctx *ctx,
				       struct ovs_pkt *pkt)
{
	__u16 l3_off = pkt->l3_off, l4_off = pkt->l4_off;
	__u8 l4_proto = pkt->l4_proto, routing = pkt->routing;
	__u8 stale = pkt->stale;
	int err;

	err = ovs_parse(ctx, pkt);
	if (stale & OVS_STALE_OFFSETS)
		return err;
	pkt->l3_off = l3_off;
	pkt->l4_off = l4_off;
	pkt->l4_proto = l4_proto;
	pkt->routing = routing;
	return err;
}

/* Whether an instruction must not find the key, or the offsets, stale. */
static __always_inline int ovs_wants_fresh(__u8 op, __u8 stale)
{
	if (op == OVS_OP_USERSPACE || op == OVS_OP_RECIRC_LAST ||
	    op == OVS_OP_CT)
		return 1;
	return stale & OVS_STALE_OFFSETS &&
	       (op == OVS_OP_CLONE || op == OVS_OP_CHECK_PKT_LEN ||
		op == OVS_OP_DEC_TTL);
}

/*
 * Instructions that call a helper which must not see a shared packet
 * (ctx_is_shared()), or write into it.
 */
#define OVS_CHANGES							\
	(1ULL << OVS_OP_OUTPUT | 1ULL << OVS_OP_RECIRC |		\
	 1ULL << OVS_OP_CLONE | 1ULL << OVS_OP_PUSH_VLAN |		\
	 1ULL << OVS_OP_POP_VLAN | 1ULL << OVS_OP_SET_ETH |		\
	 1ULL << OVS_OP_SET_IPV4 | 1ULL << OVS_OP_SET_IPV6 |		\
	 1ULL << OVS_OP_SET_TP | 1ULL << OVS_OP_HEADER |			\
	 1ULL << OVS_OP_DEC_TTL)

_Static_assert(OVS_OP_MAX <= 64, "OVS_CHANGES");

/* One of them, at `pc`; 0 to go on with the next instruction. */
static __always_inline long ovs_change(struct ovs_run *run,
				       struct ovs_insn insn, __u32 pc)
{
	__u32 at = pc + 1, err = 0, copy_id = 0, copy_pc = 0;
	__u8 copy_flags = 0;
	struct ovs_ctx *ctx = run->ctx;
	struct ovs_pkt *pkt = run->pkt;

	switch (insn.op) {
	case OVS_OP_OUTPUT:
		/* Of a list, layout.py sees to that; not over recirculation. */
		if (unlikely(pkt->cutlen)) {
			if (pkt->flags & OVS_PKT_F_ONE_OUTPUT) {
				ovs_output_last(ctx, pkt, insn.imm, 1);
				return 1;
			}
			copy_pc = pc;
			copy_flags = OVS_PKT_F_ONE_OUTPUT;
			break;
		}
		ovs_output(ctx, pkt, insn.imm);
		return 0;
	case OVS_OP_RECIRC:
		copy_id = insn.imm;
		break;
	case OVS_OP_CLONE:
		copy_pc = at;
		pkt->list.pc += insn.imm;
		break;
	case OVS_OP_PUSH_VLAN:
		err = ovs_push_vlan(ctx, pkt, insn.arg, insn.imm);
		break;
	case OVS_OP_POP_VLAN:
		err = ovs_pop_vlan(ctx, pkt);
		break;
	case OVS_OP_SET_ETH:
		err = ovs_set_eth(ctx, pkt, at);
		break;
	case OVS_OP_SET_IPV4:
		err = ovs_set_ipv4(ctx, pkt, at);
		break;
	case OVS_OP_SET_IPV6:
		err = ovs_set_ipv6(ctx, pkt, at);
		break;
	case OVS_OP_SET_TP:
		err = ovs_set_tp(ctx, pkt, at, insn.arg);
		break;
	case OVS_OP_HEADER:
		err = ovs_header(ctx, pkt, insn.arg, insn.imm, at);
		break;
	case OVS_OP_DEC_TTL:
		err = ovs_dec_ttl(ctx, pkt);
		if (err == OVS_DROP_TTL && insn.imm)
			return 0;
		pkt->list.pc += (__u32)ovs_operand(at);
		break;
	}
	if (unlikely(err))
		return ovs_end(pkt, err);
	if (insn.op != OVS_OP_RECIRC && !copy_pc)
		return 0;
	if (unlikely(pkt->list.copies >= OVS_MAX_COPIES))
		return ovs_defer_rest(run, pc);
	ovs_copy(run, copy_id, copy_pc, copy_flags);
	if (copy_flags)		/* the truncation was for this copy alone */
		pkt->cutlen = 0;
	return 0;
}

/* One instruction; 0 to go on with the next.  `own`: it may be any. */
static __always_inline long ovs_step(struct ovs_run *run, const int own)
{
	struct ovs_ctx *ctx = run->ctx;
	struct ovs_pkt *pkt = run->pkt;
	__u32 pc = pkt->list.pc, at = pc + 1, err;
	struct ovs_insn insn, *word;

	word = bpf_map_lookup_elem(&ovs_acts, &pc);
	if (!word)
		return ovs_end(pkt, OVS_DROP_BAD_INSN);
	insn = *word;
	pkt->list.pc = at + insn.len;
	if (unlikely(pkt->stale) && ovs_wants_fresh(insn.op, pkt->stale)) {
		err = ovs_refresh(ctx, pkt);
		if (err)
			return ovs_end(pkt, err);
	}
	if (OVS_CHANGES >> (insn.op & 63) & 1)
		return own ? ovs_change(run, insn, pc) :
			     ovs_end(pkt, OVS_DROP_SHARED);

	switch (insn.op) {
	case OVS_OP_OUTPUT_LAST:
		ovs_output_last(ctx, pkt, insn.imm, own);
		return 1;
	case OVS_OP_END:
		return ovs_end(pkt, pkt->list.sent ? OVS_DROP_NONE :
						OVS_DROP_EXPLICIT);
	case OVS_OP_DROP:
		return ovs_end(pkt, insn.imm ? OVS_DROP_ACTION_ERROR :
					       OVS_DROP_ACTION);
	case OVS_OP_USERSPACE:
		ovs_userspace(ctx, pkt, insn.imm);
		return 0;
	case OVS_OP_RECIRC_LAST:
		return ovs_end(pkt, ovs_recirc_last(run, insn.imm, own));
	case OVS_OP_SET_PRIORITY:
		ovs_set_u32(pkt, &pkt->key.skb_priority, insn.imm, at);
		ctx_set_priority(ctx, pkt->key.skb_priority);
		return 0;
	case OVS_OP_SET_MARK:
		ovs_set_u32(pkt, &pkt->key.skb_mark, insn.imm, at);
		ctx_set_mark(ctx, pkt->key.skb_mark);
		return 0;
	case OVS_OP_TRUNC:
		ovs_trunc(ctx, pkt, insn.imm);
		return 0;
	case OVS_OP_CT:
		if (!own)
			return ovs_end(pkt, OVS_DROP_SHARED);
		pkt->list.pc -= 1 + insn.len;
		pkt->list.next = OVS_STAGE_CT;
		return ovs_end(pkt, OVS_DROP_NONE);
	case OVS_OP_CT_CLEAR:
		ovs_ct_clear(pkt);
		return 0;
	case OVS_OP_JUMP:
		pkt->list.pc += insn.imm;
		return 0;
	case OVS_OP_SAMPLE:
		if (!ovs_sampled(insn.imm))
			pkt->list.pc += (__u32)ovs_operand(at);
		return 0;
	case OVS_OP_CHECK_PKT_LEN:
		if (ovs_longer(ctx, pkt, insn.imm))
			pkt->list.pc += (__u32)ovs_operand(at);
		return 0;
	case OVS_OP_HASH:
		ovs_hash(ctx, pkt, insn.imm);
		return 0;
	case OVS_OP_METER:
		if (!ovs_meter(ctx, pkt, insn.imm, ovs_now_ms(run->cpu)))
			return 0;
		if (!insn.len)
			return ovs_end(pkt, OVS_DROP_METER);
		pkt->list.pc += (__u32)ovs_operand(at);
		ovs_count_drop(pkt->bridge, OVS_DROP_METER);
		return 0;
	}
	return ovs_end(pkt, OVS_DROP_BAD_INSN);
}

/* An instruction, and the output after it that ends most lists. */
static long ovs_step_own(__u32 i, struct ovs_run *run)
{
	struct ovs_insn *word;
	__u32 pc;

	if (ovs_step(run, 1))
		return 1;
	pc = run->pkt->list.pc;
	word = bpf_map_lookup_elem(&ovs_acts, &pc);
	if (!word || word->op != OVS_OP_OUTPUT_LAST)
		return 0;
	ovs_output_last(run->ctx, run->pkt, word->imm, 1);
	return 1;
}

static long ovs_step_shared(__u32 i, struct ovs_run *run)
{
	return ovs_step(run, 0);
}

/*
 * Run the instructions at pc; the program returns the result.  `own`: the
 * packet is known not to be shared.  A program that writes into packets
 * begins with what the verifier puts there: the packet's head is copied where
 * it is another one's, too, which a shared packet must not meet.
 */
static __always_inline int ovs_run_acts(struct ovs_ctx *ctx,
					struct ovs_cpu *cpu,
					struct ovs_pkt *pkt, const int own)
{
	struct ovs_run run = { .ctx = ctx, .cpu = cpu, .pkt = pkt };

	pkt->drop = OVS_DROP_BAD_INSN;	/* the end is never met */
	pkt->list.next = 0;
	pkt->verdict = CTX_DROP;
	if (own)
		bpf_loop(OVS_MAX_INSNS, ovs_step_own, &run, 0);
	else
		bpf_loop(OVS_MAX_INSNS, ovs_step_shared, &run, 0);
	if (pkt->list.next)
		return ovs_stage(ctx, cpu, pkt, pkt->list.next);
	return ovs_exit(cpu, pkt, pkt->verdict);
}

#endif /* OVS_ACTIONS_H */
