# SPDX-License-Identifier: Apache-2.0
"""Requests of the datapath, vport, flow and packet families.

Every request starts with nlmsghdr, genlmsghdr and struct ovs_header; each
class has the fields that <linux/openvswitch.h> gives to requests of its
family, ``None`` for what is absent.  Attributes that only replies carry
(statistics, times, ...) are refused, as are unknown ones.

Policies and the errno of what is missing follow Linux
net/openvswitch/datapath.c (``ovs_*_cmd_*``); the requests that OVS makes are
in lib/dpif-netlink.c (``dpif_netlink_*_to_ofpbuf``).

Nested lists (keys, masks, actions, options) stay bytes: the payload as it
came.  Offsets name where such a payload starts in the message, so that what
is found wrong inside can be named in the extended ack.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass

from dpif_bpf.errors import RequestError, decoder
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import (
    GENL_HDRLEN,
    GENLMSGHDR,
    NLA_HDRLEN,
    NLMSG_HDRLEN,
    U16,
    U32,
    U64,
    Attrs,
    Message,
    Policy,
    binary,
    exactly,
    flag,
    get_string,
    get_u32_array,
    nested,
    parse_attrs,
)

_OVSHDR_POS = NLMSG_HDRLEN + GENL_HDRLEN
ATTRS_POS = _OVSHDR_POS + uapi.OVS_HEADER.size
"""Where the attributes of a request begin."""


@dataclass(frozen=True, slots=True)
class DatapathRequest:
    """OVS_DP_CMD_*.

    :param message: the netlink message, for the reply's header
    :param cmd: OVS_DP_CMD_*
    :param version: of the family that the peer speaks; below
        OVS_DP_VER_FEATURES it does not know user features
    :param dp_ifindex: the datapath, 0 when it is named by `name`
    :param upcall_pid: port id for misses of the local port; 0 for none
    :param user_features: OVS_DP_F_*, any bits
    :param per_cpu_pids: port ids by CPU number, at least one
    :param masks_cache_size: 0, or a power of two up to 4096
    :param ifindex: what the local port's device is to be numbered
    """

    message: Message
    cmd: int
    version: int
    dp_ifindex: int
    name: str | None = None
    upcall_pid: int | None = None
    user_features: int | None = None
    per_cpu_pids: tuple[int, ...] | None = None
    masks_cache_size: int | None = None
    ifindex: int | None = None


@dataclass(frozen=True, slots=True)
class VportRequest:
    """OVS_VPORT_CMD_*.

    :param message: the netlink message, for the reply's header
    :param cmd: OVS_VPORT_CMD_*
    :param dp_ifindex: the datapath; 0 where a name alone finds the port
    :param port_no: below DP_MAX_PORTS; to NEW, 0 is as good as none
    :param type: OVS_VPORT_TYPE_*, any number
    :param name: of the network device
    :param options: payload of OVS_VPORT_ATTR_OPTIONS
    :param upcall_pids: at least one; (0,) for no upcalls
    :param ifindex: what the port's device is to be numbered
    :param netnsid: network namespace of the device, by its id in ours
    """

    message: Message
    cmd: int
    dp_ifindex: int
    port_no: int | None = None
    type: int | None = None
    name: str | None = None
    options: bytes | None = None
    upcall_pids: tuple[int, ...] | None = None
    ifindex: int | None = None
    netnsid: int | None = None


@dataclass(frozen=True, slots=True)
class FlowRequest:
    """OVS_FLOW_CMD_*.

    :param message: the netlink message, for the reply's header
    :param cmd: OVS_FLOW_CMD_*
    :param dp_ifindex: the datapath
    :param key: payload of OVS_FLOW_ATTR_KEY
    :param mask: payload of OVS_FLOW_ATTR_MASK; None matches all bits
    :param actions: payload of OVS_FLOW_ATTR_ACTIONS
    :param ufid: 1 to 16 bytes
    :param ufid_flags: OVS_UFID_F_*
    :param clear: zero the statistics (SET)
    :param probe: a feature is probed: do not log errors
    :param key_pos: offset of `key` in the message; likewise the others
    """

    message: Message
    cmd: int
    dp_ifindex: int
    key: bytes | None = None
    mask: bytes | None = None
    actions: bytes | None = None
    ufid: bytes | None = None
    ufid_flags: int = 0
    clear: bool = False
    probe: bool = False
    key_pos: int = 0
    mask_pos: int = 0
    actions_pos: int = 0


@dataclass(frozen=True, slots=True)
class PacketRequest:
    """OVS_PACKET_CMD_EXECUTE.

    :param message: the netlink message, for the reply's header
    :param dp_ifindex: the datapath
    :param packet: from the Ethernet header on, at least 14 bytes
    :param key: payload of OVS_PACKET_ATTR_KEY
    :param actions: payload of OVS_PACKET_ATTR_ACTIONS
    :param probe: a feature is probed: do not log errors
    :param mru: largest fragment that was received; 0: was no fragment
    :param hash: skb hash with OVS_PACKET_HASH_*_BIT; None: not given
    :param upcall_pid: port id for upcalls of the actions; 0: by the port
    """

    message: Message
    dp_ifindex: int
    packet: bytes
    key: bytes
    actions: bytes
    probe: bool = False
    mru: int = 0
    hash: int | None = None
    upcall_pid: int = 0
    key_pos: int = 0
    actions_pos: int = 0


_DATAPATH_POLICY: Policy = {
    uapi.OVS_DP_ATTR_NAME: binary("OVS_DP_ATTR_NAME"),
    uapi.OVS_DP_ATTR_UPCALL_PID: exactly("OVS_DP_ATTR_UPCALL_PID", 4),
    uapi.OVS_DP_ATTR_USER_FEATURES: exactly("OVS_DP_ATTR_USER_FEATURES", 4),
    uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE:
        exactly("OVS_DP_ATTR_MASKS_CACHE_SIZE", 4),
    uapi.OVS_DP_ATTR_PER_CPU_PIDS: binary("OVS_DP_ATTR_PER_CPU_PIDS"),
    uapi.OVS_DP_ATTR_IFINDEX: exactly("OVS_DP_ATTR_IFINDEX", 4),
}

_VPORT_POLICY: Policy = {
    uapi.OVS_VPORT_ATTR_PORT_NO: exactly("OVS_VPORT_ATTR_PORT_NO", 4),
    uapi.OVS_VPORT_ATTR_TYPE: exactly("OVS_VPORT_ATTR_TYPE", 4),
    uapi.OVS_VPORT_ATTR_NAME: binary("OVS_VPORT_ATTR_NAME"),
    uapi.OVS_VPORT_ATTR_OPTIONS: nested("OVS_VPORT_ATTR_OPTIONS"),
    uapi.OVS_VPORT_ATTR_UPCALL_PID: binary("OVS_VPORT_ATTR_UPCALL_PID"),
    uapi.OVS_VPORT_ATTR_IFINDEX: exactly("OVS_VPORT_ATTR_IFINDEX", 4),
    uapi.OVS_VPORT_ATTR_NETNSID: exactly("OVS_VPORT_ATTR_NETNSID", 4),
}

_FLOW_POLICY: Policy = {
    uapi.OVS_FLOW_ATTR_KEY: nested("OVS_FLOW_ATTR_KEY"),
    uapi.OVS_FLOW_ATTR_ACTIONS: nested("OVS_FLOW_ATTR_ACTIONS"),
    uapi.OVS_FLOW_ATTR_CLEAR: flag("OVS_FLOW_ATTR_CLEAR"),
    uapi.OVS_FLOW_ATTR_MASK: nested("OVS_FLOW_ATTR_MASK"),
    uapi.OVS_FLOW_ATTR_PROBE: flag("OVS_FLOW_ATTR_PROBE"),
    uapi.OVS_FLOW_ATTR_UFID:
        binary("OVS_FLOW_ATTR_UFID", 1, uapi.MAX_UFID_LENGTH),
    uapi.OVS_FLOW_ATTR_UFID_FLAGS: exactly("OVS_FLOW_ATTR_UFID_FLAGS", 4),
}

_PACKET_POLICY: Policy = {
    uapi.OVS_PACKET_ATTR_PACKET: binary("OVS_PACKET_ATTR_PACKET", 14),
    uapi.OVS_PACKET_ATTR_KEY: nested("OVS_PACKET_ATTR_KEY"),
    uapi.OVS_PACKET_ATTR_ACTIONS: nested("OVS_PACKET_ATTR_ACTIONS"),
    uapi.OVS_PACKET_ATTR_PROBE: flag("OVS_PACKET_ATTR_PROBE"),
    uapi.OVS_PACKET_ATTR_MRU: exactly("OVS_PACKET_ATTR_MRU", 2),
    uapi.OVS_PACKET_ATTR_HASH: exactly("OVS_PACKET_ATTR_HASH", 8),
    uapi.OVS_PACKET_ATTR_UPCALL_PID:
        exactly("OVS_PACKET_ATTR_UPCALL_PID", 4),
}

_UFID_FLAGS = (uapi.OVS_UFID_F_OMIT_KEY | uapi.OVS_UFID_F_OMIT_MASK
               | uapi.OVS_UFID_F_OMIT_ACTIONS)


def parse_genl(message: Message) -> tuple[int, int, int]:
    """(cmd, version, dp_ifindex) of a request of any of the families.

    :raises RequestError: EINVAL when the headers are not there
    """
    raw = message.raw
    if len(raw) < ATTRS_POS:
        raise RequestError(errno.EINVAL,
                           "no room for genlmsghdr and struct ovs_header")
    cmd, version, _ = GENLMSGHDR.unpack_from(raw, NLMSG_HDRLEN)
    (dp_ifindex,) = uapi.OVS_HEADER.unpack_from(raw, _OVSHDR_POS)
    return cmd, version, dp_ifindex


@decoder
def decode_datapath(message: Message) -> DatapathRequest:
    """A request of the datapath family.

    :raises RequestError: EINVAL, ERANGE
    """
    cmd, version, dp_ifindex = parse_genl(message)
    raw = message.raw
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _DATAPATH_POLICY)
    name = attrs.get(uapi.OVS_DP_ATTR_NAME)
    pids = attrs.get(uapi.OVS_DP_ATTR_PER_CPU_PIDS)
    request = DatapathRequest(
        message, cmd, version, dp_ifindex,
        None if name is None else get_string(
            raw, name, "OVS_DP_ATTR_NAME", uapi.IFNAMSIZ - 1),
        _u32(raw, attrs, uapi.OVS_DP_ATTR_UPCALL_PID),
        _u32(raw, attrs, uapi.OVS_DP_ATTR_USER_FEATURES),
        None if pids is None else get_u32_array(
            raw, pids, "OVS_DP_ATTR_PER_CPU_PIDS"),
        _u32(raw, attrs, uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE),
        _ifindex(raw, attrs, uapi.OVS_DP_ATTR_IFINDEX,
                 "OVS_DP_ATTR_IFINDEX"))
    size = request.masks_cache_size or 0
    if size > uapi.MASKS_CACHE_SIZE_MAX or size & (size - 1):
        raise RequestError(
            errno.ERANGE if size > uapi.MASKS_CACHE_SIZE_MAX
            else errno.EINVAL,
            "OVS_DP_ATTR_MASKS_CACHE_SIZE is neither 0 nor a power of two"
            f" up to {uapi.MASKS_CACHE_SIZE_MAX}",
            _pos(attrs, uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE))
    if cmd == uapi.OVS_DP_CMD_NEW:
        require(attrs, uapi.OVS_DP_ATTR_NAME, "OVS_DP_ATTR_NAME")
        require(attrs, uapi.OVS_DP_ATTR_UPCALL_PID,
                "OVS_DP_ATTR_UPCALL_PID")
    return request


@decoder
def decode_vport(message: Message) -> VportRequest:
    """A request of the vport family.

    :raises RequestError: EINVAL, ERANGE; EFBIG for a port number of
        DP_MAX_PORTS or more
    """
    cmd, _, dp_ifindex = parse_genl(message)
    raw = message.raw
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _VPORT_POLICY)
    name = attrs.get(uapi.OVS_VPORT_ATTR_NAME)
    options = attrs.get(uapi.OVS_VPORT_ATTR_OPTIONS)
    pids = attrs.get(uapi.OVS_VPORT_ATTR_UPCALL_PID)
    request = VportRequest(
        message, cmd, dp_ifindex,
        _u32(raw, attrs, uapi.OVS_VPORT_ATTR_PORT_NO),
        _u32(raw, attrs, uapi.OVS_VPORT_ATTR_TYPE),
        None if name is None else get_string(
            raw, name, "OVS_VPORT_ATTR_NAME", uapi.IFNAMSIZ - 1),
        None if options is None else raw[options[0]:options[1]],
        None if pids is None else get_u32_array(
            raw, pids, "OVS_VPORT_ATTR_UPCALL_PID"),
        _ifindex(raw, attrs, uapi.OVS_VPORT_ATTR_IFINDEX,
                 "OVS_VPORT_ATTR_IFINDEX"),
        _u32(raw, attrs, uapi.OVS_VPORT_ATTR_NETNSID))
    if request.port_no is not None and request.port_no >= uapi.DP_MAX_PORTS:
        raise RequestError(
            errno.EFBIG, f"OVS_VPORT_ATTR_PORT_NO {request.port_no} is not"
            f" below {uapi.DP_MAX_PORTS}",
            _pos(attrs, uapi.OVS_VPORT_ATTR_PORT_NO))
    if cmd == uapi.OVS_VPORT_CMD_NEW:
        require(attrs, uapi.OVS_VPORT_ATTR_NAME, "OVS_VPORT_ATTR_NAME")
        require(attrs, uapi.OVS_VPORT_ATTR_TYPE, "OVS_VPORT_ATTR_TYPE")
        require(attrs, uapi.OVS_VPORT_ATTR_UPCALL_PID,
                "OVS_VPORT_ATTR_UPCALL_PID")
    elif (not message.is_dump and name is None
          and request.port_no is None):
        raise RequestError(errno.EINVAL, "neither OVS_VPORT_ATTR_NAME nor"
                           " OVS_VPORT_ATTR_PORT_NO is given")
    return request


@decoder
def decode_flow(message: Message) -> FlowRequest:
    """A request of the flow family.

    :raises RequestError: EINVAL
    """
    cmd, _, dp_ifindex = parse_genl(message)
    raw = message.raw
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _FLOW_POLICY)
    get = attrs.get
    key = get(uapi.OVS_FLOW_ATTR_KEY)
    mask = get(uapi.OVS_FLOW_ATTR_MASK)
    actions = get(uapi.OVS_FLOW_ATTR_ACTIONS)
    ufid = get(uapi.OVS_FLOW_ATTR_UFID)
    if cmd == uapi.OVS_FLOW_CMD_NEW:
        require(attrs, uapi.OVS_FLOW_ATTR_KEY, "OVS_FLOW_ATTR_KEY")
        require(attrs, uapi.OVS_FLOW_ATTR_ACTIONS, "OVS_FLOW_ATTR_ACTIONS")
    elif key is None and cmd != uapi.OVS_FLOW_CMD_DEL and not message.is_dump:
        if ufid is None:
            raise RequestError(errno.EINVAL, "neither OVS_FLOW_ATTR_KEY nor"
                               " OVS_FLOW_ATTR_UFID is given")
        if actions is not None:
            raise RequestError(
                errno.EINVAL,
                "OVS_FLOW_ATTR_ACTIONS without OVS_FLOW_ATTR_KEY",
                actions[0] - NLA_HDRLEN)
    ufid_flags = _u32(raw, attrs, uapi.OVS_FLOW_ATTR_UFID_FLAGS) or 0
    if ufid_flags & ~_UFID_FLAGS:
        raise RequestError(
            errno.EINVAL,
            f"OVS_FLOW_ATTR_UFID_FLAGS has unknown bits {ufid_flags:#x}",
            _pos(attrs, uapi.OVS_FLOW_ATTR_UFID_FLAGS))
    return FlowRequest(
        message, cmd, dp_ifindex,
        None if key is None else raw[key[0]:key[1]],
        None if mask is None else raw[mask[0]:mask[1]],
        None if actions is None else raw[actions[0]:actions[1]],
        None if ufid is None else raw[ufid[0]:ufid[1]],
        ufid_flags,
        uapi.OVS_FLOW_ATTR_CLEAR in attrs,
        uapi.OVS_FLOW_ATTR_PROBE in attrs,
        0 if key is None else key[0],
        0 if mask is None else mask[0],
        0 if actions is None else actions[0])


@decoder
def decode_packet(message: Message) -> PacketRequest:
    """OVS_PACKET_CMD_EXECUTE.

    :raises RequestError: EINVAL
    """
    _, _, dp_ifindex = parse_genl(message)
    raw = message.raw
    attrs = parse_attrs(raw, ATTRS_POS, len(raw), _PACKET_POLICY)
    packet = require(attrs, uapi.OVS_PACKET_ATTR_PACKET,
                     "OVS_PACKET_ATTR_PACKET")
    key = require(attrs, uapi.OVS_PACKET_ATTR_KEY, "OVS_PACKET_ATTR_KEY")
    actions = require(attrs, uapi.OVS_PACKET_ATTR_ACTIONS,
                      "OVS_PACKET_ATTR_ACTIONS")
    mru = attrs.get(uapi.OVS_PACKET_ATTR_MRU)
    hash_ = attrs.get(uapi.OVS_PACKET_ATTR_HASH)
    return PacketRequest(
        message, dp_ifindex, raw[packet[0]:packet[1]], raw[key[0]:key[1]],
        raw[actions[0]:actions[1]], uapi.OVS_PACKET_ATTR_PROBE in attrs,
        0 if mru is None else U16.unpack_from(raw, mru[0])[0],
        None if hash_ is None else U64.unpack_from(raw, hash_[0])[0],
        _u32(raw, attrs, uapi.OVS_PACKET_ATTR_UPCALL_PID) or 0,
        key[0], actions[0])


def _u32(raw: bytes, attrs: Attrs, type_: int) -> int | None:
    where = attrs.get(type_)
    if where is None:
        return None
    value: int = U32.unpack_from(raw, where[0])[0]
    return value


def _ifindex(raw: bytes, attrs: Attrs, type_: int, name: str) -> int | None:
    value = _u32(raw, attrs, type_)
    if value is not None and value >= 1 << 31:
        raise RequestError(errno.ERANGE, f"{name} is negative",
                           _pos(attrs, type_))
    return value


def _pos(attrs: Attrs, type_: int) -> int:
    return attrs[type_][0] - NLA_HDRLEN


def require(attrs: Attrs, type_: int, name: str) -> tuple[int, int]:
    """The place of an attribute that must be there.

    :raises RequestError: EINVAL
    """
    where = attrs.get(type_)
    if where is None:
        raise RequestError(errno.EINVAL, f"{name} is missing")
    return where
