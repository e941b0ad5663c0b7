# SPDX-License-Identifier: Apache-2.0
"""Programs and links over bpf(2): load, describe, run on test data, attach.

Layouts: ``union bpf_attr``, ``struct bpf_prog_info`` and ``struct
bpf_link_info`` of <linux/bpf.h>.
"""

from __future__ import annotations

import errno
import os
import struct
from dataclasses import dataclass

from dpif_bpf.edge import bpfsys
from dpif_bpf.errors import BackendError

_PROG_LOAD = 5
_PROG_TEST_RUN = 10
_PROG_QUERY = 16
_LINK_CREATE = 28
_LINK_UPDATE = 29
_LINK_DETACH = 34

PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_XDP = 6

ATTACH_XDP = 37
ATTACH_TCX_INGRESS = 46
ATTACH_TCX_EGRESS = 47

LINK_TYPE_XDP = 6
LINK_TYPE_TCX = 11

_LOG_SIZE = 1 << 20
_LOG_TAIL = 2000


@dataclass(frozen=True, slots=True)
class ProgInfo:
    """struct bpf_prog_info: what the kernel says about a program.

    :ivar verified_insns: instructions that the verifier went through; 0
        where the kernel does not tell
    """

    prog_type: int
    prog_id: int
    name: str
    xlated_bytes: int
    jited_bytes: int
    verified_insns: int


def prog_info(fd: int) -> ProgInfo:
    """Describe a program."""
    info = bpfsys.object_info(fd, 232)
    prog_type, prog_id = struct.unpack_from("=II", info, 0)
    jited, xlated = struct.unpack_from("=II", info, 16)
    verified, = struct.unpack_from("=I", info, 216)
    return ProgInfo(prog_type, prog_id, bpfsys.c_string(info[64:80]),
                    xlated, jited, verified)


def prog_load(prog_type: int, insns: bytes, name: str,
              license_text: str = "GPL") -> int:
    """Load a program from instruction bytes.

    A refused program is loaded a second time for the verifier's log, whose
    end becomes part of the error's text.

    :param insns: struct bpf_insn, 8 bytes each; map descriptors in place
    :return: the program's descriptor
    """
    code = bytearray(insns)
    lic = bytearray(license_text.encode() + b"\0")
    try:
        return _prog_load(prog_type, code, lic, name, None)
    except BackendError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
    log = bytearray(_LOG_SIZE)
    try:
        return _prog_load(prog_type, code, lic, name, log)
    except BackendError as error:
        text = log.split(b"\0", 1)[0].decode("ascii", "replace").strip()
        raise BackendError(
            error.errno, f"{error.text}: {text[-_LOG_TAIL:]}") from error


