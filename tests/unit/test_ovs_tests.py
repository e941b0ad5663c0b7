# SPDX-License-Identifier: Apache-2.0
"""Tables of results of OVS's system tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "integration" / "ovs-tests"))

import results  # noqa: E402
import table  # noqa: E402

LIST = """\
openvswitch 3.1.0 test suite test groups:

 NUM: FILE-NAME:LINE     TEST-GROUP-NAME
      KEYWORDS

   1: system-traffic.at:3 datapath - ping between two ports
 169: system-ipsec.at:159 IPsec -- Libreswan (ipv4, psk)
      ipsec libreswan
"""

SUITE_LOG = """\
1. datapath - ping between two ports (system-traffic.at:3): ok     (0m0.7s)
2. datapath - http (x) (system-traffic.at:26): FAILED (system-traffic.at:31)
3. skips (system-traffic.at:46): skipped (system-traffic.at:48)
./system-traffic.at:56: ip link show
2. datapath - http (x) (system-traffic.at:26): ok     (0m0.7s)
"""

NO_DEVICE = """\
./system-traffic.at:56: ip netns exec at_ns0 sh << NS_EXEC_HEREDOC
ip link add link p0 name p0.100 type vlan proto 802.1q id 100
NS_EXEC_HEREDOC
--- /dev/null\t2026-11-22
+++ /run/ovs-tests/at-groups/3/stderr\t2026-11-22
@@ -0,0 +1 @@
+Error: Unknown device type.
./system-traffic.at:56: exit code was 2, expected 0
"""

OTHER_OUTPUT = """\
./system-traffic.at:20: ovs-vsctl show
./system-traffic.at:22: ping -c 3 10.1.1.2 | grep transmitted
--- -\t2026-11-22
+++ /run/ovs-tests/at-groups/1/stdout\t2026-11-22
@@ -1 +1 @@
-3 packets transmitted, 3 received,   0% packet loss, time 0ms
+3 packets transmitted, 0 received, 100% packet loss, time 0ms
./system-traffic.at:22: exit code was 0, expected 0
> 2026-11-22|00001|vlog|INFO|opened log file
"""

WAITED = """\
system-traffic.at:120: waiting until ping6 -c 1 fc00::2...
PING fc00::2 (fc00::2): 56 data bytes
system-traffic.at:120: wait failed after 30 seconds
./ovs-macros.at:247: hard failure
"""


def test_list() -> None:
    rows = results.parse_list(LIST)
    assert {number: row.name for number, row in rows.items()} == {
        1: "datapath - ping between two ports",
        169: "IPsec -- Libreswan (ipv4, psk)",
    }


def test_log_takes_the_first_word_on_a_test() -> None:
    assert results.parse_log(SUITE_LOG) == {
        1: ("passed", ""),
        2: ("failed", "system-traffic.at:31"),
        3: ("skipped", "system-traffic.at:48"),
    }


def test_cause_is_the_missing_device() -> None:
    assert results.find_cause(NO_DEVICE) == "kernel lacks VLAN_8021Q"


def test_cause_is_the_first_line_that_differs() -> None:
    assert results.find_cause(OTHER_OUTPUT) == (
        "-3 packets transmitted, 3 received, 0% packet loss, time 0ms"
    )


def test_cause_is_a_warning_without_its_time() -> None:
    log = (
        "./system-traffic.at:23: check_logs\n"
        "+++ /run/ovs-tests/stdout\t2026-11-22\n"
        "+2026-11-22T20:18:13.650Z|00118|dpif|WARN|failed\n"
    )
    assert results.find_cause(log) == "+dpif|WARN|failed"


def test_cause_is_the_exception() -> None:
    log = (
        "./system-traffic.at:4: bpfd_start\n"
        "+++ /run/ovs-tests/stdout\t2026-11-22\n"
        "+Traceback (most recent call last):\n"
        '+  File "x.py", line 1, in <module>\n'
        "+ModuleNotFoundError: No module named 'y'\n"
        "./system-traffic.at:4: exit code was 1, expected 0\n"
    )
    assert results.find_cause(log) == (
        "+ModuleNotFoundError: No module named 'y'"
    )


def test_cause_is_the_condition_waited_for() -> None:
    assert results.find_cause(WAITED) == (
        "wait failed after 30 seconds: until ping6 -c 1 fc00::2..."
    )


def test_cause_is_the_refusal_for_want_of_which_a_line_is_missing() -> None:
    switch = (
        "2026-11-22T22:00:00.1Z|00081|dpif(handler1)|WARN|bpf@ovs-bpf:"
        " execute ct(commit) failed (Invalid argument) on packet udp\n"
    )
    assert results.find_cause(OTHER_OUTPUT, switch) == (
        "bpf@ovs-bpf: execute ct(commit) failed (Invalid argument) on"
        " packet udp"
    )


def test_cause_is_the_rejected_rule_that_was_waited_for() -> None:
    switch = (
        "2026-11-22T22:00:00.1Z|00081|ofproto_dpif|WARN|Rejecting ct action"
        " because datapath does not support ct action\n"
    )
    assert results.find_cause(WAITED, switch).startswith("Rejecting ct")


def test_cause_is_that_there_is_no_connection_tracking() -> None:
    log = "1. x.at:1: testing conntrack - ping ...\n" + OTHER_OUTPUT
    switch = (
        "2026-11-22T22:00:00.1Z|00081|ofproto_dpif|INFO|bpf@ovs-bpf: Datapath"
        " does not support ct_state\n"
    )
    assert results.find_cause(log, switch).startswith(results.NO_CT + ": -3")


def test_cause_is_the_missing_filter() -> None:
    switch = (
        "2026-11-22T23:02:47.1Z|00084|netdev_linux|WARN|ovs-p0: adding"
        " cls_basic policing action failed: No such file or directory\n"
    )
    assert results.find_cause(OTHER_OUTPUT, switch) == (
        "kernel lacks NET_CLS_BASIC"
    )


def test_collect(tmp_path: Path) -> None:
    """A run that ended in test 2, of three tests."""
    suite = tmp_path / "suite"
    suite.write_text(
        "cat <<END\n 1: a.at:1 one\n 2: a.at:9 two\n 3: a.at:12 three\nEND\n"
    )
    (tmp_path / "suite.log").write_text("1. one (a.at:1): skipped (a.at:2)\n")
    (tmp_path / "suite.dir" / "2").mkdir(parents=True)
    (tmp_path / "suite.dir" / "2" / "suite.log").write_text("#\n")
    (tmp_path / "a.at").write_text("AT_SETUP\n  OVS_CHECK_8021AD()\n")
    out = tmp_path / "out.tsv"
    results.collect(suite, tmp_path, tmp_path, out)
    assert results.read_table(out) == {
        1: results.Row(1, "one", "skipped", "a.at:2", "OVS_CHECK_8021AD()"),
        2: results.Row(2, "two", "failed", "", "did not end in time"),
        3: results.Row(3, "three"),
    }


def test_check_and_learn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only tests that passed before count, and each of them does."""
    rows = {
        1: results.Row(1, "one", "passed"),
        2: results.Row(2, "two", "failed", "a.at:9", "-x"),
    }
    expected = tmp_path / "expected.tsv"
    results.learn(expected, rows)
    assert results.read_expected(expected) == {1: "one"}
    assert results.check({1: "one"}, rows)
    assert not results.check({1: "one", 2: "two"}, rows)
    assert not results.check({1: "other"}, rows)
    assert not results.check({7: "gone"}, rows)
    assert "1 passed, 1 failed, 0 skipped" in capsys.readouterr().out


