# SPDX-License-Identifier: Apache-2.0
"""Devices of /dev/net/tun: <linux/if_tun.h>."""

from __future__ import annotations

import fcntl
import os
import struct

TUNSETIFF = 0x400454ca
TUNSETLINK = 0x400454cd
TUNSETOFFLOAD = 0x400454d0
IFF_TUN, IFF_TAP = 1, 2
IFF_NO_PI, IFF_VNET_HDR = 0x1000, 0x4000
TAP_VNET_HDR = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
"""A tap whose packets begin with a struct virtio_net_hdr, as a virtual
machine has it."""


def open_tun(name: str, flags: int) -> int:
    """Makes a device in the caller's network namespace.

    :param flags: IFF_*
    :returns: a descriptor that does not block; the device goes with it
    """
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(),
                                               flags))
    except OSError:
        os.close(fd)
        raise
    return fd
