/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The connection tracker's part of what the programs share with the provider
 * (dpif_bpf/abi_ct.py mirrors it).  ct.h says how it is used.
 *
 * Fields that come from packets keep network order, everything else is in host
 * order; sequence numbers are in host order.
 */
#ifndef OVS_ABI_CT_H
#define OVS_ABI_CT_H

#include <linux/types.h>

#define OVS_CT_ABI_VERSION	1

#define OVS_CT_ID_BITS		24	/* ids: 1 to 2^24 - 1 */
#define OVS_CT_ZONES		65536
#define OVS_CT_POLICIES		4096	/* timeout policies; 0: the default */
#define OVS_CT_TIMEOUTS		64	/* of a policy: enum ovs_ct_timeout */
#define OVS_CT_EXP		16	/* expiries in an element of ovs_ct_exp */
#define OVS_CT_EDGES		7	/* of a bucket */
#define OVS_CT_PROBES		8	/* buckets in which an edge may be */

/* OVS_CS_F_* of <linux/openvswitch.h>. */
#define OVS_CT_NEW		0x01
#define OVS_CT_ESTABLISHED	0x02
#define OVS_CT_RELATED		0x04
#define OVS_CT_REPLY		0x08
#define OVS_CT_INVALID		0x10
#define OVS_CT_TRACKED		0x20
#define OVS_CT_SRC_NAT		0x40
#define OVS_CT_DST_NAT		0x80

/* IPS_* of <linux/netfilter/nf_conntrack_common.h>. */
#define OVS_CT_S_EXPECTED	(1 << 0)
#define OVS_CT_S_SEEN_REPLY	(1 << 1)
#define OVS_CT_S_ASSURED	(1 << 2)
#define OVS_CT_S_CONFIRMED	(1 << 3)
#define OVS_CT_S_SRC_NAT	(1 << 4)
#define OVS_CT_S_DST_NAT	(1 << 5)
#define OVS_CT_S_SEQ_ADJUST	(1 << 6)
#define OVS_CT_S_SRC_NAT_DONE	(1 << 7)
#define OVS_CT_S_DST_NAT_DONE	(1 << 8)
#define OVS_CT_S_DYING		(1 << 9)
#define OVS_CT_S_FIXED_TIMEOUT	(1 << 10)
#define OVS_CT_S_HELPER		(1 << 13)

/* Helpers (ovs_ct.helper; 0: none). */
#define OVS_CT_HELPER_FTP	1
#define OVS_CT_HELPER_TFTP	2

/*
 * One direction of a connection.  IPv4 addresses are in the first four bytes,
 * the others are zero.  Of ICMP, sport is the identifier and dport has the
 * type in its first byte and the code in the second; of GRE they are keys; of
 * protocols without ports both are 0.
 */
struct ovs_ct_tuple {
	union {
		__u64 w[5];
		struct {
			union {
				__u8 src[16];
				__be32 src4;
			};
			union {
				__u8 dst[16];
				__be32 dst4;
			};
			__be16 sport;
			__be16 dport;
			__u16 zone;
			__u8 proto;
			__u8 family;	/* AF_INET, AF_INET6 */
		};
	};
};

/* TCP_CONNTRACK_* of <linux/netfilter/nf_conntrack_tcp.h>. */
enum ovs_ct_tcp_state {
	OVS_CT_TCP_NONE,
	OVS_CT_TCP_SYN_SENT,
	OVS_CT_TCP_SYN_RECV,
	OVS_CT_TCP_ESTABLISHED,
	OVS_CT_TCP_FIN_WAIT,
	OVS_CT_TCP_CLOSE_WAIT,
	OVS_CT_TCP_LAST_ACK,
	OVS_CT_TCP_TIME_WAIT,
	OVS_CT_TCP_CLOSE,
	OVS_CT_TCP_SYN_SENT2,
	OVS_CT_TCP_MAX,
};

/* SCTP_CONNTRACK_* of <linux/netfilter/nf_conntrack_sctp.h>. */
enum ovs_ct_sctp_state {
	OVS_CT_SCTP_NONE,
	OVS_CT_SCTP_CLOSED,
	OVS_CT_SCTP_COOKIE_WAIT,
	OVS_CT_SCTP_COOKIE_ECHOED,
	OVS_CT_SCTP_ESTABLISHED,
	OVS_CT_SCTP_SHUTDOWN_SENT,
	OVS_CT_SCTP_SHUTDOWN_RECD,
	OVS_CT_SCTP_SHUTDOWN_ACK_SENT,
	OVS_CT_SCTP_HEARTBEAT_SENT,
	OVS_CT_SCTP_MAX,
};

