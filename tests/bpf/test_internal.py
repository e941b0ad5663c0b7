# SPDX-License-Identifier: Apache-2.0
"""Priority and mark of packets that go over an internal port's pair, as the
kernel datapath's internal device keeps them."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator

import pytest
from devices import ip, packet_socket
from frames import ether
from lists import output, set_whole
from oracle_attrs import put_key
from oracle_key import Meta, extract
from oracle_state import attributes
from scapy.layers.inet import IP, UDP
from switch import NAME, UPCALL_PID, Switch

from dpif_bpf import abi
from dpif_bpf.edge import bpfprog
from dpif_bpf.edge.ports.clsact import EGRESS, Clsact
from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import nla_string, nla_u32_array

PRIORITY, MARK = 5, 0x77
SO_MARK, SO_PRIORITY, SO_RCVMARK, SO_RCVPRIORITY = 36, 12, 75, 82
CLONE_NEWNET = 0x40000000
U32 = struct.Struct("=I")
FRAME = bytes(ether() / IP(src="192.0.2.1", dst="192.0.2.2") / UDP()
              / bytes(30))
OTHER = bytes(ether(type=0x88b5) / bytes(60))

_libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def switch(shipped_object: None) -> Iterator[Switch]:
    """A switch whose internal port is up and quiet."""
    with Switch({1: 1500, 2: 1500}, set()) as made:
        ip(f"link set {NAME} arp off addrgenmode none", f"link set {NAME} up")
        made.ask(uapi.OVS_VPORT_ID, uapi.OVS_VPORT_CMD_SET,
                 nla_string(uapi.OVS_VPORT_ATTR_NAME, NAME),
                 nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID,
                               (UPCALL_PID,)))
        yield made


class End:
    """The end of the pair that people use.

    :param frame: one of the type that is received: past the hooks, where
        what takes all types is before them
    :ivar priority: whether the kernel tells of received priorities
    """

    def __init__(self, frame: bytes) -> None:
        kind = int.from_bytes(frame[12:14], "big")
        self._sock = packet_socket(kind)
        self._sock.bind((NAME, kind))
        for option, value in ((SO_MARK, MARK), (SO_PRIORITY, PRIORITY),
                              (SO_RCVMARK, 1)):
            self._sock.setsockopt(socket.SOL_SOCKET, option, value)
        self.priority = True
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, SO_RCVPRIORITY, 1)
        except OSError as error:  # before Linux 6.14
            if error.errno != errno.ENOPROTOOPT:
                raise
            self.priority = False

    def send(self, frame: bytes) -> None:
        self._sock.send(bytes(10) + frame)

    def received(self, frame: bytes) -> tuple[int | None, int]:
        """Priority and mark of the next frame like that."""
        end = time.monotonic() + 5
        while time.monotonic() < end:
            try:
                data, extra, _, where = self._sock.recvmsg(1 << 16, 256)
            except BlockingIOError:
                continue
            if where[2] != socket.PACKET_OUTGOING and data[10:] == frame:
                found = {kind: U32.unpack(value)[0] for level, kind, value
                         in extra if level == socket.SOL_SOCKET}
                return found.get(SO_PRIORITY), found[SO_MARK]
        raise AssertionError("nothing came")


def missed(switch: Switch, frame: bytes) -> tuple[int, int]:
    """Priority and mark of the key in the next miss."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        switch.turn()
        for message in switch.messages:
            if message.attrs[uapi.OVS_PACKET_ATTR_PACKET] == frame:
                key = dict(attributes(message.attrs[
                    uapi.OVS_PACKET_ATTR_KEY]))
                switch.messages.clear()
                return (U32.unpack(key[uapi.OVS_KEY_ATTR_PRIORITY])[0],
                        U32.unpack(key[uapi.OVS_KEY_ATTR_SKB_MARK])[0])
    raise AssertionError("nothing was missed")


