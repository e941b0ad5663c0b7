# SPDX-License-Identifier: Apache-2.0
"""Netlink attributes of lists of actions, and what is known of a packet."""

from __future__ import annotations

import struct

from harness import Datapath
from oracle_key import Extract, be16, extract

from dpif_bpf import abi
from dpif_bpf.core.actions.compiler import compile_actions
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import KeyFacts


def nla(kind: int, payload: bytes = b"") -> bytes:
    """A netlink attribute."""
    length = 4 + len(payload)
    return (struct.pack("=HH", length, kind) + payload
            + bytes(-length % 4))


def u32(kind: int, value: int) -> bytes:
    return nla(kind, struct.pack("=I", value))


def output(port: int) -> bytes:
    return u32(uapi.OVS_ACTION_ATTR_OUTPUT, port)


def recirc(recirc_id: int) -> bytes:
    return u32(uapi.OVS_ACTION_ATTR_RECIRC, recirc_id)


def drop(code: int) -> bytes:
    return u32(uapi.OVS_ACTION_ATTR_DROP, code)


def meter(number: int) -> bytes:
    return u32(uapi.OVS_ACTION_ATTR_METER, number)


def userspace(pid: int) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_USERSPACE,
               u32(uapi.OVS_USERSPACE_ATTR_PID, pid))


def trunc(length: int) -> bytes:
    return u32(uapi.OVS_ACTION_ATTR_TRUNC, length)


def clone(*actions: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_CLONE, b"".join(actions))


def sample(probability: int, *actions: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_SAMPLE,
               u32(uapi.OVS_SAMPLE_ATTR_PROBABILITY, probability)
               + nla(uapi.OVS_SAMPLE_ATTR_ACTIONS, b"".join(actions)))


def check_pkt_len(length: int, greater: bytes, less_equal: bytes) -> bytes:
    return nla(
        uapi.OVS_ACTION_ATTR_CHECK_PKT_LEN,
        nla(uapi.OVS_CHECK_PKT_LEN_ATTR_PKT_LEN, struct.pack("=H", length))
        + nla(uapi.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_GREATER, greater)
        + nla(uapi.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_LESS_EQUAL, less_equal))


def dec_ttl(*actions: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_DEC_TTL,
               nla(uapi.OVS_DEC_TTL_ATTR_ACTION, b"".join(actions)))


def hash_l4(basis: int) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_HASH,
               struct.pack("=II", uapi.OVS_HASH_ALG_L4, basis))


def push_vlan(tpid: int, tci: int) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_PUSH_VLAN,
               struct.pack("!HH", tpid, tci | 0x1000))


def set_whole(kind: int, value: bytes) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_SET, nla(kind, value))


def set_masked(kind: int, value: bytes, mask: bytes) -> bytes:
    masked = bytes(v & m for v, m in zip(value, mask, strict=True))
    return nla(uapi.OVS_ACTION_ATTR_SET_MASKED, nla(kind, masked + mask))


def push_mpls(lse: bytes, kind: int) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_PUSH_MPLS,
               lse + struct.pack("!HH", kind, 0))


def add_mpls(lse: bytes, kind: int, flags: int) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_ADD_MPLS,
               lse + struct.pack("!H", kind) + struct.pack("=H", flags))


def pop_mpls(kind: int) -> bytes:
    return nla(uapi.OVS_ACTION_ATTR_POP_MPLS, struct.pack("!H", kind))


def push_eth(addresses: bytes) -> bytes:
    """Source, then destination."""
    return nla(uapi.OVS_ACTION_ATTR_PUSH_ETH, addresses)


def nsh_base(spi: int, si: int, flags: int = 0, ttl: int = 0,
             mdtype: int = 0, np: int = 0) -> bytes:
    """struct ovs_nsh_key_base."""
    return struct.pack("!BBBBI", flags, ttl, mdtype, np, spi << 8 | si)


def push_nsh(base: bytes, metadata: bytes) -> bytes:
    """`metadata` of the type that is in `base`."""
    kind = (uapi.OVS_NSH_KEY_ATTR_MD1 if base[2] == 1
            else uapi.OVS_NSH_KEY_ATTR_MD2)
    return nla(uapi.OVS_ACTION_ATTR_PUSH_NSH, nla(
        uapi.OVS_KEY_ATTR_NSH,
        nla(uapi.OVS_NSH_KEY_ATTR_BASE, base) + nla(kind, metadata)))


def set_nsh(base: bytes = b"", context: bytes = b"") -> bytes:
    """Values with their masks behind them."""
    inner = b""
    if base:
        inner += nla(uapi.OVS_NSH_KEY_ATTR_BASE, base)
    if context:
        inner += nla(uapi.OVS_NSH_KEY_ATTR_MD1, context)
    return nla(uapi.OVS_ACTION_ATTR_SET_MASKED,
               nla(uapi.OVS_KEY_ATTR_NSH, inner))


POP_NSH = nla(uapi.OVS_ACTION_ATTR_POP_NSH)
POP_ETH = nla(uapi.OVS_ACTION_ATTR_POP_ETH)
POP_VLAN = nla(uapi.OVS_ACTION_ATTR_POP_VLAN)


def facts_of(frame: bytes, parsed: Extract) -> KeyFacts:
    """What a flow that matches a packet exactly says."""
    tagged = (frame[12:14] in {b"\x81\0", b"\x88\xa8"}
              and len(frame) >= 18)
    return KeyFacts(
        eth_type=parsed.eth_type, ip_proto=parsed.byte("ip_proto"),
        ip_frag=parsed.byte("ip_frag"),
        vlan_tci=be16(frame, 14) | 0x1000 if tagged else 0,
        nsh_mdtype=parsed.byte("nsh_mdtype"), nsh_np=parsed.byte("nsh_np"),
        mpls_num_lse=int.from_bytes(parsed.field("mpls_labels"),
                                    "little").bit_count())


def compiled(actions: bytes, frame: bytes, parsed: Extract) -> bytes:
    """Instructions; a userspace action's descriptor is its port id."""
    program = compile_actions(actions, facts_of(frame, parsed))
    return program.link(tuple(desc.pid for desc in program.uspace))


def add_once(dp: Datapath, actions: bytes, frame: bytes) -> None:
    """A flow of packets that were not recirculated; `frame` is one."""
    parsed = extract(frame)
    assert parsed is not None
    mask = bytearray(abi.KEY.size)
    mask[abi.KEY["recirc_id"].slice] = b"\xff" * 4
    dp.add_flow(compiled(actions, frame, parsed), b"", bytes(mask))
