"""The suite's cluster in the lab: every node a kernel of its own."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from signal import Signals

from tests.e2e.testbed import Addresses, Image

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.images import WEB
from ipvs_lab.cluster.plan import ADDRESS6, Spec
from ipvs_lab.images import find_images
from ipvs_lab.machine import LabError
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.site import ADDRESS

OUTSIDE = Path(__file__).with_name("outside.py")
PROXY_CONFIGURATION = "/run/node/kube-proxy.json"


class LabTestbed:
    """A cluster of the lab as a Testbed."""

    web = WEB
    values: Sequence[str] = ("--set=modules.load=false",)  # all that the agent needs is built into the lab's kernel
    addresses: Mapping[int, Addresses] = {
        4: Addresses("10.200.0.128/26", "10.200.0.128", "10.200.0.0/24"),
        6: Addresses("fd00:10:200::100/120", "fd00:10:200::101", "fd00:10:200::/64"),
    }

    def __init__(self, name: str, nodes: int, kube_proxy: str, networks: int = 1) -> None:
        self.cluster = Cluster(name)
        self._spec = Spec(nodes=nodes, kube_proxy=kube_proxy, networks=networks)
        made = {image.name.rpartition("/")[2].partition(":")[0]: image for image in find_images()}
        self._archives = [image.archive for image in made.values()]
        self.images: Mapping[str, Image] = {
            role: Image(made[f"ipvs-{role}"].name.rpartition(":")[0], made[f"ipvs-{role}"].tag)
            for role in ("operator", "agent")
        }

    def up(self) -> None:
        self.cluster.up(self._spec, self._archives)
        if self._spec.kube_proxy == "ipvs":
            exclude_from_kube_proxy(self.cluster, [one.ranges for one in self.addresses.values()])

    def down(self) -> None:
        self.cluster.down()

    @property
    def nodes(self) -> Sequence[str]:
        return self.cluster.nodes

    @property
    def kubeconfig(self) -> Path:
        return self.cluster.kubeconfig

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self.cluster.kubectl(*arguments, stdin=stdin, check=check)

    def run(
        self, host: str, *argv: str, stdin: str = "", check: bool = True, timeout: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        return self.cluster.exec(host, *argv, stdin=stdin, check=check, timeout=timeout)

    def start(self, host: str, *argv: str) -> "subprocess.Popen[str]":
        command, environment = self.cluster.command(host, *argv)
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def client_script(self, path: Path) -> Sequence[str]:
        return (sys.executable, "-I", "-S", str(path))

    @contextlib.contextmanager
    def outside(self) -> Iterator[Mapping[int, str]]:
        """Where the control plane is: on the network, and no host of it."""
        prefix = self.cluster.status()["prefix"]
        command = [*prefix, sys.executable, "-I", "-S", str(OUTSIDE)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            try:
                if server.stdout.readline() != "ready\n":
                    raise LabError("the server outside the cluster does not start")
                yield {4: ADDRESS, 6: ADDRESS6}
            finally:
                server.kill()

    def power_off(self, node: str) -> None:
        self.cluster.kill(node)

    def power_on(self, node: str) -> None:
        self.cluster.boot(node)
        self.cluster.await_ready([node])

    def stop_kubelet(self, node: str) -> None:
        self.cluster.stop_program(node, "kubelet", Signals.SIGKILL)

    def start_kubelet(self, node: str) -> None:
        self.cluster.start_program(node, "kubelet")

    def stop_api(self) -> None:
        self.cluster.kill_api()

    def start_api(self) -> None:
        self.cluster.start_api()
        await_condition(lambda: self.kubectl("get", "--raw=/readyz", check=False).stdout == "ok", 60, "the API server")


def exclude_from_kube_proxy(cluster: Cluster, ranges: Sequence[str]) -> None:
    """Have kube-proxy in IPVS mode leave our addresses alone: docs/coexistence.md."""
    for node in cluster.nodes:
        written = json.loads(cluster.exec(node, "cat", PROXY_CONFIGURATION).stdout)
        written["ipvs"] = {"excludeCIDRs": list(ranges), "strictARP": True}
        cluster.exec(node, "tee", PROXY_CONFIGURATION, stdin=json.dumps(written))
        cluster.stop_program(node, "kube-proxy")
        cluster.start_program(node, "kube-proxy")
