# SPDX-License-Identifier: Apache-2.0
"""Packets that scapy builds, and values that actions set in them."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from lists import set_masked
from scapy.contrib.mpls import MPLS
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from dpif_bpf.abi import DropReason
from dpif_bpf.wire import uapi

A, B, C = ("02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c")
DATA = Raw(bytes(range(40)))

ETHERNET, IPV4 = uapi.OVS_KEY_ATTR_ETHERNET, uapi.OVS_KEY_ATTR_IPV4
IPV6, KEY_TCP = uapi.OVS_KEY_ATTR_IPV6, uapi.OVS_KEY_ATTR_TCP
KEY_UDP = uapi.OVS_KEY_ATTR_UDP
KEY_MPLS = uapi.OVS_KEY_ATTR_MPLS
LSE = bytes.fromhex("00003b40")
NEW = bytes.fromhex("02000000000c02000000000b")
ONES4, ONES16 = b"\xff" * 4, b"\xff" * 16


def ether(**fields: Any) -> Packet:
    return Ether(**{"dst": B, "src": A, **fields})


def ipv4_value(src: str = "0.0.0.0", dst: str = "0.0.0.0", tos: int = 0,
               ttl: int = 0) -> bytes:
    """struct ovs_key_ipv4."""
    return (ip_address(src).packed + ip_address(dst).packed
            + bytes((0, tos, ttl, 0)))


def ipv6_value(src: bytes = bytes(16), dst: bytes = bytes(16),
               label: int = 0, tclass: int = 0, hlimit: int = 0) -> bytes:
    """struct ovs_key_ipv6."""
    return (src + dst + label.to_bytes(4, "big")
            + bytes((0, tclass, hlimit, 0)))


SET_SRC4 = set_masked(IPV4, ipv4_value(src="10.9.8.7"), ONES4 + bytes(8))
SET_DST4 = set_masked(IPV4, ipv4_value(dst="10.9.8.7"),
                      bytes(4) + ONES4 + bytes(4))
V6 = ip_address("2001:db8::99").packed
SET_DST6 = set_masked(IPV6, ipv6_value(dst=V6), bytes(16) + ONES16
                      + bytes(8))
SET_SRC6 = set_masked(IPV6, ipv6_value(src=V6), ONES16 + bytes(24))


def mpls(label: int, **fields: int) -> Packet:
    return MPLS(label=label, **fields)


def ports(src: int, dst: int) -> bytes:
    return src.to_bytes(2, "big") + dst.to_bytes(2, "big")


def tcp4(**fields: Any) -> Packet:
    return (ether() / IP(**{"src": "192.0.2.1", "dst": "192.0.2.2",
                            **fields})
            / TCP(sport=1000, dport=2000, flags="S") / DATA)


def udp4(**fields: Any) -> Packet:
    return (ether() / IP(**{"src": "192.0.2.1", "dst": "192.0.2.2",
                            **fields}) / UDP(sport=1000, dport=2000) / DATA)


def udp4_zero(**fields: Any) -> Packet:
    packet = udp4(**fields)
    packet[UDP].chksum = 0
    return packet


def options4(**fields: Any) -> Packet:
    packet = tcp4(**fields)
    packet[IP].options = b"\x01" * 8
    return packet


def tcp6(**fields: Any) -> Packet:
    return (ether() / IPv6(**{"src": "2001:db8::1", "dst": "2001:db8::2",
                              **fields})
            / TCP(sport=1000, dport=2000) / DATA)


def udp6(**fields: Any) -> Packet:
    return (ether() / IPv6(**{"src": "2001:db8::1", "dst": "2001:db8::2",
                              **fields})
            / IPv6ExtHdrHopByHop() / UDP(sport=1000, dport=2000) / DATA)


def ping6(**fields: Any) -> Packet:
    return (ether() / IPv6(**{"src": "2001:db8::1", "dst": "2001:db8::2",
                              **fields}) / ICMPv6EchoRequest(data=b"hello"))


def fixed(packet: Packet) -> Packet:
    """The packet with its checksums as numbers, not to be computed again."""
    return Ether(bytes(packet))


def tagged(*tags: Packet) -> Packet:
    packet = ether()
    for tag in tags:
        packet = packet / tag
    return packet / IP(src="192.0.2.1", dst="192.0.2.2") / UDP() / DATA


@dataclass(frozen=True, slots=True)
class Case:
    """One case.

    :param outputs: what is expected to go out, (port, packet)
    :param upcalls: how many upcalls of userspace actions are expected
    """

    name: str
    packet: Packet
    actions: bytes
    outputs: tuple[tuple[int, Packet], ...] = ()
    drop: DropReason = DropReason.NONE
    upcalls: int = 0
