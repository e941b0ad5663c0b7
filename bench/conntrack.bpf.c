// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/*
 * A packet at the tracker, beside a kernel hash table whose elements have a
 * bpf_spin_lock.  Both read the same headers and make the same update.
 */
#include "../bpf/lib/object.h"
#include "../bpf/lib/ctx.h"
#include "../bpf/lib/ct.h"
#include "../bpf/lib/ct_ask.h"

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_ct_pkt);
} b_st SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} b_count SEC(".maps");

/* Connections of the kernel's table: both directions lead to one. */
struct b_conn {
	struct bpf_spin_lock lock;
	__u32 pad;
	struct ovs_ct ct;
	__u32 expires;
	__u32 pad2;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1 << 18);
	__type(key, struct ovs_ct_tuple);
	__type(value, __u64);
} b_hash SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << 16);
	__type(key, __u32);
	__type(value, struct b_conn);
} b_conns SEC(".maps");

const volatile __u32 cfg_vary = 1;	/* connections, in turns at random */

static __always_inline struct ovs_ct_pkt *b_begin(struct ovs_ctx *ctx, int pick)
{
	__u32 zero = 0, n;
	struct ovs_ct_pkt *st = bpf_map_lookup_elem(&b_st, &zero);
	__be16 *port;

	if (!st)
		return NULL;
	st->now = bpf_ktime_get_coarse_ns();
	st->zone = 0;
	st->policy = 0;
	st->family = OVS_CT_INET;
	st->l3_off = ETH_HLEN;
	st->l4_off = ETH_HLEN + 20;
	st->l4_proto = IPPROTO_TCP;
	if (pick && cfg_vary > 1) {
		n = bpf_get_prandom_u32() % cfg_vary;
		port = ctx_at(ctx, ETH_HLEN + 20, 2);
		if (!port)
			return NULL;
		*port = bpf_htons(n + 1024);
	}
	return st;
}

SEC("tc")
int b_base(struct __sk_buff *ctx)
{
	return b_begin(ctx, 1) ? 1 : 0;
}

SEC("tc")
int b_ct(struct __sk_buff *ctx)
{
	struct ovs_ct_pkt *st = b_begin(ctx, 1);

	return st ? ovs_ct_find(ctx, st) : -1;
}

/* As ovs_ct_find() of a packet whose connection is in the kernel's table. */
__noinline int b_find(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	struct ovs_ct_conf *conf = ovs_ct_config();
	__u32 i, dir, end;
	struct b_conn *c;
	__u64 *id;

	if (!st || !conf)
		return -1;
	st->id = 0;
	st->dir = 0;
	st->busy = 0;
	st->timeout = 0;
	if (!ovs_ct_read_l3(ctx, st))
		return -1;
	st->tuple.zone = st->zone;
	st->tuple.proto = st->l4_proto;
	st->tuple.family = st->family;
	if (!ovs_ct_read_tcp(ctx, st))
		return -1;
	id = bpf_map_lookup_elem(&b_hash, &st->tuple);
	if (!id)
		return OVS_CT_V_NEW;
	st->dir = *id & 1;
	i = *id >> 1;
	c = bpf_map_lookup_elem(&b_conns, &i);
	if (!c)
		return -1;
	bpf_spin_lock(&c->lock);
	dir = st->dir & 1;
	c->ct.packets[dir]++;
	c->ct.bytes[dir] += st->len;
	bpf_spin_unlock(&c->lock);
	/* No function may be called with the lock held: what it costs counts. */
	if (ovs_ct_tcp_segment(&c->ct, st, conf) != OVS_CT_R_ACCEPT)
		return OVS_CT_V_INVALID;
	end = ovs_ct_end(st->now, st->timeout);
	if (c->expires != end)
		c->expires = end;
	st->ct_state = OVS_CT_TRACKED | OVS_CT_ESTABLISHED;
	return OVS_CT_V_FOUND;
}

SEC("tc")
int b_kernel(struct __sk_buff *ctx)
{
	struct ovs_ct_pkt *st = b_begin(ctx, 1);

	return st ? b_find(ctx, st) : -1;
}

/* A new connection of both, from the packet as it is. */
SEC("tc")
int b_make(struct __sk_buff *ctx)
{
	struct ovs_ct_pkt *st = b_begin(ctx, 0);
	struct ovs_ct *ct;
	struct b_conn *c;
	__u32 i;
	__u64 v;

	if (!st)
		return -1;
	ovs_ct_find(ctx, st);
	if (ovs_ct_commit(st) != OVS_CT_C_DONE)
		return -1;
	ct = ovs_ct_record(st);
	if (st->dir || !ct)
		return 0;
	i = bpf_ntohs(st->tuple.sport);
	c = bpf_map_lookup_elem(&b_conns, &i);
	if (!c)
		return -1;
	c->ct = *ct;
	v = (__u64)i << 1;
	bpf_map_update_elem(&b_hash, &ct->orig, &v, 0);
	v |= 1;
	bpf_map_update_elem(&b_hash, &ct->reply, &v, 0);
	return 0;
}

static __always_inline int b_next(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	__u32 zero = 0, n;
	__u64 *count = bpf_map_lookup_elem(&b_count, &zero);
	__be32 *addr;
	__be16 *port;

	if (!count)
		return 0;
	n = (*count)++;
	addr = ctx_at(ctx, ETH_HLEN + 12, 4);
	if (!addr)
		return 0;
	*addr = bpf_htonl(0x0a000000 + (bpf_get_smp_processor_id() << 16) +
			  (n >> 12));
	port = ctx_at(ctx, ETH_HLEN + 20, 2);
	if (!port)
		return 0;
	*port = bpf_htons(n << 4 & 0xffff);
	return 1;
}

SEC("tc")
int b_new_base(struct __sk_buff *ctx)
{
	struct ovs_ct_pkt *st = b_begin(ctx, 0);

	return st && b_next(ctx, st) ? 0 : -1;
}

SEC("tc")
int b_new(struct __sk_buff *ctx)
{
	struct ovs_ct_pkt *st = b_begin(ctx, 0);

	if (!st || !b_next(ctx, st))
		return -1;
	ovs_ct_find(ctx, st);
	return ovs_ct_commit(st);
}

SEC("tc")
int b_ask(struct ovs_ctx *ctx)
{
	return ovs_ct_answer();
}

char LICENSE[] SEC("license") = "GPL";
