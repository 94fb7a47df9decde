"""Services with their EndpointSlices, and the labels of Namespaces: what of them is kept, and whom a change concerns.

A virtual service names one Service of its namespace, and may be there before it. EndpointSlices are kept encoded (some
25 bytes an endpoint with its node's name) and decoded when a virtual service is compiled. What lies in a real server's
way (its address, its node) is indexed for those Services only that a virtual service names.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import IntEnum
from sys import intern
from typing import NamedTuple

import msgspec

from ipvs_api.core import SERVICE_NAME_LABEL, Endpoint, EndpointPort, EndpointSlice, Namespace, Service
from ipvs_api.meta import ObjectMeta
from ipvs_api.virtualservice import Protocol
from ipvs_planner.index import Index, Key, Party
from ipvs_planner.packed import V4, V6, Packed, parse_address

CLASS_PREFIX = "ipvs.dev/"
"""Of ``loadBalancerClass``, with a DirectorGroup's name behind it, and of annotations."""

NAMED_PROBLEMS = 10
"""Problems of one EndpointSlice that are kept."""

_FAMILIES = {"IPv4": V4, "IPv6": V6}


class State(IntEnum):
    """The smaller, the rather it serves. Who is terminating and does not serve any more is not kept at all."""

    READY = 0
    TERMINATING = 1
    WAITING = 2


class EndpointFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    packed: Packed
    state: State
    node: str


class PortFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A port of a Service, or of an EndpointSlice, which names it as the Service does."""

    name: str
    protocol: str
    number: int


class SliceFacts(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``problems``: what of it cannot be used, in words; it is left out."""

    created: str
    ports: tuple[PortFacts, ...]
    endpoints: tuple[EndpointFacts, ...]
    problems: tuple[str, ...]


