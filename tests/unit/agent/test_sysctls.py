"""Switches on plain files: what is written, in which order, and what is said when it cannot be."""

from pathlib import Path

import pytest

from ipvs_agent.kernel import sysctls
from ipvs_agent.kernel.sysctls import SysctlsTable, in_order, satisfies, settle
from ipvs_agent.rows import SysctlRow
from ipvs_agent.table import Change, Verdict, diff

FORWARD = "net/ipv4/ip_forward"
OWN = "net/ipv4/conf/eth0.7/rp_filter"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for path, value in ((FORWARD, "0"), (OWN, "1"), ("net/ipv4/tcp_rmem", "4096\t131072\t6291456")):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f"{value}\n")
    return tmp_path


def test_only_the_switches_asked_for_are_read_and_only_numbers(root: Path) -> None:
    table = SysctlsTable(root)
    assert table.read([FORWARD, OWN, "net/ipv4/tcp_rmem", "net/ipv4/vs/conntrack"]) == {
        FORWARD: SysctlRow(0),
        OWN: SysctlRow(1),
    }
    assert table.read() == {}


@pytest.mark.parametrize(
    ("wanted", "found", "enough"),
    [
        (SysctlRow(1), 1, True),
        (SysctlRow(1), 2, False),
        (SysctlRow(1, at_least=True), 2, True),
        (SysctlRow(2, at_least=True), 1, False),
    ],
)
def test_at_least_means_that_more_is_as_good(wanted: SysctlRow, found: int, enough: bool) -> None:
    assert satisfies(wanted, found) is enough


def test_a_difference_holds_what_does_not_satisfy_and_nothing_else() -> None:
    desired = {"a": SysctlRow(1, at_least=True), "b": SysctlRow(1, at_least=True), "c": SysctlRow(1), "d": SysctlRow(1)}
    observed = {"a": SysctlRow(2), "b": SysctlRow(0), "c": SysctlRow(2)}
    assert {change.key: change.old for change in diff(desired, settle(desired, observed))} == {
        "b": SysctlRow(0),
        "c": SysctlRow(2),
        "d": None,
    }


def test_what_is_more_than_enough_is_not_written(root: Path) -> None:
    (root / OWN).write_text("2\n")
    (outcome,) = SysctlsTable(root).write([Change(OWN, SysctlRow(2), SysctlRow(1, at_least=True))])
    assert outcome.verdict is Verdict.DONE
    assert (root / OWN).read_text() == "2\n"


def test_what_is_no_longer_wanted_stays(root: Path) -> None:
    (outcome,) = SysctlsTable(root).write([Change(OWN, SysctlRow(1), None)])
    assert outcome.verdict is Verdict.DONE
    assert (root / OWN).read_text() == "1\n"


def test_a_switch_that_the_kernel_lacks_is_told(root: Path) -> None:
    (outcome,) = SysctlsTable(root).write([Change("net/ipv4/vs/conntrack", None, SysctlRow(1))])
    assert outcome.verdict is Verdict.FAILED
    assert outcome.message.startswith(
        "net.ipv4.vs.conntrack should be 1, but this kernel or interface has no such switch"
    )
    assert not (root / "net/ipv4/vs").exists()


def test_a_refused_write_says_what_was_found_what_is_wanted_and_what_to_do(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(path: Path, flags: int) -> int:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(sysctls.os, "open", read_only)
    (outcome,) = SysctlsTable(root).write([Change(FORWARD, SysctlRow(0), SysctlRow(1))])
    assert outcome.verdict is Verdict.FAILED
    assert outcome.message == (
        "net.ipv4.ip_forward is 0, should be 1, and cannot be written (Read-only file system): set it on the host "
        f"(sysctl -w net.ipv4.ip_forward=1), or mount the host's /proc/sys/net writable and name it with --sysctl-root "
        f"({root} is read-only here)"
    )


def test_a_name_with_dots_keeps_its_slashes(root: Path) -> None:
    (outcome,) = SysctlsTable(root).write([Change("net/ipv4/conf/eth0.9/rp_filter", None, SysctlRow(2))])
    assert outcome.message.startswith("net/ipv4/conf/eth0.9/rp_filter should be 2")


def order(*changes: tuple[str, int]) -> list[str]:
    return [change.key for change in in_order([Change(path, None, SysctlRow(value)) for path, value in changes])]


def test_parents_come_before_what_is_derived_from_them() -> None:
    own, default, everything = (f"net/ipv4/conf/{name}/forwarding" for name in ("eth0", "default", "all"))
    assert order((own, 0), (default, 0), (everything, 1), (FORWARD, 1)) == [FORWARD, everything, default, own]


def test_router_advertisements_are_kept_before_forwarding_and_given_back_after_it() -> None:
    accept, forwarding = "net/ipv6/conf/eth0/accept_ra", "net/ipv6/conf/all/forwarding"
    assert order((forwarding, 1), (accept, 2)) == [accept, forwarding]
    assert order((accept, 1), (forwarding, 0)) == [forwarding, accept]
