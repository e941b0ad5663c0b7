# SPDX-License-Identifier: Apache-2.0
"""Netlink flow keys and masks to key images.

A key image is struct ovs_key of bpf/lib/abi.h as a little-endian integer:
word i of the structure is ``image >> 64 * i & (1 << 64) - 1``.

Megaflows repeat a few layouts of attributes with other values.  What
``wire.key.match`` finds out about a layout is therefore kept as a *plan*: the
bits that a key must have for the plan to hold, and for each byte of the image
the place in the key from which it comes.  Where a layout is known, the image
is made by one bytes.translate(): the key is the table, and what is translated
are the places.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from dpif_bpf import abi
from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import (
    MAC_PROTO_ETHERNET,
    MAC_PROTO_NONE,
    KeyFacts,
)
from dpif_bpf.wire.key.attrs import be16_bits, bits, offset
from dpif_bpf.wire.key.match import (
    KeyShape,
    key_shape,
    mask_shape,
    metadata_layout,
)
from dpif_bpf.wire.key.walk import Layout, invalid, name
from dpif_bpf.wire.netlink import NLA_HDRLEN
from dpif_bpf.wire.protocols import ETH_P_IP, ETH_P_IPV6

CHUNK = 255
"""Bytes of a table for bytes.translate(); one more is the zero."""
PLANS_PER_LENGTH = 32
"""Layouts of one length that are kept; the one used last comes first."""
LENGTHS = 256
PLANS = 8192
"""Plans that are made before the collection starts anew."""
LENGTH_MAX = 1024
"""Bytes of keys and masks whose plans are kept; no packet has as many.  A
plan takes a few times as much memory."""
FACTS = 4096

_IMAGE_SIZE = 8 * abi.OVS_KEY_BASE
_USED_SIZE = 8 * abi.OVS_KEY_USED
_IN_PORT = bits("in_port")
_ETH_TYPE = bits("eth_type")
_IP_PROTO = bits("ip_proto")
_TP_SRC = bits("tp_src")
_ICMP_TYPE = be16_bits("tp_src", 0xff)
_FACT_BITS = (bits("eth_type") | bits("mac_proto") | bits("ip_frag")
              | bits("ip_proto") | bits("vlan_tci") | bits("nsh_mdtype")
              | bits("nsh_np") | bits("mpls_labels") | bits("tun_proto"))


_TUPLES = {uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4: ETH_P_IP,
           uapi.OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6: ETH_P_IPV6}


@dataclass(frozen=True, slots=True)
class Match:
    """What a flow matches.

    :param key: image of the key, bits outside of `mask` zero
    :param mask: image of the mask
    :param full_key: image of the key with the bits that the mask leaves out
    :param facts: what actions may rely on
    """

    key: int
    mask: int
    full_key: int
    facts: KeyFacts


@dataclass(frozen=True, slots=True)
class Metadata:
    """What an execute says of its packet beside the packet itself.

    :param image: key image of OVS_KEY_BASE words, or of OVS_KEY_USED where
        there are tunnel options; only metadata are set
    :param in_port: port number; DP_MAX_PORTS when none is given
    :param tuples: Ethernet types of the packets that may have the original
        tuples that are given
    """

    image: bytes
    in_port: int
    tuples: frozenset[int] = frozenset()


class _Plan:
    """How a layout becomes an image.

    :ivar same: which bits of the netlink attributes the plan depends on
    :ivar value: what they have to be
    :ivar nonzero: of each of these, some bit has to be set
    :ivar not_ones: of these, some bit must not be set
    :ivar places: for each CHUNK bytes of the attributes their offset and,
        for each byte of the image, its place in the chunk
    :ivar const: bits to be set beside
    :ivar reusable: whether these are all that it depends on
    """

    __slots__ = ("const", "nonzero", "not_ones", "places", "reusable",
                 "same", "value")

    def __init__(self, layout: Layout) -> None:
        buf = layout.buf
        self.same = int.from_bytes(layout.fixed, "little")
        self.value = int.from_bytes(buf, "little") & self.same
        self.nonzero = tuple(_span(*where) for where in layout.nonzero)
        # A bit beyond the attributes is never set.
        self.not_ones = _span(*(layout.not_ones or (len(buf), len(buf) + 1)))
        self.places = _places(len(buf), layout.moves)
        self.const = layout.const
        self.reusable = layout.reusable

    def holds(self, number: int) -> bool:
        """Whether this is the plan for these attributes."""
        return (number & self.same == self.value
                and number & self.not_ones != self.not_ones
                and (not self.nonzero
                     or all(number & part for part in self.nonzero)))

    def image(self, buf: bytes) -> int:
        """The image of attributes for which the plan holds."""
        image = self.const
        for start, places in self.places:
            table = buf[start:start + CHUNK].ljust(256, b"\0")
            image |= int.from_bytes(places.translate(table), "little")
        return image


class _MetadataPlan(_Plan):
    """A plan of an execute's key.

    :ivar tuples: of Metadata
    """

    __slots__ = ("tuples",)

    def __init__(self, layout: Layout) -> None:
        super().__init__(layout)
        self.tuples = frozenset(_TUPLES[type_] for type_ in _TUPLES
                                if type_ in layout.found)


class _KeyPlan(_Plan):
    """A key's plan and what it says of its masks.

    :ivar exact: the mask of a flow without OVS_FLOW_ATTR_MASK
    :ivar masks: plans of masks by their length
    """

    __slots__ = ("exact", "masks", "shape")

    def __init__(self, shape: KeyShape) -> None:
        super().__init__(shape.layout)
        self.shape = shape
        self.exact = _exact(shape)
        self.masks: dict[int, list[_MaskPlan]] = {}


class _MaskPlan(_Plan):
    """A mask's plan.

    An example.  The key holds ETHERTYPE 0x0800, IPV4 and UDP; whoever puts
    the flow sends a mask of the same three attributes.  The bytes of the mask
    that IPV4 and UDP take mean something only where the type and the protocol
    are matched exactly, and which masks do that is seen from their values
    alone.  So the plan, made once for the layout, says where to look:

    - ``eth`` has the bits of IPV4 and UDP: one of them set needs an exact
      ETHERTYPE; ``proto`` those of UDP: one of them set needs an exact
      protocol in IPV4.
    - ``never`` would have the bits of an attribute that the key has not got.
    - ``places`` moves the bytes into the image, as those of a key.

    Three masks of this layout::

        ETHERTYPE  IPV4                  UDP
        ffff       dst /24               -         good
        ffff       dst /24, protocol ff  dst ffff  good
        ffff       dst /24               dst ffff  EINVAL: a bit of ``proto``
                                                   and no exact protocol

    For each of them, some ANDs of big integers check what the kernel's
    match_validate() and ovs_nla_get_match() check attribute by attribute, and
    one translate() makes the image.

    :ivar exact: bits of the image that must be set
    :ivar tags: all bits and the CFI bit of the TCI of matched VLAN tags
    :ivar never: bits of the netlink attributes that must not be set
    :ivar eth: bits that need an exact Ethernet type
    :ivar proto: bits that need an exact IP protocol
    :ivar nd: bits that need an exact ICMPv6 type
    :ivar port: bits of the input port, which is matched as a whole
    """

    __slots__ = ("eth", "exact", "nd", "never", "port", "proto", "tags")

    def __init__(self, shape: KeyShape, mask: bytes, base: int) -> None:
        result = mask_shape(shape, mask, base)
        super().__init__(result.layout)
        self.exact = result.exact
        self.tags = result.tags
        gated = {gate: sum(_span(*where) for where in places)
                 for gate, places in result.gated.items()}
        self.eth = gated["eth"]
        self.proto = gated["proto"]
        self.nd = gated["nd"]
        self.never = gated["never"]
        self.port = _span(*result.layout.found.get(
            uapi.OVS_KEY_ATTR_IN_PORT, (0, 0)))


_AnyPlan = TypeVar("_AnyPlan", bound=_Plan)

_keys: dict[int, list[_KeyPlan]] = {}
_metadata: dict[int, list[_MetadataPlan]] = {}
_facts: dict[int, KeyFacts] = {}
_made = 0
"""Plans that are kept in these two, and in those of keys for masks."""


@decoder
def decode_match(key: bytes, mask: bytes | None, key_pos: int = 0,
                 mask_pos: int = 0) -> Match:
    """The match of a flow.

    :param key: payload of OVS_FLOW_ATTR_KEY
    :param mask: payload of OVS_FLOW_ATTR_MASK; None: all bits of the
        attributes of `key` are matched
    :param key_pos: offset of `key` in the message, for errors
    :param mask_pos: likewise
    :raises RequestError: EINVAL
    """
    plan = _key_plan(key, key_pos)
    full = plan.image(key)
    if mask is None:
        if plan.exact is None:
            raise _exact_error(plan.shape, key_pos)
        bits_ = plan.exact
    else:
        bits_ = _mask(plan, mask, mask_pos)
    masked = full & bits_
    facts = _facts.get(masked & _FACT_BITS)
    if facts is None:
        facts = _key_facts(masked & _FACT_BITS)
    return Match(masked, bits_, full, facts)


@decoder
def decode_key(key: bytes, key_pos: int = 0) -> int:
    """Image of a key alone, as it names a flow that has no UFID.

    :raises RequestError: EINVAL
    """
    return _key_plan(key, key_pos).image(key)


@decoder
def decode_metadata(key: bytes, key_pos: int = 0) -> Metadata:
    """Metadata of an execute (ovs_flow_key_extract_userspace()).

    Attributes of what the packet itself tells are checked and left out.

    :param key: payload of OVS_PACKET_ATTR_KEY
    :raises RequestError: EINVAL
    """
    number = int.from_bytes(key, "little")
    plans = _metadata.get(len(key), [])
    for plan in plans:
        if plan.holds(number):
            break
    else:
        plan = _MetadataPlan(metadata_layout(key, key_pos))
        _keep(_metadata, len(key), plan)
    image = plan.image(key)
    size = _IMAGE_SIZE if image >> 8 * _IMAGE_SIZE == 0 else _USED_SIZE
    return Metadata(image.to_bytes(size, "little"), image & _IN_PORT,
                    plan.tuples)


def decode_tunnel(attrs: bytes, pos: int = 0) -> bytes:
    """A tunnel that packets are sent into: struct ovs_tunnel, without what is
    behind its options, in whole words.

    :param attrs: payload of OVS_KEY_ATTR_TUNNEL
    :param pos: of `attrs` in the message, for errors
    :raises RequestError: EINVAL
    """
    layout = Layout(attrs, pos)
    layout.tunnel(0, len(attrs))
    image = _Plan(layout).image(attrs).to_bytes(_USED_SIZE, "little")
    tunnel = bytearray(image[offset("tun_id"):])
    tunnel[abi.TUNNEL["proto"].offset] = image[offset("tun_proto")]
    words = abi.OVS_TUNNEL_BASE + (layout.tun_opts_len + 7) // 8
    return bytes(tunnel[:8 * words])


def _key_plan(key: bytes, base: int) -> _KeyPlan:
    number = int.from_bytes(key, "little")
    plans = _keys.get(len(key))
    if plans is not None:
        for i, plan in enumerate(plans):
            if plan.holds(number):
                if i:
                    del plans[i]
                    plans.insert(0, plan)
                return plan
    plan = _KeyPlan(key_shape(key, base))
    _keep(_keys, len(key), plan)
    return plan


def _mask(key: _KeyPlan, mask: bytes, base: int) -> int:
    number = int.from_bytes(mask, "little")
    plans = key.masks.get(len(mask), [])
    for plan in plans:
        if plan.holds(number):
            break
    else:
        plan = _MaskPlan(key.shape, mask, base)
        if plan.reusable:
            _keep(key.masks, len(mask), plan)
    image = plan.image(mask)
    if number & plan.port:
        image |= _IN_PORT
    if image & _ETH_TYPE:
        image |= _ETH_TYPE
    elif number & plan.eth:
        raise _gate_error(mask, base, number & plan.eth,
                          "OVS_KEY_ATTR_ETHERTYPE")
    if number & plan.proto and image & _IP_PROTO != _IP_PROTO:
        raise _gate_error(mask, base, number & plan.proto, "the IP protocol")
    if number & plan.nd and image & _TP_SRC != _ICMP_TYPE:
        raise _gate_error(mask, base, number & plan.nd, "the ICMPv6 type")
    if number & plan.never:
        raise _gate_error(mask, base, number & plan.never, "")
    if image & plan.exact != plan.exact:
        raise invalid("in the mask: the type of a VLAN tag must be exact")
    for tci, cfi in plan.tags:
        if image & tci and not image & cfi:
            raise invalid("in the mask: OVS_KEY_ATTR_VLAN without the CFI"
                          " bit")
        image |= cfi
    return image


def _keep(plans: dict[int, list[_AnyPlan]], length: int,
          plan: _AnyPlan) -> None:
    global _made
    if length > LENGTH_MAX:
        return
    _made += 1
    if _made > PLANS:
        _keys.clear()
        _metadata.clear()
        _made = 1
    if length not in plans and len(plans) >= LENGTHS:
        plans.clear()
    same_length = plans.setdefault(length, [])
    same_length.insert(0, plan)
    del same_length[PLANS_PER_LENGTH:]


def _span(start: int, end: int) -> int:
    """All bits of these bytes."""
    return (1 << 8 * end) - (1 << 8 * start)


def _places(length: int, moves: list[tuple[int, int, int]]
            ) -> tuple[tuple[int, bytes], ...]:
    """_Plan.places of attributes of `length` bytes.

    A later move covers an earlier one.
    """
    size = max((dst + n for _, n, dst in moves), default=0)
    source = [-1] * size
    for src, n, dst in moves:
        source[dst:dst + n] = range(src, src + n)
    return tuple(
        (start, bytes(src - start if start <= src < start + CHUNK else CHUNK
                      for src in source))
        for start in range(0, max(length, 1), CHUNK))


def _exact(shape: KeyShape) -> int | None:
    """The mask that has all bits of a key's attributes.

    None when the kernel refuses such a mask: where the key has an attribute
    that it says nothing about, and where OVS_KEY_ATTR_ENCAP is empty.
    """
    layout = shape.layout
    if shape.bare or not layout.found.keys() <= shape.gates.keys():
        return None
    exact = 0
    for _, n, dst in layout.moves:
        exact |= _span(dst, dst + n)
    exact |= bits("mac_proto") | layout.const & bits("mpls_labels")
    if not shape.tags:
        exact |= bits("vlan_tci")
    elif shape.tags == 1:
        exact |= bits("cvlan_tci")
    if uapi.OVS_KEY_ATTR_TUNNEL in layout.found:
        exact |= _span(offset("tun_id"), offset("tun_flags"))
        exact |= bits("tun_tos") | bits("tun_ttl") | bits("tun_proto")
        exact |= bits("tun_tp_src") | bits("tun_tp_dst")
        exact |= layout.const & bits("tun_flags")
        if layout.tun_opts_len:
            exact |= bits("tun_opts_len")
    return exact


def _exact_error(shape: KeyShape, base: int) -> RequestError:
    # The plan is of a key that was elsewhere in its message.
    layout = replace(shape.layout, base=base)
    if shape.bare:
        return invalid("OVS_KEY_ATTR_ENCAP is empty and there is no mask")
    type_ = min(layout.found.keys() - shape.gates.keys())
    return layout.error(f"{name(type_)} is not expected",
                        layout.found[type_][0] - NLA_HDRLEN)


def _gate_error(mask: bytes, base: int, offending: int,
                condition: str) -> RequestError:
    """The error of the attribute in which the first bit of `offending` is."""
    at = ((offending & -offending).bit_length() - 1) // 8
    layout = Layout(mask, base, mask=True)
    start, end = 0, len(mask)
    while True:
        type_, first, stop = next(
            attr for attr in layout.attrs(start, end)
            if attr[1] <= at < attr[2])
        if type_ != uapi.OVS_KEY_ATTR_ENCAP:
            break
        start, end = first, stop
    text = (f"{name(type_)} without an exact match on {condition}"
            if condition else f"{name(type_)} is not expected")
    return layout.error(text, first - NLA_HDRLEN)


def _key_facts(masked: int) -> KeyFacts:
    """Facts of a masked image; kept, as there are few."""
    raw = masked.to_bytes(_IMAGE_SIZE, "little")

    def value(field: str, order: Literal["big", "little"] = "big") -> int:
        return int.from_bytes(raw[abi.KEY[field].slice], order)

    facts = KeyFacts(
        eth_type=value("eth_type"), ip_proto=value("ip_proto"),
        vlan_tci=value("vlan_tci"),
        mac_proto=(MAC_PROTO_NONE if value("mac_proto")
                   else MAC_PROTO_ETHERNET),
        ip_frag=value("ip_frag"), tun_proto=value("tun_proto"),
        nsh_mdtype=value("nsh_mdtype"), nsh_np=value("nsh_np"),
        mpls_num_lse=value("mpls_labels", "little").bit_count())
    if len(_facts) >= FACTS:
        _facts.clear()
    _facts[masked] = facts
    return facts
