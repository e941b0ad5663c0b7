# SPDX-License-Identifier: Apache-2.0
"""The cases of cases.py and cases_*.py through real devices."""

from __future__ import annotations

import pytest
from cases import CASES
from cases_encap import CASES as ENCAP
from cases_nsh import CASES as NSH
from frames import Case
from harness import Datapath
from lists import compiled
from oracle_key import Meta, extract

from dpif_bpf import abi
from dpif_bpf.abi import DropReason
from dpif_bpf.wire.uapi import OVS_PACKET_CMD_ACTION


@pytest.mark.parametrize("case", CASES + ENCAP + NSH,
                         ids=lambda case: str(case.name))
def test_case(dp: Datapath, case: Case) -> None:
    frame = bytes(case.packet)
    parsed = extract(frame, Meta(in_port=1))
    assert parsed is not None
    mask = bytearray(abi.KEY.size)
    mask[abi.KEY["recirc_id"].slice] = b"\xff" * 4
    dp.add_flow(compiled(case.actions, frame, parsed), b"", bytes(mask))
    before = dp.drops()
    dp.ports[1].send(frame)
    found = dp.outputs(len(case.outputs))
    assert [(port, data.hex()) for port, data, _ in found] == [
        (port, bytes(packet).hex()) for port, packet in case.outputs]
    assert sum(u.cmd == OVS_PACKET_CMD_ACTION
               for u in dp.poll(case.upcalls)) == case.upcalls
    after = dp.drops()
    if case.drop is DropReason.NONE:
        assert after == before
    else:
        assert after == {**before,
                         case.drop: before.get(case.drop, 0) + 1}
