# SPDX-License-Identifier: Apache-2.0
"""wire.key: what of a key and a mask goes where, and what is refused."""

from __future__ import annotations

import errno

import key_cases as c
import keys as k
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dpif_bpf import abi
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi
from dpif_bpf.wire.facts import KeyFacts
from dpif_bpf.wire.key import decode as key
from dpif_bpf.wire.key.encode import encode_key
from dpif_bpf.wire.netlink import nla, nla_u32


def fields(image: int) -> dict[str, str]:
    """The members of a key image that are not zero, in hexadecimal."""
    raw = image.to_bytes(abi.KEY.size, "little")
    found = {}
    for name, place in abi.KEY.fields.items():
        value = raw[place.slice]
        if any(value):
            found[name] = value.hex()
    return found


FRAME = {"in_port": "0100", "eth_src": "505400000001",
         "eth_dst": "505400000002"}
IP4 = FRAME | {"eth_type": "0800", "ip_ttl": "40",
               "ipv6_src": "0a0000010a000002" + "00" * 8}
IP6 = FRAME | {"eth_type": "86dd", "ip_ttl": "40",
               "ipv6_src": "fd" + "00" * 14 + "01",
               "ipv6_dst": "fd" + "00" * 14 + "02"}
PORTS = {"tp_src": "03e8", "tp_dst": "0035"}
WEB = {"tp_src": "03e8", "tp_dst": "0050", "tcp_flags": "0012"}
ARP = FRAME | {"ipv6_src": "0a0000010a000002" + "00" * 8,
               "nd_sll": "505400000001"}

TRACKED = {"ct_state": "21", "ct_zone": "0500", "ct_mark": "06000000",
           "ct_labels": bytes(range(16)).hex()}
CT_ENDS = {"ct_orig_tp_src": "0050", "ct_orig_tp_dst": "0051",
           "ct_orig_proto": "06"}

IMAGES = {
    "tracked": IP4 | PORTS | {"ip_proto": "11"} | TRACKED,
    "tracked, tuple": IP4 | PORTS | {"ip_proto": "11"} | TRACKED | CT_ENDS | {
        "ct_orig_ipv6_src": "0a0000010a000002" + "00" * 8},
    "tracked, tuple 6": IP6 | PORTS | {
        "ip_proto": "11"} | TRACKED | CT_ENDS | {
        "ct_orig_ipv6_src": "fd" + "00" * 14 + "01",
        "ct_orig_ipv6_dst": "fd" + "00" * 14 + "02"},
    "tracked, other type": FRAME | {"eth_type": "88cc"} | TRACKED,
    "802.2": FRAME | {"eth_type": "0004"},
    "other type": FRAME | {"eth_type": "88cc"},
    "no port": FRAME | {"eth_type": "88cc", "in_port": "ffff"},
    "metadata": {
        "skb_priority": "05000000", "skb_mark": "06000000",
        "dp_hash": "07000000", "recirc_id": "08000000",
        "in_port": "feff", "eth_src": "505400000001",
        "eth_dst": "505400000002", "eth_type": "0004"},
    "arp": ARP | {"eth_type": "0806", "ip_proto": "01"},
    "rarp": ARP | {"eth_type": "8035", "ip_proto": "03"},
    "tcp": IP4 | WEB | {"ip_proto": "06"},
    "udp": IP4 | PORTS | {"ip_proto": "11"},
    "sctp": IP4 | PORTS | {"ip_proto": "84"},
    "icmp": IP4 | {"ip_proto": "01", "tp_src": "0008"},
    "igmp": IP4 | {"ip_proto": "02"},
    "first fragment": IP4 | PORTS | {"ip_proto": "11", "ip_frag": "01"},
    "later fragment": IP4 | {"ip_proto": "06", "ip_frag": "02"},
    "tcp6": IP6 | WEB | {"ip_proto": "06", "ipv6_label": "000fffff"},
    "udp6": IP6 | PORTS | {"ip_proto": "11"},
    "sctp6": IP6 | PORTS | {"ip_proto": "84"},
    "icmpv6": IP6 | {"ip_proto": "3a", "tp_src": "0080"},
    "nd": IP6 | {"ip_proto": "3a", "tp_src": "0087",
                 "nd_target": "fd" + "00" * 14 + "02",
                 "nd_sll": "505400000001"},
    "later fragment 6": IP6 | {"ip_proto": "2c", "ip_frag": "02"},
    "vlan": IP4 | PORTS | {"ip_proto": "11", "vlan_tci": "100a",
                           "vlan_tpid": "8100"},
    "vlan 802.1ad": ARP | {"eth_type": "0806", "ip_proto": "01",
                           "vlan_tci": "ffff", "vlan_tpid": "88a8"},
    "vlan 802.2": FRAME | {"eth_type": "0004", "vlan_tci": "100a",
                           "vlan_tpid": "8100"},
    "vlan truncated": FRAME | {"eth_type": "8100"},
    "layer 3": {"in_port": "0100", "eth_type": "0800", "mac_proto": "01",
                "ip_proto": "01", "ip_ttl": "40", "tp_src": "0008",
                "ipv6_src": "0a0000010a000002" + "00" * 8},
}


