/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * SCTP as the kernel tracks it: states by chunk, and verification tags, as in
 * net/netfilter/nf_conntrack_proto_sctp.c of Linux 6.18.  The checksum is not
 * looked at.
 */
#ifndef OVS_CT_SCTP_H
#define OVS_CT_SCTP_H

#include "ct_tcp.h"

#define OVS_CT_CHUNKS		1024	/* of one packet: more are invalid */

enum ovs_ct_chunk {
	OVS_CT_CH_DATA = 0,
	OVS_CT_CH_INIT = 1,
	OVS_CT_CH_INIT_ACK = 2,
	OVS_CT_CH_HEARTBEAT = 4,
	OVS_CT_CH_HEARTBEAT_ACK = 5,
	OVS_CT_CH_ABORT = 6,
	OVS_CT_CH_SHUTDOWN = 7,
	OVS_CT_CH_SHUTDOWN_ACK = 8,
	OVS_CT_CH_ERROR = 9,
	OVS_CT_CH_COOKIE_ECHO = 10,
	OVS_CT_CH_COOKIE_ACK = 11,
	OVS_CT_CH_SHUTDOWN_COMPLETE = 14,
};

#define OVS_CT_CHUNK_T	1	/* the tag is the peer's, reflected */

#define NO	OVS_CT_SCTP_NONE
#define CL	OVS_CT_SCTP_CLOSED
#define CW	OVS_CT_SCTP_COOKIE_WAIT
#define CE	OVS_CT_SCTP_COOKIE_ECHOED
#define ES	OVS_CT_SCTP_ESTABLISHED
#define SS	OVS_CT_SCTP_SHUTDOWN_SENT
#define SR	OVS_CT_SCTP_SHUTDOWN_RECD
#define SA	OVS_CT_SCTP_SHUTDOWN_ACK_SENT
#define HS	OVS_CT_SCTP_HEARTBEAT_SENT
#define XX	OVS_CT_TCP_BAD

#define OVS_CT_SROW(no, cl, cw, ce, es, ss, sr, sa, hs) \
	OVS_CT_ROW(no, cl, cw, ce, es, ss, sr, sa, hs, XX)
#define OVS_CT_STAY	OVS_CT_SROW(NO, CL, CW, CE, ES, SS, SR, SA, HS)

/* By direction * 16 + type of chunk. */
static const __u64 ovs_ct_sctp_table[32] = {
	/*		     NO  CL  CW  CE  ES  SS  SR  SA  HS */
	[0] = OVS_CT_STAY,
	[1] = OVS_CT_SROW(CL, CL, CW, CE, ES, CL, CL, SA, CW),
	[2] = OVS_CT_SROW(CL, CL, CW, CE, ES, SS, SR, SA, CL),
	[3] = OVS_CT_STAY,
	[4] = OVS_CT_SROW(HS, CL, CW, CE, ES, SS, SR, SA, HS),
	[5] = OVS_CT_SROW(CL, CL, CW, CE, ES, SS, SR, SA, HS),
	[6] = OVS_CT_SROW(CL, CL, CL, CL, CL, CL, CL, CL, CL),
	[7] = OVS_CT_SROW(CL, CL, CW, CE, SS, SS, SR, SA, CL),
	[8] = OVS_CT_SROW(SA, CL, CW, CE, ES, SA, SA, SA, SA),
	[9] = OVS_CT_SROW(CL, CL, CW, CE, ES, SS, SR, SA, CL),
	[10] = OVS_CT_SROW(CL, CL, CE, CE, ES, SS, SR, SA, CL),
	[11] = OVS_CT_SROW(CL, CL, CW, ES, ES, SS, SR, SA, CL),
	[12] = OVS_CT_STAY,
	[13] = OVS_CT_STAY,
	[14] = OVS_CT_SROW(CL, CL, CW, CE, ES, SS, SR, CL, CL),
	[15] = OVS_CT_STAY,
	[16] = OVS_CT_STAY,
	[17] = OVS_CT_SROW(XX, CL, CW, CE, ES, SS, SR, SA, XX),
	[18] = OVS_CT_SROW(XX, CW, CW, CE, ES, SS, SR, SA, XX),
	[19] = OVS_CT_STAY,
	[20] = OVS_CT_SROW(XX, CL, CW, CE, ES, SS, SR, SA, HS),
	[21] = OVS_CT_SROW(XX, CL, CW, CE, ES, SS, SR, SA, ES),
	[22] = OVS_CT_SROW(XX, CL, CL, CL, CL, CL, CL, CL, XX),
	[23] = OVS_CT_SROW(XX, CL, CW, CE, SR, SS, SR, SA, XX),
	[24] = OVS_CT_SROW(XX, CL, CW, CE, ES, SA, SA, SA, XX),
	[25] = OVS_CT_SROW(XX, CL, CW, CL, ES, SS, SR, SA, XX),
	[26] = OVS_CT_SROW(XX, CL, CE, CE, ES, SS, SR, SA, XX),
	[27] = OVS_CT_SROW(XX, CL, CW, ES, ES, SS, SR, SA, XX),
	[28] = OVS_CT_STAY,
	[29] = OVS_CT_STAY,
	[30] = OVS_CT_SROW(XX, CL, CW, CE, ES, SS, SR, CL, XX),
	[31] = OVS_CT_STAY,
};

