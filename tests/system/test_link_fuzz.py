# SPDX-License-Identifier: Apache-2.0
"""Random changes of devices beside changes of the configuration.

Neither daemon ends, packets between two ports that nobody touches all arrive,
and when it is over the database, the datapath and the devices agree.

``OVS_LINK_FUZZ_SECONDS`` says for how long (20), ``OVS_LINK_FUZZ_SEED`` with
which changes (1); what the daemons make of them is a matter of time as well.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from time import monotonic

from lab import PROVIDER, SWITCH, Lab
from netns import Namespace
from streams import Stream
from test_restart import settle, two_hosts

SECONDS = float(os.environ.get("OVS_LINK_FUZZ_SECONDS", "20"))
SEED = int(os.environ.get("OVS_LINK_FUZZ_SEED", "1"))

BRIDGES = ("br0", "br1")
DEVICES = tuple(f"v{i}" for i in range(5))
INTERNAL = tuple(f"i{i}" for i in range(3))
MTUS = (1400, 1500, 2000, 9000)
RATE = 100
"""Packets a second between the ports that are left alone."""

_PORT = re.compile(r"port (\d+): (\S+) ifindex (\d+) mtu (\d+) mac \S+"
                   r" bridge (\S+)")


@dataclass(frozen=True)
class Device:
    """A device of the switch's namespace."""

    index: int
    mtu: int
    up: bool


@dataclass(frozen=True)
class Port:
    """A port of the datapath, as the provider shows it."""

    index: int
    mtu: int
    bridge: str


@dataclass(frozen=True)
class Interface:
    """An interface of the database."""

    internal: bool
    ofport: int
    bridge: str


