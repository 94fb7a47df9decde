"""A plan's slices: put together for the host, cut apart again for whoever keeps or shows plans as a cluster does. Pure.

A node gets the slices that concern it, not always all, and while several are being written it sees old beside new.
"""

from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from ipvs_api.labels import plan_name
from ipvs_api.meta import ObjectMeta
from ipvs_api.plan import SLICE_SERVERS, PlanBackend, VirtualServicePlan, VirtualServicePlanSpec


def together(slices: Sequence[VirtualServicePlanSpec]) -> VirtualServicePlanSpec:
    """One plan of its slices, at least one, given from the oldest to the newest.

    The newest head stands, slices beyond the number that it names do not count, and of a real server that moves from
    one slice to another the newer slice's word does.
    """
    head = slices[-1]
    counted = [each for each in slices if each.slice < head.slices]
    backends = tuple(_backends(counted)) if len(counted) > 1 else head.backends
    return replace(head, backends=backends, slice=0, slices=1)


def _backends(slices: Sequence[VirtualServicePlanSpec]) -> Iterator[PlanBackend]:
    places = {
        (backend.node, backend.role, server.address): each.slice
        for each in slices
        for backend in each.backends
        for server in backend.servers
    }
    for each in sorted(slices, key=lambda each: each.slice):
        for backend in each.backends:
            stay = tuple(s for s in backend.servers if places[backend.node, backend.role, s.address] == each.slice)
            if stay:
                yield backend if len(stay) == len(backend.servers) else replace(backend, servers=stay)


def apart(plan: VirtualServicePlanSpec) -> tuple[VirtualServicePlanSpec, ...]:
    """The plan as a cluster would hold it: at most ``SLICE_SERVERS`` real servers a slice."""
    parts = list(_parts(plan.backends))
    if len(parts) == 1:
        return (plan,)
    return tuple(replace(plan, backends=part, slice=n, slices=len(parts)) for n, part in enumerate(parts))


def _parts(backends: Iterable[PlanBackend]) -> Iterator[tuple[PlanBackend, ...]]:
    part: list[PlanBackend] = []
    room = SLICE_SERVERS
    for backend in backends:
        size = max(len(backend.servers), 1)
        if size > room:
            yield tuple(part)
            part, room = [], SLICE_SERVERS
        part.append(backend)
        room -= size
    yield tuple(part)


def as_objects(plan: VirtualServicePlanSpec) -> tuple[VirtualServicePlan, ...]:
    """The objects that a cluster would hold for a plan whose slices were put together."""
    owner = plan.virtual_service
    return tuple(
        VirtualServicePlan(ObjectMeta(plan_name(owner.namespace, owner.name, part.slice)), part) for part in apart(plan)
    )
