# SPDX-License-Identifier: Apache-2.0
"""On which machines the provider can do what it promises.

Flows are looked up in memory that the provider writes meanwhile, and the
state of packets in flight is counted per CPU: both ask something of the
machine that no system call would complain of.  What else is looked at here
would be complained of, but late, and in words that do not say what to do.
"""

from __future__ import annotations

import errno
import re
from dataclasses import dataclass

from dpif_bpf.errors import BackendError

KERNEL = (6, 1)
"""The first one that has what the programs use."""

_CAP_NET_ADMIN, _CAP_NET_RAW, _CAP_SYS_ADMIN = 12, 13, 21
_CAP_PERFMON, _CAP_BPF = 38, 39
"""<linux/capability.h>"""


@dataclass(frozen=True, slots=True)
class Machine:
    """What there is.

    :param arch: of the kernel, as uname(2) names it
    :param python: the implementation: "CPython"
    :param bits: of an address in the interpreter
    :param byteorder: "little" or "big"
    :param kernel: its release: "6.1.0-25-amd64"
    :param realtime: whether it is a PREEMPT_RT kernel
    :param btf: whether it tells its own types
    :param jit: whether programs are compiled
    :param capabilities: the effective ones, as bits
    """

    arch: str
    python: str
    bits: int
    byteorder: str
    kernel: str
    realtime: bool
    btf: bool
    jit: bool
    capabilities: int


def check_machine(machine: Machine) -> None:
    """Refuses a machine on which something would go wrong.

    :raises BackendError: ENOTSUP, EPERM
    """
    if (machine.arch, machine.python, machine.bits, machine.byteorder) != (
            "x86_64", "CPython", 64, "little"):
        raise BackendError(
            errno.ENOTSUP, "flows are written to memory that packets are"
            " looked up in, which needs 64-bit CPython and the order of"
            f" stores that x86-64 has; this is {machine.bits}-bit"
            f" {machine.python} on {machine.arch},"
            f" {machine.byteorder}-endian")
    found = re.match(r"(\d+)\.(\d+)", machine.kernel)
    if found is None or (int(found[1]), int(found[2])) < KERNEL:
        raise BackendError(
            errno.ENOTSUP, f"Linux {KERNEL[0]}.{KERNEL[1]} or newer is"
            f" needed; this is {machine.kernel}")
    if machine.realtime:
        raise BackendError(
            errno.ENOTSUP, "this is a PREEMPT_RT kernel, on which a packet"
            " can interrupt another one in the programs, and would find the"
            " other's state in place of its own")
    if not machine.btf:
        raise BackendError(
            errno.ENOTSUP, "the kernel does not tell its types in"
            " /sys/kernel/btf/vmlinux (CONFIG_DEBUG_INFO_BTF)")
    if not machine.jit:
        raise BackendError(
            errno.ENOTSUP, "the kernel does not compile BPF programs: see"
            " the sysctl net.core.bpf_jit_enable")
    _check_capabilities(machine.capabilities)


def _check_capabilities(effective: int) -> None:
    wanted = {"CAP_BPF": _CAP_BPF, "CAP_PERFMON": _CAP_PERFMON,
              "CAP_NET_ADMIN": _CAP_NET_ADMIN, "CAP_NET_RAW": _CAP_NET_RAW}
    if effective >> _CAP_SYS_ADMIN & 1:  # stands for those of BPF
        del wanted["CAP_BPF"], wanted["CAP_PERFMON"]
    missing = [name for name, bit in wanted.items()
               if not effective >> bit & 1]
    if missing:
        raise BackendError(errno.EPERM, f"no {', '.join(missing)}: ovs-bpfd"
                           " is to be run as root")
