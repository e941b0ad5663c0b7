# SPDX-License-Identifier: Apache-2.0
"""Compiles BPF C at run time, by bcc.

bcc is used here alone, and in a process of its own: LLVM takes 110 MB, which
go with the process, and 0.5 s, in which the provider does other things.
"""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from dpif_bpf.errors import BackendError

_TAIL = 2000
_TIMEOUT = 600.0  # s; emulated machines take a minute


class Compilation:
    """One source file under way to instruction bytes.

    :param source: C, for bcc
    :param function: the program in it
    :param flags: for the compiler
    :param headers: the tree that bcc takes for kernel headers
    """

    def __init__(self, source: Path, function: str, flags: Sequence[str],
                 headers: Path) -> None:
        self._source = source
        env = dict(os.environ, BCC_KERNEL_SOURCE=str(headers))
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", __name__, str(source), function,
                 *flags], env=env, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        except OSError as error:
            raise BackendError(error.errno or errno.EIO,
                               "cannot run a compiler") from error

    def result(self) -> bytes:
        """Wait for the end; struct bpf_insn, 8 bytes each.

        :raises BackendError: ENOEXEC with what the compiler says
        """
        try:
            insns, said = self._process.communicate(timeout=_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            self.close()
            raise BackendError(errno.ETIMEDOUT, f"cannot compile "
                               f"{self._source} in time") from error
        if self._process.returncode or not insns:
            text = said.decode("utf-8", "replace").strip()
            raise BackendError(errno.ENOEXEC, f"cannot compile "
                               f"{self._source}: {text[-_TAIL:]}")
        return insns

    def close(self) -> None:
        """Give it up, if it has not ended."""
        if self._process.returncode is None:
            self._process.kill()
            self._process.communicate()


def _main(source: str, function: str, *flags: str) -> None:
    from bcc import BPF

    with BPF(src_file=source, cflags=list(flags)) as module:
        sys.stdout.buffer.write(module.dump_func(function))


if __name__ == "__main__":
    _main(*sys.argv[1:])
