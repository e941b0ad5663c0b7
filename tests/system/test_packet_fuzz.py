# SPDX-License-Identifier: Apache-2.0
"""Random packets, whole and broken, through random flows.

They come from a tap and from a host behind a veth pair, with offloads that
need not fit what is in them, and go through flows, offloads and MTUs that
change.  Neither daemon ends, the kernel reports nothing, and packets are
forwarded when it is over.

``--fuzz-seconds`` and ``--fuzz-seed`` say for how long and with which seed, as
for tests/fuzz.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import packets
import pytest
from lab import PROVIDER, SWITCH, Host, Lab
from test_descriptors import descriptors
from test_gso import PACKET_VNET_HDR, SOL_PACKET
from tuntap import TAP_VNET_HDR, TUNSETOFFLOAD, open_tun

from dpif_bpf.wire.packet import VIRTIO_NET_HDR, VNET_HDR_NONE

PACKETS = 12_000
EACH = 400
"""Packets between two changes of the switch."""
TUN_F_ALL = 0x7f
"""Checksums, TSO and USO: segments are not made for the tap."""
NEEDS_CSUM = 1
GSO_TYPES = (1, 3, 4, 5, 0x81, 0x84)
"""TCP and UDP over IPv4 and IPv6, fragments, and TCP with ECN."""
LONGEST = 65549
KERNEL_FAULT = re.compile(
    r"BUG|WARNING|Oops|Call Trace|bad offload|csum fail|caps=|skb_over_panic"
    r"|use-after-free|refcount_t")

NEUTRAL = ("push_vlan:0x8100,set_field:4103->vlan_vid",
           "push_vlan:0x88a8",
           "set_field:02:00:00:00:00:99->eth_dst", "mod_dl_src:2:0:0:0:0:98",
           "set_field:7->metadata", "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]",
           "check_pkt_larger(100)->NXM_NX_REG0[0]", "set_field:9->pkt_mark",
           "set_queue:1", "note:01.02", "in_port", "all",
           "clone(push_vlan:0x8100,all)",
           "output(port=2,max_len=64)", "output(port=1,max_len=14)",
           "controller(max_len=70)", "group:1", "group:2", "1", "2", "3",
           "local", "flood", "normal", "resubmit(,1)", "meter:1")
"""Actions that suit every packet."""
IP = (*NEUTRAL, "mod_nw_tos:32", "mod_nw_ttl:9", "dec_ttl",
      "set_field:2->ip_ecn")
IPV4 = (*IP, "set_field:10.9.9.9->ip_dst", "mod_nw_src:10.8.8.8")
IPV6 = (*IP, "set_field:fe80::9->ipv6_dst", "set_field:2001::8->ipv6_src",
        "set_field:7->ipv6_label")
TCP = ("mod_tp_src:7", "mod_tp_dst:80")
KINDS = {
    "": NEUTRAL, "ip": IPV4, "ipv6": IPV6, "tcp": IPV4 + TCP,
    "tcp6": IPV6 + TCP, "udp": IPV4 + TCP, "udp6": IPV6 + TCP,
    "sctp": IPV4 + TCP, "sctp6": IPV6 + TCP, "icmp": IPV4,
    "icmp6": IPV6, "arp": NEUTRAL,
    "mpls": (*NEUTRAL, "dec_mpls_ttl", "set_mpls_ttl(7)",
             "set_field:77->mpls_label"),
    "vlan_tci=0x1000/0x1000": (*NEUTRAL, "strip_vlan", "mod_vlan_pcp:3"),
    "dl_type=0x894f": (*NEUTRAL, "dec_nsh_ttl", "set_field:9->nsh_spi"),
    "ip,nw_frag=yes": IPV4, "ipv6,nw_frag=later": IPV6}
"""What is matched, and which actions it allows.  Fields of ARP and ICMP are
not set: that is for ovs-vswitchd itself to do, and of a packet that ends
before them it writes behind the end (OVS 3.1, "free(): invalid next size").
"""
LAST = ("push_mpls:0x8847,set_field:3->mpls_label,2,1",
        "encap(nsh(md_type=1)),set_field:0x99->nsh_spi,1,2",
        "encap(nsh(md_type=1)),encap(ethernet),2,decap(),decap(),1",
        "encap(mpls),encap(ethernet),2,1", "drop")
"""Ends of lists: other layers than those that were matched."""
GROUPS = (
    "group_id=1,type=select,selection_method=dp_hash,bucket=output:1,"
    "bucket=output:2,bucket=mod_dl_src:2:0:0:0:0:97,output:3",
    "group_id=2,type=all,bucket=output:2,bucket=push_vlan:0x8100,output:1,"
    "bucket=dec_ttl,output:local")

NESTS = ("check_pkt_larger", "clone")
"""Actions after which others are in a list of their own.  Flows have these, or
they have meters and encap(), for two faults of Open vSwitch's own (3.1):

