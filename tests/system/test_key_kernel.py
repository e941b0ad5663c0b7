# SPDX-License-Identifier: Apache-2.0
"""wire.key against the kernel's own datapath, where there is one.

The kernel is asked to put flows with the keys and masks of the unit tests,
good and bad: it must take what wire.key takes, with the same masked key and
mask, and refuse what it refuses.  To run it under Debian's kernels:

    integration/guest/guest.sh -k 6.12 \\
        'modprobe openvswitch && build/venv/bin/python -m pytest \\
         tests/system/test_key_kernel.py'
"""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator

import key_cases as c
import keys as k
import pytest
from netns import Namespace

from dpif_bpf import abi
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import key, uapi
from dpif_bpf.wire.netlink import (
    GENLMSGHDR,
    NLM_F_ACK,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    build,
    iter_attrs,
    iter_messages,
    nla,
    nla_string,
    nla_u32,
    parse_error,
)

_NETLINK_GENERIC = 16
_GENL_ID_CTRL = 0x10
_CTRL_CMD_GETFAMILY = 3
_CTRL_ATTR_FAMILY_ID, _CTRL_ATTR_FAMILY_NAME = 1, 2
_UFID = nla(uapi.OVS_FLOW_ATTR_UFID, bytes(16))

Attrs = dict[int, bytes]


class Kernel:
    """The kernel's datapath `kdp`, in the namespace of the caller."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_GENERIC)
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

    def put(self, attrs: bytes, mask: bytes | None) -> int:
        """errno of a flow that drops."""
        request = [nla(uapi.OVS_FLOW_ATTR_KEY, attrs),
                   nla(uapi.OVS_FLOW_ATTR_ACTIONS, b""), _UFID]
        if mask is not None:
            request.append(nla(uapi.OVS_FLOW_ATTR_MASK, mask))
        code, _ = self.ask(self._flow, uapi.OVS_FLOW_CMD_NEW, *request)
        return code

    def take(self) -> tuple[bytes, bytes]:
        """Key and mask of the flow, which is deleted."""
        code, attrs = self.ask(self._flow, uapi.OVS_FLOW_CMD_GET, _UFID)
        assert code == 0
        assert self.ask(self._flow, uapi.OVS_FLOW_CMD_DEL)[0] == 0
        return attrs[uapi.OVS_FLOW_ATTR_KEY], attrs[uapi.OVS_FLOW_ATTR_MASK]

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
            for message in iter_messages(self._socket.recv(65536)):
                raw = message.raw
                if message.type == NLMSG_ERROR:
                    return parse_error(message)[0], found
                found = {type_: raw[start:end] for type_, start, end
                         in iter_attrs(raw, 16 + len(header))}


@pytest.fixture(scope="module")
def kernel() -> Iterator[Kernel]:
    namespace = Namespace()
    try:
        subprocess.run(["modprobe", "openvswitch"], check=False,
                       capture_output=True)
        with namespace.entered():
            made = Kernel()
        with k.all_keys():
            yield made
        made.close()
    finally:
        namespace.close()


Case = tuple[bytes, bytes | None]



def cases() -> dict[str, Case]:
    found: dict[str, Case] = {}
    for kind, attrs in k.KEYS.items():
        found[f"{kind}, no mask"] = (attrs, None)
        found[f"{kind}, ones"] = (attrs, k.ones(attrs))
        found[f"{kind}, no bits"] = (attrs, b"")
    for kind, (attrs, _, _) in c.BAD_KEYS.items():
        found[f"bad: {kind}"] = (attrs, None)
    for i, (kind, mask, _) in enumerate(c.MASKS):
        found[f"mask {i} of {kind}"] = (k.KEYS[kind], mask)
    for i, (mask, _) in enumerate(c.TAG_MASKS):
        found[f"mask {i} of a tag"] = (k.KEYS["vlan"], mask)
    for i, (kind, mask, _, _) in enumerate(c.BAD_MASKS):
        found[f"bad mask {i} of {kind}"] = (k.KEYS[kind], mask)
    return found


CASES = cases()

# See key_match.py: the kernel refuses the one, and takes the key's TCI for
# the mask in the others.
TRUNCATED = {"vlan truncated, ones"}
ANY_TAG = {"mask 1 of a tag", "mask 2 of a tag"}


def ours(attrs: bytes, mask: bytes | None) -> key.Match | None:
    try:
        return key.decode_match(attrs, mask)
    except RequestError as error:
        assert error.errno == errno.EINVAL
        return None


def without_tunnel(image: int) -> int:
    """The kernel matches the lack of a tunnel always, OVS asks for it."""
    return image & (1 << 8 * abi.KEY["tun_id"].offset) - 1


@pytest.mark.parametrize("name", CASES)
def test_flow(kernel: Kernel, name: str) -> None:
    attrs, mask = CASES[name]
    code = kernel.put(attrs, mask)
    assert code in {0, errno.EINVAL}
    match = ours(attrs, mask)
    if name in TRUNCATED:
        assert (code == 0) is (match is None)
    else:
        assert (code == 0) is (match is not None)
    if code:
        return
    key_back, mask_back = kernel.take()
    # Half of the port's mask is always set in what the kernel shows.
    back = ours(key_back, mask_back.replace(
        k.in_port(0xffff0000), k.in_port(0)))
    # A masked key need not be a valid one; and the kernel shows no mask of
    # an attribute that is zero.
    if (match is None or back is None or name in ANY_TAG
            or name.endswith("is not supported")):
        return
    assert without_tunnel(back.mask) == without_tunnel(match.mask)
    assert without_tunnel(back.key) == without_tunnel(match.key)


@pytest.mark.parametrize("kind", k.KEYS | {
    kind: attrs for kind, (attrs, _, _) in c.BAD_KEYS.items()
    # The kernel holds the tuple to the packet, which is neither.
    if "CT_ORIG" not in kind and kind != "type 0"})
def test_execute(kernel: Kernel, kind: str) -> None:
    attrs = k.KEYS.get(kind) or c.BAD_KEYS[kind][0]
    code = kernel.execute(attrs)
    assert code in {0, errno.EINVAL, errno.ENODEV}
    try:
        key.decode_metadata(attrs)
    except RequestError:
        assert code == errno.EINVAL
    else:
        assert code != errno.EINVAL