/*
 * Index of ovs_ct_policy.timeout.  TCP's and SCTP's begin with those of their
 * states, in the order of these.
 */
enum ovs_ct_timeout {
	OVS_CT_T_TCP = 0,
	OVS_CT_T_TCP_RETRANS = 10,
	OVS_CT_T_TCP_UNACK = 11,
	OVS_CT_T_UDP = 16,
	OVS_CT_T_UDP_STREAM = 17,
	OVS_CT_T_ICMP = 18,
	OVS_CT_T_ICMPV6 = 19,
	OVS_CT_T_GENERIC = 20,
	OVS_CT_T_GRE = 21,
	OVS_CT_T_GRE_STREAM = 22,
	OVS_CT_T_UDPLITE = 23,
	OVS_CT_T_UDPLITE_STREAM = 24,
	OVS_CT_T_SCTP = 32,
	OVS_CT_T_MAX = 64,
};

/* ovs_ct_policy[i]: timeouts in seconds.  The provider writes. */
struct ovs_ct_policy {
	__u32 timeout[OVS_CT_TIMEOUTS];
};

/* IP_CT_TCP_FLAG_* of the same header; the last two are of the programs. */
#define OVS_CT_TCP_F_WSCALE	0x01
#define OVS_CT_TCP_F_SACK	0x02
#define OVS_CT_TCP_F_CLOSE_INIT	0x04
#define OVS_CT_TCP_F_LIBERAL	0x08
#define OVS_CT_TCP_F_UNACKED	0x10
#define OVS_CT_TCP_F_MAXACK	0x20
#define OVS_CT_TCP_F_CHALLENGE	0x40
#define OVS_CT_TCP_F_SIMOPEN	0x80

/* What was seen of one end, as nf_conntrack keeps it. */
struct ovs_ct_tcp_end {
	__u32 end;		/* the highest seq + len */
	__u32 maxend;		/* the highest ack + window of the peer */
	__u32 maxwin;		/* the largest window; 0: nothing seen yet */
	__u32 maxack;
	__u8 scale;
	__u8 flags;		/* OVS_CT_TCP_F_* */
	__u16 pad;
};

struct ovs_ct_tcp {
	struct ovs_ct_tcp_end seen[2];	/* by direction */
	__u32 last_seq;
	__u32 last_ack;
	__u32 last_end;
	__u16 last_win;
	__u8 last_index;	/* enum ovs_ct_tcp_index */
	__u8 last_dir;
	__u8 last_flags;	/* OVS_CT_TCP_F_*: of a SYN that was let pass */
	__u8 last_scale;
	__u8 retrans;
	__u8 pad;
	__u32 pad2;
};

#define OVS_CT_SCTP_F_VTAG_FAILED	1

struct ovs_ct_sctp {
	__be32 vtag[2];
	__u8 init[2];
	__u8 last_dir;
	__u8 flags;		/* OVS_CT_SCTP_F_* */
};

/* Low half of ovs_ct.word; the high half counts the record's incarnations. */
#define OVS_CT_FREE		0
#define OVS_CT_TENTATIVE	1	/* being committed: not there yet */
#define OVS_CT_LIVE		2
#define OVS_CT_LOCKED		3	/* live, and a CPU changes it */
#define OVS_CT_DEAD		4	/* in limbo: nothing leads to it */
#define OVS_CT_GEN_SHIFT	32

/*
 * ovs_ct[id]: a connection, both directions of it.  Programs write.  It is one
 * when `word` says that it is live, `zone_gen` is its zone's, and its expiry
 * lies ahead; whoever reads it without a lock reads `word` before and after.
 */