- Where ovs-vswitchd performs such a list itself, it looks in an output's list
  for a meter that is in another one, and never finds an end.
- What one branch of check_pkt_larger() encapsulates when its translation ends
  with an error is encapsulated in the other branch, too.
"""
NO_LABELS = ("ip", "tcp", "udp", "sctp", "icmp", "dl_type")
"""Matches of packets without MPLS labels.  Of encap(mpls) with some Open
vSwitch makes a change of the label that is there, and then adds an Ethernet
header to a packet that has one: the datapath refuses that, but ovs-vswitchd
aborts when it performs it itself ("failed in push_eth()").
"""


class Ends:
    """What packets are written to.

    :ivar taken: packets that the kernel took
    """

    def __init__(self, lab: Lab, host: Host) -> None:
        with lab.ns.entered():
            self.tap = open_tun("t0", TAP_VNET_HDR)
            fcntl.ioctl(self.tap, TUNSETOFFLOAD, TUN_F_ALL)
        with host.ns.entered():
            self.wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            self.wire.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
            self.wire.bind(("eth0", 0))
        self.wire.setblocking(False)
        self.taken = 0

    def write(self, to_tap: bool, header: bytes, frame: bytes) -> None:
        with contextlib.suppress(OSError):
            if to_tap:
                os.writev(self.tap, (header, frame))
            else:
                self.wire.sendmsg((header, frame))
            self.taken += 1

    def drain(self) -> None:
        """Reads what came to the tap, so that its queue is never full."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.tap, LONGEST + VIRTIO_NET_HDR.size):
                pass

    def close(self) -> None:
        os.close(self.tap)
        self.wire.close()


def frame(rng: random.Random) -> bytes:
    """A frame of any kind and size, whole or broken."""
    data = packets.broken(rng, packets.packet(rng))
    if rng.random() < .05:
        data += rng.randbytes(rng.choice((1500, 9000, 20000, LONGEST)))
    return data[:LONGEST]


def header(rng: random.Random, data: bytes) -> bytes:
    """What is to be done to a frame, sometimes right and mostly not."""
    if rng.random() < .5:
        return VNET_HDR_NONE
    start = rng.choice((14, 18, 34, 38, 54, 58, 74, min(len(data), 65535)))
    offset = rng.choice((6, 6, 16, 16, 2, 8, 10, 65535))
    needs_csum = rng.choice((0, NEEDS_CSUM, NEEDS_CSUM))
    if rng.random() < .4:
        return VIRTIO_NET_HDR.pack(needs_csum, 0, 0, 0, start, offset)
    return VIRTIO_NET_HDR.pack(
        needs_csum, rng.choice(GSO_TYPES),
        rng.choice((0, 14, 34, 54, 74, 94, 65535)),
        rng.choice((0, 1, 8, 100, 536, 1400, 65535)), start, offset)


class Switch:
    """Random changes of a bridge with ports p1 (1), p2 (2) and t0 (3)."""

    def __init__(self, lab: Lab, rng: random.Random) -> None:
        self._lab = lab
        self._rng = rng
        self._file = lab.rundir / "flows"

    def change(self) -> None:
        rng = self._rng
        while not self._change_flows():
            pass
        port = rng.choice(("p1", "p2"))
        self._lab.ns.run("ethtool", "-K", port, *(
            word for name in ("tx", "tso", "tx-udp-segmentation", "gro",
                              "txvlan")
            for word in (name, rng.choice(("on", "off")))), check=False)
        self._lab.ns.ip(f"link set {rng.choice(('p1', 'p2', 't0', 'br0'))}"
                        f" mtu {rng.choice((576, 1280, 1500, 9000, 65521))}")
        if rng.random() < .1:
            self._lab.flush()

    def _change_flows(self) -> bool:
        """False when OVS finds that actions do not fit each other."""
        tables = (0,) * 12 + (1,) * 3
        nests = self._rng.random() < .5
        self._file.write_text("".join(
            f"table={table},{self._rule(nests)}\n" for table in tables))
        try:
            self._lab.ofctl("-OOpenFlow15", "replace-flows", "br0",
                            str(self._file))
        except AssertionError as error:
            if not re.search("actions are invalid with specified match"
                             "|usable flow formats", str(error)):
                raise
            return False
        return True

    def _rule(self, nests: bool) -> str:
        rng = self._rng
        match = rng.choice(tuple(KINDS))
        actions = [rng.choice(KINDS[match])
                   for _ in range(rng.choice((1, 2, 3, 6)))]
        actions = [a for a in actions
                   if not a.startswith(("meter",) if nests else NESTS)]
        # A meter is the first of a list, or there is none.
        actions = ([a for a in actions if a.startswith("meter")][:1]
                   + [a for a in actions if not a.startswith("meter")])
        # Tags that were pushed hide what would be set.
        actions.sort(key=lambda a: "vlan" in a)
        if rng.random() < .3:
            last = rng.choice(LAST[:-1])
            labels = (not match.startswith(NO_LABELS)
                      or "resubmit(,1)" in actions)
            if not ((nests and last.startswith("encap"))
                    or (labels and last.startswith("encap(mpls)"))):
                actions.append(last)
        if rng.random() < .5:
            match = f"{match},in_port={rng.randrange(1, 4)}".lstrip(",")
        return (f"priority={rng.randrange(1, 9)},{match},actions="
                .replace(",,", ",") + (",".join(actions) or LAST[-1]))


