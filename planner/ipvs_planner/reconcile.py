"""What has to be written so that the API server says what is right: worked out anew each time from what it says now.

A caller carries the writes out in order and puts what comes back into the snapshot. Whatever happens in between, the
next reconciliation gives the rest; where all is right it gives nothing. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.labels import NODE_LABEL_PREFIX, node_label
from ipvs_api.meta import Condition, ConditionStatus, ObjectMeta, OwnerReference, number_of
from ipvs_api.plan import PlanDirector, VirtualServicePlan, VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding, VirtualServiceStatus
from ipvs_planner.assign import claimed_alone, release
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.conditions import condition_of
from ipvs_planner.fold import DEADLINE_SECONDS, fold
from ipvs_planner.group_status import compile_group
from ipvs_planner.index import Key
from ipvs_planner.node_spec import compile_node
from ipvs_planner.order import NOTHING_SAID, Word, merged, path_of, remembered, staged
from ipvs_planner.owned import MANAGED
from ipvs_planner.packed import text_of
from ipvs_planner.reasons import Reason
from ipvs_planner.reports import drains, names
from ipvs_planner.servers import concerned
from ipvs_planner.snapshot import Snapshot
from ipvs_planner.writes import Event, Reconciliation, Verb, Write

OVERDUE = "1970-01-01T00:00:00Z"
"""Since when one is behind who was overdue before this process began: long enough."""


def reconcile(snapshot: Snapshot, key: Key, now: str) -> Reconciliation:
    """The writes for one VirtualService, its plans and claims; also for one that is gone. ``now``: RFC 3339.

    Nobody is told of an address that is not claimed, so claims come alone; the status is worked out once the plans are
    stored as they should be.
    """
    compiled = compile_virtual_service(snapshot, key)
    if compiled.claiming:
        return Reconciliation(tuple(_claim(claim) for claim in compiled.claiming))
    stored = snapshot.stored.of(key)
    words = words_for(snapshot, key, stored)
    wanted = _wanted(snapshot, compiled)
    plans = stored if compiled.outcome is Outcome.KEPT else _staged(snapshot, key, wanted, stored, words)
    changes = tuple(_plan_writes(plans, stored))
    if changes and plans:
        return Reconciliation(changes)
    released = release(snapshot, key, settled=all(word.settled for word in words.values()))
    writes = tuple(_claim(claim) for claim in released.updates)
    writes += tuple(Write(Verb.DELETE, "IPVSAddress", claim.metadata) for claim in released.deletions)
    if changes:
        # The last plan goes after its claims: nothing else tells that the nodes have let go of the addresses.
        return Reconciliation(writes + changes)
    intake = snapshot.service(key)
    if intake is None:
        snapshot.lags.forget(key)
        return Reconciliation(writes)
    previous = snapshot.status(key)
    status, after = _status(snapshot, key, replace(compiled, plans=stored), wanted, previous, now)
    told: tuple[Event, ...] = ()
    if status != previous:
        metadata = ObjectMeta(key.name, key.namespace, uid=intake.uid)
        writes += (Write(Verb.STATUS, "VirtualService", metadata, status=status),)
        known = previous.conditions if previous is not None else ()
        about = ("VirtualService", key, intake.uid)
        told = tuple(transitions(about, known, status.conditions, ("Accepted", "Ready")))
    return Reconciliation(writes, told, after)


def words_for(snapshot: Snapshot, key: Key, stored: Sequence[VirtualServicePlan]) -> dict[str, Word]:
    """What each node that the stored slices are labelled for has said of them.

    A node that is not there any more is known where the plan names it. Labels of nobody count for nothing.
    """
    named = {node_label(node): node for plan in stored for node in concerned(plan.spec)}
    found = {}
    for label in {label for plan in stored for label in plan.metadata.labels if label.startswith(NODE_LABEL_PREFIX)}:
        version = snapshot.stored.version(key, label)
        node = snapshot.reports.name_of(label) or named.get(label)
        if version is not None and node is not None:
            found[node] = _word(snapshot, key, node, version)
    return found


def _word(snapshot: Snapshot, key: Key, node: str, version: int) -> Word:
    report = snapshot.reports.report(node)
    if report is None:
        return NOTHING_SAID._replace(forgotten=snapshot.reports.forgotten(node), silent=True)
    failures = [each for each in report.failures if (each.namespace, each.name) == key and not each.real_server]
    return Word(
        reached=number_of(report.observed_resource_version) >= version,
        failing=bool(failures) or report.counts.failures > len(report.failures),
        leaving=names(report, key),
        draining=lambda addresses: drains(report, key, addresses),
    )


def _wanted(snapshot: Snapshot, compiled: Compiled) -> VirtualServicePlanSpec | None:
    """What should be told to the nodes in the end; None: nothing more."""
    wanted = merged(compiled.plans) if compiled.outcome is Outcome.PLANNED else None
    if wanted is None or wanted.forwarding is Forwarding.NAT:
        return wanted
    return replace(wanted, directors=tuple(_with_macs(snapshot, each) for each in wanted.directors))


def _with_macs(snapshot: Snapshot, director: PlanDirector) -> PlanDirector:
    """With the MACs of the interfaces that have its addresses, as it reported them."""
    report = snapshot.reports.report(director.node)
    if report is None:
        return director
    macs = {each.mac for each in report.addresses if each.mac and each.address in director.addresses}
    return replace(director, macs=tuple(sorted(macs))[:16])


def _staged(
    snapshot: Snapshot,
    key: Key,
    wanted: VirtualServicePlanSpec | None,
    stored: Sequence[VirtualServicePlan],
    words: Mapping[str, Word],
) -> tuple[VirtualServicePlan, ...]:
    """The slices as they should be stored now."""
    claims = claimed_alone(snapshot, key)
    holders = {node for claim in claims for node in claim.holders if not snapshot.reports.forgotten(node)}
    if wanted is None and not stored and holders:
        addresses = [text_of(claim.address.packed) for claim in claims]
        return remembered(key, addresses, claims[0].owner.group, holders, snapshot.plan_namespace)
    return staged(wanted, stored, words, holders, snapshot.plan_namespace)


def _claim(claim: IPVSAddress) -> Write:
    verb = Verb.APPLY if claim.metadata.uid else Verb.CREATE
    return Write(verb, "IPVSAddress", replace(claim.metadata, labels=MANAGED), claim.spec)


def _plan_writes(plans: Sequence[VirtualServicePlan], stored: Sequence[VirtualServicePlan]) -> Iterator[Write]:
    """Slices that differ from what is stored, then those that are too many."""
    there = {plan.metadata.name: plan for plan in stored}
    for plan in plans:
        meta = replace(plan.metadata, labels={**MANAGED, **plan.metadata.labels})
        before = there.pop(meta.name, None)
        if before is not None:
            if (before.spec, before.metadata.labels) == (plan.spec, meta.labels):
                continue
            meta = replace(meta, uid=before.metadata.uid, resource_version=before.metadata.resource_version)
        yield Write(Verb.APPLY, "VirtualServicePlan", meta, plan.spec)
    for plan in there.values():
        yield Write(Verb.DELETE, "VirtualServicePlan", plan.metadata)


def _status(
    snapshot: Snapshot,
    key: Key,
    compiled: Compiled,
    wanted: VirtualServicePlanSpec | None,
    previous: VirtualServiceStatus | None,
    now: str,
) -> tuple[VirtualServiceStatus, float | None]:
    """The status, and after how many seconds time alone may change it; None: never."""
    versions: dict[str, int] = {}
    for plan in compiled.plans:
        version = number_of(plan.metadata.resource_version)
        for node in concerned(plan.spec):
            versions[node] = max(version, versions.get(node, -1))
    voids = {node: void for node in versions if (void := snapshot.reports.void(node)) is not None}
    reports = {node: report for node in versions if (report := snapshot.reports.report(node)) is not None}
    reached = {node: number_of(report.observed_resource_version) for node, report in reports.items()}
    behind = snapshot.lags.behind(key, versions, reached, now, since=OVERDUE if _was_overdue(previous) else "")
    unfinished = _unfinished(wanted, compiled.plans)
    status = fold(compiled, reports, previous, now, voids=voids, unfinished=unfinished, behind=behind)
    left = (DEADLINE_SECONDS - seconds for seconds in behind.values() if seconds < DEADLINE_SECONDS)
    return status, min(left, default=None)


def _was_overdue(previous: VirtualServiceStatus | None) -> bool:
    """A director was; since when, nobody remembers once another operator works."""
    ready = condition_of(previous.conditions, "Ready") if previous is not None else None
    return ready is not None and ready.reason == Reason.LAGGING


def _unfinished(wanted: VirtualServicePlanSpec | None, stored: Sequence[VirtualServicePlan]) -> str:
    """What real servers have to do before directors may send as wanted; empty where they do."""
    now = merged(stored)
    if wanted is None or now is None:
        return ""
    directed = {(backend.node, backend.role) for backend in now.backends if backend.directed}
    waiting = sorted({each.node for each in wanted.backends if (each.node, each.role) not in directed})
    if path_of(now) != path_of(wanted):
        return f"Real servers prepare for forwarding {wanted.forwarding}; until then it is {now.forwarding}."
    arriving = [f"port {each.name}" for each in now.ports if not each.directed]
    arriving += [f"address {each.address}" for each in now.addresses if not each.directed]
    if arriving:
        return f"Real servers are being made ready for {', '.join(arriving[:10])}."
    more = f" and {len(waiting) - 10} more" if len(waiting) > 10 else ""
    return f"Being prepared before traffic is sent to them: {', '.join(waiting[:10])}{more}." if waiting else ""


def transitions(
    about: tuple[str, Key, str], before: Sequence[Condition], after: Sequence[Condition], kinds: Iterable[str]
) -> Iterator[Event]:
    """Which of these conditions have turned, for those who look at the events of an object: ``about`` is its kind, key
    and UID. A reason that several have is told once, in the words of the first of ``kinds``."""
    what, key, uid = about
    told = set()
    for kind in kinds:
        old, new = condition_of(before, kind), condition_of(after, kind)
        if new is None or (old is not None and (old.status, old.reason) == (new.status, new.reason)):
            continue
        good = new.status == ConditionStatus.TRUE
        if (good or _worse(old, new)) and new.reason not in told:
            told.add(new.reason)
            words = new.message or f"{kind} is {new.status}."
            yield Event(what, key.namespace, key.name, uid, not good, str(new.reason), words[:1024])


def _worse(old: Condition | None, new: Condition) -> bool:
    """It says no; or it said yes and is not sure any more."""
    return new.status == ConditionStatus.FALSE or (old is not None and old.status == ConditionStatus.TRUE)


def reconcile_node(snapshot: Snapshot, name: str) -> Reconciliation:
    """The IPVSNode of a Node, which goes when the Node goes."""
    node = snapshot.reports.presence(name)
    if node is None:
        return Reconciliation()
    before = snapshot.reports.spec(name)
    spec = compile_node(snapshot, name, before).spec
    if before == spec:
        return Reconciliation()
    owner = OwnerReference("Node", name, node.uid, "v1")
    metadata = ObjectMeta(
        name, uid=snapshot.reports.uid(name), labels=MANAGED, owner_references=(owner,) if node.uid else ()
    )
    return Reconciliation((Write(Verb.APPLY, "IPVSNode", metadata, spec),))


def reconcile_group(snapshot: Snapshot, name: str, now: str) -> Reconciliation:
    """The status of a DirectorGroup."""
    uid, previous = snapshot.group_as_stored(name)
    status = compile_group(snapshot, name, previous, now)
    if status is None or status == previous:
        return Reconciliation()
    return Reconciliation((Write(Verb.STATUS, "DirectorGroup", ObjectMeta(name, uid=uid), status=status),))


def orphaned(snapshot: Snapshot) -> Iterable[Key]:
    """Who has stored plans or claims and is not there any more: deleted while nobody looked."""
    everybody = {*snapshot.stored.keys(), *snapshot.addresses.pool.owners()}
    return [key for key in everybody if snapshot.facts(key) is None]
