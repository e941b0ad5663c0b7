# SPDX-License-Identifier: Apache-2.0
"""Lines of FTP by chance: right ones, and such that are nearly right."""

from __future__ import annotations

import random
import socket

_PIECES = (b"|", b",", b"(", b")", b"\r\n", b"\n", b" ", b"1", b"2", b"0",
           b":", b"::", b".", b"\0", b"\xff", b"PORT ", b"227 ", b"229 ",
           b"EPRT ")


def _dotted(addr: str, sep: str) -> str:
    return addr.replace(".", sep)


def address_line(rng: random.Random, back: bool, addr: str,
                 port: int) -> bytes:
    """A line of a client, or of a server, that names an address."""
    v6 = ":" in addr
    delim = rng.choice("||||!/~")
    six = f"{_dotted(addr, ',')},{port >> 8},{port & 255}"
    kind, host = (2, addr) if v6 else (1, addr)
    if back:
        text = rng.choice((
            f"227 Entering Passive Mode ({six})",
            f"227 Entering Passive Mode {six}.", f"227 {six}",
            f"229 Entering Extended Passive Mode ({delim * 3}{port}{delim})"))
        if v6 and text.startswith("227"):
            text = f"229 it is ({delim * 3}{port}{delim})"
    else:
        text = rng.choice((f"PORT {six}", f"port {six}",
                           f"EPRT {delim}{kind}{delim}{host}{delim}{port}"
                           f"{delim}"))
        if v6 and text[1] in "oO":
            text = f"eprt {delim}2{delim}{host}{delim}{port}{delim}"
    return text.encode() + b"\r\n"


def other_line(rng: random.Random, back: bool) -> bytes:
    """A line that names none."""
    return rng.choice(
        (b"220 ready\r\n", b"331 password\r\n", b"227 no digits\r\n",
         b"229 none\r\n", b"22", b"227", b"150 here\r\n226 done\r\n", b"2")
        if back else
        (b"USER x\r\n", b"LIST\r\n", b"PORT\r\n", b"PORT 1,2\r\n", b"P",
         b"EPRT", b"E\r\n", b"RETR x\r\nPORT 1,2,3,4,5,6\r\n", b"QUIT\n"))


def damaged(rng: random.Random, line: bytes) -> bytes:
    """With one thing that is wrong."""
    at = rng.randrange(len(line))
    how = rng.randrange(5)
    if how == 0:
        return line[:at] or line
    if how == 1:
        return line[:at] + rng.choice(_PIECES) + line[at:]
    if how == 2:
        return line[:at] + rng.choice(_PIECES) + line[at + 1:]
    if how == 3:
        return line[:at] + line[at + 1:] or line
    return line + rng.choice(_PIECES)


def other_address(rng: random.Random, addr: str) -> str:
    """Not the sender's."""
    if ":" in addr:
        return f"fd01::{rng.randrange(1, 9999):x}"
    return socket.inet_ntoa(rng.randbytes(4))
