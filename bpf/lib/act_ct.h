/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ct() and ct_clear(), as ovs_ct_execute() of net/openvswitch/conntrack.c has
 * them.  A packet's connection is remembered (ovs_ct_work) for as long as it
 * stays on this CPU: so it is looked for once in a zone, and counted once.
 * A deferred copy, and a packet that comes back from user space, find it again
 * by their tuple, as they do in the kernel.
 *
 * Fragments go to the provider, which sends the packet that they are here.  So
 * do packets of control connections, for their helper to read: they go on behind
 * the action.
 *
 * The action has a program of its own, to which the interpreter goes over and
 * which goes back to it, as there is no room on the stack for both.
 */
#ifndef OVS_ACT_CT_H
#define OVS_ACT_CT_H

#include "act_nat.h"
#include "act_output.h"
#include "act_recirc.h"
#include "drop.h"
#include "upcall.h"

#define OVS_CT_NAT_MASK	(OVS_CT_SRC_NAT | OVS_CT_DST_NAT)

/* What is known of a connection; the record of one that has gone is NULL. */
static __always_inline struct ovs_ct *ovs_ct_of(struct ovs_ct_pkt *st)
{
	if (st->verdict == OVS_CT_V_NEW)
		return &st->fresh;
	return ovs_ct_record(st);
}

static __always_inline void ovs_key_ct_clear(struct ovs_key *key)
{
	__u32 i;

	key->ct_state = 0;
	key->ct_zone = 0;
	key->ct_mark = 0;
#pragma unroll
	for (i = OVS_KEY_W(ct_labels); i <= OVS_KEY_W(ct_orig_tp_src); i++)
		key->w[i] = 0;
}

__noinline int ovs_ct_clear(struct ovs_pkt *pkt)
{
	if (!pkt)
		return 0;
	pkt->tracked = 0;
	ovs_key_ct_clear(&pkt->key);
	return 0;
}

/* Neighbour discovery has no original tuple: in the kernel's key it has no
 * place. */
static __always_inline int ovs_key_is_nd(const struct ovs_key *key)
{
	return key->eth_type == bpf_htons(ETH_P_IPV6) &&
	       key->ip_proto == IPPROTO_ICMPV6 && !key->tp_dst &&
	       (key->tp_src == bpf_htons(135) ||
		key->tp_src == bpf_htons(136));
}

/* The key has what the connection says: ovs_ct_update_key(). */
__noinline int ovs_key_ct(struct ovs_pkt *pkt, struct ovs_ct_pkt *st)
{
	const struct ovs_ct_tuple *orig;
	const struct ovs_ct *master;
	struct ovs_key *key;
	struct ovs_ct *ct;

	if (!pkt || !st)
		return 0;
	key = &pkt->key;
	ovs_key_ct_clear(key);
	pkt->cpu.dirty |= OVS_DIRTY_CT;
	key->ct_state = st->ct_state;
	key->ct_zone = st->zone;
	if (st->verdict == OVS_CT_V_INVALID)
		return 0;
	ct = ovs_ct_of(st);
	if (!ct)
		return 0;
	key->ct_mark = OVS_READ_ONCE(ct->mark);
	__builtin_memcpy(key->ct_labels, ct->labels, sizeof(key->ct_labels));
	master = ovs_ct_master_of(ct);
	orig = master ? &master->orig : &ct->orig;
	if (orig->family != st->family || ovs_key_is_nd(key))
		return 0;
	key->w[OVS_KEY_W(ct_orig_ipv6_src)] = orig->w[0];
	key->w[OVS_KEY_W(ct_orig_ipv6_src) + 2] = orig->w[2];
	if (orig->family == OVS_CT_INET) {
		key->ct_orig_ipv4_dst = orig->dst4;
		key->w[OVS_KEY_W(ct_orig_ipv6_src) + 2] = 0;
	} else {
		key->w[OVS_KEY_W(ct_orig_ipv6_src) + 1] = orig->w[1];
		key->w[OVS_KEY_W(ct_orig_ipv6_src) + 3] = orig->w[3];
	}
	key->ct_orig_proto = orig->proto;
	if (orig->proto == (orig->family == OVS_CT_INET ? IPPROTO_ICMP :
							  IPPROTO_ICMPV6)) {
		key->ct_orig_tp_src = bpf_htons(orig->dport & 0xff);
		key->ct_orig_tp_dst = bpf_htons(orig->dport >> 8);
	} else {
		key->ct_orig_tp_src = orig->sport;
		key->ct_orig_tp_dst = orig->dport;
	}
	return 0;
}

