/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * What the layers of flow extract hand to each other (parse.h).
 *
 * Words are put together in registers and stored whole: the lookup reads them
 * whole soon afterwards, and a load that spans several stores has to wait.
 */
#ifndef OVS_PARSER_H
#define OVS_PARSER_H

#include "ctx.h"

/* Key words 1 to 4 while they are put together. */
union ovs_word {
	__u64 w;
	struct {
		__be16 eth_type;
		__u8 mac_proto;
		__u8 ip_frag;
		__u8 ip_proto;
		__u8 ip_tos;
		__u8 ip_ttl;
		__u8 ct_state;
	};
	struct {
		__u8 mac[6];
		__be16 tag;
	};
	struct {
		__be16 tp_src;
		__be16 tp_dst;
		__be16 tcp_flags;
		__u16 ct_zone;
	};
};

/* What the layers hand to each other. */
struct ovs_parser {
	struct ovs_ctx *ctx;
	struct ovs_pkt *pkt;
	union ovs_word ip;	/* w1 */
	union ovs_word tp;	/* w4 */
	__u32 off;		/* of the header that comes next */
	int err;		/* OVS_DROP_* */
};

/* `n` bytes at `p->off`; NULL when the packet is shorter, or on an error. */
static __always_inline void *ovs_parse_at(struct ovs_parser *p, __u32 n)
{
	void *at = ctx_at(p->ctx, p->off, n);

	if (unlikely(!at && ctx_len(p->ctx) >= p->off + n))
		p->err = OVS_DROP_PULL;
	return at;
}

#endif /* OVS_PARSER_H */
