# SPDX-License-Identifier: Apache-2.0
"""OVS_PACKET_CMD_EXECUTE: a packet of a peer runs through actions.

As ovs_packet_cmd_execute() of Linux net/openvswitch/datapath.c: metadata
come from the request's key, everything else from the packet itself.  The
actions run where all actions run, in the programs; a reply says that they
were valid and that the packet is on its way.
"""

from __future__ import annotations

import errno
from dataclasses import replace

from dpif_bpf import abi
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.extract import is_neighbour_discovery, packet_facts
from dpif_bpf.wire.facts import MAC_PROTO_NONE
from dpif_bpf.wire.key.decode import decode_metadata
from dpif_bpf.wire.messages import PacketRequest
from dpif_bpf.wire.netlink import iter_attrs

_MAC_PROTO = abi.KEY["mac_proto"].offset


def execute(dp: Datapath, request: PacketRequest, now: int) -> None:
    """Runs the request's actions on its packet.

    :param now: ms, monotonic
    :raises RequestError: EINVAL for a key or actions that cannot be accepted
    :raises BackendError: ENOBUFS when too many packets are on their way
    """
    metadata = decode_metadata(request.key, request.key_pos)
    packet = request.packet
    layer3 = metadata.image[_MAC_PROTO] != abi.OVS_MAC_PROTO_ETHERNET
    if layer3:
        packet = _with_room(request.key, packet)
    facts = packet_facts(packet)
    if layer3:
        facts = replace(facts, mac_proto=MAC_PROTO_NONE)
    _check_tuples(metadata.tuples, facts.eth_type, packet)
    program = dp.programs.get(request.actions, facts, request.actions_pos)
    port = dp.vports.by_no.get(metadata.in_port)
    sent = False
    try:
        sent = dp.plane.execute(
            program, program.pc, 0 if port is None else port.bridge,
            metadata.image, packet, now, request.mru)
    finally:
        if not sent:
            dp.programs.release(program)
    if not sent:
        raise BackendError(errno.ENOBUFS,
                           "too many packets are being executed")


def _check_tuples(wanted: frozenset[int], eth_type: int,
                  packet: bytes) -> None:
    """An original tuple is that of such a packet, and not of neighbour
    discovery, whose fields take its place in the kernel's key.

    :raises RequestError: EINVAL
    """
    if not wanted:
        return
    if wanted != {eth_type}:
        raise RequestError(errno.EINVAL, "an original tuple of another"
                           " family than the packet's")
    if is_neighbour_discovery(packet):
        raise RequestError(errno.EINVAL, "an original tuple of neighbour"
                           " discovery")


def _with_room(key: bytes, packet: bytes) -> bytes:
    """A layer-3 packet as the programs have it: bpf/lib/act_room.h."""
    eth_type = next(key[start:stop] for kind, start, stop in iter_attrs(key)
                    if kind == uapi.OVS_KEY_ATTR_ETHERTYPE)
    return bytes(12) + eth_type + packet
