/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The entry stage: the program at the ingress hook of a bridge's ports.  It
 * is compiled at run time by bcc, with the bridge's number, the stage to go on
 * in and what else config.h has as constants, or as ovs_entry of the object.
 * So this file uses only what both have: no subprograms, no .rodata, helpers
 * that bcc knows, and maps and constants through macros, which the including
 * file defines:
 *
 *	OVS_LOOKUP(map, key)		the helper, for the names below
 *	OVS_TAIL_CALL(ctx, index)	into the bridge's program array
 *	OVS_MAP_CPU, _DEVS, _DPSTATS, _DROPS, _EXACT, _FLOW_STATS,
 *		_FLOWS
 *	OVS_PORT(port_no)		of struct ovs_ports, if OVS_PORT_IS()
 *	OVS_CFG_BRIDGE, _SHARED_STATS, _STAGE
 *
 * Of a frame of the common kinds whose flow the cache of exact matches knows
 * and that has one output, this program is all there is: such a packet needs
 * no state, nor does one that only gets new headers before it (stage ROUTE).
 * Of all others it makes the state and goes on in stage ACT, when the flow is
 * known, or in stage RX.
 *
 * What these find: a level of ovs_cpu claimed (ovs_cpu.level counts those in
 * use, the packet's state is pkt[level - 1]), and in that state key.w[0] (port
 * number, recirc_id 0), `bridge`, `parsed` and `exact`, and zero in slot,
 * recirc_depth, stale, drop, cutlen, family, flags, mru, line, list.copies,
 * list.calls and list.since; when it is not parsed, zero in w[1] and w[4], too, else what
 * ovs_parse() would fill in.  Everything else is either written by the later
 * stages before they read it or, as `cpu`, kept from packet to packet.
 * Every program that ends a packet's way gives the level back.
 */
#ifndef OVS_ENTRY_H
#define OVS_ENTRY_H

#include <linux/pkt_cls.h>

#include "abi.h"
#include "count.h"
#include "exact.h"
#include "frame.h"
#include "port.h"

static __always_inline int ovs_entry_drop(__u32 reason)
{
	__u32 i = OVS_CFG_BRIDGE * OVS_DROP_MAX + reason;
	__u64 *count = OVS_LOOKUP(OVS_MAP_DROPS, &i);

	if (count)
		*count += 1;
	return CTX_DROP;
}

/*
 * Whose port a device is.  ovs_devs knows, but its hash is the most expensive
 * thing in the entry; what it said last is kept, and holds while ovs_ports has
 * the device under that number.
 */
static __always_inline int ovs_entry_port(struct ovs_cpu *cpu, __u64 ifindex,
					  __u32 *port_no)
{
	struct ovs_dev *dev = &cpu->dev[ifindex & (OVS_DEV_CACHE - 1)];
	__u32 key = ifindex, *found;
	struct ovs_port *port;

	*port_no = dev->port_no;
	if (dev->ifindex == ifindex) {
		port = OVS_PORT(*port_no);
		if (OVS_PORT_IS(port) && port->ifindex == ifindex)
			return 1;
	}
	found = OVS_LOOKUP(OVS_MAP_DEVS, &key);
	if (!found)
		return 0;
	*port_no = *found;
	dev->ifindex = key;
	dev->port_no = *port_no;
	return 1;
}

/* The state of a packet that gets one, at the level that is free. */
static __always_inline struct ovs_pkt *
ovs_entry_state(struct ovs_cpu *cpu, __u64 port_no)
{
	__u64 level = cpu->level;
	struct ovs_pkt *pkt = &cpu->pkt[level & (OVS_LEVELS - 1)];

	cpu->level = level + 1;
	pkt->key.w[0] = port_no;
	pkt->bridge = OVS_CFG_BRIDGE;
	pkt->slot = 0;
	pkt->recirc_depth = 0;
	pkt->stale = 0;
	pkt->drop = 0;
	pkt->cutlen = 0;
	pkt->list.copies = 0;
	pkt->family = 0;
	pkt->flags = 0;
	pkt->list.since = 0;
	pkt->list.calls = 0;
	pkt->mru = 0;
	pkt->line = 0;
	pkt->exact = 0;
	return pkt;
}