struct ovs_ct {
	/* What is looked for. */
	__u64 word;
	struct ovs_ct_tuple orig;
	__u32 status;		/* OVS_CT_S_* */
	__u8 state;		/* enum ovs_ct_tcp_state, ovs_ct_sctp_state */
	__u8 pad;
	__u16 policy;		/* of ovs_ct_policy */
	__u32 mark;
	__u32 zone_gen;
	struct ovs_ct_tuple reply;
	__u8 labels[16];
	__u32 master;		/* id of the connection that it belongs to */
	__u16 helper;
	__u16 master_gen;	/* low bits of its incarnation */
	/* What the protocol keeps. */
	union {
		__u64 proto[8];
		struct ovs_ct_tcp tcp;
		struct ovs_ct_sctp sctp;
	};
	/* Counters by direction: what was accepted, from the IP header on. */
	__u64 packets[2];
	__u64 bytes[2];
	__u64 start;		/* ns, CLOCK_MONOTONIC_COARSE */
	/* Sequence numbers that a helper shifts, by direction. */
	__u32 adj_pos[2];
	__s32 adj_before[2];
	__s32 adj_after[2];
};

/*
 * ovs_ct_tab[i]: where a hash leads.  An edge is the hash's upper bits and an
 * id; 0: none.  `spill` counts the edges that found no place here and are in
 * a bucket further on.
 */
#define OVS_CT_TAG_SHIFT	38
struct ovs_ct_bucket {
	__u64 edge[OVS_CT_EDGES];
	__u64 spill;
};

/*
 * ovs_ct_exp[id / OVS_CT_EXP]: when connections end, in seconds of
 * CLOCK_MONOTONIC_COARSE; of those in limbo, when they ended.
 */
#define OVS_CT_EXP_FREE		0
#define OVS_CT_EXP_TAKEN	0xffffffffU	/* but not live yet */
struct ovs_ct_exp {
	__u32 at[OVS_CT_EXP];
};

/*
 * ovs_ct_zones[zone].  A flush is one more in the upper half of `word` and
 * zero in the lower half: no connection of before is one any more.
 */
struct ovs_ct_zone {
	__u64 word;		/* flushes << 32 | connections */
	__u32 limit;		/* connections; 0: none */
	__u32 pad;
};

#define OVS_CT_F_LOOSE		1	/* pick connections up in the middle */
#define OVS_CT_F_LIBERAL	2	/* only resets out of window are invalid */
#define OVS_CT_F_IGNORE_RST	4	/* ... and not these either */
#define OVS_CT_F_OVS		8	/* liberal once it is established, as
					 * the kernel datapath */

/* ovs_ct_conf[0].  The provider writes, before the first connection. */
struct ovs_ct_conf {
	__u32 random[8];	/* of the hash: stays with the table */
	__u64 random64[2];
	__u32 flags;		/* OVS_CT_F_* */
	__u32 max;		/* connections; 0: as many as there are records */
	__u32 max_retrans;	/* of TCP */
	__u32 pad;
};

/* ovs_ct_use[0]: programs write. */
struct ovs_ct_use {
	__u64 count;		/* connections */
	__u64 sweeps;		/* over all records, finished */
	__u64 sweep_ns;		/* that the last one took, all slices */
	__u64 sweep_at;		/* next record to look at */
	__u64 sweep_spent;	/* ns, of this one so far */
	__u64 sweep_seen;	/* records in use that this one met so far */
	__u64 idle;		/* the last one met none, nor did any end */
	__u64 flush;		/* until so many `sweeps`, zones were flushed */
	__u64 freed;		/* slices of the sweep that gave records back */
	__u64 expects;		/* the provider: that many are expected, or were
				 * a short time ago; 0: none is */
	__u64 pad[6];
};

/* Counters, per CPU (ovs_ct_cpu.stat). */
enum ovs_ct_stat {
	OVS_CT_STAT_INVALID,		/* packets of no connection */
	OVS_CT_STAT_COMMIT,		/* connections made */
	OVS_CT_STAT_CLASH,		/* ... that another CPU made first */
	OVS_CT_STAT_CLASH_LOST,		/* ... whose record was not found then */
	OVS_CT_STAT_FULL,		/* refused: no free record */
	OVS_CT_STAT_MAX_CONNS,		/* refused: ovs_ct_conf.max */
	OVS_CT_STAT_LIMIT,		/* refused: the zone's limit */
	OVS_CT_STAT_BUCKETS,		/* refused: no bucket with room */
	OVS_CT_STAT_BUSY,		/* packets that found the record locked */
	OVS_CT_STAT_REOPEN,		/* SYNs that began a connection anew */
	OVS_CT_STAT_KILLED,		/* connections ended before their time */
	OVS_CT_STAT_EXPIRED,		/* connections that the sweep ended */
	OVS_CT_STAT_FREED,		/* records given back */
	OVS_CT_STAT_EXPECTED,		/* connections that were expected */
	OVS_CT_STAT_MAX = 16,
};

