# SPDX-License-Identifier: Apache-2.0
"""Common to all tests.

Puts this directory on the path: tests import ``oracle`` from it.  Random
tests have no deadline for each example: the machine may be busy.
"""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("busy", deadline=None)
settings.load_profile("busy")