@pytest.mark.parametrize("kind", k.KEYS)
def test_key_image(kind: str) -> None:
    assert fields(key.decode_key(k.KEYS[kind])) == IMAGES[kind]


@pytest.mark.parametrize("kind", k.KEYS)
def test_encode_is_the_inverse(kind: str) -> None:
    image = key.decode_key(k.KEYS[kind])
    attrs = encode_key(image.to_bytes(8 * abi.OVS_KEY_BASE, "little"))
    assert key.decode_key(attrs) == image


def test_encode_order() -> None:
    """As __ovs_nla_put_key() of the kernel."""
    image = key.decode_key(k.KEYS["vlan"])
    assert encode_key(image.to_bytes(280, "little")) == k.join(
        k.recirc_id(), nla_u32(uapi.OVS_KEY_ATTR_DP_HASH, 0),
        nla_u32(uapi.OVS_KEY_ATTR_PRIORITY, 0), k.in_port(),
        nla_u32(uapi.OVS_KEY_ATTR_SKB_MARK, 0), k.NO_CT, k.eth(),
        k.eth_type(0x8100), k.vlan(), k.encap(k.eth_type(), k.ipv4(),
                                              k.udp()))


def test_encode_of_what_is_tracked() -> None:
    """ovs_ct_put_key(): the tuple where there is one, by the packet's
    family."""
    for kind, tuple_ in (("tracked", b""), ("tracked, tuple", k.ct_tuple()),
                         ("tracked, tuple 6", k.ct_tuple6())):
        image = key.decode_key(k.KEYS[kind])
        attrs = encode_key(image.to_bytes(280, "little"))
        assert k.ct() + tuple_ + k.eth() in attrs


def test_encode_without_port() -> None:
    image = key.decode_key(k.KEYS["no port"])
    attrs = encode_key(image.to_bytes(280, "little"))
    assert k.in_port(65535) not in attrs
    assert key.decode_key(attrs) & 0xffffffff == 65535


def test_encode_of_neighbour_discovery() -> None:
    """Types 135 and 136 have OVS_KEY_ATTR_ND, others do not."""
    image = bytearray(key.decode_key(k.KEYS["nd"]).to_bytes(280, "little"))
    for type_ in (135, 134, 136, 137):
        image[abi.KEY["tp_src"].offset + 1] = type_
        attrs = encode_key(bytes(image))
        assert (k.nd() in attrs) is (type_ in {135, 136})


def test_two_tags_there_and_back() -> None:
    image = bytearray(key.decode_key(k.KEYS["vlan"]).to_bytes(280, "little"))
    image[abi.KEY["cvlan_tci"].slice] = b"\x10\x14"
    image[abi.KEY["cvlan_tpid"].slice] = b"\x81\x00"
    attrs = encode_key(bytes(image))
    assert attrs.endswith(k.encap(
        k.eth_type(0x8100), k.vlan(0x1014),
        k.encap(k.eth_type(), k.ipv4(), k.udp())))
    assert key.decode_key(attrs).to_bytes(280, "little") == bytes(image)


EXACT4 = {"mac_proto": "ff", "vlan_tci": "ffff", "eth_type": "ffff",
          "in_port": "ffff", "recirc_id": "ffffffff",
          "eth_src": "ff" * 6, "eth_dst": "ff" * 6}
