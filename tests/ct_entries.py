# SPDX-License-Identifier: Apache-2.0
"""Reads a connection in ctnetlink, and has some connections of all kinds."""

from __future__ import annotations

import struct
from dataclasses import replace

from hypothesis import strategies as st

from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry, SctpInfo, SeqAdj, TcpInfo
from dpif_bpf.wire.ct_tuple import AF_INET, AF_INET6, CtTuple, Ends, ends
from dpif_bpf.wire.netlink import iter_attrs

Attrs = dict[int, bytes]


def attrs(data: bytes) -> Attrs:
    return {kind: data[start:stop] for kind, start, stop in iter_attrs(data)}


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def decode_tuple(data: bytes, family: int) -> CtTuple:
    parts = attrs(data)
    ip, proto = attrs(parts[nf.CTA_TUPLE_IP]), attrs(
        parts[nf.CTA_TUPLE_PROTO])
    values = {kind: number(value) for kind, value in proto.items()}
    first = nf.CTA_IP_V4_SRC if family == AF_INET else nf.CTA_IP_V6_SRC
    return CtTuple(
        family, values[nf.CTA_PROTO_NUM], ip[first], ip[first + 1],
        values.get(nf.CTA_PROTO_SRC_PORT,
                   values.get(nf.CTA_PROTO_ICMP_ID,
                              values.get(nf.CTA_PROTO_ICMPV6_ID, 0))),
        values.get(nf.CTA_PROTO_DST_PORT, 0)
        | values.get(nf.CTA_PROTO_ICMP_TYPE, 0) << 8
        | values.get(nf.CTA_PROTO_ICMP_CODE, 0)
        | values.get(nf.CTA_PROTO_ICMPV6_TYPE, 0) << 8
        | values.get(nf.CTA_PROTO_ICMPV6_CODE, 0))


def _protoinfo(data: bytes) -> TcpInfo | SctpInfo:
    ((kind, inner),) = attrs(data).items()
    part = attrs(inner)
    if kind == nf.CTA_PROTOINFO_TCP:
        return TcpInfo(
            number(part[nf.CTA_PROTOINFO_TCP_STATE]),
            (number(part.get(nf.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, b"")),
             number(part.get(nf.CTA_PROTOINFO_TCP_WSCALE_REPLY, b""))),
            (number(part.get(nf.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, b"")[:1]),
             number(part.get(nf.CTA_PROTOINFO_TCP_FLAGS_REPLY, b"")[:1])))
    assert kind == nf.CTA_PROTOINFO_SCTP
    return SctpInfo(
        number(part[nf.CTA_PROTOINFO_SCTP_STATE]),
        (number(part.get(nf.CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, b"")),
         number(part.get(nf.CTA_PROTOINFO_SCTP_VTAG_REPLY, b""))))


def _seq_adj(data: bytes) -> SeqAdj:
    part = attrs(data)
    before, after = (struct.unpack("!i", part[kind])[0] for kind in (
        nf.CTA_SEQADJ_OFFSET_BEFORE, nf.CTA_SEQADJ_OFFSET_AFTER))
    return SeqAdj(number(part[nf.CTA_SEQADJ_CORRECTION_POS]), before, after)


def _counters(data: bytes) -> tuple[int, int]:
    part = attrs(data)
    return (number(part[nf.CTA_COUNTERS_PACKETS]),
            number(part[nf.CTA_COUNTERS_BYTES]))


def decode_entry(data: bytes, family: int) -> CtEntry:
    """Of the attributes of a dump or of an event."""
    found = attrs(data)
    times = attrs(found.get(nf.CTA_TIMESTAMP, b""))
    return CtEntry(
        decode_tuple(found[nf.CTA_TUPLE_ORIG], family),
        decode_tuple(found[nf.CTA_TUPLE_REPLY], family),
        number(found[nf.CTA_ID]), number(found.get(nf.CTA_ZONE, b"")),
        number(found[nf.CTA_STATUS]),
        number(found.get(nf.CTA_TIMEOUT, b"")),
        number(found.get(nf.CTA_MARK, b"")),
        found.get(nf.CTA_LABELS, bytes(16)),
        _protoinfo(found[nf.CTA_PROTOINFO])
        if nf.CTA_PROTOINFO in found else None,
        (_counters(found[nf.CTA_COUNTERS_ORIG]),
         _counters(found[nf.CTA_COUNTERS_REPLY]))
        if nf.CTA_COUNTERS_ORIG in found else None,
        number(times[nf.CTA_TIMESTAMP_START])
        if nf.CTA_TIMESTAMP_START in times else None,
        number(times.get(nf.CTA_TIMESTAMP_STOP, b"")),
        attrs(found[nf.CTA_HELP])[nf.CTA_HELP_NAME].rstrip(b"\0").decode()
        if nf.CTA_HELP in found else "",
        decode_tuple(found[nf.CTA_TUPLE_MASTER], family)
        if nf.CTA_TUPLE_MASTER in found else None,
        (_seq_adj(found[nf.CTA_SEQ_ADJ_ORIG]),
         _seq_adj(found[nf.CTA_SEQ_ADJ_REPLY]))
        if nf.CTA_SEQ_ADJ_ORIG in found else None,
        number(found.get(nf.CTA_USE, b"\1")))


