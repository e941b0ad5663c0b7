# SPDX-License-Identifier: Apache-2.0
"""Frames of connections, byte by byte: quick to make, by the thousand."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, replace

ETH = bytes.fromhex("020000000002" "020000000001")
FIN, SYN, RST, PSH, ACK, URG, ECE, CWR = (1 << n for n in range(8))
TCP, UDP, ICMP, GRE, ICMPV6, SCTP, UDPLITE = 6, 17, 1, 47, 58, 132, 136


@dataclass(frozen=True, slots=True)
class Flow:
    """Two ends: the first one begins."""

    src: str = "10.1.0.1"
    dst: str = "10.2.0.1"
    sport: int = 1000
    dport: int = 80

    def back(self) -> Flow:
        """The other direction."""
        return Flow(self.dst, self.src, self.dport, self.sport)

    def ports(self, sport: int, dport: int | None = None) -> Flow:
        """Other ports."""
        return replace(self, sport=sport,
                       dport=self.dport if dport is None else dport)

    @property
    def v6(self) -> bool:
        return ":" in self.src


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def addresses(flow: Flow) -> bytes:
    family = socket.AF_INET6 if flow.v6 else socket.AF_INET
    return (socket.inet_pton(family, flow.src)
            + socket.inet_pton(family, flow.dst))


def packet(flow: Flow, proto: int, payload: bytes, ttl: int = 64) -> bytes:
    """An IP packet."""
    if flow.v6:
        return struct.pack(">IHBB", 6 << 28, len(payload), proto,
                           ttl) + addresses(flow) + payload
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(payload), 1, 0, ttl,
                       proto, 0) + addresses(flow)
    return (head[:10] + struct.pack(">H", checksum(head)) + head[12:]
            + payload)


def frame(flow: Flow, proto: int, payload: bytes) -> bytes:
    """An Ethernet frame."""
    return ETH + (b"\x86\xdd" if flow.v6 else b"\x08\x00") + packet(
        flow, proto, payload)


def pseudo(flow: Flow, proto: int, data: bytes, at: int) -> bytes:
    """`data` with its checksum, over a pseudo header, at `at`."""
    total = checksum(addresses(flow) + struct.pack(">HH", proto, len(data))
                     + data)
    return data[:at] + struct.pack(">H", total or 0xffff) + data[at + 2:]


def tcp(flow: Flow, flags: int, seq: int = 0, ack: int = 0, win: int = 8192,
        options: bytes = b"", data: bytes = b"") -> bytes:
    """A TCP segment; options are padded."""
    options += bytes(-len(options) % 4)
    head = struct.pack(">HHIIBBHHH", flow.sport, flow.dport,
                       seq & 0xffffffff, ack & 0xffffffff,
                       (20 + len(options)) // 4 << 4, flags, win, 0, 0)
    return frame(flow, TCP, pseudo(flow, TCP, head + options + data, 16))


def udp(flow: Flow, data: bytes = b"x", said: int | None = None,
        proto: int = UDP) -> bytes:
    """A UDP datagram; `said` is its length field."""
    length = 8 + len(data) if said is None else said
    head = struct.pack(">HHHH", flow.sport, flow.dport, length, 0)
    return frame(flow, proto, pseudo(flow, proto, head + data, 6))


def icmp(flow: Flow, kind: int, code: int = 0, ident: int = 0,
         body: bytes = b"") -> bytes:
    """A message of ICMP, or ICMPv6 between such addresses."""
    head = struct.pack(">BBHHH", kind, code, 0, ident, 1)
    if flow.v6:
        return frame(flow, ICMPV6, pseudo(flow, ICMPV6, head + body, 2))
    total = checksum(head + body)
    return frame(flow, ICMP, head[:2] + struct.pack(">H", total) + head[4:]
                 + body)


def chunk(kind: int, body: bytes = b"", flags: int = 0,
          length: int | None = None) -> bytes:
    """A chunk of SCTP, padded."""
    size = 4 + len(body) if length is None else length
    return struct.pack(">BBH", kind, flags, size) + body + bytes(
        -len(body) % 4)


def init(kind: int, tag: int) -> bytes:
    """INIT (1) or INIT ACK (2)."""
    return chunk(kind, struct.pack(">IIHHI", tag, 65536, 1, 1, 1))


def sctp(flow: Flow, vtag: int, *chunks: bytes) -> bytes:
    """An SCTP packet, without its checksum."""
    return frame(flow, SCTP, struct.pack(
        ">HHII", flow.sport, flow.dport, vtag, 0) + b"".join(chunks))
