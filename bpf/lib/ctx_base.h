/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What of ctx.h takes no helper and no type of the kernel: bcc compiles it,
 * too, in the entry stage.
 */
#ifndef OVS_CTX_BASE_H
#define OVS_CTX_BASE_H

#include <linux/bpf.h>
#include <linux/types.h>

#undef __always_inline			/* <linux/stddef.h> has a weak one */
#define __always_inline inline __attribute__((always_inline))

#ifndef likely
#define likely(x)	__builtin_expect(!!(x), 1)
#define unlikely(x)	__builtin_expect(!!(x), 0)
#endif

/* Loaded once, and when it says so. */
#ifndef OVS_READ_ONCE
#define OVS_READ_ONCE(x)	(*(const volatile typeof(x) *)&(x))
#endif

/*
 * Read a 32-bit field.  By hand, because clang computes the address of a
 * field once for several reads, and the verifier refuses a computed address
 * of the context ("dereference of modified ctx ptr", all kernels).
 */
#define ctx_get(ctx, field) ({						\
	__u32 __value;							\
									\
	asm volatile("%0 = *(u32 *)(%1 + %2)"				\
		     : "=r"(__value)					\
		     : "r"(ctx),					\
		       "i"(__builtin_offsetof(struct __sk_buff, field)));\
	__value;							\
})

static __always_inline __u32 ctx_len(const struct __sk_buff *ctx)
{
	return ctx_get(ctx, len);
}

/* Packet pointers are 64 bits wide once the verifier has seen the load. */
static __always_inline void *ctx_data(const struct __sk_buff *ctx)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(ctx),
		       "i"(__builtin_offsetof(struct __sk_buff, data)));
	return p;
}

static __always_inline void *ctx_end(const struct __sk_buff *ctx)
{
	void *p;

	asm volatile("%0 = *(u32 *)(%1 + %2)"
		     : "=r"(p)
		     : "r"(ctx),
		       "i"(__builtin_offsetof(struct __sk_buff, data_end)));
	return p;
}

#endif /* OVS_CTX_BASE_H */
