# SPDX-License-Identifier: Apache-2.0
"""Flow extract against OVS's own: what ovs-ofctl says of a capture.

ovs-ofctl runs miniflow_extract() of lib/flow.c, which the userspace datapath
uses and which ovs-vswitchd runs on packets of upcalls.  It differs from the
kernel datapath's key_extract(), which is ours: DIFFERENCES has each difference
that is known, and why.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from gen_frames import frames
from harness import Datapath
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from lists import facts_of
from oracle_key import CFI, Extract, Meta, be16, extract
from ovs_build import find_build
from scapy.utils import RawPcapWriter

from dpif_bpf.abi import KEY
from dpif_bpf.errors import BackendError
from dpif_bpf.wire.extract import packet_facts

Fields = dict[str, str]

EXAMPLES = int(os.environ.get("AGREEMENT_EXAMPLES", "100"))
SEED = int(os.environ.get("AGREEMENT_SEED", "1"))
IP, IPV6 = 0x0800, 0x86dd
NAMES = {(IP, 1): "icmp", (IP, 6): "tcp", (IP, 17): "udp", (IP, 132): "sctp",
         (IPV6, 58): "icmp6", (IPV6, 6): "tcp6", (IPV6, 17): "udp6",
         (IPV6, 132): "sctp6"}
TYPES = {IP: "ip", IPV6: "ipv6", 0x0806: "arp", 0x8035: "rarp",
         0x8847: "mpls", 0x8848: "mplsm"}
META = Meta(in_port=1)
FRAGS = ("no", "first", "later")
FLAGS = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns",
         "[200]", "[400]", "[800]")


class Shown:
    """A key as ovs-ofctl shows it."""

    def __init__(self, image: bytes) -> None:
        self._image = image
        self.fields: Fields = {}
        self._tags()
        self.put("dl_src", self.mac("eth_src"))
        self.put("dl_dst", self.mac("eth_dst"))
        self._below(self.be16("eth_type"))

    def put(self, name: str, value: object) -> None:
        self.fields[name] = str(value)

    def raw(self, name: str) -> bytes:
        return self._image[KEY[name].slice]

    def byte(self, name: str) -> int:
        return self._image[KEY[name].offset]

    def be16(self, name: str) -> int:
        return int.from_bytes(self.raw(name), "big")

    def mac(self, name: str) -> str:
        return self.raw(name).hex(":")

    def ip(self, name: str) -> str:
        return str(ip_address(self.raw(name)))

    def _tags(self) -> None:
        for name, number in (("vlan", ""), ("cvlan", "1")):
            tci = self.be16(f"{name}_tci")
            if not tci & CFI:
                self.put(f"vlan_tci{number}", "0x0000")
                return
            self.put(f"dl_vlan{number}", tci & 0xfff)
            self.put(f"dl_vlan_pcp{number}", tci >> 13)

    def _below(self, eth_type: int) -> None:
        proto, later = self.byte("ip_proto"), self.byte("ip_frag") == 2
        if eth_type in {IP, IPV6}:
            self._ip(eth_type, proto, later)
        elif eth_type in TYPES:
            self.put(TYPES[eth_type], "")
        else:
            shown = 0x05ff if eth_type == 4 else eth_type
            self.put("dl_type", f"{shown:#06x}")
        if eth_type in {0x0806, 0x8035}:
            self.put("arp_spa", self.ip("ipv4_src"))
            self.put("arp_tpa", self.ip("ipv4_dst"))
            self.put("arp_op", proto)
            self.put("arp_sha", self.mac("arp_sha"))
            self.put("arp_tha", self.mac("arp_tha"))
        elif eth_type in {0x8847, 0x8848}:
            self._mpls()
        elif eth_type == 0x894f:
            self._nsh()

    def _ip(self, eth_type: int, proto: int, later: bool) -> None:
        name = NAMES.get((eth_type, proto))
        if name is None:
            self.put("nw_proto", proto)
        self.put(name or TYPES[eth_type], "")
        self.put("nw_tos", self.byte("ip_tos") & 0xfc)
        self.put("nw_ecn", self.byte("ip_tos") & 3)
        self.put("nw_ttl", self.byte("ip_ttl"))
        self.put("nw_frag", FRAGS[self.byte("ip_frag")])
        if eth_type == IP:
            self.put("nw_src", self.ip("ipv4_src"))
            self.put("nw_dst", self.ip("ipv4_dst"))
        else:
            self.put("ipv6_src", self.ip("ipv6_src"))
            self.put("ipv6_dst", self.ip("ipv6_dst"))
            label = int.from_bytes(self.raw("ipv6_label"), "big")
            self.put("ipv6_label", f"{label:#07x}")
        if not later and name is not None:
            self._transport(proto)

    def _transport(self, proto: int) -> None:
        kind = "icmp" if proto in {1, 58} else "tp"
        names = ("icmp_type", "icmp_code") if kind == "icmp" else (
            "tp_src", "tp_dst")
        self.put(names[0], self.be16("tp_src"))
        self.put(names[1], self.be16("tp_dst"))
        if proto == 6:
            flags = self.be16("tcp_flags")
            self.put("tcp_flags", "|".join(
                name for bit, name in enumerate(FLAGS)
                if flags >> bit & 1) or "0")
        if (proto == 58 and self.be16("tp_src") in {135, 136}
                and not self.be16("tp_dst")):
            self.put("nd_target", self.ip("nd_target"))
            self.put("nd_sll", self.mac("nd_sll"))
            self.put("nd_tll", self.mac("nd_tll"))

    def _mpls(self) -> None:
        lses = [int.from_bytes(self.raw("mpls_lse")[at:at + 4], "big")
                for at in (0, 4, 8)]
        self.put("mpls_label", lses[0] >> 12)
        self.put("mpls_tc", lses[0] >> 9 & 7)
        self.put("mpls_ttl", lses[0] & 0xff)
        self.put("mpls_bos", lses[0] >> 8 & 1)
        for n in (1, 2):
            if lses[n - 1] & 0x100:
                break
            self.put(f"mpls_lse{n}", lses[n])

    def _nsh(self) -> None:
        for name in ("flags", "ttl", "mdtype", "np"):
            self.put(f"nsh_{name}", self.byte(f"nsh_{name}"))
        path = int.from_bytes(self.raw("nsh_path_hdr"), "big")
        self.put("nsh_spi", f"{path >> 8:#x}")
        self.put("nsh_si", path & 0xff)
        if self.byte("nsh_mdtype") == 1:
            for n in range(4):
                word = self.raw("nsh_context")[4 * n:4 * n + 4]
                self.put(f"nsh_c{n + 1}",
                         f"{int.from_bytes(word, 'big'):#x}")


def shown_by_ovs(line: str) -> Fields:
    """A line of ovs-ofctl; what keys do not have is left out."""
    fields: Fields = {}
    for part in line.split(","):
        name, _, value = part.partition("=")
        fields[name] = value
    assert fields.pop("in_port") == "ANY"
    if fields.get("dl_type") == "0x894f":
        for name in ("proto", "tos", "ecn", "ttl", "frag"):
            del fields[f"nw_{name}"]
    if "ip" in fields or "ipv6" in fields:
        # Of IGMP and others without ports.
        fields.pop("tp_src", None)
        fields.pop("tp_dst", None)
    return fields


def _llc_control(frame: bytes, parsed: Extract) -> bool:
    llc = parsed.l3 - 8
    return (be16(frame, llc - 2) < 0x600
            and frame[llc:llc + 2] == b"\xaa\xaa" and frame[llc + 2] != 3)


def _too_long(frame: bytes, parsed: Extract) -> bool:
    return _length(frame, parsed) > len(frame) - parsed.l3


def _too_short(frame: bytes, parsed: Extract) -> bool:
    return (parsed.eth_type == IP and bool(parsed.l4)
            and _length(frame, parsed) < parsed.l4 - parsed.l3)


def _length(frame: bytes, parsed: Extract) -> int:
    """What an IP header says that its packet has; 0: there is none."""
    if parsed.eth_type == IP and len(frame) >= parsed.l3 + 20:
        return be16(frame, parsed.l3 + 2)
    if parsed.eth_type == IPV6 and len(frame) >= parsed.l3 + 40:
        return be16(frame, parsed.l3 + 4) + 40
    return 0


def _extensions(frame: bytes, parsed: Extract) -> list[tuple[int, bytes]]:
    """Kind and bytes, those that there are, of IPv6 extension headers."""
    found = []
    if parsed.eth_type == IPV6 and len(frame) >= parsed.l3 + 40:
        kind, at = frame[parsed.l3 + 6], parsed.l3 + 40
        while kind in {0, 43, 44, 51, 60}:
            header = frame[at:]
            found.append((kind, header))
            if len(header) < 8 or (kind == 44 and be16(header, 2) & 0xfff8):
                break
            at += (8 if kind == 44 else (header[1] + 2) * 4 if kind == 51
                   else (header[1] + 1) * 8)
            kind = header[0]
    return found


def _extension_is_cut(frame: bytes, parsed: Extract) -> bool:
    return any(len(header) < max(8, (header[1] + 2) * 4 if kind == 51 else
                                 8 if kind == 44 else (header[1] + 1) * 8)
               if len(header) > 1 else True
               for kind, header in _extensions(frame, parsed))


def _atomic_fragment(frame: bytes, parsed: Extract) -> bool:
    return any(kind == 44 and not be16(header, 2)
               for kind, header in _extensions(frame, parsed))


def _later_extension(frame: bytes, parsed: Extract) -> bool:
    return any(kind == 44 and be16(header, 2) & 0xfff8
               and header[0] in {0, 43, 44, 51, 60}
               for kind, header in _extensions(frame, parsed))


def _nsh_without_length(frame: bytes, parsed: Extract) -> bool:
    return parsed.eth_type == 0x894f and be16(frame, parsed.l3) & 0x3f < 2


DIFFERENCES: dict[str, Callable[[bytes, Extract], bool]] = {
    "OVS takes SNAP only with the control byte 3; the kernel does not look":
        _llc_control,
    "OVS leaves an IP packet alone whose length is more than there is":
        _too_long,
    "OVS leaves an IPv4 packet alone whose length is less than its header":
        _too_short,
    "OVS leaves an IPv6 packet alone of which it has not all extension"
    " headers, each of 8 bytes at least; the kernel reads the four bytes that"
    " lead to the next one": _extension_is_cut,
    "to OVS a fragment header without offset and more fragments is none; the"
    " kernel calls the packet a first fragment": _atomic_fragment,
    "to the kernel a later fragment that begins with an extension header has"
    " none (59), and is a first one": _later_extension,
    "OVS leaves an NSH alone that says it is shorter than its own eight bytes;"
    " the kernel asks that of metadata of type 1 only": _nsh_without_length,
}
"""What is known, and which packets it concerns.

