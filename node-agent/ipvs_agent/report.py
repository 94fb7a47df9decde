"""What this node tells: exceptions only, bounded, in words. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
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

PROGRAMMING = "Programming"
"""Reason while rows of a plan are being written."""

_ELSEWHERE = (Reason.KERNEL_REFUSED, Reason.FOREIGN_ENTRY, PROGRAMMING)
"""Failures that conditions other than Networking tell."""


@dataclass(frozen=True)
class Standing:
    """How things are after a pass.

    ``drains``: plan, real server's address, since (RFC 3339), for each of its ports. ``repairing``: services still to
    write.

    ``outstanding``: plans some row of which is still to be written. ``foreign``: what others have on our addresses,
    in words.
    """

    host: Host
    plans: int
    directing: int
    serving: int
    findings: Mapping[Owner, Sequence[Finding]] = field(default_factory=dict)
    troubles: Sequence[Trouble] = ()
    outstanding: Collection[Owner] = ()
    drains: Sequence[tuple[Owner, str, str]] = ()
    foreign: Sequence[str] = ()
    source_errors: Sequence[str] = ()
    repairing: int = 0


def report(standing: Standing, previous: IPVSNodeStatus, now: str) -> IPVSNodeStatus:
    """The node's report; conditions keep their ``lastTransitionTime`` while their status stays."""
    failures = list(_failures(standing))
    failing = {(failure.namespace, failure.name) for failure in failures}
    since: dict[tuple[Owner, str], str] = {}
    for owner, server, at in standing.drains:
        since[owner, server] = min(at, since.get((owner, server), at))
    draining = [ReportedServer(*_split(owner), server, "Draining", at) for (owner, server), at in since.items()]
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
    for owner in sorted(filter(is_plan, standing.outstanding)):
        yield PlanFailure(*_split(owner), PROGRAMMING, "is still being written to the kernel and read back")
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
    theirs = (failure.message for failure in failures if failure.reason == Reason.FOREIGN_ENTRY)
    foreign = list(dict.fromkeys([*standing.foreign, *theirs]))
    network = [failure for failure in failures if failure.reason not in _ELSEWHERE]
    told = [failure.message for failure in network]
    wanted = [
        _condition("KernelReady", not refused, "AsNeeded", "KernelRefused", refused),
        _condition("Coexistence", not foreign, "NothingForeign", "ForeignEntry", foreign),
        _condition("Networking", not network, "AsRequired", network[0].reason if network else "", told or notes),
        _condition("Manifests", not standing.source_errors, "AllRead", "Invalid", standing.source_errors),
    ]
    if standing.repairing:
        ready = Condition(
            "Ready",
            ConditionStatus.FALSE,
            "Repairing",
            f"{standing.repairing} services are still to be written again",
        )
    elif standing.outstanding:
        words = "plans are still being written to the kernel and read back"
        ready = Condition("Ready", ConditionStatus.FALSE, PROGRAMMING, f"{len(standing.outstanding)} {words}")
    else:
        problems = [condition.type for condition in wanted if condition.status is ConditionStatus.FALSE]
        ready = _condition(
            "Ready", not problems, "Programmed", "SeeConditions", [f"see {', '.join(problems)}"] if problems else []
        )
    before = {condition.type: condition for condition in previous}
    return tuple(_dated(condition, before.get(condition.type), now) for condition in (ready, *wanted))


def _condition(kind: str, holds: bool, good: str, bad: str, messages: Sequence[str]) -> Condition:
    shown = "; ".join(dict.fromkeys(messages[:3]))
    more = f" (and {len(messages) - 3} more)" if len(messages) > 3 else ""
    status = ConditionStatus.TRUE if holds else ConditionStatus.FALSE
    return Condition(kind, status, good if holds else bad, shown + more)


def _dated(condition: Condition, before: Condition | None, now: str) -> Condition:
    same = before is not None and before.status is condition.status
    at = before.last_transition_time if before is not None and same else now
    return Condition(condition.type, condition.status, condition.reason, condition.message, 0, at)
