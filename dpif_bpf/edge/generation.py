# SPDX-License-Identifier: Apache-2.0
"""One generation of the packet path, over its pins.

``edge.loader`` makes and finds generations.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from dpif_bpf import abi
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.pins import PinRoot, backend_errors, remove_tree
from dpif_bpf.edge.template import CONST_HOLE, MAP_HOLE, Template
from dpif_bpf.errors import BackendError

ENTRY = "ovs_entry"
ENTRIES = {abi.Stage.RX: ENTRY, abi.Stage.RX_L3: "ovs_entry_l3",
           abi.Stage.RX_TUNNEL: "ovs_entry_tun"}
"""The entry programs of a bridge by the stage that they lead to."""
PIPELINE_PINS = ("progs", "entry", "entry_l3", "entry_tunnel")

HOLE_BRIDGE = CONST_HOLE
HOLE_STAGE = CONST_HOLE + 1
HOLE_PROGS = MAP_HOLE
MAP_HOLES = {f"ovs_{name}": MAP_HOLE + 1 + number for number, name
             in enumerate(("cpu", "devs", "dpstats", "drops", "exact",
                           "flow_stats", "flows", "ports"))}
CONST_HOLES = {"cfg_shared_stats": CONST_HOLE + 2}
"""What bpf/entry.bcc.c leaves open: the bridge's number, the stage to go on
in, the bridge's program array, maps of the generation, and constants of
bpf/lib/config.h."""

STAGES = {abi.Stage.RX: "ovs_rx", abi.Stage.LOOKUP: "ovs_rx",
          abi.Stage.RX_L3: "ovs_rx_l3",
          abi.Stage.RX_TUNNEL: "ovs_rx_tunnel", abi.Stage.ACT: "ovs_act",
          abi.Stage.ACT_OWN: "ovs_act_own",
          abi.Stage.ACT_SHARED: "ovs_act_shared", abi.Stage.CT: "ovs_act_ct",
          abi.Stage.ROUTE: "ovs_route", abi.Stage.ROUTE_OWN: "ovs_route_own"}
"""The programs of bpf/datapath.bpf.c."""

BETTER = {"ovs_act": "ovs_act_cast", "ovs_route": "ovs_route_cast"}
"""Programs that take the place of another one where they can be loaded: on
Linux 6.3 and newer (choose_programs() in edge.loader)."""

_NOT_OURS = (errno.EBADF, errno.EACCES, errno.ENOENT)
"""What obj_get() says of another kind, of a directory, of a dead link."""
_DROPS_BATCH = 8192
"""Elements of ovs_drops that are read at once: 64 KiB for each CPU."""
_NO_STATS = bytes(abi.DP_STATS.size)
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What one bridge has of its own.

    :ivar progs_fd: its program array, whose slots are enum ovs_stage
    :ivar entry_fds: the programs for its ports' ingress, as ENTRIES
    """

    progs_fd: int
    entry_fds: tuple[int, ...]

    @property
    def entry_fd(self) -> int:
        """That for most ports."""
        return self.entry_fds[0]

    def entry_to(self, stage: abi.Stage) -> int:
        """That which leads to one of ENTRIES."""
        return self.entry_fds[list(ENTRIES).index(stage)]

    @property
    def fds(self) -> tuple[int, ...]:
        """All of them."""
        return self.progs_fd, *self.entry_fds


