"""An audit compares with the kernel; where nothing has changed, nothing is worked out anew."""

import io
import logging
import subprocess
import time
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


def started(directory: Path, state: Path) -> Agent:
    store = Store(state / "state.db")
    agent = Agent("director", ManifestsSource(directory, "director", {}, store.node_spec()), store)
    agent.start()
    return agent


def programmed(directory: Path, state: Path) -> Agent:
    """An agent that has done what the directory says."""
    agent = started(directory, state)
    agent.read_source()
    converge(agent)
    return agent


def told_anew(agent: Agent, directory: Path, *servers: str) -> None:
    """The agent decides for other real servers, and writes nothing yet."""
    assert isinstance(agent.source, ManifestsSource)
    declare(directory, *servers)
    agent.source.changed(None)
    while (wait := agent.read_source()) is not None:
        time.sleep(wait)  # files that were written just now may not be whole


def shown_by_ipvsadm() -> list[list[str]]:
    done = subprocess.run(["ipvsadm", "-Sn"], capture_output=True, text=True, check=True)
    return [line.split() for line in done.stdout.splitlines()]


def programmed_and_audited(directory: Path, state: Path) -> tuple[bool, int]:
    """Whether decisions stand on the very values that they were made from, and the switches that were raised."""
    agent = programmed(directory, state)
    before = agent.intent.context
    agent.audit_due = True
    converge(agent)
    return agent.intent.context is before, len(agent.store.sysctls())


def test_switches_that_we_raised_are_no_news_to_an_audit(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    declare(directory, "192.0.2.101", "192.0.2.102")
    with Network(one()) as net:
        unchanged, raised = net["director"].call_forked(programmed_and_audited, directory, tmp_path / "state")
    assert raised > 2
    assert unchanged


def weights_after_a_change_during_an_audit(directory: Path, state: Path) -> list[str]:
    """What is left of two real servers when one of them is taken away while an audit is due, by `ipvsadm`."""
    agent = programmed(directory, state)
    told_anew(agent, directory, "192.0.2.101")
    agent.audit_due = True
    converge(agent)
    return [f"{words[4]} {words[-1]}" for words in shown_by_ipvsadm() if words[0] == "-a"]


def declare(directory: Path, *servers: str) -> None:
    web = virtual_service("web", "192.0.2.10", "80:8080", list(servers), forwarding="NAT")
    lb = node("director", ["192.0.2.2"], director=True)
    (directory / "all.yaml").write_text(yaml.safe_dump_all([web, lb, director_group()]))


def test_a_real_server_drains_also_where_an_audit_comes_with_the_change(tmp_path: Path) -> None:
    """A service that is looked at twice in one pass would lose it at once, with its connections."""
    directory = tmp_path / "manifests"
    directory.mkdir()
    declare(directory, "192.0.2.101", "192.0.2.102")
    with Network(one()) as net:
        left = net["director"].call_forked(weights_after_a_change_during_an_audit, directory, tmp_path / "state")
    assert sorted(left) == ["192.0.2.101:8080 1", "192.0.2.102:8080 0"]


def told_of_a_flush_during_an_audit(directory: Path, state: Path) -> tuple[int, list[str]]:
    """Services at the end, and the log from somebody's flush on, which comes after the audit's first slice."""
    agent = programmed(directory, state)
    agent.audit_due = True
    agent.step(set())
    assert agent.converger.services.waiting > 100, "the audit is not over"
    subprocess.run(["ipvsadm", "-C"], check=True)
    told = converge_and_tell(agent)
    return sum(words[0] == "-A" for words in shown_by_ipvsadm()), told


def converge_and_tell(agent: Agent) -> list[str]:
    """What the agent's log says meanwhile."""
    told = io.StringIO()
    logging.getLogger("ipvs_agent").addHandler(logging.StreamHandler(told))
    logging.getLogger("ipvs_agent").setLevel(logging.INFO)
    converge(agent)
    return told.getvalue().splitlines()


def test_a_flush_during_an_audit_is_told_once_and_mended(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    ports = [f"{port}:8080" for port in range(1000, 1064)]
    objects = [
        virtual_service(f"web-{number}", f"192.0.2.{number}", ports, ["192.0.2.101"], forwarding="NAT")
        for number in range(10, 18)
    ]
    lb = node("director", ["192.0.2.2"], director=True)
    (directory / "all.yaml").write_text(yaml.safe_dump_all([*objects, lb, director_group()]))
    with Network(one()) as net:
        services, told = net["director"].call_forked(told_of_a_flush_during_an_audit, directory, tmp_path / "state")
    assert services == len(objects) * len(ports)
    drift, *after = [line for line in told if not line.startswith("Ready=")]
    assert drift == f"drift: {services} services were gone; repairing"
    assert after[-1] == f"repair: done, {services} services are back"
    assert all(line.startswith("repair: ") for line in after), after


def told_by_the_agent_after(directory: Path, state: Path) -> tuple[list[str], list[str]]:
    """The real servers by `ipvsadm` and the log, where an agent died between a decision and the kernel."""
    agent = programmed(directory, state)
    told_anew(agent, directory, "192.0.2.101", "192.0.2.102")
    agent.close()
    after = started(directory, state)
    after.audit_due = True
    told = converge_and_tell(after)
    return [words[4] for words in shown_by_ipvsadm() if words[0] == "-a"], told


def test_what_an_agent_decided_and_did_not_write_is_no_drift_to_the_next(tmp_path: Path) -> None:
    directory = tmp_path / "manifests"
    directory.mkdir()
    declare(directory, "192.0.2.101")
    with Network(one()) as net:
        servers, told = net["director"].call_forked(told_by_the_agent_after, directory, tmp_path / "state")
    assert sorted(servers) == ["192.0.2.101:8080", "192.0.2.102:8080"]
    assert [line for line in told if "drift" in line] == []