EXACT_IP4 = EXACT4 | {"ip_proto": "ff", "ip_tos": "ff", "ip_ttl": "ff",
                      "ip_frag": "ff", "ipv6_src": "ff" * 8 + "00" * 8}


@pytest.mark.parametrize(("kind", "mask"), [
    ("tcp", EXACT_IP4 | {"tp_src": "ffff", "tp_dst": "ffff",
                         "tcp_flags": "ffff"}),
    ("icmp", EXACT_IP4 | {"tp_src": "00ff", "tp_dst": "00ff"}),
    ("later fragment", EXACT_IP4),
    ("arp", EXACT4 | {"ip_proto": "ff", "ipv6_src": "ff" * 8 + "00" * 8,
                      "nd_sll": "ff" * 6, "nd_tll": "ff" * 6}),
    ("vlan", EXACT_IP4 | {"vlan_tpid": "ffff", "cvlan_tci": "ffff",
                          "tp_src": "ffff", "tp_dst": "ffff"}),
    # Without OVS_KEY_ATTR_ETHERTYPE nothing says that the type is matched.
    ("802.2", {name: value for name, value in EXACT4.items()
               if name != "eth_type"}),
    ("layer 3", {name: value for name, value in EXACT_IP4.items()
                 if not name.startswith("eth_s") and name != "eth_dst"}
     | {"tp_src": "00ff", "tp_dst": "00ff"}),
])
def test_flow_without_mask(kind: str, mask: dict[str, str]) -> None:
    match = key.decode_match(k.KEYS[kind], None)
    assert fields(match.mask) == mask
    assert match.key == match.full_key & match.mask
    assert match.full_key == key.decode_key(k.KEYS[kind])


BARE = {"vlan 802.2", "vlan truncated"}


@pytest.mark.parametrize("kind", sorted(k.KEYS.keys() - BARE))
def test_a_mask_of_ones_is_as_no_mask(kind: str) -> None:
    attrs = k.KEYS[kind]
    assert key.decode_match(attrs, k.ones(attrs)) == \
        key.decode_match(attrs, None)


@pytest.mark.parametrize("kind", sorted(BARE))
def test_empty_encap_needs_a_mask(kind: str) -> None:
    """Its mask would be empty, too, and not be taken for one."""
    with pytest.raises(RequestError, match="ENCAP is empty"):
        key.decode_match(k.KEYS[kind], None)


ALWAYS = {"mac_proto": "ff", "vlan_tci": "ffff"}


@pytest.mark.parametrize("kind", k.KEYS)
def test_an_empty_mask_matches_almost_everything(kind: str) -> None:
    match = key.decode_match(k.KEYS[kind], b"")
    assert fields(match.mask) == ALWAYS | (
        {"cvlan_tci": "ffff"} if match.full_key >> 128 + 48 & 0x10 else {})


@pytest.mark.parametrize(("kind", "mask", "expected"), c.MASKS)
def test_mask_image(kind: str, mask: bytes,
                    expected: dict[str, str]) -> None:
    match = key.decode_match(k.KEYS[kind], mask)
    assert fields(match.mask) == ALWAYS | expected
    assert match.key == match.full_key & match.mask


@pytest.mark.parametrize(("mask", "expected"), c.TAG_MASKS)
def test_mask_of_a_tag(mask: bytes, expected: dict[str, str]) -> None:
    match = key.decode_match(k.KEYS["vlan"], mask)
    assert fields(match.mask) == {"mac_proto": "ff",
                                  "cvlan_tci": "ffff"} | expected


def test_mask_of_a_truncated_tag() -> None:
    match = key.decode_match(k.KEYS["vlan truncated"], k.join(
        k.eth_type(0xffff), k.vlan(0xffff), k.encap()))
    assert fields(match.mask) == ALWAYS | {"eth_type": "ffff"}
    assert fields(match.key) == {"eth_type": "8100"}


