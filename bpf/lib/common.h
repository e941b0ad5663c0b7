/* SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0 */
/* What every header of the datapath stands on. */
#ifndef OVS_COMMON_H
#define OVS_COMMON_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/pkt_cls.h>

#include "kern.h"
#include "abi.h"
#include "ctx_base.h"

/* The word of the key that a field is in. */
#define OVS_KEY_W(field) (__builtin_offsetof(struct ovs_key, field) / 8)

#define VLAN_HLEN	4
#define VLAN_CFI_MASK	0x1000		/* in a key: a tag is present */

/* OVS_PACKET_CMD_* and enum ovs_frag_type of <linux/openvswitch.h>. */
#define OVS_PACKET_CMD_MISS	1
#define OVS_PACKET_CMD_ACTION	2
#define OVS_FRAG_TYPE_NONE	0
#define OVS_FRAG_TYPE_FIRST	1
#define OVS_FRAG_TYPE_LATER	2

static __always_inline int ovs_is_vlan(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) ||
	       type == bpf_htons(ETH_P_8021AD);
}

#endif /* OVS_COMMON_H */
