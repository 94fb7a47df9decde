"""What people declared and what is programmed, indexed so that one change costs what it touches.

``Snapshot`` is kept up to date by ``put``, ``remove`` and ``hold``; each answers with the virtual services that have to
be compiled again. It does no IO and never refuses: what is wrong with an object is told when it is compiled.

A VirtualService is kept encoded (about 500 bytes with ten real servers), beside the few facts that other virtual
services are compared with.
"""

from collections.abc import Iterable, Iterator
from itertools import product
from sys import intern

import msgspec

from ipvs_api.core import EndpointSlice, Namespace, Node, Pod, Service
from ipvs_api.directorgroup import DirectorGroup, DirectorGroupStatus
from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.node import IPVSNode
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualService, VirtualServiceStatus
from ipvs_planner.allocation import Allocation, Asks, Claimed, asks_of
from ipvs_planner.backends import Backends
from ipvs_planner.claims import NOTHING, Claims, Dispute, Stake, Stakes, Winner, claims_of
from ipvs_planner.endpoints import return_ends
from ipvs_planner.groups import Directors, GroupFacts, directors_of, group_facts
from ipvs_planner.index import Index, Key, Owner, Party
from ipvs_planner.intake import Intake
from ipvs_planner.lags import Lags
from ipvs_planner.nodes import NodeFacts, Nodes, node_facts
from ipvs_planner.owned import Owned
from ipvs_planner.packed import Endpoint, Packed
from ipvs_planner.reports import Reports, Touched
from ipvs_planner.stored import StoredPlans
from ipvs_planner.written import take_in

Declared = (
    VirtualService
    | DirectorGroup
    | Node
    | Service
    | EndpointSlice
    | Namespace
    | IPVSAddress
    | VirtualServicePlan
    | IPVSNode
    | Pod
)

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Intake)
_STATUS = msgspec.msgpack.Decoder(VirtualServiceStatus)


class ServiceFacts(msgspec.Struct, frozen=True, gc=False):
    """What others are compared with. ``broken``: refused as it is written; then it asks for nothing.

    ``asks``: there where it names no address and addresses are given here; then ``vips`` are at those it has claimed.
    """

    party: Party
    created: str
    broken: bool
    vips: tuple[Endpoint, ...]
    returns: tuple[Endpoint, ...]
    asks: Asks | None
    encoded: bytes

    @property
    def owner(self) -> Owner:
        return self.party.owner


