"""``VirtualServicePlan``: what the nodes must do for one VirtualService, in numbers and addresses only.

A plan comes in slices (as EndpointSlices do): each repeats the head and holds up to ``SLICE_SERVERS`` real servers,
grouped by the node that runs them. Agents read plans and nothing else of what people declare.
Shape: ``crds/virtualserviceplans.yaml``.
"""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, field

from ipvs_api.bounds import (
    CIDR,
    MAC,
    Address,
    Connections,
    DrainSeconds,
    Generation,
    Identifier,
    LabelName,
    ObjectName,
    OptionalName,
    PortNumber,
    PortOrNone,
    Weight,
)
from ipvs_api.meta import ObjectMeta, Shape
from ipvs_api.virtualservice import Forwarding, Persistence, Protocol, ReturnPath, Scheduler, SchedulerFlag, TunnelSpec

SLICE_SERVERS = 500
PLAN_SERVERS = 10_000
PLAN_DIRECTORS = 128
"""At most this many directors in one plan, and so in one DirectorGroup."""

FEATURES = frozenset({"v1"})
"""Schema features this version's agent understands; a plan names those it ``requires``."""


class Owner(Shape, frozen=True):
    """The VirtualService a plan was made from."""

    namespace: LabelName
    name: ObjectName
    uid: Identifier = ""
    generation: Generation = 0


class PlanAddress(Shape, frozen=True):
    """One VIP. ``holder``: the director that has it on its client-facing interface.

    Empty: it is silent on every director's ``ipvs0``. ``directed``: directors serve it; real servers are made ready for
    it either way, and first.
    """

    address: Address
    holder: OptionalName = ""
    directed: bool = True


class PlanPort(Shape, frozen=True):
    """``directed``: as of an address."""

    name: LabelName
    protocol: Protocol
    port: PortNumber
    directed: bool = True


class PlanDirector(Shape, frozen=True):
    """A director and the addresses it forwards from (DIPs, both families).

    ``macs``: its interfaces' MAC addresses as it reported them; empty where nobody could report (manifests): the agents
    of its real servers resolve the addresses instead.
    """

    node: ObjectName
    addresses: Annotated[tuple[Address, ...], Meta(max_length=16)]
    macs: Annotated[tuple[MAC, ...], Meta(max_length=16)] = ()


class ServerRole(StrEnum):
    """Who makes a real server able to take the traffic.

    ``Machine``: nobody of ours, a machine outside. ``Host``: the agent of the node whose own address it is; under DR
    and TUN that host holds the VIP, silent. ``SecondHop``: the agent of the node behind (or on) which it is; under DR
    and TUN directors forward to the node, which rewrites VIP:port to it, so ports may differ.
    """

    MACHINE = "Machine"
    HOST = "Host"
    SECOND_HOP = "SecondHop"


class PlanServer(Shape, frozen=True):
    """A real server: its address (RIP) and, for each port of the plan in order, the port it listens on.

    Port 0: it does not serve that one.
    """

    address: Address
    ports: Annotated[tuple[PortOrNone, ...], Meta(min_length=1, max_length=64)]
    weight: Weight = 1
    max_connections: Connections = 0
    resume_connections: Connections = 0


class PlanBackend(Shape, frozen=True):
    """Real servers of one node. ``addresses``: the node's own, what directors forward to in front of a second hop.

    ``directed``: directors send to it. The node has its role either way: before they do, and until the last connection
    is gone.
    """

    role: ServerRole
    servers: Annotated[tuple[PlanServer, ...], Meta(max_length=SLICE_SERVERS)]
    node: OptionalName = ""
    addresses: Annotated[tuple[Address, ...], Meta(max_length=16)] = ()
    directed: bool = True


class PlanPath(Shape, frozen=True):
    """How packets come to the real servers, and how NAT ``Gateway`` replies go back."""

    forwarding: Forwarding
    return_path: ReturnPath = ReturnPath.MASQUERADE
    gateways: Annotated[tuple[Address, ...], Meta(max_length=2)] = ()
    tunnel: TunnelSpec = TunnelSpec()


class VirtualServicePlanSpec(Shape, frozen=True):
    virtual_service: Owner
    director_group: ObjectName
    addresses: Annotated[tuple[PlanAddress, ...], Meta(min_length=1, max_length=16)]
    ports: Annotated[tuple[PlanPort, ...], Meta(min_length=1, max_length=64)]
    forwarding: Forwarding
    scheduler: Scheduler
    directors: Annotated[tuple[PlanDirector, ...], Meta(max_length=PLAN_DIRECTORS)]
    backends: Annotated[tuple[PlanBackend, ...], Meta(max_length=SLICE_SERVERS)]
    slice: Annotated[int, Meta(ge=0, le=999)] = 0
    slices: Annotated[int, Meta(ge=1, le=1000)] = 1
    requires: Annotated[tuple[LabelName, ...], Meta(max_length=16)] = ("v1",)
    return_path: ReturnPath = ReturnPath.MASQUERADE
    gateways: Annotated[tuple[Address, ...], Meta(max_length=2)] = ()
    """NAT ``Gateway``: where the real servers' replies go, at most one address per family."""
    tunnel: TunnelSpec = TunnelSpec()
    scheduler_flags: Annotated[tuple[SchedulerFlag, ...], Meta(max_length=2)] = ()
    persistence: Persistence | None = None
    one_packet: bool = False
    allowed_sources: Annotated[tuple[CIDR, ...], Meta(max_length=256)] = ()
    drain_timeout_seconds: DrainSeconds = 60
    prepare: PlanPath | None = None
    """What real servers make themselves able to take besides, as directors will send it next."""
    withdrawn: bool = False
    """Directors want nothing of it any more: they drain and give the addresses up. Real servers do as ``backends``."""


class VirtualServicePlan(Shape, frozen=True):
    metadata: ObjectMeta
    spec: VirtualServicePlanSpec
    api_version: Literal["ipvs.dev/v1alpha1"] = field(name="apiVersion", default="ipvs.dev/v1alpha1")
    kind: Literal["VirtualServicePlan"] = "VirtualServicePlan"
