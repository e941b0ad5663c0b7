# SPDX-License-Identifier: Apache-2.0
"""edge.libbpf, edge.bpfsys and edge.bpfprog on a small object."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from objects import compile_object

from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.errors import BackendError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
SOURCE = Path(__file__).parent / "small.bpf.c"
PACKET = bytes(range(64))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_object(SOURCE, tmp_path_factory.mktemp("small"))


@pytest.fixture
def obj(path: Path) -> Iterator[BpfObject]:
    with BpfObject(path, stats=True) as opened:
        opened.set_autoload("t_refused", False)
        opened.set_rodata("cfg_add", 1000)
        opened.set_rodata("cfg_big", 0x1234567800000000)
        opened.set_rodata("cfg_small", -9)
        opened.set_max_entries("t_hash", 5000)
        opened.load()
        yield opened


def skb_ctx(mark: int) -> bytes:
    """struct __sk_buff with a mark."""
    return struct.pack("=8xI", mark).ljust(192, b"\0")


def test_lists_what_the_source_declares(obj: BpfObject) -> None:
    assert set(obj.maps) == {"t_array", "t_hash", "t_percpu", "t_progs"}
    assert set(obj.programs) == {"t_main", "t_jump", "t_target",
                                 "t_refused"}
    assert obj.rodata == {"cfg_add": 4, "cfg_big": 8, "cfg_small": 2}


def test_run_with_constants_context_and_data(obj: BpfObject) -> None:
    run = bpfprog.test_run(obj.prog_fd("t_main"), PACKET, skb_ctx(5))
    assert run.retval == 1005
    assert run.data == PACKET[:6] + b"\x5a" + PACKET[7:]
    assert struct.unpack_from("=I", run.ctx, 8) == (77,)
    # 12-byte elements are 16 bytes apart in memory.
    words = bpfsys.mmap_array(obj.map_fd("t_array"))
    assert len(words) == 4 * 16
    assert struct.unpack_from("=IIi", words, 16) == (1, 0x12345678, -9)


def test_mapped_array_is_the_map(obj: BpfObject) -> None:
    fd = obj.map_fd("t_array")
    words = bpfsys.mmap_array(fd).cast("I")
    words[3 * 4 + 2] = 0xabcd
    assert bpfsys.map_lookup(fd, struct.pack("=I", 3), 12) == struct.pack(
        "=III", 0, 0, 0xabcd)
    readonly = bpfsys.mmap_array(fd, writable=False)
    assert readonly[56:58] == b"\xcd\xab"
    with pytest.raises(TypeError):
        readonly[0] = 1


def test_mapping_outlives_the_object(path: Path) -> None:
    with BpfObject(path) as opened:
        opened.set_autoload("t_refused", False)
        opened.load()
        words = bpfsys.mmap_array(opened.map_fd("t_array"))
    words[0] = 7
    assert words[0] == 7


def test_map_that_is_not_mmapable(obj: BpfObject) -> None:
    with pytest.raises(BackendError, match="t_hash"):
        bpfsys.mmap_array(obj.map_fd("t_hash"))


def test_tail_call_through_program_array(obj: BpfObject) -> None:
    jump = obj.prog_fd("t_jump")
    assert bpfprog.test_run(jump, PACKET, skb_ctx(2)).retval == 7
    bpfsys.map_update(obj.map_fd("t_progs"), struct.pack("=I", 2),
                      struct.pack("=I", obj.prog_fd("t_target")))
    assert bpfprog.test_run(jump, PACKET, skb_ctx(2)).retval == 42
    assert bpfprog.test_run(jump, PACKET, skb_ctx(1)).retval == 7


def test_map_elements(obj: BpfObject) -> None:
    fd = obj.map_fd("t_hash")
    info = obj.map_info("t_hash")
    assert (info.name, info.key_size, info.value_size) == ("t_hash", 4, 24)
    assert info.max_entries == 5000
    key, value = struct.pack("=I", 9), bytes(range(24))
    assert bpfsys.map_lookup(fd, key, 24) is None
    assert not bpfsys.map_delete(fd, key)
    bpfsys.map_update(fd, key, value)
    assert bpfsys.map_lookup(fd, key, 24) == value
    assert list(bpfsys.map_keys(fd, 4)) == [key]
    assert bpfsys.map_delete(fd, key)
    assert list(bpfsys.map_keys(fd, 4)) == []


@pytest.mark.parametrize("batch", [16, 4096])
def test_map_batches(obj: BpfObject, batch: int) -> None:
    fd = obj.map_fd("t_hash")
    info = obj.map_info("t_hash")
    want = {struct.pack("=I", i): struct.pack("=QQQ", i, 2 * i, 3 * i)
            for i in range(3000)}
    bpfsys.map_update_batch(fd, b"".join(want), b"".join(want.values()),
                            len(want))
    got = {}
    for keys, values in bpfsys.map_lookup_batch(fd, info, batch):
        assert len(keys) % 4 == 0 and len(values) == len(keys) * 6
        for i in range(len(keys) // 4):
            got[keys[4 * i:4 * i + 4]] = values[24 * i:24 * i + 24]
    assert got == want
    some = b"".join(list(want)[:1000])
    assert bpfsys.map_delete_batch(fd, some, 1000) == 1000
    assert len(list(bpfsys.map_keys(fd, 4))) == 2000
    assert bpfsys.map_delete_batch(fd, some, 1000) == 0


def test_percpu_array(obj: BpfObject) -> None:
    fd = obj.map_fd("t_percpu")
    info = obj.map_info("t_percpu")
    for _ in range(5):
        bpfprog.test_run(obj.prog_fd("t_main"), PACKET)
    values = bpfsys.map_lookup_percpu(fd, 1, info)
    assert len(values) == bpfsys.possible_cpus()
    assert sum(struct.unpack("=I", value)[0] for value in values) == 5
    batches = list(bpfsys.map_lookup_batch(fd, info, 2))
    assert sum(len(values) for _, values in batches) == 2 * info.lookup_size
    with pytest.raises(BackendError, match="t_percpu has no 2"):
        bpfsys.map_lookup_percpu(fd, 2, info)


def test_info_and_statistics(obj: BpfObject) -> None:
    info = obj.prog_info("t_main")
    assert info.name == "t_main"
    assert info.prog_type == bpfprog.PROG_TYPE_SCHED_CLS
    stats = obj.verifier_stats("t_main")
    assert 10 < stats.insns < 200
    assert info.verified_insns in (0, stats.insns)
    with pytest.raises(BackendError):
        obj.verifier_stats("t_refused")


def test_refused_program_says_why(path: Path) -> None:
    with BpfObject(path) as opened, pytest.raises(BackendError) as caught:
        opened.load()
    assert caught.value.errno == errno.EACCES
    assert "map_value_or_null" in caught.value.text
    assert "t_refused" in caught.value.text


@pytest.mark.parametrize(("name", "value", "number"), [
    ("cfg_none", 1, errno.ENOENT),
    ("cfg_small", 70000, errno.ERANGE),
    ("cfg_add", b"\1\2", errno.EINVAL),
])
def test_wrong_constants(path: Path, name: str, value: int | bytes,
                         number: int) -> None:
    with BpfObject(path) as opened, pytest.raises(BackendError) as caught:
        opened.set_rodata(name, value)
    assert caught.value.errno == number


def test_wrong_names_and_files(path: Path, tmp_path: Path) -> None:
    with BpfObject(path) as opened:
        for wrong in (lambda: opened.set_max_entries("t_none", 1),
                      lambda: opened.set_autoload("t_none", True),
                      lambda: opened.map_fd("t_hash"),
                      lambda: opened.prog_fd("t_main")):
            with pytest.raises(BackendError):
                wrong()
    with pytest.raises(BackendError) as caught:
        BpfObject(tmp_path / "none.o")
    assert caught.value.errno == errno.ENOENT
    (tmp_path / "bad.o").write_bytes(b"not an object")
    with pytest.raises(BackendError):
        BpfObject(tmp_path / "bad.o")


def test_raw_program() -> None:
    insns = struct.pack("=BBhiBBhi", 0xb7, 0, 0, 33, 0x95, 0, 0, 0)
    fd = bpfprog.prog_load(bpfprog.PROG_TYPE_SCHED_CLS, insns, "t_raw")
    try:
        assert bpfprog.test_run(fd, PACKET).retval == 33
        assert bpfprog.prog_info(fd).name == "t_raw"
    finally:
        os.close(fd)
    with pytest.raises(BackendError, match="R0 !read_ok"):
        bpfprog.prog_load(bpfprog.PROG_TYPE_SCHED_CLS, insns[8:], "t_bad")


def test_map_create_and_errno() -> None:
    fd = bpfsys.map_create(bpfsys.MAP_TYPE_ARRAY, 4, 4, 2, name="t_made")
    try:
        assert bpfsys.map_info(fd).name == "t_made"
        with pytest.raises(BackendError) as caught:
            bpfsys.map_update(fd, struct.pack("=I", 2), bytes(4))
        assert caught.value.errno == errno.E2BIG
    finally:
        os.close(fd)
