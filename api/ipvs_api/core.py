"""Kubernetes' own objects, trimmed to what planning reads; unknown fields are ignored.

``core/v1`` Node, Namespace, Service and Pod, ``discovery.k8s.io/v1`` EndpointSlice.
"""

from typing import Annotated

from msgspec import Meta, field

from ipvs_api.meta import Loose, ObjectMeta


class CoreNodeAddress(Loose, frozen=True):
    type: str
    address: str


class Taint(Loose, frozen=True):
    key: str
    effect: str = ""


class CoreNodeSpec(Loose, frozen=True):
    pod_cidrs: tuple[str, ...] = field(name="podCIDRs", default=())
    taints: tuple[Taint, ...] = ()


class CoreCondition(Loose, frozen=True):
    type: str
    status: str


class NodeSystemInfo(Loose, frozen=True):
    boot_id: str = field(name="bootID", default="")


class CoreNodeStatus(Loose, frozen=True):
    addresses: tuple[CoreNodeAddress, ...] = ()
    conditions: tuple[CoreCondition, ...] = ()
    node_info: NodeSystemInfo = NodeSystemInfo()


class Node(Loose, frozen=True):
    """``InternalIP`` addresses are the node's own; what lies in ``podCIDRs`` is behind it."""

    metadata: ObjectMeta
    spec: CoreNodeSpec = CoreNodeSpec()
    status: CoreNodeStatus = CoreNodeStatus()


class Namespace(Loose, frozen=True):
    metadata: ObjectMeta


class CoreServicePort(Loose, frozen=True):
    """``name`` is empty where a Service has one port only; EndpointSlices name their ports by it."""

    port: int
    name: str = ""
    protocol: str = "TCP"


class ClientIPConfig(Loose, frozen=True):
    timeout_seconds: int | None = None


class SessionAffinityConfig(Loose, frozen=True):
    client_ip: ClientIPConfig | None = field(name="clientIP", default=None)


class ServiceSpec(Loose, frozen=True):
    """``ip_families``: as the API server resolved them, the first one first; empty where none did (manifests)."""

    type: str = "ClusterIP"
    ports: tuple[CoreServicePort, ...] = ()
    ip_families: tuple[str, ...] = ()
    load_balancer_class: str = ""
    load_balancer_ip: str = field(name="loadBalancerIP", default="")
    load_balancer_source_ranges: tuple[str, ...] = ()
    session_affinity: str = "None"
    session_affinity_config: SessionAffinityConfig | None = None
    external_traffic_policy: str = "Cluster"
    external_name: str = ""


class IngressPort(Loose, frozen=True):
    port: int
    protocol: str = "TCP"
    error: str | None = None


class LoadBalancerIngress(Loose, frozen=True):
    """``ip_mode``: ``VIP`` (kube-proxy answers on the node itself) or ``Proxy`` (KEP-1860)."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = ""
    ports: tuple[IngressPort, ...] = ()


class LoadBalancerStatus(Loose, frozen=True):
    ingress: tuple[LoadBalancerIngress, ...] = ()


class ServiceCondition(CoreCondition, frozen=True):
    """``metav1.Condition`` as anybody may have written it."""

    reason: str = ""
    message: str = ""
    observed_generation: int = 0
    last_transition_time: str = ""


class ServiceStatus(Loose, frozen=True):
    load_balancer: LoadBalancerStatus = LoadBalancerStatus()
    conditions: tuple[ServiceCondition, ...] = ()


class Service(Loose, frozen=True):
    metadata: ObjectMeta
    spec: ServiceSpec = ServiceSpec()
    status: ServiceStatus = ServiceStatus()


SERVICE_NAME_LABEL = "kubernetes.io/service-name"
"""Which Service an EndpointSlice belongs to (``k8s.io/api/discovery/v1``)."""


class EndpointConditions(Loose, frozen=True):
    """None is what the API says of unknown: ready and serving then count as true, terminating as false."""

    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Endpoint(Loose, frozen=True):
    """All addresses of one endpoint mean the same; the first is used (``discovery.k8s.io/v1``)."""

    addresses: tuple[str, ...] = ()
    conditions: EndpointConditions = EndpointConditions()
    node_name: str = ""


class EndpointPort(Loose, frozen=True):
    """``port`` None: every port, of which nothing can be made here."""

    name: str = ""
    protocol: str = "TCP"
    port: int | None = None


class EndpointSlice(Loose, frozen=True):
    """``address_type``: IPv4, IPv6 or FQDN. The API server writes ``null`` for no endpoints and for no ports."""

    metadata: ObjectMeta
    address_type: str = "IPv4"
    endpoints: Annotated[tuple[Endpoint, ...], Meta(max_length=1000)] | None = ()
    ports: tuple[EndpointPort, ...] | None = ()


class PodSpec(Loose, frozen=True):
    node_name: str = ""


class PodStatus(Loose, frozen=True):
    conditions: tuple[CoreCondition, ...] = ()


class Pod(Loose, frozen=True):
    metadata: ObjectMeta
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()
