# SPDX-License-Identifier: Apache-2.0
"""The shipped object in a network namespace of its own.

Ports are veth pairs: the near end carries ``ovs_entry`` at its ingress, as a
bridge's port does, and a packet socket sits on the far end.  Flows are put
straight into the maps, one tree each, so that nothing but the programs is
under test.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devices import PREFIX, Port, Vnet, ip, make_pairs, network
from tuntap import TAP_VNET_HDR, open_tun

from dpif_bpf import abi
from dpif_bpf.abi import DropReason, Stage
from dpif_bpf.edge import bpfprog, bpfsys
from dpif_bpf.edge.libbpf import BpfObject
from dpif_bpf.edge.loader import choose_programs
from dpif_bpf.edge.ports.clsact import Clsact
from dpif_bpf.edge.ring import UpcallRing

OBJECT = Path(__file__).parents[2] / "build" / "bpf" / "datapath.bpf.o"
BRIDGE = 0
"""The bridge of ovs_entry."""

TC_ACT_SHOT = 2
TC_ACT_REDIRECT = 7
STAGES = {Stage.RX: "ovs_rx", Stage.LOOKUP: "ovs_rx",
          Stage.ACT: "ovs_act", Stage.ACT_OWN: "ovs_act_own",
          Stage.ACT_SHARED: "ovs_act_shared", Stage.CT: "ovs_act_ct",
          Stage.ROUTE: "ovs_route", Stage.ROUTE_OWN: "ovs_route_own"}

_ETH_P_IP = 0x0800
_U32 = struct.Struct("=I")
_EDGE_LEAF = 1 << abi.OVS_EDGE_LEAF_SHIFT


@dataclass(frozen=True, slots=True)
class UpcallRecord:
    """One record of ovs_upcalls; the outer tag is put back into `packet`.

    :param parts: struct ovs_upcall_parts, the lengths that are not 0
    :param tunnel: struct ovs_upcall_tunnel, if there is one
    """

    fields: Mapping[str, int | bytes]
    key: bytes
    packet: bytes
    parts: tuple[int, ...] = ()
    tunnel: bytes = b""

    @property
    def cmd(self) -> int:
        return int(self.fields["cmd"])


def read_upcall(record: memoryview) -> UpcallRecord:
    """Takes a record of the ring apart."""
    size = abi.UPCALL.size
    fields = dict(zip(abi.UPCALL.fields, abi.UPCALL.struct.unpack(
        record[:size]), strict=True))
    parts: tuple[int, ...] = ()
    if fields["gso_type"] & abi.OVS_SKB_GSO_SCTP:
        parts = tuple(part for part in struct.unpack_from(
            f"={abi.OVS_UPCALL_PARTS}H", record, size) if part)
        size += abi.UPCALL_PARTS.size
    tunnel = b""
    if fields["hash_flags"] & abi.OVS_UPCALL_TUNNEL:
        tunnel = bytes(record[size:size + abi.UPCALL_MORE.size])
        size += abi.UPCALL_MORE.size
    packet = bytes(record[size:size + fields["len"]])
    if fields["key"][abi.KEY["mac_proto"].offset]:
        packet = packet[14:]  # of a layer-3 packet they say nothing
    if fields["vlan_tpid"] != bytes(2):
        packet = (packet[:12] + fields["vlan_tpid"] + fields["vlan_tci"]
                  + packet[12:])
    return UpcallRecord(fields, fields["key"], packet, parts, tunnel)


def key_words(image: bytes) -> list[int]:
    """The words before the tunnel options."""
    return list(struct.unpack_from(f"={abi.OVS_KEY_BASE}Q", image))


class Datapath:
    """The object, loaded and wired up; use by ``with``.

    :param ports: how many ports, numbered from 1
    :param hooked: attach the programs to the ports; otherwise packets come
        in by run() only
    """

    def __init__(self, ports: int = 4, hooked: bool = True,
                 path: Path = OBJECT, shared_stats: bool = False) -> None:
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            self.obj = stack.enter_context(BpfObject(path))
            stack.enter_context(network())
            self._make_devices(ports)
            self.ports = {n: Port(n) for n in range(1, ports + 1)}
            for port in self.ports.values():
                stack.callback(port.close)
            self._load(shared_stats)
            for port in self.ports.values():
                self.set_port(port.number, port.ifindex)
            if hooked:
                self._hook(stack)
            self.upcalls: list[UpcallRecord] = []
            self._ring = UpcallRing(self.obj.map_fd("ovs_upcalls"),
                                    self._upcall)
            self._words = 1
            self._flows = 0
            self._descs = 0
            self._gen = 0
            self._stack = stack.pop_all()

    def _upcall(self, record: memoryview) -> int:
        """Keeps an upcall; the port's share comes back."""
        upcall = read_upcall(record)
        self.upcalls.append(upcall)
        port = int.from_bytes(upcall.key[abi.KEY["in_port"].slice], "little")
        units = 1 + int(upcall.fields["len"]) // abi.OVS_UPCALL_UNIT
        for i in (port, abi.OVS_UPCALL_ALL):
            self.upcall_use(i, units)
        return 1

    def upcall_use(self, port: int, give: int = 0) -> tuple[int, int]:
        """Units that a port has under way, and how often it was refused.

        :param give: units to be given back first
        """
        words = self._use
        at = port * (abi.UPCALL_USE.size // 8)
        words[at + 1] += give
        return words[at] - words[at + 1], words[at + 2]

    def __enter__(self) -> Datapath:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def _make_devices(self, ports: int) -> None:
        make_pairs([*map(str, range(1, ports + 1)), "x"])
        self.inject_name = f"{PREFIX}xb"
        self.inject = socket.if_nametoindex(self.inject_name)

    def _load(self, shared_stats: bool) -> None:
        cpus = bpfsys.possible_cpus()
        obj = self.obj
        obj.set_rodata("cfg_max_flows", 64)
        obj.set_rodata("cfg_stripes", 1 if shared_stats else cpus)
        obj.set_rodata("cfg_shared_stats", int(shared_stats))
        obj.set_rodata("cfg_inject_ifindex", self.inject)
        for name, count in (("ovs_flows", 256), ("ovs_values", 256),
                            ("ovs_buckets", 8), ("ovs_acts", 1 << 16),
                            ("ovs_flow_stats", 64 * cpus)):
            obj.set_max_entries(name, count)
        choose_programs(obj)
        obj.load()
        for stage, name in STAGES.items():
            bpfsys.map_update(obj.map_fd("ovs_progs"), _U32.pack(stage),
                              _U32.pack(obj.prog_fd(name)))
        self.acts = self.mapped("ovs_acts").cast("Q")
        self._roots = self.mapped("ovs_roots").cast("Q")
        self._use = self.mapped("ovs_upcall_use").cast("Q")

    def _hook(self, stack: contextlib.ExitStack) -> None:
        for port in self.ports.values():
            stack.enter_context(self._attached("ovs_entry", port.ifindex))
        stack.enter_context(self._attached("ovs_inject", self.inject))

    @contextlib.contextmanager
    def _attached(self, program: str, ifindex: int) -> Iterator[None]:
        """A program at the ingress of a device, by what the kernel has."""
        fd = self.obj.prog_fd(program)
        if bpfprog.has_tcx():
            link = bpfprog.link_create(fd, ifindex,
                                       bpfprog.ATTACH_TCX_INGRESS)
            with contextlib.closing(os.fdopen(link, "rb", buffering=0)):
                yield
        else:
            with contextlib.closing(Clsact()) as clsact:
                clsact.attach(ifindex, fd, program)
                yield

    @staticmethod
    @contextlib.contextmanager
    def watch(device: str) -> Iterator[Callable[[], int]]:
        """Counts the IP packets that get past a device's ingress hook."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sock:
            sock.bind((device, _ETH_P_IP))
            sock.setblocking(False)

            def seen() -> int:
                count = 0
                with contextlib.suppress(BlockingIOError):
                    while True:
                        if sock.recvfrom(1)[1][2] != socket.PACKET_OUTGOING:
                            count += 1
                return count

            yield seen

    @contextlib.contextmanager
    def tap(self, number: int) -> Iterator[int]:
        """A tap as one more port; what is written to it comes in.

        Packets begin with a struct virtio_net_hdr.
        """
        name = f"{PREFIX}tap"
        fd = open_tun(name, TAP_VNET_HDR)
        try:
            ip(f"link set {name} arp off addrgenmode none",
               f"link set {name} up")
            ifindex = socket.if_nametoindex(name)
            self.set_port(number, ifindex)
            with self._attached("ovs_entry", ifindex):
                yield fd
        finally:
            os.close(fd)

    def mapped(self, name: str) -> memoryview:
        """A map's memory."""
        return bpfsys.mmap_array(self.obj.map_fd(name))

    # Configuration

    def set_port(self, number: int, ifindex: int, mtu: int = 0,
                 flags: int = abi.OVS_PORT_F_VETH, tunnel_dst: int = 0,
                 tunnel_opts: int = 0) -> None:
        """Writes ovs_ports and ovs_devs."""
        view = self.mapped("ovs_ports")
        abi.PORT.struct.pack_into(view, number * abi.PORT.size, ifindex, mtu,
                                  BRIDGE, abi.OVS_PORT_F_USED | flags, 0,
                                  tunnel_dst.to_bytes(2, "big"),
                                  tunnel_opts.to_bytes(2, "big"))
        bpfsys.map_update(self.obj.map_fd("ovs_devs"), _U32.pack(ifindex),
                          _U32.pack(number))

    def code(self, code: bytes) -> int:
        """Puts instructions into ovs_acts; where they begin."""
        words = struct.unpack(f"={len(code) // 8}Q", code)
        start = self._words
        for i, word in enumerate(words):
            self.acts[start + i] = word
        self._words += len(words)
        return start

    def add_flow(self, code: bytes, key: bytes = b"",
                 mask: bytes = b"") -> int:
        """Adds a flow; without a mask it matches everything.

        :param key: key image, masked here
        :returns: the flow's id
        """
        masks = [(i, m) for i, m in enumerate(_words_of(mask)) if m]
        keys = _words_of(key)
        descs, flows = self.mapped("ovs_descs"), self.mapped("ovs_flows")
        values = self.mapped("ovs_values")
        width = abi.OVS_CLS_WORDS
        rows = [masks[at:at + width]
                for at in range(0, len(masks), width)] or [[]]
        first_desc = abi.OVS_CLS_RECORDS + self._descs
        first_flow = self._flows
        pc = self.code(code)
        for n, row in enumerate(rows):
            more = n + 1 < len(rows)
            value = bytearray((width + 1) * 8)
            for j, (word, bits) in enumerate(row):
                struct.pack_into("=Q", value, 8 * j, keys[word] & bits)
            bits_of = [bits for _, bits in row] + [0] * (width - len(row))
            abi.DESC.struct.pack_into(
                descs, (first_desc + n) * abi.DESC.size, len(row),
                bytes(word for word, _ in row),
                first_desc + n + 1 if more else 0,
                struct.pack(f"={width}Q", *bits_of), 0)
            at = slice((first_flow + n) * 64, (first_flow + n + 1) * 64)
            first = abi.OVS_CLS_FIRST * 8
            self._gen += 1
            flows[at] = struct.pack(
                "=HHIII", first_desc if n == 0 else 0, BRIDGE, self._gen, pc,
                first_flow + n + 1 if more else 0) + value[:first]
            values[at] = value[first:]
        self._descs += len(rows)
        self._flows += len(rows)
        trees = self._roots[BRIDGE * 33]
        self._roots[BRIDGE * 33 + 1 + trees] = (
            _EDGE_LEAF | first_desc << 22 | first_flow)
        self._roots[BRIDGE * 33] = trees + 1
        return first_flow

    def clear(self) -> None:
        """Forgets all flows and instructions, statistics and upcalls."""
        for i in range(33):
            self._roots[BRIDGE * 33 + i] = 0
        flows = self.mapped("ovs_flows")
        flows[:] = bytes(len(flows))
        self._words, self._flows, self._descs = 1, 0, 0
        stats = self.mapped("ovs_flow_stats")
        stats[:] = bytes(len(stats))
        while self._ring.run():
            pass
        self.upcalls.clear()
        for port in self.ports.values():
            while port.receive():
                pass

    # Packets

    def run(self, packet: bytes, program: str = "ovs_entry", port: int = 1,
            repeat: int = 1, mark: int = 0, priority: int = 0,
            ) -> bpfprog.TestRun:
        """Runs a program by BPF_PROG_TEST_RUN, as from a port."""
        ifindex = self.ports[port].ifindex
        # struct __sk_buff: mark at 8, priority at 32, ifindex at 40
        ctx = bytearray(192)
        struct.pack_into("=I", ctx, 8, mark)
        struct.pack_into("=I", ctx, 32, priority)
        struct.pack_into("=I", ctx, 40, ifindex)
        return bpfprog.test_run(self.obj.prog_fd(program), packet,
                                bytes(ctx), repeat)

    def poll(self, count: int = 0, timeout: float = 5.0,
             ) -> list[UpcallRecord]:
        """The upcalls since the last call.

        Waits until there are `count`, or the time is over: under load a
        packet's softirq may be left to a thread.
        """
        end = time.monotonic() + timeout
        while self._ring.run() or (len(self.upcalls) < count
                                   and time.monotonic() < end):
            pass
        found, self.upcalls[:] = list(self.upcalls), []
        return found

    def outputs(self, count: int, timeout: float = 5.0,
                ) -> list[tuple[int, bytes, Vnet]]:
        """(port, packet, offloads) of what went out, by port.

        Waits until there are `count`, or the time is over.
        """
        found: list[tuple[int, bytes, Vnet]] = []
        end = time.monotonic() + timeout
        socks = {port.sock: port for port in self.ports.values()}
        while True:
            for port in self.ports.values():
                while (got := port.receive()) is not None:
                    found.append((port.number, *got))
            left = end - time.monotonic()
            if len(found) >= count or left <= 0:
                break
            select.select(list(socks), [], [], left)
        return sorted(found, key=lambda item: item[0])

    # Counters

    def drops(self) -> dict[DropReason, int]:
        """Drops of the bridge so far, those that are not zero."""
        info = self.obj.map_info("ovs_drops")
        found = {}
        for reason in DropReason:
            values = bpfsys.map_lookup_percpu(
                self.obj.map_fd("ovs_drops"),
                BRIDGE * abi.OVS_DROP_MAX + reason, info)
            count = sum(int.from_bytes(v, "little") for v in values)
            if count:
                found[reason] = count
        return found

    def dp_stats(self) -> dict[str, int]:
        """struct ovs_dp_stats of the bridge, all CPUs; of `steps` the first
        alone."""
        info = self.obj.map_info("ovs_dpstats")
        values = bpfsys.map_lookup_percpu(self.obj.map_fd("ovs_dpstats"),
                                          BRIDGE, info)
        return {field: sum(memoryview(value).cast("Q")[place.offset // 8]
                           for value in values)
                for field, place in abi.DP_STATS.fields.items()}

    def flow_stats(self, flow: int) -> tuple[int, int, int, int]:
        """Packets, bytes, used, tcp_flags of a flow."""
        view = self.mapped("ovs_flow_stats")
        rows = [abi.FLOW_STATS.struct.unpack_from(view, at)
                for at in range(flow * 32, len(view), 64 * 32)]
        flags = 0
        for row in rows:
            flags |= row[3]
        return (sum(r[0] for r in rows), sum(r[1] for r in rows),
                max(r[2] for r in rows), flags)

    def level(self) -> int:
        """Levels of ovs_cpu in use, all CPUs: 0 between packets."""
        info = self.obj.map_info("ovs_cpu")
        values = bpfsys.map_lookup_percpu(self.obj.map_fd("ovs_cpu"), 0, info)
        return sum(_U32.unpack_from(v)[0] for v in values)

    def slots_armed(self) -> Sequence[int]:
        """Indices of slots in use."""
        view = self.mapped("ovs_slots")
        return [i for i in range(abi.OVS_SLOTS)
                if view[i * abi.SLOT.size] & abi.OVS_SLOT_ARMED]


def _words_of(image: bytes) -> list[int]:
    padded = image.ljust(abi.KEY.size, b"\0")
    return list(struct.unpack(f"={abi.OVS_KEY_WORDS}Q",
                              padded[:abi.KEY.size]))


def insn(op: abi.Op, imm: int = 0, arg: int = 0, data: bytes = b"") -> bytes:
    """One instruction with its operand."""
    return abi.INSN.struct.pack(op, len(data) // 8, arg, imm) + data
