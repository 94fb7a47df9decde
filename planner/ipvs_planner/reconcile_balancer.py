"""What has to be written for a Service of type LoadBalancer: the VirtualService that it owns, and its status.

That VirtualService is planned, programmed and reported like any other; here its verdict is carried back. It goes when
the Service goes, by our own hand, since nobody may be collecting garbage. Pure, as ``reconcile`` is.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ipvs_api.core import LoadBalancerIngress, LoadBalancerStatus, Service, ServiceCondition, ServiceStatus
from ipvs_api.meta import Condition, ConditionStatus, ObjectMeta, OwnerReference
from ipvs_api.virtualservice import VirtualServiceSpec, VirtualServiceStatus
from ipvs_planner.backends import CLASS_PREFIX
from ipvs_planner.balancers import Asked, asked
from ipvs_planner.compiled import joined
from ipvs_planner.conditions import condition_of, is_true, settle
from ipvs_planner.index import Key
from ipvs_planner.owned import MANAGED, OwnedService
from ipvs_planner.reasons import WITHDRAWN, Finding, Reason
from ipvs_planner.reconcile import transitions
from ipvs_planner.snapshot import Snapshot
from ipvs_planner.writes import Event, Reconciliation, Verb, Write

ACCEPTED, READY = f"{CLASS_PREFIX}Accepted", f"{CLASS_PREFIX}Ready"
"""Types of our conditions, apart from those that others may put on a Service."""

IP_MODE = "Proxy"
"""With ``VIP``, kube-proxy would answer on the client's node itself, and no director would see the traffic."""


def reconcile_balancer(snapshot: Snapshot, key: Key, now: str) -> Reconciliation:
    """The writes for one Service, also for one that is gone or wants no load balancer any more. ``now``: RFC 3339."""
    service, owned = snapshot.backends.balancer(key), snapshot.owned.of(key)
    if service is None or service.metadata.deletion_timestamp:
        return Reconciliation((*_deleted(key, owned), *_cleared(snapshot, key, service)))
    if owned is not None and owned.service != service.metadata.uid:
        if owned.made_here:
            return Reconciliation(tuple(_deleted(key, owned)))
        owned = None
    wants = asked(service)
    if not wants.refusals and owned is None and snapshot.facts(key) is not None:
        wants = Asked(None, (_in_the_way(key),))
    status = snapshot.status(key) if owned is not None else None
    if wants.spec is None:
        return Reconciliation(*_told(key, service, _refused(wants, service, status), now))
    if owned is None:
        return _made(snapshot, key, service, wants.spec, now)
    if owned.spec.director_group != wants.spec.director_group:
        return Reconciliation(tuple(_deleted(key, owned)))
    writes: tuple[Write, ...] = ()
    if not owned.made_here or _in_order(owned.spec) != _in_order(wants.spec):
        writes = (_applied(key, service, owned.uid, wants.spec),)
    verdict = _carried_back(key, wants, service, owned, status)
    told, events = _told(key, service, verdict, now) if verdict is not None else ((), ())
    return Reconciliation((*writes, *told), events)


def _made(snapshot: Snapshot, key: Key, service: Service, spec: VirtualServiceSpec, now: str) -> Reconciliation:
    """Its VirtualService, as soon as nothing of one for another group is left."""
    left = _left(snapshot, key, spec.director_group)
    words = f"It waits until the nodes have let go of what it had of {left}." if left else "It is being planned."
    told, events = _told(key, service, _pending(words), now) if left or _shows(service) else ((), ())
    return Reconciliation(told if left else (*told, _applied(key, service, "", spec)), events)


def _deleted(key: Key, owned: OwnedService | None) -> Iterator[Write]:
    if owned is not None and owned.made_here:
        yield Write(Verb.DELETE, "VirtualService", ObjectMeta(key.name, key.namespace, owned.uid))


def _cleared(snapshot: Snapshot, key: Key, service: Service | None) -> Iterator[Write]:
    """An empty status, which takes away what is ours of it and nobody else's."""
    uid = snapshot.backends.told(key)
    if service is not None and (_shows(service) or _own(service)):
        uid = service.metadata.uid
    if uid:
        yield Write(Verb.STATUS, "Service", ObjectMeta(key.name, key.namespace, uid), status=ServiceStatus())


def _in_the_way(key: Key) -> Finding:
    return Finding(
        Reason.VIRTUAL_SERVICE_EXISTS,
        f"VirtualService {key} is there already and was not made for this Service, so it is left alone; delete or "
        "rename it, or give the Service another name",
    )


def _left(snapshot: Snapshot, key: Key, group: str) -> str:
    """For which other group something is programmed or claimed still, in words; empty: for none."""
    pool = snapshot.addresses.pool
    claimed = {pool.claims[address].owner.group for address in pool.owned(key)}
    others = sorted({snapshot.held(key).group, *claimed} - {"", group})
    return ", ".join(f"DirectorGroup {each}" for each in others)


