// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
/* The connection tracker, on frames.  At XDP where OVS_CTX_XDP is defined. */
#include "object.h"
#include "ctx.h"
#include "parse.h"
#include "ct.h"
#include "ct_sweep.h"
#include "ct_ask.h"

#ifdef OVS_CTX_XDP
#define T_SEC "xdp"
#else
#define T_SEC "tc"
#endif

#define T_CPUS	64

#define T_COMMIT	1	/* commit what is new */
#define T_DROP		2	/* end what is found, then do likewise */
#define T_STEAL		4	/* take what expects it, before */

struct t_arg {
	__u64 now;		/* 0: what the clock says */
	__u16 zone;
	__u16 policy;
	__u32 flags;
	__be32 dst;		/* of a new connection's reply, 0: no NAT */
	__be16 dport;
	__u16 pad;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct t_arg);
} t_arg SEC(".maps");

/* What became of the last packet of each CPU. */
struct t_out {
	__u64 made;		/* enum ovs_ct_made of a commit */
	__u64 runs;
	struct ovs_ct_pkt st;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, T_CPUS);
	__type(key, __u32);
	__type(value, struct t_out);
} t_out SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct ovs_pkt);
} t_pkt SEC(".maps");

static __always_inline struct t_out *t_out_get(void)
{
	__u32 cpu = bpf_get_smp_processor_id() % T_CPUS;

	return bpf_map_lookup_elem(&t_out, &cpu);
}

/* What the headers say; 0 when flow extract refuses the frame. */
static __always_inline int t_parse(struct ovs_ctx *ctx, struct ovs_ct_pkt *st)
{
	__u32 zero = 0;
	struct ovs_pkt *pkt = bpf_map_lookup_elem(&t_pkt, &zero);

	if (!pkt)
		return 0;
	pkt->key.w[1] = 0;
	pkt->key.w[4] = 0;
	if (ovs_parse(ctx, pkt))
		return 0;
	st->l3_off = pkt->l3_off;
	st->l4_off = pkt->l4_off;
	st->l4_proto = pkt->l4_proto;
	st->family = pkt->key.eth_type == bpf_htons(ETH_P_IP) ? OVS_CT_INET :
		     pkt->key.eth_type == bpf_htons(ETH_P_IPV6) ?
		     OVS_CT_INET6 : 0;
	return 1;
}

/* Find, and commit; the verdict. */
SEC(T_SEC)
int t_ct(struct ovs_ctx *ctx)
{
	__u32 zero = 0;
	struct t_arg *arg = bpf_map_lookup_elem(&t_arg, &zero);
	struct t_out *out = t_out_get();
	struct ovs_ct_pkt *st;
	int verdict;

	if (!arg || !out)
		return -1;
	st = &out->st;
	if (!t_parse(ctx, st))
		return -2;
	st->now = arg->now ?: bpf_ktime_get_coarse_ns();
	st->zone = arg->zone;
	st->policy = arg->policy;
	out->made = 0;
	verdict = ovs_ct_find(ctx, st);
	if (arg->flags & T_DROP && verdict == OVS_CT_V_FOUND) {
		ovs_ct_drop(st);
		verdict = ovs_ct_find(ctx, st);
	}
	if (arg->flags & T_STEAL && verdict == OVS_CT_V_NEW && st->expect) {
		__u32 i = st->expect - 1;
		struct ovs_ct_expect *e;

		e = bpf_map_lookup_elem(&ovs_ct_expect, &i);
		if (e)
			e->word++;
	}
	if (verdict == OVS_CT_V_NEW && arg->dst) {
		st->fresh.reply.src4 = arg->dst;
		if (arg->dport)
			st->fresh.reply.sport = arg->dport;
		st->fresh.status |= OVS_CT_S_DST_NAT;
	}
	if (arg->flags & T_COMMIT)
		out->made = ovs_ct_commit(st);
	out->runs++;
	return verdict;
}

/*
 * Give an IPv4 packet of TCP or UDP a source address and port, and say what is
 * known of it besides.
 */
static __always_inline int t_from(struct ovs_ctx *ctx, struct ovs_ct_pkt *st,
				  const struct t_arg *arg, __u32 src,
				  __u16 sport)
{
	__be16 *port;
	__be32 *addr;
	__u8 *proto;

	addr = ctx_at(ctx, ETH_HLEN + 12, 4);
	if (!addr)
		return 0;
	*addr = bpf_htonl(0x0a000000 + src);
	port = ctx_at(ctx, ETH_HLEN + 20, 2);
	if (!port)
		return 0;
	*port = bpf_htons(sport);
	proto = ctx_at(ctx, ETH_HLEN + 9, 1);
	if (!proto)
		return 0;
	st->now = arg->now ?: bpf_ktime_get_coarse_ns();
	st->zone = arg->zone;
	st->policy = 0;
	st->family = OVS_CT_INET;
	st->l3_off = ETH_HLEN;
	st->l4_off = ETH_HLEN + 20;
	st->l4_proto = *proto;
	return 1;
}

/*
 * Like it, for a connection after the other: the source address of an IPv4
 * packet, and the port of TCP and UDP, count runs of this CPU.
 */
SEC(T_SEC)
int t_flood(struct ovs_ctx *ctx)
{
	__u32 zero = 0, n, verdict;
	struct t_arg *arg = bpf_map_lookup_elem(&t_arg, &zero);
	struct t_out *out = t_out_get();

	if (!arg || !out)
		return -1;
	n = out->runs++;
	if (!t_from(ctx, &out->st, arg, n >> 12, n << 4))
		return -1;
	verdict = ovs_ct_find(ctx, &out->st);
	if (arg->flags & T_COMMIT)
		out->made += ovs_ct_commit(&out->st) != OVS_CT_C_DONE;
	return verdict;
}

/*
 * A new connection after the other, each from another address: of those that
 * are expected, each is expected once, and the CPUs have different ports.
 */
SEC(T_SEC)
int t_rush(struct ovs_ctx *ctx)
{
	__u32 zero = 0, verdict;
	struct t_arg *arg = bpf_map_lookup_elem(&t_arg, &zero);
	struct t_out *out = t_out_get();

	if (!arg || !out ||
	    !t_from(ctx, &out->st, arg, out->runs++,
		    1 + bpf_get_smp_processor_id()))
		return -1;
	verdict = ovs_ct_find(ctx, &out->st);
	out->made += ovs_ct_commit(&out->st) != OVS_CT_C_DONE;
	return verdict;
}

/* One slice of the sweep, at the time that is said. */
SEC(T_SEC)
int t_sweep(struct ovs_ctx *ctx)
{
	__u32 zero = 0;
	struct t_arg *arg = bpf_map_lookup_elem(&t_arg, &zero);

	return arg ? ovs_ct_sweep(arg->now) : -1;
}

SEC(T_SEC)
int t_start(struct ovs_ctx *ctx)
{
	return ovs_ct_start();
}

SEC(T_SEC)
int t_ask(struct ovs_ctx *ctx)
{
	return ovs_ct_answer();
}

char LICENSE[] SEC("license") = "GPL";
