/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * TCP as the kernel tracks it: the same states, windows and timeouts for the
 * same segments as net/netfilter/nf_conntrack_proto_tcp.c of Linux 6.18
 * (tests/system/test_ct_kernel.py compares).  The windows are those of Guido
 * van Rooij, "Real Stateful TCP Packet Filtering in IP Filter" (2001).
 */
#ifndef OVS_CT_TCP_H
#define OVS_CT_TCP_H

#include "ct_tuple.h"

/* What a handler makes of a packet of a connection. */
enum ovs_ct_result {
	OVS_CT_R_INVALID,
	OVS_CT_R_ACCEPT,
	OVS_CT_R_END,		/* accepted; the connection ends by it */
	OVS_CT_R_REOPEN,	/* the connection ends; look again */
};

#define OVS_CT_TCP_IGNORE	11	/* let pass, and note it */
#define OVS_CT_TCP_BAD		15

/* States after a segment, by the state before it. */
#define OVS_CT_ROW(no, ss, sr, es, fw, cw, la, tw, cl, s2)		\
	((__u64)(no) | (__u64)(ss) << 4 | (__u64)(sr) << 8 |		\
	 (__u64)(es) << 12 | (__u64)(fw) << 16 | (__u64)(cw) << 20 |	\
	 (__u64)(la) << 24 | (__u64)(tw) << 28 | (__u64)(cl) << 32 |	\
	 (__u64)(s2) << 36)

#define SS	OVS_CT_TCP_SYN_SENT
#define SR	OVS_CT_TCP_SYN_RECV
#define ES	OVS_CT_TCP_ESTABLISHED
#define FW	OVS_CT_TCP_FIN_WAIT
#define CW	OVS_CT_TCP_CLOSE_WAIT
#define LA	OVS_CT_TCP_LAST_ACK
#define TW	OVS_CT_TCP_TIME_WAIT
#define CL	OVS_CT_TCP_CLOSE
#define S2	OVS_CT_TCP_SYN_SENT2
#define IG	OVS_CT_TCP_IGNORE
#define XX	OVS_CT_TCP_BAD

/* By direction * 8 + enum ovs_ct_tcp_index. */
static const __u64 ovs_ct_tcp_table[16] = {
	/*                           NO  SS  SR  ES  FW  CW  LA  TW  CL  S2 */
	[OVS_CT_I_SYN] = OVS_CT_ROW(SS, SS, IG, IG, IG, IG, IG, SS, SS, S2),
	[OVS_CT_I_SYNACK] = OVS_CT_ROW(XX, XX, SR, XX, XX, XX, XX, XX, XX, SR),
	[OVS_CT_I_FIN] = OVS_CT_ROW(XX, XX, FW, FW, LA, LA, LA, TW, CL, XX),
	[OVS_CT_I_ACK] = OVS_CT_ROW(ES, XX, ES, ES, CW, CW, TW, TW, CL, XX),
	[OVS_CT_I_RST] = OVS_CT_ROW(XX, CL, CL, CL, CL, CL, CL, CL, CL, CL),
	[8 + OVS_CT_I_SYN] =
			OVS_CT_ROW(XX, S2, XX, XX, XX, XX, XX, SS, XX, S2),
	[8 + OVS_CT_I_SYNACK] =
			OVS_CT_ROW(XX, SR, IG, IG, IG, IG, IG, IG, IG, SR),
	[8 + OVS_CT_I_FIN] =
			OVS_CT_ROW(XX, XX, FW, FW, LA, LA, LA, TW, CL, XX),
	[8 + OVS_CT_I_ACK] =
			OVS_CT_ROW(XX, IG, SR, ES, CW, CW, TW, TW, CL, IG),
	[8 + OVS_CT_I_RST] =
			OVS_CT_ROW(XX, CL, CL, CL, CL, CL, CL, CL, CL, CL),
};

#undef SS
#undef SR
#undef ES
#undef FW
#undef CW
#undef LA
#undef TW
#undef CL
#undef S2
#undef IG
#undef XX

static __always_inline __u32 ovs_ct_tcp_next(__u32 dir, __u32 index, __u32 old)
{
	__u64 row = dir * 8 + index;

	/* The verifier of 6.1 loses the bounds of what clang makes of a sum. */
	asm volatile("%0 &= 15" : "+r"(row));
	return ovs_ct_tcp_table[row] >> (old & 15) * 4 & 15;
}

