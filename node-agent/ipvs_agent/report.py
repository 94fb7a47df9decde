"""What this node tells: exceptions only, bounded, in words. Pure."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

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
    ReportedService,
)

PROGRAMMING = "Programming"
"""Reason while rows of a plan are being written."""

NOT_LISTED = "NotListed"
"""Reason while a source has not told everything once."""

ADDRESSES, MESSAGE_LENGTH, CONDITION_LENGTH = 256, 1024, 4096
"""Bounds of a report's fields: a report that breaks one is refused as a whole."""

_LINK_LOCAL = ("fe80:", "169.254.")

_ELSEWHERE = (Reason.KERNEL_REFUSED, Reason.FOREIGN_ENTRY, Reason.PLAN_UNREADABLE, PROGRAMMING)
"""Failures that conditions other than Networking tell."""


class SourceState(NamedTuple):
    """Whether what is wanted can be read, as a condition. ``bad``: its reason where there are ``errors``."""

    condition: str = "Manifests"
    bad: str = "Invalid"
    errors: Sequence[str] = ()


@dataclass(frozen=True)
class Standing:
    """How things are after a pass.

    ``drains``: plan, real server's address, since (RFC 3339), for each of its ports. ``repairing``: services still to
    write.

    ``outstanding``: plans some row of which is still to be written. ``leaving``: virtual services of which something
    is here that no plan wants. ``foreign``: what others have on our addresses, in words. ``observed``: the resource
    version up to which plans are in the kernel; empty for manifests, which have none.
    """

    host: Host
    plans: int
    directing: int
    serving: int
    findings: Mapping[Owner, Collection[Finding]] = field(default_factory=dict)
    troubles: Sequence[Trouble] = ()
    outstanding: Collection[Owner] = ()
    drains: Sequence[tuple[Owner, str, str]] = ()
    leaving: Collection[Owner] = ()
    foreign: Sequence[str] = ()
    source: SourceState = field(default_factory=SourceState)
    repairing: int = 0
    observed: str = ""


def report(standing: Standing, previous: IPVSNodeStatus, now: str) -> IPVSNodeStatus:
    """The node's report. What was so in the ``previous`` one keeps its time, so that nothing in it ticks."""
    failures = list(_failures(standing))
    failing = {(failure.namespace, failure.name) for failure in failures}
    draining = _draining(standing.drains, previous.draining)
    leaving = [ReportedService(*_split(owner)) for owner in sorted(standing.leaving)]
    counts = ReportCounts(
        plans=standing.plans,
        programmed=max(standing.plans - len(failing), 0),
        directing=standing.directing,
        serving=standing.serving,
        failures=len(failures),
        draining=len(draining),
        leaving=len(leaving),
    )
    named = (failures, draining, leaving)
    return IPVSNodeStatus(
        agent_version=__version__,
        kernel_version=standing.host.kernel_version[:128],
        boot_id=standing.host.boot_id,
        addresses=_addresses(standing.host),
        conditions=_conditions(standing, failures, previous.conditions, now),
        observed_resource_version=standing.observed,
        counts=counts,
        failures=tuple(failures[:REPORT_EXCEPTIONS]),
        draining=tuple(draining[:REPORT_EXCEPTIONS]),
        leaving=tuple(leaving[:REPORT_EXCEPTIONS]),
        truncated=any(len(several) > REPORT_EXCEPTIONS for several in named),
    )


def report_lacking(words: str, kernel_version: str, boot_id: str, before: IPVSNodeStatus, now: str) -> IPVSNodeStatus:
    """Of a node whose kernel lacks a module without which nothing can be done: ``words`` name it and the remedy."""
    known = {condition.type: condition for condition in before.conditions}
    wanted = (_condition(kind, False, "", "ModuleMissing", [words]) for kind in ("Ready", "KernelReady"))
    return IPVSNodeStatus(
        agent_version=__version__,
        kernel_version=kernel_version[:128],
        boot_id=boot_id,
        conditions=tuple(_dated(condition, known.get(condition.type), now) for condition in wanted),
    )


def _draining(drains: Iterable[tuple[Owner, str, str]], before: Iterable[ReportedServer]) -> list[ReportedServer]:
    """One for each real server, with the earliest of its ports' times; one that was told keeps the time told."""
    told = {(one.namespace, one.name, one.address): one.since for one in before}
    since: dict[tuple[Owner, str], str] = {}
    for owner, server, at in drains:
        since[owner, server] = min(at, since.get((owner, server), at))
    return [
        ReportedServer(*_split(owner), server, "Draining", told.get((*_split(owner), server), at))
        for (owner, server), at in sorted(since.items())
    ]


def _split(owner: Owner) -> tuple[str, str]:
    namespace, _, name = owner.partition("/")
    return namespace, name


def _failures(standing: Standing) -> Iterable[PlanFailure]:
    for owner, findings in sorted(standing.findings.items()):
        for finding in findings:
            if finding.severity is not Severity.NOTE:
                message = _clipped(finding.message, MESSAGE_LENGTH)
                yield PlanFailure(*_split(owner), finding.reason, message, finding.real_server)
    for owner in sorted(filter(is_plan, standing.outstanding)):
        yield PlanFailure(*_split(owner), PROGRAMMING, "is still being written to the kernel and read back")
    for trouble in standing.troubles:
        for owner in filter(is_plan, trouble.owners):
            yield PlanFailure(*_split(owner), trouble.reason, _clipped(trouble.message, MESSAGE_LENGTH))


def _clipped(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _addresses(host: Host) -> tuple[NodeAddress, ...]:
    """The host's own, those on links that other hosts reach first, by name.

    Link-local ones are no addresses of the node's, and of one that several links have (as some pod networks give all
    their hosts' ends the same) the oldest link's is told, so that pods that come and go do not change a report.
    """
    found: dict[str, tuple[bool, str, NodeAddress]] = {}
    for link in sorted(host.interfaces.values(), key=lambda link: link.ifindex):
        for entry in link.addresses:
            if not (link.loopback or entry.ours or entry.address.startswith(_LINK_LOCAL)):
                told = NodeAddress(link.name, entry.address, link.mac)
                found.setdefault(entry.address, (link.noarp, link.name, told))
    ordered = sorted(found.values(), key=lambda each: each[:2])
    return tuple(address for _, _, address in ordered[:ADDRESSES])


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
    source = standing.source
    wanted = [
        _condition("KernelReady", not refused, "AsNeeded", "KernelRefused", refused),
        _condition("Coexistence", not foreign, "NothingForeign", "ForeignEntry", foreign),
        _condition("Networking", not network, "AsRequired", network[0].reason if network else "", told or notes),
        _condition(source.condition, not source.errors, "AllRead", source.bad, source.errors),
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
    return Condition(kind, status, good if holds else bad, _clipped(shown, CONDITION_LENGTH) + more)


def _dated(condition: Condition, before: Condition | None, now: str) -> Condition:
    same = before is not None and before.status is condition.status
    at = before.last_transition_time if before is not None and same else now
    return Condition(condition.type, condition.status, condition.reason, condition.message, 0, at)
