"""The real servers of a virtual service that names a Service: which of its endpoints can take the traffic, and where.

An endpoint comes and goes without anybody looking at the virtual service, so none of them ever refuses it: who cannot
take the traffic is left out, and told. A Service that is not there leaves the addresses without real servers.
"""

from collections.abc import Collection, Iterator

from ipvs_api.plan import PLAN_SERVERS, ServerRole
from ipvs_api.virtualservice import Forwarding
from ipvs_planner.backends import ServiceShape
from ipvs_planner.compiled import ServerCounts
from ipvs_planner.endpoints import ServingEndpoint, resolve
from ipvs_planner.groups import GroupFacts
from ipvs_planner.index import Key
from ipvs_planner.intake import Intake, Server
from ipvs_planner.packed import FAMILIES, endpoint, text_of
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.refusals import other_gateway
from ipvs_planner.servers import Placed, RealServers
from ipvs_planner.snapshot import Snapshot


def behind_service(snapshot: Snapshot, key: Key, intake: Intake, directors: Collection[str]) -> RealServers:
    """``intake`` with the addresses that it was assigned. ``directors``: who directs for its group."""
    service = Key(key.namespace, intake.service)
    shape = snapshot.backends.service(service)
    if shape is not None and shape.external:
        words = f"spec.backends.service: found {intake.service}, of type ExternalName ({shape.external})"
        wanted = "wanted one with endpoints; name addresses outside under spec.backends.static"
        return RealServers(refusals=(Finding(Reason.SERVICE_EXTERNAL_NAME, f"{words}, {wanted}"),))
    resolved = resolve(intake, shape, snapshot.backends.slices(service), {len(vip.packed) for vip in intake.vips})
    sorting = _Sorting(snapshot, key, intake, directors)
    placed = [entry for each in resolved.endpoints if (entry := sorting.place(each)) is not None]
    notes = [*_families(intake, shape), *resolved.notes, *sorting.notes()]
    if len(placed) > PLAN_SERVERS:
        words = f"Service {intake.service} has {len(placed)} endpoints that serve"
        remedy = f"the first {PLAN_SERVERS} by address get traffic; spread them over several Services"
        notes.append(Finding(Reason.TOO_MANY_SERVERS, f"{words}; {remedy}."))
    placed = placed[:PLAN_SERVERS]
    served = [entry for entry in placed if intake.forwarding is Forwarding.NAT or entry.reachable]
    return RealServers(placed, served, ServerCounts(resolved.total, len(served)), notes=tuple(notes))


def _families(intake: Intake, shape: ServiceShape | None) -> Iterator[Finding]:
    """Addresses that no endpoint can ever serve."""
    for vip in intake.vips if shape is not None and shape.families else ():
        if shape is not None and len(vip.packed) not in shape.families:
            has = " and ".join(FAMILIES[family] for family in shape.families)
            words = f"Nobody serves {vip.text}: Service {intake.service} is {has} only"
            yield Finding(Reason.MIXED_FAMILIES, f"{words}; give it an {FAMILIES[len(vip.packed)]} address as well.")


