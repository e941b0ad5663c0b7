/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* The part of abi.h that is about ports and bridges. */
#ifndef OVS_ABI_PORT_H
#define OVS_ABI_PORT_H

#include <linux/types.h>

#define OVS_MAX_PORTS		65536	/* DP_MAX_PORTS + 1 */
#define OVS_MAX_BRIDGES		1024	/* 0: ports that no bridge owns */

/*
 * Of a number in ovs_ports: written by the provider, read by the programs.  Two words
 * that are stored one by one, the second one last when a port comes and first
 * when it goes.  It may change at any time, so that each is loaded once.
 */
#define OVS_PORT_F_USED		1
#define OVS_PORT_F_INTERNAL	2	/* ifindex is the hidden end's */
#define OVS_PORT_F_L3		4	/* carries no Ethernet header */
#define OVS_PORT_F_VETH		8	/* hands GSO packets on as they are */
#define OVS_PORT_F_TUNNEL	16	/* each packet says where it is to go */
struct ovs_port {
	__u32 ifindex;		/* where packets of this port are sent */
	__u32 mtu;		/* largest layer-3 packet; 0: no limit */
	__u16 bridge;
	__u8 flags;		/* OVS_PORT_F_* */
	__u8 pad;
	__be16 tunnel_dst;	/* its port of UDP; 0: none */
	__be16 tunnel_opts;	/* OVS_TUNNEL_*_OPT that it has; 0: none */
};

/* The only element of ovs_ports, so that no index is looked up. */
struct ovs_ports {
	struct ovs_port p[OVS_MAX_PORTS];
};

_Static_assert(sizeof(struct ovs_port) == 16, "ovs_port");

#endif /* OVS_ABI_PORT_H */
