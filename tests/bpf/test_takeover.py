# SPDX-License-Identifier: Apache-2.0
"""Takeovers: of all that can be, and otherwise of nothing, and again."""

from __future__ import annotations

import dataclasses
import errno
import gc
import itertools
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from devices import ip, packet_socket
from objects import HEADERS
from restarts import (
    NAME,
    Peer,
    Site,
    flow,
    frame,
    hooks,
    mappings,
    open_fds,
    output,
    promiscuous,
)

from dpif_bpf import abi, abi_ct, takeover
from dpif_bpf.core import records
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.loader import Files
from dpif_bpf.edge.pins import remove_tree
from dpif_bpf.edge.psample_group import Psample
from dpif_bpf.errors import BackendError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.ct_limit import ZoneLimit
from dpif_bpf.wire.netlink import NLA_F_NESTED, nla, nla_u32

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not HEADERS.is_dir(),
                       reason="needs build/shim (./run build)")]
LONG = 1 << 40
_COARSE = 6  # CLOCK_MONOTONIC_COARSE


@pytest.fixture
def site(stages: Files) -> Iterator[Site]:
    with Site(stages) as made:
        yield made


@pytest.fixture
def whole(shipped_object: None) -> Iterator[Site]:
    """One with the real object."""
    with Site() as made:
        yield made


def furnish(site: Site, flows: int = 3) -> Peer:
    """A provider with a datapath of four ports, and flows of the first."""
    peer = site.start()
    assert peer.new_dp() == (0, None)
    for name in ("p1", "p2"):
        site.add_device(name)
        assert peer.add_port(name) == (0, None)
    assert peer.add_port("i3", u.OVS_VPORT_TYPE_INTERNAL) == (0, None)
    for number in range(1, flows + 1):
        assert peer.put(*flow(1, number, output(2))) == (0, None)
    return peer


def indexes(peer: Peer) -> list[int]:
    return sorted(port.link.hook_ifindex
                  for port in peer.dp.vports.by_no.values())


def programs(site: Site) -> list[int]:
    """Ids of the programs behind the links, by device."""
    found = []
    for path in sorted((site.pins / NAME / "links").iterdir()):
        fd = bpfsys.obj_get(path, bpfsys.LINK)
        found.append(bpfprog.link_info(fd).prog_id)
        os.close(fd)
    return found


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is logged, at INFO and above."""
    lines: list[str] = []
    for level in ("info", "warn"):
        monkeypatch.setattr(takeover.vlog, level, lambda text, level=level:
                            lines.append(f"{level}: {text}"))
    return lines


# What cannot be taken over alone


def test_flows_that_are_refused_are_left_out(
        site: Site, monkeypatch: pytest.MonkeyPatch, log: list[str]) -> None:
    """As those with samples, when the module has been unloaded."""
    monkeypatch.setattr(Psample, "family", lambda _: 27)
    peer = furnish(site, 1)
    sample = nla(u.OVS_ACTION_ATTR_PSAMPLE | NLA_F_NESTED, nla_u32(
        u.OVS_PSAMPLE_ATTR_GROUP, 7))
    for number in (7, 8):
        assert peer.put(*flow(1, number, sample)) == (0, None)
    kept = indexes(peer)
    links = hooks(kept)
    site.stop(peer)
    monkeypatch.setattr(Psample, "family", lambda _: 0)
    peer = site.start()
    assert len(peer.dp.flows) == 1
    assert indexes(peer) == kept and hooks(kept) == links
    assert any(line.startswith("info: ovs-bpf: 2 flows were not taken over")
               and "PSAMPLE" in line.upper() for line in log)
    assert not any(line.startswith("warn") for line in log)


def test_fewer_flows_than_there_were(site: Site, log: list[str]) -> None:
    """Those that fit are there; the others are set up when they are
    missed."""
    peer = furnish(site, 0)
    room = peer.instance.plane.max_flows
    site.stop(peer)
    peer = site.start(max_flows=4 * room)
    count = room + 100
    for number in range(1, count + 1):
        assert peer.put(*flow(1, number, output(2))) == (0, None)
    site.stop(peer)
    peer = site.start()
    assert len(peer.dp.flows) == room
    assert any("100 flows were not taken over" in line for line in log)
    assert peer.put(*flow(1, count, output(2)))[0] == errno.ENOSPC
    peer.ask(u.OVS_FLOW_ID, u.OVS_FLOW_CMD_DEL, flow(1, 1)[3])
    assert peer.put(*flow(1, count, output(2))) == (0, None)


def newer_layout(site: Site) -> None:
    """ovs_meters gets the next version's layout."""
    layouts, = (site.pins / NAME).glob("[0-9]*/layouts")
    version = abi.MAPS["ovs_meters"].version
    (layouts / f"ovs_meters-{version}").rename(
        layouts / f"ovs_meters-{version + 1}")


