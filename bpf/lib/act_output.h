/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* Output to a port, with the checks of the kernel's ovs_vport_send(). */
#ifndef OVS_ACT_OUTPUT_H
#define OVS_ACT_OUTPUT_H

#include "ctx.h"
#include "drop.h"
#include "object.h"
#include "port.h"
#include "tunnel.h"
#include "upcall.h"

/* A reason that is none: the packet goes out in fragments. */
#define OVS_OUTPUT_SPLIT	255

/*
 * A GSO packet with headers that OVS_OP_HEADER pushed.  Tags are in front
 * as well, but devices are told of them.
 */
static __always_inline int ovs_gso_covered(struct ovs_ctx *ctx)
{
	return ctx_mac_len(ctx) > ETH_HLEN &&
	       !ovs_is_vlan(ctx_protocol(ctx));
}

/*
 * Whether a device without Ethernet headers is sent a packet without one.
 * ctx_output() takes off all that is before the network header.
 */
static __always_inline int ovs_is_for_l3(struct ovs_ctx *ctx,
					 const struct ovs_pkt *pkt,
					 __u8 flags)
{
	return pkt->key.mac_proto != OVS_MAC_PROTO_ETHERNET &&
	       flags & OVS_PORT_F_L3 &&
	       ctx_mac_len(ctx) == ETH_HLEN;
}

/* Packets and ports that are not just Ethernet.  OVS_DROP_*. */
static __always_inline __u32 ovs_output_odd(struct ovs_ctx *ctx,
					    struct ovs_pkt *pkt,
					    __u32 port_no, __u8 flags)
{
	if ((pkt->key.mac_proto != OVS_MAC_PROTO_ETHERNET ||
	     flags & OVS_PORT_F_L3) && !ovs_is_for_l3(ctx, pkt, flags))
		return OVS_DROP_LAYER3;
	return flags & OVS_PORT_F_TUNNEL ?
	       ovs_tunnel_send(ctx, pkt, port_no) : 0;
}

/* The device to send to; 0 with `*reason` set when the packet cannot go. */
static __always_inline __u32 ovs_output_dev(struct ovs_ctx *ctx,
					    struct ovs_pkt *pkt,
					    __u32 port_no, __u32 *reason)
{
	struct ovs_port *port = OVS_PORT(port_no);
	struct ovs_port_now now;

	*reason = OVS_DROP_NO_PORT;
	if (!port)
		return 0;
	now = ovs_port_now(port);
	if (!now.ifindex)
		return 0;
	if (unlikely(pkt->key.mac_proto != OVS_MAC_PROTO_ETHERNET ||
		     now.flags & (OVS_PORT_F_L3 | OVS_PORT_F_TUNNEL))) {
		*reason = ovs_output_odd(ctx, pkt, port_no, now.flags);
		if (*reason)
			return 0;
	}
	*reason = OVS_DROP_MTU;
	if (unlikely(pkt->mru) && ctx_mtu_len(ctx) > pkt->mru &&
	    !(now.mtu && pkt->mru > now.mtu)) {
		*reason = OVS_OUTPUT_SPLIT;
		return 0;
	}
	if (unlikely(now.mtu && ctx_mtu_len(ctx) > now.mtu && !ctx_gso(ctx)))
		return 0;
	*reason = OVS_DROP_GSO;
	if (!(now.flags & OVS_PORT_F_VETH) &&
	    unlikely(ctx_gso(ctx) && ovs_gso_covered(ctx)))
		return 0;
	if (now.flags & OVS_PORT_F_INTERNAL)
		ctx_keep(ctx);
	return now.ifindex;
}

/*
 * Have the provider send a packet that was in fragments in fragments again.
 * OVS_DROP_*.
 */
static __noinline __u32 ovs_output_split(struct ovs_ctx *ctx,
					 struct ovs_pkt *pkt, __u32 port_no)
{
	pkt->upcall_cmd = OVS_UPCALL_SPLIT;
	pkt->upcall_desc = port_no;
	return ovs_upcall(ctx, pkt);
}

/*
 * Send a copy, which is not truncated (a block of OVS_OP_CLONE does that);
 * when it cannot go, that is counted and the list goes on.
 */
static __always_inline void ovs_output(struct ovs_ctx *ctx,
				       struct ovs_pkt *pkt, __u32 port_no)
{
	__u32 ifindex, reason;

	pkt->list.sent = 1;
	ifindex = ovs_output_dev(ctx, pkt, port_no, &reason);
	if (ifindex) {
		if (ctx_output_copy(ctx, ifindex) >= 0)
			return;
		reason = OVS_DROP_REDIRECT;
	}
	if (unlikely(reason == OVS_OUTPUT_SPLIT)) {
		reason = ovs_output_split(ctx, pkt, port_no);
		if (!reason)
			return;
	}
	ovs_count_drop(pkt->bridge, reason);
}

/* Cut off what OVS_OP_TRUNC says; the Ethernet header, or its room, stays. */
static __always_inline __u32 ovs_trim(struct ovs_ctx *ctx,
				      struct ovs_pkt *pkt)
{
	__u32 len = ctx_len(ctx), keep = ETH_HLEN;

	if (len > pkt->cutlen && len - pkt->cutlen > keep)
		keep = len - pkt->cutlen;
	return ctx_trim(ctx, keep) ? OVS_DROP_TRUNC : 0;
}

/* Send a packet that is whole, for the program to return. */
static __always_inline int ovs_output_only(struct ovs_ctx *ctx,
					   struct ovs_cpu *cpu,
					   struct ovs_pkt *pkt, __u32 port_no)
{
	__u32 reason, ifindex = ovs_output_dev(ctx, pkt, port_no, &reason);

	if (unlikely(!ifindex))
		return ovs_drop(cpu, pkt, reason);
	return ovs_exit(cpu, pkt, ctx_output(ctx, ifindex));
}

/* Send the packet itself; `own`: it is not shared. */
static __always_inline void ovs_output_last(struct ovs_ctx *ctx,
					    struct ovs_pkt *pkt, __u32 port_no,
					    const int own)
{
	__u32 ifindex, reason;

	if (unlikely(pkt->cutlen)) {
		reason = own ? ovs_trim(ctx, pkt) : OVS_DROP_SHARED;
		if (reason) {
			pkt->drop = reason;
			return;
		}
	}
	ifindex = ovs_output_dev(ctx, pkt, port_no, &reason);
	if (unlikely(!ifindex)) {
		if (reason == OVS_OUTPUT_SPLIT)
			reason = ovs_output_split(ctx, pkt, port_no);
		pkt->drop = reason;
		return;
	}
	pkt->drop = OVS_DROP_NONE;
	pkt->verdict = ctx_output(ctx, ifindex);
}

#endif /* OVS_ACT_OUTPUT_H */
