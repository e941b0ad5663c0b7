# SPDX-License-Identifier: Apache-2.0
"""What the provider and the BPF programs share: a mirror of bpf/lib/abi.h.

Numbers are in host order, fields that come from packets are ``bytes`` in
network order: each structure is a :class:`Record`, whose ``struct`` packs
and unpacks all fields in order and whose ``fields`` tell where each one lies.
``tests/unit/test_abi.py`` compares this file with the C compiler's view.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Final

from dpif_bpf import abi_ct
from dpif_bpf.abi_record import Field as Field
from dpif_bpf.abi_record import Record as Record
from dpif_bpf.abi_record import record

OVS_ABI_VERSION: Final = 4

OVS_MAX_PORTS: Final = 65536
OVS_MAX_BRIDGES: Final = 1024
OVS_KEY_WORDS: Final = 128
OVS_KEY_USED: Final = 67
OVS_KEY_BASE: Final = 35
OVS_LEVELS: Final = 8
OVS_DEV_CACHE: Final = 256
OVS_MAX_NESTING: Final = 5
OVS_MAX_RECIRC: Final = 30
OVS_COPY_BUDGET: Final = 2048
OVS_COPY_COST: Final = 4
OVS_MAX_INSNS: Final = 65536
OVS_EXEC_SLOTS: Final = 1024
OVS_DEFER_SLOTS: Final = 4096
OVS_SLOTS: Final = OVS_EXEC_SLOTS + OVS_DEFER_SLOTS
OVS_UPCALL_PARTS: Final = 144
OVS_UPCALL_UNIT: Final = 512
OVS_UPCALL_UNITS: Final = 4096
OVS_UPCALL_ALL: Final = OVS_MAX_PORTS
OVS_UPCALL_FRAGMENT: Final = 0x80
OVS_UPCALL_SPLIT: Final = 0x81
OVS_UPCALL_HELP: Final = 0x82
OVS_UPCALL_TUNNEL: Final = 4
OVS_SKB_GSO_SCTP: Final = 1 << 14
OVS_SLOT_BITS: Final = 13

OVS_MAC_PROTO_ETHERNET: Final = 0
OVS_MAC_PROTO_NONE: Final = 1

OVS_PORT_F_USED: Final = 1
OVS_PORT_F_INTERNAL: Final = 2
OVS_PORT_F_L3: Final = 4
OVS_PORT_F_VETH: Final = 8
OVS_PORT_F_TUNNEL: Final = 16

OVS_TUNNEL_WORDS: Final = 39
OVS_TUNNEL_BASE: Final = 7
OVS_TUNNEL_CSUM: Final = 0x0001
OVS_TUNNEL_KEY: Final = 0x0004
OVS_TUNNEL_DONT_FRAGMENT: Final = 0x0100
OVS_TUNNEL_OAM: Final = 0x0200
OVS_TUNNEL_GENEVE_OPT: Final = 0x0800
OVS_TUNNEL_VXLAN_OPT: Final = 0x1000
OVS_TUNNEL_ERSPAN_OPT: Final = 0x4000
OVS_AF_INET: Final = 2
OVS_AF_INET6: Final = 10

OVS_METERS: Final = 1 << 18
OVS_METER_EXTRA: Final = 1 << 16
OVS_METER_BANDS: Final = 8
OVS_METER_F_USED: Final = 1
OVS_METER_F_BAND: Final = 2
OVS_METER_F_DROP: Final = 4
OVS_METER_F_KBPS: Final = 8
OVS_METER_F_CLEAR: Final = 16

OVS_CSUM_NONE: Final = 0
OVS_CSUM_UNNECESSARY: Final = 1
OVS_CSUM_COMPLETE: Final = 2
OVS_CSUM_PARTIAL: Final = 3

OVS_SLOT_FREE: Final = 0
OVS_SLOT_ARMED: Final = 1
OVS_SLOT_GEN_SHIFT: Final = 1
OVS_SLOT_GEN_MASK: Final = 0x7ffff
OVS_SLOT_TIME_SHIFT: Final = 32

OVS_STALE_KEY: Final = 1
OVS_STALE_OFFSETS: Final = 2

OVS_PKT_F_COPY: Final = 1
OVS_PKT_F_ONE_OUTPUT: Final = 2
OVS_PKT_F_TUNNEL: Final = 4
OVS_PKT_F_TO_TUNNEL: Final = 8

OVS_DIRTY_META: Final = 1
OVS_DIRTY_MPLS: Final = 2
OVS_DIRTY_NSH: Final = 4
OVS_DIRTY_CT: Final = 8

OVS_EDGE_TAG_SHIFT: Final = 38
OVS_EDGE_LEAF_SHIFT: Final = 37
OVS_EDGE_DESC_SHIFT: Final = 22
OVS_EDGE_ID_BITS: Final = 22

OVS_HASH_MULT: Final = 0xd6e8feb86659fd93
OVS_BUCKET_EDGES: Final = 7
OVS_BUCKET_CHAIN: Final = 8
OVS_CLS_TREES: Final = 32
OVS_CLS_DEPTH: Final = 64
OVS_CLS_WORDS: Final = 13
OVS_CLS_FIRST: Final = 6
OVS_CLS_RECORDS: Final = 6
OVS_CACHE_LINES: Final = 16384
OVS_EXACT_LINES: Final = 4096
OVS_EXACT_ODD: Final = 1 << 31
OVS_EXACT_FLAGS: Final = 0x0FFF
OVS_EXACT_OUTPUT: Final = 0x10
OVS_EXACT_ROUTE: Final = 0x20
OVS_EXACT_CT: Final = 0x40
OVS_DESCS: Final = 32768


class DropReason(IntEnum):
    """``enum ovs_drop_reason``: OVS_DROP_* without the prefix."""

    NONE = 0
    EXPLICIT = 1
    ACTION = 2
    ACTION_ERROR = 3
    MALFORMED = 4
    TAIL_CALL = 5
    NESTING = 6
    RECIRC_LIMIT = 7
    DEFER_FULL = 8
    NO_PORT = 9
    MTU = 10
    UPCALL_FULL = 11
    REDIRECT = 12
    SET = 13
    VLAN = 14
    BAD_INSN = 15
    UNKNOWN_PORT = 16
    NO_STATE = 17
    SLOT = 18
    PULL = 19
    UPCALL_SIZE = 20
    ENCAP = 21
    GSO = 22
    LAYER3 = 23
    TRUNC = 24
    TTL = 25
    METER = 26
    SHARED = 27
    COPIES = 28
    UPCALL_SHARE = 29
    CONNTRACK = 30
    TUNNEL = 31


OVS_DROP_MAX: Final = 64
OVS_STEPS: Final = 32


class Op(IntEnum):
    """``enum ovs_op``: OVS_OP_* without the prefix."""

    END = 0
    OUTPUT = 1
    OUTPUT_LAST = 2
    USERSPACE = 3
    RECIRC = 4
    RECIRC_LAST = 5
    DROP = 6
    PUSH_VLAN = 7
    POP_VLAN = 8
    SET_PRIORITY = 9
    SET_MARK = 10
    SET_ETH = 11
    SET_IPV4 = 12
    SET_IPV6 = 13
    SET_TP = 14
    HEADER = 15
    TRUNC = 16
    JUMP = 17
    CLONE = 18
    SAMPLE = 19
    CHECK_PKT_LEN = 20
    HASH = 21
    DEC_TTL = 22
    METER = 23
    CT = 24
    CT_CLEAR = 25


OVS_OP_MAX: Final = 26

OVS_CTA_COMMIT: Final = 0x0001
OVS_CTA_FORCE: Final = 0x0002
OVS_CTA_NAT: Final = 0x0004
OVS_CTA_NAT_SRC: Final = 0x0008
OVS_CTA_NAT_DST: Final = 0x0010
OVS_CTA_NAT_IPS: Final = 0x0020
OVS_CTA_NAT_PORTS: Final = 0x0040
OVS_CTA_NAT_PERSISTENT: Final = 0x0080
OVS_CTA_NAT_RANDOM: Final = 0x0100
OVS_CTA_MARK: Final = 0x0200
OVS_CTA_LABELS: Final = 0x0400
OVS_CTA_POLICY_SHIFT: Final = 16


class Header(IntEnum):
    """``enum ovs_header``: OVS_HEADER_* without the prefix."""

    PUSH_MPLS = 0
    ADD_MPLS = 1
    POP_MPLS = 2
    POP_MPLS_ETH = 3
    SET_MPLS = 4
    PUSH_ETH = 5
    POP_ETH = 6
    PUSH_NSH = 7
    POP_NSH = 8
    SET_NSH = 9
    SET_SCTP = 10
    SET_TUNNEL = 11


OVS_HEADER_MAX: Final = 12


class Stage(IntEnum):
    """``enum ovs_stage``: OVS_STAGE_* without the prefix."""

    RX = 0
    LOOKUP = 1
    RX_L3 = 2
    ACT = 3
    ACT_OWN = 4
    ACT_SHARED = 5
    CT = 6
    ROUTE = 7
    ROUTE_OWN = 8
    RX_TUNNEL = 9


OVS_STAGE_MAX: Final = 16


KEY: Final = record("ovs_key", """
    in_port H
    tun_proto B
    pad4 B
    recirc_id I
    eth_type 2s
    mac_proto B
    ip_frag B
    ip_proto B
    ip_tos B
    ip_ttl B
    ct_state B
    eth_dst 6s
    vlan_tci 2s
    eth_src 6s
    vlan_tpid 2s
    tp_src 2s
    tp_dst 2s
    tcp_flags 2s
    ct_zone H
    skb_priority I
    skb_mark I
    ipv6_src 16s
    ipv6_dst 16s
    ipv6_label 4s
    ipv6_exthdrs H
    pad0 H
    nd_target 16s
    nd_sll 6s
    cvlan_tci 2s
    nd_tll 6s
    cvlan_tpid 2s
    dp_hash I
    ct_mark I
    ct_labels 16s
    ct_orig_ipv6_src 16s
    ct_orig_ipv6_dst 16s
    ct_orig_tp_src 2s
    ct_orig_tp_dst 2s
    ct_orig_proto B
    pad1 3s
    mpls_lse 12s
    mpls_labels I
    nsh_flags B
    nsh_mdtype B
    nsh_np B
    nsh_ttl B
    nsh_path_hdr 4s
    nsh_context 16s
    tun_id 8s
    tun_ipv6_src 16s
    tun_ipv6_dst 16s
    tun_flags 2s
    tun_tos B
    tun_ttl B
    tun_tp_src 2s
    tun_tp_dst 2s
    tun_label 4s
    tun_opts_len B
    pad3 3s
    tun_opts 256s
    unused 488s
    """, """
    ipv4_src ipv6_src 4
    ipv4_dst ipv6_src+4 4
    arp_sha nd_sll 6
    arp_tha nd_tll 6
    ct_orig_ipv4_src ct_orig_ipv6_src 4
    ct_orig_ipv4_dst ct_orig_ipv6_src+4 4
    tun_ipv4_src tun_ipv6_src 4
    tun_ipv4_dst tun_ipv6_src+4 4
    """)
"""The flow key; words after `tun_opts` are ``unused``: zero."""

TUNNEL: Final = record("ovs_tunnel", """
    id 8s
    ipv6_src 16s
    ipv6_dst 16s
    flags 2s
    tos B
    ttl B
    tp_src 2s
    tp_dst 2s
    label 4s
    opts_len B
    proto B
    pad 2s
    opts 256s
    """, """
    ipv4_src ipv6_src 4
    ipv4_dst ipv6_src+4 4
    """)
"""A tunnel that packets are sent into; as the key's words from `tun_id` on."""

