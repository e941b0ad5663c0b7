/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* A port of ovs_ports as it is at one moment: the provider may write to it. */
#ifndef OVS_PORT_H
#define OVS_PORT_H

#include "abi.h"
#include "ctx_base.h"

struct ovs_port_now {
	__u32 ifindex;		/* 0: none, whatever else is said */
	__u32 mtu;
	__u8 flags;		/* OVS_PORT_F_* */
};

/* Each of struct ovs_port's words is loaded once, the flags first. */
static __always_inline struct ovs_port_now
ovs_port_now(const struct ovs_port *port)
{
	struct ovs_port_now now = { .flags = OVS_READ_ONCE(port->flags) };
	__u64 device = OVS_READ_ONCE(*(const __u64 *)port);

	if (now.flags & OVS_PORT_F_USED)
		now.ifindex = device;
	now.mtu = device >> 32;
	return now;
}

#endif /* OVS_PORT_H */
