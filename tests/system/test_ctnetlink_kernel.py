# SPDX-License-Identifier: Apache-2.0
"""ctnetlink: our messages against those of the kernel's own tracker.

Connections are put into the kernel with our encoding of them, and its dump of
them must be our encoding of what it says, byte by byte.  What it refuses, and
which connections it means by a name or a filter, must be as ours.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import ct_requests as r
import pytest
from ct_entries import decode_entry, entries
from netns import Namespace
from nfnl import NfSocket
from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

from dpif_bpf.errors import RequestError
from dpif_bpf.wire import nf_uapi as nf
from dpif_bpf.wire.ct_entry import CtEntry, encode_entry, encode_event
from dpif_bpf.wire.ct_layout import dump_layout
from dpif_bpf.wire.ctnetlink import (
    CtName,
    cpu_stats_reply,
    decode_ct_request,
    entry_reply,
    stats_reply,
)
from dpif_bpf.wire.netlink import (
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Message,
    iter_attrs,
)
from dpif_bpf.wire.nfnetlink import ATTRS_POS

CT = nf.NFNL_SUBSYS_CTNETLINK


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    try:
        subprocess.run(["modprobe", "nf_conntrack_netlink"], check=False,
                       capture_output=True)
        made.run("sh", "-c", "for i in acct timestamp; do"
                 " echo 1 > /proc/sys/net/netfilter/nf_conntrack_$i; done")
        yield made
    finally:
        made.close()


@pytest.fixture
def kernel(namespace: Namespace) -> Iterator[NfSocket]:
    """A socket of a namespace without connections."""
    with namespace.entered():
        made = NfSocket()
    with made:
        code, _ = made.ask(CT, nf.IPCTNL_MSG_CT_DELETE)
        if code:
            pytest.skip("the kernel has no ctnetlink")
        yield made


def put(kernel: NfSocket, entry: CtEntry) -> int:
    """errno."""
    return kernel.ask(CT, nf.IPCTNL_MSG_CT_NEW, entry.orig.family,
                      given(entry), NLM_F_CREATE | NLM_F_EXCL)[0]


def given(entry: CtEntry) -> bytes:
    """What makes the kernel have such an entry: that it is expected it knows
    by the master, and of TCP's flags it takes those of a mask."""
    entry = replace(entry, status=entry.status & ~nf.IPS_EXPECTED)
    data = bytearray(encode_entry(entry))
    for name, (start, _) in dump_layout(entry.shape).fields.items():
        if name.endswith(".flags"):
            data[start + 1] = 0xff
    return bytes(data)


def put_all(kernel: NfSocket) -> dict[str, CtEntry]:
    wanted = entries()
    codes = {name: put(kernel, entry) for name, entry in wanted.items()}
    assert not any(codes.values()), codes
    return wanted


def read(message: Message) -> CtEntry:
    return decode_entry(message.raw[ATTRS_POS:], message.raw[16])


def bare(message: Message) -> bytes:
    """A message without CTA_SYNPROXY, which connections have that were made
    by netlink."""
    raw = bytearray(message.raw)
    for kind, start, stop in iter_attrs(message.raw, ATTRS_POS):
        if kind == nf.CTA_SYNPROXY:
            del raw[start - 4:stop]
            raw[:4] = len(raw).to_bytes(4, sys.byteorder)
    return bytes(raw)


def names(found: list[Message], all_: dict[str, CtEntry]) -> set[str]:
    """Of `all_`, by what is certain of each."""
    by_key = {(one.orig, one.zone): name for name, one in all_.items()}
    return {by_key[one.orig, one.zone] for one in map(read, found)}


def test_dump(kernel: NfSocket) -> None:
    wanted = put_all(kernel)
    code, found = kernel.dump(CT, nf.IPCTNL_MSG_CT_GET)
    assert code == 0
    assert names(found, wanted) == set(wanted)
    request = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_GET, flags=NLM_F_DUMP, seq=found[0].seq,
        pid=found[0].pid))
    by_key = {(one.orig, one.zone): one for one in wanted.values()}
    labels = False
    for message in found:
        entry = read(message)
        assert entry_reply(request, entry) == bare(message)
        put_in = by_key[entry.orig, entry.zone]
        labels = labels or any(entry.labels)
        assert entry.start and entry.counters == ((0, 0), (0, 0))
        assert 0 <= put_in.timeout - entry.timeout <= 30
        assert replace(
            entry, id=1, timeout=1000, start=None, counters=None,
            labels=put_in.labels, use=1) == put_in
        shown = nfct_msg(message.raw)
        shown.decode()
        assert shown.get_attr("CTA_STATUS") == entry.status
        assert shown.get_attr("CTA_MARK") == entry.mark


