# SPDX-License-Identifier: Apache-2.0
"""edge.hooks: tcx links, alone and over a provider that is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from netns import Namespace

from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.generation import Generation
from dpif_bpf.edge.hook_kinds import KEEP, TC, HookKind
from dpif_bpf.edge.hooks import EndHooks, Hooks
from dpif_bpf.edge.loader import Files, Loader
from dpif_bpf.edge.pins import remove_tree
from dpif_bpf.errors import BackendError

TOP = Path(__file__).resolve().parents[2]
sys.path.append(str(TOP / "tests" / "bpf"))
from objects import HEADERS, compile_object  # noqa: E402

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(not HEADERS.is_dir(),
                       reason="needs build/shim (./run build)"),
]
SOURCE = TOP / "tests" / "bpf" / "stages.bpf.c"
ROOT = Path(f"/sys/fs/bpf/ovs-test-hooks-{os.getpid()}")
DP = "ovs-bpf"
FRAME = bytes(12) + b"\x88\xb5" + bytes(50)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(obj=compile_object(SOURCE,
                                    tmp_path_factory.mktemp("stages")))


@pytest.fixture(scope="module", autouse=True)
def tcx() -> None:
    if not bpfprog.has_tcx():
        pytest.skip("the kernel has no tcx links (Linux 6.6)")


@pytest.fixture
def loader(files: Files) -> Iterator[Loader]:
    made = Loader(ROOT, files)
    yield made
    made.close()
    remove_tree(ROOT)


@pytest.fixture
def far(namespace: Namespace) -> Iterator[socket.socket]:
    """Sends frames that come in at vb."""
    namespace.run("sysctl", "-qw", "net.ipv6.conf.default.disable_ipv6=1")
    namespace.ip("link add vb index 77 type veth peer name va")
    namespace.ip("link set va up")
    namespace.ip("link set vb up")
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind(("va", 0))
        yield sock


def new_generation(loader: Loader, ifindex: int, *bridges: int,
                   ) -> Generation:
    made = loader.create(DP, {}, {})
    bpfsys.map_update(made.map_fd("ovs_devs"), struct.pack("=I", ifindex),
                      struct.pack("=I", 1))
    for bridge in bridges:
        made.add_bridge(bridge)
    made.commit()
    return made


def seen(generation: Generation, bridge: int) -> int:
    """Packets that came to a bridge; those on their way are waited for."""
    last = -1
    while (now := generation.dp_stats(bridge)[1]) != last:
        last = now
        time.sleep(0.02)
    return now


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that must come within ten seconds."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_attach_replace_detach(loader: Loader, far: socket.socket) -> None:
    vb = socket.if_nametoindex("vb")
    with new_generation(loader, vb, 1, 2) as generation:
        hooks = Hooks(loader.pins.links(DP), TC)
        hook = hooks.attach(vb, generation.bridge(1).entry_fd)
        assert hook.alive() and vb in hooks and len(hooks) == 1
        assert (loader.pins.links(DP) / str(vb)).exists()
        far.send(FRAME)
        assert (seen(generation, 1), seen(generation, 2)) == (1, 0)
        assert hooks.attach(vb, generation.bridge(2).entry_fd) is hook
        assert hook.prog_id() == bpfprog.prog_info(
            generation.bridge(2).entry_fd).prog_id
        far.send(FRAME)
        assert (seen(generation, 1), seen(generation, 2)) == (1, 1)
        hooks.detach(vb)
        hooks.detach(vb)
        assert bpfprog.tcx_links(vb) == []
        assert not list(loader.pins.links(DP).iterdir())
        far.send(FRAME)
        assert (seen(generation, 1), seen(generation, 2)) == (1, 1)


def test_next_provider_adopts(loader: Loader, far: socket.socket) -> None:
    vb = socket.if_nametoindex("vb")
    with new_generation(loader, vb, 1, 2) as generation:
        first = Hooks(loader.pins.links(DP), TC)
        first.attach(vb, generation.bridge(1).entry_fd)
        link, = bpfprog.tcx_links(vb)
        first.close()
        second = Hooks(loader.pins.links(DP), TC)
        assert second.adopt() == [vb]
        second.attach(vb, generation.bridge(2).entry_fd)
        assert bpfprog.tcx_links(vb) == [link]
        far.send(FRAME)
        assert (seen(generation, 1), seen(generation, 2)) == (0, 1)
        second.close()


def test_no_such_device(loader: Loader, far: socket.socket) -> None:
    with new_generation(loader, 1, 1) as generation:
        hooks = Hooks(loader.pins.links(DP), TC)
        with pytest.raises(BackendError, match="9999"):
            hooks.attach(9999, generation.bridge(1).entry_fd)
        assert 9999 not in hooks
        assert bpfprog.tcx_links(9999) == []


def test_device_goes_and_its_index_comes_again(
        loader: Loader, far: socket.socket, namespace: Namespace) -> None:
    vb = socket.if_nametoindex("vb")
    with new_generation(loader, vb, 1) as generation:
        entry = generation.bridge(1).entry_fd
        hooks = Hooks(loader.pins.links(DP), TC)
        old = hooks.attach(vb, entry)
        namespace.ip("link del va")
        namespace.ip(f"link add vc index {vb} type veth peer name vd")
        assert not old.alive()
        # The one that knows the old hook, and one that starts now.
        assert hooks.attach(vb, entry).alive()
        assert len(bpfprog.tcx_links(vb)) == 1
        hooks.close()
        namespace.ip("link del vc")
        after = Hooks(loader.pins.links(DP), TC)
        assert after.adopt() == []
        assert not list(loader.pins.links(DP).iterdir())


def test_link_of_another_namespace_is_not_adopted(
        loader: Loader, far: socket.socket, elsewhere: Namespace) -> None:
    vb = socket.if_nametoindex("vb")
    elsewhere.ip(f"link add vc index {vb} type veth peer name vd")
    with new_generation(loader, vb, 1) as generation:
        with elsewhere.entered():
            Hooks(loader.pins.links(DP), TC).attach(
                vb, generation.bridge(1).entry_fd)
        hooks = Hooks(loader.pins.links(DP), TC)
        assert hooks.adopt() == []
        hooks.attach(vb, generation.bridge(1).entry_fd)
        far.send(FRAME)
        assert seen(generation, 1) == 1
        hooks.detach(vb)


def test_ends_are_known_wherever_they_are(
        loader: Loader, far: socket.socket, namespace: Namespace,
        elsewhere: Namespace) -> None:
    """An end of a pair by the index of its other one, as of a port."""
    vb, va = socket.if_nametoindex("vb"), socket.if_nametoindex("va")
    links = loader.pins.links(DP)
    with new_generation(loader, vb, 1, 2) as generation:
        entries = [generation.bridge(n).entry_fd for n in (1, 2)]
        hooks = Hooks(links, TC)
        hooks.attach(vb, entries[0])
        ends = EndHooks(links, KEEP)
        ends.attach_end(vb, None, entries[0])
        assert vb not in ends
        ends.attach_end(vb, va, entries[0])
        assert {path.name for path in links.iterdir()} == {
            str(vb), f"{vb}-keep"}
        namespace.ip(f"link set va netns {elsewhere.pid}")
        hooks.close()
        ends.close()
        hooks = Hooks(links, TC)
        assert hooks.adopt() == [vb] and len(hooks) == 1
        ends = EndHooks(links, KEEP)
        assert ends.adopt() == [vb]
        ends.attach_end(vb, None, entries[1])
        with open_link(links / f"{vb}-keep") as fd:
            assert bpfprog.link_info(fd).prog_id == bpfprog.prog_info(
                entries[1]).prog_id
        elsewhere.ip("link del va")
        ends.close()
        hooks.close()
        ends = EndHooks(links, KEEP)
        assert ends.adopt() == []
        assert {path.name for path in links.iterdir()} == {str(vb)}
        namespace.ip("link add vb type veth peer name va")
        new = socket.if_nametoindex("va")
        ends.attach_end(vb, new, entries[0])
        assert vb in ends
    loader.remove(DP)
    assert not links.exists()


def test_a_device_has_a_hook_of_each_kind(loader: Loader,
                                          far: socket.socket) -> None:
    """They are pinned, replaced, found again and taken off on their own, and
    a link of another type is not taken for one of ours."""
    vb = socket.if_nametoindex("vb")
    links = loader.pins.links(DP)
    xdp = HookKind("xdp", bpfprog.ATTACH_XDP, bpfprog.LINK_TYPE_XDP,
                   lambda _: attached)
    passes = struct.pack("=BBhiBBhi", 0xb7, 0, 0, 2, 0x95, 0, 0, 0)
    prog = bpfprog.prog_load(bpfprog.PROG_TYPE_XDP, passes, "passes")
    with new_generation(loader, vb, 1) as generation:
        at_tc, at_xdp = Hooks(links, TC), Hooks(links, xdp)
        at_tc.attach(vb, generation.bridge(1).entry_fd)
        hook = at_xdp.attach(vb, prog)
        assert {path.name for path in links.iterdir()} == {
            str(vb), f"{vb}-xdp"}
        assert at_xdp.attach(vb, prog) is hook
        far.send(FRAME)
        assert seen(generation, 1) == 1
        at_tc.close()
        at_xdp.close()
        with open_link(links / f"{vb}-xdp") as fd:
            attached = [bpfprog.link_info(fd).link_id]

        at_tc, at_xdp = Hooks(links, TC), Hooks(links, xdp)
        assert at_tc.adopt() == [vb] and at_xdp.adopt() == [vb]
        at_tc.detach(vb)
        assert bpfprog.tcx_links(vb) == []
        assert {path.name for path in links.iterdir()} == {f"{vb}-xdp"}
        (links / f"{vb}-xdp").rename(links / str(vb))
        assert Hooks(links, TC).adopt() == []
        (links / str(vb)).rename(links / f"{vb}-xdp")
        at_xdp.detach(vb)
        assert not list(links.iterdir())
    os.close(prog)


@contextlib.contextmanager
def open_link(path: Path) -> Iterator[int]:
    fd = bpfsys.obj_get(path)
    yield fd
    os.close(fd)


SENDER = """
    import select, socket, sys
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind(("va", 0))
    frame, sent = bytes.fromhex(sys.argv[1]), 0
    while not select.select([sys.stdin], [], [], 0)[0]:
        sent += sock.send(frame) == len(frame)
        if sent == 1:
            print("ready", flush=True)
    print(sent, flush=True)
    """
PROVIDER = """
    import sys, time
    from pathlib import Path
    from dpif_bpf.edge import bpfsys
    from dpif_bpf.edge.hook_kinds import TC
    from dpif_bpf.edge.hooks import Hooks
    from dpif_bpf.edge.loader import Files, Loader
    root, obj, ifindex = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    loader = Loader(root, Files(obj=obj))
    made = loader.create("ovs-bpf", {}, {})
    bpfsys.map_update(made.map_fd("ovs_devs"),
                      int(ifindex).to_bytes(4, sys.byteorder),
                      (1).to_bytes(4, sys.byteorder))
    entry = made.add_bridge(1)
    made.commit()
    Hooks(loader.pins.links("ovs-bpf"), TC).attach(int(ifindex), entry)
    print("ready", flush=True)
    time.sleep(60)
    """


def start(script: str, *args: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *args], cwd=TOP,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_provider_is_killed_and_another_takes_over(
        files: Files, far: socket.socket) -> None:
    """Each packet comes to the bridge of the one or of the other."""
    vb = socket.if_nametoindex("vb")
    path = ROOT / DP / "1"
    processes = [start(PROVIDER, str(ROOT), str(files.obj), str(vb))]
    try:
        assert processes[0].stdout is not None
        assert processes[0].stdout.readline() == b"ready\n"
        processes.append(start(SENDER, FRAME.hex()))
        assert processes[1].stdout is not None
        assert processes[1].stdout.readline() == b"ready\n"
        time.sleep(0.1)
        processes[0].send_signal(signal.SIGKILL)
        processes[0].wait()
        assert {item.name for item in path.iterdir()} == {
            "maps", "progs", "bridges"}
        loader = Loader(ROOT, files)
        old = loader.open_pinned(DP)
        assert old is not None and old.number == 1
        at_restart = old.dp_stats(1)[1]
        new = new_generation(loader, vb, 1)
        hooks = Hooks(loader.pins.links(DP), TC)
        assert hooks.adopt() == [vb]
        # Nobody has served it since, and it goes on.
        until(lambda: old.dp_stats(1)[1] > at_restart)
        hooks.attach(vb, new.bridge(1).entry_fd)
        loader.remove_others(new)
        assert not path.exists()
        counted = old.dp_stats(1)[1]
        until(lambda: new.dp_stats(1)[1] > 0)
        sent = int(processes[1].communicate(b"stop\n", timeout=30)[0])
        assert counted + seen(new, 1) == sent
        hooks.detach(vb)
        new.close()
        old.close()
        loader.remove(DP)
        loader.close()
    finally:
        for process in processes:
            process.kill()
            process.communicate()
        if ROOT.exists():
            remove_tree(ROOT)