/* Whether a is before b. */
static __always_inline int ovs_ct_before(__u32 a, __u32 b)
{
	return (__s32)(a - b) < 0;
}

#define OVS_CT_ACK_WINDOW	66000	/* at least so far back an ACK may be */

/* What a SYN tells of its sender. */
static __always_inline void ovs_ct_tcp_syn(struct ovs_ct_tcp_end *sender,
					   struct ovs_ct_tcp_end *receiver,
					   const struct ovs_ct_pkt *st)
{
	sender->end = st->end;
	sender->maxend = st->end;
	sender->maxwin = st->win ?: 1;
	if (st->opt_len) {
		sender->scale = st->opt_scale;
		sender->flags = (sender->flags & OVS_CT_TCP_F_LIBERAL) |
				st->opt_flags;
	}
	/* Windows are scaled when both sides offer it (RFC 7323, 2.2). */
	if (receiver && st->dir &&
	    !(sender->flags & receiver->flags & OVS_CT_TCP_F_WSCALE)) {
		sender->scale = 0;
		receiver->scale = 0;
	}
}

enum ovs_ct_window {
	OVS_CT_W_OUT,		/* invalid */
	OVS_CT_W_IGNORE,	/* let pass, without a trace */
	OVS_CT_W_IN,
};

/* How much a helper has shifted what `dir` sends, at `seq`. */
static __always_inline __s32 ovs_ct_adjustment(const struct ovs_ct *ct,
					       __u32 dir, __u32 seq)
{
	dir &= 1;
	if (likely(!(ct->status & OVS_CT_S_SEQ_ADJUST)))
		return 0;
	return ovs_ct_before(ct->adj_pos[dir], seq) ? ct->adj_after[dir] :
						      ct->adj_before[dir];
}

/*
 * What the windows are to be asked about, in st->seq, end, ack and sack, where
 * it is not simply what the segment says; and what its sender is known to have
 * sent, if it begins or nothing was known.  1: it is in the windows.
 */
__noinline int ovs_ct_tcp_prepare(struct ovs_ct *ct, struct ovs_ct_pkt *st)
{
	struct ovs_ct_tcp_end *sender, *receiver;
	__u32 flags, offset, dir;

	if (!ct || !st)
		return 0;
	dir = st->dir & 1;
	sender = &ct->tcp.seen[dir];
	receiver = &ct->tcp.seen[!dir];
	flags = st->tcp_flags;
	offset = ovs_ct_adjustment(ct, !dir, st->ack - 1);
	st->ack -= offset;
	st->sack -= offset;

	if (!sender->maxwin) {
		/* Its first segment. */
		if (flags & OVS_CT_SYN) {
			ovs_ct_tcp_syn(sender, receiver, st);
			if (!(flags & OVS_CT_ACK))
				return 1;
		} else {
			sender->end = st->end;
			sender->maxwin = st->win << (sender->scale & 15) ?: 1;
			sender->maxend = st->end + sender->maxwin;
			if (!receiver->maxwin) {
				receiver->end = st->sack;
				receiver->maxend = st->sack;
			} else if (st->sack == receiver->end + 1) {
				receiver->end++;	/* of a keep-alive */
			}
		}
	} else if (flags & OVS_CT_SYN && ovs_ct_before(sender->end, st->end) &&
		   (ct->state == OVS_CT_TCP_SYN_SENT ||
		    ct->state == OVS_CT_TCP_SYN_RECV)) {
		/* It begins anew, with numbers of its own (RFC 9293, 3.4.3). */
		ovs_ct_tcp_syn(sender, receiver, st);
		if (dir && !(flags & OVS_CT_ACK))
			return 1;
	}

	if (!(flags & OVS_CT_ACK) || (flags & OVS_CT_RST && !st->ack)) {
		st->ack = receiver->end;
		st->sack = st->ack;
	}
	if (flags & OVS_CT_RST && !st->seq &&
	    ct->state == OVS_CT_TCP_SYN_SENT) {
		st->seq = sender->end;	/* in answer to a SYN */
		st->end = st->seq;
	}
	return 0;
}

/*
 * What becomes of a segment that is outside of the windows: invalid, or let
 * pass without a trace, or, where one is liberal, as if it were in them.
 */
