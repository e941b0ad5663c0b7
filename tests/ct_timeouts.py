# SPDX-License-Identifier: Apache-2.0
"""Requests of timeout policies, in an order, and what comes of each."""

from __future__ import annotations

from dataclasses import dataclass
from errno import EBUSY, EEXIST, EINVAL, ENOENT, EOPNOTSUPP, ERANGE

from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6
from dpif_bpf.wire.cttimeout import NLM_F_REPLACE
from dpif_bpf.wire.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    nla,
    nla_string,
    nla_u8,
)
from dpif_bpf.wire.nfnetlink import nla_be16, nla_be32

NEW, GET, DELETE, SET, DEFAULT = (
    nf.IPCTNL_MSG_TIMEOUT_NEW, nf.IPCTNL_MSG_TIMEOUT_GET,
    nf.IPCTNL_MSG_TIMEOUT_DELETE, nf.IPCTNL_MSG_TIMEOUT_DEFAULT_SET,
    nf.IPCTNL_MSG_TIMEOUT_DEFAULT_GET)
TCP, UDP, ICMP, ICMPV6, SCTP, GRE, UDPLITE = 6, 17, 1, 58, 132, 47, 136


@dataclass(frozen=True, slots=True)
class Step:
    """One request; its replies are compared.

    :param errno: 0 when it is carried out
    :param kernel: the kernel's errno, when it is another
    """

    cmd: int
    payload: bytes
    errno: int = 0
    flags: int = 0
    kernel: int | None = None


def name(value: str = "p") -> bytes:
    return nla_string(nf.CTA_TIMEOUT_NAME, value)


def numbers(proto: int, l3num: int = AF_INET) -> bytes:
    return nla_be16(nf.CTA_TIMEOUT_L3PROTO, l3num) + nla_u8(
        nf.CTA_TIMEOUT_L4PROTO, proto)


def data(**timeouts: int) -> bytes:
    """As OVS sends them, not said to be nested."""
    return nla(nf.CTA_TIMEOUT_DATA, b"".join(
        nla_be32(int(kind[1:]), value) for kind, value in timeouts.items()))


def policy(value: str, proto: int, l3num: int = AF_INET,
           **timeouts: int) -> bytes:
    return name(value) + numbers(proto, l3num) + data(**timeouts)


OVS = NLM_F_CREATE | NLM_F_REPLACE
"""Flags of NEW as OVS has them."""

ALL = Step(GET, b"", flags=NLM_F_DUMP)

STEPS = [
    ALL,
    Step(NEW, policy("ovs_tp_0_tcp4", TCP, t1=5, t3=77, t11=9), flags=OVS),
    Step(GET, name("ovs_tp_0_tcp4")),
    Step(NEW, policy("ovs_tp_0_udp4", UDP, t1=1, t2=2), flags=OVS),
    Step(NEW, policy("ovs_tp_0_icmp4", ICMP, t1=3), flags=OVS),
    Step(NEW, policy("ovs_tp_0_tcp6", TCP, AF_INET6, t9=0), flags=OVS),
    Step(NEW, policy("ovs_tp_0_icmp6", ICMPV6, AF_INET6), flags=OVS),
    Step(NEW, policy("sctp", SCTP, t1=3, t9=4)),
    Step(NEW, policy("gre", GRE, t2=3)),
    Step(NEW, policy("udplite", UDPLITE, t2=3)),
    Step(NEW, policy("generic", 255, t1=3)),
    Step(NEW, policy("any family", 17, 99)),
    ALL,
    # There is one.
    Step(NEW, policy("gre", GRE), EEXIST, NLM_F_CREATE | NLM_F_EXCL),
    Step(NEW, policy("gre", GRE), EEXIST, OVS | NLM_F_EXCL),
    Step(NEW, policy("gre", GRE), EBUSY, NLM_F_CREATE),
    Step(NEW, policy("gre", TCP), EINVAL, OVS),
    Step(NEW, policy("gre", GRE, AF_INET6), EINVAL, OVS),
    Step(GET, name("gre")),
    Step(NEW, policy("gre", GRE, t1=8), flags=OVS),
    Step(GET, name("gre")),
    # Defaults, which later policies take what they lack from.
    *(Step(DEFAULT, numbers(proto)) for proto in (
        TCP, UDP, UDPLITE, ICMP, ICMPV6, SCTP, GRE, 255)),
    Step(DEFAULT, numbers(TCP, 10)),
    Step(SET, numbers(UDP) + data(t1=11)),
    Step(DEFAULT, numbers(UDP)), Step(DEFAULT, numbers(UDPLITE)),
    Step(SET, numbers(UDPLITE) + data(t2=12)),
    Step(DEFAULT, numbers(UDP)),
    Step(SET, numbers(TCP) + data(t3=99)),
    Step(NEW, policy("later", TCP, t1=1)), Step(GET, name("later")),
    Step(SET, numbers(SCTP) + data(t1=7)), Step(DEFAULT, numbers(SCTP)),
    Step(SET, numbers(255) + data(t1=7)), Step(DEFAULT, numbers(255)),
    Step(SET, numbers(ICMP) + data()), Step(DEFAULT, numbers(ICMP)),
    # What is wrong.
    Step(GET, b"", EINVAL), Step(GET, name("none"), ENOENT),
    Step(DELETE, name("none"), ENOENT),
    Step(NEW, name() + numbers(TCP), EINVAL),
    Step(NEW, numbers(TCP) + data(), EINVAL),
    Step(NEW, name() + data() + nla_u8(nf.CTA_TIMEOUT_L4PROTO, TCP), EINVAL),
    Step(NEW, name() + data() + nla_be16(nf.CTA_TIMEOUT_L3PROTO, 2),
         EINVAL),
    Step(NEW, policy("x", 99), EOPNOTSUPP),
    Step(NEW, policy("x", 0), EOPNOTSUPP),
    Step(SET, numbers(99) + data(), EOPNOTSUPP),
    Step(SET, numbers(TCP), EINVAL), Step(SET, data(), EINVAL),
    Step(DEFAULT, numbers(99), EOPNOTSUPP),
    Step(DEFAULT, nla_u8(nf.CTA_TIMEOUT_L4PROTO, TCP), EINVAL),
    Step(DEFAULT, nla_be16(nf.CTA_TIMEOUT_L3PROTO, 2), EINVAL),
    Step(NEW, policy("x" * 32, TCP), EINVAL),
    Step(GET, name(""), EINVAL, kernel=ENOENT),
    Step(GET, nla(nf.CTA_TIMEOUT_NAME, b"none"), EINVAL),
    Step(GET, nla(nf.CTA_TIMEOUT_NAME, b""), EINVAL),
    Step(NEW, policy("x", TCP)[:-4] + nla(4, nla(1, b"\1")), ERANGE),
    Step(NEW, policy("x", TCP)[:-4] + nla(4, nla(12, bytes(4))), EINVAL,
         kernel=0),
    Step(DELETE, name("x"), ENOENT, kernel=0),
    Step(NEW, name("x") + nla(nf.CTA_TIMEOUT_L3PROTO, b"\2"), ERANGE),
    Step(NEW, name("x") + nla(nf.CTA_TIMEOUT_L4PROTO, b""), ERANGE),
    Step(9, b"", EINVAL),
    # And away.
    Step(NEW, policy("x" * 31, UDP)), Step(DELETE, name("x" * 31)),
    Step(DELETE, name("later")), Step(GET, name("later"), ENOENT), ALL,
    Step(DELETE, b""), ALL,
]
