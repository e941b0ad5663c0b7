# SPDX-License-Identifier: Apache-2.0
"""The hooks of one datapath's devices, by kind: links, or clsact filters in
the place of tcx links before Linux 6.6."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from dpif_bpf.edge.bpfprog import LINK_TYPE_TCX, has_tcx
from dpif_bpf.edge.hook_kinds import KEEP, RESTORE, TC, HookKind
from dpif_bpf.edge.hooks import EndHooks, Hooks
from dpif_bpf.edge.loader import Loader
from dpif_bpf.edge.ports import Clsact
from dpif_bpf.edge.ports.clsact import EGRESS
from dpif_bpf.errors import BackendError, failures

PORT_KINDS = (TC,)
"""Hooks that a port's device has, or may have."""


class Hooking:
    """Hooks devices, and finds what an earlier provider hooked.

    :param kinds: those that there are
    """

    def __init__(self, loader: Loader, dp: str,
                 kinds: Iterable[HookKind] = PORT_KINDS) -> None:
        self._stale: set[int] = set()
        """Devices that an earlier provider hooked."""
        self._ours: set[int] = set()
        """Devices that this one hooked, or tried to."""
        links = loader.pins.links(dp)
        tcx = has_tcx()
        self._clsact = None if tcx else Clsact()
        self._hooks = {kind: Hooks(links, kind) for kind in kinds
                       if tcx or kind.link_type != LINK_TYPE_TCX}
        self._ends = {kind: EndHooks(links, kind)
                      for kind in (KEEP, RESTORE) if tcx}
        """Of the other ends of internal ports."""
        try:
            for hooks in (*self._hooks.values(), *self._ends.values()):
                self._stale.update(hooks.adopt())
        except BackendError:
            self.close()
            raise

    def attach(self, kind: HookKind, ifindex: int, prog_fd: int,
               name: str) -> None:
        """Hooks a device, or replaces the program that it has there.

        :param name: of the program, for tc(8)
        """
        self._ours.add(ifindex)
        if kind in self._hooks:
            self._hooks[kind].attach(ifindex, prog_fd)
        elif self._clsact is not None:
            self._clsact.attach(ifindex, prog_fd, name)

    def attach_end(self, hidden: int, ifindex: int | None, keep_fd: int,
                   restore_fd: int) -> None:
        """Hooks the other end of an internal port's pair.

        :param ifindex: None when it is in another namespace: hooks that
            went there with it get the programs, too
        """
        if self._clsact is None:
            self._ends[KEEP].attach_end(hidden, ifindex, keep_fd)
            self._ends[RESTORE].attach_end(hidden, ifindex, restore_fd)
        elif ifindex is not None:
            self._clsact.attach(ifindex, keep_fd, "ovs_keep", EGRESS)
            self._clsact.attach(ifindex, restore_fd, "ovs_restore")

    def detach(self, ifindex: int) -> None:
        """Unhooks a device, and the other end of an internal port's pair,
        unless by clsact, which ends with it; no error when it has gone.

        :raises BackendError: of the first that failed; the others are done
        """
        self._ours.discard(ifindex)
        all_hooks = (*self._ends.values(), *self._hooks.values())
        failed = failures(*(partial(hooks.detach, ifindex)
                            for hooks in all_hooks))
        if self._clsact is not None:
            self._clsact.detach(ifindex)
        if failed:
            raise failed[0]

    def prune(self, more: Iterable[int] = ()) -> None:
        """Unhooks what an earlier provider hooked and this one did not.

        :param more: devices that it may have hooked: clsact filters are
            not found otherwise
        :raises BackendError: of the first that failed; the others are done
        """
        failed = failures(*(
            partial(self.detach, ifindex)
            for ifindex in self._stale.union(more) - self._ours))
        self._stale = set()
        if failed:
            raise failed[0]

    def close(self) -> None:
        """The programs stay on their devices."""
        for hooks in (*self._ends.values(), *self._hooks.values()):
            hooks.close()
        if self._clsact is not None:
            self._clsact.close()
