# SPDX-License-Identifier: Apache-2.0
"""The connections of the host: their table, limits and timeout policies.

ctnetlink's requests, and those of limits, name no datapath.  As in the kernel
there is one table, which all datapaths have, and a zone is the same in each.
"""

from __future__ import annotations

from collections.abc import Callable

from dpif_bpf.core.conntrack.control import Controls
from dpif_bpf.core.conntrack.expect import ExpectTable
from dpif_bpf.core.conntrack.kept import Kept
from dpif_bpf.core.conntrack.limits import Limits
from dpif_bpf.core.conntrack.memory import CtMemory
from dpif_bpf.core.conntrack.policy import Policies
from dpif_bpf.core.conntrack.table import NS, Table, Time


class Conntrack:
    """What requests and actions are about.

    :param memory: the maps, as one of the datapaths has them
    :param clock: what time it is
    """

    def __init__(self, memory: CtMemory, clock: Callable[[], Time]) -> None:
        kept = Kept(memory.kept)
        self.table = Table(memory, clock)
        self.expects = ExpectTable(memory.expects, memory.use,
                                   self.table.hash, self.table.lives,
                                   lambda: clock().coarse // NS)
        now = clock()
        self.controls = Controls(self.table, self.expects,
                                 now.coarse + now.epoch)
        self.policies = Policies(self.table, kept)
        self.limits = Limits(self.table, kept)

    def upkeep(self) -> None:
        """Done now and then: what helpers know of connections that have ended
        is given up."""
        self.expects.upkeep()
        self.controls.upkeep()

    @property
    def busy(self) -> bool:
        """Whether there is something to keep up."""
        return bool(len(self.expects) or len(self.controls))

    def use(self, memory: CtMemory) -> None:
        """The same maps, as another datapath has them."""
        self.table.use(memory)
        self.expects.use(memory.expects, memory.use)