PKT_LIST: Final = record("ovs_pkt_list", """
    pc I
    since I
    copies I
    sent B
    next B
    calls B
    pad B
    """)

PKT_CPU: Final = record("ovs_pkt_cpu", """
    dirty I
    cache_on I
    cache_left I
    cache_hits I
    cache_probes I
    cache_depth I
    cache_wait I
    cache_period I
    """)

PKT: Final = record("ovs_pkt", f"""
    key {KEY.size}s
    bridge I
    slot I
    flow I
    cutlen I
    upcall_desc I
    verdict i
    probes I
    exact I
    l3_off H
    l4_off H
    family H
    l4_proto B
    routing B
    flags B
    recirc_depth B
    stale B
    parsed B
    cached B
    upcall_cmd B
    drop B
    tracked B
    mru H
    line H
    pad 4s
    list {PKT_LIST.size}s
    cache_hash Q
    tunnel {TUNNEL.size}s
    cpu {PKT_CPU.size}s
    """)

DEV: Final = record("ovs_dev", """
    ifindex I
    port_no I
    """)

CPU: Final = record("ovs_cpu", f"""
    level I
    defer_next I
    tick Q
    now Q
    now_ms Q
    exact_rest I
    exact_hits I
    exact_misses I
    exact_wait I
    route_first Q
    route_second Q
    route_ip I
    route_dev I
    route_bridge I
    pad I
    dev {DEV.size * OVS_DEV_CACHE}s
    pkt {PKT.size * OVS_LEVELS}s
    """)

