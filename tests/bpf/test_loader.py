# SPDX-License-Identifier: Apache-2.0
"""edge.loader: generations, their pins, bridges' entry stages."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from objects import HEADERS, TOP, compile_object

from dpif_bpf import abi
from dpif_bpf.core.flow_stats import FlowCounts
from dpif_bpf.core.plane import DpCounters
from dpif_bpf.core.records import Records, memory_words
from dpif_bpf.earlier import Earlier
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.generation import ENTRY, Generation
from dpif_bpf.edge.loader import Files, Loader
from dpif_bpf.edge.pins import ensure_bpffs, remove_tree
from dpif_bpf.edge.ring import UpcallRing
from dpif_bpf.errors import BackendError

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not HEADERS.is_dir(),
                       reason="needs build/shim (./run build)"),
]
SOURCE = Path(__file__).parent / "stages.bpf.c"
ROOT = Path(f"/sys/fs/bpf/ovs-test-loader-{os.getpid()}")
DP = "ovs-bpf"
PACKET = bytes(range(64))
LO = 1	# the device of test runs
PORT = 7
SHOT = 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(obj=compile_object(SOURCE,
                                    tmp_path_factory.mktemp("stages")))


@pytest.fixture
def loader(files: Files) -> Iterator[Loader]:
    made = Loader(ROOT, files)
    yield made
    remove_tree(ROOT)
    made.close()


@pytest.fixture
def generation(loader: Loader) -> Iterator[Generation]:
    with loader.create(DP, {"cfg_verdict": 500}, {"ovs_acts": 4096},
                       maps=abi.MAPS) as made:
        bpfsys.map_update(made.map_fd("ovs_devs"), struct.pack("=I", LO),
                          struct.pack("=I", PORT))
        yield made


def run(generation: Generation, bridge: int) -> int:
    return bpfprog.test_run(generation.bridge(bridge).entry_fd,
                            PACKET).retval


def levels(generation: Generation) -> list[int]:
    """ovs_cpu.level of each CPU."""
    values = bpfsys.map_lookup_percpu(
        generation.map_fd("ovs_cpu"), 0, generation.map_info("ovs_cpu"))
    return [int.from_bytes(value[:4], sys.byteorder) for value in values]


def set_levels(generation: Generation, level: int) -> None:
    size = generation.map_info("ovs_cpu").slot_size
    bpfsys.map_update(
        generation.map_fd("ovs_cpu"), bytes(4),
        struct.pack("=I", level).ljust(size, b"\0") * bpfsys.possible_cpus())


FLOWS = 64
SIZES = {"ovs_flow_stats": 2 * FLOWS, "ovs_nlmem": memory_words(FLOWS)}
"""Of a generation that keeps records."""


SHARED = {name for name, ours in abi.MAPS.items()
          if ours.life == abi.Life.SHARED}
CONNTRACK = SHARED - {"ovs_meters", "ovs_ct_kept"}


def keep_records(generation: Generation) -> None:
    """As a datapath does first of all: they tell how many flows fit."""
    Records(generation.mapped("ovs_nlmem").cast("Q"), FLOWS)


def names(path: Path) -> set[str]:
    return {item.name for item in path.iterdir()}


# Generations


def test_everything_is_pinned(loader: Loader,
                              generation: Generation) -> None:
    path = ROOT / DP / f"new-{generation.number}"
    maps = names(path / "maps")
    assert {"ovs_cpu", "ovs_progs", "ovs_nlmem", "ovs_flow_stats"} <= maps
    assert not any("rodata" in name for name in maps)
    assert names(path / "progs") == {
        "ovs_rx", "ovs_rx_l3", "ovs_rx_tunnel", "ovs_act", "ovs_act_own",
        "ovs_act_shared",
        "ovs_inject", "ovs_ct_sweeper", "ovs_act_ct", "ovs_route",
        "ovs_route_own"}
    for name in maps:
        fd = bpfsys.obj_get(path / "maps" / name)
        assert (bpfsys.map_info(fd).map_id
                == generation.map_info(name).map_id)
        os.close(fd)
    assert generation.map_info("ovs_acts").max_entries == 4096


def test_generations_share_meters(loader: Loader,
                                  generation: Generation) -> None:
    """What one writes the other reads, and it stays with the newer one."""
    generation.mapped("ovs_meters")[:8] = b"counted "
    generation.commit()
    with loader.open_pinned(DP) as old:
        shared = Earlier(old, abi.OVS_ABI_VERSION, {}).shared()
        assert shared == {name: old.map_fd(name) for name in SHARED}
        with loader.create(DP, {"cfg_verdict": 500}, {"ovs_acts": 4096},
                           shared) as new:
            assert new.map_info("ovs_meters").map_id == (
                old.map_info("ovs_meters").map_id)
            assert new.map_info("ovs_acts").map_id != (
                old.map_info("ovs_acts").map_id)
            memory = new.mapped("ovs_meters")
            memory[8:16] = b"and on.."
            assert old.mapped("ovs_meters")[:16] == b"counted and on.."
            new.commit()
            loader.remove_others(new)
    with loader.open_pinned(DP) as found:
        assert found.mapped("ovs_meters")[:16] == b"counted and on.."


def test_maps_of_another_layout(loader: Loader) -> None:
    """They are not taken for something else, and count as nothing."""
    with loader.create(DP, {"cfg_verdict": 500}, {
            **SIZES, "ovs_acts": 4096, "ovs_meters": 4096}) as odd:
        keep_records(odd)
        earlier = Earlier(odd, abi.FIRST_LAYOUTS, {})
        assert earlier.shared() == {name: odd.map_fd(name)
                                    for name in SHARED - {"ovs_meters"}}
        assert earlier.differing == ["ovs_meters"]
        other = Earlier(odd, 1, {})  # another version, though of one size
        assert other.differing == sorted([
            "ovs_dpstats", "ovs_drops", "ovs_flow_stats", *SHARED])
        assert other.flows([[1], [2, 3]]) == [FlowCounts(0, 0, 0, 0)] * 2
        assert other.counters() == DpCounters()
        assert not any(other.drops())


def test_layouts_are_pinned_beside_maps(loader: Loader) -> None:
    with loader.create(DP, {}, SIZES, maps=abi.MAPS) as made:
        keep_records(made)
        made.commit()
    wanted = {name: ours.version for name, ours in abi.MAPS.items()
              if ours.version}
    with loader.open_pinned(DP) as found:
        assert found.layouts == wanted
        # What the records say is of no account then.
        assert Earlier(found, 77, {}).differing == []
        assert set(found.maps) == abi.MAPS.keys()


@pytest.mark.parametrize(("name", "kind", "size", "entries"), [
    ("ovs_meters", bpfsys.MAP_TYPE_ARRAY, abi.METER.size, 7),
    ("ovs_meters", bpfsys.MAP_TYPE_HASH, abi.METER.size,
     abi.OVS_METERS + abi.OVS_METER_EXTRA),
    ("ovs_dpstats", bpfsys.MAP_TYPE_ARRAY, abi.DP_STATS.size,
     abi.OVS_MAX_BRIDGES),
    ("ovs_drops", bpfsys.MAP_TYPE_PERCPU_ARRAY, 16,
     abi.OVS_MAX_BRIDGES * abi.OVS_DROP_MAX),
    ("ovs_flow_stats", bpfsys.MAP_TYPE_ARRAY, abi.FLOW_STATS.size, 3)])
def test_a_map_of_another_kind_or_size(loader: Loader, name: str, kind: int,
                                       size: int, entries: int) -> None:
    """It alone begins anew, whatever its version says."""
    with loader.create(DP, {}, SIZES, maps=abi.MAPS) as made:
        keep_records(made)
        made.commit()
    pin = loader.pins.directory(DP) / "1" / "maps" / name
    pin.unlink()
    fd = bpfsys.map_create(kind, 4, size, entries, name=name)
    bpfsys.obj_pin(fd, pin)
    os.close(fd)
    with loader.open_pinned(DP) as found:
        earlier = Earlier(found, abi.OVS_ABI_VERSION, {})
        assert earlier.differing == [name]
        earlier.flows([[1], [2]])
        earlier.counters()
        earlier.drops()


@pytest.mark.parametrize("name", ["ovs_ct", "ovs_ct_timer", "ovs_ct_cpu"])
def test_connections_are_there_as_a_whole(loader: Loader, name: str) -> None:
    """What leads to them leads nowhere in another table."""
    with loader.create(DP, {}, SIZES, maps=abi.MAPS) as made:
        keep_records(made)
        made.commit()
    pin = loader.pins.directory(DP) / "1" / "maps" / name
    pin.unlink()
    with loader.open_pinned(DP) as found:
        earlier = Earlier(found, abi.OVS_ABI_VERSION, {})
        assert set(earlier.differing) == CONNTRACK
        assert set(earlier.shared()) == {"ovs_meters", "ovs_ct_kept"}
        sized = Earlier(found, abi.OVS_ABI_VERSION, {"ovs_ct_tab": 1})
        assert set(sized.differing) == CONNTRACK


def test_a_table_of_another_size(loader: Loader) -> None:
    with loader.create(DP, {}, SIZES, maps=abi.MAPS) as made:
        keep_records(made)
        size = made.map_info("ovs_ct").max_entries
        for entries, differ in ((size, set()), (size + 16, CONNTRACK)):
            earlier = Earlier(made, abi.OVS_ABI_VERSION, {"ovs_ct": entries})
            assert set(earlier.differing) == differ


def test_none_is_missed_that_there_was_not(loader: Loader) -> None:
    """Of a generation before connections."""
    with loader.create(DP, {}, SIZES, maps=abi.MAPS) as made:
        keep_records(made)
        made.commit()
    for name in SHARED - {"ovs_meters"}:
        (loader.pins.directory(DP) / "1" / "maps" / name).unlink()
    with loader.open_pinned(DP) as found:
        earlier = Earlier(found, abi.OVS_ABI_VERSION, {})
        assert earlier.differing == []
        assert set(earlier.shared()) == {"ovs_meters"}


def test_generation_is_found_once_it_is_valid(
        loader: Loader, generation: Generation) -> None:
    assert loader.open_pinned(DP) is None
    generation.mapped("ovs_nlmem")[8:16] = b"recorded"
    generation.commit()
    assert loader.pins.datapaths() == [DP]
    generation.close()
    with loader.open_pinned(DP) as found:
        assert found.readonly and found.number == generation.number
        memory = found.mapped("ovs_nlmem")
        assert memory[8:16] == b"recorded"
        with pytest.raises(TypeError):
            memory[0] = 1
        with pytest.raises(BackendError):
            found.add_bridge(1)


def test_newest_generation_is_found_and_others_go(loader: Loader) -> None:
    made = [loader.create(DP, {}, {}) for _ in range(4)]
    assert [g.number for g in made] == [1, 2, 3, 4]
    made[0].commit()
    made[2].commit()
    with loader.open_pinned(DP) as found:
        assert found.number == 3
    loader.remove_others(made[2])
    assert names(ROOT / DP) == {"3"}
    with loader.create(DP, {}, {}) as later:
        assert later.number == 4
    for g in made:
        g.close()
    loader.remove(DP)
    assert loader.pins.datapaths() == []
    assert loader.open_pinned(DP) is None


def test_killed_while_making_a_generation(
        loader: Loader, generation: Generation, files: Files) -> None:
    """What it left serves nobody and is removed."""
    generation.commit()
    loader.close()
    child = subprocess.run(
        [sys.executable, "-c", textwrap.dedent("""
            import os, signal, sys
            from pathlib import Path
            from dpif_bpf.edge import bpfsys
            from dpif_bpf.edge.loader import Files, Loader
            loader = Loader(Path(sys.argv[1]), Files(obj=Path(sys.argv[2])))
            pin, count = bpfsys.obj_pin, 0

            def pin_some(fd, path):
                global count
                count += 1
                if count == 5:
                    os.kill(os.getpid(), signal.SIGKILL)
                pin(fd, path)

            bpfsys.obj_pin = pin_some
            loader.create("ovs-bpf", {}, {})
            """), str(ROOT), str(files.obj)], cwd=TOP, check=False)
    assert child.returncode == -signal.SIGKILL
    half = ROOT / DP / f"new-{generation.number + 1}"
    assert len(names(half / "maps")) == 4
    again = Loader(ROOT, files)
    try:
        with again.open_pinned(DP) as found:
            assert found.number == generation.number
        with again.create(DP, {}, {}) as new:
            assert new.number == generation.number + 2
            new.commit()
            again.remove_others(new)
            assert names(ROOT / DP) == {str(new.number)}
    finally:
        again.close()


def test_one_provider_at_a_time(loader: Loader, files: Files) -> None:
    with pytest.raises(BackendError) as caught:
        Loader(ROOT, files)
    assert caught.value.errno == errno.EBUSY
    loader.close()
    Loader(ROOT, files).close()


def test_refused_load_leaves_nothing(loader: Loader) -> None:
    with pytest.raises(BackendError, match="cfg_none"):
        loader.create(DP, {"cfg_none": 1}, {})
    with pytest.raises(BackendError):
        loader.create(DP, {}, {"ovs_acts": 0})
    assert names(ROOT) == set()


def test_datapath_names(loader: Loader) -> None:
    for dp in ("a.b", "50%", "x%2Ey"):
        with loader.create(dp, {}, {}) as made:
            made.commit()
        with loader.open_pinned(dp) as found:
            assert found.dp == dp
    assert loader.pins.datapaths() == ["50%", "a.b", "x%2Ey"]


def test_root_that_is_on_no_bpffs(tmp_path: Path, files: Files) -> None:
    with pytest.raises(BackendError) as caught:
        Loader(tmp_path / "ovs", files)
    assert caught.value.errno == errno.EINVAL
    ensure_bpffs(ROOT)
    ROOT.rmdir()


def test_bpffs_is_mounted_where_there_is_none(files: Files) -> None:
    script = (
        "from pathlib import Path\n"
        "from dpif_bpf.edge.pins import ensure_bpffs\n"
        "ensure_bpffs(Path('/sys/fs/bpf/ovs'))\n"
        "print(open('/proc/self/mounts').read())\n")
    shell = ("mount --make-rprivate / && umount -a -t bpf;"
             "mountpoint -q /sys/fs/bpf && exit 3;"
             f"exec {sys.executable} -c \"$0\"")
    done = subprocess.run(["unshare", "--mount", "sh", "-c", shell, script],
                          cwd=TOP, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("/sys/fs/bpf bpf") == 1


# Entry stages


def test_entry_gives_the_packet_to_its_bridge(
        generation: Generation) -> None:
    for bridge in (0, 3, abi.OVS_MAX_BRIDGES - 1):
        entry = generation.add_bridge(bridge)
        assert bpfprog.prog_info(entry).name == ENTRY
        assert run(generation, bridge) == 500 + bridge
        assert generation.dp_stats(bridge) == (0, 1, 0, 0, 0)
        assert generation.drops(bridge) == {}
    assert not any(levels(generation))
    path = ROOT / DP / f"new-{generation.number}" / "bridges"
    assert names(path) == {"0", "3", "1023"}
    assert names(path / "3") == {"progs", "entry", "entry_l3",
                                   "entry_tunnel"}


def test_state_that_the_entry_makes(generation: Generation) -> None:
    """The level that is claimed holds the packet's state, made anew."""
    size = generation.map_info("ovs_cpu").slot_size
    dirty = bytearray(struct.pack("=II", 2, 9).ljust(size, b"\xa5"))
    dirty[abi.CPU["exact_rest"].slice] = bytes(4)
    bpfsys.map_update(generation.map_fd("ovs_cpu"), bytes(4),
                      bytes(dirty) * bpfsys.possible_cpus())
    generation.add_bridge(44)
    assert run(generation, 44) == 544
    values = bpfsys.map_lookup_percpu(
        generation.map_fd("ovs_cpu"), 0, generation.map_info("ovs_cpu"))
    at = abi.CPU["pkt"].offset + 2 * abi.PKT.size
    changed = [value for value in values if value[at:] != dirty[at:]]
    assert len(changed) == 1
    value = changed[0]
    states, cache = abi.CPU["pkt"].offset, abi.CPU["dev"].offset
    assert value[:cache] == dirty[:cache]
    assert value[states:at] == dirty[states:at]
    assert abi.DEV.struct.unpack_from(
        value, cache + LO % abi.OVS_DEV_CACHE * abi.DEV.size) == (LO, PORT)

    def read(name: str) -> int:
        place = abi.PKT[name]
        start = at + place.offset
        return int.from_bytes(value[start:start + place.size],
                              sys.byteorder)

    key = at + abi.PKT["key"].offset
    assert struct.unpack_from("=II", value, key) == (PORT, 0)
    assert read("bridge") == 44
    for name in ("slot", "recirc_depth", "stale", "drop"):
        assert read(name) == 0


