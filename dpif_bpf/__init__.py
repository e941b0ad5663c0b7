# SPDX-License-Identifier: Apache-2.0
"""An Open vSwitch datapath in eBPF: the provider."""

__version__ = "0.1.0"
