# SPDX-License-Identifier: Apache-2.0
"""The flow sets of the classifier's benchmark."""

from __future__ import annotations

import random

import pytest
from forests import Forest
from ovs.flow.kv import ParseError

from bench import flowsets, odpflows
from dpif_bpf import abi
from dpif_bpf.core.classifier.sizes import Sizes
from dpif_bpf.core.slices import whole

KEY = abi.KEY


def fields(image: int) -> dict[str, bytes]:
    """The fields of an image that are not zero."""
    raw = image.to_bytes(KEY.size, "little")
    return {name: raw[field.slice]
            for name, field in (*KEY.fields.items(), *KEY.aliases.items())
            if any(raw[field.slice])}


def test_reads_what_dump_flows_prints() -> None:
    key, mask = odpflows.parse(
        "recirc_id(0x7),ct_state(+new-est-inv+trk),in_port(3),"
        "eth(dst=50:54:00:00:00:22),eth_type(0x0800),"
        "ipv4(src=10.0.0.0/255.255.252.0,proto=6,frag=no),"
        "tcp(dst=16384/0xc000), packets:1, bytes:60, used:0.1s, actions:2")
    found = fields(mask)
    assert found.pop("mac_proto") == found.pop("ip_frag") == b"\xff"
    assert found.pop("ipv6_src")[:4] == found["ipv4_src"]
    assert found == {
        "in_port": b"\xff" * 2, "recirc_id": b"\xff" * 4,
        "eth_type": b"\xff\xff", "ip_proto": b"\xff", "ct_state": b"\x33",
        "eth_dst": b"\xff" * 6, "tp_dst": b"\xc0\0",
        "ipv4_src": b"\xff\xff\xfc\0"}
    found = fields(key)
    del found["ipv6_src"]
    assert found == {
        "in_port": b"\3\0", "recirc_id": b"\7\0\0\0",
        "eth_type": b"\x08\0", "ip_proto": b"\6", "ct_state": b"\x21",
        "eth_dst": bytes.fromhex("505400000022"), "tp_dst": b"\x40\0",
        "ipv4_src": b"\x0a\0\0\0"}


@pytest.mark.parametrize("line", [
    "recirc_id(0),in_port(1),eth_type(0x0800),ipv4(frag=no,nonsense=1)",
    "recirc_id(0),in_port(1),nsh(flags=0)",
])
def test_refuses_what_it_does_not_know(line: str) -> None:
    with pytest.raises((ValueError, ParseError)):
        odpflows.parse(line)


@pytest.mark.parametrize("masks", [1, 4, 64, 1024, 2048])
def test_made_up_sets_have_their_masks(masks: int) -> None:
    flows = flowsets.pipeline(masks, 4096, random.Random(1))
    assert len(flows) == len(set(flows)) == 4096
    assert len({mask for _, mask in flows}) == masks
    flows = flowsets.explosion(masks, 4096, random.Random(1))
    assert len({mask for _, mask in flows}) == masks


def test_real_sets_fit_into_few_trees() -> None:
    """Each packet of a real set finds its flow, by few probes."""
    assert odpflows.names() == ["acl", "churn", "normal", "ovn"]
    flows = odpflows.read("acl")
    made = Forest(Sizes.for_flows(len(flows)))
    made.add_root(0)
    for flow in flows:
        made.insert(0, *flow)
    told = whole(made.cls.survey())
    assert told.masks > 1000
    assert len(told.roots[0].trees) <= 3
    assert max(told.roots[0].depth) < 32
    rng = random.Random(1)
    for key, i in flowsets.packets(flows, "random", 500, rng):
        found = made.reader.find(0, key)
        assert found is not None and made.flows[0][found] == flows[i]
    for key, _ in flowsets.packets(flows, "miss", 500, rng):
        made.check_key(0, key)


def test_overlapping_flows_fit_into_few_trees() -> None:
    """Packets of flows of old rules and of new ones find one that matches."""
    flows = odpflows.read("churn")
    made = Forest(Sizes.for_flows(len(flows)))
    made.add_root(0)
    for flow in flows:
        made.insert(0, *flow)
    assert 1 < len(whole(made.cls.survey()).roots[0].trees) <= 8
    for key, _ in flowsets.packets(flows, "random", 500, random.Random(1)):
        found = made.reader.find(0, key)
        assert found is not None
        flow_key, mask = made.flows[0][found]
        assert key & mask == flow_key


def test_kinds_of_packets() -> None:
    flows = flowsets.pipeline(64, 4096, random.Random(1))
    for kind, count in (("hit", flowsets.HIT_FLOWS), ("random", 1000)):
        found = flowsets.packets(flows, kind, 2048, random.Random(1))
        assert all(key & flows[i][1] == flows[i][0] for key, i in found)
        assert (len({i for _, i in found}) == count if kind == "hit"
                else len({i for _, i in found}) > count)
