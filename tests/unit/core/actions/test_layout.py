# SPDX-License-Identifier: Apache-2.0
"""Blocks of actions: which are run by the packet, which by a copy."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from errno import EINVAL, EOVERFLOW, ERANGE

import pytest

from dpif_bpf.abi import INSN, Op
from dpif_bpf.core.actions.compiler import MAX_DEPTH
from dpif_bpf.core.actions.programs import UserspaceDesc, compile_actions
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.facts import MAC_PROTO_NONE, KeyFacts
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u16, nla_u32

ALWAYS, HALF = 0xffffffff, 0x80000000
ANY = KeyFacts()
POP = nla_flag(u.OVS_ACTION_ATTR_POP_VLAN)
DROP = nla_u32(u.OVS_ACTION_ATTR_DROP, 0)


def out(port: int) -> bytes:
    return nla_u32(u.OVS_ACTION_ATTR_OUTPUT, port)


def user(pid: int, *more: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_USERSPACE,
               nla_u32(u.OVS_USERSPACE_ATTR_PID, pid) + b"".join(more))


def clone(*actions: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CLONE, b"".join(actions))


def sample(chance: int, *actions: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SAMPLE,
               nla_u32(u.OVS_SAMPLE_ATTR_PROBABILITY, chance)
               + nla(u.OVS_SAMPLE_ATTR_ACTIONS, b"".join(actions)))


GREATER = u.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_GREATER
LESS = u.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_LESS_EQUAL
LENGTH = nla_u16(u.OVS_CHECK_PKT_LEN_ATTR_PKT_LEN, 100)


def check_len(greater: bytes, less: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CHECK_PKT_LEN,
               LENGTH + nla(GREATER, greater) + nla(LESS, less))


def dec_ttl(block: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_DEC_TTL,
               nla(u.OVS_DEC_TTL_ATTR_ACTION, block))


def trunc(length: int) -> bytes:
    return nla_u32(u.OVS_ACTION_ATTR_TRUNC, length)


def meter(number: int) -> bytes:
    return nla_u32(u.OVS_ACTION_ATTR_METER, number)


def decode(code: bytes) -> Iterator[tuple[str, int, int]]:
    """(name, imm, data) of each instruction."""
    at = 0
    while at < len(code):
        op, words, _, imm = INSN.struct.unpack_from(code, at)
        data = int.from_bytes(code[at + 8:at + 8 + words * 8], "little")
        at += 8 + words * 8
        yield Op(op).name, imm, data


@pytest.mark.parametrize(("data", "expected", "deferred"), [
    # The last block is the packet's.
    (clone(POP, out(1)), [("POP_VLAN", 0, 0), ("OUTPUT_LAST", 1, 0)], False),
    (clone(POP, out(1)) + POP, [("POP_VLAN", 0, 0), ("OUTPUT_LAST", 1, 0)],
     False),
    (clone() + out(1), [("OUTPUT_LAST", 1, 0)], False),
    (clone(POP) + out(1), [("OUTPUT_LAST", 1, 0)], False),
    (clone(), [("END", 0, 0)], False),
    # What leaves the packet as it is needs no copy.
    (clone(out(1), user(2)) + out(3),
     [("OUTPUT", 1, 0), ("USERSPACE", 0, 0), ("OUTPUT_LAST", 3, 0)], True),
    (clone(POP, out(1)) + out(3),
     [("CLONE", 2, 0), ("POP_VLAN", 0, 0), ("OUTPUT_LAST", 1, 0),
      ("OUTPUT_LAST", 3, 0)], True),
    # A copy within has its own copy.
    (clone(clone(POP, out(1)), out(2)) + out(3),
     [("CLONE", 2, 0), ("POP_VLAN", 0, 0), ("OUTPUT_LAST", 1, 0),
      ("OUTPUT", 2, 0), ("OUTPUT_LAST", 3, 0)], True),
    (clone(DROP) + out(3), [("CLONE", 1, 0), ("DROP", 0, 0),
                            ("OUTPUT_LAST", 3, 0)], True),
    # A meter can end the packet, ...
    (meter(7) + out(1), [("METER", 7, 0), ("OUTPUT_LAST", 1, 0)], False),
    (meter(7), [("METER", 7, 0), ("END", 0, 0)], False),
    (out(1) + meter(7), [("OUTPUT", 1, 0), ("METER", 7, 0), ("END", 0, 0)],
     True),
    (clone(meter(7), out(1)), [("METER", 7, 0), ("OUTPUT_LAST", 1, 0)],
     False),
    (clone(meter(7), POP, out(1)) + out(2),
     [("CLONE", 3, 0), ("METER", 7, 0), ("POP_VLAN", 0, 0),
      ("OUTPUT_LAST", 1, 0), ("OUTPUT_LAST", 2, 0)], True),
    # ... or a block that it runs itself.
    (clone(meter(7), out(1)) + out(2),
     [("METER", 7, 1), ("OUTPUT", 1, 0), ("OUTPUT_LAST", 2, 0)], True),
    (sample(HALF, meter(7), meter(8), user(1)) + out(2),
     [("SAMPLE", HALF, 5), ("METER", 7, 3), ("METER", 8, 1),
      ("USERSPACE", 0, 0), ("OUTPUT_LAST", 2, 0)], False),
    (clone(clone(meter(7), out(1)), out(2)) + meter(8) + out(3),
     [("METER", 7, 1), ("OUTPUT", 1, 0), ("OUTPUT", 2, 0), ("METER", 8, 0),
      ("OUTPUT_LAST", 3, 0)], True),
    (check_len(meter(7), meter(8)) + out(3),
     [("CHECK_PKT_LEN", 100, 3), ("METER", 8, 0), ("JUMP", 2, 0),
      ("METER", 7, 0), ("OUTPUT_LAST", 3, 0)], False),
    (sample(HALF, out(1)) + out(2),
     [("SAMPLE", HALF, 1), ("OUTPUT", 1, 0), ("OUTPUT_LAST", 2, 0)], True),
    (sample(HALF, out(1)), [("SAMPLE", HALF, 1), ("OUTPUT_LAST", 1, 0),
                            ("END", 0, 0)], False),
    (sample(HALF, POP, user(1)) + out(2),
     [("SAMPLE", HALF, 4), ("CLONE", 3, 0), ("POP_VLAN", 0, 0),
      ("USERSPACE", 0, 0), ("END", 0, 0), ("OUTPUT_LAST", 2, 0)], True),
    (sample(0, out(1)) + out(2), [("OUTPUT_LAST", 2, 0)], False),
    (sample(ALWAYS, out(1)), [("OUTPUT_LAST", 1, 0)], False),
    (check_len(out(1), out(2)),
     [("CHECK_PKT_LEN", 100, 1), ("OUTPUT_LAST", 2, 0),
      ("OUTPUT_LAST", 1, 0)], False),
    (check_len(out(1), out(2)) + out(3),
     [("CHECK_PKT_LEN", 100, 2), ("OUTPUT", 2, 0), ("JUMP", 1, 0),
      ("OUTPUT", 1, 0), ("OUTPUT_LAST", 3, 0)], True),
    (check_len(out(1), b""),
     [("CHECK_PKT_LEN", 100, 1), ("END", 0, 0), ("OUTPUT_LAST", 1, 0)],
     False),
    (check_len(b"", POP + out(2)) + out(3),
     [("CHECK_PKT_LEN", 100, 3), ("CLONE", 2, 0), ("POP_VLAN", 0, 0),
      ("OUTPUT_LAST", 2, 0), ("OUTPUT_LAST", 3, 0)], True),
    (dec_ttl(out(9)) + out(1),
     [("DEC_TTL", 1, 1), ("OUTPUT_LAST", 9, 0), ("OUTPUT_LAST", 1, 0)],
     False),
    (dec_ttl(b"") + out(1), [("DEC_TTL", 0, 0), ("OUTPUT_LAST", 1, 0)],
     False),
    (dec_ttl(b""), [("DEC_TTL", 0, 0), ("END", 0, 0)], False),
    (clone(dec_ttl(b""), out(1)) + out(2),
     [("CLONE", 3, 0), ("DEC_TTL", 0, 0), ("OUTPUT_LAST", 1, 0),
      ("OUTPUT_LAST", 2, 0)], True),
    # A truncation is the next output's: of a copy, unless that is the last.
    (trunc(64) + out(1), [("TRUNC", 64, 0), ("OUTPUT_LAST", 1, 0)], False),
    (trunc(64) + out(1) + out(2),
     [("TRUNC", 64, 0), ("CLONE", 1, 0), ("OUTPUT_LAST", 1, 0),
      ("TRUNC", 0, 0), ("OUTPUT_LAST", 2, 0)], True),
    (trunc(64) + user(1) + out(2) + out(3),
     [("TRUNC", 64, 0), ("USERSPACE", 0, 0), ("OUTPUT", 2, 0),
      ("OUTPUT_LAST", 3, 0)], True),
    (trunc(64) + clone(out(1)) + out(2),
     [("TRUNC", 64, 0), ("CLONE", 1, 0), ("OUTPUT_LAST", 1, 0),
      ("OUTPUT_LAST", 2, 0)], True),
    (trunc(64), [("END", 0, 0)], False),
])
def test_layout(data: bytes, expected: list[tuple[str, int, int]],
                deferred: bool) -> None:
    compiled = compile_actions(data, ANY)
    assert list(decode(compiled.code)) == expected
    assert compiled.deferred == deferred


def test_jumps_count_words() -> None:
    """Not instructions: one with operands is longer."""
    mark = nla(u.OVS_ACTION_ATTR_SET_MASKED, nla(
        u.OVS_KEY_ATTR_SKB_MARK, struct.pack("=II", 1, 1)))
    found = list(decode(compile_actions(
        sample(HALF, mark, out(1)) + out(2), ANY).code))
    assert found == [("SAMPLE", HALF, 4), ("CLONE", 3, 0),
                     ("SET_MARK", 1, 1), ("OUTPUT_LAST", 1, 0),
                     ("OUTPUT_LAST", 2, 0)]


def test_upcall_repeats_the_list_that_it_is_in() -> None:
    inner = user(5, nla_flag(u.OVS_USERSPACE_ATTR_ACTIONS)) + out(1)
    compiled = compile_actions(out(2) + clone(inner), ANY)
    assert compiled.uspace == (UserspaceDesc(5, None, inner),)
    ids = compiled.link((77,))
    assert [imm for name, imm, _ in decode(ids) if name == "USERSPACE"] == [
        77]


def test_facts_within_and_after_a_block() -> None:
    """A block's changes are forgotten after it."""
    tcp4 = KeyFacts(eth_type=0x0800, ip_proto=6)
    port = nla(u.OVS_ACTION_ATTR_SET, nla(u.OVS_KEY_ATTR_TCP, bytes(4)))
    compile_actions(clone(port, out(1)) + port + out(2), tcp4)
    with pytest.raises(RequestError):
        compile_actions(clone(port, out(1)), ANY)
    with pytest.raises(RequestError):
        compile_actions(clone(POP), KeyFacts(mac_proto=MAC_PROTO_NONE))


