/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Packets for user space: one record of ovs_upcalls each, the packet as it is,
 * and whole unless an action truncates it.  A checksum that is still to be
 * computed (CHECKSUM_PARTIAL) and a GSO packet that is still to be cut are
 * finished by the provider, who finds here what the device would be told.
 *
 * What a tunnel has of options, or a packet that is on its way to one, is
 * between the header and the packet, where there is any.
 *
 * bpf_ringbuf_reserve() takes a constant size, so that records come in size
 * classes; the header says how much of one is packet.
 */
#ifndef OVS_UPCALL_H
#define OVS_UPCALL_H

#include "ctx.h"
#include "drop.h"
#include "tunnel.h"

#define OVS_UPCALL_SW_HASH	1
#define OVS_UPCALL_L4_HASH	2

static __noinline void ovs_upcall_fill(struct ovs_ctx *ctx,
				       const struct ovs_pkt *pkt,
				       struct ovs_upcall *up, __u32 len)
{
	__u32 i, software, l4;
	__u16 start, offset;

	up->len = len;
	up->pkt_len = ctx_len(ctx);
	up->cmd = pkt->upcall_cmd;
	up->ip_summed = ctx_csum_kind(ctx);
	up->csum_start = 0;
	up->csum_offset = 0;
	if (up->ip_summed == OVS_CSUM_PARTIAL) {
		ctx_offload(ctx, &start, &offset);
		up->csum_start = start;
		up->csum_offset = offset;
	}
	up->gso_size = ctx_gso(ctx);
	up->gso_type = ctx_gso(ctx) ? ctx_gso_type(ctx) : 0;
	up->desc = pkt->upcall_desc;
	up->hash = ctx_hash(ctx);
	up->hash_flags = 0;
	up->mru = pkt->mru;
	ctx_hash_kind(ctx, &software, &l4);
	if (software)
		up->hash_flags |= OVS_UPCALL_SW_HASH;
	if (l4)
		up->hash_flags |= OVS_UPCALL_L4_HASH;
	up->cpu = bpf_get_smp_processor_id();
	up->bridge = pkt->bridge;
	up->vlan_tci = 0;
	up->vlan_tpid = 0;
	if (ctx_vlan(ctx)) {
		up->vlan_tci = bpf_htons(ctx_vlan_tci(ctx));
		up->vlan_tpid = ctx_vlan_tpid(ctx);
	}
	up->cutlen = 0;
	if (pkt->upcall_cmd == OVS_PACKET_CMD_ACTION)
		up->cutlen = pkt->cutlen;
#pragma unroll
	for (i = 0; i < OVS_KEY_BASE; i++)
		up->key[i] = pkt->key.w[i];
}

/*
 * Write a record with room for `room` bytes of packet, of which `len` are
 * used.  The verifier of 6.1 learns nothing from a comparison with zero
 * ("R3 min value is outside of the allowed memory range"), hence `last`.
 *
 * @between: what else the record has, before the packet, which @also fills in
 */
#define OVS_UPCALL_RECORD(ctx, pkt, len, room, between, also) ({	\
	struct {							\
		struct ovs_upcall up;					\
		between							\
		__u8 data[room];					\
	} *rec = bpf_ringbuf_reserve(&ovs_upcalls, sizeof(*rec), 0);	\
	__u32 reason = OVS_DROP_UPCALL_FULL, last = (len) - 1;		\
									\
	if (rec) {							\
		ovs_upcall_fill(ctx, pkt, &rec->up, len);		\
		also;							\
		barrier_var(last);					\
		if (last >= (room) ||					\
		    ctx_load(ctx, 0, rec->data, last + 1)) {		\
			bpf_ringbuf_discard(rec, 0);			\
			reason = OVS_DROP_PULL;				\
		} else {						\
			bpf_ringbuf_submit(rec, 0);			\
			reason = 0;					\
		}							\
	}								\
	reason;								\
})

