"""Kubernetes' own objects, trimmed to what planning reads; unknown fields are ignored.

``core/v1 Node`` today; Service and EndpointSlice join it with the backends that need them.
"""

from msgspec import field

from ipvs_api.meta import Loose, ObjectMeta


class CoreNodeAddress(Loose, frozen=True):
    type: str
    address: str


class CoreNodeSpec(Loose, frozen=True):
    pod_cidrs: tuple[str, ...] = field(name="podCIDRs", default=())


class CoreNodeStatus(Loose, frozen=True):
    addresses: tuple[CoreNodeAddress, ...] = ()


class Node(Loose, frozen=True):
    """``InternalIP`` addresses are the node's own; what lies in ``podCIDRs`` is behind it."""

    metadata: ObjectMeta
    spec: CoreNodeSpec = CoreNodeSpec()
    status: CoreNodeStatus = CoreNodeStatus()
