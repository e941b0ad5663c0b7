# SPDX-License-Identifier: Apache-2.0
"""OVS_PACKET_CMD_EXECUTE: a packet of a peer runs through actions.

As ovs_packet_cmd_execute() of Linux net/openvswitch/datapath.c: metadata
come from the request's key, everything else from the packet itself.  The
actions run where all actions run, in the programs; a reply says that they
were valid and that the packet is on its way.
"""

from __future__ import annotations

import errno

from dpif_bpf.core.datapath import Datapath
from dpif_bpf.errors import BackendError
from dpif_bpf.wire.extract import packet_facts
from dpif_bpf.wire.key import decode_metadata
from dpif_bpf.wire.messages import PacketRequest


def execute(dp: Datapath, request: PacketRequest, now: int) -> None:
    """Runs the request's actions on its packet.

    :param now: ms, monotonic
    :raises RequestError: EINVAL for a key or actions that cannot be accepted
    :raises BackendError: ENOBUFS when too many packets are on their way
    """
    metadata = decode_metadata(request.key, request.key_pos)
    program = dp.programs.get(request.actions, packet_facts(request.packet),
                              request.actions_pos)
    port = dp.vports.by_no.get(metadata.in_port)
    if not dp.plane.execute(
            program, program.pc, 0 if port is None else port.bridge,
            metadata.image, request.packet, now):
        dp.programs.release(program)
        raise BackendError(errno.ENOBUFS,
                           "too many packets are being executed")