def nested(depth: int) -> bytes:
    data = out(1)
    for level in range(depth):
        data = sample(HALF, data) if level % 2 else clone(data)
    return data


def test_depth() -> None:
    compile_actions(nested(MAX_DEPTH), ANY)
    with pytest.raises(RequestError) as error:
        compile_actions(nested(MAX_DEPTH + 1), ANY)
    assert error.value.errno == EOVERFLOW


SAMPLE, CLONE = u.OVS_ACTION_ATTR_SAMPLE, u.OVS_ACTION_ATTR_CLONE
CHECK, DEC_TTL = u.OVS_ACTION_ATTR_CHECK_PKT_LEN, u.OVS_ACTION_ATTR_DEC_TTL
CHANCE = nla_u32(u.OVS_SAMPLE_ATTR_PROBABILITY, 1)
BLOCK = nla(u.OVS_SAMPLE_ATTR_ACTIONS, out(1))
LISTS = nla(GREATER, b"") + nla(LESS, b"")


@pytest.mark.parametrize(("data", "errno"), [
    (nla(SAMPLE, b""), EINVAL),
    (nla(SAMPLE, BLOCK), EINVAL),
    (nla(SAMPLE, CHANCE), EINVAL),
    (nla(SAMPLE, CHANCE + CHANCE + BLOCK), EINVAL),
    (nla(SAMPLE, CHANCE + BLOCK + BLOCK), EINVAL),
    (nla(SAMPLE, CHANCE + BLOCK + nla(0, b"")), EINVAL),
    (nla(SAMPLE, CHANCE + BLOCK + nla(3, b"")), EINVAL),
    (nla(SAMPLE, nla_u16(1, 1) + BLOCK), EINVAL),
    (nla(SAMPLE, nla(1, bytes(8)) + BLOCK), EINVAL),
    (nla(SAMPLE, CHANCE + nla(2, b"\0\0\0")), EINVAL),
    (nla(SAMPLE, CHANCE + nla(2, nla(99, b""))), EINVAL),
    (nla(SAMPLE, CHANCE + BLOCK + b"\0\0"), EINVAL),
    (nla(CLONE, b"\0"), EINVAL),
    (nla(CLONE, b"\0\0\0"), EINVAL),
    (nla(CLONE, nla(0, b"")), EINVAL),
    (clone(DROP, out(1)), EINVAL),
    (nla(CHECK, b""), EINVAL),
    (nla(CHECK, LISTS), EINVAL),
    (nla(CHECK, LENGTH), EINVAL),
    (nla(CHECK, LENGTH + nla(GREATER, b"")), EINVAL),
    (nla(CHECK, LENGTH + nla(LESS, b"")), EINVAL),
    (nla(CHECK, nla_u16(1, 0) + LISTS), EINVAL),
    (nla(CHECK, nla(1, b"\1") + LISTS), ERANGE),
    (nla(CHECK, LENGTH + LISTS + nla(GREATER, b"\0")), ERANGE),
    (nla(CHECK, LENGTH + LISTS + nla(0, b"")), EINVAL),
    (nla(CHECK, LENGTH + LISTS + nla(4, b"")), EINVAL),
    (check_len(nla(99, b""), b""), EINVAL),
    (check_len(b"", nla(99, b"")), EINVAL),
    (nla(DEC_TTL, b""), EINVAL),
    (nla(DEC_TTL, nla(0, b"") + nla(1, b"")), EINVAL),
    (nla(DEC_TTL, nla(1, b"") + nla(1, b"")), EINVAL),
    (nla(DEC_TTL, nla(1, b"\0")), EINVAL),
    (dec_ttl(nla(99, b"")), EINVAL),
    (nla(u.OVS_ACTION_ATTR_TRUNC, bytes(3)), EINVAL),
    (nla(u.OVS_ACTION_ATTR_TRUNC, bytes(8)), EINVAL),
    (trunc(0), EINVAL),
    (trunc(13), EINVAL),
    (nla(u.OVS_ACTION_ATTR_HASH, bytes(4)), EINVAL),
    (nla(u.OVS_ACTION_ATTR_HASH, bytes(12)), EINVAL),
    (nla(u.OVS_ACTION_ATTR_HASH, struct.pack("=II", 1, 0)), EINVAL),
])
def test_refused(data: bytes, errno: int) -> None:
    for before in (b"", out(1)):
        with pytest.raises(RequestError) as error:
            compile_actions(before + data, ANY, base=100)
        assert error.value.errno == errno
        assert error.value.offset is not None
        assert error.value.offset >= 100 + len(before)


def test_what_the_kernel_lets_pass() -> None:
    for data in (
            trunc(14) + out(1),
            nla(DEC_TTL, nla(7, b"") + nla(1, b"")),
            nla(CHECK, LENGTH + LISTS + nla(GREATER, out(1))),
            nla(CHECK, nla(1, b"\1\0\0\0") + LISTS),
            nla(SAMPLE, nla(u.OVS_SAMPLE_ATTR_ACTIONS, b"") + CHANCE)):
        assert compile_actions(data, ANY).code


def test_offset_in_a_block() -> None:
    bad = nla(99, b"")
    with pytest.raises(RequestError) as error:
        compile_actions(out(1) + clone(out(2), clone(out(3), bad)), ANY, 100)
    assert error.value.offset == 100 + 8 + 4 + 8 + 4 + 8
