# SPDX-License-Identifier: Apache-2.0
"""Meters of OpenFlow, with a real ovs-vswitchd."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time

import pytest
from lab import PROVIDER, Host, Lab
from streams import Stream

OF13 = ("-O", "OpenFlow13")


def two_hosts(lab: Lab) -> tuple[Host, Host]:
    """Hosts on ports 1 and 2 whose flows stay; they know each other."""
    lab.vsctl("set", "Open_vSwitch", ".", "other_config:max-idle=300000")
    lab.add_bridge("br0")
    lab.vsctl("set", "bridge", "br0",
              "protocols=OpenFlow10,OpenFlow13,OpenFlow15")
    made = tuple(lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24")
                 for n in (1, 2))
    for n, host in enumerate(made, 1):
        lab.vsctl("set", "interface", f"p{n}", f"ofport_request={n}")
        other = made[2 - n]
        host.knows(other.ip, other.mac)
    one, two = made
    one.ping(two.ip)
    return one, two


def meter(lab: Lab, number: int) -> tuple[int, int, list[tuple[int, int]]]:
    """What ovs-ofctl meter-stats shows: packets and bytes in, and packets
    and bytes of each band."""
    text = lab.ofctl(*OF13, "meter-stats", "br0", f"meter={number}")
    packets = re.search(r"packet_in_count:(\d+) byte_in_count:(\d+)", text)
    assert packets is not None, text
    return (int(packets[1]), int(packets[2]), [
        (int(p), int(b)) for p, b in re.findall(
            r"\d+: packet_count:(\d+) byte_count:(\d+)", text)])


def drops(lab: Lab) -> int:
    """Packets that meters of br0 dropped."""
    text = lab.appctl("dpif-bpf/drops", target=PROVIDER)
    return sum(int(line.split()[-1]) for line in text.splitlines()
               if "meter" in line.lower())


def test_a_band_drops(lab: Lab) -> None:
    """What did not arrive was counted by the band, packet by packet."""
    one, two = two_hosts(lab)
    lab.ofctl(*OF13, "add-meter", "br0", "meter=1 pktps burst stats"
              " bands=type=drop rate=50 burst_size=20")
    lab.ofctl(*OF13, "add-flow", "br0", "priority=9,in_port=1,udp,"
              "actions=meter:1,output:2")
    before, missed = drops(lab), lab.lookups()[1]
    stream = Stream(lab, one, two, 500)
    time.sleep(2)
    sent, got = stream.end()
    missed = lab.lookups()[1] - missed
    packets, nbytes, bands = meter(lab, 1)
    assert packets == sent
    assert bands[0][0] == sent - got == drops(lab) - before
    assert bands[0][0] > 0
    assert nbytes * (sent - got) == bands[0][1] * sent  # of equal size
    assert "actions:meter(0)," in lab.dpctl("dump-flows")
    one.ping(two.ip)
    # The flow's own counters are of all but those before it was there.
    flow, = (flow for flow in lab.flows() if "meter" in str(flow))
    assert int(flow.info["packets"]) >= sent - missed
    assert missed < sent / 2


def test_a_meter_changes_and_goes(lab: Lab) -> None:
    one, two = two_hosts(lab)
    lab.ofctl(*OF13, "add-meter", "br0", "meter=5 kbps burst stats"
              " bands=type=drop rate=1 burst_size=1")
    lab.ofctl(*OF13, "add-flow", "br0", "priority=9,in_port=1,icmp,"
              "actions=meter:5,output:2")
    text = one.ns.run("ping", "-n", "-q", "-c", "2", "-i", "0.1", "-W",
                      "0.5", "-s", "500", two.ip, check=False)
    assert " 0 received" in text, text
    assert meter(lab, 5) == (2, 2 * 542, [(2, 2 * 542)])
    lab.ofctl(*OF13, "mod-meter", "br0", "meter=5 kbps burst stats"
              " bands=type=drop rate=100000 burst_size=100000")
    one.ping(two.ip, 5)
    packets, nbytes, bands = meter(lab, 5)
    assert (packets, nbytes, bands) == (5, 5 * 98, [(0, 0)])
    lab.ofctl(*OF13, "del-meter", "br0", "meter=5")
    assert "meter=5" not in lab.ofctl(*OF13, "dump-meters", "br0")
    # The flows that used it went with it.
    lab.until(lambda: "meter(" not in lab.dpctl("dump-flows"))


def test_the_highest_band_that_is_exceeded(lab: Lab) -> None:
    one, two = two_hosts(lab)
    lab.ofctl(*OF13, "add-meter", "br0", "meter=1 pktps burst stats bands="
              "type=drop rate=20 burst_size=1000"
              " type=drop rate=100 burst_size=10")
    lab.ofctl(*OF13, "add-flow", "br0", "priority=9,in_port=1,udp,"
              "actions=meter:1,output:2")
    stream = Stream(lab, one, two, 500)
    time.sleep(1.5)
    sent, got = stream.end()
    packets, _, bands = meter(lab, 1)
    assert packets == sent
    assert sum(count for count, _ in bands) == sent - got
    assert bands[1][0] == sent - got > 0


def test_features_and_many(lab: Lab) -> None:
    """As "meters - datapath probe" of OVS's system tests."""
    two_hosts(lab)
    text = lab.ofctl(*OF13, "meter-features", "br0")
    assert re.search(r"max_meter:200000 max_bands:8 ", text), text
    assert "band_types: drop" in text
    for number in range(1, 65):
        lab.ofctl(*OF13, "add-meter", "br0",
                  f"meter={number} kbps band=type=drop rate=100")
    assert lab.ofctl(*OF13, "dump-meters", "br0").count("meter=") == 64
    assert "broken meter implementation" not in lab.text("ovs-vswitchd.log")


