"""From what was planned and what nodes report to a VirtualService's status. Pure and total."""

from collections.abc import Iterable, Mapping, Sequence

from ipvs_api.meta import Condition, ConditionStatus
from ipvs_api.node import IPVSNodeStatus
from ipvs_api.virtualservice import (
    STATUS_NAMES,
    NodeCount,
    NodeCounts,
    NodeFailure,
    RealServerCounts,
    StatusAddress,
    Summary,
    VirtualServiceStatus,
)
from ipvs_planner.compiled import Compiled, Outcome, accepted_condition
from ipvs_planner.conditions import condition_of, is_true, settle
from ipvs_planner.progress import Progress, Stage, progress_of
from ipvs_planner.reasons import Reason
from ipvs_planner.reports import Void

NO_VOIDS: Mapping[str, Void] = {}
NOT_BEHIND: Mapping[str, float] = {}

DEADLINE_SECONDS = 60
"""How long an owning director may be behind before Ready turns False."""


def fold(
    compiled: Compiled,
    reports: Mapping[str, IPVSNodeStatus],
    previous: VirtualServiceStatus | None,
    now: str,
    *,
    here: str = "",
    voids: Mapping[str, Void] = NO_VOIDS,
    unfinished: str = "",
    behind: Mapping[str, float] = NOT_BEHIND,
) -> VirtualServiceStatus:
    """The status of ``compiled``'s VirtualService.

    ``compiled.plans`` are the plans as stored (with their resource versions, where there are any); for a refused one
    whose plans are kept, put the stored plans in. ``reports``: by node; leave out what is void. ``now``: RFC 3339.
    ``here``: the only host whose report can be seen, where hosts do not report to each other; other hosts are Unknown.
    ``voids``: whose report does not count, and why. ``unfinished``: what is still to be told to the nodes, in words.
    ``behind``: for how many seconds nodes have been behind (``lags``).
    """
    before = previous.conditions if previous is not None else ()
    progress = progress_of(compiled, reports, here, voids)
    owning = [progress[node] for node in _owners(compiled, progress)]
    everybody = owning if here else list(progress.values())
    conditions = [accepted_condition(compiled), _programmed(compiled, progress)]
    conditions.append(_ready(compiled, owning, everybody, before, unfinished, behind))
    waiting = _names(everybody, Stage.LAGGING)
    if unfinished or waiting:
        reason = Reason.PREPARING if unfinished else Reason.PENDING
        message = unfinished or f"Waiting for {waiting}."
        conditions.append(_condition(compiled, "Reconciling", ConditionStatus.TRUE, reason, message))
    if compiled.refusals:
        message = "It stays refused until it, or what it is refused for, is changed."
        conditions.append(_condition(compiled, "Stalled", ConditionStatus.TRUE, compiled.refusals[0].reason, message))
    directors = {director.node for plan in compiled.plans for director in plan.spec.directors}
    done = {entry.node for entry in progress.values() if entry.stage is Stage.PROGRAMMED}
    addresses = compiled.plans[0].spec.addresses if compiled.plans else ()
    answering = {entry.node for entry in progress.values() if entry.stage in (Stage.PROGRAMMED, Stage.PARTLY)}
    return VirtualServiceStatus(
        observed_generation=compiled.generation,
        addresses=tuple(
            StatusAddress(entry.address, entry.holder if entry.directed and entry.holder in answering else "")
            for entry in addresses
        ),
        conditions=settle(conditions, before, now),
        directors=NodeCount(desired=len(directors), programmed=len(directors & done)),
        real_servers=RealServerCounts(
            total=compiled.servers.total,
            healthy=compiled.servers.healthy or 0,
            draining=len(_draining(compiled, reports, directors)),
        ),
        nodes=NodeCounts(desired=len(progress), programmed=len(done), failures=tuple(_failures(progress.values()))),
        summary=Summary(
            vip=",".join(entry.address for entry in addresses),
            healthy=_healthy(compiled),
            nodes=f"{len(done)}/{len(progress)}",
        ),
    )


def _healthy(compiled: Compiled) -> str:
    if not compiled.plans:
        return ""
    total, healthy = compiled.servers
    return "unchecked" if healthy is None else f"{healthy}/{total}"


def _owners(compiled: Compiled, progress: Mapping[str, Progress]) -> list[str]:
    """Directors that answer for a VIP: its holder, or all where it has none."""
    if not compiled.plans:
        return []
    spec = compiled.plans[0].spec
    holders = {address.holder for address in spec.addresses}
    return sorted({director.node for director in spec.directors} if "" in holders else holders & progress.keys())


def _condition(compiled: Compiled, kind: str, status: ConditionStatus, reason: str, message: str) -> Condition:
    return Condition(type=kind, status=status, reason=reason, message=message, observed_generation=compiled.generation)


