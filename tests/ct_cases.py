# SPDX-License-Identifier: Apache-2.0
"""OVS_ACTION_ATTR_CT of all kinds, good and bad, on packets of all kinds.

Each case says which errno Linux has for it; tests/system/test_ct_kernel.py
asks the kernel's own datapath whether that is so, and what it shows.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from errno import EINVAL, ERANGE

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u16, nla_u32


@dataclass(frozen=True, slots=True)
class Case:
    """One action.

    :param flow: a key of tests.keys.KEYS
    :param payload: of OVS_ACTION_ATTR_CT
    :param errno: 0 when it is taken
    :param shown: payload in a dump; None when it is as `payload`
    """

    name: str
    flow: str
    payload: bytes
    errno: int = 0
    shown: bytes | None = None


FACTS = {"802.2": (4, 0), "other type": (0x88cc, 0), "arp": (0x0806, 1),
         "rarp": (0x8035, 3), "tcp": (0x0800, 6), "udp": (0x0800, 17),
         "icmp": (0x0800, 1), "sctp": (0x0800, 132), "vlan": (0x0800, 17),
         "tcp6": (0x86dd, 6), "udp6": (0x86dd, 17), "icmpv6": (0x86dd, 58)}
"""Ethernet type and IP protocol of those KEYS that are used here."""

COMMIT = nla_flag(u.OVS_CT_ATTR_COMMIT)
FORCE = nla_flag(u.OVS_CT_ATTR_FORCE_COMMIT)
SRC = nla_flag(u.OVS_NAT_ATTR_SRC)
DST = nla_flag(u.OVS_NAT_ATTR_DST)
PERSISTENT = nla_flag(u.OVS_NAT_ATTR_PERSISTENT)
HASH = nla_flag(u.OVS_NAT_ATTR_PROTO_HASH)
RANDOM = nla_flag(u.OVS_NAT_ATTR_PROTO_RANDOM)
A4, B4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 9])
A6, B6 = bytes(15) + b"\1", bytes(15) + b"\x09"


def zone(value: int = 0) -> bytes:
    return nla_u16(u.OVS_CT_ATTR_ZONE, value)


def mark(value: int = 5, mask: int = 0xff) -> bytes:
    return nla(u.OVS_CT_ATTR_MARK, struct.pack("=II", value, mask))


def labels(value: bytes = bytes(range(16)),
           mask: bytes = b"\xff" * 16) -> bytes:
    return nla(u.OVS_CT_ATTR_LABELS, value + mask)


def helper(value: bytes) -> bytes:
    return nla(u.OVS_CT_ATTR_HELPER, value)


def timeout(value: bytes) -> bytes:
    return nla(u.OVS_CT_ATTR_TIMEOUT, value)


def eventmask(value: int = 0x1a7) -> bytes:
    return nla_u32(u.OVS_CT_ATTR_EVENTMASK, value)


def nat(*attrs: bytes) -> bytes:
    return nla(u.OVS_CT_ATTR_NAT, b"".join(attrs))


def ip_min(value: bytes) -> bytes:
    return nla(u.OVS_NAT_ATTR_IP_MIN, value)


def ip_max(value: bytes) -> bytes:
    return nla(u.OVS_NAT_ATTR_IP_MAX, value)


def port_min(value: int) -> bytes:
    return nla_u16(u.OVS_NAT_ATTR_PROTO_MIN, value)


def port_max(value: int) -> bytes:
    return nla_u16(u.OVS_NAT_ATTR_PROTO_MAX, value)


Z = zone()
MIN4, MAX4 = ip_min(A4), ip_max(B4)
FULL = nat(SRC, MIN4, MAX4, port_min(1000), port_max(2000), PERSISTENT,
           HASH, RANDOM)


def _flows() -> Iterator[Case]:
    for flow in ("tcp", "udp", "icmp", "tcp6", "udp6", "icmpv6", "vlan",
                 "sctp"):
        yield Case("nothing", flow, b"", 0, Z)
    for flow in ("arp", "other type", "rarp", "802.2"):
        yield Case("nothing", flow, b"", EINVAL)
        yield Case("commit", flow, COMMIT, EINVAL)


def _lists() -> Iterator[Case]:
    whole = (COMMIT + zone(9) + mark() + labels() + eventmask()
             + timeout(b"t\0") + FULL)
    good: dict[str, tuple[bytes, bytes | None]] = {
        "zone": (zone(7), None),
        "zone 65535": (zone(65535), None),
        "commit": (COMMIT, COMMIT + Z),
        "force": (FORCE, FORCE + Z),
        "commit, force": (COMMIT + FORCE, FORCE + Z),
        "force, commit": (FORCE + COMMIT, FORCE + Z),
        "commit twice": (COMMIT + COMMIT, COMMIT + Z),
        "zone twice": (zone(1) + zone(2), zone(2)),
        "mark before commit": (mark() + COMMIT, COMMIT + Z + mark()),
        "mark twice": (COMMIT + mark(1) + mark(2), COMMIT + Z + mark(2)),
        "mark out of mask": (COMMIT + mark(0xf00, 1),
                             COMMIT + Z + mark(0xf00, 1)),
        "labels before force": (labels() + FORCE, FORCE + Z + labels()),
        "labels twice": (COMMIT + labels() + labels(bytes(16)),
                         COMMIT + Z + labels(bytes(16))),
        "one bit of labels": (
            COMMIT + labels(bytes(16), bytes(15) + b"\1"),
            COMMIT + Z + labels(bytes(16), bytes(15) + b"\1")),
        "eventmask": (eventmask(), Z + eventmask()),
        "eventmask 0": (eventmask(0), Z + eventmask(0)),
        "eventmask twice": (eventmask(1) + eventmask(2), Z + eventmask(2)),
        "timeout": (timeout(b"none\0"), Z + timeout(b"none\0")),
        "timeout, more behind it": (timeout(b"none\0more"),
                                    Z + timeout(b"none\0")),
        "timeout empty": (timeout(b"\0"), Z),
        "timeout empty, more behind it": (timeout(b"\0more"), Z),
        "timeout of 31": (timeout(b"x" * 31 + b"\0"),
                          Z + timeout(b"x" * 31 + b"\0")),
        "timeout no text": (timeout(b"\xff\x80\0"),
                            Z + timeout(b"\xff\x80\0")),
        "timeout twice": (timeout(b"longer\0") + timeout(b"one\0"),
                          Z + timeout(b"one\0")),
        "nat": (nat(), Z + nat()),
        "nat, commit": (nat() + COMMIT, COMMIT + Z + nat()),
        "nat twice": (COMMIT + nat() + nat(), COMMIT + Z + nat()),
        "nat src": (COMMIT + nat(SRC), COMMIT + Z + nat(SRC)),
        "nat dst": (FORCE + nat(DST), FORCE + Z + nat(DST)),
        "nat address": (COMMIT + nat(SRC, MIN4), COMMIT + Z + nat(SRC, MIN4)),
        "nat type last": (COMMIT + nat(MIN4, SRC),
                          COMMIT + Z + nat(SRC, MIN4)),
        "nat range": (COMMIT + nat(DST, MAX4, MIN4),
                      COMMIT + Z + nat(DST, MIN4, MAX4)),
        "nat one address": (COMMIT + nat(DST, MIN4, ip_max(A4)),
                            COMMIT + Z + nat(DST, MIN4)),
        "nat upside down": (
            COMMIT + nat(SRC, ip_min(B4), ip_max(A4), port_min(9),
                         port_max(1)),
            COMMIT + Z + nat(SRC, ip_min(B4), ip_max(A4), port_min(9),
                             port_max(1))),
        "nat no smallest": (
            COMMIT + nat(SRC, MAX4, port_max(9)),
            COMMIT + Z + nat(SRC, ip_min(bytes(4)), MAX4, port_min(0),
                             port_max(9))),
        "nat no smallest, 0": (
            COMMIT + nat(SRC, ip_max(bytes(4)), port_max(0)),
            COMMIT + Z + nat(SRC, ip_min(bytes(4)), port_min(0))),
        "nat address twice": (COMMIT + nat(SRC, ip_min(B4), MIN4),
                              COMMIT + Z + nat(SRC, MIN4)),
        "nat port": (COMMIT + nat(SRC, port_min(80)),
                     COMMIT + Z + nat(SRC, port_min(80))),
        "nat ports": (COMMIT + nat(SRC, port_min(80), port_max(81)),
                      COMMIT + Z + nat(SRC, port_min(80), port_max(81))),
        "nat flags": (COMMIT + nat(RANDOM, HASH, PERSISTENT, SRC),
                      COMMIT + Z + nat(SRC, PERSISTENT, HASH, RANDOM)),
        "nat all": (COMMIT + FULL, COMMIT + Z + FULL),
        "nat, then nothing": (
            COMMIT + nat(SRC, MIN4, MAX4, port_min(1), port_max(2)) + nat(),
            COMMIT + Z + nat(SRC, MIN4, port_min(1))),
        "nat, then a range": (
            COMMIT + nat(SRC) + nat(MIN4, MAX4, HASH),
            COMMIT + Z + nat(SRC, MIN4, MAX4, HASH)),
        "nat, then a largest": (
            COMMIT + nat(SRC, MIN4) + nat(MAX4),
            COMMIT + Z + nat(SRC, MIN4, MAX4)),
        "nat existing, then a range": (
            COMMIT + nat() + nat(MIN4, PERSISTENT), COMMIT + Z + nat()),
        "all": (whole, whole),
        "all, turned round": (
            timeout(b"t\0") + eventmask() + labels() + mark() + zone(9)
            + COMMIT + FULL, whole),
    }
    for name, (payload, shown) in good.items():
        yield Case(name, "tcp", payload, 0, shown)

    bad = {
        "unspec": nla_flag(0),
        "unspec with a payload": nla(0, bytes(4)),
        "type 10": nla_flag(10),
        "type 10 with a payload": nla_u32(10, 0),
        "stray bytes": Z + b"\0\0\0\0",
        "length 3": struct.pack("=HH", 3, u.OVS_CT_ATTR_COMMIT),
        "beyond the end": struct.pack("=HH", 12, u.OVS_CT_ATTR_MARK)
        + bytes(4),
        "mark mask 0": COMMIT + mark(0, 0),
        "mark mask 0, then another": COMMIT + mark(1, 0) + mark(),
        "labels mask 0": COMMIT + labels(mask=bytes(16)),
        "mark without commit": mark(),
        "labels without commit": labels(),
        "mark with nat": nat() + mark(),
        "helper unknown": COMMIT + helper(b"nonesuch\0"),
        "helper empty": COMMIT + helper(b"\0"),
        "helper no text": COMMIT + helper(b"\xff\xfe\0"),
        "helper not ended": COMMIT + helper(b"ftp"),
        "helper not ended, 16": COMMIT + helper(b"x" * 16),
        "helper good, then bad": COMMIT + helper(b"ftp\0") + helper(b"z\0"),
        "timeout not ended": timeout(b"none"),
        "timeout not ended, 32": timeout(b"x" * 32),
        "timeout ended, then not": timeout(b"none\0") + timeout(b"none"),
        "nat src without commit": nat(SRC),
        "nat src before commit": nat(SRC) + COMMIT,
        "nat dst, mark before commit": mark() + nat(DST) + COMMIT,
        "nat twice without commit": nat() + nat(),
        "nat address without type": COMMIT + nat(MIN4),
        "nat port without type": COMMIT + nat(port_min(1)),
        "nat flag without type": COMMIT + nat(PERSISTENT),
        "nat largest without type": COMMIT + nat(MAX4),
        "nat address of v6": COMMIT + nat(SRC, ip_min(A6)),
        "nat largest of v6": COMMIT + nat(SRC, MIN4, ip_max(B6)),
        "nat unspec": COMMIT + nat(nla_flag(0)),
        "nat type 10": COMMIT + nat(SRC, nla_flag(10)),
        "nat stray bytes": COMMIT + nat(SRC, b"\0\0\0\0"),
        "nat beyond the end": COMMIT + nat(
            struct.pack("=HH", 8, u.OVS_NAT_ATTR_SRC)),
        "nat bad after src twice, length": COMMIT + nat(
            SRC, nla(u.OVS_NAT_ATTR_SRC, b"\0")),
        "nat src, nat dst, bad first": COMMIT + nat(SRC)
        + nat(nla_flag(10), DST),
    }
    for name, payload in bad.items():
        yield Case(name, "tcp", payload, EINVAL)

    for name, payload in {
            "nat src and dst": COMMIT + nat(SRC, DST),
            "nat src twice": COMMIT + nat(SRC, SRC),
            "nat src, nat dst": COMMIT + nat(SRC) + nat(DST),
            "nat existing, nat src": COMMIT + nat() + nat(SRC),
            "nat existing, nat src, no commit": nat() + nat(SRC),
            "nat src and dst without commit": nat(SRC, DST),
            "nat src and dst, bad behind": COMMIT + nat(SRC, DST,
                                                        nla_flag(10)),
    }.items():
        yield Case(name, "tcp", payload, ERANGE)


def _families() -> Iterator[Case]:
    for flow in ("tcp6", "udp6", "icmpv6"):
        yield Case("nat address", flow, COMMIT + nat(SRC, ip_min(A6)), 0,
                   COMMIT + Z + nat(SRC, ip_min(A6)))
        yield Case("nat range", flow,
                   COMMIT + nat(SRC, ip_max(B6), ip_min(A6)), 0,
                   COMMIT + Z + nat(SRC, ip_min(A6), ip_max(B6)))
        yield Case("nat no smallest", flow, COMMIT + nat(SRC, ip_max(B6)), 0,
                   COMMIT + Z + nat(SRC, ip_min(bytes(16)), ip_max(B6)))
        yield Case("nat address of v4", flow, COMMIT + nat(SRC, MIN4), EINVAL)
        yield Case("nat largest of v4", flow,
                   COMMIT + nat(SRC, ip_min(A6), MAX4), EINVAL)


SIZES = {
    u.OVS_CT_ATTR_COMMIT: {0}, u.OVS_CT_ATTR_FORCE_COMMIT: {0},
    u.OVS_CT_ATTR_ZONE: {2}, u.OVS_CT_ATTR_MARK: {8},
    u.OVS_CT_ATTR_LABELS: {32}, u.OVS_CT_ATTR_EVENTMASK: {4},
    u.OVS_CT_ATTR_TIMEOUT: set(range(1, 33)),
}
NAT_SIZES = {
    u.OVS_NAT_ATTR_SRC: {0}, u.OVS_NAT_ATTR_DST: {0},
    u.OVS_NAT_ATTR_IP_MIN: {4}, u.OVS_NAT_ATTR_IP_MAX: {4},
    u.OVS_NAT_ATTR_PROTO_MIN: {2}, u.OVS_NAT_ATTR_PROTO_MAX: {2},
    u.OVS_NAT_ATTR_PERSISTENT: {0}, u.OVS_NAT_ATTR_PROTO_HASH: {0},
    u.OVS_NAT_ATTR_PROTO_RANDOM: {0},
}


def sizes() -> Iterator[Case]:
    """Each attribute in every size, and some more; what is shown of it is
    not told."""
    for kind, good in SIZES.items():
        for size in range(36):
            value = bytes(size - 1) + b"\1" if size else b""
            if kind == u.OVS_CT_ATTR_TIMEOUT:
                value = bytes(size)
            yield Case(f"attribute {kind} of {size}", "tcp",
                       COMMIT + nla(kind, value),
                       0 if size in good else EINVAL)
    for kind, good in NAT_SIZES.items():
        for size in range(18):
            first = DST if kind == u.OVS_NAT_ATTR_DST else SRC
            payload = (nat(nla(kind, bytes(size)))
                       if kind in (u.OVS_NAT_ATTR_SRC, u.OVS_NAT_ATTR_DST)
                       else nat(first, nla(kind, bytes(size))))
            yield Case(f"nat attribute {kind} of {size}", "tcp",
                       COMMIT + payload, 0 if size in good else EINVAL)


def helpers() -> Iterator[Case]:
    """The kernel has them when nf_conntrack_ftp, nf_conntrack_tftp and their
    NAT are loaded."""
    for name, flows in (("ftp", ("tcp", "tcp6")), ("tftp", ("udp", "udp6"))):
        value = helper(name.encode() + b"\0")
        for flow in ("tcp", "tcp6", "udp", "udp6", "icmp", "sctp"):
            yield Case(f"helper {name}", flow, COMMIT + value,
                       0 if flow in flows else EINVAL, COMMIT + Z + value)
        flow = flows[0]
        yield Case(f"helper {name}, no commit", flow, value, 0, Z + value)
        yield Case(f"helper {name}, more behind it", flow,
                   helper(name.encode() + b"\0more"), 0, Z + value)
        yield Case(f"helper {name}, nat", flow, COMMIT + value + nat(SRC), 0,
                   COMMIT + Z + value + nat(SRC))
        yield Case(f"helper {name} after a bad one", flow,
                   helper(b"nonesuch\0") + value, 0, Z + value)


CASES = [*_flows(), *_lists(), *_families()]