PORT: Final = record("ovs_port", """
    ifindex I
    mtu I
    bridge H
    flags B
    pad B
    tunnel_dst 2s
    tunnel_opts 2s
    """)

PORTS: Final = record("ovs_ports", f"p {OVS_MAX_PORTS * PORT.size}s")

FLOW_STATS: Final = record("ovs_flow_stats", """
    packets Q
    bytes Q
    used Q
    tcp_flags Q
    """)

DP_STATS: Final = record("ovs_dp_stats", f"""
    exact Q
    missed Q
    lost Q
    cache_hit Q
    steps {OVS_STEPS * 8}s
    more Q
    """)

METER: Final = record("ovs_meter", """
    id I
    next H
    flags H
    rate I
    burst I
    spent Q
    used Q
    packets Q
    bytes Q
    band_packets Q
    band_bytes Q
    """)

INSN: Final = record("ovs_insn", """
    op B
    len B
    arg H
    imm I
    """)
"""One instruction: op, data words after it, arg, imm."""

SET_ETH: Final = record("ovs_set_eth", """
    dst 6s
    pad0 2s
    src 6s
    pad1 2s
    dst_mask 6s
    pad2 2s
    src_mask 6s
    pad3 2s
    """)

SET_IPV4: Final = record("ovs_set_ipv4", """
    src 4s
    dst 4s
    src_mask 4s
    dst_mask 4s
    tos B
    tos_mask B
    ttl B
    ttl_mask B
    pad I
    """)

