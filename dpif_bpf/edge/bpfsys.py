# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) system call: maps, pins, programs and links by descriptor.

Attribute layouts are those of ``union bpf_attr`` in <linux/bpf.h>.  Every
failure is a BackendError with the errno of the call; "no such element" is
not a failure but None or False.  Descriptors are plain integers that the
caller closes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import mmap
import os
import platform
import signal
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dpif_bpf.errors import BackendError

# enum bpf_cmd
_MAP_CREATE = 0
_MAP_LOOKUP_ELEM = 1
_MAP_UPDATE_ELEM = 2
_MAP_DELETE_ELEM = 3
_MAP_GET_NEXT_KEY = 4
_OBJ_PIN = 6
_OBJ_GET = 7
_OBJ_GET_INFO_BY_FD = 15
_MAP_LOOKUP_BATCH = 24
_MAP_UPDATE_BATCH = 26
_MAP_DELETE_BATCH = 27

# enum bpf_map_type
MAP_TYPE_HASH = 1
MAP_TYPE_ARRAY = 2
MAP_TYPE_PROG_ARRAY = 3
MAP_TYPE_PERCPU_HASH = 5
MAP_TYPE_PERCPU_ARRAY = 6
MAP_TYPE_LRU_PERCPU_HASH = 10
MAP_TYPE_RINGBUF = 27
_PERCPU_TYPES = frozenset((MAP_TYPE_PERCPU_HASH, MAP_TYPE_PERCPU_ARRAY,
                           MAP_TYPE_LRU_PERCPU_HASH))

F_MMAPABLE = 1 << 10

_NAME_LEN = 15

_SYSCALL_NR = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "s390x": 351,
               "ppc64le": 361}
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_void_p,
                     ctypes.c_uint)
_NR = _SYSCALL_NR.get(platform.machine(), -1)
_MEMBARRIER_NR = {"x86_64": 324, "aarch64": 283, "riscv64": 283,
                  "s390x": 356, "ppc64le": 365}.get(platform.machine(), -1)
_MEMBARRIER_CMD_GLOBAL = 1

ATTEMPTS = 5
"""How often a call is made that says EAGAIN or EINTR, as by libbpf."""
_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE}


def addr(buf: bytearray | None) -> int:
    """The address of a bytearray's first byte; 0 of None or an empty one.

    Valid while the bytearray lives and keeps its size.
    """
    if not buf:
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(buf))


def call(cmd: int, attr: bytearray, what: str) -> int:
    """Make one bpf(2) call; `attr` is written by the kernel in place.

    What a signal, or another change of a map that is read, got in the way
    of is tried again at once.

    :param what: what is being done, for the error text
    :return: the call's result, a descriptor for some commands
    """
    asked = bytes(attr)
    for _ in range(ATTEMPTS):
        result = int(_syscall(_NR, cmd, addr(attr), len(attr)))
        if result >= 0:
            return result
        error = ctypes.get_errno()
        if error not in (errno.EAGAIN, errno.EINTR):
            break
        attr[:] = asked
    raise BackendError(error, what)


