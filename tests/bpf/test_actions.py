# SPDX-License-Identifier: Apache-2.0
"""Lists of actions against the oracle, on packets of real devices."""

from __future__ import annotations

import random
from dataclasses import dataclass

import oracle
import packets
import pytest
from harness import Datapath, key_words
from lists import (
    POP_ETH,
    POP_NSH,
    POP_VLAN,
    add_mpls,
    check_pkt_len,
    clone,
    compiled,
    dec_ttl,
    drop,
    meter,
    nsh_base,
    output,
    pop_mpls,
    push_eth,
    push_mpls,
    push_nsh,
    push_vlan,
    recirc,
    sample,
    set_masked,
    set_nsh,
    trunc,
    userspace,
)
from oracle_key import Extract, Meta, extract
from packets import difference

from dpif_bpf import abi
from dpif_bpf.core.meters import Meters
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.meter_messages import Band, MeterRequest
from dpif_bpf.wire.netlink import Message

PER_SEED = 400
IN_PORT = 1


class Lists:
    """Random lists of actions that the datapath accepts for one packet."""

    def __init__(self, rng: random.Random, frame: bytes,
                 parsed: Extract) -> None:
        self.rng = rng
        self.frame = frame
        self.parsed = parsed
        self.encapped = False
        self.blocks = False
        self.ids = 0

    def _bits(self, count: int) -> tuple[bytes, bytes]:
        value = self.rng.randbytes(count)
        mask = self.rng.choice((b"\xff" * count, self.rng.randbytes(count),
                                bytes(count)))
        return value, mask

    def _set(self) -> bytes:
        kinds = [self._set_eth, self._set_u32]
        key = self.parsed
        if key.l4 or key.byte("ip_frag"):
            if key.eth_type == 0x0800:
                kinds += [self._set_ipv4] * 3
            elif key.eth_type == 0x86dd:
                kinds += [self._set_ipv6] * 3
        proto = key.byte("ip_proto")
        if (key.l4 and key.byte("ip_frag") != 2 and proto in {6, 17, 132}
                and key.eth_type in {0x0800, 0x86dd}):
            kinds += [self._set_ports] * 3
        if key.eth_type == 0x894f:
            kinds += [self._set_nsh] * 3
        return self.rng.choice(kinds)()

    def _set_nsh(self) -> bytes:
        (base, base_mask), (md1, md1_mask) = self._bits(8), self._bits(16)
        mask = base_mask[:2] + bytes(2) + base_mask[4:]
        value = bytes(v & m for v, m in zip(base, mask, strict=True))
        context = bytes(v & m for v, m in zip(md1, md1_mask, strict=True))
        if self.parsed.byte("nsh_mdtype") != 1 or self.rng.random() < .3:
            return set_nsh(value + mask)
        return set_nsh(value + mask, context + md1_mask)

    def _push_nsh(self) -> bytes:
        mdtype = self.rng.choice((1, 2))
        size = 16 if mdtype == 1 else self.rng.choice((1, 4, 21, 64, 247))
        return push_nsh(nsh_base(
            self.rng.getrandbits(24), self.rng.getrandbits(8),
            self.rng.getrandbits(8), self.rng.getrandbits(8), mdtype),
            self.rng.randbytes(size))

    def _set_eth(self) -> bytes:
        return set_masked(uapi.OVS_KEY_ATTR_ETHERNET, *self._bits(12))

    def _set_u32(self) -> bytes:
        return set_masked(self.rng.choice((uapi.OVS_KEY_ATTR_PRIORITY,
                                           uapi.OVS_KEY_ATTR_SKB_MARK)),
                          *self._bits(4))

    def _set_ipv4(self) -> bytes:
        (addr, addr_mask), (rest, rest_mask) = self._bits(8), self._bits(2)
        value = addr + b"\0" + rest + b"\0"
        return set_masked(uapi.OVS_KEY_ATTR_IPV4, value,
                          addr_mask + b"\0" + rest_mask + b"\0")

    def _set_ipv6(self) -> bytes:
        (addr, addr_mask), (rest, rest_mask) = self._bits(32), self._bits(6)
        value = addr + b"\0" + rest[:3] + b"\0" + rest[3:5] + b"\0"
        mask = (addr_mask + b"\0" + bytes((rest_mask[0] & 15,))
                + rest_mask[1:3] + b"\0" + rest_mask[3:5] + b"\0")
        return set_masked(uapi.OVS_KEY_ATTR_IPV6, value, mask)

    def _set_ports(self) -> bytes:
        kind = {6: uapi.OVS_KEY_ATTR_TCP, 17: uapi.OVS_KEY_ATTR_UDP,
                132: uapi.OVS_KEY_ATTR_SCTP}
        mask = self.rng.choice((b"\xff" * 4, b"\0\0\xff\xff",
                                b"\x80" + self.rng.randbytes(3)))
        return set_masked(kind[self.parsed.byte("ip_proto")],
                          self.rng.randbytes(4), mask)

    def _tag(self, depth: int) -> tuple[bytes, int]:
        if depth and self.rng.random() < .6:
            return POP_VLAN, depth - 1
        return push_vlan(self.rng.choice((0x8100, 0x88a8)),
                         self.rng.getrandbits(16)), depth + 1

    def _trunc(self) -> bytes:
        """Not into the headers: see ovs_trim()."""
        least = max(self.parsed.l4 + 60, 150)
        return trunc(self.rng.randrange(least, least + 100))

    def _block(self, depth: int, level: int) -> bytes:
        """Sample, clone, check_pkt_len or dec_ttl."""
        rng = self.rng
        self.blocks = True

        def block() -> bytes:
            if rng.random() < .3:
                return output(rng.choice((1, 2, 3, 4)))
            found = self._list(depth, level + 1)
            if rng.random() < .1:
                return found + drop(0)
            return found + output(rng.choice((1, 2, 3, 4)))

        draw = rng.random()
        if draw < .3:
            return clone(block())
        if draw < .6:
            return sample(rng.choice((0, 1, 0xfffffffe, 0xffffffff)), block())
        if draw < .8:
            length = max(rng.choice((0, 1, -1, 50)) + len(self.frame), 1)
            return check_pkt_len(length, block(), block())
        return dec_ttl(block() if rng.random() < .5 else b"")

    def make(self) -> bytes:
        """One list."""
        return self._list(self._depth(), 0)

    def _list(self, depth: int, level: int) -> bytes:
        """What follows the last action that can be seen is left out."""
        rng = self.rng
        actions = seen = b""
        for _ in range(rng.choice((0, 1, 2, 3, 5, 8))):
            draw = rng.random()
            if draw < .35:
                step = self._set()
                if self._taken(actions + step):
                    actions += step
                continue
            if draw < .55:
                step, new = self._tag(depth)
                if new <= 3 and self._taken(actions + step):
                    actions, depth = actions + step, new
                continue
            if draw < .65 and not depth and not level and not self.blocks:
                actions = self._encap(actions)
                continue
            if draw < .7 and not self.encapped:
                actions += self._trunc()
                continue
            self.ids += 1
            if draw < .73:
                actions += meter(rng.choice((oracle.EXCEEDED, 1)))
            elif draw < .8:
                actions += output(rng.choice((1, 2, 3, 4)))
            elif draw < .85:
                actions += userspace(1000 + self.ids)
            elif draw < .9 or level == 3 or self.encapped:
                actions += recirc(self.ids)
            else:
                actions += self._block(depth, level)
            seen = actions
        draw = rng.random()
        if draw < .5:
            seen = actions + output(rng.choice((1, 2, 3, 4)))
        elif draw < .6:
            self.ids += 1
            seen = actions + recirc(self.ids)
        elif draw < .65 and not level:
            seen = actions + drop(rng.choice((0, 5)))
        return seen

    def _taken(self, actions: bytes) -> bool:
        """What is hidden by a label may not be written to."""
        if not self.encapped:
            return True
        try:
            compiled(actions, self.frame, self.parsed)
        except RequestError:
            return False
        return True

    def _encap(self, actions: bytes) -> bytes:
        """One to three headers more or less, those that can be."""
        rng = self.rng
        self.encapped = True
        for _ in range(rng.choice((1, 2, 3))):
            lse = rng.randbytes(4)
            kind = rng.choice((0x8847, 0x8848))
            below = rng.choice((0x6558, 0x6558, 0x8847, 0x0800, 0x86dd,
                                0x88cc))
            step = rng.choice((
                push_mpls(lse, kind), add_mpls(lse, kind, 1),
                add_mpls(lse, kind, 0), pop_mpls(below), pop_mpls(below),
                push_eth(rng.randbytes(12)), push_eth(rng.randbytes(12)),
                POP_ETH, set_masked(uapi.OVS_KEY_ATTR_MPLS, *self._bits(4)),
                self._push_nsh(), POP_NSH, self._set_nsh()))
            if self.parsed.eth_type == 0x894f and rng.random() < .5:
                step = POP_ETH + POP_NSH
            if self._taken(actions + step):
                actions += step
        return actions

    def _depth(self) -> int:
        depth, at = 0, 12
        while self.frame[at:at + 2] in {b"\x81\0", b"\x88\xa8"}:
            depth, at = depth + 1, at + 4
        return depth


