/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/*
 * Every structure and constant that the programs share with the provider, by
 * topic.  dpif_bpf/abi.py mirrors them; tests/unit/test_abi.py compares it with
 * what a C compiler makes of this file.
 *
 * Byte order: fields that come from packets keep network order, everything
 * else is in host order.
 */
#ifndef OVS_ABI_H
#define OVS_ABI_H

#define OVS_ABI_VERSION		4

#include "abi_classifier.h"	/* the flow table, and the caches before it */
#include "abi_insn.h"		/* what actions are compiled into */
#include "abi_key.h"		/* the flow key */
#include "abi_meter.h"
#include "abi_pkt.h"		/* a packet in flight on a CPU */
#include "abi_port.h"		/* ports, bridges */
#include "abi_slot.h"		/* packets that enter at the inject device */
#include "abi_stats.h"		/* what is counted, reasons of drops */
#include "abi_upcall.h"		/* packets for user space */

#endif /* OVS_ABI_H */
