# SPDX-License-Identifier: Apache-2.0
"""The kinds of hooks: where programs are, and how the links are pinned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpif_bpf.edge import bpfprog


@dataclass(frozen=True, slots=True)
class HookKind:
    """A kind of hooks.

    :param name: in the names of the pins
    :param where: ATTACH_* of edge.bpfprog
    :param link_type: LINK_TYPE_* of the links that are made there
    :param links: ids of the links that a device of this namespace has there
    """

    name: str
    where: int
    link_type: int = bpfprog.LINK_TYPE_TCX
    links: Callable[[int], list[int]] = bpfprog.tcx_links

    def pin(self, number: int) -> str:
        """The name of a pin."""
        return f"{number}-{self.name}" if self.name else str(number)

    def number(self, pin: str) -> int | None:
        """The number in the name of a pin; None when it is of another
        kind, or none of ours."""
        number = pin.partition("-")[0]
        if not number.isdecimal() or self.pin(int(number)) != pin:
            return None
        return int(number)


TC = HookKind("", bpfprog.ATTACH_TCX_INGRESS)
"""What comes in at a port."""
KEEP = HookKind("keep", bpfprog.ATTACH_TCX_EGRESS)
RESTORE = HookKind("restore", bpfprog.ATTACH_TCX_INGRESS)
"""Both at the end of an internal port's pair that people use, and numbered by
its other end, the port's."""

HOOK_KINDS = (TC, KEEP, RESTORE)
"""All of them: what is pinned as one of these is ours to remove."""
