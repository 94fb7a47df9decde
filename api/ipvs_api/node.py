"""``IPVSNode``: what the operator tells one node as a whole, and what that node's agent reports.

The report holds exceptions only, so its size does not grow with the number of plans: what is neither a failure nor
cut off (``truncated``) is in the kernel, read back. Shape: ``crds/ipvsnodes.yaml``.
"""

from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, field

from ipvs_api.bounds import (
    CIDR,
    MAC,
    Address,
    AddressRange,
    Count,
    Identifier,
    InterfaceName,
    LabelName,
    Message,
    Moment,
    ObjectName,
    Reason,
    keyed,
)
from ipvs_api.directorgroup import KernelSettings
from ipvs_api.meta import Condition, ObjectMeta, Shape

REPORT_EXCEPTIONS = 100
"""At most this many failures, leaving services, draining and unhealthy real servers are named in one report, each."""


class AnnouncementKind(StrEnum):
    STATIC = "Static"
    NONE = "None"
    VRRP = "VRRP"
    BGP = "BGP"


class NodeGroup(Shape, frozen=True):
    """What one DirectorGroup means for this node.

    A plan's VIP outside ``addresses`` (single ones, CIDRs, ranges) is refused here.
    """

    name: ObjectName
    addresses: Annotated[tuple[AddressRange, ...], Meta(max_length=256)]
    director: bool = False
    interface: InterfaceName = ""
    announcement: AnnouncementKind = AnnouncementKind.NONE
    gateway_addresses: Annotated[tuple[Address, ...], Meta(max_length=32)] = ()
    gateway_holder: bool = False
    """This node has the floating DIPs on the interface that faces the real servers."""


class IPVSNodeSpec(Shape, frozen=True):
    groups: Annotated[tuple[NodeGroup, ...], Meta(max_length=64, extra_json_schema=keyed("name"))] = ()
    kernel: KernelSettings = KernelSettings()
    pod_cidrs: Annotated[tuple[CIDR, ...], Meta(max_length=16)] = field(name="podCIDRs", default=())
    """Networks behind this node: clients in them are served by its second hop."""


class NodeAddress(Shape, frozen=True):
    interface: InterfaceName
    address: Address
    mac: MAC = ""


class PlanFailure(Shape, frozen=True):
    """Why this node could not do what a plan asks, in words an administrator can act on."""

    namespace: LabelName
    name: ObjectName
    reason: Reason
    message: Message = ""
    real_server: Annotated[str, Meta(max_length=64)] = ""
    """The real server it is about; empty: the virtual service as a whole."""


class ReportedServer(Shape, frozen=True):
    """A real server that is draining or unhealthy here."""

    namespace: LabelName
    name: ObjectName
    address: Address
    reason: Reason = ""
    since: Moment = ""


class ReportedService(Shape, frozen=True):
    """A virtual service of which this node still has something that no plan wants any more."""

    namespace: LabelName
    name: ObjectName


class ReportCounts(Shape, frozen=True):
    plans: Count = 0
    programmed: Count = 0
    directing: Count = 0
    serving: Count = 0
    failures: Count = 0
    draining: Count = 0
    leaving: Count = 0
    unhealthy: Count = 0


class IPVSNodeStatus(Shape, frozen=True):
    """``observed_resource_version``: every plan up to here is in the kernel, except ``failures``."""

    agent_version: Identifier = ""
    kernel_version: Identifier = ""
    boot_id: Identifier = field(name="bootID", default="")
    addresses: Annotated[tuple[NodeAddress, ...], Meta(max_length=256)] = ()
    conditions: Annotated[tuple[Condition, ...], Meta(max_length=16, extra_json_schema=keyed("type"))] = ()
    observed_resource_version: Identifier = ""
    counts: ReportCounts = ReportCounts()
    failures: Annotated[tuple[PlanFailure, ...], Meta(max_length=REPORT_EXCEPTIONS)] = ()
    draining: Annotated[tuple[ReportedServer, ...], Meta(max_length=REPORT_EXCEPTIONS)] = ()
    leaving: Annotated[tuple[ReportedService, ...], Meta(max_length=REPORT_EXCEPTIONS)] = ()
    unhealthy: Annotated[tuple[ReportedServer, ...], Meta(max_length=REPORT_EXCEPTIONS)] = ()
    truncated: bool = False
    master_of: Annotated[tuple[ObjectName, ...], Meta(max_length=64)] = ()


class IPVSNode(Shape, frozen=True):
    metadata: ObjectMeta
    spec: IPVSNodeSpec = IPVSNodeSpec()
    status: IPVSNodeStatus = IPVSNodeStatus()
    api_version: Literal["ipvs.dev/v1alpha1"] = field(name="apiVersion", default="ipvs.dev/v1alpha1")
    kind: Literal["IPVSNode"] = "IPVSNode"