SET_IPV6: Final = record("ovs_set_ipv6", """
    src 16s
    dst 16s
    src_mask 16s
    dst_mask 16s
    label 4s
    label_mask 4s
    tclass B
    tclass_mask B
    hlimit B
    hlimit_mask B
    pad I
    """)

SET_TP: Final = record("ovs_set_tp", """
    src 2s
    dst 2s
    src_mask 2s
    dst_mask 2s
    """)

SET_NSH: Final = record("ovs_set_nsh", """
    base 8s
    context 16s
    base_mask 8s
    context_mask 16s
    """)

ACT_CT: Final = record("ovs_act_ct", """
    mark I
    mark_mask I
    labels 16s
    labels_mask 16s
    min_addr 16s
    max_addr 16s
    min_port H
    max_port H
    helper H
    pad H
    """)

UPCALL: Final = record("ovs_upcall", f"""
    len I
    pkt_len I
    cmd B
    ip_summed B
    csum_start H
    csum_offset H
    gso_size H
    gso_type I
    desc I
    hash I
    hash_flags H
    mru H
    cpu I
    bridge I
    vlan_tci 2s
    vlan_tpid 2s
    cutlen I
    key {OVS_KEY_BASE * 8}s
    """)
"""A record of ovs_upcalls; `len` bytes of packet follow it."""

