# SPDX-License-Identifier: Apache-2.0
"""Datagrams of which each is accounted for."""

from __future__ import annotations

import signal
import time

from lab import PATIENCE, Host, Lab


class Stream:
    """Numbered datagrams from one host to another, until end().

    :param rate: datagrams a second
    """

    def __init__(self, lab: Lab, source: Host, sink: Host,
                 rate: int) -> None:
        self._sink = lab.spawn(sink, "udp-count", sink.ip, "5003")
        self._source = lab.spawn(source, "udp-send", sink.ip, "5003",
                                 str(rate))

    def end(self) -> tuple[int, int]:
        """How many were sent, and how many arrived."""
        self._source.send_signal(signal.SIGTERM)
        sent, _ = self._source.communicate(timeout=60 * PATIENCE)
        time.sleep(0.3)
        self._sink.send_signal(signal.SIGTERM)
        got, _ = self._sink.communicate(timeout=10 * PATIENCE)
        assert int(sent) > 0
        return int(sent), int(got)

    def lost(self) -> int:
        """Ends it; how many did not arrive."""
        sent, got = self.end()
        return sent - got
