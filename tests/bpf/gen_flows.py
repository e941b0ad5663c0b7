# SPDX-License-Identifier: Apache-2.0
"""Flows for hypothesis: keys that a packet has or nearly has, and masks.

Keys and masks are images (``struct ovs_key``), as normal as the datapath makes
them: what attributes cannot say is not in them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gen_frames import sometimes
from hypothesis import strategies as st
from oracle_key import CFI
from oracle_path import Flow

from dpif_bpf.abi import KEY

Draw = Callable[[st.SearchStrategy[Any]], Any]

IP, IPV6, MPLS, ARP, NSH = (
    {0x0800}, {0x86dd}, {0x8847, 0x8848}, {0x0806, 0x8035}, {0x894f})
PORTS = 4
LATER = 2

META = ("skb_priority", "skb_mark")
ADDRESSES = ("eth_src", "eth_dst")
IP_BYTES = ("ip_tos", "ip_ttl", "ip_frag")
BELOW = {
    0x0800: ("ipv4_src", "ipv4_dst", *IP_BYTES),
    0x86dd: ("ipv6_src", "ipv6_dst", "ipv6_label", *IP_BYTES),
    0x0806: ("ipv4_src", "ipv4_dst", "ip_proto", "arp_sha", "arp_tha"),
    0x8035: ("ipv4_src", "ipv4_dst", "ip_proto", "arp_sha", "arp_tha"),
    0x894f: ("nsh_flags", "nsh_ttl", "nsh_np", "nsh_path_hdr"),
}
FREE = (*META, *ADDRESSES, "ip_tos", "ip_ttl", "ipv4_src", "ipv4_dst",
        "ipv6_src", "ipv6_dst", "nsh_path_hdr", "nsh_context")
"""Fields that a key may have with any value."""


class Image:
    """A key or a mask that is made field by field."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray(data or bytes(KEY.size))

    def __getitem__(self, name: str) -> bytes:
        return bytes(self.data[KEY[name].slice])

    def __setitem__(self, name: str, value: bytes) -> None:
        assert len(value) == KEY[name].size
        self.data[KEY[name].slice] = value

    def be16(self, name: str) -> int:
        return int.from_bytes(self[name], "big")

    def fill(self, *names: str) -> None:
        """All bits of fields."""
        for name in names:
            self[name] = b"\xff" * KEY[name].size


def can_be_put(key: bytes) -> bool:
    """Whether netlink has attributes for such a key.

    The kernel refuses a stack of labels without an end, NSH whose metadata
    it does not know, a tag that is cut off.
    """
    image = Image(key)
    eth_type = image.be16("eth_type")
    if eth_type in MPLS:
        return any(image["mpls_labels"])
    return eth_type not in {0x8100, 0x88a8}


def _bits(draw: Draw, size: int) -> bytes:
    """The mask of a field: often nothing or everything."""
    kind = draw(st.sampled_from(["none", "all", "prefix", "any"]))
    if kind in {"none", "all"}:
        return (b"\xff" if kind == "all" else b"\0") * size
    if kind == "prefix":
        bits = draw(st.integers(0, 8 * size))
        return ((1 << 8 * size) - (1 << 8 * size - bits)).to_bytes(
            size, "big")
    return bytes(draw(st.binary(min_size=size, max_size=size)))


def draw_mask(draw: Draw, key: bytes, proto: bool) -> bytes:
    """A mask for a key; what others depend on is there.

    :param proto: the IP protocol must be matched
    """
    shape, mask = Image(key), Image()
    mask.fill("recirc_id", "mac_proto", "eth_type")
    if not sometimes(draw, 15):
        mask.fill("in_port")

    def some(*names: str) -> None:
        for name in names:
            mask[name] = _bits(draw, KEY[name].size)

    some(*META)
    if not any(shape["mac_proto"]):
        some(*ADDRESSES)
        _mask_tags(draw, shape, mask)
    eth_type = shape.be16("eth_type")
    # OVS_KEY_ATTR_NSH is nested: it says something even when it is zero.
    if (not proto and not shape.be16("vlan_tci") and eth_type not in NSH
            and sometimes(draw, 8)):
        mask["eth_type"] = bytes(2)
        return bytes(mask.data)
    some(*BELOW.get(eth_type, ()))
    if any(mask["ipv6_label"]):
        # 20 bits
        mask["ipv6_label"] = bytes(
            a & b for a, b in zip(mask["ipv6_label"], b"\0\x0f\xff\xff",
                                  strict=True))
    if eth_type in MPLS:
        count = int.from_bytes(shape["mpls_labels"], "little").bit_count()
        mask["mpls_labels"] = shape["mpls_labels"]
        mask["mpls_lse"] = _bits(draw, 4 * count).ljust(12, b"\0")
    elif eth_type in NSH:
        mask.fill("nsh_mdtype")
        if shape["nsh_mdtype"] == b"\1":
            some("nsh_context")
    elif eth_type in IP | IPV6 and (proto or draw(st.booleans())):
        mask.fill("ip_proto", "ip_frag")
        if shape["ip_frag"][0] != LATER:
            _mask_transport(draw, shape, mask)
    return bytes(mask.data)


def _mask_tags(draw: Draw, shape: Image, mask: Image) -> None:
    for name in ("vlan", "cvlan"):
        if shape.be16(f"{name}_tci") & CFI:
            tci = int.from_bytes(_bits(draw, 2), "big") | CFI
            mask[f"{name}_tci"] = tci.to_bytes(2, "big")
            mask.fill(f"{name}_tpid")
        else:
            mask.fill(f"{name}_tci")


def _mask_transport(draw: Draw, shape: Image, mask: Image) -> None:
    proto = shape["ip_proto"][0]
    if proto in {6, 17, 132}:
        mask["tp_src"], mask["tp_dst"] = _bits(draw, 2), _bits(draw, 2)
        if proto == 6:
            mask["tcp_flags"] = _bits(draw, 2)
    elif (proto, shape.be16("eth_type")) in {(1, 0x0800), (58, 0x86dd)}:
        mask["tp_src"] = b"\0" + _bits(draw, 1)
        mask["tp_dst"] = b"\0" + _bits(draw, 1)
        if proto == 58 and shape.be16("tp_src") in {135, 136} and draw(
                st.booleans()):
            mask["tp_src"] = mask["tp_dst"] = b"\0\xff"
            for name in ("nd_target", "nd_sll", "nd_tll"):
                mask[name] = _bits(draw, KEY[name].size)


def draw_decoy(draw: Draw, flow: Flow) -> Flow:
    """A flow of the same mask for packets that differ in one bit."""
    names = [name for name in FREE if any(flow.mask[KEY[name].slice])]
    key = Image(flow.key)
    if not names:
        if not any(flow.mask[KEY["in_port"].slice]):
            return flow
        port = (key["in_port"][0] % PORTS) + 1
        key["in_port"] = port.to_bytes(2, "little")
        return Flow(bytes(key.data), flow.mask, flow.actions)
    place = KEY[draw(st.sampled_from(names))]
    bits = [(at, bit) for at in range(place.offset, place.offset + place.size)
            for bit in range(8) if flow.mask[at] >> bit & 1]
    at, bit = draw(st.sampled_from(bits))
    key.data[at] ^= 1 << bit
    return Flow(bytes(key.data), flow.mask, flow.actions)


def disjoint(flow: Flow, others: Sequence[Flow]) -> bool:
    """Whether no packet is of the flow and of another one."""
    return all(any((a ^ b) & m & n for a, b, m, n in zip(
        flow.key, other.key, flow.mask, other.mask, strict=True))
        for other in others)
