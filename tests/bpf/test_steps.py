# SPDX-License-Identifier: Apache-2.0
"""Providers that fail, or are killed, at each step of what they do.

A step is whatever changes pins, programs, devices, maps in the kernel or what
is kept for the next provider.  Of steps of one kind in an operation the first
is taken.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import re
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from devices import ip
from objects import HEADERS
from restarts import (
    NAME,
    Peer,
    Site,
    flow,
    hooks,
    open_fds,
    output,
    unmarked,
)

from dpif_bpf.core.records import FLOW_BASE, Records
from dpif_bpf.edge import bpfsys
from dpif_bpf.edge.loader import Files
from dpif_bpf.edge.ports.rtnetlink import Rtnl
from dpif_bpf.errors import BackendError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla_string

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not HEADERS.is_dir(),
                       reason="needs build/shim (./run build)")]
CHANGES = {0: "map create", 2: "map update", 3: "map delete", 5: "load",
           6: "pin", 28: "link", 29: "link update", 34: "link detach"}
"""Of enum bpf_cmd, <linux/bpf.h>."""
DEVICES = {"p1", "p1x", "p2", "p2x"}
FLOWS = 3


@pytest.fixture
def site(stages: Files) -> Iterator[Site]:
    with Site(stages) as made:
        for name in ("p1", "p2"):
            made.add_device(name)
        yield made


@dataclass(slots=True)
class Steps:
    """Sees steps, and strikes at one.

    :param strike: what happens there
    :ivar seen: what the steps were
    """

    strike: Callable[[str], object] | None = None
    at: int = -1
    seen: list[str] = field(default_factory=list)

    def step(self, *what: object) -> None:
        self.seen.append(re.sub(r"\d+", "#", " ".join(map(str, what))))
        if self.strike is not None and len(self.seen) == self.at + 1:
            self.strike(self.seen[-1])

    def first(self) -> dict[int, str]:
        """Number and kind of the first step of each kind."""
        return {self.seen.index(kind): kind
                for kind in dict.fromkeys(self.seen)}


@contextlib.contextmanager
def watched(steps: Steps, root: Path) -> Iterator[None]:
    """Steps are seen meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        real = bpfsys.call

        def call(cmd: int, attr: bytearray, what: str) -> int:
            if cmd in CHANGES:
                kind = what.replace(str(root), "") if cmd != 6 else what[
                    :what.rindex("/")].replace(str(root), "")
                steps.step(CHANGES[cmd], kind)
            return real(cmd, attr, what)

        patch.setattr(bpfsys, "call", call)
        for name in ("mkdir", "rename", "unlink", "rmdir"):
            patch.setattr(os, name, _on_pins(steps, root, name))
        for owner, name, describe in (
                (Rtnl, "change", lambda what, command, **_: (what, command)),
                (Records, "put", lambda index, _: ("keep", index)),
                (Records, "drop", lambda index: ("forget", index))):
            patch.setattr(owner, name, _method(steps, owner, name, describe))
        yield


def _on_pins(steps: Steps, root: Path, name: str) -> Callable[..., object]:
    real = getattr(os, name)

    def call(path: str | Path, *args: object, **named: object) -> object:
        where = Path(path)
        if where.is_relative_to(root):
            relative = where.relative_to(root)
            # One pin of a directory stands for all, and one layout.
            kind = relative.parent if name == "unlink" else relative
            steps.step(name, re.sub("(?<=layouts/).*", "#", str(kind)))
        return real(path, *args, **named)

    return call


def _method(steps: Steps, owner: type, name: str,
            describe: Callable[..., tuple[object, ...]],
            ) -> Callable[..., object]:
    real = getattr(owner, name)

    def call(self: object, *args: object, **named: object) -> object:
        what = describe(*args, **named)
        if what[0] in ("keep", "forget"):
            index = what[1]
            assert isinstance(index, int)
            what = (what[0], "flow" if index >= FLOW_BASE else
                    "port" if index else "datapath")
        steps.step(*what)
        return real(self, *args, **named)

    return call


# Operations


def nothing(_site: Site) -> None:
    """To begin with."""


def furnish(site: Site) -> None:
    """A datapath with ports and flows, and no provider."""
    peer = site.start()
    if not peer.provider.datapaths():
        assert peer.new_dp() == (0, None)
    for name, kind in (("p1", u.OVS_VPORT_TYPE_NETDEV),
                       ("i3", u.OVS_VPORT_TYPE_INTERNAL)):
        assert peer.add_port(name, kind)[0] in (0, errno.EEXIST)
    port = peer.dp.vports.by_name["p1"].port_no
    for number in range(FLOWS):
        error, _ = peer.put(*flow(port, number, output(2)))
        assert error in (0, errno.EEXIST)
    site.stop(peer)


@dataclass(frozen=True, slots=True)
class Op:
    """An operation of a provider.

    :param before: makes what it needs
    :param act: carries it out; an errno
    :param takes_over: whether the start of the provider is part of it
    :param there: whether there is a datapath whenever it is killed
    """

    before: Callable[[Site], None]
    act: Callable[[Peer], int]
    takes_over: bool = False
    there: bool = True


def bridges(peer: Peer) -> int:
    peer.provider.set_bridges({"br0": frozenset({"p1"}),
                               "br1": frozenset({"i3"})})
    peer.provider.set_bridges({"br1": frozenset({"p1"})})
    return 0