class _Sorting:
    """One endpoint after another finds its place, or a reason to be left out."""

    def __init__(self, snapshot: Snapshot, key: Key, intake: Intake, directors: Collection[str]) -> None:
        self._snapshot, self._key, self._intake = snapshot, key, intake
        self._group: GroupFacts = snapshot.groups[intake.group]
        self._vips = {vip.packed for vip in intake.vips}
        self._directors = directors
        self._out: dict[Reason, list[str]] = {}
        self._strays: list[str] = []

    def place(self, found: ServingEndpoint) -> Placed | None:
        """None: left out, which is noted."""
        nat = self._intake.forwarding is Forwarding.NAT
        own = self._snapshot.nodes.whose(found.packed)
        named = self._snapshot.nodes.facts.get(found.node)
        around = self._snapshot.nodes.around(found.packed) if own is None else None
        node = own or named or around
        role = ServerRole.MACHINE
        if node is not None:
            role = ServerRole.HOST if nat and own is not None else ServerRole.SECOND_HOP
        entry = Placed(Server(found.packed, text_of(found.packed), 1, 0, 0, -1), role, node, found.ports)
        objection = self._objection(found, entry, known=own is not None or around is not None)
        if objection is not None:
            self._leave_out(objection)
            return None
        if role is ServerRole.MACHINE and not nat:
            entry = self._unmapped(entry)
        if named is None and any(entry.ports):
            self._strays.append(self._stray(found, entry))
        return entry if any(entry.ports) else None

    def _objection(self, found: ServingEndpoint, entry: Placed, *, known: bool) -> Finding | None:
        """Why it can take nothing at all; None: it can. ``known``: by its address it belongs to a node."""
        text = entry.server.text
        if found.packed in self._vips:
            return Finding(Reason.BACKEND_IS_ADDRESS, f"{text}, the virtual service's own address")
        if not self._snapshot.trusted and not known and not self._group.admits_backend(found.packed):
            allowed = ", ".join(prefix.text for prefix in self._group.static_backends) or "none"
            return Finding(
                Reason.STATIC_BACKEND_NOT_ALLOWED,
                f"{text}, which is no Node's and in no podCIDR, wanted one inside DirectorGroup {self._group.name}'s "
                f"spec.allowedStaticBackends ({allowed})",
            )
        if self._intake.one_packet and entry.node is not None and entry.node.name in self._directors:
            return Finding(
                Reason.ONE_PACKET_FORWARDING,
                f"{text} on {entry.node.name}, which directs as well and would reach it by NAT, where onePacket "
                "answers come from the real server's address",
            )
        conflict = self._conflict(found)
        return Finding(Reason.GATEWAY_AMBIGUOUS, conflict) if conflict else None

    def notes(self) -> Iterator[Finding]:
        for reason, entries in self._out.items():
            yield Finding(reason, f"Left out: {_some(entries)}.")
        if self._strays:
            yield Finding(Reason.ENDPOINT_WITHOUT_NODE, f"Without a node of its own: {_some(self._strays)}.")

    def _leave_out(self, finding: Finding) -> None:
        self._out.setdefault(finding.reason, []).append(finding.message)

    def _unmapped(self, entry: Placed) -> Placed:
        """It takes packets itself, as the client sent them: ports that would have to be mapped do not serve."""
        numbers = tuple(port.number for port in self._intake.ports)
        ports = tuple(own if own == number else 0 for own, number in zip(entry.ports, numbers, strict=True))
        for port, own, left in zip(self._intake.ports, entry.ports, ports, strict=True):
            if own and not left:
                words = (
                    f"{entry.server.text} for port {port.name}: it listens on {own}, but {self._intake.forwarding} "
                    f"leaves {port.number} as it is and nothing of ours is in front of it; wanted the same port, or "
                    "forwarding NAT"
                )
                self._leave_out(Finding(Reason.PORT_MAPPING, words))
        return entry._replace(ports=ports)

    def _conflict(self, found: ServingEndpoint) -> str:
        """Replies of one of its ports go to the gateway of another virtual service; empty: they do not."""
        if not self._intake.routed:
            return ""
        for port, number in zip(self._intake.ports, found.ports, strict=True):
            end = endpoint(found.packed, port.protocol, number) if number else b""
            other = other_gateway(self._snapshot, self._key, self._intake.group, end) if end else ""
            if other:
                return other
        return ""

    def _stray(self, found: ServingEndpoint, entry: Placed) -> str:
        node = entry.node
        where = f"it is taken for one of Node {node.name}" if node is not None else "it is a machine outside"
        if self._intake.forwarding is not Forwarding.NAT and node is None:
            where += ", which must have the virtual service's address itself"
        names = f"names Node {found.node}, which is not there" if found.node else "names no node"
        return f"{entry.server.text} {names}; by its address {where}"


def _some(entries: list[str]) -> str:
    return entries[0] + (f" (and {len(entries) - 1} more)" if len(entries) > 1 else "")
