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
 *	OVS_MAP_ACTS, _CPU, _DEVS, _DPSTATS, _DROPS, _EXACT, _FLOW_STATS,
 *		_FLOWS, _PORTS
 *	OVS_CFG_MAX_FLOWS, _SHARED_STATS, _STRIPES
 *
 * Of a frame of the common kinds whose flow the cache of exact matches knows
 * and that has one output, this program is all there is: such a packet needs
 * no state.  Of all others it makes the state and goes on in stage ACT, when
 * the flow is known, or in stage RX.
 *
 * What these find: a level of ovs_cpu claimed (ovs_cpu.level counts those in
 * use, the packet's state is pkt[level - 1]), and in that state key.w[0] (port
 * number, recirc_id 0), `bridge`, `parsed` and `exact`, and zero in slot,
 * recirc_depth, stale, drop, cutlen, family, flags, mru, list.copies,
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

static __always_inline int ovs_entry_drop(__u32 bridge, __u32 reason)
{
	__u32 i = bridge * OVS_DROP_MAX + reason;
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
static __always_inline int ovs_entry_port(struct ovs_cpu *cpu, __u32 ifindex,
					  __u32 *port_no)
{
	struct ovs_dev *dev = &cpu->dev[ifindex & (OVS_DEV_CACHE - 1)];
	struct ovs_port *port;
	__u32 *found;

	*port_no = dev->port_no;
	if (dev->ifindex == ifindex) {
		port = OVS_LOOKUP(OVS_MAP_PORTS, port_no);
		if (port && port->ifindex == ifindex)
			return 1;
	}
	found = OVS_LOOKUP(OVS_MAP_DEVS, &ifindex);
	if (!found)
		return 0;
	*port_no = *found;
	dev->ifindex = ifindex;
	dev->port_no = *port_no;
	return 1;
}

/* The state of a packet that gets one, at the level that is free. */
static __always_inline struct ovs_pkt *
ovs_entry_state(struct ovs_cpu *cpu, __u32 level, __u32 bridge, __u32 port_no)
{
	struct ovs_pkt *pkt = &cpu->pkt[level & (OVS_LEVELS - 1)];

	cpu->level = level + 1;
	pkt->key.w[0] = port_no;
	pkt->bridge = bridge;
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
static __always_inline __u32 ovs_entry_dev(struct ovs_ctx *ctx,
					   __u32 port_no)
{
	struct ovs_port *port = OVS_LOOKUP(OVS_MAP_PORTS, &port_no);
	__u32 len = ctx_len(ctx) - ETH_HLEN;
	struct ovs_port_now now;

	if (!port)
		return 0;
	now = ovs_port_now(port);
	if (now.flags & OVS_PORT_F_L3)
		return 0;
	if (now.flags & OVS_PORT_F_INTERNAL)
		ctx_keep(ctx);
	if (unlikely(now.mtu && len > now.mtu) && !ctx_gso(ctx))
		return 0;
	return now.ifindex;
}

/* What the other end of an internal port's pair, and no one else, keeps. */
static __always_inline void ovs_entry_restore(struct ovs_ctx *ctx,
					      __u32 port_no)
{
	struct ovs_port *port = OVS_LOOKUP(OVS_MAP_PORTS, &port_no);

	if (port && port->flags & OVS_PORT_F_INTERNAL)
		ctx_restore(ctx);
}

/* Count what the cache of exact matches knew. */
static __always_inline void ovs_entry_count(struct ovs_ctx *ctx,
					    struct ovs_cpu *cpu, __u32 bridge,
					    __u32 flow,
					    const struct ovs_frame *f)
{
	struct ovs_dp_stats *stats = OVS_LOOKUP(OVS_MAP_DPSTATS, &bridge);
	__u32 bytes = ctx_len(ctx);

	if (ctx_vlan(ctx))
		bytes += 4;
	if (stats)
		stats->exact++;
	ovs_count(cpu, flow, bytes, f->tcp_flags);
}

static __always_inline int ovs_entry_run(struct ovs_ctx *ctx, __u32 bridge,
					 __u32 stage)
{
	__u32 zero = 0, ifindex = ctx_ifindex(ctx), level, port_no, line = 0, id;
	struct ovs_frame f;
	struct ovs_exact *e;
	struct ovs_insn *insn;
	struct ovs_flow *flow;
	struct ovs_cpu *cpu;
	struct ovs_pkt *pkt;
	__u32 parsed, pc;

	cpu = OVS_LOOKUP(OVS_MAP_CPU, &zero);
	if (!cpu)
		return ovs_entry_drop(bridge, OVS_DROP_NO_STATE);
	if (!ovs_entry_port(cpu, ifindex, &port_no))
		return ovs_entry_drop(bridge, OVS_DROP_UNKNOWN_PORT);
	level = cpu->level;
	if (level >= OVS_MAX_NESTING)
		return ovs_entry_drop(bridge, OVS_DROP_NESTING);
	if (ctx_kept(ctx))
		ovs_entry_restore(ctx, port_no);

	parsed = stage == OVS_STAGE_RX && ovs_frame_parse(ctx, &f);
	if (!parsed)
		goto state;
	if (unlikely(cpu->exact_rest)) {
		cpu->exact_rest--;
		goto state;
	}
	line = ovs_exact_line(&f, port_no);
	e = OVS_LOOKUP(OVS_MAP_EXACT, &line);
	line++;
	if (!e || !ovs_exact_same(e, &f, ovs_exact_port(port_no, bridge)))
		goto state;
	id = e->flow;
	flow = OVS_LOOKUP(OVS_MAP_FLOWS, &id);
	if (!flow || OVS_READ_ONCE(flow->stamp) != e->stamp)
		goto state;
	pc = flow->acts;
	insn = OVS_LOOKUP(OVS_MAP_ACTS, &pc);
	if (!insn)
		goto state;
	cpu->exact_hits++;
	if (likely(insn->op == OVS_OP_OUTPUT_LAST)) {
		ifindex = ovs_entry_dev(ctx, insn->imm);
		if (unlikely(!ifindex))
			goto state;
		ovs_entry_count(ctx, cpu, bridge, id, &f);
		return ctx_output(ctx, ifindex);
	}
	pkt = ovs_entry_state(cpu, level, bridge, port_no);
	ovs_frame_store(&f, pkt);
	if (unlikely(pkt->cpu.dirty)) {
		if (pkt->cpu.dirty != OVS_DIRTY_CT)
			goto call;
		ovs_entry_clean(pkt);
	}
	ovs_entry_count(ctx, cpu, bridge, id, &f);
	pkt->flow = id;
	pkt->list.pc = pc;
	pkt->list.sent = 0;
	stage = OVS_STAGE_ACT;
	goto call;

state:
	pkt = ovs_entry_state(cpu, level, bridge, port_no);
	pkt->exact = line;
	if (parsed) {
		ovs_frame_store(&f, pkt);
	} else {
		pkt->key.w[1] = 0;
		pkt->key.w[4] = 0;
		pkt->parsed = 0;
	}
call:
	OVS_TAIL_CALL(ctx, stage);
	cpu->level = level;
	return ovs_entry_drop(bridge, OVS_DROP_TAIL_CALL);
}

#endif /* OVS_ENTRY_H */
