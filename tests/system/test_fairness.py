# SPDX-License-Identifier: Apache-2.0
"""One port floods ovs-vswitchd with new flows; the others need it, too."""

from __future__ import annotations

import re

from lab import PATIENCE, PROVIDER, Host, Lab

LIMIT = "reached the dynamic limit|twice as high as current dynamic"
"""What ovs-vswitchd says of so many flows."""


def answered(host: Host, to: str, tos: int) -> bool:
    """A ping that is of other flows with each `tos`.  It may take its time
    when the machine is busy, but is not lost."""
    return " 1 received" in host.ns.run(
        "ping", "-n", "-q", "-c", "1", "-W", str(10 * PATIENCE), "-Q",
        str(tos), to, check=False)


def refused(lab: Lab) -> int:
    """Upcalls that went beyond the share of their port."""
    shown = lab.appctl("dpif-bpf/drops", target=PROVIDER)
    return sum(map(int, re.findall(r"upcall_share: (\d+)", shown)))


def test_new_flows_while_a_port_floods(own_lab: Lab) -> None:
    lab = own_lab
    lab.allowed.append(LIMIT)
    lab.add_bridge("br0")
    one, two, three, four = (lab.add_host(f"p{n}", "br0", f"10.1.1.{n}/24")
                             for n in (1, 2, 3, 4))
    one.ping(two.ip)
    for host, other in ((three, four), (four, three)):
        host.knows(other.ip, other.mac)
    lab.appctl("upcall/disable-megaflows")
    flood = lab.spawn(one, "udp-flood", "eth0", one.mac, two.mac)
    try:
        lab.until(lambda: lab.lookups()[2] > 5000)
        for tos in range(4, 44, 4):
            assert answered(three, four.ip, tos)
    finally:
        flood.kill()
        flood.wait()
    # All that was lost is the flooder's own.
    assert refused(lab) == lab.lookups()[2] > 5000
