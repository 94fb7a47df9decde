"""Crowds of connections at a site, and what an administrator does to agents beneath them.

Every crowd's count and bytes are printed, so that ``pytest -rP`` tells how many connections a test stood for.
"""

import re
import signal
import sys
from collections import Counter

from tests.kernel.conftest import Site, run_agent

from ipvs_lab.net import Child, Crowd, Host, await_condition, serve
from ipvs_lab.net.crowd import Report
from ipvs_lab.net.dumps import read_sysctls

SERVERS = ("rs1", "rs2", "rs3")
VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
FLAG = {"NAT": "-m", "DR": "-g", "TUN": "-i"}
"""``ipvsadm -Sn``'s flags of the forwarding methods."""

ENDLESS = 50_000_000
"""Bytes of a download that no test waits for the end of."""


class Held:
    """A crowd whose every connection must stay whole."""

    def __init__(self, lvs: Site, vip: str, port: int = 80, timeout: float = 5) -> None:
        self.crowd = Crowd(lvs["client"], vip, port, timeout=timeout)
        self.opened = 0
        self.report = Report(0, 0, 0, 0, {}, [])

    def open(self, *, idle: int = 0, streaming: int = 0, downloads: int = 0, size: int = ENDLESS) -> None:
        """More connections, all of which must be answered."""
        self.opened += idle + streaming + downloads
        self._whole(self.crowd.open(idle=idle, streaming=streaming, downloads=downloads, size=size), "opening")

    def check(self, after: str) -> Report:
        """Every connection opened so far goes on, on the server that it began with."""
        return self._whole(self.crowd.check(), after)

    def close(self) -> None:
        self.crowd.close()

    def _whole(self, report: Report, after: str) -> Report:
        print(f"after {after}: {str(report).splitlines()[0]}")
        assert (report.opened, report.intact) == (self.opened, self.opened), f"after {after}: {report}"
        assert report.bytes >= self.report.bytes, f"after {after}"
        self.report = report
        return report


def serve_all(lvs: Site, port: int = 80, proto: str = "tcp") -> None:
    """A server on every real server of the site, both families."""
    serve([lvs[name] for name in SERVERS], port, proto)


def execute_agent(lvs: Site, name: str, *program: str) -> Child:
    """Start an agent by executing it (a fresh interpreter), as a service manager does. ``program``: other than
    ``python -m ipvs_agent.main``."""
    words = program or (sys.executable, "-m", "ipvs_agent.main")
    agent = lvs[name].popen(*words, "run", "--manifests", str(lvs.directory), "--node", name, name="agent")
    lvs.agents[name] = agent
    return agent


def fork_agent(lvs: Site, name: str) -> Child:
    """Start a warm agent, and do not wait for what it does."""
    words = ("run", "--manifests", str(lvs.directory), "--node", name)
    lvs.agents[name] = lvs[name].fork(run_agent, *words, name="agent")
    return lvs.agents[name]


def kill(lvs: Site, name: str) -> None:
    """``kill -9`` the agent on a host."""
    agent = lvs.agents.pop(name)
    agent.kill()
    assert agent.wait() == -signal.SIGKILL


def has(lvs: Site, *lines: str, host: str = "director", timeout: float = 30) -> None:
    """Wait until ``ipvsadm -Sn`` shows these lines."""
    await_condition(lambda: not (set(lines) - set(lvs[host].ipvs())), timeout, f"{lines} in IPVS of {host}")


def drift_lines(agent: Child) -> list[str]:
    """What the agent reported as somebody else's changes."""
    return [line for line in agent.output().splitlines() if line.partition(" ")[2].startswith("drift:")]


_TOOLS = """ipvsadm -Sn | sort; ip -d addr; ip -d route show table all | sort; ip -d -6 route show table all | sort
ip rule; ip -6 rule; ip fou show 2>/dev/null; nft -s list ruleset"""

_INCIDENTAL = re.compile(
    r"^\d+: |link/ether \S+|fe80::\S+|expires \d+sec|(?<=@if)\d+|iif \d+|proto kernel.*fe80.*", re.M
)


def shape(host: Host) -> Counter[str]:
    """A host's network as other people's tools tell it, without what differs when the same is made anew: numbers and
    hardware addresses of links, the order of addresses and of set elements."""
    text = _INCIDENTAL.sub("", host.run("sh", "-c", _TOOLS).stdout)
    return Counter(re.split(r"[\s,]+", text)) + Counter(host.call(read_sysctls))


def change(before: Counter[str], after: Counter[str]) -> str:
    """What differs between two shapes, in words; empty when nothing does."""
    lost, new = before - after, after - before
    return f"lacks {dict(lost)}, has {dict(new)}" if lost or new else ""
