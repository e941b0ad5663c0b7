/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Ports whose devices are the kernel's tunnels with metadata ("external" of
 * ip-link): a packet that comes by one has beside it where it came from, and
 * one that is sent to one has to have where it is to go.  At the entry that
 * becomes words 28 to 66 of the key; OVS_HEADER_SET_TUNNEL fills in
 * ovs_pkt.tunnel, with which an output to such a port tells the device.
 *
 * Nothing of it is on the stack: the key is in ovs_cpu, and so is the tunnel.
 */
#ifndef OVS_TUNNEL_H
#define OVS_TUNNEL_H

#include "ctx.h"
#include "drop.h"
#include "object.h"

/* Of bpf_skb_set_tunnel_key(), Linux 6.4: GRE without a key. */
#define OVS_F_NO_TUNNEL_KEY	(1ULL << 4)

#define OVS_TUNNEL_OPTS			(OVS_TUNNEL_GENEVE_OPT | \
					 OVS_TUNNEL_VXLAN_OPT | \
					 OVS_TUNNEL_ERSPAN_OPT)

/* From a packet at its entry to its key. */
__noinline int ovs_tunnel_receive(struct ovs_ctx *ctx, struct ovs_pkt *pkt)
{
	struct bpf_tunnel_key from = {};
	struct ovs_key *key;
	__u8 proto = 0;
	__be16 src, dst;
	long len = 0;
	__u32 i;

	if (!pkt)
		return OVS_DROP_NO_STATE;
	key = &pkt->key;
#pragma unroll
	for (i = OVS_KEY_W(dp_hash); i < OVS_KEY_BASE; i++)
		key->w[i] = 0;
	pkt->cpu.dirty = 0;
	pkt->flags |= OVS_PKT_F_TUNNEL;
	if (!ctx_tunnel(ctx, &from, 0)) {
		proto = OVS_AF_INET;
		key->tun_ipv4_src = bpf_htonl(from.remote_ipv4);
		key->tun_ipv4_dst = bpf_htonl(from.local_ipv4);
	} else if (!ctx_tunnel(ctx, &from, BPF_F_TUNINFO_IPV6)) {
		proto = OVS_AF_INET6;
		__builtin_memcpy(key->tun_ipv6_src, from.remote_ipv6, 16);
		__builtin_memcpy(key->tun_ipv6_dst, from.local_ipv6, 16);
	} else {
		return 0;	/* somebody wrote it to the device */
	}
	pkt->cpu.dirty = OVS_DIRTY_META;
	key->tun_proto = proto;
	key->tun_id = bpf_cpu_to_be64(from.tunnel_id);
	key->tun_tos = from.tunnel_tos;
	key->tun_ttl = from.tunnel_ttl;
	key->tun_flags = from.tunnel_flags;
	ctx_tunnel_ports(ctx, &src, &dst);
	key->tun_tp_src = src;
	key->tun_tp_dst = dst;
	if (from.tunnel_flags & bpf_htons(OVS_TUNNEL_OPTS))
		len = ctx_tunnel_opts(ctx, key->tun_opts,
				      sizeof(key->tun_opts));
	if (len > 0)
		key->tun_opts_len = len;
	return 0;
}

/* OVS_HEADER_SET_TUNNEL: `n` words, which are in ovs_acts from `at` on. */
__noinline int ovs_set_tunnel(struct ovs_pkt *pkt, __u32 at, __u32 n)
{
	__u32 i;

	if (!pkt)
		return OVS_DROP_NO_STATE;
#pragma clang loop unroll(disable)
	for (i = 0; i < OVS_TUNNEL_WORDS && i < n; i++) {
		__u32 place = at + i;
		__u64 *word = bpf_map_lookup_elem(&ovs_acts, &place);

		if (!word)
			return OVS_DROP_BAD_INSN;
		pkt->tunnel.w[i] = *word;
	}
	pkt->flags |= OVS_PKT_F_TO_TUNNEL;
	return 0;
}

