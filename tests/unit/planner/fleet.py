"""A small cluster in memory: an API server, operators that write to it, and nodes that do as they are told and report.

The server keeps what a real one keeps to: resource versions that grow, preconditions, and no change for a write that
changes nothing. Operators are the product's store and reconciliation, without queue and connection. Nodes have no
kernel: what they send traffic to, and what they have a role for, is remembered, so that it can be looked at.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from ipvs_agent.linger import directors_let_go
from ipvs_agent.slices import together
from ipvs_api.ipaddress import IPVSAddress, IPVSAddressSpec
from ipvs_api.labels import node_label
from ipvs_api.meta import Condition, ConditionStatus, ObjectKey, ObjectMeta
from ipvs_api.node import IPVSNode, IPVSNodeStatus, NodeAddress, ReportedServer, ReportedService
from ipvs_api.plan import PlanPath, ServerRole, VirtualServicePlan, VirtualServicePlanSpec
from ipvs_api.virtualservice import VirtualService
from ipvs_operator.items import Item, Work
from ipvs_operator.store import Store
from ipvs_planner.index import Key
from ipvs_planner.order import path_of
from ipvs_planner.reconcile import reconcile, reconcile_group, reconcile_node
from ipvs_planner.reconcile_balancer import reconcile_balancer
from ipvs_planner.servers import bears_roles
from ipvs_planner.snapshot import Declared
from ipvs_planner.writes import Reconciliation, Verb, Write

NAMESPACE = "ipvs-system"
NOW = "2026-01-01T00:00:00Z"


class RefusedError(Exception):
    """409 or 404: it is there already, is not there, or is not what the writer thought."""


class KilledError(Exception):
    """The operator is dead."""


class Entry(NamedTuple):
    """What happened to an object; None: it was deleted."""

    key: ObjectKey
    version: int
    object: Any


class ApiServer:
    """``budget``: the operator that writes dies before the write after so many."""

    def __init__(self) -> None:
        self.objects: dict[ObjectKey, Any] = {}
        self.log: list[Entry] = []
        self.budget: int | None = None
        self.written = 0
        self.declared = 0

    @property
    def version(self) -> int:
        return len(self.log)

    def declare(self, *declared: Declared) -> None:
        """``kubectl apply`` by a person: the spec and labels are theirs, the status is not."""
        for each in declared:
            key = key_of(each)
            before = self.objects.get(key)
            meta = each.metadata
            if before is not None:
                generation = before.metadata.generation + (spec_of(before) != spec_of(each))
                meta = replace(meta, uid=before.metadata.uid, generation=generation)
            else:
                self.declared += 1
                made = meta.creation_timestamp or f"2026-01-01T00:00:{self.declared:02}Z"
                meta = replace(meta, uid=f"uid-{self.version + 1}", generation=1, creation_timestamp=made)
            kept = {"status": before.status} if before is not None and key.kind in STATUSES else {}
            self._store(key, replace(each, metadata=meta, **kept))

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        self._store(ObjectKey(kind, namespace, name), None)

    def carry_out(self, write: Write) -> Any:
        """The object as it is stored now; None: it is gone."""
        if self.budget is not None:
            if not self.budget:
                raise KilledError
            self.budget -= 1
        self.written += 1
        meta = write.metadata
        key = ObjectKey(write.kind, meta.namespace, meta.name)
        before = self.objects.get(key)
        self._check(write, before)
        if write.verb is Verb.DELETE:
            self._store(key, None)
            return None
        if write.verb is Verb.STATUS:
            changed = replace(before, status=write.status)
        elif before is None:
            made = replace(meta, uid=f"uid-{self.version + 1}", generation=1, creation_timestamp=NOW)
            changed = KINDS[write.kind](metadata=made, spec=write.spec)
        else:
            generation = before.metadata.generation + (before.spec != write.spec)
            metadata = replace(before.metadata, labels=meta.labels, generation=generation)
            changed = replace(before, metadata=metadata, spec=write.spec)
        self._store(key, changed)
        return self.objects[key]

    def _check(self, write: Write, before: Any) -> None:
        meta, there = write.metadata, before is not None
        if write.verb is Verb.CREATE:
            refused = there
        else:
            refused = not there and (bool(meta.uid) or write.verb is not Verb.APPLY)
            refused |= there and bool(meta.uid) and meta.uid != before.metadata.uid
            refused |= there and meta.resource_version not in ("", before.metadata.resource_version)
        if refused:
            raise RefusedError(str(write))

    def report(self, name: str, status: IPVSNodeStatus) -> None:
        """By a node's agent."""
        key = ObjectKey("IPVSNode", "", name)
        if key in self.objects:
            self._store(key, replace(self.objects[key], status=status))

    def _store(self, key: ObjectKey, changed: Any) -> None:
        """As it comes back from the wire, which checks every bound."""
        before = self.objects.get(key)
        if changed is None:
            del self.objects[key]
            self.log.append(Entry(key, self.version + 1, None))
            return
        if before is not None and replace(changed, metadata=unversioned(changed)) == replace(
            before, metadata=unversioned(before)
        ):
            return
        version = self.version + 1
        changed = replace(changed, metadata=replace(changed.metadata, resource_version=str(version)))
        self.objects[key] = msgspec.json.decode(msgspec.json.encode(changed), type=type(changed))
        self.log.append(Entry(key, version, self.objects[key]))

    def copy(self) -> "ApiServer":
        made = ApiServer()
        made.objects, made.log = dict(self.objects), list(self.log)
        made.written, made.declared = self.written, self.declared
        return made

    def of(self, kind: str) -> list[Any]:
        return [each for key, each in sorted(self.objects.items()) if key.kind == kind]


