# SPDX-License-Identifier: Apache-2.0
"""nf_conntrack with helpers and NAT, and the kernel's reassembly: a router, to
whose ends packets are given one after the other."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from ctframes import UDP, Flow, udp
from ctkernel import (
    _NFGEN,
    _NLMSG,
    NETLINK_NETFILTER,
    Kernel,
    _attrs,
)
from devices import network

from dpif_bpf.wire.ct_tuple import CtTuple

FTP_PORT, TFTP_PORT, MARKER_PORT = 2121, 6969, 9
NAT4, NAT6 = "10.2.0.77", "fd02::77"
_ETH_P_ALL = 3
_RULES = f"""
table inet helpers {{
  ct helper ftp {{ type "ftp" protocol tcp; }}
  ct helper tftp {{ type "tftp" protocol udp; }}
  chain p {{
    type filter hook prerouting priority 0;
    tcp dport {FTP_PORT} ct helper set "ftp"
    udp dport {TFTP_PORT} ct helper set "tftp"
  }}
  chain hide {{
    type nat hook postrouting priority 100;
    tcp sport 20000-39999 ip daddr 10.2.0.0/24 snat ip to {NAT4}
    tcp sport 20000-39999 ip6 daddr fd02::/64 snat ip6 to {NAT6}
    udp sport 20000-39999 ip daddr 10.2.0.0/24 snat ip to {NAT4}
    udp sport 20000-39999 ip6 daddr fd02::/64 snat ip6 to {NAT6}
  }}
  chain virtual {{
    type nat hook prerouting priority -90;
    tcp dport {FTP_PORT} ip daddr 10.2.0.88 dnat ip to 10.2.0.1
    udp dport {TFTP_PORT} ip daddr 10.2.0.88 dnat ip to 10.2.0.1
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Expected:
    """What ctnetlink tells of an expectation.

    :param nat: tuple of CTA_EXPECT_NAT, and its direction
    """

    tuple: CtTuple
    mask: CtTuple
    nat: tuple[CtTuple, int] | None


class NatKernel(Kernel):
    """The router; within devices.network().

    :param rules: for nft(8)
    """

    def __init__(self, rules: str = _RULES) -> None:
        super().__init__()
        subprocess.run(["nft", "-f", "-"], input=rules, text=True,
                       check=True)
        for addr, end in ((NAT4, "kb"), (NAT6, "kb")):
            subprocess.run(["ip", "neigh", "add", addr, "lladdr",
                            "02:00:00:00:00:01", "dev", end, "nud",
                            "permanent"], check=True)
        for end in ("ka", "kb"):
            # Checksums are to be seen as they are on a wire.
            subprocess.run(["ethtool", "-K", end, "tx", "off"], check=True,
                           stdout=subprocess.DEVNULL)
        self.taps = []
        for end in ("kax", "kbx"):
            tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                                socket.htons(_ETH_P_ALL))
            tap.bind((end, 0))
            tap.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            tap.settimeout(5)
            self.taps.append(tap)

    def through(self, *frames: bytes, back: bool = False,
                v6: bool = False) -> list[bytes]:
        """Frames from the first end, or back: what comes out at the other
        end, until there is nothing more of them."""
        end = Flow("fd01::1", "fd02::1", 7, MARKER_PORT) if v6 else Flow(
            "10.1.0.1", "10.2.0.1", 7, MARKER_PORT)
        marker = udp(end.back().ports(8, MARKER_PORT) if back else end)
        for frame in (*frames, marker):
            self.sends[back].send(frame)
        found = []
        tap = self.taps[not back]
        while True:
            got = _received(tap)
            if got is None:
                continue
            if _is_marker(got):
                return found
            found.append(got)

    def one(self, frame: bytes,
            back: bool = False) -> tuple[int, bytes | None]:
        """A packet from the first end, or back: its state, as of send(), and
        what comes out at either end.  All has to be on one CPU."""
        state = self.send(frame, back)
        # It is out already, unless it was lost or is with another thread.
        for tap in self.taps:
            while select.select((tap,), (), (), 0)[0]:
                got = _received(tap)
                if got is not None:
                    return state, got
        found = self.through(v6=frame[12:14] == b"\x86\xdd")
        self.log.recv(8192)	# of the marker
        while select.select((self.taps[0],), (), (), 0)[0]:
            got = _received(self.taps[0])
            if got is not None:
                found.append(got)
        assert len(found) < 2, found
        return state, found[0] if found else None

    def drain(self) -> None:
        """Forgets what has come out, after a test that failed."""
        for tap in (*self.taps, self.log):
            while select.select((tap,), (), (), 0)[0]:
                tap.recv(1 << 17)

    def flush(self) -> None:
        """No connection is any more."""
        body = _NFGEN.pack(0, 0, 0)
        self.ct.send(_NLMSG.pack(_NLMSG.size + len(body), 1 << 8 | 2, 5, 1,
                                 0) + body)
        error, = struct.unpack_from("=i", self.ct.recv(4096), _NLMSG.size)
        assert not error, error

    def expectations(self) -> list[Expected]:
        """All that there are."""
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW,
                             NETLINK_NETFILTER)
        body = _NFGEN.pack(0, 0, 0)
        sock.send(_NLMSG.pack(_NLMSG.size + len(body), 2 << 8 | 1, 0x301, 1,
                              0) + body)
        found = []
        with sock:
            while True:
                data = sock.recv(1 << 16)
                at = 0
                while at < len(data):
                    size, kind, *_ = _NLMSG.unpack_from(data, at)
                    if kind == 3:
                        return found
                    attrs = _attrs(data[at + _NLMSG.size + _NFGEN.size:
                                        at + size])
                    nat = None
                    if 10 in attrs:
                        inner = _attrs(attrs[10])
                        nat = (_tuple(inner[2]),
                               int.from_bytes(inner[1], "big"))
                    found.append(Expected(_tuple(attrs[2]), _tuple(attrs[3]),
                                          nat))
                    at += (size + 3) & ~3

    def close(self) -> None:
        for tap in self.taps:
            tap.close()
        super().close()


def _received(tap: socket.socket) -> bytes | None:
    """A frame; None when it is of no interest."""
    frame, (_, _, kind, *_) = tap.recvfrom(1 << 17)
    if (kind == socket.PACKET_OUTGOING or frame[0] & 1
            or frame[12:14] not in (b"\x08\x00", b"\x86\xdd")):
        return None
    return frame


def _is_marker(frame: bytes) -> bool:
    proto, ports = (frame[20], 54) if frame[12] == 0x86 else (frame[23], 34)
    return proto == UDP and frame[ports + 2:ports + 4] == struct.pack(
        ">H", MARKER_PORT)


def _tuple(data: bytes) -> CtTuple:
    attrs = _attrs(data)
    ip = _attrs(attrs[1])
    proto = _attrs(attrs.get(2, b""))
    family = socket.AF_INET if 1 in ip else socket.AF_INET6
    first = 1 if 1 in ip else 3
    return CtTuple(
        family, proto.get(1, b"\0")[0], ip[first], ip[first + 1],
        int.from_bytes(proto.get(2, b""), "big"),
        int.from_bytes(proto.get(3, b""), "big"))


@contextlib.contextmanager
def nat_kernel(rules: str = _RULES) -> Iterator[NatKernel]:
    """A router, until the end."""
    with network():
        router = NatKernel(rules)
        try:
            yield router
        finally:
            router.close()
