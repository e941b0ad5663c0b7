# SPDX-License-Identifier: Apache-2.0
"""Timeout policies: requests in an order, rows of the table, actions.

tests/system/test_cttimeout_kernel.py puts the same requests to the kernel.
"""

from __future__ import annotations

import contextlib
import errno

import ct_requests as r
import ct_timeouts as t
import pytest
from ct_tables import Rows, kept

from dpif_bpf import abi_ct
from dpif_bpf.core.conntrack.answers import answer_timeout
from dpif_bpf.core.conntrack.policy import DEFAULTS, SLOTS, Policies
from dpif_bpf.errors import DpifError, RequestError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6
from dpif_bpf.wire.cttimeout import GENERIC, STATES, decode_timeout
from dpif_bpf.wire.netlink import nla, nla_u8

SUBSYS = nf.NFNL_SUBSYS_CTNETLINK_TIMEOUT


def ask(policies: Policies, cmd: int, payload: bytes = b"",
        flags: int = 0) -> list[bytes]:
    return list(answer_timeout(decode_timeout(r.message(
        cmd, 0, payload, flags, subsys=SUBSYS)), policies))


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def policies(rows: Rows) -> Policies:
    return Policies(rows, kept())


def test_steps(policies: Policies) -> None:
    for i, step in enumerate(t.STEPS):
        code = 0
        try:
            ask(policies, step.cmd, step.payload, step.flags)
        except DpifError as error:
            code = error.errno
            assert error.text
        assert (i, code) == (i, step.errno)
    assert not len(policies)


def test_defaults(rows: Rows, policies: Policies) -> None:
    """Row 0 has them from the beginning; no slot is of two protocols."""
    assert not len(policies)
    for proto, timeouts in DEFAULTS.items():
        assert len(timeouts) == STATES[proto]
        assert tuple(rows.slots[0, SLOTS[proto] + i]
                     for i in range(len(timeouts))) == timeouts
    assert len(rows.slots) == sum(STATES.values()) + 2
    assert (rows.slots[0, 0], rows.slots[0, 32]) == (120, 10)


def test_a_row_for_each_protocol(rows: Rows, policies: Policies) -> None:
    """OVS's policies of one id share one, but for the second family's."""
    for name, proto, l3num in (
            ("tcp4", 6, AF_INET), ("udp4", 17, AF_INET), ("icmp4", 1,
                                                          AF_INET),
            ("tcp6", 6, AF_INET6), ("udp6", 17, AF_INET6),
            ("icmp6", 58, AF_INET6)):
        ask(policies, t.NEW, t.policy(name, proto, l3num, t1=77))
    assert {policy.made.name: policy.row for policy in policies} == {
        "tcp4": 1, "udp4": 1, "icmp4": 1, "tcp6": 2, "udp6": 2, "icmp6": 1}
    assert rows.slots[1, 0] == rows.slots[1, 1] == rows.slots[1, 16] == 77
    assert rows.slots[1, 2] == 60
    assert rows.slots[1, 18] == rows.slots[1, 19] == 77
    # What is no policy's is as the default, and stays so.
    assert rows.slots[1, 20] == 600
    ask(policies, t.SET, t.numbers(255) + t.data(t1=7))
    assert rows.slots[1, 20] == rows.slots[0, 20] == 7
    ask(policies, t.SET, t.numbers(17) + t.data(t1=8))
    assert (rows.slots[0, 16], rows.slots[1, 16]) == (8, 77)
    ask(policies, t.DELETE, t.name("udp4"))
    assert rows.slots[1, 16] == 8


def test_replace(rows: Rows, policies: Policies) -> None:
    """All that have it are changed, and what is not given is the default."""
    ask(policies, t.NEW, t.policy("p", 17, t1=5, t2=6))
    held = policies.hold("p", AF_INET, 17)
    ask(policies, t.NEW, t.policy("p", 17, t2=7), t.OVS)
    assert (rows.slots[1, 16], rows.slots[1, 17]) == (30, 7)
    assert held is not None
    assert held.made.timeouts == (30, 7)
    assert not rows.untimed


def test_hold(policies: Policies) -> None:
    """An action has a policy of its packets' family and protocol alone."""
    ask(policies, t.NEW, t.policy("p", 6))
    ask(policies, t.NEW, t.policy("g", GENERIC))
    for wrong in (("none", AF_INET, 6), ("p", AF_INET6, 6),
                  ("p", AF_INET, 17), ("p", AF_INET, 0), ("g", AF_INET, 6)):
        assert policies.hold(*wrong) is None
    for proto in (0, 99, 255):
        held = policies.hold("g", AF_INET, proto)
        assert held is not None
        policies.release(held)
    held = policies.hold("p", AF_INET, 6)
    assert held is policies.hold("p", AF_INET, 6)
    assert held is not None
    assert policies.use(held) == 3
    policies.release(held)
    policies.release(held)
    assert policies.use(held) == 1


