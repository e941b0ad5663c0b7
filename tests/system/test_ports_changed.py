# SPDX-License-Identifier: Apache-2.0
"""Devices of ports that others change (dpif_bpf.edge.ports), also between
two looks at them and while the provider is away."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator

import pytest
from netns import Namespace
from test_ports import (
    HIDDEN,
    IFF_PROMISC,
    IFF_RUNNING,
    IFF_UP,
    Waiter,
    changes,
    collect,
    has,
    refused,
    show,
)
from tuntap import IFF_TUN, TUNSETLINK, open_tun

from dpif_bpf.core.devices import LinkChange, LinkEvent
from dpif_bpf.edge.ports import Ports
from dpif_bpf.edge.ports import links as edge
from dpif_bpf.edge.ports.rtnetlink import LinkMonitor, Rtnl
from dpif_bpf.errors import BackendError

ARPHRD_RAWIP = 519


@pytest.fixture
def ports(namespace: Namespace) -> Iterator[Ports]:
    made = Ports()
    yield made
    made.close()


def batch(namespace: Namespace, *lines: str) -> None:
    """Commands of ip(8), one right after the other."""
    subprocess.run(namespace.command(["ip", "-batch", "-"]), text=True,
                   input="".join(f"{line}\n" for line in lines), check=True)


def pair(namespace: Namespace, name: str = "v0", peer: str = "v1") -> None:
    namespace.ip(f"link add {name} type veth peer name {peer}")


def losing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next events are lost."""
    run = LinkMonitor.run

    def lose(monitor: LinkMonitor) -> tuple[set[int], set[int], bool]:
        if run(monitor) == (set(), set(), False):
            return set(), set(), False
        monkeypatch.setattr(LinkMonitor, "run", run)
        return set(), set(), True
    monkeypatch.setattr(LinkMonitor, "run", lose)


# Between two looks.

def test_renamed_and_back(namespace: Namespace, ports: Ports) -> None:
    """As LXC does it."""
    pair(namespace)
    ports.open_netdev("v0")
    ports.run()
    batch(namespace, "link set v0 name u0", "link set u0 name v0",
          "link set v0 mtu 1400")
    assert changes(collect(ports, has(LinkChange.MTU))) == LinkChange.MTU


def test_renamed_and_deleted(namespace: Namespace, ports: Ports) -> None:
    pair(namespace)
    link = ports.open_netdev("v0")
    batch(namespace, "link set v0 name u0", "link del u0")
    (event,) = collect(ports, has(LinkChange.GONE))
    assert event == LinkEvent(LinkChange.GONE, link)


def test_names_are_swapped(namespace: Namespace, ports: Ports) -> None:
    pair(namespace, "pa", "pax")
    pair(namespace, "pb", "pbx")
    a, b = ports.open_netdev("pa"), ports.open_netdev("pb")
    batch(namespace, "link set pa name tmp0", "link set pb name pa",
          "link set tmp0 name pb")
    events = {event.link.hook_ifindex: event.link.name
              for event in collect(ports, lambda events: len(events) == 2)}
    assert events == {a.hook_ifindex: "pb", b.hook_ifindex: "pa"}


@pytest.mark.parametrize("lost", [False, True])
def test_another_of_the_same_name(
        namespace: Namespace, ports: Ports, lost: bool,
        monkeypatch: pytest.MonkeyPatch) -> None:
    pair(namespace)
    link = ports.open_netdev("v0")
    ports.run()
    if lost:
        losing(monkeypatch)
    batch(namespace, "link del v0", "link add v0 type veth peer name v1")
    (event,) = collect(ports, bool)
    assert event == LinkEvent(LinkChange.GONE, link)
    assert ports.open_netdev("v0").hook_ifindex != link.hook_ifindex


@pytest.mark.parametrize("lost", [False, True])
@pytest.mark.parametrize("name, kind, want", [
    ("v0", "veth peer name v1", LinkChange.HOOK),
    ("x0", "veth peer name v1", LinkChange.HOOK | LinkChange.NAME),
    ("v0", "bridge", LinkChange.HOOK | LinkChange.KIND)])
