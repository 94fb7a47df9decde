"""The suite's cluster in kind: every node a container of Docker on this machine's own kernel, which needs IPVS.

kind create cluster --config tests/e2e/kind.yaml
make e2e-kind          # KIND=name for another cluster than `kind`
"""

import contextlib
import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from tests.e2e.testbed import CLIENT, Addresses, Image

from ipvs_lab.cluster.images import WEB
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.places import KindPlace, run

HERE = Path(__file__).parent
PYTHON = "python:3.13-slim"
NETWORK = "kind"

sh = partial(run, timeout=900)


class KindTestbed:
    """A cluster of kind as a Testbed. The client and the machine outside are containers on its network."""

    web = WEB
    values: Sequence[str] = ()

    def __init__(self, name: str) -> None:
        self._name = name
        self._place = KindPlace(name)
        self.kubeconfig = self._place.kubeconfig
        self.images: Mapping[str, Image] = {
            role: Image(*image.rsplit(":", 1)) for role, image in self._place.images().items()
        }
        told = json.loads(sh("docker", "network", "inspect", NETWORK).stdout)[0]["IPAM"]["Config"]
        networks = [ip_network(part["Subnet"]) for part in told]
        self.addresses: Mapping[int, Addresses] = {network.version: far_end(network) for network in networks}
        nodes = json.loads(self.kubectl("get", "nodes", "--output=json").stdout)["items"]
        names = sorted(node["metadata"]["name"] for node in nodes)
        self.nodes = [name for name in names if "control-plane" not in name]
        self._planes = [name for name in names if "control-plane" in name]

    def up(self) -> None:
        self._place.load_images()
        for node in self.nodes:
            sh("docker", "exec", node, "sh", "-c", "apt-get update && apt-get install --yes ipvsadm nftables")
        self._container(CLIENT, "sleep", "infinity")

    def down(self) -> None:
        """Only what is ours: the cluster was there before."""
        self._remove(CLIENT)

    def _container(self, host: str, *command: str) -> None:
        self._remove(host)
        place = ["--network", NETWORK, "--volume", f"{HERE}:{HERE}:ro", "--name", f"{self._name}-{host}"]
        sh("docker", "run", "--detach", "--interactive", *place, PYTHON, *command)

    def _remove(self, host: str) -> None:
        sh("docker", "rm", "--force", f"{self._name}-{host}", check=False)

    def _container_of(self, host: str) -> str:
        return f"{self._name}-{host}" if host == CLIENT else host

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        return self._place.kubectl(*arguments, stdin=stdin, check=check)

    def run(
        self, host: str, *argv: str, stdin: str = "", check: bool = True, timeout: float = 60
    ) -> "subprocess.CompletedProcess[str]":
        command = ("docker", "exec", "--interactive", self._container_of(host), *argv)
        return sh(*command, stdin=stdin, check=check, timeout=timeout)

    def start(self, host: str, *argv: str) -> "subprocess.Popen[str]":
        pipe = subprocess.PIPE
        command = ["docker", "exec", "--interactive", self._container_of(host), *argv]
        return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def client_script(self, path: Path) -> Sequence[str]:
        return ("python3", "-I", "-S", str(path))

    @contextlib.contextmanager
    def outside(self) -> Iterator[Mapping[int, str]]:
        self._container("outside", "python3", "-I", "-S", str(HERE / "outside.py"))
        try:
            name = f"{self._name}-outside"
            await_condition(lambda: "ready" in sh("docker", "logs", name).stdout, 30, "the server outside")
            told = json.loads(sh("docker", "inspect", name).stdout)[0]["NetworkSettings"]["Networks"][NETWORK]
            yield {4: told["IPAddress"], 6: told["GlobalIPv6Address"]}
        finally:
            self._remove("outside")

    def power_off(self, node: str) -> None:
        sh("docker", "kill", node)

    def power_on(self, node: str) -> None:
        sh("docker", "start", node)
        self.kubectl("wait", f"node/{node}", "--for=condition=Ready", "--timeout=180s")

    def stop_kubelet(self, node: str) -> None:
        self.run(node, "systemctl", "kill", "--signal=KILL", "kubelet")
        self.run(node, "systemctl", "stop", "kubelet")

    def start_kubelet(self, node: str) -> None:
        self.run(node, "systemctl", "start", "kubelet")

    def stop_api(self) -> None:
        """Its kubelet would start it again, and so waits too."""
        for plane in self._planes:
            self.run(plane, "systemctl", "stop", "kubelet")
            self.run(plane, "pkill", "-STOP", "kube-apiserver")

    def start_api(self) -> None:
        for plane in self._planes:
            self.run(plane, "pkill", "-CONT", "kube-apiserver")
            self.run(plane, "systemctl", "start", "kubelet")
        await_condition(lambda: self.kubectl("get", "--raw=/readyz", check=False).stdout == "ok", 60, "the API server")


def far_end(network: IPv4Network | IPv6Network) -> Addresses:
    """64 addresses near the end, where Docker gives none."""
    last = network.network_address + min(network.num_addresses, 1 << 16) - 2
    return Addresses(f"{last - 63}-{last}", str(last - 63), str(network))
