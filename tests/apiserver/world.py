"""The objects of one test, in few words, and what became of them. Afterwards they are all gone.

One API server serves all tests, and much of what an operator looks at belongs to no namespace: so one world at a time.
"""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec
from tests.apiserver.agents import Agents

from ipvs_kube.api import connect
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import (
    DIRECTOR_GROUPS,
    ENDPOINT_SLICES,
    EVENTS,
    IPVS_ADDRESSES,
    IPVS_NODES,
    LEASES,
    NAMESPACES,
    NODES,
    OURS,
    PLANS,
    SERVICES,
    VIRTUAL_SERVICES,
    Resource,
)
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition

Object = dict[str, Any]

DIRECTOR = {"ipvs.dev/director": "true"}
MANAGER = "tests"
SETTLE_SECONDS = 15.0
"""Longest wait for something that should take milliseconds; much else may run on this machine."""


class World:
    """``namespace``: the user's. ``system``: the operator's; ``shared``: it is there already, and stays.

    ``api``: the administrator's. ``agents`` run on all nodes that are made here, but for those said to have none.
    """

    def __init__(self, plane: ControlPlane, namespace: str, system: str, *, shared: bool = False) -> None:
        self.plane, self.namespace, self.system = plane, namespace, system
        self.api = connect(plane.kubeconfig(), user_agent="tests")
        self.namespaces = [namespace]
        if not shared:
            self.namespaces.append(system)
        for name in self.namespaces:
            self.put(NAMESPACES, name, {})
        self.agents = Agents(plane.kubeconfig(), system)
        self.agents.start()

    # objects

    def put(self, resource: Resource, name: str, value: Mapping[str, Any], namespace: str | None = None) -> Object:
        """Apply an object as its user does; as it is stored."""
        namespace = self._namespace(resource, namespace)
        whole = {"metadata": {}, **value}
        whole["metadata"] = {"name": name, **whole["metadata"]}
        return _decoded(self.api.apply(resource, namespace, name, whole, MANAGER))

    def _namespace(self, resource: Resource, namespace: str | None) -> str:
        if not resource.namespaced:
            return ""
        return namespace if namespace is not None else self.namespace

    def more_namespace(self, name: str, **labels: str) -> str:
        """Another one."""
        self.namespaces.append(name)
        self.put(NAMESPACES, name, {"metadata": {"labels": labels}})
        return name

    def node(
        self,
        name: str,
        *addresses: str,
        pods: str = "",
        director: bool = False,
        boot: str = "boot-1",
        labels: Mapping[str, str] | None = None,
        agent: bool = True,
    ) -> None:
        """A Node that is ready. ``pods``: its podCIDR. ``boot``: its boot ID. ``agent``: one runs there."""
        value = {
            "metadata": {"name": name, "labels": {**(labels or {}), **(DIRECTOR if director else {})}},
            "spec": {"podCIDR": pods, "podCIDRs": [pods]} if pods else {},
            "status": self._node_status("True", boot) | {"addresses": [_internal(each) for each in addresses]},
        }
        self.api.create(NODES, "", value, MANAGER)
        if agent:
            self.agents.on(name)

    @staticmethod
    def _node_status(ready: str, boot: str) -> Object:
        names = "machineID systemUUID kernelVersion osImage containerRuntimeVersion kubeletVersion kubeProxyVersion"
        info = dict.fromkeys([*names.split(), "operatingSystem", "architecture"], "")
        return {"nodeInfo": info | {"bootID": boot}, "conditions": [{"type": "Ready", "status": ready}]}

    def node_says(self, name: str, *, ready: str = "True", boot: str = "boot-1") -> None:
        """What the kubelet, or the node controller in its place, says of a Node."""
        self.api.merge(NODES, "", name, {"status": self._node_status(ready, boot)}, MANAGER, subresource="status")

    def group(
        self,
        name: str = "default",
        addresses: Iterable[str] = ("192.0.2.10-192.0.2.19",),
        announcement: str = "static",
        **spec: Any,
    ) -> Object:
        """A DirectorGroup of all directors; static backends may be anything in 10.0.0.0/8."""
        value = {
            "nodeSelector": {"matchLabels": DIRECTOR},
            "addresses": list(addresses),
            "announcement": {announcement: {}},
            "allowedStaticBackends": ["10.0.0.0/8"],
        }
        return self.put(DIRECTOR_GROUPS, name, {"spec": value | spec})

    def virtual_service(
        self, name: str = "web", servers: Iterable[str] = (), *, namespace: str | None = None, **spec: Any
    ) -> Object:
        """A VirtualService for port 80 of the group ``default``: of static ``servers``, else of the Service of its
        name. ``spec``: what differs."""
        backends = {"static": [{"address": each} for each in servers]} if servers else {"service": {"name": name}}
        value = {
            "directorGroup": "default",
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
            "backends": backends,
        }
        return self.put(VIRTUAL_SERVICES, name, {"spec": value | spec}, namespace)

    def service(self, name: str = "web", *, namespace: str | None = None, **spec: Any) -> Object:
        """A Service whose port 80 is called http; no selector, so its EndpointSlices are the test's to make."""
        value = {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
        return self.put(SERVICES, name, {"spec": value | spec}, namespace)

    def endpoints(
        self,
        pods: Mapping[str, str],
        service: str = "web",
        *,
        port: int = 8080,
        name: str = "",
        namespace: str | None = None,
        **conditions: bool,
    ) -> Object:
        """The EndpointSlice of a Service. ``pods``: addresses and the nodes that they are on."""
        value = {
            "metadata": {"labels": {"kubernetes.io/service-name": service}},
            "addressType": "IPv6" if any(":" in pod for pod in pods) else "IPv4",
            "endpoints": [
                {"addresses": [pod], "nodeName": node, "conditions": {"ready": True} | conditions}
                for pod, node in pods.items()
            ],
            "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
        }
        return self.put(ENDPOINT_SLICES, name or f"{service}-1", value, namespace)

    def three_nodes(self) -> None:
        """A director and two workers, and a Service ``web`` with two pods on each."""
        names = ("director", "worker-1", "worker-2")
        for number, name in enumerate(names):
            self.node(name, f"10.0.0.{number + 1}", pods=f"10.1.{number}.0/24", director=name == "director")
        self.service()
        self.endpoints({f"10.1.{number}.{pod}": name for number, name in enumerate(names) for pod in (5, 6)})

    def get(self, resource: Resource, name: str, namespace: str | None = None) -> Object | None:
        """An object as it is stored; None: there is none."""
        try:
            return _decoded(self.api.get(resource, self._namespace(resource, namespace), name))
        except ApiError as error:
            if error.not_found:
                return None
            raise

    def all(self, resource: Resource, namespace: str = "") -> list[Object]:
        """All there are, of a namespace where it is named."""
        return [_decoded(item) for page in self.api.pages(resource, namespace) for item in page.items]

    def delete(self, resource: Resource, name: str, namespace: str | None = None) -> None:
        self.api.delete(resource, self._namespace(resource, namespace), name)

    def remove_namespace(self, name: str) -> None:
        """Delete a namespace with all in it, as the namespace controller would."""
        for resource in (VIRTUAL_SERVICES, PLANS, SERVICES, ENDPOINT_SLICES, EVENTS, LEASES):
            self._delete_all(resource, name)
        self.end_namespace(name)
        empty = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}, "spec": {"finalizers": []}}
        with suppress(ApiError):
            self.api.request("PUT", f"/api/v1/namespaces/{name}/finalize", body=empty)

    def end_namespace(self, name: str) -> None:
        """Delete a namespace: nothing can be created in it from now on, and what is in it stays for a while."""
        with suppress(ApiError):
            self.api.delete(NAMESPACES, "", name)

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """What kubectl answers in the user's namespace."""
        return self.plane.kubectl(f"--namespace={self.namespace}", *arguments, stdin=stdin).stdout

    # what became of them

    def status(self, name: str = "web", namespace: str | None = None) -> Object:
        found = self.get(VIRTUAL_SERVICES, name, namespace)
        return found.get("status", {}) if found is not None else {}

    def condition(self, kind: str, name: str = "web", namespace: str | None = None) -> Object:
        """A condition of a VirtualService; without any it is empty."""
        return next((each for each in self.status(name, namespace).get("conditions", []) if each["type"] == kind), {})

    def says(self, kind: str, status: str, reason: str = "", name: str = "web", namespace: str | None = None) -> Object:
        """Wait until a condition of a VirtualService's current generation is so; the condition."""

        def look() -> Object:
            stored = self.get(VIRTUAL_SERVICES, name, namespace)
            assert stored is not None, "it is not there"
            conditions = stored["status"].get("conditions", [])
            found: Object = next((each for each in conditions if each["type"] == kind), {})
            right = found.get("status") == status and reason in ("", found.get("reason"))
            assert right, f"{found}, at generation {stored['metadata']['generation']}"
            assert found.get("observedGeneration") == stored["metadata"]["generation"], found
            return found

        return await_condition(look, SETTLE_SECONDS, f"VirtualService {name}: {kind}={status} {reason}")

    def wait_ready(self, *names: str, namespace: str | None = None) -> None:
        """Until VirtualServices (web, where none is named) are ready at their current generation, and nothing goes on
        with them any more."""
        for name in names or ("web",):
            self.says("Ready", "True", name=name, namespace=namespace)
            await_condition(
                lambda name=name: not self.condition("Reconciling", name, namespace),  # type: ignore[misc]
                SETTLE_SECONDS,
                f"VirtualService {name} has settled",
            )

    def address(self, name: str = "web", namespace: str | None = None) -> str:
        """The first VIP that its status tells; empty: none yet."""
        addresses = self.status(name, namespace).get("addresses") or [{"address": ""}]
        return str(addresses[0]["address"])

    def plans(self, name: str = "", namespace: str | None = None) -> list[Object]:
        """Plan slices of one VirtualService, or of all."""
        owner = {"namespace": self._namespace(VIRTUAL_SERVICES, namespace), "name": name}
        whose = [(plan, plan["spec"]["virtualService"]) for plan in self.all(PLANS, self.system)]
        return [plan for plan, of in whose if not name or owner.items() <= of.items()]

    def claims(self) -> dict[str, list[str]]:
        """Claimed addresses, and the names of who has each."""
        specs = [each["spec"] for each in self.all(IPVS_ADDRESSES)]
        return {spec["address"]: sorted(owner["name"] for owner in spec["owners"]) for spec in specs}

    def used(self, group: str = "default") -> int:
        """How many addresses of a group its status says are used."""
        found = self.get(DIRECTOR_GROUPS, group) or {}
        return int(found.get("status", {}).get("addresses", {}).get("used", 0))

    def events(self, name: str = "web", namespace: str | None = None) -> list[tuple[str, str, str]]:
        """Type, reason and words of our events on an object, as they came."""
        found = self.all(EVENTS, self._namespace(EVENTS, namespace))
        about = [each for each in found if each["regarding"].get("name") == name]
        about = [each for each in about if each["reportingController"].startswith("ipvs.dev/")]
        about.sort(key=lambda each: int(each["metadata"]["resourceVersion"]))
        return [(each["type"], each["reason"], each["note"]) for each in about]

    def versions(self) -> dict[tuple[str, str], str]:
        """The resourceVersion of everything of ours: what is written changes one."""
        return {
            (resource.kind, f"{each['metadata'].get('namespace', '')}/{each['metadata']['name']}"): each["metadata"][
                "resourceVersion"
            ]
            for resource in OURS
            for each in self.all(resource)
        }

    def settled(self) -> bool:
        """Nothing is left of virtual services: no plan, no claim."""
        return not self.all(PLANS, self.system) and not self.claims()

    def dissolve(self) -> None:
        """Take away everything that an operator acts on, which then clears up behind itself."""
        for resource in (VIRTUAL_SERVICES, DIRECTOR_GROUPS, NODES):
            self._delete_all(resource)
        await_condition(self.settled, SETTLE_SECONDS, "the operator has cleared up")
        self._delete_all(IPVS_NODES)  # as the garbage collector would: their Nodes are gone

    def clean(self) -> None:
        """Remove everything, our own objects by force."""
        self.agents.stop()
        for resource in (VIRTUAL_SERVICES, DIRECTOR_GROUPS, NODES, PLANS, IPVS_NODES, IPVS_ADDRESSES):
            self._delete_all(resource)
        for namespace in self.namespaces:
            self.remove_namespace(namespace)
        self.api.close()

    def _delete_all(self, resource: Resource, namespace: str = "") -> None:
        for found in self.all(resource, namespace):
            meta = found["metadata"]
            with suppress(ApiError):
                self.api.delete(resource, meta.get("namespace", ""), meta["name"])


def _internal(address: str) -> Object:
    return {"type": "InternalIP", "address": address}


def _decoded(data: bytes | msgspec.Raw) -> Object:
    found: Object = json.loads(bytes(data))
    return found
