"""Return paths of NAT Gateway at a real server: a small number for each gateway, used as mark and routing table.

Pure.
"""

from collections.abc import Mapping

from ipvs_agent.desired.share import is_director, version_of
from ipvs_agent.rows import RETURN_PATHS, ROUTE_TABLE_BASE, RouteKey, RouteRow
from ipvs_api.plan import ServerRole, VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding, ReturnPath

Paths = Mapping[tuple[int, str], int]
"""Number (1..7) by family (4, 6) and gateway address."""


def gateways_of(plan: VirtualServicePlanSpec, node: str) -> set[tuple[int, str]]:
    """The gateways that real servers of ``plan`` on ``node`` answer through."""
    if plan.forwarding is not Forwarding.NAT or plan.return_path is not ReturnPath.GATEWAY or is_director(plan, node):
        return set()
    serves = any(backend.node == node and backend.role is not ServerRole.MACHINE for backend in plan.backends)
    return {(version_of(gateway), gateway) for gateway in plan.gateways} if serves else set()


def found(routes: Mapping[RouteKey, RouteRow]) -> dict[tuple[int, str], int]:
    """The numbers that the kernel's own routes show, so that they survive a restart."""
    paths = {key: row for key, row in routes.items() if key.table != ROUTE_TABLE_BASE}
    return {(key.family, row.gateway): key.table - ROUTE_TABLE_BASE for key, row in paths.items()}


def allocate(paths: Paths, wanted: set[tuple[int, str]], used: set[tuple[int, str]]) -> dict[tuple[int, str], int]:
    """``paths`` with a number for every wanted gateway, as long as there are free ones.

    Numbers never move; those of gateways that no route uses any more are given again only when none is free.
    """
    kept = dict(paths)
    for gateway in sorted(wanted - paths.keys()):
        family = gateway[0]
        taken = {number for (version, _), number in kept.items() if version == family}
        if len(taken) == RETURN_PATHS:
            idle = sorted(name for name in kept if name[0] == family and name not in used | wanted)
            if not idle:
                continue
            taken.discard(kept.pop(idle[0]))
        kept[gateway] = min(number for number in range(1, RETURN_PATHS + 1) if number not in taken)
    return kept
