# SPDX-License-Identifier: Apache-2.0
"""One connection, and its messages in ctnetlink."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_layout import Layout, Shape, dump_layout, event_layout
from dpif_bpf.wire.ct_tuple import CtTuple, Ends, ends
from dpif_bpf.wire.netlink import NLM_F_CREATE, NLM_F_EXCL
from dpif_bpf.wire.nfnetlink import build_nf

_NO_LABELS = bytes(nf.NF_CT_LABELS_MAX_SIZE)


@dataclass(frozen=True, slots=True)
class TcpInfo:
    """CTA_PROTOINFO_TCP; pairs are of the original and the reply direction.

    :param state: TCP_CONNTRACK_*
    :param scales: window scales
    :param flags: IP_CT_TCP_FLAG_*
    """

    state: int
    scales: tuple[int, int] = (0, 0)
    flags: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class SctpInfo:
    """CTA_PROTOINFO_SCTP.

    :param state: SCTP_CONNTRACK_*
    :param vtags: verification tags, host order
    """

    state: int
    vtags: tuple[int, int] = (0, 0)


@dataclass(frozen=True, slots=True)
class SeqAdj:
    """How a helper shifts the sequence numbers of a direction.

    :param pos: sequence number from which `after` counts
    :param before: bytes, signed, before it
    :param after: bytes, signed, from there on
    """

    pos: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class CtEntry:
    """A connection.

    :param orig: tuple of the direction that began it
    :param reply: tuple of the answers
    :param id: what tells it from another that has or had its tuples
    :param zone: conntrack zone
    :param status: IPS_*
    :param timeout: seconds that are left
    :param mark: connection mark
    :param labels: 16 bytes
    :param protoinfo: of TCP and SCTP always, of others None
    :param counters: (packets, bytes) of the original and the reply direction;
        None when nothing is counted
    :param start: ns since 1970 at which it began; None: not known
    :param stop: ns since 1970 at which it ended; 0: it has not
    :param helper: name of its helper, or empty
    :param master: original tuple of the connection that expected this one
    :param seq_adj: of both directions; None: nothing is shifted
    :param use: references to it
    """

    orig: CtTuple
    reply: CtTuple
    id: int
    zone: int = 0
    status: int = 0
    timeout: int = 0
    mark: int = 0
    labels: bytes = _NO_LABELS
    protoinfo: TcpInfo | SctpInfo | None = None
    counters: tuple[tuple[int, int], tuple[int, int]] | None = None
    start: int | None = None
    stop: int = 0
    helper: str = ""
    master: CtTuple | None = None
    seq_adj: tuple[SeqAdj, SeqAdj] | None = None
    use: int = 1

    @property
    def shape(self) -> Shape:
        return Shape(
            self.orig.family, self.orig.proto, bool(self.zone),
            any(self.labels), self.helper,
            None if self.master is None else self.master.proto,
            self.seq_adj is not None, self.counters is not None,
            self.start is not None, bool(self.stop))


def _tuple_values(name: str, one: CtTuple) -> Iterator[
        tuple[str, int | bytes]]:
    yield f"{name}.src", one.src
    yield f"{name}.dst", one.dst
    kind = ends(one.proto)
    if kind is not Ends.NOTHING:
        yield f"{name}.sport", one.sport
    if kind is Ends.PORTS:
        yield f"{name}.dport", one.dport
    elif kind is not Ends.NOTHING:
        yield f"{name}.type", one.dport >> 8
        yield f"{name}.code", one.dport & 0xff


def _values(entry: CtEntry) -> Iterator[tuple[str, int | bytes]]:
    """Name in a Layout, value.  Of those that are not there, any."""
    yield from _tuple_values("orig", entry.orig)
    yield from _tuple_values("reply", entry.reply)
    if entry.master is not None:
        yield from _tuple_values("master", entry.master)
    for name in ("id", "zone", "status", "timeout", "mark", "labels", "use",
                 "stop"):
        yield name, getattr(entry, name)
    yield "start", entry.start or 0
    info = entry.protoinfo
    yield "state", info.state if info is not None else 0
    for i, name in enumerate(("orig", "reply")):
        if isinstance(info, TcpInfo):
            yield f"{name}.scale", info.scales[i]
            yield f"{name}.flags", info.flags[i]
        elif isinstance(info, SctpInfo):
            yield f"{name}.vtag", info.vtags[i]
        if entry.counters is not None:
            yield f"{name}.packets", entry.counters[i][0]
            yield f"{name}.bytes", entry.counters[i][1]
        if entry.seq_adj is not None:
            shift = entry.seq_adj[i]
            yield f"{name}.pos", shift.pos
            yield f"{name}.before", shift.before & 0xffffffff
            yield f"{name}.after", shift.after & 0xffffffff


def _fill(layout: Layout, entry: CtEntry) -> bytes:
    data = bytearray(layout.template)
    for name, value in _values(entry):
        place = layout.fields.get(name)
        if place is None:
            continue
        start, size = place
        data[start:start + size] = (
            value if isinstance(value, bytes) else value.to_bytes(size,
                                                                  "big"))
    return bytes(data)


def encode_entry(entry: CtEntry) -> bytes:
    """Attributes of a connection, as in a dump."""
    return _fill(dump_layout(entry.shape), entry)


def encode_event(entry: CtEntry, events: int) -> tuple[int, bytes]:
    """A notification that nobody asked for: its group and the message.

    :param events: bits 1 << IPCT_*; the message is of the end of a
        connection, of a new one or of a change of one, in this order
    :returns: NFNLGRP_CONNTRACK_* and the message
    """
    cmd, flags = nf.IPCTNL_MSG_CT_NEW, 0
    group = nf.NFNLGRP_CONNTRACK_UPDATE
    if events & 1 << nf.IPCT_DESTROY:
        cmd, group = nf.IPCTNL_MSG_CT_DELETE, nf.NFNLGRP_CONNTRACK_DESTROY
    elif events & (1 << nf.IPCT_NEW | 1 << nf.IPCT_RELATED):
        flags, group = NLM_F_CREATE | NLM_F_EXCL, nf.NFNLGRP_CONNTRACK_NEW
    layout = event_layout(entry.shape, events, bool(entry.timeout),
                          bool(entry.mark))
    return group, build_nf(nf.NFNL_SUBSYS_CTNETLINK, cmd, flags, 0, 0,
                           entry.orig.family, _fill(layout, entry))
