# SPDX-License-Identifier: Apache-2.0
"""Constants and sizes of wire.uapi against <linux/openvswitch.h>."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from struct import Struct

import pytest

from dpif_bpf.wire import uapi

HEADER = Path("/usr/include/linux/openvswitch.h")

# Not of the header: ours, or of net/openvswitch/*.h, which is not installed.
OWN = re.compile(
    r"(OVS_(DATAPATH|VPORT|FLOW|PACKET|METER|CT_LIMIT|VPORT_MCGROUP)_ID"
    r"|DP_MAX_PORTS|MAX_UFID_LENGTH|MASKS_CACHE_SIZE_MAX|IFNAMSIZ"
    r"|OVS_PACKET_HASH_\w+)$")

STRUCTS = {
    "ovs_header": uapi.OVS_HEADER,
    "ovs_dp_stats": uapi.OVS_DP_STATS,
    "ovs_dp_megaflow_stats": uapi.OVS_DP_MEGAFLOW_STATS,
    "ovs_vport_stats": uapi.OVS_VPORT_STATS,
    "ovs_flow_stats": uapi.OVS_FLOW_STATS,
    "ovs_key_ethernet": uapi.OVS_KEY_ETHERNET,
    "ovs_key_ipv4": uapi.OVS_KEY_IPV4,
    "ovs_key_ipv6": uapi.OVS_KEY_IPV6,
    "ovs_key_tcp": uapi.OVS_KEY_TCP,
    "ovs_key_udp": uapi.OVS_KEY_UDP,
    "ovs_key_sctp": uapi.OVS_KEY_SCTP,
    "ovs_key_icmp": uapi.OVS_KEY_ICMP,
    "ovs_key_icmpv6": uapi.OVS_KEY_ICMPV6,
    "ovs_key_arp": uapi.OVS_KEY_ARP,
    "ovs_key_nd": uapi.OVS_KEY_ND,
    "ovs_key_mpls": uapi.OVS_KEY_MPLS,
    "ovs_key_ct_tuple_ipv4": uapi.OVS_KEY_CT_TUPLE_IPV4,
    "ovs_key_ct_tuple_ipv6": uapi.OVS_KEY_CT_TUPLE_IPV6,
    "ovs_nsh_key_base": uapi.OVS_NSH_KEY_BASE,
    "ovs_nsh_key_md1": uapi.OVS_NSH_KEY_MD1,
    "ovs_key_ipv6_exthdrs": uapi.OVS_KEY_IPV6_EXTHDRS,
    "ovs_action_push_vlan": uapi.OVS_ACTION_PUSH_VLAN,
    "ovs_action_push_mpls": uapi.OVS_ACTION_PUSH_MPLS,
    "ovs_action_add_mpls": uapi.OVS_ACTION_ADD_MPLS,
    "ovs_action_trunc": uapi.OVS_ACTION_TRUNC,
    "ovs_action_hash": uapi.OVS_ACTION_HASH,
    "ovs_action_push_eth": uapi.OVS_ACTION_PUSH_ETH,
    "ovs_zone_limit": uapi.OVS_ZONE_LIMIT,
}


def constants() -> dict[str, int]:
    """The constants that the header should know."""
    return {name: value for name, value in vars(uapi).items()
            if name.isupper() and isinstance(value, int)
            and not name.startswith("_")
            and not OWN.match(name)}


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Values and sizes as the installed header has them, by name."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None or not HEADER.exists():
        pytest.skip("no C compiler or no linux-libc-dev")
    text = HEADER.read_text()
    known = [name for name in constants()
             if re.search(rf"\b{name}\b", text)]
    lines = [f'printf("{name} %lld\\n", (long long){name});'
             for name in known]
    lines += [f'printf("{name} %zu\\n", sizeof(struct {name}));'
              for name in STRUCTS]
    directory = tmp_path_factory.mktemp("uapi")
    source = directory / "uapi.c"
    source.write_text("#include <stdio.h>\n#include <linux/openvswitch.h>\n"
                      "int main(void) {\n" + "\n".join(lines)
                      + "\nreturn 0;\n}\n")
    program = directory / "uapi"
    subprocess.run([compiler, "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True,
                            text=True).stdout
    return {name: int(value) for name, value
            in (line.split() for line in output.splitlines())}


def test_constants(header: dict[str, int]) -> None:
    ours = constants()
    assert len(ours) > 200
    found = {name: header[name] for name in ours if name in header}
    assert {name: ours[name] for name in found} == found
    assert not set(ours) - set(found) - set(uapi.NEWER)


def test_newer_is_defined() -> None:
    assert set(uapi.NEWER) <= set(constants())


@pytest.mark.parametrize(("name", "layout"), STRUCTS.items())
def test_struct_size(header: dict[str, int], name: str,
                     layout: Struct) -> None:
    assert layout.size == header[name]


def test_every_attribute_is_named(header: dict[str, int]) -> None:
    """No attribute or command of the header is missing in uapi."""
    text = re.sub(r"/\*.*?\*/", "", HEADER.read_text(), flags=re.DOTALL)
    in_header = {name for name in re.findall(
        r"^\s*(OVS_\w+_(?:ATTR|CMD)_\w+)\s*(?:=\s*\w+\s*)?,?\s*$", text,
        re.MULTILINE)
        if not re.search(r"_(UNSPEC|UNUSED\d|MAX)$", name)}
    assert "OVS_KEY_ATTR_IPV6_EXTHDRS" in in_header
    missing = in_header - set(constants())
    assert not missing


def test_names() -> None:
    assert uapi.names("OVS_FLOW_ATTR_")[9] == "OVS_FLOW_ATTR_UFID"
    assert uapi.names("OVS_TUNNEL_KEY_ATTR_")[0] == "OVS_TUNNEL_KEY_ATTR_ID"
