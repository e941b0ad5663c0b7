# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.abi is what a C compiler makes of bpf/lib/abi.h, and abi_ct of
abi_ct.h."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from enum import IntEnum
from pathlib import Path
from types import ModuleType

import pytest

from dpif_bpf import abi, abi_ct

LIB = Path(__file__).resolve().parents[2] / "bpf" / "lib"
CC = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")

HEADERS: dict[str, ModuleType] = {"abi.h": abi, "abi_ct.h": abi_ct}
"""By the header that each module mirrors."""
ENUMS: dict[str, dict[str, tuple[str, type[IntEnum]]]] = {
    "abi.h": {
        "ovs_drop_reason": ("OVS_DROP_", abi.DropReason),
        "ovs_op": ("OVS_OP_", abi.Op),
        "ovs_stage": ("OVS_STAGE_", abi.Stage),
        "ovs_header": ("OVS_HEADER_", abi.Header),
    },
    "abi_ct.h": {
        "ovs_ct_tcp_state": ("OVS_CT_TCP_", abi_ct.TcpState),
        "ovs_ct_sctp_state": ("OVS_CT_SCTP_", abi_ct.SctpState),
        "ovs_ct_timeout": ("OVS_CT_T_", abi_ct.Timeout),
        "ovs_ct_stat": ("OVS_CT_STAT_", abi_ct.Stat),
        "ovs_ct_ask_what": ("OVS_CT_ASK_", abi_ct.Ask),
        "ovs_ct_verdict": ("OVS_CT_V_", abi_ct.Verdict),
        "ovs_ct_made": ("OVS_CT_C_", abi_ct.Made),
    },
}
RECORDS = [(header, record) for header, module in HEADERS.items()
           for record in module.RECORDS]


