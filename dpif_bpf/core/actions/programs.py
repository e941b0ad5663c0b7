# SPDX-License-Identifier: Apache-2.0
"""Action lists in ovs_acts: each distinct one is there once.

Flows by the thousand have the same few lists of actions.  A
:class:`ProgramCache` compiles a list (``core.actions.compiler``) the first
time it is met, keeps its instructions in the arena while anyone holds it, and
knows it again by its bytes.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from dpif_bpf.core.actions.compiler import compile_actions, no_samples
from dpif_bpf.core.actions.conntrack import TimeoutPolicies
from dpif_bpf.core.actions.insn import Compiled, Desc, UserspaceDesc
from dpif_bpf.core.arena import Arena
from dpif_bpf.core.conntrack.policy import Policy
from dpif_bpf.errors import DpifError
from dpif_bpf.wire.facts import KeyFacts

__all__ = ["Compiled", "DescTable", "Program", "ProgramCache",
           "UserspaceDesc", "compile_actions"]

_ID_MASK = 0xFFFFFFFF

COPIES_LATE = 1200
"""ms after which the last copy is refused that was deferred for a packet which
found the program: OVS_SLOT_STALE of bpf/lib/act_recirc.h and a clock that
ticks rarely."""
_VLAN_CFI = 0x1000


class DescTable:
    """Names userspace descriptors by the 32-bit numbers of OVS_OP_USERSPACE.

    A number is not given again before all others were, so that a late upcall
    finds its own descriptor or none.
    """

    def __init__(self) -> None:
        self._descs: dict[int, Desc] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._descs)

    def add(self, desc: Desc) -> int:
        """Takes `desc` in; its number, never 0."""
        number = self._last
        while True:
            number = number + 1 & _ID_MASK
            if number and number not in self._descs:
                break
        self._last = number
        self._descs[number] = desc
        return number

    def get(self, number: int) -> Desc | None:
        """The descriptor of an upcall; None when its flow is long gone."""
        return self._descs.get(number)

    def remove(self, number: int) -> None:
        """Forgets a descriptor, of which no upcall is under way any more."""
        del self._descs[number]


@dataclass(slots=True, eq=False)
class Program:
    """A list of actions in ovs_acts.

    :param pc: index of its first instruction, never 0
    :param words: how many words it has there
    :param desc_ids: its descriptors in the DescTable
    :param policies: timeout policies that it holds
    """

    pc: int
    words: int
    desc_ids: tuple[int, ...]
    _compiled: Compiled
    policies: tuple[Policy, ...] = ()
    _refs: int = 1
    _keys: set[tuple[bytes, KeyFacts]] = field(default_factory=set)


class _Held:
    """The timeout policies that a list of actions is to have.

    :ivar asked: whether there is one that names any
    """

    def __init__(self, timeouts: TimeoutPolicies | None) -> None:
        self._timeouts = timeouts
        self._policies: list[Policy] = []
        self.asked = False

    def row(self, name: str, family: int, proto: int) -> int:
        """See Context."""
        self.asked = True
        if self._timeouts is None:
            return 0
        policy = self._timeouts.hold(name, family, proto)
        if policy is None:
            return 0
        self._policies.append(policy)
        return policy.row

    def take(self) -> tuple[Policy, ...]:
        """Gives them to somebody who releases them."""
        taken = tuple(self._policies)
        self._policies.clear()
        return taken

    def close(self) -> None:
        """Releases those that nobody took."""
        for policy in self.take():
            assert self._timeouts is not None
            self._timeouts.release(policy)


class ProgramCache:
    """The programs of one arena.

    Programs that nobody holds are taken out at once, but their words and
    descriptors stay until a grace period has passed: see :meth:`seal`.

    :param clock: ms, monotonic: deferred copies may still need
        their instructions after the grace period
    :param psample: whether samples can be sent
    :ivar timeouts: the timeout policies; None: there are none
    """

    KEYS = 256
    """How many (list, facts) are remembered of one program."""
    PAGE = 32
    """Words of ovs_acts in which a program is looked for by its place."""

    def __init__(self, arena: Arena, descs: DescTable,
                 clock: Callable[[], int],
                 psample: Callable[[], bool] = no_samples) -> None:
        self._clock = clock
        self._psample = psample
        self.timeouts: TimeoutPolicies | None = None
        self._arena = arena
        self._descs = descs
        self._by_key: dict[tuple[bytes, KeyFacts], Program] = {}
        self._by_code: dict[tuple[bytes, tuple[Desc, ...]],
                            Program] = {}
        self._by_page: dict[int, list[Program]] = {}
        """Those that have words in a page."""
        self._late: deque[tuple[int, Program]] = deque()
        """Programs that deferred copies may name until then, in order."""

    def __len__(self) -> int:
        return len(self._by_code)

    def get(self, data: bytes, facts: KeyFacts,
            base: int | None = None) -> Program:
        """The program of a list of actions, held until :meth:`release`.

        :param base: see ``core.actions.compiler.compile_actions``
        :raises RequestError: as compile_actions()
        :raises BackendError: ENOSPC when the arena is full
        """
        if facts.vlan_tci & ~_VLAN_CFI:
            # Only whether there is a tag matters to actions.
            facts = replace(facts, vlan_tci=facts.vlan_tci & _VLAN_CFI)
        key = data, facts
        program = self._by_key.get(key)
        if program is not None:
            program._refs += 1
            return program
        held = _Held(self.timeouts)
        try:
            compiled = compile_actions(data, facts, base, self._psample,
                                       held.row)
            program = self._by_code.get((compiled.code, compiled.uspace))
            if program is not None:
                program._refs += 1
            else:
                program = self._load(compiled)
                program.policies = held.take()
        finally:
            held.close()
        if held.asked:
            # Another time there may be another policy of that name.
            return program
        if len(program._keys) >= self.KEYS:
            self._forget(program)
        program._keys.add(key)
        self._by_key[key] = program
        return program

    def hold(self, program: Program) -> None:
        """One more holder of a program that someone holds."""
        assert program._refs > 0
        program._refs += 1

    def holding(self, pc: int) -> Program | None:
        """The program that has a word of ovs_acts, held until release(); None
        when nobody holds it any more."""
        for program in self._by_page.get(pc // self.PAGE, ()):
            if program.pc <= pc < program.pc + program.words:
                program._refs += 1
                return program
        return None

    def release(self, program: Program) -> None:
        """Ends a get() or a hold()."""
        assert program._refs > 0
        program._refs -= 1
        if program._refs:
            return
        self._forget(program)
        compiled = program._compiled
        del self._by_code[compiled.code, compiled.uspace]
        for page in self._pages(program):
            there = self._by_page[page]
            there.remove(program)
            if not there:
                del self._by_page[page]
        if compiled.deferred:
            self._arena.quarantine.retire(self._wait, program)
        else:
            self._retire(program)

    def _retire(self, program: Program) -> None:
        self._arena.free(program.pc, program.words)
        for number in program.desc_ids:
            self._arena.quarantine.retire(self._descs.remove, number)
        for policy in program.policies:
            assert self.timeouts is not None
            self._arena.quarantine.retire(self.timeouts.release, policy)

    def _wait(self, program: Program) -> None:
        """Of the packets that found it, none is running any more, but
        copies that these deferred may come until COPIES_LATE."""
        if not self._late:
            self._arena.quarantine.retire(self._age)
        self._late.append((self._clock() + COPIES_LATE, program))

    def _age(self) -> None:
        """Once in every grace period while there are such programs.  One
        that comes no more may still be running: for one period."""
        now = self._clock()
        while self._late and self._late[0][0] <= now:
            self._retire(self._late.popleft()[1])
        if self._late:
            self._arena.quarantine.retire(self._age)

    def seal(self) -> int:
        """Closes the batch of what was released: Quarantine.seal()."""
        return self._arena.quarantine.seal()

    def advance(self, epoch: int, most: int = sys.maxsize) -> int:
        """Frees what was released up to `epoch`: Quarantine.advance().

        To be called when the grace period has passed and the upcalls that
        were queued by then have been read.
        """
        return self._arena.quarantine.advance(epoch, most)

    def _load(self, compiled: Compiled) -> Program:
        ids = tuple(map(self._descs.add, compiled.uspace))
        try:
            pc, words = self._arena.store(compiled.link(ids))
        except DpifError:
            for number in ids:
                self._descs.remove(number)
            raise
        program = Program(pc, words, ids, compiled)
        self._by_code[compiled.code, compiled.uspace] = program
        for page in self._pages(program):
            self._by_page.setdefault(page, []).append(program)
        return program

    def _pages(self, program: Program) -> range:
        return range(program.pc // self.PAGE,
                     (program.pc + program.words - 1) // self.PAGE + 1)

    def _forget(self, program: Program) -> None:
        for key in program._keys:
            del self._by_key[key]
        program._keys.clear()
