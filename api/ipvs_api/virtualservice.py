"""``VirtualService``: one virtual address with its ports, as a user declares it.

Shape: ``crds/virtualservices.yaml``.
"""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType, field

from ipvs_api.bounds import (
    CIDR,
    DNS_LABEL,
    SET,
    Address,
    Connections,
    Count,
    DrainSeconds,
    Generation,
    LabelName,
    Message,
    Moment,
    ObjectName,
    OptionalName,
    PortNumber,
    PortOrNone,
    Reason,
    Weight,
    keyed,
)
from ipvs_api.meta import Condition, ConditionStatus, ObjectMeta, Shape

STATUS_NAMES = 10
"""At most this many unhealthy real servers and failing nodes are named in a status, each."""


class Protocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class Forwarding(StrEnum):
    """LVS forwarding method: rewrite the destination, rewrite only the MAC, or encapsulate."""

    NAT = "NAT"
    DR = "DR"
    TUN = "TUN"


class ReturnPath(StrEnum):
    """How NAT replies find the director: by its own source address, or by the real server's route (classic LVS-NAT)."""

    MASQUERADE = "Masquerade"
    GATEWAY = "Gateway"


class TunnelType(StrEnum):
    IPIP = "IPIP"
    GUE = "GUE"
    GRE = "GRE"


class Scheduler(StrEnum):
    """The kernel's schedulers (``net/netfilter/ipvs/ip_vs_*.c``)."""

    RR = "rr"
    WRR = "wrr"
    LC = "lc"
    WLC = "wlc"
    LBLC = "lblc"
    LBLCR = "lblcr"
    DH = "dh"
    SH = "sh"
    MH = "mh"
    SED = "sed"
    NQ = "nq"
    FO = "fo"
    OVF = "ovf"
    TWOS = "twos"


class SchedulerFlag(StrEnum):
    """Flags of ``sh`` and ``mh``: go on to another server when the hashed one is down; hash the port as well."""

    FALLBACK = "Fallback"
    PORT = "Port"


class HealthCheckType(StrEnum):
    TCP = "TCP"
    HTTP = "HTTP"
    HTTPS = "HTTPS"
    UDP = "UDP"
    DNS = "DNS"
    GRPC = "gRPC"
    NONE = "None"


ServicePort = PortNumber | Annotated[str, Meta(min_length=1, max_length=63, pattern=DNS_LABEL)]


class Port(Shape, frozen=True):
    """A port of the virtual service; ``target_port`` 0 means the real servers listen on ``port`` itself."""

    name: LabelName
    port: PortNumber
    protocol: Protocol = Protocol.TCP
    target_port: PortOrNone = 0
    service_port: ServicePort | UnsetType = UNSET


class NatSpec(Shape, frozen=True):
    return_path: ReturnPath = ReturnPath.MASQUERADE


class TunnelSpec(Shape, frozen=True):
    """``port``: UDP destination port of GUE; 0 for the others."""

    type: TunnelType = TunnelType.IPIP
    port: PortOrNone = 0


class Persistence(Shape, frozen=True):
    """Clients of one network (prefix lengths) stay with one real server.

    Until ``timeout_seconds`` have passed without a connection (``ipvsadm`` knows at most 31 days).
    """

    timeout_seconds: Annotated[int, Meta(ge=1, le=2_678_400)] = 300
    ipv4_prefix_length: Annotated[int, Meta(ge=1, le=32)] = 32
    ipv6_prefix_length: Annotated[int, Meta(ge=1, le=128)] = 128


class ServiceReference(Shape, frozen=True):
    name: LabelName


class StaticBackend(Shape, frozen=True):
    """``max_connections``: from there on no new ones until they are fewer than ``resume_connections``; 0: unlimited.

    IPVS calls them upper and lower threshold.
    """

    address: Address
    weight: Weight = 1
    max_connections: Connections = 0
    resume_connections: Connections = 0


class Backends(Shape, frozen=True):
    """Exactly one of the two."""

    service: ServiceReference | None = None
    static: (
        Annotated[tuple[StaticBackend, ...], Meta(min_length=1, max_length=1000, extra_json_schema=keyed("address"))]
        | None
    ) = None