def cc(*args: str) -> str:
    assert CC is not None
    return subprocess.run((CC, *args), check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def c_values(header: str, expressions: dict[str, str],
             tmp: Path) -> dict[str, int]:
    """Values of C expressions, by a program compiled with a header."""
    source = tmp / "values.c"
    lines = [f'\tprintf("{name} %llu\\n", (unsigned long long)({value}));'
             for name, value in expressions.items()]
    source.write_text("#include <stddef.h>\n#include <stdio.h>\n"
                      f'#include "{LIB / header}"\n'
                      "int main(void)\n{\n" + "\n".join(lines) +
                      "\n\treturn 0;\n}\n")
    program = tmp / "values"
    cc("-o", str(program), str(source))
    out = subprocess.run((str(program),), check=True, text=True,
                         stdout=subprocess.PIPE).stdout
    return {name: int(value) for name, value in
            (line.split() for line in out.splitlines())}


@pytest.fixture(params=HEADERS)
def header(request: pytest.FixtureRequest) -> str:
    """Each of HEADERS."""
    name: str = request.param
    return name


@pytest.fixture
def text(header: str) -> str:
    """The header without comments and directives, includes left empty."""
    return cc("-E", "-P", "-x", "c", str(LIB / header))


@pytest.fixture
def macros(header: str) -> list[str]:
    """Names of the macros that the header defines with a value."""
    out = cc("-dM", "-E", "-x", "c", str(LIB / header))
    return re.findall(r"^#define (OVS_\w+) .", out, re.MULTILINE)


def test_every_constant(header: str, macros: list[str],
                        tmp_path: Path) -> None:
    assert len(macros) > 20
    ours = {name: vars(HEADERS[header]).get(name) for name in macros}
    assert ours == c_values(header, {name: name for name in macros},
                            tmp_path)


def enumerators(text: str) -> dict[str, list[str]]:
    found = re.findall(r"enum\s+(\w+)\s*\{(.*?)\}", text, re.DOTALL)
    return {tag: re.findall(r"\b(OVS_\w+)", body) for tag, body in found
            if tag.startswith("ovs_")}


def test_every_enum(header: str, text: str, tmp_path: Path) -> None:
    theirs = enumerators(text)
    assert theirs.keys() == ENUMS[header].keys()
    for tag, (prefix, enum) in ENUMS[header].items():
        values = c_values(header, {name: name for name in theirs[tag]},
                          tmp_path)
        ours = {prefix + name: int(value)
                for name, value in enum.__members__.items()}
        ours[prefix + "MAX"] = vars(HEADERS[header])[prefix + "MAX"]
        assert ours == values


def test_every_struct_is_mirrored(header: str, text: str) -> None:
    tags = set(re.findall(r"struct\s+(ovs_\w+)\s*\{", text))
    assert tags == {record.name for record in HEADERS[header].RECORDS}


@pytest.mark.parametrize(("header", "record"), RECORDS,
                         ids=[str(record.name) for _, record in RECORDS])
def test_struct(header: str, record: abi.Record, tmp_path: Path) -> None:
    kind = f"struct {record.name}"
    ours = {"sizeof": record.size}
    asked = {"sizeof": f"sizeof({kind})"}
    for name, field in (*record.fields.items(), *record.aliases.items()):
        if name == "unused":
            assert field.end == record.size
            continue
        ours[f"{name}@"] = field.offset
        asked[f"{name}@"] = f"offsetof({kind}, {name})"
        ours[f"{name}#"] = field.size
        asked[f"{name}#"] = f"sizeof((({kind} *)0)->{name})"
    assert ours == c_values(header, asked, tmp_path)


@pytest.mark.parametrize("record", [record for _, record in RECORDS],
                         ids=lambda r: str(r.name))
def test_fields_leave_no_gap(record: abi.Record) -> None:
    """So a field that only the header has cannot hide."""
    end = 0
    for field in record.fields.values():
        assert field.offset == end
        end = field.end
    assert end == record.size
    for alias in record.aliases.values():
        assert alias.end <= record.size


def test_record_lookup() -> None:
    assert abi.KEY["ipv4_dst"] == abi.Field(52, 4)
    assert abi.KEY["eth_src"].slice == slice(24, 30)
    assert abi.KEY["tun_opts"].offset == abi.OVS_KEY_BASE * 8
    assert abi.KEY["tun_opts"].end == abi.OVS_KEY_USED * 8
    with pytest.raises(KeyError):
        abi.KEY["ipv4_source"]


# Maps

MAP = re.compile(r"struct \{([^}]*)\} (ovs_\w+) SEC\(\"\.maps\"\);")
LAYOUTS = {
    "ovs_ct": (1, abi_ct.CT, "f1b1"),
    "ovs_ct_conf": (1, abi_ct.CONF, "8383"),
    "ovs_ct_cpu": (1, abi_ct.CPU, "1a50"),
    "ovs_ct_exp": (1, abi_ct.EXP, "356b"),
    "ovs_ct_expect": (1, abi_ct.EXPECT, "c24f"),
    "ovs_ct_policy": (1, abi_ct.POLICY, "cf8e"),
    "ovs_ct_tab": (1, abi_ct.BUCKET, "4b38"),
    "ovs_ct_use": (1, abi_ct.USE, "9507"),
    "ovs_ct_zones": (1, abi_ct.ZONE, "646a"),
    "ovs_dpstats": (1, abi.DP_STATS, "6fb2"),
    "ovs_flow_stats": (1, abi.FLOW_STATS, "bcfe"),
    "ovs_meters": (1, abi.METER, "a498"),
}
"""Version, element, and the beginning of a digest of its fields: whoever
changes fields, or what they mean, makes another version of it, so that what
an earlier provider left is not taken for something else."""


def digest(record: abi.Record) -> str:
    return hashlib.sha256(repr([
        (name, field.offset, field.size)
        for name, field in record.fields.items()]).encode()).hexdigest()[:4]


def declared() -> dict[str, str]:
    """The maps of the headers."""
    found = {}
    for name in ("maps.h", "maps_classifier.h", "maps_ct.h", "ct_sweep.h"):
        found.update({name: body for body, name in MAP.findall(
            (LIB / name).read_text("utf-8"))})
    return found


def test_every_map_is_said() -> None:
    assert declared().keys() == abi.MAPS.keys()


@pytest.mark.parametrize("name", [
    name for name, ours in abi.MAPS.items() if ours.life != abi.Life.FRESH])
def test_maps_that_outlive_a_generation(name: str) -> None:
    ours, body = abi.MAPS[name], declared()[name]
    assert ours.version >= 1
    assert ours.per_cpu == ("BPF_MAP_TYPE_PERCPU_ARRAY" in body)
    assert (ours.mapped and not ours.per_cpu) == ("BPF_F_MMAPABLE" in body)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_changed_layout_is_another_version(name: str) -> None:
    version, record, fields = LAYOUTS[name]
    ours = abi.MAPS[name]
    assert (ours.version, ours.size) == (version, record.size)
    assert digest(record) == fields