/* What a connection left behind in the key. */
static __always_inline void ovs_entry_clean(struct ovs_pkt *pkt)
{
	int i;

#pragma unroll
	for (i = OVS_FRAME_ZERO; i < OVS_FRAME_CT_END; i++)
		pkt->key.w[i] = 0;
	pkt->cpu.dirty = 0;
}

/*
 * The device of a port that takes the frame as it is; 0 when that is not
 * sure, and stage RX is to see (act_output.h).  Nothing has been put in front
 * of this frame yet, and only one that is too long need be asked whether it is
 * to be cut: that is in another cache line.
 */
static __always_inline __u64 ovs_entry_dev(struct ovs_ctx *ctx,
					   __u64 port_no)
{
	struct ovs_port *port = OVS_PORT(port_no);
	__u64 flags, device;

	if (!OVS_PORT_IS(port))
		return 0;
	flags = OVS_READ_ONCE(port->flags);
	device = OVS_READ_ONCE(*(const __u64 *)port);
	if ((flags & (OVS_PORT_F_USED | OVS_PORT_F_L3 | OVS_PORT_F_TUNNEL)) !=
	    OVS_PORT_F_USED)
		return 0;
	if (flags & OVS_PORT_F_INTERNAL)
		ctx_keep(ctx);
	if (unlikely(device >> 32 &&
		     ctx_len(ctx) > (device >> 32) + ETH_HLEN) &&
	    !ctx_gso(ctx))
		return 0;
	return device << 32 >> 32;
}

/* What the other end of an internal port's pair, and no one else, keeps. */
static __always_inline void ovs_entry_restore(struct ovs_ctx *ctx,
					      __u32 port_no)
{
	struct ovs_port *port = OVS_PORT(port_no);

	if (OVS_PORT_IS(port) && port->flags & OVS_PORT_F_INTERNAL)
		ctx_restore(ctx);
}

/* Count what the cache of exact matches knew. */
static __always_inline void ovs_entry_count(struct ovs_ctx *ctx,
					    struct ovs_cpu *cpu,
					    const struct ovs_exact *e,
					    __u64 flags)
{
	__u32 bridge = OVS_CFG_BRIDGE;
	struct ovs_dp_stats *stats = OVS_LOOKUP(OVS_MAP_DPSTATS, &bridge);
	__u64 bytes = ctx_len(ctx);

	if (unlikely(ctx_vlan(ctx)))
		bytes += 4;
	if (stats)
		stats->exact++;
	ovs_count(ovs_now(cpu), e->stats, bytes, OVS_BE16(flags));
}

/*
 * The line of a frame, as far as that is of the kinds in the cache; negative
 * when it is not.  `*flags` become TCP's.
 */
static __always_inline __s64 ovs_entry_line(struct ovs_ctx *ctx, void *data,
					    void *end, __u64 port,
					    __u64 *flags)
{
	__u64 type;

	if (unlikely(data + OVS_EXACT_IP4 > end))
		return -1;
	type = OVS_AT16(data, 12);
	if (type == OVS_BE16(ETH_P_IP)) {
		if (!ovs_exact_l4(ctx, data, end, ETH_HLEN + 20,
				  OVS_AT8(data, ETH_HLEN + 9), flags))
			return -1;
		return ovs_exact_line(data, port, 0);
	}
	if (type != OVS_BE16(ETH_P_IPV6) || data + OVS_EXACT_IP6 > end ||
	    !ovs_exact_l4(ctx, data, end, ETH_HLEN + 40,
			  OVS_AT8(data, ETH_HLEN + 6), flags))
		return -1;
	return ovs_exact_line(data, port, 1);
}

/* Whether a line is the frame's. */
static __always_inline int ovs_entry_same(struct ovs_ctx *ctx,
					  const struct ovs_exact *e,
					  void *data, __u64 port, __u64 flags)
{
	__u64 diff = e->port ^ port;

	diff |= (e->flags ^ flags) & OVS_BE16(OVS_EXACT_FLAGS);
	if (OVS_AT16(data, 12) == OVS_BE16(ETH_P_IP))
		diff |= ovs_exact_diff(e, data, 0);
	else if (data + OVS_EXACT_IP6 <= ctx_end(ctx))
		diff |= ovs_exact_diff(e, data, 1);
	else
		return 0;
	if (unlikely(port & OVS_EXACT_ODD)) {
		diff |= e->tag ^ ovs_exact_tag(ctx);
		diff |= e->meta ^ ovs_exact_meta(ctx);
	}
	return !diff;
}

