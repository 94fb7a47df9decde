"""A site: a network with manifests and agents on it, as an administrator would set it up.

def test_x(site: MakeSite) -> None:
    lvs = site(one(), directors=["director"], nodes=["rs1", "rs2"])
    lvs.put(virtual_service("web", "192.0.2.10", 80, lvs.servers("rs1", "rs2"), forwarding="DR"))
    lvs.start()
    assert clients(lvs["client"], 10, "192.0.2.10", 80).answers == {"rs1": 5, "rs2": 5}
"""

import logging
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pyroute2  # noqa: F401  # so that forked agents start warm
import pytest
import yaml

import ipvs_agent.loop  # noqa: F401  # likewise
from ipvs_agent.main import main
from ipvs_agent.view import View, ask_agent
from ipvs_lab.net import Child, Host, Network, Topology, await_condition

Manifest = dict[str, Any]

API = "ipvs.dev/v1alpha1"
DIRECTOR_LABEL = {"ipvs.dev/director": "true"}
POOL = ("192.0.2.10-192.0.2.99", "2001:db8:2::10-2001:db8:2::99")
"""VIPs of the lab's named topologies."""
SOCKET = Path("/run/ipvs-operator/agent.sock")


INVALID_DROP = """
table inet somebody {
    chain in { type filter hook input priority 0; policy accept; ct state invalid drop; }
    chain through { type filter hook forward priority 0; policy accept; ct state invalid drop; }
}
"""
"""Somebody else's rules (kube-proxy's are alike), for ``nft -f -``."""


def node(name: str, addresses: Sequence[str], *, director: bool = False, pod_cidrs: Sequence[str] = ()) -> Manifest:
    """A Node as a cluster would have it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": DIRECTOR_LABEL if director else {}},
        "spec": {"podCIDRs": list(pod_cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def director_group(name: str = "default", addresses: Sequence[str] = POOL, **spec: Any) -> Manifest:
    """A DirectorGroup of all Nodes with ``DIRECTOR_LABEL``, announcement ``static`` unless told otherwise."""
    return {
        "apiVersion": API,
        "kind": "DirectorGroup",
        "metadata": {"name": name},
        "spec": {
            "nodeSelector": {"matchLabels": DIRECTOR_LABEL},
            "addresses": list(addresses),
            "announcement": {"static": {}},
        }
        | spec,
    }


def port(text: str | int) -> Manifest:
    """``80``, ``"80:8080"``, ``"53/UDP"``, ``"53:5353/UDP"``: port, real servers' port, protocol."""
    ports, _, protocol = str(text).partition("/")
    own, _, target = ports.partition(":")
    entry: Manifest = {"name": f"p{own}-{(protocol or 'tcp').lower()}", "port": int(own), "protocol": protocol or "TCP"}
    return entry | ({"targetPort": int(target)} if target else {})


def virtual_service(
    name: str,
    vips: str,
    ports: str | int | Sequence[str | int],
    servers: Sequence[str | Mapping[str, Any]],
    **spec: Any,
) -> Manifest:
    """A VirtualService with static backends. ``vips``: one or two addresses with a space between them. ``ports``: as
    ``port`` takes them. ``servers``: addresses, or entries of ``spec.backends.static``. Scheduler rr unless told
    otherwise; health checks off."""
    several = [ports] if isinstance(ports, (str, int)) else ports
    return {
        "apiVersion": API,
        "kind": "VirtualService",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "directorGroup": "default",
            "addresses": vips.split(),
            "ports": [port(one) for one in several],
            "scheduler": "rr",
            "healthCheck": {"type": "None"},
            "backends": {"static": [{"address": one} if isinstance(one, str) else dict(one) for one in servers]},
        }
        | spec,
    }


def run_agent(*arguments: str) -> int:
    """``ipvs-agent ARGUMENTS`` in a forked process: pytest's own logging stays behind."""
    logging.getLogger().handlers.clear()
    return main(arguments)


