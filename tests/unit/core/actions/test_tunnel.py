# SPDX-License-Identifier: Apache-2.0
"""Sets of OVS_KEY_ATTR_TUNNEL.

What is right and wrong is what validate_and_copy_set_tun() of the kernel's
net/openvswitch/flow_netlink.c says.
"""

from __future__ import annotations

import struct
from errno import EINVAL

import pytest

from dpif_bpf import abi
from dpif_bpf.abi import INSN, TUNNEL, Header, Op
from dpif_bpf.core.actions.programs import compile_actions
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u8, nla_u32

DST = nla(u.OVS_TUNNEL_KEY_ATTR_IPV4_DST, bytes([192, 0, 2, 1]))
DST6 = nla(u.OVS_TUNNEL_KEY_ATTR_IPV6_DST, b"\xfd" + bytes(14) + b"\1")
TTL = nla_u8(u.OVS_TUNNEL_KEY_ATTR_TTL, 64)
ID = nla(u.OVS_TUNNEL_KEY_ATTR_ID, bytes(7) + b"\7")
OUT = nla_u32(u.OVS_ACTION_ATTR_OUTPUT, 1)
GENEVE = nla(u.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS,
             bytes.fromhex("0102800200000001000000020102030000000000"[:-8]))
SIZES = {"ID": 8, "IPV4_SRC": 4, "IPV4_DST": 4, "TOS": 1, "TTL": 1,
         "DONT_FRAGMENT": 0, "CSUM": 0, "OAM": 0, "TP_SRC": 2, "TP_DST": 2,
         "IPV6_SRC": 16, "IPV6_DST": 16, "ERSPAN_OPTS": 12}


def tunnel(*attrs: bytes, action: int = u.OVS_ACTION_ATTR_SET) -> bytes:
    return nla(action, nla(u.OVS_KEY_ATTR_TUNNEL, b"".join(attrs))) + OUT


def found(*attrs: bytes) -> dict[str, object]:
    """The struct ovs_tunnel of a set, by field."""
    code = compile_actions(tunnel(*attrs), KeyFacts()).code
    op, words, kind, imm = INSN.struct.unpack_from(code)
    assert (op, kind, imm) == (Op.HEADER, Header.SET_TUNNEL, words)
    data = code[8:8 + 8 * words].ljust(TUNNEL.size, b"\0")
    return dict(zip(TUNNEL.fields, TUNNEL.struct.unpack(data), strict=True))


def refused(data: bytes) -> RequestError:
    with pytest.raises(RequestError) as info:
        compile_actions(data, KeyFacts(), 100)
    assert info.value.errno == EINVAL
    return info.value


def test_all_of_it() -> None:
    made = found(
        ID, nla(u.OVS_TUNNEL_KEY_ATTR_IPV4_SRC, bytes([192, 0, 2, 9])), DST,
        nla_u8(u.OVS_TUNNEL_KEY_ATTR_TOS, 3), TTL,
        nla_flag(u.OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT),
        nla_flag(u.OVS_TUNNEL_KEY_ATTR_CSUM),
        nla(u.OVS_TUNNEL_KEY_ATTR_TP_SRC, b"\0\1"),
        nla(u.OVS_TUNNEL_KEY_ATTR_TP_DST, b"\x12\xb5"))
    assert made["id"] == bytes(7) + b"\7"
    assert made["ipv6_src"] == bytes([192, 0, 2, 9, 192, 0, 2, 1]) + bytes(8)
    assert (made["tos"], made["ttl"]) == (3, 64)
    assert made["flags"] == struct.pack(
        "!H", abi.OVS_TUNNEL_CSUM | abi.OVS_TUNNEL_KEY
        | abi.OVS_TUNNEL_DONT_FRAGMENT)
    assert (made["tp_src"], made["tp_dst"]) == (b"\0\1", b"\x12\xb5")
    assert (made["proto"], made["opts_len"]) == (abi.OVS_AF_INET, 0)


def test_ipv6() -> None:
    made = found(DST6, TTL)
    assert made["ipv6_dst"] == b"\xfd" + bytes(14) + b"\1"
    assert made["proto"] == abi.OVS_AF_INET6


def test_options() -> None:
    made = found(DST, TTL, GENEVE)
    assert made["opts_len"] == 16
    assert made["opts"] == GENEVE[4:].ljust(256, b"\0")
    made = found(DST, TTL, nla(u.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS, nla_u32(
        u.OVS_VXLAN_EXT_GBP, 0x80001234)))
    assert made["opts"] == struct.pack("=I", 0x80001234).ljust(256, b"\0")
    made = found(DST, TTL, nla(u.OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS,
                               bytes(range(12))))
    assert made["opts"] == bytes(range(12)).ljust(256, b"\0")
    long = struct.pack("!HBB", 1, 2, 31) + bytes(124)
    made = found(DST, TTL, nla(u.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS,
                               long + long[:3] + b"\x1e" + bytes(120)))
    assert made["opts_len"] == 252


BAD = {
    "empty": (b"", "no destination"),
    "no destination": (TTL, "no destination"),
    "destination 0": (
        nla(u.OVS_TUNNEL_KEY_ATTR_IPV4_DST, bytes(4)) + TTL,
        "no destination"),
    "no TTL": (DST, "OVS_TUNNEL_KEY_ATTR_TTL is missing"),
    "both families": (DST + DST6 + TTL, "mixes"),
    "OAM": (DST + TTL + nla_flag(u.OVS_TUNNEL_KEY_ATTR_OAM),
            "OVS_TUNNEL_KEY_ATTR_OAM is not supported"),
    "options twice": (DST + TTL + GENEVE + GENEVE, "options twice"),
    "half an option": (DST + TTL + nla(
        u.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS, b"\1\2\3\2" + bytes(4)),
        "ends in an option"),
    "a bridge's": (DST + TTL + nla_flag(16), "IPV4_INFO_BRIDGE is not"),
    "unknown": (DST + TTL + nla_flag(17), "17 is not supported"),
    "unknown extension": (DST + TTL + nla(
        u.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS, nla_u32(2, 1)), "extension"),
    "stray bytes": (DST + TTL + b"\0\0", "stray"),
} | {
    f"{name} of {size}": (
        DST + TTL + nla(getattr(u, f"OVS_TUNNEL_KEY_ATTR_{name}"),
                        bytes(size)), f"{name} has {size} bytes")
    for name, right in SIZES.items()
    for size in {right - 1, right + 1, 0, 255} - {-1, right}
} | {
    f"Geneve of {size}": (
        DST + TTL + nla(u.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS, bytes(size)),
        f"GENEVE_OPTS has {size} bytes")
    for size in (1, 3, 5, 253, 255, 256, 260)
}


@pytest.mark.parametrize("kind", BAD)
def test_refused(kind: str) -> None:
    attrs, text = BAD[kind]
    error = refused(tunnel(attrs))
    assert text in error.text
    assert error.offset is not None
    assert 100 <= error.offset < 100 + len(tunnel(attrs))


def test_no_masked_set() -> None:
    attrs = DST + TTL
    error = refused(tunnel(attrs + attrs,
                           action=u.OVS_ACTION_ATTR_SET_MASKED))
    assert "OVS_ACTION_ATTR_SET_MASKED of OVS_KEY_ATTR_TUNNEL" in error.text