def test_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, expected = tmp_path / "table.tsv", tmp_path / "expected.tsv"
    results.write_table(table, {
        1: results.Row(1, "a", "passed"), 2: results.Row(2, "b", "failed"),
        3: results.Row(3, "c", "failed")})
    expected.write_text("1\ta\n2\tb\n7\td\n")
    assert not results.main(["missing", str(expected), str(table)])
    assert capsys.readouterr().out.split() == ["2", "7"]


def test_merge_keeps_what_did_not_run(tmp_path: Path) -> None:
    record = tmp_path / "bpf-6.1.tsv"
    results.merge(record, {1: results.Row(1, "a", "failed")})
    results.merge(
        record,
        {1: results.Row(1, "a"), 2: results.Row(2, "b", "passed")},
    )
    rows = results.read_table(record)
    assert [rows[n].result for n in (1, 2)] == ["failed", "passed"]


def test_document(tmp_path: Path) -> None:
    runs = tmp_path / "results" / "3.1"
    runs.mkdir(parents=True)
    lacks = "kernel lacks GENEVE"
    results.write_table(
        runs / "bpf-6.18.tsv",
        {
            1: results.Row(1, "one", "failed", "a.at:2", "+wrong"),
            2: results.Row(2, "t,o", "failed", "a.at:9", lacks),
        },
    )
    results.write_table(
        runs / "kmod-6.1.tsv",
        {
            1: results.Row(1, "one", "passed"),
            2: results.Row(2, "t,o", "passed"),
        },
    )
    out = tmp_path / "out.rst"
    assert table.main([str(tmp_path / "results"), str(out)]) == 0
    lines = out.read_text().splitlines()
    assert "   ,test,kernel module 6.1,bpf 6.18" in lines
    assert "   1,one,passed,failed" in lines
    assert '   2,"t,o",passed,no GENEVE' in lines
    assert "- 1 (a.at:2): ``+wrong``" in lines


def test_document_is_renewed() -> None:
    """docs/ovs-tests.rst is made of the recorded results."""
    here = TOP / "integration" / "ovs-tests" / "results"
    lines = [table.INTRODUCTION.rstrip("\n")]
    for directory in table.versions(here):
        lines += table.section(directory)
    made = "\n".join(lines) + "\n"
    assert (TOP / "docs" / "ovs-tests.rst").read_text() == made