#undef NO
#undef CL
#undef CW
#undef CE
#undef ES
#undef SS
#undef SR
#undef SA
#undef HS
#undef XX

static __always_inline __u32 ovs_ct_sctp_next(__u32 dir, __u32 type, __u32 old)
{
	__u64 row = dir * 16 + type;

	if (type > 15)
		return old;
	asm volatile("%0 &= 31" : "+r"(row));
	return ovs_ct_sctp_table[row] >> (old & 15) * 4 & 15;
}

struct ovs_ct_chunks {
	struct ovs_ctx *ctx;
	struct ovs_ct_pkt *st;
	struct ovs_ct *ct;
};

struct ovs_ct_chunkhdr {
	__u8 type;
	__u8 flags;
	__be16 length;
};

/* The chunk that comes next, and where the one after it is; 0: no more. */
static __always_inline int ovs_ct_chunk(struct ovs_ct_chunks *c,
					struct ovs_ct_chunkhdr *h, __u32 *at)
{
	struct ovs_ct_pkt *st = c->st;

	*at = st->chunk_off;
	if (*at + sizeof(*h) > st->l3_off + st->len ||
	    ctx_load(c->ctx, *at, h, sizeof(*h)))
		return 0;
	st->chunk_off = *at + ((bpf_ntohs(h->length) + 3) & ~3);
	return 1;
}

/*
 * Note the type of a chunk.  INIT, INIT ACK and SHUTDOWN COMPLETE stand alone,
 * COOKIE ECHO and COOKIE ACK come first.
 */
static long ovs_ct_chunk_check(__u32 i, struct ovs_ct_chunks *c)
{
	struct ovs_ct_pkt *st = c->st;
	struct ovs_ct_chunkhdr h;
	__u32 at;

	if (!ovs_ct_chunk(c, &h, &at))
		return 1;
	if (h.type == OVS_CT_CH_INIT || h.type == OVS_CT_CH_INIT_ACK ||
	    h.type == OVS_CT_CH_SHUTDOWN_COMPLETE)
		st->ignore = 1;		/* alone */
	if (!h.length ||
	    (st->count && (st->ignore || h.type == OVS_CT_CH_COOKIE_ECHO ||
			   h.type == OVS_CT_CH_COOKIE_ACK))) {
		st->bad = 1;
		return 1;
	}
	st->count++;
	st->chunks[h.type >> 6 & 3] |= 1ULL << (h.type & 63);
	return 0;
}

static __always_inline void ovs_ct_chunks_begin(struct ovs_ct_pkt *st)
{
	st->chunk_off = st->l4_off + 12;
	st->count = 0;
	st->bad = 0;
	st->ignore = 0;
}

/* Read ports, tag, and which chunks there are; 0: it is none. */
__noinline int ovs_ct_read_sctp(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	struct ovs_ct_chunks c = { .ctx = ctx, .st = st };
	__be16 *sctp;
	__u32 i;

	if (!st)
		return 0;
	sctp = ctx_at(ctx, st->l4_off, 12);
	if (!sctp || ovs_ct_l4_len(st) < 12)
		return 0;
	st->tuple.sport = sctp[0];
	st->tuple.dport = sctp[1];
	st->vtag = *(__be32 *)&sctp[2];
	for (i = 0; i < 4; i++)
		st->chunks[i] = 0;
	ovs_ct_chunks_begin(st);
	bpf_loop(OVS_CT_CHUNKS, ovs_ct_chunk_check, &c, 0);
	return !st->bad && st->count && st->count < OVS_CT_CHUNKS;
}