#define OVS_UPCALL_CLASS(ctx, pkt, len, room)				\
	OVS_UPCALL_RECORD(ctx, pkt, len, room, , (void)0)

/*
 * Bytes of the packet in an upcall: what truncation leaves, unless the provider
 * needs all of them to finish a checksum or to cut segments.
 */
static __always_inline __u32 ovs_upcall_len(struct ovs_ctx *ctx,
					    struct ovs_pkt *pkt)
{
	__u32 len = ctx_len(ctx), cut = pkt->cutlen;

	if (likely(!cut) || pkt->upcall_cmd != OVS_PACKET_CMD_ACTION ||
	    ctx_gso(ctx) ||
	    ctx_csum_kind(ctx) == OVS_CSUM_PARTIAL)
		return len;
	return len > cut ? len - cut : 1;
}

/* Whether there is more to tell of tunnels than a record holds. */
static __always_inline int ovs_upcall_is_more(const struct ovs_pkt *pkt)
{
	return pkt->key.tun_opts_len ||
	       (pkt->flags & OVS_PKT_F_TO_TUNNEL &&
		pkt->upcall_cmd != OVS_PACKET_CMD_MISS);
}

static __noinline void ovs_upcall_more(const struct ovs_pkt *pkt,
				       struct ovs_upcall *up,
				       struct ovs_upcall_tunnel *more)
{
	__u32 i;

	up->hash_flags |= OVS_UPCALL_TUNNEL;
#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_KEY_USED - OVS_KEY_BASE; i++)
		more->opts[i] = pkt->key.w[OVS_KEY_BASE + i];
#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_TUNNEL_WORDS; i++)
		more->to.w[i] = pkt->tunnel.w[i];
	if (!(pkt->flags & OVS_PKT_F_TO_TUNNEL))
		more->to.proto = 0;
}

/* OVS_UPCALL_CLASS() with a struct ovs_upcall_tunnel. */
#define OVS_UPCALL_MORE(ctx, pkt, len, room)				\
	OVS_UPCALL_RECORD(ctx, pkt, len, room,				\
			  struct ovs_upcall_tunnel more;,		\
			  ovs_upcall_more(pkt, &rec->up, &rec->more))

__noinline int ovs_upcall_put_more(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
				   __u32 len)
{
	if (!pkt)
		return OVS_DROP_NO_STATE;
	if (len <= 256)
		return OVS_UPCALL_MORE(ctx, pkt, len, 256);
	if (len <= 1600)
		return OVS_UPCALL_MORE(ctx, pkt, len, 1600);
	if (len <= 9216)
		return OVS_UPCALL_MORE(ctx, pkt, len, 9216);
	if (len <= 65664)
		return OVS_UPCALL_MORE(ctx, pkt, len, 65664);
	return OVS_DROP_UPCALL_SIZE;
}

/* An SCTP GSO packet: only its buffers tell where each packet begins. */
static __always_inline __u32 ovs_upcall_sctp(struct ovs_ctx *ctx,
					     struct ovs_pkt *pkt)
{
	struct {
		struct ovs_upcall up;
		struct ovs_upcall_parts parts;
		struct ovs_upcall_tunnel more;
		__u8 data[65664];
	} *rec = bpf_ringbuf_reserve(&ovs_upcalls, sizeof(*rec), 0);
	struct sk_buff *part = ctx_frag_list(ctx);
	__u32 len = ctx_len(ctx), last = len - 1, i;

	if (!rec)
		return OVS_DROP_UPCALL_FULL;
	ovs_upcall_fill(ctx, pkt, &rec->up, len);
	ovs_upcall_more(pkt, &rec->up, &rec->more);
	for (i = 0; i < OVS_UPCALL_PARTS; i++) {
		rec->parts.len[i] = 0;
		if (!part)
			continue;
		rec->parts.len[i] = ctx_part_len(part);
		part = ctx_part_next(part);
	}
	barrier_var(last);
	if (part || last >= sizeof(rec->data) ||
	    ctx_load(ctx, 0, rec->data, last + 1)) {
		bpf_ringbuf_discard(rec, 0);
		return OVS_DROP_UPCALL_SIZE;
	}
	bpf_ringbuf_submit(rec, 0);
	return 0;
}