def test_entry_drops(generation: Generation) -> None:
    generation.add_bridge(5)
    set_levels(generation, abi.OVS_MAX_NESTING)
    assert run(generation, 5) == SHOT
    set_levels(generation, abi.OVS_MAX_NESTING - 1)
    assert run(generation, 5) == 505
    set_levels(generation, 0)
    bpfsys.map_delete(generation.bridge(5).progs_fd,
                      struct.pack("=I", abi.Stage.RX))
    assert run(generation, 5) == SHOT
    bpfsys.map_delete(generation.map_fd("ovs_devs"), struct.pack("=I", LO))
    assert run(generation, 5) == SHOT
    assert generation.drops(5) == {abi.DropReason.NESTING: 1,
                                   abi.DropReason.TAIL_CALL: 1,
                                   abi.DropReason.UNKNOWN_PORT: 1}
    assert not any(levels(generation))


def test_bridges_are_independent(generation: Generation) -> None:
    for bridge in (1, 2):
        generation.add_bridge(bridge)
    with pytest.raises(BackendError) as caught:
        generation.add_bridge(1)
    assert caught.value.errno == errno.EEXIST
    generation.remove_bridge(1)
    assert run(generation, 2) == 502
    assert names(ROOT / DP / f"new-{generation.number}" / "bridges") == {"2"}
    with pytest.raises(BackendError):
        generation.bridge(1)
    generation.remove_bridge(1)
    generation.add_bridge(1)
    assert run(generation, 1) == 501


