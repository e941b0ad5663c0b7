# SPDX-License-Identifier: Apache-2.0
"""Takes bench/data/churn.odp.xz from a real ovs-vswitchd.

``python -m bench.churnset``: an access list of 300 rules on OVS's dummy
datapath, and packets.  A third of the rules are then replaced by others three
times, while the revalidators stand still, with packets after each: the flows
are those of a switch whose flows have not been looked at since, where flows
of old and of new rules lie over one another.
"""

from __future__ import annotations

import lzma
import os
import random
import subprocess
import tempfile
from pathlib import Path

from bench.odpflows import DATA

TOP = Path(__file__).resolve().parents[1]
BIN = Path(os.environ.get("OVS_BIN", TOP / "build" / "bin"))
SEED = 20190926
RULES, PACKETS, ROUNDS = 300, 4000, 3
_ARGUMENTS = 200
"""Packets of one ovs-appctl."""
_ETHERNET = "packet_type(ns=0,id=0),"
_PORTS = (22, 53, 80, 123, 443, 3306, 8080, 8443)


class _Switch:
    """ovs-vswitchd with a bridge of three ports, in a directory."""

    def __init__(self, rundir: Path) -> None:
        self.env = {**os.environ, **dict.fromkeys(
            ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"),
            str(rundir))}
        self._processes: list[subprocess.Popen[bytes]] = []
        self.run("ovsdb-tool", "create", f"{rundir}/conf.db")
        self._start("ovsdb-server", f"{rundir}/conf.db",
                    f"--remote=punix:{rundir}/db.sock")
        self.run("ovs-vsctl", "--no-wait", "--retry", "init")
        self._start("ovs-vswitchd", "--enable-dummy=override",
                    "--disable-system")
        self.run("ovs-vsctl", "add-br", "br0", "--", "set", "bridge", "br0",
                 "fail-mode=secure", "--", "set", "open_vswitch", ".",
                 "other_config:max-idle=3600000", *(
                     word for n in (1, 2, 3) for word in (
                         "--", "add-port", "br0", f"p{n}", "--", "set",
                         "interface", f"p{n}", f"ofport_request={n}")))

    def _start(self, name: str, *arguments: str) -> None:
        self._processes.append(subprocess.Popen(
            [BIN / name, *arguments, "--pidfile", "-vconsole:off"],
            env=self.env))

    def run(self, *command: str, text: str | None = None) -> str:
        """A tool's output."""
        return subprocess.run(
            [BIN / command[0], *command[1:]], env=self.env, input=text,
            check=True, capture_output=True, text=True).stdout

    def close(self) -> None:
        """Ends the daemons."""
        for process in reversed(self._processes):
            process.terminate()
            process.wait()


def _prefix(address: int, rng: random.Random) -> str:
    length = rng.choice((8, 12, 16, 20, 24, 24, 28, 32))
    octets = address.to_bytes(4, "big")
    return f"{'.'.join(map(str, octets))}/{length}"


def _inside(rng: random.Random) -> int:
    return 10 << 24 | rng.randrange(4) << 16 | rng.getrandbits(16)


def _outside(rng: random.Random) -> int:
    return rng.choice((172 << 24 | 16 << 16, 192 << 24 | 168 << 16)) \
        | rng.getrandbits(16)


def _rule(rng: random.Random) -> str:
    match = [rng.choice(("tcp", "udp")), f"priority={rng.randrange(1, 400)}"]
    if rng.random() < .8:
        match.append(f"nw_src={_prefix(_outside(rng), rng)}")
    if rng.random() < .9:
        match.append(f"nw_dst={_prefix(_inside(rng), rng)}")
    if rng.random() < .6:
        match.append(f"tp_dst={rng.choice(_PORTS)}")
    return f"{','.join(match)},actions={rng.choice(('drop', '2', '3'))}"


def _packet(rng: random.Random) -> str:
    source, target = (".".join(map(str, ip.to_bytes(4, "big")))
                      for ip in (_outside(rng), _inside(rng)))
    proto, name = rng.choice(((6, "tcp"), (17, "udp")))
    port = rng.choice(_PORTS) if rng.random() < .7 else rng.getrandbits(16)
    return ("in_port(1),eth(src=50:54:00:00:00:01,dst=50:54:00:00:00:02),"
            f"eth_type(0x0800),ipv4(src={source},dst={target},proto={proto},"
            f"tos=0,ttl=64,frag=no),{name}(src={rng.getrandbits(16)},"
            f"dst={port})")


def _install(switch: _Switch, rules: list[str]) -> None:
    switch.run("ovs-ofctl", "-O", "OpenFlow14", "--bundle", "replace-flows",
               "br0", "-", text="\n".join([*rules, "priority=0,actions=2"]))


def _receive(switch: _Switch, rng: random.Random) -> None:
    for _ in range(0, PACKETS, _ARGUMENTS):
        switch.run("ovs-appctl", "netdev-dummy/receive", "p1",
                   *(_packet(rng) for _ in range(_ARGUMENTS)))


def take() -> list[str]:
    """The flows, without statistics and actions."""
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory() as rundir:
        switch = _Switch(Path(rundir))
        try:
            rules = [_rule(rng) for _ in range(RULES)]
            _install(switch, rules)
            _receive(switch, rng)
            switch.run("ovs-appctl", "revalidator/pause")
            for _ in range(ROUNDS):
                for at in rng.sample(range(RULES), RULES // 3):
                    rules[at] = _rule(rng)
                _install(switch, rules)
                _receive(switch, rng)
            flows = switch.run("ovs-appctl", "dpctl/dump-flows").splitlines()
            switch.run("ovs-appctl", "revalidator/resume")
        finally:
            switch.close()
    return [line.partition(", packets:")[0].replace(_ETHERNET, "")
            for line in flows if line.startswith("recirc_id")]


if __name__ == "__main__":
    found = take()
    with lzma.open(DATA / "churn.odp.xz", "wt", preset=9) as file:
        file.writelines(f"{line}\n" for line in found)
    print(f"{len(found)} flows")
