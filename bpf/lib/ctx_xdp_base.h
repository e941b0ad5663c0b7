/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ctx_base.h at XDP: the packet is a struct xdp_md, all of it the frame.
 * There is nothing beside it: no tag, no mark, and no segments to be made.
 */
#ifndef OVS_CTX_XDP_BASE_H
#define OVS_CTX_XDP_BASE_H

#define ovs_ctx		xdp_md

/* What a program returns. */
#define CTX_DROP	XDP_DROP
#define CTX_PASS	XDP_PASS
#define CTX_REDIRECT	XDP_REDIRECT

/* As in ctx_skb_base.h. */
#define ctx_get(ctx, type, field) ({					\
	type __value;							\
									\
	asm volatile("%0 = *(u32 *)(%1 + %2)"				\
		     : "=r"(__value)					\
		     : "r"(ctx),					\
		       "i"(__builtin_offsetof(struct ovs_ctx, field)));	\
	__value;							\
})

static __always_inline void *ctx_data(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, void *, data);
}

static __always_inline void *ctx_end(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, void *, data_end);
}

static __always_inline __u32 ctx_len(const struct ovs_ctx *ctx)
{
	return ctx_end(ctx) - ctx_data(ctx);
}

static __always_inline __u32 ctx_ifindex(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, __u32, ingress_ifindex);
}

static __always_inline __u32 ctx_vlan(const struct ovs_ctx *ctx)
{
	return 0;
}

static __always_inline __u32 ctx_vlan_tci(const struct ovs_ctx *ctx)
{
	return 0;
}

static __always_inline __u32 ctx_vlan_tpid(const struct ovs_ctx *ctx)
{
	return 0;
}

static __always_inline __u32 ctx_gso(const struct ovs_ctx *ctx)
{
	return 0;
}

static __always_inline __u32 ctx_priority(const struct ovs_ctx *ctx)
{
	return 0;
}

static __always_inline __u32 ctx_mark(const struct ovs_ctx *ctx)
{
	return 0;
}

static __always_inline void ctx_keep(struct ovs_ctx *ctx)
{
}

static __always_inline int ctx_kept(const struct ovs_ctx *ctx)
{
	return 0;
}

static __always_inline void ctx_restore(struct ovs_ctx *ctx)
{
}

static __always_inline int ctx_output(struct ovs_ctx *ctx, __u32 ifindex)
{
	return bpf_redirect(ifindex, 0);
}

#endif /* OVS_CTX_XDP_BASE_H */
