"""A cluster's worth of objects, written as fast as the API server takes them, and what is read off its processes."""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, TypeVar

from ipvs_kube.api import Api, connect
from ipvs_kube.resources import DIRECTOR_GROUPS, NAMESPACES, NODES, Resource
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition

Object = dict[str, Any]
T = TypeVar("T")

CRDS = Path(__file__).parents[3] / "crds"
SYSTEM, SHOP, BARE = "ipvs-system", "shop", "bare"
"""The operator's namespace, the user's, and the bare writer's."""
MANAGER = "bench"
THREADS = 16
SERVICES_COUNTS = [int(count) for count in os.environ.get("IPVS_BENCH_SERVICES", "1000 10000").split()]
"""Of VirtualServices; ``IPVS_BENCH_SERVICES=200`` for a quick look."""
ENDPOINTS = 10
FEW_NODES, MANY_NODES = 3, 500
ADDRESSES, OTHER_ADDRESSES = "198.18.0.0/16", "198.19.0.0/16"
DIRECTOR = {"ipvs.dev/director": "true"}
_REQUESTS = re.compile(r"^apiserver_request_total\{(?P<labels>[^}]*)\} (?P<count>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')
_WRITES = {"APPLY", "PATCH", "POST", "PUT", "DELETE"}


@contextmanager
def cluster(nodes: int) -> Iterator[tuple[ControlPlane, Api]]:
    """An API server with our CRDs, ``nodes`` nodes of which the first is the director, and a DirectorGroup."""
    with ControlPlane() as plane:
        plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"--filename={CRDS}")
        api = connect(plane.kubeconfig(), user_agent="bench")
        for name in (SYSTEM, SHOP, BARE):
            api.create(NAMESPACES, "", {"metadata": {"name": name}}, MANAGER)
        api.create(DIRECTOR_GROUPS, "", group(), MANAGER)
        in_threads(lambda number: api.create(NODES, "", node(number), MANAGER), range(nodes))
        try:
            yield plane, api
        finally:
            api.close()


def group() -> Object:
    spec = {
        "nodeSelector": {"matchLabels": DIRECTOR},
        "addresses": [ADDRESSES],
        "announcement": {"static": {}},
    }
    return {"metadata": {"name": "default"}, "spec": spec}


def node_name(number: int) -> str:
    return f"node-{number}"


def node(number: int) -> Object:
    names = "machineID systemUUID kernelVersion osImage containerRuntimeVersion kubeletVersion kubeProxyVersion"
    info = dict.fromkeys([*names.split(), "operatingSystem", "architecture"], "") | {"bootID": "boot-1"}
    status = {
        "nodeInfo": info,
        "conditions": [{"type": "Ready", "status": "True"}],
        "addresses": [{"type": "InternalIP", "address": _address("10.0", number)}],
    }
    pods = f"{_pods(number)}.0.0/16"
    return {
        "metadata": {"name": node_name(number), "labels": DIRECTOR if number == 0 else {}},
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        "status": status,
    }


def _pods(node: int) -> str:
    """The beginning of the addresses of a node's pods."""
    return f"{11 + node // 256}.{node % 256}"


def vip(number: int, of: str = ADDRESSES) -> str:
    return _address(of.removesuffix(".0.0/16"), number)


def _address(prefix: str, number: int) -> str:
    return f"{prefix}.{number // 250}.{number % 250 + 1}"


def name_of(number: int) -> str:
    return f"web-{number}"


