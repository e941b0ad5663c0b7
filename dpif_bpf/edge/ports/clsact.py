# SPDX-License-Identifier: Apache-2.0
"""Hooks a program to a device's ingress on kernels without tcx (before 6.6).

A direct-action bpf classifier of the clsact queueing discipline, at a fixed
place, so that the next provider finds it and replaces it in one step.
"""

from __future__ import annotations

import errno

from dpif_bpf.edge.ports.rtnetlink import Rtnl, ignoring, perform
from dpif_bpf.errors import BackendError

INGRESS = 0xFFFFFFF2
"""TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS) of <linux/pkt_sched.h>."""
EGRESS = INGRESS + 1
PRIORITY = 1
HANDLE = 0x6F767301
"""Ours among the filters of that priority."""
ETH_P_ALL = 3


class Clsact:
    """The clsact hooks of devices in the provider's namespace."""

    def __init__(self) -> None:
        self._rtnl = Rtnl()

    def close(self) -> None:
        self._rtnl.close()

    def attach(self, ifindex: int, prog_fd: int, name: str,
               parent: int = INGRESS) -> None:
        """Hooks a program, in place of the one that was, without a gap.

        :param name: what tc(8) shows
        :param parent: INGRESS or EGRESS
        :raises BackendError: ENODEV there is no such device; EINVAL the
            device has an ingress qdisc instead
        """
        added = True
        try:
            perform(f"device {ifindex} could not be given a clsact qdisc",
                    lambda: self._rtnl.iproute.tc("add", "clsact", ifindex))
        except BackendError as error:
            if error.errno != errno.EEXIST:
                raise
            added = False
        try:
            perform(f"{name} could not be attached to device {ifindex}",
                    lambda: self._rtnl.iproute.tc(
                        "replace-filter", "bpf", ifindex, HANDLE,
                        parent=parent, prio=PRIORITY, protocol=ETH_P_ALL,
                        fd=prog_fd, name=name, direct_action=True))
        except BackendError:
            if added:
                self.detach(ifindex)
            raise

    def detach(self, ifindex: int) -> None:
        """Takes the program off, and the qdisc when nothing else uses it.

        It is no error that the device, or the hook, has gone.
        """
        gone = (errno.ENODEV, errno.ENOENT, errno.EINVAL)
        with ignoring(*gone):
            perform(f"the hook of device {ifindex} could not be removed",
                    lambda: self._rtnl.iproute.tc(
                        "del-filter", "bpf", ifindex, HANDLE, parent=INGRESS,
                        prio=PRIORITY, protocol=ETH_P_ALL))
        with ignoring(*gone):
            if not self._filters(ifindex, (INGRESS, EGRESS)):
                perform(f"the qdisc of device {ifindex} could not be removed",
                        lambda: self._rtnl.iproute.tc("del", "clsact",
                                                      ifindex))

    def has_foreign(self, ifindex: int) -> bool:
        """Whether the device's ingress has filters that are not ours."""
        return any(handle != HANDLE
                   for handle in self._filters(ifindex, (INGRESS,)))

    def _filters(self, ifindex: int, parents: tuple[int, ...]
                 ) -> list[int]:
        """Handles of the filters at `parents`."""
        handles: list[int] = []
        for parent in parents:
            def ask(parent: int = parent) -> None:
                for message in self._rtnl.iproute.get_filters(
                        index=ifindex, parent=parent):
                    if message["handle"]:
                        handles.append(int(message["handle"]))
            perform(f"the filters of device {ifindex} could not be read", ask)
        return handles
