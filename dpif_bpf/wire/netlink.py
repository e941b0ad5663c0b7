# SPDX-License-Identifier: Apache-2.0
"""Netlink and generic-netlink messages and attributes.

Formats: <linux/netlink.h>, <linux/genetlink.h>; the meaning of flags and of
the extended ack: Linux Documentation/userspace-api/netlink/intro.rst.

Attributes are checked strictly (as NL_VALIDATE_STRICT of the kernel): what is
short, too long, of an unknown type or followed by stray bytes is refused with
EINVAL.  Of an attribute that is given twice the last counts, as nla_parse()
does (flow keys have rules of their own, see ``wire.key``).
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct

from dpif_bpf.errors import DpifError, RequestError

NETLINK_NETFILTER = 12
NETLINK_GENERIC = 16
"""Protocols of sockets."""

NLMSG_ALIGNTO = 4
NLMSG_NOOP = 1
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSG_MIN_TYPE = 0x10

NLM_F_REQUEST = 0x01
NLM_F_MULTI = 0x02
NLM_F_ACK = 0x04
NLM_F_ECHO = 0x08
NLM_F_ROOT = 0x100
NLM_F_MATCH = 0x200
NLM_F_DUMP = NLM_F_ROOT | NLM_F_MATCH
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_CAPPED = 0x100
NLM_F_ACK_TLVS = 0x200

NLMSGERR_ATTR_MSG = 1
NLMSGERR_ATTR_OFFS = 2

NLA_F_NESTED = 0x8000
NLA_F_NET_BYTEORDER = 0x4000
NLA_TYPE_MASK = 0x3fff
NLA_HDRLEN = 4
NLA_PAYLOAD_MAX = 0xffff - NLA_HDRLEN

NLMSGHDR = Struct("=IHHII")
"""nlmsg_len, nlmsg_type, nlmsg_flags, nlmsg_seq, nlmsg_pid."""
GENLMSGHDR = Struct("=BBH")
"""cmd, version, reserved."""
NLATTR = Struct("=HH")
"""nla_len (with the 4 bytes of this header), nla_type."""

NLMSG_HDRLEN = NLMSGHDR.size
GENL_HDRLEN = GENLMSGHDR.size

U8 = Struct("=B")
U16 = Struct("=H")
U32 = Struct("=I")
S32 = Struct("=i")
U64 = Struct("=Q")

_ERROR = Struct("=IHHIIiIHHII")
_NLA_U8 = Struct("=HHB3x")
_NLA_U16 = Struct("=HHH2x")
_NLA_U32 = Struct("=HHI")
_NLA_S32 = Struct("=HHi")
_NLA_U64 = Struct("=HHQ")
PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")
"""PADDING[n & 3] brings n bytes to a multiple of four."""


@dataclass(frozen=True, slots=True)
class Message:
    """One netlink message.

    :param type: nlmsg_type: a family's id, or a control type
    :param flags: NLM_F_*
    :param seq: sequence number, to be repeated in the reply
    :param pid: port id of the sender
    :param raw: the whole message, header included, without padding
    """

    type: int
    flags: int
    seq: int
    pid: int
    raw: bytes

    @property
    def is_dump(self) -> bool:
        """Whether all objects are asked for."""
        return self.flags & NLM_F_DUMP == NLM_F_DUMP


def iter_messages(datagram: bytes) -> Iterator[Message]:
    """The messages of one datagram, in order.

    :raises RequestError: EINVAL at the first header that does not fit; the
        messages before it have been given out
    """
    pos, end = 0, len(datagram)
    while pos < end:
        if end - pos < NLMSG_HDRLEN:
            raise RequestError(errno.EINVAL,
                               f"{end - pos} bytes after the last message",
                               pos)
        size, type_, flags, seq, pid = NLMSGHDR.unpack_from(datagram, pos)
        if not NLMSG_HDRLEN <= size <= end - pos:
            raise RequestError(errno.EINVAL,
                               f"nlmsg_len {size} of {end - pos} bytes", pos)
        yield Message(type_, flags, seq, pid, datagram[pos:pos + size])
        pos += size + 3 & ~3


# Attributes, reading

@dataclass(frozen=True, slots=True)
class AttrPolicy:
    """What an attribute of one type must look like.

    :param name: its name in the UAPI, for error texts
    :param min_len: least number of payload bytes
    :param max_len: largest number of payload bytes
    :param empty: there may be no payload instead
    """

    name: str
    min_len: int
    max_len: int
    empty: bool = False


Policy = Mapping[int, AttrPolicy]
"""Attribute type -> policy; a type that is absent is refused."""

Attrs = dict[int, tuple[int, int]]
"""Attribute type -> first byte of the payload and the byte after it."""


def exactly(name: str, size: int) -> AttrPolicy:
    """An attribute of exactly `size` bytes."""
    return AttrPolicy(name, size, size)


def flag(name: str) -> AttrPolicy:
    """An attribute that is there or not (NLA_FLAG)."""
    return AttrPolicy(name, 0, 0)


def binary(name: str, min_len: int = 0,
           max_len: int = NLA_PAYLOAD_MAX) -> AttrPolicy:
    """Bytes."""
    return AttrPolicy(name, min_len, max_len)


def nested(name: str) -> AttrPolicy:
    """Attributes that are parsed elsewhere (NLA_NESTED)."""
    return AttrPolicy(name, NLA_HDRLEN, NLA_PAYLOAD_MAX, empty=True)


def parse_attrs(buf: bytes, pos: int, end: int, policy: Policy,
                strict: bool = False) -> Attrs:
    """Find the attributes of ``buf[pos:end]`` and hold them to `policy`.

    :param strict: as to the kernel's nla_parse(), which the errno follows;
        otherwise it is that of nla_parse_deprecated()
    :raises RequestError: with the offset of the attribute in `buf`: EINVAL,
        but ERANGE for what is too short and for a flag with a payload,
        unless `strict`
    """
    found: Attrs = {}
    unpack = NLATTR.unpack_from
    while end - pos >= NLA_HDRLEN:
        size, type_ = unpack(buf, pos)
        stop = pos + size
        if size < NLA_HDRLEN or stop > end:
            raise RequestError(
                errno.EINVAL, f"nla_len {size} of {end - pos} bytes", pos)
        type_ &= NLA_TYPE_MASK
        rule = policy.get(type_)
        if rule is None:
            raise RequestError(
                errno.EINVAL, f"attribute type {type_} is not supported", pos)
        if (not rule.min_len <= size - NLA_HDRLEN <= rule.max_len
                and not (rule.empty and size == NLA_HDRLEN)):
            raise RequestError(
                errno.ERANGE if not strict and (
                    size - NLA_HDRLEN < rule.min_len or not rule.max_len)
                else errno.EINVAL,
                _length_text(rule, size - NLA_HDRLEN), pos)
        found[type_] = (pos + NLA_HDRLEN, stop)
        pos = stop + 3 & ~3
    if pos < end:
        raise RequestError(
            errno.EINVAL, f"{end - pos} bytes after the last attribute", pos)
    return found


def _length_text(rule: AttrPolicy, size: int) -> str:
    if rule.min_len == rule.max_len:
        wanted = str(rule.min_len)
    elif rule.max_len == NLA_PAYLOAD_MAX:
        wanted = f"at least {rule.min_len}"
    else:
        wanted = f"{rule.min_len} to {rule.max_len}"
    return f"{rule.name} has {size} bytes instead of {wanted}"


def iter_attrs(buf: bytes, pos: int = 0,
               end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """(type, payload start, payload end) of each attribute, in order.

    Flags are taken off the type.  For lists whose order or repetition counts
    (actions, flow keys).

    :raises RequestError: EINVAL, with the offset in `buf`
    """
    if end is None:
        end = len(buf)
    unpack = NLATTR.unpack_from
    while end - pos >= NLA_HDRLEN:
        size, type_ = unpack(buf, pos)
        stop = pos + size
        if size < NLA_HDRLEN or stop > end:
            raise RequestError(
                errno.EINVAL, f"nla_len {size} of {end - pos} bytes", pos)
        yield type_ & NLA_TYPE_MASK, pos + NLA_HDRLEN, stop
        pos = stop + 3 & ~3
    if pos < end:
        raise RequestError(
            errno.EINVAL, f"{end - pos} bytes after the last attribute", pos)


def get_string(buf: bytes, where: tuple[int, int], name: str,
               max_len: int) -> str:
    """A NUL-terminated string of at most `max_len` bytes (NLA_NUL_STRING).

    :raises RequestError: EINVAL without a NUL or when it is not text, ERANGE
        when it is empty or too long
    """
    start, end = where
    nul = buf.find(b"\0", start, end)
    if nul < 0:
        raise RequestError(errno.EINVAL, f"{name} has no final NUL",
                           start - NLA_HDRLEN)
    if not 0 < nul - start <= max_len:
        raise RequestError(
            errno.ERANGE,
            f"{name} has {nul - start} characters instead of 1 to {max_len}",
            start - NLA_HDRLEN)
    try:
        return buf[start:nul].decode()
    except UnicodeDecodeError:
        raise RequestError(errno.EINVAL, f"{name} is not UTF-8",
                           start - NLA_HDRLEN) from None


def get_u32_array(buf: bytes, where: tuple[int, int],
                  name: str) -> tuple[int, ...]:
    """An array of at least one u32.

    :raises RequestError: EINVAL
    """
    start, end = where
    if end == start or end - start & 3:
        raise RequestError(
            errno.EINVAL,
            f"{name} has {end - start} bytes, which is no array of u32",
            start - NLA_HDRLEN)
    return tuple(U32.unpack_from(buf, i)[0] for i in range(start, end, 4))


# Attributes, writing

def nla(type_: int, payload: bytes) -> bytes:
    """One attribute, padded."""
    size = len(payload) + NLA_HDRLEN
    return NLATTR.pack(size, type_) + payload + PADDING[size & 3]


def nla_u8(type_: int, value: int) -> bytes:
    return _NLA_U8.pack(5, type_, value)


def nla_u16(type_: int, value: int) -> bytes:
    return _NLA_U16.pack(6, type_, value)


def nla_u32(type_: int, value: int) -> bytes:
    return _NLA_U32.pack(8, type_, value)


def nla_s32(type_: int, value: int) -> bytes:
    return _NLA_S32.pack(8, type_, value)


def nla_u64(type_: int, value: int) -> bytes:
    return _NLA_U64.pack(12, type_, value)


def nla_flag(type_: int) -> bytes:
    return NLATTR.pack(4, type_)


def nla_string(type_: int, value: str) -> bytes:
    """A string with its final NUL."""
    return nla(type_, value.encode() + b"\0")


def nla_u32_array(type_: int, values: tuple[int, ...]) -> bytes:
    return nla(type_, b"".join(map(U32.pack, values)))


# Messages, writing

def build(type_: int, flags: int, seq: int, pid: int,
          payload: bytes) -> bytes:
    """A netlink message around a payload that is already padded."""
    return NLMSGHDR.pack(NLMSG_HDRLEN + len(payload), type_, flags, seq,
                         pid) + payload


def build_ack(request: Message) -> bytes:
    """NLMSG_ERROR with error 0: the request was carried out."""
    return _ERROR.pack(_ERROR.size, NLMSG_ERROR, NLM_F_CAPPED, request.seq,
                       request.pid, 0, len(request.raw), request.type,
                       request.flags, request.seq, request.pid)


def build_error(request: Message, error: DpifError) -> bytes:
    """NLMSG_ERROR with the reason as extended ack.

    Only the header of the request is repeated (NLM_F_CAPPED), then come
    NLMSGERR_ATTR_MSG and, where known, NLMSGERR_ATTR_OFFS (NLM_F_ACK_TLVS).
    """
    # It may name what a peer called something, in bytes that are no text.
    tlvs = nla(NLMSGERR_ATTR_MSG,
               error.text.encode(errors="backslashreplace") + b"\0")
    if error.offset is not None:
        tlvs += nla_u32(NLMSGERR_ATTR_OFFS, error.offset)
    return _ERROR.pack(_ERROR.size + len(tlvs), NLMSG_ERROR,
                       NLM_F_CAPPED | NLM_F_ACK_TLVS, request.seq,
                       request.pid, -error.errno, len(request.raw),
                       request.type, request.flags, request.seq,
                       request.pid) + tlvs


def build_done(request: Message) -> bytes:
    """NLMSG_DONE, the end of a dump."""
    return build(NLMSG_DONE, NLM_F_MULTI, request.seq, request.pid,
                 S32.pack(0))


def parse_error(message: Message) -> tuple[int, str | None, int | None]:
    """(errno, text, offset) of an NLMSG_ERROR; errno 0 is an ack.

    :raises RequestError: EINVAL when the message is not well formed
    """
    raw = message.raw
    if len(raw) < _ERROR.size:
        raise RequestError(errno.EINVAL, "NLMSG_ERROR is too short")
    (error,) = S32.unpack_from(raw, NLMSG_HDRLEN)
    text: str | None = None
    offset: int | None = None
    if message.flags & NLM_F_ACK_TLVS:
        pos = _ERROR.size
        if not message.flags & NLM_F_CAPPED:
            (size,) = U32.unpack_from(raw, NLMSG_HDRLEN + 4)
            pos += (size + 3 & ~3) - NLMSG_HDRLEN
        for type_, start, stop in iter_attrs(raw, pos):
            if type_ == NLMSGERR_ATTR_MSG:
                text = raw[start:stop].rstrip(b"\0").decode()
            elif type_ == NLMSGERR_ATTR_OFFS:
                (offset,) = U32.unpack_from(raw, start)
    return -error, text, offset
