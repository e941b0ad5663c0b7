# SPDX-License-Identifier: Apache-2.0
"""OVS_ACTION_ATTR_CT: wire.ct_action against the kernel's own datapath.

The kernel is asked to put flows with the actions of tests/ct_cases.py: it must
refuse each with the errno that is told there, and show what is told there.

To run it under Debian's kernels, see test_key_kernel.py.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator

import ct_cases as c
import keys as k
import pytest
from kernel_dp import Kernel, kernel_datapath

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.ct_action import decode_ct, encode_ct
from dpif_bpf.wire.netlink import nla

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
