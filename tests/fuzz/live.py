# SPDX-License-Identifier: Apache-2.0
"""Random requests to a provider that runs.

::

    python -m tests.fuzz.live SOCKET [--seconds N] [--seed S] [--device NAME]…

Sends what tests/fuzz/test_requests.py sends and looks at the answers in the
same way.  It makes and ends datapaths and ports, those that it finds as well:
give it a provider of its own, in a network namespace of its own, and devices
that may become ports.  The exit status is 0 when every request was answered
as netlink answers, and the provider is there at the end.
"""

from __future__ import annotations

import argparse
import errno
import random
import socket
import struct
import sys
import time
import traceback
from collections import Counter
from pathlib import Path

_TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(_TESTS.parent), str(_TESTS)]

from dpif_bpf.wire import uapi as u  # noqa: E402
from dpif_bpf.wire.netlink import (  # noqa: E402
    GENLMSGHDR,
    NETLINK_GENERIC,
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_REQUEST,
    NLMSG_ERROR,
    build,
    iter_messages,
)
from tests.fuzz.answers import Answers  # noqa: E402
from tests.fuzz.damage import HELLO, LONGEST, Damage  # noqa: E402
from tests.fuzz.requests import PID, Maker, Request, World, text  # noqa: E402

VERSION = 1
SO_SNDBUFFORCE = 32
PATIENCE = 60
"""Seconds for an answer: a datapath takes some."""
END = 0x77
"""A type that is no family's: what answers it comes after all else."""
LOOK = 50
"""Datagrams between looks at which datapaths there are."""
TOLD = 10
"""Seconds between reports."""


class Provider:
    """The provider's socket."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE,
                                4 * LONGEST)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(path)
        port_id = random.SystemRandom().randrange(1 << 20, 1 << 31)
        self._socket.send(struct.pack(
            "=IHHIIIIII", 32, HELLO, NLM_F_REQUEST, 0, PID, VERSION,
            NETLINK_GENERIC, port_id, 0))
        self._seq = 1 << 31

    def ask(self, datagram: bytes) -> list[bytes]:
        """The datagrams that answer one.

        :raises OSError: the provider has gone, or does not answer
        """
        self._seq += 1
        self._socket.send(datagram)
        self._socket.send(build(END, NLM_F_REQUEST, self._seq, PID, b""))
        replies = []
        while True:
            reply = self._socket.recv(2 * LONGEST)
            if not reply:
                raise ConnectionResetError(errno.ECONNRESET,
                                           "the provider has gone")
            first = next(iter_messages(reply))
            if (first.type, first.seq) == (NLMSG_ERROR, self._seq):
                return replies
            replies.append(reply)

    def indexes(self) -> list[int]:
        """dp_ifindex of all datapaths."""
        return [u.OVS_HEADER.unpack_from(message.raw, 20)[0]
                for reply in self.ask(build(
                    u.OVS_DATAPATH_ID, NLM_F_REQUEST | NLM_F_DUMP, 1, PID,
                    GENLMSGHDR.pack(u.OVS_DP_CMD_GET, 1, 0) + bytes(4)))
                for message in iter_messages(reply)
                if message.type == u.OVS_DATAPATH_ID]


class Live:
    """A run.

    :param devices: that may become ports
    :ivar datagram: the last one, and ``replies`` to it
    """

    def __init__(self, path: str, seed: int, devices: list[str]) -> None:
        self.provider = Provider(path)
        self.world = World(("fuzz1", "fuzz2"),
                           (*devices, "fuzz3", "fuzz4", "fuzz5"))
        rng = random.Random(seed)
        self.maker = Maker(rng, self.world, rare=20)
        self.damage = Damage(rng, self.maker)
        self.sent = 0
        self.datagram = b""
        self.replies: list[bytes] = []
        self.slowest = 0.
        self.answers: Counter[str] = Counter()

    def turn(self) -> None:
        if self.sent % LOOK == 0:
            self.look()
        self.replies = []
        self.datagram = self.damage.datagram(8 * self.sent + 1)
        before = time.monotonic()
        self.replies = self.provider.ask(self.datagram)
        self.slowest = max(self.slowest, time.monotonic() - before)
        for code in Answers(self.replies).check(self.datagram):
            self.answers[errno.errorcode.get(code, "-")] += 1
        self.sent += 1

    def look(self) -> None:
        """Which datapaths there are; one at least."""
        self.world.indexes[:] = self.provider.indexes()
        if self.world.indexes:
            return
        self.plainly(self.maker.new_datapath())
        self.world.indexes[:] = self.provider.indexes()
        for device in self.world.devices[:2]:
            self.plainly(self.maker.new_port(device))

    def plainly(self, request: Request) -> None:
        request.flags |= NLM_F_ACK
        self.provider.ask(request.encode(1))

    def close(self) -> None:
        """Ends the datapaths that were made."""
        for name in self.world.datapaths:
            self.plainly(Request(u.OVS_DATAPATH_ID, u.OVS_DP_CMD_DEL,
                                 [text(u.OVS_DP_ATTR_NAME, name)]))

    def __str__(self) -> str:
        counts = " ".join(f"{name}:{count}" for name, count
                          in self.answers.most_common())
        return (f"{self.sent} datagrams, the slowest {self.slowest:.2f} s,"
                f" {counts}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz.live",
        description="random requests to a provider that runs")
    parser.add_argument("socket", help="ovs-bpfd.sock")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--device", action="append", default=[],
                        help="a device that may become a port")
    args = parser.parse_args()
    print(f"--seed={args.seed}", flush=True)
    live = Live(args.socket, args.seed, args.device)
    start = told = time.monotonic()
    try:
        while time.monotonic() < start + args.seconds:
            live.turn()
            if time.monotonic() > told + TOLD:
                told = time.monotonic()
                print(live, flush=True)
        live.close()
    except (AssertionError, OSError):
        print(f"{live}\n--seed={args.seed} failed in datagram {live.sent}:"
              f" {live.datagram.hex()}", *(reply.hex() for reply in
                                           live.replies), file=sys.stderr)
        traceback.print_exc()
        return 1
    print(live)
    return 0


if __name__ == "__main__":
    sys.exit(main())
