/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* ctx.h at the hooks of tc. */
#ifndef OVS_CTX_SKB_H
#define OVS_CTX_SKB_H

#include "common.h"

static __always_inline struct sk_buff *ctx_kernel(const struct ovs_ctx *ctx)
{
	return (struct sk_buff *)ctx;
}

/*
 * Whether the skb itself, and not a clone of it, is shared with its sender, as
 * by pktgen.  The kernel's own receivers begin with skb_share_check(); a
 * helper that finds it has to copy the head of such a packet, as any may that
 * changes a packet, and bpf_clone_redirect() always does, ends in a BUG() of
 * pskb_expand_head().
 */
static __always_inline int ctx_is_shared(const struct ovs_ctx *ctx)
{
	struct sk_buff *skb = ctx_kernel(ctx);

	return BPF_CORE_READ(skb, users.refs.counter) > 1;
}

/* The same without a helper, where the kernel has this function: Linux 6.3. */
extern void *bpf_cast_to_kern_ctx(void *ctx) __ksym __weak;

static __always_inline int ctx_is_shared_cast(struct ovs_ctx *ctx)
{
	struct sk_buff *skb = bpf_cast_to_kern_ctx(ctx);

	return skb->users.refs.counter > 1;
}

/* Make the first `len` bytes readable; negative when that cannot be. */
__noinline int ctx_pull(struct ovs_ctx *ctx, __u32 len)
{
	return ctx_is_shared(ctx) ? -1 : bpf_skb_pull_data(ctx, len);
}

/* Copy `n` bytes at `off`; 0, or negative when the packet is shorter. */
static __always_inline long ctx_load(struct ovs_ctx *ctx, __u32 off,
				     void *to, __u32 n)
{
	return bpf_skb_load_bytes(ctx, off, to, n);
}

/*
 * Store bytes that no sum in skb->csum must follow: their checksum in the
 * packet changes with them, or they lie before the network header.
 */
static __always_inline long ctx_store(struct ovs_ctx *ctx, __u32 off,
				      const void *from, __u32 n)
{
	return bpf_skb_store_bytes(ctx, off, from, n, 0);
}

/* Store bytes that a checksum over the whole packet must follow. */
static __always_inline long ctx_store_csum(struct ovs_ctx *ctx, __u32 off,
					   const void *from, __u32 n)
{
	return bpf_skb_store_bytes(ctx, off, from, n, BPF_F_RECOMPUTE_CSUM);
}

/* A sum over the whole packet, if there is one, follows a change. */
static __always_inline void ctx_csum_update(struct ovs_ctx *ctx, __u32 diff)
{
	bpf_csum_update(ctx, diff);
}

/* Update the checksum of TCP, UDP or ICMPv6 at `off`: as the helper does. */
static __always_inline long ctx_l4_csum(struct ovs_ctx *ctx, __u32 off,
					__u64 from, __u64 to, __u64 flags)
{
	return bpf_l4_csum_replace(ctx, off, from, to, flags);
}

/* OVS_CSUM_*: what is known of the checksum of the transport header. */
static __always_inline __u32 ctx_csum_kind(const struct ovs_ctx *ctx)
{
	struct sk_buff *skb = ctx_kernel(ctx);

	return BPF_CORE_READ_BITFIELD_PROBED(skb, ip_summed);
}

/* Where the checksum is summed up from and put, of OVS_CSUM_PARTIAL. */
static __always_inline void ctx_offload(const struct ovs_ctx *ctx,
					__u16 *start, __u16 *offset)
{
	struct sk_buff *skb = ctx_kernel(ctx);

	*start = BPF_CORE_READ(skb, csum_start) -
		 (BPF_CORE_READ(skb, data) - BPF_CORE_READ(skb, head));
	*offset = BPF_CORE_READ(skb, csum_offset);
}

/* Bytes before the network header, all of which devices take for Ethernet. */
static __always_inline __u32 ctx_mac_len(const struct ovs_ctx *ctx)
{
	struct sk_buff *skb = ctx_kernel(ctx);

	return BPF_CORE_READ(skb, mac_len);
}

/* The packet's hash, computed when it has none. */
static __always_inline __u32 ctx_hash(struct ovs_ctx *ctx)
{
	return bpf_get_hash_recalc(ctx);
}

static __always_inline void ctx_hash_clear(struct ovs_ctx *ctx)
{
	bpf_set_hash_invalid(ctx);
}

/* Whether software made the hash, and whether of the transport header. */
static __always_inline void ctx_hash_kind(const struct ovs_ctx *ctx,
					  __u32 *software, __u32 *l4)
{
	struct sk_buff *skb = ctx_kernel(ctx);

	*software = BPF_CORE_READ_BITFIELD_PROBED(skb, sw_hash);
	*l4 = BPF_CORE_READ_BITFIELD_PROBED(skb, l4_hash);
}

static __always_inline void ctx_set_priority(struct ovs_ctx *ctx,
					     __u32 priority)
{
	ctx->priority = priority;
}

