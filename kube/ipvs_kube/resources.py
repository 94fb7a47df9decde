"""Which resources there are, as the API server's paths have them."""

from typing import NamedTuple
from urllib.parse import quote

from ipvs_api import GROUP, VERSION


class Resource(NamedTuple):
    """A kind of object. ``group`` is empty for Kubernetes' core."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Of one object, or of all (of a namespace) without a name."""
        parts = ["apis", self.group, self.version] if self.group else ["api", self.version]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/" + "/".join(quote(part, safe=":") for part in parts)

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


def _ours(plural: str, kind: str, *, namespaced: bool) -> Resource:
    return Resource(GROUP, VERSION, plural, kind, namespaced)


VIRTUAL_SERVICES = _ours("ipvsvirtualservices", "VirtualService", namespaced=True)
DIRECTOR_GROUPS = _ours("directorgroups", "DirectorGroup", namespaced=False)
PLANS = _ours("virtualserviceplans", "VirtualServicePlan", namespaced=True)
IPVS_NODES = _ours("ipvsnodes", "IPVSNode", namespaced=False)
IPVS_ADDRESSES = _ours("ipvsaddresses", "IPVSAddress", namespaced=False)
OURS = (VIRTUAL_SERVICES, DIRECTOR_GROUPS, PLANS, IPVS_NODES, IPVS_ADDRESSES)

SERVICES = Resource("", "v1", "services", "Service", True)
NODES = Resource("", "v1", "nodes", "Node", False)
NAMESPACES = Resource("", "v1", "namespaces", "Namespace", False)
PODS = Resource("", "v1", "pods", "Pod", True)
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice", True)
EVENTS = Resource("events.k8s.io", "v1", "events", "Event", True)
LEASES = Resource("coordination.k8s.io", "v1", "leases", "Lease", True)
CRDS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False)