def test_traffic(kernel: NfSocket, namespace: Namespace) -> None:
    """Connections that packets made, with NAT and counters; these are without
    what netlink adds, so that whole datagrams can be compared."""
    rules = """
        add table ip t
        add chain ip t in { type filter hook input priority 0; }
        add rule ip t in ct state new counter ct mark set 5
        add chain ip t out { type nat hook output priority -100; }
        add rule ip t out ip daddr 127.0.0.9 dnat to 127.0.0.1
        add chain ip t post { type nat hook postrouting priority 100; }
        add rule ip t post tcp dport 7001 snat to 127.0.0.7
    """
    if namespace.run("nft", rules, check=False).strip():
        pytest.skip("no nft")
    try:
        with namespace.entered():
            server = socket.create_server(("127.0.0.1", 7001))
            client = socket.create_connection(("127.0.0.9", 7001))
            datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with server, client, datagrams:
            peer, _ = server.accept()
            with peer:
                client.send(b"x" * 1000)
                assert peer.recv(2000)
                datagrams.sendto(b"y", ("127.0.0.9", 7002))
                namespace.run("ping", "-c1", "-W1", "127.0.0.9")
                _, found = kernel.dump(CT, nf.IPCTNL_MSG_CT_GET)
        seen = {entry.orig.proto: entry for entry in map(read, found)}
        assert set(seen) >= {1, 6, 17}
        assert seen[6].reply.src == bytes([127, 0, 0, 1])
        assert seen[6].reply.dst == bytes([127, 0, 0, 7])
        assert seen[6].status & nf.IPS_SRC_NAT
        assert seen[6].status & nf.IPS_DST_NAT
        assert seen[6].counters is not None
        assert seen[6].counters[0][1] > 1000
        request = decode_ct_request(r.message(
            nf.IPCTNL_MSG_CT_GET, flags=NLM_F_DUMP, seq=found[0].seq,
            pid=found[0].pid))
        for message in found:
            assert entry_reply(request, read(message)) == message.raw
    finally:
        namespace.run("nft", "delete table ip t")


def test_stats(kernel: NfSocket) -> None:
    wanted = put_all(kernel)
    code, (found,) = kernel.ask(CT, nf.IPCTNL_MSG_CT_GET_STATS)
    assert code == 0
    request = decode_ct_request(r.message(
        nf.IPCTNL_MSG_CT_GET_STATS, seq=found.seq, pid=found.pid))
    limit = int.from_bytes(found.raw[-4:], "big")
    assert stats_reply(request, len(wanted), limit) == found.raw

    code, cpus = kernel.dump(CT, nf.IPCTNL_MSG_CT_GET_STATS_CPU)
    assert code == 0
    for cpu, found in enumerate(cpus):
        request = decode_ct_request(r.message(
            nf.IPCTNL_MSG_CT_GET_STATS_CPU, flags=NLM_F_DUMP, seq=found.seq,
            pid=found.pid))
        values = [int.from_bytes(found.raw[start:stop], "big")
                  for _, start, stop in iter_attrs(found.raw, ATTRS_POS)]
        ours = cpu_stats_reply(request, cpu, dict(zip(
            ("found", "invalid", "insert", "insert_failed", "drop",
             "early_drop", "error", "search_restart", "clash_resolve",
             "chain_toolong"), values, strict=True)))
        assert ours == found.raw


def test_get(kernel: NfSocket) -> None:
    """By the tuple of each direction."""
    for entry in put_all(kernel).values():
        for one, reply in ((entry.orig, False), (entry.reply, True)):
            payload = r.name(one, entry.zone, reply=reply)
            code, found = kernel.ask(CT, nf.IPCTNL_MSG_CT_GET,
                                     one.family, payload)
            assert code == 0
            assert read(found[0]).orig == entry.orig
            request = decode_ct_request(r.message(
                nf.IPCTNL_MSG_CT_GET, one.family, payload,
                seq=found[0].seq, pid=found[0].pid))
            assert request.name == CtName(one, entry.zone)
            assert entry_reply(request, read(found[0])) == bare(found[0])


def test_filters(kernel: NfSocket) -> None:
    """The kernel dumps, and deletes, what our filter means."""
    wanted = put_all(kernel)
    for name, (family, payload) in r.filters().items():
        version = 1
        code, found = kernel.dump(CT, nf.IPCTNL_MSG_CT_GET, family, payload)
        request = decode_ct_request(r.message(
            nf.IPCTNL_MSG_CT_GET, family, payload, NLM_F_DUMP,
            found[0].seq, found[0].pid))
        assert request.filter is not None
        ours = {key for key, entry in wanted.items()
                if request.filter.matches(entry)}
        assert code == 0
        assert (name, names(found, wanted)) == (name, ours)
        for message in found:
            assert entry_reply(request, read(message)) == bare(message)
        # Deleted, and put again.
        assert kernel.ask(CT, nf.IPCTNL_MSG_CT_DELETE, family, payload,
                          version=version)[0] == 0
        request = decode_ct_request(r.message(
            nf.IPCTNL_MSG_CT_DELETE, family, payload, version=version))
        assert request.filter is not None
        gone = {key for key, entry in wanted.items()
                if request.filter.matches(entry)}
        _, left = kernel.dump(CT, nf.IPCTNL_MSG_CT_GET)
        assert (name, names(left, wanted)) == (name, set(wanted) - gone)
        for key in wanted:
            if key in gone:
                assert put(kernel, wanted[key]) == 0


