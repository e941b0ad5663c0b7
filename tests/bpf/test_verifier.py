# SPDX-License-Identifier: Apache-2.0
"""No program becomes expensive to verify unnoticed."""

from __future__ import annotations

import verifier

GROWTH = 1.2
"""A program may cost that much more than in the baseline."""
LIMIT = 150_000
"""Of 1,000,000 that any kernel lets a program cost."""
STACK = 400
"""Of 512 bytes that any kernel lets a chain of calls have."""


def test_complexity(shipped_object: None) -> None:
    found = verifier.measure()
    print(verifier.table(found))
    known = verifier.baseline().get(verifier.series())
    for name, (stats, depth) in found.items():
        assert stats.insns <= LIMIT, name
        assert depth <= STACK, f"{name}: {depth} bytes of {stats.stack}"
        if known is not None:
            assert name in known, f"{name}: verifier.py --update"
            allowed = int(known[name]["insns"]) * GROWTH + 500
            assert stats.insns <= allowed, (
                f"{name} grew from {known[name]['insns']} to {stats.insns}:"
                " simplify it, or verifier.py --update with the reason")
