# SPDX-License-Identifier: Apache-2.0
"""dpif_bpf.abi is what a C compiler makes of bpf/lib/abi.h."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from enum import IntEnum
from pathlib import Path

import pytest

from dpif_bpf import abi

ABI_H = Path(__file__).resolve().parents[2] / "bpf" / "lib" / "abi.h"
CC = shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")

pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")

ENUMS: dict[str, tuple[str, type[IntEnum]]] = {
    "ovs_drop_reason": ("OVS_DROP_", abi.DropReason),
    "ovs_op": ("OVS_OP_", abi.Op),
    "ovs_stage": ("OVS_STAGE_", abi.Stage),
    "ovs_header": ("OVS_HEADER_", abi.Header),
}


def cc(*args: str) -> str:
    assert CC is not None
    return subprocess.run((CC, *args), check=True, text=True,
                          stdout=subprocess.PIPE).stdout


def c_values(expressions: dict[str, str], tmp: Path) -> dict[str, int]:
    """Values of C expressions, by a program compiled with abi.h."""
    source = tmp / "values.c"
    lines = [f'\tprintf("{name} %llu\\n", (unsigned long long)({value}));'
             for name, value in expressions.items()]
    source.write_text("#include <stddef.h>\n#include <stdio.h>\n"
                      f'#include "{ABI_H}"\n'
                      "int main(void)\n{\n" + "\n".join(lines) +
                      "\n\treturn 0;\n}\n")
    program = tmp / "values"
    cc("-o", str(program), str(source))
    out = subprocess.run((str(program),), check=True, text=True,
                         stdout=subprocess.PIPE).stdout
    return {name: int(value) for name, value in
            (line.split() for line in out.splitlines())}


@pytest.fixture(scope="module")
def text() -> str:
    """abi.h without comments and directives, includes left empty."""
    return cc("-E", "-P", "-x", "c", str(ABI_H))


@pytest.fixture(scope="module")
def macros() -> list[str]:
    """Names of the macros that abi.h defines with a value."""
    out = cc("-dM", "-E", "-x", "c", str(ABI_H))
    return re.findall(r"^#define (OVS_\w+) .", out, re.MULTILINE)


def test_every_constant(macros: list[str], tmp_path: Path) -> None:
    assert len(macros) > 20
    ours = {name: vars(abi).get(name) for name in macros}
    assert ours == c_values({name: name for name in macros}, tmp_path)


def enumerators(text: str) -> dict[str, list[str]]:
    found = re.findall(r"enum\s+(\w+)\s*\{(.*?)\}", text, re.DOTALL)
    return {tag: re.findall(r"\b(OVS_\w+)", body) for tag, body in found
            if tag.startswith("ovs_")}


def test_every_enum(text: str, tmp_path: Path) -> None:
    theirs = enumerators(text)
    assert theirs.keys() == ENUMS.keys()
    for tag, (prefix, enum) in ENUMS.items():
        values = c_values({name: name for name in theirs[tag]}, tmp_path)
        ours = {prefix + name: int(value)
                for name, value in enum.__members__.items()}
        ours[prefix + "MAX"] = vars(abi)[prefix + "MAX"]
        assert ours == values


def test_every_struct_is_mirrored(text: str) -> None:
    tags = set(re.findall(r"struct\s+(ovs_\w+)\s*\{", text))
    assert tags == {record.name for record in abi.RECORDS}


@pytest.mark.parametrize("record", abi.RECORDS, ids=lambda r: str(r.name))
def test_struct(record: abi.Record, tmp_path: Path) -> None:
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
    assert ours == c_values(asked, tmp_path)


@pytest.mark.parametrize("record", abi.RECORDS, ids=lambda r: str(r.name))
def test_fields_leave_no_gap(record: abi.Record) -> None:
    """So a field that only abi.h has cannot hide."""
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
    for name in ("maps.h", "maps_classifier.h"):
        found.update({name: body for body, name in MAP.findall(
            ABI_H.with_name(name).read_text("utf-8"))})
    return found


def test_every_map_is_said() -> None:
    assert declared().keys() == abi.MAPS.keys()


@pytest.mark.parametrize("name", [
    name for name, ours in abi.MAPS.items() if ours.life != abi.Life.FRESH])
def test_maps_that_outlive_a_generation(name: str) -> None:
    ours, body = abi.MAPS[name], declared()[name]
    assert ours.version >= 1
    assert ours.per_cpu == ("BPF_MAP_TYPE_PERCPU_ARRAY" in body)
    assert ours.per_cpu != ("BPF_F_MMAPABLE" in body)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_changed_layout_is_another_version(name: str) -> None:
    version, record, fields = LAYOUTS[name]
    ours = abi.MAPS[name]
    assert (ours.version, ours.size) == (version, record.size)
    assert digest(record) == fields
