/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about meters. */
#ifndef OVS_ABI_METER_H
#define OVS_ABI_METER_H

#include <linux/types.h>

/*
 * A band of a meter, and what is the meter's: ovs_meters[id % OVS_METERS] is
 * the meter `id` with its first band, if `id` and OVS_METER_F_USED are there;
 * ovs_meters[OVS_METERS + next] is the next band.
 *
 * A bucket has now * rate - spent, where `now` is CLOCK_MONOTONIC in ms, but
 * never more than burst * 1000: bits, or thousandths of packets.
 *
 * The provider, setting a band up, writes `spent` last, and a program that
 * takes from it reads `spent` first: so no value of one rate is stored with
 * another.
 */
#define OVS_METERS		(1 << 18)
#define OVS_METER_EXTRA		(1 << 16)	/* 0 is not used */
#define OVS_METER_BANDS		8		/* of one meter */
#define OVS_METER_F_USED	1
#define OVS_METER_F_BAND	2	/* there is a band here */
#define OVS_METER_F_DROP	4	/* ... which drops */
#define OVS_METER_F_KBPS	8	/* ... and counts bits, not packets */
#define OVS_METER_F_CLEAR	16	/* OVS_METER_ATTR_CLEAR was given */
struct ovs_meter {
	__u32 id;
	__u16 next;		/* 0: no more bands */
	__u16 flags;		/* OVS_METER_F_* */
	__u32 rate;		/* kbit/s or packets/s; never 0 in a band */
	__u32 burst;		/* kbit or packets */
	__u64 spent;
	__u64 used;		/* ms, CLOCK_MONOTONIC; the meter's */
	__u64 packets;		/* these two, too */
	__u64 bytes;
	__u64 band_packets;	/* that exceeded this band, of all the most */
	__u64 band_bytes;
};

_Static_assert(sizeof(struct ovs_meter) == 64, "ovs_meter");

#endif /* OVS_ABI_METER_H */
