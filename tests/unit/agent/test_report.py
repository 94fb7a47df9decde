"""The node's report: exceptions only, bounded, in words, with conditions that move only when their status does."""

from tests.unit.agent.plans import host

from ipvs_agent.desired.share import Finding, Reason, Severity
from ipvs_agent.report import Standing, report
from ipvs_agent.troubles import Trouble
from ipvs_api.meta import Condition, ConditionStatus
from ipvs_api.node import REPORT_EXCEPTIONS, IPVSNodeStatus

EARLIER, NOW = "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"


def standing(**more: object) -> Standing:
    return Standing(host(), plans=3, directing=2, serving=1, **more)  # type: ignore[arg-type]


def conditions(status: IPVSNodeStatus) -> dict[str, Condition]:
    return {condition.type: condition for condition in status.conditions}


def test_when_all_is_well_it_says_so_and_names_nobody() -> None:
    status = report(standing(), IPVSNodeStatus(), NOW)
    assert {condition.status for condition in status.conditions} == {ConditionStatus.TRUE}
    assert status.failures == ()
    assert (status.counts.plans, status.counts.programmed, status.counts.directing) == (3, 3, 2)


def test_a_requirement_that_does_not_hold_is_a_failure_of_its_plan() -> None:
    finding = Finding(Reason.REAL_SERVER_NOT_ON_LINK, "10.0.0.9: behind a router", "10.0.0.9")
    status = report(standing(findings={"shop/web": [finding]}), IPVSNodeStatus(), NOW)
    (failure,) = status.failures
    assert (failure.namespace, failure.name, failure.real_server) == ("shop", "web", "10.0.0.9")
    assert conditions(status)["Networking"].reason == "RealServerNotOnLink"
    assert conditions(status)["Ready"].status is ConditionStatus.FALSE
    assert status.counts.programmed == 2


def test_a_note_is_told_and_nothing_fails() -> None:
    note = Finding(Reason.PATH_MTU, "clients learn path MTU 1480", severity=Severity.NOTE)
    status = report(standing(findings={"shop/web": [note]}), IPVSNodeStatus(), NOW)
    assert status.failures == ()
    assert conditions(status)["Networking"].message == "clients learn path MTU 1480"
    assert conditions(status)["Ready"].status is ConditionStatus.TRUE


def test_what_the_kernel_refuses_is_told_also_when_it_is_no_plans() -> None:
    trouble = Trouble(("@node",), Reason.KERNEL_REFUSED, "sysctl net.x: read-only", 0.0, 1.0)
    status = report(standing(troubles=[trouble]), IPVSNodeStatus(), NOW)
    assert status.failures == ()
    assert conditions(status)["KernelReady"].message == "sysctl net.x: read-only"
    assert conditions(status)["Ready"].status is ConditionStatus.FALSE


def test_what_is_cut_off_is_counted_and_told() -> None:
    finding = Finding(Reason.REAL_SERVER_SILENT, "silent")
    many = {f"shop/web-{n}": [finding] for n in range(REPORT_EXCEPTIONS + 1)}
    status = report(standing(findings=many), IPVSNodeStatus(), NOW)
    assert len(status.failures) == REPORT_EXCEPTIONS
    assert status.truncated
    assert status.counts.failures == REPORT_EXCEPTIONS + 1


def test_a_repair_is_told_while_it_goes_on() -> None:
    status = report(standing(repairing=1234), IPVSNodeStatus(), NOW)
    assert conditions(status)["Ready"].reason == "Repairing"
    assert "1234" in conditions(status)["Ready"].message


def test_a_condition_moves_only_when_its_status_does() -> None:
    first = report(standing(), IPVSNodeStatus(), EARLIER)
    second = report(standing(foreign=["tcp 192.0.2.10:80 is not ours"]), first, NOW)
    assert conditions(second)["Coexistence"].last_transition_time == NOW
    assert conditions(second)["KernelReady"].last_transition_time == EARLIER
    assert report(standing(), first, NOW).conditions == first.conditions
