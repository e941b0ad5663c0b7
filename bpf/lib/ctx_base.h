/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What of ctx.h takes no type of the kernel and no helper that bcc does not
 * know: bcc compiles it, too, in the entry stage.
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

#ifdef OVS_CTX_XDP
#include "ctx_xdp_base.h"
#else
#include "ctx_skb_base.h"
#endif

#endif /* OVS_CTX_BASE_H */
