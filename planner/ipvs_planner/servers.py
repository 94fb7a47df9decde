"""Who makes each real server able to take the traffic, and the plan's backends and slices that follow from it."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ipvs_api.plan import SLICE_SERVERS, PlanBackend, PlanPath, PlanServer, ServerRole, VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding, ReturnPath
from ipvs_planner.compiled import ServerCounts
from ipvs_planner.intake import Intake, Server
from ipvs_planner.nodes import NodeFacts
from ipvs_planner.packed import Endpoint, endpoint
from ipvs_planner.reasons import Finding
from ipvs_planner.snapshot import Snapshot


class Placed(NamedTuple):
    """A real server with its role; ``node`` None for a machine outside. ``ports``: for each port of the virtual service
    the one that it listens on, 0 where it does not serve that one."""

    server: Server
    role: ServerRole
    node: NodeFacts | None
    ports: tuple[int, ...]

    @property
    def reachable(self) -> bool:
        """Directors have an address to forward to: its own, or one of its node in front of a second hop."""
        if self.role is not ServerRole.SECOND_HOP or self.node is None:
            return True
        return any(len(own) == len(self.server.packed) for own in self.node.own)


class RealServers(NamedTuple):
    """``placed``: all that there are; ``served``: those that directors can forward to."""

    placed: Sequence[Placed] = ()
    served: Sequence[Placed] = ()
    counts: ServerCounts = ServerCounts()
    refusals: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()

    def return_ends(self, intake: Intake) -> tuple[Endpoint, ...]:
        """Those of them whose replies go to the group's gateway; none unless ``Intake.routed``."""
        ends = (
            endpoint(entry.server.packed, port.protocol, number)
            for entry in (self.served if intake.routed else ())
            for port, number in zip(intake.ports, entry.ports, strict=True)
            if number
        )
        return tuple(sorted(set(ends)))


def place(snapshot: Snapshot, intake: Intake, directors: Sequence[str]) -> list[Placed]:
    """Every static real server in its place.

    A Node's own address is a host; under DR and TUN one that directs for this group cannot be: it has the VIP already,
    so what another director forwards to it takes the second hop. What lies in a podCIDR is behind that node.
    """
    directing = set(directors) if intake.forwarding is not Forwarding.NAT else set()
    ports = tuple(port.target for port in intake.ports)
    return [_place(snapshot, server, directing, ports) for server in intake.servers]


def _place(snapshot: Snapshot, server: Server, directing: set[str], ports: tuple[int, ...]) -> Placed:
    node = snapshot.nodes.whose(server.packed)
    if node is not None:
        return Placed(server, ServerRole.SECOND_HOP if node.name in directing else ServerRole.HOST, node, ports)
    node = snapshot.nodes.around(server.packed)
    if node is not None:
        return Placed(server, ServerRole.SECOND_HOP, node, ports)
    return Placed(server, ServerRole.MACHINE, None, ports)


def slices(placed: Sequence[Placed]) -> Iterator[tuple[PlanBackend, ...]]:
    """Backends sorted by node, machines first, in slices of ``SLICE_SERVERS`` real servers; at least one slice."""
    rows = sorted(placed, key=_order)
    for start in range(0, len(rows) or 1, SLICE_SERVERS):
        yield tuple(_backends(rows[start : start + SLICE_SERVERS]))


def _order(entry: Placed) -> tuple[str, str, int, bytes]:
    node = entry.node.name if entry.node is not None else ""
    return node, entry.role, len(entry.server.packed), entry.server.packed


def _backends(rows: Sequence[Placed]) -> Iterator[PlanBackend]:
    start = 0
    for end in range(1, len(rows) + 1):
        _, role, node, _ = rows[start]
        if end < len(rows) and rows[end].role is role and rows[end].node is node:
            continue
        yield PlanBackend(
            role=role,
            servers=tuple(_plan_server(row.server, row.ports) for row in rows[start:end]),
            node=node.name if node is not None else "",
            addresses=node.addresses if node is not None else (),
        )
        start = end


def _plan_server(server: Server, ports: tuple[int, ...]) -> PlanServer:
    return PlanServer(server.text, ports, server.weight, server.max_connections, server.resume_connections)


def bears_roles(path: VirtualServicePlanSpec | PlanPath) -> bool:
    """Real servers need something of their own; under NAT with Masquerade they do not."""
    return path.forwarding is not Forwarding.NAT or path.return_path is ReturnPath.GATEWAY


def concerned(spec: VirtualServicePlanSpec) -> set[str]:
    """The nodes that have something to do for a plan: directors always, those of real servers where these bear roles.

    Directors of a plan that is withdrawn have something to take away.
    """
    nodes = {director.node for director in spec.directors}
    if bears_roles(spec) or (spec.prepare is not None and bears_roles(spec.prepare)):
        nodes.update(backend.node for backend in spec.backends if backend.role is not ServerRole.MACHINE)
    return nodes
