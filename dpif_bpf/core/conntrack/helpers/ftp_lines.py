# SPDX-License-Identifier: Apache-2.0
"""Lines of FTP that name an address and a port (RFC 959, 1123, 2428).

What is taken for one, and what is not, is as in the kernel's
net/netfilter/nf_conntrack_ftp.c, since 2026 with numbers that are bounded;
IPv6 addresses are as inet_pton() reads them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6

PORT_MAX = 0xffff


class Kind(Enum):
    """What is said, and by what pattern it begins."""

    PORT = b"PORT"
    EPRT = b"EPRT"
    PASV = b"227 "
    EPSV = b"229 "


class Partial(Exception):
    """A line that begins as one of these, and is cut off or makes no sense."""


@dataclass(frozen=True, slots=True)
class Named:
    """An address and a port.

    :param start: where they are in the data, with what is around them
    :param size: bytes that they take
    :param addr: None: that of the sender
    """

    kind: Kind
    start: int
    size: int
    addr: bytes | None
    port: int


def format_named(kind: Kind, family: int, addr: bytes, port: int) -> bytes:
    """What takes the place of what was named, as nf_nat_ftp writes it."""
    if kind is Kind.EPSV:
        return b"|||%d|" % port
    if kind is Kind.EPRT:
        if family == AF_INET:
            return b"|1|%s|%d|" % (_dotted(addr, b"."), port)
        words = b":".join(b"%02x%02x" % (addr[at], addr[at + 1])
                          for at in range(0, 16, 2))
        return b"|2|%s|%d|" % (words, port)
    return b"%s,%d,%d" % (_dotted(addr[:4], b","), port >> 8, port & 0xff)


def _dotted(addr: bytes, sep: bytes) -> bytes:
    return sep.join(b"%d" % byte for byte in addr)


def _is_digit(byte: int) -> bool:
    return 0x30 <= byte <= 0x39


def _numbers(data: bytes, at: int, count: int, sep: int,
             term: int | None) -> tuple[list[int], int]:
    """`count` numbers of a byte each, until `term`, or whatever is no digit;
    and where they end."""
    numbers = [0]
    for stop in range(at, len(data)):
        byte = data[stop]
        if _is_digit(byte):
            numbers[-1] = numbers[-1] * 10 + byte - 0x30
            if numbers[-1] > 0xff:
                break
        elif byte == sep:
            if len(numbers) == count:
                break
            numbers.append(0)
        else:
            if stop > at and len(numbers) == count and term in (byte, None):
                return numbers, stop
            break
    raise Partial


def _delimiter(data: bytes, at: int) -> int:
    """That of RFC 2428, of which there are three characters and more."""
    if len(data) - at <= 3:
        raise Partial
    delim = data[at]
    if _is_digit(delim) or not 33 <= delim <= 126 or data[at + 2] != delim:
        raise Partial
    return delim


def _port(data: bytes, at: int, delim: int) -> tuple[int, int]:
    """A port and where what follows it is, behind the delimiter."""
    port = 0
    for stop in range(at, len(data)):
        byte = data[stop]
        if byte == delim:
            if not port:
                break
            return port, stop + 1
        if not _is_digit(byte):
            break
        port = port * 10 + byte - 0x30
        if port > PORT_MAX:
            break
    raise Partial


def _six(data: bytes, at: int, kind: Kind, term: int | None) -> Named:
    numbers, stop = _numbers(data, at, 6, ord(","), term)
    return Named(kind, at, stop - at, bytes(numbers[:4]),
                 numbers[4] << 8 | numbers[5])


def _eprt(data: bytes, at: int, family: int) -> Named:
    delim = _delimiter(data, at)
    if data[at + 1] != ord("1" if family == AF_INET else "2"):
        raise Partial
    begin = at + 3
    if family == AF_INET:
        numbers, stop = _numbers(data, begin, 4, ord("."), delim)
        addr = bytes(numbers)
    else:
        stop = data.find(bytes((delim,)), begin)
        try:
            addr = socket.inet_pton(AF_INET6,
                                    data[begin:max(stop, 0)].decode("ascii"))
        except (ValueError, OSError):
            raise Partial from None
    port, end = _port(data, stop + 1, delim)
    return Named(Kind.EPRT, at, end - at, addr, port)


def _epsv(data: bytes, at: int) -> Named:
    delim = _delimiter(data, at)
    if data[at + 1] != delim:
        raise Partial
    port, end = _port(data, at + 3, delim)
    return Named(Kind.EPSV, at, end - at, None, port)


def _behind(data: bytes, at: int, byte: int) -> int:
    found = data.find(bytes((byte,)), at)
    if found < 0:
        raise Partial
    return found + 1


def _read_port(data: bytes, at: int, _family: int) -> Named:
    return _six(data, _behind(data, at, ord(" ")), Kind.PORT, ord("\r"))


def _read_eprt(data: bytes, at: int, family: int) -> Named:
    return _eprt(data, _behind(data, at, ord(" ")), family)


def _read_pasv(data: bytes, at: int, _family: int) -> Named:
    """RFC 1123: there may be no parentheses."""
    while at < len(data) and not _is_digit(data[at]):
        at += 1
    return _six(data, at, Kind.PASV, None)


def _read_epsv(data: bytes, at: int, _family: int) -> Named:
    return _epsv(data, _behind(data, at, ord("(")))


_READ: dict[Kind, Callable[[bytes, int, int], Named]] = {
    Kind.PORT: _read_port, Kind.EPRT: _read_eprt, Kind.PASV: _read_pasv,
    Kind.EPSV: _read_epsv}
_SAID = ((Kind.PORT, Kind.EPRT), (Kind.PASV, Kind.EPSV))
"""By whom: the direction in which it is said."""


def read_named(data: bytes, direction: int, family: int) -> Named | None:
    """What the first line of a segment names.

    :param data: not empty
    :param direction: 0: of a client, 1: of a server
    :param family: of the connection's addresses
    :raises Partial: it may be such a line, but is none
    """
    for kind in _SAID[direction]:
        pattern = kind.value
        begin = data[:len(pattern)].upper()
        if begin != pattern[:len(begin)]:
            continue
        if len(data) <= len(pattern):
            raise Partial
        return _READ[kind](data, len(pattern), family)
    return None
