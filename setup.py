# SPDX-License-Identifier: Apache-2.0
"""dpif-bpf: the provider ovs-bpfd.

bcc is not in the requirements: it comes with Debian as python3-bpfcc, and
what PyPI calls bcc is another thing.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

TOP = Path(__file__).parent

version = re.search(r'^__version__ = "(.+)"$',
                    (TOP / "dpif_bpf" / "__init__.py").read_text(),
                    re.MULTILINE)
assert version is not None

setup(
    name="dpif-bpf",
    version=version[1],
    description="An Open vSwitch datapath in eBPF with a Python provider",
    long_description=(TOP / "README.rst").read_text(),
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=find_packages(include=["dpif_bpf", "dpif_bpf.*"]),
    install_requires=["netaddr", "numpy", "ovs>=3.1", "pyroute2>=0.9,<0.10"],
    extras_require={
        "test": ["hypothesis", "ovs[flow]", "pytest", "scapy"],
        # Each release of these finds new things, which is no news of ours.
        "dev": ["mypy>=2.4,<2.5", "ruff>=0.17,<0.18"],
    },
    entry_points={"console_scripts": ["ovs-bpfd = dpif_bpf.daemon:main"]},
)
