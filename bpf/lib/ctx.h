/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The packet as the hook hands it over, struct ovs_ctx.  No other header
 * knows what that is, nor a helper that works on it: what there is of it for
 * them is what ctx_skb.h and ctx_skb_base.h define for the hooks of tc, and
 * ctx_xdp.h and ctx_xdp_base.h for XDP (OVS_CTX_XDP), where parsing and
 * looking up is all so far (tests/bpf/test_ctx.py).
 *
 * Pointers into the packet are void after any function that may change it.
 */
#ifndef OVS_CTX_H
#define OVS_CTX_H

#include "common.h"

#ifdef OVS_CTX_XDP
#include "ctx_xdp.h"
#else
#include "ctx_skb.h"
#endif

/*
 * `n` bytes of the packet at `off`, in place; NULL when the packet is shorter
 * or cannot be pulled.  `n` is a constant, `off` below 32768; the verifier of
 * 6.1 forgets what is known of `off` when it is spilled to the stack ("R1
 * offset is outside of the packet"), so that it is told again here.
 */
static __always_inline void *ctx_at(struct ovs_ctx *ctx, __u32 off, __u32 n)
{
	void *p;

	if (!__builtin_constant_p(off))
		asm volatile("%0 &= 0x7fff" : "+r"(off));
	p = ctx_data(ctx) + off;
	if (likely(p + n <= ctx_end(ctx)))
		return p;
	if (ctx_len(ctx) < off + n || ctx_pull(ctx, off + n))
		return NULL;
	p = ctx_data(ctx) + off;
	return p + n <= ctx_end(ctx) ? p : NULL;
}

/* Bytes of the frame with the tag that is kept outside of it. */
static __always_inline __u32 ctx_wire_len(const struct ovs_ctx *ctx)
{
	return ctx_len(ctx) + (ctx_vlan(ctx) ? VLAN_HLEN : 0);
}

/* The length that a device's MTU limits: one tag is not counted. */
static __always_inline __u32 ctx_mtu_len(const struct ovs_ctx *ctx)
{
	__u32 hlen = ETH_HLEN;

	if (!ctx_vlan(ctx) && ovs_is_vlan(ctx_protocol(ctx)))
		hlen += VLAN_HLEN;
	return ctx_len(ctx) > hlen ? ctx_len(ctx) - hlen : 0;
}

#endif /* OVS_CTX_H */
