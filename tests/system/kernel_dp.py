# SPDX-License-Identifier: Apache-2.0
"""The kernel's own datapath, where there is one."""

from __future__ import annotations

import contextlib
import socket
import subprocess
from collections.abc import Iterator

import keys as k
import pytest
from netns import Namespace

from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NETLINK_GENERIC,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    build,
    iter_attrs,
    iter_messages,
    nla,
    nla_flag,
    nla_string,
    nla_u32,
    parse_error,
)

_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_UFID = nla(uapi.OVS_FLOW_ATTR_UFID, bytes(16))

Attrs = dict[int, bytes]


class Kernel:
    """The kernel's datapath `kdp`, in the namespace of the caller."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self._socket.bind((0, 0))
        self._seq = 0
        self._dp_ifindex = 0
        self._datapath = self.family("ovs_datapath")
        self._flow = self.family("ovs_flow")
        self._packet = self.family("ovs_packet")
        code, _ = self.ask(
            self._datapath, uapi.OVS_DP_CMD_NEW,
            nla_string(uapi.OVS_DP_ATTR_NAME, "kdp"),
            nla_u32(uapi.OVS_DP_ATTR_UPCALL_PID, 0),
            nla_u32(uapi.OVS_DP_ATTR_USER_FEATURES, 0))
        assert code == 0
        self._dp_ifindex = socket.if_nametoindex("kdp")

    def close(self) -> None:
        self._socket.close()

    def put(self, attrs: bytes, mask: bytes | None,
            actions: bytes = b"") -> int:
        """errno of a flow; it is one of a probe, so that nothing is logged."""
        request = [nla(uapi.OVS_FLOW_ATTR_KEY, attrs),
                   nla(uapi.OVS_FLOW_ATTR_ACTIONS, actions), _UFID,
                   nla_flag(uapi.OVS_FLOW_ATTR_PROBE)]
        if mask is not None:
            request.append(nla(uapi.OVS_FLOW_ATTR_MASK, mask))
        code, _ = self.ask(self._flow, uapi.OVS_FLOW_CMD_NEW, *request)
        return code

    def take(self) -> Attrs:
        """OVS_FLOW_ATTR_* of the flow, which is deleted."""
        code, attrs = self.ask(self._flow, uapi.OVS_FLOW_CMD_GET, _UFID)
        assert code == 0
        assert self.ask(self._flow, uapi.OVS_FLOW_CMD_DEL)[0] == 0
        return attrs

    def execute(self, attrs: bytes) -> int:
        """errno of a packet that is dropped."""
        return self.ask(
            self._packet, uapi.OVS_PACKET_CMD_EXECUTE,
            nla(uapi.OVS_PACKET_ATTR_PACKET, k.DST + k.SRC + b"\x88\xcc"
                + bytes(50)),
            nla(uapi.OVS_PACKET_ATTR_KEY, attrs),
            nla(uapi.OVS_PACKET_ATTR_ACTIONS, b""))[0]

    def family(self, name: str) -> int:
        code, attrs = self.ask(_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY,
                                nla_string(_CTRL_ATTR_FAMILY_NAME, name))
        if code:
            pytest.skip("the kernel has no openvswitch module")
        return int.from_bytes(attrs[_CTRL_ATTR_FAMILY_ID], "little")

    def ask(self, family: int, cmd: int, *attrs: bytes) -> tuple[int, Attrs]:
        self._seq += 1
        header = GENLMSGHDR.pack(cmd, 1, 0)
        if family != _GENL_ID_CTRL:
            header += uapi.OVS_HEADER.pack(self._dp_ifindex)
        self._socket.send(build(family, NLM_F_REQUEST | NLM_F_ACK, self._seq,
                                0, header + b"".join(attrs)))
        found: Attrs = {}
        while True:
            for message in iter_messages(self._socket.recv(1 << 18)):
                raw = message.raw
                if message.type == NLMSG_ERROR:
                    return parse_error(message)[0], found
                found = {type_: raw[start:end] for type_, start, end
                         in iter_attrs(raw, 16 + len(header))}


@contextlib.contextmanager
def kernel_datapath() -> Iterator[Kernel]:
    """A datapath of openvswitch.ko in a namespace of its own.

    Skips where there is no such module.
    """
    namespace = Namespace()
    try:
        subprocess.run(["modprobe", "openvswitch"], check=False,
                       capture_output=True)
        with namespace.entered():
            made = Kernel()
        yield made
        made.close()
    finally:
        namespace.close()
