# SPDX-License-Identifier: Apache-2.0
"""Daemons are killed again and again, amid traffic.

Each provider takes the datapath over as it is, no flow refused.  Packets of
installed flows are lost only while ovs-vswitchd starts, which deletes all
flows then: from its start until it has set them up again.

``OVS_KILLS`` says how often each is done (2), ``OVS_KILLS_SEED`` with which
order and pauses (1).
"""

from __future__ import annotations

import os
import random
import re
import time

import pytest
from lab import PROVIDER, SERVER, SWITCH, Host, Lab
from streams import Watched, carried
from test_restart import settle, two_hosts

KILLS = int(os.environ.get("OVS_KILLS", "2"))
SEED = int(os.environ.get("OVS_KILLS_SEED", "1"))

RATE = 1000
"""Packets a second of the flow that is looked at."""
NEW_FLOWS = ("300", "200")
"""Packets a second of others, and how many flows these are."""

_TAKEN = re.compile(r"took over datapath ovs-bpf: (\d+) ports, (\d+) flows")
_REFUSED = re.compile(r"cannot take over|not taken over|is not there any more"
                      r"|begun anew|trying again")
_AWAY = [
    # ovs-vswitchd and ovs-bpfd without a database, and ovs-vswitchd that
    # starts before the provider.
    "db.sock|reconnect|database|unix:",
    "Connection refused",
    # Of a flow that ovs-vswitchd had put before, or that was not answered any
    # more when the provider was killed: see _until_installed().
    "Invalid state transition for ukey",
]


class Kills:
    """Ends daemons and starts them again.

    :ivar flushes: from when to when ovs-vswitchd had no flows
    :ivar taken: flows that each provider took over
    """

    def __init__(self, lab: Lab, victims: tuple[str, ...]) -> None:
        self._lab = lab
        self._victims = victims
        self._random = random.Random(f"{SEED} {victims}")
        self.flushes: list[tuple[float, float]] = []
        self.taken: list[int] = []

    def one(self, source: Host, sink: Host) -> None:
        """Ends all victims, in any order, and has them start again."""
        lab, pick = self._lab, self._random
        for name in pick.sample(self._victims, len(self._victims)):
            lab.kill(name)
            time.sleep(pick.choice((0, 0, 0.05, 0.3)))
        time.sleep(pick.uniform(0, 0.5))
        if SERVER in self._victims:
            (lab.rundir / "db.sock").unlink()
            lab.start_server()
        start = time.monotonic()
        early = SWITCH in self._victims and pick.random() < 0.3
        if early:
            lab.start_switch(ready=False)
            time.sleep(pick.uniform(0, 0.3))
        if PROVIDER in self._victims:
            if pick.random() < 0.3:  # amid its takeover, or before it
                lab.start_provider(ready=False)
                time.sleep(pick.uniform(0, 2))
                lab.kill(PROVIDER)
            self._start_provider()
        if SWITCH in self._victims:
            if not early:
                start = time.monotonic()
                lab.start_switch(ready=False)
            lab.vsctl("set", "Open_vSwitch", ".",
                      f"external_ids:kills={time.monotonic()}")
            self._until_installed(source)
            self.flushes.append((start, time.monotonic()))
        # ovs-vswitchd, which deletes flows that are rarely used while it has
        # to wait for the provider, may not have come back yet.
        lab.until(lambda: " 0% packet loss" in source.ns.run(
            "ping", "-n", "-q", "-c", "3", "-i", "0.1", "-W", "1", sink.ip,
            check=False))
        time.sleep(pick.uniform(0, 1))

    def _start_provider(self) -> None:
        log = f"{PROVIDER}.log"
        before = len(self._lab.text(log))
        self._lab.start_provider()
        told = self._lab.text(log)[before:]
        found = _TAKEN.search(told)
        assert found is not None and not _REFUSED.search(told), told
        self.taken.append(int(found[2]))

    def _until_installed(self, source: Host) -> None:
        """Until the stream has its flow again.

        Packets of a port that ovs-vswitchd does not know yet, as it starts,
        get a flow that drops them.  On a busy machine it takes that one for
        the next one it puts, which is refused (EEXIST, as by the kernel), and
        goes on so for good: all flows are deleted once more.
        """
        self._lab.flush()
        self._lab.until(
            lambda: source.port in carried(self._lab, RATE // 10))


@pytest.mark.parametrize("victims", [
    (PROVIDER,), (SWITCH,), (PROVIDER, SWITCH), (SERVER, PROVIDER, SWITCH)],
    ids=["provider", "switch", "both", "all"])
def test_kills(own_lab: Lab, victims: tuple[str, ...]) -> None:
    lab = own_lab
    lab.allowed += _AWAY
    one, two = two_hosts(lab)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    three.ping(two.ip)
    settle(lab, one, two)
    kills = Kills(lab, victims)
    others = lab.spawn(three, "spray", "eth0", two.mac, *NEW_FLOWS)
    stream = Watched(lab, one, two, RATE)
    try:
        time.sleep(1)
        for _ in range(KILLS):
            kills.one(one, two)
    finally:
        others.kill()
        others.wait()
        sent, gaps = stream.gaps()
    lost = sum(gap.lost for gap in gaps)
    print(f"{'+'.join(victims)}: {KILLS} times; flows taken over:"
          f" {kills.taken}; {lost} of {sent} packets lost, in {len(gaps)}"
          f" gaps, while flows were away for"
          f" {sum(end - start for start, end in kills.flushes):.1f} s")
    assert [gap for gap in gaps if not gap.is_within(kills.flushes)] == []
    assert len(kills.taken) == KILLS * (PROVIDER in victims)
    four = lab.add_host("p4", "br0", "10.1.1.4/24")
    four.ping(one.ip)
