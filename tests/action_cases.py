# SPDX-License-Identifier: Apache-2.0
"""Lists of actions of all kinds, good and bad, on packets of all kinds.

tests/system/test_actions_kernel.py asks the kernel's own datapath about them,
and core.actions.compiler.  What is right is not said here.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import keys as k

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u32


@dataclass(frozen=True, slots=True)
class Case:
    """One list.

    :param key: what the flow matches, all of it unless `mask` says otherwise
    """

    name: str
    key: bytes
    actions: bytes
    mask: bytes | None = None


FLOWS = k.KEYS | {
    "mpls": k.join(k.FRAME, k.eth_type(0x8847), k.mpls(0x1ff)),
    "mpls, 2 labels": k.join(k.FRAME, k.eth_type(0x8848),
                             k.mpls(0x2000, 0x3ff)),
    "layer 3, mpls": k.join(k.META, k.eth_type(0x8847), k.mpls(0x1ff)),
    "layer 3, udp6": k.join(k.META, k.eth_type(0x86dd), k.ipv6(17),
                            k.udp()),
}
del FLOWS["no port"], FLOWS["metadata"], FLOWS["vlan truncated"]

FEW = ("other type", "tcp", "udp6", "vlan", "mpls", "layer 3",
       "layer 3, mpls")
"""Of different facts."""

OUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 1)
DROP = nla_u32(u.OVS_ACTION_ATTR_DROP, 0)
PID = nla_u32(u.OVS_USERSPACE_ATTR_PID, 1)
POP_VLAN = nla_flag(u.OVS_ACTION_ATTR_POP_VLAN)
POP_ETH = nla_flag(u.OVS_ACTION_ATTR_POP_ETH)
PUSH_ETH = nla(u.OVS_ACTION_ATTR_PUSH_ETH, bytes(12))


def user(*attrs: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_USERSPACE, b"".join(attrs))


def push_vlan(tpid: int = 0x8100, tci: int = 0x1001) -> bytes:
    return nla(u.OVS_ACTION_ATTR_PUSH_VLAN, struct.pack("!HH", tpid, tci))


def push_mpls(kind: int = 0x8847) -> bytes:
    return nla(u.OVS_ACTION_ATTR_PUSH_MPLS, struct.pack("!IHH", 0x1ff, kind,
                                                        0))


def add_mpls(kind: int, flags: int) -> bytes:
    return nla(u.OVS_ACTION_ATTR_ADD_MPLS, struct.pack("!IH", 0x1ff, kind)
               + struct.pack("=H", flags))


def pop_mpls(kind: int) -> bytes:
    return nla(u.OVS_ACTION_ATTR_POP_MPLS, struct.pack("!H", kind))


def hash_(alg: int) -> bytes:
    return nla(u.OVS_ACTION_ATTR_HASH, struct.pack("=II", alg, 7))


def trunc(length: int) -> bytes:
    return nla_u32(u.OVS_ACTION_ATTR_TRUNC, length)


def clone(*actions: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CLONE, b"".join(actions))


def sample(*attrs: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SAMPLE, b"".join(attrs))


def sampled(*actions: bytes) -> bytes:
    return sample(nla_u32(u.OVS_SAMPLE_ATTR_PROBABILITY, 1 << 31),
                  nla(u.OVS_SAMPLE_ATTR_ACTIONS, b"".join(actions)))


def cpl(*attrs: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_CHECK_PKT_LEN, b"".join(attrs))


def checked(greater: bytes, less_equal: bytes) -> bytes:
    return cpl(nla(1, struct.pack("=H", 100)), nla(2, greater),
               nla(3, less_equal))


def dec_ttl(*attrs: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_DEC_TTL, b"".join(attrs))


def set_(key: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SET, key)


def masked(key: bytes) -> bytes:
    return nla(u.OVS_ACTION_ATTR_SET_MASKED, key)


def set_key(kind: int, value: bytes) -> bytes:
    return set_(nla(kind, value))


def set_masked(kind: int, value: bytes, mask: bytes) -> bytes:
    return masked(nla(kind, value + mask))


BASIC = {
    "output": OUT, "userspace": user(PID), "drop": DROP,
    "recirc": nla_u32(u.OVS_ACTION_ATTR_RECIRC, 3),
    "hash": hash_(0), "trunc": trunc(100),
    "meter": nla_u32(u.OVS_ACTION_ATTR_METER, 3),
    "push_vlan": push_vlan(), "pop_vlan": POP_VLAN,
    "push_mpls": push_mpls(), "push_mpls mc": push_mpls(0x8848),
    "add_mpls l2": add_mpls(0x8847, 0), "add_mpls l3": add_mpls(0x8847, 1),
    "pop_mpls ip": pop_mpls(0x0800), "pop_mpls mpls": pop_mpls(0x8847),
    "pop_mpls teb": pop_mpls(0x6558), "pop_mpls vlan": pop_mpls(0x8100),
    "push_eth": PUSH_ETH, "pop_eth": POP_ETH,
    "set eth": set_key(u.OVS_KEY_ATTR_ETHERNET, bytes(12)),
    "set mark": set_key(u.OVS_KEY_ATTR_SKB_MARK, bytes(4)),
    "set ipv4": set_masked(u.OVS_KEY_ATTR_IPV4, bytes(12), bytes(12)),
    "set ipv6": set_masked(u.OVS_KEY_ATTR_IPV6, bytes(40), bytes(40)),
    "set tcp": set_key(u.OVS_KEY_ATTR_TCP, bytes(4)),
    "set udp": set_key(u.OVS_KEY_ATTR_UDP, bytes(4)),
    "set mpls": set_key(u.OVS_KEY_ATTR_MPLS, bytes(4)),
    "dec_ttl": dec_ttl(nla(1, b"")),
}
"""Accepted on some packets."""

BLOCKS: dict[str, Callable[[bytes], bytes]] = {
    "clone": clone, "sample": sampled,
    "check_pkt_len >": lambda block: checked(block, b""),
    "check_pkt_len <=": lambda block: checked(b"", block),
    "dec_ttl": lambda block: dec_ttl(nla(1, block)),
}

FIXED = {
    u.OVS_ACTION_ATTR_OUTPUT: 4, u.OVS_ACTION_ATTR_RECIRC: 4,
    u.OVS_ACTION_ATTR_PUSH_VLAN: 4, u.OVS_ACTION_ATTR_POP_VLAN: 0,
    u.OVS_ACTION_ATTR_HASH: 8, u.OVS_ACTION_ATTR_PUSH_MPLS: 8,
    u.OVS_ACTION_ATTR_POP_MPLS: 2, u.OVS_ACTION_ATTR_TRUNC: 4,
    u.OVS_ACTION_ATTR_PUSH_ETH: 12, u.OVS_ACTION_ATTR_POP_ETH: 0,
    u.OVS_ACTION_ATTR_ADD_MPLS: 8, u.OVS_ACTION_ATTR_DROP: 4,
    u.OVS_ACTION_ATTR_METER: 4,
}
"""Bytes of the payload of actions that have as many."""

SET_SIZES = {
    u.OVS_KEY_ATTR_PRIORITY: 4, u.OVS_KEY_ATTR_SKB_MARK: 4,
    u.OVS_KEY_ATTR_ETHERNET: 12, u.OVS_KEY_ATTR_IPV4: 12,
    u.OVS_KEY_ATTR_IPV6: 40, u.OVS_KEY_ATTR_TCP: 4, u.OVS_KEY_ATTR_UDP: 4,
    u.OVS_KEY_ATTR_SCTP: 4, u.OVS_KEY_ATTR_MPLS: 4,
}

Found = Iterator[tuple[str, str, bytes]]
"""Name, packet (of FLOWS), actions."""


def structure() -> Found:
    """Attributes as such."""
    for count in (1, 2, 3):
        yield f"{count} bytes alone", "tcp", bytes(count)
        yield f"{count} bytes behind", "tcp", OUT + bytes(count)
    for size in (0, 1, 2, 3, 9, 0xffff):
        header = struct.pack("=HH", size, u.OVS_ACTION_ATTR_OUTPUT)
        yield f"nla_len {size}", "tcp", header + bytes(4)
        yield f"nla_len {size}, second", "tcp", OUT + header + bytes(4)
    yield "empty", "tcp", b""
    yield "no padding", "mpls", pop_mpls(0x0800)[:-2]
    yield "no padding, then more", "mpls", pop_mpls(0x0800)[:-2] + OUT
    yield "padding not zero", "mpls", pop_mpls(0x0800)[:-2] + b"ab" + OUT
    for kind in (0, *range(26, 40), 255, 0x3fff):
        for size in (0, 4, 12):
            yield f"type {kind} of {size}", "tcp", nla(kind, bytes(size))
    for kind in u.OVS_ACTION_ATTR_OUTPUT, u.OVS_ACTION_ATTR_POP_VLAN:
        for flags in (0x8000, 0x4000, 0xc000):
            yield (f"type {kind} with {flags:#x}", "tcp",
                   nla(kind | flags, bytes(FIXED[kind])))
    for kind, size in FIXED.items():
        for wrong in {0, 1, 2, 3, 4, 8, 12, 16, size - 1, size + 1,
                      2 * size} - {size, -1}:
            for flow in ("tcp", "mpls", "layer 3"):
                yield (f"type {kind} of {wrong} bytes", flow,
                       nla(kind, bytes(wrong)) + OUT)


def values() -> Found:
    """Payloads that say something wrong, or just not."""
    for port in (0, 1, 65533, 65534, 65535, 65536, 1 << 31, 0xffffffff):
        yield f"output {port}", "tcp", nla_u32(1, port)
    for length in (0, 1, 13, 14, 15, 65535, 0xffffffff):
        yield f"trunc {length}", "tcp", trunc(length) + OUT
    for alg in (0, 1, 2, 3, 255, 1 << 31):
        yield f"hash {alg}", "tcp", hash_(alg)
    for reason in (0, 1, 0xffffffff):
        drop = nla_u32(u.OVS_ACTION_ATTR_DROP, reason)
        yield f"drop {reason}", "tcp", drop
        yield f"drop {reason}, more", "tcp", drop + OUT
        yield f"drop {reason}, twice", "tcp", drop * 2
    for number in (0, 1, 0xffffffff):
        yield (f"recirc {number}", "tcp",
               nla_u32(u.OVS_ACTION_ATTR_RECIRC, number))
    for flow in FLOWS:
        for tpid in (0, 0x0081, 0x0800, 0x8100, 0x88a8, 0x9100):
            for tci in (0, 1, 0x1000, 0xffff):
                yield (f"push_vlan {tpid:#x} {tci:#x}", flow,
                       push_vlan(tpid, tci))
        for kind in (0, 0x0800, 0x4788, 0x8847, 0x8848, 0x6558, 0x8100):
            yield f"push_mpls {kind:#x}", flow, push_mpls(kind)
            yield f"pop_mpls {kind:#x}", flow, pop_mpls(kind)
            for flags in (0, 1, 2, 3, 0xffff):
                yield (f"add_mpls {kind:#x} {flags}", flow,
                       add_mpls(kind, flags))
        for name, action in BASIC.items():
            yield name, flow, action


def sets() -> Found:
    """OVS_ACTION_ATTR_SET and OVS_ACTION_ATTR_SET_MASKED."""
    ones = b"\xff"
    for kind in range(41):
        for size in (0, 1, 2, 4, 8, 12, 16, 32, 40):
            value = bytes(size)
            for flow in ("tcp", "mpls"):
                yield f"set key {kind} of {size}", flow, set_key(kind, value)
                yield (f"masked key {kind} of {size}", flow,
                       set_masked(kind, value, value))
    for kind, size in SET_SIZES.items():
        for wrong in {0, 1, size - 1, size + 1, size + 4, 2 * size,
                      2 * size - 1, 2 * size + 1, 2 * size + 2}:
            for flow in FEW:
                yield (f"set key {kind} of {wrong} bytes", flow,
                       set_key(kind, bytes(wrong)))
                yield (f"masked key {kind} of {wrong} bytes", flow,
                       masked(nla(kind, bytes(wrong))))
        for flow in FLOWS:
            yield f"set key {kind}", flow, set_key(kind, bytes(size))
            yield f"set key {kind}, ones", flow, set_key(kind, ones * size)
            yield (f"masked key {kind}", flow,
                   set_masked(kind, bytes(size), bytes(size)))
            yield (f"masked key {kind}, ones", flow,
                   set_masked(kind, ones * size, ones * size))
        for byte in range(size):
            bit = bytes(byte) + b"\x10" + bytes(size - byte - 1)
            for flow in ("tcp", "udp6", "mpls", "layer 3", "sctp"):
                name = f"masked key {kind}, byte {byte}"
                yield f"{name} of both", flow, set_masked(kind, bit, bit)
                yield f"{name} of value", flow, set_masked(
                    kind, bit, bytes(size))
                yield f"{name} of mask", flow, set_masked(
                    kind, bytes(size), bit)
    for flow in FLOWS:
        for proto, frag in itertools.product((0, 1, 2, 6, 17, 44, 58, 132),
                                             (0, 1, 2, 3)):
            yield f"set ipv4 {proto} {frag}", flow, set_key(
                u.OVS_KEY_ATTR_IPV4, bytes(8) + bytes((proto, 0, 0, frag)))
            for label in (0, 0xfffff, 1 << 20):
                yield f"set ipv6 {proto} {frag} {label}", flow, set_key(
                    u.OVS_KEY_ATTR_IPV6, bytes(32) + struct.pack(
                        "!IBBBB", label, proto, 0, 0, frag))
    eth = nla(u.OVS_KEY_ATTR_ETHERNET, bytes(12))
    for name, payload in {
            "nothing": b"", "half a header": b"\4\0", "two keys": eth + eth,
            "bytes behind": eth + bytes(4), "byte behind": eth + b"\0",
            "nla_len 0": struct.pack("=HH", 0, 4),
            "nla_len 3": struct.pack("=HH", 3, 4),
            "nla_len 20": struct.pack("=HH", 20, 4) + bytes(12),
            "nla_len 12": struct.pack("=HH", 12, 4) + bytes(12),
            "nested flag": nla(u.OVS_KEY_ATTR_ETHERNET | 0x8000, bytes(12)),
            "an action": OUT}.items():
        yield f"set: {name}", "tcp", set_(payload)
        yield f"masked: {name}", "tcp", masked(payload)


def userspace() -> Found:
    for kind in range(7):
        for size in (0, 1, 3, 4, 5, 8, 64):
            attr = nla(kind, b"\1" * size)
            yield f"userspace {kind} of {size}", "tcp", user(attr)
            yield f"userspace {kind} of {size}, pid", "tcp", user(PID, attr)
    zero = nla_u32(u.OVS_USERSPACE_ATTR_PID, 0)
    for name, payload in {
            "nothing": b"", "pid 0": zero, "pid, pid 0": PID + zero,
            "pid 0, pid": zero + PID, "an action": OUT,
            "nested pid": nla_u32(u.OVS_USERSPACE_ATTR_PID | 0x8000, 1),
            "all": PID + nla(2, b"data") + nla_u32(3, 1) + nla(4, b""),
            "no padding": PID + nla(2, b"x")[:-3],
            "bytes behind": PID + b"\0\0",
            "nla_len 0 behind": PID + struct.pack("=HH", 0, 2),
            "nla_len 9 behind": PID + struct.pack("=HH", 9, 2) + bytes(4),
            "much userdata": PID + nla(2, bytes(60000)),
    }.items():
        yield f"userspace: {name}", "tcp", user(payload)


def blocks() -> Found:
    """sample, clone, check_pkt_len, dec_ttl."""
    prob, acts = nla_u32(1, 1 << 31), nla(2, OUT)
    for size in (0, 1, 2, 3, 5, 8):
        yield f"sample {size} of probability", "tcp", sample(
            nla(1, bytes(size)), acts)
    for size in (0, 1, 2, 3):
        yield f"sample {size} of actions", "tcp", sample(
            prob, nla(2, bytes(size)))
        yield f"clone of {size}", "tcp", clone(bytes(size))
        yield f"dec_ttl {size} of actions", "tcp", dec_ttl(
            nla(1, bytes(size)))
        yield f"check_pkt_len {size} of length", "tcp", cpl(
            nla(1, b"\1" * size), nla(2, b""), nla(3, b""))
        for kind in (2, 3):
            yield f"check_pkt_len {size} of {kind}", "tcp", cpl(
                nla(1, b"\1\0"), nla(kind, bytes(size)), nla(5 - kind, b""))
    for name, attrs in {
            "nothing": b"", "probability": prob, "actions": acts,
            "actions first": acts + prob, "probability twice": prob + prob
            + acts, "actions twice": prob + acts + acts,
            "type 0": prob + acts + nla(0, b""),
            "type 3": prob + acts + nla(3, bytes(4)),
            "bytes behind": prob + acts + b"\0",
            "nla_len 0 behind": prob + acts + struct.pack("=HH", 0, 1),
            "no padding": prob + nla(2, OUT + pop_mpls(1)[:-2])[:-2],
            "flags": nla_u32(0x8001, 1) + nla(0x8002, OUT),
            "probability 0": nla_u32(1, 0) + acts}.items():
        yield f"sample: {name}", "tcp", sample(attrs)
        yield f"sample: {name}", "mpls", sample(attrs) + OUT
    length, great, less = nla(1, b"\x64\0"), nla(2, OUT), nla(3, OUT)
    for name, attrs in {
            "nothing": b"", "length": length, "no greater": length + less,
            "no less": length + great, "no length": great + less,
            "length 0": nla(1, bytes(2)) + great + less,
            "long length": nla(1, b"\1\0\0\0") + great + less,
            "order": less + great + length,
            "length twice": length + nla(1, bytes(2)) + great + less,
            "length twice, last good": nla(1, bytes(2)) + length + great
            + less,
            "greater twice": length + nla(2, nla(0, b"")) + great + less,
            "type 0": length + great + less + nla(0, b""),
            "type 4": length + great + less + nla(4, bytes(8)),
            "bytes behind": length + great + less + b"\0\0\0",
            "no padding": great + less + nla(1, b"\1\0")[:-2],
            "flags": length + nla(0x8002, OUT) + nla(0x8003, OUT)}.items():
        yield f"check_pkt_len: {name}", "tcp", cpl(attrs)
        yield f"check_pkt_len: {name}; output", "tcp", cpl(attrs) + OUT
    for name, attrs in {
            "nothing": b"", "empty": nla(1, b""), "actions": nla(1, OUT),
            "twice": nla(1, b"") * 2, "type 0": nla(1, b"") + nla(0, b""),
            "type 2": nla(1, b"") + nla(2, bytes(8)),
            "type 2 alone": nla(2, b""),
            "bytes behind": nla(1, b"") + b"\0\0",
            "no padding": nla(1, pop_mpls(1)[:-2])[:-2],
            "action": OUT}.items():
        for flow in ("tcp", "mpls", "other type", "layer 3"):
            yield f"dec_ttl: {name}", flow, dec_ttl(attrs)
    for name, block in BLOCKS.items():
        for inner, actions in {
                "unknown": nla(99, b""), "bytes behind": OUT + b"\0\0",
                "no padding": pop_mpls(0x0800)[:-2],
                "drop": DROP, "drop, more": DROP + OUT,
                "output 65535": nla_u32(1, 65535),
                "bad pid": user(nla(1, b"")), "empty": b""}.items():
            for flow in ("tcp", "mpls"):
                yield f"{name} of {inner}", flow, block(actions)
                yield (f"{name} of {inner}; output", flow,
                       block(actions) + OUT)
        for depth in (1, 2, 8, 15, 16, 17, 18, 30):
            actions = OUT
            for _ in range(depth):
                actions = block(actions)
            yield f"{name} {depth} deep", "tcp", actions
            actions = nla(99, b"")
            for _ in range(depth):
                actions = block(actions)
            yield f"{name} {depth} deep, unknown", "tcp", actions


def pairs() -> Found:
    """What one action says of the packet to the next one."""
    for (one, first), (two, second) in itertools.product(BASIC.items(),
                                                         repeat=2):
        for flow in FEW:
            yield f"{one}, {two}", flow, first + second
        for name, flow in itertools.product(("clone", "dec_ttl"),
                                            ("tcp", "mpls", "layer 3")):
            block = BLOCKS[name]
            yield f"{one}, {name} of {two}", flow, first + block(second)
            yield f"{name} of {one}, {two}", flow, block(first) + second


def long() -> Found:
    """Up to what an attribute holds."""
    for size in (0x7ff8, 0x8000, 0xfff0, 0xfff8):
        for name in ("output", "userspace", "pop_vlan", "push_vlan"):
            action = BASIC[name]
            yield (f"{size} bytes of {name}", "tcp",
                   action * (size // len(action)))
        block = (size - 24) // 4
        yield f"clone of {size} bytes", "tcp", clone(POP_VLAN * block)


SECTIONS: dict[str, Callable[[], Found]] = {
    "structure": structure, "values": values, "sets": sets,
    "userspace": userspace, "blocks": blocks, "pairs": pairs, "long": long}


def cases(section: str) -> Iterator[Case]:
    """Those of SECTIONS; "unknown": of packets of which nothing is known."""
    if section == "unknown":
        for name, action in BASIC.items():
            yield Case(f"nothing matched: {name}", k.KEYS["tcp"], action, b"")
        return
    for name, flow, actions in SECTIONS[section]():
        yield Case(f"{flow}: {name}", FLOWS[flow], actions)