class HealthCheck(Shape, frozen=True):
    """``timeout_seconds`` is at most ``interval_seconds``."""

    type: HealthCheckType = HealthCheckType.TCP
    interval_seconds: Annotated[int, Meta(ge=1, le=3600)] = 2
    timeout_seconds: Annotated[int, Meta(ge=1, le=3600)] = 1
    rise: Annotated[int, Meta(ge=1, le=100)] = 2
    fall: Annotated[int, Meta(ge=1, le=100)] = 3


class Fallback(Shape, frozen=True):
    """The sorry server."""

    address: Address
    port: PortNumber


class Drain(Shape, frozen=True):
    """How long connections to a real server that is leaving may go on; 0: not at all."""

    timeout_seconds: DrainSeconds = 60


class VirtualServiceSpec(Shape, frozen=True):
    """``addresses``: at most one of each family; empty: ``address_count`` are allocated from the group.

    ``scheduler_flags`` None: what the scheduler has by default (``Fallback`` for sh and mh).
    """

    director_group: ObjectName
    ports: Annotated[tuple[Port, ...], Meta(min_length=1, max_length=64, extra_json_schema=keyed("name"))]
    backends: Backends
    addresses: Annotated[tuple[Address, ...], Meta(max_length=2, extra_json_schema=SET)] = ()
    address_count: Annotated[int, Meta(ge=1, le=8)] = 1
    forwarding: Forwarding = Forwarding.NAT
    nat: NatSpec = NatSpec()
    tunnel: TunnelSpec = TunnelSpec()
    scheduler: Scheduler = Scheduler.WLC
    scheduler_flags: Annotated[tuple[SchedulerFlag, ...], Meta(max_length=2, extra_json_schema=SET)] | None = None
    persistence: Persistence | None = None
    one_packet: bool = False
    allowed_sources: Annotated[tuple[CIDR, ...], Meta(max_length=256, extra_json_schema=SET)] = ()
    health_check: HealthCheck = HealthCheck()
    fallback: Fallback | None = None
    drain: Drain = Drain()


class StatusAddress(Shape, frozen=True):
    address: Address
    director: OptionalName = ""


class NodeCount(Shape, frozen=True):
    desired: Count = 0
    programmed: Count = 0


class UnhealthyServer(Shape, frozen=True):
    address: Address
    reason: Reason
    since: Moment = ""


class RealServerCounts(Shape, frozen=True):
    """At most ``STATUS_NAMES`` unhealthy ones are named."""

    total: Count = 0
    healthy: Count = 0
    draining: Count = 0
    unhealthy: Annotated[tuple[UnhealthyServer, ...], Meta(max_length=STATUS_NAMES)] = ()


class NodeFailure(Shape, frozen=True):
    node: ObjectName
    reason: Reason
    message: Message = ""


class NodeCounts(Shape, frozen=True):
    """At most ``STATUS_NAMES`` failures are named."""

    desired: Count = 0
    programmed: Count = 0
    failures: Annotated[tuple[NodeFailure, ...], Meta(max_length=STATUS_NAMES)] = ()


class Summary(Shape, frozen=True):
    """One string each for ``kubectl get``, whose columns show one value."""

    vip: Annotated[str, Meta(max_length=512)] = ""
    healthy: Annotated[str, Meta(max_length=32)] = ""
    nodes: Annotated[str, Meta(max_length=32)] = ""


class VirtualServiceStatus(Shape, frozen=True):
    observed_generation: Generation = 0
    addresses: Annotated[tuple[StatusAddress, ...], Meta(max_length=16)] = ()
    conditions: Annotated[tuple[Condition, ...], Meta(max_length=16, extra_json_schema=keyed("type"))] = ()
    directors: NodeCount = NodeCount()
    real_servers: RealServerCounts = RealServerCounts()
    nodes: NodeCounts = NodeCounts()
    summary: Summary = Summary()


UNSEEN = VirtualServiceStatus(
    conditions=(
        Condition(
            type="Ready",
            status=ConditionStatus.UNKNOWN,
            reason="Pending",
            message="The operator has not seen this VirtualService yet.",
            last_transition_time="1970-01-01T00:00:00Z",
        ),
    )
)
"""The status of a VirtualService from its creation to the operator's first visit."""


class VirtualService(Shape, frozen=True):
    metadata: ObjectMeta
    spec: VirtualServiceSpec
    status: VirtualServiceStatus = UNSEEN
    api_version: Literal["ipvs.dev/v1alpha1"] = field(name="apiVersion", default="ipvs.dev/v1alpha1")
    kind: Literal["VirtualService"] = "VirtualService"
