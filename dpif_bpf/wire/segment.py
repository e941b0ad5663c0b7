# SPDX-License-Identifier: Apache-2.0
"""Packets of control connections: where their data are, and other data in
their place.

Checksums are computed anew when data change, as by nf_nat_mangle_tcp_packet():
offloads are not part of what is changed here, so that whoever has a packet
with an unfinished checksum finishes it before.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct

from dpif_bpf.wire.checksum import checksum, mangle, ones_sum
from dpif_bpf.wire.protocols import IPPROTO_TCP, IPPROTO_UDP

LENGTH_MAX = 0xffff
TCP_HLEN, UDP_HLEN = 20, 8

_U16, _U32 = Struct("!H"), Struct("!I")
_IPV4_HLEN, _IPV6_HLEN = 20, 40
_FRAGMENT = 0x3fff
"""More fragments, or an offset."""
_EXTENSIONS = (0, 43, 60)
_SEQ, _ACK, _OFFSET, _TCP_CHECK, _UDP_CHECK = 4, 8, 12, 16, 6


@dataclass(frozen=True, slots=True)
class Segment:
    """A packet of TCP or UDP.

    :param data: the frame, without what pads it
    :param l3: offset of the IP header
    :param l4: offset of the header of TCP or UDP
    :param proto: IPPROTO_TCP or IPPROTO_UDP
    """

    data: bytes
    l3: int
    l4: int
    proto: int

    @property
    def is_ipv4(self) -> bool:
        return self.data[self.l3] >> 4 == 4

    @property
    def start(self) -> int:
        """Where its data begin."""
        if self.proto == IPPROTO_TCP:
            return self.l4 + (self.data[self.l4 + _OFFSET] >> 4) * 4
        return self.l4 + UDP_HLEN

    @property
    def payload(self) -> bytes:
        return self.data[self.start:]

    @property
    def seq(self) -> int:
        """Of TCP."""
        number: int = _U32.unpack_from(self.data, self.l4 + _SEQ)[0]
        return number

    @property
    def ack(self) -> int:
        """Of TCP."""
        number: int = _U32.unpack_from(self.data, self.l4 + _ACK)[0]
        return number

    @property
    def options(self) -> slice:
        """Of TCP."""
        return slice(self.l4 + TCP_HLEN, self.start)

    def replaced(self, offset: int, size: int, text: bytes) -> Segment | None:
        """With other bytes among its data, or None: that is too long.

        :param offset: of its data
        :param size: bytes that are replaced
        """
        if len(self.data) - self.l3 + len(text) - size > LENGTH_MAX:
            return None
        at = self.start + offset
        data = bytearray(self.data[:at] + text + self.data[at + size:])
        length = len(data) - self.l3
        if self.is_ipv4:
            _U16.pack_into(data, self.l3 + 2, length)
            self._finish_ip(data)
        else:
            _U16.pack_into(data, self.l3 + 4, length - _IPV6_HLEN)
        if self.proto != IPPROTO_TCP:
            _U16.pack_into(data, self.l4 + 4, len(data) - self.l4)
        return self.changed(data)

    def changed(self, data: bytearray) -> Segment:
        """With other bytes in its header of TCP or UDP, or behind that; the
        checksum is made right."""
        at = self.l4 + (_TCP_CHECK if self.proto == IPPROTO_TCP
                        else _UDP_CHECK)
        if self.proto == IPPROTO_TCP or any(data[at:at + 2]):
            data[at:at + 2] = b"\0\0"
            addresses = (data[self.l3 + 12:self.l3 + 20] if self.is_ipv4
                         else data[self.l3 + 8:self.l3 + 40])
            sum_ = checksum(memoryview(data)[self.l4:], ones_sum(addresses)
                            + self.proto + len(data) - self.l4)
            _U16.pack_into(data, at, sum_ if self.proto == IPPROTO_TCP
                           else mangle(sum_))
        return Segment(bytes(data), self.l3, self.l4, self.proto)

    def _finish_ip(self, data: bytearray) -> None:
        at = self.l3 + 10
        data[at:at + 2] = b"\0\0"
        header = memoryview(data)[self.l3:self.l3 + (data[self.l3] & 15) * 4]
        _U16.pack_into(data, at, checksum(header))


def read_segment(frame: bytes, l3: int, l4: int, proto: int) -> Segment | None:
    """A packet that flow extract has been through.

    :returns: None when its headers are cut short: no helper looks at such
    """
    size = TCP_HLEN if proto == IPPROTO_TCP else UDP_HLEN
    if l4 + size > len(frame) or l3 + _IPV4_HLEN > l4:
        return None
    if frame[l3] >> 4 == 4:
        said: int = _U16.unpack_from(frame, l3 + 2)[0]
    else:
        said = _U16.unpack_from(frame, l3 + 4)[0]
        said = said + _IPV6_HLEN if said else len(frame) - l3
    if l4 + size > l3 + said:
        return None
    segment = Segment(frame[:l3 + said], l3, l4, proto)
    return segment if segment.start >= l4 + size else None


def transport_of(frame: bytes, l3: int) -> tuple[int, int] | None:
    """Where the header of TCP or UDP is, and which one it is.

    :returns: None when there is none, or the packet is a fragment
    """
    if len(frame) < l3 + _IPV4_HLEN:
        return None
    if frame[l3] >> 4 == 4:
        at, proto = l3 + (frame[l3] & 15) * 4, frame[l3 + 9]
        if _U16.unpack_from(frame, l3 + 6)[0] & _FRAGMENT:
            return None
    else:
        if len(frame) < l3 + _IPV6_HLEN:
            return None
        at, proto = l3 + _IPV6_HLEN, frame[l3 + 6]
        while proto in _EXTENSIONS and at + 2 <= len(frame):
            proto, at = frame[at], at + (frame[at + 1] + 1) * 8
    return (at, proto) if proto in (IPPROTO_TCP, IPPROTO_UDP) else None
