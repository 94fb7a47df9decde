"""What both demos stand on: the network `one`, a manifests directory, and the agents as processes of their own."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from ipvs_lab.net import Child, CommandFailed, Dump, Host, Network, await_condition

AGENTS = ("director", "rs1", "rs2", "rs3")  # hosts on which an agent runs, by the names of their Nodes
SERVERS = ("rs1", "rs2", "rs3")
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
REPORTED = re.compile(r"^(?:INFO|WARNING|ERROR) Manifests=", re.MULTILINE)  # ends the first report in an agent's log
READY = re.compile(r"^INFO (Ready=\w+ \w+)", re.MULTILINE)
PROBLEM = re.compile(r"^(?:ERROR|WARNING) (.*)$", re.MULTILINE)


class DemoError(Exception):
    """A step did not do what it should; the text says which, and what was found instead."""


def expect(holds: bool, otherwise: str) -> None:
    """DemoError unless it holds."""
    if not holds:
        raise DemoError(otherwise)


class Manifests:
    """A directory of manifests that is edited while agents watch it."""

    def __init__(self, source: Path) -> None:
        """A copy of `source`, so that edits stay in the lab."""
        self.path = Path(tempfile.mkdtemp(prefix="manifests-"))
        shutil.copytree(source, self.path, dirs_exist_ok=True)

    def changed(self, name: str, old: str, new: str) -> str:
        """A file's text with the one place where `old` stands made `new`. DemoError if there is not exactly one."""
        text = (self.path / name).read_text()
        expect(text.count(old) == 1, f"{name} has {text.count(old)} places with {old!r} where the demo needs one")
        return text.replace(old, new)

    def replace(self, name: str, text: str) -> None:
        """Write a file as careful editors do: whole, then renamed."""
        draft = self.path / f".{name}.new"
        draft.write_text(text)
        draft.rename(self.path / name)


class Stage:
    """The network with its agents. Nothing of ours is on any host yet."""

    def __init__(self, network: Network, manifests: Path) -> None:
        self.network = network
        self.manifests = manifests
        self.agents: dict[str, Child] = {}
        self.before: dict[str, Dump] = {}

    def dump(self) -> dict[str, Dump]:
        """Everything about the hosts with agents, by tools that are not ours."""
        return {name: self.network[name].dump() for name in AGENTS}

    def start_agents(self) -> None:
        """`ipvs-agent run`, on all hosts at once."""
        for name in AGENTS:
            command = ("ipvs-agent", "run", "--manifests", str(self.manifests), "--node", name)
            self.agents[name] = self.network[name].popen(*command, name="ipvs-agent")

    def await_reports(self, timeout: float = 60) -> None:
        """Until every agent has reported for the first time. DemoError with the log of one that has ended instead."""

        def reported() -> bool:
            for name, agent in self.agents.items():
                expect(agent.running(), f"the agent on {name} ended by itself:\n{agent.output()}")
            return all(REPORTED.search(agent.output()) for agent in self.agents.values())

        await_condition(reported, timeout, "a report of every agent", every=0.05)

    def readiness(self) -> dict[str, str]:
        """What every agent has said last about being ready, such as "Ready=True Programmed"; "" for nothing."""
        return {name: (READY.findall(agent.output()) or [""])[-1] for name, agent in self.agents.items()}

    def await_settled(self, timeout: float = 60) -> None:
        """Until every agent has written what it has to: it is ready, or something else than work is in the way."""

        def settled() -> bool:
            return not any(
                said.endswith((" Programming", " Repairing")) or not said for said in self.readiness().values()
            )

        self.await_reports(timeout)
        await_condition(settled, timeout, f"the agents to be done ({self.readiness()})", every=0.05)

    def problems(self) -> list[str]:
        """Errors and warnings in the agents' logs, each once."""
        logs = [agent.output() for agent in self.agents.values()]
        return list(dict.fromkeys(found for log in logs for found in PROBLEM.findall(log)))

    def stop_agents(self) -> None:
        """SIGTERM to all, and their end. DemoError if one does not end well."""
        for agent in self.agents.values():
            agent.kill(15)
        for name, agent in self.agents.items():
            status = agent.wait(30)
            expect(status == 0, f"the agent on {name} ended with status {status}:\n{agent.output()}")

    def everywhere(self, *command: str, hosts: Sequence[str] = AGENTS, check: bool = True) -> dict[str, str]:
        """Run a command on several hosts at once; what each wrote. CommandFailed if one fails and `check` is set."""
        running = {name: self.network[name].popen(*command) for name in hosts}
        for name, child in running.items():
            if child.wait(60) and check:
                raise CommandFailed(f"{name}: {' '.join(command)}: status {child.exit_code}\n{child.output()}")
        return {name: child.output() for name, child in running.items()}


def drawing(network: Network, note: str) -> list[str]:
    """The network `one`, in lines."""

    def port(name: str, lan: str) -> str:
        return network[name].address(lan)

    def host(name: str, text: str) -> str:
        return f"{name:8}  {port(name, 'lan'):11}  {text}"

    upper = f"client ──────────────────── router ───── lan ──┬── {host('director', note)}"
    lower = f"{port('client', 'clients'):13}{port('router', 'clients'):>16}   {port('router', 'lan'):15}"
    margin = upper.index("┬")
    rows = [upper, f"{lower:{margin}}├── {host('rs1', 'a real server')}"]
    rows.append(f"{'':{margin}}├── {host('rs2', 'a real server')}")
    rows.append(f"{'':{margin}}└── {host('rs3', 'a real server')}")
    return rows


def versions(host: Host) -> str:
    """What kernel this is, in its own words."""
    kernel = host.run("uname", "-r").stdout.strip()
    ipvs = re.search(r"version ([\d.]+)", host.run("ipvsadm", "-Ln").stdout)
    return f"Linux {kernel}, IPVS {ipvs.group(1) if ipvs else 'not there'}"


def differences(before: dict[str, Dump], after: dict[str, Dump]) -> Iterable[str]:
    """Unified diffs of the hosts that are not as they were."""
    return [text for name in before if (text := before[name].difference(after[name]))]
