/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The transport: netlink sockets of two private protocol numbers, carried to
 * ovs-bpfd over a Unix socket.  transport.c says how.
 */
#ifndef DPIF_BPF_TRANSPORT_H
#define DPIF_BPF_TRANSPORT_H

#include <stdbool.h>
#include <stdint.h>

/*
 * socket(AF_NETLINK, SOCK_RAW, …) protocols that the transport serves.  Both
 * are free in the kernel and below MAX_LINKS, which bounds OVS's socket pools.
 */
#define DPIF_BPF_NETLINK_GENERIC	31
#define DPIF_BPF_NETLINK_NETFILTER	30

/* The generic netlink families have fixed numbers, OVS_DATAPATH_FAMILY's first,
 * then vport, flow, packet, meter, ct_limit. */
#define DPIF_BPF_FIRST_FAMILY		0x20

/*
 * A subsystem of NETLINK_NETFILTER that the kernel has not: what is a sysctl
 * there.  Its message 0 has CTA_STATS_GLOBAL_MAX_ENTRIES, the connections that
 * there may be.
 */
#define DPIF_BPF_NFNL_SUBSYS		0x80
#define DPIF_BPF_MSG_CT_SET_MAX		0

/* First message on each connection, and again when memberships change. */
#define DPIF_BPF_HELLO			0x0e	/* nlmsg_type */
#define DPIF_BPF_VERSION		1

struct dpif_bpf_hello {
	uint32_t version;	/* DPIF_BPF_VERSION */
	uint32_t protocol;	/* NETLINK_GENERIC or NETLINK_NETFILTER */
	uint32_t port_id;	/* nonzero, kept over reconnects */
	uint32_t groups;	/* bit n - 1: member of multicast group n */
};

/* Socket path for when the environment does not name one. */
void dpif_bpf_transport_set_path(const char *path);

/*
 * Calls 'cb' from the transport's own thread: with false when the provider
 * turns out to be away, with true after connections were made anew.
 */
void dpif_bpf_transport_set_notify(void (*cb)(bool here));

/* Where the provider is looked for. */
const char *dpif_bpf_transport_path(void);

/* Has there been a provider, as far as is known without asking it? */
bool dpif_bpf_transport_seen(void);

/*
 * Takes (reads and clears) the condition that recvmsg() on 'fd' would report
 * as ENOBUFS: events may have been lost over a reconnect.
 */
bool dpif_bpf_transport_lost(int fd);

#endif
