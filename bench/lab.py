# SPDX-License-Identifier: Apache-2.0
"""A provider in a network namespace of its own, asked as OVS asks."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import statistics
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

from dpif_bpf.core.services.families import make_router
from dpif_bpf.core.services.service import LATER
from dpif_bpf.edge import bpfprog
from dpif_bpf.edge.loader import Loader
from dpif_bpf.edge.pins import PIN_ROOT
from dpif_bpf.edge.ports import Ports
from dpif_bpf.limited import msec
from dpif_bpf.provider import Provider
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    build,
    iter_messages,
    nla,
    nla_string,
    nla_u32,
    nla_u32_array,
    parse_error,
)

CLONE_NEWNET = 0x40000000
SKB_SIZE = 192
"""sizeof(struct __sk_buff), <linux/bpf.h>"""
SKB_MARK, SKB_IFINDEX = 8, 40

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """In a new network namespace, which goes away afterwards."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        yield
    finally:
        _libc.setns(before, CLONE_NEWNET)
        os.close(before)


class Lab:
    """A datapath with veth ports, in the present network namespace.

    :param flows: that there may be
    """

    def __init__(self, ports: int, flows: int = 4096) -> None:
        self._loader = Loader(Path(f"{PIN_ROOT}-bench"))
        self._ports = Ports()
        self.provider = Provider(self._loader, self._ports, flows,
                                 lambda _pid, _message: True,
                                 lambda _group, _message: None)
        self._router = make_router(self.provider, msec)
        self.ask(uapi.OVS_DATAPATH_ID, uapi.OVS_DP_CMD_NEW,
                 nla_string(uapi.OVS_DP_ATTR_NAME, "bench"),
                 nla_u32(uapi.OVS_DP_ATTR_UPCALL_PID, 0))
        (self.dp,) = self.provider.datapaths()
        for number in range(1, ports + 1):
            subprocess.run(["ip", "link", "add", f"b{number}", "up", "type",
                            "veth", "peer", "name", f"e{number}"],
                           check=True)
            self.ask(uapi.OVS_VPORT_ID, uapi.OVS_VPORT_CMD_NEW,
                     *port_attrs(number))

    def message(self, family: int, cmd: int, *attrs: bytes,
                flags: int = 0) -> bytes:
        """A request."""
        dps = self.provider.datapaths()
        return build(
            family, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 1,
            GENLMSGHDR.pack(cmd, 2, 0) + uapi.OVS_HEADER.pack(
                dps[0].dp_ifindex if dps else 0) + b"".join(attrs))

    def serve(self, request: bytes) -> Iterator[bytes]:
        """The replies to a request that must succeed; LATER for a turn of
        the provider's."""
        for reply in self._router.serve(request):
            for message in iter_messages(reply):
                if message.type != NLMSG_ERROR:
                    continue
                error, text, _ = parse_error(message)
                if error:
                    raise OSError(error, text)
            yield reply

    def ask(self, family: int, cmd: int, *attrs: bytes,
            flags: int = 0) -> None:
        """A request that must succeed."""
        for reply in self.serve(self.message(family, cmd, *attrs,
                                             flags=flags)):
            if reply == LATER:
                self.provider.run()

    def put(self, key: bytes, mask: bytes, actions: bytes) -> None:
        """Puts a flow, in place of all others."""
        self.ask(uapi.OVS_FLOW_ID, uapi.OVS_FLOW_CMD_DEL)
        self.add(key, mask, actions)

    def add(self, key: bytes, mask: bytes, actions: bytes) -> None:
        """Puts a flow."""
        self.ask(uapi.OVS_FLOW_ID, uapi.OVS_FLOW_CMD_NEW,
                 nla(uapi.OVS_FLOW_ATTR_KEY, key),
                 nla(uapi.OVS_FLOW_ATTR_MASK, mask),
                 nla(uapi.OVS_FLOW_ATTR_ACTIONS, actions),
                 flags=NLM_F_CREATE)

    def entry_ns(self, packet: bytes, port: int = 1) -> float:
        """ns of one packet through the entry stage and what follows."""
        (instance,) = self.provider.instances()
        return run_ns(instance.plane.gen.bridge(0).entry_fd, packet, port)

    def close(self) -> None:
        """Removes the datapath."""
        self.ask(uapi.OVS_DATAPATH_ID, uapi.OVS_DP_CMD_DEL)
        self.provider.close()
        self._ports.close()
        self._loader.close()


def port_attrs(number: int) -> tuple[bytes, ...]:
    """What OVS_VPORT_CMD_NEW says of the device b<number>."""
    return (nla_string(uapi.OVS_VPORT_ATTR_NAME, f"b{number}"),
            nla_u32(uapi.OVS_VPORT_ATTR_TYPE, uapi.OVS_VPORT_TYPE_NETDEV),
            nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID, (0,)))


@contextlib.contextmanager
def lab(ports: int = 2, flows: int = 4096) -> Iterator[Lab]:
    """A Lab in a network namespace of its own."""
    with network():
        made = Lab(ports, flows)
        try:
            yield made
        finally:
            made.close()


def run_ns(prog_fd: int, packet: bytes, port: int = 1,
           repeat: int = 200000, rounds: int = 7) -> float:
    """Median of the mean run times, ns, of a program on a packet.

    :param port: it comes in by device b<port>
    """
    ctx = bytearray(SKB_SIZE)
    struct.pack_into("=I", ctx, SKB_IFINDEX,
                     socket.if_nametoindex(f"b{port}"))
    return statistics.median(
        bpfprog.test_run(prog_fd, packet, bytes(ctx), repeat).duration
        for _ in range(rounds))


def redirect_prog(ifindex: int) -> int:
    """A program that is one bpf_redirect()."""
    insn = struct.Struct("=BBhi").pack
    return bpfprog.prog_load(bpfprog.PROG_TYPE_SCHED_CLS, b"".join((
        insn(0xb7, 1, 0, ifindex),      # r1 = ifindex
        insn(0xb7, 2, 0, 0),            # r2 = 0
        insn(0x85, 0, 0, 23),           # call bpf_redirect
        insn(0x95, 0, 0, 0))), "bench_redirect")