static __always_inline void ovs_tunnel_copy(struct ovs_tunnel *to,
					    const struct ovs_tunnel *from)
{
	__u32 i;

#pragma unroll
	for (i = 0; i < OVS_TUNNEL_BASE; i++)
		to->w[i] = from->w[i];
	if (!from->opts_len)
		return;
#pragma clang loop unroll(disable)
	for (i = OVS_TUNNEL_BASE; i < OVS_TUNNEL_WORDS; i++)
		to->w[i] = from->w[i];
}

/* The options, of the kind that the device has.  OVS_DROP_*. */
static __always_inline int ovs_tunnel_opts(struct ovs_ctx *ctx,
					   struct ovs_tunnel *tunnel,
					   __be16 kind)
{
	__u32 len = tunnel->opts_len, none = 0;
	long err = 0;

	if (tunnel->flags & kind && len) {
		/* All of them have whole words. */
		len = ((len >> 2) - 1 & 63) * 4 + 4;
		if (len > 252)
			return OVS_DROP_TUNNEL;
		err = ctx_tunnel_set_opts(ctx, tunnel->opts, len);
	} else if (kind == bpf_htons(OVS_TUNNEL_VXLAN_OPT)) {
		/* A device with group policies sends what it finds there
		 * (6.18). */
		err = ctx_tunnel_set_opts(ctx, &none, sizeof(none));
	}
	return err ? OVS_DROP_TUNNEL : 0;
}

/*
 * Tell the device of a port where a packet is to go that is sent to it next.
 * OVS_DROP_*: it cannot go there.
 */
__noinline int ovs_tunnel_send(struct ovs_ctx *ctx, struct ovs_pkt *pkt,
			       __u32 port_no)
{
	struct ovs_port *port = OVS_PORT(port_no);
	struct bpf_tunnel_key to = {};
	struct ovs_tunnel *tunnel;
	__u64 flags = 0;
	__be16 opts;

	if (!pkt || !port)
		return OVS_DROP_NO_STATE;
	if (!(pkt->flags & OVS_PKT_F_TO_TUNNEL))
		return OVS_DROP_TUNNEL;
	if (ctx_is_shared(ctx))
		return OVS_DROP_SHARED;
	tunnel = &pkt->tunnel;
	if (tunnel->tp_dst && tunnel->tp_dst != OVS_READ_ONCE(port->tunnel_dst))
		return OVS_DROP_TUNNEL;
	to.tunnel_id = bpf_be64_to_cpu(tunnel->id);
	to.tunnel_tos = tunnel->tos;
	to.tunnel_ttl = tunnel->ttl;
	if (tunnel->proto == OVS_AF_INET6) {
		flags |= BPF_F_TUNINFO_IPV6;
		__builtin_memcpy(to.remote_ipv6, tunnel->ipv6_dst, 16);
		__builtin_memcpy(to.local_ipv6, tunnel->ipv6_src, 16);
	} else {
		to.remote_ipv4 = bpf_ntohl(tunnel->ipv4_dst);
		to.local_ipv4 = bpf_ntohl(tunnel->ipv4_src);
	}
	if (!(tunnel->flags & bpf_htons(OVS_TUNNEL_CSUM)))
		flags |= BPF_F_ZERO_CSUM_TX;
	if (tunnel->flags & bpf_htons(OVS_TUNNEL_DONT_FRAGMENT))
		flags |= BPF_F_DONT_FRAGMENT;
	opts = OVS_READ_ONCE(port->tunnel_opts);
	if (!(tunnel->flags & bpf_htons(OVS_TUNNEL_KEY))) {
		/* Of those without UDP only ERSPAN has a key always. */
		if (cfg_tunnel_keyless)
			flags |= OVS_F_NO_TUNNEL_KEY;
		else if (!port->tunnel_dst && !opts)
			return OVS_DROP_TUNNEL;
	}
	if (ctx_tunnel_set(ctx, &to, flags))
		return OVS_DROP_TUNNEL;
	return opts ? ovs_tunnel_opts(ctx, tunnel, opts) : 0;
}

#endif /* OVS_TUNNEL_H */
