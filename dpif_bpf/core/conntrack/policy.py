# SPDX-License-Identifier: Apache-2.0
"""Timeout policies: who has which, and which row of the table that is.

A connection refers to a row, and of it only its own protocol's slots count.
So policies of different protocols share a row, and there is room for as many
of each protocol as there are rows (but for row 0, the default).  What in a row
is no policy's is as the default.

As in Linux net/netfilter/nfnetlink_cttimeout.c, a policy is not deleted while
actions have it.  Connections do not keep it: with its end they go over to the
default.  One that is changed is changed for all that have it.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from dpif_bpf.abi_ct import DEFAULT_TIMEOUTS, Timeout
from dpif_bpf.core.conntrack.interface import KeptPolicies, TimeoutRows
from dpif_bpf.errors import BackendError, RequestError
from dpif_bpf.wire.cttimeout import (
    GENERIC,
    STATES,
    TimeoutPolicy,
    TimeoutRequest,
    Timeouts,
)
from dpif_bpf.wire.protocols import (
    IPPROTO_GRE,
    IPPROTO_ICMP,
    IPPROTO_ICMPV6,
    IPPROTO_SCTP,
    IPPROTO_TCP,
    IPPROTO_UDP,
    IPPROTO_UDPLITE,
)

SLOTS: Mapping[int, int] = {
    IPPROTO_TCP: Timeout.TCP + 1, IPPROTO_UDP: Timeout.UDP,
    IPPROTO_ICMP: Timeout.ICMP, IPPROTO_ICMPV6: Timeout.ICMPV6,
    GENERIC: Timeout.GENERIC, IPPROTO_GRE: Timeout.GRE,
    IPPROTO_UDPLITE: Timeout.UDPLITE, IPPROTO_SCTP: Timeout.SCTP + 1,
}
"""First slot of each protocol."""

DEFAULTS: Mapping[int, Timeouts] = {
    proto: tuple(DEFAULT_TIMEOUTS.get(first + i, 0)
                 for i in range(STATES[proto]))
    for proto, first in SLOTS.items()}
"""The kernel's, in seconds.  One that no program reads (of SCTP) is 0."""

_UNSPEC = (IPPROTO_TCP, IPPROTO_SCTP)
"""Protocols whose state 0 has a slot, before the first; it is as state 1."""

_SHARED = (IPPROTO_UDP, IPPROTO_UDPLITE)
"""Their default is one."""


def tracked(proto: int) -> int:
    """The protocol whose timeouts count for `proto`: itself, or GENERIC."""
    return proto if proto in STATES else GENERIC


@dataclass(eq=False, slots=True)
class Policy:
    """A policy.

    :param made: what was asked for, as it is now
    :param row: of the table, never 0
    :param users: actions that have it
    """

    made: TimeoutPolicy
    row: int
    users: int = 0


