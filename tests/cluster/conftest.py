"""A cluster whose nodes are hosts of a lab kernel: the API server beside it, operator and agents inside, as service
accounts with nothing but their rights.

No kubelet runs and no controller: Nodes, Pods and EndpointSlices are written by the test as those would write them.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyroute2  # noqa: F401  # so that forked agents start warm
import pytest
import yaml

import ipvs_agent.loop
import ipvs_agent.main
import ipvs_agent.sources.cluster  # likewise
import ipvs_operator.app  # and operators
import ipvs_operator.main
from ipvs_lab.net import Child, Dump, Host, Network, Topology, await_condition, serve

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "ipvs-system"
CONTROL = "control"
"""The host of the operator and of kubectl."""
NODES = ("n1", "n2", "n3")
DIRECTORS = ("n1",)
PODS_OF_NODE = 2
VIP = "192.0.2.10"
CLIENT = "198.51.100.2"
PORT = 8080
"""Where pods listen."""

Object = dict[str, Any]


def topology() -> Topology:
    """A client behind a router; three nodes, each with pods behind it; everybody but the client and the pods has a leg
    in the network of the API server."""
    made = Topology()
    for lan in ("clients", "lan", "management"):
        made.lan(lan)
    made.host("client", clients="198.51.100.2/24 2001:db8:1::2/64", via="198.51.100.1 2001:db8:1::1")
    made.host(
        "router", clients="198.51.100.1/24 2001:db8:1::1/64", lan="192.0.2.1/24 2001:db8:2::1/64", forwarding=True
    )
    made.host(CONTROL, management="10.200.0.9/24")
    for number, name in enumerate(NODES, 1):
        made.lan(f"pods{number}")
        ports = {
            "lan": f"192.0.2.10{number}/24 2001:db8:2::10{number}/64",
            "management": f"10.200.0.1{number}/24",
            f"pods{number}": f"10.244.{number}.1/24 2001:db8:244:{number}::1/64",
        }
        others = [other for other in range(1, len(NODES) + 1) if other != number]
        routes = tuple(f"10.244.{other}.0/24 via 192.0.2.10{other}" for other in others)
        made.host(name, **ports, via="192.0.2.1 2001:db8:2::1", routes=routes, forwarding=True)
        for pod in range(1, PODS_OF_NODE + 1):
            leg = {f"pods{number}": f"10.244.{number}.1{pod}/24 2001:db8:244:{number}::1{pod}/64"}
            made.host(f"{name}-pod{pod}", **leg, via=f"10.244.{number}.1 2001:db8:244:{number}::1")
    return made


def pods(*nodes: str) -> list[str]:
    return [f"{name}-pod{pod}" for name in nodes or NODES for pod in range(1, PODS_OF_NODE + 1)]


def run_program(main: Any, *words: str, kubeconfig: str) -> int:
    """A program of ours in a forked process: pytest's own logging stays behind."""
    logging.getLogger().handlers.clear()
    os.environ["KUBECONFIG"] = kubeconfig
    status: int = main(words)
    return status