OPS = {
    "make": Op(nothing, lambda peer: peer.new_dp()[0], there=False),
    "take over": Op(furnish, lambda _: 0, takes_over=True),
    "netdev": Op(furnish, lambda peer: peer.add_port("p2")[0]),
    "internal": Op(furnish, lambda peer: peer.add_port(
        "i4", u.OVS_VPORT_TYPE_INTERNAL)[0]),
    "bridges": Op(furnish, bridges),
    "port del": Op(furnish, lambda peer: peer.try_(
        u.OVS_VPORT_ID, u.OVS_VPORT_CMD_DEL,
        nla_string(u.OVS_VPORT_ATTR_NAME, "i3"))[0]),
    "remove": Op(furnish, lambda peer: peer.del_dp()[0], there=False),
}


def carry_out(site: Site, op: Op, steps: Steps) -> tuple[Peer, int]:
    """A provider starts and does it."""
    if op.takes_over:
        with watched(steps, site.pins):
            peer = site.start()
        return peer, 0
    peer = site.start()
    with watched(steps, site.pins):
        return peer, op.act(peer)


def kinds(site: Site, op: Op) -> dict[int, str]:
    """The steps at which it is to be struck."""
    op.before(site)
    steps = Steps()
    peer, error = carry_out(site, op, steps)
    assert error == 0 and steps.seen
    end(site, peer)
    return steps.first()


def end(site: Site, peer: Peer) -> None:
    """The datapath goes, the provider goes, and nothing stays."""
    for left in peer.provider.left():
        assert peer.del_dp(left.name) == (0, None)
    for dp in peer.provider.datapaths():
        assert peer.del_dp(dp.name) == (0, None)
    assert site.devices() - unmarked() <= DEVICES
    assert site.pinned() == set()
    for name in site.devices() - DEVICES:
        if name in site.devices():
            ip(f"link del {name}")
    site.stop(peer)


def whole(site: Site, peer: Peer, failed: str = "") -> None:
    """What is there is one generation, and all of it is hooked.

    :param failed: a step that failed
    """
    dp, gen = peer.dp, peer.instance.plane.gen
    assert not peer.provider.left() and not peer.instance.unsettled
    assert set(os.listdir(site.pins / NAME)) == {
        str(gen.number), "links"}
    hooked = [peer.instance.pair.receiver, *(
        port.link.hook_ifindex for port in dp.vports.by_no.values())]
    links = hooks(hooked)
    assert all(len(ids) == 1 for ids in links)
    pins = set(os.listdir(site.pins / NAME / "links")) - {*map(str, hooked)}
    assert len(pins) <= (failed == f"unlink {NAME}/links")
    assert all(port.hooked for port in dp.vports.by_no.values())
    # A pair that was made, and not marked yet, is replaced when it is made.
    ours = {name for name in site.devices() - unmarked()
            if name.startswith("ovs")}
    turn = gen.number & 1
    assert ours == {NAME, f"ovsx0s{turn}", f"ovsx0r{turn}", *(
        f"ovsh0p{no}" for no, port in dp.vports.by_no.items()
        if port.link.internal)}


def works(site: Site, peer: Peer, op: Op, failed: str = "") -> None:
    """After the blow, everything can be had."""
    if not peer.provider.datapaths():
        assert not op.there
        # A pair that was made, and not marked yet, is replaced.
        assert site.devices() - unmarked() <= DEVICES
        assert site.pinned() == set()
        assert peer.new_dp() == (0, None)
    whole(site, peer, failed)
    for name, kind in (("p2", u.OVS_VPORT_TYPE_NETDEV),
                       ("i4", u.OVS_VPORT_TYPE_INTERNAL)):
        assert peer.add_port(name, kind)[0] in (0, errno.EEXIST)
    peer.provider.set_bridges({"br2": frozenset({"p2", "i4"})})
    peer.provider.set_bridges({})
    whole(site, peer, failed)
    if op.takes_over:
        assert len(peer.dp.flows) == FLOWS - (failed == "keep flow")
        assert {"p1", "i3"} <= peer.dp.vports.by_name.keys()


@pytest.mark.parametrize("name", OPS)
def test_killed(site: Site, name: str) -> None:
    """The next provider takes over or clears away what it finds."""
    op = OPS[name]
    for at, what in kinds(site, op).items():
        op.before(site)
        peers = site.peers
        steps = Steps(lambda _: os.kill(os.getpid(), signal.SIGKILL), at)
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                carry_out(site, op, steps)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL, what
        assert site.peers is peers and not peers
        peer = site.start()
        works(site, peer, op)
        end(site, peer)


def again(peer: Peer) -> None:
    """What has failed is tried again now."""
    for left in peer.provider.left():
        left.delay = -1 << 40
    for instance in peer.provider.instances():
        instance.unsettled = min(instance.unsettled, 1)
    peer.provider.run()


def _refuse(what: str) -> None:
    if re.match(r"mkdir|rename|unlink|rmdir", what):
        raise OSError(errno.EIO, "no")
    raise BackendError(errno.ENOMEM, f"no {what}")


@pytest.mark.parametrize("name", OPS)
def test_failed(site: Site, name: str) -> None:
    """Nothing is left of it, or it is done all the same; then all works."""
    op = OPS[name]
    for at, what in kinds(site, op).items():
        if what.startswith("forget"):
            continue  # a store, which does not fail
        op.before(site)
        steps = Steps(_refuse, at)
        gc.collect()
        fds = open_fds()
        peer, _ = carry_out(site, op, steps)
        assert len(steps.seen) > at
        again(peer)
        works(site, peer, op, what)
        end(site, peer)
        gc.collect()
        assert open_fds() == fds, what
