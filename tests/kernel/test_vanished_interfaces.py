"""Interfaces go, as those of pods that have ended, and leave nothing to complain about."""

import subprocess
from pathlib import Path

import yaml
from tests.kernel.conftest import director_group, node, virtual_service
from tests.kernel.test_audit import converge

from ipvs_agent.agent import Agent
from ipvs_agent.sources.manifests import ManifestsSource
from ipvs_agent.store import Store
from ipvs_lab.net import Network
from ipvs_lab.topologies import one

POD = "veth1"


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def after_a_pods_interface_went(directory: Path, state: Path) -> tuple[bool, list[str], list[str]]:
    """Whether a switch of the interface was raised; then what is refused, and what is remembered of the interface."""
    ip("link", "add", POD, "type", "veth", "peer", "name", "pod")
    ip("addr", "add", "10.244.1.1/24", "dev", POD)
    ip("link", "set", POD, "up")
    store = Store(state / "state.db")
    agent = Agent("director", ManifestsSource(directory, "director", {}, store.node_spec()), store)
    agent.start()
    agent.read_source()
    converge(agent)
    raised = any(POD in path for path in store.sysctls())
    ip("link", "del", POD)
    agent.step({"links", "routes", "addresses", "sysctls"})
    converge(agent)
    refused = [trouble.message for _, trouble in agent.converger.troubles]
    return raised, refused, [path for path in store.sysctls() if POD in path]


def test_the_switches_of_an_interface_that_is_gone_are_forgotten_and_no_trouble(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    web = virtual_service("web", "192.0.2.10", "80:8080", ["10.244.1.2"], forwarding="NAT")
    lb = node("director", ["192.0.2.2"], director=True)
    (directory / "all.yaml").write_text(yaml.safe_dump_all([web, lb, director_group()]))
    with Network(one()) as net:
        result = net["director"].call_forked(after_a_pods_interface_went, directory, tmp_path / "state")
    assert result == (True, [], [])
