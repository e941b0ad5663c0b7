# SPDX-License-Identifier: Apache-2.0
"""Errors of the provider.

::

    DpifError(errno, text)
    ├── RequestError   the peer's fault: a message that cannot be accepted
    └── BackendError   ours, or the machine's: what was asked for failed

Both carry an errno (positive) and a text for people.  They are turned into
NLMSG_ERROR with an extended ack by ``core.dispatch``, into a unixctl error by
``edge.ctl`` and into an exit status by ``daemon``, and nowhere else.
"""

from __future__ import annotations

import os


class DpifError(Exception):
    """An errno with the reason in words.

    :param errno: positive errno value
    :param text: one sentence for the extended ack, no full stop
    :param offset: byte offset of the offending attribute in the request's
        netlink message, or None (NLMSGERR_ATTR_OFFS of <linux/netlink.h>)
    """

    def __init__(self, errno: int, text: str,
                 offset: int | None = None) -> None:
        super().__init__(f"{text} ({os.strerror(errno)})")
        self.errno = errno
        self.text = text
        self.offset = offset


class RequestError(DpifError):
    """The request is wrong: malformed, unsupported or out of range."""


class BackendError(DpifError):
    """The request was fine but could not be carried out."""
