# SPDX-License-Identifier: Apache-2.0
"""Requests that take more descriptors than there are: refused, as a whole."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from itertools import count, islice

import pytest
from switch import Switch

from dpif_bpf.wire import uapi
from dpif_bpf.wire.netlink import nla_string, nla_u32, nla_u32_array

Ask = Callable[[], int]
"""Returns an errno."""


@pytest.fixture(scope="module")
def switch(shipped_object: None) -> Iterator[Switch]:
    with Switch({1: 1500, 2: 1500}, {1}) as made:
        yield made


def descriptors() -> set[int]:
    return {fd for fd in map(int, os.listdir("/proc/self/fd"))
            if os.path.exists(f"/proc/self/fd/{fd}")}


def with_free(number: int, ask: Ask) -> int:
    """Asks while there are so many descriptors to be had."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = descriptors()
    free = (fd for fd in count() if fd not in used)
    limit = next(islice(free, number, None))
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        return ask()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def refused_until_there_are(numbers: Iterable[int], switch: Switch,
                            ask: Ask) -> int:
    """How many it takes."""
    before = descriptors()
    for number in numbers:
        code = with_free(number, ask)
        assert switch.router.broken is None
        if not code:
            return number
        assert code == errno.EMFILE
        assert descriptors() == before
    raise AssertionError("never enough")


def vport(switch: Switch, cmd: int, name: str, type_: int,
          number: int) -> int:
    return switch.try_(
        uapi.OVS_VPORT_ID, cmd, nla_string(uapi.OVS_VPORT_ATTR_NAME, name),
        nla_u32(uapi.OVS_VPORT_ATTR_TYPE, type_),
        nla_u32(uapi.OVS_VPORT_ATTR_PORT_NO, number),
        nla_u32_array(uapi.OVS_VPORT_ATTR_UPCALL_PID, (1,)))[0]


@pytest.mark.parametrize("type_", [uapi.OVS_VPORT_TYPE_INTERNAL,
                                   uapi.OVS_VPORT_TYPE_NETDEV])
def test_port(switch: Switch, type_: int) -> None:
    name, number = "lack9", 9
    if type_ == uapi.OVS_VPORT_TYPE_NETDEV:
        name, number = switch.ports[2].near, 2
        assert not vport(switch, uapi.OVS_VPORT_CMD_DEL, name, type_, number)
    assert refused_until_there_are(count(), switch, lambda: vport(
        switch, uapi.OVS_VPORT_CMD_NEW, name, type_, number)) <= 1
    assert not with_free(0, lambda: vport(
        switch, uapi.OVS_VPORT_CMD_DEL, name, type_, number))


def test_bridge(switch: Switch) -> None:
    bridges = {"br": frozenset({switch.ports[1].near}),
               "lack": frozenset({switch.ports[2].near})}
    dp, = switch.provider.datapaths()

    def ask() -> int:
        # The provider has logged what it was, and tries again.
        switch.provider.set_bridges(bridges)
        return 0 if "lack" in dp.bridges.by_name else errno.EMFILE

    assert refused_until_there_are(count(), switch, ask) == 4


def test_datapath(switch: Switch) -> None:
    def ask(cmd: int) -> int:
        number, switch._dp_ifindex = switch._dp_ifindex, 0
        try:
            return switch.try_(
                uapi.OVS_DATAPATH_ID, cmd,
                nla_string(uapi.OVS_DP_ATTR_NAME, "lack"),
                nla_u32(uapi.OVS_DP_ATTR_UPCALL_PID, 0))[0]
        finally:
            switch._dp_ifindex = number

    refused_until_there_are((0, 1, 5, 15, 20, 22, 25, 30, 40, 500), switch,
                            lambda: ask(uapi.OVS_DP_CMD_NEW))
    assert not ask(uapi.OVS_DP_CMD_DEL)