static __always_inline int ovs_ct_has_chunk(const struct ovs_ct_pkt *st,
					    __u32 type)
{
	return st->chunks[0] >> type & 1;
}

/* The tag that an INIT or INIT ACK at `at` gives; 0: it is cut short. */
static __always_inline int ovs_ct_init_tag(struct ovs_ct_chunks *c, __u32 at,
					   __be32 *tag)
{
	/* The whole header has 16 bytes behind the chunk's. */
	if (at + 20 > c->st->l3_off + c->st->len)
		return 0;
	return !ctx_load(c->ctx, at + 4, tag, sizeof(*tag));
}

/* One chunk of a packet that may begin a connection: the tags. */
static long ovs_ct_chunk_new(__u32 i, struct ovs_ct_chunks *c)
{
	struct ovs_ct_pkt *st = c->st;
	struct ovs_ct_chunkhdr h;
	__u32 at, next;
	__be32 tag;

	if (!ovs_ct_chunk(c, &h, &at))
		return 1;
	next = ovs_ct_sctp_next(0, h.type, OVS_CT_SCTP_NONE);
	if (next == OVS_CT_SCTP_NONE || next == OVS_CT_TCP_BAD) {
		st->bad = 1;
	} else if (h.type == OVS_CT_CH_INIT) {
		if (st->vtag || !ovs_ct_init_tag(c, at, &tag))
			st->bad = 1;
		else
			c->ct->sctp.vtag[1] = tag;
	} else if (h.type == OVS_CT_CH_HEARTBEAT) {
		c->ct->sctp.vtag[0] = st->vtag;
	} else if (h.type == OVS_CT_CH_SHUTDOWN_ACK) {
		/* SHUTDOWN COMPLETE is due, with the same tag. */
		c->ct->sctp.vtag[1] = st->vtag;
	}
	return st->bad ? 1 : 0;
}

/* Out of the blue (RFC 9260, 8.4): 0 when it begins nothing. */
__noinline int ovs_ct_sctp_begin(struct ovs_ctx *ctx, struct ovs_ct *ct,
				 struct ovs_ct_pkt *st)
{
	struct ovs_ct_chunks c = { .ctx = ctx, .st = st, .ct = ct };

	if (!ct || !st || ovs_ct_has_chunk(st, OVS_CT_CH_ABORT) ||
	    ovs_ct_has_chunk(st, OVS_CT_CH_SHUTDOWN_COMPLETE) ||
	    ovs_ct_has_chunk(st, OVS_CT_CH_COOKIE_ACK))
		return 0;
	ovs_ct_chunks_begin(st);
	bpf_loop(OVS_CT_CHUNKS, ovs_ct_chunk_new, &c, 0);
	return !st->bad;
}

/*
 * A tag that is not the one of HEARTBEAT's direction: of another path, or of
 * an association that was made anew; who answers it is believed.  0: no.
 */
__noinline int ovs_ct_sctp_beat(struct ovs_ct *ct, struct ovs_ct_pkt *st,
				int answer)
{
	struct ovs_ct_sctp *s;
	__be32 *vtag;
	__u32 dir;

	if (!ct || !st)
		return 0;
	s = &ct->sctp;
	dir = st->dir & 1;
	vtag = &s->vtag[dir];
	if (!*vtag) {
		*vtag = st->vtag;
		return 1;
	}
	if (st->vtag == *vtag) {
		s->flags &= ~OVS_CT_SCTP_F_VTAG_FAILED;
		return 1;
	}
	if (ovs_ct_has_chunk(st, OVS_CT_CH_DATA) || st->ignore)
		return 0;
	if (!answer) {
		s->flags |= OVS_CT_SCTP_F_VTAG_FAILED;
		s->last_dir = dir;
		st->ignore = 1;
		return 2;
	}
	if (!(s->flags & OVS_CT_SCTP_F_VTAG_FAILED) || s->last_dir == dir)
		return 0;
	s->flags &= ~OVS_CT_SCTP_F_VTAG_FAILED;
	*vtag = st->vtag;
	s->vtag[!dir] = 0;
	return 1;
}