struct ovs_ct_cpu {
	__u64 cursor;		/* id from which on to look for a free one */
	__u64 full;		/* ovs_ct_use.freed when none was, plus 1 */
	__u64 stat[OVS_CT_STAT_MAX];
};

/*
 * ovs_ct_expect[i]: a connection that will come, as a helper has read: see
 * ct_expect.h.  OVS_CT_EXPECT_WAYS of them are a bucket.  The provider fills in
 * one that is free, and makes it ready by the last store; programs take it.
 */
#define OVS_CT_EXPECTS		4096
#define OVS_CT_EXPECT_WAYS	8
#define OVS_CT_EXPECT_FREE	0	/* low half of `word` */
#define OVS_CT_EXPECT_READY	1
#define OVS_CT_EXPECT_TAKEN	2
#define OVS_CT_EXPECT_F_NAT	1	/* both NATs are done with `reply` */
struct ovs_ct_expect {
	__u64 word;		/* incarnations << OVS_CT_GEN_SHIFT | ... */
	struct ovs_ct_tuple tuple;	/* of its first packet; sport: any */
	struct ovs_ct_tuple reply;	/* of what answers; dport: that sport */
	__u32 master;		/* id of the connection that it belongs to */
	__u32 master_gen;
	__u32 end;		/* s: from then on it is none */
	__u32 flags;		/* OVS_CT_EXPECT_F_* */
	__u64 pad[3];
};

/* What the provider asks of ovs_ct_ask(), about one connection after another. */
enum ovs_ct_ask_what {
	OVS_CT_ASK_END,		/* end it */
	OVS_CT_ASK_ZERO,	/* count its packets anew */
	OVS_CT_ASK_UNTIMEOUT,	/* it has the default timeouts from now on */
	OVS_CT_ASK_SHIFT,	/* its sequence numbers are shifted so */
	OVS_CT_ASK_MAX,
};

/* ovs_ct_asked.answer */
#define OVS_CT_ANSWER_GONE	0	/* it was not there any more */
#define OVS_CT_ANSWER_DONE	1
#define OVS_CT_ANSWER_BUSY	2	/* not done: others had it locked */

struct ovs_ct_asked {
	__u32 id;
	__u32 gen;		/* its incarnation */
	__u64 answer;		/* OVS_CT_ANSWER_* */
	__u64 packets[2];	/* counted up to now, of OVS_CT_ASK_ZERO; of */
	__u64 bytes[2];		/* OVS_CT_ASK_SHIFT three words as they are in
				 * struct ovs_ct, from adj_pos on */
};

/*
 * ovs_ct_asked[0]: the provider writes what it asks, and has the program run,
 * which writes the answers.
 */
#define OVS_CT_ASKS		128
struct ovs_ct_asks {
	__u32 what;		/* enum ovs_ct_ask_what */
	__u32 count;
	__u32 policy;		/* that they have, of OVS_CT_ASK_UNTIMEOUT */
	__u32 pad;
	struct ovs_ct_asked one[OVS_CT_ASKS];
};

/*
 * ovs_ct_kept: limits and timeout policies for the next provider, in 64-bit
 * words: core/conntrack/kept.py.
 */
#define OVS_CT_KEPT_POLICY	12	/* words of a policy */
#define OVS_CT_KEPT_POLICIES	8192	/* of all protocols */
#define OVS_CT_KEPT_WORDS	(2 + OVS_CT_ZONES + OVS_CT_KEPT_POLICIES * \
				 OVS_CT_KEPT_POLICY)

/* What ovs_ct_find() makes of a packet (ovs_ct_pkt.verdict). */
enum ovs_ct_verdict {
	OVS_CT_V_INVALID,
	OVS_CT_V_NEW,		/* it may begin a connection: ovs_ct_pkt.fresh */
	OVS_CT_V_FOUND,		/* it is of connection `id` */
	OVS_CT_V_RELATED,	/* an ICMP error about connection `id` */
	OVS_CT_V_MAX,
};

/* What ovs_ct_commit() says. */
enum ovs_ct_made {
	OVS_CT_C_DONE,		/* it is in the table, or need not be */
	OVS_CT_C_REFUSED,	/* no room, or more than may be: drop */
	OVS_CT_C_CLASH,		/* somebody else has its tuples: drop */
	OVS_CT_C_MAX,
};

/*
 * One packet at the tracker.  The caller fills in the first part; the rest
 * need not be zero.
 */
