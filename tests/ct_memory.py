# SPDX-License-Identifier: Apache-2.0
"""The connection tracker's maps in plain memory, and what its programs do to
them."""

from __future__ import annotations

import struct
from typing import Any

from dpif_bpf import abi, abi_ct
from dpif_bpf.core.conntrack.hashing import Hash
from dpif_bpf.core.conntrack.memory import MAPPED, CtMemory, CtSizes
from dpif_bpf.core.conntrack.table import Time
from dpif_bpf.core.conntrack.tuples import pack_tuple
from dpif_bpf.wire.ct_entry import CtEntry, SctpInfo, TcpInfo
from tests.mapped import mapped

NS = 10 ** 9
HELPERS = ("", "ftp", "tftp")


def record(entry: CtEntry, zone_gen: int = 0, master: int = 0,
           word: int = 0, start: int = 0, policy: int = 0,
           master_gen: int = 0) -> bytes:
    """Of bpf/lib/abi_ct.h, written down once more."""
    proto = bytearray(64)
    info = entry.protoinfo
    if isinstance(info, TcpInfo):
        for i in (0, 1):
            proto[20 * i + 16] = info.scales[i]
            proto[20 * i + 17] = info.flags[i]
    elif isinstance(info, SctpInfo):
        struct.pack_into("!II", proto, 0, *info.vtags)
    assert entry.counters is not None
    adjusts = entry.seq_adj
    shifts = ([0] * 6 if adjusts is None else
              [getattr(one, name) for name in ("pos", "before", "after")
               for one in adjusts])
    data = (struct.pack("=Q", word) + pack_tuple(entry.orig, entry.zone)
            + struct.pack("=IBxHII", entry.status,
                          0 if info is None else info.state, policy,
                          entry.mark, zone_gen)
            + pack_tuple(entry.reply, entry.zone) + entry.labels
            + struct.pack("=IHH", master, HELPERS.index(entry.helper),
                          master_gen)
            + bytes(proto)
            + struct.pack("=4Q", *(entry.counters[i][j] for j in (0, 1)
                                   for i in (0, 1)))
            + struct.pack("=QII4i", start, *shifts))
    assert len(data) == 256
    return data


def sizes(most: int) -> dict[str, int]:
    """Bytes of the maps."""
    entries = CtSizes.for_connections(most).entries()
    return {name: abi.MAPS[name].size * (abi.MAPS[name].entries
                                         or entries[name])
            for name in MAPPED}