@pytest.mark.parametrize(("kind", "mask", "facts"), [
    ("udp", None, KeyFacts(0x0800, 17)),
    ("udp", b"", KeyFacts()),
    ("udp", k.eth_type(1), KeyFacts(0x0800)),
    ("arp", None, KeyFacts(0x0806, 1)),
    ("vlan", None, KeyFacts(0x0800, 17, 0x100a)),
    ("vlan", b"", KeyFacts(vlan_tci=0x100a)),
    ("802.2", k.eth_type(0xffff), KeyFacts(4)),
    ("layer 3", None, KeyFacts(0x0800, 1, mac_proto=0)),
    ("later fragment", None, KeyFacts(0x0800, 6, ip_frag=2)),
])
def test_facts(kind: str, mask: bytes | None, facts: KeyFacts) -> None:
    assert key.decode_match(k.KEYS[kind], mask).facts == facts


@pytest.mark.parametrize("kind", c.BAD_KEYS)
def test_bad_key(kind: str) -> None:
    attrs, text, offset = c.BAD_KEYS[kind]
    # What is known of the key is of where it was the first time.
    for pos in (100, 200):
        with pytest.raises(RequestError) as info:
            key.decode_match(attrs, None, pos)
        assert info.value.errno == errno.EINVAL
        assert text in info.value.text
        assert info.value.offset == (
            None if offset is None else pos + offset)
    with pytest.raises(RequestError):
        key.decode_key(attrs)


@pytest.mark.parametrize(("kind", "mask", "text", "offset"), c.BAD_MASKS)
def test_bad_mask(kind: str, mask: bytes, text: str,
                  offset: int | None) -> None:
    for pos in (500, 600):
        with pytest.raises(RequestError) as info:
            key.decode_match(k.KEYS[kind], mask, 0, pos)
        assert info.value.errno == errno.EINVAL
        assert text in info.value.text
        assert info.value.offset == (
            None if offset is None else pos + offset)


def test_strange_key_may_not_go_without_mask() -> None:
    """Its mask of ones would match a field that it says nothing about."""
    attrs = k.KEYS["udp"] + k.tcp()
    assert key.decode_match(attrs, b"").key == 0
    with pytest.raises(RequestError, match="OVS_KEY_ATTR_TCP is not exp"):
        key.decode_match(attrs, None)


METADATA = k.join(
    nla_u32(uapi.OVS_KEY_ATTR_PRIORITY, 5),
    nla_u32(uapi.OVS_KEY_ATTR_SKB_MARK, 6),
    nla_u32(uapi.OVS_KEY_ATTR_DP_HASH, 7), k.recirc_id(8), k.in_port(9))
META = {"skb_priority": "05000000", "skb_mark": "06000000",
        "dp_hash": "07000000", "recirc_id": "08000000",
        "in_port": "0900"}


@pytest.mark.parametrize(("attrs", "port", "expected"), [
    (METADATA, 9, META),
    (b"", 65535, {"in_port": "ffff"}),
    # What the packet says itself is left out, right or wrong.
    (k.join(METADATA, k.eth(), k.eth_type(1), k.ipv4(6, frag=7)), 9, META),
    (k.join(METADATA, k.eth(), k.eth_type(0x8100), k.vlan(1)), 9, META),
    (k.join(METADATA, k.udp(), k.tcp()), 9, META),
    # A layer-3 packet: its type, but no Ethernet header.
    (METADATA + k.eth_type(), 9,
     META | {"eth_type": "0800", "mac_proto": "01"}),
])
def test_metadata(attrs: bytes, port: int, expected: dict[str, str]) -> None:
    for _ in range(2):
        got = key.decode_metadata(attrs)
        assert len(got.image) == 8 * abi.OVS_KEY_BASE
        assert fields(int.from_bytes(got.image, "little")) == expected
        assert got.in_port == port