struct ovs_ct_pkt {
	__u64 now;		/* ns, CLOCK_MONOTONIC_COARSE */
	__u16 zone;
	__u16 l3_off;		/* of the IP header, in the frame */
	__u16 l4_off;		/* 0: there is none */
	__u8 l4_proto;		/* 0: a later fragment */
	__u8 family;		/* AF_INET, AF_INET6; others are invalid */
	__u16 policy;		/* of timeouts, for a connection that it begins */
	/* What comes of it. */
	__u16 helper;		/* of the connection; 0: none sees the packet */
	__u32 pad;
	__u8 verdict;		/* enum ovs_ct_verdict */
	__u8 ct_state;		/* OVS_CT_*, without NAT's bits */
	__u8 dir;		/* 0: original, 1: reply */
	__u8 busy;		/* the record was locked: nothing was noted */
	__u32 id;		/* of the record; 0: none */
	__u32 gen;		/* its incarnation */
	__u32 len;		/* bytes from the IP header on */
	__u32 timeout;		/* s; 0: not renewed */
	__u16 inner_l3;		/* of an ICMP error: headers in the frame */
	__u16 inner_l4;
	__u64 hash;		/* of `tuple` */
	struct ovs_ct_tuple tuple;	/* of an ICMP error: of the packet that
					 * would answer the one inside */
	/* What it says to its protocol. */
	__u32 seq;
	__u32 ack;
	__u32 sack;		/* the highest edge that it acknowledges */
	__u32 end;
	__u16 win;
	__u8 tcp_flags;
	__u8 index;		/* enum ovs_ct_tcp_index */
	__u8 opt_flags;		/* OVS_CT_TCP_F_WSCALE, OVS_CT_TCP_F_SACK */
	__u8 opt_scale;
	__u8 opt_len;
	__u8 opt_off;		/* while walking */
	__u8 opts[64];
	__be32 vtag;
	__u32 chunk_off;	/* while walking */
	__u64 chunks[4];	/* bit n: a chunk of type n */
	__u32 count;		/* while walking, as the next */
	__u8 bad;
	__u8 ignore;
	__u8 last_state;
	__u8 begins;
	__u32 expect;		/* element of ovs_ct_expect that it is, plus 1 */
	__u32 expect_gen;
	/* The connection that it begins, until it is committed. */
	struct ovs_ct fresh;
};

/* How NAT looks for a tuple that nobody has (act_nat.h). */
struct ovs_ct_nat {
	struct ovs_ct_tuple tuple;	/* as packets are to leave */
	struct ovs_ct_tuple reply;	/* as they will be answered */
	__u64 min[2];			/* addresses, in network order */
	__u64 max[2];
	__u32 flags;			/* OVS_CTA_* */
	__u16 min_port;			/* host order */
	__u16 max_port;
	__u32 first;			/* of the ports that are tried */
	__u32 range;			/* how many there are */
	__u32 left;			/* tries, until another place */
	__u16 off;			/* from the first one */
	__u8 dst;			/* of the destination */
	__u8 found;
};

/* ovs_ct_work[level]: what is known of the connection of a packet. */
struct ovs_ct_work {
	struct ovs_ct_pkt pkt;
	struct ovs_ct_nat nat;
	/* The action that is carried out. */
	__u32 flags;			/* OVS_CTA_* */
	__u32 at;			/* of its operand, in ovs_acts */
	__u16 zone;
	__u16 policy;
	__u32 help;			/* its helper is to see the packet, if
					 * it has one */
};

_Static_assert(sizeof(struct ovs_ct_tuple) == 40, "ovs_ct_tuple");
_Static_assert(sizeof(struct ovs_ct_work) % 8 == 0, "ovs_ct_work");
_Static_assert(sizeof(struct ovs_ct_tcp) == 64, "ovs_ct_tcp");
_Static_assert(sizeof(struct ovs_ct) == 256, "ovs_ct");
_Static_assert(sizeof(struct ovs_ct_bucket) == 64, "ovs_ct_bucket");
_Static_assert(sizeof(struct ovs_ct_exp) == 64, "ovs_ct_exp");
_Static_assert(sizeof(struct ovs_ct_asked) == 48, "ovs_ct_asked");
_Static_assert(sizeof(struct ovs_ct_expect) == 128, "ovs_ct_expect");

#endif /* OVS_ABI_CT_H */
