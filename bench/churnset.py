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
import random
import sys
import tempfile
from pathlib import Path

from bench.odpflows import DATA

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "system"))

from lab import Lab
from ovs_build import find_build

SEED = 20190926
RULES, PACKETS, ROUNDS = 300, 4000, 3
_ARGUMENTS = 200
"""Packets of one ovs-appctl."""
_ETHERNET = "packet_type(ns=0,id=0),"
_PORTS = (22, 53, 80, 123, 443, 3306, 8080, 8443)


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


def _configure(lab: Lab) -> None:
    """A bridge of three ports, whose flows stay."""
    lab.vsctl("add-br", "br0", "--", "set", "bridge", "br0",
              "fail-mode=secure", "--", "set", "open_vswitch", ".",
              "other_config:max-idle=3600000", *(
                  word for n in (1, 2, 3) for word in (
                      "--", "add-port", "br0", f"p{n}", "--", "set",
                      "interface", f"p{n}", f"ofport_request={n}")))


def _install(lab: Lab, rules: list[str]) -> None:
    file = lab.rundir / "rules"
    file.write_text("\n".join([*rules, "priority=0,actions=2"]))
    lab.ofctl("-O", "OpenFlow14", "--bundle", "replace-flows", "br0",
              str(file))


def _receive(lab: Lab, rng: random.Random) -> None:
    for _ in range(0, PACKETS, _ARGUMENTS):
        lab.appctl("netdev-dummy/receive", "p1",
                   *(_packet(rng) for _ in range(_ARGUMENTS)))


def take() -> list[str]:
    """The flows, without statistics and actions."""
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="dpif-bpf-") as rundir:
        lab = Lab(find_build(), Path(rundir))
        try:
            lab.start_server()
            lab.start_switch("--enable-dummy=override", "--disable-system")
            _configure(lab)
            rules = [_rule(rng) for _ in range(RULES)]
            _install(lab, rules)
            _receive(lab, rng)
            lab.appctl("revalidator/pause")
            for _ in range(ROUNDS):
                for at in rng.sample(range(RULES), RULES // 3):
                    rules[at] = _rule(rng)
                _install(lab, rules)
                _receive(lab, rng)
            flows = lab.appctl("dpctl/dump-flows").splitlines()
            lab.appctl("revalidator/resume")
        finally:
            lab.stop()
    return [line.partition(", packets:")[0].replace(_ETHERNET, "")
            for line in flows if line.startswith("recirc_id")]


if __name__ == "__main__":
    found = take()
    with lzma.open(DATA / "churn.odp.xz", "wt", preset=9) as file:
        file.writelines(f"{line}\n" for line in found)
    print(f"{len(found)} flows")
