# SPDX-License-Identifier: Apache-2.0
"""What the provider spends on what it is asked, with many flows.

CPU time of its thread, so that what else runs matters little.  Of what is
done in turns, the longest turn counts: others are not served meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from bench.forward import OUTPUT, match
from bench.lab import Lab, lab, port_attrs
from bench.rows import Row
from dpif_bpf.core import slices
from dpif_bpf.core.services.service import LATER
from dpif_bpf.daemon import collect_young_ones
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import NLM_F_CREATE, NLM_F_DUMP, nla, nla_string
from dpif_bpf.wire.protocols import IPPROTO_UDP

FLOWS = 200000
_MS = 1000


def _flow(number: int) -> tuple[bytes, ...]:
    """One of a source address and port, with a UFID, as ovs-vswitchd's."""
    source = number.to_bytes(4, "big")
    key, mask = match(
        b"\x08\0",
        nla(u.OVS_KEY_ATTR_IPV4, source + bytes(4)
            + bytes((IPPROTO_UDP, 0, 0, 0)))
        + nla(u.OVS_KEY_ATTR_UDP, bytes(4)),
        nla(u.OVS_KEY_ATTR_IPV4, b"\xff" * 4 + bytes(4) + b"\xff\0\0\xff"))
    return (nla(u.OVS_FLOW_ATTR_KEY, key), nla(u.OVS_FLOW_ATTR_MASK, mask),
            nla(u.OVS_FLOW_ATTR_ACTIONS, OUTPUT),
            nla(u.OVS_FLOW_ATTR_UFID, source * 4))


def _called(call: Callable[[], object]) -> float:
    """s that a call takes."""
    start = time.thread_time()
    call()
    return time.thread_time() - start


def _rest(made: Lab) -> list[float]:
    """s of each turn in which something is left to be done."""
    (dp,) = made.provider.datapaths()
    times = []
    while dp.flows.flushes.busy or dp.plane.classifier.quarantine_size:
        times.append(_called(made.provider.run))
    return times


def _turns(made: Lab, request: bytes) -> list[float]:
    """s of each turn that a request needs, and of those after its reply."""
    times = []
    start = time.thread_time()
    for reply in made.serve(request):
        if reply == LATER:
            made.provider.run()
        times.append(time.thread_time() - start)
        start = time.thread_time()
    return [*times, time.thread_time() - start, *_rest(made)]


def _told(what: str, times: list[float]) -> Row:
    return Row(f"{what}: the longest turn", max(times) * _MS, "ms",
               note=f"{sum(times) * _MS:.0f} ms in {len(times)} turns")


def _text(lines: Iterator[str]) -> list[float]:
    """s of each slice of a text."""
    times = []
    start = time.thread_time()
    for line in lines:
        if line == slices.LATER:
            times.append(time.thread_time() - start)
            start = time.thread_time()
    return [*times, time.thread_time() - start]


def measure() -> list[Row]:
    """CPU time; nothing to compare with."""
    collect_young_ones()
    with lab(3, FLOWS) as made:
        (dp,) = made.provider.datapaths()
        new = [made.message(u.OVS_FLOW_ID, u.OVS_FLOW_CMD_NEW, *_flow(number),
                            flags=NLM_F_CREATE) for number in range(FLOWS)]
        start = time.thread_time()
        for request in new:
            for _ in made.serve(request):
                pass
        rows = [Row("put of a flow", (time.thread_time() - start) / FLOWS
                    * 1e6, "us")]
        assert len(dp.flows) == FLOWS
        del new
        made.provider.set_bridges({"br0": frozenset(("b1", "b2"))})
        rows.append(_told("dump", _turns(made, made.message(
            u.OVS_FLOW_ID, u.OVS_FLOW_CMD_GET, flags=NLM_F_DUMP))))
        (instance,) = made.provider.instances()
        rows.append(_told("classifier-show", _text(
            instance.plane.classifier.survey())))
        for what, number in (("another port goes", 3),
                             ("the port that has all flows goes", 1)):
            rows.append(_told(what, _turns(made, made.message(
                u.OVS_VPORT_ID, u.OVS_VPORT_CMD_DEL,
                nla_string(u.OVS_VPORT_ATTR_NAME, f"b{number}")))))
        rows.append(_told("a port comes", _turns(made, made.message(
            u.OVS_VPORT_ID, u.OVS_VPORT_CMD_NEW, *port_attrs(3)))))
        removed = _called(lambda: made.provider.set_bridges({}))
        rows.append(_told("its bridge goes, too", [removed, *_rest(made)]))
        rows.append(_told("flush", _turns(made, made.message(
            u.OVS_FLOW_ID, u.OVS_FLOW_CMD_DEL))))
        return rows
