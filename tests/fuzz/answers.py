# SPDX-License-Identifier: Apache-2.0
"""What netlink answers, whatever was asked.

Each request of a datagram has its answer, in order: Linux
net/netlink/af_netlink.c (``netlink_rcv_skb``) and genetlink.c
(``genl_family_rcv_msg``); which commands of OVS reply, and when:
net/openvswitch/datapath.c and meter.c.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from dpif_bpf.wire import uapi as u
from dpif_bpf.wire.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_ECHO,
    NLM_F_MULTI,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
    NLMSG_MIN_TYPE,
    Message,
    iter_attrs,
    iter_messages,
    parse_error,
)
from tests.fuzz.damage import request_headers

HEADERS = 24
"""nlmsghdr, genlmsghdr, struct ovs_header."""


@dataclass(frozen=True, slots=True)
class Family:
    """Commands: all, those that always reply, those that may be dumped, and
    those that reply to NLM_F_ECHO."""

    commands: frozenset[int]
    replies: frozenset[int] = frozenset()
    dumps: frozenset[int] = frozenset()
    echoes: frozenset[int] = frozenset()


_ALL = frozenset((1, 2, 3, 4))
_GET = frozenset((3,))
FAMILIES = {
    u.OVS_DATAPATH_ID: Family(_ALL, _GET, _GET, _ALL),
    u.OVS_VPORT_ID: Family(_ALL, _GET, _GET, _ALL),
    u.OVS_FLOW_ID: Family(_ALL, _GET, _GET, _ALL),
    u.OVS_PACKET_ID: Family(frozenset((u.OVS_PACKET_CMD_EXECUTE,))),
    u.OVS_METER_ID: Family(_ALL, _ALL),
    u.OVS_CT_LIMIT_ID: Family(frozenset((1, 2, 3)), frozenset((1, 2, 3))),
}


class Answers:
    """The messages that answer one datagram, taken one after the other."""

    def __init__(self, replies: Iterable[bytes]) -> None:
        self._left = deque(message for reply in replies
                           for message in iter_messages(reply))

    def check(self, datagram: bytes) -> list[int]:
        """Compares them with what was asked.

        :returns: errno of each request that was to be answered; 0 for none
        """
        found = [self._answer(datagram[pos:pos + size], type_, flags, seq,
                              pid)
                 for pos, size, type_, flags, seq, pid
                 in request_headers(datagram)]
        assert not self._left, f"more than was asked for: {self._left[0]}"
        return [code for code in found if code is not None]

    def _next(self, seq: int, pid: int) -> Message:
        assert self._left, f"request {seq} has no answer"
        message = self._left.popleft()
        assert (message.seq, message.pid) == (seq, pid)
        return message

    def _error(self, message: Message, raw: bytes) -> int:
        assert message.type == NLMSG_ERROR
        code, text, offset = parse_error(message)
        assert message.raw[20:36] == raw[:16]
        assert code == 0 or (code in errno.errorcode and text)
        assert text is None or (
            "unexpectedly" not in text and "cannot be read" not in text)
        assert offset is None or 16 <= offset <= len(raw)
        return code

    def _answer(self, raw: bytes, type_: int, flags: int, seq: int,
                pid: int) -> int | None:
        if not flags & NLM_F_REQUEST or type_ < NLMSG_MIN_TYPE:
            if flags & NLM_F_ACK:
                assert self._error(self._next(seq, pid), raw) == 0
            return None
        family = FAMILIES.get(type_)
        refused = self._refused(family, raw, flags)
        if refused:
            code = self._error(self._next(seq, pid), raw)
            assert code == refused
            return code
        assert family is not None
        if flags & NLM_F_DUMP == NLM_F_DUMP:
            return self._dump(type_, seq, pid, raw)
        return self._one(family, type_, flags, seq, pid, raw)

    @staticmethod
    def _refused(family: Family | None, raw: bytes, flags: int) -> int:
        """errno where generic netlink itself refuses a request."""
        if family is None:
            return errno.EOPNOTSUPP
        if len(raw) < HEADERS:
            return errno.EINVAL
        if raw[16] not in family.commands or (
                flags & NLM_F_DUMP == NLM_F_DUMP
                and raw[16] not in family.dumps):
            return errno.EOPNOTSUPP
        return 0

    def _dump(self, type_: int, seq: int, pid: int, raw: bytes) -> int:
        while True:
            message = self._next(seq, pid)
            if message.type == NLMSG_ERROR:
                code = self._error(message, raw)
                assert code
                return code
            assert message.flags & NLM_F_MULTI
            if message.type == NLMSG_DONE:
                return 0
            self._reply(message, type_)

    def _one(self, family: Family, type_: int, flags: int, seq: int,
             pid: int, raw: bytes) -> int:
        cmd = raw[16]
        asked = bool(flags & NLM_F_ECHO) and cmd in family.echoes
        must = asked or cmd in family.replies
        replied = False
        if must and self._has(seq, type_):
            self._reply(self._next(seq, pid), type_)
            replied = True
        code = 0
        if self._has(seq, NLMSG_ERROR):
            code = self._error(self._next(seq, pid), raw)
            assert not (code and replied)
            assert code or flags & NLM_F_ACK
        else:
            assert not flags & NLM_F_ACK
        if (type_, cmd) == (u.OVS_FLOW_ID, u.OVS_FLOW_CMD_DEL):
            return code  # it may be a flush, which has no reply
        assert code or replied or not must
        return code

    def _has(self, seq: int, type_: int) -> bool:
        """Whether the next one is such a message."""
        return bool(self._left) and (
            self._left[0].seq, self._left[0].type) == (seq, type_)

    @staticmethod
    def _reply(message: Message, type_: int) -> None:
        assert message.type == type_
        for _ in iter_attrs(message.raw, HEADERS):
            pass
