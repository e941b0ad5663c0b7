# SPDX-License-Identifier: Apache-2.0
"""Made-up sets of flows, and packets for sets of flows."""

from __future__ import annotations

import random
from collections.abc import Sequence

from bench.odpflows import FlowKey
from dpif_bpf import abi

NOISE = (1 << abi.OVS_KEY_USED * 64) - 1
"""All bits that a key may have."""

HIT_FLOWS = 16
"""Flows that packets of kind "hit" are of."""


def field(name: str, value: int, prefix: int | None = None) -> FlowKey:
    """A field's value and mask as images.

    :param value: a number in network order's sense
    :param prefix: leading bits that are matched; None: all
    """
    place = abi.KEY[name]
    bits = place.size * 8
    ones = (1 << bits) - 1
    mask = ones if prefix is None else ones >> bits - prefix << bits - prefix
    key, image = (int.from_bytes(number.to_bytes(place.size, "big"),
                                 "little") << place.offset * 8
                  for number in (value & mask, mask))
    return key, image


def join(*fields: FlowKey) -> FlowKey:
    """One flow of several fields."""
    key = mask = 0
    for value, bits in fields:
        key |= value
        mask |= bits
    return key, mask


def _number(name: str, value: int) -> FlowKey:
    """A field in host order."""
    place = abi.KEY[name]
    shift = place.offset * 8
    return value << shift, ((1 << place.size * 8) - 1) << shift


def base(port: int, recirc: int, eth_type: int) -> FlowKey:
    """What ovs-vswitchd's flows always match."""
    return join(_number("in_port", port), _number("recirc_id", recirc),
                field("eth_type", eth_type), field("mac_proto", 0),
                field("ip_frag", 0))


BASE = base(0, 0, 0)[1]


def pipeline(masks: int, flows: int, rng: random.Random) -> list[FlowKey]:
    """Stages (recirc_id) with four masks each: ARP, prefixes, ports.

    :param masks: up to 2,048 all different ones
    """
    found: dict[FlowKey, None] = {}
    i = tries = 0
    while len(found) < flows and tries < 3 * flows:
        stage, kind = divmod(i % masks, 4)
        i += 1
        tries += 1
        port = rng.randrange(1, 17)
        prefix = 8 + stage * 7 % 23
        extra = [_number(name, rng.getrandbits(abi.KEY[name].size * 8))
                 for bit, name in enumerate((
                     "ct_zone", "ct_mark", "tun_id", "skb_priority",
                     "ip_tos", "ip_ttl", "skb_mark", "dp_hash",
                     "ct_orig_tp_src"))
                 if stage >> bit & 1]
        state = _number("ct_state", rng.getrandbits(8))
        if kind == 0:
            one = join(base(port, stage, 0x0806),
                       field("eth_dst", rng.getrandbits(48)),
                       field("eth_src", rng.getrandbits(48)), *extra)
        else:
            parts = [base(port, stage, 0x0800), state, *extra,
                     field("ip_proto", (1, 6, 17)[kind - 1]),
                     field("ipv4_dst", rng.getrandbits(32),
                           32 if kind == 3 else prefix)]
            if kind == 2:
                parts.append(field("tp_dst", rng.getrandbits(16)))
            if kind == 3:
                parts.append(field("ipv4_src", rng.getrandbits(32)))
            one = join(*parts)
        found[one] = None
    return list(found)


def explosion(masks: int, flows: int, rng: random.Random) -> list[FlowKey]:
    """What a tuple space explosion makes ovs-vswitchd install.

    Prefixes of address and port up to the first bit in which a packet
    differs from an ACL's rule (Csikor et al., CoNEXT 2019; CVE-2019-25076).
    Each rule gives up to 32 * 16 flows, all with different masks.
    """
    across = 1
    while across * across < masks:
        across *= 2
    across = min(across, 32)
    down = max(1, masks // across)
    deep = -(-down // 16)		# a third field beyond 512 masks
    down = min(down, 16)
    found: list[FlowKey] = []
    port = 0
    while len(found) < flows:
        port += 1
        src, dst = rng.getrandbits(32), rng.getrandbits(16)
        other = rng.getrandbits(16)
        for i in range(1, across + 1):
            for j in range(1, down + 1):
                for k in range(1, deep + 1):
                    parts = [base(port, 0, 0x0800), field("ip_proto", 6),
                             field("ipv4_src", src ^ 1 << 32 - i, i),
                             field("tp_dst", dst ^ 1 << 16 - j, j)]
                    if deep > 1:
                        parts.append(field("tp_src", other ^ 1 << 16 - k, k))
                    found.append(join(*parts))
    return found[:flows]


def packets(flows: list[FlowKey], kind: str, count: int,
            rng: random.Random) -> list[tuple[int, int]]:
    """Keys of packets, each with the index of its flow or -1.

    :param kind: "random" any flow's; "hit" those of HIT_FLOWS flows; "miss"
        agrees with a flow in port, recirc_id and protocol alone
    """
    found = []
    keep = BASE | field("ip_proto", 0)[1]
    chosen: Sequence[int] = range(len(flows))
    if kind == "hit":
        chosen = rng.sample(chosen, min(HIT_FLOWS, len(flows)))
    for _ in range(count):
        i = rng.choice(chosen)
        key, mask = flows[i]
        noise = rng.getrandbits(abi.OVS_KEY_USED * 64)
        if kind == "miss":
            found.append((key & keep | noise & ~keep & NOISE, -1))
        else:
            found.append((key | noise & ~mask & NOISE, i))
    return found