class Policies:
    """All policies, and the defaults.

    :param table: its rows are written at once
    :param kept: what an earlier provider had is taken from it, and what
        changes put there
    """

    def __init__(self, table: TimeoutRows, kept: KeptPolicies) -> None:
        self._table = table
        self._kept = kept
        self._defaults = dict(DEFAULTS)
        self._by_name: dict[str, Policy] = {}
        self._rows: dict[int, dict[int, Policy]] = {0: {}}
        """Those that are used: whose their protocols' slots are."""
        self._free: dict[int, int] = dict.fromkeys(STATES, 1)
        """A row before which none is free, by protocol."""
        for row, made in kept.policies():
            if row:
                policy = self._by_name[made.name] = Policy(made, row)
                self._rows.setdefault(row, {})[made.proto] = policy
            else:
                self._defaults[made.proto] = made.timeouts
        for row in self._rows:
            self._write_row(row)

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Policy]:
        """All of them, the oldest first."""
        return iter(tuple(self._by_name.values()))

    def get(self, name: str) -> Policy:
        """:raises RequestError: ENOENT"""
        policy = self._by_name.get(name)
        if policy is None:
            raise RequestError(errno.ENOENT,
                               f"there is no timeout policy {name}")
        return policy

    def new(self, request: TimeoutRequest) -> None:
        """IPCTNL_MSG_TIMEOUT_NEW: makes a policy, or changes it.

        Timeouts that are not given are those of the default, as it is now.

        :raises RequestError: EEXIST and EBUSY when there is one of that name;
            EINVAL when it is of another family or protocol; EOPNOTSUPP for a
            protocol without timeouts
        :raises BackendError: ENOMEM when no row is left
        """
        there = self._by_name.get(request.name)
        if there is not None:
            self._change(there, request)
            return
        made = TimeoutPolicy(request.name, request.l3num, request.proto,
                             self._completed(request))
        policy = Policy(made, self._free_row(request.proto))
        self._kept.put_policy(policy.row, made)
        self._by_name[made.name] = policy
        if policy.row in self._rows:
            self._rows[policy.row][made.proto] = policy
            self._write(policy.row, made.proto, made.timeouts)
        else:
            self._rows[policy.row] = {made.proto: policy}
            self._write_row(policy.row)

    def _change(self, policy: Policy, request: TimeoutRequest) -> None:
        if request.exclusive:
            raise RequestError(
                errno.EEXIST, f"there is a timeout policy {request.name}")
        if not request.replace:
            raise RequestError(
                errno.EBUSY, f"timeout policy {request.name} is there, and is"
                " not to be replaced")
        made = policy.made
        if (made.l3num, made.proto) != (request.l3num, request.proto):
            raise RequestError(
                errno.EINVAL, f"timeout policy {request.name} is of another"
                " family or protocol")
        policy.made = replace(made, timeouts=self._completed(request))
        self._write(policy.row, made.proto, policy.made.timeouts)
        self._kept.put_policy(policy.row, policy.made)

    def delete(self, name: str) -> None:
        """:raises RequestError: ENOENT; EBUSY while actions have it"""
        policy = self.get(name)
        if policy.users:
            raise RequestError(
                errno.EBUSY, f"{policy.users} actions have timeout policy"
                f" {name}")
        del self._by_name[name]
        proto, row = policy.made.proto, policy.row
        self._kept.drop_policy(row, proto)
        self._table.untimeout(proto, row)
        del self._rows[row][proto]
        if self._rows[row]:
            self._write(row, proto, self._defaults[proto])
        else:
            del self._rows[row]
        self._free[proto] = min(self._free[proto], row)

    def clear(self) -> None:
        """Deletes all that no action has."""
        for policy in self:
            if not policy.users:
                self.delete(policy.made.name)

    def default(self, l3num: int, proto: int) -> TimeoutPolicy:
        """:raises RequestError: EOPNOTSUPP"""
        self._check(proto)
        return TimeoutPolicy("", l3num, proto, self._defaults[proto])

    def set_default(self, request: TimeoutRequest) -> None:
        """IPCTNL_MSG_TIMEOUT_DEFAULT_SET; of connections that there are, from
        their next packet on.

        :raises RequestError: EOPNOTSUPP
        """
        timeouts = self._completed(request)
        for proto in (_SHARED if request.proto in _SHARED
                      else (request.proto,)):
            self._kept.put_policy(0, TimeoutPolicy("", 0, proto, timeouts))
            self._defaults[proto] = timeouts
            for row, policies in self._rows.items():
                if proto not in policies:
                    self._write(row, proto, timeouts)

    def hold(self, name: str, family: int, proto: int) -> Policy | None:
        """The policy that an action ct(timeout=`name`) has from now on.

        :param family: of the packets that the action's flow matches
        :param proto: their IP protocol; 0: not matched
        :returns: None when there is none of that name for such packets: the
            action is none the worse for it, and stays so
        """
        policy = self._by_name.get(name)
        if (policy is None or policy.made.l3num != family
                or policy.made.proto != tracked(proto)):
            return None
        policy.users += 1
        return policy

    def release(self, policy: Policy) -> None:
        """Ends a hold(), when no program can make a connection of it any
        more."""
        assert policy.users > 0
        policy.users -= 1

    def use(self, policy: Policy) -> int:
        """CTA_TIMEOUT_USE."""
        return policy.users + 1

    def _free_row(self, proto: int) -> int:
        """The first one that no other policy of the protocol has.

        :raises BackendError: ENOMEM
        """
        row = self._free[proto]
        while row < self._table.rows:
            if proto not in self._rows.get(row, ()):
                self._free[proto] = row
                return row
            row += 1
        raise BackendError(
            errno.ENOMEM, f"there are {row - 1} timeout policies of IP"
            f" protocol {proto} already")

    def _check(self, proto: int) -> None:
        if proto not in STATES:
            raise RequestError(errno.EOPNOTSUPP,
                               f"IP protocol {proto} has no timeouts")

    def _completed(self, request: TimeoutRequest) -> Timeouts:
        self._check(request.proto)
        return tuple(request.timeouts.get(kind, default) for kind, default
                     in enumerate(self._defaults[request.proto], 1))

    def _write_row(self, row: int) -> None:
        policies = self._rows[row]
        for proto, default in self._defaults.items():
            self._write(row, proto, policies[proto].made.timeouts
                        if proto in policies else default)

    def _write(self, row: int, proto: int, timeouts: Timeouts) -> None:
        first = SLOTS[proto]
        if proto in _UNSPEC:
            first, timeouts = first - 1, (timeouts[0], *timeouts)
        self._table.set_timeouts(row, first, timeouts)


class Holds:
    """The policies that the actions of one datapath have.

    :param policies: None: there are none
    """

    def __init__(self, policies: Policies | None = None) -> None:
        self._policies = policies
        self._held: Counter[Policy] = Counter()

    def hold(self, name: str, family: int, proto: int) -> Policy | None:
        """Policies.hold()."""
        if self._policies is None:
            return None
        policy = self._policies.hold(name, family, proto)
        if policy is not None:
            self._held[policy] += 1
        return policy

    def release(self, policy: Policy) -> None:
        """Policies.release() of what hold() gave."""
        assert self._policies is not None and self._held[policy]
        self._held[policy] -= 1
        self._policies.release(policy)

    def close(self) -> None:
        """The datapath has gone, and its actions with it."""
        for policy in list(self._held.elements()):
            self.release(policy)
