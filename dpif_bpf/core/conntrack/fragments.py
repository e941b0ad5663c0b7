# SPDX-License-Identifier: Apache-2.0
"""Fragments: made whole again before ct(), and taken apart at the output.

What is put together, what is thrown away and when is as in Linux
net/ipv4/ip_fragment.c, inet_fragment.c and
net/ipv6/netfilter/nf_conntrack_reasm.c: fragments come in any order; one that
is there already is ignored; one that overlaps another without being within it
ends the whole packet.  So do, with IPv4, two that disagree about where it
ends, of which the second one is ignored with IPv6.

A packet has the headers of its first fragment.  How long the largest fragment
was goes with it (the MRU), and no larger ones are sent: ovs_fragment() of
net/openvswitch/actions.c.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from struct import Struct

from dpif_bpf.wire.checksum import checksum

TIMEOUTS = {4: 30000, 6: 60000}
"""ms that the fragments of a packet are waited for, from the first that comes
on: ipfrag_time, and nf_conntrack_frag6_timeout."""
MEMORY = 4 << 20
"""Bytes of fragments that are kept: ipfrag_high_thresh.  More are not taken
until there is room again."""
DISTANCE = 64
"""Fragments of others, of the same sender, that may come between two of a
packet: ipfrag_max_dist."""
MAX_PACKET = 65535

_DF, _MF, _OFFSET = 0x4000, 0x2000, 0x1fff
_U16 = Struct("!H")
_FRAGMENT, _ROUTING, _HOPOPTS, _DSTOPTS, _AUTH = 44, 43, 0, 60, 51
_ECN_NOT, _ECN_CE = 0, 3


@dataclass(frozen=True, slots=True)
class Whole:
    """A packet that was put together.

    :param packet: from the network header on
    :param mru: bytes of its largest fragment
    """

    packet: bytes
    mru: int


@dataclass(frozen=True, slots=True)
class _Part:
    """A fragment, from the network header on.

    :param start: of its data in the packet's
    :param last: none comes after it
    :param df: it must not be taken apart
    """

    head: bytes
    start: int
    data: bytes
    last: bool
    df: bool
    ecn: int

    @property
    def end(self) -> int:
        return self.start + len(self.data)


@dataclass(slots=True)
class _Queue:
    """Fragments of one packet.

    :param deadline: ms
    :ivar parts: in order
    :ivar runs: [first, behind the last] byte of parts that came one after the
        other at the end, or alone; in order
    :ivar seen: fragments of its sender up to its last one
    """

    deadline: int
    parts: list[_Part] = field(default_factory=list)
    runs: list[list[int]] = field(default_factory=list)
    seen: int = 0
    length: int = 0
    complete: bool = False
    largest: int = 0
    largest_df: int = 0
    size: int = 0


class Fragments:
    """Packets that are not whole yet.

    :ivar failed: packets that came to nothing, by what was wrong
    """

    def __init__(self) -> None:
        self._queues: dict[int, dict[Hashable, _Queue]] = {
            version: {} for version in TIMEOUTS}
        """By version of IP: each waits as long, so that the first one of a
        version is the first to be given up."""
        self._seen: Counter[bytes] = Counter()
        """Fragments of each sender of IPv4, while any are waited for."""
        self._memory = 0
        self.failed = {"expired": 0, "overlapping": 0, "malformed": 0,
                       "no_room": 0, "overtaken": 0}

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    @property
    def deadline(self) -> int | None:
        """ms, when the first of them is given up."""
        return min((next(iter(queues.values())).deadline
                    for queues in self._queues.values() if queues),
                   default=None)

    def expire(self, now: int) -> None:
        """Gives up those that were waited for long enough."""
        for version, queues in self._queues.items():
            while queues:
                key, queue = next(iter(queues.items()))
                if queue.deadline > now:
                    break
                self._fail(version, key, "expired")

    def add(self, where: Hashable, packet: bytes, now: int) -> Whole | None:
        """Takes a fragment.

        :param where: of no two of these are the fragments one packet's: zone
            and the like
        :param packet: from the network header on, without padding
        :param now: ms
        :returns: the packet, if that was the last one missing
        """
        self.expire(now)
        version = packet[0] >> 4 if packet else 0
        found = _parse4(packet) if version == 4 else _parse6(packet)
        if found is None:
            self.failed["malformed"] += 1
            return None
        part, name = found
        key = where, name
        if self._memory > MEMORY:
            self.failed["no_room"] += 1
            return None
        queues = self._queues[version]
        queue = queues.get(key)
        if queue is None:
            queue = queues[key] = _Queue(now + TIMEOUTS[version])
        if version == 4:
            queue = self._fresh(key, queue, packet[12:16], now)
        self._memory -= queue.size
        why = _insert(queue, part, len(part.head) + len(part.data))
        self._memory += queue.size
        if why == "duplicate":
            return None
        if why == "malformed" and version == 6:
            self.failed[why] += 1
            return None
        if why:
            self._fail(version, key, why)
            return None
        if not queue.complete or sum(
                len(part.data) for part in queue.parts) != queue.length:
            return None
        self._forget(version, key)
        whole = _join4(queue) if version == 4 else _join6(queue)
        if whole is None:
            self.failed["malformed"] += 1
        return whole

    def _fresh(self, key: Hashable, queue: _Queue, sender: bytes,
               now: int) -> _Queue:
        """A packet that so many others of its sender have overtaken begins
        anew: its identifier may be in use again (ip_frag_too_far())."""
        self._seen[sender] += 1
        before, queue.seen = queue.seen, self._seen[sender]
        if not queue.parts or queue.seen - before <= DISTANCE:
            return queue
        self._memory -= queue.size
        self.failed["overtaken"] += 1
        del self._queues[4][key]
        fresh = self._queues[4][key] = _Queue(now + TIMEOUTS[4])
        fresh.seen = queue.seen
        return fresh

    def _forget(self, version: int, key: Hashable) -> None:
        self._memory -= self._queues[version].pop(key).size
        if not self._queues[4]:
            self._seen.clear()

    def _fail(self, version: int, key: Hashable, why: str) -> None:
        self._forget(version, key)
        self.failed[why] += 1


def _parse4(packet: bytes) -> tuple[_Part, Hashable] | None:
    if len(packet) < 20:
        return None
    head = (packet[0] & 15) * 4
    if head < 20 or len(packet) < head:
        return None
    where = _U16.unpack_from(packet, 6)[0]
    data = packet[head:]
    last = not where & _MF
    if not last:
        data = data[:len(data) & ~7]
    part = _Part(packet[:head], (where & _OFFSET) * 8, data, last,
                 bool(where & _DF), packet[1] & 3)
    return part, (packet[12:20], packet[4:6], packet[9])


def _fragment_header(packet: bytes) -> tuple[int, int] | None:
    """Where the fragment header of IPv6 is, and where its type is said."""
    kind, said, at = packet[6], 6, 40
    while kind != _FRAGMENT:
        if kind not in (_HOPOPTS, _ROUTING, _DSTOPTS, _AUTH) or (
                at + 8 > len(packet)):
            return None
        size = (packet[at + 1] + 1) * 8
        if kind == _AUTH:
            size = (packet[at + 1] + 2) * 4
        kind, said, at = packet[at], at, at + size
    return (at, said) if at + 8 <= len(packet) else None


def _parse6(packet: bytes) -> tuple[_Part, Hashable] | None:
    if len(packet) < 48 or packet[0] >> 4 != 6:
        return None
    found = _fragment_header(packet)
    if found is None:
        return None
    at, _ = found
    where = _U16.unpack_from(packet, at + 2)[0]
    last, data = not where & 1, packet[at + 8:]
    start = where & 0xfff8
    if (not last and len(data) & 7) or start + len(data) > MAX_PACKET:
        return None
    part = _Part(packet[:at + 8], start, data, last, False,
                 packet[1] >> 4 & 3)
    return part, (packet[8:40], packet[at + 4:at + 8])


def _insert(queue: _Queue, part: _Part, size: int) -> str:
    """Puts a fragment into its place; what is wrong with it, or nothing."""
    if part.end > MAX_PACKET:
        return "malformed"
    if part.last:
        if part.end < queue.length or (queue.complete
                                       and part.end != queue.length):
            return "malformed"
        queue.complete = True
        queue.length = part.end
    elif part.end > queue.length:
        if queue.complete:
            return "malformed"
        queue.length = part.end
    if part.end == part.start:
        return "malformed"
    for first, end in queue.runs:
        if first <= part.start and part.end <= end:
            return "duplicate"
        if first < part.end and part.start < end:
            return "overlapping"
    if queue.runs and queue.runs[-1][1] == part.start:
        queue.runs[-1][1] = part.end
    else:
        insort(queue.runs, [part.start, part.end])
    insort(queue.parts, part, key=lambda other: other.start)
    queue.size += size
    queue.largest = max(queue.largest, size)
    if part.df:
        queue.largest_df = max(queue.largest_df, size)
    return ""


def _ecn(parts: list[_Part]) -> int | None:
    """What the packet says of congestion; None: its fragments disagree, by
    ip_frag_ecn_table."""
    seen = {part.ecn for part in parts}
    if _ECN_NOT in seen and len(seen) > 1:
        return None
    return _ECN_CE if _ECN_CE in seen else 0


def _join4(queue: _Queue) -> Whole | None:
    head = bytearray(queue.parts[0].head)
    data = b"".join(part.data for part in queue.parts)
    ecn = _ecn(queue.parts)
    if len(head) + len(data) > MAX_PACKET or ecn is None:
        return None
    head[1] |= ecn
    df = queue.largest_df == queue.largest
    _U16.pack_into(head, 2, len(head) + len(data))
    _U16.pack_into(head, 6, _DF if df else 0)
    head[10:12] = b"\0\0"
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    return Whole(bytes(head) + data, max(queue.largest, queue.largest_df))


def _join6(queue: _Queue) -> Whole | None:
    first = queue.parts[0].head
    head = bytearray(first[:-8])
    found = _fragment_header(first)
    ecn = _ecn(queue.parts)
    data = b"".join(part.data for part in queue.parts)
    length = len(head) - 40 + len(data)
    if found is None or length > MAX_PACKET or ecn is None:
        return None
    head[found[1]] = first[found[0]]
    head[1] |= ecn << 4
    _U16.pack_into(head, 4, length)
    return Whole(bytes(head) + data, queue.largest)


def split(packet: bytes, mru: int, ident: int) -> Iterator[bytes]:
    """Takes a packet apart.

    :param packet: from the network header on
    :param mru: bytes that a fragment has at most
    :param ident: of IPv6, 32 bits
    :returns: fragments, the first one first; none when there is no room in
        one for any data
    """
    if packet[0] >> 4 == 4:
        return _split4(packet, mru)
    return _split6(packet, mru, ident)


def _split4(packet: bytes, mru: int) -> Iterator[bytes]:
    size = (packet[0] & 15) * 4
    room = (mru - size) & ~7
    if room <= 0:
        return
    where = _U16.unpack_from(packet, 6)[0]
    first, later = bytearray(packet[:size]), bytearray(
        packet[:20] + _later_options(packet[20:size]))
    data = packet[size:]
    for at in range(0, len(data), room):
        piece = data[at:at + room]
        head = later if at else first
        more = at + room < len(data) or where & _MF
        _U16.pack_into(head, 2, size + len(piece))
        _U16.pack_into(head, 6, (where & (_DF | _OFFSET)) + at // 8
                       | (_MF if more else 0))
        head[10:12] = b"\0\0"
        head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
        yield bytes(head) + piece


def _later_options(options: bytes) -> bytes:
    """Those that are not copied become no operations, as by
    ip_options_fragment()."""
    result, at = bytearray(options), 0
    while at < len(options):
        kind = options[at]
        if kind == 0:
            break
        if kind == 1:
            at += 1
            continue
        if at + 1 >= len(options):
            break
        length = options[at + 1]
        if length < 2 or at + length > len(options):
            break
        if not kind & 0x80:
            result[at:at + length] = b"\1" * length
        at += length
    return bytes(result)


def _split6(packet: bytes, mru: int, ident: int) -> Iterator[bytes]:
    said, at, route = 6, 40, False
    while True:
        kind = packet[said]
        if kind not in (_HOPOPTS, _ROUTING, _DSTOPTS) or (
                kind == _DSTOPTS and route) or at + 8 > len(packet):
            break
        route |= kind == _ROUTING
        said, at = at, at + (packet[at + 1] + 1) * 8
    room = (mru - at - 8) & ~7
    if room <= 0:
        return
    head, data = bytearray(packet[:at]), packet[at:]
    kind, head[said] = head[said], _FRAGMENT
    for start in range(0, len(data), room):
        piece = data[start:start + room]
        more = start + room < len(data)
        _U16.pack_into(head, 4, at - 40 + 8 + len(piece))
        yield (bytes(head) + bytes((kind, 0)) + _U16.pack(start | more)
               + ident.to_bytes(4, "big") + piece)