class Generation:
    """The maps and programs of one generation, opened from its pins.

    Made by Loader.create() and Loader.open_pinned().

    :param template: of the entry stage; None: found, to be read only
    :param constants: values of CONST_HOLES by name
    :ivar dp: the datapath's name
    :ivar number: grows with each generation of a datapath
    :ivar layouts: versions of maps' layouts, as far as they are pinned
    """

    def __init__(self, pins: PinRoot, dp: str, number: int, path: Path,
                 template: Callable[[], Template] | None,
                 constants: Mapping[str, int]) -> None:
        self.dp = dp
        self.number = number
        self._pins = pins
        self._path = path
        self._template = template
        self._constants = constants
        self.layouts: Mapping[str, int] = {}
        self._maps: dict[str, int] = {}
        self._progs: dict[str, int] = {}
        self._info: dict[str, bpfsys.MapInfo] = {}
        self._mapped: dict[str, memoryview] = {}
        self._bridges: dict[int, Pipeline] = {}
        try:
            with backend_errors(f"cannot open {path}"):
                self._open(path / "maps", self._maps, bpfsys.MAP)
                self._open(path / "progs", self._progs, bpfsys.PROG)
                self.layouts = pins.layouts(path)
        except BackendError:
            self.close()
            raise

    def _open(self, directory: Path, fds: dict[str, int], kind: str) -> None:
        """Open the pins of a kind; others are not ours, and left alone."""
        for name in os.listdir(directory):
            try:
                fds[name] = bpfsys.obj_get(directory / name, kind)
            except BackendError as error:
                if error.errno not in _NOT_OURS:
                    raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def readonly(self) -> bool:
        """Whether it is an earlier provider's."""
        return self._template is None

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps."""
        return tuple(self._maps)

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, this object's own."""
        return _named(self._maps, name)

    def prog_fd(self, name: str) -> int:
        """The descriptor of a program, this object's own."""
        return _named(self._progs, name)

    def map_info(self, name: str) -> bpfsys.MapInfo:
        """Sizes of a map."""
        info = self._info.get(name)
        if info is None:
            info = self._info[name] = bpfsys.map_info(self.map_fd(name))
        return info

    def mapped(self, name: str) -> memoryview:
        """The memory of an array, as bytes: read-only in a generation that
        was found.  It stays valid when the generation is closed."""
        view = self._mapped.get(name)
        if view is None:
            view = self._mapped[name] = bpfsys.mmap_array(
                self.map_fd(name), self.map_info(name), not self.readonly)
        return view

    def commit(self) -> None:
        """Make the generation valid, to be found by the next provider."""
        with backend_errors(f"cannot commit a generation of {self.dp}"):
            self._path = self._pins.commit(self.dp, self.number)

    # Bridges

    def add_bridge(self, bridge: int) -> int:
        """Load the pipeline of a bridge.

        :param bridge: below OVS_MAX_BRIDGES
        :return: the descriptor of the entry program, for Hooks.attach()
        :raises BackendError: EEXIST when it is loaded
        """
        if self._template is None:
            raise BackendError(errno.EROFS, "the generation was found")
        if bridge in self._bridges:
            raise BackendError(errno.EEXIST, f"bridge {bridge} is loaded")
        template = self._template()
        directory = self._path / "bridges" / str(bridge)
        with backend_errors(f"cannot clear {directory}"):
            remove_tree(directory)  # of an earlier bridge, if that failed
        progs = bpfsys.map_create(bpfsys.MAP_TYPE_PROG_ARRAY, 4, 4,
                                  abi.OVS_STAGE_MAX, name="ovs_bridge_prog")
        fds = [progs]
        try:
            fill_stages(progs, self._progs)
            values = {hole: self.map_fd(name)
                      for name, hole in MAP_HOLES.items()}
            values |= {hole: self._constants[name]
                       for name, hole in CONST_HOLES.items()}
            values[HOLE_PROGS] = progs
            values[HOLE_BRIDGE] = bridge
            for stage, name in ENTRIES.items():
                values[HOLE_STAGE] = stage
                fds.append(bpfprog.prog_load(
                    bpfprog.PROG_TYPE_SCHED_CLS, template.fill(values), name))
            with backend_errors(f"cannot pin bridge {bridge}"):
                directory.mkdir(parents=True)
                for fd, name in zip(fds, PIPELINE_PINS, strict=True):
                    bpfsys.obj_pin(fd, directory / name)
        except BackendError:
            bpfsys.close_all(fds)
            with contextlib.suppress(OSError):
                remove_tree(directory)
            raise
        self._bridges[bridge] = pipeline = Pipeline(fds[0],
                                                     tuple(fds[1:]))
        return pipeline.entry_fd

    def bridge(self, bridge: int) -> Pipeline:
        """The pipeline of a bridge.

        :raises BackendError: ENOENT when it is not loaded
        """
        pipeline = self._bridges.get(bridge)
        if pipeline is None:
            raise BackendError(errno.ENOENT, f"bridge {bridge} is not loaded")
        return pipeline

    def remove_bridge(self, bridge: int) -> None:
        """Unload the pipeline of a bridge, when no port is hooked to it.

        :raises BackendError: its pins remain, and go with the next
            add_bridge() of that number
        """
        pipeline = self._bridges.pop(bridge, None)
        if pipeline is None:
            return
        bpfsys.close_all(pipeline.fds)
        with backend_errors(f"cannot remove bridge {bridge}"):
            remove_tree(self._path / "bridges" / str(bridge))

    # Counters

    def dp_stats(self, bridge: int) -> tuple[int, int, int, int, int]:
        """Packets of a bridge: hit, missed, lost, hash probes, cache_hit."""
        exact, missed, lost, cached, *steps, more = self._dp_stats(bridge)
        probes = exact + more + sum(n * some for n, some in enumerate(steps))
        return (exact + sum(steps) - missed, missed, lost, probes,
                exact + cached)

    def steps(self, bridge: int) -> tuple[int, ...]:
        """Lookups of a bridge by hash probes; the last: that many or more.
        A look into the cache of exact matches is one."""
        exact, _, _, _, none, one, *steps, _ = self._dp_stats(bridge)
        return none, exact + one, *steps

    def _dp_stats(self, bridge: int) -> tuple[int, ...]:
        """struct ovs_dp_stats of a bridge, summed over the CPUs."""
        values = bpfsys.map_lookup_percpu(
            self.map_fd("ovs_dpstats"), bridge, self.map_info("ovs_dpstats"))
        # Most bridges and CPUs have seen nothing.
        rows = [memoryview(value).cast("Q") for value in values
                if value != _NO_STATS] or [memoryview(_NO_STATS).cast("Q")]
        return tuple(map(sum, zip(*rows, strict=True)))

    def drops(self, bridge: int) -> dict[abi.DropReason, int]:
        """Packets of a bridge that were dropped, by reason; none that is
        zero."""
        fd, info = self.map_fd("ovs_drops"), self.map_info("ovs_drops")
        counts = {}
        for reason in abi.DropReason:
            values = bpfsys.map_lookup_percpu(
                fd, bridge * abi.OVS_DROP_MAX + reason, info)
            count = sum(_U64.unpack(value)[0] for value in values)
            if count:
                counts[reason] = count
        return counts

    def all_drops(self) -> tuple[int, ...]:
        """Packets of all bridges that were dropped, by reason."""
        info = self.map_info("ovs_drops")
        total = np.zeros(abi.OVS_DROP_MAX, np.uint64)
        for keys, values in bpfsys.map_lookup_batch(
                self.map_fd("ovs_drops"), info, _DROPS_BATCH):
            counts = np.frombuffer(values, np.uint64).reshape(
                -1, bpfsys.possible_cpus()).sum(axis=1, dtype=np.uint64)
            reasons = np.frombuffer(keys, np.uint32) % abi.OVS_DROP_MAX
            np.add.at(total, reasons, counts)
        return tuple(total.tolist())

    def close(self) -> None:
        """Close the descriptors; what is pinned stays."""
        for pipeline in self._bridges.values():
            bpfsys.close_all(pipeline.fds)
        self._bridges.clear()
        for fds in (self._maps, self._progs):
            bpfsys.close_all(tuple(fds.values()))
            fds.clear()
        self._mapped.clear()


def _named(fds: Mapping[str, int], name: str) -> int:
    try:
        return fds[name]
    except KeyError:
        raise BackendError(errno.ENOENT, f"there is no {name}") from None


def fill_stages(progs_fd: int, progs: Mapping[str, int]) -> None:
    """Put the stage programs into a program array.

    :raises BackendError: ENOENT when the object lacks one
    """
    for stage, name in STAGES.items():
        better = progs.get(BETTER.get(name, name))
        fd = _named(progs, name) if better is None else better
        bpfsys.map_update(progs_fd, _U32.pack(stage), _U32.pack(fd))
