# SPDX-License-Identifier: Apache-2.0
"""wire.key with all attributes and two tags supported.

The datapath does not do all of them yet; these tests hold the codec to the
kernel's rules for when it does, which then means to extend SUPPORTED_KEYS.
"""

from __future__ import annotations

from collections.abc import Iterator

import keys as k
import pytest

from dpif_bpf import abi
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.key import decode as key
from dpif_bpf.wire.key.encode import encode_key
from dpif_bpf.wire.netlink import nla, nla_flag, nla_u8, nla_u16, nla_u32


@pytest.fixture(autouse=True)
def _all_keys() -> Iterator[None]:
    with k.all_keys():
        yield


def field(image: int, name: str) -> str:
    return image.to_bytes(abi.KEY.size, "little")[abi.KEY[name].slice].hex()


def fields(image: int, *names: str) -> list[str]:
    return [field(image, name) for name in names]


def tun(*more: bytes) -> bytes:
    return k.tunnel(
        nla(uapi.OVS_TUNNEL_KEY_ATTR_IPV4_DST, bytes([192, 0, 2, 1])),
        nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TTL, 64), *more)


GENEVE = nla(uapi.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS, bytes(range(12)))
VXLAN = nla(uapi.OVS_TUNNEL_KEY_ATTR_VXLAN_OPTS,
            nla_u32(uapi.OVS_VXLAN_EXT_GBP, 0x12345678))
ERSPAN = nla(uapi.OVS_TUNNEL_KEY_ATTR_ERSPAN_OPTS, bytes(range(1, 13)))
CT, CT4, CT6 = k.ct(), k.ct_tuple(), k.ct_tuple6()
UDP = k.join(k.eth_type(), k.ipv4(), k.udp())
UDP6 = k.join(k.eth_type(0x86dd), k.ipv6(), k.udp())
QINQ = k.join(k.FRAME, k.eth_type(0x88a8), k.vlan(0x1001), k.encap(
    k.eth_type(0x8100), k.vlan(0x1002), k.encap(UDP)))

KEYS = {
    "mpls": k.join(k.FRAME, k.eth_type(0x8847), k.mpls(0x1100)),
    "mpls 3": k.join(k.FRAME, k.eth_type(0x8848), k.mpls(1, 2, 0x103)),
    "nsh": k.join(k.FRAME, k.eth_type(0x894f), k.nsh(1, nla(
        uapi.OVS_NSH_KEY_ATTR_MD1, bytes(range(16))))),
    "nsh md2": k.join(k.FRAME, k.eth_type(0x894f), k.nsh(2)),
    "ct": k.join(CT, k.FRAME, UDP),
    "ct tuple": k.join(CT, CT4, k.FRAME, UDP),
    "ct tuple 6": k.join(CT, CT6, k.FRAME, UDP6),
    "extension headers": k.join(k.FRAME, UDP6, nla(
        uapi.OVS_KEY_ATTR_IPV6_EXTHDRS, b"\x05\0")),
    "two tags": QINQ,
    "two tags, 802.2": k.join(
        k.FRAME, k.eth_type(0x8100), k.vlan(), k.encap(
            k.eth_type(0x8100), k.vlan(0x1002), k.encap())),
    "second tag truncated": k.join(
        k.FRAME, k.eth_type(0x8100), k.vlan(), k.encap(
            k.eth_type(0x8100), k.vlan(0), k.encap())),
    "tunnel": k.join(tun(), k.FRAME, UDP),
    "tunnel, all": k.join(k.tunnel(
        nla(uapi.OVS_TUNNEL_KEY_ATTR_ID, bytes(7) + b"\x09"),
        nla(uapi.OVS_TUNNEL_KEY_ATTR_IPV4_SRC, bytes([192, 0, 2, 2])),
        nla(uapi.OVS_TUNNEL_KEY_ATTR_IPV4_DST, bytes([192, 0, 2, 1])),
        nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TOS, 4),
        nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TTL, 64),
        nla_flag(uapi.OVS_TUNNEL_KEY_ATTR_DONT_FRAGMENT),
        nla_flag(uapi.OVS_TUNNEL_KEY_ATTR_CSUM),
        k.be16(uapi.OVS_TUNNEL_KEY_ATTR_TP_SRC, 5),
        k.be16(uapi.OVS_TUNNEL_KEY_ATTR_TP_DST, 6),
        nla_flag(uapi.OVS_TUNNEL_KEY_ATTR_OAM), GENEVE), k.FRAME, UDP),
    "tunnel 6": k.join(k.tunnel(
        nla(uapi.OVS_TUNNEL_KEY_ATTR_IPV6_DST, k.IP6_2),
        nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TTL, 64)), k.FRAME, UDP),
    "vxlan gbp": k.join(tun(VXLAN), k.FRAME, UDP),
    "erspan": k.join(tun(ERSPAN), k.FRAME, UDP),
    "long options": k.join(tun(nla(
        uapi.OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS, bytes(range(252)))), k.FRAME,
        UDP),
} | k.KEYS