/*
 * Whether the packet's connection in a zone is known, and need not be looked
 * for: skb_nfct_cached().  One that is to begin in this direction ends where
 * it began in the other one.
 */
__noinline int ovs_ct_is_known(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			       struct ovs_ct_work *w)
{
	struct ovs_ct_pkt *st;
	__u32 flags;
	__u8 state;
	int known = 1;
	__u16 zone;

	if (!pkt || !w)
		return 0;
	st = &w->pkt;
	flags = w->flags;
	zone = w->zone;
	state = pkt->key.ct_state;
	if (!(state & OVS_CT_TRACKED) || !pkt->tracked) {
		known = state & OVS_CT_TRACKED && !(state & OVS_CT_INVALID) &&
			pkt->key.ct_zone == zone;
		if (!known && (state || !(flags & OVS_CTA_FORCE)))
			return 0;
		st->zone = zone;
		if (!ovs_ct_find_again(ctx, st, !!(state & OVS_CT_NAT_MASK)))
			return 0;
		pkt->tracked = 1;
	}
	if (st->zone != zone)
		return 0;
	if (w->policy) {
		struct ovs_ct *ct = ovs_ct_of(st);

		if (!ct || ct->policy != w->policy)
			return 0;
	}
	if (flags & OVS_CTA_FORCE && st->dir) {
		if (st->verdict != OVS_CT_V_NEW)
			ovs_ct_drop(st);
		pkt->tracked = 0;
		return 0;
	}
	return known;
}

/*
 * Which NAT a packet gets, and which one is told of it: nf_ct_nat().  A new
 * connection is given what it is to have.  Returns OVS_NAT_* in the low byte,
 * what is to be translated, and in the next one what is told.
 */
__noinline int ovs_ct_nat_of(struct ovs_ct_work *w)
{
	__u32 status, dir, first, told = 0, bits = 0, begins, i, flags;
	int related, established, masked;
	struct ovs_ct_pkt *st;
	struct ovs_ct *ct;

	if (!w)
		return 0;
	st = &w->pkt;
	flags = w->flags;
	ct = ovs_ct_of(st);
	if (!ct)
		return 0;
	status = OVS_READ_ONCE(ct->status);
	dir = st->dir & 1;
	begins = st->verdict == OVS_CT_V_NEW;
	established = st->verdict == OVS_CT_V_FOUND &&
		      (dir || status & OVS_CT_S_SEEN_REPLY);
	related = st->verdict == OVS_CT_V_RELATED ||
		  (!established && status & OVS_CT_S_EXPECTED);
	masked = status & (OVS_CT_S_SRC_NAT | OVS_CT_S_DST_NAT);

	if ((established || related) && masked &&
	    (!related || dir || flags & OVS_CTA_COMMIT))
		first = !(status & OVS_CT_S_SRC_NAT) == !dir ? OVS_NAT_DST :
							       OVS_NAT_SRC;
	else if (flags & OVS_CTA_NAT_SRC)
		first = OVS_NAT_SRC;
	else if (flags & OVS_CTA_NAT_DST)
		first = OVS_NAT_DST;
	else
		return 0;
#pragma unroll
	for (i = 0; i < 2; i++) {
		__u32 what = first, null = 0, done, bit;

		if (i) {
			if (!(status & OVS_CT_S_DST_NAT))
				break;
			if (status & OVS_CT_S_SRC_NAT) {
				what = first ^ (OVS_NAT_SRC | OVS_NAT_DST);
			} else if (!dir) {
				what = OVS_NAT_SRC;
				null = 1;
			} else {
				break;
			}
		}
		done = what == OVS_NAT_SRC ? OVS_CT_S_SRC_NAT_DONE :
					     OVS_CT_S_DST_NAT_DONE;
		if (begins && !(status & done)) {
			if (!(flags & OVS_CTA_NAT_IPS))
				null = 1;
			ovs_nat_setup(w, what == OVS_NAT_DST, null);
			status = st->fresh.status;
		}
		bit = (what == OVS_NAT_SRC) != dir ? OVS_CT_S_SRC_NAT :
						     OVS_CT_S_DST_NAT;
		if (status & bit)
			bits |= what;
		told |= what;
	}
	return bits | told << 8;
}