@pytest.mark.parametrize(("attrs", "text", "offset"), [
    (k.in_port(65535), "OVS_KEY_ATTR_IN_PORT 65535 is not below", 0),
    (k.join(METADATA, k.recirc_id()), "OVS_KEY_ATTR_RECIRC_ID is given", 40),
    (METADATA + nla_u32(uapi.OVS_KEY_ATTR_CT_STATE, 0x100),
     "OVS_KEY_ATTR_CT_STATE has unknown bits", 40),
    (METADATA + nla_u32(29, 0), "OVS_KEY_ATTR_PACKET_TYPE is not", 40),
    (METADATA + nla(7, bytes(8)), "OVS_KEY_ATTR_IPV4 has 8 bytes", 40),
    (METADATA + k.eth_type(5), "OVS_KEY_ATTR_ETHERTYPE 0x0005 is less", 40),
    (METADATA + k.eth_type(0x8100), "a VLAN tag without", 40),
    (METADATA + b"\0", "stray or missing", 40),
])
def test_bad_metadata(attrs: bytes, text: str, offset: int) -> None:
    for _ in range(2):
        with pytest.raises(RequestError) as info:
            key.decode_metadata(attrs, 60)
        assert info.value.errno == errno.EINVAL
        assert text in info.value.text
        assert info.value.offset == 60 + offset


def test_plans_are_not_confused() -> None:
    """Keys of the same layout whose values ask for other checks."""
    good = k.KEYS["udp"]
    key.decode_match(good, None)
    for bad in (k.join(k.FRAME, k.eth_type(), k.ipv4(6), k.udp()),
                k.join(k.FRAME, k.eth_type(0x0806), k.ipv4(17), k.udp()),
                k.join(k.recirc_id(), k.in_port(65535), k.eth(),
                       k.eth_type(), k.ipv4(17), k.udp()),
                k.join(k.FRAME, k.eth_type(), k.ipv4(17, frag=4), k.udp())):
        assert len(bad) == len(good)
        with pytest.raises(RequestError):
            key.decode_match(bad, None)


@given(st.lists(st.integers(0, 255), min_size=200, max_size=200))
def test_number_of_plans_is_bounded(protos: list[int]) -> None:
    for proto in protos:
        if proto not in {1, 6, 17, 58, 132}:
            key.decode_match(k.join(k.FRAME, k.eth_type(), k.ipv4(proto)),
                             None)
    assert all(len(plans) <= key.PLANS_PER_LENGTH
               for plans in key._keys.values())


def plans() -> int:
    """All that are kept."""
    keys = [plan for kept in key._keys.values() for plan in kept]
    return (len(keys) + sum(len(kept) for plan in keys
                            for kept in plan.masks.values())
            + sum(map(len, key._metadata.values())))


def test_plans_are_not_kept_for_ever(
        monkeypatch: pytest.MonkeyPatch) -> None:
    """Of keys, masks and metadata of many lengths and kinds."""
    monkeypatch.setattr(key, "PLANS", 40)
    # Of two attributes that are alike in a mask's NSH the last one counts.
    base = nla(uapi.OVS_NSH_KEY_ATTR_BASE, bytes(8))
    whole = k.join(k.FRAME, k.eth_type(0x894f), k.nsh())
    for count in range(1, 200):
        mask = k.join(k.eth_type(0xffff),
                      nla(uapi.OVS_KEY_ATTR_NSH, base * count))
        key.decode_match(whole, mask)
        key.decode_match(whole, mask)
        key.decode_metadata(k.join(
            k.in_port(), nla(uapi.OVS_KEY_ATTR_NSH, base * count)))
        assert plans() <= 40
    kept = plans()
    long = k.join(k.FRAME, k.eth_type(0x894f),
                  nla(uapi.OVS_KEY_ATTR_NSH, base * 5000))
    key.decode_key(long)
    assert plans() == kept


KINDS = sorted(k.KEYS)


@given(st.sampled_from(KINDS), st.data())
@example("udp", None)
def test_mutilated_keys(kind: str, data: st.DataObject | None) -> None:
    """Any bytes give an image or EINVAL, the first time and again."""
    attrs = bytearray(k.KEYS[kind])
    mask = bytearray(k.ones(k.KEYS[kind]))
    if data is not None:
        for buf in (attrs, mask):
            for _ in range(data.draw(st.integers(0, 3))):
                buf[data.draw(st.integers(0, len(buf) - 1))] = data.draw(
                    st.integers(0, 255))
            del buf[data.draw(st.integers(len(buf) - 4, len(buf))):]
    results: list[object] = []
    for _ in range(2):
        try:
            match = key.decode_match(bytes(attrs), bytes(mask))
            assert match.key & ~match.mask == 0
            results.append(match)
        except RequestError as error:
            assert error.errno == errno.EINVAL
            results.append(error.text)
    assert results[0] == results[1]