def test_pins_keep_a_bridge_working(loader: Loader,
                                    generation: Generation) -> None:
    """A program array without descriptor or pin would be emptied."""
    generation.add_bridge(6)
    generation.commit()
    path = ROOT / DP / str(generation.number) / "bridges" / "6" / "entry"
    generation.close()
    bpfsys.wait_for_programs()
    entry = bpfsys.obj_get(path)
    assert bpfprog.test_run(entry, PACKET).retval == 506
    os.close(entry)


def test_source_that_does_not_compile(files: Files, tmp_path: Path) -> None:
    (tmp_path / "entry.bcc.c").write_text("int ovs_entry(void) { oops }")
    wrong = Loader(ROOT, dataclasses.replace(files, sources=tmp_path))
    try:
        with pytest.raises(BackendError, match="oops"):
            wrong.template()
        shutil.copy(files.sources / "entry.bcc.c", tmp_path)
        shutil.copytree(files.sources / "lib", tmp_path / "lib")
        assert wrong.template() is wrong.template()
    finally:
        remove_tree(ROOT)
        wrong.close()


def test_signals_do_not_prevent_a_load(shipped_object: None) -> None:
    """The verifier gives up at a pending signal, however often it is asked
    while they come faster than it is done."""
    ticks = 0

    def tick(*_: object) -> None:
        nonlocal ticks
        ticks += 1

    made = Loader(ROOT)
    made.template()
    before = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.005, 0.005)
    try:
        with made.create(DP, {}, {}) as generation:
            generation.add_bridge(1)
        assert ticks
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        remove_tree(ROOT)
        made.close()