@dataclass(slots=True)
class Got:
    """What came of one packet."""

    outputs: list[tuple[int, bytes]]
    actions: list[tuple[int, bytes, bytes]]
    recircs: list[tuple[bytes, bytes]]


def run(dp: Datapath, frame: bytes, code: bytes,
        expected: oracle.Result) -> Got:
    """Sends a packet through a flow that takes recirc_id 0."""
    mask = bytearray(abi.KEY.size)
    mask[abi.KEY["recirc_id"].slice] = b"\xff" * 4
    dp.clear()
    dp.add_flow(code, b"", bytes(mask))
    dp.ports[IN_PORT].send(frame)
    outputs = [(port, packet) for port, packet, _
               in dp.outputs(len(expected.outputs))]
    upcalls = dp.poll(sum(not isinstance(event, oracle.Output)
                          for event in expected.events))
    extra = dp.outputs(0, 0)
    assert not extra, extra
    return Got(
        outputs,
        [(int(u.fields["desc"]), u.packet, u.key) for u in upcalls
         if u.cmd == uapi.OVS_PACKET_CMD_ACTION],
        sorted((u.key, u.packet) for u in upcalls
               if u.cmd == uapi.OVS_PACKET_CMD_MISS))


def check_keys(found: bytes, wanted: bytes, where: str) -> None:
    assert found == wanted, where + difference(key_words(found),
                                               key_words(wanted))