def _applied(key: Key, service: Service, uid: str, spec: VirtualServiceSpec) -> Write:
    """Nothing of the Service's labels and annotations: what others see in them they would see in both."""
    owner = OwnerReference("Service", key.name, service.metadata.uid, "v1", controller=True)
    metadata = ObjectMeta(key.name, key.namespace, uid, labels=MANAGED, owner_references=(owner,))
    return Write(Verb.APPLY, "VirtualService", metadata, spec)


def _in_order(spec: VirtualServiceSpec) -> VirtualServiceSpec:
    """Lists that are sets may come back in another order."""
    return replace(
        spec,
        ports=tuple(sorted(spec.ports, key=lambda port: port.name)),
        addresses=tuple(sorted(spec.addresses)),
        allowed_sources=tuple(sorted(spec.allowed_sources)),
        scheduler_flags=tuple(sorted(spec.scheduler_flags)) if spec.scheduler_flags is not None else None,
    )


class _Verdict(NamedTuple):
    """What the Service is told. The conditions are without time and generation."""

    accepted: Condition
    ready: Condition
    addresses: Sequence[str] = ()


def _told(key: Key, service: Service, verdict: _Verdict, now: str) -> tuple[tuple[Write, ...], tuple[Event, ...]]:
    """The Service's status, where it has to be written, and whom to tell."""
    generation, before = service.metadata.generation, _own(service)
    said = [replace(each, observed_generation=generation) for each in (verdict.accepted, verdict.ready)]
    conditions = settle(said, before, now)
    ingress = tuple(LoadBalancerIngress(address, ip_mode=IP_MODE) for address in verdict.addresses)
    if (conditions, ingress) == (before, service.status.load_balancer.ingress):
        return (), ()
    told = ServiceStatus(LoadBalancerStatus(ingress), tuple(map(_written, conditions)))
    metadata = ObjectMeta(key.name, key.namespace, service.metadata.uid)
    about = ("Service", key, service.metadata.uid)
    events = tuple(transitions(about, before, conditions, (ACCEPTED, READY)))
    return (Write(Verb.STATUS, "Service", metadata, status=told),), events


def _refused(wants: Asked, service: Service, status: VirtualServiceStatus | None) -> _Verdict:
    """``status``: of the VirtualService that it has all the same."""
    reason = wants.refusals[0].reason
    kept = status is not None and status.addresses
    words = "What was accepted before stays as it is." if kept else "It is not served."
    return _Verdict(
        Condition(ACCEPTED, ConditionStatus.FALSE, reason, joined(wants.refusals)),
        Condition(READY, ConditionStatus.FALSE, reason, words),
        _addresses(service, status),
    )


def _pending(words: str) -> _Verdict:
    return _Verdict(
        Condition(ACCEPTED, ConditionStatus.UNKNOWN, Reason.PENDING, words),
        Condition(READY, ConditionStatus.UNKNOWN, Reason.PENDING, words),
    )


def _carried_back(
    key: Key, wants: Asked, service: Service, owned: OwnedService, status: VirtualServiceStatus | None
) -> _Verdict | None:
    """What the VirtualService's status says of it as it is now; None: nothing yet."""
    if status is None or status.observed_generation != owned.generation:
        return None
    accepted, ready = condition_of(status.conditions, "Accepted"), condition_of(status.conditions, "Ready")
    if accepted is None or ready is None:
        return None
    words = f"VirtualService {key.name}: {accepted.message}"
    if is_true(accepted):
        words = "\n".join(filter(None, (*(str(note) for note in wants.notes), accepted.message)))
    return _Verdict(
        Condition(ACCEPTED, accepted.status, accepted.reason, words),
        Condition(READY, ready.status, ready.reason, ready.message),
        _addresses(service, status),
    )


def _addresses(service: Service, status: VirtualServiceStatus | None) -> Sequence[str]:
    """What clients are told: what is programmed, once all nodes had it; nothing any more once that is to be taken
    away."""
    if status is None:
        return ()
    accepted = condition_of(status.conditions, "Accepted")
    withdrawn = accepted is not None and not is_true(accepted) and accepted.reason in WITHDRAWN
    if withdrawn or not (_shows(service) or is_true(condition_of(status.conditions, "Ready"))):
        return ()
    return tuple(each.address for each in status.addresses)


def _shows(service: Service) -> bool:
    """Clients are told of addresses."""
    return bool(service.status.load_balancer.ingress)


def _own(service: Service) -> tuple[Condition, ...]:
    """Our conditions as they are stored; one of a status that is none counts as Unknown."""
    statuses = {str(status): status for status in ConditionStatus}
    return tuple(
        Condition(
            each.type,
            statuses.get(each.status, ConditionStatus.UNKNOWN),
            each.reason,
            each.message,
            each.observed_generation,
            each.last_transition_time,
        )
        for kind in (ACCEPTED, READY)
        for each in service.status.conditions
        if each.type == kind
    )


def _written(condition: Condition) -> ServiceCondition:
    return ServiceCondition(
        condition.type,
        condition.status,
        condition.reason,
        condition.message,
        condition.observed_generation,
        condition.last_transition_time,
    )


def balancers(snapshot: Snapshot) -> Iterable[Key]:
    """Every Service that there is something to do for, those included that are gone and have left something behind."""
    return {*snapshot.backends.balancers(), *snapshot.owned.keys()}
