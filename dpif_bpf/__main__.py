# SPDX-License-Identifier: Apache-2.0
"""python -m dpif_bpf: ovs-bpfd."""

import sys

from dpif_bpf.daemon import main

sys.exit(main())
