# SPDX-License-Identifier: Apache-2.0
"""Where a tuple's hash leads: ovs_ct_hash_of() and ovs_ct_bucket_of() of
bpf/lib/ct_table.h, for one tuple and for many at once."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

import numpy as np
from numpy.typing import NDArray

from dpif_bpf import abi_ct
from dpif_bpf.core.conntrack.dump import Records
from dpif_bpf.wire.protocols import IPPROTO_ICMP, IPPROTO_ICMPV6

_TUPLE = Struct("=4QHHHBB")
_RANDOM = Struct("=8I2Q")
_MULT = 0xd6e8feb86659fd93
_M32, _M64 = (1 << 32) - 1, (1 << 64) - 1
_TOP = 1 << 63

Words = NDArray[np.uint64]


class Hash:
    """The hash of a table.

    :param conf: ovs_ct_conf
    :param buckets: elements of ovs_ct_tab
    """

    def __init__(self, conf: bytes, buckets: int) -> None:
        words: tuple[int, ...] = _RANDOM.unpack_from(conf)
        *self._random, self._port, self._rest = words
        self._mask = buckets - 1

    def one(self, tuple_: bytes) -> int:
        """Of a struct ovs_ct_tuple, or of its inverse."""
        words: tuple[int, ...] = _TUPLE.unpack(tuple_)
        a, b, c, d, sport, dport, zone, proto, _ = words
        if proto in (IPPROTO_ICMP, IPPROTO_ICMPV6):
            dport = sport
        h = self._end(a, b, sport) + self._end(c, d, dport) & _M64
        h ^= ((proto << 16 | zone) + 1) * self._rest & _M64
        h ^= h >> 32
        h = h * _MULT & _M64
        return h ^ h >> 32 | _TOP

    def _end(self, a: int, b: int, port: int) -> int:
        r = self._random
        h = ((a & _M32) + r[0]) * ((a >> 32) + r[1])
        h += ((b & _M32) + r[2]) * ((b >> 32) + r[3])
        h = h + port * self._port & _M64
        h ^= h >> 32
        h = h * _MULT & _M64
        return h ^ h >> 29

    def buckets(self, h: int) -> Iterator[int]:
        """Those that are looked into, in their order."""
        for n in range(abi_ct.OVS_CT_PROBES):
            yield (h + n * (h >> 20 | 1)) & self._mask

    def many(self, tuples: Records) -> Words:
        """Of core.conntrack.dump.TUPLE."""
        words: Words = np.ascontiguousarray(tuples).view("=u8").reshape(
            -1, 5)
        sport = words[:, 4] & np.uint64(0xffff)
        dport = words[:, 4] >> np.uint64(16) & np.uint64(0xffff)
        zone = words[:, 4] >> np.uint64(32) & np.uint64(0xffff)
        proto = words[:, 4] >> np.uint64(48) & np.uint64(0xff)
        dport = np.where((proto == IPPROTO_ICMP) | (proto == IPPROTO_ICMPV6),
                         sport, dport)
        h: Words = (self._ends(words[:, 0], words[:, 1], sport)
                    + self._ends(words[:, 2], words[:, 3], dport))
        h ^= ((proto << np.uint64(16) | zone)
              + np.uint64(1)) * np.uint64(self._rest)
        h ^= h >> np.uint64(32)
        h *= np.uint64(_MULT)
        return h ^ h >> np.uint64(32) | np.uint64(_TOP)

    def _ends(self, a: Words, b: Words, port: Words) -> Words:
        r: list[np.uint64] = [np.uint64(word) for word in self._random]
        low, half = np.uint64(_M32), np.uint64(32)
        h: Words = ((a & low) + r[0]) * ((a >> half) + r[1])
        h += ((b & low) + r[2]) * ((b >> half) + r[3])
        h += port * np.uint64(self._port)
        h ^= h >> half
        h *= np.uint64(_MULT)
        return h ^ h >> np.uint64(29)

    def bucket(self, hashes: Words, n: int) -> NDArray[np.intp]:
        """The bucket of each that is looked into as number `n`."""
        return ((hashes + np.uint64(n) * (
            hashes >> np.uint64(20) | np.uint64(1)))
            & np.uint64(self._mask)).astype(np.intp)
