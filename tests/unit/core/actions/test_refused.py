# SPDX-License-Identifier: Apache-2.0
"""Lists of actions that are refused, with the errno of the kernel."""

from __future__ import annotations

import struct
from errno import EINVAL, ERANGE

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpif_bpf.core.actions.compiler import HANDLERS
from dpif_bpf.core.actions.insn import UserspaceDesc
from dpif_bpf.core.actions.programs import compile_actions
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import MAC_PROTO_NONE, KeyFacts
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u32
from dpif_bpf.wire.uapi import (
    OVS_ACTION_ATTR_ADD_MPLS,
    OVS_ACTION_ATTR_DROP,
    OVS_ACTION_ATTR_OUTPUT,
    OVS_ACTION_ATTR_POP_ETH,
    OVS_ACTION_ATTR_POP_MPLS,
    OVS_ACTION_ATTR_POP_VLAN,
    OVS_ACTION_ATTR_PUSH_ETH,
    OVS_ACTION_ATTR_PUSH_MPLS,
    OVS_ACTION_ATTR_PUSH_VLAN,
    OVS_ACTION_ATTR_RECIRC,
    OVS_ACTION_ATTR_SET,
    OVS_ACTION_ATTR_SET_MASKED,
    OVS_ACTION_ATTR_USERSPACE,
    OVS_KEY_ATTR_CT_LABELS,
    OVS_KEY_ATTR_CT_MARK,
    OVS_KEY_ATTR_ETHERNET,
    OVS_KEY_ATTR_IPV4,
    OVS_KEY_ATTR_IPV6,
    OVS_KEY_ATTR_MPLS,
    OVS_KEY_ATTR_NSH,
    OVS_KEY_ATTR_PRIORITY,
    OVS_KEY_ATTR_SCTP,
    OVS_KEY_ATTR_SKB_MARK,
    OVS_KEY_ATTR_TCP,
    OVS_KEY_ATTR_TUNNEL,
    OVS_KEY_ATTR_UDP,
    OVS_USERSPACE_ATTR_EGRESS_TUN_PORT,
    OVS_USERSPACE_ATTR_PID,
    OVS_USERSPACE_ATTR_USERDATA,
)

TCP4 = KeyFacts(eth_type=0x0800, ip_proto=6)
TCP6 = KeyFacts(eth_type=0x86DD, ip_proto=6)
FIRST4 = KeyFacts(eth_type=0x0800, ip_proto=6, ip_frag=1)
L3 = KeyFacts(eth_type=0x0800, mac_proto=MAC_PROTO_NONE)
ANY = KeyFacts()

OUT = nla_u32(OVS_ACTION_ATTR_OUTPUT, 1)
PID = nla_u32(OVS_USERSPACE_ATTR_PID, 1)


def user(inner: bytes) -> bytes:
    return nla(OVS_ACTION_ATTR_USERSPACE, inner)


def vlan(tpid: int, tci: int) -> bytes:
    return nla(OVS_ACTION_ATTR_PUSH_VLAN, struct.pack("!HH", tpid, tci))


def set_(key: bytes) -> bytes:
    return nla(OVS_ACTION_ATTR_SET, key)


def masked(key: bytes) -> bytes:
    return nla(OVS_ACTION_ATTR_SET_MASKED, key)


def ipv4(proto: int, frag: int) -> bytes:
    return bytes(8) + bytes((proto, 0, 0, frag))


def ipv6(proto: int, frag: int, label: int = 0) -> bytes:
    return bytes(32) + struct.pack("!IBBBB", label, proto, 0, 0, frag)


def header(size: int, kind: int) -> bytes:
    return struct.pack("=HH", size, kind)


VLAN = vlan(0x8100, 0x1000)
POP = nla_flag(OVS_ACTION_ATTR_POP_VLAN)
ETH = nla(OVS_KEY_ATTR_ETHERNET, bytes(12))
TCP_KEY = nla(OVS_KEY_ATTR_TCP, bytes(4))

