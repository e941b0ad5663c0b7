# SPDX-License-Identifier: Apache-2.0
"""Packets that their sender still holds, too: pktgen's.

A kernel helper that would have to give such a packet a new head ends in a
BUG(), and the machine in a panic.  So these tests run in a guest alone:

    ./run guest -k 6.12 ./run tests tests/bpf/test_shared.py
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from devices import ETH_P_ALL, packet_socket
from frames import IPV4, KEY_UDP, LSE, NEW, ONES4, SET_SRC4, ipv4_value
from harness import Datapath
from lists import (
    POP_ETH,
    add_once,
    check_pkt_len,
    clone,
    dec_ttl,
    hash_l4,
    nsh_base,
    output,
    push_eth,
    push_mpls,
    push_nsh,
    push_vlan,
    recirc,
    sample,
    set_masked,
    trunc,
    userspace,
)
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dpif_bpf.abi import DropReason
from dpif_bpf.wire import uapi

PKTGEN = Path("/proc/net/pktgen")
GUEST = Path("/mnt/share/stage2.sh")
COUNT = 3
MAC = "02:00:00:00:00:0b"

UDP_PACKET = bytes(Ether(dst=MAC) / IP(src="192.0.2.1", dst="192.0.2.2")
                   / UDP() / bytes(300))
SET_ETH = set_masked(uapi.OVS_KEY_ATTR_ETHERNET, NEW, b"\xff" * 12)
SET_TTL = set_masked(IPV4, ipv4_value(ttl=9), ipv4_value(ttl=255))
TAG = push_vlan(0x8100, 5)
MPLS = push_mpls(LSE, 0x8847)
NSH = push_nsh(nsh_base(7, 255, mdtype=1), bytes(16))

CHANGING = {
    "outputs": output(2) + output(3),
    "recirc": recirc(7) + output(2),
    "clone": clone(TAG, output(2)) + output(3),
    "set eth": SET_ETH + output(2),
    "set ttl": SET_TTL + output(2),
    "set ipv4": SET_SRC4 + output(2),
    "set udp": set_masked(KEY_UDP, b"\0\7\0\7", ONES4) + output(2),
    "dec_ttl": dec_ttl() + output(2),
    "tag": TAG + output(2),
    "tags": TAG + TAG + output(2),
    "trunc": trunc(60) + output(2),
    "mpls": MPLS + output(2),
    "nsh": NSH + output(2),
    "eth": MPLS + POP_ETH + push_eth(NEW) + output(2),
    "late": userspace(1) + sample(0xffffffff, SET_ETH + output(2)),
}
"""What no packet of pktgen may be asked for."""

LEAVING = {
    "output": output(2),
    "userspace": userspace(1) + output(2),
    "hash": hash_l4(1) + output(2),
    "check_pkt_len": check_pkt_len(100, output(2), output(3)),
    "trunc": trunc(2000) + output(2),
}
"""What leaves the packet as it is, and sends it."""


@pytest.fixture(scope="module")
def pktgen() -> None:
    if not GUEST.exists():
        pytest.skip("a fault would panic the machine: for ./run guest")
    subprocess.run(["modprobe", "pktgen"], check=False)
    if not PKTGEN.exists():
        pytest.skip("needs the kernel's module pktgen")


def _set(name: str, *lines: str) -> None:
    for line in lines:
        (PKTGEN / name).write_text(f"{line}\n", "ascii")


def generate(device: str, *settings: str) -> None:
    """Sends COUNT packets like UDP_PACKET, and waits until that is done.

    :param settings: lines for the device
    """
    _set("kpktgend_0", "rem_device_all", f"add_device {device}")
    _set(device, f"count {COUNT}", "delay 0", f"pkt_size {len(UDP_PACKET)}",
         f"dst_mac {MAC}", "dst 192.0.2.2", "src_min 192.0.2.1",
         "src_max 192.0.2.1", *settings)
    _set("pgctrl", "start")
    result = (PKTGEN / device).read_text("ascii")
    assert "OK:" in result, result


@contextlib.contextmanager
def tapped(device: str, wanted: bool) -> Iterator[None]:
    """Somebody listens, if `wanted`: each packet has been cloned."""
    with contextlib.ExitStack() as stack:
        if wanted:
            sock = stack.enter_context(packet_socket())
            sock.bind((device, ETH_P_ALL))
        yield


@pytest.mark.parametrize(("settings", "tap"), [
    ((), False), (("frags 3",), True)], ids=["plain", "cloned"])
@pytest.mark.parametrize("name", CHANGING)
def test_dropped(pktgen: None, dp: Datapath, name: str,
                 settings: tuple[str, ...], tap: bool) -> None:
    """Received again and again by the port itself, and never changed."""
    add_once(dp, CHANGING[name], UDP_PACKET)
    before = dp.drops().get(DropReason.SHARED, 0)
    with tapped(dp.ports[1].near, tap):
        generate(dp.ports[1].near, "xmit_mode netif_receive", *settings)
    assert dp.drops()[DropReason.SHARED] - before == COUNT
    assert dp.outputs(0, .2) == []


@pytest.mark.parametrize("name", LEAVING)
def test_sent(pktgen: None, dp: Datapath, name: str) -> None:
    add_once(dp, LEAVING[name], UDP_PACKET)
    before = dp.drops().get(DropReason.SHARED, 0)
    generate(dp.ports[1].near, "xmit_mode netif_receive")
    assert [port for port, _, _ in dp.outputs(COUNT)] == [2] * COUNT
    assert dp.drops().get(DropReason.SHARED, 0) == before
    dp.poll(0)


@pytest.mark.parametrize("name", ["outputs", "trunc", "tags"])
def test_over_a_veth(pktgen: None, dp: Datapath, name: str) -> None:
    """The sender may have let go of a packet by the time that it arrives: it
    leaves, or is dropped."""
    add_once(dp, CHANGING[name], UDP_PACKET)
    each = 2 if name == "outputs" else 1
    before = dp.drops().get(DropReason.SHARED, 0)
    with tapped(dp.ports[1].near, True):
        generate(dp.ports[1].far, "frags 3")
    sent = len(dp.outputs(COUNT * each, .5))
    dropped = dp.drops().get(DropReason.SHARED, 0) - before
    assert sent + dropped * each == COUNT * each