/* NAT, where the packet had none in this zone: ovs_ct_nat().  OVS_DROP_*. */
__noinline int ovs_ct_nat(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			  struct ovs_ct_work *w, __u32 how)
{
	struct ovs_ct_pkt *st;
	__u32 bits = how & 0xff, told = how >> 8;
	struct ovs_ct *ct;
	int err = 0;

	if (!pkt || !w)
		return OVS_DROP_NO_STATE;
	st = &w->pkt;
	if (st->verdict == OVS_CT_V_RELATED) {
		if (st->family == OVS_CT_INET) {
			__u8 *type = ctx_at(ctx, st->l4_off, 1);

			ct = ovs_ct_of(st);
			/* A redirect tells of a way that others do not go. */
			if (type && *type == OVS_CT_REDIRECT && told &&
			    (!ct || (ct->status & (OVS_CT_S_SRC_NAT_DONE |
						   OVS_CT_S_DST_NAT_DONE)) !=
			     (OVS_CT_S_SRC_NAT_DONE | OVS_CT_S_DST_NAT_DONE) ||
			     ct->status & (OVS_CT_S_SRC_NAT |
					   OVS_CT_S_DST_NAT)))
				return OVS_DROP_CONNTRACK;
		}
		if (bits)
			err = ovs_nat_error(ctx, pkt, st, bits);
	} else if (bits) {
		err = ovs_nat_packet(ctx, pkt, st, bits);
	}
	if (err)
		return err;
	if (told & OVS_NAT_SRC)
		pkt->key.ct_state |= OVS_CT_SRC_NAT;
	if (told & OVS_NAT_DST)
		pkt->key.ct_state |= OVS_CT_DST_NAT;
	return 0;
}

/* Mark and labels, of a new connection before it is one. */
__noinline int ovs_ct_write(struct ovs_pkt *pkt, struct ovs_ct_work *w)
{
	__u64 *labels, word, mask;
	__u32 i, flags, at;
	struct ovs_ct *ct;

	if (!pkt || !w)
		return 0;
	ct = ovs_ct_of(&w->pkt);
	if (!ct)
		return 0;
	flags = w->flags;
	at = w->at;
	if (flags & OVS_CTA_MARK) {
		word = ovs_operand(at);
		ct->mark = (__u32)word |
			   (OVS_READ_ONCE(ct->mark) & ~(__u32)(word >> 32));
		pkt->key.ct_mark = ct->mark;
	}
	if (!(flags & OVS_CTA_LABELS))
		return 0;
	labels = (__u64 *)ct->labels;
#pragma unroll
	for (i = 0; i < 2; i++) {
		word = ovs_operand(at + 1 + i);
		mask = ovs_operand(at + 3 + i);
		word |= OVS_READ_ONCE(labels[i]) & ~mask;
		*(volatile __u64 *)&labels[i] = word;
		pkt->key.w[OVS_KEY_W(ct_labels) + i] = word;
	}
	return 0;
}

/*
 * A connection that is committed gets the action's helper, unless it has one;
 * that sees this packet.  One that is new is seen by the helper that it has.
 */
__noinline int ovs_ct_attach(struct ovs_ct_work *w)
{
	struct ovs_ct *ct;
	__u16 helper;
	__u32 at;

	if (!w)
		return 0;
	ct = ovs_ct_of(&w->pkt);
	if (!ct)
		return 0;
	at = w->at;
	helper = ovs_operand(at + 9) >> 32;
	if (likely(!helper) || w->pkt.verdict == OVS_CT_V_RELATED ||
	    ct->helper)
		return 0;
	ct->helper = helper;
	w->pkt.helper = helper;
	__sync_fetch_and_or(&ct->status, OVS_CT_S_HELPER);
	w->help = 1;
	return 0;
}

/*
 * The kernel lets conntrack see a packet without what fills a short frame up,
 * and sends it so: nf_ct_skb_network_trim().  OVS_DROP_*.
 */
static __always_inline int ovs_ct_trim(struct ovs_ctx *ctx,
				       struct ovs_pkt *pkt)
{
	__u32 off = pkt->l3_off, len = ctx_len(ctx), said;

	if (pkt->key.eth_type == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = ctx_at(ctx, off, sizeof(*ip));

		if (!ip)
			return 0;
		said = bpf_ntohs(ip->tot_len);
	} else {
		struct ipv6hdr *ip6 = ctx_at(ctx, off, sizeof(*ip6));

		if (!ip6)
			return 0;
		said = bpf_ntohs(ip6->payload_len) + sizeof(*ip6);
	}
	if (likely(said + off >= len) || said < sizeof(struct iphdr) ||
	    ctx_gso(ctx))
		return 0;
	return ctx_trim(ctx, said + off) ? OVS_DROP_TRUNC : 0;
}

/*
 * Begin an action: what it says, and what is known of the packet.  OVS_DROP_*.
 */
