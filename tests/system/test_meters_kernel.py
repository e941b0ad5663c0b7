# SPDX-License-Identifier: Apache-2.0
"""What tests/meter_cases.py says of the kernel is true, where the kernel has
a datapath of its own; so is tests/oracle_meter.py.

To run it under Debian's kernels, see test_key_kernel.py.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator

import keys as k
import pytest
from kernel_dp import Attrs, Kernel, kernel_datapath
from meter_cases import (
    CLEAR,
    DEL,
    GET,
    REFUSED,
    SET,
    STRICT,
    TAKEN,
    Request,
    band,
    bands,
    ident,
    stats,
)
from oracle_meter import DROP, Band, Meter

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import iter_attrs, nla, nla_u32

PACKET = k.DST + k.SRC + b"\x88\xcc" + bytes(86)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernel_datapath() as made:
        yield made


def ask(kernel: Kernel, request: Request) -> tuple[int, Attrs]:
    cmd, attrs = request
    return kernel.ask(kernel.family("ovs_meter"), cmd, attrs)


def good(kernel: Kernel, cmd: int, *attrs: bytes) -> Attrs:
    code, found = ask(kernel, (cmd, b"".join(attrs)))
    assert code == 0
    return found


def counted(found: Attrs) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    data = found[u.OVS_METER_ATTR_BANDS]
    return u.OVS_FLOW_STATS.unpack(found[u.OVS_METER_ATTR_STATS]), [
        u.OVS_FLOW_STATS.unpack(data[start + 4:stop])
        for _, start, stop in iter_attrs(data)]


@pytest.mark.parametrize("case", REFUSED)
def test_refused(kernel: Kernel, case: str) -> None:
    code, _ = ask(kernel, REFUSED[case])
    assert code in {errno.EINVAL, errno.ERANGE}


@pytest.mark.parametrize("case", STRICT | TAKEN)
def test_taken(kernel: Kernel, case: str) -> None:
    ask(kernel, (DEL, ident(0xffffffff)))
    ask(kernel, (DEL, ident(1)))
    good(kernel, SET, ident(1), bands(band()))
    code, _ = ask(kernel, (STRICT | TAKEN)[case])
    assert code == 0


def test_replies(kernel: Kernel) -> None:
    """As tests/unit/core/test_meters.py has them."""
    good(kernel, DEL, ident(7))
    assert ask(kernel, (GET, ident(7)))[0] == errno.ENOENT
    assert good(kernel, SET, ident(7), stats(3, 4), bands(band())).keys() == {
        u.OVS_METER_ATTR_ID}
    told = good(kernel, SET, ident(7), CLEAR, bands())
    assert told.keys() == {
        u.OVS_METER_ATTR_ID, u.OVS_METER_ATTR_STATS, u.OVS_METER_ATTR_USED,
        u.OVS_METER_ATTR_BANDS}
    assert counted(told) == ((3, 4), [(0, 0)])
    assert good(kernel, SET, ident(7), bands()).keys() == {
        u.OVS_METER_ATTR_ID}
    assert counted(good(kernel, GET, ident(7))) == ((0, 0), [])
    assert counted(good(kernel, DEL, ident(7))) == ((0, 0), [])
    assert good(kernel, DEL, ident(7)) == {}


@pytest.mark.parametrize(("kbps", "rate", "burst"), [
    (False, 1, 3), (False, 1, 0), (True, 1, 2), (True, 8, 4)])
def test_oracle(kernel: Kernel, kbps: bool, rate: int, burst: int) -> None:
    """At the times that the kernel tells."""
    good(kernel, SET, ident(9), nla(u.OVS_METER_ATTR_KBPS, b"") * kbps,
         bands(band(rate, burst)))
    made, = struct.unpack("=Q", good(kernel, GET, ident(9))[
        u.OVS_METER_ATTR_USED])
    model = Meter(kbps, [Band(DROP, rate, burst)], made)
    for _ in range(8):
        code, _ = kernel.ask(
            kernel.family("ovs_packet"), u.OVS_PACKET_CMD_EXECUTE,
            nla(u.OVS_PACKET_ATTR_PACKET, PACKET),
            nla(u.OVS_PACKET_ATTR_KEY, k.KEYS["802.2"]),
            nla(u.OVS_PACKET_ATTR_ACTIONS,
                nla_u32(u.OVS_ACTION_ATTR_METER, 9)))
        assert code == 0
        found = good(kernel, GET, ident(9))
        used, = struct.unpack("=Q", found[u.OVS_METER_ATTR_USED])
        model.execute(used, len(PACKET))
        assert counted(found) == (
            (model.packets, model.bytes),
            [(model.bands[0].packets, model.bands[0].bytes)])
