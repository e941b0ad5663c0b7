# SPDX-License-Identifier: Apache-2.0
"""One file knows what a hook hands over, and there can be another one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from gen_frames import frames
from harness import TC_ACT_REDIRECT, Datapath, insn
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from objects import TOP, compile_object
from oracle_key import Meta, extract

from dpif_bpf import abi
from dpif_bpf.abi import Op
from dpif_bpf.edge import bpfprog
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.errors import BackendError

EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", "150"))
SEED = int(os.environ.get("AGREEMENT_SEED", "1"))
SHARED = ("ovs_buckets", "ovs_descs", "ovs_flows", "ovs_roots", "ovs_values")
MASKS = (("eth_type", "ip_proto", "tp_dst"), ("eth_dst", "vlan_tci"),
         ("eth_type", "ipv6_dst", "nd_target"), ("mpls_lse", "nsh_path_hdr"))

OWN = {"ctx.h", "ctx_skb.h", "ctx_skb_base.h", "ctx_xdp.h",
       "ctx_xdp_base.h", "kern.h"}
"""The headers that may know."""
KNOWING = re.compile(
    r"__sk_buff|xdp_md|TC_ACT_|XDP_[A-Z]|bpf_skb_\w+\(|bpf_xdp_\w+\("
    r"|bpf_(clone_redirect|redirect|l4_csum_replace|csum_update"
    r"|get_hash_recalc|set_hash_invalid)\(|BPF_CORE_READ|\bskb->|ctx->"
    r"|ctx_get\(")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def test_no_other_file_knows_the_hook() -> None:
    found = []
    for path in sorted((TOP / "bpf").rglob("*.[ch]")):
        if path.name not in OWN:
            text = COMMENT.sub("", path.read_text("utf-8"))
            found += [f"{path.name}: {line.strip()}"
                      for line in text.splitlines() if KNOWING.search(line)]
    assert found == []


@pytest.fixture(scope="module")
def xdp(datapath: Datapath, tmp_path_factory: pytest.TempPathFactory,
        ) -> Iterator[int]:
    path = compile_object(Path(__file__).parent / "xdp.bpf.c",
                          tmp_path_factory.mktemp("xdp"))
    with BpfObject(path) as obj:
        for name in SHARED:
            obj.reuse_map(name, datapath.obj.map_fd(name))
        obj.load()
        yield obj.prog_fd("t_xdp")


def mask_of(fields: tuple[str, ...]) -> bytes:
    mask = bytearray(abi.KEY.size)
    for name in fields:
        mask[abi.KEY[name].slice] = b"\xff" * abi.KEY[name].size
    return bytes(mask)


def test_xdp_finds_the_same_flow(dp: Datapath, xdp: int) -> None:
    """Of the oracle's frames, some have a flow by one of MASKS."""
    hits = 0

    @seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None,
              suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))
    @given(st.lists(frames(), min_size=1, max_size=4),
           st.lists(frames(), max_size=4))
    def check(some: list[bytes], more: list[bytes]) -> None:
        nonlocal hits
        dp.clear()
        flows = []
        for frame, fields in zip(some, MASKS, strict=False):
            parsed = extract(frame, Meta(in_port=1))
            if parsed is not None:
                flows.append(dp.add_flow(insn(Op.OUTPUT_LAST, 2),
                                         parsed.key, mask_of(fields)))
        for frame in some + more:
            if extract(frame, Meta(in_port=1)) is None:
                continue
            before = [dp.flow_stats(flow)[0] for flow in flows]
            try:
                verdict = dp.run(frame).retval
            except BackendError:
                assert len(frame) < 14 + 40     # it ends in an IP header
                continue
            matched = [flow for flow, count in zip(flows, before, strict=True)
                       if dp.flow_stats(flow)[0] > count]
            found = bpfprog.test_run(xdp, frame).retval
            assert [found - 1] * bool(found) == matched, frame.hex()
            assert (verdict == TC_ACT_REDIRECT) == bool(found)
            hits += bool(found)

    check()
    assert hits > EXAMPLES