__noinline int ovs_ct_prepare(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			      struct ovs_ct_work *w, __u32 pc)
{
	struct ovs_insn insn, *word;
	struct ovs_ct_pkt *st;

	word = bpf_map_lookup_elem(&ovs_acts, &pc);
	if (!pkt || !w || !word)
		return OVS_DROP_NO_STATE;
	insn = *word;
	if (insn.op != OVS_OP_CT)
		return OVS_DROP_BAD_INSN;
	pkt->list.pc = pc + 1 + insn.len;
	w->at = pc + 1;
	w->flags = insn.imm & 0xffff;
	w->policy = insn.imm >> OVS_CTA_POLICY_SHIFT;
	w->zone = insn.arg;
	st = &w->pkt;
	st->family = pkt->key.eth_type == bpf_htons(ETH_P_IP) ? OVS_CT_INET :
		     pkt->key.eth_type == bpf_htons(ETH_P_IPV6) ?
		     OVS_CT_INET6 : 0;
	if (unlikely(st->l3_off != pkt->l3_off)) {
		/* What is inside an ICMP error moves with it. */
		st->inner_l3 += pkt->l3_off - st->l3_off;
		st->inner_l4 += pkt->l3_off - st->l3_off;
		st->l3_off = pkt->l3_off;
	}
	st->l4_off = pkt->l4_off;
	st->l4_proto = pkt->l4_proto;
	return st->family && st->l3_off ? ovs_ct_trim(ctx, pkt) : 0;
}

/*
 * The action whose instruction is at pc.  OVS_DROP_*.  Of what it needs,
 * nothing is kept on the stack but these pointers.
 */
static __always_inline int ovs_ct_act(struct ovs_ctx *ctx,
				      struct ovs_cpu *cpu,
				      struct ovs_pkt *pkt,
				      struct ovs_ct_work *w)
{
	int err;

	err = ovs_ct_prepare(ctx, pkt, w, pkt->list.pc);
	if (unlikely(err))
		return err;
	w->pkt.now = ovs_now(cpu);
	w->help = 0;
	/* Most packets meet ct() for the first time. */
	if (likely(!pkt->key.ct_state && !(w->flags & OVS_CTA_FORCE)) ||
	    !ovs_ct_is_known(ctx, pkt, w)) {
		w->pkt.zone = w->zone;
		w->pkt.policy = w->policy;
		pkt->tracked = ovs_ct_find(ctx, &w->pkt) != OVS_CT_V_INVALID;
		ovs_key_ct(pkt, &w->pkt);
		w->help = 1;
	}
	if (!pkt->tracked)
		return 0;
	if (unlikely(w->pkt.verdict == OVS_CT_V_NEW && w->pkt.expect) &&
	    w->flags & OVS_CTA_COMMIT && ovs_ct_expect_take(&w->pkt))
		ovs_key_ct(pkt, &w->pkt);
	if (w->flags & OVS_CTA_NAT && !(pkt->key.ct_state & OVS_CT_NAT_MASK) &&
	    (w->pkt.verdict != OVS_CT_V_NEW || w->flags & OVS_CTA_COMMIT)) {
		__u32 how = ovs_ct_nat_of(w);

		err = how ? ovs_ct_nat(ctx, pkt, w, how) : 0;
		if (err)
			return err;
	}
	if (!(w->flags & OVS_CTA_COMMIT))
		return 0;
	if (w->flags & (OVS_CTA_MARK | OVS_CTA_LABELS))
		ovs_ct_write(pkt, w);
	if (w->pkt.verdict == OVS_CT_V_NEW)
		w->help = 1;
	if (unlikely(ovs_operand(w->at + 9) >> 32))
		ovs_ct_attach(w);
	return ovs_ct_commit(&w->pkt) == OVS_CT_C_DONE ? 0 :
							 OVS_DROP_CONNTRACK;
}

/* A packet that has taken as many tail calls as it may goes on later. */
__noinline int ovs_ct_later(struct ovs_ctx *ctx, struct ovs_pkt *pkt)
{
	struct ovs_run run = { .ctx = ctx, .cpu = ovs_cpu_get(), .pkt = pkt };

	if (!pkt || !run.cpu)
		return OVS_DROP_NO_STATE;
	pkt->list.copies = 0;
	return ovs_defer(&run, 0, pkt->list.pc, pkt->flags);
}

/*
 * The provider puts fragments together, and sends the whole packet to where
 * this instruction is; or has a helper see a packet, which goes on at the next
 * one.
 */
__noinline int ovs_ct_provider(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			       __u32 cmd)
{
	if (!pkt)
		return OVS_DROP_NO_STATE;
	pkt->upcall_cmd = cmd;
	pkt->upcall_desc = pkt->list.pc;
	return ovs_upcall(ctx, pkt);
}