def test_delete(kernel: NfSocket) -> None:
    """As OVS flushes a zone: by tuple and id; and by what is left out."""
    wanted = put_all(kernel)
    _, found = kernel.dump(CT, nf.IPCTNL_MSG_CT_GET)
    for entry in map(read, found):
        for wrong in (r.name(entry.orig, entry.zone, id_=entry.id ^ 1),
                      r.name(entry.orig, entry.zone ^ 1)):
            assert kernel.ask(CT, nf.IPCTNL_MSG_CT_DELETE,
                              entry.orig.family, wrong)[0] == r.ENOENT
        payload = r.name(entry.orig, entry.zone, id_=entry.id)
        request = decode_ct_request(r.message(
            nf.IPCTNL_MSG_CT_DELETE, entry.orig.family, payload))
        assert request.name == CtName(entry.orig, entry.zone, id=entry.id)
        assert kernel.ask(CT, nf.IPCTNL_MSG_CT_DELETE, entry.orig.family,
                          payload)[0] == 0
    assert kernel.dump(CT, nf.IPCTNL_MSG_CT_GET) == (0, [])
    assert wanted


def test_zone_of_a_direction(kernel: NfSocket) -> None:
    """CTA_TUPLE_ZONE is the zone of its own direction alone."""
    entry = entries()["tcp, zone and mark"]
    assert put(kernel, entry) == 0
    for one, reply in itertools.product((entry.orig, entry.reply),
                                        (False, True)):
        payload = r.name(one, tuple_zone=entry.zone, reply=reply)
        code, _ = kernel.ask(CT, nf.IPCTNL_MSG_CT_GET, one.family, payload)
        request = decode_ct_request(r.message(
            nf.IPCTNL_MSG_CT_GET, one.family, payload))
        assert request.name is not None
        side = (entry.orig, entry.reply).index(one)
        assert (code == 0) == (request.name.direction == side)


@pytest.mark.parametrize("case", r.REFUSED, ids=lambda case: case.name)
def test_refused(kernel: NfSocket, case: r.Refused) -> None:
    put_all(kernel)
    code, _ = kernel.ask(CT, case.cmd, case.family, case.payload, case.flags,
                         case.version)
    assert code == (case.errno if case.kernel is None else case.kernel)
    with pytest.raises(RequestError) as caught:
        decode_ct_request(r.message(case.cmd, case.family, case.payload,
                                    case.flags, version=case.version))
    assert caught.value.errno == case.errno


def test_events(kernel: NfSocket, namespace: Namespace) -> None:
    """What the kernel says of new connections, changed and ended ones."""
    namespace.run("sh", "-c", "echo 0 >"
                  " /proc/sys/net/netfilter/nf_conntrack_timestamp")
    try:
        with namespace.entered():
            listener = NfSocket()
        with listener:
            for group in (nf.NFNLGRP_CONNTRACK_NEW,
                          nf.NFNLGRP_CONNTRACK_UPDATE,
                          nf.NFNLGRP_CONNTRACK_DESTROY):
                listener.join(group)
            new = 0
            for event in (nf.IPCT_REPLY, nf.IPCT_ASSURED, nf.IPCT_HELPER,
                          nf.IPCT_PROTOINFO, nf.IPCT_SEQADJ, nf.IPCT_MARK):
                new |= 1 << event
            for name, entry in entries().items():
                if name in {"labels", "fixed timeout"}:
                    continue
                master = [one for one in entries().values()
                          if one.orig == entry.master]
                for one in [*master, entry]:
                    assert put(kernel, one) == 0
                    (message,) = listener.receive()
                first = (nf.IPCT_NEW if entry.master is None
                         else nf.IPCT_RELATED)
                same(message, nf.NFNLGRP_CONNTRACK_NEW, new | 1 << first)
                assert kernel.ask(
                    CT, nf.IPCTNL_MSG_CT_NEW, entry.orig.family,
                    r.name(entry.orig, entry.zone) + r.mark(9))[0] == 0, name
                (message,) = listener.receive()
                same(message, nf.NFNLGRP_CONNTRACK_UPDATE, new)
                for one in [*master, entry]:
                    assert kernel.ask(
                        CT, nf.IPCTNL_MSG_CT_DELETE, entry.orig.family,
                        r.name(one.orig, one.zone))[0] == 0
                    (message,) = listener.receive()
                same(message, nf.NFNLGRP_CONNTRACK_DESTROY,
                     1 << nf.IPCT_DESTROY)
    finally:
        namespace.run("sh", "-c", "echo 1 >"
                      " /proc/sys/net/netfilter/nf_conntrack_timestamp")


def same(message: Message, group: int, events: int) -> None:
    """Our notification of what it says is the same, but for whom it is."""
    ours, raw = encode_event(read(message), events)
    assert ours == group
    theirs = bare(message)
    assert raw[:8] + raw[16:] == theirs[:8] + theirs[16:]
