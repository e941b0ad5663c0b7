# SPDX-License-Identifier: Apache-2.0
"""A thin ctypes binding of libbpf.so.1 (1.1 and newer): load one object.

An object goes through open → configure → load → close::

    with BpfObject(path) as obj:
        obj.set_rodata("cfg_max_flows", 65536)
        obj.set_max_entries("ovs_flows", 65536)
        obj.load()
        obj.map_fd("ovs_flows"), obj.prog_fd("ovs_rx")

Closing the object closes its descriptors; what is to stay is pinned or
duplicated before.  libbpf's warnings, the verifier's log among them, become
the text of the BackendError.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import re
import sys
from collections.abc import Iterator
from ctypes import POINTER, byref, c_bool, c_char_p, c_int, c_uint32, c_void_p
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.errors import BackendError

_BTF_KIND_DATASEC = 15
_LIBBPF_WARN = 0
_LOG_STATS = 4		# BPF_LOG_STATS of the verifier
_STATS_ROOM = 4096
_TAIL_LINES = 30

_PRINT_FN = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_void_p)


class _OpenOpts(ctypes.Structure):
    """The head of struct bpf_object_open_opts; `sz` says how much of it."""

    _fields_ = (("sz", ctypes.c_size_t), ("object_name", c_char_p))


class _BtfType(ctypes.Structure):
    """struct btf_type of <linux/btf.h>."""

    _fields_ = (("name_off", c_uint32), ("info", c_uint32),
                ("size", c_uint32))


class _BtfVarSecinfo(ctypes.Structure):
    """struct btf_var_secinfo: one variable of a section."""

    _fields_ = (("type", c_uint32), ("offset", c_uint32),
                ("size", c_uint32))


class _Lib:
    """Prototypes of the functions that are used."""

    def __init__(self) -> None:
        lib = ctypes.CDLL("libbpf.so.1", use_errno=True)
        libc = ctypes.CDLL(None)

        open_file = lib.bpf_object__open_file
        open_file.restype = c_void_p
        open_file.argtypes = (c_char_p, POINTER(_OpenOpts))
        self.open_file = open_file

        for name, restype, argtypes in (
                ("bpf_object__load", c_int, (c_void_p,)),
                ("bpf_object__close", None, (c_void_p,)),
                ("bpf_object__next_map", c_void_p, (c_void_p, c_void_p)),
                ("bpf_object__next_program", c_void_p,
                 (c_void_p, c_void_p)),
                ("bpf_object__find_map_by_name", c_void_p,
                 (c_void_p, c_char_p)),
                ("bpf_object__btf", c_void_p, (c_void_p,)),
                ("bpf_map__name", c_char_p, (c_void_p,)),
                ("bpf_map__fd", c_int, (c_void_p,)),
                ("bpf_map__is_internal", c_bool, (c_void_p,)),
                ("bpf_map__initial_value", c_void_p,
                 (c_void_p, POINTER(ctypes.c_size_t))),
                ("bpf_map__set_max_entries", c_int, (c_void_p, c_uint32)),
                ("bpf_map__reuse_fd", c_int, (c_void_p, c_int)),
                ("bpf_program__name", c_char_p, (c_void_p,)),
                ("bpf_program__fd", c_int, (c_void_p,)),
                ("bpf_program__insns", c_void_p, (c_void_p,)),
                ("bpf_program__insn_cnt", ctypes.c_size_t, (c_void_p,)),
                ("bpf_program__set_autoload", c_int, (c_void_p, c_bool)),
                ("bpf_program__set_log_level", c_int, (c_void_p, c_uint32)),
                ("bpf_program__set_log_buf", c_int,
                 (c_void_p, c_void_p, ctypes.c_size_t)),
                ("btf__type_cnt", c_uint32, (c_void_p,)),
                ("btf__type_by_id", c_void_p, (c_void_p, c_uint32)),
                ("btf__name_by_offset", c_char_p, (c_void_p, c_uint32)),
                ("libbpf_set_print", c_void_p, (c_void_p,))):
            function = getattr(lib, name)
            function.restype = restype
            function.argtypes = argtypes
        self.c = lib
        self.vasprintf = libc.vasprintf
        self.vasprintf.argtypes = (POINTER(c_void_p), c_void_p, c_void_p)
        self.free = libc.free
        self.free.argtypes = (c_void_p,)


_lib = _Lib()
_messages: list[str] = []


def _print(level: int, fmt: int, args: int) -> int:
    if level > _LIBBPF_WARN:
        return 0
    text = c_void_p()
    if _lib.vasprintf(byref(text), fmt, args) >= 0 and text.value:
        _messages.append(ctypes.string_at(text.value).decode(
            "utf-8", "replace"))
        _lib.free(text)
    return 0


_print_fn = _PRINT_FN(_print)


@contextlib.contextmanager
def _captured() -> Iterator[None]:
    """Collect libbpf's warnings; others in the process keep their printer."""
    _messages.clear()
    previous = _lib.c.libbpf_set_print(ctypes.cast(_print_fn, c_void_p))
    try:
        yield
    finally:
        _lib.c.libbpf_set_print(previous)


