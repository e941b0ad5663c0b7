# SPDX-License-Identifier: Apache-2.0
"""Flow sets of bench/data: what ``ovs-dpctl dump-flows`` printed.

Taken from an ovs-vswitchd 3.1 with OpenFlow tables of three kinds: `normal`
(a learning switch), `acl` (400 rules on addresses and ports), `ovn` (a
pipeline of connection tracking, ACLs and routes), and of one whose rules
changed (`churn`: bench.churnset).  Statistics and actions were left out.
More sets can be put beside them: the text of dump-flows,
compressed by xz.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, SupportsInt

from ovs.flow.odp import ODPFlow

from dpif_bpf import abi

DATA = Path(__file__).parent / "data"

FlowKey = tuple[int, int]
"""Masked key and mask: key images as little-endian numbers."""

_CT_STATES = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")
_ETH_ARP = 0x0806


class _Image:
    """A key and its mask in the making."""

    def __init__(self) -> None:
        self.key = 0
        self.mask = 0

    def put(self, name: str, value: int, mask: int | None = None,
            network: bool = True) -> None:
        """Sets a field of ovs_key; without `mask`, all of its bits."""
        field = abi.KEY[name]
        bits = (1 << field.size * 8) - 1 if mask is None else mask
        order = "big" if network else "little"
        shift = field.offset * 8
        for attr, number in (("key", value & bits), ("mask", bits)):
            image = int.from_bytes(number.to_bytes(
                field.size, "big" if order == "big" else "little"), "little")
            setattr(self, attr, getattr(self, attr) | image << shift)


class _Decoded(Protocol):
    """EthMask, IPMask and IntMask of ovs.flow.decoders: each has some."""

    mask: SupportsInt | None
    eth: SupportsInt
    ip: SupportsInt
    value: int


def _masked(put: Callable[..., None], name: str, field: _Decoded | int,
            network: bool = True) -> None:
    """Put what a decoder of ovs.flow made."""
    if isinstance(field, int):
        put(name, field, network=network)
    elif hasattr(field, "eth"):
        mask = field.mask
        put(name, int(field.eth), None if mask is None else int(mask))
    elif hasattr(field, "ip"):
        assert field.mask is not None
        put(name, int(field.ip), int(field.mask))
    elif hasattr(field, "value"):
        assert field.mask is not None
        put(name, field.value, int(field.mask), network=network)
    else:
        raise ValueError(f"{name}: {field!r}")


def _ct_state(text: str) -> tuple[int, int]:
    value = mask = 0
    for part in text.replace("-", " -").replace("+", " +").split():
        bit = 1 << _CT_STATES.index(part[1:])
        mask |= bit
        value |= bit if part[0] == "+" else 0
    return value, mask


_SIMPLE = {"recirc_id": "recirc_id", "in_port": "in_port",
           "skb_priority": "skb_priority", "skb_mark": "skb_mark",
           "dp_hash": "dp_hash", "ct_mark": "ct_mark", "ct_zone": "ct_zone"}
_NESTED: Mapping[str, Mapping[str, str]] = {
    "eth": {"src": "eth_src", "dst": "eth_dst"},
    "ipv4": {"src": "ipv4_src", "dst": "ipv4_dst", "proto": "ip_proto",
             "tos": "ip_tos", "ttl": "ip_ttl"},
    "ipv6": {"src": "ipv6_src", "dst": "ipv6_dst", "proto": "ip_proto",
             "tclass": "ip_tos", "hlimit": "ip_ttl", "label": "ipv6_label"},
    "arp": {"sip": "ipv4_src", "tip": "ipv4_dst", "op": "ip_proto",
            "sha": "arp_sha", "tha": "arp_tha"},
    "tcp": {"src": "tp_src", "dst": "tp_dst"},
    "udp": {"src": "tp_src", "dst": "tp_dst"},
    "sctp": {"src": "tp_src", "dst": "tp_dst"},
    "icmp": {"type": "tp_src", "code": "tp_dst"},
    "icmpv6": {"type": "tp_src", "code": "tp_dst"},
}
_FRAG = {"no": 0, "first": 1, "later": 2}


def parse(line: str) -> FlowKey:
    """The key and mask of one line.

    :raises ValueError: a field that this reader does not know
    """
    image = _Image()
    flow = ODPFlow(line if "actions:" in line else f"{line}, actions:drop")
    image.put("mac_proto", abi.OVS_MAC_PROTO_ETHERNET)
    for name, field in flow.match.items():
        if name in _SIMPLE:
            _masked(image.put, _SIMPLE[name], field, network=False)
        elif name == "ct_state":
            image.put("ct_state", *_ct_state(field))
        elif name == "eth_type":
            image.put("eth_type", field.value, field.mask)
            if field.value == _ETH_ARP:
                image.put("ip_frag", 0)
        elif name in _NESTED:
            for sub, value in field.items():
                if sub == "frag":
                    image.put("ip_frag", _FRAG[value])
                elif sub in _NESTED[name]:
                    _masked(image.put, _NESTED[name][sub], value)
                else:
                    raise ValueError(f"unknown field {name}.{sub}")
        else:
            raise ValueError(f"unknown field {name}")
    return image.key, image.mask


def read(name: str) -> list[FlowKey]:
    """The flows of a set, in their order."""
    with lzma.open(DATA / f"{name}.odp.xz", "rt", encoding="ascii") as file:
        return [parse(line) for line in map(str.strip, file) if line]


def names() -> list[str]:
    """The sets that there are."""
    return sorted(path.name.removesuffix(".odp.xz")
                  for path in DATA.glob("*.odp.xz"))
