# SPDX-License-Identifier: Apache-2.0
"""Loads the packet path: generations of a datapath and bridges' pipelines.

A generation is one load of build/bpf/datapath.bpf.o: its own maps and
programs, pinned (``edge.pins`` has the layout).  A provider that starts makes
a new one and never writes to one that it found, but for maps that the two
share::

    loader = Loader()
    old = loader.open_pinned("ovs-bpf")
    new = loader.create("ovs-bpf", rodata, sizes)
    entry = new.add_bridge(1)
    ...                                 # replay what old.mapped() holds
    new.commit()                        # valid from here on
    hooks.attach(ifindex, entry)        # each port, see edge.hooks
    loader.remove_others(new)

The entry stages of bridges are compiled by bcc (``edge.compilation``), which
takes 0.5 s: so it is done once for each provider, with holes for the bridge's
constants, and a bridge's own program is filled in (``edge.template``) and
loaded in some ms.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dpif_bpf import abi
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.compilation import Compilation
from dpif_bpf.edge.generation import (
    BETTER,
    CONST_HOLES,
    ENTRY,
    HOLE_BRIDGE,
    HOLE_PROGS,
    HOLE_STAGE,
    MAP_HOLES,
    Generation,
    fill_stages,
)
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.edge.pins import PIN_ROOT, PinRoot, backend_errors, remove_tree
from dpif_bpf.edge.template import Template
from dpif_bpf.errors import BackendError

_TOP = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Files:
    """What is loaded and compiled.

    :ivar obj: the object of the fixed programs
    :ivar sources: the directory of entry.bcc.c and lib/
    :ivar headers: the tree that bcc takes for kernel headers
    """

    obj: Path = _TOP / "build" / "bpf" / "datapath.bpf.o"
    sources: Path = _TOP / "bpf"
    headers: Path = _TOP / "build" / "shim"


def start_compilation(files: Files) -> Compilation:
    """Compile the entry stage with holes for what generation.py fills in."""
    flags = [f"-I{files.sources / 'lib'}",
             f"-DOVS_HOLE_BRIDGE={HOLE_BRIDGE:#x}",
             f"-DOVS_HOLE_STAGE={HOLE_STAGE:#x}",
             f"-DOVS_HOLE_PROGS={HOLE_PROGS:#x}"]
    flags += [f"-DOVS_HOLE_{name[len('ovs_'):].upper()}={hole:#x}"
              for name, hole in (MAP_HOLES | CONST_HOLES).items()]
    return Compilation(files.sources / "entry.bcc.c", ENTRY, flags,
                       files.headers)


def choose_programs(obj: BpfObject) -> None:
    """Leave out what this kernel cannot load, before load().

    Those with tcx have the functions that programs call, too.
    """
    if not bpfprog.has_tcx():
        for name in BETTER.values():
            if name in obj.programs:
                obj.set_autoload(name, False)


class Loader:
    """Makes, finds and removes generations.

    :param root: where to pin; see edge.pins
    :raises BackendError: EBUSY when another provider pins there
    """

    def __init__(self, root: Path = PIN_ROOT,
                 files: Files | None = None) -> None:
        self.files = files or Files()
        self.pins = PinRoot(root)
        self._compilation: Compilation | None = None
        self._template: Template | None = None

    def _start_compilation(self) -> Compilation:
        if self._compilation is None:
            self._compilation = start_compilation(self.files)
        return self._compilation

    def template(self) -> Template:
        """The compiled entry stage, which the first time may take a wait.

        :raises BackendError: with what the compiler says
        """
        if self._template is None:
            compilation = self._start_compilation()
            self._compilation = None  # another one if this fails
            template = Template(compilation.result())
            holes = {HOLE_BRIDGE, HOLE_STAGE, HOLE_PROGS,
                     *MAP_HOLES.values(), *CONST_HOLES.values()}
            if template.holes != holes:
                raise BackendError(errno.ENOEXEC, "the entry lacks a hole")
            self._template = template
        return self._template

    def create(self, dp: str, rodata: Mapping[str, int],
               sizes: Mapping[str, int],
               shared: Mapping[str, int] | None = None,
               maps: Mapping[str, abi.Map] | None = None) -> Generation:
        """Load a generation; nobody uses it yet.

        :param rodata: constants of bpf/lib/config.h
        :param sizes: elements of maps by name
        :param shared: descriptors of maps that are there, by name
        :param maps: what maps of the object have to be, by name
        :raises BackendError: with the verifier's log when it is refused;
            EPROTO when the object is another version's
        """
        if self._template is None:
            self._start_compilation()  # meanwhile
        with backend_errors(f"cannot pin {dp}"):
            number, path = self.pins.begin(dp)
        try:
            with BpfObject(self.files.obj) as obj:
                for name, value in rodata.items():
                    obj.set_rodata(name, value)
                for name, count in sizes.items():
                    obj.set_max_entries(name, count)
                for name, fd in (shared or {}).items():
                    obj.reuse_map(name, fd)
                constants = {name: obj.rodata_value(name)
                             for name in CONST_HOLES}
                _check_version(obj)
                choose_programs(obj)
                obj.load()
                _check_layout(obj, maps or {})
                progs = {name: obj.prog_fd(name) for name in obj.loading}
                fill_stages(obj.map_fd("ovs_progs"), progs)
                with backend_errors(f"cannot pin {dp}"):
                    for kind in ("maps", "progs", "bridges"):
                        (path / kind).mkdir()
                    for name, wanted in (maps or {}).items():
                        if wanted.version:
                            self.pins.note_layout(path, name, wanted.version)
                for name in obj.maps:
                    bpfsys.obj_pin(obj.map_fd(name), path / "maps" / name)
                for name, fd in progs.items():
                    bpfsys.obj_pin(fd, path / "progs" / name)
                return Generation(self.pins, dp, number, path, self.template,
                                  constants)
        except BackendError:
            with contextlib.suppress(OSError):
                remove_tree(path)
                path.parent.rmdir()
            raise

    def open_pinned(self, dp: str) -> Generation | None:
        """The newest valid generation of an earlier provider, read-only."""
        with backend_errors(f"cannot read the pins of {dp}"):
            numbers = self.pins.generations(dp)
        if not numbers:
            return None
        return Generation(self.pins, dp, numbers[-1],
                          self.pins.directory(dp) / str(numbers[-1]), None,
                          {})

    def remove_others(self, keep: Generation) -> None:
        """Remove all generations of a datapath but one, complete or not.

        Waits until no program that began before is still running, some
        10 ms, so that no tail call misses.
        """
        bpfsys.wait_for_programs()
        with backend_errors(f"cannot remove old pins of {keep.dp}"):
            self.pins.remove_all_but(keep.dp, keep.number)

    def remove_unfinished(self, dp: str) -> None:
        """Remove what did not become a generation."""
        with backend_errors(f"cannot remove unfinished pins of {dp}"):
            self.pins.remove_unfinished(dp)

    def datapaths(self) -> list[str]:
        """Names of the datapaths that have pins."""
        with backend_errors(f"cannot read {self.pins.root}"):
            return self.pins.datapaths()

    def remove(self, dp: str) -> None:
        """Remove a datapath with its hooks."""
        with backend_errors(f"cannot remove the pins of {dp}"):
            self.pins.remove(dp)

    def close(self) -> None:
        """Give the pins' root up; what is pinned stays."""
        if self._compilation is not None:
            self._compilation.close()
        self.pins.close()


def _check_version(obj: BpfObject) -> None:
    if ("cfg_abi" not in obj.rodata
            or obj.rodata_value("cfg_abi") != abi.OVS_ABI_VERSION):
        raise BackendError(errno.EPROTO, f"{obj.path} was made for another"
                           " version of ovs-bpfd")


def _check_layout(obj: BpfObject, maps: Mapping[str, abi.Map]) -> None:
    for name, wanted in maps.items():
        found = obj.map_info(name).value_size
        if found != wanted.size:
            raise BackendError(
                errno.EPROTO, f"{obj.path} has another layout: {name} has"
                f" elements of {found} bytes, not of {wanted.size}")