class Site:
    """A network, the manifests that all its hosts read, and the agents started on it."""

    def __init__(self, net: Network) -> None:
        self.net = net
        self.directory = net.directory / "manifests"
        self.directory.mkdir()
        self.manifests: dict[tuple[str, str], Manifest] = {}
        self.agents: dict[str, Child] = {}

    def __getitem__(self, name: str) -> Host:
        return self.net[name]

    def servers(self, *names: str, family: int = 4) -> list[str]:
        """The hosts' first addresses of a family."""
        return [self.net[name].address(family=family) for name in names]

    def put(self, *manifests: Manifest) -> None:
        """Write manifests, a file each, new or in place of those of the same kind and name."""
        for manifest in manifests:
            key = manifest["kind"], manifest["metadata"]["name"]
            before = self.manifests.get(key, {"metadata": {}})["metadata"].get("generation", 0)
            manifest["metadata"]["generation"] = before + 1
            self.manifests[key] = manifest
            path = self._path(*key)
            draft = path.with_suffix(".draft")
            draft.write_text(yaml.safe_dump(manifest, sort_keys=False))
            draft.rename(path)

    def edit(self, name: str, **spec: Any) -> None:
        """Change fields of a VirtualService's spec."""
        old = self.manifests["VirtualService", name]
        self.put(old | {"spec": old["spec"] | spec, "metadata": dict(old["metadata"])})

    def remove(self, kind: str, name: str) -> None:
        """Delete a manifest's file."""
        del self.manifests[kind, name]
        self._path(kind, name).unlink()

    def _path(self, kind: str, name: str) -> Path:
        return self.directory / f"{kind}.{name}.yaml"

    def start(self, *names: str, ready: bool = True) -> None:
        """Start agents on these hosts (default: on all that have a Node and no agent yet) and await ``settled``."""
        for name in names or [name for kind, name in self.manifests if kind == "Node" and name not in self.agents]:
            words = ("run", "--manifests", str(self.directory), "--node", name)
            self.agents[name] = self.net[name].fork(run_agent, *words, name="agent")
        self.settled(ready=ready)

    def settled(self, *, ready: bool = True, timeout: float = 30) -> None:
        """Wait until every agent has the manifests of now in its kernel and reports Ready (or not so, for manifests
        that cannot be done: then only until it has taken note), and VIPs are held."""
        await_condition(lambda: self._is_settled(ready), timeout, "agents settled", every=0.2)

    def _is_settled(self, ready: bool) -> bool:
        for name in self.agents:
            problem = self._waits_for(name, ready)
            assert not problem, problem
        return True

    def _waits_for(self, name: str, ready: bool) -> str:
        if not self.agents[name].running():
            raise RuntimeError(f"the agent on {name} has ended; it wrote:\n{self.agents[name].output()}")
        view = self.view(name)
        if view is None:
            return f"{name}: no agent answers yet"
        seen = {one.metadata.name: one.status.observed_generation for one in view.services}
        vips = set()
        for (kind, service), manifest in self.manifests.items():
            if kind != "VirtualService" or not self._concerns(name, manifest):
                continue
            if seen.get(service) != manifest["metadata"]["generation"]:
                return f"{name}: generation {seen.get(service)} of {service}, not {manifest['metadata']['generation']}"
            if self._is_director(name):
                vips.update(manifest["spec"]["addresses"])
        problems = [c for c in view.node.status.conditions if c.status != "True"]
        if ready and (problems or not view.node.status.conditions):
            return f"{name}: {problems}"
        if ready and name == self._holder() and (lacking := vips - self.held(name)):
            return f"{name}: VIPs {lacking} are not there"
        return ""

    def _is_director(self, name: str) -> bool:
        return bool(self.manifests["Node", name]["metadata"]["labels"])

    def _holder(self) -> str:
        return min((name for kind, name in self.manifests if kind == "Node" and self._is_director(name)), default="")

    def _concerns(self, name: str, service: Manifest) -> bool:
        manifest = self.manifests["Node", name]
        own = {entry["address"] for entry in manifest["status"]["addresses"]}
        behind = [ip_network(prefix) for prefix in manifest["spec"]["podCIDRs"]]
        servers = [entry["address"] for entry in service["spec"]["backends"]["static"]]
        return self._is_director(name) or any(
            server in own or any(ip_address(server) in prefix for prefix in behind) for server in servers
        )

    def held(self, name: str) -> set[str]:
        """Addresses on a host's interfaces, as ``ip addr`` shows them."""
        return {
            entry["local"] for link in self.net[name].addresses() for entry in link["addr_info"] if "local" in entry
        }

    def view(self, name: str) -> View | None:
        """What the agent on a host reports; None without one."""
        return self.net[name].call(ask_agent, SOCKET)

    def agent(self, name: str, *arguments: str) -> str:
        """What ``ipvs-agent ARGUMENTS`` says on a host; AssertionError when it fails."""
        child = self.net[name].fork(run_agent, *arguments, name=f"ipvs-agent-{arguments[0]}")
        status = child.wait()
        assert status == 0, f"{name}: ipvs-agent {' '.join(arguments)}: status {status}\n{child.output()}"
        return child.output()

    def stop(self, *names: str) -> None:
        """End agents (default: all) in order."""
        for name in names or tuple(self.agents):
            self.agents.pop(name).stop()


def echoed(host: Host, vip: str, size: int) -> bool:
    """Whether that many bytes, said to port 80 in segments as large as they get, come back as they went."""
    data = bytes(range(251)) * (size // 251 + 1)
    with host.inside():
        sock = socket.create_connection((vip, 80), 20)
    with sock, sock.makefile("rb") as answer:
        sock.sendall(b"echo %d\n" % size + data[:size])
        return answer.read(size) == data[:size]


class MakeSite:
    """Makes sites that are gone at the end of the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(
        self,
        topology: Topology,
        directors: Sequence[str] = ("director",),
        nodes: Sequence[str] = (),
        **group: Any,
    ) -> Site:
        """A site with Nodes for ``directors`` and ``nodes`` (all addresses of those hosts) and DirectorGroup
        ``default``, whose spec fields are the other keywords. No agent runs yet."""
        made = Site(self._stack.enter_context(Network(topology)))
        for name in (*directors, *nodes):
            addresses = [entry.split("/")[0] for port in made[name].plan.ports for entry in port.addresses]
            made.put(node(name, addresses, director=name in directors))
        made.put(director_group(**group))
        return made


@pytest.fixture
def site() -> Iterator[MakeSite]:
    """Makes sites."""
    with ExitStack() as stack:
        yield MakeSite(stack)
