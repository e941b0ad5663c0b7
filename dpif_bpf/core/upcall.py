# SPDX-License-Identifier: Apache-2.0
"""Records of the upcall ring → OVS_PACKET_CMD_MISS and _ACTION messages.

What a message carries and where it goes is that of Linux
net/openvswitch/datapath.c (``ovs_dp_upcall``, ``queue_gso_packets``,
``queue_userspace_packet``): a GSO packet becomes an upcall of each segment,
with its checksums finished and its offloaded tag in place, until one of them
is lost.  Runs once for every upcall: nothing is logged here, everything is
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from struct import Struct

from dpif_bpf import abi
from dpif_bpf.core.actions.insn import PsampleDesc, UserspaceDesc
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.turns import Turns
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.gso import SKB_GSO_UDP
from dpif_bpf.wire.key.encode import encode_key
from dpif_bpf.wire.netlink import NLA_PAYLOAD_MAX
from dpif_bpf.wire.packet import ETH_HLEN, upcall_packets
from dpif_bpf.wire.protocols import ETH_P_802_2, ETH_P_802_3_MIN
from dpif_bpf.wire.replies import encode_upcall

Send = Callable[[int, bytes], bool | None]
"""Port id, message → None when the peer takes no more for now, False when it
is not there."""

SEGMENTS = 1024
"""Segments of one packet that become upcalls.  Who sends it chooses their
size: of more the kernel's datapath would lose the rest, as no socket takes
so many at once."""

_HEADER = abi.UPCALL.struct.unpack_from
_SIZE = abi.UPCALL.size
_PARTS_SIZE = abi.UPCALL_PARTS.size
_MORE_SIZE = abi.UPCALL_MORE.size
_TO = abi.UPCALL_MORE["to"].slice
_TO_PROTO = abi.UPCALL_MORE["to"].offset + abi.TUNNEL["proto"].offset
_OPTS = abi.UPCALL_MORE["opts"].slice
_PARTS = Struct(f"={abi.OVS_UPCALL_PARTS}H").unpack_from
_IN_PORT = abi.KEY["in_port"].slice
_ETH_TYPE = abi.KEY["eth_type"].slice
_MAC_PROTO = abi.KEY["mac_proto"].offset
_IP_FRAG = abi.KEY["ip_frag"].offset
_LATER = bytes((uapi.OVS_FRAG_TYPE_LATER,))


class Upcalls:
    """Encodes and sends the upcalls of one datapath.

    What a peer does not take for now waits, port by port in turn, and goes on
    counting against its port's share.

    :param budget: messages that one call makes at most, more than one
    :ivar sent: messages that a peer took
    :ivar malformed: records that could not be made messages
    :ivar too_big: packets that no attribute can hold (EFBIG to the kernel),
        and such of more than SEGMENTS
    """

    def __init__(self, dp: Datapath, send: Send,
                 budget: int = 256) -> None:
        self._dp = dp
        self._send = send
        self._budget = budget
        self._rest: Iterator[None] | None = None
        """Makes what is left of a record, message by message."""
        self._units = self._in_port = 0
        """Of that record."""
        self._waiting: dict[int, Turns] = {}
        """By port id of the peer."""
        self._last: Turns | None = None
        """Where a message of the present record was put."""
        self.sent = 0
        self.malformed = 0
        self.too_big = 0

    def handle(self, record: memoryview) -> int:
        """One record of ovs_upcalls: struct ovs_upcall and its packet.

        Raises nothing, whatever the packet is: what is no message is lost.

        :returns: how many messages it became, at least one.  Of one that
            becomes more than the budget go_on() makes the others.
        """
        assert self._rest is None
        self._units = self._in_port = 0
        self._rest = self._handle(record)
        return max(self.go_on(), 1)

    @property
    def busy(self) -> bool:
        """Whether there is more of a record, so that the next one waits."""
        return self._rest is not None

    def go_on(self) -> int:
        """More of a record; how many messages, 0 when there is no more."""
        if self._rest is None:
            return 0
        self._last = None
        made = 0
        try:
            for _ in self._rest:
                made += 1
                if made == self._budget:
                    return made
        except Exception:
            self.malformed += 1
            self._dp.lost += 1
        self._rest = None
        if self._last is None:
            self._dp.plane.upcall_done(self._in_port, self._units)
        else:
            self._last.charge(self._in_port, self._units)
        return made

    def flush(self) -> None:
        """Sends what waits, as far as peers take it."""
        for pid, turns in list(self._waiting.items()):
            while (first := turns.first()) is not None:
                in_port, message, units = first
                taken = self._send(pid, message)
                if taken is None:
                    break
                turns.leave()
                self._count(in_port, taken)
                if units:
                    self._dp.plane.upcall_done(in_port, units)
            else:
                del self._waiting[pid]

    def _submit(self, pid: int, in_port: int, message: bytes) -> bool:
        """Sends a message now or later.  False when it is lost."""
        turns = self._waiting.get(pid)
        if turns is None:
            taken = self._send(pid, message)
            if taken is not None:
                self._count(in_port, taken)
                return taken
            turns = self._waiting[pid] = Turns()
        turns.put(in_port, message)
        self._last = turns
        return True

    def _handle(self, record: memoryview) -> Iterator[None]:
        """A message with each step; only the first looks at the record."""
        (size, pkt_len, cmd, ip_summed, csum_start, csum_offset, gso_size,
         gso_type, desc_id, hash_, hash_flags, mru, cpu, bridge, vlan_tci,
         vlan_tpid, cutlen, key) = _HEADER(record)
        dp = self._dp
        self._in_port = in_port = int.from_bytes(key[_IN_PORT], "little")
        self._units = 1 + size // abi.OVS_UPCALL_UNIT
        start, parts = _SIZE, []
        if gso_type & abi.OVS_SKB_GSO_SCTP:
            start += _PARTS_SIZE
            parts = [part for part in _PARTS(record, _SIZE) if part]
        tunnel = b""
        if hash_flags & abi.OVS_UPCALL_TUNNEL:
            hash_flags &= ~abi.OVS_UPCALL_TUNNEL
            more_ = bytes(record[start:start + _MORE_SIZE])
            start += _MORE_SIZE
            key += more_[_OPTS]
            if more_[_TO_PROTO]:
                tunnel = more_[_TO]
        data = record[start:start + size]
        if len(data) != size:
            raise ValueError("the record is shorter than it says")
        whole = memoryview(bytes(data)) if gso_size else data
        if cmd >= abi.OVS_UPCALL_FRAGMENT:
            layer3 = key[_MAC_PROTO] != abi.OVS_MAC_PROTO_ETHERNET
            if tunnel:
                key = key.ljust(abi.KEY.size, b"\0") + tunnel
            frames = upcall_packets(
                whole, ip_summed, csum_start, csum_offset, gso_size,
                gso_type, vlan_tpid, vlan_tci, layer3, parts)
            if cmd == abi.OVS_UPCALL_FRAGMENT:
                dp.reassembly.take(desc_id, bridge, key, frames, layer3,
                                   dp.clock())
            elif cmd == abi.OVS_UPCALL_HELP:
                dp.reassembly.help(desc_id, bridge, key, mru, frames, layer3,
                                   dp.clock())
            else:
                dp.reassembly.send(desc_id, bridge, key, mru, frames, layer3,
                                   dp.clock())
            return
        desc: UserspaceDesc | None = None
        if cmd == uapi.OVS_PACKET_CMD_ACTION:
            found = dp.descs.get(desc_id)
            if found is None:
                # Its flow has gone, and the grace period with it.
                self._lost(in_port)
                return
            if isinstance(found, PsampleDesc):
                self._sample(found, in_port, key, data, pkt_len, cutlen)
                return
            desc = found
        pid = dp.upcall_pid(cpu, in_port, hash_,
                            None if desc is None else desc.pid)
        if not pid:
            self._lost(in_port)
            return
        layer3 = key[_MAC_PROTO] != abi.OVS_MAC_PROTO_ETHERNET
        attrs = next_attrs = encode_key(key)
        if gso_type & SKB_GSO_UDP:  # fragments, of which this was the first
            next_attrs = encode_key(key[:_IP_FRAG] + _LATER
                                    + key[_IP_FRAG + 1:])
        egress = None
        if tunnel and desc is not None and desc.egress is not None:
            egress = dp.ports.egress(desc.egress, tunnel)
        full_hash = hash_ | hash_flags << 32
        more = -ETH_HLEN if layer3 else 4 if vlan_tpid != b"\0\0" else 0
        number = 0
        try:
            for packet in upcall_packets(
                    whole, ip_summed, csum_start, csum_offset, gso_size,
                    gso_type, vlan_tpid, vlan_tci, layer3, parts):
                number += 1
                full_len = 0
                if cutlen:
                    full_len = len(packet) if gso_size else pkt_len + more
                    packet = packet[:max(pkt_len - cutlen + more, 0)]
                if len(packet) > NLA_PAYLOAD_MAX or number > SEGMENTS:
                    self.too_big += 1
                    self._lost(in_port)
                    return
                message = encode_upcall(
                    cmd, dp.dp_ifindex, attrs, packet, full_hash,
                    userdata=None if desc is None else desc.userdata,
                    egress_tun_key=egress,
                    actions=None if desc is None else desc.actions,
                    full_len=full_len, mru=mru)
                if not self._submit(pid, in_port, message):
                    return
                attrs = next_attrs
                yield
        except RequestError:
            self.malformed += 1
            self._lost(in_port)

    def _sample(self, desc: PsampleDesc, in_port: int, key: bytes,
                packet: memoryview, size: int, cutlen: int) -> None:
        """The packet goes as it is, without the tag beside it."""
        if key[_MAC_PROTO] != abi.OVS_MAC_PROTO_ETHERNET:
            protocol = int.from_bytes(key[_ETH_TYPE], "big")
            packet, size = packet[ETH_HLEN:], max(size - ETH_HLEN, 0)
        else:
            protocol = int.from_bytes(packet[12:ETH_HLEN], "big")
            if protocol < ETH_P_802_3_MIN:
                protocol = ETH_P_802_2
        port = self._dp.vports.by_no.get(in_port)
        self._dp.samples.take(
            desc, 0 if port is None else port.link.ifindex, protocol, size,
            bytes(packet[:max(size - cutlen, 0)]))

    def _count(self, in_port: int, taken: bool) -> None:
        if not taken:
            self._lost(in_port)
            return
        self.sent += 1
        port = self._dp.vports.by_no.get(in_port)
        if port is not None:
            port.upcall_success += 1

    def _lost(self, in_port: int) -> None:
        self._dp.lost += 1
        port = self._dp.vports.by_no.get(in_port)
        if port is not None:
            port.upcall_fail += 1
