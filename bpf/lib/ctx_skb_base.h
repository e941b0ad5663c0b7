/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* ctx_base.h at the hooks of tc: the packet is a struct __sk_buff. */
#ifndef OVS_CTX_SKB_BASE_H
#define OVS_CTX_SKB_BASE_H

#include <linux/pkt_cls.h>

#define ovs_ctx		__sk_buff

/* What a program returns. */
#define CTX_DROP	TC_ACT_SHOT
#define CTX_PASS	TC_ACT_OK
#define CTX_NEXT	TC_ACT_UNSPEC	/* as if there were no program */
#define CTX_REDIRECT	TC_ACT_REDIRECT

/*
 * Read a 32-bit field.  By hand, because clang computes the address of a
 * field once for several reads, and the verifier refuses a computed address
 * of the context ("dereference of modified ctx ptr", all kernels).  Its value
 * has 64 bits: bcc's clang, which knows no registers of 32, would clear the
 * upper half with two instructions wherever it is used.
 */
#define ctx_get(ctx, field) ({						\
	__u64 __value;							\
									\
	asm volatile("%0 = *(u32 *)(%1 + %2)"				\
		     : "=r"(__value)					\
		     : "r"(ctx),					\
		       "i"(__builtin_offsetof(struct ovs_ctx, field)));\
	__value;							\
})

static __always_inline __u64 ctx_len(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, len);
}

/* Packet pointers are 64 bits wide once the verifier has seen the load. */
static __always_inline void *ctx_data(const struct ovs_ctx *ctx)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(ctx),
		       "i"(__builtin_offsetof(struct ovs_ctx, data)));
	return p;
}

static __always_inline void *ctx_end(const struct ovs_ctx *ctx)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(ctx),
		       "i"(__builtin_offsetof(struct ovs_ctx, data_end)));
	return p;
}

static __always_inline __u64 ctx_ifindex(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, ifindex);
}

/* Of what follows Ethernet, or the tag that ctx_vlan() tells of; __be16. */
static __always_inline __u64 ctx_protocol(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, protocol);
}

/* Whether there is a tag beside the frame; what is in it, in host order. */
static __always_inline __u64 ctx_vlan(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, vlan_present);
}

static __always_inline __u64 ctx_vlan_tci(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, vlan_tci);
}

/* Its kind, __be16. */
static __always_inline __u64 ctx_vlan_tpid(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, vlan_proto);
}

/* Bytes of payload of each segment that is to be made of it; 0: none is. */
static __always_inline __u64 ctx_gso(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, gso_size);
}

static __always_inline __u64 ctx_priority(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, priority);
}

static __always_inline __u64 ctx_mark(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, mark);
}

/* Write a 32-bit field; by hand for the same reason. */
#define ctx_put(ctx, field, value)					\
	asm volatile("*(u32 *)(%0 + %1) = %2"				\
		     :							\
		     : "r"(ctx),					\
		       "i"(__builtin_offsetof(struct ovs_ctx, field)),	\
		       "r"((__u32)(value))				\
		     : "memory")

/*
 * A veth forgets the priority of a packet, and the mark, too, when the other
 * end is in another namespace.  So the one who sends it over an internal
 * port's pair keeps them where a veth does not look, and the one who receives
 * it takes them from there.  A queueing discipline in between, or GRO, may
 * need the place for itself; then they are not there.
 */
#define CTX_KEPT	0x6f76736b

static __always_inline void ctx_keep(struct ovs_ctx *ctx)
{
	ctx_put(ctx, cb[0], CTX_KEPT);
	ctx_put(ctx, cb[1], ctx_get(ctx, priority));
	ctx_put(ctx, cb[2], ctx_get(ctx, mark));
}

static __always_inline int ctx_kept(const struct ovs_ctx *ctx)
{
	return ctx_get(ctx, cb[0]) == CTX_KEPT;
}

/* A mark that is there still may have been changed on the way. */
static __always_inline void ctx_restore(struct ovs_ctx *ctx)
{
	ctx_put(ctx, cb[0], 0);
	ctx_put(ctx, priority, ctx_get(ctx, cb[1]));
	if (!ctx_get(ctx, mark))
		ctx_put(ctx, mark, ctx_get(ctx, cb[2]));
}

/* Send the packet itself: for the program to return. */
static __always_inline int ctx_output(struct ovs_ctx *ctx, __u32 ifindex)
{
	return bpf_redirect(ifindex, 0);
}

#endif /* OVS_CTX_SKB_BASE_H */
