# SPDX-License-Identifier: Apache-2.0
"""Connections as ctnetlink shows them, by layout.

Which attributes an entry has, and so where each value of it stands, depends on
little: its protocol, whether it is in zone 0, has labels, a helper, a master.
A :class:`Layout` is the bytes of all entries that are alike in this
(:class:`Shape`), with zeros for the values and the places of these.  One entry
is encoded by putting its values there; a dump of many does the same in one
step for all that have the layout (``core.conntrack.dump``).

Attributes and their order are those of ctnetlink_fill_info() and
ctnetlink_conntrack_event() of Linux net/netfilter/nf_conntrack_netlink.c.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_tuple import AF_INET, Ends, ends
from dpif_bpf.wire.netlink import (
    NLA_F_NESTED,
    NLA_HDRLEN,
    NLATTR,
    PADDING,
    nla_string,
)
from dpif_bpf.wire.protocols import IPPROTO_SCTP, IPPROTO_TCP


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the attributes of an entry.

    :param family: AF_INET or AF_INET6
    :param proto: IP protocol
    :param zone: whether the zone is not 0
    :param labels: whether a label is set
    :param helper: name of the helper, or empty
    :param master: IP protocol of the connection that expected this one, or
        None
    :param seq_adj: whether sequence numbers are shifted
    :param counters: whether packets and bytes are counted
    :param start: whether it is known when it began
    :param stop: whether it has ended
    """

    family: int
    proto: int
    zone: bool = False
    labels: bool = False
    helper: str = ""
    master: int | None = None
    seq_adj: bool = False
    counters: bool = True
    start: bool = False
    stop: bool = False


Span = tuple[int, int]
"""Offset and size in bytes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Attributes without values.

    :param template: the attributes, padded
    :param fields: where the values are, in network order unless it is said:

        - orig, reply and master, each with .src, .dst, and .sport, .dport of
          2 bytes; of ICMP .type and .code of 1 byte in place of .dport
        - zone 2; status, mark, id, use, timeout 4; labels 16
        - state 1; of TCP .scale and .flags 1, of SCTP .vtag 4, behind orig
          and reply
        - packets and bytes 8, pos, before, after 4, behind orig and reply
        - start, stop 8
    """

    template: bytes
    fields: Mapping[str, Span]


class _Writer:
    def __init__(self) -> None:
        self._data = bytearray()
        self.fields: dict[str, Span] = {}

    def layout(self) -> Layout:
        return Layout(bytes(self._data), self.fields)

    def raw(self, data: bytes) -> None:
        self._data += data

    def const(self, kind: int, value: bytes) -> None:
        self._attr(kind, len(value))
        self._data += value + PADDING[len(value) & 3]

    def field(self, kind: int, name: str, size: int,
              behind: bytes = b"") -> None:
        """An attribute with a value that changes, then one that does not."""
        self._attr(kind, size + len(behind))
        self.fields[name] = len(self._data), size
        value = bytes(size) + behind
        self._data += value + PADDING[len(value) & 3]

    def begin(self, kind: int) -> int:
        self._data += NLATTR.pack(0, kind | NLA_F_NESTED)
        return len(self._data) - NLA_HDRLEN

    def end(self, start: int) -> None:
        kind = NLATTR.unpack_from(self._data, start)[1]
        NLATTR.pack_into(self._data, start, len(self._data) - start, kind)

    def _attr(self, kind: int, size: int) -> None:
        self._data += NLATTR.pack(NLA_HDRLEN + size, kind)


def _tuple(out: _Writer, kind: int, name: str, family: int,
           proto: int) -> None:
    whole = out.begin(kind)
    ip = out.begin(nf.CTA_TUPLE_IP)
    if family == AF_INET:
        out.field(nf.CTA_IP_V4_SRC, f"{name}.src", 4)
        out.field(nf.CTA_IP_V4_DST, f"{name}.dst", 4)
    else:
        out.field(nf.CTA_IP_V6_SRC, f"{name}.src", 16)
        out.field(nf.CTA_IP_V6_DST, f"{name}.dst", 16)
    out.end(ip)
    part = out.begin(nf.CTA_TUPLE_PROTO)
    out.const(nf.CTA_PROTO_NUM, bytes([proto]))
    kind_of_ends = ends(proto)
    if kind_of_ends is Ends.PORTS:
        out.field(nf.CTA_PROTO_SRC_PORT, f"{name}.sport", 2)
        out.field(nf.CTA_PROTO_DST_PORT, f"{name}.dport", 2)
    elif kind_of_ends is Ends.ICMP:
        out.field(nf.CTA_PROTO_ICMP_ID, f"{name}.sport", 2)
        out.field(nf.CTA_PROTO_ICMP_TYPE, f"{name}.type", 1)
        out.field(nf.CTA_PROTO_ICMP_CODE, f"{name}.code", 1)
    elif kind_of_ends is Ends.ICMPV6:
        out.field(nf.CTA_PROTO_ICMPV6_ID, f"{name}.sport", 2)
        out.field(nf.CTA_PROTO_ICMPV6_TYPE, f"{name}.type", 1)
        out.field(nf.CTA_PROTO_ICMPV6_CODE, f"{name}.code", 1)
    out.end(part)
    out.end(whole)


def _tuples(out: _Writer, shape: Shape) -> None:
    _tuple(out, nf.CTA_TUPLE_ORIG, "orig", shape.family, shape.proto)
    _tuple(out, nf.CTA_TUPLE_REPLY, "reply", shape.family, shape.proto)
    if shape.zone:
        out.field(nf.CTA_ZONE, "zone", 2)


