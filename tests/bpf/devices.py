# SPDX-License-Identifier: Apache-2.0
"""A network namespace of one's own, and ports that are veth pairs in it."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

PREFIX = "bpft"
ETH_P_ALL = 3

_CLONE_NEWNET = 0x40000000
_SOL_PACKET, _PACKET_AUXDATA, _PACKET_VNET_HDR = 263, 8, 15
_SO_MARK = 36
_VLAN_VALID, _VLAN_TPID_VALID = 0x10, 0x40
_AUXDATA = struct.Struct("=IIIHHHH")
_VNET_HDR = struct.Struct("=BBHHHH")
VNET_LEN = _VNET_HDR.size

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Be in a new network namespace, which goes away afterwards."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    if _libc.unshare(_CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    try:
        yield
    finally:
        _libc.setns(before, _CLONE_NEWNET)
        os.close(before)


def ip(*lines: str) -> None:
    """Runs ip -batch."""
    subprocess.run(["ip", "-batch", "-"], input="\n".join(lines), text=True,
                   check=True)


@dataclass(frozen=True, slots=True)
class Vnet:
    """struct virtio_net_hdr: offloads of a packet.

    :param csum: checksum start and offset of one that is to be computed
    :param gso: type, header length and segment size
    """

    csum: tuple[int, int] | None = None
    gso: tuple[int, int, int] = (0, 0, 0)

    def pack(self) -> bytes:
        start, offset = self.csum or (0, 0)
        kind, hdr_len, size = self.gso
        return _VNET_HDR.pack(1 if self.csum else 0, kind, hdr_len, size,
                              start, offset)


def packet_socket(protocol: int = 0) -> socket.socket:
    """A packet socket that tells of offloads, and does not block.

    :param protocol: what it receives of all devices; 0: nothing yet
    """
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW,
                         socket.htons(protocol))
    sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, 1)
    sock.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    sock.setblocking(False)
    return sock


def unpack(data: bytes, extra: list[tuple[int, int, bytes]],
           ) -> tuple[bytes, Vnet]:
    """A packet as it was received, its outer tag put back."""
    flags, kind, hdr_len, size, start, offset = _VNET_HDR.unpack(data[:10])
    packet = data[10:]
    csum = (start, offset) if flags & 1 else None
    for level, type_, payload in extra:
        if (level, type_) != (_SOL_PACKET, _PACKET_AUXDATA):
            continue
        status, _, _, _, _, tci, tpid = _AUXDATA.unpack(payload[:20])
        if status & _VLAN_VALID:
            if not status & _VLAN_TPID_VALID:
                tpid = 0x8100
            packet = (packet[:12] + struct.pack("!HH", tpid, tci)
                      + packet[12:])
    return packet, Vnet(csum, (kind, hdr_len, size))


class Port:
    """One port: `ifindex` of the near end, and a socket on the far end."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.near, self.far = f"{PREFIX}{number}a", f"{PREFIX}{number}b"
        self.ifindex = socket.if_nametoindex(self.near)
        self.sock = packet_socket()
        self.sock.bind((self.far, ETH_P_ALL))

    def send(self, packet: bytes, vnet: Vnet | None = None,
             mark: int = 0) -> None:
        """A packet comes in by this port."""
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_MARK,
                             struct.pack("=I", mark))
        self.sock.send((vnet or Vnet()).pack() + packet)

    def receive(self) -> tuple[bytes, Vnet] | None:
        """The next packet that went out, its outer tag put back."""
        while True:
            try:
                data, extra, _, where = self.sock.recvmsg(1 << 17, 256)
            except OSError as error:
                if error.errno in {errno.EAGAIN, errno.ENETDOWN}:
                    return None
                raise
            if where[2] != socket.PACKET_OUTGOING:
                return unpack(data, extra)

    def close(self) -> None:
        self.sock.close()


def make_pairs(names: Iterable[str]) -> None:
    """Veth pairs "NAMEa" and "NAMEb" behind PREFIX, up and quiet."""
    lines = ["link set lo up"]
    for name in names:
        near, far = f"{PREFIX}{name}a", f"{PREFIX}{name}b"
        lines.append(f"link add {near} mtu 9000 type veth"
                     f" peer name {far} mtu 9000")
        lines += [f"link set {end} {how}" for end in (near, far)
                  for how in ("arp off addrgenmode none", "up")]
    ip(*lines)