def test_shipped_object_behind_a_compiled_entry(
        shipped_object: None) -> None:
    """A packet without a flow becomes an upcall of its bridge and port."""
    got: list[bytes] = []
    made = Loader(ROOT)
    try:
        with made.create(DP, {}, {"ovs_acts": 4096}) as generation:
            bpfsys.map_update(generation.map_fd("ovs_devs"),
                              struct.pack("=I", LO), struct.pack("=I", PORT))
            generation.add_bridge(12)
            ring = UpcallRing(generation.map_fd("ovs_upcalls"),
                              lambda record: got.append(bytes(record)) or 1)
            assert run(generation, 12) == SHOT
            assert ring.run() == 1
            ring.close()
            assert generation.dp_stats(12)[1] == 1
            assert generation.drops(12) == {}
            assert not any(levels(generation))
    finally:
        remove_tree(ROOT)
        made.close()
    upcall = dict(zip(abi.UPCALL.fields, abi.UPCALL.struct.unpack_from(
        got[0]), strict=True))
    assert (upcall["len"], upcall["bridge"]) == (len(PACKET), 12)
    packet = got[0][abi.UPCALL.size:]
    assert packet[:upcall["len"]] == PACKET
    assert upcall["key"][:8] == struct.pack("=II", PORT, 0)