ATTRIBUTES = [
    ("stray bytes", ANY, OUT + b"\0"),
    ("three bytes only", ANY, b"\0\0\0"),
    ("length below the header", ANY, header(3, 1) + bytes(4)),
    ("length 0", ANY, header(0, 1)),
    ("length beyond the end", ANY, header(9, 1) + bytes(4)),
    ("second one cut", ANY, OUT + OUT[:6]),
    ("type 0", ANY, nla(0, b"")),
    ("unknown type", ANY, nla(26, b"")),
    ("SET_TO_MASKED is the kernel's own", ANY, nla(27, b"")),
    ("far unknown type", ANY, nla(0x3fff, bytes(4))),
    ("output without port", ANY, nla(OVS_ACTION_ATTR_OUTPUT, b"")),
    ("output, short", ANY, nla(OVS_ACTION_ATTR_OUTPUT, bytes(3))),
    ("output, long", ANY, nla(OVS_ACTION_ATTR_OUTPUT, bytes(8))),
    ("output to DP_MAX_PORTS", ANY, nla_u32(OVS_ACTION_ATTR_OUTPUT, 65535)),
    ("output far beyond", ANY, nla_u32(OVS_ACTION_ATTR_OUTPUT, 1 << 31)),
    ("recirc, short", ANY, nla(OVS_ACTION_ATTR_RECIRC, bytes(2))),
    ("recirc, long", ANY, nla(OVS_ACTION_ATTR_RECIRC, bytes(5))),
    ("meter, empty", ANY, nla(uapi.OVS_ACTION_ATTR_METER, b"")),
    ("meter, short", ANY, nla(uapi.OVS_ACTION_ATTR_METER, bytes(3))),
    ("meter, long", ANY, nla(uapi.OVS_ACTION_ATTR_METER, bytes(8))),
    ("drop, empty", ANY, nla(OVS_ACTION_ATTR_DROP, b"")),
    ("drop, long", ANY, nla(OVS_ACTION_ATTR_DROP, bytes(8))),
    ("drop before output", ANY, nla_u32(OVS_ACTION_ATTR_DROP, 0) + OUT),
    ("drop twice", ANY, nla_u32(OVS_ACTION_ATTR_DROP, 0) * 2),
    ("pop_vlan, long", ANY, nla(OVS_ACTION_ATTR_POP_VLAN, bytes(4))),
    ("pop_vlan, layer 3", L3, POP),
    ("push_vlan, empty", ANY, nla(OVS_ACTION_ATTR_PUSH_VLAN, b"")),
    ("push_vlan, short", ANY, nla(OVS_ACTION_ATTR_PUSH_VLAN, VLAN[4:7])),
    ("push_vlan, long", ANY, nla(OVS_ACTION_ATTR_PUSH_VLAN, VLAN)),
    ("push_vlan, TPID 0", ANY, vlan(0, 0x1000)),
    ("push_vlan, TPID 0x9100", ANY, vlan(0x9100, 0x1000)),
    ("push_vlan, TPID in host order", ANY, vlan(0x0081, 0x1000)),
    ("push_vlan without CFI", ANY, vlan(0x8100, 0x0fff)),
    ("push_vlan, layer 3", L3, VLAN),
]

USERSPACE = [
    ("empty", EINVAL, b""),
    ("no PID", EINVAL, nla(OVS_USERSPACE_ATTR_USERDATA, b"x")),
    ("PID 0", EINVAL, nla_u32(OVS_USERSPACE_ATTR_PID, 0)),
    ("last PID 0", EINVAL, PID + nla_u32(OVS_USERSPACE_ATTR_PID, 0)),
    ("PID short", ERANGE, nla(OVS_USERSPACE_ATTR_PID, bytes(3))),
    ("PID empty", ERANGE, nla(OVS_USERSPACE_ATTR_PID, b"")),
    ("type 0", EINVAL, PID + nla(0, b"")),
    ("unknown type", EINVAL, PID + nla(5, b"")),
    ("stray bytes", EINVAL, PID + b"\0\0"),
    ("cut", EINVAL, PID + header(8, 2) + bytes(2)),
    ("length 0", EINVAL, PID + header(0, 2)),
    ("tunnel port short", ERANGE,
     PID + nla(OVS_USERSPACE_ATTR_EGRESS_TUN_PORT, bytes(3))),
]