class Fuzz:
    """Makes changes of one lab."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._random = random.Random(SEED)
        self._spaces = [lab.add_namespace() for _ in range(2)]
        self.last: list[str] = []
        """The last changes, for who looks into a failure."""

    def step(self) -> None:
        """Some changes of devices, and meanwhile one of the configuration."""
        pick = self._random
        changes = [self._start(self._lab.ns, [
            line for _ in range(pick.randint(1, 20))
            for line in self._change()])]
        if pick.random() < 0.3:
            away = pick.choice(self._spaces)
            changes.append(self._start(away, list(self._changes_away(away))))
        if pick.random() < 0.8:
            how = pick.choice(("--no-wait", "--timeout=20"))
            self._configure(how, *self._configuration())
        for change in changes:
            change.wait(60)

    def _start(self, where: Namespace,
               lines: list[str]) -> subprocess.Popen[bytes]:
        """Commands of ip(8), of which many fail."""
        self.last = [*self.last, *lines][-40:]
        file = self._lab.rundir / f"batch-{where.pid}"
        file.write_text("".join(f"{line}\n" for line in lines))
        return where.popen("ip", "-force", "-batch", str(file), quiet=True)

    def _configure(self, *words: str) -> None:
        self.last = [*self.last, " ".join(words)][-40:]
        self._lab.tool("ovs-vsctl", *words, check=False)

    def _change(self) -> list[str]:
        pick = self._random
        v, i = pick.choice(DEVICES), pick.choice(INTERNAL)
        w = pick.choice(DEVICES)
        away = pick.choice(self._spaces).pid
        last = pick.randint(1, 99)
        add = [f"link add {v} type veth peer name w{v}",
               f"link set {v} up", f"link set w{v} up"]
        return pick.choice([
            add, add, add, add,
            [f"link del {v}"],
            [f"link del {v}", f"link add {v} type veth peer name w{v}"],
            [f"link set {v} down", f"link set {v} name u{v}"],
            [f"link set {v} name u{v}", f"link set u{v} name {v}"],
            [f"link set {v} name u{v}", f"link del u{v}"],
            [f"link set u{v} name {v}"],
            [f"link set {v} name tmp0", f"link set {w} name {v}",
             f"link set tmp0 name {w}"],
            [f"link set {v} mtu {pick.choice(MTUS)}"],
            [f"link set {v} netns {away}"],
            [f"link set w{v} netns {away}"],
            [f"link set {v} address 02:00:00:00:00:{last:02d}"],
            [f"link set {v} down", f"link set {v} up"],
            [f"link set {v} promisc off"],
            [f"link set {v} alias foo"],
            [f"link set {i} up"],
            [f"link set {i} down"],
            [f"link set {i} mtu {pick.choice(MTUS)}"],
            [f"link set {i} netns {away}"],
            [f"link set {i} name r{i}"],
            [f"link set {i} name r{i}", f"link set r{i} name {i}"],
            [f"link set r{i} name {i}"],
            [f"link del {i}"],
            [f"link set {i} address 02:00:00:00:01:{last:02d}"],
            [f"link set ovsh0p{pick.randint(3, 20)} down"],
            [f"link del ovsh0p{pick.randint(3, 20)}"],
        ])

    def _changes_away(self, away: Namespace) -> Iterator[str]:
        """What happens in a container."""
        for line in away.ip("-br link").splitlines():
            name = line.split()[0].split("@")[0]
            chance = self._random.random()
            if name == "lo":
                continue
            if chance < 0.3:
                yield f"link del {name}"
            elif chance < 0.5:
                yield f"link set {name} name z{self._random.randint(0, 99)}"
            elif chance < 0.7:
                yield f"link set {name} netns {self._lab.ns.pid}"

    def _configuration(self) -> list[str]:
        pick = self._random
        v, i = pick.choice(DEVICES), pick.choice(INTERNAL)
        bridge = pick.choice(BRIDGES)
        return pick.choice([
            ["--may-exist", "add-port", bridge, v],
            ["--if-exists", "del-port", v],
            ["--if-exists", "del-port", i],
            ["--if-exists", "del-port", i, "--", "add-port", bridge, i,
             "--", "set", "interface", i, "type=internal"],
            ["--if-exists", "del-port", v, "--", "add-port", bridge, v],
            ["--if-exists", "del-br", "br1"],
            ["--may-exist", "add-br", "br1", "--", "set", "bridge", "br1",
             "datapath_type=bpf"],
        ])


# What there is.

def devices(lab: Lab) -> dict[str, Device]:
    return {link["ifname"]: Device(link["ifindex"], link["mtu"],
                                   "UP" in link["flags"])
            for link in json.loads(lab.ns.ip("-j link show"))}


def ports(lab: Lab) -> dict[str, Port]:
    return {name: Port(int(index), int(mtu), bridge)
            for _, name, index, mtu, bridge in _PORT.findall(
                lab.appctl("dpif-bpf/show", target=PROVIDER))}


def interfaces(lab: Lab) -> dict[str, Interface]:
    def table(name: str, *columns: str) -> list[list[object]]:
        text = lab.vsctl("--format=json", f"--columns={','.join(columns)}",
                         "list", name)
        rows: list[list[object]] = json.loads(text)["data"]
        return rows
    owner = {name: bridge for bridge in lab.vsctl("list-br").split()
             for name in [bridge, *lab.vsctl("list-ports", bridge).split()]}
    return {str(name): Interface(
                type_ == "internal", ofport if isinstance(ofport, int) else 0,
                owner[str(name)])
            for name, type_, ofport in table("interface", "name", "type",
                                             "ofport")}


def disagreements(lab: Lab) -> list[str]:
    """Where the database, the datapath and the devices differ."""
    configured, have, there = interfaces(lab), ports(lab), devices(lab)
    found = []
    local = have.pop("ovs-bpf")
    if there["ovsh0p0"].index != local.index:
        found.append("the datapath's device is another one")
    for name, interface in configured.items():
        port = have.pop(name, None)
        wanted = interface.internal or name in there
        if (port is not None) != wanted or (interface.ofport > 0) != wanted:
            found.append(f"{name}: {interface} but {port}, and"
                         f" {there.get(name)}")
        elif port is not None:
            found += _differences(name, interface, port, there)
    found += [f"{name} is a port" for name in have]
    hidden = [name for name in there if name.startswith("ovsh")]
    internal = [i for i in configured.values() if i.internal]
    if len(hidden) != len(internal) + 1:
        found.append(f"{hidden} are left")
    return found


def _differences(name: str, interface: Interface, port: Port,
                 there: dict[str, Device]) -> Iterator[str]:
    if port.bridge != interface.bridge:
        yield f"{name} is in {port.bridge}"
    if interface.internal:
        (hidden,) = (device for device in there.values()
                     if device.index == port.index)
        if not hidden.up:
            yield f"{name} is cut off"
    elif (port.index, port.mtu) != (there[name].index, there[name].mtu):
        yield f"{name}: {port} of {there[name]}"


def agree(lab: Lab) -> Callable[[], bool]:
    return lambda: not disagreements(lab)


def test_link_fuzz(own_lab: Lab) -> None:
    lab = own_lab
    lab.allowed.append(f"^{SWITCH}: ")
    one, two = two_hosts(lab)
    settle(lab, one, two)
    fuzz = Fuzz(lab)
    stream = Stream(lab, one, two, RATE)
    end = monotonic() + SECONDS
    while monotonic() < end:
        fuzz.step()
        assert lab.alive, "\n".join([
            *fuzz.last, lab.text(f"{PROVIDER}.out")[-3000:]])
    try:
        lab.until(agree(lab), 60)
    except AssertionError as error:
        raise AssertionError("\n".join(
            [*disagreements(lab), *fuzz.last, str(error)])) from None
    assert stream.lost() == 0
    assert "on port 65535" not in lab.text(f"{SWITCH}.log")
    one.ping(two.ip)
    # Nothing is left of them when they are not wanted any more.
    lab.vsctl("--if-exists", "del-br", "br1", *(
        word for name in (*DEVICES, *INTERNAL)
        for word in ("--", "--if-exists", "del-port", name)))
    lab.until(agree(lab))
    assert set(ports(lab)) == {"ovs-bpf", "br0", "p1", "p2"}
