# SPDX-License-Identifier: Apache-2.0
"""Errors of the provider.

::

    DpifError(errno, text)
    ├── RequestError        the peer's fault: a message that cannot be accepted
    │   └── MalformedError  as far as we know: reading it failed unexpectedly
    └── BackendError        ours, or the machine's: what was asked for failed
        └── InternalError   in a way that nobody expected

They carry an errno (positive) and a text for people.  They are turned into
NLMSG_ERROR with an extended ack by ``core.services``, into a unixctl error by
``edge.ctl`` and into an exit status by ``daemon``, and nowhere else.

An exception that is none of these is a mistake of this program.  It neither
ends the provider nor goes unnoticed: whoever asked gets an errno, the next
one is served, and it is logged and counted.

- While something is read, nothing has changed yet: decoder() makes a
  MalformedError of it.
- While a request is served, ``core.services`` makes an InternalError of it.
  Where state may be half changed by then, it is kept as well, as
  ``Router.broken``: the daemon looks there in each turn, and restarts
  itself when it is not None, so that all state is built anew from what is
  kept.
- An upcall or a sample is lost, and counted as malformed.
"""

from __future__ import annotations

import errno as errnos
import functools
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

_Args = ParamSpec("_Args")
_Result = TypeVar("_Result")


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


class MalformedError(RequestError):
    """Reading a request raised what nobody expected: its cause."""


class BackendError(DpifError):
    """The request was fine but could not be carried out."""


class InternalError(BackendError):
    """Serving a request raised what nobody expected: its cause."""


def decoder(call: Callable[_Args, _Result]) -> Callable[_Args, _Result]:
    """Decorates a function that reads what a peer sent and changes nothing.

    :raises MalformedError: EINVAL, for whatever is raised that is no
        DpifError
    """
    @functools.wraps(call)
    def guarded(*args: _Args.args, **kwargs: _Args.kwargs) -> _Result:
        try:
            return call(*args, **kwargs)
        except DpifError:
            raise
        except Exception as error:
            raise MalformedError(
                errnos.EINVAL, "the request cannot be read") from error

    return guarded


def failures(*steps: Callable[[], object]) -> list[DpifError]:
    """Takes all steps, whichever fail, and returns what they raised."""
    raised: list[DpifError] = []
    for step in steps:
        try:
            step()
        except DpifError as error:
            raised.append(error)
    return raised


class Finish:
    """Takes all steps of what ends, whichever fail, and tells of those.

    :param name: whose end it is, in what is told
    """

    def __init__(self, name: str, report: Callable[[str], object]) -> None:
        self._name = name
        self._report = report

    def __call__(self, what: str, *steps: Callable[[], object]) -> None:
        for error in failures(*steps):
            self._report(f"{self._name}: {what}: {error}")