static __always_inline int ovs_entry_run(struct ovs_ctx *ctx)
{
	__u64 ifindex = ctx_ifindex(ctx), port, tcp_flags;
	__u32 zero = 0, port_no, line = ~0, id, known = 0;
	void *data, *end;
	struct ovs_exact *e;
	struct ovs_flow *flow;
	struct ovs_frame f;
	struct ovs_cpu *cpu;
	struct ovs_pkt *pkt;
	__s64 found;

	cpu = OVS_LOOKUP(OVS_MAP_CPU, &zero);
	if (!cpu)
		return ovs_entry_drop(OVS_DROP_NO_STATE);
	if (!ovs_entry_port(cpu, ifindex, &port_no))
		return ovs_entry_drop(OVS_DROP_UNKNOWN_PORT);
	if (unlikely(cpu->level >= OVS_MAX_NESTING))
		return ovs_entry_drop(OVS_DROP_NESTING);
	if (unlikely(ctx_kept(ctx)))
		ovs_entry_restore(ctx, port_no);

	port = ovs_exact_port(ctx, port_no, OVS_CFG_BRIDGE);
	if (OVS_CFG_STAGE != OVS_STAGE_RX)
		goto unknown;
	if (unlikely(cpu->exact_rest)) {
		cpu->exact_rest--;
		goto unknown;
	}
	data = ctx_data(ctx);
	end = ctx_end(ctx);
	found = ovs_entry_line(ctx, data, end, port, &tcp_flags);
	if (found < 0)
		goto unknown;
	line = found;
	e = OVS_LOOKUP(OVS_MAP_EXACT, &line);
	if (!e || !ovs_entry_same(ctx, e, data, port, tcp_flags))
		goto unknown;
	id = e->flow;
	flow = OVS_LOOKUP(OVS_MAP_FLOWS, &id);
	if (!flow || OVS_READ_ONCE(flow->gen) != e->gen)
		goto unknown;
	cpu->exact_hits++;
	if (likely(e->flags & (OVS_EXACT_OUTPUT | OVS_EXACT_ROUTE))) {
		ifindex = ovs_entry_dev(ctx, e->out);
		if (unlikely(!ifindex))
			goto unknown;
		ovs_entry_count(ctx, cpu, e, tcp_flags);
		if (likely(e->flags & OVS_EXACT_OUTPUT))
			return ctx_output(ctx, ifindex);
		cpu->route_first = e->new_first;
		cpu->route_second = e->new_second;
		cpu->route_ip = e->new_ip;
		cpu->route_dev = ifindex;
		cpu->route_bridge = OVS_CFG_BRIDGE;
		OVS_TAIL_CALL(ctx, OVS_STAGE_ROUTE);
		return ovs_entry_drop(OVS_DROP_TAIL_CALL);
	}
	pkt = ovs_entry_state(cpu, ovs_exact_port_no(e->port));
	if (unlikely(pkt->cpu.dirty == OVS_DIRTY_CT))
		ovs_entry_clean(pkt);
	if (likely(!pkt->cpu.dirty)) {
		/* Read behind `gen`: it may be newer, and is none the worse. */
		pkt->list.pc = OVS_READ_ONCE(flow->acts);
		pkt->list.sent = 0;
		pkt->list.next = e->flags & OVS_EXACT_CT ? OVS_STAGE_CT :
							   OVS_STAGE_ACT_OWN;
		pkt->line = line + 1;
		pkt->flow = id;
		ovs_entry_count(ctx, cpu, e, tcp_flags);
		known = 1;
	}
	goto parse;

unknown:
	pkt = ovs_entry_state(cpu, ovs_exact_port_no(port));
	pkt->exact = line + 1;
parse:
	if (OVS_CFG_STAGE == OVS_STAGE_RX && ovs_frame_parse(ctx, &f)) {
		ovs_frame_store(&f, pkt);
	} else {
		pkt->key.w[1] = 0;
		pkt->key.w[4] = 0;
		pkt->parsed = 0;
		pkt->exact = 0;
	}
	OVS_TAIL_CALL(ctx, known ? OVS_STAGE_ACT : OVS_CFG_STAGE);
	cpu->level--;
	return ovs_entry_drop(OVS_DROP_TAIL_CALL);
}

#endif /* OVS_ENTRY_H */
