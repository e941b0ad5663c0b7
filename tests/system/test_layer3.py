# SPDX-License-Identifier: Apache-2.0
"""Ports without Ethernet headers: tun devices, the host's side of which is
this test."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lab import PROVIDER, Lab
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from tuntap import IFF_TUN, open_tun

ETH_P_IP, ETH_P_TEB = 0x0800, 0x6558
STATION = "0a:00:00:00:00:07"
GONE = r"network device tun0 \(No such device\)|on nonexistent port"


class Tun:
    """A tun device that says of each packet what it is."""

    def __init__(self, lab: Lab, name: str) -> None:
        with lab.ns.entered():
            self.fd = open_tun(name, IFF_TUN)
        lab.ns.no_ipv6(name)
        lab.ns.ip(f"link set {name} up")

    def send(self, eth_type: int, packet: bytes) -> None:
        os.write(self.fd, struct.pack("!HH", 0, eth_type) + packet)

    def received(self) -> list[tuple[int, bytes]]:
        """Type and bytes of what has come since."""
        found = []
        with suppress(BlockingIOError):
            while True:
                data = os.read(self.fd, 65536)
                found.append((struct.unpack("!HH", data[:4])[1], data[4:]))
        return found


@contextmanager
def tun(lab: Lab, name: str) -> Iterator[Tun]:
    made = Tun(lab, name)
    try:
        yield made
    finally:
        os.close(made.fd)


def drops(lab: Lab, reason: str) -> int:
    shown = lab.appctl("dpif-bpf/drops", target=PROVIDER)
    return sum(int(line.rsplit(None, 1)[1]) for line in shown.splitlines()
               if reason in line)


def udp(ip: str, number: int = 0) -> Packet:
    return IP(src="10.9.9.9", dst=ip) / UDP(sport=9, dport=5002) / Raw(
        b"layer 3, %d" % number)


def test_from_a_tun_device(lab: Lab) -> None:
    """OpenFlow puts an Ethernet header before packets that have none; the
    frames among what comes are switched as they are."""
    lab.allowed.append(GONE)
    lab.add_bridge("br0")
    lab.vsctl("set", "bridge", "br0", "protocols=OpenFlow15")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    with tun(lab, "tun0") as sender:
        lab.vsctl("add-port", "br0", "tun0")
        lab.ofctl("-OOpenFlow15", "add-flow", "br0",
                  "in_port=tun0,packet_type=(1,0x800),actions="
                  f"encap(ethernet),set_field:{one.mac}->eth_dst,output:p1")
        server = lab.spawn(one, "udp-count", one.ip, "5002")
        sender.send(ETH_P_IP, bytes(udp(one.ip)))
        lab.until(lambda: "push_eth" in lab.dpctl("dump-flows"))
        for number in range(1, 5):
            sender.send(ETH_P_IP, bytes(udp(one.ip, number)))
        sender.send(ETH_P_TEB, bytes(
            Ether(dst="ff:ff:ff:ff:ff:ff", src=STATION)
            / ARP(op=1, hwsrc=STATION, psrc="10.1.1.7", pdst=one.ip)))
        lab.until(lambda: STATION in one.ns.ip("neigh show"))
        server.terminate()
        assert server.communicate(timeout=10)[0].split() == ["5"]
        assert drops(lab, "layer3") == 1     # the answer to the station


def test_between_tun_devices(lab: Lab) -> None:
    """Layer-3 packets stay what they are; flows see no Ethernet in them."""
    lab.dpctl("add-dp", "bpf@dp3")
    with tun(lab, "tun0") as zero, tun(lab, "tun1") as one:
        lab.dpctl("add-if", "bpf@dp3", "tun0")
        lab.dpctl("add-if", "bpf@dp3", "tun1")
        lab.dpctl("add-flow", "bpf@dp3", "in_port(1),packet_type(ns=1,"
                  "id=0x800),eth_type(0x0800),ipv4(dst=10.1.1.1)",
                  "set(ipv4(tos=4)),2,trunc(24),2")
        packet = udp("10.1.1.1")
        zero.send(ETH_P_IP, bytes(packet))
        packet[IP].tos = 4
        lab.until(lambda: "packets:1" in lab.dpctl("dump-flows", "bpf@dp3"))
        sent = bytes(packet)
        assert one.received() == [(ETH_P_IP, sent), (ETH_P_IP, sent[:24])]

        zero.send(ETH_P_TEB, bytes(13))
        assert drops(lab, "encap") == 1
        assert one.received() == []
    lab.dpctl("del-dp", "bpf@dp3")
    lab.until(lambda: "dp3" not in lab.ns.ip("link show"))


def test_ethernet_to_a_tun_device(lab: Lab) -> None:
    """What has an Ethernet header does not go to such a port."""
    lab.allowed.append(GONE)
    lab.add_bridge("br0")
    one = lab.add_host("p1", "br0", "10.1.1.1/24")
    with tun(lab, "tun0") as sink:
        lab.vsctl("add-port", "br0", "tun0")
        one.no_ping("10.1.1.7")
        assert drops(lab, "layer3") > 0
        assert sink.received() == []