def test_controller_meter(lab: Lab) -> None:
    """Packets to a controller share a bucket, which is not that of the
    packets that go on."""
    one, two = two_hosts(lab)
    lab.ofctl("-O", "OpenFlow15", "add-meter", "br0",
              "meter=controller pktps burst stats"
              " bands=type=drop rate=1 burst_size=3")
    lab.ofctl(*OF13, "add-flow", "br0",
              "priority=9,in_port=1,icmp,actions=controller,output:2")
    control = str(lab.rundir / "monitor.ctl")
    log = lab.rundir / "monitor.log"
    with log.open("w") as output:
        monitor = subprocess.Popen(
            lab.ns.command([
                lab.build.binary("ovs-ofctl"), *OF13, f"--unixctl={control}",
                "monitor", f"unix:{lab.rundir}/br0.mgmt", "65534",
                "-P", "standard"]),
            env={**os.environ, **lab.build.environment}, stdout=output,
            stderr=output)
    try:
        lab.until(lambda: os.path.exists(control))
        lab.appctl("ofctl/barrier", target=control)
        one.ping(two.ip, 10)
        assert "meter(" in lab.dpctl("dump-flows")
        text = lab.ofctl("-O", "OpenFlow15", "meter-stats", "br0")
        found = re.search(r"packet_in_count:(\d+).*?0: packet_count:(\d+)",
                          text, re.DOTALL)
        assert found is not None and int(found[1]) == 10, text
        assert 0 < int(found[2]) < 10, text
        passed = 10 - int(found[2])
        lab.until(lambda: log.read_text().count("PACKET_IN") == passed)
    finally:
        monitor.terminate()
        monitor.wait()


def test_slow_path_meter(lab: Lab) -> None:
    """It is that of samples: those that exceed it are not taken, and all
    packets pass."""
    one, two = two_hosts(lab)
    # Nobody listens.
    lab.allowed.append(r"collectors.*\|WARN\|.*sending to collector failed")
    lab.ofctl("-O", "OpenFlow15", "add-meter", "br0",
              "meter=slowpath pktps burst stats"
              " bands=type=drop rate=1 burst_size=3")
    lab.vsctl("--", "--id=@s", "create", "sflow", "agent=lo",
              'targets="127.0.0.1:6343"', "header=128", "sampling=1",
              "polling=0", "--", "set", "bridge", "br0", "sflow=@s")
    lab.until(lambda: "userspace(" in lab.appctl(
        "ofproto/trace", "br0", "in_port=1,icmp"))
    lab.flush()
    one.ping(two.ip, 10)
    assert re.search(r"sample\(sample=100.0%,actions\(meter\(\d+\),userspace",
                     lab.dpctl("dump-flows"))
    text = lab.ofctl("-O", "OpenFlow15", "meter-stats", "br0")
    found = re.search(r"packet_in_count:(\d+).*?0: packet_count:(\d+)",
                      text, re.DOTALL)
    assert found is not None, text
    # There and back, and perhaps what neighbours ask.
    assert int(found[1]) >= 20 and 0 < int(found[2]) < int(found[1]), text
    lab.vsctl("clear", "bridge", "br0", "sflow")


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_meters_outlive_the_provider(own_lab: Lab,
                                     how: signal.Signals) -> None:
    """No packet is counted twice or not at all, and none passes free."""
    lab = own_lab
    one, two = two_hosts(lab)
    lab.ofctl(*OF13, "add-meter", "br0", "meter=1 pktps burst stats"
              " bands=type=drop rate=50 burst_size=20")
    lab.ofctl(*OF13, "add-flow", "br0", "priority=9,in_port=1,udp,"
              "actions=meter:1,output:2")
    start = time.monotonic()
    stream = Stream(lab, one, two, 500)
    time.sleep(1)
    lab.kill(PROVIDER, how)
    time.sleep(1)
    lab.start_provider()
    time.sleep(1)
    sent, got = stream.end()
    taken = time.monotonic() - start
    packets, _, bands = meter(lab, 1)
    assert packets == sent
    assert bands[0][0] == sent - got > 0
    assert got <= 20 + 50 * taken + 2
    lab.ofctl(*OF13, "mod-meter", "br0", "meter=1 pktps burst stats"
              " bands=type=drop rate=100000 burst_size=100000")
    assert meter(lab, 1) == (0, 0, [(0, 0)])
