"""From a Service and its EndpointSlices to the real servers of a virtual service, as kube-proxy would choose them.

Each family and each port for itself: who is ready serves; where nobody is, who is terminating and still serves
(KEP-1669). A Service's port has a name, and each EndpointSlice says which number that is in its pods: it differs
between pods while one version replaces another. Nothing that an endpoint does refuses the virtual service: what is
wrong is left out and told. Pure.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from ipvs_planner.backends import PortFacts, ServiceShape, SliceFacts, State
from ipvs_planner.intake import Intake, ServicePort
from ipvs_planner.packed import FAMILIES, Endpoint, Packed, endpoint
from ipvs_planner.reasons import Finding, Reason

PORTS_NAMED = 10
"""Ports of a Service that a message lists."""


class ServingEndpoint(NamedTuple):
    """``node``: as the EndpointSlice names it, empty for none. ``ports``: its number for each port of the virtual
    service, 0 where it does not serve that one; all 0: it serves nothing now."""

    packed: Packed
    node: str
    ports: tuple[int, ...]

    @property
    def serves(self) -> bool:
        return any(self.ports)


class Resolved(NamedTuple):
    """``endpoints``: those that serve, sorted by family and address. ``total``: those and the ones that are yet to."""

    endpoints: tuple[ServingEndpoint, ...] = ()
    total: int = 0
    notes: tuple[Finding, ...] = ()


class _Entry(NamedTuple):
    """What one EndpointSlice says of an address."""

    state: State
    node: str
    ports: tuple[int, ...]


def resolve(
    intake: Intake,
    shape: ServiceShape | None,
    slices: Sequence[tuple[str, SliceFacts]],
    families: Collection[int],
) -> Resolved:
    """``shape``: None where there is no such Service. ``slices``: the youngest first, which is believed where two
    differ about one address. ``families``: packed lengths of the addresses that are to be served.
    """
    if shape is None:
        words = f"spec.backends.service: found {intake.service!r}, but there is no such Service in this namespace"
        return Resolved(notes=(Finding(Reason.SERVICE_NOT_FOUND, f"{words}: nobody serves its addresses."),))
    wanted = tuple(service_port(port, shape) for port in intake.ports)
    notes = [_port_missing(intake, number, shape) for number, port in enumerate(wanted) if port is None]
    entries = _entries(wanted, slices, families)
    notes += _unserved(intake, wanted, entries)
    serving: dict[Packed, list[int]] = {}
    for family in sorted(families):
        own = {address: found for address, found in entries.items() if len(address) == family}
        for index, port in enumerate(intake.ports):
            state, numbers = _serving(own, index)
            for address, number in numbers.items():
                serving.setdefault(address, [0] * len(wanted))[index] = number
            if state is State.TERMINATING:
                words = f"No {FAMILIES[family]} endpoint is ready for port {port.name}"
                found = f"{words}: {len(numbers)} that are terminating and still serve get new connections."
                notes.append(Finding(Reason.TERMINATING_SERVES, found))
    endpoints = tuple(
        ServingEndpoint(address, min(entries[address], key=_by_state).node, tuple(serving[address]))
        for address in sorted(serving, key=_by_address)
    )
    staying = {address for address, found in entries.items() if any(map(_stays, found))}
    return Resolved(endpoints, len(staying | serving.keys()), (*notes, *_unusable(slices)))


def return_ends(
    intake: Intake, shape: ServiceShape | None, slices: Sequence[tuple[str, SliceFacts]]
) -> tuple[Endpoint, ...]:
    """Of a Service's endpoints, those whose replies are to go to the group's gateway; none unless ``Intake.routed``."""
    if not intake.routed:
        return ()
    ends = {
        endpoint(server.packed, port.protocol, number)
        for server in resolve(intake, shape, slices, FAMILIES).endpoints
        for port, number in zip(intake.ports, server.ports, strict=True)
        if number
    }
    return tuple(sorted(ends))


def service_port(port: ServicePort, shape: ServiceShape) -> PortFacts | None:
    """The Service's port that is meant: of that name or number, and of the same protocol."""
    for found in shape.ports:
        if found.protocol == port.protocol and port.service == (
            found.name if isinstance(port.service, str) else found.number
        ):
            return found
    return None


def _port_missing(intake: Intake, index: int, shape: ServiceShape) -> Finding:
    port = intake.ports[index]
    there = [f"{each.name or 'unnamed'} ({each.protocol} {each.number})" for each in shape.ports]
    more = f" and {len(there) - PORTS_NAMED} more" if len(there) > PORTS_NAMED else ""
    return Finding(
        Reason.SERVICE_PORT_NOT_FOUND,
        f"spec.ports[{index}].servicePort: Service {intake.service} has no {port.protocol} port {port.service}, so "
        f"nobody serves port {port.name}; it has {', '.join(there[:PORTS_NAMED]) or 'none'}{more}.",
    )


def _entries(
    wanted: Sequence[PortFacts | None], slices: Iterable[tuple[str, SliceFacts]], families: Collection[int]
) -> dict[Packed, list[_Entry]]:
    """All that is said of each address."""
    found: dict[Packed, list[_Entry]] = {}
    for _, facts in slices:
        numbers = {(port.name, port.protocol): port.number for port in facts.ports}
        ports = tuple(numbers.get((port.name, port.protocol), 0) if port is not None else 0 for port in wanted)
        for packed, state, node in ((each.packed, each.state, each.node) for each in facts.endpoints):
            if len(packed) in families:
                found.setdefault(packed, []).append(_Entry(state, node, ports))
    return found


def _serving(entries: dict[Packed, list[_Entry]], index: int) -> tuple[State, dict[Packed, int]]:
    """Who serves one port, on which number, and what all of them are."""
    for state in (State.READY, State.TERMINATING):
        numbers = {
            address: number
            for address, found in entries.items()
            if (number := next((each.ports[index] for each in found if each.state is state and each.ports[index]), 0))
        }
        if numbers:
            return state, numbers
    return State.READY, {}


def _unserved(
    intake: Intake, wanted: Sequence[PortFacts | None], entries: dict[Packed, list[_Entry]]
) -> Iterator[Finding]:
    """Ports of the Service that no endpoint has."""
    for index, port in enumerate(wanted):
        if port is None or not entries or any(each.ports[index] for found in entries.values() for each in found):
            continue
        name = f"named {port.name}" if port.name else "without a name"
        yield Finding(
            Reason.SERVICE_PORT_NOT_FOUND,
            f"spec.ports[{index}].servicePort: no EndpointSlice of Service {intake.service} has a {port.protocol} "
            f"port {name}, so nobody serves port {intake.ports[index].name}; a target port that is a name must be one "
            "of the pods'.",
        )


def _unusable(slices: Iterable[tuple[str, SliceFacts]]) -> Iterator[Finding]:
    problems = [f"EndpointSlice {name}: {problem}" for name, facts in slices for problem in facts.problems]
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        yield Finding(Reason.ENDPOINT_UNUSABLE, f"Left out: {problems[0]}{more}.")


def _stays(entry: _Entry) -> bool:
    return entry.state is not State.TERMINATING


def _by_state(entry: _Entry) -> State:
    return entry.state


def _by_address(address: Packed) -> tuple[int, Packed]:
    return len(address), address
