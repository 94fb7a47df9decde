"""The order between nodes: what of the wanted plan they can be told now, given what they were told and have reported.

A node gets its real-server role first and is sent traffic once it has reported it; it keeps the role until the
directors have reported that the last connection is gone. A change of forwarding runs the same way: real servers learn
the new one beside the old; and a new address or port: real servers first. Withdrawal: directors let go, then real
servers, then the plan is deleted. Each step is worked out from what is stored, so a caller that dies between two of
them loses nothing. Pure.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from ipvs_api.labels import node_label, plan_name
from ipvs_api.meta import ObjectMeta
from ipvs_api.plan import (
    Owner,
    PlanAddress,
    PlanBackend,
    PlanPath,
    PlanPort,
    ServerRole,
    VirtualServicePlan,
    VirtualServicePlanSpec,
)
from ipvs_api.virtualservice import Forwarding, Protocol, ReturnPath, Scheduler
from ipvs_planner.index import Key
from ipvs_planner.parts import parts
from ipvs_planner.servers import bears_roles, concerned


class Word(NamedTuple):
    """What a node has said of one virtual service.

    reached    its report counts, and has come to all that is stored for it
    failing    it could not do what the plan asks
    leaving    it has something left that no plan wants
    draining   whether it still has connections to one of some addresses
    forgotten  it will not come back: nobody waits for it
    silent     its report does not count
    """

    reached: bool = False
    failing: bool = False
    leaving: bool = False
    draining: Callable[[Collection[str]], bool] = lambda addresses: True
    forgotten: bool = False
    silent: bool = False

    @property
    def settled(self) -> bool:
        """It has nothing that it should not have, or will never be heard of again."""
        return self.forgotten or (self.reached and not self.leaving)


NOTHING_SAID = Word()

BackendKey = tuple[str, ServerRole]
Words = Mapping[str, Word]


def path_of(spec: VirtualServicePlanSpec) -> PlanPath:
    return PlanPath(spec.forwarding, spec.return_path, spec.gateways, spec.tunnel)


def with_path(spec: VirtualServicePlanSpec, path: PlanPath) -> VirtualServicePlanSpec:
    return replace(
        spec, forwarding=path.forwarding, return_path=path.return_path, gateways=path.gateways, tunnel=path.tunnel
    )


def merged(plans: Sequence[VirtualServicePlan]) -> VirtualServicePlanSpec | None:
    """The slices put together: the head of the newest generation, real servers by node and role."""
    if not plans:
        return None
    head = max(plans, key=lambda plan: (plan.spec.virtual_service.generation, -plan.spec.slice)).spec
    found: dict[BackendKey, PlanBackend] = {}
    for backend in (backend for plan in plans for backend in plan.spec.backends):
        key = (backend.node, backend.role)
        seen = found.get(key)
        # Slices are not written in one go: what one of them says of directing is what has been told last.
        directed = backend.directed if seen is None else backend.directed and seen.directed
        servers = backend.servers if seen is None else seen.servers + backend.servers
        found[key] = replace(backend, servers=servers, directed=directed)
    return replace(head, backends=tuple(found.values()), slice=0, slices=1)


def staged(
    wanted: VirtualServicePlanSpec | None,
    plans: Sequence[VirtualServicePlan],
    words: Words,
    holders: Collection[str] = (),
    namespace: str = "",
) -> tuple[VirtualServicePlan, ...]:
    """The slices to be stored now, in order; none: delete what is stored.

    ``wanted``: what compile wants, put together; None: withdraw. ``plans``: the slices as stored. ``words``: of every
    node that the stored slices are labelled for. ``holders``: nodes that may have the addresses though no stored plan
    says so. ``namespace``: where plans live.
    """
    stored = merged(plans)
    if _torn(plans):
        # Who has reached what is stored has not come to know what it is to say.
        words = {node: word._replace(reached=False) for node, word in words.items()}
    if wanted is not None:
        spec = _advance(wanted, stored, words)
    elif stored is None:
        return ()
    else:
        withdrawn = _withdraw(stored, words)
        if withdrawn is None:
            return ()
        spec = withdrawn
    before = concerned(stored) if stored is not None else holders
    return tuple(_sliced(spec, plans, words, before, namespace))


def _torn(plans: Sequence[VirtualServicePlan]) -> bool:
    """Not all slices were written the last time, so that they say different things of the whole."""
    heads = [replace(plan.spec, backends=(), slice=0) for plan in plans]
    return any(head != heads[0] for head in heads)


def remembered(
    key: Key, addresses: Sequence[str], group: str, holders: Collection[str], namespace: str
) -> tuple[VirtualServicePlan, ...]:
    """A withdrawn plan for nodes that may still have addresses of which nothing but the claims is left.

    Its port is nobody's: all that is said is that no node is to have anything of this virtual service.
    """
    spec = VirtualServicePlanSpec(
        virtual_service=Owner(key.namespace, key.name),
        director_group=group,
        addresses=tuple(PlanAddress(address) for address in addresses)[:16],
        ports=(PlanPort("gone", Protocol.TCP, 1),),
        forwarding=Forwarding.NAT,
        scheduler=Scheduler.WLC,
        directors=(),
        backends=(),
        withdrawn=True,
    )
    return tuple(_sliced(spec, (), {}, holders, namespace))


def _withdraw(stored: VirtualServicePlanSpec, words: Words) -> VirtualServicePlanSpec | None:
    """The next step of taking it away; None: nobody has anything of it any more."""
    roles = bears_roles(path_of(stored))
    kept = tuple(replace(backend, directed=False) for backend in stored.backends) if roles else ()
    if not stored.withdrawn:
        return replace(stored, withdrawn=True, prepare=None, backends=kept)
    if stored.backends:
        return replace(stored, backends=() if all(word.settled for word in _senders(stored, words)) else kept)
    return None if all(word.settled for word in words.values()) else stored


def _advance(
    wanted: VirtualServicePlanSpec, stored: VirtualServicePlanSpec | None, words: Words
) -> VirtualServicePlanSpec:
    if stored is None:
        return replace(wanted, backends=tuple(_undirected(wanted, wanted.backends)))
    path, prepare = _path(wanted, stored, words)
    spec = _arriving(replace(with_path(wanted, path), prepare=prepare), stored, words)
    known = {(backend.node, backend.role): backend for backend in stored.backends}
    if not bears_roles(path) and prepare is None:
        # Nobody needs a role: what is gone is drained by the directors, and nodes have nothing to keep.
        return replace(spec, backends=tuple(replace(backend, directed=True) for backend in wanted.backends))
    backends = []
    for backend in wanted.backends:
        before = known.pop((backend.node, backend.role), None)
        if before is not None and path != path_of(stored):
            # Whatever it could take before, of this way only a report counts, and only where it was told to prepare.
            before = replace(before, directed=False) if path == stored.prepare else None
        backends.append(replace(backend, directed=_directs(backend, before, path, words)))
    left = [kept for before in known.values() if (kept := _left(before, stored, words)) is not None]
    return replace(spec, backends=(*backends, *left))


def _arriving(spec: VirtualServicePlanSpec, stored: VirtualServicePlanSpec, words: Words) -> VirtualServicePlanSpec:
    """``spec``, of whose addresses and ports directors serve those that all whom they send to now have reported.

    Who is silent or cannot do what it is told is not waited for, or one node would hold up all others.
    """
    sent_to = {each.node for each in stored.backends if each.directed and each.role is not ServerRole.MACHINE}
    if not sent_to or not bears_roles(spec):
        return spec
    heard = [word for node in sent_to if not (word := words.get(node, NOTHING_SAID)).silent]
    ready = all(word.reached or word.failing for word in heard)
    addresses = {each.address: each.directed or ready for each in stored.addresses}
    ports = {(each.protocol, each.port): each.directed or ready for each in stored.ports}
    return replace(
        spec,
        addresses=tuple(replace(each, directed=addresses.get(each.address, False)) for each in spec.addresses),
        ports=tuple(replace(each, directed=ports.get((each.protocol, each.port), False)) for each in spec.ports),
    )


def _undirected(spec: VirtualServicePlanSpec, backends: Iterable[PlanBackend]) -> Iterator[PlanBackend]:
    """The first time: who needs a role gets that first."""
    roles = bears_roles(path_of(spec))
    for backend in backends:
        yield replace(backend, directed=not roles or backend.role is ServerRole.MACHINE)


def _directs(backend: PlanBackend, before: PlanBackend | None, path: PlanPath, words: Words) -> bool:
    """Directors may send to it: they do already, it needs no role, or its node has reported that it has it."""
    if backend.role is ServerRole.MACHINE or not bears_roles(path):
        return True
    if before is None or (backend.role is ServerRole.SECOND_HOP and _taking(backend) - _taking(before)):
        return False  # its second hop has nobody yet for what would be sent there
    word = words.get(backend.node, NOTHING_SAID)
    return before.directed or (word.reached and not word.failing)


def _taking(backend: PlanBackend) -> set[bool]:
    """Families, as whether they are IPv6, of which it has a real server that takes new connections."""
    return {":" in server.address for server in backend.servers if server.weight}


def _left(before: PlanBackend, stored: VirtualServicePlanSpec, words: Words) -> PlanBackend | None:
    """A backend that is wanted no more: without traffic first, then away once its last connection is gone."""
    if before.role is ServerRole.MACHINE or not bears_roles(path_of(stored)):
        return None
    if before.directed:
        return replace(before, directed=False)
    addresses = {*before.addresses, *(server.address for server in before.servers)}
    for word in _senders(stored, words):
        if not word.forgotten and (not word.reached or word.draining(addresses)):
            return before
    return None


def _senders(stored: VirtualServicePlanSpec, words: Words) -> Iterator[Word]:
    """What everybody says who may have connections to real servers: directors, and who was one and is labelled still.

    Who serves and does not count now is no reason to wait.
    """
    directors = {director.node for director in stored.directors}
    serving = {backend.node for backend in stored.backends}
    yield from (words.get(node, NOTHING_SAID) for node in directors)
    yield from (word for node, word in words.items() if node not in directors and not (word.silent and node in serving))


def _path(
    wanted: VirtualServicePlanSpec, stored: VirtualServicePlanSpec, words: Words
) -> tuple[PlanPath, PlanPath | None]:
    """The way packets take now, and the one that real servers prepare for."""
    now, then = path_of(stored), path_of(wanted)
    if now == then or stored.withdrawn or not bears_roles(then) or not _fits(wanted, now):
        return then, None
    # Who is silent serves nobody now; it is not waited for, and takes the role when it comes back.
    nodes = {backend.node for backend in wanted.backends if backend.role is not ServerRole.MACHINE}
    heard = [word for node in nodes if not (word := words.get(node, NOTHING_SAID)).silent]
    ready = stored.prepare == then and all(word.reached and not word.failing for word in heard)
    return (then, None) if ready else (now, then)


def _fits(wanted: VirtualServicePlanSpec, path: PlanPath) -> bool:
    """What is wanted can go on the old way for a while: not where that cannot map ports, nor serve one-packet."""
    if path.forwarding is Forwarding.NAT:
        return not wanted.one_packet and (path.return_path is not ReturnPath.GATEWAY or bool(path.gateways))
    numbers = tuple(port.port for port in wanted.ports)
    return all(
        backend.role is ServerRole.SECOND_HOP or all(server.ports == numbers for server in backend.servers)
        for backend in wanted.backends
    )


def _sliced(
    spec: VirtualServicePlanSpec,
    plans: Sequence[VirtualServicePlan],
    words: Words,
    before: Collection[str],
    namespace: str,
) -> Iterator[VirtualServicePlan]:
    """``before``: whom it concerned until now. They stay labelled until they have said that they have nothing of it."""
    cut = parts(spec, plans)
    concerned_by = [concerned(replace(spec, backends=part)) for part in cut]
    everybody = set().union(*concerned_by)
    # A label less is news to all others, so where all of them go in the end they go at once.
    waiting = {node for node, word in words.items() if not word.settled or (spec.withdrawn and not word.forgotten)}
    waiting |= {node for node in before if not words.get(node, NOTHING_SAID).forgotten}
    owner = spec.virtual_service
    for number, (part, nodes) in enumerate(zip(cut, concerned_by, strict=True)):
        told = nodes | (waiting - everybody if number == 0 else set())
        meta = ObjectMeta(
            name=plan_name(owner.namespace, owner.name, number),
            namespace=namespace,
            labels={node_label(node): "" for node in sorted(told)},
        )
        yield VirtualServicePlan(meta, replace(spec, backends=part, slice=number, slices=len(cut)))
