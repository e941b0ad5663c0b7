# SPDX-License-Identifier: Apache-2.0
"""The connection tracker's part of what the provider shares with the BPF
programs: a mirror of bpf/lib/abi_ct.h, as ``dpif_bpf.abi`` is of abi.h.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from dpif_bpf.abi_record import Record, record

OVS_CT_ABI_VERSION: Final = 1

OVS_CT_ID_BITS: Final = 24
OVS_CT_ZONES: Final = 65536
OVS_CT_POLICIES: Final = 4096
OVS_CT_TIMEOUTS: Final = 64
OVS_CT_EXP: Final = 16
OVS_CT_EDGES: Final = 7
OVS_CT_PROBES: Final = 8

OVS_CT_NEW: Final = 0x01
OVS_CT_ESTABLISHED: Final = 0x02
OVS_CT_RELATED: Final = 0x04
OVS_CT_REPLY: Final = 0x08
OVS_CT_INVALID: Final = 0x10
OVS_CT_TRACKED: Final = 0x20
OVS_CT_SRC_NAT: Final = 0x40
OVS_CT_DST_NAT: Final = 0x80

OVS_CT_S_EXPECTED: Final = 1 << 0
OVS_CT_S_SEEN_REPLY: Final = 1 << 1
OVS_CT_S_ASSURED: Final = 1 << 2
OVS_CT_S_CONFIRMED: Final = 1 << 3
OVS_CT_S_SRC_NAT: Final = 1 << 4
OVS_CT_S_DST_NAT: Final = 1 << 5
OVS_CT_S_SEQ_ADJUST: Final = 1 << 6
OVS_CT_S_SRC_NAT_DONE: Final = 1 << 7
OVS_CT_S_DST_NAT_DONE: Final = 1 << 8
OVS_CT_S_DYING: Final = 1 << 9
OVS_CT_S_FIXED_TIMEOUT: Final = 1 << 10
OVS_CT_S_HELPER: Final = 1 << 13

OVS_CT_HELPER_FTP: Final = 1
OVS_CT_HELPER_TFTP: Final = 2

OVS_CT_TCP_F_WSCALE: Final = 0x01
OVS_CT_TCP_F_SACK: Final = 0x02
OVS_CT_TCP_F_CLOSE_INIT: Final = 0x04
OVS_CT_TCP_F_LIBERAL: Final = 0x08
OVS_CT_TCP_F_UNACKED: Final = 0x10
OVS_CT_TCP_F_MAXACK: Final = 0x20
OVS_CT_TCP_F_CHALLENGE: Final = 0x40
OVS_CT_TCP_F_SIMOPEN: Final = 0x80

OVS_CT_SCTP_F_VTAG_FAILED: Final = 1

OVS_CT_FREE: Final = 0
OVS_CT_TENTATIVE: Final = 1
OVS_CT_LIVE: Final = 2
OVS_CT_LOCKED: Final = 3
OVS_CT_DEAD: Final = 4
OVS_CT_GEN_SHIFT: Final = 32
OVS_CT_TAG_SHIFT: Final = 38

OVS_CT_EXP_FREE: Final = 0
OVS_CT_EXP_TAKEN: Final = 0xffffffff

OVS_CT_ANSWER_GONE: Final = 0
OVS_CT_ANSWER_DONE: Final = 1
OVS_CT_ANSWER_BUSY: Final = 2
OVS_CT_ASKS: Final = 128

OVS_CT_EXPECTS: Final = 4096
OVS_CT_EXPECT_WAYS: Final = 8
OVS_CT_EXPECT_FREE: Final = 0
OVS_CT_EXPECT_READY: Final = 1
OVS_CT_EXPECT_TAKEN: Final = 2
OVS_CT_EXPECT_F_NAT: Final = 1

OVS_CT_KEPT_POLICY: Final = 12
OVS_CT_KEPT_POLICIES: Final = 8192
OVS_CT_KEPT_WORDS: Final = (2 + OVS_CT_ZONES + OVS_CT_KEPT_POLICIES
                            * OVS_CT_KEPT_POLICY)

OVS_CT_F_LOOSE: Final = 1
OVS_CT_F_LIBERAL: Final = 2
OVS_CT_F_IGNORE_RST: Final = 4
OVS_CT_F_OVS: Final = 8


class TcpState(IntEnum):
    """``enum ovs_ct_tcp_state``: OVS_CT_TCP_* without the prefix."""

    NONE = 0
    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    FIN_WAIT = 4
    CLOSE_WAIT = 5
    LAST_ACK = 6
    TIME_WAIT = 7
    CLOSE = 8
    SYN_SENT2 = 9


OVS_CT_TCP_MAX: Final = 10


class SctpState(IntEnum):
    """``enum ovs_ct_sctp_state``: OVS_CT_SCTP_* without the prefix."""

    NONE = 0
    CLOSED = 1
    COOKIE_WAIT = 2
    COOKIE_ECHOED = 3
    ESTABLISHED = 4
    SHUTDOWN_SENT = 5
    SHUTDOWN_RECD = 6
    SHUTDOWN_ACK_SENT = 7
    HEARTBEAT_SENT = 8


OVS_CT_SCTP_MAX: Final = 9


class Timeout(IntEnum):
    """``enum ovs_ct_timeout``: OVS_CT_T_* without the prefix; TCP and SCTP
    are where those of their states begin."""

    TCP = 0
    TCP_RETRANS = 10
    TCP_UNACK = 11
    UDP = 16
    UDP_STREAM = 17
    ICMP = 18
    ICMPV6 = 19
    GENERIC = 20
    GRE = 21
    GRE_STREAM = 22
    UDPLITE = 23
    UDPLITE_STREAM = 24
    SCTP = 32


OVS_CT_T_MAX: Final = 64

DEFAULT_TIMEOUTS: Final = {
    **{Timeout.TCP + state: value for state, value in (
        (TcpState.NONE, 120), (TcpState.SYN_SENT, 120),
        (TcpState.SYN_RECV, 60), (TcpState.ESTABLISHED, 432000),
        (TcpState.FIN_WAIT, 120), (TcpState.CLOSE_WAIT, 60),
        (TcpState.LAST_ACK, 30), (TcpState.TIME_WAIT, 120),
        (TcpState.CLOSE, 10), (TcpState.SYN_SENT2, 120))},
    Timeout.TCP_RETRANS: 300, Timeout.TCP_UNACK: 300,
    Timeout.UDP: 30, Timeout.UDP_STREAM: 120,
    Timeout.ICMP: 30, Timeout.ICMPV6: 30, Timeout.GENERIC: 600,
    Timeout.GRE: 30, Timeout.GRE_STREAM: 180,
    Timeout.UDPLITE: 30, Timeout.UDPLITE_STREAM: 120,
    **{Timeout.SCTP + state: value for state, value in (
        (SctpState.NONE, 10), (SctpState.CLOSED, 10),
        (SctpState.COOKIE_WAIT, 3), (SctpState.COOKIE_ECHOED, 3),
        (SctpState.ESTABLISHED, 210), (SctpState.SHUTDOWN_SENT, 3),
        (SctpState.SHUTDOWN_RECD, 3), (SctpState.SHUTDOWN_ACK_SENT, 3),
        (SctpState.HEARTBEAT_SENT, 30))},
}
"""Seconds by index, as nf_conntrack's of Linux 6.18."""