UPCALL_PARTS: Final = record("ovs_upcall_parts", f"""
    len {OVS_UPCALL_PARTS * 2}s
    """)
"""Between a record's header and its packet, if OVS_SKB_GSO_SCTP."""

UPCALL_MORE: Final = record("ovs_upcall_tunnel", f"""
    opts {(OVS_KEY_USED - OVS_KEY_BASE) * 8}s
    to {TUNNEL.size}s
    """)
"""Behind that, if OVS_UPCALL_TUNNEL is among `hash_flags`."""

UPCALL_USE: Final = record("ovs_upcall_use", """
    taken Q
    given Q
    refused Q
    """)
"""Units of OVS_UPCALL_UNIT bytes that a port has under way; of all ports at
OVS_UPCALL_ALL."""

SLOT: Final = record("ovs_slot", f"""
    state Q
    pc I
    bridge I
    recirc_depth B
    flags B
    family H
    cutlen I
    l3_off H
    l4_off H
    l4_proto B
    routing B
    spent H
    mru H
    pad 6s
    key {KEY.size}s
    tunnel {TUNNEL.size}s
    """)

BUCKET: Final = record("ovs_bucket", f"""
    edge {OVS_BUCKET_EDGES * 8}s
    next Q
    """)

DESC: Final = record("ovs_desc", f"""
    n B
    idx {OVS_CLS_WORDS}s
    next H
    mask {OVS_CLS_WORDS * 8}s
    pad Q
    """)

DESCS: Final = record("ovs_descs", f"d {OVS_DESCS * DESC.size}s")

FLOW: Final = record("ovs_flow", f"""
    desc H
    bridge H
    gen I
    acts I
    next I
    value {OVS_CLS_FIRST * 8}s
    """, """
    stamp desc 8
    """)

EXACT: Final = record("ovs_exact", """
    gen I
    flow I
    port I
    stats I
    first Q
    second Q
    third Q
    addr Q
    last Q
    flags H
    out H
    pad I
    more 24s
    meta Q
    tag I
    new_ip I
    new_first Q
    new_second Q
    pad2 Q
    """)

VALUES: Final = record("ovs_values", f"""
    value {(OVS_CLS_WORDS - OVS_CLS_FIRST) * 8}s
    pad Q
    """)

ROOT: Final = record("ovs_root", f"""
    ntrees H
    cache H
    desc I
    tree {OVS_CLS_TREES * 8}s
    """)

RECORDS: Final = (KEY, TUNNEL, PKT_LIST, PKT_CPU, PKT, DEV, CPU, PORT, PORTS,
                  FLOW_STATS, DP_STATS, METER, INSN, SET_ETH, SET_IPV4,
                  SET_IPV6, SET_TP, SET_NSH, ACT_CT, UPCALL, UPCALL_PARTS,
                  UPCALL_MORE, UPCALL_USE, SLOT, BUCKET, DESC, DESCS, FLOW,
                  VALUES, EXACT, ROOT)


class Life(Enum):
    """What a new generation of the packet path does about a map."""

    FRESH = "it makes one of its own, empty"
    SHARED = "it takes the very map of the generation before"
    ADOPTED = "it makes one of its own, and takes over what the other tells"


@dataclass(frozen=True, slots=True)
class Map:
    """A map of bpf/lib/maps*.h, or the timer of ct_sweep.h.

    :param size: bytes of an element, 0 for a ring buffer
    :param entries: elements that it has; None: sized when it is loaded
    :param per_cpu: a BPF_MAP_TYPE_PERCPU_ARRAY; otherwise, unless it is
        FRESH, a BPF_MAP_TYPE_ARRAY with BPF_F_MMAPABLE
    :param version: of what an element means.  It grows, and OVS_ABI_VERSION
        with it, with each change to that; a map of another version is not
        taken over and begins empty.  0: nobody asks, as it is FRESH.
    :param group: maps that lead into each other: all of a group are taken
        over, or none
    :param mapped: False: one that nobody can map, as a timer is in it
    :param common: all datapaths have the same one
    """

    life: Life
    size: int
    entries: int | None = None
    per_cpu: bool = False
    version: int = 0
    group: str = ""
    mapped: bool = True
    common: bool = False


