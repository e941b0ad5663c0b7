# SPDX-License-Identifier: Apache-2.0
"""Walk the netlink attributes of a flow key or mask.

The result is a :class:`Layout`: which payload bytes go where in a key image,
and which bytes of the netlink attributes had to have the value they have for
that to be right.  ``wire.key`` keeps it and applies it to every key with the
same such bytes; ``wire.key.match`` says which layouts make a valid match.

Checks of attributes: ``__parse_flow_nlattrs``, ``ip_tun_from_nlattr`` and
``nsh_key_put_from_nlattr`` of Linux net/openvswitch/flow_netlink.c.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.key.attrs import (
    ERSPAN_METADATA_SIZE,
    KEY_ATTRS,
    KEY_NAMES,
    MPLS_LABEL_DEPTH,
    NSH_ATTRS,
    NSH_M_TYPE1,
    NSH_NAMES,
    SUPPORTED_KEYS,
    TUN_OPTS_MAX,
    TUNNEL_ATTRS,
    TUNNEL_FLAGS,
    TUNNEL_NAMES,
    VARIABLE,
    KeyAttr,
    be16_bits,
    bits,
    offset,
)
from dpif_bpf.wire.netlink import NLA_HDRLEN, NLA_TYPE_MASK, NLATTR

_OPTION_ATTRS = frozenset({
    uapi.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS,
    uapi.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS,
    uapi.OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS,
})
_IPV4_ATTRS = frozenset({uapi.OVS_TUNNEL_KEY_ATTR_IPV4_SRC,
                         uapi.OVS_TUNNEL_KEY_ATTR_IPV4_DST})
_IPV6_ATTRS = frozenset({uapi.OVS_TUNNEL_KEY_ATTR_IPV6_SRC,
                         uapi.OVS_TUNNEL_KEY_ATTR_IPV6_DST})

Found = dict[int, tuple[int, int]]
"""Attribute type -> start and end of its payload in the buffer."""


def invalid(text: str, pos: int | None = None) -> RequestError:
    """EINVAL, which is what flow_netlink.c has for all of these."""
    return RequestError(errno.EINVAL, text, pos)


@dataclass(slots=True)
class Layout:
    """A key or mask whose attributes have been looked at.

    :param buf: the payload of OVS_FLOW_ATTR_KEY or _MASK
    :param base: its offset in the message, for error offsets
    :param mask: whether it is a mask
    :param found: attributes, below the VLAN tags where there are any
    :param moves: (offset in `buf`, bytes, offset in the image)
    :param const: bits of the image that the layout alone determines
    :param fixed: for each byte of `buf`, which bits `moves`, `const` and the
        checks depend on
    :param nonzero: payloads that had to have some bit set
    :param not_ones: bytes that must not be 0xff, all of them
    :param reusable: whether these three say it all
    :param tun_opts_len: bytes of tunnel options
    :param geneve_len: likewise, of Geneve, whose masks must be as long
    """

    buf: bytes
    base: int = 0
    mask: bool = False
    found: Found = field(default_factory=dict)
    moves: list[tuple[int, int, int]] = field(default_factory=list)
    const: int = 0
    fixed: bytearray = field(init=False)
    nonzero: list[tuple[int, int]] = field(default_factory=list)
    not_ones: tuple[int, int] | None = None
    reusable: bool = True
    tun_opts_len: int = 0
    geneve_len: int = 0

    def __post_init__(self) -> None:
        self.fixed = bytearray(len(self.buf))

    def fix(self, pos: int, size: int, value: int = 0xff) -> None:
        """The layout depends on these bytes (or bits of each)."""
        for i in range(pos, pos + size):
            self.fixed[i] |= value

    def be16(self, pos: int) -> int:
        return int.from_bytes(self.buf[pos:pos + 2], "big")

    def u32(self, pos: int) -> int:
        return int.from_bytes(self.buf[pos:pos + 4], "little")

    def zero(self, where: tuple[int, int]) -> bool:
        """Whether a payload has no bit set."""
        return not any(self.buf[where[0]:where[1]])

    def walk(self, start: int, end: int) -> None:
        """Add the key attributes of ``buf[start:end]`` to `found`.

        Of a mask's attributes those that are zero may be repeated and may be
        unsupported: they match nothing.
        """
        for type_, first, stop in self.attrs(start, end):
            attr = KEY_ATTRS.get(type_)
            where = (first, stop)
            pos = first - NLA_HDRLEN
            if attr is None:
                raise self.error(f"{name(type_)} is not supported", pos)
            self.check_size(attr, stop - first, name(type_), pos)
            if not self.mask and type_ not in SUPPORTED_KEYS:
                raise self.error(f"{name(type_)} is not supported", pos)
            if type_ in self.found:
                if self.mask:
                    self.reusable = False
                    if self.zero(where):
                        continue
                if not self.mask or not self.zero(self.found[type_]):
                    raise self.error(f"{name(type_)} is given twice", pos)
            self.found[type_] = where

    def attrs(self, start: int, end: int) -> list[tuple[int, int, int]]:
        """(type, start, end) of the attributes; their headers are fixed."""
        result = []
        pos = start
        while end - pos >= NLA_HDRLEN:
            size, type_ = NLATTR.unpack_from(self.buf, pos)
            if not NLA_HDRLEN <= size <= end - pos:
                raise self.error(f"nla_len {size} of {end - pos} bytes", pos)
            self.fix(pos, NLA_HDRLEN)
            result.append((type_ & NLA_TYPE_MASK, pos + NLA_HDRLEN,
                           pos + size))
            pos += size + 3 & ~3
        if pos != end:
            raise self.error("stray or missing bytes after the last"
                             " attribute", min(pos, end))
        return result

    def check_size(self, attr: KeyAttr, size: int, what: str,
                   pos: int) -> None:
        if attr.size not in (size, VARIABLE):
            raise self.error(
                f"{what} has {size} bytes instead of {attr.size}", pos)

    def error(self, text: str, pos: int) -> RequestError:
        return invalid("in the mask: " * self.mask + text, self.base + pos)

    # What goes into the image

    def move(self, type_: int) -> None:
        """Take over an attribute of `found`."""
        start, end = self.found[type_]
        if type_ == uapi.OVS_KEY_ATTR_TUNNEL:
            if not self.mask or start != end:
                self.tunnel(start, end)
        elif type_ == uapi.OVS_KEY_ATTR_NSH:
            self._nsh(start, end)
        elif type_ == uapi.OVS_KEY_ATTR_MPLS:
            self._mpls(start, end)
        elif type_ == uapi.OVS_KEY_ATTR_CT_STATE:
            self.moves.append((start, 1, offset("ct_state")))
        else:
            self._put(KEY_ATTRS[type_], start)

    def _put(self, attr: KeyAttr, start: int) -> None:
        self.moves += [(start + src, size, dst)
                       for src, size, dst in attr.moves]

    def _mpls(self, start: int, end: int) -> None:
        labels, rest = divmod(end - start, 4)
        if rest or not 1 <= labels <= MPLS_LABEL_DEPTH:
            raise self.error(
                f"OVS_KEY_ATTR_MPLS has {end - start} bytes instead of 4 to"
                f" {4 * MPLS_LABEL_DEPTH}", start - NLA_HDRLEN)
        if self.mask and self.zero((start, end)):
            self.reusable = False
            return
        self.nonzero += [(start, end)] * self.mask
        self.moves.append((start, end - start, offset("mpls_lse")))
        self.const |= (1 << labels) - 1 << 8 * offset("mpls_labels")

    def _nsh(self, start: int, end: int) -> None:
        found = self._nested(start, end, NSH_ATTRS, NSH_NAMES, "OVS_NSH_")
        for type_, (first, _) in found.items():
            self._put(NSH_ATTRS[type_], first)
            if type_ == uapi.OVS_NSH_KEY_ATTR_BASE:
                self.fix(first + 2, 1)
        if not self.mask and uapi.OVS_NSH_KEY_ATTR_MD1 in found:
            base = found.get(uapi.OVS_NSH_KEY_ATTR_BASE)
            if base is None or self.buf[base[0] + 2] != NSH_M_TYPE1:
                raise self.error("OVS_NSH_KEY_ATTR_MD1 without MD type 1",
                                 start - NLA_HDRLEN)

    def _nested(self, start: int, end: int, table: Mapping[int, KeyAttr],
                names: dict[int, str], prefix: str) -> Found:
        """Attributes of which, of two that are alike, the last counts."""
        found: Found = {}
        for type_, first, stop in self.attrs(start, end):
            what = names.get(type_, f"{prefix}KEY_ATTR {type_}")
            if type_ not in table:
                raise self.error(f"{what} is not supported",
                                 first - NLA_HDRLEN)
            self.check_size(table[type_], stop - first, what,
                            first - NLA_HDRLEN)
            found[type_] = (first, stop)
        return found

    def tunnel(self, start: int, end: int) -> None:
        """Take over the attributes of OVS_KEY_ATTR_TUNNEL."""
        found = self._nested(start, end, TUNNEL_ATTRS, TUNNEL_NAMES,
                             "OVS_TUNNEL_")
        pos = start - NLA_HDRLEN
        flags = 0
        for type_, (first, _) in found.items():
            flags |= TUNNEL_FLAGS.get(type_, 0)
            self._put(TUNNEL_ATTRS[type_], first)
        self.const |= be16_bits("tun_flags", flags)
        self._options([attr for attr in self.attrs(start, end)
                       if attr[0] in _OPTION_ATTRS], pos)
        ipv4 = not _IPV4_ATTRS.isdisjoint(found)
        ipv6 = not _IPV6_ATTRS.isdisjoint(found)
        if ipv4 and ipv6:
            raise self.error("OVS_KEY_ATTR_TUNNEL mixes IPv4 and IPv6", pos)
        if self.mask:
            self.const |= bits("tun_proto")
            return
        self.const |= (socket.AF_INET6 if ipv6 else socket.AF_INET) \
            << 8 * offset("tun_proto")
        dst = found.get(uapi.OVS_TUNNEL_KEY_ATTR_IPV6_DST if ipv6
                        else uapi.OVS_TUNNEL_KEY_ATTR_IPV4_DST)
        if dst is None or self.zero(dst):
            raise self.error("OVS_KEY_ATTR_TUNNEL has no destination", pos)
        self.nonzero.append(dst)
        if uapi.OVS_TUNNEL_KEY_ATTR_TTL not in found:
            raise self.error("OVS_TUNNEL_KEY_ATTR_TTL is missing", pos)

    def _options(self, found: list[tuple[int, int, int]], pos: int) -> None:
        if not found:
            return
        if len(found) > 1:
            raise self.error("OVS_KEY_ATTR_TUNNEL has options twice", pos)
        type_, start, end = found[0]
        what = TUNNEL_NAMES[type_]
        size = end - start
        if type_ == uapi.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS:
            gbp = None
            for inner, first, stop in self.attrs(start, end):
                if inner != uapi.OVS_VXLAN_EXT_GBP or stop - first != 4:
                    raise self.error("an unknown extension of VXLAN",
                                     first - NLA_HDRLEN)
                gbp = first
            if gbp is not None:
                self.moves.append((gbp, 4, offset("tun_opts")))
            size = 4
        elif (size != ERSPAN_METADATA_SIZE
              if type_ == uapi.OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS
              else size > TUN_OPTS_MAX or size % 4):
            raise self.error(f"{what} has {size} bytes",
                             start - NLA_HDRLEN)
        else:
            self.moves.append((start, size, offset("tun_opts")))
        self.tun_opts_len = size
        if type_ == uapi.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS:
            self.geneve_len = size
        self.const |= (0xff if self.mask else size) \
            << 8 * offset("tun_opts_len")


def name(type_: int) -> str:
    """OVS_KEY_ATTR_* by its number."""
    return KEY_NAMES.get(type_, f"OVS_KEY_ATTR {type_}")