STATUSES = ("VirtualService", "DirectorGroup", "IPVSNode", "Service")
KINDS: dict[str, Any] = {kind.__name__: kind for kind in (VirtualService, VirtualServicePlan, IPVSNode, IPVSAddress)}


def key_of(declared: Declared) -> ObjectKey:
    return ObjectKey(type(declared).__name__, declared.metadata.namespace, declared.metadata.name)


def spec_of(declared: Any) -> Any:
    return getattr(declared, "spec", None)


def unversioned(declared: Any) -> ObjectMeta:
    return replace(declared.metadata, resource_version="")


class Operator:
    """What the operator's workers do, one item at a time. ``heard``: up to where of the server's log."""

    def __init__(self, server: ApiServer) -> None:
        self.server = server
        self.now = NOW
        self.dirty: dict[Item, None] = {}
        self.store = Store(NAMESPACE, self._mark, judges_pods=False)
        self.heard = server.version
        for kind in {key.kind for key in server.objects}:
            self.store.replace(kind, server.of(kind), str(server.version))
        self.dirty = dict.fromkeys(self.store.everything())

    def _mark(self, item: Item, *, bulk: bool = False) -> None:
        self.dirty[item] = None

    def hear(self, count: int | None = None) -> None:
        """What happened on the server next: ``count`` changes, or all."""
        until = self.server.version if count is None else min(self.heard + count, self.server.version)
        for key, version, there in self.server.log[self.heard : until]:
            if there is None:
                self.store.remove(key, str(version))
            else:
                self.store.put(there)
        self.heard = until

    def work_out(self, item: Item) -> Reconciliation:
        snapshot = self.store.snapshot
        if item.work is Work.NODE:
            return reconcile_node(snapshot, item.name)
        if item.work is Work.GROUP:
            return reconcile_group(snapshot, item.name, self.now)
        if item.work is Work.BALANCER:
            return reconcile_balancer(snapshot, Key(item.namespace, item.name), self.now)
        return reconcile(snapshot, Key(item.namespace, item.name), self.now)

    def work(self, item: Item) -> None:
        self.dirty.pop(item, None)
        writes = [self._fenced(write) for write in self.work_out(item).writes]
        specs = (write.spec for write in writes if write.verb is Verb.CREATE)
        claimed = [spec.address for spec in specs if isinstance(spec, IPVSAddressSpec)]
        for address in claimed:
            self.store.snapshot.reserve(address, Key(item.namespace, item.name))
        try:
            for write in writes:
                stored = self.server.carry_out(write)
                if stored is not None:
                    self.store.put(stored)
        except RefusedError:
            self._look(write)
            self._mark(item)
        finally:
            for address in claimed:
                self.store.unreserve(address)

    def _fenced(self, write: Write) -> Write:
        version = self.store.version(self._key(write))
        if version is None or not write.metadata.uid or write.metadata.resource_version:
            return write
        return write._replace(metadata=replace(write.metadata, resource_version=str(version)))

    def _look(self, write: Write) -> None:
        key = self._key(write)
        if key in self.server.objects:
            self.store.put(self.server.objects[key])
        else:
            self.store.remove(key)

    @staticmethod
    def _key(write: Write) -> ObjectKey:
        return ObjectKey(write.kind, write.metadata.namespace, write.metadata.name)

    def settle(self) -> None:
        """All there is to do, as far as it has heard."""
        for _ in range(500):
            self.hear()
            if not self.dirty:
                return
            self.work(next(iter(self.dirty)))
        raise AssertionError(f"never settles: {list(self.dirty)}")


class Target(NamedTuple):
    """Where a director sends: to which node (empty: a machine outside) in what role, at which address, how."""

    node: str
    role: ServerRole
    address: str
    path: PlanPath