def test_another_of_the_same_index(
        namespace: Namespace, ports: Ports, lost: bool, name: str, kind: str,
        want: LinkChange, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has no hook, at the least."""
    pair(namespace)
    link = ports.open_netdev("v0")
    ports.run()
    if lost:
        losing(monkeypatch)
    batch(namespace, "link del v0",
          f"link add {name} index {link.ifindex} type {kind}")
    (event,) = collect(ports, bool)
    assert event.change & want == want
    assert not event.change & LinkChange.GONE
    ports.release(event.link)
    assert "PROMISC" not in show(namespace, name)


def test_type_of_a_device(namespace: Namespace, ports: Ports) -> None:
    tun = open_tun("t0", IFF_TUN)
    ports.open_netdev("t0")
    fcntl.ioctl(tun, TUNSETLINK, ARPHRD_RAWIP)
    (event,) = collect(ports, has(LinkChange.KIND))
    assert event.link.type == ARPHRD_RAWIP
    ports.release(event.link)
    assert "PROMISC" not in show(namespace, "t0")
    os.close(tun)


@pytest.mark.parametrize("master", ["bridge", "bond"])
def test_enslaved(namespace: Namespace, ports: Ports, master: str) -> None:
    """It was a port first, and stays one; also for the next provider."""
    pair(namespace)
    link = ports.open_netdev("v0")
    made = namespace.run("ip", "link", "add", "m0", "type", master,
                         check=False)
    if "Unknown device type" in made:
        pytest.skip(f"the kernel has no {master}")
    namespace.ip("link set v0 down")
    namespace.ip("link set v0 master m0")
    namespace.ip("link set v0 mtu 1400")
    events = collect(ports, has(LinkChange.MTU))
    assert not changes(events) & (LinkChange.GONE | LinkChange.NAME
                                  | LinkChange.KIND)
    later = Ports()
    assert (later.adopt_netdev("v0", link.ifindex).hook_ifindex
            == link.hook_ifindex)
    later.close()
    refused(errno.EBUSY, Ports().open_netdev, "v0")


def test_no_longer_promiscuous_and_gone(namespace: Namespace,
                                        ports: Ports) -> None:
    pair(namespace)
    ports.open_netdev("v0")
    batch(namespace, "link set v0 promisc off", "link del v0")
    events = collect(ports, has(LinkChange.GONE))
    assert changes(events) == LinkChange.GONE


@contextlib.contextmanager
def amid(monkeypatch: pytest.MonkeyPatch, target: object, method: str,
         happens: Callable[[], object]) -> Iterator[None]:
    """Something happens right before the first call of a method."""
    real = getattr(target, method)
    todo = [happens]

    def call(*args: object, **named: object) -> object:
        if todo:
            todo.pop()()
        return real(*args, **named)
    with monkeypatch.context() as patch:
        patch.setattr(target, method, call)
        yield
    assert not todo


@pytest.mark.parametrize("method", ["_disable_lro", "_set_promisc"])
def test_gone_while_it_is_opened(namespace: Namespace, ports: Ports,
                                 monkeypatch: pytest.MonkeyPatch,
                                 method: str) -> None:
    pair(namespace)
    with amid(monkeypatch, ports, method,
              lambda: namespace.ip("link del v0")):
        refused(errno.ENODEV, ports.open_netdev, "v0")
    pair(namespace)
    assert ports.open_netdev("v0").name == "v0"
    assert not changes(ports.run()) & LinkChange.GONE


@pytest.mark.parametrize("method", ["_disable_lro", "_set_promisc", "_begin",
                                    "_claim"])
@pytest.mark.parametrize("what, change", [
    ("link set v0 name u0", LinkChange.NAME),
    ("link set v0 mtu 1400", LinkChange.MTU)])
def test_changed_while_it_is_opened(namespace: Namespace, ports: Ports,
                                    monkeypatch: pytest.MonkeyPatch,
                                    method: str, what: str,
                                    change: LinkChange) -> None:
    """It is heard of later."""
    pair(namespace)
    with amid(monkeypatch, ports, method, lambda: namespace.ip(what)):
        link = ports.open_netdev("v0")
    assert link.name == "v0"
    (event,) = ports.run()
    assert event.change & change


def test_away_before_it_is_opened(namespace: Namespace, ports: Ports,
                                  elsewhere: Namespace) -> None:
    """What was heard of it before is of no account."""
    pair(namespace)
    for _ in range(3):
        namespace.ip(f"link set v0 netns {elsewhere.pid}")
        elsewhere.ip(f"link set v0 netns {namespace.pid}")
    link = ports.open_netdev("v0")
    assert not changes(ports.run()) & (LinkChange.GONE | LinkChange.HOOK)
    ports.release(link)


def test_look_that_fails_is_repeated(namespace: Namespace, ports: Ports,
                                     elsewhere: Namespace,
                                     monkeypatch: pytest.MonkeyPatch
                                     ) -> None:
    """After a while, with a timer, and not each time."""
    pair(namespace)
    pair(namespace, "v2", "v3")
    ports.open_netdev("v0")
    ports.open_netdev("v2")
    ports.run()
    now = 5000
    monkeypatch.setattr(edge, "msec", lambda: now)
    real, asked = Rtnl.find, []

    def find(rtnl: Rtnl, index: int = 0, name: str = "",
             nsid: int | None = None) -> object:
        asked.append(index)
        raise BackendError(errno.EBUSY, "not now")

    class Timer:
        msec = -1

        def fd_wait(self, _fd: int, _events: int) -> None:
            pass

        def timer_wait(self, msec: int) -> None:
            self.msec = msec

        def immediate_wake(self) -> None:
            raise AssertionError

    monkeypatch.setattr(Rtnl, "find", find)
    batch(namespace, "link set v0 mtu 1400",
          f"link set v2 netns {elsewhere.pid}")
    elsewhere.ip(f"link set v2 netns {namespace.pid}")
    assert ports.run() == ports.run() == []
    assert len(asked) == 2, "each of them once"
    timer = Timer()
    ports.wait(timer)
    assert timer.msec == edge.AGAIN_INTERVAL
    monkeypatch.setattr(Rtnl, "find", real)
    now += edge.AGAIN_INTERVAL - 1
    assert ports.run() == []
    now += 1
    what = {event.link.name: event.change for event in ports.run()}
    assert what["v0"] == LinkChange.MTU
    assert what["v2"] & LinkChange.HOOK
    timer = Timer()
    ports.wait(timer)
    assert timer.msec == -1


# Internal ports.

def test_internal_renamed_at_once(namespace: Namespace, ports: Ports,
                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """As udev does it, as soon as there is a device."""
    with amid(monkeypatch, ports._pairs, "_mark",
              lambda: namespace.ip("link set int0 name lan0")):
        link = ports.create_internal("int0", HIDDEN)
    assert link.name == "lan0"
    ports.start(link)
    ports.release(link)
    assert not namespace.run("ip", "link", "show", "type", "veth")


def test_internal_moved_at_once(namespace: Namespace, ports: Ports,
                                elsewhere: Namespace,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be finished there: nothing is left of it."""
    with amid(monkeypatch, ports._pairs, "_mark", lambda: namespace.ip(
            f"link set int0 netns {elsewhere.pid}")):
        refused(errno.ENODEV, ports.create_internal, "int0", HIDDEN)
    assert "int0" not in elsewhere.ip("link show")
    assert HIDDEN not in namespace.ip("link show")


def test_internal_of_an_index(namespace: Namespace, ports: Ports) -> None:
    link = ports.create_internal("int0", HIDDEN)
    namespace.ip("link del int0")
    collect(ports, has(LinkChange.GONE))
    new = ports.create_internal("int0", HIDDEN, ifindex=link.hook_ifindex)
    assert new.hook_ifindex == link.hook_ifindex
    ports.start(new)
    assert not changes(ports.run()) & LinkChange.GONE
    namespace.ip("link set int0 up")
    events = collect(ports, has(LinkChange.FLAGS))
    assert events[-1].link.flags & IFF_UP
    namespace.ip("link del int0")
    collect(ports, has(LinkChange.GONE))
    namespace.ip(f"link add x index {link.hook_ifindex} type bridge")
    refused(errno.EEXIST, ports.create_internal, "int0", HIDDEN, None,
            link.hook_ifindex)
    assert "int0" not in namespace.ip("link show")


def test_hidden_end_is_set_up_again(namespace: Namespace,
                                    ports: Ports) -> None:
    link = ports.create_internal("int0", HIDDEN)
    namespace.ip("link set int0 up")
    collect(ports, has(LinkChange.FLAGS))
    assert "state DOWN" in show(namespace, HIDDEN), "it was not started"
    ports.start(link)
    events = collect(ports, lambda events: bool(
        events and events[-1].link.flags & IFF_RUNNING))
    assert not changes(events) & LinkChange.GONE
    namespace.ip(f"link set {HIDDEN} down")
    events = ports.run()
    assert ",UP" in show(namespace, HIDDEN)
    assert not changes(events) & LinkChange.GONE


def test_hidden_end_deleted(namespace: Namespace, ports: Ports) -> None:
    link = ports.create_internal("int0", HIDDEN)
    ports.start(link)
    namespace.ip(f"link del {HIDDEN}")
    events = collect(ports, has(LinkChange.GONE))
    assert events[-1].link.hook_ifindex == link.hook_ifindex


def test_hidden_end_was_away(namespace: Namespace, ports: Ports,
                             elsewhere: Namespace) -> None:
    """It is up, and quiet, again."""
    link = ports.create_internal("int0", HIDDEN)
    ports.start(link)
    namespace.ip(f"link set {HIDDEN} netns {elsewhere.pid}")
    elsewhere.ip(f"link set {HIDDEN} netns {namespace.pid}")
    events = collect(ports, has(LinkChange.HOOK))
    assert not changes(events) & LinkChange.GONE
    text = show(namespace, HIDDEN)
    assert ",UP" in text and "NOARP" in text
    assert "inet6" not in namespace.ip(f"addr show dev {HIDDEN}")


def test_hidden_end_moved_away(namespace: Namespace, ports: Ports,
                               elsewhere: Namespace) -> None:
    """What is left of the pair does not prevent the next one."""
    link = ports.create_internal("int0", HIDDEN)
    ports.start(link)
    namespace.ip(f"link set {HIDDEN} netns {elsewhere.pid}")
    (event,) = collect(ports, has(LinkChange.GONE))
    ports.release(event.link)
    ports.create_internal("int0", HIDDEN)
    assert HIDDEN not in elsewhere.ip("link show")


def test_hidden_end_replaced(namespace: Namespace, ports: Ports) -> None:
    """Another device of its index is left alone."""
    link = ports.create_internal("int0", HIDDEN)
    batch(namespace, f"link del {HIDDEN}",
          f"link add x index {link.hook_ifindex} type bridge")
    (event,) = collect(ports, has(LinkChange.GONE))
    ports.release(event.link)
    assert "x" in namespace.ip("link show dev x")


def test_hidden_end_adopted_by_index(namespace: Namespace,
                                     ports: Ports) -> None:
    link = ports.create_internal("int0", HIDDEN)
    other = ports.create_internal("int1", "ovsh0p2")
    namespace.ip(f"link set {HIDDEN} name x")
    later = Ports()
    refused(errno.ENODEV, later.adopt_internal, "int0", HIDDEN)
    # Not of another port, whatever has its index.
    refused(errno.ENODEV, later.adopt_internal, "int0", HIDDEN,
            other.hook_ifindex)
    found = later.adopt_internal("int0", HIDDEN, link.hook_ifindex)
    assert (found.name, found.hook_ifindex) == ("int0", link.hook_ifindex)
    assert later.adopt_internal("int1", "ovsh0p2", 99999).name == "int1"
    later.close()


def test_adopted_though_its_namespace_cannot_be_read(
        namespace: Namespace, ports: Ports, elsewhere: Namespace,
        monkeypatch: pytest.MonkeyPatch) -> None:
    link = ports.create_internal("int0", HIDDEN)
    namespace.ip(f"link set int0 netns {elsewhere.pid}")
    away = collect(ports, has(LinkChange.NETNS))[-1].link
    real = Rtnl.find

    def find(rtnl: Rtnl, index: int = 0, name: str = "",
             nsid: int | None = None) -> object:
        if nsid is not None:
            raise BackendError(errno.EINVAL, "there is no such namespace")
        return real(rtnl, index, name)
    monkeypatch.setattr(Rtnl, "find", find)
    later = Ports()
    found = later.adopt_internal("int0", HIDDEN, link.hook_ifindex)
    assert found.hook_ifindex == link.hook_ifindex
    assert (found.ifindex, found.netnsid) == (away.ifindex, away.netnsid)
    later.close()


# Inject pairs.

def test_inject_pair_is_set_up_again(namespace: Namespace,
                                     ports: Ports) -> None:
    ports.open_inject("ovsx0a", "ovsx0b")
    ports.run()
    batch(namespace, "link set ovsx0a down", "link set ovsx0b down")
    ports.run()
    for name in ("ovsx0a", "ovsx0b"):
        assert ",UP" in show(namespace, name)
    assert ports.renewed() == []


def test_inject_pair_is_made_anew(namespace: Namespace,
                                  ports: Ports) -> None:
    pair = ports.open_inject("ovsx0a", "ovsx0b")
    namespace.ip("link del ovsx0b")
    ports.run()
    assert ports.renewed() == [pair]
    assert ports.renewed() == []
    for name in ("ovsx0a", "ovsx0b"):
        text = show(namespace, name)
        assert ",UP" in text and "NOARP" in text
        assert "inet6" not in namespace.ip(f"addr show dev {name}")
    assert ports.open_inject("ovsx0a", "ovsx0b") == pair
    ports.delete_inject(pair)
    ports.run()
    assert ports.renewed() == []
    assert "ovsx0" not in namespace.ip("link show")


def test_inject_pair_was_away(namespace: Namespace, ports: Ports,
                              elsewhere: Namespace) -> None:
    pair = ports.open_inject("ovsx0a", "ovsx0b")
    namespace.ip(f"link set ovsx0b netns {elsewhere.pid}")
    elsewhere.ip(f"link set ovsx0b netns {namespace.pid}")
    ports.run()
    assert ports.renewed() == [pair]
    assert ",UP" in show(namespace, "ovsx0b")


@pytest.mark.parametrize("end", ["ovsx0a", "ovsx0b"])
def test_inject_pair_of_which_an_end_is_away(
        namespace: Namespace, ports: Ports, elsewhere: Namespace,
        end: str) -> None:
    pair = ports.open_inject("ovsx0a", "ovsx0b")
    namespace.ip(f"link set {end} netns {elsewhere.pid}")
    ports.run()
    assert ports.renewed() == [pair]
    assert end not in elsewhere.ip("link show")
    assert ",UP" in show(namespace, end)


def test_what_is_heard_by_the_way_is_not_slept_over(
        namespace: Namespace, ports: Ports) -> None:
    """A port that begins reads the events of all."""
    pair(namespace)
    ports.open_netdev("v0")
    ports.run()
    namespace.ip("link set v0 mtu 1400")
    ports.create_internal("int0", HIDDEN)
    waiter = Waiter()
    ports.wait(waiter)
    assert waiter.now
    assert changes(ports.run()) & LinkChange.MTU


def test_inject_pair_that_cannot_be_made_anew(
        namespace: Namespace, ports: Ports,
        monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made when it can be."""
    now = 5000
    monkeypatch.setattr(edge, "msec", lambda: now)
    pair = ports.open_inject("ovsx0a", "ovsx0b")
    batch(namespace, "link del ovsx0b", "link add ovsx0a type bridge")
    ports.run()
    assert ports.renewed() == []
    namespace.ip("link del ovsx0a")
    now += edge.AGAIN_INTERVAL
    ports.run()
    assert ports.renewed() == [pair]


def test_flags_of_a_port_keep_promisc(namespace: Namespace,
                                      ports: Ports) -> None:
    """After events were lost, too."""
    pair(namespace)
    ports.open_netdev("v0")
    with pytest.MonkeyPatch.context() as patch:
        losing(patch)
        namespace.ip("link set v0 promisc off")
        events = collect(ports, bool)
    assert events[-1].link.flags & IFF_PROMISC
    assert "PROMISC" in show(namespace, "v0")