class Cluster:
    """The network with its API server."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.agents: dict[str, Child] = {}
        self.before: dict[str, Dump] = {}
        self.operator: Child | None = None
        net.uplink("management")
        self.control = net[CONTROL]
        await_condition(lambda: self.kubectl("get", "--raw=/readyz", check=False) == "ok", 30, "the API server")

    def __getitem__(self, name: str) -> Host:
        return self.net[name]

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        """As an administrator; what it prints."""
        return self.control.run("kubectl", *words, stdin=stdin, check=check).stdout

    def apply(self, *objects: Object, check: bool = True) -> str:
        """``kubectl apply -f -``."""
        return self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects), check=check)

    def get(self, *words: str) -> Any:
        return json.loads(self.kubectl("get", *words, "--output=json"))

    def install(self) -> None:
        """As the documentation says it, and Nodes as kubelets write them."""
        self.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
        self.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        self.kubectl("apply", "-f", str(ROOT / "deploy"))
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        for number, name in enumerate(NODES, 1):
            labels = {"ipvs.dev/director": "true"} if name in DIRECTORS else {}
            cidrs = [f"10.244.{number}.0/24", f"2001:db8:244:{number}::/64"]
            self.apply(
                {
                    "apiVersion": "v1",
                    "kind": "Node",
                    "metadata": {"name": name, "labels": labels},
                    "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
                }
            )
            addresses = [f"192.0.2.10{number}", f"2001:db8:2::10{number}"]
            self.patch_status(
                "node",
                name,
                addresses=[{"type": "InternalIP", "address": address} for address in addresses],
                nodeInfo={"bootID": boot},
                conditions=[{"type": "Ready", "status": "True"}],
            )

    def patch_status(self, *which: str, **status: Any) -> None:
        patch = json.dumps({"status": status})
        self.kubectl("patch", *which, "--subresource=status", "--type=merge", f"--patch={patch}")

    def pod(self, name: str, node: str, labels: Mapping[str, str], account: str, *, ready: bool) -> None:
        """A pod that a kubelet runs, as far as the API server can tell."""
        spec = {
            "nodeName": node,
            "serviceAccountName": account,
            "containers": [{"name": "main", "image": "main"}],
            "tolerations": [{"operator": "Exists"}],
        }
        meta = {"name": name, "namespace": NAMESPACE, "labels": dict(labels)}
        self.apply({"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec})
        self.patch_status("pod", name, f"--namespace={NAMESPACE}", conditions=[{"type": "Ready", "status": str(ready)}])

    def credentials(self, account: str, pod: str = "") -> str:
        """A kubeconfig file of a service account, its token bound to a pod as a kubelet would ask for it."""
        bound = ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
        token = self.kubectl("create", "token", account, f"--namespace={NAMESPACE}", *bound).strip()
        config = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
        config["users"] = [{"name": config["contexts"][0]["context"]["user"], "user": {"token": token}}]
        path = self.net.directory / f"{pod or account}.kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def start_operator(self) -> None:
        kubeconfig = self.credentials("ipvs-operator")
        words = ("run", "--namespace", NAMESPACE, "--health-port", "8081", "--log-level", "info")
        self.operator = self.control.fork(
            run_program, ipvs_operator.main.main, *words, kubeconfig=kubeconfig, name="operator"
        )

    def start_agents(self, *names: str) -> None:
        for name in names or NODES:
            labels = {"app.kubernetes.io/name": "ipvs-operator", "app.kubernetes.io/component": "agent"}
            self.pod(f"agent-{name}", name, labels, "ipvs-agent", ready=True)
            kubeconfig = self.credentials("ipvs-agent", f"agent-{name}")
            words = ("run", "--kubernetes", "--node", name, "--namespace", NAMESPACE)
            self.agents[name] = self.net[name].fork(
                run_program, ipvs_agent.main.main, *words, kubeconfig=kubeconfig, name="agent"
            )

    def agent(self, name: str, *words: str) -> str:
        """What ``ipvs-agent WORDS`` says on a node."""
        return self.net[name].run("ipvs-agent", *words).stdout

    def dump(self) -> dict[str, Dump]:
        return {name: self.net[name].dump() for name in NODES}

    def ready(self, name: str = "web", namespace: str = "default", timeout: int = 60) -> None:
        """``kubectl wait``; the status and the logs where it is not."""
        done = self.control.run(
            "kubectl", "wait", f"ivs/{name}", f"--namespace={namespace}", "--for=condition=Ready",
            f"--timeout={timeout}s", check=False, timeout=timeout + 30,
        )  # fmt: skip
        assert done.returncode == 0, (
            done.stderr
            + self.kubectl("get", "ivs", name, f"--namespace={namespace}", "--output=yaml", check=False)
            + self.logs()
        )

    def logs(self) -> str:
        children = {"operator": self.operator, **self.agents}
        return "".join(f"\n--- {name}\n{child.output()[-3000:]}" for name, child in children.items() if child)


def service(name: str = "web", **spec: Any) -> Object:
    """A Service without a selector, port 80."""
    ports = [{"name": "http", "port": 80, "targetPort": PORT}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"ports": ports} | spec,
    }


def endpoints(addresses: Mapping[str, str], name: str = "web", *, leaving: Iterable[str] = ()) -> Object:
    """The Service's EndpointSlice, as the controller would write it. ``addresses``: each with its node; those
    ``leaving`` are terminating and do not serve any more."""
    gone = set(leaving)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-1",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": PORT, "protocol": "TCP"}],
        "endpoints": [
            {
                "addresses": [address],
                "nodeName": node,
                "conditions": {
                    "ready": address not in gone,
                    "serving": address not in gone,
                    "terminating": address in gone,
                },
            }
            for address, node in addresses.items()
        ],
    }


def virtual_service(name: str = "web", **spec: Any) -> Object:
    return {
        "apiVersion": "ipvs.dev/v1alpha1",
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "directorGroup": "default",
            "addresses": [VIP],
            "ports": [{"name": "http", "port": 80}],
            "scheduler": "wrr",
            "healthCheck": {"type": "None"},
            "backends": {"service": {"name": "web"}},
        }
        | spec,
    }


def director_group(**spec: Any) -> Object:
    return {
        "apiVersion": "ipvs.dev/v1alpha1",
        "kind": "DirectorGroup",
        "metadata": {"name": "default"},
        "spec": {
            "nodeSelector": {"matchLabels": {"ipvs.dev/director": "true"}},
            "addresses": ["192.0.2.10-192.0.2.20"],
            "announcement": {"static": {}},
        }
        | spec,
    }


def rips(names: Sequence[str]) -> dict[str, str]:
    """The pods' addresses, each with its node."""
    found = {}
    for name in names:
        node, _, pod = name.partition("-pod")
        found[f"10.244.{NODES.index(node) + 1}.1{pod}"] = node
    return found


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Everything runs, and every pod serves; nothing is declared yet."""
    with ExitStack() as stack:
        made = Cluster(stack.enter_context(Network(topology())))
        made.install()
        made.before = made.dump()
        made.start_operator()
        made.start_agents()
        serve([made[name] for name in pods()], PORT)
        yield made