class ServiceShape(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``families``: packed lengths of its addresses; empty where nobody says. ``external``: the name it stands for."""

    ports: tuple[PortFacts, ...]
    families: tuple[int, ...]
    external: str


class Reach(NamedTuple):
    """What the endpoints of one Service have in their way to being served."""

    addresses: frozenset[Packed]
    nodes: frozenset[str]


_ENCODER = msgspec.msgpack.Encoder()
_SLICE = msgspec.msgpack.Decoder(SliceFacts)
_SHAPE = msgspec.msgpack.Decoder(ServiceShape)
_SERVICE = msgspec.msgpack.Decoder(Service)


def slice_facts(slice_: EndpointSlice) -> SliceFacts:
    family = _FAMILIES.get(slice_.address_type)
    problems: list[str] = []
    if family is None:
        found = ", ".join(address for endpoint in slice_.endpoints or () for address in endpoint.addresses[:1])
        problems.append(f"addressType: found {slice_.address_type} ({found[:200]}), wanted IPv4 or IPv6")
    endpoints = tuple(_endpoints(slice_.endpoints or (), family, problems)) if family is not None else ()
    ports = tuple(_ports(slice_.ports or (), problems))
    return SliceFacts(slice_.metadata.creation_timestamp, ports, endpoints, tuple(problems[:NAMED_PROBLEMS]))


def _endpoints(endpoints: Iterable[Endpoint], family: int, problems: list[str]) -> Iterator[EndpointFacts]:
    for index, endpoint in enumerate(endpoints):
        state = _state(endpoint)
        if state is None or not endpoint.addresses:
            continue
        text = endpoint.addresses[0]
        address = parse_address(text)
        if isinstance(address, str):
            problems.append(f"endpoints[{index}].addresses[0]: found {text!r}, {address}")
        elif len(address.packed) != family:
            problems.append(f"endpoints[{index}].addresses[0]: found {text!r}, which is not of its addressType")
        elif address.packed[:2] == b"\xa9\xfe" and family == V4:
            problems.append(f"endpoints[{index}].addresses[0]: found {text!r}, a link-local address")
        else:
            yield EndpointFacts(address.packed, state, endpoint.node_name)


def _state(endpoint: Endpoint) -> State | None:
    """None: it is leaving and does not serve any more. ``ready`` is already true for all that are to be published."""
    conditions = endpoint.conditions
    if conditions.ready is not False:
        return State.READY
    if not conditions.terminating:
        return State.WAITING
    return State.TERMINATING if conditions.serving is not False else None


def _ports(ports: Iterable[EndpointPort], problems: list[str]) -> Iterator[PortFacts]:
    for index, port in enumerate(ports):
        if port.port is not None and 1 <= port.port <= 65535 and port.protocol in set(Protocol):
            yield PortFacts(port.name, port.protocol, port.port)
        else:
            found = "every port" if port.port is None else f"{port.protocol} port {port.port}"
            problems.append(f"ports[{index}]: found {found}, wanted TCP, UDP or SCTP and 1 to 65535")


def is_balancer(service: Service) -> bool:
    """A load balancer of ours is asked for: type ``LoadBalancer`` and ``loadBalancerClass: ipvs.dev/<group>``."""
    return service.spec.type == "LoadBalancer" and service.spec.load_balancer_class.startswith(CLASS_PREFIX)


def _shape(service: Service) -> ServiceShape:
    spec = service.spec
    external = (spec.external_name or "another name") if spec.type == "ExternalName" else ""
    ports = tuple(PortFacts(port.name, port.protocol, port.port) for port in spec.ports)
    return ServiceShape(ports, tuple(_FAMILIES[each] for each in spec.ip_families if each in _FAMILIES), external)


def _trimmed(service: Service) -> Service:
    """Without what changes when nothing has changed, and without what is of no concern to us."""
    meta = service.metadata
    ours = {name: text for name, text in meta.annotations.items() if name.startswith(CLASS_PREFIX)}
    kept = ObjectMeta(
        meta.name,
        meta.namespace,
        meta.uid,
        meta.generation,
        annotations=ours,
        deletion_timestamp=meta.deletion_timestamp,
    )
    return msgspec.structs.replace(service, metadata=kept)


def _is_told(service: Service) -> bool:
    """Its status has something of ours."""
    return any(condition.type.startswith(CLASS_PREFIX) for condition in service.status.conditions)


class Backends:
    """``users``: who names a Service. ``addresses``, ``nodes``: whose Service has endpoints there. ``labels``: of the
    Namespaces that are known."""

    def __init__(self) -> None:
        self.users: Index[Key] = Index()
        self.addresses: Index[Packed] = Index()
        self.nodes: Index[str] = Index()
        self.labels: dict[str, Mapping[str, str]] = {}
        self._shapes: dict[Key, bytes] = {}
        self._balancers: dict[Key, bytes] = {}
        self._told: dict[Key, str] = {}
        """UIDs of those that do not ask for a load balancer of ours any more, and have our word in their status."""
        self._slices: dict[Key, tuple[str, bytes]] = {}
        """By an EndpointSlice's own key: its Service's name, and what it holds."""
        self._named: dict[Key, tuple[str, ...]] = {}
        """By a Service: the names of its EndpointSlices."""

    def service(self, service: Key) -> ServiceShape | None:
        encoded = self._shapes.get(service)
        return _SHAPE.decode(encoded) if encoded is not None else None

    def slices(self, service: Key) -> list[tuple[str, SliceFacts]]:
        """The EndpointSlices of a Service with their names, the youngest first."""
        found = [
            (name, _SLICE.decode(self._slices[Key(service.namespace, name)][1]))
            for name in self._named.get(service, ())
        ]
        return sorted(found, key=lambda entry: entry[1].created, reverse=True) if len(found) > 1 else found

    def balancer(self, service: Key) -> Service | None:
        """A Service that asks for a load balancer of ours, as far as it matters; annotations of ours only."""
        encoded = self._balancers.get(service)
        return _SERVICE.decode(encoded) if encoded is not None else None

    def told(self, service: Key) -> str:
        """The UID of a Service that asks for nothing and still has our word in its status; empty for any other."""
        return self._told.get(service, "")

    def balancers(self) -> Iterator[Key]:
        """Services that ask for a load balancer of ours, or did."""
        yield from self._balancers
        yield from self._told

    def balancer_as_kept(self, service: Key) -> bytes | str | None:
        """To be compared: another one, where ``balancer`` or ``told`` say something else."""
        return self._balancers.get(service) or self._told.get(service)

    def put_service(self, service: Service) -> set[Key]:
        """The Service itself, where what real servers hang on is not what it was."""
        key = Key(intern(service.metadata.namespace), service.metadata.name)
        self._balancers.pop(key, None)
        self._told.pop(key, None)
        if is_balancer(service):
            self._balancers[key] = _ENCODER.encode(_trimmed(service))
        elif _is_told(service):
            self._told[key] = service.metadata.uid
        encoded = _ENCODER.encode(_shape(service))
        if self._shapes.get(key) == encoded:
            return set()
        self._shapes[key] = encoded
        return {key}

    def remove_service(self, service: Key) -> set[Key]:
        self._balancers.pop(service, None)
        self._told.pop(service, None)
        return {service} if self._shapes.pop(service, None) is not None else set()

    def put_slice(self, slice_: EndpointSlice) -> set[Key]:
        """The Services to which its endpoints are news."""
        meta = slice_.metadata
        key, service = Key(intern(meta.namespace), meta.name), meta.labels.get(SERVICE_NAME_LABEL, "")
        return self._change(key, (intern(service), _ENCODER.encode(slice_facts(slice_))) if service else None)

    def remove_slice(self, slice_: Key) -> set[Key]:
        return self._change(slice_, None)

    def put_namespace(self, namespace: Namespace) -> bool:
        """Whether its labels are not what they were."""
        name, labels = namespace.metadata.name, namespace.metadata.labels
        if self.labels.get(name) == labels:
            return False
        self.labels[intern(name)] = labels
        return True

    def remove_namespace(self, name: str) -> bool:
        return self.labels.pop(name, None) is not None

    def use(self, service: Key, party: Party) -> None:
        """``party`` names the Service."""
        self.users.add(service, party)
        self._list(party, Reach(frozenset(), frozenset()), self._reach(service))

    def disuse(self, service: Key, party: Party) -> None:
        self.users.discard(service, party)
        self._list(party, self._reach(service), Reach(frozenset(), frozenset()))

    def _change(self, slice_: Key, new: tuple[str, bytes] | None) -> set[Key]:
        old = self._slices.get(slice_)
        if old == new:
            return set()
        services = {Key(slice_.namespace, each[0]) for each in (old, new) if each is not None}
        before = {service: self._reach(service) for service in services if self.users[service]}
        if old is not None:
            self._unname(Key(slice_.namespace, old[0]), slice_.name)
            del self._slices[slice_]
        if new is not None:
            service = Key(slice_.namespace, new[0])
            self._named[service] = tuple(sorted({*self._named.get(service, ()), slice_.name}))
            self._slices[slice_] = new
        for service, reach in before.items():
            for party in tuple(self.users.parties(service)):
                self._list(party, reach, self._reach(service))
        return services

    def _unname(self, service: Key, slice_: str) -> None:
        left = tuple(name for name in self._named[service] if name != slice_)
        if left:
            self._named[service] = left
        else:
            del self._named[service]

    def _reach(self, service: Key) -> Reach:
        endpoints = [endpoint for _, facts in self.slices(service) for endpoint in facts.endpoints]
        nodes = frozenset(intern(endpoint.node) for endpoint in endpoints if endpoint.node)
        return Reach(frozenset(endpoint.packed for endpoint in endpoints), nodes)

    def _list(self, party: Party, before: Reach, after: Reach) -> None:
        for address in before.addresses - after.addresses:
            self.addresses.discard(address, party)
        for address in after.addresses - before.addresses:
            self.addresses.add(address, party)
        for node in before.nodes - after.nodes:
            self.nodes.discard(node, party)
        for node in after.nodes - before.nodes:
            self.nodes.add(node, party)