def put(switch: Switch, frame: bytes, in_port: int, actions: bytes) -> None:
    """A flow of all packets of a type from a port."""
    parsed = extract(frame, Meta(in_port=in_port))
    assert parsed is not None
    mask = bytearray(abi.KEY.size)
    for name in ("in_port", "recirc_id", "eth_type"):
        mask[abi.KEY[name].slice] = b"\xff" * abi.KEY[name].size
    assert switch.put(put_key(parsed.key), put_key(parsed.key, bytes(mask)),
                      actions) == (0, None)


@pytest.mark.parametrize("frame", [FRAME, OTHER], ids=["udp", "other"])
def test_from_the_host(switch: Switch, frame: bytes) -> None:
    """In the key, and on the packet that goes on."""
    end = End(frame)
    end.send(frame)
    assert missed(switch, frame) == (PRIORITY, MARK)
    put(switch, frame, 0, output(1))
    for _ in range(3):  # the last ones are known to the cache
        end.send(frame)
        sent = sent_by(switch, frame)
        assert sent == (PRIORITY if end.priority else None, MARK)


def sent_by(switch: Switch, frame: bytes) -> tuple[int | None, int]:
    """Priority and mark of the frame that leaves by port 1."""
    limit = time.monotonic() + 5
    while time.monotonic() < limit:
        for sent in switch.capture.read():
            if sent.port == 1 and sent.packet == frame:
                return sent.priority, sent.mark
    raise AssertionError("nothing left")


ACTIONS = (set_whole(uapi.OVS_KEY_ATTR_PRIORITY, U32.pack(PRIORITY))
           + set_whole(uapi.OVS_KEY_ATTR_SKB_MARK, U32.pack(MARK)))


@pytest.mark.parametrize("actions", [
    ACTIONS + output(0), ACTIONS + output(0) + output(2)],
    ids=["output", "copy"])
@pytest.mark.parametrize("frame", [FRAME, OTHER], ids=["udp", "other"])
def test_to_the_host(switch: Switch, frame: bytes, actions: bytes) -> None:
    end = End(frame)
    put(switch, frame, 1, actions)
    switch.ports[1].send(frame)
    assert end.received(frame) == (PRIORITY if end.priority else None, MARK)


def test_nobody_else_is_believed(switch: Switch) -> None:
    """A packet of another port, whatever its sender kept there."""
    far = socket.if_nametoindex(switch.ports[1].far)
    keep = switch.instance.plane.gen.prog_fd("ovs_keep")
    with contextlib.ExitStack() as stack:
        if bpfprog.has_tcx():
            stack.callback(os.close, bpfprog.link_create(
                keep, far, bpfprog.ATTACH_TCX_EGRESS))
        else:
            clsact = stack.enter_context(contextlib.closing(Clsact()))
            clsact.attach(far, keep, "ovs_keep", EGRESS)
        sock = switch.ports[1].sock
        sock.setsockopt(socket.SOL_SOCKET, SO_PRIORITY, PRIORITY)
        switch.ports[1].send(OTHER, mark=MARK)
        assert missed(switch, OTHER) == (0, MARK)


def within(pid: int, call: Callable[[], End]) -> End:
    """What a call returns in the network namespace of a process."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        assert not _libc.setns(other, CLONE_NEWNET)
        return call()
    finally:
        assert not _libc.setns(own, CLONE_NEWNET)
        os.close(own)
        os.close(other)


def test_from_and_to_another_namespace(switch: Switch) -> None:
    if not bpfprog.has_tcx():
        pytest.skip("hooks by clsact do not go with a device (Linux 6.6)")
    host = subprocess.Popen(["unshare", "--net", "sh", "-c",
                             "echo && exec sleep 60"], stdout=subprocess.PIPE)
    try:
        assert host.stdout is not None and host.stdout.readline()

        def move() -> End:
            ip(f"link set {NAME} arp off", f"link set {NAME} up")
            return End(OTHER)

        ip(f"link set {NAME} netns {host.pid}")
        end = within(host.pid, move)
        end.send(OTHER)
        assert missed(switch, OTHER) == (PRIORITY, MARK)
        put(switch, OTHER, 1, ACTIONS + output(0))
        switch.ports[1].send(OTHER)
        assert end.received(OTHER) == (
            PRIORITY if end.priority else None, MARK)
    finally:
        host.kill()
        host.wait()
