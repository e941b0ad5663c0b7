# SPDX-License-Identifier: Apache-2.0
"""Conntrack of flows and its limits: against the kernel's own datapath.

The kernel is asked to put flows with the actions of tests/ct_cases.py: it must
refuse each with the errno that is told there, and show what is told there.
Requests of limits are put to both, and answered alike.

To run it under Debian's kernels, see test_key_kernel.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

import ct_cases as c
import ct_limits
import keys as k
import pytest
from ct_tables import Zones, kept
from kernel_dp import Kernel, kernel_datapath

from dpif_bpf.core.conntrack.answers import answer_limit
from dpif_bpf.core.conntrack.limits import Limits
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_action import decode_ct, encode_ct
from dpif_bpf.wire.ct_limit import decode_limit
from dpif_bpf.wire.netlink import iter_attrs, nla

HELPER_MODULES = ("nf_conntrack_ftp", "nf_nat_ftp", "nf_conntrack_tftp",
                  "nf_nat_tftp")


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernel_datapath() as made:
        yield made


def _ours(case: c.Case) -> tuple[int, bytes]:
    """errno, and what is shown."""
    try:
        return 0, encode_ct(decode_ct(case.payload, 0, len(case.payload),
                                      *c.FACTS[case.flow]))
    except RequestError as error:
        return error.errno, b""


def _wrong(kernel: Kernel, case: c.Case) -> str | None:
    attrs = k.KEYS[case.flow]
    code = kernel.put(attrs, k.ones(attrs),
                      nla(uapi.OVS_ACTION_ATTR_CT, case.payload))
    shown = b"" if code else kernel.take()[uapi.OVS_FLOW_ATTR_ACTIONS]
    wanted, ours = _ours(case)
    if code != wanted or code != case.errno:
        return f"errno {code} instead of {wanted}"
    return None if shown == ours else f"shows {shown.hex()}, not {ours.hex()}"


def _compare(kernel: Kernel, cases: Iterable[c.Case]) -> None:
    found = [f"{case.flow}: {case.name}: {wrong}" for case in cases
             if (wrong := _wrong(kernel, case)) is not None]
    assert not found, "\n".join(found)


def test_lists(kernel: Kernel) -> None:
    _compare(kernel, c.CASES)


def test_sizes(kernel: Kernel) -> None:
    _compare(kernel, c.sizes())


def test_helpers(kernel: Kernel) -> None:
    loaded = [subprocess.run(["modprobe", name], check=False,
                             capture_output=True).returncode
              for name in HELPER_MODULES]
    if any(loaded):
        pytest.skip("the kernel has no modules for ftp and tftp")
    _compare(kernel, c.helpers())


def test_clear(kernel: Kernel) -> None:
    attrs = k.KEYS["tcp"]
    clear = nla(uapi.OVS_ACTION_ATTR_CT_CLEAR, b"")
    assert kernel.put(attrs, k.ones(attrs), clear) == 0
    assert kernel.take()[uapi.OVS_FLOW_ATTR_ACTIONS] == clear
    assert kernel.put(attrs, k.ones(attrs), nla(
        uapi.OVS_ACTION_ATTR_CT_CLEAR, bytes(4)))


def _limits(raw: bytes) -> set[bytes]:
    """Those of a reply's attribute, whose order may be any."""
    return {raw[pos:pos + 12] for pos in range(0, len(raw), 12)}


def test_limits(kernel: Kernel) -> None:
    family = kernel.family("ovs_ct_limit")
    ours = Limits(Zones(), kept())
    every = b""
    for cmd, payload in (
            (ct_limits.GET, every),
            (ct_limits.SET, ct_limits.zone_limits(
                (-1, 10), (1, 5), (65535, 0), (1, 6))),
            (ct_limits.GET, every),
            (ct_limits.GET, ct_limits.zone_limits((1, 0), (2, 0), (-1, 0))),
            (ct_limits.GET, ct_limits.zone_limits()),
            (ct_limits.SET, ct_limits.zone_limits((-1, 0xffffffff))),
            (ct_limits.DEL, ct_limits.zone_limits((1, 0), (2, 0))),
            (ct_limits.GET, every),
            (ct_limits.GET, ct_limits.zone_limits((1, 0))),
            (ct_limits.DEL, ct_limits.zone_limits((-1, 0), (65535, 0))),
            (ct_limits.GET, every)):
        code, found = kernel.ask(family, cmd, payload)
        assert code == 0
        reply = answer_limit(decode_limit(ct_limits.message(cmd, payload)),
                             ours)
        wanted = {kind: reply[start:stop]
                  for kind, start, stop in iter_attrs(reply, 24)}
        assert wanted.keys() == found.keys()
        for kind, value in wanted.items():
            assert _limits(value) == _limits(found[kind])
            if payload:
                assert value == found[kind]


def test_limits_refused(kernel: Kernel) -> None:
    family = kernel.family("ovs_ct_limit")
    for case in ct_limits.REFUSED:
        code, _ = kernel.ask(family, case.cmd, case.payload)
        assert (case.name, code) == (
            case.name, case.errno if case.kernel is None else case.kernel)