One more is allowed for below: OVS does not look at what is behind the length
of an IP header, the kernel's parser does.
"""


def unpadded(frame: bytes, parsed: Extract) -> bytes:
    """A frame that ends where its IP header says."""
    length = _length(frame, parsed)
    return frame[:parsed.l3 + length] if length else frame


@pytest.fixture(scope="module")
def datapath(shipped_object: None) -> Iterator[Datapath]:
    with Datapath(ports=1, hooked=False) as dp:
        yield dp


def bpf_key(dp: Datapath, frame: bytes) -> bytes | None:
    """The key of a miss; None: BPF_PROG_TEST_RUN refuses the frame."""
    try:
        dp.run(frame)
    except BackendError:
        assert len(frame) < 14 + 40  # it ends in an IP header
        return None
    upcall, = dp.poll(1)
    return upcall.key


def test_agrees_with_ovs(datapath: Datapath, tmp_path: Path) -> None:
    build = find_build()
    pcap = tmp_path / "frames.pcap"
    compared = 0

    @seed(SEED)
    @settings(max_examples=EXAMPLES, deadline=None, database=None,
              suppress_health_check=list(HealthCheck),
              phases=(Phase.generate, Phase.shrink))
    @given(st.lists(frames(), min_size=1, max_size=60))
    def check(some: list[bytes]) -> None:
        nonlocal compared
        known = [(frame, parsed) for frame in some
                 if (parsed := extract(frame, META)) is not None]
        with RawPcapWriter(str(pcap), linktype=1) as writer:
            writer.write_header(None)
            for frame, _ in known:
                writer.write(frame)
        lines = subprocess.run(
            [build.binary("ovs-ofctl"), "parse-pcap", str(pcap)],
            env=build.environment, check=True, capture_output=True,
            text=True).stdout.splitlines()
        for (frame, parsed), line in zip(known, lines, strict=True):
            key = bpf_key(datapath, frame)
            if key is not None:
                assert key == parsed.key[:len(key)], frame.hex()
            assert packet_facts(frame) == facts_of(frame, parsed), frame.hex()
            if any(differs(frame, parsed)
                   for differs in DIFFERENCES.values()):
                continue
            cut = extract(unpadded(frame, parsed), META)
            assert cut is not None
            assert Shown(cut.key).fields == shown_by_ovs(line), frame.hex()
            compared += 1

    check()
    assert compared > EXAMPLES
