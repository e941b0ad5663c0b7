/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about the flow table and the caches before it. */
#ifndef OVS_ABI_CLASSIFIER_H
#define OVS_ABI_CLASSIFIER_H

#include <linux/types.h>

#include "abi_key.h"

/*
 * The classifier: a hash decision forest (dpif_bpf/core/classifier/forest.py
 * writes it, lookup.h reads it).
 *
 * A tree's node tests the mask bits of one descriptor, by one probe of a hash
 * table keyed by the node and the masked key words.  What the probe finds is
 * an edge: to a node below, or to a flow (a leaf), which is compared with the
 * key under the flow's whole mask.  A bridge's trees are tried in order.
 *
 * An edge is one word, so that every change is published by one store:
 *
 *	bits 63-38  tag: these bits of the hash that leads to the edge
 *	bit  37     leaf
 *	bits 36-22  descriptor: of the node, or of the flow's mask; never 0
 *	bits 21-0   node number (a part of the hash), or flow id
 *
 * The root of a tree is an edge whose tag is zero.
 */
#define OVS_EDGE_TAG_SHIFT	38
#define OVS_EDGE_LEAF_SHIFT	37
#define OVS_EDGE_DESC_SHIFT	22
#define OVS_EDGE_ID_BITS	22

#define OVS_HASH_MULT		0xd6e8feb86659fd93ULL
#define OVS_BUCKET_EDGES	7
#define OVS_BUCKET_CHAIN	8	/* buckets that a probe visits at most */
#define OVS_CLS_TREES		32	/* of one bridge */
#define OVS_CLS_DEPTH		64	/* probes in one tree at most */
#define OVS_CLS_WORDS		13	/* key words in one record */
#define OVS_CLS_FIRST		6	/* of them, those in ovs_flows */
#define OVS_CLS_RECORDS		6	/* records of a mask with all words */
#define OVS_CACHE_LINES		16384	/* of a CPU's cache, at most */
#define OVS_DESCS		32768	/* what 15 bits of an edge can name */

struct ovs_bucket {
	__u64 edge[OVS_BUCKET_EDGES];	/* 0: free */
	__u64 next;			/* overflow bucket; 0: none */
};

/*
 * A mask: of a node or of a flow.  Words beyond OVS_CLS_WORDS are in further
 * records.  Unused entries of idx and mask are zero.
 *
 * The first OVS_CLS_RECORDS descriptors are no masks: in mask[j] of
 * element i are the hash's random words for word j of a mask's record i, two
 * of 32 bits, the lower one in memory for the key word's low half.
 */
struct ovs_desc {
	__u8 n;				/* words in this record */
	__u8 idx[OVS_CLS_WORDS];	/* which words of the key */
	__u16 next;			/* next record; 0: none */
	__u64 mask[OVS_CLS_WORDS];
	__u64 pad;
};

/* The only element of ovs_descs: 4 MiB, all that 6.1 allows. */
struct ovs_descs {
	struct ovs_desc d[OVS_DESCS];
};

/*
 * A flow: a cache line, and one more that few flows need, in ovs_values
 * under the same index.  value[] holds the masked key words in the order of
 * the descriptor's; those beyond OVS_CLS_WORDS are in further records, whose
 * desc is zero.  Statistics have the index of the first record: the flow id.
 */
struct ovs_flow {
	union {
		__u64 stamp;		/* of these three */
		struct {
			__u16 desc;	/* mask; 0: not a flow */
			__u16 bridge;
			__u32 gen;	/* grows with each use of the record,
					 * and when it or `acts` changes */
		};
	};
	__u32 acts;			/* first instruction, in ovs_acts */
	__u32 next;			/* next record; 0: none */
	__u64 value[OVS_CLS_FIRST];
};

struct ovs_values {
	__u64 value[OVS_CLS_WORDS - OVS_CLS_FIRST];
	__u64 pad;
};

/*
 * A flow that this CPU found recently for a frame of the kinds that
 * ovs_frame_parse() knows, and what its actions come to, while that flow has
 * the same `gen`.  All that makes the key of such a frame is here as it is in
 * the frame; a number in a comment is of the byte where it begins.  One of
 * IPv4 takes only the first cache line, unless its packets are changed.
 */
#define OVS_EXACT_LINES	4096
#define OVS_EXACT_ODD		(1U << 31)	/* of `port`: `tag` and `meta` are
						 * not zero, both */
#define OVS_EXACT_FLAGS		0x0fff	/* of `flags`, in network order */
/* What `flags` say besides; neither of the first two: a list of actions that
 * stage ACT runs. */
#define OVS_EXACT_OUTPUT	0x10	/* the frame goes to port `out` */
#define OVS_EXACT_ROUTE		0x20	/* it gets new headers, and goes there */
#define OVS_EXACT_CT		0x40	/* a list that begins with OVS_OP_CT */
struct ovs_exact {
	__u32 gen;			/* of the flow; 0: none */
	__u32 flow;			/* id */
	__u32 port;			/* in_port | bridge << 16 */
	__u32 stats;			/* index in ovs_flow_stats */
	__u64 first;			/* 0: destination, source */
	__u64 second;			/* 8: source, type, IP to the ToS */
	__u64 third;			/* 20: fragment, TTL, protocol, source;
					 * IPv6, 14: label, protocol, limit */
	__u64 addr;			/* 26: addresses; IPv6, 22 */
	__u64 last;			/* 30: address, ports; IPv6, 50 */
	__u16 flags;			/* 46: of TCP; IPv6, 66 */
	__u16 out;
	__u32 pad;

	__u64 more[3];			/* 30: addresses of IPv6 */
	__u64 meta;			/* word 5 of the key */
	__u32 tag;			/* beside the frame: TCI | TPID << 16 */
	__u32 new_ip;			/* 22: TTL, protocol; IPv6, 20; above
					 * them: by which IP's sum changes */
	__u64 new_first;		/* 0: what a routed frame gets */
	__u64 new_second;		/* 8 */
	__u64 pad2;
};

/* The trees of a bridge. */
struct ovs_root {
	__u16 ntrees;
	__u16 cache;			/* lines, a power of two; 0: no cache */
	__u32 desc;			/* all masks, for the cache; 0: none */
	__u64 tree[OVS_CLS_TREES];	/* edges; 0: no tree in this place */
};

_Static_assert(sizeof(struct ovs_bucket) == 64, "ovs_bucket");
_Static_assert(sizeof(struct ovs_desc) == 128, "ovs_desc");
_Static_assert(sizeof(struct ovs_flow) == 64, "ovs_flow");
_Static_assert(sizeof(struct ovs_values) == 64, "ovs_values");
_Static_assert(sizeof(struct ovs_exact) == 128, "ovs_exact");
_Static_assert(sizeof(struct ovs_root) == 264, "ovs_root");
_Static_assert(OVS_CLS_WORDS * OVS_CLS_RECORDS >= OVS_KEY_USED, "key words");

#endif /* OVS_ABI_CLASSIFIER_H */
