"""When everything is as wanted, an agent waits: there is nothing to look at again and again."""

from pathlib import Path

import pytest
import yaml
from tests.kernel.conftest import director_group, node, virtual_service

from ipvs_agent.agent import Agent
from ipvs_agent.sources.manifests import ManifestsSource
from ipvs_agent.store import Store
from ipvs_lab.net import Network, await_condition
from ipvs_lab.topologies import one

STEPS = 100
SWITCHES = ("ipv4/conf/eth0/forwarding", "ipv4/vs/conntrack", "ipv4/vs/expire_nodest_conn")


def rests(agent: Agent) -> bool:
    """Whether the agent waits after so many passes at most."""
    for _ in range(STEPS):
        progress = agent.step(set())
        if agent.to_probe:
            agent.probed(agent.probe(agent.take_probes()))
        elif not progress.more:
            return True
    return False


def comes_and_goes(directory: Path, state: Path) -> list[bool]:
    for switch in SWITCHES:  # as on many hosts: there is nothing to set, and nothing to remember
        Path("/proc/sys/net", switch).write_text("1")
    store = Store(state / "state.db")
    source = ManifestsSource(directory, "director", {}, store.node_spec())
    agent = Agent("director", source, store)
    agent.start()

    def known(services: int) -> bool:
        source.changed(None)
        agent.read_source()
        return len(agent.intent.drain_timeouts) == services

    await_condition(lambda: known(1), what="the virtual service is known")
    found = [rests(agent)]
    (directory / "web.yaml").unlink()
    await_condition(lambda: known(0), what="the virtual service is not wanted any more")
    return [*found, rests(agent)]


@pytest.mark.parametrize("forwarding", ["NAT", "DR", "TUN"])
def test_nothing_is_left_to_look_at_when_a_virtual_service_has_come_and_gone(tmp_path: Path, forwarding: str) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    web = virtual_service("web", "192.0.2.10", 80, ["10.0.0.11"], forwarding=forwarding, drain={"timeoutSeconds": 0})
    lb = node("director", ["192.0.2.2"], director=True)
    (directory / "web.yaml").write_text(yaml.safe_dump(web))
    (directory / "all.yaml").write_text(yaml.safe_dump_all([lb, director_group()]))
    with Network(one()) as net:
        found = net["director"].call_forked(comes_and_goes, directory, tmp_path / "state")
    assert found == [True, True]
