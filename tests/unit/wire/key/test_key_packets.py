# SPDX-License-Identifier: Apache-2.0
"""Keys of packets: the oracle's image, to netlink and back."""

from __future__ import annotations

import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from oracle_key import Meta, extract

from dpif_bpf import abi
from dpif_bpf.errors import RequestError
from dpif_bpf.wire.key import decode as key
from dpif_bpf.wire.key.encode import encode_key

# Fields that upcalls do not carry yet.
LATER = ("ipv6_exthdrs",)

addresses = st.binary(min_size=6, max_size=6)
ports = st.binary(min_size=4, max_size=4)


@st.composite
def transport(draw: st.DrawFn) -> tuple[int, bytes]:
    """A protocol number and the header that belongs to it, or half of it."""
    proto = draw(st.sampled_from([1, 2, 6, 17, 47, 58, 132]))
    head = draw(ports) + draw(st.binary(min_size=8, max_size=8)) + bytes(
        [0x50, draw(st.integers(0, 255))]) + bytes(8)
    if proto == 58:
        option = bytes([draw(st.integers(1, 2)), 1]) + draw(addresses)
        head = bytes([draw(st.sampled_from([128, 135, 136])),
                      0, 0, 0]) + bytes(4) + draw(
            st.binary(min_size=16, max_size=16)) + option
    return proto, head[:draw(st.sampled_from([len(head), 3, 20]))]


@st.composite
def network(draw: st.DrawFn) -> tuple[int, bytes]:
    """An Ethernet type and what follows it."""
    kind = draw(st.sampled_from(["ipv4", "ipv6", "arp", "raw"]))
    proto, payload = draw(transport())
    if kind == "ipv4":
        return 0x0800, struct.pack(
            "!BBHHHBBH4s4s", 0x45, draw(st.integers(0, 255)),
            20 + len(payload), 0, draw(st.sampled_from(
                [0, 0x4000, 0x2000, 0x2010, 5])),
            draw(st.integers(0, 255)), proto, 0, draw(ports),
            draw(ports)) + payload
    if kind == "ipv6":
        return 0x86dd, struct.pack(
            "!IHBB", 6 << 28 | draw(st.integers(0, (1 << 28) - 1)),
            len(payload), proto, draw(st.integers(0, 255))) + draw(
            st.binary(min_size=32, max_size=32)) + payload
    if kind == "arp":
        return draw(st.sampled_from([0x0806, 0x8035])), struct.pack(
            "!HHBBH", 1, 0x0800, 6, 4, draw(st.integers(0, 300))) + draw(
            st.binary(min_size=20, max_size=20))
    return draw(st.sampled_from([0, 100, 0x05ff, 0x0600, 0x88cc, 0x8100,
                                 0x8847, 0x8848, 0x894f, 0xffff])), payload


@st.composite
def frames(draw: st.DrawFn) -> bytes:
    eth_type, payload = draw(network())
    tag = draw(st.sampled_from([b"", b"\x81\x00", b"\x88\xa8"]))
    if tag:
        tag += draw(st.binary(min_size=2, max_size=2))
    return draw(addresses) + draw(addresses) + tag + struct.pack(
        "!H", eth_type) + payload


metas = st.builds(
    Meta, in_port=st.sampled_from([0, 1, 65534]),
    recirc_id=st.integers(0, 0xffffffff),
    skb_priority=st.integers(0, 0xffffffff),
    skb_mark=st.integers(0, 0xffffffff),
    dp_hash=st.integers(0, 0xffffffff))


def bottomless(image: bytes) -> bool:
    """MPLS without a last label: the key has an attribute of no label, as
    the kernel's, which no one takes back."""
    eth_type = int.from_bytes(image[abi.KEY["eth_type"].slice], "big")
    return (eth_type in {0x8847, 0x8848}
            and not any(image[abi.KEY["mpls_labels"].slice]))


def check(attrs: bytes, image: bytes) -> None:
    """The key of a packet, read again."""
    if bottomless(image):
        with pytest.raises(RequestError, match="MPLS has 0 bytes"):
            key.decode_key(attrs)
    else:
        assert key.decode_key(attrs) == expected(image)


def expected(image: bytes) -> int:
    raw = bytearray(image)
    for name in LATER:
        raw[abi.KEY[name].slice] = bytes(abi.KEY[name].size)
    return int.from_bytes(raw, "little")


@given(frames(), metas)
@example(b"\1" * 12 + b"\x81\x00", Meta())
@example(b"\1" * 12 + b"\x81\x00\x00\x05\x08\x06", Meta())
@example(b"\1" * 12 + b"\x81\x00\x00\x05\x81\x00\x00", Meta())
def test_there_and_back(frame: bytes, meta: Meta) -> None:
    found = extract(frame, meta)
    if found is None:       # malformed NSH is dropped
        return
    attrs = encode_key(found.key[:8 * abi.OVS_KEY_BASE])
    check(attrs, found.key)
    assert len(attrs) % 4 == 0


@given(network(), metas)
def test_layer_3(packet: tuple[int, bytes], meta: Meta) -> None:
    eth_type, payload = packet
    if eth_type < 0x0600 or eth_type == 0x8100:
        return
    found = extract(payload, Meta(meta.in_port, meta.recirc_id,
                                  protocol=eth_type))
    if found is None:
        return
    attrs = encode_key(found.key[:8 * abi.OVS_KEY_BASE])
    check(attrs, found.key)
    image = int.from_bytes(key.decode_metadata(attrs).image, "little")
    assert image >> 64 & 0xffffff == expected(found.key) >> 64 & 0xffffff