@contextlib.contextmanager
def unsignalled() -> Iterator[None]:
    """Keep signals waiting while programs are loaded.

    The verifier gives up with EAGAIN when a signal is pending, and a timer
    that is faster than it would make it give up each time.  What cannot be
    held back (SIGSTOP, the freezer) is left to ATTEMPTS.
    """
    before = signal.pthread_sigmask(
        signal.SIG_BLOCK, signal.valid_signals() - _FAULTS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def wait_for_programs() -> None:
    """Wait until every program run that has begun is over (some 10 ms).

    MEMBARRIER_CMD_GLOBAL is an RCU grace period (kernel/sched/membarrier.c)
    and programs run within RCU read sides.
    """
    if _syscall(_MEMBARRIER_NR, _MEMBARRIER_CMD_GLOBAL, None, 0) < 0:
        raise BackendError(ctypes.get_errno(), "cannot wait for programs")


def name_field(name: str) -> bytes:
    """A map's or program's name as the kernel takes it (15 characters)."""
    return name.encode("ascii")[:_NAME_LEN]


@functools.cache
def possible_cpus() -> int:
    """How many values an element of a per-CPU map has."""
    text = Path("/sys/devices/system/cpu/possible").read_text("ascii")
    count = 0
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        count += int(last or first) - int(first) + 1
    return count


# Maps


@dataclass(frozen=True, slots=True)
class MapInfo:
    """struct bpf_map_info: what the kernel says about a map."""

    map_type: int
    map_id: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int
    name: str

    @property
    def slot_size(self) -> int:
        """Bytes from one element to the next in a mapped array."""
        return (self.value_size + 7) & ~7

    @property
    def lookup_size(self) -> int:
        """Bytes that a lookup returns: per-CPU maps have one slot a CPU."""
        if self.map_type in _PERCPU_TYPES:
            return self.slot_size * possible_cpus()
        return self.value_size


_MAP_INFO = struct.Struct("=IIIIII16s")


def object_info(fd: int, size: int) -> bytearray:
    """The first `size` bytes of struct bpf_{map,prog,link}_info of `fd`."""
    info = bytearray(size)
    attr = bytearray(struct.pack("=IIQ", fd, size, addr(info)))
    call(_OBJ_GET_INFO_BY_FD, attr, "cannot read the info of a BPF object")
    return info


def c_string(field: bytes | bytearray) -> str:
    """Text of a NUL-padded character array."""
    return field.split(b"\0", 1)[0].decode("ascii", "replace")


def map_info(fd: int) -> MapInfo:
    """Describe a map."""
    (map_type, map_id, key_size, value_size, max_entries, flags,
     name) = _MAP_INFO.unpack(object_info(fd, _MAP_INFO.size))
    return MapInfo(map_type, map_id, key_size, value_size, max_entries,
                   flags, c_string(name))


def map_create(map_type: int, key_size: int, value_size: int,
               max_entries: int, flags: int = 0, name: str = "") -> int:
    """Create a map and return its descriptor."""
    attr = bytearray(struct.pack(
        "=IIIIIII16s", map_type, key_size, value_size, max_entries, flags,
        0, 0, name_field(name)))
    return call(_MAP_CREATE, attr, f"cannot create map {name}")


def _elem(fd: int, key: bytearray | None, value: bytearray | None,
          flags: int = 0) -> bytearray:
    return bytearray(struct.pack("=IIQQQ", fd, 0, addr(key), addr(value),
                                 flags))


def map_lookup(fd: int, key: bytes, size: int) -> bytes | None:
    """Look an element up.

    :param size: MapInfo.lookup_size of the map
    :return: the value, or None when there is no such element
    """
    key_buf, value = bytearray(key), bytearray(size)
    try:
        call(_MAP_LOOKUP_ELEM, _elem(fd, key_buf, value),
             "cannot look up a map element")
    except BackendError as error:
        if error.errno == errno.ENOENT:
            return None
        raise
    return bytes(value)


def map_update(fd: int, key: bytes, value: bytes, flags: int = 0) -> None:
    """Add an element or replace its value."""
    key_buf, value_buf = bytearray(key), bytearray(value)
    call(_MAP_UPDATE_ELEM, _elem(fd, key_buf, value_buf, flags),
         "cannot update a map element")


def map_delete(fd: int, key: bytes) -> bool:
    """Delete an element; False when there is none."""
    key_buf = bytearray(key)
    try:
        call(_MAP_DELETE_ELEM, _elem(fd, key_buf, None),
             "cannot delete a map element")
    except BackendError as error:
        if error.errno == errno.ENOENT:
            return False
        raise
    return True


def map_keys(fd: int, key_size: int) -> Iterator[bytes]:
    """Every key of a map; one that is deleted meanwhile starts it again."""
    key: bytearray | None = None
    while True:
        following = bytearray(key_size)
        try:
            call(_MAP_GET_NEXT_KEY, _elem(fd, key, following),
                 "cannot walk a map")
        except BackendError as error:
            if error.errno == errno.ENOENT:
                return
            raise
        yield bytes(following)
        key = following


def _batch(cmd: int, fd: int, cursor: bytearray | None,
           cursor_out: bytearray | None, keys: bytearray,
           values: bytearray | None, count: int, what: str,
           ) -> tuple[int, bool]:
    """Return how many elements were done and whether the map's end came."""
    attr = bytearray(struct.pack(
        "=QQQQIIQQ", addr(cursor), addr(cursor_out), addr(keys),
        addr(values), count, fd, 0, 0))
    end = False
    try:
        call(cmd, attr, what)
    except BackendError as error:
        if error.errno != errno.ENOENT:
            raise
        end = True
    done: int = struct.unpack_from("=I", attr, 32)[0]
    return done, end


def map_lookup_batch(fd: int, info: MapInfo, count: int = 4096,
                     ) -> Iterator[tuple[bytes, bytes]]:
    """Read a whole map in batches.

    :param count: elements a call; a hash map needs room for its fullest
        bucket, which the kernel says by ENOSPC
    :return: iterator over (keys, values), each the concatenation of as many
        elements as the batch has
    """
    cursor: bytearray | None = None
    end = False
    while not end:
        # A hash map's cursor is a bucket number, whatever its key size.
        following = bytearray(max(4, info.key_size))
        keys = bytearray(count * info.key_size)
        values = bytearray(count * info.lookup_size)
        try:
            done, end = _batch(_MAP_LOOKUP_BATCH, fd, cursor, following,
                               keys, values, count, "cannot read a map")
        except BackendError as error:
            if error.errno != errno.ENOSPC or count >= info.max_entries:
                raise
            count = min(2 * count, info.max_entries)
            continue
        cursor = following
        if done:
            yield (bytes(keys[:done * info.key_size]),
                   bytes(values[:done * info.lookup_size]))


def map_update_batch(fd: int, keys: bytes, values: bytes,
                     count: int) -> None:
    """Add or replace `count` elements, concatenated in keys and values."""
    if not count:
        return
    _batch(_MAP_UPDATE_BATCH, fd, None, None, bytearray(keys),
           bytearray(values), count, "cannot update a map")


def map_delete_batch(fd: int, keys: bytes, count: int) -> int:
    """Delete `count` elements; stops at the first that is not there.

    :return: how many were deleted
    """
    if not count:
        return 0
    return _batch(_MAP_DELETE_BATCH, fd, None, None, bytearray(keys), None,
                  count, "cannot delete from a map")[0]


def map_lookup_percpu(fd: int, index: int, info: MapInfo) -> list[bytes]:
    """One element of a per-CPU array: its value on each possible CPU."""
    value = map_lookup(fd, struct.pack("=I", index), info.lookup_size)
    if value is None:
        raise BackendError(errno.ENOENT, f"{info.name} has no {index}")
    step = info.slot_size
    return [value[at:at + info.value_size]
            for at in range(0, len(value), step)]


def mmap_array(fd: int, info: MapInfo | None = None,
               writable: bool = True) -> memoryview:
    """Map an array made with BPF_F_MMAPABLE into memory.

    Elements are MapInfo.slot_size bytes apart.  The mapping outlives the
    descriptor and ends with the last view of it.  The descriptor must be
    open for writing even if the mapping is not: the kernel takes a shared
    mapping of a read-only one for a private one, and refuses it.
    """
    if info is None:
        info = map_info(fd)
    prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    try:
        return memoryview(mmap.mmap(fd, info.slot_size * info.max_entries,
                                    mmap.MAP_SHARED, prot))
    except OSError as error:
        raise BackendError(error.errno or errno.EINVAL,
                           f"cannot map {info.name} into memory") from error


# Pins


def _path_attr(path: Path, fd: int) -> tuple[bytearray, bytearray]:
    """The attributes, and the path that they point to."""
    name = bytearray(os.fsencode(path) + b"\0")
    return bytearray(struct.pack("=QII", addr(name), fd, 0)), name


def obj_pin(fd: int, path: Path) -> None:
    """Pin a map, program or link at a path of a bpffs."""
    attr, _name = _path_attr(path, fd)
    call(_OBJ_PIN, attr, f"cannot pin {path}")


MAP, PROG, LINK = "bpf-map", "bpf-prog", "bpf-link"
"""What is pinned, as the kernel names the files of descriptors."""


def obj_get(path: Path, kind: str | None = None) -> int:
    """Open what is pinned at a path.

    :param kind: MAP, PROG or LINK; None for any
    :raises BackendError: EBADF when it is of another kind
    """
    attr, _name = _path_attr(path, 0)
    fd = call(_OBJ_GET, attr, f"cannot open the pin {path}")
    found = os.readlink(f"/proc/self/fd/{fd}").replace("_", "-")
    if kind is not None and not found.endswith(kind):
        os.close(fd)
        raise BackendError(errno.EBADF, f"{path} is no {kind}")
    return fd


def close_all(fds: Sequence[int]) -> None:
    """Close descriptors; a failure to close one is no error."""
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
