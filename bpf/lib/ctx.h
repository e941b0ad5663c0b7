/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The packet as the hook hands it over.  No other header reads packet data or
 * packet metadata by itself, so that a port to another hook (XDP) is another
 * version of this file.
 *
 * Pointers into the packet are void after any helper that may change it.
 */
#ifndef OVS_CTX_H
#define OVS_CTX_H

#include "common.h"
#include "ctx_base.h"

/*
 * `n` bytes of the packet at `off`, in place; NULL when the packet is shorter
 * or cannot be pulled.  `n` is a constant, `off` below 32768; the verifier of
 * 6.1 forgets what is known of `off` when it is spilled to the stack ("R1
 * offset is outside of the packet"), so that it is told again here.
 */
static __always_inline void *ctx_at(struct __sk_buff *ctx, __u32 off, __u32 n)
{
	void *p;

	if (!__builtin_constant_p(off))
		asm volatile("%0 &= 0x7fff" : "+r"(off));
	p = ctx_data(ctx) + off;
	if (likely(p + n <= ctx_end(ctx)))
		return p;
	if (ctx_len(ctx) < off + n || bpf_skb_pull_data(ctx, off + n))
		return NULL;
	p = ctx_data(ctx) + off;
	return p + n <= ctx_end(ctx) ? p : NULL;
}

/* Copy `n` bytes at `off`; 0, or negative when the packet is shorter. */
static __always_inline long ctx_load(struct __sk_buff *ctx, __u32 off,
				     void *to, __u32 n)
{
	return bpf_skb_load_bytes(ctx, off, to, n);
}

/*
 * Store bytes that no sum in skb->csum must follow: their checksum in the
 * packet changes with them, or they lie before the network header.
 */
static __always_inline long ctx_store(struct __sk_buff *ctx, __u32 off,
				      const void *from, __u32 n)
{
	return bpf_skb_store_bytes(ctx, off, from, n, 0);
}

/* Store bytes that a checksum over the whole packet must follow. */
static __always_inline long ctx_store_csum(struct __sk_buff *ctx, __u32 off,
					   const void *from, __u32 n)
{
	return bpf_skb_store_bytes(ctx, off, from, n, BPF_F_RECOMPUTE_CSUM);
}

/* Bytes of the frame with the tag that is kept outside of it. */
static __always_inline __u32 ctx_wire_len(const struct __sk_buff *ctx)
{
	return ctx_len(ctx) + (ctx_get(ctx, vlan_present) ? VLAN_HLEN : 0);
}

/* The length that a device's MTU limits: one tag is not counted. */
static __always_inline __u32 ctx_mtu_len(const struct __sk_buff *ctx)
{
	__u32 hlen = ETH_HLEN;

	if (!ctx_get(ctx, vlan_present) && ovs_is_vlan(ctx_get(ctx, protocol)))
		hlen += VLAN_HLEN;
	return ctx_len(ctx) > hlen ? ctx_len(ctx) - hlen : 0;
}

static __always_inline struct skb_shared_info *
ctx_shared(const struct __sk_buff *ctx)
{
	struct sk_buff *skb = (struct sk_buff *)ctx;

	return (void *)(BPF_CORE_READ(skb, head) + BPF_CORE_READ(skb, end));
}

/* SKB_GSO_* of the packet; not worth asking when ctx->gso_size is 0. */
static __always_inline __u32 ctx_gso_type(const struct __sk_buff *ctx)
{
	struct skb_shared_info *shared = ctx_shared(ctx);

	return BPF_CORE_READ(shared, gso_type);
}

/* The first of the buffers behind the packet's own. */
static __always_inline struct sk_buff *
ctx_frag_list(const struct __sk_buff *ctx)
{
	struct skb_shared_info *shared = ctx_shared(ctx);

	return BPF_CORE_READ(shared, frag_list);
}

#endif /* OVS_CTX_H */