class Stat(IntEnum):
    """``enum ovs_ct_stat``: OVS_CT_STAT_* without the prefix."""

    INVALID = 0
    COMMIT = 1
    CLASH = 2
    CLASH_LOST = 3
    FULL = 4
    MAX_CONNS = 5
    LIMIT = 6
    BUCKETS = 7
    BUSY = 8
    REOPEN = 9
    KILLED = 10
    EXPIRED = 11
    FREED = 12
    EXPECTED = 13


OVS_CT_STAT_MAX: Final = 16


class Ask(IntEnum):
    """``enum ovs_ct_ask_what``: OVS_CT_ASK_* without the prefix."""

    END = 0
    ZERO = 1
    UNTIMEOUT = 2
    SHIFT = 3


OVS_CT_ASK_MAX: Final = 4


class Verdict(IntEnum):
    """``enum ovs_ct_verdict``: OVS_CT_V_* without the prefix."""

    INVALID = 0
    NEW = 1
    FOUND = 2
    RELATED = 3


OVS_CT_V_MAX: Final = 4


class Made(IntEnum):
    """``enum ovs_ct_made``: OVS_CT_C_* without the prefix."""

    DONE = 0
    REFUSED = 1
    CLASH = 2


OVS_CT_C_MAX: Final = 3

