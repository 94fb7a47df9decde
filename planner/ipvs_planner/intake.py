"""What the snapshot keeps of a VirtualService, encoded: everything parsed, nothing left to look up."""

import msgspec

from ipvs_api.virtualservice import (
    Forwarding,
    Protocol,
    ReturnPath,
    Scheduler,
    SchedulerFlag,
    TunnelType,
)
from ipvs_planner.packed import Address, Endpoint, Packed, endpoint
from ipvs_planner.reasons import Finding


class Server(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A static backend. ``position``: its place in the manifest."""

    packed: Packed
    text: str
    weight: int
    max_connections: int
    resume_connections: int
    position: int


class ServicePort(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``target``: the port that static real servers listen on. ``service``: the Service's port, by name or number."""

    name: str
    protocol: Protocol
    number: int
    target: int
    service: int | str


class Intake(msgspec.Struct, frozen=True, array_like=True):
    """``findings``: why it cannot be done as it is written; then everything else is what could be read of it.

    ``servers``: static ones; ``service``: the name of the Service where that has the real servers, else empty.
    ``sources``: canonical prefixes. ``persistence``: timeout in seconds and prefix lengths of IPv4 and IPv6.
    """

    uid: str
    generation: int
    created: str
    group: str
    findings: tuple[Finding, ...]
    vips: tuple[Address, ...]
    ports: tuple[ServicePort, ...]
    servers: tuple[Server, ...]
    forwarding: Forwarding
    return_path: ReturnPath
    tunnel: tuple[TunnelType, int]
    scheduler: Scheduler
    scheduler_flags: tuple[SchedulerFlag, ...]
    persistence: tuple[int, int, int] | None
    one_packet: bool
    sources: tuple[str, ...]
    drain_timeout_seconds: int
    checks_health: bool
    has_fallback: bool
    address_count: int
    service: str

    @property
    def routed(self) -> bool:
        """Replies go back by real servers' routes, to the group's gateway."""
        return self.forwarding is Forwarding.NAT and self.return_path is ReturnPath.GATEWAY

    def vip_endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(
            sorted(endpoint(vip.packed, port.protocol, port.number) for vip in self.vips for port in self.ports)
        )

    def return_endpoints(self) -> tuple[Endpoint, ...]:
        """Static real servers' endpoints, whose replies go to the group's gateway; none unless ``routed``."""
        if not self.routed:
            return ()
        ends = {(port.protocol, port.target) for port in self.ports}
        return tuple(
            sorted(endpoint(server.packed, protocol, target) for server in self.servers for protocol, target in ends)
        )
