# SPDX-License-Identifier: Apache-2.0
"""A datapath as the daemon makes it, between devices of a test.

Everything is in place but the socket of the peers: requests are messages of
the four families, upcalls are the messages that a peer would get.  Ports are
veth pairs; what goes out is seen at their near ends, in order, with mark and
priority.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from devices import (
    ETH_P_ALL,
    PREFIX,
    VNET_LEN,
    Port,
    Vnet,
    ip,
    make_pairs,
    network,
    packet_socket,
    unpack,
)
from oracle_state import attributes

from dpif_bpf.abi import DropReason
from dpif_bpf.core.services.families import make_router
from dpif_bpf.core.services.service import LATER
from dpif_bpf.edge.loader import Loader
from dpif_bpf.edge.pins import ensure_bpffs
from dpif_bpf.edge.ports import Ports
from dpif_bpf.limited import msec
from dpif_bpf.provider import Provider
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    build,
    iter_messages,
    nla,
    nla_string,
    nla_u32,
    nla_u32_array,
    parse_error,
)

BPFFS = Path("/sys/fs/bpf")
NAME = "agree"
MAX_FLOWS = 1024
UPCALL_PID = 100
"""Of a port: this and its number."""

_SO_PRIORITY, _SO_RCVBUFFORCE, _SO_MARK = 12, 33, 36
_SO_RCVMARK, _SO_RCVPRIORITY = 75, 82
_HEADERS = 24


@dataclass(frozen=True, slots=True)
class Sent:
    """A packet that went out.

    :param tagged: its outer tag was beside it, and offloads count from
        behind that
    :param priority: None where it is not known
    """

    port: int
    packet: bytes
    mark: int
    priority: int | None
    vnet: Vnet
    tagged: bool


@dataclass(frozen=True, slots=True)
class Message:
    """A message to a peer: its command and its attributes."""

    pid: int
    cmd: int
    attrs: Mapping[int, bytes]


class Capture:
    """What devices of the namespace send.

    :param ports: names of devices, and what they are the ports of
    """

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports
        self.sock = packet_socket(ETH_P_ALL)
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 26)
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVMARK, 1)
        self._priority = True
        try:
            self.sock.setsockopt(socket.SOL_SOCKET, _SO_RCVPRIORITY, 1)
        except OSError as error:  # before Linux 6.14
            if error.errno != errno.ENOPROTOOPT:
                raise
            self._priority = False

    def read(self) -> Iterator[Sent]:
        """What went out since the last call."""
        while True:
            try:
                data, extra, _, where = self.sock.recvmsg(1 << 17, 256)
            except BlockingIOError:
                return
            port = self._ports.get(where[0])
            if port is None or where[2] != socket.PACKET_OUTGOING:
                continue
            packet, vnet = unpack(data, extra)
            found = {kind: struct.unpack("=I", value)[0]
                     for level, kind, value in extra
                     if level == socket.SOL_SOCKET}
            yield Sent(port, packet, found[_SO_MARK],
                       found[_SO_PRIORITY] if self._priority else None,
                       vnet, len(packet) > len(data) - VNET_LEN)


class Switch:
    """The datapath; use by ``with``.

    :param mtus: of its ports
    :param bridge: ports that are in a bridge; the others are in none
    """

    def __init__(self, mtus: Mapping[int, int], bridge: Set[int]) -> None:
        self.messages: list[Message] = []
        self._seq = 0
        ensure_bpffs(BPFFS)
        with contextlib.ExitStack() as stack:
            pins = Path(stack.enter_context(tempfile.TemporaryDirectory(
                prefix=f"agree{os.getpid()}-", dir=BPFFS)))
            stack.enter_context(network())
            make_pairs(map(str, mtus))
            ip(*(f"link set {PREFIX}{port}a mtu {mtu}"
                 for port, mtu in mtus.items()))
            self.ports = {n: Port(n) for n in mtus}
            for port in self.ports.values():
                stack.callback(port.close)
            self.mtus = mtus
            self.capture = Capture({port.near: port.number
                                    for port in self.ports.values()})
            stack.callback(self.capture.sock.close)
            edge = Ports()
            stack.callback(edge.close)
            loader = Loader(pins)
            stack.callback(loader.close)
            self.provider = Provider(loader, edge, MAX_FLOWS, self._taken,
                                     lambda _group, _message: None, 1000)
            stack.callback(self.provider.close)
            self.router = make_router(self.provider, msec)
            near = {n: port.near for n, port in self.ports.items()}
            self.provider.set_bridges({"br": frozenset(
                near[n] for n in bridge)})
            self._dp_ifindex = 0
            self.ask(uapi.OVS_DATAPATH_ID, uapi.OVS_DP_CMD_NEW,
                     nla_string(uapi.OVS_DP_ATTR_NAME, NAME),
                     nla_u32(uapi.OVS_DP_ATTR_UPCALL_PID, 0),
                     nla_u32(uapi.OVS_DP_ATTR_USER_FEATURES, 0))
            dp, = self.provider.datapaths()
            stack.callback(lambda: self.provider.datapaths()
                           and self.provider.remove(dp))
            self._dp_ifindex = dp.dp_ifindex
            self.instance, = self.provider.instances()
            for n, name in near.items():
                self.ask(uapi.OVS_VPORT_ID, uapi.OVS_VPORT_CMD_NEW,
                         nla_string(uapi.OVS_VPORT_ATTR_NAME, name),
                         nla_u32(uapi.OVS_VPORT_ATTR_TYPE,
                                 uapi.OVS_VPORT_TYPE_NETDEV),
                         nla_u32(uapi.OVS_VPORT_ATTR_PORT_NO, n),
                         nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID,
                                       (UPCALL_PID + n,)))
            self._stack = stack.pop_all()

    def __enter__(self) -> Switch:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def _taken(self, pid: int, message: bytes) -> bool:
        cmd = GENLMSGHDR.unpack_from(message, 16)[0]
        self.messages.append(Message(
            pid, cmd, dict(attributes(message[_HEADERS:]))))
        return True

    # Requests

    def try_(self, family: int, cmd: int, *attrs: bytes, flags: int = 0,
             ) -> tuple[int, str | None]:
        """errno and text of a request."""
        self._seq += 1
        request = build(family, NLM_F_REQUEST | NLM_F_ACK | flags, self._seq,
                        7, GENLMSGHDR.pack(cmd, 1, 0)
                        + uapi.OVS_HEADER.pack(self._dp_ifindex)
                        + b"".join(attrs))
        *_, ack = (message for data in self._serve(request)
                   for message in iter_messages(data))
        code, text, _ = parse_error(ack)
        return code, text

    def _serve(self, request: bytes) -> Iterator[bytes]:
        """Without a turn, but for what has to be done between."""
        for data in self.router.serve(request):
            if data == LATER:
                self.instance.dp.flows.flushes.run()
            yield data

    def ask(self, family: int, cmd: int, *attrs: bytes,
            flags: int = 0) -> None:
        """A request that is not refused."""
        assert self.try_(family, cmd, *attrs, flags=flags) == (0, None)

    def put(self, key: bytes, mask: bytes, actions: bytes,
            ) -> tuple[int, str | None]:
        """OVS_FLOW_CMD_NEW with attributes: errno and text."""
        return self.try_(
            uapi.OVS_FLOW_ID, uapi.OVS_FLOW_CMD_NEW,
            nla(uapi.OVS_FLOW_ATTR_KEY, key),
            nla(uapi.OVS_FLOW_ATTR_MASK, mask),
            nla(uapi.OVS_FLOW_ATTR_ACTIONS, actions),
            flags=NLM_F_CREATE)

    def flow_stats(self) -> list[tuple[int, int, int]]:
        """Packets, bytes and TCP flags of each flow, as they were put."""
        flows = self.instance.dp.flows
        return [(packets, size, flags) for packets, size, _, flags
                in flows.stats(flows.snapshot())]

    def hits_and_misses(self) -> tuple[int, int]:
        """Lookups so far."""
        counted = self.instance.dp.counters()
        return counted.hit, counted.missed

    def flush(self) -> None:
        """Deletes all flows."""
        self.ask(uapi.OVS_FLOW_ID, uapi.OVS_FLOW_CMD_DEL)

    def execute(self, packet: bytes, key: bytes, actions: bytes,
                ) -> tuple[int, str | None]:
        """OVS_PACKET_CMD_EXECUTE: errno and text."""
        return self.try_(
            uapi.OVS_PACKET_ID, uapi.OVS_PACKET_CMD_EXECUTE,
            nla(uapi.OVS_PACKET_ATTR_PACKET, packet),
            nla(uapi.OVS_PACKET_ATTR_KEY, key),
            nla(uapi.OVS_PACKET_ATTR_ACTIONS, actions))

    def meter(self, number: int, rate: int) -> None:
        """Makes a meter of so many packets per second."""
        band = (nla_u32(uapi.OVS_BAND_ATTR_TYPE,
                        uapi.OVS_METER_BAND_TYPE_DROP)
                + nla_u32(uapi.OVS_BAND_ATTR_RATE, rate)
                + nla_u32(uapi.OVS_BAND_ATTR_BURST, 0))
        self.ask(uapi.OVS_METER_ID, uapi.OVS_METER_CMD_SET,
                 nla_u32(uapi.OVS_METER_ATTR_ID, number),
                 nla(uapi.OVS_METER_ATTR_BANDS,
                     nla(uapi.OVS_BAND_ATTR_UNSPEC, band)))

    # What comes of packets

    def turn(self) -> None:
        """One turn of the daemon's loop."""
        self.provider.run()

    def drops(self) -> dict[DropReason, int]:
        """Drops so far, of all bridges."""
        found: dict[DropReason, int] = {}
        for drops in self.instance.plane.drops().values():
            for reason, count in drops.items():
                found[reason] = found.get(reason, 0) + count
        return found
