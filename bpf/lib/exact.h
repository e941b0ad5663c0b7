/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The cache of exact matches in front of the classifier (struct ovs_exact of
 * abi_classifier.h): the entry looks in it, and stage RX fills in what it
 * missed.  A line is taken by the packet that was missed there last.
 *
 * It pays when packets come again before others have taken their lines.  So it
 * is judged when it has missed twice as often as it has lines, and is left
 * alone for a while when there were more misses than hits: a hit saves more
 * than a miss costs.  That while becomes longer each time.
 */
#ifndef OVS_EXACT_H
#define OVS_EXACT_H

#include "frame.h"

#define OVS_EXACT_JUDGE		(2 * OVS_EXACT_LINES)	/* misses */
#define OVS_EXACT_REST		(16 * OVS_EXACT_LINES)	/* lookups */
#define OVS_EXACT_MAX_WAIT	6	/* rests become 2^6 times as long */

/*
 * The line of a frame, by fields that most packets differ in.  A sender who
 * makes its packets collide makes them miss, no more.
 */
static __always_inline __u32 ovs_exact_line(const struct ovs_frame *f,
					    __u32 port)
{
	__u64 h = port;

	h += f->w[2] * 0x2c1b3c6d;
	h += f->w[3] * 0x297a2d39;
	h += f->w[4] * 0x5bd1e995;
	h += f->w[6] * 0x1b873593;
	if (ovs_frame_is_ip6(f)) {
		h += f->w[7] * 0x0ac4b7a5;
		h += f->w[8] * 0x3c6ef373;
		h += f->w[9] * 0x4cf5ad43;
	}
	h ^= h >> 32;
	h *= OVS_HASH_MULT;
	return h >> 40 & (OVS_EXACT_LINES - 1);
}

/* Whether a line is the frame's. */
static __always_inline int ovs_exact_same(const struct ovs_exact *e,
					  const struct ovs_frame *f,
					  __u32 port)
{
	__u64 diff = e->port ^ port;

	diff |= e->w6 ^ f->w[6];
	diff |= e->w4 ^ f->w[4];
	diff |= e->w1 ^ f->w[1];
	diff |= e->w2 ^ f->w[2];
	diff |= e->w3 ^ f->w[3];
	diff |= e->w5 ^ f->w[5];
	if (ovs_frame_is_ip6(f)) {
		diff |= e->w7 ^ f->w[7];
		diff |= e->w8 ^ f->w[8];
		diff |= e->w9 ^ f->w[9];
		diff |= e->w10 ^ f->w[10];
	}
	return !diff;
}

static __always_inline __u32 ovs_exact_port(__u32 port_no, __u32 bridge)
{
	return port_no | bridge << 16;
}

#endif /* OVS_EXACT_H */
