# SPDX-License-Identifier: Apache-2.0
"""How long the random tests of this directory take, and with what seed.

--fuzz-seconds=N lets each of them run for so long instead of a number of
rounds, --fuzz-seed=S begins with another seed.  What fails says which seed
it was: with that one it fails again, at once.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator

import pytest

Rounds = Callable[[int, int], Iterator[
    tuple[random.Random, Callable[[], bool]]]]
"""Number of steps in all, and of each round: for each round a source of
numbers and whether there is to be another step."""


@pytest.fixture
def rounds(request: pytest.FixtureRequest) -> Rounds:
    """The rounds of a test, each with a seed of its own."""
    seconds = request.config.getoption("--fuzz-seconds")
    first = request.config.getoption("--fuzz-seed")

    def make(steps: int, each: int) -> Iterator[
            tuple[random.Random, Callable[[], bool]]]:
        end = time.monotonic() + seconds
        number = 0
        while (time.monotonic() < end if seconds else number * each < steps):
            seed = first + number
            left = iter(range(each))
            print(f"--fuzz-seed={seed}")
            yield (random.Random(seed),
                   lambda left=left: next(left, None) is not None)
            number += 1

    return make