def service(number: int) -> Object:
    spec = {"ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}
    return {"metadata": {"name": name_of(number)}, "spec": spec}


def endpoints(number: int, pods: int = ENDPOINTS, nodes: int = FEW_NODES) -> list[Object]:
    """The first ``pods`` of a Service, spread over the nodes."""
    return [
        {
            "addresses": [_address(_pods(pod % nodes), pod // nodes)],
            "nodeName": node_name(pod % nodes),
            "conditions": {"ready": True},
        }
        for pod in range(number * ENDPOINTS, number * ENDPOINTS + pods)
    ]


def endpoint_slice(number: int, pods: int = ENDPOINTS, nodes: int = FEW_NODES) -> Object:
    return {
        "metadata": {"name": name_of(number), "labels": {"kubernetes.io/service-name": name_of(number)}},
        "addressType": "IPv4",
        "endpoints": endpoints(number, pods, nodes),
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    }


def virtual_service(number: int, addresses: str = ADDRESSES, forwarding: str = "NAT") -> Object:
    spec = {
        "directorGroup": "default",
        "addresses": [vip(number, addresses)],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        "forwarding": forwarding,
        "backends": {"service": {"name": name_of(number)}},
    }
    return {"metadata": {"name": name_of(number)}, "spec": spec}


def in_threads(work: Callable[[T], object], items: Iterable[T], threads: int = THREADS) -> float:
    """Do ``work`` with each of ``items``; how many seconds that took."""
    start = perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, items):
            pass
    return perf_counter() - start


def create_all(api: Api, resource: Resource, namespace: str, objects: Sequence[Object]) -> float:
    return in_threads(lambda each: api.create(resource, namespace, each, MANAGER), objects)


class Toggled:
    """EndpointSlices whose last pod comes and goes."""

    def __init__(self, api: Api, count: int) -> None:
        self._api, self._count = api, count
        self._fewer: set[int] = set()

    @property
    def pods(self) -> int:
        """How many there are now, of all slices."""
        return self._count * ENDPOINTS - len(self._fewer)

    def toggle(self, resource: Resource, number: int) -> float:
        """Change one; when the API server had answered."""
        pods = ENDPOINTS if number in self._fewer else ENDPOINTS - 1
        self._api.merge(resource, SHOP, name_of(number), {"endpoints": endpoints(number, pods)}, MANAGER)
        answered = perf_counter()
        self._fewer ^= {number}
        return answered

    def for_a_while(self, resource: Resource, seconds: float, threads: int) -> tuple[int, float]:
        """Random ones, by several threads with slices of their own: how many changes, and when the last was made."""
        until = perf_counter() + seconds

        def work(own: int) -> tuple[int, float]:
            chance, done, at = random.Random(own), 0, 0.0
            while perf_counter() < until:
                at = self.toggle(resource, chance.randrange(own, self._count, threads))
                done += 1
            return done, at

        with ThreadPoolExecutor(threads) as pool:
            results = list(pool.map(work, range(threads)))
        return sum(done for done, _ in results), max(at for _, at in results)


def written(api: Api) -> Counter[str]:
    """Writes that the API server has carried out, by verb and resource: of ours, and of events."""
    found: Counter[str] = Counter()
    for match in _REQUESTS.finditer(api.request("GET", "/metrics", accept="text/plain").data.decode()):
        labels = dict(_LABEL.findall(match["labels"]))
        ours = labels["group"] in ("ipvs.dev", "events.k8s.io")
        if ours and labels["verb"] in _WRITES and labels["code"].startswith("2"):
            what = "/".join(filter(None, (labels["resource"], labels["subresource"])))
            found[f"{labels['verb']} {what}"] += int(float(match["count"]))
    return found


def by_operator(before: Counter[str], after: Counter[str]) -> dict[str, int]:
    """What was written in between by an operator: all but the nodes' reports."""
    return {what: count for what, count in (after - before).items() if what != "APPLY ipvsnodes/status"}


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


def memory(pid: int) -> dict[str, float]:
    """MiB of a process, now and at most."""
    told = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {
        "resident, MiB": round(int(told["VmRSS"].split()[0]) / 1024, 1),
        "peak, MiB": round(int(told["VmHWM"].split()[0]) / 1024, 1),
    }


def await_idle(pid: int, seconds: float) -> float:
    """When a process began to do next to nothing, as ``perf_counter``: less than a tenth of a CPU for a second."""
    used: list[tuple[float, float]] = []

    def look() -> bool:
        used.append((perf_counter(), cpu_seconds(pid)))
        recent = [each for each in used if each[0] >= used[-1][0] - 1.0]
        return used[-1][0] - used[0][0] > 1.0 and recent[-1][1] - recent[0][1] < 0.1

    await_condition(look, seconds, "the operator has nothing to do", every=0.1)
    return used[-1][0] - 1.0


def tell(what: str, figures: Mapping[str, Any]) -> None:
    """Print them as soon as they are known, and how busy the machine was."""
    load = Path("/proc/loadavg").read_text().split()[0]
    print(f"\n{what} (load {load}):\n{json.dumps(figures, indent=2)}", flush=True)
