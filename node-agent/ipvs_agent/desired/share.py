"""One plan's share of a host's kernel state, and what stands in its way."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from ipaddress import ip_address
from typing import NamedTuple

from ipvs_agent.facts import Host
from ipvs_agent.rows import KernelState
from ipvs_api.node import NodeGroup
from ipvs_api.plan import PlanBackend, VirtualServicePlanSpec


class Reason(StrEnum):
    """Why something a plan asks for is missing or will not work, as it stands in reports and conditions."""

    ADDRESS_IN_USE = "AddressInUse"
    ADDRESS_OUTSIDE_GROUP = "AddressOutsideGroup"
    DIRECTOR_NOT_ON_LINK = "DirectorNotOnLink"
    DIRECTOR_UNKNOWN = "DirectorUnresolved"
    FEATURE_UNKNOWN = "FeatureUnknown"
    FOREIGN_ENTRY = "ForeignEntry"
    GATEWAY_BUSY = "GatewayBusy"
    GATEWAY_IS_DIRECTOR = "GatewayIsDirector"
    GATEWAY_NOT_ON_LINK = "GatewayNotOnLink"
    INTERFACE_MISSING = "InterfaceMissing"
    KERNEL_REFUSED = "KernelRefused"
    PATH_MTU = "PathMTU"
    PLAN_UNREADABLE = "PlanUnreadable"
    REAL_SERVER_NOT_ON_LINK = "RealServerNotOnLink"
    REAL_SERVER_UNREACHABLE = "RealServerUnreachable"
    REAL_SERVER_SILENT = "RealServerSilent"
    TOO_MANY_GATEWAYS = "TooManyGateways"
    VIP_PREFIX = "VIPPrefix"


class Severity(Enum):
    """``NOTE``: it works, and there is something to know. ``FAILURE``: part of it does not; the rest goes on.

    ``BLOCK``: nothing is programmed for the plan on this host.
    """

    NOTE = 0
    FAILURE = 1
    BLOCK = 2


class Finding(NamedTuple):
    """A requirement that does not hold: what was found and what to do about it."""

    reason: Reason
    message: str
    real_server: str = ""
    severity: Severity = Severity.FAILURE


@dataclass(frozen=True)
class Context:
    """What every share is worked out from besides its plan.

    ``paths``: number (1..7) of each NAT Gateway return path of this host, by family (4, 6) and gateway address.
    ``behind``: networks of clients behind this host, as CIDRs.
    """

    host: Host
    groups: Mapping[str, NodeGroup]
    paths: Mapping[tuple[int, str], int] = field(default_factory=dict)
    behind: tuple[str, ...] = ()

    @property
    def node(self) -> str:
        return self.host.node


@dataclass
class Share:
    """``director`` and ``server`` are apart because they end differently: one by drained services, one by time."""

    director: KernelState = field(default_factory=KernelState)
    server: KernelState = field(default_factory=KernelState)
    findings: list[Finding] = field(default_factory=list)
    neighbours: set[str] = field(default_factory=set)
    """Addresses whose neighbour entry this share needs to know."""


def version_of(address: str) -> int:
    """4 or 6."""
    return 6 if ":" in address else 4


def of_version(addresses: tuple[str, ...], version: int) -> list[str]:
    """Those of one family, in order."""
    return [address for address in addresses if version_of(address) == version]


def prefix_version(prefix: str) -> int:
    """Family of an address or prefix in text."""
    return ip_address(prefix.partition("/")[0]).version


def is_director(plan: VirtualServicePlanSpec, node: str) -> bool:
    return any(director.node == node for director in plan.directors)


def by_node(plan: VirtualServicePlanSpec) -> list[PlanBackend]:
    """The plan's backends, those of one node and role put together (slices cut them apart).

    Directed only where all of them are: while slices are being written, one of them still says what was before.
    """
    merged: dict[tuple[str, str], PlanBackend] = {}
    for backend in plan.backends:
        key = (backend.node, backend.role)
        seen = merged.setdefault(key, backend)
        if seen is not backend:
            servers, directed = seen.servers + backend.servers, seen.directed and backend.directed
            merged[key] = PlanBackend(backend.role, servers, backend.node, backend.addresses, directed)
    return list(merged.values())