__noinline int ovs_ct_tcp_outside(struct ovs_ct *ct, struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	struct ovs_ct_tcp_end *sender, *receiver;
	int below, acked, liberal;
	__u32 back;

	if (!ct || !st || !conf)
		return OVS_CT_W_OUT;
	sender = &ct->tcp.seen[st->dir & 1];
	receiver = &ct->tcp.seen[!(st->dir & 1)];
	liberal = sender->flags & OVS_CT_TCP_F_LIBERAL ||
		  conf->flags & OVS_CT_F_LIBERAL;
	back = sender->maxwin > OVS_CT_ACK_WINDOW ? sender->maxwin :
						    OVS_CT_ACK_WINDOW;
	/* What was acknowledged long ago, and who acknowledges such. */
	below = !ovs_ct_before(sender->end - receiver->maxwin - 1, st->end) ||
		!ovs_ct_before(receiver->end - back - 1, st->sack);
	acked = ovs_ct_before(st->sack, receiver->end + 1);
	if (ovs_ct_before(st->seq, sender->maxend + 1)) {
		if (liberal)
			return OVS_CT_W_IN;
		return acked ? OVS_CT_W_IGNORE : OVS_CT_W_OUT;
	}
	if (receiver->maxwin && !below && acked &&
	    st->end - sender->maxend + 1 <= receiver->maxwin) {
		/*
		 * More than the receiver has room for, but not much.  It may
		 * take it nonetheless, and what it acknowledges then was sent.
		 */
		sender->end = st->end;
		sender->flags |= OVS_CT_TCP_F_UNACKED;
		return liberal ? OVS_CT_W_IN : OVS_CT_W_IGNORE;
	}
	return liberal ? OVS_CT_W_IN : OVS_CT_W_OUT;
}

/* What the compiler shall not keep in registers, and on the stack. */
#define OVS_CT_RELOAD()	asm volatile("" : : : "memory")

/*
 * Whether a segment is in the windows of both sides, which are moved by it.
 * Its sequence number must not be above what the receiver allows, nor its end
 * below what it has acknowledged long ago; nor may it acknowledge what was
 * not sent, or what is too far back.
 */
__noinline int ovs_ct_tcp_window(struct ovs_ct *ct, struct ovs_ct_pkt *st)
{
	struct ovs_ct_tcp_end *sender, *receiver;
	__u32 dir, win, swin, back;

	if (!ct || !st)
		return OVS_CT_W_OUT;
	dir = st->dir & 1;
	sender = &ct->tcp.seen[dir];
	receiver = &ct->tcp.seen[!dir];
	if (!(receiver->flags & OVS_CT_TCP_F_SACK))
		st->sack = st->ack;
	if (unlikely(!sender->maxwin || ct->status & OVS_CT_S_SEQ_ADJUST ||
		     (st->tcp_flags &
		      (OVS_CT_SYN | OVS_CT_RST | OVS_CT_ACK)) != OVS_CT_ACK) &&
	    ovs_ct_tcp_prepare(ct, st))
		return OVS_CT_W_IN;
	OVS_CT_RELOAD();

	back = sender->maxwin > OVS_CT_ACK_WINDOW ? sender->maxwin :
						    OVS_CT_ACK_WINDOW;
	if (unlikely(!ovs_ct_before(st->seq, sender->maxend + 1) ||
		     !ovs_ct_before(st->sack, receiver->end + 1) ||
		     !ovs_ct_before(receiver->end - back - 1, st->sack) ||
		     (receiver->maxwin &&
		      !ovs_ct_before(sender->end - receiver->maxwin - 1,
				     st->end))))
		return ovs_ct_tcp_outside(ct, st);
	OVS_CT_RELOAD();

	win = st->win;
	if (!(st->tcp_flags & OVS_CT_SYN))
		win <<= sender->scale & 15;
	swin = win + (st->sack - st->ack);
	if (sender->maxwin < swin)
		sender->maxwin = swin;
	if (ovs_ct_before(sender->end, st->end)) {
		sender->end = st->end;
		sender->flags |= OVS_CT_TCP_F_UNACKED;
	}
	if (st->tcp_flags & OVS_CT_ACK &&
	    (!(sender->flags & OVS_CT_TCP_F_MAXACK) ||
	     ovs_ct_before(sender->maxack, st->ack))) {
		sender->maxack = st->ack;
		sender->flags |= OVS_CT_TCP_F_MAXACK;
	}
	OVS_CT_RELOAD();
	if (receiver->maxwin && ovs_ct_before(sender->maxend, st->end))
		receiver->maxwin += st->end - sender->maxend;
	if (ovs_ct_before(receiver->maxend - 1, st->sack + win))
		receiver->maxend = st->sack + win + !win;
	if (st->ack == receiver->end)
		receiver->flags &= ~OVS_CT_TCP_F_UNACKED;
	OVS_CT_RELOAD();

	if (st->index == OVS_CT_I_ACK) {
		struct ovs_ct_tcp *tcp = &ct->tcp;

		if (tcp->last_dir == dir && tcp->last_seq == st->seq &&
		    tcp->last_ack == st->ack && tcp->last_end == st->end &&
		    tcp->last_win == st->win) {
			tcp->retrans++;
		} else {
			tcp->last_dir = dir;
			tcp->last_seq = st->seq;
			tcp->last_ack = st->ack;
			tcp->last_end = st->end;
			tcp->last_win = st->win;
			tcp->retrans = 0;
		}
	}
	return OVS_CT_W_IN;
}