def test_delete_while_held(rows: Rows, policies: Policies) -> None:
    """It stays for as long as an action has it; when it goes, its connections
    lose it, and the row is given to the next one."""
    ask(policies, t.NEW, t.policy("p", 17, t1=5))
    ask(policies, t.NEW, t.policy("q", 6, t1=5))
    held = policies.hold("p", AF_INET, 17)
    assert held is not None
    with pytest.raises(RequestError) as caught:
        ask(policies, t.DELETE, t.name("p"))
    assert caught.value.errno == errno.EBUSY
    assert (len(policies), rows.untimed) == (2, [])
    ask(policies, t.DELETE)
    assert rows.untimed == [(6, 1)]
    assert [policy.made.name for policy in policies] == ["p"]
    ask(policies, t.NEW, t.policy("r", 17, t1=6))
    assert policies.get("r").row == 2
    policies.release(held)
    ask(policies, t.DELETE, t.name("p"))
    assert rows.untimed == [(6, 1), (17, 1)]
    assert policies.hold("p", AF_INET, 17) is None
    ask(policies, t.NEW, t.policy("s", 17))
    assert policies.get("s").row == 1


def test_as_many_as_there_are_zones(rows: Rows) -> None:
    """OVS's system test makes 255 for three protocols and two families."""
    policies = Policies(rows, kept())
    for number in range(1300):
        for name, proto, l3num in (("tcp4", 6, AF_INET), ("udp6", 17,
                                                          AF_INET6)):
            for _ in range(3):
                ask(policies, t.NEW, t.policy(f"{number}_{name}_{_}", proto,
                                              l3num))
    assert len(policies) == 7800
    with pytest.raises(DpifError) as caught:
        for number in range(500):
            ask(policies, t.NEW, t.policy(f"more {number}", 1))
    assert caught.value.errno == errno.ENOMEM
    assert len(policies) == 8192
    ask(policies, t.DELETE, t.name("5_tcp4_1"))
    ask(policies, t.NEW, t.policy("again", 6))
    assert policies.get("again").row == 5 * 3 + 1 + 1


def test_the_next_provider() -> None:
    """Rows, names and defaults are as they were."""
    memory = kept()
    policies = Policies(Rows(), memory)
    for step in t.STEPS[:-6]:
        with contextlib.suppress(DpifError):
            ask(policies, step.cmd, step.payload, step.flags)
    ask(policies, t.NEW, nla(nf.CTA_TIMEOUT_NAME, b"\xff" * 31 + b"\0")
        + t.numbers(6, 0xffff) + t.data(t1=1 << 31))
    assert len(policies) > 9
    rows = Rows()
    other = Policies(rows, memory)
    assert {policy.made.name: (policy.made, policy.row) for policy in other
            } == {policy.made.name: (policy.made, policy.row)
                  for policy in policies}
    for proto in STATES:
        assert other.default(2, proto) == policies.default(2, proto)
    for policy in other:
        assert rows.slots[policy.row, SLOTS[policy.made.proto]
                          ] == policy.made.timeouts[0]
    ask(other, t.DELETE)
    assert not len(Policies(Rows(), memory))


def test_full() -> None:
    policies = Policies(Rows(3), kept())
    ask(policies, t.NEW, t.policy("a", 17))
    ask(policies, t.NEW, t.policy("b", 17))
    ask(policies, t.NEW, t.policy("c", 6))
    with pytest.raises(DpifError) as caught:
        ask(policies, t.NEW, t.policy("d", 17))
    assert caught.value.errno == errno.ENOMEM
    assert {policy.made.name for policy in policies} == {"a", "b", "c"}
    ask(policies, t.DELETE, t.name("a"))
    ask(policies, t.NEW, t.policy("d", 17))


def test_default_is_shared(rows: Rows, policies: Policies) -> None:
    ask(policies, t.SET, t.numbers(136) + t.data(t1=5))
    assert rows.slots[0, 16] == rows.slots[0, 23] == 5
    assert rows.slots[0, 17] == rows.slots[0, 24] == 120


def test_default_of_any_family(rows: Rows, policies: Policies) -> None:
    """The family need not be given; Linux 6.1 wanted it."""
    ask(policies, t.SET, nla_u8(nf.CTA_TIMEOUT_L4PROTO, 6) + t.data(t3=99))
    assert rows.slots[0, 3] == 99


def test_no_header() -> None:
    with pytest.raises(RequestError) as caught:
        decode_timeout(r.Message(SUBSYS << 8, 1, 1, 1, bytes(18)))
    assert caught.value.errno == errno.EINVAL


def test_slots_are_those_of_the_programs() -> None:
    """Where bpf/lib/abi_ct.h has them."""
    assert SLOTS == {6: 1, 17: 16, 1: 18, 58: 19, GENERIC: 20, 47: 21,
                     136: 23, 132: 33}
    assert Rows().rows == abi_ct.OVS_CT_POLICIES


def test_defaults_are_the_kernels() -> None:
    """Of nf_conntrack_proto_*.c."""
    assert DEFAULTS == {
        6: (120, 60, 432000, 120, 60, 30, 120, 10, 120, 300, 300),
        17: (30, 120), 136: (30, 120), 1: (30,), 58: (30,),
        132: (10, 3, 3, 210, 3, 3, 3, 30, 0), 47: (30, 180), GENERIC: (600,)}
