# SPDX-License-Identifier: Apache-2.0
"""core.turns: upcalls that wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dpif_bpf.core.turns import Turns


def served(turns: Turns) -> list[tuple[int, bytes, int]]:
    found = []
    while (first := turns.first()) is not None:
        found.append(first)
        turns.leave()
    return found


def test_ports_take_turns() -> None:
    turns = Turns()
    assert turns.first() is None
    for number in range(3):
        turns.put(1, b"1%d" % number)
    turns.put(2, b"20")
    turns.put(3, b"30")
    turns.charge(1, 7)
    assert served(turns) == [(1, b"10", 0), (2, b"20", 0), (3, b"30", 0),
                             (1, b"11", 0), (1, b"12", 7)]


@given(st.lists(st.integers(0, 4)))
def test_order_within_a_port(ports: list[int]) -> None:
    turns = Turns()
    for number, port in enumerate(ports):
        turns.put(port, number.to_bytes(2, "big"))
    found = served(turns)
    assert turns.first() is None
    for port in set(ports):
        assert [message for at, message, _ in found if at == port] == [
            number.to_bytes(2, "big") for number, at in enumerate(ports)
            if at == port]
    # Nobody is served twice while another one waits for the same turn.
    for rank, (port, _, _) in enumerate(found):
        before = [at for at, _, _ in found[:rank]]
        for other in {at for at, _, _ in found[rank:]}:
            assert before.count(port) <= before.count(other)
