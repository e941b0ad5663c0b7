# SPDX-License-Identifier: Apache-2.0
"""NAT makes of each packet what the kernel's nf_nat makes of it.

Connections of all protocols go through a router with nftables and through the
shipped programs, packet by packet: what conntrack calls them, whether they
come out, and all their bytes are the same.  Where a mapping is one of several,
by chance, each one's has to be as the rule says and to stay; then the kernel's
packet is compared with its mapping replaced by ours.  What the outer end sends
is sent to each one's own mapping.

CT_SEQUENCES sequences of each rule, from CT_SEED on; all differences that are
known are in docs/conntrack.rst.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ct_cases as c
import ctnatgen
import pytest
from ctframes import ICMP, TCP
from ctnat import (
    PORTS,
    End,
    Rule,
    Target,
    address,
    ends,
    fits,
    is_error,
    place,
    rewritten,
    with_ttl,
    without_inner_crc,
)
from ctnatkernel import NatKernel, nat_kernel
from devices import ip
from harness import Datapath
from lists import compiled, nla, recirc
from lists import userspace as to_user
from oracle_key import Meta, extract
from test_ct_kernel import pytestmark as pytestmark

from dpif_bpf import abi, abi_ct
from dpif_bpf.core.conntrack.memory import MAPPED, CtMemory
from dpif_bpf.edge import bpfsys
from dpif_bpf.wire import uapi as u

SEQUENCES = int(os.environ.get("CT_SEQUENCES", "12"))
SEED = int(os.environ.get("CT_SEED", "1"))
LENGTH = 32
STATES = (abi_ct.OVS_CT_NEW | abi_ct.OVS_CT_ESTABLISHED
          | abi_ct.OVS_CT_RELATED | abi_ct.OVS_CT_REPLY
          | abi_ct.OVS_CT_INVALID)


def rules(v6: bool) -> Iterator[Rule]:
    """Each has an address of its own, at the outer side."""
    net = "fd02::" if v6 else "10.2.0."

    def to(low: int, high: int = 0, ports: tuple[int, int] | None = None,
           how: str = "") -> Target:
        return Target(f"{net}{low}", f"{net}{high}" if high else "", ports,
                      how)

    made: list[tuple[str, Target | None, Target | None]] = [
        ("null", None, None),
        ("snat", to(60), None),
        ("snat-port", to(61, ports=(5000, 5000)), None),
        ("snat-ports", to(62, ports=(5000, 5015)), None),
        ("snat-many", to(63, ports=(2000, 9000)), None),
        ("snat-range", to(40, 45), None),
        ("snat-range-ports", to(40, 45, (5000, 5100)), None),
        ("snat-persistent", to(40, 45, how="persistent"), None),
        ("snat-random", to(64, how="random"), None),
        ("snat-fully", to(65, ports=(6000, 6999), how="fully-random"), None),
        ("dnat", None, to(1)),
        ("dnat-port", None, to(1, ports=(8080, 8080))),
        ("dnat-range", None, to(1, 3)),
        ("dnat-range-ports", None, to(1, 3, (8000, 8003))),
        ("dnat-persistent", None, to(1, 3, (8000, 8003), "persistent")),
        ("dnat-random", None, to(1, ports=(8000, 8100), how="random")),
        ("both", to(66), to(1)),
        ("both-ports", to(67, ports=(5000, 5015)), to(1, ports=(81, 81))),
        ("both-ranges", to(40, 45, (7000, 7999)), to(1, 3, (8000, 8003))),
    ]
    for number, (name, snat, dnat) in enumerate(made, 100):
        yield Rule(f"{name}-{'v6' if v6 else 'v4'}", f"{net}{number}", snat,
                   dnat)


RULES = [*rules(False), *rules(True)]


def ruleset() -> str:
    """For nft(8)."""
    lines = ["table inet nat {", "chain d { type nat hook prerouting"
             " priority -90;"]
    lines += [line for rule in RULES for line in rule.nft("dnat")]
    lines += ["}", "chain s { type nat hook postrouting priority 100;"]
    lines += [line for rule in RULES for line in rule.nft("snat")]
    return "\n".join([*lines, "}", "}", ""])


def settle() -> None:
    """The router asks nobody who has an address, and says nothing itself."""
    ip(*(f"link set {end} arp off" for end in ("ka", "kb")))
    for end in ("all", "ka", "kb"):
        Path(f"/proc/sys/net/ipv4/conf/{end}/send_redirects").write_text("0")


def nat(kind: bytes, target: Target | None) -> bytes:
    """The attribute of ct()."""
    attrs = kind
    if target is not None:
        attrs += nla(u.OVS_NAT_ATTR_IP_MIN, address(target.low))
        if target.high:
            attrs += nla(u.OVS_NAT_ATTR_IP_MAX, address(target.high))
        if target.ports:
            for attr, port in zip((u.OVS_NAT_ATTR_PROTO_MIN,
                                   u.OVS_NAT_ATTR_PROTO_MAX), target.ports,
                                  strict=True):
                attrs += nla(attr, port.to_bytes(2, "little"))
        attrs += {"": b"", "persistent": c.PERSISTENT, "random": c.HASH,
                  "fully-random": c.RANDOM}[target.how]
    return nla(u.OVS_CT_ATTR_NAT, attrs)


def ct(*attrs: bytes, zone: int) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CT, c.COMMIT + c.zone(zone)
               + b"".join(attrs))


def actions(rule: Rule, back: bool) -> list[bytes]:
    """The lists of a packet; each but the last one ends with a recirculation,
    from which nothing invalid goes on."""
    null = nat(c.SRC, None)
    if rule.snat is None or rule.dnat is None:
        how = (null if back else nat(c.DST, rule.dnat) if rule.dnat
               else nat(c.SRC, rule.snat))
        return [ct(how, zone=0)]
    if back:
        return [ct(null, zone=1), ct(null, zone=0)]
    return [ct(nat(c.DST, rule.dnat), zone=0),
            ct(nat(c.SRC, rule.snat), zone=1)]


class Ours:
    """The shipped programs; the flow of a packet is found by its mark."""

    def __init__(self, dp: Datapath) -> None:
        self.dp = dp
        self.ct = CtMemory(list, list, *(dp.mapped(name).cast("Q")
                                         for name in MAPPED))
        self.ct.set_up(lambda size: bytes(range(1, size + 1)), 0)
        # As netfilter, and not as openvswitch.
        words = self.ct.conf.cast("B")
        at = abi_ct.CONF["flags"].offset
        words[at:at + 4] = abi_ct.OVS_CT_F_LOOSE.to_bytes(4, "little")
        self.views = [dp.mapped(name) for name in (
            "ovs_ct", "ovs_ct_tab", "ovs_ct_exp")]
        self.marks: dict[tuple[str, bool], int] = {}

    def flush(self) -> None:
        """As if nothing had been; nobody else looks at the table."""
        for view in self.views:
            view[:] = bytes(len(view))
        for zone in (0, 1):
            self.ct.zones[2 * zone] = 0
        self.ct.use[abi_ct.USE["count"].offset // 8] = 0

    def begin(self) -> None:
        """Other rules."""
        self.dp.clear()
        self.marks.clear()

    def mark(self, rule: Rule, frame: bytes, back: bool) -> int:
        known = rule.name, back
        mark = self.marks.get(known)
        if mark is not None:
            return mark
        mark = self.marks[known] = len(self.marks) + 1
        parsed = extract(frame, Meta(in_port=1))
        assert parsed is not None
        lists = actions(rule, back)
        user = to_user(1)
        for number, one in enumerate(lists):
            last = number + 1 == len(lists)
            key, mask = bytearray(abi.KEY.size), bytearray(abi.KEY.size)
            key[abi.KEY["skb_mark"].slice] = mark.to_bytes(4, "little")
            mask[abi.KEY["skb_mark"].slice] = b"\xff" * 4
            key[abi.KEY["recirc_id"].slice] = number.to_bytes(4, "little")
            mask[abi.KEY["recirc_id"].slice] = b"\xff" * 4
            mask[abi.KEY["ct_state"].offset] = abi_ct.OVS_CT_INVALID
            if number:
                key[abi.KEY["ct_state"].offset] = abi_ct.OVS_CT_INVALID
                self.dp.add_flow(compiled(user, frame, parsed), bytes(key),
                                 bytes(mask))
                key[abi.KEY["ct_state"].offset] = 0
            self.dp.add_flow(
                compiled(one + (user if last else recirc(number + 1)), frame,
                         parsed), bytes(key), bytes(mask))
        return mark

    def one(self, rule: Rule, frame: bytes,
            back: bool) -> tuple[int, bytes] | None:
        """Its state, and what becomes of it."""
        mark = self.mark(rule, frame, back)
        self.dp.run(frame, mark=mark)
        found = self.dp.poll()
        if not found:
            return None
        up, = found
        assert up.cmd == u.OVS_PACKET_CMD_ACTION
        return up.key[abi.KEY["ct_state"].offset] & STATES, up.packet


@dataclass
class Mapped:
    """What one of both has made of a connection: by its own ends, those that
    are seen outside."""

    ends: dict[End, End] = field(default_factory=dict)
    seen: tuple[End, End] | None = None

    def outside(self, frame: bytes) -> bytes:
        return rewritten(frame, self.ends)


def is_hooks_redirect(frame: bytes, state: int,
                      theirs: bytes | None) -> bool:
    """Netfilter's hooks set up both ends of a connection, ct(nat) that which
    it is asked for; so a redirect about one without NAT passes the hooks."""
    where = place(frame, 14)
    return (where is not None and where.proto == ICMP
            and frame[where.l4] == 5 and theirs is not None
            and bool(state & abi_ct.OVS_CT_RELATED)
            and with_ttl(theirs, frame)[14:] == frame[14:])


class Judge:
    """Both, and the packets so far."""

    def __init__(self, theirs: NatKernel, ours: Ours) -> None:
        self.theirs, self.ours = theirs, ours
        self.packets = 0
        self.choices = 0
        self.left: list[tuple[ctnatgen.Talk, tuple[Mapped, Mapped]]] = []
        self.trail: list[str] = []

    def say(self, what: str, *frames: bytes | None) -> str:
        return "\n".join((what, *self.trail, *(
            frame.hex() if frame else "nothing" for frame in frames)))

    def evict(self, talk: ctnatgen.Talk,
              known: tuple[Mapped, Mapped]) -> None:
        """A mapping is somebody else's: of TCP it may be, of a connection that
        is over.  Where the choice was so in one of both alone, the other
        connection goes on there alone."""
        taken = [[other for other, its in self.left if other is not talk
                  and other.proto == talk.proto
                  and its[which].seen == known[which].seen]
                 for which in (0, 1)]
        if taken != [[], []]:
            assert talk.proto == TCP, self.say("a mapping is not unique")
        gone = [other for other in taken[0] + taken[1]
                if (other in taken[0]) != (other in taken[1])]
        self.left = [one for one in self.left if one[0] not in gone]

    def forward(self, rule: Rule, talk: ctnatgen.Talk, frame: bytes,
                known: tuple[Mapped, Mapped], state: int, theirs: bytes,
                mine: bytes) -> bytes:
        """A packet from the inner end: what each has made of it is as the
        rule says.  The kernel's packet, with our mapping."""
        before, after = ends(frame), (ends(theirs), ends(mine))
        if state & (abi_ct.OVS_CT_REPLY | abi_ct.OVS_CT_INVALID):
            return theirs
        if not is_error(frame):
            for one, now, who in zip(known, after, ("kernel", "tracker"),
                                     strict=True):
                wrong = fits(rule, talk.proto, before, now)
                assert not wrong, self.say(f"the {who} makes {wrong}", frame,
                                           theirs, mine)
                made = dict(zip(before, now, strict=True))
                if not state & abi_ct.OVS_CT_NEW:
                    for end in before:
                        assert one.ends.get(end, end) == made[end], self.say(
                            f"the {who} has another mapping than before",
                            frame, theirs, mine)
                one.ends, one.seen = made, now
            if state & abi_ct.OVS_CT_NEW and talk.proto in PORTS:
                self.evict(talk, known)
        if known[0].ends == known[1].ends:
            return theirs
        self.choices += 1
        # A hash of addresses and zone chooses the address.
        if rule.snat is None or rule.dnat is None:
            for one, two in zip(known[0].ends.values(),
                                known[1].ends.values(), strict=True):
                assert one[0] == two[0], self.say(
                    "the address is another one", frame, theirs, mine)
        return rewritten(theirs, {known[0].ends[end]: known[1].ends[end]
                                  for end in known[0].ends})

    def step(self, rule: Rule, talk: ctnatgen.Talk, step: ctnatgen.Step,
             known: tuple[Mapped, Mapped]) -> None:
        """A packet through both."""
        self.packets += 1
        self.trail.append(step.what)
        frames = step.frame, step.frame
        if step.back:
            frames = (known[0].outside(step.frame),
                      known[1].outside(step.frame))
        try:
            state, theirs = self.theirs.one(frames[0], step.back)
        except TimeoutError:
            raise AssertionError(self.say("nothing is known of it",
                                          frames[0])) from None
        found = self.ours.one(rule, frames[1], step.back)
        if found is None or theirs is None:
            if is_hooks_redirect(frames[0], state, theirs):
                return
            assert (found is None) == (theirs is None), self.say(
                f"one of both drops it; state {state:#x}", *frames, theirs,
                found and found[1])
            return
        mine = found[1]
        assert found[0] == state, self.say(
            f"we say {found[0]:#x}, the kernel {state:#x}", *frames, theirs,
            mine)
        theirs = with_ttl(theirs, frames[0])[14:]
        theirs = mine[:14] + theirs
        if step.back:
            if theirs == frames[0]:
                theirs = frames[1]
        else:
            theirs = self.forward(rule, talk, step.frame, known, state,
                                  theirs, mine)
        assert without_inner_crc(mine) == without_inner_crc(theirs), (
            self.say("other bytes", *frames, theirs, mine))

    def sequence(self, rule: Rule, seed: int) -> None:
        """Some connections, and no others."""
        rng = random.Random(seed)
        self.theirs.flush()
        self.theirs.drain()
        self.ours.flush()
        self.trail = [f"rule {rule.name}, seed {seed}"]
        # What one of two zones refuses the other one does not see.
        self.left = [(talk, (Mapped(), Mapped())) for talk in ctnatgen.talks(
            rng, rule.dst, 2000 + seed % 50000, LENGTH,
            rule.snat is not None and rule.dnat is not None)]
        while self.left:
            talk, known = rng.choice(self.left)
            step = talk.step()
            if step is None:
                self.left.remove((talk, known))
            else:
                self.step(rule, talk, step, known)


@pytest.fixture(scope="module")
def judge(datapath: Datapath) -> Iterator[Judge]:
    cpus = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cpus)})
    with nat_kernel(ruleset()) as theirs, pytest.MonkeyPatch.context() as mp:
        settle()
        # To keep signals off takes longer than the packet.
        mp.setattr(bpfsys, "unsignalled", contextlib.nullcontext)
        yield Judge(theirs, Ours(datapath))
    os.sched_setaffinity(0, cpus)


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_packets(judge: Judge, rule: Rule) -> None:
    judge.ours.begin()
    for number in range(SEQUENCES):
        judge.sequence(rule, SEED * 1000003 + number)
