"""What this node tells: exceptions only, bounded, in words. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ipvs_agent import __version__
from ipvs_agent.desired.share import Finding, Reason, Severity
from ipvs_agent.facts import Host
from ipvs_agent.ledger import Owner, is_plan
from ipvs_agent.troubles import Trouble
from ipvs_api.meta import Condition, ConditionStatus
from ipvs_api.node import (
    REPORT_EXCEPTIONS,
    IPVSNodeStatus,
    NodeAddress,
    PlanFailure,
    ReportCounts,
    ReportedServer,
)


@dataclass(frozen=True)
class Standing:
    """How things are after a pass.

    ``drains``: plan, real server, since (RFC 3339). ``repairing``: services still to write.

    ``foreign``: what others have on our addresses, in words.
    """

    host: Host
    plans: int
    directing: int
    serving: int
    findings: Mapping[Owner, Sequence[Finding]] = field(default_factory=dict)
    troubles: Sequence[Trouble] = ()
    drains: Sequence[tuple[Owner, str, str]] = ()
    foreign: Sequence[str] = ()
    source_errors: Sequence[str] = ()
    repairing: int = 0


def report(standing: Standing, previous: IPVSNodeStatus, now: str) -> IPVSNodeStatus:
    """The node's report; conditions keep their ``lastTransitionTime`` while their status stays."""
    failures = list(_failures(standing))
    failing = {(failure.namespace, failure.name) for failure in failures}
    draining = [ReportedServer(*_split(owner), server, "Draining", since) for owner, server, since in standing.drains]
    counts = ReportCounts(
        plans=standing.plans,
        programmed=max(standing.plans - len(failing), 0),
        directing=standing.directing,
        serving=standing.serving,
        failures=len(failures),
        draining=len(draining),
    )
    return IPVSNodeStatus(
        agent_version=__version__,
        kernel_version=standing.host.kernel_version,
        boot_id=standing.host.boot_id,
        addresses=_addresses(standing.host),
        conditions=_conditions(standing, failures, previous.conditions, now),
        counts=counts,
        failures=tuple(failures[:REPORT_EXCEPTIONS]),
        draining=tuple(draining[:REPORT_EXCEPTIONS]),
        truncated=len(failures) > REPORT_EXCEPTIONS or len(draining) > REPORT_EXCEPTIONS,
    )


def _split(owner: Owner) -> tuple[str, str]:
    namespace, _, name = owner.partition("/")
    return namespace, name


def _failures(standing: Standing) -> Iterable[PlanFailure]:
    for owner, findings in sorted(standing.findings.items()):
        for finding in findings:
            if finding.severity is not Severity.NOTE:
                yield PlanFailure(*_split(owner), finding.reason, finding.message, finding.real_server)
    for trouble in standing.troubles:
        for owner in filter(is_plan, trouble.owners):
            yield PlanFailure(*_split(owner), trouble.reason, trouble.message)


def _addresses(host: Host) -> tuple[NodeAddress, ...]:
    return tuple(
        NodeAddress(link.name, entry.address, link.mac)
        for link in sorted(host.interfaces.values(), key=lambda link: link.name)
        if not link.loopback
        for entry in link.addresses
        if not entry.ours
    )[:REPORT_EXCEPTIONS]


def _conditions(
    standing: Standing, failures: Sequence[PlanFailure], previous: Sequence[Condition], now: str
) -> tuple[Condition, ...]:
    notes = [
        finding.message
        for findings in standing.findings.values()
        for finding in findings
        if finding.severity is Severity.NOTE
    ]
    refused = [trouble.message for trouble in standing.troubles if trouble.reason is Reason.KERNEL_REFUSED]
    network = [failure.message for failure in failures if failure.reason != Reason.KERNEL_REFUSED]
    wanted = [
        _condition("KernelReady", not refused, "AsNeeded", "KernelRefused", refused),
        _condition("Coexistence", not standing.foreign, "NothingForeign", "ForeignEntry", standing.foreign),
        _condition("Networking", not network, "AsRequired", _first_reason(failures), network or notes),
        _condition("Manifests", not standing.source_errors, "AllRead", "Invalid", standing.source_errors),
    ]
    if standing.repairing:
        ready = Condition(
            "Ready",
            ConditionStatus.FALSE,
            "Repairing",
            f"{standing.repairing} services are still to be written again",
        )
    else:
        problems = [condition.type for condition in wanted if condition.status is ConditionStatus.FALSE]
        ready = _condition(
            "Ready", not problems, "Programmed", "SeeConditions", [f"see {', '.join(problems)}"] if problems else []
        )
    before = {condition.type: condition for condition in previous}
    return tuple(_dated(condition, before.get(condition.type), now) for condition in (ready, *wanted))


def _first_reason(failures: Sequence[PlanFailure]) -> str:
    return next((failure.reason for failure in failures if failure.reason != Reason.KERNEL_REFUSED), "")


def _condition(kind: str, holds: bool, good: str, bad: str, messages: Sequence[str]) -> Condition:
    shown = "; ".join(dict.fromkeys(messages[:3]))
    more = f" (and {len(messages) - 3} more)" if len(messages) > 3 else ""
    status = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
    return Condition(kind, status, good if holds else bad, shown + more)


def _dated(condition: Condition, before: Condition | None, now: str) -> Condition:
    same = before is not None and before.status is condition.status
    at = before.last_transition_time if before is not None and same else now
    return Condition(condition.type, condition.status, condition.reason, condition.message, 0, at)