static __always_inline __u32 ovs_upcall_put(struct ovs_ctx *ctx,
					    struct ovs_pkt *pkt, __u32 len)
{
	if (unlikely(ctx_gso(ctx)) &&
	    ctx_gso_type(ctx) & OVS_SKB_GSO_SCTP)
		return ovs_upcall_sctp(ctx, pkt);
	if (unlikely(ovs_upcall_is_more(pkt)))
		return ovs_upcall_put_more(ctx, pkt, len);
	if (len <= 128)
		return OVS_UPCALL_CLASS(ctx, pkt, len, 128);
	if (len <= 256)
		return OVS_UPCALL_CLASS(ctx, pkt, len, 256);
	if (len <= 512)
		return OVS_UPCALL_CLASS(ctx, pkt, len, 512);
	if (len <= 1600)
		return OVS_UPCALL_CLASS(ctx, pkt, len, 1600);
	if (len <= 9216)
		return OVS_UPCALL_CLASS(ctx, pkt, len, 9216);
	if (len <= 65664)
		return OVS_UPCALL_CLASS(ctx, pkt, len, 65664);
	return OVS_DROP_UPCALL_SIZE;
}

/*
 * No port may have more under way than there is room for more: one that floods
 * gets half of it, of n that do each gets a part in n + 1, and one that has
 * nothing under way is let in, behind what never is more than
 * OVS_UPCALL_UNITS.
 */
static __always_inline int ovs_upcall_beyond(const struct ovs_upcall_use *port,
					     const struct ovs_upcall_use *all)
{
	__s64 room = OVS_UPCALL_UNITS - (OVS_READ_ONCE(all->taken) -
					 OVS_READ_ONCE(all->given));

	return (__s64)(OVS_READ_ONCE(port->taken) -
		       OVS_READ_ONCE(port->given)) >= room;
}

/*
 * Send an upcall, for the miss or the action that `pkt` tells of.  Returns 0,
 * or OVS_DROP_* when it is lost; here it is counted as lost, and by the caller
 * as a drop.
 */
__noinline int ovs_upcall(struct ovs_ctx *ctx, struct ovs_pkt *pkt)
{
	__u32 i = OVS_UPCALL_ALL, len, units, reason;
	struct ovs_upcall_use *port, *all;
	struct ovs_dp_stats *stats;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	all = bpf_map_lookup_elem(&ovs_upcall_use, &i);
	i = pkt->key.in_port;
	if (i >= OVS_MAX_PORTS)
		i = OVS_MAX_PORTS - 1;
	port = bpf_map_lookup_elem(&ovs_upcall_use, &i);
	if (!all || !port)
		return OVS_DROP_NO_STATE;
	len = ovs_upcall_len(ctx, pkt);
	units = 1 + len / OVS_UPCALL_UNIT;
	if (unlikely(ovs_upcall_beyond(port, all))) {
		__sync_fetch_and_add(&port->refused, 1);
		reason = OVS_DROP_UPCALL_SHARE;
	} else {
		__sync_fetch_and_add(&port->taken, units);
		__sync_fetch_and_add(&all->taken, units);
		reason = ovs_upcall_put(ctx, pkt, len);
		if (unlikely(reason)) {
			__sync_fetch_and_sub(&port->taken, units);
			__sync_fetch_and_sub(&all->taken, units);
		}
	}
	if (unlikely(reason)) {
		stats = ovs_dp_stats_of(pkt->bridge);
		if (stats)
			stats->lost++;
	}
	return reason;
}

#endif /* OVS_UPCALL_H */
