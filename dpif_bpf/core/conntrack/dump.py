# SPDX-License-Identifier: Apache-2.0
"""Dumps of many connections at once.

The records of the table are numpy rows.  Those whose attributes are the same
(``wire.ct_layout.Shape``) become the rows of one array of bytes, which starts
as copies of the layout and into which each field is written as a column.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_layout import Layout, Shape, dump_layout
from dpif_bpf.wire.ct_tuple import TupleFilter, port_masks
from dpif_bpf.wire.ctnetlink import CtFilter

Bytes: TypeAlias = NDArray[np.uint8]
Mask: TypeAlias = NDArray[np.bool_]
Records: TypeAlias = NDArray[np.void]
"""Of RECORD."""

TUPLE = np.dtype([("src", "u1", 16), ("dst", "u1", 16), ("sport", "u1", 2),
                  ("dport", "u1", 2), ("zone", "=u2"), ("proto", "u1"),
                  ("family", "u1")])
"""struct ovs_ct_tuple of bpf/lib/abi_ct.h; ports are in network order."""

RECORD = np.dtype([
    ("word", "=u8"), ("orig", TUPLE), ("status", "=u4"), ("state", "u1"),
    ("pad", "u1"), ("policy", "=u2"), ("mark", "=u4"), ("zone_gen", "=u4"),
    ("reply", TUPLE), ("labels", "u1", 16), ("master", "=u4"),
    ("helper", "=u2"), ("master_gen", "=u2"), ("proto", "u1", 64),
    ("packets", "=u8", 2), ("bytes", "=u8", 2), ("start", "=u8"),
    ("adj_pos", "=u4", 2), ("adj_before", "=i4", 2),
    ("adj_after", "=i4", 2)])
"""struct ovs_ct."""

# In RECORD's `proto`, of each direction.
_SCALES, _FLAGS, _VTAGS = (16, 36), (17, 37), (0, 4)


@dataclass(frozen=True, slots=True)
class Batch:
    """Connections, by row, and what their records do not say.

    :param records: RECORD, copies: programs go on writing
    :param ids: CTA_ID of each, u4
    :param timeouts: seconds that each has left, u4
    :param starts: ns since 1970 at which each began, u8
    :param masters: TUPLE: original tuples of the masters, of use where
        IPS_EXPECTED is set
    """

    records: Records
    ids: NDArray[np.uint32]
    timeouts: NDArray[np.uint32]
    starts: NDArray[np.uint64]
    masters: Records

    def __len__(self) -> int:
        return len(self.records)

    def take(self, rows: NDArray[np.intp] | Mask) -> Batch:
        return Batch(take(self.records, rows), self.ids[rows],
                     self.timeouts[rows], self.starts[rows],
                     take(self.masters, rows))


def take(records: Records, rows: NDArray[np.intp] | Mask) -> Records:
    """Rows of a structured array.  Those of one without fields are copied
    whole, which takes a third of the time."""
    whole = np.ascontiguousarray(records).view(f"V{records.itemsize}")
    return whole[rows].view(records.dtype)


def match(filter_: CtFilter, records: Records) -> Mask:
    """Which of them are meant: CtFilter.matches() of each."""
    found: Mask = np.ones(len(records), np.bool_)
    if filter_.family:
        found &= records["orig"]["family"] == filter_.family
    if filter_.zone is not None:
        found &= records["orig"]["zone"] == filter_.zone
    for name, (value, mask) in (("mark", filter_.mark),
                                ("status", filter_.status)):
        if mask or value:
            found &= records[name] & np.uint32(mask) == np.uint32(value)
    for name, part in (("orig", filter_.orig), ("reply", filter_.reply)):
        if part is not None:
            found &= _match_tuple(part, records[name])
    return found


def _match_tuple(part: TupleFilter, tuples: Records) -> Mask:
    one, flags = part.tuple, part.flags
    found: Mask = np.ones(len(tuples), np.bool_)
    size = len(one.src)
    for flag, name, address in (
            (nf.CTA_FILTER_F_CTA_IP_SRC, "src", one.src),
            (nf.CTA_FILTER_F_CTA_IP_DST, "dst", one.dst)):
        if flags & flag:
            wanted = np.frombuffer(address, np.uint8)
            found &= (tuples[name][:, :size] == wanted).all(axis=1)
    if not flags & nf.CTA_FILTER_F_CTA_PROTO_NUM:
        return found
    found &= tuples["proto"] == one.proto
    for name, port, mask in zip(("sport", "dport"), (one.sport, one.dport),
                                port_masks(one.proto, flags), strict=True):
        bits = np.frombuffer(mask.to_bytes(2, "big"), np.uint8)
        value = np.frombuffer((port & mask).to_bytes(2, "big"), np.uint8)
        found &= (tuples[name] & bits == value).all(axis=1)
    return found


def dump(batch: Batch, helpers: Sequence[str],
         header: Callable[[int, int], bytes]) -> Iterator[bytes]:
    """A message of each connection, those of a shape one after another.

    :param helpers: names by number; that of 0, which is none, is empty
    :param header: what comes before the attributes, of (family, their size in
        bytes)
    """
    keys = _keys(batch)
    _, first, inverse = np.unique(keys, return_index=True,
                                  return_inverse=True)
    for number, row in enumerate(first):
        rows = np.flatnonzero(inverse == number)
        shape = _shape(batch, int(row), helpers)
        layout = dump_layout(shape)
        yield from _messages(batch.take(rows), layout,
                             header(shape.family, len(layout.template)))


def _keys(batch: Batch) -> NDArray[np.uint64]:
    """Equal where shapes are."""
    records = batch.records
    expected = records["status"] & np.uint32(nf.IPS_EXPECTED) != 0
    master = np.where(expected, batch.masters["proto"] + np.uint16(1),
                      np.uint16(0))
    keys = np.zeros(len(records), np.uint64)
    for bits, part in (
            (8, records["orig"]["family"]), (8, records["orig"]["proto"]),
            (1, records["orig"]["zone"] != 0),
            (1, records["labels"].any(axis=1)), (16, records["helper"]),
            (9, master),
            (1, records["status"] & np.uint32(nf.IPS_SEQ_ADJUST) != 0)):
        keys = (keys << np.uint64(bits)) | part.astype(np.uint64)
    return keys


def _shape(batch: Batch, row: int, helpers: Sequence[str]) -> Shape:
    record = batch.records[row]
    status = int(record["status"])
    return Shape(
        int(record["orig"]["family"]), int(record["orig"]["proto"]),
        bool(record["orig"]["zone"]), bool(record["labels"].any()),
        helpers[int(record["helper"])],
        int(batch.masters[row]["proto"])
        if status & nf.IPS_EXPECTED else None,
        bool(status & nf.IPS_SEQ_ADJUST), start=True)


def _messages(batch: Batch, layout: Layout,
              header: bytes) -> Iterator[bytes]:
    front = len(header)
    size = front + len(layout.template)
    out = np.empty((len(batch), size), np.uint8)
    out[:] = np.frombuffer(header + layout.template, np.uint8)
    for name, (start, width) in layout.fields.items():
        start += front
        if name == "use":
            out[:, start + width - 1] = 1
        else:
            out[:, start:start + width] = _column(batch, name, width)
    data = out.tobytes()
    for pos in range(0, len(data), size):
        yield data[pos:pos + size]


def _column(batch: Batch, name: str, width: int) -> Bytes:
    """Values of a field, a row each, in network order."""
    records = batch.records
    side, _, part = name.partition(".")
    if part in {"src", "dst"}:
        return _tuples(batch, side)[part][:, :width]
    if part in {"sport", "dport"}:
        return _tuples(batch, side)[part]
    if part in {"type", "code"}:
        place = ("type", "code").index(part)
        return _tuples(batch, side)["dport"][:, place:place + 1]
    if part:
        direction = ("orig", "reply").index(side)
        for key, places in (("scale", _SCALES), ("flags", _FLAGS),
                            ("vtag", _VTAGS)):
            if part == key:
                start = places[direction]
                return records["proto"][:, start:start + width]
        values = records[part if part in {"packets", "bytes"}
                         else f"adj_{part}"][:, direction]
    elif name in {"id", "timeout", "start"}:
        values = getattr(batch, f"{name}s")
    elif name == "labels":
        return records["labels"]
    elif name == "zone":
        values = records["orig"]["zone"]
    else:
        values = records[name]
    return _network(values, width)


def _tuples(batch: Batch, side: str) -> Records:
    found: Records = (batch.masters if side == "master"
                      else batch.records[side])
    return found


def _network(values: NDArray[np.generic], width: int) -> Bytes:
    """Integers as rows of `width` bytes."""
    return np.ascontiguousarray(values.astype(f">u{width}")).view(
        np.uint8).reshape(len(values), width)
