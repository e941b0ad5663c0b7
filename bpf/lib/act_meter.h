/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * OVS_OP_METER: token buckets that all CPUs take from without a lock.  Where
 * the packet and the time are the same, so is the verdict of the kernel's
 * ovs_meter_execute(), but for two things: what a bucket gets for a time that
 * fills it is not rounded down to whole milliseconds of its rate (which
 * leaves a bucket of less than one empty for ever), and a product does not
 * end at 32 bits.
 */
#ifndef OVS_ACT_METER_H
#define OVS_ACT_METER_H

#include "act_flow.h"
#include "maps.h"
#include "stats.h"

#define OVS_METER_TRIES	4

/*
 * `spent` is ahead of now * rate only by what CPUs overdraw at the same moment,
 * which is never that much; a bucket that looks so was idle for 2^64 / rate ms.
 */
#define OVS_METER_DEBT	(1ULL << 48)

/* What the bucket has that gets `due` in all, of which `spent` is taken. */
static __always_inline __u64 ovs_bucket(__u64 due, __u64 spent, __u64 size)
{
	__u64 has = due - spent;

	if (has <= size)
		return has;
	return -has < OVS_METER_DEBT ? 0 : size;
}

/*
 * Take a packet from a band's bucket; 0 when it does not hold that much.  A CPU
 * that loses every race for it takes it nonetheless: the bucket is in debt
 * then.
 */
__noinline int ovs_meter_take(struct ovs_meter *band, __u64 now, __u32 len)
{
	__u64 due, spent, cost = 0, has, try;

	if (!band)
		return 0;
	for (try = 0; try < OVS_METER_TRIES; try++) {
		spent = OVS_READ_ONCE(band->spent);
		due = now * OVS_READ_ONCE(band->rate);
		has = ovs_bucket(due, spent, OVS_READ_ONCE(band->burst) * 1000ULL);
		cost = band->flags & OVS_METER_F_KBPS ? len * 8ULL : 1000;
		if (has < cost)
			return 0;
		if (__sync_val_compare_and_swap(&band->spent, spent,
						due - has + cost) == spent)
			return 1;
	}
	__sync_fetch_and_add(&band->spent, cost);
	return 1;
}

/*
 * Whether a packet is more than meter `id` lets pass.  `now` is the time of
 * the last tick, in ms: where that is enough, the clock is not read, which
 * would cost as much as all the rest.
 */
__noinline int ovs_meter(struct ovs_ctx *ctx, struct ovs_pkt *pkt, __u32 id,
			 __u64 now)
{
	__u32 i = id & (OVS_METERS - 1), n, len, rate, over_rate = 0;
	struct ovs_meter *meter, *band, *over = NULL;
	__u64 used;

	if (!pkt)
		return 0;
	meter = bpf_map_lookup_elem(&ovs_meters, &i);
	if (!meter || meter->id != id || !(meter->flags & OVS_METER_F_USED))
		return 0;
	len = ovs_packet_len(ctx, pkt);
	__sync_fetch_and_add(&meter->packets, 1);
	__sync_fetch_and_add(&meter->bytes, len);
	used = meter->used;
	if (used <= now && !meter->next &&
	    (!(meter->flags & OVS_METER_F_BAND) ||
	     ovs_meter_take(meter, now, len))) {
		if (used != now)
			meter->used = now;
		return 0;
	}
	now = bpf_ktime_get_ns() / OVS_NS_PER_MS;
	if (used != now)
		meter->used = now;
	if (!(meter->flags & OVS_METER_F_BAND))
		return 0;

	band = meter;
	for (n = 0; n < OVS_METER_BANDS; n++) {
		rate = band->rate;
		if (!ovs_meter_take(band, now, len) && rate > over_rate) {
			over_rate = rate;
			over = band;
		}
		if (!band->next)
			break;
		i = OVS_METERS + band->next;
		band = bpf_map_lookup_elem(&ovs_meters, &i);
		if (!band)
			break;
	}
	if (!over)
		return 0;
	__sync_fetch_and_add(&over->band_packets, 1);
	__sync_fetch_and_add(&over->band_bytes, len);
	return !!(over->flags & OVS_METER_F_DROP);
}

#endif /* OVS_ACT_METER_H */
