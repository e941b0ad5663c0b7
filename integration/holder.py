# SPDX-License-Identifier: Apache-2.0
"""holder.py PIDFILE: prints the process that has the file locked.

A daemon of OVS does, as long as it runs.  The number that is written in the
file may be that of another process by now.  Status 1 when there is none.
"""

from __future__ import annotations

import fcntl
import os
import struct
import sys

FLOCK = struct.Struct("@hhqqi4x")
"""struct flock of fcntl(2): l_type, l_whence, l_start, l_len, l_pid."""


def main(path: str) -> int:
    try:
        with open(path, "rb") as file:
            answer = fcntl.fcntl(file, fcntl.F_GETLK, FLOCK.pack(
                fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except FileNotFoundError:
        return 1
    kind, _, _, _, pid = FLOCK.unpack(answer)
    if kind == fcntl.F_UNLCK:
        return 1
    print(pid)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