static __always_inline void ctx_set_mark(struct ovs_ctx *ctx, __u32 mark)
{
	ctx->mark = mark;
}

/* `tpid` in network order, `tci` in host order.  Headers move. */
static __always_inline long ctx_vlan_push(struct ovs_ctx *ctx, __be16 tpid,
					  __u16 tci)
{
	return bpf_skb_vlan_push(ctx, tpid, tci);
}

static __always_inline long ctx_vlan_pop(struct ovs_ctx *ctx)
{
	return bpf_skb_vlan_pop(ctx);
}

/* Room for `n` bytes in front, which become a part of the MAC header. */
static __always_inline long ctx_room_add(struct ovs_ctx *ctx, __u32 n)
{
	return bpf_skb_change_head(ctx, n, 0);
}

/* Take `n` bytes out behind the MAC header of what looks like IP. */
static __always_inline long ctx_room_del(struct ovs_ctx *ctx, __u32 n)
{
	return bpf_skb_adjust_room(ctx, -(__s32)n, BPF_ADJ_ROOM_MAC,
				   BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

/* Cut off what is beyond `len` bytes. */
static __always_inline long ctx_trim(struct ovs_ctx *ctx, __u32 len)
{
	return bpf_skb_change_tail(ctx, len, 0);
}

/*
 * Send a copy.  The helper unclones the packet that stays, for the sake of
 * programs that write into it, which costs more than all the rest; the kernel
 * has no other helper that sends a clone.
 */
static __always_inline long ctx_output_copy(struct ovs_ctx *ctx,
					    __u32 ifindex)
{
	return bpf_clone_redirect(ctx, ifindex, 0);
}

/* Have a copy with that mark come in by a device. */
static __always_inline long ctx_defer(struct ovs_ctx *ctx, __u32 ifindex,
				      __u32 mark)
{
	__u32 own = ctx->mark;
	long err;

	ctx->mark = mark;
	err = bpf_clone_redirect(ctx, ifindex, BPF_F_INGRESS);
	ctx->mark = own;
	return err;
}

static __always_inline struct skb_shared_info *
ctx_shared(const struct ovs_ctx *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx;

	return (void *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));
}

/* SKB_GSO_* of the packet; not worth asking when ctx->gso_size is 0. */
static __always_inline __u32 ctx_gso_type(const struct ovs_ctx *ctx)
{
	struct skb_shared_info *shared = ctx_shared(ctx);

	return BPF_CORE_READ(shared, gso_type);
}

/* The first of the buffers behind the packet's own. */
static __always_inline struct sk_buff *
ctx_frag_list(const struct ovs_ctx *ctx)
{
	struct skb_shared_info *shared = ctx_shared(ctx);

	return BPF_CORE_READ(shared, frag_list);
}

/*
 * The tunnel that a packet came by; negative when it came by none of that
 * family.  `flags`: BPF_F_TUNINFO_IPV6 or 0.
 */
static __always_inline long ctx_tunnel(struct ovs_ctx *ctx,
				       struct bpf_tunnel_key *key, __u64 flags)
{
	return bpf_skb_get_tunnel_key(ctx, key, sizeof(*key),
				      flags | BPF_F_TUNINFO_FLAGS);
}

/* Its options, with zeros behind them; their length, or negative: none. */
static __always_inline long ctx_tunnel_opts(struct ovs_ctx *ctx, void *opts,
					    __u32 size)
{
	return bpf_skb_get_tunnel_opt(ctx, opts, size);
}

/* Its ports, which the helper does not tell, of a packet that came by one. */
static __always_inline void ctx_tunnel_ports(const struct ovs_ctx *ctx,
					     __be16 *src, __be16 *dst)
{
	struct sk_buff *skb = ctx_kernel(ctx);
	struct metadata_dst *md;

	/* The lowest bit says whether the skb holds a reference. */
	md = (void *)(BPF_CORE_READ(skb, _skb_refdst) & ~1UL);
	*src = BPF_CORE_READ(md, u.tun_info.key.tp_src);
	*dst = BPF_CORE_READ(md, u.tun_info.key.tp_dst);
}

/*
 * Where a packet that is not shared is to go, for the device of a tunnel.  The
 * kernel keeps it in one place for each CPU: the packet has to be sent before
 * another one is told.
 */
static __always_inline long ctx_tunnel_set(struct ovs_ctx *ctx,
					   struct bpf_tunnel_key *key,
					   __u64 flags)
{
	return bpf_skb_set_tunnel_key(ctx, key, sizeof(*key), flags);
}

static __always_inline long ctx_tunnel_set_opts(struct ovs_ctx *ctx,
						void *opts, __u32 size)
{
	return bpf_skb_set_tunnel_opt(ctx, opts, size);
}

/* A buffer of a packet that is to be cut up: its length, and the next one. */
static __always_inline __u32 ctx_part_len(const struct sk_buff *part)
{
	return BPF_CORE_READ(part, len);
}

static __always_inline struct sk_buff *ctx_part_next(struct sk_buff *part)
{
	return BPF_CORE_READ(part, next);
}

#endif /* OVS_CTX_SKB_H */
