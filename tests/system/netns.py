# SPDX-License-Identifier: Apache-2.0
"""Private network namespaces, each held by a process of its own.

Nothing is named in /run/netns: when the holder ends, the namespace and its
devices go.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator, Sequence

CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)

WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""Before a command: it ends when its parent does, however that ends."""

_HOLD_BPFFS = ("mount --make-rprivate / && "
               "mount -t bpf bpf /sys/fs/bpf && echo && exec sleep infinity")
_HOLD = "echo && exec sleep infinity"


class Namespace:
    """A network namespace.

    :param bpffs: whether it comes with a mount namespace that has an empty
        BPF file system at /sys/fs/bpf
    """

    def __init__(self, bpffs: bool = False) -> None:
        flags = ["--net", "--mount"] if bpffs else ["--net"]
        # With a mount namespace come its root and directory, others when this
        # is run in a change root.
        self._enter_flags = (["-n", "-m", "-r", "-w"] if bpffs
                             else ["-n"])
        self._holder = subprocess.Popen(
            [*WITH_US, "unshare", *flags, "sh", "-c",
             _HOLD_BPFFS if bpffs else _HOLD],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
        assert self._holder.stdout is not None
        if not self._holder.stdout.readline():
            raise OSError("a namespace could not be made")
        self.pid = self._holder.pid
        self.run("ip", "link", "set", "lo", "up")

    def command(self, argv: Sequence[str]) -> list[str]:
        """`argv` as it is run inside."""
        return ["nsenter", "-t", str(self.pid), *self._enter_flags, *argv]

    def run(self, *argv: str, check: bool = True,
            timeout: float = 30) -> str:
        """Runs a command inside; returns what it printed.

        :raises AssertionError: when it fails, with its output
        """
        done = subprocess.run(
            self.command(argv), check=False, stdout=subprocess.PIPE,
            timeout=timeout, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, text=True)
        assert not check or not done.returncode, (
            f"{' '.join(argv)}: exit {done.returncode}\n{done.stdout}")
        return done.stdout

    def popen(self, *argv: str,
              quiet: bool = False) -> subprocess.Popen[bytes]:
        """Starts a command inside.

        :param quiet: whether what it prints is of no interest
        """
        output = subprocess.DEVNULL if quiet else None
        return subprocess.Popen(
            [*WITH_US, *self.command(argv)], stdin=subprocess.DEVNULL,
            stdout=output, stderr=output)

    def ip(self, args: str) -> str:
        """``ip`` with arguments as one would type them."""
        return self.run("ip", *args.split())

    def wait_up(self, device: str) -> None:
        """Waits until the carrier of a device is acted upon: until then
        what is sent through it is dropped."""
        for _ in range(500):
            if "state UP" in self.ip(f"link show dev {device}"):
                return
            time.sleep(0.01)
        raise AssertionError(self.ip(f"link show dev {device}"))

    def rename(self, device: str, name: str) -> None:
        """Renames a device that is up, which has to be down meanwhile:
        kernels before 6.2 want it so."""
        self.ip(f"link set {device} down")
        self.ip(f"link set {device} name {name}")
        self.ip(f"link set {name} up")
        self.wait_up(name)

    def no_ipv6(self, device: str) -> None:
        """Keeps a device from talking by itself."""
        self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/"
                 f"{device}/disable_ipv6")

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """The calling thread is inside."""
        with open("/proc/thread-self/ns/net") as before, \
                open(f"/proc/{self.pid}/ns/net") as inside:
            _setns(inside.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())

    def close(self) -> None:
        self._holder.kill()
        self._holder.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
