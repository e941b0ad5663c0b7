# SPDX-License-Identifier: Apache-2.0
"""Executes: packets of the provider that run through instructions in BPF.

A packet's metadata lie in a slot of ovs_slots; the packet is written to the
inject device with a mark that names the slot and its generation (struct
ovs_slot of bpf/lib/abi.h), and the program at the other end picks both up.
The slot is free again when the program has cleared its ARMED bit; one whose
packet got lost on the way is taken back after LOST_AFTER.

The mark is given with each packet (SO_MARK as a control message, packet(7)
and cmsg(3)); setting it on the socket before each packet made no difference
worth its state (4.0 against 4.5 µs for 100 bytes, delivery included).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections import deque

from dpif_bpf import abi
from dpif_bpf.errors import BackendError

LOST_AFTER = 1000
"""ms after which a packet that was sent and not seen again is lost."""

VNET_HDR_LEN = 10
"""sizeof(struct virtio_net_hdr), <linux/virtio_net.h>"""

_SOL_PACKET = 263
_PACKET_VNET_HDR = 15
_SO_MARK = 36
_MARK = struct.Struct("=I")

_WORDS = abi.SLOT.size // 8
_KEY_AT = abi.SLOT["key"].offset // 8
_MRU_AT = abi.SLOT["mru"].offset // 8
_TO_TUNNEL = abi.OVS_PKT_F_TO_TUNNEL << 8
"""In the word of recirc_depth."""
_GEN_ONE = 1 << abi.OVS_SLOT_GEN_SHIFT
_GEN_BITS = abi.OVS_SLOT_GEN_MASK << abi.OVS_SLOT_GEN_SHIFT


class ExecSlots:
    """The provider's slots: the first OVS_EXEC_SLOTS of ovs_slots.

    A free slot is nobody's but the provider's, so that its words may come in
    any order; those before the key are pc and bridge, then recirc_depth and
    cutlen, of which each pair is one word, and mru.

    :param slots: ovs_slots, mapped, as bytes
    :ivar full: how often no slot was free
    :ivar lost: slots that were taken back from lost packets
    """

    def __init__(self, slots: memoryview) -> None:
        self._words = slots.cast("Q")
        self._free = deque(range(abi.OVS_EXEC_SLOTS))
        self._armed: dict[int, tuple[int, object]] = {}
        self._passed: list[object] = []
        self.full = 0
        self.lost = 0

    def arm(self, pc: int, bridge: int, recirc_depth: int, key: bytes,
            token: object, now: int, mru: int = 0) -> int | None:
        """Fill a free slot and arm it.

        :param pc: first instruction, 0 to look the key up instead
        :param key: key image from its first word on, metadata only, in
            whole words; the struct ovs_tunnel is behind all of it
        :param token: kept until the packet has passed, see reap()
        :param now: ms
        :param mru: of struct ovs_slot
        :return: the mark to send the packet with, None when all slots are
            taken
        """
        if not self._free:
            self._collect(now)
            if not self._free:
                self.full += 1
                return None
        slot = self._free.popleft()
        word = slot * _WORDS
        state = (self._words[word] + _GEN_ONE) & _GEN_BITS
        words = self._words
        words[word + 1] = pc | bridge << 32
        words[word + 2] = recirc_depth
        if len(key) > abi.KEY.size:
            words[word + 2] |= _TO_TUNNEL
        words[word + _MRU_AT] = mru
        at = word + _KEY_AT
        words[at:at + len(key) // 8] = memoryview(key).cast("Q")
        self._armed[slot] = (now + LOST_AFTER, token)
        # The last store.  The system call that sends the packet and the
        # locks that the packet goes through publish it to other CPUs.
        words[word] = state | abi.OVS_SLOT_ARMED
        generation = state >> abi.OVS_SLOT_GEN_SHIFT
        return (slot + 1
                | generation << abi.OVS_SLOT_BITS) & 0xffffffff

    def cancel(self, mark: int) -> None:
        """Take back the slot of a packet that was not sent; its token is
        not given back by reap()."""
        slot = (mark & (1 << abi.OVS_SLOT_BITS) - 1) - 1
        if self._armed.pop(slot, None) is not None:
            self._disarm(slot)

    def reap(self, now: int) -> list[object]:
        """Take back the slots whose packets have passed or got lost.

        :param now: ms
        :return: the tokens that were given to arm(), each once
        """
        self._collect(now)
        tokens, self._passed = self._passed, []
        return tokens

    def _collect(self, now: int) -> None:
        words = self._words
        done = [slot for slot, (deadline, _) in self._armed.items()
                if not words[slot * _WORDS] & abi.OVS_SLOT_ARMED
                or deadline <= now]
        for slot in done:
            if words[slot * _WORDS] & abi.OVS_SLOT_ARMED:
                self.lost += 1
            self._passed.append(self._armed.pop(slot)[1])
            self._disarm(slot)

    def reset(self) -> list[object]:
        """Take all slots back: the device has gone and its queue with it.

        :return: the tokens that were given to arm(), each once
        """
        tokens = self._passed + [token for _, token in self._armed.values()]
        for slot in self._armed:
            self._disarm(slot)
        self._armed.clear()
        self._passed = []
        return tokens

    def _disarm(self, slot: int) -> None:
        """A packet that comes after this is refused and counted."""
        self._words[slot * _WORDS] &= ~abi.OVS_SLOT_ARMED
        self._free.append(slot)

    def __len__(self) -> int:
        """How many tokens are still to be given back."""
        return len(self._armed) + len(self._passed)


class Injector:
    """Writes packets to the inject device's near end; never blocks.

    :param ifindex: the device, in this network namespace.  Its MTU bounds
        packets that are not GSO; GSO ones go up to 64 KiB.
    :raises BackendError: ENODEV, or the socket cannot be made
    :ivar refused: packets that the kernel did not take
    """

    def __init__(self, ifindex: int) -> None:
        self.refused = 0
        try:
            # Protocol 0: nothing is received.
            self._socket = socket.socket(
                socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except OSError as error:
            raise _failed(error) from error
        try:
            self._socket.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
            self._socket.bind((socket.if_indextoname(ifindex), 0))
        except OSError as error:
            self._socket.close()
            raise _failed(error) from error

    def send(self, mark: int, packet: bytes,
             vnet_hdr: bytes = bytes(VNET_HDR_LEN)) -> bool:
        """Send one packet.

        :param mark: of ExecSlots.arm()
        :param packet: from its Ethernet header on, 14 bytes at least
        :param vnet_hdr: struct virtio_net_hdr: checksum to be finished, GSO
        :return: False when the kernel refused it: the device is down or
            gone, its queue is full, the packet is longer than the MTU
        """
        try:
            self._socket.sendmsg(
                (vnet_hdr, packet),
                ((socket.SOL_SOCKET, _SO_MARK, _MARK.pack(mark)),))
        except OSError:
            self.refused += 1
            return False
        return True

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


def _failed(error: OSError) -> BackendError:
    return BackendError(error.errno or errno.EIO,
                        "cannot send to the inject device")
