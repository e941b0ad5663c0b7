# SPDX-License-Identifier: Apache-2.0
"""Datagrams of which each is accounted for."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterable
from dataclasses import dataclass

from lab import PATIENCE, Host, Lab


class Stream:
    """Numbered datagrams from one host to another, until end().

    :param rate: datagrams a second
    """

    COUNTER = "udp-count"

    def __init__(self, lab: Lab, source: Host, sink: Host,
                 rate: int) -> None:
        self._sink = lab.spawn(sink, self.COUNTER, sink.ip, "5003")
        self._source = lab.spawn(source, "udp-send", sink.ip, "5003",
                                 str(rate))

    def end(self) -> tuple[int, int]:
        """How many were sent, and how many arrived."""
        sent, got = self._end()
        return sent, int(got)

    def _end(self) -> tuple[int, str]:
        self._source.send_signal(signal.SIGTERM)
        sent, _ = self._source.communicate(timeout=60 * PATIENCE)
        time.sleep(0.3)
        self._sink.send_signal(signal.SIGTERM)
        got, _ = self._sink.communicate(timeout=10 * PATIENCE)
        assert int(sent) > 0
        return int(sent), got

    def lost(self) -> int:
        """Ends it; how many did not arrive."""
        sent, got = self.end()
        return sent - got


@dataclass(frozen=True, slots=True)
class Gap:
    """Datagrams that did not arrive.

    :param start, end: s, CLOCK_MONOTONIC, when those around it were sent
    """

    start: float
    end: float
    lost: int

    def is_within(self, spans: Iterable[tuple[float, float]]) -> bool:
        """Whether all of it was sent in one of these times."""
        return any(start <= self.start and self.end <= end
                   for start, end in spans)


def carried(lab: Lab, least: int) -> set[str]:
    """Ports from which IPv4 is forwarded, by flows that have had more than
    `least` packets."""
    return {str(flow.match["in_port"]) for flow in lab.flows()
            if flow.match.get("eth_type") == 0x0800
            and not any("drop" in action for action in flow.actions)
            and int(flow.info["packets"]) > least}


class Watched(Stream):
    """One that tells when datagrams were lost, not only how many."""

    COUNTER = "udp-gaps"

    def gaps(self) -> tuple[int, list[Gap]]:
        """Ends it; how many were sent, and which did not arrive."""
        sent, told = self._end()
        got, found = json.loads(told)
        gaps = [Gap(start / 1e9, end / 1e9, lost)
                for start, end, lost in found]
        assert sent == got + sum(gap.lost for gap in gaps), "the last ones"
        return sent, gaps