class Tracker:
    """A table, at a time that stands still.

    :param most: connections that there may be
    :ivar maps: what the provider has mapped
    :ivar busy: ids of connections that others have locked
    """

    def __init__(self, most: int = 1000,
                 maps: dict[str, Any] | None = None) -> None:
        self.maps = maps or {name: mapped(size)
                             for name, size in sizes(most).items()}
        self.cpus = [bytearray(abi_ct.CPU.size) for _ in range(2)]
        self.memory = CtMemory(
            lambda: [bytes(cpu) for cpu in self.cpus], self.ask,
            *(self.maps[name].cast("Q") for name in MAPPED))
        self.memory.set_up(lambda size: bytes(range(1, size + 1)), most)
        self.words = {name: one.view.cast("B").cast("Q")
                      for name, one in self.maps.items()}
        """As programs have them."""
        self.ends = self.maps["ovs_ct_exp"].view.cast("B").cast("I")
        self.now = 1000 * NS
        self.epoch = 1 << 60
        self.hash = Hash(self.memory.conf.tobytes(),
                         len(self.words["ovs_ct_tab"]) // 8)
        self.busy: set[int] = set()
        self.asked: list[tuple[abi_ct.Ask, int]] = []
        """What the programs were asked, and about how many."""
        self._next = 1

    def clock(self) -> Time:
        return Time(self.now, self.epoch)

    def bytes(self, number: int) -> memoryview:
        size = abi_ct.CT.size
        found: memoryview = self.maps["ovs_ct"].view.cast("B")[
            number * size:(number + 1) * size]
        return found

    def add(self, entry: CtEntry, master: int = 0, policy: int = 0,
            number: int = 0) -> int:
        """A connection; its id.

        :param entry: whose id is of no account
        :param number: of a record to be used again
        """
        if not number:
            number, self._next = self._next, self._next + 1
        zone = 2 * entry.zone
        word = self.words["ovs_ct_zones"][zone]
        self.words["ovs_ct_zones"][zone] = word + 1
        gen = (int.from_bytes(self.bytes(number)[4:8], "little") + 1)
        assert entry.start is not None
        self.bytes(number)[:] = record(
            entry, word >> 32, master,
            gen << abi_ct.OVS_CT_GEN_SHIFT | abi_ct.OVS_CT_LIVE,
            entry.start - self.epoch, policy,
            int.from_bytes(self.bytes(master)[4:6], "little"))
        self.ends[number] = self.now // NS + entry.timeout + 1
        for hashed in self._hashes(number):
            self._edge(hashed, number)
        return number

    def _hashes(self, number: int) -> set[int]:
        data = self.bytes(number)
        return {self.hash.one(bytes(data[abi_ct.CT[side].slice]))
                for side in ("orig", "reply")}

    def _edge(self, hashed: int, number: int) -> None:
        tab = self.words["ovs_ct_tab"]
        edge = (hashed >> abi_ct.OVS_CT_TAG_SHIFT
                << abi_ct.OVS_CT_TAG_SHIFT | number)
        for bucket in self.hash.buckets(hashed):
            for index in range(8 * bucket, 8 * bucket + 7):
                if not tab[index]:
                    tab[index] = edge
                    return
            tab[8 * bucket + 7] += 1
        raise AssertionError("no room")

    def end(self, number: int) -> None:
        """Ends one, which is in limbo then."""
        data = self.bytes(number)
        gen = int.from_bytes(data[4:8], "little")
        for hashed in self._hashes(number):
            for bucket in self.hash.buckets(hashed):
                tab = self.words["ovs_ct_tab"]
                for index in range(8 * bucket, 8 * bucket + 7):
                    if (tab[index] & 0xffffff == number
                            and not (tab[index] ^ hashed) >> 38):
                        tab[index] = 0
        data[:8] = struct.pack("=II", abi_ct.OVS_CT_DEAD, gen)
        self.ends[number] = self.now // NS
        zone = int.from_bytes(data[44:46], "little")
        word = self.words["ovs_ct_zones"][2 * zone]
        if word >> 32 == int.from_bytes(data[60:64], "little"):
            self.words["ovs_ct_zones"][2 * zone] = word - 1

    def ask(self) -> None:
        """bpf/lib/ct_ask.h."""
        asks = self.maps["ovs_ct_asked"].view.cast("B")
        what, count, policy, _ = struct.unpack_from("=4I", asks)
        assert 0 < count <= abi_ct.OVS_CT_ASKS
        self.asked.append((abi_ct.Ask(what), count))
        for place in range(16, 16 + 48 * count, 48):
            number, gen = struct.unpack_from("=II", asks, place)
            answer = self._answer(abi_ct.Ask(what), number, gen, policy,
                                  asks[place:place + 48])
            struct.pack_into("=Q", asks, place + 8, answer)

    def _answer(self, what: abi_ct.Ask, number: int, gen: int, policy: int,
                one: memoryview) -> int:
        if number in self.busy:
            self.busy.discard(number)
            return abi_ct.OVS_CT_ANSWER_BUSY
        data = self.bytes(number)
        if data[:8] != struct.pack("=II", abi_ct.OVS_CT_LIVE, gen):
            return abi_ct.OVS_CT_ANSWER_GONE
        if what is abi_ct.Ask.END:
            self.end(number)
        elif what is abi_ct.Ask.ZERO:
            place = abi_ct.CT["packets"].offset
            one[16:48] = data[place:place + 32]
            data[place:place + 32] = bytes(32)
        elif what is abi_ct.Ask.SHIFT:
            place = abi_ct.CT["adj_pos"].offset
            data[place:place + 24] = one[16:40]
            at = abi_ct.CT["status"].offset
            data[at] |= abi_ct.OVS_CT_S_SEQ_ADJUST
        elif data[54:56] == struct.pack("=H", policy):
            data[54:56] = bytes(2)
        return abi_ct.OVS_CT_ANSWER_DONE