/*
 * Whether a helper has to see a packet: nf_ct_helper().  One of FTP looks at
 * data, and shifts all others' sequence numbers where it has changed some; one
 * of TFTP at requests.  Of a connection that was expected it does not ask.
 */
__noinline int ovs_ct_wants_help(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	struct ovs_ct *ct;
	__u32 status;
	void *tp;

	if (!st || st->verdict != OVS_CT_V_FOUND)
		return 0;
	ct = ovs_ct_record(st);
	if (!ct || likely(!ct->helper))
		return 0;
	status = OVS_READ_ONCE(ct->status);
	if (status & OVS_CT_S_EXPECTED)
		return 0;
	if (ct->helper == OVS_CT_HELPER_FTP && st->l4_proto == IPPROTO_TCP) {
		if (status & OVS_CT_S_SEQ_ADJUST)
			return 1;
		tp = ctx_at(ctx, st->l4_off, OVS_TCP_HLEN);
		return tp && st->ct_state & OVS_CT_ESTABLISHED &&
		       ovs_ct_l4_len(st) > (OVS_AT8(tp, 12) >> 4) * 4;
	}
	if (ct->helper != OVS_CT_HELPER_TFTP || st->l4_proto != IPPROTO_UDP)
		return 0;
	tp = ctx_at(ctx, st->l4_off, OVS_UDP_HLEN + 2);
	return tp && (OVS_AT16(tp, OVS_UDP_HLEN) == bpf_htons(1) ||
		      OVS_AT16(tp, OVS_UDP_HLEN) == bpf_htons(2));
}

/*
 * Go on behind the action.  Most lists end there with a recirculation, for
 * which the key, which is the packet's, is looked up at once, or an output.
 */
static __always_inline int ovs_ct_go_on(struct ovs_ctx *ctx,
					struct ovs_cpu *cpu,
					struct ovs_pkt *pkt)
{
	__u32 pc = pkt->list.pc, stage = OVS_STAGE_ACT_OWN;
	struct ovs_insn *word = bpf_map_lookup_elem(&ovs_acts, &pc);

	if (!word)
		return ovs_drop(cpu, pkt, OVS_DROP_BAD_INSN);
	if (word->op == OVS_OP_OUTPUT_LAST && !(pkt->cutlen | pkt->mru))
		return ovs_output_only(ctx, cpu, pkt, word->imm);
	if (likely(word->op == OVS_OP_RECIRC_LAST &&
		   !pkt->stale && !(pkt->flags & OVS_PKT_F_COPY) &&
		   pkt->recirc_depth < OVS_MAX_RECIRC &&
		   pkt->list.calls <= OVS_MAX_CALLS - OVS_RECIRC_CALLS)) {
		pkt->recirc_depth++;
		pkt->list.calls += OVS_RECIRC_CALLS;
		pkt->list.since = 0;
		pkt->key.recirc_id = word->imm;
		stage = OVS_STAGE_LOOKUP;
	}
	return ovs_stage(ctx, cpu, pkt, stage);
}

/* Stage CT: the instruction at pc, and back to where the list goes on. */
static __always_inline int ovs_run_ct(struct ovs_ctx *ctx,
				      struct ovs_cpu *cpu,
				      struct ovs_pkt *pkt)
{
	struct ovs_ct_work *w = ovs_ct_work_of(cpu);
	int err;

	if (!w)
		return ovs_drop(cpu, pkt, OVS_DROP_NO_STATE);
	if (unlikely(pkt->list.calls > OVS_MAX_CALLS - OVS_CT_CALLS))
		return ovs_drop(cpu, pkt, ovs_ct_later(ctx, pkt));
	pkt->list.calls += OVS_CT_CALLS;
	if (unlikely(pkt->key.ip_frag))
		return ovs_drop(cpu, pkt, ovs_ct_provider(
						  ctx, pkt,
						  OVS_UPCALL_FRAGMENT));
	err = ovs_ct_act(ctx, cpu, pkt, w);
	/* A line of ovs_exact said so, and the flow's actions have changed. */
	if (unlikely(err == OVS_DROP_BAD_INSN))
		return ovs_stage(ctx, cpu, pkt, OVS_STAGE_ACT_OWN);
	if (unlikely(err))
		return ovs_drop(cpu, pkt, err);
	if (unlikely(w->pkt.helper) && w->help && pkt->tracked &&
	    ovs_ct_wants_help(ctx, &w->pkt))
		return ovs_drop(cpu, pkt, ovs_ct_provider(ctx, pkt,
							  OVS_UPCALL_HELP));
	return ovs_ct_go_on(ctx, cpu, pkt);
}

#endif /* OVS_ACT_CT_H */