def test_mpls() -> None:
    image = key.decode_key(KEYS["mpls 3"])
    assert fields(image, "mpls_lse", "mpls_labels") == [
        "000000010000000200000103", "07000000"]
    match = key.decode_match(KEYS["mpls 3"], k.join(
        k.eth_type(0xffff), k.mpls(0xfffff000, 0)))
    assert fields(match.mask, "mpls_lse", "mpls_labels") == [
        "fffff000" + "00" * 8, "03000000"]
    assert match.facts.mpls_num_lse == 2
    match = key.decode_match(KEYS["mpls"], k.join(
        k.eth_type(0xffff), k.mpls(0)))
    assert field(match.mask, "mpls_labels") == "00000000"


def test_nsh() -> None:
    match = key.decode_match(KEYS["nsh"], None)
    assert fields(match.key, "nsh_flags", "nsh_ttl", "nsh_mdtype", "nsh_np",
                  "nsh_path_hdr", "nsh_context") == [
        "00", "3f", "01", "01", "000001ff", bytes(range(16)).hex()]
    assert match.facts == KeyFacts(0x894f, nsh_mdtype=1, nsh_np=1)


def test_ct() -> None:
    match = key.decode_match(KEYS["ct tuple"], None)
    assert fields(match.key, "ct_state", "ct_zone", "ct_mark", "ct_labels",
                  "ct_orig_ipv4_src", "ct_orig_ipv4_dst", "ct_orig_tp_src",
                  "ct_orig_tp_dst", "ct_orig_proto") == [
        "21", "0500", "06000000", bytes(range(16)).hex(), "0a000001",
        "0a000002", "0050", "0051", "06"]
    assert fields(match.mask, "ct_state", "ct_zone", "ct_orig_proto",
                  "ip_tos") == ["ff", "ffff", "ff", "ff"]


def test_two_tags() -> None:
    match = key.decode_match(QINQ, None)
    assert fields(match.key, "vlan_tpid", "vlan_tci", "cvlan_tpid",
                  "cvlan_tci", "eth_type") == [
        "88a8", "1001", "8100", "1002", "0800"]
    assert match.facts.vlan_tci == 0x1001
    # A mask that looks into one tag matches the other one exactly.
    match = key.decode_match(QINQ, k.join(
        k.eth_type(0xffff), k.vlan(0x1fff), k.encap(k.eth_type(0xffff))))
    assert fields(match.mask, "vlan_tpid", "vlan_tci", "cvlan_tpid",
                  "cvlan_tci", "eth_type") == [
        "ffff", "1fff", "0000", "ffff", "ffff"]


def test_second_tag_truncated() -> None:
    image = key.decode_key(KEYS["second tag truncated"])
    assert fields(image, "vlan_tci", "cvlan_tci", "eth_type") == [
        "100a", "0000", "8100"]


def test_tunnel() -> None:
    match = key.decode_match(KEYS["tunnel, all"], None)
    assert fields(
        match.key, "tun_id", "tun_ipv4_src", "tun_ipv4_dst", "tun_flags",
        "tun_tos", "tun_ttl", "tun_tp_src", "tun_tp_dst", "tun_opts_len",
        "tun_proto") == [
        "0000000000000009", "c0000202", "c0000201", "0b05", "04", "40",
        "0005", "0006", "0c", "02"]
    assert field(match.key, "tun_opts") == bytes(range(12)).ljust(
        256, b"\0").hex()
    assert fields(match.mask, "tun_proto", "tun_opts_len", "tun_flags",
                  "tun_ttl") == ["ff", "ff", "0b05", "ff"]
    assert match.facts.tun_proto == 2


def test_tunnel_without_mask_matches_what_is_not_there() -> None:
    match = key.decode_match(KEYS["tunnel"], None)
    assert fields(match.mask, "tun_id", "tun_ipv6_src", "tun_tos") == [
        "ff" * 8, "ff" * 16, "ff"]


def test_tunnel_options() -> None:
    image = key.decode_key(KEYS["vxlan gbp"])
    assert field(image, "tun_opts")[:16] == "7856341200000000"
    assert fields(image, "tun_opts_len", "tun_flags") == ["04", "1000"]
    image = key.decode_key(KEYS["erspan"])
    assert fields(image, "tun_opts_len", "tun_flags") == ["0c", "4000"]
    image = key.decode_key(KEYS["long options"])
    assert field(image, "tun_opts")[:504] == bytes(range(252)).hex()


