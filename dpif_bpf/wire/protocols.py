# SPDX-License-Identifier: Apache-2.0
"""Protocol numbers, as <linux/if_ether.h> and <linux/in.h> name them.

ETH_P_802_2 stands for a frame without an Ethernet type, whose length is below
ETH_P_802_3_MIN.
"""

from __future__ import annotations

ETH_P_802_2 = 0x0004
ETH_P_802_3_MIN = 0x0600
ETH_P_IP = 0x0800
ETH_P_ARP = 0x0806
ETH_P_TEB = 0x6558
ETH_P_RARP = 0x8035
ETH_P_8021Q = 0x8100
ETH_P_IPV6 = 0x86dd
ETH_P_MPLS_UC = 0x8847
ETH_P_MPLS_MC = 0x8848
ETH_P_8021AD = 0x88a8
ETH_P_NSH = 0x894f

IPPROTO_ICMP = 1
IPPROTO_IPIP = 4
IPPROTO_TCP = 6
IPPROTO_UDP = 17
IPPROTO_DCCP = 33
IPPROTO_IPV6 = 41
IPPROTO_FRAGMENT = 44
IPPROTO_GRE = 47
IPPROTO_ICMPV6 = 58
IPPROTO_SCTP = 132
IPPROTO_UDPLITE = 136
IPPROTO_RAW = 255
