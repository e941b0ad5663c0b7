# SPDX-License-Identifier: Apache-2.0
"""Has one step of an operation fail, whichever is asked for."""

from __future__ import annotations

from dpif_bpf.errors import BackendError


class Faults:
    """Counts the calls of methods that it watches, and has some fail.

    :ivar struck: what has failed since arm(), in order
    """

    def __init__(self) -> None:
        self._left = 0
        self._errno = 0
        self._lasting = False
        self.struck: list[str] = []

    def arm(self, step: int, errno: int, lasting: bool = False) -> None:
        """From now on the `step`-th call fails, and no other.

        :param step: from 1; 0 for none
        :param lasting: all calls after it fail, too
        """
        self._left = step
        self._errno = errno
        self._lasting = lasting
        self.struck = []

    def watch(self, target: object, *names: str, ends: bool = False) -> None:
        """Counts the calls of methods of `target`.

        :param ends: they end something, which they do though they fail;
            others do nothing then
        """
        for name in names:
            self._wrap(target, name, ends)

    def _wrap(self, target: object, name: str, ends: bool) -> None:
        real = getattr(target, name)

        def call(*args: object, **named: object) -> object:
            if not self._strikes():
                return real(*args, **named)
            self.struck.append(name)
            if ends:
                real(*args, **named)
            raise BackendError(self._errno, f"{name} fails")

        setattr(target, name, call)

    def _strikes(self) -> bool:
        if self._left:
            self._left -= 1
            return not self._left
        return self._lasting and bool(self.struck)