class Snapshot:
    """``trusted``: whoever writes the objects is the administrator (a manifests directory), so the groups' policies on
    namespaces and static backends do not apply. ``plan_namespace``: where plans live. ``allocates``: addresses are
    given to those who name none, and claimed by IPVSAddress objects before anybody uses them; where it is not so (a
    manifests directory) every VirtualService must name its own."""

    def __init__(self, *, trusted: bool = False, plan_namespace: str = "", allocates: bool = False) -> None:
        self.trusted = trusted
        self.allocates = allocates
        self.plan_namespace = plan_namespace
        self.nodes = Nodes()
        self.groups: dict[str, GroupFacts] = {}
        self.directors: dict[str, Directors] = {}
        self.stakes = Stakes()
        self.servers: Index[Packed] = Index()
        self.backends = Backends()
        self.owned = Owned()
        self.decided: dict[Dispute, Winner | None] = {}
        """What ``contention`` worked out since the last change."""
        self._services: dict[Key, ServiceFacts] = {}
        self._held: dict[Key, Claims] = {}
        self._owners: dict[Owner, Owner] = {}
        self._statuses: dict[Key, bytes] = {}
        self._group_stored: dict[str, tuple[str, DirectorGroupStatus]] = {}
        self.addresses = Allocation(self)
        self.stored = StoredPlans()
        self.reports = Reports(self.stored)
        self.lags = Lags()

    def keys(self) -> Iterator[Key]:
        """Every VirtualService that was put and not removed."""
        return iter(self._services)

    def facts(self, key: Key) -> ServiceFacts | None:
        return self._services.get(key)

    def service(self, key: Key) -> Intake | None:
        """The VirtualService itself, decoded (about 3 µs with ten real servers)."""
        facts = self._services.get(key)
        return _DECODER.decode(facts.encoded) if facts is not None else None

    def status(self, key: Key) -> VirtualServiceStatus | None:
        """Its status as it is stored."""
        encoded = self._statuses.get(key)
        return _STATUS.decode(encoded) if encoded is not None else None

    def balancing(self, key: Key) -> object:
        """Of the Service and the VirtualService ``key``, all that the one as a load balancer hangs on, to be compared;
        None: there is no such thing."""
        service, owned = self.backends.balancer_as_kept(key), self.owned.as_kept(key)
        if service is None and owned is None:
            return None
        return service, owned, key in self._services, self._statuses.get(key)

    def group_as_stored(self, name: str) -> tuple[str, DirectorGroupStatus | None]:
        """UID and status of a DirectorGroup."""
        return self._group_stored.get(name, ("", None))

    def held(self, key: Key) -> Claims:
        """What it is programmed with, as far as the caller said so."""
        return self._held.get(key, NOTHING)

    def admits(self, owner: Owner, address: Packed, *, holds: bool) -> bool:
        """The owner's group lets it have the address; a group that cannot be used as written lets holders stay."""
        group = self.groups.get(owner.group)
        if group is None:
            return False
        if group.findings:
            return holds
        return self.lets_in(group, owner.namespace) and group.contains(address)

    def lets_in(self, group: GroupFacts, namespace: str) -> bool:
        """The group's policy on namespaces has nothing against it."""
        return self.trusted or group.admits_namespace(namespace, self.backends.labels.get(namespace))

    def service_families(self, namespace: str, name: str) -> tuple[int, ...] | None:
        """Packed lengths of a Service's addresses; None: it is not known."""
        shape = self.backends.service(Key(namespace, name))
        return (shape.families or None) if shape is not None else None

    def put(self, declared: Declared) -> set[Key]:
        """Add or replace; who has to be compiled again (nobody where nothing that counts has changed)."""
        if isinstance(declared, VirtualService):
            return self._put_service(declared)
        if isinstance(declared, DirectorGroup):
            self._group_stored[declared.metadata.name] = declared.metadata.uid, declared.status
            return self._put_group(group_facts(declared))
        if isinstance(declared, IPVSAddress):
            return self._claimed(self.addresses.put(declared))
        if isinstance(declared, VirtualServicePlan):
            return self._stored_as(self.stored.put(declared))
        if isinstance(declared, IPVSNode):
            return self._reported(declared.metadata.name, self.reports.put_report(declared))
        if isinstance(declared, Pod):
            return self.reports.put_pod(declared)
        if isinstance(declared, EndpointSlice):
            return self._backed(self.backends.put_slice(declared))
        if isinstance(declared, Service):
            return self._fronted(self.backends.put_service(declared))
        if isinstance(declared, Namespace):
            return self._labelled(declared.metadata.name) if self.backends.put_namespace(declared) else set()
        return self.reports.put_node(declared) | self._put_node(node_facts(declared))

    def remove(self, kind: str, namespace: str, name: str) -> set[Key]:
        """Forget an object; who has to be compiled again, a removed VirtualService itself included.

        What a removed VirtualService held is free. Where something must be kept for it, ``hold`` it again.
        """
        if kind == "VirtualService":
            return self._remove_service(Key(namespace, name))
        if kind == "DirectorGroup":
            return self._remove_group(name)
        if kind == "Node":
            return self.reports.remove_node(name) | self._remove_node(name)
        if kind == "IPVSAddress":
            return self._claimed(self.addresses.remove(name))
        if kind == "VirtualServicePlan":
            key = self.stored.remove(name)
            return self._stored_as(key) if key is not None else set()
        if kind == "IPVSNode":
            return self._reported(name, self.reports.remove_report(name))
        if kind == "Pod":
            return self.reports.remove_pod(name)
        if kind == "EndpointSlice":
            return self._backed(self.backends.remove_slice(Key(namespace, name)))
        if kind == "Service":
            return self._fronted(self.backends.remove_service(Key(namespace, name)))
        if kind == "Namespace":
            return self._labelled(name) if self.backends.remove_namespace(name) else set()
        return set()

    def hold(self, key: Key, claims: Claims) -> set[Key]:
        """Say what ``key`` is programmed with (``Compiled.claims``, ``claims_of``): holders win. ``Claims()``: nothing.

        Who has to be compiled again. A key that was never put may hold too: its addresses are not free yet.
        """
        before = self.held(key)
        if claims == before:
            return set()
        old = self.stakes_of(key)
        if claims == NOTHING:
            del self._held[key]
        else:
            self._held[key] = claims
        changed = {key} if claims.group != before.group and before != NOTHING else set()
        return self._restake(key, old) | self._there(changed)

    def _backed(self, services: Iterable[Key]) -> set[Key]:
        """Who names one of ``services``, whose endpoints have changed, and whoever may win or lose a gateway by it."""
        users = {key for service in services for key in self.backends.users[service]}
        return users.union(*map(self._rerouted, users))

    def _fronted(self, services: Iterable[Key]) -> set[Key]:
        """Likewise of Services that have changed themselves: how many addresses are wanted hangs on their families."""
        affected = self._backed(services)
        return affected | self.addresses.changed(affected, ())

    def _rerouted(self, key: Key) -> set[Key]:
        facts, intake = self.facts(key), self.service(key)
        if facts is None or intake is None or facts.broken:
            return set()
        returns = self._returns(key, intake)
        if returns == facts.returns:
            return set()
        old = self.stakes_of(key)
        self._services[key] = msgspec.structs.replace(facts, returns=returns)
        return self._restake(key, old)

    def _returns(self, key: Key, intake: Intake) -> tuple[Endpoint, ...]:
        """The real servers' endpoints whose replies it wants to go to its group's gateway."""
        if not intake.service or not intake.routed:
            return intake.return_endpoints()
        service = Key(key.namespace, intake.service)
        return return_ends(intake, self.backends.service(service), self.backends.slices(service))

    def _labelled(self, namespace: str) -> set[Key]:
        """Who may be let in, or not, now that the labels of ``namespace`` have changed."""
        choosy = [name for name, group in self.groups.items() if group.namespace_labels and not self.trusted]
        members = {key for name in choosy for key in self._members(name) if key.namespace == namespace}
        return self.addresses.regrouped() | self._spread(members) if members else set()

    def _stored_as(self, key: Key) -> set[Key]:
        """The stored plan of ``key`` has changed: what it is programmed with is what that says."""
        return {key} | self.hold(key, claims_of(self.stored.of(key)))

    def _reported(self, node: str, touched: Touched) -> set[Key]:
        """A report has changed; where a director's addresses did, so may the plans that name its MACs."""
        if not touched.directors:
            return touched.keys
        groups = (name for name, directors in self.directors.items() if node in directors.nodes)
        return touched.keys.union(*(self._there(self._members(name)) for name in groups))

    def reserve(self, address: str, key: Key) -> None:
        """An IPVSAddress for ``key`` is about to be created: nobody else is given ``address`` before it is put here, or
        ``unreserve`` says that there is none."""
        self.addresses.reserve(address, key)

    def unreserve(self, address: str) -> set[Key]:
        """It was not created; who has to be compiled again."""
        return self.addresses.unreserve(address)

    def _claimed(self, claimed: Claimed) -> set[Key]:
        """A claim has changed."""
        rivals = set(claimed.others)
        for key in claimed.owners:
            old, facts = self.stakes_of(key), self.facts(key)
            if facts is not None and facts.asks is not None:
                vips = self.addresses.vips(key, facts.owner, facts.asks)
                self._services[key] = msgspec.structs.replace(facts, vips=vips)
            rivals |= self._restake(key, old)
        return {*claimed.owners, *claimed.relieved, *self._and_gateways(rivals)}

    def _put_service(self, service: VirtualService) -> set[Key]:
        intake = take_in(service)
        key = Key(intern(service.metadata.namespace), service.metadata.name)
        status = self._statuses.get(key)
        if self.allocates:
            self._statuses[key] = _ENCODER.encode(service.status)
            self.owned.put(key, service)
        encoded = _ENCODER.encode(intake)
        before = self._services.get(key)
        if before is not None and before.encoded == encoded:
            # A status that another wrote may have to be put right.
            return {key} if self._statuses.get(key) != status else set()
        broken = bool(intake.findings)
        party = self._party(key, intake.group)
        asks = asks_of(intake) if self.allocates and not broken else None
        vips = intake.vip_endpoints() if asks is None else self.addresses.vips(key, party.owner, asks)
        old = self.stakes_of(key)
        servers = self._unlist_servers(key)
        self._services[key] = ServiceFacts(
            party=party,
            created=intake.created,
            broken=broken,
            vips=() if broken else vips,
            returns=() if broken else self._returns(key, intake),
            asks=asks,
            encoded=encoded,
        )
        for server in intake.servers:
            self.servers.add(server.packed, party)
            servers.add(server.packed)
        if intake.service:
            self.backends.use(Key(key.namespace, intake.service), party)
        return {key} | self._restake(key, old) | self._beside(key, servers)

    def _remove_service(self, key: Key) -> set[Key]:
        if key not in self._services:  # told again, or never put
            return self.hold(key, NOTHING) if key not in self.stored else set()
        old = self.stakes_of(key)
        servers = self._unlist_servers(key)
        del self._services[key]
        self._statuses.pop(key, None)
        self.owned.remove(key)
        if key not in self.stored:
            self._held.pop(key, None)
        return {key} | self._restake(key, old) | self._beside(key, servers)

    def _beside(self, key: Key, servers: set[Packed]) -> set[Key]:
        """Whom it concerns that ``key`` is there, or is not, with its claims and real servers."""
        return self._there(self.addresses.behind(key)) | self.addresses.changed((), servers)

    def _unlist_servers(self, key: Key) -> set[Packed]:
        facts, intake = self.facts(key), self.service(key)
        if facts is None or intake is None:
            return set()
        for server in intake.servers:
            self.servers.discard(server.packed, facts.party)
        if intake.service:
            self.backends.disuse(Key(key.namespace, intake.service), facts.party)
        return {server.packed for server in intake.servers}

    def _put_group(self, facts: GroupFacts) -> set[Key]:
        if self.groups.get(facts.name) == facts:
            return set()
        self.groups[facts.name] = facts
        self.directors[facts.name] = directors_of(facts, self.nodes.facts.values())
        return self._regroup(facts.name)

    def _remove_group(self, name: str) -> set[Key]:
        self._group_stored.pop(name, None)
        if self.groups.pop(name, None) is None:
            return set()
        del self.directors[name]
        return self._regroup(name)

    def _regroup(self, name: str) -> set[Key]:
        return self.addresses.regrouped() | self._spread(self._members(name))

    def _put_node(self, facts: NodeFacts) -> set[Key]:
        before = self.nodes.facts.get(facts.name)
        if before == facts:
            return set()
        self.nodes.put(facts)
        moved = before is None or (before.own, before.behind) != (facts.own, facts.behind)
        touched = {*self._named(before), *self._named(facts)} if moved else set()
        own = {*facts.own, *(before.own if before is not None else ())}
        return self._spread(touched | self._redirected()) | self.addresses.changed((), own)

    def _remove_node(self, name: str) -> set[Key]:
        before = self.nodes.facts.get(name)
        if before is None:
            return set()
        self.nodes.remove(name)
        return self._spread({*self._named(before), *self._redirected()}) | self.addresses.changed((), before.own)

    def _redirected(self) -> set[Key]:
        """Members of the groups whose directors, their addresses or gateways are not what they were."""
        affected: set[Key] = set()
        for name, facts in self.groups.items():
            directors = directors_of(facts, self.nodes.facts.values())
            if directors != self.directors[name]:
                self.directors[name] = directors
                affected |= self._members(name)
        return affected

    def _named(self, node: NodeFacts | None) -> Iterator[Key]:
        """Virtual services with a real server or an address that is this node's own, or a real server behind it, also
        where an EndpointSlice says so."""
        if node is None:
            return
        yield from self.backends.nodes[node.name]
        for address in node.own:
            yield from self.servers[address]
            yield from self.backends.addresses[address]
            yield from self.stakes.addresses[address]
        for prefix, servers in product(node.behind, (self.servers, self.backends.addresses)):
            few = 1 << prefix.shift <= len(servers)
            candidates: Iterable[Packed] = prefix.addresses() if few else tuple(servers)
            for address in candidates:
                if few or prefix.holds(address):
                    yield from servers[address]

    def _members(self, group: str) -> set[Key]:
        """Those that name the group, and those that are programmed for it."""
        named = {key for key, facts in self._services.items() if facts.owner.group == group}
        return named | {key for key, claims in self._held.items() if claims.group == group}

    def stakes_of(self, key: Key) -> tuple[Stake, ...]:
        """What it asks for, and what it has where that is something else; nothing that is empty."""
        facts, held = self._services.get(key), self._held.get(key)
        found = []
        if facts is not None and facts.vips:
            found.append(Stake(facts.party, facts.vips, facts.returns))
        if held is not None:
            had = Stake(self._party(key, held.group), held.vips, held.returns)
            if had not in found:
                found.append(had)
        return tuple(found)

    def _party(self, key: Key, group: str) -> Party:
        owner = Owner(key.namespace, group)
        return Party(self._owners.setdefault(owner, owner), key)

    def _restake(self, key: Key, old: tuple[Stake, ...]) -> set[Key]:
        """Bring the stakes up to date after a change of ``key``; whoever may win or lose something by it."""
        self.decided.clear()
        rivals, ends = self.stakes.vip_rivals(old), self.stakes.return_rivals(old)
        new = self.stakes_of(key)
        if new != old:
            for stake in old:
                self.stakes.discard(stake)
            for stake in new:
                self.stakes.add(stake)
        relieved = self.addresses.changed([key], {each for stake in (*old, *new) for each in stake.addresses})
        ends |= self.stakes.return_rivals(new)
        return self._and_gateways(rivals | self.stakes.vip_rivals(new)) | self._there(ends) | relieved

    def _spread(self, keys: set[Key]) -> set[Key]:
        """``keys`` after a change of their groups or nodes, and whoever may win or lose something by it."""
        self.decided.clear()
        stakes = (stake for key in keys for stake in self.stakes_of(key))
        relieved = self.addresses.changed(keys, ())
        return self._and_gateways(keys | self.stakes.vip_rivals(stakes)) | relieved

    def _and_gateways(self, keys: set[Key]) -> set[Key]:
        """``keys``, who may have won or lost their addresses, and those whose gateway hangs on that."""
        stakes = (stake for key in keys for stake in self.stakes_of(key))
        return self._there(keys | self.stakes.return_rivals(stakes))

    def _there(self, keys: set[Key]) -> set[Key]:
        return keys & self._services.keys()
