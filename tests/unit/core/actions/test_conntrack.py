# SPDX-License-Identifier: Apache-2.0
"""The actions ct and ct_clear: what they become, and what is refused."""

from __future__ import annotations

import errno
from dataclasses import dataclass

import ct_cases as c
import pytest

from dpif_bpf import abi
from dpif_bpf.abi import ACT_CT, INSN, Op
from dpif_bpf.core.actions.programs import (
    DescTable,
    ProgramCache,
    compile_actions,
)
from dpif_bpf.core.arena import Arena
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u16, nla_u32

TCP4, TCP6 = KeyFacts(eth_type=0x0800, ip_proto=6), KeyFacts(
    eth_type=0x86dd, ip_proto=6)
OUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 2)


def ct(*attrs: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CT, b"".join(attrs))


def insns(code: bytes) -> list[tuple[Op, int, int, bytes]]:
    """Operations, arg, imm and data."""
    found, at = [], 0
    while at < len(code):
        op, words, arg, imm = INSN.struct.unpack_from(code, at)
        at += 8
        found.append((Op(op), arg, imm, code[at:at + 8 * words]))
        at += 8 * words
    return found


def operand(code: bytes) -> dict[str, object]:
    (_, _, _, data), *_ = insns(code)
    return dict(zip(ACT_CT.fields, ACT_CT.struct.unpack(data), strict=True))


def test_lookup() -> None:
    """It is done though nothing is sent, as it changes the connection."""
    code = compile_actions(ct(nla_u16(u.OVS_CT_ATTR_ZONE, 7)), TCP4).code
    assert insns(code) == [(Op.CT, 7, 0, b""), (Op.END, 0, 0, b"")]
    code = compile_actions(ct(nla_flag(u.OVS_CT_ATTR_NAT)) + OUT, TCP6).code
    assert insns(code) == [(Op.CT, 0, abi.OVS_CTA_NAT, b""),
                           (Op.OUTPUT_LAST, 0, 2, b"")]


def test_clear() -> None:
    """One that nobody can see is left out."""
    clear = nla_flag(u.OVS_ACTION_ATTR_CT_CLEAR)
    assert insns(compile_actions(clear + OUT + clear, TCP4).code) == [
        (Op.CT_CLEAR, 0, 0, b""), (Op.OUTPUT_LAST, 0, 2, b"")]
    with pytest.raises(RequestError) as info:
        compile_actions(nla_u32(u.OVS_ACTION_ATTR_CT_CLEAR, 0), TCP4)
    assert info.value.errno == errno.EINVAL


def test_commit() -> None:
    labels, mask = bytes(range(16)), b"\x0f" * 16
    code = compile_actions(ct(
        c.FORCE, c.mark(5, 0xff), nla(u.OVS_CT_ATTR_LABELS, labels + mask),
        nla(u.OVS_CT_ATTR_NAT, b"".join((
            c.SRC, nla(u.OVS_NAT_ATTR_IP_MIN, c.A4),
            nla(u.OVS_NAT_ATTR_IP_MAX, c.B4),
            nla_u16(u.OVS_NAT_ATTR_PROTO_MIN, 100),
            nla_u16(u.OVS_NAT_ATTR_PROTO_MAX, 200), c.PERSISTENT,
            c.RANDOM))), nla(u.OVS_CT_ATTR_HELPER, b"ftp\0")), TCP4).code
    ((op, _, imm, _), _) = insns(code)
    assert op == Op.CT and imm == (
        abi.OVS_CTA_COMMIT | abi.OVS_CTA_FORCE | abi.OVS_CTA_MARK
        | abi.OVS_CTA_LABELS | abi.OVS_CTA_NAT | abi.OVS_CTA_NAT_SRC
        | abi.OVS_CTA_NAT_IPS | abi.OVS_CTA_NAT_PORTS
        | abi.OVS_CTA_NAT_PERSISTENT | abi.OVS_CTA_NAT_RANDOM)
    assert operand(code) == {
        "mark": 5, "mark_mask": 0xff, "labels_mask": mask,
        "labels": bytes(value & 15 for value in labels),
        "min_addr": c.A4 + bytes(12), "max_addr": c.B4 + bytes(12),
        "min_port": 100, "max_port": 200,
        "helper": 1, "pad": 0}


def test_what_the_flow_matches_counts() -> None:
    """And not what became of the packet."""
    push = nla(u.OVS_ACTION_ATTR_PUSH_MPLS, bytes(4) + b"\x88\x47\0\0")
    compile_actions(push + ct() + OUT, TCP4)
    with pytest.raises(RequestError):
        compile_actions(ct() + OUT, KeyFacts(eth_type=0x8847))


@pytest.mark.parametrize("name", ["tftp", "none", "sip"])
def test_helpers_that_are_not_there(name: str) -> None:
    """Or not for these packets."""
    with pytest.raises(RequestError) as info:
        compile_actions(ct(c.COMMIT, nla(
            u.OVS_CT_ATTR_HELPER, name.encode() + b"\0")), TCP4)
    assert info.value.errno == errno.EINVAL and "helper" in info.value.text


@dataclass(eq=False, slots=True)
class Row:
    row: int


class Timeouts:
    """core.actions.conntrack.TimeoutPolicies with policies by name."""

    def __init__(self) -> None:
        self.rows = {"one": 1, "two": 2}
        self.held: list[Row] = []

    def hold(self, name: str, family: int, proto: int) -> Row | None:
        assert (family, proto) == (2, 6)
        if name not in self.rows:
            return None
        self.held.append(Row(self.rows[name]))
        return self.held[-1]

    def release(self, policy: Row) -> None:
        self.held.remove(policy)


def timeout(name: str) -> bytes:
    return nla(u.OVS_CT_ATTR_TIMEOUT, name.encode() + b"\0")


def test_timeout_policies_are_held() -> None:
    """For as long as a list has them, each once; one of a name that is not
    there is the default, until somebody asks again."""
    words = memoryview(bytearray(8 * 1024)).cast("Q")
    cache = ProgramCache(Arena(words, start=1), DescTable(), lambda: 0)
    timeouts = cache.timeouts = Timeouts()

    def rows(data: bytes) -> list[int]:
        program = cache.get(data, TCP4)
        got = [imm >> abi.OVS_CTA_POLICY_SHIFT for op, _, imm, _ in insns(
            bytes(words[program.pc:program.pc + program.words].tobytes()))
            if op == Op.CT]
        programs.append(program)
        return got

    programs = []
    both = ct(c.COMMIT, timeout("one")) + ct(c.COMMIT, timeout("two")) + OUT
    assert rows(both) == [1, 2]
    assert rows(both) == [1, 2]
    assert [policy.row for policy in timeouts.held] == [1, 2]
    assert rows(ct(c.COMMIT, timeout("three")) + OUT) == [0]
    timeouts.rows["three"] = 3
    assert rows(ct(c.COMMIT, timeout("three")) + OUT) == [3]
    with pytest.raises(RequestError):
        cache.get(ct(c.COMMIT, timeout("one")) + nla_u32(99, 0), TCP4)
    assert len(timeouts.held) == 3
    for program in programs:
        cache.release(program)
    for _ in range(3):
        cache.advance(cache.seal())
    assert len(timeouts.held) == 3	# deferred copies may come
    cache._clock = lambda: 10000
    for _ in range(3):
        cache.advance(cache.seal())
    assert not timeouts.held
