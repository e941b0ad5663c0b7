# SPDX-License-Identifier: Apache-2.0
"""Replies, notifications and upcalls, as complete netlink messages.

What each message carries, and when, is that of Linux
net/openvswitch/datapath.c (``ovs_*_cmd_fill_info``,
``queue_userspace_packet``); how OVS reads it: lib/dpif-netlink.c
(``dpif_netlink_*_from_ofpbuf``, ``parse_odp_packet``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct

from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import (
    NLATTR,
    NLM_F_MULTI,
    PADDING,
    nla,
    nla_s32,
    nla_string,
    nla_u16,
    nla_u32,
    nla_u32_array,
    nla_u64,
)

HEADER = Struct("=IHHIIBBHi")
"""nlmsghdr, genlmsghdr and struct ovs_header in one."""

# Length, the other headers, then OVS_FLOW_ATTR_TCP_FLAGS, _USED and _STATS.
_FLOW_FLAGS = Struct("=I20sHHB3xHHQHHQQ")
_FLOW_STATS = Struct("=I20sHHQHHQQ")
_FLOW_BARE = Struct("=I20s")
_NLATTR = NLATTR.pack
_HASH_PACKET = Struct("=HHQHH").pack


@dataclass(frozen=True, slots=True)
class ReplyHeader:
    """Where a reply goes.

    :param seq: sequence number of the request; 0 in notifications
    :param pid: port id of the requester; 0 in notifications
    :param multi: whether it is one of several (a dump)
    """

    seq: int = 0
    pid: int = 0
    multi: bool = False


_NOBODY = ReplyHeader()

@dataclass(frozen=True, slots=True)
class DatapathReply:
    """A datapath as ovs_dp_cmd_fill_info() shows it.

    :param stats: hit, missed, lost, flows
    :param megaflow_stats: mask_hit, masks, cache_hit
    :param masks_cache_size: of each CPU's cache
    :param per_cpu_pids: sent when DISPATCH_UPCALL_PER_CPU is set
    """

    dp_ifindex: int
    name: str
    stats: tuple[int, int, int, int]
    megaflow_stats: tuple[int, int, int]
    user_features: int
    masks_cache_size: int
    per_cpu_pids: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class VportReply:
    """A vport as ovs_vport_cmd_fill_info() shows it.

    :param stats: rx and tx packets, rx and tx bytes, rx and tx errors, rx
        and tx dropped
    :param upcall_stats: upcalls that were sent and that failed
    :param upcall_pids: as set, or (0,)
    :param options: payload of OVS_VPORT_ATTR_OPTIONS
    :param netnsid: of the device when it is in another network namespace
    """

    dp_ifindex: int
    port_no: int
    type: int
    name: str
    ifindex: int
    stats: tuple[int, int, int, int, int, int, int, int]
    upcall_stats: tuple[int, int]
    upcall_pids: tuple[int, ...]
    options: bytes | None = None
    netnsid: int | None = None


@dataclass(frozen=True, slots=True)
class FlowParts:
    """What does not change in replies about one flow, ready to send.

    :param ufid: OVS_FLOW_ATTR_UFID with header and padding; b"" when the
        flow has no UFID
    :param key: OVS_FLOW_ATTR_KEY, likewise
    :param mask: OVS_FLOW_ATTR_MASK, likewise
    :param actions: OVS_FLOW_ATTR_ACTIONS, likewise
    """

    ufid: bytes
    key: bytes
    mask: bytes
    actions: bytes


def flow_parts(key: bytes, mask: bytes | None, actions: bytes,
               ufid: bytes | None) -> FlowParts:
    """FlowParts of the payloads of a request.

    :param mask: None to leave OVS_FLOW_ATTR_MASK out
    """
    return FlowParts(
        b"" if ufid is None else nla(uapi.OVS_FLOW_ATTR_UFID, ufid),
        nla(uapi.OVS_FLOW_ATTR_KEY, key),
        b"" if mask is None else nla(uapi.OVS_FLOW_ATTR_MASK, mask),
        nla(uapi.OVS_FLOW_ATTR_ACTIONS, actions))


def flow_body(parts: FlowParts, ufid_flags: int) -> bytes:
    """The unchanging attributes that a peer with `ufid_flags` wants.

    A flow without UFID is named by its key, which is then always sent
    (should_fill_key()).  Worth keeping per flow when dumps are frequent.
    """
    body = parts.ufid
    if not body or not ufid_flags & uapi.OVS_UFID_F_OMIT_KEY:
        body += parts.key
    if not ufid_flags & uapi.OVS_UFID_F_OMIT_MASK:
        body += parts.mask
    if not ufid_flags & uapi.OVS_UFID_F_OMIT_ACTIONS:
        body += parts.actions
    return body


@dataclass(frozen=True, slots=True)
class MeterStats:
    """What a meter has counted.

    :param stats: packets and bytes
    :param used: ms, CLOCK_MONOTONIC; of the last packet, or of its making
    :param bands: packets and bytes that exceeded each band
    """

    stats: tuple[int, int]
    used: int
    bands: tuple[tuple[int, int], ...]


FlowHead = Callable[[int, tuple[int, int, int, int]], bytes]
"""Size of the body; packets, bytes, used (ms, CLOCK_MONOTONIC; 0: never) and
tcp_flags (host order; the low 8 bits are sent) -> headers and statistics."""


def flow_head(header: ReplyHeader, cmd: int, dp_ifindex: int) -> FlowHead:
    """A function that makes what stands before the bodies of flows, in
    replies for one peer and request.

    It takes the size of a :func:`flow_body` and the flow's statistics.  As in
    the kernel these are left out when they are zero.  They come first in the
    message, so that they are packed with the headers in one go.
    """
    tail = _tail(uapi.OVS_FLOW_ID, header, cmd, uapi.OVS_FLOW_VERSION,
                 dp_ifindex)
    with_flags = _FLOW_FLAGS.pack
    with_stats = _FLOW_STATS.pack
    bare = _FLOW_BARE.pack
    flags_size, stats_size = _FLOW_FLAGS.size, _FLOW_STATS.size

    def head(size: int, counted: tuple[int, int, int, int]) -> bytes:
        packets, nbytes, used, tcp_flags = counted
        if tcp_flags & 0xff:
            return with_flags(
                flags_size + size, tail, 5, uapi.OVS_FLOW_ATTR_TCP_FLAGS,
                tcp_flags & 0xff, 12, uapi.OVS_FLOW_ATTR_USED, used, 20,
                uapi.OVS_FLOW_ATTR_STATS, packets, nbytes)
        if used:
            return with_stats(
                stats_size + size, tail, 12, uapi.OVS_FLOW_ATTR_USED, used,
                20, uapi.OVS_FLOW_ATTR_STATS, packets, nbytes)
        return bare(24 + size, tail)

    return head


def encode_datapath(header: ReplyHeader, cmd: int,
                    dp: DatapathReply) -> bytes:
    """A reply or notification about a datapath."""
    mask_hit, masks, cache_hit = dp.megaflow_stats
    parts = [
        nla_string(uapi.OVS_DP_ATTR_NAME, dp.name),
        nla(uapi.OVS_DP_ATTR_STATS, uapi.OVS_DP_STATS.pack(*dp.stats)),
        nla(uapi.OVS_DP_ATTR_MEGAFLOW_STATS, uapi.OVS_DP_MEGAFLOW_STATS.pack(
            mask_hit, masks, 0, cache_hit, 0)),
        nla_u32(uapi.OVS_DP_ATTR_USER_FEATURES, dp.user_features),
        nla_u32(uapi.OVS_DP_ATTR_MASKS_CACHE_SIZE, dp.masks_cache_size),
    ]
    if dp.user_features & uapi.OVS_DP_F_DISPATCH_UPCALL_PER_CPU \
            and dp.per_cpu_pids:
        parts.append(nla_u32_array(uapi.OVS_DP_ATTR_PER_CPU_PIDS,
                                   dp.per_cpu_pids))
    return _message(uapi.OVS_DATAPATH_ID, header, cmd,
                    uapi.OVS_DATAPATH_VERSION, dp.dp_ifindex, parts)


def encode_vport(header: ReplyHeader, cmd: int, vport: VportReply) -> bytes:
    """A reply or notification about a vport."""
    parts = [
        nla_u32(uapi.OVS_VPORT_ATTR_PORT_NO, vport.port_no),
        nla_u32(uapi.OVS_VPORT_ATTR_TYPE, vport.type),
        nla_string(uapi.OVS_VPORT_ATTR_NAME, vport.name),
        nla_u32(uapi.OVS_VPORT_ATTR_IFINDEX, vport.ifindex),
    ]
    if vport.netnsid is not None:
        parts.append(nla_s32(uapi.OVS_VPORT_ATTR_NETNSID, vport.netnsid))
    sent, failed = vport.upcall_stats
    parts += [
        nla(uapi.OVS_VPORT_ATTR_STATS,
            uapi.OVS_VPORT_STATS.pack(*vport.stats)),
        nla(uapi.OVS_VPORT_ATTR_UPCALL_STATS,
            nla_u64(uapi.OVS_VPORT_UPCALL_ATTR_SUCCESS, sent)
            + nla_u64(uapi.OVS_VPORT_UPCALL_ATTR_FAIL, failed)),
        nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID, vport.upcall_pids),
    ]
    if vport.options is not None:
        parts.append(nla(uapi.OVS_VPORT_ATTR_OPTIONS, vport.options))
    return _message(uapi.OVS_VPORT_ID, header, cmd, uapi.OVS_VPORT_VERSION,
                    vport.dp_ifindex, parts)


def encode_meter_features(header: ReplyHeader, dp_ifindex: int,
                          max_meters: int, max_bands: int) -> bytes:
    """The reply to OVS_METER_CMD_FEATURES."""
    band = nla_u32(uapi.OVS_BAND_ATTR_TYPE, uapi.OVS_METER_BAND_TYPE_DROP)
    return _message(
        uapi.OVS_METER_ID, header, uapi.OVS_METER_CMD_FEATURES,
        uapi.OVS_METER_VERSION, dp_ifindex, [
            nla_u32(uapi.OVS_METER_ATTR_MAX_METERS, max_meters),
            nla_u32(uapi.OVS_METER_ATTR_MAX_BANDS, max_bands),
            nla(uapi.OVS_METER_ATTR_BANDS, nla(uapi.OVS_BAND_ATTR_UNSPEC,
                                               band))])


def encode_meter(header: ReplyHeader, cmd: int, dp_ifindex: int,
                 meter_id: int | None, meter: MeterStats | None) -> bytes:
    """A reply to OVS_METER_CMD_SET, GET or DEL.

    :param meter_id: None to leave OVS_METER_ATTR_ID out
    :param meter: None when there is nothing to be told
    """
    parts: list[bytes] = []
    if meter_id is not None:
        parts.append(nla_u32(uapi.OVS_METER_ATTR_ID, meter_id))
    if meter is not None:
        parts += [
            nla(uapi.OVS_METER_ATTR_STATS,
                uapi.OVS_FLOW_STATS.pack(*meter.stats)),
            nla_u64(uapi.OVS_METER_ATTR_USED, meter.used),
            nla(uapi.OVS_METER_ATTR_BANDS, b"".join(
                nla(uapi.OVS_BAND_ATTR_UNSPEC,
                    nla(uapi.OVS_BAND_ATTR_STATS,
                        uapi.OVS_FLOW_STATS.pack(*band)))
                for band in meter.bands)),
        ]
    return _message(uapi.OVS_METER_ID, header, cmd, uapi.OVS_METER_VERSION,
                    dp_ifindex, parts)


def encode_upcall(cmd: int, dp_ifindex: int, key: bytes, packet: bytes,
                  hash_: int, *, userdata: bytes | None = None,
                  egress_tun_key: bytes | None = None,
                  actions: bytes | None = None, mru: int = 0,
                  full_len: int = 0) -> bytes:
    """An upcall, padded to four bytes with or without DP_F_UNALIGNED.

    :param cmd: OVS_PACKET_CMD_MISS or OVS_PACKET_CMD_ACTION
    :param key: payload of OVS_PACKET_ATTR_KEY
    :param packet: from the Ethernet header on, tags and checksums in place;
        at most NLA_PAYLOAD_MAX bytes
    :param hash_: with OVS_PACKET_HASH_*_BIT
    :param userdata: of OVS_USERSPACE_ATTR_USERDATA, as it came
    :param egress_tun_key: payload, nested OVS_TUNNEL_KEY_ATTR_*
    :param actions: payload, the actions of the flow
    :param mru: 0 when the packet was not reassembled
    :param full_len: bytes before truncation; 0 when nothing was cut
    """
    parts = [_NLATTR(len(key) + 4, uapi.OVS_PACKET_ATTR_KEY), key]
    if userdata is not None:
        parts.append(nla(uapi.OVS_PACKET_ATTR_USERDATA, userdata))
    if egress_tun_key is not None:
        parts.append(nla(uapi.OVS_PACKET_ATTR_EGRESS_TUN_KEY,
                         egress_tun_key))
    if actions is not None:
        parts.append(nla(uapi.OVS_PACKET_ATTR_ACTIONS, actions))
    if mru:
        parts.append(nla_u16(uapi.OVS_PACKET_ATTR_MRU, mru))
    if full_len:
        parts.append(nla_u32(uapi.OVS_PACKET_ATTR_LEN, full_len))
    size = len(packet) + 4
    parts.append(_HASH_PACKET(12, uapi.OVS_PACKET_ATTR_HASH, hash_, size,
                              uapi.OVS_PACKET_ATTR_PACKET))
    parts.append(packet)
    parts.append(PADDING[size & 3])
    return _message(uapi.OVS_PACKET_ID, _NOBODY, cmd,
                    uapi.OVS_PACKET_VERSION, dp_ifindex, parts)


def _tail(family: int, header: ReplyHeader, cmd: int, version: int,
          dp_ifindex: int) -> bytes:
    """The headers of a message without their first member, the length."""
    return HEADER.pack(
        0, family, NLM_F_MULTI if header.multi else 0, header.seq,
        header.pid, cmd, version, 0, dp_ifindex)[4:]


def _message(family: int, header: ReplyHeader, cmd: int, version: int,
             dp_ifindex: int, parts: list[bytes]) -> bytes:
    parts.insert(0, HEADER.pack(
        HEADER.size + sum(map(len, parts)), family,
        NLM_F_MULTI if header.multi else 0, header.seq, header.pid, cmd,
        version, 0, dp_ifindex))
    return b"".join(parts)
