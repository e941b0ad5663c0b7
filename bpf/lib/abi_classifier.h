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
		__u64 stamp;		/* of no other flow, ever */
		struct {
			__u16 desc;	/* mask; 0: not a flow */
			__u16 bridge;
			__u32 gen;	/* grows with each use of the record */
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
 * A flow that this CPU found recently for exactly these key words: all that can
 * differ between packets from a port whose headers ovs_frame_parse() knows.  It
 * is valid while the flow has that stamp.  One of IPv4 takes only the first
 * cache line.
 */
#define OVS_EXACT_LINES	4096
struct ovs_exact {
	__u64 stamp;			/* of the flow; 0: none */
	__u32 flow;			/* id */
	__u32 port;			/* in_port | bridge << 16 */
	__u64 w1, w2, w3, w4, w5, w6;
	__u64 w7, w8, w9, w10;		/* of IPv6 */
	__u64 pad[4];
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
