# SPDX-License-Identifier: Apache-2.0
"""Fragments put together and taken apart; scapy, which was written elsewhere,
takes apart, too."""

from __future__ import annotations

import itertools
import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, IPOption_Timestamp
from scapy.layers.inet import fragment as fragment4
from scapy.layers.inet6 import (
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.packet import Packet, Raw

from dpif_bpf.core.conntrack.fragments import MEMORY, Fragments, Whole, split
from dpif_bpf.wire.checksum import checksum


def four(size: int = 3000, **more: object) -> bytes:
    packet = IP(src="10.0.0.1", dst="10.0.0.2", id=7, **more) / UDP(
        sport=1, dport=2) / Raw(bytes(n & 0xff for n in range(size)))
    return bytes(packet)


def six(size: int = 3000, *extensions: Packet) -> bytes:
    packet: Packet = IPv6(src="fd00::1", dst="fd00::2")
    for extension in extensions:
        packet /= extension
    return bytes(packet / UDP(sport=1, dport=2) / Raw(bytes(
        n & 0xff for n in range(size))))


def cut4(packet: bytes, size: int = 1480) -> list[bytes]:
    return [bytes(part) for part in fragment4(IP(packet), size)]


def cut6(packet: bytes, size: int = 1280, ident: int = 5) -> list[bytes]:
    """By scapy, whose fragment header is where the packet has one."""
    whole = IPv6(packet)
    before = whole
    while isinstance(before.payload, (IPv6ExtHdrHopByHop,
                                      IPv6ExtHdrDestOpt)):
        before = before.payload
    rest = before.payload
    before.remove_payload()
    before.nh = 44
    return [bytes(part) for part in fragment6(
        whole / IPv6ExtHdrFragment(id=ident) / rest, size)]


def add(parts: list[bytes], fragments: Fragments | None = None,
        ) -> list[Whole]:
    fragments = Fragments() if fragments is None else fragments
    found = [fragments.add("here", part, 0) for part in parts]
    return [whole for whole in found if whole is not None]


WHOLE = {
    "v4": (four(), cut4(four())),
    "v4, options": (four(options=[IPOption_Timestamp()]),
                    cut4(four(options=[IPOption_Timestamp()]))),
    "v4, largest": (four(65507), cut4(four(65507))),
    "v6": (six(), cut6(six())),
    "v6, extensions": (six(3000, IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()),
                       cut6(six(3000, IPv6ExtHdrHopByHop(),
                                IPv6ExtHdrDestOpt()))),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_any_order(kind: str) -> None:
    """The very packet, once, whichever fragment comes last."""
    packet, parts = WHOLE[kind]
    rng = random.Random(3)
    orders = (list(itertools.permutations(parts)) if len(parts) < 5 else
              [rng.sample(parts, len(parts)) for _ in range(5)])
    for order in orders:
        fragments = Fragments()
        whole, = add(list(order), fragments)
        assert whole.packet == packet
        assert whole.mru == max(map(len, parts))
        assert len(fragments) == 0 and not any(fragments.failed.values())


def test_same_fragments_twice() -> None:
    """Are ignored, also what is within those that are there."""
    packet, parts = WHOLE["v4"]
    fragments = Fragments()
    small = cut4(packet, 744)
    assert add([parts[0], parts[0], *small[:1], parts[2], parts[2]],
               fragments) == []
    whole, = add(parts[1:2], fragments)
    assert whole.packet == packet


@pytest.mark.parametrize("kind", ["v4", "v6"])
def test_overlapping_ends_the_packet(kind: str) -> None:
    packet, parts = WHOLE[kind]
    other = (cut4(packet, 1000) if kind == "v4"
             else cut6(packet, 1200))[1]
    fragments = Fragments()
    assert add([parts[0], other], fragments) == []
    assert fragments.failed["overlapping"] == 1 and len(fragments) == 0
    # What comes then begins it anew, and is never whole.
    assert add(parts[1:], fragments) == []


def test_two_ends() -> None:
    _, parts = WHOLE["v4"]
    shorter = cut4(four(2000))[-1]
    for order in ([parts[-1], shorter], [shorter, parts[-1]]):
        fragments = Fragments()
        assert add(order, fragments) == []
        assert fragments.failed["malformed"] == 1


def test_others_are_others() -> None:
    """By place, identification, addresses and protocol."""
    packet, parts = WHOLE["v4"]
    fragments = Fragments()
    assert fragments.add("there", parts[0], 0) is None
    other = bytearray(parts[0])
    other[5] ^= 1
    assert add([bytes(other), *parts[1:]], fragments) == []
    other = bytearray(parts[0])
    other[9] = 6
    assert add([bytes(other)], fragments) == []
    whole, = add(parts[:1], fragments)
    assert whole.packet == packet


@pytest.mark.parametrize(("kind", "seconds"), [("v4", 30), ("v6", 60)])
def test_expiry(kind: str, seconds: int) -> None:
    _, parts = WHOLE[kind]
    fragments = Fragments()
    fragments.add("here", parts[0], 1000)
    assert fragments.deadline == 1000 + 1000 * seconds
    fragments.expire(999 + 1000 * seconds)
    assert len(fragments) == 1
    fragments.expire(1000 + 1000 * seconds)
    assert len(fragments) == 0 and fragments.deadline is None
    assert fragments.failed["expired"] == 1
    assert all(fragments.add("here", part, 10 ** 6) is None
               for part in parts[1:])


def test_no_room() -> None:
    """Not more than so many bytes, whatever they are of."""
    _, parts = WHOLE["v4"]
    fragments = Fragments()
    count = 2 * MEMORY // len(parts[0])
    for number in range(count):
        part = bytearray(parts[0])
        part[4:6] = struct.pack("!H", number & 0xffff)
        fragments.add(number >> 16, bytes(part), 0)
    assert len(fragments) <= MEMORY // len(parts[0]) + 1
    assert fragments.failed["no_room"] == count - len(fragments)
    fragments.expire(10 ** 6)
    assert len(add(parts, fragments)) == 1
    assert len(fragments) == 0


def test_dont_fragment_and_congestion() -> None:
    """As ip_frag_reasm(): DF where the largest fragment had it; what a router
    said of congestion is said of the packet."""
    _, parts = WHOLE["v4"]

    def with_(part: bytes, tos: int, df: bool) -> bytes:
        changed = bytearray(part)
        changed[1], changed[6] = tos, changed[6] | 0x40 * df
        return bytes(changed)

    whole, = add([with_(part, 0, True) for part in parts])
    assert whole.packet[6:8] == b"\x40\0"
    assert not checksum(whole.packet[:20])
    whole, = add([with_(part, 3 if n == 1 else 2, False)
                  for n, part in enumerate(parts)])
    assert whole.packet[1] == 3
    assert add([with_(part, 3 if n == 1 else 0, False)
                for n, part in enumerate(parts)]) == []


def test_one_that_has_two() -> None:
    """Only what came one after the other counts as one fragment: in the kernel
    it depends on the order."""
    parts = cut4(four(80), 24)
    both = cut4(four(80), 48)[0]
    for order, whole in ((parts, 1), (parts[1::-1] + parts[2:], 0)):
        fragments = Fragments()
        assert len(add([*order[:2], both, *order[2:]], fragments)) == whole
        assert fragments.failed["overlapping"] == 1 - whole


def test_a_copy_completes_nothing() -> None:
    """The last fragment, within what is there: the kernel does not look."""
    first, = (part for part in cut4(four(40), 44)[:1])
    last = bytearray(cut4(four(40), 28)[-1])
    last[6:8] = struct.pack("!H", 2)
    assert add([first, bytes(last)]) == []


def test_too_long() -> None:
    """The ping of death."""
    part = bytearray(cut4(four(1400), 1480)[0])
    part[6:8] = struct.pack("!H", 65528 // 8)
    fragments = Fragments()
    assert add([bytes(part)], fragments) == []
    assert fragments.failed["malformed"] == 1


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("mru", [1280, 1500, 9000])
def test_split(kind: str, mru: int) -> None:
    """And together again; scapy reads them."""
    packet, _ = WHOLE[kind]
    parts = list(split(packet, mru, 0x12345678))
    assert all(len(part) <= mru for part in parts)
    whole, = add(parts)
    expected = bytearray(packet)
    if packet[0] >> 4 == 4 and len(packet) > 24 and packet[0] & 15 > 5:
        # An option that is the first one's alone.
        assert all(part[20] == 1 for part in parts[1:])
    assert whole.packet == bytes(expected)
    for part in parts:
        if packet[0] >> 4 == 4:
            assert not checksum(part[:(part[0] & 15) * 4])
            assert len(IP(part)) == len(part)
        else:
            assert IPv6(part)[IPv6ExtHdrFragment].id == 0x12345678


def test_split_as_scapy_does() -> None:
    packet = four()
    assert list(split(packet, 1500, 0)) == cut4(packet)
    assert list(split(packet, 20, 0)) == []
    assert list(split(six(), 48, 0)) == []


@given(st.binary(max_size=200))
def test_anything(data: bytes) -> None:
    fragments = Fragments()
    for start in (b"", b"\x45" + bytes(19), b"\x60" + bytes(5) + b"\x2c"):
        fragments.add(0, start + data, 0)
        if len(start + data) > 60:
            list(split(start + data, 100, 0))


def test_many() -> None:
    """A message of ICMP, in fragments of eight bytes."""
    packet = bytes(IP(src="10.0.0.1", dst="10.0.0.2", id=9) / ICMP()
                   / Raw(bytes(500)))
    parts = list(split(packet, 28, 0))
    assert len(parts) == (len(packet) - 20 + 7) // 8
    whole, = add(parts[::-1])
    assert (whole.packet, whole.mru) == (packet, 28)
