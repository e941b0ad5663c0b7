# SPDX-License-Identifier: Apache-2.0
"""Text that takes long to tell, in slices between which others are served.

Who tells it is a generator of lines.  After some milliseconds of work it
yields LATER, which is no line.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeAlias, TypeVar

LATER = ""

_Result = TypeVar("_Result")
Sliced: TypeAlias = Generator[str, None, _Result]
"""Yields LATER; returns what it comes to."""


def whole(work: Sliced[_Result]) -> _Result:
    """What sliced work comes to, in one go."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: _Result = end.value
            return result