/* A segment that is let pass, since the ends may know better than we do. */
static __always_inline void ovs_ct_tcp_note(struct ovs_ct_tcp *tcp,
					    const struct ovs_ct_pkt *st,
					    __u32 dir, __u32 old)
{
	tcp->last_index = st->index;
	tcp->last_dir = dir;
	tcp->last_seq = st->seq;
	tcp->last_end = st->end;
	tcp->last_win = st->win;
	if (st->index == OVS_CT_I_SYN && !dir) {
		/* It may begin a connection: what it offers is kept. */
		tcp->last_flags = st->opt_flags;
		tcp->last_scale = st->opt_scale;
		/* ... or be answered by a challenge ACK (RFC 5961, 4). */
		if (old == OVS_CT_TCP_LAST_ACK)
			tcp->last_flags |= OVS_CT_TCP_F_CHALLENGE;
	}
	if (old == OVS_CT_TCP_SYN_SENT && st->index == OVS_CT_I_ACK && dir)
		tcp->last_ack = st->ack;
}

/*
 * A SYN/ACK that answers the SYN of ovs_ct_tcp_note(): the ends are in sync,
 * and so are we.
 */
static __always_inline void ovs_ct_tcp_resync(struct ovs_ct_tcp *tcp, __u32 dir)
{
	struct ovs_ct_tcp_end *syn = &tcp->seen[!(dir & 1)];
	struct ovs_ct_tcp_end *own = &tcp->seen[dir & 1];

	tcp->last_flags &= ~OVS_CT_TCP_F_CHALLENGE;
	syn->end = tcp->last_end;
	syn->maxend = tcp->last_end;
	syn->maxwin = tcp->last_win ?: 1;
	syn->scale = tcp->last_scale;
	syn->flags = tcp->last_flags;
	own->end = 0;
	own->maxend = 0;
	own->maxwin = 0;
	own->maxack = 0;
	own->scale = 0;
	own->flags &= OVS_CT_TCP_F_LIBERAL;
}

/* A segment of no connection: what it begins, if it may. */
static __always_inline int ovs_ct_tcp_begin(struct ovs_ct *ct,
					    struct ovs_ct_pkt *st,
					    const struct ovs_ct_conf *conf)
{
	__u32 next = ovs_ct_tcp_next(0, st->index, OVS_CT_TCP_NONE);
	struct ovs_ct_tcp_end *end = &ct->tcp.seen[0];

	if (next == OVS_CT_TCP_BAD)
		return 0;
	ct->tcp.last_index = OVS_CT_I_NONE;
	if (next == OVS_CT_TCP_SYN_SENT) {
		ovs_ct_tcp_syn(end, NULL, st);
		return 1;
	}
	if (!(conf->flags & OVS_CT_F_LOOSE))
		return 0;
	/* No scale is known, so that no window is. */
	end->end = st->end;
	end->maxwin = st->win ?: 1;
	end->maxend = st->end + end->maxwin;
	end->flags = OVS_CT_TCP_F_SACK | OVS_CT_TCP_F_LIBERAL;
	ct->tcp.seen[1].flags = end->flags;
	return 1;
}

static __always_inline int ovs_ct_tcp_is_established(const struct ovs_ct *ct)
{
	return ct->state == OVS_CT_TCP_ESTABLISHED &&
	       ct->status & OVS_CT_S_ASSURED;
}

