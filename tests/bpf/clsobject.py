# SPDX-License-Identifier: Apache-2.0
"""The classifier's reader, as tests/bpf/classifier.bpf.c runs it."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from dpif_bpf import abi
from dpif_bpf.core.classifier.forest import Buffers, Classifier
from dpif_bpf.core.classifier.sizes import MAPPED, Sizes
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject, VerifierStats

SOURCE = Path(__file__).parent / "classifier.bpf.c"
PACKET = bytes(64)
KEYS = 65536

_KEY_WORDS = abi.OVS_KEY_USED + 2
_BURST = 1 << 14


class Key(NamedTuple):
    """A packet's key and what looking it up must give.

    :param acts: of the flow that matches, but for bit 0
    :param stable: whether there always is one
    """

    key: int
    acts: int
    stable: bool
    bridge: int = 0

    def pack(self) -> bytes:
        """struct test_key."""
        return (self.key.to_bytes(abi.OVS_KEY_USED * 8, "little")
                + self.bridge.to_bytes(4, "little")
                + self.acts.to_bytes(4, "little")
                + self.stable.to_bytes(8, "little"))


class State(NamedTuple):
    """struct test_state, from `runs` on."""

    runs: int
    found: int
    wrong: int
    lost: int
    probes: int
    result: int
    bad: int


class ClsObject:
    """The object, loaded, with a classifier that writes its maps."""

    def __init__(self, path: Path, sizes: Sizes, seed: int | None = None,
                 stats: bool = False) -> None:
        self.sizes = sizes
        self._maps: list[mmap.mmap] = []
        self._obj = BpfObject(path, stats=stats)
        for name, value in sizes.constants().items():
            self._obj.set_rodata(name, value)
        for name, value in sizes.entries().items():
            self._obj.set_max_entries(name, value)
        self._obj.load()
        self.buffers = Buffers(*map(self.mapped, MAPPED))
        self._keys = self.mapped("test_keys")
        self._state = self.mapped("test_state").cast("Q")
        self.prog = self._obj.prog_fd("ovs_cls_test")
        self.cls = Classifier(self.buffers, sizes, seed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._obj.close()

    def mapped(self, name: str) -> memoryview:
        """A map's memory, exactly as large as its elements."""
        info = self._obj.map_info(name)
        size = info.slot_size * info.max_entries
        page = mmap.PAGESIZE
        area = mmap.mmap(self._obj.map_fd(name), -(-size // page) * page)
        self._maps.append(area)
        return memoryview(area)[:size]

    def verifier(self) -> VerifierStats:
        """What the program cost, of an object opened with stats=True."""
        return self._obj.verifier_stats("ovs_cls_test")

    def set_keys(self, keys: Iterable[Key]) -> int:
        """Fills the table of packets, repeated up to a power of two.

        :returns: how many there are
        """
        packed = [key.pack() for key in keys]
        count = 1
        while count < len(packed):
            count *= 2
        assert count <= KEYS
        self._keys[:count * _KEY_WORDS * 8] = b"".join(
            packed[i % len(packed)] for i in range(count))
        self._state[1] = count
        self.reset()
        return count

    def set_bridge(self, number: int, bridge: int) -> None:
        """Lets a packet come from another bridge from now on."""
        at = number * _KEY_WORDS * 8 + abi.OVS_KEY_USED * 8
        self._keys[at:at + 4].cast("I")[0] = bridge

    def reset(self) -> None:
        """Zeroes the counters and begins with the first packet."""
        self._state[0] = 0
        for i in range(2, 9):
            self._state[i] = 0

    def run(self, repeat: int) -> State:
        """Looks up the next packets."""
        bpfprog.test_run(self.prog, PACKET, repeat=repeat)
        return State(*self._state[2:9].tolist())

    def cache_on(self) -> bool:
        """Whether a CPU looks into its cache at present."""
        value = bpfsys.map_lookup(
            self._obj.map_fd("test_pkt"), bytes(4),
            self._obj.map_info("test_pkt").lookup_size)
        assert value is not None
        at = abi.PKT["cpu"].offset + abi.PKT_CPU["cache_on"].offset
        return any(value[i + at] for i in range(0, len(value), abi.PKT.size))

    def bound(self) -> int:
        """Lookups that met the bound of steps."""
        value = bpfsys.map_lookup(
            self._obj.map_fd("ovs_cls_bound"), bytes(4),
            self._obj.map_info("ovs_cls_bound").lookup_size)
        assert value is not None
        return sum(memoryview(value).cast("Q"))


class Lookups:
    """Looks packets up all the time, on a CPU of its own."""

    def __init__(self, obj: ClsObject, cpu: int) -> None:
        self._obj = obj
        self._cpu = cpu
        self._stop = False
        self.state = State(0, 0, 0, 0, 0, 0, 0)
        self._thread = threading.Thread(target=self._loop)

    def _loop(self) -> None:
        os.sched_setaffinity(threading.get_native_id(), {self._cpu})
        while not self._stop:
            self.state = self._obj.run(_BURST)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self._stop = True
        self._thread.join()
