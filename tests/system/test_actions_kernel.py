# SPDX-License-Identifier: Apache-2.0
"""Lists of actions: core.actions.compiler against the kernel's own datapath.

The kernel is asked to put flows with the lists of tests/action_cases.py: it
must take what core.actions.compiler takes and refuse with the same errno what
that refuses, but for what DIFFERENT tells.  What it then shows must say the
same as what came, which is what our datapath shows.

To run it under Debian's kernels, see test_key_kernel.py.
"""

from __future__ import annotations

import errno
import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass

import action_cases as c
import keys as k
import pytest
from kernel_dp import Kernel, kernel_datapath

from dpif_bpf.core.actions.compiler import compile_actions
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.key import decode as key
from dpif_bpf.wire.netlink import iter_attrs

VERSION = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))

Tree = list[tuple[int, object]]

_LISTS = {uapi.OVS_ACTION_ATTR_CLONE}
_NESTS = {
    uapi.OVS_ACTION_ATTR_SAMPLE: {uapi.OVS_SAMPLE_ATTR_ACTIONS},
    uapi.OVS_ACTION_ATTR_CHECK_PKT_LEN: {
        uapi.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_GREATER,
        uapi.OVS_CHECK_PKT_LEN_ATTR_ACTIONS_IF_LESS_EQUAL},
    uapi.OVS_ACTION_ATTR_DEC_TTL: {uapi.OVS_DEC_TTL_ATTR_ACTION},
}
_SIZES = {(uapi.OVS_ACTION_ATTR_CHECK_PKT_LEN,
           uapi.OVS_CHECK_PKT_LEN_ATTR_PKT_LEN): 2}


def tree(actions: bytes) -> Tree:
    """A list, without what has no meaning: order and repetition of the
    attributes in a block, what dec_ttl has besides, flags, padding."""
    found: Tree = []
    for kind, start, stop in iter_attrs(actions):
        payload = actions[start:stop]
        if kind in _LISTS:
            found.append((kind, tree(payload)))
        elif kind in _NESTS:
            inner: dict[int, object] = {}
            for part, first, end in iter_attrs(payload):
                data = payload[first:end]
                if part in _NESTS[kind]:
                    inner[part] = tree(data)
                elif kind != uapi.OVS_ACTION_ATTR_DEC_TTL:
                    inner[part] = data[:_SIZES.get((kind, part))]
            found.append((kind, inner))
        elif kind in {uapi.OVS_ACTION_ATTR_SET,
                      uapi.OVS_ACTION_ATTR_SET_MASKED}:
            found.append((kind, [(part, payload[first:end]) for
                                 part, first, end in iter_attrs(payload)]))
        else:
            found.append((kind, payload))
    return found


def has(actions: Tree, kinds: set[int]) -> bool:
    """Whether there is such an action, in a block or not."""
    for kind, payload in actions:
        if kind in kinds:
            return True
        blocks = [payload]
        if isinstance(payload, dict):
            blocks = list(payload.values())
        if any(has(block, kinds) for block in blocks
               if isinstance(block, list) and kind not in {3, 11}):
            return True
    return False


def ours(case: c.Case) -> int:
    """errno of core.actions.compiler, 0 when it takes the list."""
    mask = k.ones(case.key) if case.mask is None else case.mask
    if 0 < len(case.actions) < 4:
        return errno.ERANGE  # no attribute: wire.messages
    try:
        compile_actions(case.actions, key.decode_match(case.key, mask).facts)
    except RequestError as error:
        return error.errno
    return 0


@dataclass(frozen=True, slots=True)
class Different:
    """Where core.actions.compiler is not to do what the kernel does.

    :param names: of the cases, a regular expression
    :param kernel: its errno
    :param ours: errno of core.actions.compiler
    """

    names: str
    kernel: int
    ours: int
    why: str


_ETHERNET = ("(.*vlan|.*eth|pop_mpls teb|pop_mpls vlan)")
_INNER = "(clone|dec_ttl)"

DIFFERENT = (
    Different(
        "tcp: hash 1", 0, errno.EINVAL,
        "OVS_HASH_ALG_SYM_L4: 6.12 has it, 6.1 has not"),
    Different(
        r"tcp: userspace [056] of \d+, pid|tcp: userspace: .* behind",
        0, errno.EINVAL,
        "what is not known, or is none, is not passed over"),
    Different(
        r".*: (set|masked) key 2[45] of \d+", 0, errno.EINVAL,
        "ct_mark and ct_labels fail when the kernel runs them"),
    Different(
        r".*pop_mpls (0x8100|0x88a8|vlan)(, .*)?", 0, errno.EINVAL,
        "a tag has no place in a packet without an Ethernet header"),
    Different(
        r"layer 3, mpls: pop_mpls teb, (push_vlan|pop_vlan|pop_eth|set eth)",
        errno.EINVAL, 0,
        "the kernel does not note that Ethernet is uncovered"),
    Different(
        r"layer 3, mpls: pop_mpls teb, push_eth", 0, errno.EINVAL,
        "the same"),
    *(Different(
        rf".*: (add_mpls l2|pop_eth|push_eth|pop_mpls teb), {_INNER} of"
        rf" {_ETHERNET}", kernel, ours,
        "to the kernel a block begins with the headers of the flow's packet")
      for kernel, ours in ((0, errno.EINVAL), (errno.EINVAL, 0))),
)

SINCE = {uapi.OVS_ACTION_ATTR_DROP: (6, 6)}
"""Actions that are newer than the oldest kernel: the first that has them."""
OLD = {kind for kind, since in SINCE.items() if since > VERSION}


def known(name: str, kernel: int, ours: int) -> bool:
    return any(re.fullmatch(one.names, name)
               and (one.kernel, one.ours) == (kernel, ours)
               for one in DIFFERENT)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    with kernel_datapath() as made:
        yield made


def compare(kernel: Kernel, case: c.Case) -> str | None:
    """What is wrong."""
    mask = k.ones(case.key) if case.mask is None else case.mask
    code = kernel.put(case.key, mask, case.actions)
    shown = b"" if code else kernel.take().get(uapi.OVS_FLOW_ATTR_ACTIONS)
    wanted = ours(case)
    if not wanted and code and has(tree(case.actions), OLD):
        return None
    if code != wanted:
        if known(case.name, code, wanted):
            return None
        return f"errno {code} instead of {wanted}"
    if code:
        return None
    assert shown is not None
    return (None if tree(shown) == tree(case.actions)
            else f"shows {shown.hex()}")


@pytest.mark.parametrize("section", [*c.SECTIONS, "unknown"])
def test_kernel(kernel: Kernel, section: str) -> None:
    found = [f"{case.name}: {wrong}" for case in c.cases(section)
             if (wrong := compare(kernel, case)) is not None]
    assert not found, "\n".join(found)
