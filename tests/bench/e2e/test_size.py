"""The same work for kube-proxy's IPVS mode and for us: 1,000 Services with ten endpoints each in one kernel.

kube-proxy serves the Services' cluster addresses, we a VirtualService for each of them. Both are processes of the node
and work in its kernel one after the other; API server and operator are on this machine.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.bench.apiserver import load
from tests.bench.apiserver.load import SHOP, SYSTEM
from tests.bench.e2e.costs import Cost, costs
from tests.e2e.lab import exclude_from_kube_proxy

from ipvs_kube.api import Api, connect
from ipvs_kube.resources import DIRECTOR_GROUPS, ENDPOINT_SLICES, NAMESPACES, SERVICES, VIRTUAL_SERVICES
from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.plan import Spec
from ipvs_lab.net.waiting import await_condition

ROOT = Path(__file__).parents[3]
COUNT = int(os.environ.get("IPVS_BENCH_COUNT", "1000"))
CHANGES = 15
NODE = "node1"
SERVICES_OF_KUBERNETES = 1  # its own, with one endpoint
WATCH = Path(__file__).with_name("ipvs_watch.py")

Figures = dict[str, Any]


class Kernel:
    """What the node's IPVS has, told by the node itself."""

    def __init__(self, cluster: Cluster) -> None:
        command, environment = cluster.command(NODE, sys.executable, str(WATCH))
        pipe = subprocess.PIPE
        self._watch = subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, text=True)

    def tell(self, *order: object) -> None:
        assert self._watch.stdin is not None
        print(*order, file=self._watch.stdin, flush=True)

    def answered(self) -> float:
        """When what was told is so, as ``monotonic``."""
        assert self._watch.stdout is not None
        assert self._watch.stdout.readline() == "done\n"
        return time.monotonic()

    def close(self) -> None:
        self._watch.kill()
        self._watch.communicate()


def service(number: int) -> dict[str, Any]:
    return load.service(number) | {"spec": {"ports": [{"name": "http", "port": 80, "targetPort": 8080}]}}


def endpoints(number: int, count: int = load.ENDPOINTS) -> list[dict[str, Any]]:
    """Machines somewhere: neither of us asks on which node a real server of NAT is."""
    return [{key: one[key] for key in ("addresses", "conditions")} for one in load.endpoints(number, count)]


def endpoint_slice(number: int) -> dict[str, Any]:
    return load.endpoint_slice(number) | {"endpoints": endpoints(number)}


def used(cluster: Cluster, words: str) -> Cost:
    """By the node's only process of these words."""
    found = costs(cluster, NODE, words)
    assert len(found) == 1, cluster.exec(NODE, "ps", "axw").stdout
    return found[0]