TUPLE: Final = record("ovs_ct_tuple", """
    src 16s
    dst 16s
    sport 2s
    dport 2s
    zone H
    proto B
    family B
    """, """
    src4 src 4
    dst4 dst 4
    """)

POLICY: Final = record("ovs_ct_policy", f"timeout {OVS_CT_TIMEOUTS * 4}s")

TCP_END: Final = record("ovs_ct_tcp_end", """
    end I
    maxend I
    maxwin I
    maxack I
    scale B
    flags B
    pad H
    """)

TCP: Final = record("ovs_ct_tcp", f"""
    seen {2 * TCP_END.size}s
    last_seq I
    last_ack I
    last_end I
    last_win H
    last_index B
    last_dir B
    last_flags B
    last_scale B
    retrans B
    pad B
    pad2 I
    """)

SCTP: Final = record("ovs_ct_sctp", """
    vtag 8s
    init 2s
    last_dir B
    flags B
    """)

CT: Final = record("ovs_ct", f"""
    word Q
    orig {TUPLE.size}s
    status I
    state B
    pad B
    policy H
    mark I
    zone_gen I
    reply {TUPLE.size}s
    labels 16s
    master I
    helper H
    master_gen H
    proto 64s
    packets 16s
    bytes 16s
    start Q
    adj_pos 8s
    adj_before 8s
    adj_after 8s
    """, f"""
    tcp proto {TCP.size}
    sctp proto {SCTP.size}
    """)
"""A record: a connection."""

BUCKET: Final = record("ovs_ct_bucket", f"""
    edge {OVS_CT_EDGES * 8}s
    spill Q
    """)

EXP: Final = record("ovs_ct_exp", f"at {OVS_CT_EXP * 4}s")

ZONE: Final = record("ovs_ct_zone", """
    word Q
    limit I
    pad I
    """)

CONF: Final = record("ovs_ct_conf", """
    random 32s
    random64 16s
    flags I
    max I
    max_retrans I
    pad I
    """)

USE: Final = record("ovs_ct_use", """
    count Q
    sweeps Q
    sweep_ns Q
    sweep_at Q
    sweep_spent Q
    sweep_seen Q
    idle Q
    flush Q
    freed Q
    expects Q
    pad 48s
    """)

CPU: Final = record("ovs_ct_cpu", f"""
    cursor Q
    full Q
    stat {OVS_CT_STAT_MAX * 8}s
    """)

EXPECT: Final = record("ovs_ct_expect", f"""
    word Q
    tuple {TUPLE.size}s
    reply {TUPLE.size}s
    master I
    master_gen I
    end I
    flags I
    pad 24s
    """)
"""A connection that will come."""

ASKED: Final = record("ovs_ct_asked", """
    id I
    gen I
    answer Q
    packets 16s
    bytes 16s
    """)

ASKS: Final = record("ovs_ct_asks", f"""
    what I
    count I
    policy I
    pad I
    one {OVS_CT_ASKS * ASKED.size}s
    """)

PKT: Final = record("ovs_ct_pkt", f"""
    now Q
    zone H
    l3_off H
    l4_off H
    l4_proto B
    family B
    policy H
    helper H
    pad I
    verdict B
    ct_state B
    dir B
    busy B
    id I
    gen I
    len I
    timeout I
    inner_l3 H
    inner_l4 H
    hash Q
    tuple {TUPLE.size}s
    seq I
    ack I
    sack I
    end I
    win H
    tcp_flags B
    index B
    opt_flags B
    opt_scale B
    opt_len B
    opt_off B
    opts 64s
    vtag 4s
    chunk_off I
    chunks 32s
    count I
    bad B
    ignore B
    last_state B
    begins B
    expect I
    expect_gen I
    fresh {CT.size}s
    """)
"""One packet at the tracker."""

NAT: Final = record("ovs_ct_nat", f"""
    tuple {TUPLE.size}s
    reply {TUPLE.size}s
    min 16s
    max 16s
    flags I
    min_port H
    max_port H
    first I
    range I
    left I
    off H
    dst B
    found B
    """)

WORK: Final = record("ovs_ct_work", f"""
    pkt {PKT.size}s
    nat {NAT.size}s
    flags I
    at I
    zone H
    policy H
    help I
    """)

RECORDS: Final[tuple[Record, ...]] = (
    TUPLE, POLICY, TCP_END, TCP, SCTP, CT, BUCKET, EXP, ZONE, CONF, USE, CPU,
    EXPECT, ASKED, ASKS, PKT, NAT, WORK)