def _error(number: int, what: str) -> BackendError:
    lines = "".join(_messages).strip().splitlines()
    tail = "\n".join(lines[-_TAIL_LINES:])
    return BackendError(number, f"{what}: {tail}" if tail else what)


@dataclass(frozen=True, slots=True)
class VerifierStats:
    """What one program cost the verifier.

    :ivar insns: instructions that it went through (limit 1,000,000)
    :ivar states: states that it kept at most at one time
    :ivar stack: bytes of stack, subprograms apart and joined by '+'
    """

    insns: int
    states: int
    stack: str


@dataclass(frozen=True, slots=True)
class _Variable:
    section: str
    offset: int
    size: int


class BpfObject:
    """One object file, from opening to closing.

    :param path: an ELF object made by clang -target bpf -g
    :param stats: keep the verifier's statistics of each program
    :raises BackendError: the file cannot be read or is no such object
    """

    def __init__(self, path: Path, stats: bool = False) -> None:
        self._path = path
        opts = _OpenOpts(ctypes.sizeof(_OpenOpts), None)
        with _captured():
            handle = _lib.open_file(str(path).encode(), byref(opts))
            if not handle:
                raise _error(ctypes.get_errno(), f"cannot open {path}")
        self._handle: int | None = handle
        self._maps = dict(self._walk("map"))
        self._programs = dict(self._walk("program"))
        self._left_out: set[str] = set()
        self._variables = dict(self._read_variables())
        self._stats: dict[str, ctypes.Array[ctypes.c_char]] = {}
        if stats:
            for name, program in self._programs.items():
                buf = ctypes.create_string_buffer(_STATS_ROOM)
                _lib.c.bpf_program__set_log_level(program, _LOG_STATS)
                _lib.c.bpf_program__set_log_buf(program, buf, _STATS_ROOM)
                self._stats[name] = buf

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None,
                 value: BaseException | None,
                 trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Free the object and close its descriptors."""
        if self._handle is not None:
            _lib.c.bpf_object__close(self._handle)
            self._handle = None

    def _walk(self, kind: str) -> Iterator[tuple[str, int]]:
        following = getattr(_lib.c, f"bpf_object__next_{kind}")
        name_of = getattr(_lib.c, f"bpf_{kind}__name")
        item = following(self._handle, None)
        while item:
            yield name_of(item).decode(), item
            item = following(self._handle, item)

    def _read_variables(self) -> Iterator[tuple[str, _Variable]]:
        """Variables of the .rodata sections, from the object's BTF."""
        btf = _lib.c.bpf_object__btf(self._handle)
        if not btf:
            return
        for type_id in range(1, _lib.c.btf__type_cnt(btf)):
            where = _lib.c.btf__type_by_id(btf, type_id)
            kind = _BtfType.from_address(where)
            if (kind.info >> 24) & 0x1f != _BTF_KIND_DATASEC:
                continue
            section = _lib.c.btf__name_by_offset(btf, kind.name_off).decode()
            if not section.startswith(".rodata"):
                continue
            items = (_BtfVarSecinfo * (kind.info & 0xffff)).from_address(
                where + ctypes.sizeof(_BtfType))
            for item in items:
                var = _BtfType.from_address(
                    _lib.c.btf__type_by_id(btf, item.type))
                name = _lib.c.btf__name_by_offset(btf, var.name_off)
                yield name.decode(), _Variable(section, item.offset,
                                               item.size)

    # Configuration, before load()

    @property
    def rodata(self) -> dict[str, int]:
        """Names and sizes (bytes) of the constants that can be set."""
        return {name: var.size for name, var in self._variables.items()}

    def set_rodata(self, name: str, value: int | bytes) -> None:
        """Set a constant that the program declares ``const volatile``.

        :param value: a number in the machine's byte order (negative ones
            as two's complement), or the variable's bytes
        :raises BackendError: no such variable, or the value does not fit
        """
        var = self._variable(name)
        if isinstance(value, int):
            try:
                value = value.to_bytes(var.size, sys.byteorder,
                                       signed=value < 0)
            except OverflowError:
                raise BackendError(errno.ERANGE,
                                   f"the value of {name} is too large"
                                   ) from None
        if len(value) != var.size:
            raise BackendError(errno.EINVAL,
                               f"{name} has {var.size} bytes")
        ctypes.memmove(self._place(name), value, var.size)

    def rodata_value(self, name: str) -> int:
        """What a constant is now, an unsigned number.

        :raises BackendError: no such variable
        """
        return int.from_bytes(
            ctypes.string_at(self._place(name), self._variable(name).size),
            sys.byteorder)

    def _variable(self, name: str) -> _Variable:
        var = self._variables.get(name)
        if var is None:
            raise BackendError(errno.ENOENT,
                               f"{self._path.name} has no constant {name}")
        return var

    def _place(self, name: str) -> int:
        """The address of a constant's bytes, before load()."""
        var = self._variable(name)
        section = _lib.c.bpf_object__find_map_by_name(
            self._handle, var.section.encode())
        size = ctypes.c_size_t()
        start: int | None = section and _lib.c.bpf_map__initial_value(
            section, byref(size))
        if not start or var.offset + var.size > size.value:
            raise BackendError(errno.EINVAL, f"{name} cannot be set")
        return start + var.offset

    def set_max_entries(self, name: str, count: int) -> None:
        """Set the size of a map."""
        self._check(_lib.c.bpf_map__set_max_entries(
            self._map(name), count), f"cannot size map {name}")

    def reuse_map(self, name: str, fd: int) -> None:
        """Take a map that is there, of the same kind, instead of making
        one."""
        self._check(_lib.c.bpf_map__reuse_fd(self._map(name), fd),
                    f"cannot take map {name}")

    def set_autoload(self, name: str, load: bool) -> None:
        """Choose whether load() loads a program (the default)."""
        self._check(_lib.c.bpf_program__set_autoload(
            self._program(name), load), f"cannot choose program {name}")
        if load:
            self._left_out.discard(name)
        else:
            self._left_out.add(name)

    # Loading, and afterwards

    def load(self) -> None:
        """Create the maps and load the programs.

        :raises BackendError: with the end of libbpf's log, which holds
            that of the verifier
        """
        with _captured(), bpfsys.unsignalled():
            result = _lib.c.bpf_object__load(self._handle)
            if result < 0:
                raise _error(-result, f"cannot load {self._path}")

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the maps that the source declares."""
        return tuple(name for name, item in self._maps.items()
                     if not _lib.c.bpf_map__is_internal(item))

    @property
    def programs(self) -> tuple[str, ...]:
        """Names of the programs."""
        return tuple(self._programs)

    @property
    def loading(self) -> tuple[str, ...]:
        """Names of the programs that load() loads, or has loaded."""
        return tuple(name for name in self._programs
                     if name not in self._left_out)

    def map_fd(self, name: str) -> int:
        """The descriptor of a map, the object's own."""
        return self._fd(_lib.c.bpf_map__fd(self._map(name)), name)

    def prog_fd(self, name: str) -> int:
        """The descriptor of a program, the object's own.

        :raises BackendError: EBADF also when it was not to be loaded
        """
        return self._fd(_lib.c.bpf_program__fd(self._program(name)), name)

    def insns(self, name: str) -> bytes:
        """A program as it was loaded, its subprograms behind it."""
        program = self._program(name)
        return ctypes.string_at(_lib.c.bpf_program__insns(program),
                                8 * _lib.c.bpf_program__insn_cnt(program))

    def map_info(self, name: str) -> bpfsys.MapInfo:
        """What the kernel says about a map."""
        return bpfsys.map_info(self.map_fd(name))

    def prog_info(self, name: str) -> bpfprog.ProgInfo:
        """What the kernel says about a program."""
        return bpfprog.prog_info(self.prog_fd(name))

    def verifier_stats(self, name: str) -> VerifierStats:
        """The verifier's statistics, of an object opened with stats=True.

        :raises BackendError: ENOENT when there are none
        """
        buf = self._stats.get(name)
        text = "" if buf is None else buf.value.decode("ascii", "replace")
        found = re.search(r"processed (\d+) insns .* peak_states (\d+)",
                          text)
        if found is None:
            raise BackendError(errno.ENOENT, f"no statistics of {name}")
        stack = re.search(r"stack depth ([\d+]+)", text)
        return VerifierStats(int(found[1]), int(found[2]),
                             stack[1] if stack else "0")

    def _map(self, name: str) -> int:
        try:
            return self._maps[name]
        except KeyError:
            raise BackendError(
                errno.ENOENT, f"{self._path.name} has no map {name}"
            ) from None

    def _program(self, name: str) -> int:
        try:
            return self._programs[name]
        except KeyError:
            raise BackendError(
                errno.ENOENT, f"{self._path.name} has no program {name}"
            ) from None

    @staticmethod
    def _check(result: int, what: str) -> None:
        if result < 0:
            raise BackendError(-result, what)

    @staticmethod
    def _fd(fd: int, name: str) -> int:
        if fd < 0:
            raise BackendError(errno.EBADF, f"{name} is not loaded")
        return fd
