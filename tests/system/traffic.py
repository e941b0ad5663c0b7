# SPDX-License-Identifier: Apache-2.0
"""Traffic between hosts, run inside their namespaces:

    traffic.py tcp-sink ADDRESS PORT          prints the bytes and their sha
    traffic.py tcp-source ADDRESS PORT BYTES  prints the same of what it sent
    traffic.py udp-echo ADDRESS PORT
    traffic.py udp-ask ADDRESS PORT COUNT SIZE    prints how many came back
    traffic.py udp-count ADDRESS PORT         prints what came, on SIGTERM
    traffic.py udp-gaps ADDRESS PORT          prints what came, and between
                                              what others are missing, on
                                              SIGTERM, as JSON
    traffic.py udp-send ADDRESS PORT RATE [SECONDS]   prints what it sent,
                                              on SIGTERM or after SECONDS
    traffic.py udp-flood DEVICE SRC DST       from MAC to MAC, each packet of
                                              another address and port
    traffic.py spray DEVICE DST RATE SENDERS  to a MAC, from so many others

What runs until it is ended prints "ready" when it has begun.
"""

from __future__ import annotations

import hashlib
import json
import random
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from types import FrameType

CHUNK = 1 << 16


def make(address: str, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)   # SO_RCVBUFFORCE
    return sock


def serve(address: str, port: str, kind: socket.SocketKind) -> socket.socket:
    sock = make(address, kind)
    sock.bind((address, int(port)))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    print("ready", flush=True)
    return sock


def tcp_sink(address: str, port: str) -> None:
    conn, _ = serve(address, port, socket.SOCK_STREAM).accept()
    sha, size = hashlib.sha256(), 0
    while data := conn.recv(CHUNK):
        sha.update(data)
        size += len(data)
    print(size, sha.hexdigest())


def tcp_source(address: str, port: str, count: str) -> None:
    sock = make(address, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect((address, int(port)))
    sha, left = hashlib.sha256(), int(count)
    block = random.randbytes(1 << 20)
    while left:
        data = block[:left]
        sha.update(data)
        sock.sendall(data)
        left -= len(data)
    sock.close()
    print(count, sha.hexdigest())


def udp_echo(address: str, port: str) -> None:
    sock = serve(address, port, socket.SOCK_DGRAM)
    while True:
        data, peer = sock.recvfrom(CHUNK)
        sock.sendto(data, peer)


def udp_ask(address: str, port: str, count: str, size: str) -> None:
    sock = make(address, socket.SOCK_DGRAM)
    sock.settimeout(2)
    sock.connect((address, int(port)))
    good = 0
    for _ in range(int(count)):
        data = random.randbytes(int(size))
        sock.send(data)
        try:
            good += sock.recv(CHUNK) == data
        except TimeoutError:
            continue
    print(good)


def udp_count(address: str, port: str) -> None:
    seen: set[bytes] = set()

    def report(_signal: int, _frame: FrameType | None) -> None:
        print(len(seen), flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, report)
    sock = serve(address, port, socket.SOCK_DGRAM)
    while True:
        seen.add(sock.recv(CHUNK))


def udp_gaps(address: str, port: str) -> None:
    """[number of datagrams, [[when the last one before was sent, when the
    first one after (ns, CLOCK_MONOTONIC), how many are missing], …]]"""
    sent_at: dict[int, int] = {}

    def report(_signal: int, _frame: FrameType | None) -> None:
        numbers = sorted(sent_at)
        gaps = [(sent_at[one], sent_at[other], other - one - 1)
                for one, other in pairwise(numbers) if other - one > 1]
        print(json.dumps((len(numbers), gaps)), flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, report)
    sock = serve(address, port, socket.SOCK_DGRAM)
    while True:
        number, when = struct.unpack("!QQ", sock.recv(CHUNK))
        sent_at[number] = when


def udp_send(address: str, port: str, rate: str,
             seconds: str = "inf") -> None:
    sock = make(address, socket.SOCK_DGRAM)
    sock.connect((address, int(port)))
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame:
                  stopped.append(number))
    start = time.monotonic()
    sent = 0
    print("ready", flush=True)
    while not stopped and sent < float(rate) * float(seconds):
        due = int((time.monotonic() - start) * float(rate))
        while sent < due:
            sock.send(struct.pack("!QQ", sent, time.monotonic_ns()))
            sent += 1
        time.sleep(0.001)
    print(sent)


def udp_flood(device: str, source: str, destination: str) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    frame = bytearray(60)
    frame[:6] = bytes.fromhex(destination.replace(":", ""))
    frame[6:12] = bytes.fromhex(source.replace(":", ""))
    struct.pack_into("!HBBHHHBBH", frame, 12, 0x0800, 0x45, 0, 46, 0, 0, 64,
                     socket.IPPROTO_UDP, 0)
    struct.pack_into("!HHHH", frame, 34, 1, 1, 26, 0)
    print("ready", flush=True)
    while True:
        frame[26:38] = b"\x0a" + random.randbytes(11)
        sock.send(frame)


def spray(device: str, destination: str, rate: str, senders: str) -> None:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    sock.bind((device, 0))
    frame = bytearray(bytes.fromhex(destination.replace(":", ""))
                      + bytes(6) + b"\x88\xb5").ljust(60, b"\0")
    print("ready", flush=True)
    while True:
        struct.pack_into("!HI", frame, 6, 0x0200,
                         random.randrange(int(senders)))
        sock.send(frame)
        time.sleep(1 / float(rate))


COMMANDS: dict[str, Callable[..., None]] = {
    "tcp-sink": tcp_sink, "tcp-source": tcp_source,
    "udp-echo": udp_echo, "udp-ask": udp_ask,
    "udp-count": udp_count, "udp-send": udp_send,
    "udp-gaps": udp_gaps, "udp-flood": udp_flood, "spray": spray}

if __name__ == "__main__":
    COMMANDS[sys.argv[1]](*sys.argv[2:])
