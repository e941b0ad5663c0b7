# SPDX-License-Identifier: Apache-2.0
"""exchange.py tcp|udp CLIENT SERVER ADDRESS: data there and back.

CLIENT and SERVER are named network namespaces, or "-" for the one that this
runs in.  What arrives must be what was sent, in both directions: 4 MB over
TCP, 200 datagrams of up to 1,400 bytes over UDP.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import socket
import sys
import threading

CLONE_NEWNET = 0x40000000
PORT = 7000
SIZE = 4 << 20
DATAGRAMS = 200


def socket_in(namespace: str, kind: int) -> socket.socket:
    """A socket of a network namespace.  The thread stays in it."""
    if namespace != "-":
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace}") as net:
            if libc.setns(net.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
    sock = socket.socket(socket.AF_INET, kind)
    sock.settimeout(15)
    return sock


def read_all(sock: socket.socket) -> bytes:
    """Everything until the other side ends."""
    parts = []
    while part := sock.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


class Server(threading.Thread):
    """Sends back what it gets."""

    def __init__(self, kind: int, namespace: str, address: str) -> None:
        super().__init__(daemon=True)
        self._kind = kind
        self._namespace = namespace
        self._address = address
        self.ready = threading.Event()

    def run(self) -> None:
        sock = socket_in(self._namespace, self._kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((self._address, PORT))
        if self._kind == socket.SOCK_STREAM:
            sock.listen()
            self.ready.set()
            peer, _ = sock.accept()
            peer.settimeout(15)
            peer.sendall(read_all(peer))
            peer.close()
            return
        self.ready.set()
        while True:
            data, source = sock.recvfrom(1 << 16)
            sock.sendto(data, source)


def exchange_tcp(sock: socket.socket, address: str) -> None:
    data = os.urandom(SIZE)
    sock.connect((address, PORT))
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)
    back = read_all(sock)
    if hashlib.sha256(back).digest() != hashlib.sha256(data).digest():
        sys.exit(f"{len(back)} bytes came back, not the {SIZE} sent")


def exchange_udp(sock: socket.socket, address: str) -> None:
    sock.connect((address, PORT))
    for i in range(DATAGRAMS):
        data = os.urandom(1 + i * 7 % 1400)
        sock.send(data)
        if sock.recv(1 << 16) != data:
            sys.exit(f"datagram {i} came back changed")


def main() -> None:
    protocol, client, server, address = sys.argv[1:]
    kind = (socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM)
    thread = Server(kind, server, address)
    thread.start()
    if not thread.ready.wait(10):
        sys.exit("the server does not start")
    sock = socket_in(client, kind)
    if protocol == "tcp":
        exchange_tcp(sock, address)
    else:
        exchange_udp(sock, address)


if __name__ == "__main__":
    main()