enum ovs_ct_rst {
	OVS_CT_RST_BAD,
	OVS_CT_RST_WINDOW,	/* as other segments: windows decide */
	OVS_CT_RST_KEEP,	/* likewise, but it does not end anything */
	OVS_CT_RST_TRUE,	/* whatever the windows say */
};

/*
 * How far a reset is believed.  The ends believe one with the very number
 * that is due; another one within the window they answer by a challenge ACK.
 */
__noinline int ovs_ct_tcp_rst(struct ovs_ct *ct, struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	__u32 state, dir, answer = OVS_CT_RST_WINDOW;
	struct ovs_ct_tcp_end *peer;
	struct ovs_ct_tcp *tcp;

	if (!ct || !st || !conf)
		return OVS_CT_RST_BAD;
	tcp = &ct->tcp;
	dir = st->dir & 1;
	peer = &tcp->seen[!dir];
	state = ct->state;
	/* It closes anyhow; its numbers may be those of the next one. */
	if (state >= OVS_CT_TCP_FIN_WAIT && state <= OVS_CT_TCP_CLOSE)
		return OVS_CT_RST_TRUE;
	if (peer->flags & OVS_CT_TCP_F_MAXACK &&
	    tcp->last_index != OVS_CT_I_SYN) {
		int established = ovs_ct_tcp_is_established(ct);

		if (!st->seq && !established)
			return OVS_CT_RST_WINDOW;
		if (ovs_ct_before(st->seq, peer->maxack) &&
		    !(conf->flags & OVS_CT_F_IGNORE_RST))
			return OVS_CT_RST_BAD;
		if (!established || st->seq == peer->maxack)
			return OVS_CT_RST_WINDOW;
		/* Behind the data that it was sent with. */
		if (tcp->last_index == OVS_CT_I_ACK && tcp->last_dir == dir &&
		    st->seq == tcp->last_end)
			return OVS_CT_RST_WINDOW;
		answer = OVS_CT_RST_KEEP;
	}
	/* To a SYN, or to an ACK of half a connection, that we let pass. */
	if (((ct->status & OVS_CT_S_SEEN_REPLY && tcp->last_dir != dir &&
	      tcp->last_index == OVS_CT_I_SYN) ||
	     (!(ct->status & OVS_CT_S_ASSURED) &&
	      tcp->last_index == OVS_CT_I_ACK)) && st->ack == tcp->last_end)
		return answer == OVS_CT_RST_KEEP ? OVS_CT_RST_KEEP | 4 :
						   OVS_CT_RST_TRUE;
	/* To a challenge ACK. */
	if (state == OVS_CT_TCP_SYN_SENT && tcp->last_index == OVS_CT_I_ACK &&
	    tcp->last_dir && st->seq == tcp->last_ack)
		return answer == OVS_CT_RST_KEEP ? OVS_CT_RST_KEEP | 4 :
						   OVS_CT_RST_TRUE;
	return answer;
}

/*
 * A FIN or RST out of window, for the second time and from the other side
 * now: the ends are at odds with us, and this ends before long.
 */
__noinline int ovs_ct_tcp_out(struct ovs_ct *ct, struct ovs_ct_pkt *st)
{
	__u32 *exp, left, most, dir, id;
	struct ovs_ct_policy *policy;
	struct ovs_ct_tcp *tcp;

	if (!ct || !st)
		return 0;
	tcp = &ct->tcp;
	dir = st->dir & 1;
	id = ct->policy;
	policy = bpf_map_lookup_elem(&ovs_ct_policy, &id);
	if (!policy || !(ct->status & OVS_CT_S_ASSURED) ||
	    ct->status & OVS_CT_S_FIXED_TIMEOUT ||
	    (st->index != OVS_CT_I_RST && st->index != OVS_CT_I_FIN))
		return 0;
	if (tcp->last_dir == dir || (tcp->last_index != OVS_CT_I_FIN &&
				     tcp->last_index != OVS_CT_I_RST)) {
		tcp->last_index = st->index;
		tcp->last_dir = dir;
		return 0;
	}
	exp = ovs_ct_expiry(st->id);
	if (!exp)
		return 0;
	left = *exp - st->now / OVS_CT_NS;
	most = policy->timeout[OVS_CT_T_TCP_UNACK];
	if (left >= 120 && left > most)
		*(volatile __u32 *)exp = st->now / OVS_CT_NS + most + 1;
	return 0;
}

