# SPDX-License-Identifier: Apache-2.0
"""Constants of wire.nf_uapi against the installed headers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dpif_bpf.wire import nf_uapi

HEADERS = [f"linux/netfilter/{name}.h" for name in (
    "nfnetlink", "nfnetlink_conntrack", "nfnetlink_cttimeout",
    "nf_conntrack_common", "nf_conntrack_tcp", "nf_conntrack_sctp")]
STRUCTS = {"nfgenmsg": nf_uapi.NFGENMSG,
           "nf_ct_tcp_flags": nf_uapi.NF_CT_TCP_FLAGS}

# Attributes that no part of this project gives out or reads.
UNUSED = re.compile(
    r"CTA_(EXPECT|NAT_V|NAT_PROTO|PROTONAT|NAT_SEQ|NAT_MINIP|NAT_MAXIP"
    r"|PROTOINFO_DCCP|TIMEOUT_DCCP|STATS_EXP|SYNPROXY_|SECCTX_|HELP_INFO"
    r"|COUNTERS32|STATS_(SEARCHED|NEW|IGNORE|DELETE))\w*"
    r"|CTA_NAT|CTA_\w*_PAD|IPCTNL_MSG_EXP_\w+")


def constants() -> dict[str, int]:
    return {name: value for name, value in vars(nf_uapi).items()
            if name.isupper() and isinstance(value, int)
            and not name.startswith("_")}


@pytest.fixture(scope="module")
def header(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Values and sizes as the installed headers have them, by name."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if (compiler is None
            or not all((Path("/usr/include") / name).exists()
                       for name in HEADERS)):
        pytest.skip("no C compiler or no linux-libc-dev")
    names = set(constants()) - set(nf_uapi.INTERNAL)
    lines = [f'printf("{name} %lld\\n", (long long){name});'
             for name in names]
    lines += [f'printf("{name} %zu\\n", sizeof(struct {name}));'
              for name in STRUCTS]
    directory = tmp_path_factory.mktemp("nf_uapi")
    source = directory / "nf_uapi.c"
    source.write_text(
        "#include <stdio.h>\n"
        + "".join(f"#include <{name}>\n" for name in HEADERS)
        + "int main(void) {\n" + "\n".join(lines) + "\nreturn 0;\n}\n")
    program = directory / "nf_uapi"
    subprocess.run([compiler, "-o", program, source], check=True)
    output = subprocess.run([program], check=True, capture_output=True,
                            text=True).stdout
    return {name: int(value) for name, value
            in (line.split() for line in output.splitlines())}


def test_constants(header: dict[str, int]) -> None:
    ours = constants()
    assert len(ours) > 150
    assert {name: value for name, value in ours.items()
            if name not in nf_uapi.INTERNAL} == {
                name: value for name, value in header.items()
                if name not in STRUCTS}


def test_struct_size(header: dict[str, int]) -> None:
    for name, layout in STRUCTS.items():
        assert layout.size == header[name]


def test_every_attribute_is_named(header: dict[str, int]) -> None:
    text = "".join((Path("/usr/include") / name).read_text()
                   for name in HEADERS)
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    found = {name for name in re.findall(
        r"^\s*((?:CTA|IPCTNL_MSG)_\w+)\s*(?:=\s*\w+\s*)?,?\s*$", text,
        re.MULTILINE)
        if not re.search(r"_(UNSPEC|MAX)$", name)
        and not UNUSED.fullmatch(name)}
    assert "CTA_TUPLE_ZONE" in found
    assert not found - set(constants())