def test_mask_of_options_that_the_key_lacks() -> None:
    """OVS asks for a group policy of zero where a packet has none."""
    match = key.decode_match(KEYS["tunnel"], k.tunnel(VXLAN))
    assert fields(match.mask, "tun_opts_len", "tun_flags") == ["ff", "1000"]
    assert fields(match.key, "tun_opts_len", "tun_flags") == ["00", "0000"]


def test_mask_of_no_tunnel() -> None:
    """As OVS sends it with every flow: packets without a tunnel key."""
    match = key.decode_match(k.KEYS["udp"], k.tunnel(
        nla_u8(uapi.OVS_TUNNEL_KEY_ATTR_TTL, 0)))
    assert fields(match.mask, "tun_proto", "tun_ttl") == ["ff", "00"]
    match = key.decode_match(k.KEYS["udp"], k.tunnel())
    assert field(match.mask, "tun_proto") == "00"


def test_metadata() -> None:
    got = key.decode_metadata(k.join(tun(), CT, CT4, k.in_port(3)))
    image = int.from_bytes(got.image, "little")
    assert fields(image, "tun_ipv4_dst", "tun_proto", "ct_state",
                  "ct_orig_proto", "in_port") == [
        "c0000201", "02", "21", "06", "0300"]
    assert len(got.image) == 8 * abi.OVS_KEY_BASE


def test_metadata_with_options() -> None:
    got = key.decode_metadata(tun(GENEVE))
    assert len(got.image) == 8 * abi.OVS_KEY_USED
    assert field(int.from_bytes(got.image, "little"),
                 "tun_opts").startswith(bytes(range(12)).hex())


@pytest.mark.parametrize("kind", KEYS)
def test_encode_is_the_inverse(kind: str) -> None:
    image = key.decode_key(KEYS[kind])
    attrs = encode_key(image.to_bytes(abi.KEY.size, "little"))
    assert key.decode_key(attrs) == image


BARE = {"vlan 802.2", "vlan truncated", "two tags, 802.2",
        "second tag truncated"}


@pytest.mark.parametrize("kind", sorted(KEYS.keys() - BARE))
def test_every_key_goes_without_mask_and_with_an_empty_one(
        kind: str) -> None:
    exact = key.decode_match(KEYS[kind], None)
    assert exact.key == exact.full_key & exact.mask
    assert key.decode_match(KEYS[kind], b"").full_key == exact.full_key


