/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * The entry stage: the program at the ingress hook of a bridge's ports.  It
 * is compiled at run time by bcc, with the bridge's number and the stage to go
 * on in as constants, or as ovs_entry of the object.  So this file uses only
 * what both have: no subprograms, no .rodata, and maps through macros, which
 * the including file defines:
 *
 *	OVS_LOOKUP(map, key)		the helper, for the names below
 *	OVS_TAIL_CALL(skb, index)	into the bridge's program array
 *	OVS_MAP_CPU, OVS_MAP_DEVS, OVS_MAP_PORTS, OVS_MAP_DROPS
 *
 * What stage RX finds: a level of ovs_cpu claimed (ovs_cpu.level counts those
 * in use, the packet's state is pkt[level - 1]), and in that state key.w[0]
 * (port number, recirc_id 0), zero in w[1] and w[4], `bridge`, and zero in
 * exec_slot, recirc_depth, stale and drop.  Everything else is either written
 * by the later stages before they read it, or, like `dirty`, kept from packet
 * to packet.
 * Every program that ends a packet's way gives the level back.
 */
#ifndef OVS_ENTRY_H
#define OVS_ENTRY_H

#include <linux/pkt_cls.h>

#include "abi.h"

static __attribute__((always_inline)) int
ovs_entry_drop(__u32 bridge, __u32 reason)
{
	__u32 i = bridge * OVS_DROP_MAX + reason;
	__u64 *count = OVS_LOOKUP(OVS_MAP_DROPS, &i);

	if (count)
		*count += 1;
	return TC_ACT_SHOT;
}

/*
 * Whose port a device is.  ovs_devs knows, but its hash is the dearest thing
 * in the entry; what it said last is kept, and holds while ovs_ports has the
 * device under that number.
 */
static __attribute__((always_inline)) int
ovs_entry_port(struct ovs_cpu *cpu, __u32 ifindex, __u32 *port_no)
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

static __attribute__((always_inline)) int
ovs_entry_run(struct __sk_buff *skb, __u32 bridge, __u32 stage)
{
	__u32 zero = 0, ifindex = skb->ifindex, level, port_no;
	struct ovs_cpu *cpu;
	struct ovs_pkt *pkt;

	cpu = OVS_LOOKUP(OVS_MAP_CPU, &zero);
	if (!cpu)
		return ovs_entry_drop(bridge, OVS_DROP_NO_STATE);
	if (!ovs_entry_port(cpu, ifindex, &port_no))
		return ovs_entry_drop(bridge, OVS_DROP_UNKNOWN_PORT);
	level = cpu->level;
	if (level >= OVS_MAX_NESTING)
		return ovs_entry_drop(bridge, OVS_DROP_NESTING);

	cpu->level = level + 1;
	pkt = &cpu->pkt[level & (OVS_LEVELS - 1)];
	pkt->key.in_port = port_no;
	pkt->key.recirc_id = 0;
	pkt->key.w[1] = 0;
	pkt->key.w[4] = 0;
	pkt->bridge = bridge;
	pkt->exec_slot = 0;
	pkt->recirc_depth = 0;
	pkt->stale = 0;
	pkt->drop = 0;

	OVS_TAIL_CALL(skb, stage);
	cpu->level = level;
	return ovs_entry_drop(bridge, OVS_DROP_TAIL_CALL);
}

#endif /* OVS_ENTRY_H */
