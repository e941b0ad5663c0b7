# SPDX-License-Identifier: Apache-2.0
"""OVS_ACTION_ATTR_CT: what is taken, what is refused, what is shown."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import ct_cases as c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_action import (
    AF_INET,
    AF_INET6,
    HELPERS,
    CtAction,
    Nat,
    NatType,
    check_ct_clear,
    decode_ct,
    encode_ct,
    encode_ct_clear,
)
from dpif_bpf.wire.netlink import NLA_HDRLEN, nla, nla_flag


def decoded(flow: str, payload: bytes, before: bytes = b"") -> CtAction:
    return decode_ct(before + payload, len(before),
                     len(before) + len(payload), *c.FACTS[flow])


def names(cases: list[c.Case] | Iterator[c.Case]) -> list[object]:
    return [pytest.param(case, id=f"{case.flow}: {case.name}")
            for case in cases]


@pytest.mark.parametrize("case", names([*c.CASES, *c.sizes(),
                                        *c.helpers()]))
def test_case(case: c.Case) -> None:
    if case.errno:
        with pytest.raises(RequestError) as caught:
            decoded(case.flow, case.payload)
        assert caught.value.errno == case.errno
        assert caught.value.text
        return
    action = decoded(case.flow, case.payload)
    shown = encode_ct(action)
    if case.shown is not None:
        assert shown == nla(uapi.OVS_ACTION_ATTR_CT, case.shown)
    # What is shown can be put again, and is then the same.
    assert decoded(case.flow, shown[NLA_HDRLEN:]) == action
    assert encode_ct(decoded(case.flow, shown[NLA_HDRLEN:])) == shown


@pytest.mark.parametrize(("payload", "offset", "text"), [
    (c.Z + nla_flag(10), 8, "conntrack attribute type 10 is unknown"),
    (nla(uapi.OVS_CT_ATTR_ZONE, b"\0"), 0,
     "OVS_CT_ATTR_ZONE has 1 bytes instead of 2"),
    (nla(uapi.OVS_CT_ATTR_TIMEOUT, b""), 0,
     "OVS_CT_ATTR_TIMEOUT has 0 bytes instead of 1 to 32"),
    (c.COMMIT + c.nat(c.SRC, c.DST), 12,
     "OVS_CT_ATTR_NAT has a second type"),
    (c.mark(), -4, "OVS_CT_ATTR_MARK without a commit"),
])
def test_where(payload: bytes, offset: int, text: str) -> None:
    """The offset is that of the attribute in what the action is in."""
    before = bytes(20)
    with pytest.raises(RequestError) as caught:
        decoded("tcp", payload, before)
    assert (caught.value.offset, caught.value.text) == (20 + offset, text)


def test_nothing_matched() -> None:
    """Of a flow that matches any Ethernet type."""
    with pytest.raises(RequestError) as caught:
        decode_ct(b"", 0, 0, 0, 0)
    assert caught.value.errno == errno.EINVAL


def test_no_helpers() -> None:
    payload = c.helper(b"ftp\0")
    with pytest.raises(RequestError):
        decode_ct(payload, 0, len(payload), 0x0800, 6, {})


def test_clear() -> None:
    assert encode_ct_clear() == nla_flag(uapi.OVS_ACTION_ATTR_CT_CLEAR)
    check_ct_clear(4, 4)
    with pytest.raises(RequestError) as caught:
        check_ct_clear(4, 8)
    assert caught.value.errno == errno.EINVAL


# Any action that there can be: what is shown of it says the same again.

U16 = st.integers(0, 0xffff)
U32 = st.integers(0, 0xffffffff)


@st.composite
def nats(draw: st.DrawFn, family: int) -> Nat:
    type_ = draw(st.sampled_from(NatType))
    if type_ is NatType.EXISTING:
        return Nat()
    size = 4 if family == AF_INET else 16
    address = st.binary(min_size=size, max_size=size)
    low, high = draw(st.one_of(st.just((b"", b"")),
                               st.tuples(address, address)))
    ports = draw(st.one_of(st.just((None, None)), st.tuples(U16, U16)))
    return Nat(type_, low, high, *ports, draw(st.booleans()),
               draw(st.booleans()), draw(st.booleans()))


@st.composite
def actions(draw: st.DrawFn) -> tuple[CtAction, int]:
    family = draw(st.sampled_from([AF_INET, AF_INET6]))
    nat = draw(st.one_of(st.none(), nats(family)))
    commit = (draw(st.booleans()) or (nat is not None
              and nat.type is not NatType.EXISTING))
    mark_mask = draw(U32) if commit else 0
    labels_mask = (draw(st.binary(min_size=16, max_size=16)) if commit
                   else bytes(16))
    helper = draw(st.sampled_from(["", *HELPERS]))
    return CtAction(
        family, draw(U16), commit, commit and draw(st.booleans()),
        draw(U32) if mark_mask else 0, mark_mask,
        draw(st.binary(min_size=16, max_size=16)) if any(labels_mask)
        else bytes(16), labels_mask, helper,
        draw(st.one_of(st.none(), U32)),
        draw(st.text(st.characters(codec="ascii", min_codepoint=1),
                     max_size=31)), nat), HELPERS.get(helper, 6)


@given(actions())
def test_round_trip(made: tuple[CtAction, int]) -> None:
    action, proto = made
    shown = encode_ct(action)
    eth_type = 0x0800 if action.family == AF_INET else 0x86dd
    assert decode_ct(shown, NLA_HDRLEN, len(shown), eth_type,
                     proto) == action


@given(st.binary(max_size=96), st.sampled_from([0x0800, 0x86dd]))
def test_any_bytes(payload: bytes, eth_type: int) -> None:
    """It is taken, or refused with an errno."""
    try:
        action = decode_ct(payload, 0, len(payload), eth_type, 6)
    except RequestError:
        return
    shown = encode_ct(action)
    assert decode_ct(shown, NLA_HDRLEN, len(shown), eth_type, 6) == action
