# SPDX-License-Identifier: Apache-2.0
"""A provider with more descriptors than most, and one that gets no more."""

from __future__ import annotations

import os
import re
import resource
from itertools import count

from lab import PROVIDER, SWITCH, Lab
from test_restart import two_hosts

CAP_SYS_RESOURCE = 1 << 24

MANY = """
import os, resource, sys
from dpif_bpf.daemon import main

_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (10100, max(hard, 10100)))
held = [os.open(os.devnull, os.O_RDONLY) for _ in range(10000)]
sys.exit(main())
"""


def descriptors(lab: Lab) -> set[int]:
    """Of the provider."""
    pid = lab.processes[PROVIDER].pid
    return {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")}


def set_limit(lab: Lab, soft: int) -> None:
    pid = lab.processes[PROVIDER].pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def counters(lab: Lab) -> dict[str, int]:
    """coverage/show."""
    return {line.split()[0]: int(line.split()[-1]) for line in
            lab.appctl("coverage/show", target=PROVIDER).splitlines()}


def test_descriptors_of_ten_thousand_ports(stopped_lab: Lab) -> None:
    """What select(2) cannot wait for.  A port takes one descriptor."""
    lab = stopped_lab
    lab.program = ["-c", MANY]
    lab.start()
    one, two = two_hosts(lab)
    assert len(descriptors(lab)) > 10000 and max(descriptors(lab)) > 10000
    assert "p1" in lab.appctl("dpif-bpf/show", target=PROVIDER)
    lab.kill(PROVIDER)
    lab.start_provider()        # takes over
    one.ping(two.ip)
    three = lab.add_host("p3", "br0", "10.1.1.3/24")
    one.ping(three.ip)
    assert "p3" in lab.appctl("dpif-bpf/show", target=PROVIDER)


def test_as_many_descriptors_as_may_be_had(own_lab: Lab) -> None:
    """Those of the hard limit, which root with all rights can raise."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if capabilities() & CAP_SYS_RESOURCE:
        with open("/proc/sys/fs/nr_open") as file:
            most = max(most, int(file.read()))
    assert resource.prlimit(own_lab.processes[PROVIDER].pid,
                            resource.RLIMIT_NOFILE) == (most, most)


def capabilities() -> int:
    """The test's, which are the provider's."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1], 16) for line in file
                    if line.startswith("CapEff"))


def test_no_descriptor_left(own_lab: Lab) -> None:
    """What needs one is refused, all else goes on, and so does that when
    there are some again."""
    lab = own_lab
    # New sockets of ovs-vswitchd wait until there is a descriptor for them.
    lab.allowed += [r"ovs-bpfd does not answer at \S+ \(Connection timed",
                    r"flow_flush failed \(Connection timed out\)",
                    "p3", "br1", "Too many open files",
                    "cannot accept connections"]
    one, two = two_hosts(lab)
    before = descriptors(lab)
    soft, _ = resource.prlimit(lab.processes[PROVIDER].pid,
                               resource.RLIMIT_NOFILE)
    free = next(fd for fd in count() if fd not in before)
    set_limit(lab, free)
    ns = lab.add_namespace()
    lab.plug("p3", ns, "10.1.1.3/24")
    for what in (("add-port", "br0", "p3"),
                 ("add-br", "br1", "--", "set", "bridge", "br1",
                  "datapath_type=bpf")):
        lab.vsctl("--no-wait", *what)
    # Nobody is accepted, which ovs-appctl does not wait for.
    asking = [lab.tool("ovs-appctl", "-T1", "-t", PROVIDER, "version",
                       check=False) for _ in range(2)]
    assert asking == ["", ""]
    # Its request is refused, or has no socket to be sent by.
    lab.until(lambda: re.search("Too many open files|Connection timed out",
                                lab.text(f"{SWITCH}.log")) is not None)
    one.ping(two.ip)
    assert descriptors(lab) <= before, "nothing is lost of what is refused"

    set_limit(lab, soft)
    lab.vsctl("del-port", "p3", "--", "del-br", "br1")
    lab.vsctl("add-port", "br0", "p3")
    one.ns.ip("neigh flush all")
    one.ping("10.1.1.3")
    lab.add_bridge("br1")
    assert "br1" in lab.ns.ip("link show")
    counted = counters(lab)
    assert not [name for name in counted
                if name.endswith("_failed") and counted[name]
                and name != "server_accept_failed"]
    assert counted["server_accept_failed"] < 100