static __always_inline __u32 ovs_ct_tcp_timeout(const struct ovs_ct *ct,
						const struct ovs_ct_pkt *st,
						const struct ovs_ct_conf *conf,
						const struct ovs_ct_policy *p,
						__u32 state)
{
	__u32 due = p->timeout[OVS_CT_T_TCP + (state & 15)], most = due;
	const struct ovs_ct_tcp *tcp = &ct->tcp;

	if (tcp->retrans >= conf->max_retrans &&
	    due > p->timeout[OVS_CT_T_TCP_RETRANS])
		return p->timeout[OVS_CT_T_TCP_RETRANS];
	if (unlikely(st->index == OVS_CT_I_RST))
		return p->timeout[OVS_CT_T_TCP + OVS_CT_TCP_CLOSE];
	if ((tcp->seen[0].flags | tcp->seen[1].flags) & OVS_CT_TCP_F_UNACKED &&
	    due > p->timeout[OVS_CT_T_TCP_UNACK])
		most = p->timeout[OVS_CT_T_TCP_UNACK];
	else if (!tcp->last_win && due > p->timeout[OVS_CT_T_TCP_RETRANS])
		most = p->timeout[OVS_CT_T_TCP_RETRANS];
	return most;
}

/*
 * A segment that the states are at odds with, and that is let pass: it may be
 * right, and we not.  Return: OVS_CT_R_ACCEPT: it is noted; OVS_CT_R_REOPEN;
 * OVS_CT_R_INVALID: after all it is the answer that is due in SYN_SENT.
 */
__noinline int ovs_ct_tcp_ignored(struct ovs_ct *ct, struct ovs_ct_pkt *st,
				  __u32 next)
{
	struct ovs_ct_tcp *tcp;
	__u32 dir;

	if (!ct || !st)
		return OVS_CT_R_ACCEPT;
	tcp = &ct->tcp;
	dir = st->dir & 1;
	if (next == OVS_CT_TCP_SYN_SENT &&
	    ((tcp->seen[0].flags | tcp->seen[1].flags) &
	     OVS_CT_TCP_F_CLOSE_INIT ||
	     (tcp->last_dir == dir && tcp->last_index == OVS_CT_I_RST)))
		return OVS_CT_R_REOPEN;
	if (st->index == OVS_CT_I_SYNACK && tcp->last_index == OVS_CT_I_SYN &&
	    tcp->last_dir != dir && st->ack == tcp->last_end) {
		ovs_ct_tcp_resync(tcp, dir);
		return OVS_CT_R_INVALID;
	}
	ovs_ct_tcp_note(tcp, st, dir, ct->state);
	return OVS_CT_R_ACCEPT;
}

/*
 * A segment of connection `ct`, which is locked or not there yet.  Sets
 * st->timeout.
 *
 * Return: enum ovs_ct_result
 */
