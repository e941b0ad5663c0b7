# SPDX-License-Identifier: Apache-2.0
"""Upcalls that wait for a peer, served port by port in turn.

How many there may be is what programs see to (struct ovs_upcall_use of
bpf/lib/abi.h): a port's upcalls count against its share until they leave.
"""

from __future__ import annotations

from collections import deque


class Turns:
    """Messages of ports, first in, first out within each port.

    With a message units can go, to be given back when it leaves.
    """

    __slots__ = ("_order", "_ports")

    def __init__(self) -> None:
        self._ports: dict[int, deque[tuple[bytes, int]]] = {}
        self._order: deque[int] = deque()

    def put(self, port_no: int, message: bytes) -> None:
        """Adds a message behind those of its port."""
        waiting = self._ports.get(port_no)
        if waiting is None:
            self._ports[port_no] = deque(((message, 0),))
            self._order.append(port_no)
        else:
            waiting.append((message, 0))

    def charge(self, port_no: int, units: int) -> None:
        """Has units go with the message that was added last for a port."""
        waiting = self._ports[port_no]
        waiting[-1] = (waiting[-1][0], units)

    def first(self) -> tuple[int, bytes, int] | None:
        """Port, message and units of whose turn it is; None when empty."""
        if not self._order:
            return None
        port_no = self._order[0]
        message, units = self._ports[port_no][0]
        return port_no, message, units

    def leave(self) -> None:
        """Takes the first away; another port is next."""
        port_no = self._order.popleft()
        waiting = self._ports[port_no]
        waiting.popleft()
        if waiting:
            self._order.append(port_no)
        else:
            del self._ports[port_no]