def _ct(size: int, entries: int | None = None, per_cpu: bool = False,
        mapped: bool = True) -> Map:
    """One of the connection tracker's."""
    return Map(Life.SHARED, size, entries, per_cpu,
               abi_ct.OVS_CT_ABI_VERSION, "conntrack", mapped, common=True)


FIRST_LAYOUTS: Final = 2
"""OVS_ABI_VERSION of the first providers whose maps have version 1 below.
These pinned no versions."""

MAPS: Final[Mapping[str, Map]] = {
    "ovs_acts": Map(Life.FRESH, 8),
    "ovs_buckets": Map(Life.FRESH, BUCKET.size),
    "ovs_cls_bound": Map(Life.FRESH, 8),
    "ovs_cls_cache": Map(Life.FRESH, 64),
    "ovs_cpu": Map(Life.FRESH, CPU.size),
    "ovs_ct": _ct(abi_ct.CT.size),
    "ovs_ct_asked": Map(Life.FRESH, abi_ct.ASKS.size, 1),
    "ovs_ct_conf": _ct(abi_ct.CONF.size, 1),
    "ovs_ct_cpu": _ct(abi_ct.CPU.size, 1, per_cpu=True),
    "ovs_ct_exp": _ct(abi_ct.EXP.size),
    "ovs_ct_expect": _ct(abi_ct.EXPECT.size, abi_ct.OVS_CT_EXPECTS),
    "ovs_ct_kept": Map(Life.SHARED, 8, abi_ct.OVS_CT_KEPT_WORDS, version=1,
                       group="conntrack's limits", common=True),
    "ovs_ct_policy": _ct(abi_ct.POLICY.size, abi_ct.OVS_CT_POLICIES),
    "ovs_ct_tab": _ct(abi_ct.BUCKET.size),
    "ovs_ct_timer": _ct(16, 1, mapped=False),
    "ovs_ct_use": _ct(abi_ct.USE.size, 1),
    "ovs_ct_work": Map(Life.FRESH, abi_ct.WORK.size),
    "ovs_ct_zones": _ct(abi_ct.ZONE.size, abi_ct.OVS_CT_ZONES),
    "ovs_descs": Map(Life.FRESH, DESCS.size),
    "ovs_devs": Map(Life.FRESH, 4),
    "ovs_dpstats": Map(Life.ADOPTED, DP_STATS.size, OVS_MAX_BRIDGES, True, 1),
    "ovs_drops": Map(Life.ADOPTED, 8, OVS_MAX_BRIDGES * OVS_DROP_MAX, True,
                     1),
    "ovs_exact": Map(Life.FRESH, EXACT.size),
    "ovs_flow_stats": Map(Life.ADOPTED, FLOW_STATS.size, version=1),
    "ovs_flows": Map(Life.FRESH, FLOW.size),
    "ovs_meters": Map(Life.SHARED, METER.size, OVS_METERS + OVS_METER_EXTRA,
                      version=1),
    "ovs_nlmem": Map(Life.ADOPTED, 8, version=1),
    "ovs_ports": Map(Life.FRESH, PORTS.size),
    "ovs_progs": Map(Life.FRESH, 4),
    "ovs_roots": Map(Life.FRESH, ROOT.size),
    "ovs_slots": Map(Life.FRESH, SLOT.size),
    "ovs_upcall_use": Map(Life.FRESH, UPCALL_USE.size),
    "ovs_upcalls": Map(Life.FRESH, 0),
    "ovs_values": Map(Life.FRESH, VALUES.size),
}
"""All maps of a generation.  What is in ovs_nlmem has a version of its own
besides (core/records.py): without it there is no datapath to be taken over."""