BAD = {
    "no MPLS": (k.FRAME + k.eth_type(0x8847), "OVS_KEY_ATTR_MPLS is miss"),
    "no label": (k.join(k.FRAME, k.eth_type(0x8847), k.mpls()),
                 "OVS_KEY_ATTR_MPLS has 0 bytes"),
    "four labels": (k.join(k.FRAME, k.eth_type(0x8847), k.mpls(1, 2, 3, 4)),
                    "OVS_KEY_ATTR_MPLS has 16 bytes"),
    "half a label": (k.join(k.FRAME, k.eth_type(0x8847), nla(
        uapi.OVS_KEY_ATTR_MPLS, bytes(6))), "OVS_KEY_ATTR_MPLS has 6 bytes"),
    "no NSH": (k.FRAME + k.eth_type(0x894f), "OVS_KEY_ATTR_NSH is missing"),
    "NSH MD2": (k.join(k.FRAME, k.eth_type(0x894f), k.nsh(2, nla(
        uapi.OVS_NSH_KEY_ATTR_MD2, bytes(4)))),
        "OVS_NSH_KEY_ATTR_MD2 is not supported"),
    "NSH MD1 of type 2": (k.join(k.FRAME, k.eth_type(0x894f), k.nsh(2, nla(
        uapi.OVS_NSH_KEY_ATTR_MD1, bytes(16)))), "without MD type 1"),
    "NSH base size": (k.join(k.FRAME, k.eth_type(0x894f), nla(
        uapi.OVS_KEY_ATTR_NSH, nla(1, bytes(7)))), "has 7 bytes instead"),
    "CT state": (k.join(nla_u32(uapi.OVS_KEY_ATTR_CT_STATE, 0x100), k.FRAME),
                 "OVS_KEY_ATTR_CT_STATE has unknown bits"),
    "no tunnel destination": (k.join(k.tunnel(nla_u8(4, 64)), k.FRAME),
                              "has no destination"),
    "tunnel destination 0": (k.join(k.tunnel(
        nla_u8(4, 64), nla_u32(2, 0)), k.FRAME), "has no destination"),
    "tunnel without TTL": (k.join(k.tunnel(nla_u32(2, 1)), k.FRAME),
                           "OVS_TUNNEL_KEY_ATTR_TTL is missing"),
    "IPv4 and IPv6": (k.join(tun(nla(13, k.IP6_1)), k.FRAME), "mixes"),
    "unknown tunnel attribute": (k.join(tun(nla_u32(17, 0)), k.FRAME),
                                 "OVS_TUNNEL_KEY_ATTR 17 is not"),
    "tunnel ID size": (k.join(tun(nla_u32(0, 0)), k.FRAME),
                       "OVS_TUNNEL_KEY_ATTR_ID has 4 bytes instead of 8"),
    "options of two kinds": (k.join(tun(GENEVE, VXLAN), k.FRAME), "twice"),
    "options twice": (k.join(tun(GENEVE, GENEVE), k.FRAME), "twice"),
    "options of 10 bytes": (k.join(tun(nla(8, bytes(10))), k.FRAME),
                            "OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS has 10 bytes"),
    "options of 256 bytes": (k.join(tun(nla(8, bytes(256))), k.FRAME),
                             "OVS_TUNNEL_KEY_ATTR_GENEVE_OPTS has 256"),
    "unknown VXLAN extension": (k.join(tun(nla(11, nla_u32(8, 0))), k.FRAME),
                                "an unknown extension of VXLAN"),
    "three tags": (k.join(k.FRAME, k.eth_type(0x8100), k.vlan(), k.encap(
        k.eth_type(0x8100), k.vlan(), k.encap(
            k.eth_type(0x8100), k.vlan(), k.encap(UDP)))),
        "no more than 2 VLAN tags"),
    "second tag without ENCAP": (
        k.join(k.FRAME, k.eth_type(0x8100), k.vlan(), k.encap(
            k.eth_type(0x8100))), "a VLAN frame without"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_key(kind: str) -> None:
    attrs, text = BAD[kind]
    for _ in range(2):
        with pytest.raises(RequestError) as info:
            key.decode_key(attrs)
        assert text in info.value.text


BAD_MASKS = [
    ("mpls", k.mpls(1), "OVS_KEY_ATTR_MPLS without an exact match"),
    ("nsh", k.nsh(), "OVS_KEY_ATTR_NSH without an exact match"),
    ("udp", CT4, "OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV4 without an exact"),
    ("udp", CT6, "OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6 is not expected"),
    ("nd", k.join(k.eth_type(1), CT6),
     "OVS_KEY_ATTR_CT_ORIG_TUPLE_IPV6 is not expected"),
    ("udp", CT, "OVS_KEY_ATTR_CT_STATE is not expected"),
    ("ct", nla_u32(uapi.OVS_KEY_ATTR_CT_STATE, 0x100),
     "OVS_KEY_ATTR_CT_STATE is not expected"),
    ("udp6", nla_u16(uapi.OVS_KEY_ATTR_IPV6_EXTHDRS, 1),
     "OVS_KEY_ATTR_IPV6_EXTHDRS is not expected"),
    ("tunnel, all", k.tunnel(nla(8, bytes(8))),
     "8 bytes of Geneve options, the key has 12"),
    ("tunnel", k.tunnel(GENEVE), "12 bytes of Geneve options, the key has 0"),
    ("vxlan gbp", k.tunnel(nla(8, bytes(4))),
     "4 bytes of Geneve options, the key has 0"),
    ("two tags", k.join(k.eth_type(0xffff), k.vlan(0xffff), k.encap(
        k.eth_type(0xfff0), k.vlan(0xffff), k.encap(k.eth_type(0xffff)))),
     "a VLAN tag must be exact"),
    ("vlan", k.join(k.eth_type(0xffff), k.vlan(0xffff), k.encap(
        k.eth_type(0xffff), k.vlan(0xffff), k.encap(k.eth_type(0xffff)))),
     "the key has no such tag"),
    ("second tag truncated", k.join(
        k.eth_type(0xffff), k.vlan(0xffff), k.encap(
            k.eth_type(0xffff), k.vlan(0xffff),
            k.encap(k.eth_type(0xffff)))), "the key has no such tag"),
]


@pytest.mark.parametrize(("kind", "mask", "text"), BAD_MASKS)
def test_bad_mask(kind: str, mask: bytes, text: str) -> None:
    for _ in range(2):
        with pytest.raises(RequestError) as info:
            key.decode_match(KEYS[kind], mask)
        assert text in info.value.text
