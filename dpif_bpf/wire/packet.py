# SPDX-License-Identifier: Apache-2.0
"""Packets between the programs, the kernel's packet sockets and the peers.

Inside the datapath a packet can have an unfinished checksum, a VLAN tag beside
it and the size of many.  Peers are given what would be on the wire.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Sequence
from struct import Struct

from dpif_bpf.abi import OVS_CSUM_PARTIAL, OVS_SKB_GSO_SCTP
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.checksum import finish_partial
from dpif_bpf.wire.gso import segment
from dpif_bpf.wire.layers import find_layers, pseudo_sum
from dpif_bpf.wire.protocols import IPPROTO_TCP
from dpif_bpf.wire.sctp import sctp_segments

VIRTIO_NET_HDR = Struct("=BBHHHH")
"""flags, gso_type, hdr_len, gso_size, csum_start, csum_offset:
struct virtio_net_hdr of <linux/virtio_net.h>, in host order, as packet(7)
sockets with PACKET_VNET_HDR take it."""

VNET_HDR_NONE = bytes(VIRTIO_NET_HDR.size)
"""Nothing to be done: checksums are complete, the packet goes as it is."""

ETH_HLEN = 14
_NEEDS_CSUM = 1
_GSO_TCPV4 = 1
_GSO_TCPV6 = 4
_GSO_UDP_L4 = 5
_GSO_ECN = 0x80
_TCP_CWR = 0x80


def insert_vlan(packet: bytes, tpid: bytes, tci: bytes) -> bytes:
    """The packet with one more tag, outside of those that it has.

    :param tpid: two bytes, network order
    :param tci: two bytes, network order
    """
    return packet[:12] + tpid + tci + packet[12:]


def upcall_packets(data: memoryview, ip_summed: int, csum_start: int,
                   csum_offset: int, gso_size: int, gso_type: int,
                   vlan_tpid: bytes, vlan_tci: bytes,
                   layer3: bool = False,
                   parts: Sequence[int] = ()) -> Iterable[bytes]:
    """The packets that a record of ovs_upcalls stands for.

    More than one when it is a GSO packet: ovs-vswitchd is given segments, as
    by queue_gso_packets() of the kernel.  Each of them is made when it is
    asked for, as a sender can have a packet cut into as many as it has bytes.

    :param data: the packet; the other arguments are the members of struct
        ovs_upcall in bpf/lib/abi.h of these names
    :param layer3: the Ethernet header before it is no part of the packet
    :param parts: struct ovs_upcall_parts, the lengths that are not 0
    :raises RequestError: EINVAL when the packet is not what they say,
        EOPNOTSUPP for a GSO packet that cannot be cut; perhaps not before
        the iteration
    """
    if len(data) < ETH_HLEN:
        raise RequestError(errno.EINVAL, f"a packet of {len(data)} bytes")
    partial = ip_summed == OVS_CSUM_PARTIAL
    packets: Iterable[bytes]
    if gso_size and gso_type & OVS_SKB_GSO_SCTP:
        packets = sctp_segments(data, parts, partial)
    elif gso_size:
        packets = segment(data, gso_size, gso_type, csum_start,
                          zero_check=not partial)
    elif partial:
        whole = bytearray(data)
        finish_partial(whole, csum_start, csum_offset)
        packets = [bytes(whole)]
    else:
        packets = [bytes(data)]
    if layer3:
        return (packet[ETH_HLEN:] for packet in packets)
    if vlan_tpid == b"\0\0":
        return packets
    return (insert_vlan(packet, vlan_tpid, vlan_tci) for packet in packets)


def as_gso(packet: bytes, size: int) -> tuple[bytes, bytes]:
    """Makes a GSO packet of a large TCP or UDP packet.

    For packet sockets, which refuse what is longer than the device's MTU
    unless the device is to cut it.

    :param size: payload bytes of each packet that comes of it
    :returns: struct virtio_net_hdr, and the packet with the sum of the pseudo
        header in place of its checksum
    :raises RequestError: EINVAL when it is neither TCP nor UDP over IP
    """
    at = find_layers(packet)
    if at.proto != IPPROTO_TCP:
        kind = _GSO_UDP_L4
    elif at.version == 4:
        kind = _GSO_TCPV4
    else:
        kind = _GSO_TCPV6
    if at.proto == IPPROTO_TCP and packet[at.l4 + 13] & _TCP_CWR:
        kind |= _GSO_ECN
    partial = bytearray(packet)
    partial[at.check:at.check + 2] = pseudo_sum(
        packet, at, len(packet) - at.l4).to_bytes(2, "big")
    header = VIRTIO_NET_HDR.pack(_NEEDS_CSUM, kind, at.payload, size, at.l4,
                                 at.check - at.l4)
    return header, bytes(partial)
