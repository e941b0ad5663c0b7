# SPDX-License-Identifier: Apache-2.0
"""The kernel's nf_conntrack, packet by packet.

A router in a network namespace of its own: two veth pairs, and nftables logs
what conntrack makes of each packet that comes in.  What it has of a connection
is asked for by ctnetlink.  Checksums are not looked at, as the tracker does
not either.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ctframes import ETH, Flow, addresses
from devices import network

from dpif_bpf import abi_ct as a

NETLINK_NETFILTER = 12
GROUP = 5
_STATES = {
    "invalid": a.OVS_CT_INVALID,
    "untracked": a.OVS_CT_INVALID,	# for OVS there is no difference
    "new": a.OVS_CT_NEW,
    "est": a.OVS_CT_ESTABLISHED,
    "est-r": a.OVS_CT_ESTABLISHED | a.OVS_CT_REPLY,
    "rel": a.OVS_CT_RELATED,
    "rel-r": a.OVS_CT_RELATED | a.OVS_CT_REPLY,
}
_RULES = f"""
table inet t {{
  chain c {{
    type filter hook prerouting priority -150;
    iifname != {{ "ka", "kb" }} accept
    ct state invalid log group {GROUP} prefix "invalid" accept
    ct state untracked log group {GROUP} prefix "untracked" accept
    ct state new log group {GROUP} prefix "new" accept
    ct state established ct direction original log group {GROUP} prefix "est"\
 accept
    ct state established ct direction reply log group {GROUP} prefix "est-r"\
 accept
    ct state related ct direction original log group {GROUP} prefix "rel"\
 accept
    ct state related ct direction reply log group {GROUP} prefix "rel-r"\
 accept
  }}
}}
"""
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
    "net/ipv4/conf/all/rp_filter": "0",
    "net/netfilter/nf_conntrack_checksum": "0",
    "net/netfilter/nf_conntrack_acct": "1",
}
_ENDS = (("ka", "10.1.0.254/24", "fd01::fe/64"),
         ("kb", "10.2.0.254/24", "fd02::fe/64"))
_NLMSG, _NFGEN = struct.Struct("=IHHII"), struct.Struct("=BBH")
_ATTR = struct.Struct("=HH")


def available() -> bool:
    """Whether there is nf_conntrack."""
    if shutil.which("modprobe"):
        subprocess.run(["modprobe", "-q", "nf_conntrack"], check=False)
    return Path("/proc/sys/net/netfilter/nf_conntrack_max").exists()


@dataclass(frozen=True, slots=True)
class Entry:
    """What ctnetlink tells of a connection.

    :ivar left: seconds until it ends
    :ivar proto: the state of TCP or SCTP, 0 of others
    :ivar packets: in both directions
    """

    status: int
    left: int
    proto: int
    packets: tuple[int, int]


def _attrs(data: bytes) -> dict[int, bytes]:
    found, at = {}, 0
    while at + 4 <= len(data):
        size, kind = _ATTR.unpack_from(data, at)
        if size < 4:
            break
        found[kind & 0x3fff] = data[at + 4:at + size]
        at += (size + 3) & ~3
    return found


def _attr(kind: int, data: bytes, nested: bool = False) -> bytes:
    size = 4 + len(data)
    return _ATTR.pack(size, kind | (0x8000 if nested else 0)) + data + bytes(
        -size % 4)


class Kernel:
    """The router; within devices.network()."""

    def __init__(self) -> None:
        for end, v4, v6 in _ENDS:
            _run("ip", "link", "add", end, "type", "veth", "peer", "name",
                 end + "x")
            # The far ends say nothing by themselves.
            (Path("/proc/sys/net/ipv6/conf") / (end + "x")
             / "disable_ipv6").write_text("1")
            for name in (end, end + "x"):
                _run("ip", "link", "set", name, "addrgenmode", "none")
                _run("ip", "link", "set", name, "up")
            _run("ip", "addr", "add", v4, "dev", end)
            _run("ip", "addr", "add", v6, "dev", end, "nodad")
            _run("ip", "link", "set", end, "address", "02:00:00:00:00:02")
        for name, value in _SYSCTLS.items():
            (Path("/proc/sys") / name).write_text(value)
        for end, addr in (("ka", "10.1.0.1"), ("kb", "10.2.0.1"),
                          ("ka", "fd01::1"), ("kb", "fd02::1")):
            _run("ip", "neigh", "add", addr, "lladdr", "02:00:00:00:00:01",
                 "dev", end, "nud", "permanent")
        subprocess.run(["nft", "-f", "-"], input=_RULES, text=True,
                       check=True)
        self.sends = []
        for end, *_ in _ENDS:
            sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            sock.bind((end + "x", 0))
            self.sends.append(sock)
        self.log = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW,
                                 NETLINK_NETFILTER)
        self.log.settimeout(5)
        # NFULNL_CFG_CMD_BIND, and each packet at once with no bytes of it
        self._config(_attr(1, b"\1"))
        self._config(_attr(2, struct.pack(">IBx", 0, 1)))
        self._config(_attr(5, struct.pack(">I", 1)))
        self.ct = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW,
                                NETLINK_NETFILTER)
        self.ct.settimeout(5)

    def _config(self, attr: bytes) -> None:
        body = _NFGEN.pack(0, 0, socket.htons(GROUP)) + attr
        self.log.send(_NLMSG.pack(_NLMSG.size + len(body), 4 << 8 | 1,
                                  1 | 4, 1, 0) + body)
        error, = struct.unpack_from("=i", self.log.recv(4096), _NLMSG.size)
        assert not error, error

    @staticmethod
    def set(name: str, value: int) -> None:
        """A setting of nf_conntrack."""
        (Path("/proc/sys/net/netfilter") / f"nf_conntrack_{name}"
         ).write_text(str(value))

    def send(self, frame: bytes, back: bool = False) -> int:
        """A packet from the first end, or back: its state, without
        OVS_CT_TRACKED."""
        self.sends[back].send(frame)
        while True:
            data = self.log.recv(8192)
            _, kind, *_ = _NLMSG.unpack_from(data)
            if kind == 4 << 8:
                attrs = _attrs(data[_NLMSG.size + _NFGEN.size:])
                return _STATES[attrs[10].rstrip(b"\0").decode()]

    def get(self, flow: Flow, proto: int, ident: tuple[int, int, int] = (
            0, 0, 0)) -> Entry | None:
        """A connection by its first tuple; `ident`: ICMP's id, type, code."""
        both = addresses(flow)
        half = len(both) // 2
        where = 3 if flow.v6 else 1
        if proto in (1, 58):
            number, kind, code = ident
            base = 7 if flow.v6 else 4
            what = (_attr(base, struct.pack(">H", number))
                    + _attr(base + 1, bytes((kind,)))
                    + _attr(base + 2, bytes((code,))))
        else:
            what = (_attr(2, struct.pack(">H", flow.sport))
                    + _attr(3, struct.pack(">H", flow.dport)))
        body = _NFGEN.pack(socket.AF_INET6 if flow.v6 else socket.AF_INET,
                           0, 0)
        body += _attr(1, _attr(1, _attr(where, both[:half])
                               + _attr(where + 1, both[half:]), True)
                      + _attr(2, _attr(1, bytes((proto,))) + what, True),
                      True)
        self.ct.send(_NLMSG.pack(_NLMSG.size + len(body), 1 << 8 | 1, 1, 1, 0)
                     + body)
        data = self.ct.recv(8192)
        size, kind, *_ = _NLMSG.unpack_from(data)
        if kind == 2:
            error, = struct.unpack_from("=i", data, _NLMSG.size)
            assert error == -2, error
            return None
        attrs = _attrs(data[_NLMSG.size + _NFGEN.size:size])
        status, = struct.unpack(">I", attrs[3])
        left, = struct.unpack(">I", attrs.get(7, bytes(4)))
        state = 0
        if 4 in attrs:
            (_, info), = _attrs(attrs[4]).items()
            state = _attrs(info)[1][0]
        packets = []
        for kind in (9, 10):
            counts = _attrs(attrs.get(kind, b""))
            packets.append(int.from_bytes(counts.get(1, b""), "big"))
        return Entry(status, left, state, (packets[0], packets[1]))

    def close(self) -> None:
        for sock in (*self.sends, self.log, self.ct):
            sock.close()


def _run(*argv: str) -> None:
    subprocess.run(argv, check=True)


@contextlib.contextmanager
def kernel() -> Iterator[Kernel]:
    """A router, until the end."""
    assert ETH[:6].hex() == "020000000002"
    with network():
        router = Kernel()
        try:
            yield router
        finally:
            router.close()