def changes(api: Api, kernel: Kernel, vips: Sequence[str]) -> Figures:
    """An endpoint leaves, or comes back, of one Service after the other: from the API server's answer to the kernel."""
    took = []
    for number in range(CHANGES):
        at = number * (COUNT // CHANGES)
        (last,) = endpoints(at)[-1]["addresses"]
        for pods, what in ((load.ENDPOINTS - 1, "lacks"), (load.ENDPOINTS, "has")):
            api.merge(ENDPOINT_SLICES, SHOP, load.name_of(at), {"endpoints": endpoints(at, pods)}, load.MANAGER)
            start = time.monotonic()
            kernel.tell(what, vips[at], 80, last)
            took.append(kernel.answered() - start)
    took.sort()
    return {
        "median, s": round(statistics.median(took), 3),
        "least and most, s": [round(took[0], 3), round(took[-1], 3)],
    }


@contextmanager
def process(command: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    with (
        log.open("wb") as file,
        subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file) as running,
    ):
        try:
            yield
        finally:
            running.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
        made = Cluster("size")
        try:
            made.up(Spec(nodes=1, kube_proxy="ipvs"))
            exclude_from_kube_proxy(made, [load.ADDRESSES])
            made.stop_program(NODE, "kube-proxy")
            yield made
        finally:
            made.down()


def declare(cluster: Cluster, api: Api) -> list[str]:
    """Our definitions and rights, Services and endpoints; the Services' cluster addresses."""
    cluster.kubectl("apply", "--server-side", f"--filename={ROOT / 'crds'}")
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=30s", f"--filename={ROOT / 'crds'}")
    cluster.kubectl("apply", f"--filename={ROOT / 'deploy'}")
    cluster.kubectl("label", "node", NODE, "ipvs.dev/director=true")
    api.create(NAMESPACES, "", {"metadata": {"name": SHOP}}, load.MANAGER)
    group = load.group()
    group["spec"]["allowedStaticBackends"] = ["11.0.0.0/8"]  # the endpoints are no node's
    api.create(DIRECTOR_GROUPS, "", group, load.MANAGER)
    load.create_all(api, SERVICES, SHOP, [service(number) for number in range(COUNT)])
    load.create_all(api, ENDPOINT_SLICES, SHOP, [endpoint_slice(number) for number in range(COUNT)])
    found = {one["metadata"]["name"]: one for one in cluster.get(f"/api/v1/namespaces/{SHOP}/services")["items"]}
    return [found[load.name_of(number)]["spec"]["clusterIP"] for number in range(COUNT)]


def theirs(cluster: Cluster, api: Api, kernel: Kernel, vips: Sequence[str]) -> Figures:
    kernel.tell("whole", "10.96.", COUNT + SERVICES_OF_KUBERNETES, COUNT * load.ENDPOINTS + SERVICES_OF_KUBERNETES)
    start = time.monotonic()
    cluster.start_program(NODE, "kube-proxy")
    first = kernel.answered() - start
    after = used(cluster, "kube-proxy --config")
    changed = changes(api, kernel, vips)
    whole = used(cluster, "kube-proxy --config")
    return figures(first, changed, after, whole)


def figures(first: float, changed: Figures, after: Cost, whole: Cost) -> Figures:
    cpu = (whole.cpu - after.cpu) / (2 * CHANGES)
    return {
        "start to everything in the kernel, s": round(first, 2),
        "CPU of that, s": after.cpu,
        "changed endpoint to the kernel": changed | {"CPU of each on the node, s": round(cpu, 3)},
        "resident, MiB": whole.resident,
    }


def agent(cluster: Cluster, state: Path) -> tuple[list[str], dict[str, str]]:
    """The agent as a process of the node, who it is told by a token: docs/kubernetes.md."""
    control_plane = Path(cluster.status()["control_plane"])
    known = json.loads(next(control_plane.glob("admin*.kubeconfig")).read_text())
    bound = ("--bound-object-kind=Node", f"--bound-object-name={NODE}")
    token = cluster.kubectl("create", "token", "ipvs-agent", f"--namespace={SYSTEM}", *bound).stdout.strip()
    known["users"][0]["user"] = {"token": token}
    kubeconfig = cluster.state.host(NODE) / "agent.kubeconfig"
    kubeconfig.write_text(json.dumps(known))
    source = ("--kubernetes", f"--node={NODE}", f"--kubeconfig={kubeconfig}", f"--namespace={SYSTEM}")
    own = (f"--state-dir={state}", f"--socket={state}/socket")
    return cluster.command(NODE, sys.executable, "-m", "ipvs_agent.main", "run", *source, *own)


def release(cluster: Cluster, state: Path) -> None:
    """The kernel as it was before an agent with this directory, which is about to end."""
    command = (sys.executable, "-m", "ipvs_agent.main", "release", f"--state-dir={state}")
    await_condition(lambda: not cluster.exec(NODE, "pgrep", "--full", "ipvs_agent.main run", check=False).stdout)
    cluster.exec(NODE, *command, timeout=300)
    assert cluster.exec(NODE, "ipvsadm", "--save", "--numeric").stdout == ""


def ours(cluster: Cluster, api: Api, kernel: Kernel, logs: Path) -> Figures:
    vips = [load.vip(number) for number in range(COUNT)]
    whole = ("whole", "198.18.", COUNT, COUNT * load.ENDPOINTS)
    operator = [sys.executable, "-m", "ipvs_operator", "run", f"--kubeconfig={cluster.kubeconfig}",
                f"--namespace={SYSTEM}", "--agent-pods=", "--no-leader-election"]  # fmt: skip
    straight = os.environ | {"NO_PROXY": "*", "no_proxy": "*", "PYTHONSAFEPATH": "1"}
    with process(operator, straight, logs / "operator.log"):
        await_condition(
            lambda: f"{NODE}\n" in cluster.kubectl("get", "ipvsnodes", "--output=name").stdout, 60, "the operator works"
        )
        with process(*agent(cluster, Path("/run/node/first")), logs / "agent.log"):
            kernel.tell(*whole)
            start = time.monotonic()
            objects = [load.virtual_service(number) for number in range(COUNT)]
            load.create_all(api, VIRTUAL_SERVICES, SHOP, objects)
            created = time.monotonic() - start
            nothing = kernel.answered() - start
            cluster.kubectl("wait", "ivs", "--all", f"--namespace={SHOP}", "--for=condition=Ready", "--timeout=300s")
        release(cluster, Path("/run/node/first"))
        kernel.tell(*whole)
        start = time.monotonic()
        with process(*agent(cluster, Path("/run/node/second")), logs / "agent-again.log"):
            first = kernel.answered() - start
            after = used(cluster, "ipvs_agent.main run")
            changed = changes(api, kernel, vips)
            spent = used(cluster, "ipvs_agent.main run")
        release(cluster, Path("/run/node/second"))
    return {
        "all created, s": round(created, 2),
        "all created to everything in the kernel, s": round(nothing, 2),
    } | figures(first, changed, after, spent)


def test_beside_kube_proxy(cluster: Cluster, tmp_path: Path) -> None:
    api = connect(cluster.kubeconfig, user_agent="bench")
    kernel = Kernel(cluster)
    try:
        vips = declare(cluster, api)
        told = {"ipvs-operator": ours(cluster, api, kernel, tmp_path)}
        told["kube-proxy, IPVS mode"] = theirs(cluster, api, kernel, vips)  # last: it leaves rules behind
    finally:
        kernel.close()
        api.close()
    load.tell(f"{COUNT} Services x {load.ENDPOINTS}", told)
