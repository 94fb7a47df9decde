"""Which real servers go into which slice of a plan."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from ipvs_api.plan import (
    SLICE_SERVERS,
    PlanBackend,
    PlanServer,
    ServerRole,
    VirtualServicePlan,
    VirtualServicePlanSpec,
)


def parts(spec: VirtualServicePlanSpec, plans: Sequence[VirtualServicePlan]) -> list[tuple[PlanBackend, ...]]:
    """Real servers stay in the slice that they are stored in, so that one that changes rewrites one slice.

    New ones fill gaps; where half of the slices would do, all are cut anew.
    """
    rows = [(backend, server) for backend in spec.backends for server in backend.servers]
    needed = max(1, -(-len(rows) // SLICE_SERVERS))
    anew = needed == 1 or len(plans) >= 2 * needed
    places = {
        (backend.node, backend.role, server.address): plan.spec.slice
        for plan in (() if anew else plans)
        for backend in plan.spec.backends
        for server in backend.servers
    }
    filled: list[list[tuple[PlanBackend, PlanServer]]] = [[] for _ in range(max(needed, len(plans) if places else 0))]
    homeless = []
    for backend, server in rows:
        at = places.get((backend.node, backend.role, server.address), -1)
        if 0 <= at < len(filled) and len(filled[at]) < SLICE_SERVERS:
            filled[at].append((backend, server))
        else:
            homeless.append((backend, server))
    at = 0
    for row in homeless:
        while len(filled[at]) >= SLICE_SERVERS:
            at += 1
            if at == len(filled):
                filled.append([])
        filled[at].append(row)
    while len(filled) > 1 and not filled[-1]:
        filled.pop()
    return [_grouped(part) for part in filled]


def _grouped(rows: Iterable[tuple[PlanBackend, PlanServer]]) -> tuple[PlanBackend, ...]:
    """Backends sorted by node and role, machines first."""
    found: dict[tuple[str, ServerRole], tuple[PlanBackend, list[PlanServer]]] = {}
    for backend, server in rows:
        found.setdefault((backend.node, backend.role), (backend, []))[1].append(server)
    return tuple(
        replace(backend, servers=tuple(sorted(servers, key=_by_address)))
        for _, (backend, servers) in sorted(found.items(), key=lambda entry: entry[0])
    )


def _by_address(server: PlanServer) -> tuple[bool, str]:
    return ":" in server.address, server.address
