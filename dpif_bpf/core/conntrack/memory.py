# SPDX-License-Identifier: Apache-2.0
"""The connection tracker's maps: how large they are, and where the provider
finds what is in them.  docs/conntrack.rst says what that is, and
``dpif_bpf.abi_ct`` how it is laid out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpif_bpf import abi_ct

MAX_CONNECTIONS = (1 << abi_ct.OVS_CT_ID_BITS) - 2 * abi_ct.OVS_CT_EXP
"""Records are these and up to one block of expiries more."""
DEFAULT_CONNECTIONS = 262144

MAPPED = ("ovs_ct", "ovs_ct_exp", "ovs_ct_zones", "ovs_ct_policy",
          "ovs_ct_conf", "ovs_ct_use", "ovs_ct_tab", "ovs_ct_asked",
          "ovs_ct_kept", "ovs_ct_expect")
"""Maps that the provider maps into its memory, in the order of CtMemory."""

FLAGS = abi_ct.OVS_CT_F_LOOSE | abi_ct.OVS_CT_F_OVS
"""As nf_conntrack's sysctls are when nobody sets them, and as the kernel
datapath sets a connection of TCP that is established."""
MAX_RETRANS = 3
"""nf_conntrack_tcp_max_retrans."""


@dataclass(frozen=True, slots=True)
class CtSizes:
    """Elements of the tracker's maps.

    :param records: of ovs_ct, a multiple of OVS_CT_EXP; the first one is
        nobody's
    :param buckets: of ovs_ct_tab, a power of two
    """

    records: int
    buckets: int

    @classmethod
    def for_connections(cls, most: int) -> CtSizes:
        """Sizes for `most` connections.

        A bucket has seven places; a connection takes one, or two with NAT:
        they are half full at most, or so.

        :raises ValueError: more than edges can name
        """
        if not 0 < most <= MAX_CONNECTIONS:
            raise ValueError(f"most must be in 1..{MAX_CONNECTIONS}")
        block = abi_ct.OVS_CT_EXP
        records = (most + 1 + block - 1) // block * block
        return cls(records, 1 << max(4, (most // 2 - 1).bit_length()))

    def constants(self) -> dict[str, int]:
        """What the loader sets in .rodata."""
        return {"cfg_ct_max": self.records,
                "cfg_ct_bucket_mask": self.buckets - 1}

    def entries(self) -> dict[str, int]:
        """What the loader sizes the maps to."""
        return {"ovs_ct": self.records, "ovs_ct_tab": self.buckets,
                "ovs_ct_exp": self.records // abi_ct.OVS_CT_EXP}


@dataclass(frozen=True, slots=True)
class CtMemory:
    """What the provider maps of the tracker, as 64-bit words.

    Programs write all of them but `policy`, `conf` and `kept`, the limits in
    `zones`, and most of `expects`: a store of the provider is one of an
    aligned word.

    :param cpus: reads ovs_ct_cpu: abi_ct.CPU of each CPU
    :param ask: has the program run that answers what is in `asked`
    :param records: ovs_ct: abi_ct.CT, by id
    :param expiry: ovs_ct_exp: two 32-bit seconds a word, by id
    :param zones: ovs_ct_zones: abi_ct.ZONE, by zone
    :param policy: ovs_ct_policy: abi_ct.POLICY, by row
    :param conf: ovs_ct_conf: abi_ct.CONF
    :param use: ovs_ct_use: abi_ct.USE
    :param tab: ovs_ct_tab: abi_ct.BUCKET
    :param asked: ovs_ct_asked: abi_ct.ASKS
    :param kept: ovs_ct_kept: core.conntrack.kept
    :param expects: ovs_ct_expect: abi_ct.EXPECT
    """

    cpus: Callable[[], list[bytes]]
    ask: Callable[[], None]
    records: memoryview
    expiry: memoryview
    zones: memoryview
    policy: memoryview
    conf: memoryview
    use: memoryview
    tab: memoryview
    asked: memoryview
    kept: memoryview
    expects: memoryview

    def set_up(self, random: Callable[[int], bytes], most: int) -> None:
        """Makes a new table ready for its first connection.  One of an
        earlier generation stays as it is: with what leads to connections,
        timeouts and limits.

        :param random: bytes that nobody can guess, so many
        :param most: connections that there may be
        """
        if any(self.conf):
            return
        for index, word in enumerate(default_timeouts()):
            self.policy[index] = word
        words = abi_ct.CONF.struct.pack(random(32), random(16), FLAGS, most,
                                        MAX_RETRANS, 0)
        for index, word in enumerate(memoryview(words).cast("Q")):
            self.conf[index] = word


def default_timeouts() -> memoryview:
    """A row of ovs_ct_policy as 64-bit words: nf_conntrack's defaults."""
    row = memoryview(bytearray(abi_ct.POLICY.size))
    seconds = row.cast("I")
    for index, timeout in abi_ct.DEFAULT_TIMEOUTS.items():
        seconds[index] = timeout
    return row.cast("Q")
