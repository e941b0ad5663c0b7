# SPDX-License-Identifier: Apache-2.0
"""Puts this directory on the path: tests import ``oracle`` from it."""
