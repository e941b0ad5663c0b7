# SPDX-License-Identifier: Apache-2.0
"""The directories of pins under /sys/fs/bpf/ovs.

::

    ROOT/DP/links/IFINDEX       links at ports' ingress (edge.hooks),
    ROOT/DP/links/IFINDEX-KIND  at hooks of other kinds, of the same device or
                                of the other end of an internal port's pair
    ROOT/DP/N/maps/NAME         generation N of the datapath: every map,
    ROOT/DP/N/layouts/NAME-V    an empty directory: map NAME has version V of
                                its layout (abi.MAPS),
    ROOT/DP/N/progs/NAME        every program,
    ROOT/DP/N/bridges/ID/progs  and each bridge's program array
    ROOT/DP/N/bridges/ID/entry  and entry program,
    ROOT/DP/N/bridges/ID/entry_l3  that for ports without Ethernet headers
    ROOT/DP/N/bridges/ID/entry_tunnel  that for ports of tunnels
    ROOT/DP/new-N               a generation that is not complete

A generation becomes valid by being renamed from new-N to N, and no port is
hooked to it before.  What a provider that was killed left as new-N serves
nobody and is removed.  The newest N is the one to take over.  A datapath that
is removed has its generations renamed back first, so that what a provider
that was killed left of it is not taken for one.

DP is the datapath's name with '%' and '.' written as %25 and %2E, since a
bpffs has no names with dots.  What else people pin below ROOT is left alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.hook_kinds import HOOK_KINDS
from dpif_bpf.errors import BackendError

PIN_ROOT = Path("/sys/fs/bpf/ovs")

_BPFFS = Path("/sys/fs/bpf")
_NEW = "new-"
_LINKS = "links"
_LAYOUTS = "layouts"


@contextlib.contextmanager
def backend_errors(what: str) -> Iterator[None]:
    """Turn an OSError into a BackendError that says what failed."""
    try:
        yield
    except OSError as error:
        raise BackendError(error.errno or errno.EIO, what) from error


def pin_name(dp: str) -> str:
    """The directory name of a datapath."""
    return dp.replace("%", "%25").replace(".", "%2E").replace("/", "%2F")


def _filesystem(path: Path) -> str:
    """The type of the file system that holds a path, from proc(5)."""
    best, kind = -1, ""
    for line in Path("/proc/self/mounts").read_text("utf-8").splitlines():
        _, where, fstype, *_ = line.split(" ")
        point = Path(where)
        # The last of several on one mount point is the visible one.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fstype
    return kind


def ensure_bpffs(root: Path) -> None:
    """See to it that `root` lies on a bpffs and exists.

    One is mounted on /sys/fs/bpf where there is none.

    :raises BackendError: it cannot be mounted or made, or `root` is
        elsewhere and on no bpffs
    """
    root = Path(os.path.realpath(root))
    if _filesystem(root) != "bpf" and root.is_relative_to(_BPFFS):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.mount(b"bpf", str(_BPFFS).encode(), b"bpf", 0,
                      b"mode=0700") < 0:
            raise BackendError(ctypes.get_errno(),
                               f"cannot mount a bpffs on {_BPFFS}")
    if _filesystem(root) != "bpf":
        raise BackendError(errno.EINVAL, f"{root} is on no bpffs")
    with backend_errors(f"cannot make {root}"):
        root.mkdir(parents=True, exist_ok=True)


def remove_tree(path: Path) -> None:
    """Unpin everything below a directory, and the directory.

    :raises OSError: it remains, or some of it
    """
    if not path.is_dir():
        return
    for directory, below, files in os.walk(path, topdown=False):
        for name in files:
            os.unlink(os.path.join(directory, name))
        for name in below:
            os.rmdir(os.path.join(directory, name))
    path.rmdir()


def open_link(path: Path, link_type: int) -> int | None:
    """The descriptor of a pinned link of a type (LINK_TYPE_*); None when
    there is no such."""
    try:
        fd = bpfsys.obj_get(path, bpfsys.LINK)
    except BackendError:
        return None
    if bpfprog.link_info(fd).link_type == link_type:
        return fd
    os.close(fd)
    return None


class PinRoot:
    """All datapaths of one provider.

    The root is locked while this object lives, so that two providers do not
    remove each other's pins; a provider that was killed holds no lock.

    :param root: a directory on a bpffs
    :raises BackendError: EBUSY when another provider has it
    """

    def __init__(self, root: Path = PIN_ROOT) -> None:
        ensure_bpffs(root)
        self.root = root
        with backend_errors(f"cannot open {root}"):
            self._fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._fd)
            raise BackendError(
                errno.EBUSY,
                f"{root} is in use by another provider") from error

    def datapaths(self) -> list[str]:
        """Names of the datapaths that have pins.

        :raises OSError:
        """
        names = ((path.name, unquote(path.name))
                 for path in self.root.iterdir() if path.is_dir())
        return sorted(dp for name, dp in names
                      if pin_name(dp) == name and any(map(_ours,
                                                          self._names(dp))))

    def directory(self, dp: str) -> Path:
        """Where a datapath's pins are."""
        return self.root / pin_name(dp)

    def links(self, dp: str) -> Path:
        """Where a datapath's links are."""
        return self.directory(dp) / _LINKS

    def generations(self, dp: str) -> list[int]:
        """The valid generations, oldest first."""
        return sorted(int(name) for name in self._names(dp)
                      if name.isdigit())

    def begin(self, dp: str) -> tuple[int, Path]:
        """Make the directory of a generation to come.

        :return: its number, and the directory new-N
        :raises OSError:
        """
        taken = [int(name.removeprefix(_NEW)) for name in self._names(dp)
                 if name.removeprefix(_NEW).isdigit()]
        number = max(taken, default=0) + 1
        path = self.directory(dp) / f"{_NEW}{number}"
        path.mkdir(parents=True)
        return number, path

    @staticmethod
    def note_layout(path: Path, name: str, version: int) -> None:
        """Say which version of its layout a map of a generation has.

        :param path: the generation's directory
        :raises OSError:
        """
        (path / _LAYOUTS / f"{name}-{version}").mkdir(parents=True)

    @staticmethod
    def layouts(path: Path) -> dict[str, int]:
        """What note_layout() said, by the maps' names.

        :raises OSError:
        """
        if not (path / _LAYOUTS).is_dir():
            return {}
        noted = (entry.name.rpartition("-")
                 for entry in (path / _LAYOUTS).iterdir())
        return {name: int(version) for name, _, version in noted
                if version.isdecimal()}

    def commit(self, dp: str, number: int) -> Path:
        """Make a generation valid; return its directory."""
        path = self.directory(dp) / str(number)
        os.rename(path.with_name(f"{_NEW}{number}"), path)
        return path

    def remove_all_but(self, dp: str, number: int) -> None:
        """Remove the other generations, the unfinished ones included.

        :raises OSError:
        """
        for name in self._names(dp):
            plain = name.removeprefix(_NEW)
            if plain.isdigit() and int(plain) != number:
                remove_tree(self.directory(dp) / name)

    def remove_unfinished(self, dp: str) -> None:
        """Remove what never became a generation, or is none any more.

        :raises OSError:
        """
        for name in self._names(dp):
            if name.startswith(_NEW) and _ours(name):
                remove_tree(self.directory(dp) / name)
        self._leave(dp)

    def remove(self, dp: str) -> None:
        """Remove everything of a datapath; its hooks go with their pins.

        :raises OSError: some of it remains
        """
        self.remove_unfinished(dp)
        for number in self.generations(dp):
            path = self.directory(dp) / str(number)
            os.rename(path, path.with_name(f"{_NEW}{number}"))
        self._remove_links(dp)
        self.remove_unfinished(dp)

    def _leave(self, dp: str) -> None:
        """Remove a datapath's directory when nothing is in it."""
        with contextlib.suppress(OSError):
            self.directory(dp).rmdir()

    def _remove_links(self, dp: str) -> None:
        links = self.links(dp)
        if not links.is_dir():
            return
        for path in links.iterdir():
            fd = next((open_link(path, kind.link_type) for kind in HOOK_KINDS
                       if kind.number(path.name) is not None), None)
            if fd is not None:
                os.close(fd)
                path.unlink()
        with contextlib.suppress(OSError):
            links.rmdir()

    def close(self) -> None:
        """Give the root up, and remove it if nothing is in it."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                self.root.rmdir()
            os.close(self._fd)
            self._fd = -1

    def _names(self, dp: str) -> list[str]:
        path = self.directory(dp)
        return [item.name for item in path.iterdir()] if path.is_dir() else []


def _ours(name: str) -> bool:
    """Whether that is what a datapath has in its directory."""
    return name == _LINKS or name.removeprefix(_NEW).isdigit()
