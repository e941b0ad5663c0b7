# SPDX-License-Identifier: Apache-2.0
"""core.port_types: what a type is, is its entry of the table."""

from __future__ import annotations

import errno

import pytest

from dpif_bpf.core import restore
from dpif_bpf.core.datapath import Datapath
from dpif_bpf.core.devices import Link, PortEdge
from dpif_bpf.core.port_types import PORT_TYPES
from dpif_bpf.errors import RequestError
from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLM_F_ECHO,
    Message,
    iter_attrs,
    nla,
    nla_string,
    nla_u32,
    nla_u32_array,
)
from tests.fake_plane import FakePlane, FakeProvider, Peer

DP, VPORT = u.OVS_DATAPATH_ID, u.OVS_VPORT_ID
VXLAN = u.OVS_VPORT_TYPE_VXLAN
PORT_4789, PORT_8472 = nla_u32(1, 4789), nla_u32(1, 8472)
HEADERS = 24
HINT = (": tunnels are ports of the kernel's devices, which ovs-vswitchd"
        " makes where the kernel has them")


class Tunnel:
    """A type with an option of its own, over a device that is there."""

    lasts = False

    def __init__(self) -> None:
        self.given_back: list[tuple[str, int]] = []

    def parse(self, options: bytes | None) -> bytes | None:
        if options is None:
            raise RequestError(errno.EINVAL, "a tunnel needs a port")
        return options

    def change(self, kept: bytes | None, options: bytes) -> bytes | None:
        return options

    def request(self, devices: PortEdge, _name: str, _hidden: str,
                _ifindex: int = 0) -> Link:
        return devices.open_netdev("collect")

    def adopt(self, devices: PortEdge, _name: str, _hidden: str,
              ifindex: int) -> Link:
        return devices.adopt_netdev("collect", ifindex)

    def give_back(self, _devices: PortEdge, name: str, ifindex: int) -> None:
        self.given_back.append((name, ifindex))

    def reply(self, kept: bytes | None) -> bytes | None:
        return kept


@pytest.fixture
def peer() -> Peer:
    peer = Peer(FakeProvider())
    assert peer.do(DP, u.OVS_DP_CMD_NEW,
                   nla_string(u.OVS_DP_ATTR_NAME, "ovs-bpf"),
                   nla_u32(u.OVS_DP_ATTR_UPCALL_PID, 0)) == (0, None)
    peer.provider.ports.add_device("collect")
    return peer


@pytest.fixture
def tunnel(monkeypatch: pytest.MonkeyPatch) -> Tunnel:
    made = Tunnel()
    monkeypatch.setitem(PORT_TYPES, VXLAN, made)
    return made


def new(*options: bytes, kind: int = VXLAN) -> tuple[bytes, ...]:
    return (nla_string(u.OVS_VPORT_ATTR_NAME, "vxlan_sys"),
            nla_u32(u.OVS_VPORT_ATTR_TYPE, kind),
            nla_u32_array(u.OVS_VPORT_ATTR_UPCALL_PID, (5,)),
            *(nla(u.OVS_VPORT_ATTR_OPTIONS, data) for data in options))


def options_of(message: Message) -> bytes | None:
    return {kind: message.raw[start:stop] for kind, start, stop
            in iter_attrs(message.raw, HEADERS)}.get(u.OVS_VPORT_ATTR_OPTIONS)


def restored(peer: Peer) -> tuple[Datapath, restore.Kept]:
    """A datapath of the next provider, and what it found."""
    provider = peer.provider
    kept = restore.read(provider.planes[0].nlmem)
    return Datapath("ovs-bpf", kept.number, FakePlane(),
                    provider.ports.restarted(), lambda: 0,
                    provider.dps[0].samples), kept


def test_a_type_is_one_entry(peer: Peer, tunnel: Tunnel) -> None:
    """It takes options, shows them, changes them and has them again after a
    restart."""
    assert peer.do(VPORT, u.OVS_VPORT_CMD_NEW, *new())[0] == errno.EINVAL
    (shown,) = peer.ask(VPORT, u.OVS_VPORT_CMD_NEW, *new(PORT_4789),
                        flags=NLM_F_ECHO)
    assert options_of(shown) == PORT_4789
    (shown,) = peer.ask(
        VPORT, u.OVS_VPORT_CMD_SET,
        nla_string(u.OVS_VPORT_ATTR_NAME, "vxlan_sys"),
        nla(u.OVS_VPORT_ATTR_OPTIONS, PORT_8472), flags=NLM_F_ECHO)
    assert options_of(shown) == PORT_8472

    dp, kept = restored(peer)
    (request,) = (port for port in kept.ports if port.port_no)
    port = dp.ports.adopt(request)
    assert (port.type, port.options) == (VXLAN, PORT_8472)
    assert port.link.name == "collect" and port.upcall_pids == (5,)


def test_a_kept_port_of_an_unknown_type(peer: Peer, tunnel: Tunnel,
                                        monkeypatch: pytest.MonkeyPatch
                                        ) -> None:
    """Its number is kept back, as that of each port that ended by itself."""
    assert peer.do(VPORT, u.OVS_VPORT_CMD_NEW, *new(PORT_4789)) == (0, None)
    monkeypatch.delitem(PORT_TYPES, VXLAN)
    dp, kept = restored(peer)
    (request,) = (port for port in kept.ports if port.port_no)
    with pytest.raises(RequestError) as raised:
        dp.ports.adopt(request)
    assert raised.value.errno == errno.EAFNOSUPPORT
    assert list(dp.vports.retired) == [request.port_no]


@pytest.mark.parametrize("kind", range(8))
def test_types_that_there_are(peer: Peer, kind: int) -> None:
    error, text = peer.do(VPORT, u.OVS_VPORT_CMD_NEW, *new(kind=kind))
    if kind in (u.OVS_VPORT_TYPE_NETDEV, u.OVS_VPORT_TYPE_INTERNAL):
        assert error in (0, errno.ENODEV)
    else:
        assert (error, text) == (
            errno.EAFNOSUPPORT,
            f"OVS_VPORT_ATTR_TYPE {kind} is not supported"
            + HINT * (kind in {3, 4, 5}))
