# SPDX-License-Identifier: Apache-2.0
"""What the oracle tells of a packet: what leaves, and what is dropped."""

from __future__ import annotations

from dataclasses import dataclass, field

from oracle_key import Meta

from dpif_bpf.abi import DropReason


@dataclass(frozen=True, slots=True)
class Output:
    """A packet that leaves by a port.

    :param layer3: it has no Ethernet header
    """

    port: int
    packet: bytes
    priority: int = 0
    mark: int = 0
    layer3: bool = False


@dataclass(frozen=True, slots=True)
class Upcall:
    """OVS_PACKET_CMD_ACTION.

    :param length: of the packet before truncation, 0: not truncated
    """

    pid: int
    userdata: bytes | None
    actions: bool
    packet: bytes
    key: bytes
    length: int = 0


@dataclass(frozen=True, slots=True)
class Miss:
    """OVS_PACKET_CMD_MISS."""

    in_port: int
    packet: bytes
    key: bytes


@dataclass(frozen=True, slots=True)
class Recirc:
    """A packet that is looked up again under another recirculation id.

    :param meta: what goes with it, and `cutlen` as in State
    :param last: no copy: it is the packet that the list was for
    """

    recirc_id: int
    packet: bytes
    key: bytes
    meta: Meta = field(default_factory=Meta, compare=False)
    cutlen: int = field(default=0, compare=False)
    last: bool = field(default=False, compare=False)


Event = Output | Upcall | Miss | Recirc


@dataclass(slots=True)
class Result:
    """Events in order, and the reason when the packet itself is dropped.

    :param lost: reasons for which outputs failed
    :param copies: the reasons of copies that blocks dropped
    :param late: there were copies, which may come out of order
    :param blocks: how many blocks copies ran
    """

    events: list[Event] = field(default_factory=list)
    drop: DropReason = DropReason.NONE
    lost: list[DropReason] = field(default_factory=list)
    copies: list[DropReason] = field(default_factory=list)
    late: bool = False
    blocks: int = 0

    @property
    def drops(self) -> dict[DropReason, int]:
        """How often each reason is counted."""
        reasons = [*self.lost, *self.copies, self.drop]
        return {reason: reasons.count(reason) for reason in reasons
                if reason is not DropReason.NONE}

    @property
    def outputs(self) -> list[tuple[int, bytes]]:
        """(port, bytes) of each output."""
        return [(event.port, event.packet) for event in self.events
                if isinstance(event, Output)]


class Undefined(Exception):
    """The kernel would write over unrelated bytes: no one may rely on it."""


class Failure(Exception):
    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason.name)
        self.reason = reason