Role = tuple[ServerRole, PlanPath]


class Agent:
    """One node. It takes plans in, and reports, when it is told to."""

    def __init__(self, fleet: "Fleet", name: str, addresses: tuple[str, ...]) -> None:
        self.fleet, self.name, self.addresses = fleet, name, addresses
        self.seen = 0
        self.versions: dict[str, str] = {}
        self.plans: dict[Key, VirtualServicePlanSpec] = {}
        self.connections: dict[Key, set[Target]] = {}
        self.lingering: dict[Key, set[Role]] = {}

    def learn(self) -> None:
        """Take in all plans as they are now; others' changes are no news, so that a report makes no report."""
        server, slices = self.fleet.server, dict[Key, list[VirtualServicePlan]]()
        for plan in server.of("VirtualServicePlan"):
            if node_label(self.name) in plan.metadata.labels:
                owner = plan.spec.virtual_service
                slices.setdefault(Key(owner.namespace, owner.name), []).append(plan)
        versions = {plan.metadata.name: plan.metadata.resource_version for plans in slices.values() for plan in plans}
        if versions == self.versions:
            return
        self.versions, self.seen, before = versions, server.version, self.plans
        self.plans = {
            key: together([plan.spec for plan in sorted(plans, key=lambda plan: int(plan.metadata.resource_version))])
            for key, plans in slices.items()
        }
        for key in before.keys() | self.plans.keys():
            self._follow(key, before.get(key), self.plans.get(key))

    def _follow(self, key: Key, before: VirtualServicePlanSpec | None, after: VirtualServicePlanSpec | None) -> None:
        lost = self._roles(before) - self._roles(after)
        if lost and before is not None and after is not None and directors_let_go(before, after, self.name):
            self.fleet.check_let_go(self.name, key, lost)
        elif lost:
            self.lingering.setdefault(key, set()).update(lost)
        for target in self.sends(key):
            self.fleet.check_role(self.name, key, target)
            self.connections.setdefault(key, set()).add(target)

    def _roles(self, plan: VirtualServicePlanSpec | None) -> set[Role]:
        if plan is None:
            return set()
        paths = [path for path in (path_of(plan), plan.prepare) if path is not None and bears_roles(path)]
        kinds = {each.role for each in plan.backends if each.node == self.name and each.role is not ServerRole.MACHINE}
        return {(kind, path) for kind in kinds for path in paths}

    def roles(self, key: Key) -> set[Role]:
        return self._roles(self.plans.get(key)) | self.lingering.get(key, set())

    def takes(self, key: Key, node: str) -> bool:
        """As it knows, some real server behind a node takes new connections."""
        plan = self.plans.get(key)
        behind = [each for each in plan.backends if each.node == node and each.directed] if plan is not None else []
        if self.name == node and plan is not None:
            behind = [each for each in plan.backends if each.node == node]
        return any(server.weight for each in behind for server in each.servers)

    def sends(self, key: Key) -> set[Target]:
        """Where it sends new connections."""
        plan = self.plans.get(key)
        if plan is None or plan.withdrawn or self.name not in {director.node for director in plan.directors}:
            return set()
        return {
            Target(backend.node, backend.role, address, path_of(plan))
            for backend in plan.backends
            if backend.directed
            for address in self._addresses(plan, backend)
        }

    def _addresses(self, plan: VirtualServicePlanSpec, backend: Any) -> Iterable[str]:
        if backend.role is ServerRole.SECOND_HOP and bears_roles(path_of(plan)) and backend.node != self.name:
            return backend.addresses[:1]
        return [server.address for server in backend.servers]

    def drain(self) -> None:
        """What is over: connections to where it sends no more, and what lingered for its time."""
        for key, targets in list(self.connections.items()):
            targets &= self.sends(key)
            if not targets:
                del self.connections[key]
        self.lingering.clear()

    def copy(self, fleet: "Fleet") -> "Agent":
        made = Agent(fleet, self.name, self.addresses)
        made.seen, made.versions, made.plans = self.seen, self.versions, dict(self.plans)
        made.connections = {key: set(targets) for key, targets in self.connections.items()}
        made.lingering = {key: set(roles) for key, roles in self.lingering.items()}
        return made

    def report(self) -> None:
        leaving = {key for key in self.lingering if self.lingering[key] - self._roles(self.plans.get(key))}
        leaving |= {key for key in self.connections if not self.sends(key)}
        status = IPVSNodeStatus(
            boot_id="boot-1",
            addresses=tuple(NodeAddress("eth0", address, mac_of(self.name)) for address in self.addresses),
            conditions=(Condition("Ready", ConditionStatus.TRUE, "Programmed", last_transition_time=NOW),),
            observed_resource_version=str(self.seen),
            draining=tuple(ReportedServer(*key, address, "Draining") for key, address in sorted(self._draining())),
            leaving=tuple(ReportedService(*key) for key in sorted(leaving)),
        )
        counts = replace(status.counts, draining=len(status.draining), leaving=len(leaving))
        self.fleet.server.report(self.name, replace(status, counts=counts))

    def _draining(self) -> Iterator[tuple[Key, str]]:
        for key, targets in self.connections.items():
            still = {target.address for target in self.sends(key)}
            yield from {(key, target.address) for target in targets if target.address not in still}