def check(dp: Datapath, frame: bytes, actions: bytes, parsed: Extract,
          expected: oracle.Result) -> None:
    """The programs do what the oracle expects."""
    size = abi.OVS_KEY_BASE * 8
    before = dp.drops()
    got = run(dp, frame, compiled(actions, frame, parsed), expected)
    after = dp.drops()
    delta = {r: after[r] - before.get(r, 0) for r in after
             if after[r] != before.get(r, 0)}
    where = f"packet {frame.hex()}, {actions.hex()}: {delta} "
    # A deferred copy comes later.
    assert sorted(got.outputs) == sorted(expected.outputs), where
    wanted = sorted((event for event in expected.events
                     if isinstance(event, oracle.Upcall)),
                    key=lambda event: event.pid)
    got.actions.sort()
    assert [(desc, packet) for desc, packet, _ in got.actions] == [
        (event.pid, event.packet) for event in wanted], where
    for (_, _, key), event in zip(got.actions, wanted, strict=True):
        check_keys(key, event.key[:size], where)
    assert got.recircs == sorted(
        (event.key[:size], event.packet) for event in expected.events
        if isinstance(event, oracle.Recirc)), where
    assert delta == expected.drops, where


@pytest.mark.parametrize("seed", range(6))
def test_agrees_with_the_oracle(dp: Datapath, seed: int) -> None:
    Meters(dp.mapped("ovs_meters").cast("Q"), lambda: 0).set(MeterRequest(
        Message(0, 0, 0, 0, b""), uapi.OVS_METER_CMD_SET, 1, oracle.EXCEEDED,
        bands=(Band(uapi.OVS_METER_BAND_TYPE_DROP, 1, 0),)))
    rng = random.Random(seed)
    meta = Meta(in_port=IN_PORT)
    done = 0
    while done < PER_SEED:
        frame = packets.broken(rng, packets.packet(rng))
        if len(frame) < 22:
            continue
        parsed = extract(frame, meta)
        if parsed is None:
            continue  # malformed: test_extract.py
        actions = Lists(rng, frame, parsed).make()
        try:
            expected = oracle.execute(frame, actions, meta)
        except oracle.Undefined:
            continue
        done += 1
        check(dp, frame, actions, parsed, expected)