def _protoinfo(out: _Writer, shape: Shape, destroy: bool = False) -> None:
    if shape.proto not in (IPPROTO_TCP, IPPROTO_SCTP):
        return
    info = out.begin(nf.CTA_PROTOINFO)
    if shape.proto == IPPROTO_TCP:
        tcp = out.begin(nf.CTA_PROTOINFO_TCP)
        out.field(nf.CTA_PROTOINFO_TCP_STATE, "state", 1)
        if not destroy:
            out.field(nf.CTA_PROTOINFO_TCP_WSCALE_ORIGINAL, "orig.scale", 1)
            out.field(nf.CTA_PROTOINFO_TCP_WSCALE_REPLY, "reply.scale", 1)
            # Flags, and a mask that says nothing here.
            out.field(nf.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, "orig.flags", 1,
                      b"\0")
            out.field(nf.CTA_PROTOINFO_TCP_FLAGS_REPLY, "reply.flags", 1,
                      b"\0")
        out.end(tcp)
    else:
        sctp = out.begin(nf.CTA_PROTOINFO_SCTP)
        out.field(nf.CTA_PROTOINFO_SCTP_STATE, "state", 1)
        if not destroy:
            out.field(nf.CTA_PROTOINFO_SCTP_VTAG_ORIGINAL, "orig.vtag", 4)
            out.field(nf.CTA_PROTOINFO_SCTP_VTAG_REPLY, "reply.vtag", 4)
        out.end(sctp)
    out.end(info)


def _counters(out: _Writer, shape: Shape) -> None:
    if not shape.counters:
        return
    for kind, name in ((nf.CTA_COUNTERS_ORIG, "orig"),
                       (nf.CTA_COUNTERS_REPLY, "reply")):
        counters = out.begin(kind)
        out.field(nf.CTA_COUNTERS_PACKETS, f"{name}.packets", 8)
        out.field(nf.CTA_COUNTERS_BYTES, f"{name}.bytes", 8)
        out.end(counters)


def _timestamp(out: _Writer, shape: Shape) -> None:
    if not shape.start:
        return
    times = out.begin(nf.CTA_TIMESTAMP)
    out.field(nf.CTA_TIMESTAMP_START, "start", 8)
    if shape.stop:
        out.field(nf.CTA_TIMESTAMP_STOP, "stop", 8)
    out.end(times)


def _helper(out: _Writer, shape: Shape) -> None:
    if shape.helper:
        helper = out.begin(nf.CTA_HELP)
        out.raw(nla_string(nf.CTA_HELP_NAME, shape.helper))
        out.end(helper)


def _labels(out: _Writer, shape: Shape) -> None:
    if shape.labels:
        out.field(nf.CTA_LABELS, "labels", nf.NF_CT_LABELS_MAX_SIZE)


def _master(out: _Writer, shape: Shape) -> None:
    if shape.master is not None:
        _tuple(out, nf.CTA_TUPLE_MASTER, "master", shape.family,
               shape.master)


def _seq_adj(out: _Writer, shape: Shape) -> None:
    if not shape.seq_adj:
        return
    for kind, name in ((nf.CTA_SEQ_ADJ_ORIG, "orig"),
                       (nf.CTA_SEQ_ADJ_REPLY, "reply")):
        shift = out.begin(kind)
        out.field(nf.CTA_SEQADJ_CORRECTION_POS, f"{name}.pos", 4)
        out.field(nf.CTA_SEQADJ_OFFSET_BEFORE, f"{name}.before", 4)
        out.field(nf.CTA_SEQADJ_OFFSET_AFTER, f"{name}.after", 4)
        out.end(shift)


@functools.lru_cache(maxsize=1024)
def dump_layout(shape: Shape) -> Layout:
    """Of the reply to IPCTNL_MSG_CT_GET."""
    out = _Writer()
    _tuples(out, shape)
    out.field(nf.CTA_STATUS, "status", 4)
    out.field(nf.CTA_MARK, "mark", 4)
    out.field(nf.CTA_ID, "id", 4)
    out.field(nf.CTA_USE, "use", 4)
    _master(out, shape)
    out.field(nf.CTA_TIMEOUT, "timeout", 4)
    _protoinfo(out, shape)
    _counters(out, shape)
    _timestamp(out, shape)
    _helper(out, shape)
    _labels(out, shape)
    _seq_adj(out, shape)
    return out.layout()


@functools.lru_cache(maxsize=1024)
def event_layout(shape: Shape, events: int, timeout: bool,
                 mark: bool) -> Layout:
    """Of a notification.

    :param events: bits 1 << IPCT_*: what has happened
    :param timeout: whether there is time left
    :param mark: whether the mark is not 0
    """
    out = _Writer()
    _tuples(out, shape)
    out.field(nf.CTA_ID, "id", 4)
    out.field(nf.CTA_STATUS, "status", 4)
    if events & 1 << nf.IPCT_DESTROY:
        if timeout:
            out.field(nf.CTA_TIMEOUT, "timeout", 4)
        _counters(out, shape)
        _timestamp(out, shape)
        _protoinfo(out, shape, destroy=True)
    else:
        out.field(nf.CTA_TIMEOUT, "timeout", 4)
        for event, part in ((nf.IPCT_PROTOINFO, _protoinfo),
                            (None, _helper),
                            (nf.IPCT_LABEL, _labels),
                            (nf.IPCT_RELATED, _master),
                            (nf.IPCT_SEQADJ, _seq_adj)):
            if event is None or events & 1 << event:
                part(out, shape)
    if mark or events & 1 << nf.IPCT_MARK:
        out.field(nf.CTA_MARK, "mark", 4)
    return out.layout()