def other_size(site: Site) -> None:
    maps, = (site.pins / NAME).glob("[0-9]*/maps")
    (maps / "ovs_meters").unlink()
    fd = bpfsys.map_create(bpfsys.MAP_TYPE_ARRAY, 4, abi.METER.size, 7)
    bpfsys.obj_pin(fd, maps / "ovs_meters")
    os.close(fd)


def of_old_provider(site: Site) -> None:
    """One that pinned no versions, of another OVS_ABI_VERSION."""
    layouts, = (site.pins / NAME).glob("[0-9]*/layouts")
    remove_tree(layouts)
    fd = bpfsys.obj_get(layouts.with_name("maps") / "ovs_nlmem")
    words = bpfsys.mmap_array(fd, bpfsys.map_info(fd)).cast("Q")
    words[2] += 1
    os.close(fd)


@pytest.mark.parametrize("differ", [newer_layout, other_size,
                                    of_old_provider])
def test_meters_of_another_layout(
        site: Site, log: list[str],
        differ: Callable[[Site], None]) -> None:
    """They begin empty, which is told; flows that use them are there."""
    peer = furnish(site, 1)
    band = nla(u.OVS_BAND_ATTR_UNSPEC, nla_u32(
        u.OVS_BAND_ATTR_TYPE, u.OVS_METER_BAND_TYPE_DROP)
        + nla_u32(u.OVS_BAND_ATTR_RATE, 5)
        + nla_u32(u.OVS_BAND_ATTR_BURST, 0))
    meter = (nla_u32(u.OVS_METER_ATTR_ID, 3),
             nla(u.OVS_METER_ATTR_BANDS, band))
    peer.ask(u.OVS_METER_ID, u.OVS_METER_CMD_SET, *meter)
    assert peer.put(*flow(1, 9, nla_u32(u.OVS_ACTION_ATTR_METER, 3),
                          output(2))) == (0, None)
    site.stop(peer)
    peer = site.start()
    assert len(peer.dp.meters) == 1 and not any(
        "layout" in line for line in log)
    assert peer.instance.anew == ()
    site.stop(peer)
    differ(site)
    peer = site.start()
    assert len(peer.dp.meters) == 0 and len(peer.dp.flows) == 2
    assert "ovs_meters" in peer.instance.anew
    assert any("another layout" in line and "ovs_meters" in line
               for line in log)
    peer.ask(u.OVS_METER_ID, u.OVS_METER_CMD_SET, *meter)
    site.stop(peer)
    assert len(site.start().dp.meters) == 1