def _programmed(compiled: Compiled, progress: Mapping[str, Progress]) -> Condition:
    """True only when every node has said so."""
    if not compiled.plans:
        return _condition(compiled, "Programmed", ConditionStatus.FALSE, Reason.REFUSED, "Nothing is planned for it.")
    entries = list(progress.values())
    failing = [entry for entry in entries if entry.stage in (Stage.FAILED, Stage.PARTLY)]
    unknown = [entry for entry in entries if entry.stage is Stage.UNKNOWN]
    status, reason, message = ConditionStatus.TRUE, str(Reason.PROGRAMMED), ""
    if failing:
        status, reason, message = ConditionStatus.FALSE, Reason.PROGRAMMING_FAILED, failing[0].message
    elif any(entry.stage is Stage.LAGGING for entry in entries):
        status, reason = ConditionStatus.FALSE, Reason.PENDING
        message = f"Waiting for {_names(entries, Stage.LAGGING)}."
    elif unknown:
        status, reason, message = ConditionStatus.UNKNOWN, unknown[0].reason, unknown[0].message
    done = sum(entry.stage is Stage.PROGRAMMED for entry in entries)
    return _condition(
        compiled, "Programmed", status, reason, f"{done} of {len(entries)} nodes have it. {message}".strip()
    )


def _ready(
    compiled: Compiled,
    owning: Sequence[Progress],
    everybody: Sequence[Progress],
    before: Sequence[Condition],
    unfinished: str,
    behind: Mapping[str, float],
) -> Condition:
    """True once every node concerned has read the current generation back from its kernel.

    After that False only when an owning director lacks the current spec, no real server is left, or it is refused.
    """
    if not compiled.plans or compiled.refusals:
        reason = str(compiled.refusals[0].reason if compiled.refusals else Reason.REFUSED)
        stays = compiled.plans and compiled.outcome is Outcome.KEPT
        message = "What was accepted before stays as it is." if stays else "It is not served."
        return _condition(compiled, "Ready", ConditionStatus.FALSE, reason, message)
    total, healthy = compiled.servers
    if healthy == 0:
        message = f"None of {total} real servers is ready." if total else "There are no real servers."
        return _condition(compiled, "Ready", ConditionStatus.FALSE, Reason.NO_REAL_SERVERS, message)
    judged = owning if _was_ready(compiled, before) else everybody
    failed = [entry for entry in owning if entry.stage is Stage.FAILED]
    lagging = [entry for entry in judged if entry.stage is Stage.LAGGING]
    unknown = [entry for entry in judged if entry.stage in (Stage.UNKNOWN, Stage.FAILED)]
    overdue = [
        entry for entry in owning if entry.stage is Stage.LAGGING and behind.get(entry.node, 0.0) >= DEADLINE_SECONDS
    ]
    status, reason = ConditionStatus.TRUE, str(Reason.PROGRAMMED)
    message = "It is in the kernels of all nodes that have a part in it."
    if healthy is None:
        message += " Whether real servers answer is not checked."
    if failed:
        status, reason, message = ConditionStatus.FALSE, failed[0].reason, failed[0].message
    elif overdue:
        status, reason = ConditionStatus.FALSE, Reason.LAGGING
        message = f"For {DEADLINE_SECONDS} s and longer: {overdue[0].message}"
    elif unknown:
        status, reason, message = ConditionStatus.UNKNOWN, unknown[0].reason, unknown[0].message
    elif not _was_ready(compiled, before) and (lagging or unfinished):
        status, reason = ConditionStatus.UNKNOWN, Reason.PENDING
        message = lagging[0].message if lagging else unfinished
    return _condition(compiled, "Ready", status, reason, message)


def _was_ready(compiled: Compiled, before: Sequence[Condition]) -> bool:
    """Ready for this very generation: a plan that changes under it (a node came) does not make it less so."""
    ready = condition_of(before, "Ready")
    return ready is not None and is_true(ready) and ready.observed_generation == compiled.generation


def _names(entries: Iterable[Progress], stage: Stage) -> str:
    names = sorted(entry.node for entry in entries if entry.stage is stage)
    more = f" and {len(names) - STATUS_NAMES} more" if len(names) > STATUS_NAMES else ""
    return ", ".join(names[:STATUS_NAMES]) + more


def _failures(entries: Iterable[Progress]) -> Iterable[NodeFailure]:
    failing = (entry for entry in entries if entry.stage in (Stage.FAILED, Stage.PARTLY))
    chosen = sorted(failing, key=lambda entry: (entry.stage is Stage.PARTLY, entry.node))[:STATUS_NAMES]
    return (NodeFailure(entry.node, entry.reason, entry.message[:1024]) for entry in chosen)


def _draining(compiled: Compiled, reports: Mapping[str, IPVSNodeStatus], directors: Iterable[str]) -> set[str]:
    return {
        server.address
        for node in directors
        if node in reports
        for server in reports[node].draining
        if (server.namespace, server.name) == compiled.key
    }
