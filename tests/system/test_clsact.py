# SPDX-License-Identifier: Apache-2.0
"""Hooks without tcx (dpif_bpf.edge.ports.Clsact)."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator

import pytest
from netns import Namespace

from dpif_bpf.edge.bpfprog import prog_load
from dpif_bpf.edge.ports import Clsact
from dpif_bpf.errors import BackendError

TC_ACT_SHOT = 2
BPF_PROG_TYPE_SCHED_CLS = 3


def program(verdict: int) -> int:
    """Loads a program of two instructions: r0 = verdict; exit."""
    return prog_load(BPF_PROG_TYPE_SCHED_CLS, struct.pack(
        "=BBhiBBhi", 0xb7, 0, 0, verdict, 0x95, 0, 0, 0), "ovs_test")


@pytest.fixture
def programs() -> Iterator[dict[str, int]]:
    """Descriptors of a program that accepts and one that drops."""
    made = {"pass": program(0), "shot": program(TC_ACT_SHOT)}
    yield made
    for fd in made.values():
        os.close(fd)


@pytest.fixture
def v0(namespace: Namespace) -> int:
    namespace.ip("link add v0 type veth peer name v1")
    namespace.ip("addr add 10.77.0.1/24 dev v0")
    namespace.ip("link set v0 up")
    namespace.ip("link set v1 up")
    return socket.if_nametoindex("v0")


@pytest.fixture
def clsact(namespace: Namespace) -> Iterator[Clsact]:
    made = Clsact()
    yield made
    made.close()


def arrives(namespace: Namespace) -> bool:
    """Whether a frame into v1 reaches the host behind v0."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out, \
            socket.socket(socket.AF_INET, socket.SOCK_RAW,
                          socket.IPPROTO_EGP) as host:
        out.bind(("v1", 0))
        host.settimeout(0.3)
        mac = mac_address("v0")
        header = bytes.fromhex("450000180000000040080000") + socket.inet_aton(
            "10.77.0.2") + socket.inet_aton("10.77.0.1")
        total = sum(int.from_bytes(header[i:i + 2], "big")
                    for i in range(0, 20, 2))
        total = (total & 0xffff) + (total >> 16)
        checksum = (~total & 0xffff).to_bytes(2, "big")
        header = header[:10] + checksum + header[12:]
        out.send(mac + bytes(6) + b"\x08\x00" + header + b"test")
        try:
            return bool(host.recv(100))
        except TimeoutError:
            return False


def mac_address(name: str) -> bytes:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind((name, 0))
        address = sock.getsockname()[4]
        assert isinstance(address, bytes)
        return address


def test_attach_replace_detach(namespace: Namespace, v0: int, clsact: Clsact,
                               programs: dict[str, int]) -> None:
    assert arrives(namespace)
    clsact.attach(v0, programs["shot"], "ovs_test")
    assert not arrives(namespace)
    clsact.attach(v0, programs["pass"], "ovs_test")
    assert arrives(namespace)
    shown = namespace.run("tc", "filter", "show", "dev", "v0", "ingress")
    assert shown.count("direct-action") == 1 and "ovs_test" in shown
    clsact.attach(v0, programs["shot"], "ovs_test")
    clsact.detach(v0)
    assert arrives(namespace)
    assert "clsact" not in namespace.run("tc", "qdisc", "show", "dev", "v0")
    clsact.detach(v0)
    clsact.detach(99999)


def test_foreign_filters_stay(namespace: Namespace, v0: int, clsact: Clsact,
                              programs: dict[str, int]) -> None:
    tc = ("tc", "filter", "add", "dev", "v0", "pref", "7")
    match = ("u32", "match", "u32", "0", "0", "classid", "1:1")
    namespace.run("tc", "qdisc", "add", "dev", "v0", "clsact")
    assert not clsact.has_foreign(v0)
    clsact.attach(v0, programs["pass"], "ovs_test")
    assert not clsact.has_foreign(v0)
    namespace.run(*tc, "egress", *match)
    assert not clsact.has_foreign(v0), "egress is not ours to care for"
    namespace.run(*tc, "ingress", *match)
    assert clsact.has_foreign(v0)
    clsact.detach(v0)
    shown = namespace.run("tc", "filter", "show", "dev", "v0", "ingress")
    assert "u32" in shown and "bpf" not in shown
    assert "u32" in namespace.run("tc", "filter", "show", "dev", "v0",
                                  "egress")


def test_refusals(namespace: Namespace, v0: int, clsact: Clsact,
                  programs: dict[str, int]) -> None:
    with pytest.raises(BackendError) as caught:
        clsact.attach(99999, programs["pass"], "ovs_test")
    assert caught.value.errno == errno.ENODEV
    with pytest.raises(BackendError) as caught:
        clsact.attach(v0, 0, "ovs_test")
    assert caught.value.errno == errno.EINVAL
    namespace.run("tc", "qdisc", "add", "dev", "v0", "ingress")
    clsact.detach(v0)
    assert "ingress" in namespace.run("tc", "qdisc", "show", "dev", "v0")