@pytest.fixture
def kernel_log() -> Iterator[int]:
    """What the kernel reports from here on; nothing of a fault in the end."""
    log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(log, 0, os.SEEK_END)
    yield log
    lines = []
    while True:
        try:
            lines.append(os.read(log, 8192).decode(errors="replace"))
        except BrokenPipeError:
            # The oldest were overwritten.
            continue
        except BlockingIOError:
            break
    os.close(log)
    assert not [line for line in lines if KERNEL_FAULT.search(line)], lines


def memory(lab: Lab) -> str:
    status = Path(f"/proc/{lab.processes[PROVIDER].pid}/status").read_text()
    found = re.search(r"VmRSS:\s*(.*)", status)
    assert found
    return found[1]


def mtus(lab: Lab, one: Host, two: Host, mtu: int) -> None:
    for host in (one, two):
        host.ns.ip(f"link set eth0 mtu {mtu}")
        lab.ns.ip(f"link set {host.port} mtu {mtu}")


def test_packets(own_lab: Lab, kernel_log: int,
                 request: pytest.FixtureRequest) -> None:
    lab = own_lab
    seconds = request.config.getoption("--fuzz-seconds")
    seed = request.config.getoption("--fuzz-seed")
    rng = random.Random(seed)
    print(f"--fuzz-seed={seed}")
    # It is told of packets that make no sense, and of ones sent in vain.
    lab.allowed.append(f"^{SWITCH}: ")
    lab.add_bridge("br0")
    one, two = (lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24") for n in (1, 2))
    mtus(lab, one, two, 65535)
    ends = Ends(lab, one)
    lab.ns.no_ipv6("t0")
    lab.ns.ip("link set t0 up")
    lab.ns.ip("link set br0 up")
    lab.vsctl("add-port", "br0", "t0")
    lab.ofctl("-OOpenFlow15", "add-meter", "br0",
              "meter=1 pktps bands=type=drop rate=10000")
    for group in GROUPS:
        lab.ofctl("-OOpenFlow15", "add-group", "br0", group)
    one.ping(two.ip)
    switch = Switch(lab, rng)
    before, end = len(descriptors(lab)), time.monotonic() + seconds
    sent, told = 0, time.monotonic()
    while time.monotonic() < end if seconds else sent < PACKETS:
        if sent % EACH == 0:
            switch.change()
            assert lab.alive
        data = frame(rng)
        ends.write(rng.random() < .5, header(rng, data), data)
        ends.drain()
        sent += 1
        if time.monotonic() > told + 60:
            told = time.monotonic()
            print(f"{sent} packets, {ends.taken} taken, {lab.lookups()}"
                  f" hits, misses and losses, {memory(lab)}")
    assert ends.taken > sent / 4
    print(lab.appctl("coverage/show", target=PROVIDER),
          lab.appctl("dpif-bpf/drops", target=PROVIDER))
    ends.close()
    mtus(lab, one, two, 1500)
    lab.ofctl("del-flows", "br0")
    lab.ofctl("add-flow", "br0", "actions=normal")
    lab.until(lambda: " 1 received" in one.ns.run(
        "ping", "-n", "-q", "-c", "1", "-W", "1", two.ip, check=False))
    one.ping(two.ip)
    two.ping(one.ip)
    # Threads of ovs-vswitchd may have connected meanwhile.
    assert len(descriptors(lab)) < before + 10
    assert lab.alive