A4, B4, C4 = bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), bytes([10, 9, 9, 9])
A6, B6, C6 = (bytes([0xfd, *bytes(14), i]) for i in (1, 2, 9))
SEEN = nf.IPS_SEEN_REPLY | nf.IPS_CONFIRMED


def entry(proto: int, sport: int = 1000, dport: int = 80, v6: bool = False,
          **more: object) -> CtEntry:
    """A connection without NAT, and what else is said of it."""
    orig = CtTuple(AF_INET6 if v6 else AF_INET, proto, A6 if v6 else A4,
                   B6 if v6 else B4, sport, dport)
    made = CtEntry(orig, orig.reversed(), 1, status=nf.IPS_CONFIRMED,
                   timeout=1000)
    if proto == 6:
        made = replace(made, protoinfo=TcpInfo(nf.TCP_CONNTRACK_SYN_SENT))
    elif proto == 132:
        made = replace(made, protoinfo=SctpInfo(1))
    return replace(made, **more)


def entries() -> dict[str, CtEntry]:
    """Of all kinds that can be put into the kernel by netlink."""
    found = {
        "tcp": entry(6, protoinfo=TcpInfo(nf.TCP_CONNTRACK_ESTABLISHED,
                                          (7, 9), (0x23, 0x3)),
                     status=SEEN | nf.IPS_ASSURED),
        "tcp, syn": entry(6, 1001),
        "tcp, zone and mark": entry(6, 1002, zone=7, mark=0xdeadbeef),
        "tcp, zone 65535": entry(6, 1002, zone=65535),
        "tcp6": entry(6, 1003, v6=True,
                      protoinfo=TcpInfo(nf.TCP_CONNTRACK_TIME_WAIT)),
        "udp": entry(17, 1000, 53),
        "udp, seen": entry(17, 1001, 53, status=SEEN),
        "udp6, zone": entry(17, 1000, 53, v6=True, zone=3),
        "udplite": entry(136, 1000, 53),
        "icmp": entry(1, 77, 8 << 8),
        "icmp timestamp": entry(1, 77, 13 << 8),
        "icmpv6": entry(58, 77, 128 << 8, v6=True),
        "sctp": entry(132, protoinfo=SctpInfo(
            nf.SCTP_CONNTRACK_ESTABLISHED, (0x11223344, 0x55667788)),
            status=SEEN | nf.IPS_ASSURED),
        "sctp6": entry(132, v6=True, protoinfo=SctpInfo(
            nf.SCTP_CONNTRACK_HEARTBEAT_SENT, (1, 2))),
        "gre": entry(47, 5, 6),
        "other": entry(99, 0, 0),
        "other6": entry(99, 0, 0, v6=True),
        "labels": entry(17, 1004, 53, labels=bytes(range(16))),
        "fixed timeout": entry(17, 1005, 53, status=nf.IPS_CONFIRMED
                               | nf.IPS_FIXED_TIMEOUT),
    }
    for name, one in list(found.items()):
        if name in ("tcp", "tcp6"):
            found[f"{name}, related"] = entry(
                6, 2000 + len(found), 4000, v6=one.orig.family == AF_INET6,
                master=one.orig,
                status=nf.IPS_CONFIRMED | nf.IPS_EXPECTED)
    found["tcp, shifted"] = entry(
        6, 1006, seq_adj=(SeqAdj(0x80000001, -6, 7), SeqAdj(5, 0, -0x7fff)),
        status=nf.IPS_CONFIRMED | nf.IPS_SEQ_ADJUST)
    return found


@st.composite
def tuples(draw: st.DrawFn, family: int | None = None,
           proto: int | None = None) -> CtTuple:
    if family is None:
        family = draw(st.sampled_from([AF_INET, AF_INET6]))
    if proto is None:
        proto = draw(st.one_of(st.sampled_from([1, 6, 17, 47, 58, 132]),
                               st.integers(0, 0xff)))
    size = 4 if family == AF_INET else 16
    address = st.binary(min_size=size, max_size=size)
    ports = st.integers(0, 0 if ends(proto) is Ends.NOTHING else 0xffff)
    return CtTuple(family, proto, draw(address), draw(address), draw(ports),
                   draw(ports))
