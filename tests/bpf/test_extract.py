# SPDX-License-Identifier: Apache-2.0
"""Flow extract against the oracle: the key that a miss carries."""

from __future__ import annotations

import random

import packets
import pytest
from harness import TC_ACT_SHOT, Datapath, key_words
from oracle_key import Extract, Meta, extract
from packets import difference

from dpif_bpf import abi
from dpif_bpf.abi import DropReason
from dpif_bpf.errors import BackendError
from dpif_bpf.wire.uapi import OVS_PACKET_CMD_MISS

PER_SEED = 1500


def malformed(dp: Datapath) -> int:
    """Packets that were refused so far."""
    return dp.drops().get(DropReason.MALFORMED, 0)


def miss(dp: Datapath, frame: bytes, wanted: Extract | None,
         where: str, before: int) -> None:
    """The upcall of a frame that has just come in, or its drop.

    :param before: malformed packets before it
    """
    if wanted is None:
        assert dp.poll(0) == [], where
        assert malformed(dp) == before + 1, where
        return
    found = dp.poll(1)
    assert len(found) == 1, where
    upcall = found[0]
    assert upcall.cmd == OVS_PACKET_CMD_MISS, where
    assert upcall.packet == frame, where
    assert upcall.key == wanted.key[:len(upcall.key)], where + difference(
        key_words(upcall.key), key_words(wanted.key))


@pytest.mark.parametrize("seed", range(4))
def test_agrees_with_the_oracle(dp: Datapath, seed: int) -> None:
    """Tags are in the frame here, and metadata is given."""
    rng = random.Random(seed)
    for number in range(PER_SEED):
        frame = packets.broken(rng, packets.packet(rng))
        mark, priority = rng.getrandbits(32), rng.getrandbits(32)
        wanted = extract(frame, Meta(in_port=1, skb_mark=mark,
                                     skb_priority=priority))
        before = malformed(dp)
        try:
            result = dp.run(frame, mark=mark, priority=priority)
        except BackendError:
            # BPF_PROG_TEST_RUN refuses frames that end in an IP header.
            assert len(frame) < 14 + 40
            continue
        assert result.retval == TC_ACT_SHOT
        miss(dp, frame, wanted,
             f"seed {seed}, packet {number}: {frame.hex()}: ", before)


@pytest.mark.parametrize("seed", range(4))
def test_agrees_on_what_a_device_receives(dp: Datapath, seed: int) -> None:
    """The kernel has put the outer tag into skb->vlan_tci here."""
    rng = random.Random(100 + seed)
    for number in range(PER_SEED):
        frame = packets.broken(rng, packets.packet(rng))
        if frame[12:14] in {b"\x81\0", b"\x88\xa8"} and len(frame) < 20:
            continue	# dropped by skb_vlan_untag(), before any hook
        wanted = extract(frame, Meta(in_port=2))
        before = malformed(dp)
        dp.ports[2].send(frame)
        miss(dp, frame, wanted,
             f"seed {100 + seed}, packet {number}: {frame.hex()}: ", before)


def test_nothing_is_kept_of_the_packet_before(dp: Datapath) -> None:
    rng = random.Random(7)
    plain = packets.packet(random.Random(1), tags=False)
    wanted = extract(plain, Meta(in_port=1))
    assert wanted is not None
    for _ in range(200):
        dp.run(packets.packet(rng))
        dp.run(plain)
        assert dp.poll(2)[1].key == wanted.key[:abi.OVS_KEY_BASE * 8]
