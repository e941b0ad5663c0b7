# SPDX-License-Identifier: Apache-2.0
"""VLAN tags of flow keys and of their masks.

A tag is OVS_KEY_ATTR_ETHERTYPE (its type), OVS_KEY_ATTR_VLAN (its TCI, with
the CFI bit set) and OVS_KEY_ATTR_ENCAP, in which is all that follows the tag.
Linux net/openvswitch/flow_netlink.c: ``parse_vlan_from_nlattrs``.

A frame that ends where the tag should be has a TCI of zero and an empty
OVS_KEY_ATTR_ENCAP.  The image of its key has no tag and, as flow extract
leaves it, the type of the tag as its Ethernet type; a mask of its TCI is
taken, as OVS sends one.  The kernel refuses that mask, and makes another key
of such a frame than of such attributes.
"""

from __future__ import annotations

from dpif_bpf.wire import uapi
from dpif_bpf.wire.key.attrs import (
    MAX_VLANS,
    VLAN_CFI_MASK,
    VLAN_TYPES,
    be16_bits,
    bits,
    offset,
)
from dpif_bpf.wire.key.walk import Layout
from dpif_bpf.wire.netlink import NLA_HDRLEN

_FIELDS = (("vlan_tpid", "vlan_tci"), ("cvlan_tpid", "cvlan_tci"))


def key_vlans(layout: Layout) -> tuple[int, bool, bool]:
    """Take the tags of a key and go on inside OVS_KEY_ATTR_ENCAP.

    :returns: number of tags, whether there is a truncated one, and whether
        the last OVS_KEY_ATTR_ENCAP is empty
    """
    found = layout.found
    bare = False
    for level in range(MAX_VLANS):
        where = found.get(uapi.OVS_KEY_ATTR_ETHERTYPE)
        if (uapi.OVS_KEY_ATTR_ETHERNET not in found or where is None
                or layout.be16(where[0]) not in VLAN_TYPES):
            return level, False, bare
        tag = found.get(uapi.OVS_KEY_ATTR_VLAN)
        encap = found.get(uapi.OVS_KEY_ATTR_ENCAP)
        if tag is None or encap is None:
            raise layout.error(
                "a VLAN frame without OVS_KEY_ATTR_VLAN and"
                " OVS_KEY_ATTR_ENCAP", where[0] - NLA_HDRLEN)
        layout.fix(where[0], 2)
        layout.fix(tag[0], 1, VLAN_CFI_MASK >> 8)
        tci = layout.be16(tag[0])
        if not tci & VLAN_CFI_MASK:
            if tci:
                raise layout.error("OVS_KEY_ATTR_VLAN without the CFI bit",
                                   tag[0] - NLA_HDRLEN)
            if encap[0] != encap[1]:
                raise layout.error("OVS_KEY_ATTR_ENCAP of a truncated tag is"
                                   " not empty", encap[0] - NLA_HDRLEN)
            layout.fix(tag[0], 2)
            del found[uapi.OVS_KEY_ATTR_VLAN]
            del found[uapi.OVS_KEY_ATTR_ENCAP]
            return level, True, True
        _take_tag(layout, level)
        bare = encap[0] == encap[1]
        layout.walk(*encap)
    return MAX_VLANS, False, bare


def _take_tag(layout: Layout, level: int) -> None:
    """Move one tag; make room for what it encapsulates."""
    tpid, tci = _FIELDS[level]
    found = layout.found
    del found[uapi.OVS_KEY_ATTR_ENCAP]
    layout.moves.append((found.pop(uapi.OVS_KEY_ATTR_ETHERTYPE)[0], 2,
                         offset(tpid)))
    if uapi.OVS_KEY_ATTR_VLAN in found:
        layout.moves.append((found.pop(uapi.OVS_KEY_ATTR_VLAN)[0], 2,
                             offset(tci)))


def mask_vlans(layout: Layout, key_tags: int
               ) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Take the masks of tags; MaskShape.exact and MaskShape.tags.

    OVS sends a TCI mask of zero where it does not look at the tag, which the
    kernel takes in spite of its rule that the CFI bit is exact: so it is to
    match any tag.
    """
    exact = 0
    found = layout.found
    tags: list[tuple[int, int]] = []
    for level in range(MAX_VLANS):
        start, end = found.get(uapi.OVS_KEY_ATTR_ENCAP, (0, 0))
        if start == end:
            found.pop(uapi.OVS_KEY_ATTR_ENCAP, None)
            break
        if level >= key_tags:
            raise layout.error("OVS_KEY_ATTR_ENCAP, but the key has no such"
                               " tag", start - NLA_HDRLEN)
        if uapi.OVS_KEY_ATTR_ETHERTYPE not in found:
            raise layout.error(
                "OVS_KEY_ATTR_ENCAP without OVS_KEY_ATTR_ETHERTYPE",
                start - NLA_HDRLEN)
        _take_tag(layout, level)
        tpid, tci = _FIELDS[level]
        exact |= bits(tpid)
        tags.append((bits(tci), be16_bits(tci, VLAN_CFI_MASK)))
        layout.walk(start, end)
    start, end = found.pop(uapi.OVS_KEY_ATTR_ENCAP, (0, 0))
    if start != end:
        raise layout.error("OVS_KEY_ATTR_ENCAP where none is expected",
                           start - NLA_HDRLEN)
    if not tags:
        layout.const |= bits("vlan_tci")
    if key_tags and len(tags) < 2:
        layout.const |= bits("cvlan_tci")
    return exact, tuple(tags)
