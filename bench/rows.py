# SPDX-License-Identifier: Apache-2.0
"""Figures of a benchmark, and how they are shown."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One figure.

    :param what: what was measured
    :param value: the median
    :param unit: of `value`
    :param ratio: to the row that the benchmark compares with, in the same
        run; None when there is no such row
    :param note: anything else
    """

    what: str
    value: float
    unit: str
    ratio: float | None = None
    note: str = ""


def table(rows: list[Row]) -> str:
    """The rows in columns."""
    width = max((len(row.what) for row in rows), default=0)
    lines = []
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:8.2f} x"
        lines.append(f"  {row.what:<{width}} {row.value:12,.1f}"
                     f" {row.unit:<10}{ratio:>10}  {row.note}".rstrip())
    return "\n".join(lines)
