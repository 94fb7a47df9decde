"""What the benches measure on: one director, and virtual services as YAML or as objects in memory."""

import gc
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from ipvs_agent.agent import Agent
from ipvs_agent.sources.manifests import ManifestsSource
from ipvs_agent.store import Store
from ipvs_lab.net import Topology

SERVERS = 10
GROUP = """apiVersion: ipvs.dev/v1alpha1
kind: DirectorGroup
metadata: {name: default}
spec:
  nodeSelector: {matchLabels: {ipvs.dev/director: "true"}}
  addresses: [10.1.0.0/16]
  announcement: {static: {}}
---
apiVersion: v1
kind: Node
metadata: {name: lb1, labels: {ipvs.dev/director: "true"}}
status: {addresses: [{type: InternalIP, address: 10.0.0.1}]}
"""


def topology() -> Topology:
    made = Topology()
    made.lan("lan")
    made.host("lb1", lan="10.0.0.1/8", via="10.0.0.2")
    return made


def endpoint(number: int, vips: int) -> tuple[str, int]:
    """VIP and port of one virtual service, ``vips`` addresses for all."""
    vip = number % vips
    return f"10.1.{vip // 250}.{vip % 250 + 1}", 1000 + number // vips


def servers(number: int) -> list[str]:
    return [f"10.{10 + at}.{number // 250}.{number % 250 + 1}" for at in range(SERVERS)]


def manifest(number: int, vips: int, weight: int = 1) -> str:
    address, port = endpoint(number, vips)
    backends = ", ".join(
        f"{{address: {server}, weight: {weight if at == 0 else 1}}}" for at, server in enumerate(servers(number))
    )
    return f"""apiVersion: ipvs.dev/v1alpha1
kind: VirtualService
metadata: {{name: web-{number}}}
spec:
  directorGroup: default
  addresses: [{address}]
  scheduler: wrr
  ports: [{{name: http, port: {port}}}]
  backends: {{static: [{backends}]}}
"""


def write_manifests(directory: Path, count: int, vips: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "group.yaml").write_text(GROUP)
    for number in range(count):
        (directory / f"web-{number}.yaml").write_text(manifest(number, vips))


def ipvsadm_rules(count: int, vips: int) -> str:
    """The same services as ``ipvsadm -R`` reads them."""
    lines = []
    for number in range(count):
        address, port = endpoint(number, vips)
        lines.append(f"-A -t {address}:{port} -s wrr")
        lines += [f"-a -t {address}:{port} -r {server}:{port} -m -w 1" for server in servers(number)]
    return "\n".join(lines) + "\n"


def resident() -> float:
    """MiB of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20


def timed(call: Callable[[], Any]) -> float:
    gc.collect()
    start = perf_counter()
    call()
    return perf_counter() - start


def system_call() -> float:
    """Microseconds of one system call here: a lab kernel's vary with where its processes run."""
    start = perf_counter()
    for _ in range(1000):
        Path("/dev/null").exists()
    return (perf_counter() - start) * 1000


def agent(directory: Path, state: Path) -> Agent:
    store = Store(state / "state.db")
    made = Agent("lb1", ManifestsSource(directory, "lb1", dict(store.plans()), store.node_spec()), store)
    made.start()
    return made


def converge(made: Agent) -> None:
    """Passes until nothing is left to do, probes of new addresses included."""
    while True:
        progress = made.step(set())
        if made.to_probe:
            made.probed(made.probe(made.take_probes()))
        elif not progress.more:
            return