SETS = [
    ("no key", ANY, set_(b"")),
    ("half a header", ANY, nla(OVS_ACTION_ATTR_SET, b"\4\0")),
    ("two keys", TCP4, set_(ETH + TCP_KEY)),
    ("bytes after the key", ANY, set_(ETH + bytes(4))),
    ("key longer than the action", ANY, set_(header(20, 4) + bytes(12))),
    ("key of length 0", ANY, set_(header(0, 4))),
    ("key of length 3", ANY, set_(header(3, 4))),
    ("key type 0", ANY, set_(nla(0, bytes(4)))),
    ("unknown key", ANY, set_(nla(99, bytes(4)))),
    ("in_port", ANY, set_(nla_u32(3, 1))),
    ("masked tunnel", ANY, masked(nla(OVS_KEY_ATTR_TUNNEL, bytes(8)))),
    ("tunnel", ANY, set_(nla(OVS_KEY_ATTR_TUNNEL, nla(1, bytes(4))))),
    ("SCTP on TCP", TCP4, set_(nla(OVS_KEY_ATTR_SCTP, bytes(4)))),
    ("SCTP on unknown", KeyFacts(ip_proto=132),
     set_(nla(OVS_KEY_ATTR_SCTP, bytes(4)))),
    ("MPLS on IPv4", TCP4, set_(nla(OVS_KEY_ATTR_MPLS, bytes(4)))),
    ("MPLS on unknown", ANY, masked(nla(OVS_KEY_ATTR_MPLS, bytes(8)))),
    ("NSH", KeyFacts(eth_type=0x894F), set_(nla(OVS_KEY_ATTR_NSH, b""))),
    ("ct_mark", ANY, set_(nla(OVS_KEY_ATTR_CT_MARK, bytes(4)))),
    ("ct_labels", ANY, set_(nla(OVS_KEY_ATTR_CT_LABELS, bytes(16)))),
    ("Ethernet, layer 3", L3, set_(ETH)),
    ("Ethernet, masked, layer 3", L3,
     masked(nla(OVS_KEY_ATTR_ETHERNET, bytes(24)))),
    ("IPv4 on unknown", ANY, set_(nla(OVS_KEY_ATTR_IPV4, ipv4(0, 0)))),
    ("IPv4 on IPv6", TCP6, set_(nla(OVS_KEY_ATTR_IPV4, ipv4(6, 0)))),
    ("IPv4 on IPv6, masked", TCP6,
     masked(nla(OVS_KEY_ATTR_IPV4, bytes(24)))),
    ("IPv4, other protocol", TCP4, set_(nla(OVS_KEY_ATTR_IPV4, ipv4(17, 0)))),
    ("IPv4, other fragment", TCP4, set_(nla(OVS_KEY_ATTR_IPV4, ipv4(6, 1)))),
    ("IPv4, not a fragment", FIRST4, set_(nla(OVS_KEY_ATTR_IPV4,
                                              ipv4(6, 0)))),
    ("IPv4, protocol mask", TCP4,
     masked(nla(OVS_KEY_ATTR_IPV4, bytes(12) + ipv4(1, 0)))),
    ("IPv4, fragment mask", TCP4,
     masked(nla(OVS_KEY_ATTR_IPV4, bytes(12) + ipv4(0, 1)))),
    ("IPv6 on IPv4", TCP4, set_(nla(OVS_KEY_ATTR_IPV6, ipv6(6, 0)))),
    ("IPv6, other protocol", TCP6, set_(nla(OVS_KEY_ATTR_IPV6, ipv6(0, 0)))),
    ("IPv6, other fragment", TCP6, set_(nla(OVS_KEY_ATTR_IPV6, ipv6(6, 2)))),
    ("IPv6, label of 21 bits", TCP6,
     set_(nla(OVS_KEY_ATTR_IPV6, ipv6(6, 0, 1 << 20)))),
    ("IPv6, label mask of 21 bits", TCP6,
     masked(nla(OVS_KEY_ATTR_IPV6, bytes(40) + ipv6(0, 0, 1 << 20)))),
    ("IPv6, protocol mask", TCP6,
     masked(nla(OVS_KEY_ATTR_IPV6, bytes(40) + ipv6(1, 0)))),
    ("IPv6, fragment mask", TCP6,
     masked(nla(OVS_KEY_ATTR_IPV6, bytes(40) + ipv6(0, 1)))),
    ("TCP on unknown", ANY, set_(TCP_KEY)),
    ("TCP on ARP op 6", KeyFacts(eth_type=0x0806, ip_proto=6),
     set_(TCP_KEY)),
    ("TCP on UDP", KeyFacts(eth_type=0x0800, ip_proto=17), set_(TCP_KEY)),
    ("UDP on TCP", TCP6, set_(nla(OVS_KEY_ATTR_UDP, bytes(4)))),
    ("UDP on TCP, masked", TCP6, masked(nla(OVS_KEY_ATTR_UDP, bytes(8)))),
]

SIZES = [
    (OVS_KEY_ATTR_PRIORITY, 4, ANY),
    (OVS_KEY_ATTR_SKB_MARK, 4, ANY),
    (OVS_KEY_ATTR_ETHERNET, 12, ANY),
    (OVS_KEY_ATTR_IPV4, 12, KeyFacts(eth_type=0x0800)),
    (OVS_KEY_ATTR_IPV6, 40, KeyFacts(eth_type=0x86DD)),
    (OVS_KEY_ATTR_TCP, 4, TCP4),
    (OVS_KEY_ATTR_UDP, 4, KeyFacts(eth_type=0x86DD, ip_proto=17)),
    (OVS_KEY_ATTR_SCTP, 4, KeyFacts(eth_type=0x0800, ip_proto=132)),
    (OVS_KEY_ATTR_MPLS, 4, KeyFacts(eth_type=0x8848)),
]


