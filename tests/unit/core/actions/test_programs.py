# SPDX-License-Identifier: Apache-2.0
"""Programs are shared, and their words and descriptors come back."""

from __future__ import annotations

import errno
import struct

import pytest

from dpif_bpf.abi import INSN, Op
from dpif_bpf.core.actions.programs import (
    COPIES_LATE,
    DescTable,
    ProgramCache,
    UserspaceDesc,
)
from dpif_bpf.core.arena import Arena
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import nla, nla_u32
from dpif_bpf.wire.uapi import (
    OVS_ACTION_ATTR_CLONE,
    OVS_ACTION_ATTR_DROP,
    OVS_ACTION_ATTR_OUTPUT,
    OVS_ACTION_ATTR_SET,
    OVS_ACTION_ATTR_USERSPACE,
    OVS_KEY_ATTR_TCP,
    OVS_USERSPACE_ATTR_PID,
    OVS_USERSPACE_ATTR_USERDATA,
)

ANY = KeyFacts()
DROP = nla_u32(OVS_ACTION_ATTR_DROP, 0)
TCP = KeyFacts(eth_type=0x0800, ip_proto=6)


def out(*ports: int) -> bytes:
    return b"".join(nla_u32(OVS_ACTION_ATTR_OUTPUT, n) for n in ports)


def user(cookie: bytes) -> bytes:
    return nla(OVS_ACTION_ATTR_USERSPACE,
               nla_u32(OVS_USERSPACE_ATTR_PID, 9)
               + nla(OVS_USERSPACE_ATTR_USERDATA, cookie))


def setup(words: int = 64) -> tuple[memoryview, Arena, DescTable,
                                    ProgramCache]:
    memory = memoryview(bytearray(words * 8)).cast("Q")
    arena = Arena(memory)
    descs = DescTable()
    return memory, arena, descs, ProgramCache(arena, descs, lambda: 0)


def insn(memory: memoryview, index: int) -> tuple[int, ...]:
    return INSN.struct.unpack(struct.pack("=Q", memory[index]))


def test_words_are_in_memory() -> None:
    memory, _, descs, cache = setup()
    program = cache.get(out(7) + user(b"x"), ANY)
    assert program.pc > 0
    assert program.words == 3
    assert insn(memory, program.pc) == (Op.OUTPUT, 0, 0, 7)
    op, _, _, number = insn(memory, program.pc + 1)
    assert op == Op.USERSPACE
    assert (number,) == program.desc_ids
    assert descs.get(number) == UserspaceDesc(9, b"x")
    assert insn(memory, program.pc + 2) == (Op.END, 0, 0, 0)


def test_shared_and_freed() -> None:
    _, arena, _, cache = setup()
    one = cache.get(out(1), ANY)
    assert cache.get(out(1), ANY) is one
    assert cache.get(out(1), TCP) is one, "facts do not change the code"
    assert cache.get(out(2), ANY) is not one
    assert (len(cache), arena.used) == (2, 2)
    cache.hold(one)
    for _ in range(3):
        cache.release(one)
    assert cache.get(out(1), ANY) is one
    cache.release(one)
    cache.release(one)
    assert len(cache) == 1
    with pytest.raises(AssertionError):
        cache.release(one)
    assert arena.used == 2, "a program may still be running"
    again = cache.get(out(1), ANY)
    assert again.pc != one.pc
    cache.advance(cache.seal())
    assert arena.used == 2


def test_facts_are_checked_each_time() -> None:
    """A list that one flow may have is refused to another."""
    *_, cache = setup()
    data = nla(OVS_ACTION_ATTR_SET, nla(OVS_KEY_ATTR_TCP, bytes(4))) + out(1)
    cache.get(data, TCP)
    with pytest.raises(RequestError) as error:
        cache.get(data, ANY, base=20)
    assert error.value.offset == 20
    tagged = KeyFacts(0x0800, 6, vlan_tci=0x1005)
    assert cache.get(data, tagged) is cache.get(
        data, KeyFacts(0x0800, 6, vlan_tci=0x1006))
    assert len(cache) == 1


