# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.loop: which turns took long, and what they did."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from dpif_bpf import loop as loop_module
from dpif_bpf.boundary import Boundary
from dpif_bpf.core.devices import Poller
from dpif_bpf.loop import KEPT, Loop, Part

MS = 10 ** 6


@dataclass
class World:
    """Parts that take as long as they are told."""

    now: int = 0
    spend: dict[str, int] = field(default_factory=dict)
    waits: list[str] = field(default_factory=list)

    def part(self, name: str) -> Part:
        def run() -> None:
            self.now += self.spend.pop(name, 0) * MS

        def wait(_poller: Poller) -> None:
            self.waits.append(name)

        return Part(Boundary(name), run, wait)

    def loop(self) -> Loop:
        return Loop((self.part("request"), self.part("control")),
                    lambda: self.now, lambda: 10 ** 9 + self.now / 10 ** 9)


def test_longest_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(loop_module.vlog, "warn", told.append)
    world = World()
    loop = world.loop()
    for took in (*range(1, 3 * KEPT + 1), 3):
        world.spend = {"request": took, "control": 2 * (took == 17)}
        loop.run()
    lines = list(loop.show())
    assert lines[0] == "turns: 31 in 0 s, longer than 20 ms: 10"
    assert lines[1] == "  request: 468.0 ms in all, at most 30.0 ms"
    assert lines[2] == "  control: 2.0 ms in all, at most 2.0 ms"
    turns = lines[lines.index("longest turns:") + 1:]
    assert [line.split(" ", 3)[3] for line in turns] == [
        f"{took}.0 ms: request {took}.0" for took in range(30, 20, -1)]
    assert turns[0].startswith("  2001-09-09T01:46:40Z ")
    assert not told
    world.spend = {"control": 1200, "request": 3}
    loop.run()
    assert told == ["Unreasonably long 1203ms poll interval: control 1200.0,"
                    " request 3.0"]


def test_what_a_turn_spends_on_what() -> None:
    world = World(spend={"request": 1, "control": 4})
    loop = world.loop()
    loop.run()
    loop.run()
    *_, first, second = loop.show()
    assert first.endswith(" 5.0 ms: control 4.0, request 1.0")
    assert second.endswith(" 0.0 ms: nothing")
    loop.wait(None)    # type: ignore[arg-type]
    assert world.waits == ["request", "control"]
