# SPDX-License-Identifier: Apache-2.0
"""A machine on which providers come and go, without the peers' socket."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from devices import ip, network

from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.services.families import make_router
from dpif_bpf.core.services.service import LATER
from dpif_bpf.edge import bpfprog
from dpif_bpf.edge.loader import Files, Loader
from dpif_bpf.edge.pins import ensure_bpffs, remove_tree
from dpif_bpf.edge.ports import Ports
from dpif_bpf.edge.template import Template
from dpif_bpf.limited import msec
from dpif_bpf.provider import Instance, Provider
from dpif_bpf.wire import uapi as u
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
NAME = "ovs-bpf"
MAC = b"\2\0\0\0\0\1"
ETH_TYPE = b"\x88\xb5"
_templates: list[Template] = []


def frame(number: int = 1) -> bytes:
    """Of flow(…, number)."""
    return MAC + b"\2\0\0" + number.to_bytes(3, "big") + ETH_TYPE + bytes(50)


def flow(port: int, number: int, *actions: bytes) -> tuple[bytes, ...]:
    """Attributes of a flow: of frame(number) from a port."""
    return (
        nla(u.OVS_FLOW_ATTR_KEY, nla_u32(u.OVS_KEY_ATTR_IN_PORT, port)
            + nla(u.OVS_KEY_ATTR_ETHERNET, frame(number)[6:12] + MAC)
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, ETH_TYPE)),
        nla(u.OVS_FLOW_ATTR_MASK, nla_u32(u.OVS_KEY_ATTR_IN_PORT, 0xFFFFFFFF)
            + nla(u.OVS_KEY_ATTR_ETHERNET, b"\xff" * 12)
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff")),
        nla(u.OVS_FLOW_ATTR_ACTIONS, b"".join(actions)),
        nla(u.OVS_FLOW_ATTR_UFID, bytes((port,)) + number.to_bytes(
            15, "big")))


def output(port: int) -> bytes:
    return nla_u32(u.OVS_ACTION_ATTR_OUTPUT, port)


class Peer:
    """Asks one provider as OVS does."""

    def __init__(self, loader: Loader, max_flows: int = 1024,
                 ct_max: int = 1000) -> None:
        self.loader = loader
        self.ports = Ports()
        self.provider = Provider(loader, self.ports, max_flows,
                                 lambda _pid, _message: True,
                                 lambda _group, _message: None, ct_max)
        self._router = make_router(self.provider, msec)

    def try_(self, family: int, cmd: int, *attrs: bytes, flags: int = 0,
             ) -> tuple[int, str | None]:
        """errno and text of a request."""
        dps = self.provider.datapaths()
        request = build(family, NLM_F_REQUEST | NLM_F_ACK | flags, 1, 7,
                        GENLMSGHDR.pack(cmd, 2, 0) + u.OVS_HEADER.pack(
                            dps[0].dp_ifindex if dps else 0)
                        + b"".join(attrs))
        *_, ack = (message for data in self._serve(request)
                   for message in iter_messages(data))
        error, text, _ = parse_error(ack)
        return error, text

    def _serve(self, request: bytes) -> Iterator[bytes]:
        for data in self._router.serve(request):
            if data == LATER:
                self.provider.run()
            yield data

    def ask(self, family: int, cmd: int, *attrs: bytes,
            flags: int = 0) -> None:
        """A request that is not refused."""
        assert self.try_(family, cmd, *attrs, flags=flags) == (0, None)

    def new_dp(self, name: str = NAME) -> tuple[int, str | None]:
        return self.try_(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_NEW,
                         nla_string(u.OVS_DP_ATTR_NAME, name),
                         nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0))

    def del_dp(self, name: str = NAME) -> tuple[int, str | None]:
        return self.try_(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_DEL,
                         nla_string(u.OVS_DP_ATTR_NAME, name))

    def add_port(self, name: str, kind: int = u.OVS_VPORT_TYPE_NETDEV,
                 ) -> tuple[int, str | None]:
        return self.try_(u.OVS_VPORT_ID, u.OVS_VPORT_CMD_NEW,
                         nla_string(u.OVS_VPORT_ATTR_NAME, name),
                         nla_u32(u.OVS_VPORT_ATTR_TYPE, kind),
                         nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (0,)))

    def put(self, *attrs: bytes) -> tuple[int, str | None]:
        return self.try_(u.OVS_FLOW_ID, u.OVS_FLOW_CMD_NEW, *attrs,
                         flags=NLM_F_CREATE)

    @property
    def instance(self) -> Instance:
        """Of the only datapath."""
        instance, = self.provider.instances()
        return instance

    @property
    def dp(self) -> Datapath:
        return self.instance.dp

    def close(self) -> None:
        """Ends, and leaves what is pinned."""
        self.provider.close()
        self.ports.close()
        self.loader.close()


class Site:
    """Pins and a network namespace; use by ``with``.

    :param files: what is loaded
    """

    def __init__(self, files: Files | None = None) -> None:
        self.files = files
        self.peers: list[Peer] = []
        ensure_bpffs(BPFFS)

    def __enter__(self) -> Self:
        self._stack = contextlib.ExitStack()
        self.pins = Path(tempfile.mkdtemp(prefix=f"site{os.getpid()}-",
                                          dir=BPFFS))
        self._stack.callback(remove_tree, self.pins)
        self._stack.enter_context(network())
        ip("link set lo up")
        return self

    def __exit__(self, *_: object) -> None:
        for peer in self.peers:
            peer.close()
        self._stack.close()

    def loader(self) -> Loader:
        """One with the entry compiled, which is done once."""
        loader = Loader(self.pins, self.files)
        if not _templates:
            _templates.append(loader.template())
        loader._template = _templates[0]
        return loader

    def start(self, max_flows: int = 1024, ct_max: int = 1000) -> Peer:
        """A provider, which has taken over what it could."""
        peer = Peer(self.loader(), max_flows, ct_max)
        self.peers.append(peer)
        peer.provider.take_over()
        return peer

    def stop(self, peer: Peer) -> None:
        self.peers.remove(peer)
        peer.close()

    def add_device(self, name: str) -> None:
        """A veth whose other end is NAMEx."""
        ip(f"link add {name} type veth peer name {name}x",
           *(f"link set {end} {how}" for end in (name, name + "x")
             for how in ("arp off addrgenmode none", "up")))

    def devices(self) -> set[str]:
        """Names, but for lo."""
        return {name for _, name in socket.if_nameindex()} - {"lo"}

    def pinned(self) -> set[str]:
        """Paths of all pins and directories."""
        return {str(path.relative_to(self.pins))
                for path in self.pins.rglob("*")}


def unmarked() -> set[str]:
    """Names of devices that nobody has said are anyone's."""
    lines = subprocess.run(["ip", "-o", "link"], check=True, text=True,
                           capture_output=True).stdout.splitlines()
    return {line.split()[1].split("@")[0].rstrip(":") for line in lines
            if "alias" not in line}


def promiscuous(name: str) -> bool:
    return "PROMISC" in subprocess.run(
        ["ip", "link", "show", name], check=True, capture_output=True,
        text=True).stdout


def hooks(ifindexes: list[int]) -> list[list[int]]:
    """Ids of the links on each device."""
    return [bpfprog.tcx_links(ifindex) for ifindex in ifindexes]


def open_fds() -> Counter[str]:
    """How many descriptors there are of what."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of listdir()
            found[re.sub(r"\d+", "#", os.readlink(
                f"/proc/self/fd/{fd}"))] += 1
    return found


def mappings() -> int:
    """Maps of which there is memory here."""
    return Path("/proc/self/maps").read_text().count("bpf-map")
