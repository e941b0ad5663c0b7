# SPDX-License-Identifier: Apache-2.0
"""The shape of the provider: who may import whom."""

from __future__ import annotations

import ast
import graphlib
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "dpif_bpf"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = {
    "wire": {"dpif_bpf.wire", "dpif_bpf.errors", "dpif_bpf.abi", "netaddr"},
    "core": {"dpif_bpf.core", "dpif_bpf.wire", "dpif_bpf.errors",
             "dpif_bpf.abi", "dpif_bpf.abi_ct", "numpy"},
}
"""What a layer's modules import beside the standard library."""

FORBIDDEN = {"ctypes", "mmap", "os", "select", "subprocess", "threading",
             "time"}
"""What wire and core do without; of socket they take constants."""

OWNERS = {
    "bcc": {"edge/compilation.py"},
    "pyroute2": {"edge/ports"},
    "ovs.db": {"edge/db.py"},
    "ovs.unixctl": {"edge/ctl.py"},
    "ovs.daemon": {"daemon.py"},
}
"""Libraries that one place alone knows."""

BPF = {f"dpif_bpf.edge.{name}" for name in (
    "bpfprog", "bpfsys", "compilation", "generation", "grace",
    "hook_kinds", "hooks", "inject", "libbpf", "loader", "pins", "ring",
    "template")}
"""One edge in several files: maps, programs, pins."""


def imports(path: Path) -> set[str]:
    """The modules that a file imports, by their full names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            found.update(f"{node.module}.{alias.name}"
                         for alias in node.names)
    return found


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def under(module: str, roots: set[str]) -> bool:
    return any(module == root or module.startswith(root + ".")
               for root in roots)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_layer(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0]
    if layer not in LAYERS:
        return
    allowed = LAYERS[layer] | set(sys.stdlib_module_names)
    wrong = {module for module in imports(path)
             if not under(module, allowed)}
    assert not wrong


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_core_has_no_sockets_files_or_clock(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0] not in LAYERS:
        return
    assert not any(under(module, FORBIDDEN) for module in imports(path))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_library_has_one_owner(path: Path) -> None:
    for library, owners in OWNERS.items():
        if any(under(module, {library}) for module in imports(path)):
            assert any(name_of(path).startswith(owner) for owner in owners)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_edges_do_not_import_each_other(path: Path) -> None:
    relative = path.relative_to(PACKAGE)
    if relative.parts[0] != "edge":
        return
    own = "dpif_bpf." + ".".join(relative.with_suffix("").parts[:2])
    mates = BPF if own in BPF else {own}
    wrong = {module for module in imports(path)
             if under(module, {"dpif_bpf.edge"})
             and not under(module, mates)}
    assert not wrong


def test_no_circles() -> None:
    """Not even for types: what two modules need of each other is a third
    one, or a protocol."""
    names = {module_of(path) for path in MODULES}
    graph = {}
    for path in MODULES:
        own = module_of(path)
        # "from package import module" and "from module import name"
        graph[own] = {
            name for found in imports(path)
            for name in (found, found.rpartition(".")[0])
            if name in names} - {own}
        if path.name != "__init__.py":
            graph[own] -= {own.rpartition(".")[0]}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_only_the_daemon_wires() -> None:
    for path in MODULES:
        if path.parent == PACKAGE and path.name in (
                "daemon.py", "provider.py", "bpf_plane.py", "instance.py",
                "takeover.py", "earlier.py", "hooking.py"):
            continue
        if path.relative_to(PACKAGE).parts[0] == "edge":
            continue
        assert not any(under(module, {"dpif_bpf.edge"})
                       for module in imports(path)), path
