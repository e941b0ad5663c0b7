/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * ctx.h at XDP, as far as parsing and looking up need it.  A frame in several
 * buffers is parsed in its first one.
 */
#ifndef OVS_CTX_XDP_H
#define OVS_CTX_XDP_H

#include "common.h"

static __always_inline int ctx_is_shared(const struct ovs_ctx *ctx)
{
	return 0;
}

/* What is not there does not come. */
static __always_inline long ctx_pull(struct ovs_ctx *ctx, __u32 len)
{
	return -1;
}

static __always_inline long ctx_load(struct ovs_ctx *ctx, __u32 off,
				     void *to, __u32 n)
{
	return bpf_xdp_load_bytes(ctx, off, to, n);
}

/* The type behind the Ethernet header; 0 where there is none. */
static __always_inline __u32 ctx_protocol(const struct ovs_ctx *ctx)
{
	void *data = ctx_data(ctx);

	if (data + ETH_HLEN > ctx_end(ctx))
		return 0;
	return ((struct ethhdr *)data)->h_proto;
}

static __always_inline __u32 ctx_gso_type(const struct ovs_ctx *ctx)
{
	return 0;
}

#endif /* OVS_CTX_XDP_H */