def test_connections_outlive_providers(whole: Site, log: list[str]) -> None:
    """With what leads to them, timeouts and limits, until the table is to
    have another size; whose sweep the timer runs is the newest one's."""
    peer = furnish(whole, 1)
    ct = peer.instance.plane.ct
    assert ct.policy[0] == struct.unpack("=Q", struct.pack("=II", 120,
                                                           120))[0]
    record = abi_ct.CT.size // 8
    ct.records[5 * record] = 7 << abi_ct.OVS_CT_GEN_SHIFT
    ct.policy[14] = 77  # of no protocol
    kept = ct.conf.tobytes()
    assert any(kept[:32]) and any(kept[32:48])
    generation = peer.instance.plane.gen.map_info("ovs_ct_timer").map_id
    whole.stop(peer)
    peer = whole.start()
    ct = peer.instance.plane.ct
    assert ct.conf.tobytes() == kept and ct.policy[14] == 77
    assert ct.records[5 * record] == 7 << abi_ct.OVS_CT_GEN_SHIFT
    plane = peer.instance.plane
    assert plane.gen.map_info("ovs_ct_timer").map_id == generation
    assert len(ct.cpus()) == bpfsys.possible_cpus()
    assert peer.instance.anew == ()
    # One that has ended is given back, which nobody but the timer does.
    now = int(time.clock_gettime(_COARSE))
    ct.records[5 * record] = (7 << abi_ct.OVS_CT_GEN_SHIFT
                              | abi_ct.OVS_CT_DEAD)
    ct.expiry[2] = now - 5 << 32
    ct.use[abi_ct.USE["count"].offset // 8] = 1  # it looks for none else
    end = time.monotonic() + 30
    while ct.expiry[2] and time.monotonic() < end:
        time.sleep(.05)
    assert not ct.expiry[2]
    assert ct.records[5 * record] == 7 << abi_ct.OVS_CT_GEN_SHIFT
    whole.stop(peer)
    peer = whole.start(ct_max=5000)
    assert "ovs_ct" in peer.instance.anew
    assert any("another layout" in line and "ovs_ct_tab" in line
               for line in log)
    assert peer.instance.plane.ct.conf.tobytes() != kept
    assert len(peer.instance.plane.ct.records) == 5008 * record


def common_maps(peer: Peer) -> set[tuple[str, int]]:
    """Maps that all datapaths should have: name and id, as each has it."""
    return {(name, instance.plane.gen.map_info(name).map_id)
            for instance in peer.provider.instances()
            for name, ours in abi.MAPS.items() if ours.common}


def test_all_datapaths_have_one_table(whole: Site, log: list[str]) -> None:
    """As the kernel's have; whoever goes, and when they are taken over."""
    peer = furnish(whole, 1)
    assert peer.new_dp("other") == (0, None)
    maps = common_maps(peer)
    assert len(maps) == len({name for name, _ in maps}) > 8
    conntrack = peer.provider.conntrack()
    assert conntrack is not None
    conntrack.limits.set([ZoneLimit(7, 5)])
    whole.stop(peer)
    peer = whole.start()
    assert common_maps(peer) == maps
    assert len(list(peer.provider.instances())) == 2
    assert peer.del_dp() == (0, None)
    conntrack = peer.provider.conntrack()
    assert conntrack is not None
    assert list(conntrack.limits.get(None)) == [ZoneLimit(-1),
                                                ZoneLimit(7, 5)]
    assert peer.new_dp() == (0, None)
    assert common_maps(peer) == maps
    # Of another size they are those of the first one that is taken over.
    log.clear()
    whole.stop(peer)
    peer = whole.start(ct_max=5000)
    now = common_maps(peer)
    assert {name for name, _ in now & maps} == {"ovs_ct_kept"}
    assert len(now) == len(maps)
    assert all("ovs_ct" in instance.anew
               for instance in peer.provider.instances())
    conntrack = peer.provider.conntrack()
    assert conntrack is not None
    assert conntrack.table.most() == 5000
    assert list(conntrack.limits.get(None)) == [ZoneLimit(-1),
                                                ZoneLimit(7, 5)]
    assert conntrack.table.memory.zones[15] == 5
    assert peer.del_dp() == peer.del_dp("other") == (0, None)
    assert peer.provider.conntrack() is None
    assert peer.new_dp() == (0, None)
    assert not common_maps(peer) & now


def test_meters_that_are_not_whole(site: Site, log: list[str]) -> None:
    peer = furnish(site)
    words = peer.instance.plane.meters
    size = abi.METER.size // 8
    words[5 * size] = struct.unpack("=Q", struct.pack(
        "=IHH", 5, 1, abi.OVS_METER_F_USED))[0]
    for place in (1, 2):	# bands that follow one another for ever
        words[(abi.OVS_METERS + place) * size] = struct.unpack(
            "=Q", struct.pack("=IHH", 5, 3 - place,
                              abi.OVS_METER_F_BAND))[0]
    words[9 * size] = struct.unpack("=Q", struct.pack(
        "=IHH", 10, 0, abi.OVS_METER_F_USED))[0]
    site.stop(peer)
    peer = site.start()
    assert len(peer.dp.meters) == 0
    assert any("2 meters were not taken over" in line for line in log)


def test_records_of_the_first_layout(site: Site) -> None:
    """What the version before kept: no drops, no serial numbers."""
    peer = furnish(site)
    words = peer.instance.plane.nlmem
    found = dict(records.read(words))
    data = words.cast("B")
    peer.instance.dp.flows.clear()	# nothing more is written
    words[:records.DIR_BASE] = memoryview(
        bytes(8 * records.DIR_BASE)).cast("Q")
    length = records.FLOW_BASE + 64
    at = records.DIR_BASE + length
    for index, record in found.items():
        if index == records.DATAPATH:
            prefix = struct.pack("=6Q", 0, 11, 22, 33, 44, 55)
            record = prefix + record[8 * (6 + abi.OVS_DROP_MAX):]
        elif index >= records.FLOW_BASE:
            record = record[8:]
        data[8 * at:8 * at + len(record)] = record
        words[2 + index] = at << 32 | len(record)
        at += (len(record) + 7) // 8
    for index in range(length):
        if index not in found:
            words[2 + index] = 0
    words[1] = length
    words[0] = records.FIRST_MAGIC
    site.stop(peer)
    peer = site.start()
    assert len(peer.dp.flows) == 3 and len(peer.dp.vports.by_no) == 4
    counted = peer.dp.counters()
    assert (counted.hit, counted.missed, counted.cache_hit) == (11, 22, 55)
    site.stop(peer)
    assert len(site.start().dp.flows) == 3


# Not taken over


def broken(site: Site, files: Files) -> Peer:
    """A provider whose object is missing."""
    site.files = dataclasses.replace(files, obj=Path("/nonexistent.o"))
    return site.start()


def test_failed_takeover_touches_nothing(
        site: Site, stages: Files, log: list[str],
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks, pins and devices stay, somebody who asks is told why, and it
    is tried again by itself."""
    peer = furnish(site)
    peer.provider.set_bridges({"br0": frozenset({"p1"})})
    kept, devices, pinned = indexes(peer), site.devices(), site.pinned()
    before = programs(site)
    site.stop(peer)
    peer = broken(site, stages)
    now = takeover.msec()
    monkeypatch.setattr("dpif_bpf.provider.msec", lambda: now)
    monkeypatch.setattr("dpif_bpf.takeover.msec", lambda: now)
    assert not peer.provider.datapaths()
    left, = peer.provider.left()
    assert left.name == NAME and "nonexistent.o" in left.reason
    assert (site.devices(), site.pinned()) == (devices, pinned)
    assert programs(site) == before

    # It is not made anew, and nobody is told that it is there.
    for request in (peer.new_dp, lambda: peer.try_(
            u.OVS_DATAPATH_ID, u.OVS_DP_CMD_GET, nla(
                u.OVS_DP_ATTR_NAME, NAME.encode() + b"\0"))):
        error, text = request()
        assert error in (errno.ENOENT, errno.ENODEV)
        assert text is not None and "not taken over" in text
        assert "nonexistent.o" in text
    assert peer.add_port("p9")[0] == errno.ENODEV

    # Another one is made, and takes no device or number of this one.
    site.files = stages
    peer.loader.files = stages
    assert peer.new_dp("other") == (0, None)
    assert peer.dp.number == 1 and devices < site.devices()
    assert peer.del_dp("other") == (0, None)
    assert site.devices() == devices

    # Again, later and later.
    peer.loader.files = Files(obj=Path("/nonexistent.o"))
    tries = []
    for step in range(200):
        now += 1000
        if left.again <= now:
            tries.append(step)
        peer.provider.run()
    gaps = [b - a for a, b in itertools.pairwise(tries)]
    assert gaps == [2, 4, 8, 16, 32, 60, 60]
    assert sum(line.startswith("warn") for line in log) == 1
    assert (site.devices(), programs(site)) == (devices, before)
    peer.loader.files = stages
    now = left.again - 1
    peer.provider.run()
    assert peer.provider.left()
    now += 1
    peer.provider.run()
    assert not peer.provider.left()
    assert indexes(peer) == kept and len(peer.dp.flows) == 3
    assert len(programs(site)) == len(before)
    assert not set(programs(site)) & set(before)
    assert peer.dp.bridges.by_name == {}
    assert peer.del_dp() == (0, None)
    assert site.devices() == {"p1", "p1x", "p2", "p2x"}
    assert site.pinned() == set()


def test_who_asks_has_it_tried_at_once(
        site: Site, stages: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    """But not over and over: each try makes and deletes devices, at which
    ovs-vswitchd asks again."""
    peer = furnish(site)
    site.stop(peer)
    peer = broken(site, stages)
    left, = peer.provider.left()
    now = left.tried
    monkeypatch.setattr("dpif_bpf.provider.msec", lambda: now)
    monkeypatch.setattr("dpif_bpf.takeover.msec", lambda: now)
    peer.loader.files = stages
    assert peer.new_dp()[0] == errno.ENOENT
    left.delay = LONG
    now += takeover.RETRY_MIN
    assert peer.new_dp()[0] == errno.EEXIST
    assert len(peer.dp.flows) == 3


@pytest.mark.parametrize("readable", [True, False])
def test_operator_gives_it_up(site: Site, stages: Files,
                              readable: bool) -> None:
    peer = furnish(site)
    if not readable:
        peer.instance.plane.nlmem[0] = 4711
    site.stop(peer)
    peer = broken(site, stages)
    left, = peer.provider.left()
    assert ("nonexistent.o" in left.reason) == readable
    assert left.number == (0 if readable else None)
    assert promiscuous("p1")
    assert peer.del_dp("other")[0] == errno.ENODEV
    assert peer.del_dp() == (0, None)
    assert not peer.provider.left()
    assert site.pinned() == set()
    assert site.devices() == {"p1", "p1x", "p2", "p2x"}
    assert promiscuous("p1") != readable
    peer.loader.files = stages
    assert peer.new_dp() == (0, None)
    assert peer.dp.number == 0


def test_object_of_another_version(site: Site, stages: Files,
                                   monkeypatch: pytest.MonkeyPatch) -> None:
    peer = furnish(site)
    site.stop(peer)
    with monkeypatch.context() as patch:
        patch.setattr(abi, "OVS_ABI_VERSION", abi.OVS_ABI_VERSION + 1)
        peer = site.start()
        assert "another version" in peer.provider.left()[0].reason
        assert peer.new_dp("other")[0] == errno.EPROTO
        site.stop(peer)
    monkeypatch.setattr(abi, "MAPS", {
        **abi.MAPS, "ovs_flows": abi.Map(abi.Life.FRESH, 7)})
    peer = site.start()
    reason = peer.provider.left()[0].reason
    assert "ovs_flows has elements of" in reason and "not of 7" in reason


def test_nothing_unexpected_ends_the_provider(
        site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would meet it again at each start."""
    peer = furnish(site)
    site.stop(peer)
    with monkeypatch.context() as patch:
        patch.setattr(takeover._Replay, "flows", lambda _: 1 // 0)
        patch.setattr(takeover.vlog, "exception", lambda _: None)
        peer = site.start()
        left, = peer.provider.left()
        assert "ZeroDivisionError" in left.reason
    left.delay = 0
    peer.provider.run()
    assert len(peer.dp.flows) == 3


# Pins that are not ours


def test_what_is_not_ours_is_left_alone(site: Site,
                                        log: list[str]) -> None:
    peer = furnish(site)
    kept = indexes(peer)
    fd = bpfsys.map_create(bpfsys.MAP_TYPE_ARRAY, 4, 4, 1)
    insns = struct.pack("=BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0)
    prog = bpfprog.prog_load(bpfprog.PROG_TYPE_XDP, insns, "foreign")
    link = bpfprog.link_create(prog, kept[-1], bpfprog.ATTACH_XDP)
    ours = site.pins / NAME
    (site.pins / "theirs").mkdir()
    (site.pins / "a%41").mkdir()
    (ours / "notes").mkdir()
    (ours / "1" / "maps" / "more").mkdir()
    foreign = {"map": fd, "theirs/map": fd, f"{NAME}/map": fd,
               f"{NAME}/notes/prog": prog, f"{NAME}/links/1": link,
               f"{NAME}/links/name": link, f"{NAME}/links/77": fd,
               "a%41/7": prog}
    inside = {f"{NAME}/1/maps/ovs_other": prog, f"{NAME}/1/progs/map": fd}
    for path, what in (foreign | inside).items():
        bpfsys.obj_pin(what, site.pins / path)
    site.stop(peer)
    peer = site.start()
    assert indexes(peer) == kept and len(peer.dp.flows) == 3
    assert foreign.keys() <= site.pinned()
    assert peer.new_dp("map")[0] == errno.ENOTDIR
    assert not any(line.startswith("warn") for line in log)
    assert peer.del_dp() == (0, None)
    left = {path for path in site.pinned()
            if not (site.pins / path).is_dir()}
    assert left == foreign.keys()
    assert bpfprog.link_info(link).ifindex in (0, kept[-1])
    for what in (fd, prog, link):
        os.close(what)


@pytest.mark.parametrize("what", ["gone", "another kind", "another map",
                                  "a directory"])
def test_pin_that_is_not_what_it_should_be(site: Site, what: str) -> None:
    """No end, no loop: it is not taken over, and says why."""
    peer = furnish(site)
    before = programs(site)
    path = site.pins / NAME / "1" / "maps" / "ovs_nlmem"
    prog = peer.instance.plane.gen.prog_fd("ovs_inject")
    path.unlink()
    if what == "another kind":
        bpfsys.obj_pin(prog, path)
    elif what == "another map":
        fd = bpfsys.map_create(bpfsys.MAP_TYPE_ARRAY, 4, 4, 1)
        bpfsys.obj_pin(fd, path)
        os.close(fd)
    elif what == "a directory":
        path.mkdir()
    site.stop(peer)
    peer = site.start()
    left, = peer.provider.left()
    assert "pinned records" in left.reason
    assert programs(site) == before
    assert path.exists() == (what != "gone")
    assert peer.new_dp()[0] == errno.EPROTO


def test_two_datapaths_of_one_number(site: Site) -> None:
    peer = furnish(site)
    assert peer.new_dp("second") == (0, None)
    second, = (dp for dp in peer.provider.datapaths()
               if dp.name == "second")
    second.number = 0
    second.keep()
    site.stop(peer)
    peer = site.start()
    left, = peer.provider.left()
    assert left.reason.startswith("its number is another's")
    assert len(peer.dp.flows) == 3


# What is counted


def count(peer: Peer, port: str, number: int) -> None:
    """A frame comes in."""
    sock = packet_socket()
    sock.bind((f"{port}x", 0))
    sock.send(bytes(10) + frame(number))
    sock.close()


def test_counters_stay(whole: Site) -> None:
    """Over bridges that go, and over providers: nothing goes back, nothing
    is counted twice, nothing is shown as another bridge's."""
    peer = furnish(whole, 1)
    provider = peer.provider
    no_port = flow(1, 2, output(99))
    assert peer.put(*no_port) == (0, None)
    provider.set_bridges({"br0": frozenset({"p1"})})
    number = peer.dp.bridges.by_name["br0"]
    for _ in range(3):
        count(peer, "p1", 1)
        count(peer, "p1", 2)
        count(peer, "p1", 3)
    seen = peer.dp.counters()
    assert (seen.hit, seen.missed) == (6, 3)
    assert peer.instance.drops()[number] == {abi.DropReason.NO_PORT: 3}
    steps = sum(peer.instance.plane.steps()[number])
    assert steps
    provider.set_bridges({})
    assert peer.dp.counters() == seen
    assert peer.instance.drops() == {0: {abi.DropReason.NO_PORT: 3}}
    provider.set_bridges({"br1": frozenset({"p1"})})
    assert peer.dp.bridges.by_name == {"br1": number}
    assert peer.dp.counters() == seen
    assert peer.instance.drops() == {
        0: {abi.DropReason.NO_PORT: 3}, number: {}}
    assert not any(peer.instance.plane.steps()[number])
    count(peer, "p1", 2)
    assert peer.instance.drops() == {
        0: {abi.DropReason.NO_PORT: 3},
        number: {abi.DropReason.NO_PORT: 1}}
    assert peer.dp.counters().hit == 7
    for _ in range(2):
        seen = peer.dp.counters()
        stats = peer.dp.flows.stats(peer.dp.flows.snapshot())
        whole.stop(peer)
        count(peer, "p1", 1)
        peer = whole.start()
        now = peer.dp.counters()
        assert now == dataclasses.replace(
            now, hit=seen.hit + 1, missed=3)
        assert peer.instance.drops() == {0: {abi.DropReason.NO_PORT: 4}}
        again = peer.dp.flows.stats(peer.dp.flows.snapshot())
        assert sum(row[0] for row in again) == sum(
            row[0] for row in stats) + 1


def test_flow_of_all_bridges_keeps_its_count(whole: Site) -> None:
    """It is in one place for each of them, and kept as often."""
    peer = furnish(whole, 0)
    peer.provider.set_bridges({"br0": frozenset({"p1"}),
                               "br1": frozenset({"p2"})})
    key, _, actions, ufid = flow(1, 1, output(2))
    mask = nla(u.OVS_FLOW_ATTR_MASK, nla(u.OVS_KEY_ATTR_ETHERTYPE,
                                         b"\xff\xff"))
    assert peer.put(key, mask, actions, ufid) == (0, None)
    for port, times in (("p1", 3), ("p2", 2)):
        for _ in range(times):
            count(peer, port, 1)
    only, = peer.dp.flows.snapshot()
    assert len(only.places) == 3
    assert peer.dp.flows.stats([only])[0][0] == 5
    whole.stop(peer)
    peer = whole.start()
    only, = peer.dp.flows.snapshot()
    assert peer.dp.flows.stats([only])[0][0] == 5


def test_overlapping_flows_keep_their_order(whole: Site) -> None:
    """Of two flows that match a packet the one that was put first is met,
    before and after, whichever number it has."""
    peer = furnish(whole, 3)
    narrow = flow(1, 9, output(2))
    peer.ask(u.OVS_FLOW_ID, u.OVS_FLOW_CMD_DEL, flow(1, 1)[3])
    assert peer.put(*narrow) == (0, None)
    peer.provider._grace.reclaim()	# the number of the first is free
    key, _, actions, ufid = flow(1, 8, output(3))
    mask = nla(u.OVS_FLOW_ATTR_MASK, nla_u32(
        u.OVS_KEY_ATTR_IN_PORT, 0xFFFFFFFF) + nla(
            u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff"))
    assert peer.put(key, mask, actions, ufid) == (0, None)
    first, wide = peer.dp.flows.snapshot()[-2:]
    assert max(wide.places.values()) < min(first.places.values())
    for _ in range(2):
        count(peer, "p1", 9)
        rows = peer.dp.flows.stats(peer.dp.flows.snapshot()[-2:])
        whole.stop(peer)
        peer = whole.start()
        assert len(peer.dp.flows) == 4
    assert [row[0] for row in rows] == [2, 0]


# What is left behind


def test_removed_datapaths_leave_nothing(site: Site) -> None:
    """No descriptors, and no memory, though its tables are of cycles."""
    peer = site.start()
    gc.collect()
    before = open_fds(), mappings(), site.devices(), site.pinned()
    for _ in range(2):
        assert peer.new_dp() == (0, None)
        assert peer.put(*flow(0, 1, output(0))) == (0, None)
        assert mappings() > before[1]
        assert peer.del_dp() == (0, None)
        peer.provider.run()
        assert (open_fds(), mappings(), site.devices(),
                site.pinned()) == before


def test_failed_tries_leave_nothing(site: Site, stages: Files,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    peer = furnish(site)
    site.stop(peer)
    real = takeover._Replay.flows

    def flows(self: takeover._Replay) -> None:
        real(self)
        raise BackendError(errno.EIO, "no")

    with monkeypatch.context() as patch:
        patch.setattr(takeover._Replay, "flows", flows)
        peer = site.start()
        left, = peer.provider.left()
        left.delay = LONG
        peer.provider.run()
        before = open_fds(), mappings(), site.devices(), site.pinned()
        for _ in range(2):
            left.delay = -LONG
            peer.provider.run()
            left.delay = LONG
            peer.provider.run()
            assert left.error is not None
            assert (open_fds(), mappings(), site.devices(),
                    site.pinned()) == before
    left.delay = -LONG
    peer.provider.run()
    assert len(peer.dp.flows) == 3


def test_devices_of_others_stay(site: Site) -> None:
    """Left-over devices are those that belong to no datapath."""
    peer = furnish(site)
    site.stop(peer)
    for name, alias in (("ovsh7p0", "ovs-bpf: x"), ("ovshome", ""),
                        ("ovsx9s0", "ovs-bpf: x")):
        ip(f"link add {name} type veth peer name {name}y")
        if alias:
            ip(f'link set {name} alias "{alias}"')
    peer = site.start()
    assert not {"ovsh7p0", "ovsx9s0"} & site.devices()
    assert {"ovshome", "ovsh0p0", "i3"} <= site.devices()