def test_remembers_a_bounded_number_of_facts() -> None:
    *_, cache = setup()
    one = cache.get(out(1), ANY)
    for eth_type in range(0x600, 0x600 + 3 * ProgramCache.KEYS):
        assert cache.get(out(1), KeyFacts(eth_type)) is one
        assert len(one._keys) == len(cache._by_key) <= ProgramCache.KEYS
    for _ in range(3 * ProgramCache.KEYS + 1):
        cache.release(one)
    assert not cache._by_key


def test_descriptors() -> None:
    _, _, descs, cache = setup()
    first = cache.get(user(b"a"), ANY)
    other = cache.get(user(b"b"), ANY)
    assert first.desc_ids != other.desc_ids
    cache.release(first)
    epoch = cache.seal()
    cache.release(other)
    assert descs.get(first.desc_ids[0]), "an upcall may be under way"
    cache.advance(epoch)
    assert descs.get(first.desc_ids[0]) is None
    assert descs.get(other.desc_ids[0])
    again = cache.get(user(b"a"), ANY)
    assert again.desc_ids not in {first.desc_ids, other.desc_ids}


def test_numbers_wrap() -> None:
    descs = DescTable()
    kept = descs.add(UserspaceDesc(1))
    assert kept == 1
    descs._last = 0xFFFFFFFE
    assert descs.add(UserspaceDesc(2)) == 0xFFFFFFFF
    assert descs.add(UserspaceDesc(3)) == 2
    assert len(descs) == 3
    assert descs.get(0) is None


def test_full() -> None:
    _, arena, descs, cache = setup(words=4)
    kept = cache.get(user(b"y"), ANY)
    with pytest.raises(BackendError) as error:
        cache.get(user(b"x"), ANY)
    assert error.value.errno == errno.ENOSPC
    assert (len(cache), arena.used) == (1, 2)
    assert len(descs) == 1
    cache.release(kept)
    with pytest.raises(BackendError):
        cache.get(out(3, 4), ANY)
    cache.advance(cache.seal())
    assert cache.get(out(3, 4), ANY).pc == kept.pc


def test_copies_that_are_late_find_their_instructions() -> None:
    """Words of a list with copies stay until such a copy is refused."""
    now = [1000]
    memory = memoryview(bytearray(64 * 8)).cast("Q")
    arena, descs = Arena(memory), DescTable()
    cache = ProgramCache(arena, descs, lambda: now[0])
    block = nla(OVS_ACTION_ATTR_CLONE, user(b"x") + DROP)
    program = cache.get(block + out(1), ANY)
    before = list(memory)
    cache.release(program)
    # Until the first period is over, a packet may defer a copy.
    epoch = cache.seal()
    now[0] += COPIES_LATE
    cache.advance(epoch)
    for _ in range(3):
        cache.advance(cache.seal())
        assert list(memory) == before
        assert descs.get(program.desc_ids[0]) is not None
    now[0] += COPIES_LATE
    for _ in range(2):
        cache.advance(cache.seal())
    assert descs.get(program.desc_ids[0]) is None
    assert cache.seal() == 0
    again = cache.get(out(3, 4), ANY)
    assert again.pc == program.pc


def test_outputs_may_be_deferred() -> None:
    """A truncation that came over a recirculation defers the first one."""
    _, arena, _, cache = setup()
    program = cache.get(out(1, 2), ANY)
    cache.release(program)
    for _ in range(5):
        cache.advance(cache.seal())
    assert arena.used == program.words


def test_many_that_wait_cost_one_call_a_period() -> None:
    now = [0]
    arena = Arena(memoryview(bytearray(4096 * 8)).cast("Q"))
    cache = ProgramCache(arena, DescTable(), lambda: now[0])
    for port in range(100):
        cache.release(cache.get(out(port, 2), ANY))
    assert cache.advance(cache.seal()) == 100
    for _ in range(3):
        assert cache.advance(cache.seal()) == 1
    now[0] = COPIES_LATE
    for _ in range(2):
        cache.advance(cache.seal())
    assert arena.used == cache.seal() == 0