def refused(data: bytes, facts: KeyFacts, base: int | None = None
            ) -> RequestError:
    with pytest.raises(RequestError) as error:
        compile_actions(data, facts, base)
    return error.value


@pytest.mark.parametrize(("facts", "data"), [c[1:] for c in ATTRIBUTES],
                         ids=[c[0] for c in ATTRIBUTES])
def test_attribute(facts: KeyFacts, data: bytes) -> None:
    assert refused(data, facts).errno == EINVAL


@pytest.mark.parametrize(("errno", "inner"), [c[1:] for c in USERSPACE],
                         ids=[c[0] for c in USERSPACE])
def test_userspace(errno: int, inner: bytes) -> None:
    assert refused(user(inner), ANY).errno == errno
    compile_actions(user(PID), ANY)


@pytest.mark.parametrize(("facts", "data"), [c[1:] for c in SETS],
                         ids=[c[0] for c in SETS])
def test_set(facts: KeyFacts, data: bytes) -> None:
    assert refused(data, facts).errno == EINVAL


@pytest.mark.parametrize(("kind", "size", "facts"), SIZES)
def test_set_size(kind: int, size: int, facts: KeyFacts) -> None:
    compile_actions(set_(nla(kind, bytes(size))), facts)
    compile_actions(masked(nla(kind, bytes(2 * size))), facts)
    for wrong in (0, 1, size - 1, size + 1, 2 * size):
        error = refused(set_(nla(kind, bytes(wrong))), facts)
        assert error.errno == EINVAL
        assert f"{wrong} bytes instead of {size}" in error.text
    for wrong in (0, size, 2 * size - 1, 2 * size + 2, 4 * size):
        assert refused(masked(nla(kind, bytes(wrong))), facts).errno == EINVAL


@given(st.sampled_from(SIZES), st.data())
def test_value_outside_of_mask(case: tuple[int, int, KeyFacts],
                               data: st.DataObject) -> None:
    kind, size, facts = case
    bit = data.draw(st.integers(0, 8 * size - 1))
    value = (1 << bit).to_bytes(size, "big")
    mask = (((1 << 8 * size) - 1) & ~(1 << bit)).to_bytes(size, "big")
    assert refused(masked(nla(kind, value + mask)), facts).errno == EINVAL


UNSUPPORTED = sorted(
    value for name, value in vars(uapi).items()
    if name.startswith("OVS_ACTION_ATTR_") and value not in HANDLERS)


@pytest.mark.parametrize("kind", UNSUPPORTED)
def test_not_supported(kind: int) -> None:
    """Probed with any payload, these are not there."""
    for payload in (b"", bytes(4), bytes(8), bytes(12), nla_u32(1, 1)):
        error = refused(nla(kind, payload) + OUT, TCP4)
        assert error.errno == EINVAL
        assert error.text.startswith("OVS_ACTION_ATTR_")
        assert error.text.endswith(" is not supported")


def test_supported_actions_are_named() -> None:
    """So that a handler without a test here is noticed."""
    assert HANDLERS.keys() == {
        OVS_ACTION_ATTR_OUTPUT, OVS_ACTION_ATTR_USERSPACE,
        OVS_ACTION_ATTR_SET, OVS_ACTION_ATTR_SET_MASKED,
        OVS_ACTION_ATTR_PUSH_VLAN, OVS_ACTION_ATTR_POP_VLAN,
        OVS_ACTION_ATTR_RECIRC, OVS_ACTION_ATTR_DROP,
        OVS_ACTION_ATTR_PUSH_MPLS, OVS_ACTION_ATTR_POP_MPLS,
        OVS_ACTION_ATTR_ADD_MPLS, OVS_ACTION_ATTR_PUSH_ETH,
        OVS_ACTION_ATTR_POP_ETH,
        # test_actions_nsh.py has those.
        uapi.OVS_ACTION_ATTR_PUSH_NSH, uapi.OVS_ACTION_ATTR_POP_NSH,
        # test_layout.py has those.
        uapi.OVS_ACTION_ATTR_TRUNC, uapi.OVS_ACTION_ATTR_SAMPLE,
        uapi.OVS_ACTION_ATTR_CLONE, uapi.OVS_ACTION_ATTR_CHECK_PKT_LEN,
        uapi.OVS_ACTION_ATTR_HASH, uapi.OVS_ACTION_ATTR_DEC_TTL,
        uapi.OVS_ACTION_ATTR_METER,
        # test_psample.py has that.
        uapi.OVS_ACTION_ATTR_PSAMPLE,
        # test_conntrack.py has these.
        uapi.OVS_ACTION_ATTR_CT, uapi.OVS_ACTION_ATTR_CT_CLEAR}