def mac_of(name: str) -> str:
    return f"02:00:00:00:00:{sum(map(ord, name)) % 256:02x}"


class Fleet:
    """The nodes over one server. ``away``: those whose Node was deleted; what was in their kernels still is."""

    def __init__(self, *declared: Declared) -> None:
        self.server = ApiServer()
        self.agents: dict[str, Agent] = {}
        self.away: dict[str, Agent] = {}
        self.put(*declared)

    def copy(self) -> "Fleet":
        """As it is now, to go on in another way from here."""
        made = Fleet()
        made.server = self.server.copy()
        made.agents = {name: agent.copy(made) for name, agent in self.agents.items()}
        made.away = {name: agent.copy(made) for name, agent in self.away.items()}
        return made

    def put(self, *declared: Declared) -> None:
        """Declare; a Node has an agent from then on."""
        self.server.declare(*declared)
        for each in declared:
            key = key_of(each)
            if key.kind == "Node" and key.name not in self.agents:
                addresses = tuple(entry.address for entry in each.status.addresses)  # type: ignore[union-attr]
                self.agents[key.name] = self.away.pop(key.name, None) or Agent(self, key.name, addresses)

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        """A Node takes its IPVSNode with it."""
        self.server.remove(kind, name, namespace)
        if kind == "Node":
            self.away[name] = self.agents.pop(name)
            if ObjectKey("IPVSNode", "", name) in self.server.objects:
                self.server.remove("IPVSNode", name)

    def check_role(self, director: str, key: Key, target: Target) -> None:
        """Packets that come to a node without the role are sent on by it, and go round and round."""
        needs = target.role is not ServerRole.MACHINE and bears_roles(target.path) and target.node != director
        agent = self.agents.get(target.node)
        if needs and agent is not None:
            assert (target.role, target.path) in agent.roles(key), f"{director} sends {key} to {target}, not ready"
            if target.role is ServerRole.SECOND_HOP and self.agents[director].takes(key, target.node):
                assert agent.takes(key, target.node), f"{director} sends {key} to {target}, whose second hop has nobody"

    def check_let_go(self, node: str, key: Key, lost: set[Role]) -> None:
        """A role goes at once only where nobody has a connection that needs it."""
        for agent in self.agents.values():
            for target in agent.connections.get(key, ()):
                if agent.name != node and target.node == node:
                    assert (target.role, target.path) not in lost, f"{node} hangs connections of {agent.name} to {key}"

    def answer(self) -> None:
        """Every node takes its plans in, drains and says so."""
        for agent in self.agents.values():
            agent.learn()
        for agent in self.agents.values():
            agent.drain()
            agent.report()

    def rest(self, *operators: Operator) -> None:
        """Everybody goes on until there is nothing left to do."""
        for _ in range(60):
            before = self.server.version
            for operator in operators:
                operator.settle()
            self.answer()
            if self.server.version == before:
                return
        raise AssertionError("never comes to rest")

    def ready(self) -> dict[str, str]:
        """By VirtualService: what its Ready condition says."""
        return {
            each.metadata.name: next(f"{c.status} {c.reason}" for c in each.status.conditions if c.type == "Ready")
            for each in self.server.of("VirtualService")
        }

    def state(self) -> list[Any]:
        """Everything as it is stored, but for uids and versions, whatever had to be done to get there."""
        return [anonymous(each) for each in map(self.server.objects.get, sorted(self.server.objects))]


def anonymous(stored: Any) -> Any:
    """Without what differs from one history to another."""
    value = msgspec.to_builtins(stored)
    ours = not isinstance(stored, VirtualService) and type(stored).__name__ in KINDS
    for name in ("uid", "resourceVersion", *(("generation",) if ours else ())):
        value["metadata"].pop(name, None)
    value.get("status", {}).pop("observedResourceVersion", None)
    value.get("spec", {}).get("virtualService", {}).pop("uid", None)
    for owner in value.get("spec", {}).get("owners", ()):
        owner.pop("uid", None)
    for owner in value["metadata"].get("ownerReferences", ()):
        owner.pop("uid", None)
    return value