def _prog_load(prog_type: int, code: bytearray, lic: bytearray, name: str,
               log: bytearray | None) -> int:
    attr = bytearray(struct.pack(
        "=IIQQIIQII16s", prog_type, len(code) // 8, bpfsys.addr(code),
        bpfsys.addr(lic), 1 if log else 0, len(log or b""),
        bpfsys.addr(log), 0, 0, bpfsys.name_field(name)))
    with bpfsys.unsignalled():
        return bpfsys.call(_PROG_LOAD, attr, f"cannot load program {name}")


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a program made of a packet.

    :ivar retval: the program's return value
    :ivar data: the packet afterwards
    :ivar ctx: struct __sk_buff or xdp_md afterwards, empty if not given
    :ivar duration: mean time of one run, ns
    """

    __test__ = False

    retval: int
    data: bytes
    ctx: bytes
    duration: int


def test_run(fd: int, data: bytes, ctx: bytes = b"", repeat: int = 1,
             room: int = 256) -> TestRun:
    """Run a program on a packet by BPF_PROG_TEST_RUN.

    :param data: the packet; skb programs take 14 bytes to a page less
        headroom and tailroom
    :param ctx: struct __sk_buff (fields that the kernel lets be set)
    :param repeat: runs; the time is their mean
    :param room: bytes that the packet may grow by
    """
    data_in, data_out = bytearray(data), bytearray(len(data) + room)
    ctx_in = bytearray(ctx) if ctx else None
    ctx_out = bytearray(len(ctx)) if ctx else None
    attr = bytearray(struct.pack(
        "=IIIIQQIIIIQQIIII", fd, 0, len(data_in), len(data_out),
        bpfsys.addr(data_in), bpfsys.addr(data_out), repeat, 0, len(ctx),
        len(ctx), bpfsys.addr(ctx_in), bpfsys.addr(ctx_out), 0, 0, 0, 0))
    with bpfsys.unsignalled():
        bpfsys.call(_PROG_TEST_RUN, attr, "cannot run a program")
    retval, = struct.unpack_from("=i", attr, 4)
    data_size, = struct.unpack_from("=I", attr, 12)
    duration, = struct.unpack_from("=I", attr, 36)
    return TestRun(retval, bytes(data_out[:data_size]),
                   bytes(ctx_out or b""), duration)


# Links


@dataclass(frozen=True, slots=True)
class LinkInfo:
    """struct bpf_link_info of an XDP or tcx link.

    :ivar ifindex: 0 when the device has gone
    """

    link_type: int
    link_id: int
    prog_id: int
    ifindex: int


def link_info(fd: int) -> LinkInfo:
    """Describe a link."""
    link_type, link_id, prog_id, ifindex = struct.unpack_from(
        "=IIIxxxxI", bpfsys.object_info(fd, 24))
    return LinkInfo(link_type, link_id, prog_id, ifindex)


def link_create(prog_fd: int, ifindex: int, attach_type: int,
                flags: int = 0) -> int:
    """Attach a program to a device of this network namespace by a link.

    :return: the link's descriptor; the program is detached when the last
        descriptor or pin goes
    :raises BackendError: EINVAL where the kernel has no such links (tcx
        came with 6.6), ENODEV when there is no such device
    """
    attr = bytearray(struct.pack("=IIIIIIQ", prog_fd, ifindex, attach_type,
                                 flags, 0, 0, 0))
    return bpfsys.call(_LINK_CREATE, attr,
                       f"cannot attach to device {ifindex}")


def link_update(link_fd: int, prog_fd: int) -> None:
    """Replace a link's program, atomically.

    :raises BackendError: ENOLINK when the device has gone
    """
    attr = bytearray(struct.pack("=IIII", link_fd, prog_fd, 0, 0))
    bpfsys.call(_LINK_UPDATE, attr, "cannot replace a link's program")


def link_detach(link_fd: int) -> None:
    """Detach a link's program now, whoever else holds the link."""
    attr = bytearray(struct.pack("=I", link_fd))
    try:
        bpfsys.call(_LINK_DETACH, attr, "cannot detach a link")
    except BackendError as error:
        if error.errno != errno.ENOLINK:
            raise


def tcx_links(ifindex: int) -> list[int]:
    """Ids of the tcx links on a device's ingress in this namespace, in the
    order in which they run; empty when there is no such device."""
    room = 64
    progs, links = bytearray(4 * room), bytearray(4 * room)
    attr = bytearray(struct.pack(
        "=IIIIQIIQQQQ", ifindex, ATTACH_TCX_INGRESS, 0, 0,
        bpfsys.addr(progs), room, 0, 0, bpfsys.addr(links), 0, 0))
    try:
        bpfsys.call(_PROG_QUERY, attr, f"cannot query device {ifindex}")
    except BackendError as error:
        if error.errno in (errno.ENODEV, errno.ENOENT):
            return []
        raise
    count, = struct.unpack_from("=I", attr, 24)
    return list(struct.unpack_from(f"={count}I", links))


def has_keyless_tunnels() -> bool:
    """Whether bpf_skb_set_tunnel_key() has BPF_F_NO_TUNNEL_KEY (Linux 6.4),
    found by running a program that gives it."""
    # *(u64 *)(r10 - 24) = 0, …; r2 = r10 - 24; r3 = 24; r4 = 1 << 4; call 21
    insns = [(0x7a, 10, -at, 0) for at in (24, 16, 8)]
    insns += [(0xbf, 0xa2, 0, 0), (0x07, 2, 0, -24), (0xb7, 3, 0, 24),
              (0xb7, 4, 0, 1 << 4), (0x85, 0, 0, 21), (0x95, 0, 0, 0)]
    prog = prog_load(PROG_TYPE_SCHED_CLS, b"".join(
        struct.pack("=BBhi", *insn) for insn in insns), "ovs_probe")
    try:
        return not test_run(prog, bytes(64)).retval
    finally:
        os.close(prog)


def has_tcx() -> bool:
    """Whether the kernel has tcx links, found by trying one on no device."""
    insns = struct.pack("=BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0)
    prog = prog_load(PROG_TYPE_SCHED_CLS, insns, "ovs_probe")
    try:
        os.close(link_create(prog, 0, ATTACH_TCX_INGRESS))
    except BackendError as error:
        return error.errno != errno.EINVAL
    finally:
        os.close(prog)
    return True