__noinline int ovs_ct_tcp(struct ovs_ct *ct, struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	__u32 dir, index, old, next, timeout, policy_id;
	struct ovs_ct_policy *policy;
	struct ovs_ct_tcp *tcp;
	int window, rst;

	if (!ct || !st || !conf)
		return OVS_CT_R_INVALID;
	policy_id = ct->policy;
	policy = bpf_map_lookup_elem(&ovs_ct_policy, &policy_id);
	if (!policy)
		return OVS_CT_R_INVALID;
	st->timeout = 0;
	tcp = &ct->tcp;
	dir = st->dir & 1;
	index = st->index;
	old = ct->state;
	next = ovs_ct_tcp_next(dir, index, old);

	if (next == OVS_CT_TCP_BAD)
		return OVS_CT_R_INVALID;
	if (next == OVS_CT_TCP_IGNORE ||
	    (next == OVS_CT_TCP_SYN_SENT && old >= OVS_CT_TCP_TIME_WAIT)) {
		rst = ovs_ct_tcp_ignored(ct, st, next);
		if (rst != OVS_CT_R_INVALID)
			return rst;
		old = OVS_CT_TCP_SYN_SENT;
		next = OVS_CT_TCP_SYN_RECV;
	} else if (next == OVS_CT_TCP_TIME_WAIT) {
		if (old == OVS_CT_TCP_LAST_ACK && index == OVS_CT_I_ACK &&
		    tcp->last_dir != dir && tcp->last_index == OVS_CT_I_SYN &&
		    tcp->last_flags & OVS_CT_TCP_F_CHALLENGE) {
			/* Not the last ACK, but a challenge. */
			tcp->last_flags &= ~OVS_CT_TCP_F_CHALLENGE;
			return OVS_CT_R_ACCEPT;
		}
	} else if (next == OVS_CT_TCP_SYN_SENT2) {
		tcp->last_flags |= OVS_CT_TCP_F_SIMOPEN;
	} else if (next == OVS_CT_TCP_SYN_RECV) {
		if (dir && index == OVS_CT_I_ACK &&
		    tcp->last_flags & OVS_CT_TCP_F_SIMOPEN)
			next = OVS_CT_TCP_ESTABLISHED;
	}

	window = OVS_CT_W_OUT;
	if (unlikely(index == OVS_CT_I_RST)) {
		rst = ovs_ct_tcp_rst(ct, st);
		if (rst == OVS_CT_RST_BAD)
			return OVS_CT_R_INVALID;
		if ((rst & 3) == OVS_CT_RST_KEEP)
			next = old;
		if (rst & 4 || rst == OVS_CT_RST_TRUE)
			window = OVS_CT_W_IN;
	}
	if (window != OVS_CT_W_IN) {
		window = ovs_ct_tcp_window(ct, st);
		if (window == OVS_CT_W_IGNORE)
			return OVS_CT_R_ACCEPT;
		if (window == OVS_CT_W_OUT) {
			ovs_ct_tcp_out(ct, st);
			return OVS_CT_R_INVALID;
		}
	}

	tcp->last_index = index;
	tcp->last_dir = dir;
	ct->state = next;
	if (next == OVS_CT_TCP_FIN_WAIT && old != next)
		tcp->seen[dir].flags |= OVS_CT_TCP_F_CLOSE_INIT;
	timeout = ovs_ct_tcp_timeout(ct, st, conf, policy, next);

	if (!(ct->status & OVS_CT_S_SEEN_REPLY)) {
		if (index == OVS_CT_I_RST)
			return OVS_CT_R_END;
		/* A client that goes on trying does not keep it alive. */
		if (index == OVS_CT_I_SYN && old == OVS_CT_TCP_SYN_SENT)
			return OVS_CT_R_ACCEPT;
		if (next == OVS_CT_TCP_ESTABLISHED &&
		    timeout > policy->timeout[OVS_CT_T_TCP_UNACK])
			timeout = policy->timeout[OVS_CT_T_TCP_UNACK];
	} else if (next == OVS_CT_TCP_ESTABLISHED &&
		   !(ct->status & OVS_CT_S_ASSURED) &&
		   (old == OVS_CT_TCP_SYN_RECV || old == next)) {
		ct->status |= OVS_CT_S_ASSURED;
	}
	st->timeout = timeout;
	return OVS_CT_R_ACCEPT;
}

/*
 * The same: most segments are data and acknowledgements of what is
 * established, of which only the windows need be looked at.
 */
static __always_inline int ovs_ct_tcp_segment(struct ovs_ct *ct,
					      struct ovs_ct_pkt *st,
					      const struct ovs_ct_conf *conf)
{
	__u32 id = ct->policy, want = OVS_CT_S_ASSURED | OVS_CT_S_SEEN_REPLY;
	struct ovs_ct_policy *policy;
	int window;

	policy = bpf_map_lookup_elem(&ovs_ct_policy, &id);
	if (unlikely(st->index != OVS_CT_I_ACK || !policy ||
		     ct->state != OVS_CT_TCP_ESTABLISHED ||
		     (ct->status & want) != want))
		return ovs_ct_tcp(ct, st);
	st->timeout = 0;
	window = ovs_ct_tcp_window(ct, st);
	if (unlikely(window != OVS_CT_W_IN))
		return window == OVS_CT_W_IGNORE ? OVS_CT_R_ACCEPT :
						   OVS_CT_R_INVALID;
	ct->tcp.last_index = OVS_CT_I_ACK;
	ct->tcp.last_dir = st->dir;
	st->timeout = ovs_ct_tcp_timeout(ct, st, conf, policy,
					 OVS_CT_TCP_ESTABLISHED);
	return OVS_CT_R_ACCEPT;
}

#endif /* OVS_CT_TCP_H */
