"""An audit compares with the kernel; where nothing has changed, nothing is worked out anew."""

from pathlib import Path

import yaml
from tests.kernel.conftest import director_group, node, virtual_service

from ipvs_agent.agent import Agent
from ipvs_agent.sources.manifests import ManifestsSource
from ipvs_agent.store import Store
from ipvs_lab.net import Network
from ipvs_lab.topologies import one


def converge(agent: Agent) -> None:
    while True:
        progress = agent.step(set())
        if agent.to_probe:
            agent.probed(agent.probe(agent.take_probes()))
        elif not progress.more:
            return


def programmed_and_audited(directory: Path, state: Path) -> tuple[bool, int]:
    """Whether decisions stand on the very values that they were made from, and the switches that were raised."""
    store = Store(state / "state.db")
    agent = Agent("director", ManifestsSource(directory, "director", {}, store.node_spec()), store)
    agent.start()
    agent.read_source()
    converge(agent)
    before = agent.intent.context
    agent.audit_due = True
    converge(agent)
    return agent.intent.context is before, len(store.sysctls())


def test_switches_that_we_raised_are_no_news_to_an_audit(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    web = virtual_service("web", "192.0.2.10", "80:8080", ["192.0.2.101", "192.0.2.102"], forwarding="NAT")
    lb = node("director", ["192.0.2.2"], director=True)
    (directory / "all.yaml").write_text(yaml.safe_dump_all([web, lb, director_group()]))
    with Network(one()) as net:
        unchanged, raised = net["director"].call_forked(programmed_and_audited, directory, tmp_path / "state")
    assert raised > 2
    assert unchanged