/* One chunk of a packet of a connection. */
static long ovs_ct_chunk_step(__u32 i, struct ovs_ct_chunks *c)
{
	struct ovs_ct_pkt *st = c->st;
	struct ovs_ct *ct = c->ct;
	struct ovs_ct_sctp *s = &ct->sctp;
	__u32 at, dir = st->dir & 1, old, next;
	struct ovs_ct_chunkhdr h;
	__be32 tag, own = s->vtag[dir], peer = s->vtag[!dir];
	int ok = 1;

	if (!ovs_ct_chunk(c, &h, &at))
		return 1;
	switch (h.type) {
	case OVS_CT_CH_INIT:
		ok = !st->vtag;
		break;
	case OVS_CT_CH_ABORT:
	case OVS_CT_CH_SHUTDOWN_COMPLETE:
		ok = st->vtag == (h.flags & OVS_CT_CHUNK_T ? peer : own);
		break;
	case OVS_CT_CH_COOKIE_ECHO:
		ok = st->vtag == own;
		break;
	case OVS_CT_CH_COOKIE_ACK:
		s->init[0] = 0;
		s->init[1] = 0;
		break;
	case OVS_CT_CH_HEARTBEAT:
	case OVS_CT_CH_HEARTBEAT_ACK:
		ok = ovs_ct_sctp_beat(ct, st,
				      h.type == OVS_CT_CH_HEARTBEAT_ACK);
		if (ok == 2)
			return 0;
		break;
	}
	old = ct->state;
	next = ovs_ct_sctp_next(dir, h.type, old);
	if (!ok || next == OVS_CT_TCP_BAD) {
		st->bad = 1;
		return 1;
	}
	if (h.type == OVS_CT_CH_INIT || h.type == OVS_CT_CH_INIT_ACK) {
		if (!ovs_ct_init_tag(c, at, &tag)) {
			st->bad = 1;
			return 1;
		}
		peer = s->vtag[!dir];
		if (h.type == OVS_CT_CH_INIT) {
			/* The same one again is no news. */
			if (!st->id || peer != tag) {
				if (s->init[dir] && s->init[!dir])
					s->init[!dir] = 0;
				s->init[dir] = 1;
			}
			/* Trying on does not keep it alive. */
			if (next == OVS_CT_SCTP_CLOSED && old == next &&
			    st->id)
				st->ignore = 1;
		} else if (peer != tag &&
			   ((!s->init[!dir] && peer) ||
			    (s->init[dir] && s->init[!dir]))) {
			st->bad = 1;
			return 1;
		}
		s->vtag[!dir] = tag;
	}
	ct->state = next;
	st->last_state = next;
	if (old != next && next == OVS_CT_SCTP_ESTABLISHED)
		ct->status |= OVS_CT_S_ASSURED;
	return 0;
}

/*
 * A packet of connection `ct`, which is locked or not there yet.  Sets
 * st->timeout.
 *
 * Return: enum ovs_ct_result
 */
__noinline int ovs_ct_sctp(struct ovs_ctx *ctx, struct ovs_ct *ct,
			   struct ovs_ct_pkt *st)
{
	struct ovs_ct_chunks c = { .ctx = ctx, .st = st, .ct = ct };
	struct ovs_ct_policy *policy;
	__u32 policy_id, exempt;

	if (!ct || !st)
		return OVS_CT_R_INVALID;
	policy_id = ct->policy;
	policy = bpf_map_lookup_elem(&ovs_ct_policy, &policy_id);
	if (!policy)
		return OVS_CT_R_INVALID;
	st->timeout = 0;
	/* Those that have rules of their own. */
	exempt = 1 << OVS_CT_CH_INIT | 1 << OVS_CT_CH_SHUTDOWN_COMPLETE |
		 1 << OVS_CT_CH_COOKIE_ECHO | 1 << OVS_CT_CH_ABORT |
		 1 << OVS_CT_CH_SHUTDOWN_ACK | 1 << OVS_CT_CH_HEARTBEAT |
		 1 << OVS_CT_CH_HEARTBEAT_ACK;
	if (!(st->chunks[0] & exempt) &&
	    st->vtag != ct->sctp.vtag[st->dir & 1])
		return OVS_CT_R_INVALID;
	ovs_ct_chunks_begin(st);
	st->last_state = OVS_CT_SCTP_NONE;
	bpf_loop(OVS_CT_CHUNKS, ovs_ct_chunk_step, &c, 0);
	if (st->bad)
		return OVS_CT_R_INVALID;
	if (!st->ignore)
		st->timeout = policy->timeout[OVS_CT_T_SCTP +
					      (st->last_state & 15)];
	return OVS_CT_R_ACCEPT;
}

#endif /* OVS_CT_SCTP_H */
