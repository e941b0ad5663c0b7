# SPDX-License-Identifier: Apache-2.0
"""core.flow_table against a list of flows and the kernel's rules.

What names a flow, what refuses one and what changes one: Linux
net/openvswitch/datapath.c (``ovs_flow_cmd_new`` and its neighbours).  Flows
have few keys and masks, so that they get in each other's way; bridges come
and go, ports move, and now and then there is no room.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dpif_bpf.core import restore
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.plane import ANY_BRIDGE
from dpif_bpf.core.samples import Samples
from dpif_bpf.errors import BackendError, DpifError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.key.decode import decode_key
from dpif_bpf.wire.messages import ATTRS_POS, FlowRequest, decode_flow
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLM_F_CREATE,
    NLM_F_REQUEST,
    build,
    iter_attrs,
    iter_messages,
    nla,
    nla_u32,
)
from tests.fake_plane import FakePlane, FakePsample
from tests.fakes import FakePorts
from tests.invariants import check_flows

Key = tuple[int, int, int]
"""in_port, source, destination."""
Mask = tuple[bool, bool, bool]

KEYS = st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 2))
MASKS = st.sampled_from(list(product((False, True), repeat=3)))
UFIDS = st.one_of(st.none(), st.integers(1, 4))
ACTIONS = st.integers(1, 3)
BRIDGES = st.integers(1, 3)
PORTS = st.integers(1, 2)


@dataclass(slots=True)
class ModelFlow:
    """A flow as the kernel has it."""

    full: Key
    mask: Mask
    ufid: int | None
    actions: int

    @property
    def masked(self) -> tuple[int | None, ...]:
        return masked(self.full, self.mask)

    def meets(self, full: Key) -> bool:
        return masked(full, self.mask) == self.masked


def masked(full: Key, mask: Mask) -> tuple[int | None, ...]:
    return tuple(value if bit else None
                 for value, bit in zip(full, mask, strict=True))


def key_attrs(full: Key) -> bytes:
    in_port, src, dst = full
    return (nla_u32(u.OVS_KEY_ATTR_IN_PORT, in_port)
            + nla(u.OVS_KEY_ATTR_ETHERNET, bytes(5) + bytes((src,))
                  + bytes(5) + bytes((dst,)))
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\x88\xcc"))


def mask_attrs(mask: Mask) -> bytes:
    in_port, src, dst = (b"\xff" * 6 if bit else bytes(6) for bit in mask)
    return (nla(u.OVS_KEY_ATTR_IN_PORT, in_port[:4])
            + nla(u.OVS_KEY_ATTR_ETHERNET, src + dst)
            + nla(u.OVS_KEY_ATTR_ETHERTYPE, b"\xff\xff"))


def request(cmd: int, full: Key | None = None, mask: Mask | None = None,
            ufid: int | None = None, actions: int | None = None,
            flags: int = 0) -> FlowRequest:
    attrs = b""
    if full is not None:
        attrs += nla(u.OVS_FLOW_ATTR_KEY, key_attrs(full))
    if mask is not None:
        attrs += nla(u.OVS_FLOW_ATTR_MASK, mask_attrs(mask))
    if ufid is not None:
        attrs += nla(u.OVS_FLOW_ATTR_UFID, bytes(15) + bytes((ufid,)))
    if actions is not None:
        attrs += nla(u.OVS_FLOW_ATTR_ACTIONS,
                     nla_u32(u.OVS_ACTION_ATTR_OUTPUT, actions))
    (message,) = iter_messages(build(
        u.OVS_FLOW_ID, NLM_F_REQUEST | flags, 1, 1,
        GENLMSGHDR.pack(cmd, 1, 0) + u.OVS_HEADER.pack(1) + attrs))
    return decode_flow(message)


def put(full: Key, mask: Mask, ufid: int | None = None, actions: int = 1,
        create: bool = True) -> FlowRequest:
    return request(u.OVS_FLOW_CMD_NEW, full, mask, ufid, actions,
                   NLM_F_CREATE if create else 0)


def datapath() -> tuple[Datapath, FakePlane]:
    """One without ports: flows do not ask for them."""
    plane = FakePlane()
    return Datapath("dp", 0, plane, FakePorts(), lambda: 0,
                    Samples(FakePsample())), plane


def code(call: object, *args: object) -> int:
    """The errno of a call, 0 without."""
    assert callable(call)
    try:
        call(*args)
    except DpifError as error:
        return error.errno
    return 0


class Room:
    """Lets there be no room after so many leaves or kept records.

    There is none for leaves from then on.  For a record there is some again
    after the first that found none: what was there before it has left it.
    """

    def __init__(self, dp: Datapath, plane: FakePlane) -> None:
        self.left: int | None = None
        self.met = False
        arena, cls = dp.records._arena, plane.classifier
        place, alloc = cls._place, arena.alloc

        def limited_place(*args: object) -> None:
            self.use()
            place(*args)  # type: ignore[arg-type]

        def limited_alloc(words: int) -> int:
            if not self.met:
                self.use()
            return alloc(words)

        cls._place = limited_place  # type: ignore[method-assign]
        arena.alloc = limited_alloc  # type: ignore[method-assign]

    def use(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.met = True
                raise BackendError(errno.ENOSPC, "no room")

    @contextmanager
    def limited(self, left: int | None) -> Iterator[None]:
        self.left, self.met = left, False
        yield
        self.left = None


LEFT = st.one_of(st.none(), st.none(), st.integers(0, 6))
"""What there is still room for; none: there is enough."""


class FlowModel(RuleBasedStateMachine):
    """Does the same to a FlowTable and to a list."""

    def __init__(self) -> None:
        super().__init__()
        self.dp, self.plane = datapath()
        self.table = self.dp.flows
        self.room = Room(self.dp, self.plane)
        self.flows: list[ModelFlow] = []
        self.owner: dict[int, int] = {}
        self.bridges: set[int] = set()

    @initialize()
    def begin(self) -> None:
        self.table.add_bridge(1)
        self.bridges.add(1)

    # Flows

    def expected(self, full: Key, mask: Mask, ufid: int | None,
                 create: bool) -> tuple[int, ModelFlow | None]:
        """errno, and the flow that is to be changed."""
        met = [flow for flow in self.flows if flow.meets(full)]
        named = [flow for flow in self.flows
                 if ufid is not None and flow.ufid == ufid]
        if not met and not named:
            return 0, None
        if create:
            return errno.EEXIST, None
        for flow in named or met:
            if ((flow.masked, flow.mask) == (masked(full, mask), mask)
                    if flow.ufid is not None else flow.full == full):
                return 0, flow
        return errno.ENOENT, None

    @rule(full=KEYS, mask=MASKS, ufid=UFIDS, actions=ACTIONS,
          create=st.booleans(), left=LEFT)
    def put(self, full: Key, mask: Mask, ufid: int | None, actions: int,
            create: bool, left: int | None) -> None:
        error, old = self.expected(full, mask, ufid, create)
        with self.room.limited(left):
            got = code(self.table.put,
                       put(full, mask, ufid, actions, create))
        if self.room.met:
            assert got == errno.ENOSPC
            return
        assert got == error
        if error:
            return
        if old is None:
            self.flows.append(ModelFlow(full, mask, ufid, actions))
        else:
            old.actions = actions

    def named(self, full: Key | None, ufid: int | None) -> list[ModelFlow]:
        if ufid is not None:
            return [flow for flow in self.flows if flow.ufid == ufid]
        return [flow for flow in self.flows
                if flow.ufid is None and flow.full == full]

    @rule(full=KEYS, ufid=UFIDS, actions=ACTIONS, left=LEFT)
    def set(self, full: Key, ufid: int | None, actions: int,
            left: int | None) -> None:
        named = self.named(full, ufid)
        with self.room.limited(left):
            got = code(self.table.set, request(
                u.OVS_FLOW_CMD_SET, full, None, ufid, actions))
        if self.room.met:
            assert got == errno.ENOSPC
            return
        assert got == (0 if named else errno.ENOENT)
        for flow in named:
            flow.actions = actions

    @rule(full=KEYS, ufid=UFIDS, with_key=st.booleans())
    def delete(self, full: Key, ufid: int | None, with_key: bool) -> None:
        named = self.named(full, ufid)
        what = request(u.OVS_FLOW_CMD_DEL, full if with_key or ufid is None
                       else None, None, ufid)
        got = code(lambda: self.table.delete(self.table.get(what)))
        assert got == (0 if named else errno.ENOENT)
        for flow in named:
            self.flows.remove(flow)

    @rule()
    def flush(self) -> None:
        self.table.flush()
        self.flows.clear()

    # Bridges and ports

    @rule(bridge=BRIDGES, left=LEFT)
    def add_bridge(self, bridge: int, left: int | None) -> None:
        if bridge in self.bridges:
            return
        with self.room.limited(left):
            got = code(self.table.add_bridge, bridge)
        assert got == (errno.ENOSPC if self.room.met else 0)
        if not got:
            self.bridges.add(bridge)

    @rule(bridge=BRIDGES, left=LEFT)
    def remove_bridge(self, bridge: int, left: int | None) -> None:
        if bridge not in self.bridges or bridge in self.owner.values():
            return
        with self.room.limited(left):
            self.table.remove_bridge(bridge)
        self.bridges.remove(bridge)
        if self.room.met:
            # Those of ports that have gone may be gone as well.
            there = {(flow.match.full_key, flow.ufid)
                     for flow in self.table.snapshot()}
            for flow in list(self.flows):
                what = request(u.OVS_FLOW_CMD_GET, flow.full, None,
                               flow.ufid)
                if code(self.table.get, what):
                    assert flow.mask[0] and flow.full[0] not in self.owner
                    self.flows.remove(flow)
            assert len(there) == len(self.flows)

    @rule(port=PORTS, bridge=BRIDGES, left=LEFT)
    def move_port(self, port: int, bridge: int, left: int | None) -> None:
        if bridge not in self.bridges:
            bridge = ANY_BRIDGE
        with self.room.limited(left):
            got = code(self.table.move_port, port, bridge)
        assert got == (errno.ENOSPC if self.room.met else 0)
        if not got:
            self.owner[port] = bridge

    @precondition(lambda self: self.owner)
    @rule(port=PORTS, left=LEFT)
    def forget_port(self, port: int, left: int | None) -> None:
        if port in self.owner:
            with self.room.limited(left):
                self.table.forget_port(port)
            del self.owner[port]

    # Time

    @rule(steps=st.integers(1, 9))
    def turn(self, steps: int) -> None:
        """A slice of what was flushed is taken apart."""
        self.table.flushes.run(steps)

    @rule()
    def settle(self) -> None:
        self.plane.settle()
        self.dp.programs.advance(self.dp.programs.seal())

    @rule(budget=st.integers(1, 20))
    def tidy(self, budget: int) -> None:
        self.plane.classifier.tidy(budget)

    @invariant()
    def agrees(self) -> None:
        check_flows(self.dp, self.plane)
        assert sorted(flow.body for flow in self.table.snapshot()) == sorted(
            _body(flow) for flow in self.flows)
        for flow in self.flows:
            self.meets(flow)

    def meets(self, flow: ModelFlow) -> None:
        """A packet meets this flow, or one that overlaps with it."""
        bridge = self.owner.get(flow.full[0])
        if bridge is None:
            return
        found = self.plane.classifier.lookup(
            bridge, decode_key(key_attrs(flow.full)))
        assert found is not None
        assert self.table._by_id[found].body in [
            _body(other) for other in self.flows if other.meets(flow.full)]

    def teardown(self) -> None:
        """The next provider makes the same flows of what is kept."""
        self.dp.keep()
        kept = restore.read(self.plane.nlmem)
        again, plane = datapath()
        for bridge in self.bridges:
            again.flows.add_bridge(bridge)
        for port, bridge in self.owner.items():
            again.flows.move_port(port, bridge)
        for _, flow in kept.flows:
            assert again.flows.restore(flow).body == (
                flow.message.raw[ATTRS_POS:])
        check_flows(again, plane)
        assert sorted(flow.body for flow in again.flows.snapshot()) == sorted(
            _body(flow) for flow in self.flows)


def _body(flow: ModelFlow) -> bytes:
    message = put(flow.full, flow.mask, flow.ufid, flow.actions).message
    parts = {kind: message.raw[start - 4:stop + 3 & ~3]
             for kind, start, stop in iter_attrs(message.raw, ATTRS_POS)}
    order = (u.OVS_FLOW_ATTR_UFID, u.OVS_FLOW_ATTR_KEY, u.OVS_FLOW_ATTR_MASK,
             u.OVS_FLOW_ATTR_ACTIONS)
    return b"".join(parts.get(kind, b"") for kind in order)


FlowModel.TestCase.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None,
    suppress_health_check=list(HealthCheck))
TestFlowModel = FlowModel.TestCase


# Cases that were met

SRC, DST, BOTH = ((True, True, False), (True, False, True),
                  (True, True, True))


def test_one_full_key_is_one_flow() -> None:
    """Other masks are refused, or have the actions of the one that there is
    changed: no two flows without UFID have one name."""
    dp, plane = datapath()
    dp.flows.put(put((1, 1, 1), SRC))
    assert code(dp.flows.put, put((1, 1, 1), DST)) == errno.EEXIST
    assert code(dp.flows.put, put((1, 1, 1), BOTH, 5)) == errno.EEXIST
    changed = dp.flows.put(put((1, 1, 1), DST, None, 3, create=False))
    assert [changed] == dp.flows.snapshot()
    check_flows(dp, plane)
    number = dp.flows.flush()
    check_flows(dp, plane)
    while dp.flows.flushes.run(1):
        check_flows(dp, plane)
    assert dp.flows.flushes.ended == number and not len(dp.programs)


def test_what_a_packet_of_the_full_key_meets_is_in_the_way() -> None:
    """Not what one of the masked key meets: the kernel looks the same up."""
    dp, _ = datapath()
    dp.flows.put(put((1, 2, 0), SRC, 1))
    assert code(dp.flows.put, put((1, 2, 1), DST, 2)) == errno.EEXIST
    assert code(dp.flows.put, put((1, 1, 1), DST, 2)) == 0
    assert code(dp.flows.put, put((1, 2, 1), DST, 2, 1, False)) == 0
    assert code(dp.flows.put, put((1, 2, 2), DST, 2, 1, False)) == (
        errno.ENOENT)
    assert code(dp.flows.put, put((1, 2, 1), BOTH, None, 1, False)) == (
        errno.ENOENT)


def test_flows_are_restored_in_any_order() -> None:
    """Of two that overlap, the second was in nobody's way, but the first
    is in that of the second."""
    dp, _ = datapath()
    first, second = put((1, 1, 1), SRC, 1), put((1, 2, 1), DST, 2)
    for one in (first, second):
        dp.flows.put(one)
    again, plane = datapath()
    for one in (second, first, first):
        again.flows.restore(one)
    check_flows(again, plane)
    assert len(again.flows) == 2
    assert code(again.flows.restore, put((1, 0, 1), BOTH, 1)) == errno.EEXIST


def test_bridge_without_room_can_come_later() -> None:
    dp, plane = datapath()
    room = Room(dp, plane)
    for number in range(3):
        dp.flows.put(put((1, number, 0), (False, True, True), number))
    for left in (0, 1, 2, 5):
        with room.limited(left):
            assert code(dp.flows.add_bridge, 1) == errno.ENOSPC
        check_flows(dp, plane)
    dp.flows.add_bridge(1)
    check_flows(dp, plane)


def test_port_can_go_when_there_is_no_room() -> None:
    """Its flows stay where they are, and go with the bridge at last."""
    dp, plane = datapath()
    room = Room(dp, plane)
    dp.flows.add_bridge(1)
    dp.flows.move_port(1, 1)
    flow = dp.flows.put(put((1, 1, 1), BOTH))
    with room.limited(0):
        dp.flows.forget_port(1)
        check_flows(dp, plane)
        assert set(flow.places) == {1}
        assert code(dp.flows.put, put((1, 1, 1), SRC)) == errno.EEXIST
        dp.flows.remove_bridge(1)
    check_flows(dp, plane)
    assert not len(dp.flows)


@pytest.mark.parametrize("cmd", [u.OVS_FLOW_CMD_GET, u.OVS_FLOW_CMD_SET,
                                 u.OVS_FLOW_CMD_DEL])
def test_key_beside_a_ufid_is_read(cmd: int) -> None:
    """The UFID alone names the flow, but nothing is passed over."""
    dp, _ = datapath()
    call = dp.flows.set if cmd == u.OVS_FLOW_CMD_SET else dp.flows.get
    dp.flows.put(put((1, 1, 1), BOTH, 1))
    assert code(call, request(cmd, (1, 2, 2), None, 1)) == 0
    assert code(call, request(cmd, (u.DP_MAX_PORTS, 0, 0), None, 1)) == (
        errno.EINVAL)
