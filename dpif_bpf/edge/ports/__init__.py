# SPDX-License-Identifier: Apache-2.0
"""Network devices through rtnetlink; the only user of pyroute2."""

from dpif_bpf.edge.ports.clsact import Clsact
from dpif_bpf.edge.ports.links import Ports

__all__ = ["Clsact", "Ports"]
