"""``DirectorGroup``: which nodes direct, for which addresses, how they are announced.

Shape: ``crds/directorgroups.yaml``.
"""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, field

from ipvs_api.bounds import CIDR, SET, Address, AddressRange, Count, Generation, InterfaceName, ObjectName, keyed
from ipvs_api.meta import Condition, ConditionStatus, LabelSelector, ObjectMeta, Shape


class NamespacesFrom(StrEnum):
    ALL = "All"
    SELECTOR = "Selector"


class AllowedNamespaces(Shape, frozen=True):
    """``selector``, on the labels of namespaces, is there exactly when ``from_`` is ``Selector``."""

    from_: NamespacesFrom = field(name="from", default=NamespacesFrom.ALL)
    selector: LabelSelector | None = None


VirtualRouterID = Annotated[int, Meta(ge=1, le=255)]
ASN = Annotated[int, Meta(ge=1, le=4_294_967_295)]


class VRRP(Shape, frozen=True):
    """Advertisements count hundredths of a second in 12 bits (RFC 9568, section 5.2.7)."""

    virtual_router_ids: Annotated[
        tuple[VirtualRouterID, ...], Meta(min_length=1, max_length=16, extra_json_schema=SET)
    ] = field(name="virtualRouterIDs")
    advertisement_interval_milliseconds: Annotated[int, Meta(ge=10, le=40_950, multiple_of=10)] = 100
    preempt: bool = False
    unicast: bool = False


class BGPPeer(Shape, frozen=True):
    address: Address
    asn: ASN
    bfd: bool = False


class BGP(Shape, frozen=True):
    local_asn: ASN = field(name="localASN")
    peers: Annotated[tuple[BGPPeer, ...], Meta(min_length=1, max_length=64, extra_json_schema=keyed("address"))]


class Static(Shape, frozen=True):
    """No fail-over: the first director by name holds the VIPs on its client-facing interface."""


class Nothing(Shape, frozen=True):
    """Something else brings packets to the directors; the VIPs are silent on every director's ``ipvs0``."""


class Announcement(Shape, frozen=True):
    """Exactly one of these."""

    vrrp: VRRP | None = None
    bgp: BGP | None = None
    static: Static | None = None
    none: Nothing | None = None


class ConnectionSync(Shape, frozen=True):
    enabled: bool = False
    sync_id: Annotated[int, Meta(ge=0, le=255)] = field(name="syncID", default=0)


TimeoutSeconds = Annotated[int, Meta(ge=0, le=2_147_483)]


class Timeouts(Shape, frozen=True):
    """IPVS connection timeouts in seconds (``ipvsadm --set``); 0 leaves the kernel's.

    The kernel takes up to INT_MAX / HZ (``ip_vs_set_timeout``), here for HZ=1000.
    """

    tcp_seconds: TimeoutSeconds = 0
    tcp_fin_seconds: TimeoutSeconds = 0
    udp_seconds: TimeoutSeconds = 0


class KernelSettings(Shape, frozen=True):
    """What is one value for a node's whole IPVS; None leaves what is there.

    Source: ``Documentation/networking/ipvs-sysctl.rst``.
    """

    timeouts: Timeouts = Timeouts()
    conn_reuse_mode: Annotated[int, Meta(ge=0, le=3)] | None = None
    schedule_icmp: bool | None = field(name="scheduleICMP", default=None)
    sloppy_tcp: bool | None = field(name="sloppyTCP", default=None)
    sloppy_sctp: bool | None = field(name="sloppySCTP", default=None)
    pmtu_discovery: bool | None = None


class DirectorGroupSpec(Shape, frozen=True):
    addresses: Annotated[tuple[AddressRange, ...], Meta(min_length=1, max_length=256, extra_json_schema=SET)]
    announcement: Announcement
    node_selector: LabelSelector = LabelSelector()
    interface: InterfaceName = ""
    allowed_namespaces: AllowedNamespaces = AllowedNamespaces()
    allowed_static_backends: Annotated[tuple[CIDR, ...], Meta(max_length=256, extra_json_schema=SET)] = ()
    connection_sync: ConnectionSync = ConnectionSync()
    kernel: KernelSettings = KernelSettings()
    gateway_addresses: Annotated[tuple[Address, ...], Meta(max_length=32, extra_json_schema=SET)] = ()


class AddressTotals(Shape, frozen=True):
    """``total``: addresses in the group's ranges, counted up to 2^53-1. ``used``: how many are claimed."""

    total: Generation = 0
    used: Count = 0


class DirectorGroupStatus(Shape, frozen=True):
    observed_generation: Generation = 0
    conditions: Annotated[tuple[Condition, ...], Meta(max_length=16, extra_json_schema=keyed("type"))] = ()
    addresses: AddressTotals = AddressTotals()
    directors: Annotated[tuple[ObjectName, ...], Meta(max_length=128)] = ()


UNSEEN = DirectorGroupStatus(
    conditions=(
        Condition(
            type="Ready",
            status=ConditionStatus.UNKNOWN,
            reason="Pending",
            message="The operator has not seen this DirectorGroup yet.",
            last_transition_time="1970-01-01T00:00:00Z",
        ),
    )
)
"""The status of a DirectorGroup from its creation to the operator's first visit."""


class DirectorGroup(Shape, frozen=True):
    metadata: ObjectMeta
    spec: DirectorGroupSpec
    status: DirectorGroupStatus = UNSEEN
    api_version: Literal["ipvs.dev/v1alpha1"] = field(name="apiVersion", default="ipvs.dev/v1alpha1")
    kind: Literal["DirectorGroup"] = "DirectorGroup"