def test_facts_after_actions() -> None:
    """A tag on top does not hide what is below it."""
    compile_actions(VLAN + set_(TCP_KEY) + POP + POP + set_(TCP_KEY), TCP4)
    compile_actions(nla(OVS_ACTION_ATTR_SET, nla(
        OVS_KEY_ATTR_IPV4, ipv4(6, 1))), FIRST4)


@pytest.mark.parametrize("step", [
    POP, OUT, nla_u32(uapi.OVS_ACTION_ATTR_TRUNC, 64) + OUT,
    user(PID), nla(uapi.OVS_ACTION_ATTR_CLONE, POP + OUT),
    nla(uapi.OVS_ACTION_ATTR_SAMPLE, nla_u32(1, 1) + nla(2, POP + OUT)),
    nla(uapi.OVS_ACTION_ATTR_CHECK_PKT_LEN, nla(1, b"\1\0") + nla(
        2, POP + OUT) + nla(3, POP + OUT)),
    nla(uapi.OVS_ACTION_ATTR_DEC_TTL, nla(1, b""))])
def test_none_is_too_long(step: bytes) -> None:
    """As many as an attribute holds are within the interpreter's limit."""
    trunc = nla_u32(uapi.OVS_ACTION_ATTR_TRUNC, 64)
    times = (0xffff - 4 - len(trunc) - len(OUT)) // len(step)
    compile_actions(trunc + step * times + OUT, ANY)


@pytest.mark.parametrize("kind", [uapi.OVS_ACTION_ATTR_SAMPLE,
                                  uapi.OVS_ACTION_ATTR_DEC_TTL])
def test_last_attribute_without_padding(kind: int) -> None:
    """A list may end so, a block's attributes not."""
    facts = KeyFacts(eth_type=0x8847, mpls_num_lse=1)
    pop = nla(OVS_ACTION_ATTR_POP_MPLS, b"\x08\0")[:-2]
    assert len(pop) == 6
    compile_actions(pop, facts)
    start = b""
    if kind == uapi.OVS_ACTION_ATTR_SAMPLE:
        start = nla_u32(uapi.OVS_SAMPLE_ATTR_PROBABILITY, 1)
    block = nla(2 if start else 1, pop)
    compile_actions(nla(kind, start + block), facts)
    error = refused(nla(kind, start + block[:-2]), facts)
    assert error.errno == EINVAL
    assert "not padded" in error.text


def test_egress_tunnel_port() -> None:
    """Any port may be named: what it is, counts when there is an upcall."""
    plain = compile_actions(user(PID), ANY)
    for port in (0, 1, 65534, 0xffffffff):
        found = compile_actions(user(PID + nla_u32(
            OVS_USERSPACE_ATTR_EGRESS_TUN_PORT, port)), ANY)
        assert found.code == plain.code
        (desc,) = found.uspace
        assert isinstance(desc, UserspaceDesc)
        assert desc.egress == port


def test_offset() -> None:
    """The ack points at the attribute that is wrong."""
    assert refused(OUT + vlan(1, 1), ANY).offset is None
    assert refused(OUT + vlan(1, 1), ANY, base=100).offset == 108
    assert refused(OUT + b"\0\0", ANY, base=100).offset == 108
    inner = user(PID + header(3, 2))
    assert refused(OUT + inner, ANY, base=100).offset == 100 + 8 + 4 + 8


def compiled_or_refused(data: bytes, facts: KeyFacts) -> None:
    try:
        code = compile_actions(data, facts).code
    except RequestError as error:
        assert error.errno in {EINVAL, ERANGE}
    else:
        assert code
        assert len(code) % 8 == 0


@given(st.binary(max_size=80), st.sampled_from((ANY, TCP4, TCP6, L3)))
def test_junk(data: bytes, facts: KeyFacts) -> None:
    compiled_or_refused(data, facts)


@given(st.integers(0, 30), st.binary(max_size=48),
       st.sampled_from((ANY, TCP4, TCP6, L3)))
def test_likely_junk(kind: int, payload: bytes, facts: KeyFacts) -> None:
    compiled_or_refused(nla(kind, payload), facts)
