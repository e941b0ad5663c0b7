/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A second instance of OVS's lib/netlink-conntrack.c, whose netlink sockets
 * lead to ovs-bpfd.  Its functions keep their names and are hidden: within the
 * plugin, dpif.c finds these, and everything else OVS's.
 */
#include <config.h>

#include "netlink-conntrack.h"
#include "netlink-protocol.h"
#include "netlink-socket.h"

#include "transport.h"

#undef NETLINK_NETFILTER
#define NETLINK_NETFILTER	DPIF_BPF_NETLINK_NETFILTER

#include "netlink-conntrack.inc"
