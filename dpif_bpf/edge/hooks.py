# SPDX-License-Identifier: Apache-2.0
"""Programs at hooks of devices by pinned links (tcx: Linux 6.6 and newer).

A hook is of a kind: a place where programs can be, and a name.  A device can
have one of each kind.  A link is pinned as DIRECTORY/IFINDEX-KIND, and at
ports' ingress, where all began, as DIRECTORY/IFINDEX.  So it outlives the
provider, and the next one finds it and replaces its program in place, without
a packet lost.  Links belong to a datapath and not to one generation of it.
On older kernels the hooks are clsact filters, which live in the kernel without
a pin (``edge.ports``).
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path

from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.hook_kinds import HookKind
from dpif_bpf.edge.pins import backend_errors, open_link
from dpif_bpf.errors import BackendError


class Hook:
    """One program at one device's hook.

    :ivar ifindex: the device, in the network namespace that it was hooked in
    """

    __slots__ = ("_fd", "_kind", "_path", "ifindex")

    def __init__(self, kind: HookKind, ifindex: int, fd: int,
                 path: Path) -> None:
        self.ifindex = ifindex
        self._kind = kind
        self._fd = fd
        self._path = path

    def update(self, prog_fd: int) -> None:
        """Replace the program, atomically.

        :raises BackendError: ENOLINK when the device has gone
        """
        bpfprog.link_update(self._fd, prog_fd)

    def has_device(self) -> bool:
        """Whether there is a device that is hooked, in any namespace."""
        return bpfprog.link_info(self._fd).ifindex != 0

    def alive(self) -> bool:
        """Whether it is this namespace's device `ifindex` that is hooked.

        A link remains when its device goes; the index can be another
        device's by then, or another namespace's.
        """
        info = bpfprog.link_info(self._fd)
        return (info.ifindex == self.ifindex
                and info.link_id in self._kind.links(self.ifindex))

    def prog_id(self) -> int:
        """The kernel's id of the program."""
        return bpfprog.link_info(self._fd).prog_id

    def detach(self) -> None:
        """Take the program off; no error when the device has gone.

        When it is refused, the link still goes with its last holder.
        """
        try:
            bpfprog.link_detach(self._fd)
        finally:
            self.close()
            with backend_errors(f"cannot unpin {self._path}"):
                self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the descriptor; the program stays on the device."""
        os.close(self._fd)


class Hooks:
    """The hooks of one kind and one datapath.

    :param directory: where the links are pinned, on a bpffs; made when
        there is something to pin
    """

    def __init__(self, directory: Path, kind: HookKind) -> None:
        self._directory = directory
        self._kind = kind
        self._hooks: dict[int, Hook] = {}

    @staticmethod
    def _alive(hook: Hook) -> bool:
        return hook.alive()

    def adopt(self) -> list[int]:
        """Open the links that an earlier provider pinned.

        Pins of links whose device has gone are removed, what is no link of
        that kind is left alone.

        :return: the devices that are hooked
        """
        if not self._directory.is_dir():
            return []
        with backend_errors(f"cannot read {self._directory}"):
            paths = sorted(self._directory.iterdir())
        for path in paths:
            number = self._kind.number(path.name)
            if number is not None and number not in self._hooks:
                fd = open_link(path, self._kind.link_type)
                if fd is not None:
                    self._adopt(Hook(self._kind, number, fd, path))
        return list(self._hooks)

    def _adopt(self, hook: Hook) -> None:
        try:
            alive = self._alive(hook)
        except BackendError:
            hook.close()
            raise
        if alive:
            self._hooks[hook.ifindex] = hook
            return
        with contextlib.suppress(BackendError):  # a pin that stays
            hook.detach()

    def attach(self, ifindex: int, prog_fd: int) -> Hook:
        """Hook a device of this network namespace, or replace its program.

        :raises BackendError: ENODEV there is no such device, EINVAL the
            kernel has no such links, EEXIST something that is
            not ours has the pin's place
        """
        return self._update(ifindex, prog_fd) or self._create(
            ifindex, ifindex, prog_fd)

    def _update(self, number: int, prog_fd: int) -> Hook | None:
        """A hook with another program; None when there is none."""
        hook = self._hooks.get(number)
        if hook is None:
            return None
        try:
            hook.update(prog_fd)
            return hook
        except BackendError as error:
            if error.errno != errno.ENOLINK:
                raise
        self.detach(number)
        return None

    def _create(self, number: int, ifindex: int, prog_fd: int) -> Hook:
        fd = bpfprog.link_create(prog_fd, ifindex, self._kind.where)
        path = self._directory / self._kind.pin(number)
        try:
            with backend_errors(f"cannot pin {path}"):
                self._directory.mkdir(parents=True, exist_ok=True)
                self._make_room(path)
            bpfsys.obj_pin(fd, path)
        except BackendError:
            os.close(fd)  # and with it goes the link
            raise
        self._hooks[number] = hook = Hook(
            self._kind, number, fd, path)
        return hook

    def _make_room(self, path: Path) -> None:
        """Unpin a link of a device that had this index before."""
        fd = open_link(path, self._kind.link_type)
        if fd is not None:
            os.close(fd)
            path.unlink()

    def detach(self, ifindex: int) -> None:
        """Unhook a device; no error when it has gone or has no hook."""
        hook = self._hooks.pop(ifindex, None)
        if hook is not None:
            hook.detach()

    def __contains__(self, ifindex: object) -> bool:
        return ifindex in self._hooks

    def __len__(self) -> int:
        return len(self._hooks)

    def close(self) -> None:
        """Close the descriptors; the programs stay on their devices."""
        for hook in self._hooks.values():
            hook.close()
        self._hooks.clear()


class EndHooks(Hooks):
    """Hooks of those ends of internal ports' pairs that people use.

    Such an end can be in another namespace, where its hooks go with it: it
    goes by the index of the hidden end here.
    """

    @staticmethod
    def _alive(hook: Hook) -> bool:
        return hook.has_device()

    def attach_end(self, hidden: int, ifindex: int | None,
                   prog_fd: int) -> None:
        """Hook an end, or replace its program.

        :param ifindex: of the end; None when it is in another namespace,
            where it keeps the hook that it has or goes without one
        :raises BackendError: as attach()
        """
        if not self._update(hidden, prog_fd) and ifindex is not None:
            self._create(hidden, ifindex, prog_fd)
