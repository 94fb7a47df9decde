"""The network of the demo with somebody's own manifests: agents run, then every VIP and port is asked who answers."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ipvs_lab.demo.page import BOLD, DIM, Page
from ipvs_lab.demo.stage import AGENTS, SERVERS, Stage, drawing, versions
from ipvs_lab.net import Host, Network, await_condition, clients, serve
from ipvs_lab.topologies import one

REQUESTS = 30
USABLE = "VIPs that the client can reach are 192.0.2.10 to .99 and 2001:db8:2::10 to ::99."


class Endpoint(NamedTuple):
    """What a client can ask: a VIP and port, and the virtual service whose it is."""

    service: str
    address: str
    protocol: str
    port: int

    def __str__(self) -> str:
        address = f"[{self.address}]" if ":" in self.address else self.address
        return f"{self.service}  {self.protocol} {address}:{self.port}"


class Plan:
    """One plan as `ipvs-agent status -o json` shows it."""

    def __init__(self, item: dict[str, Any]) -> None:
        spec = item["spec"]
        owner = spec["virtualService"]
        self.service = f"{owner.get('namespace', '')}/{owner['name']}".lstrip("/")
        self.holders = {entry["address"]: entry.get("holder", "") for entry in spec["addresses"]}
        self.directors = [director["node"] for director in spec["directors"]]
        self.ports = [(port.get("protocol", "TCP"), port["port"]) for port in spec["ports"]]
        self.servers = [server for backend in spec["backends"] for server in backend["servers"]]

    def endpoints(self) -> Iterator[Endpoint]:
        """Everything that clients can ask for."""
        for address in self.holders:
            for protocol, port in self.ports:
                yield Endpoint(self.service, address, protocol, port)

    def listeners(self) -> Iterator[tuple[str, str, int]]:
        """Address, protocol and port of everything that should answer."""
        for server in self.servers:
            for (protocol, _), port in zip(self.ports, server["ports"], strict=True):
                if port:
                    yield server["address"], protocol, port


def tell(page: Page, directory: Path, name: str) -> int:
    """0 when all manifests were taken and everything in them answered; 1 otherwise, with words on the page."""
    with Network(one()) as network:
        page.heading("The network: six hosts in one kernel")
        for line in drawing(network, "VIPs will be here"):
            page.line(line)
        page.line()
        page.say(f"{versions(network['director'])}. {USABLE}")
        page.heading(f"The agents, with the manifests of {name}")
        stage = Stage(network, directory)
        stage.start_agents()
        stage.await_settled()
        problems = stage.problems()
        for problem in problems:
            page.problem(problem.replace(f"{directory}/", ""))
        plans = {plan.service: plan for host in AGENTS for plan in plans_of(network[host])}
        if not plans:
            page.line()
            page.problem("no virtual service was accepted on any host")
            page.say(
                "What can be written is in docs/manifests.md. Nodes are called director, rs1, rs2 and rs3 here; "
                "examples/features/network.yaml has a DirectorGroup and these Nodes to start from."
            )
            return 1
        page.fact(f"accepted: {', '.join(sorted(plans))}")
        unanswered = 0
        prepare(network, list(plans.values()), page)
        page.heading(f"{REQUESTS} requests to every VIP and port")
        for plan in plans.values():
            for endpoint in plan.endpoints():
                unanswered += not asked(network, endpoint, page)
        page.heading("What the director says: ipvs-agent status")
        directors = {director for plan in plans.values() for director in plan.directors if director in AGENTS}
        for director in sorted(directors):
            page.command(director, "ipvs-agent status", network[director].run("ipvs-agent", "status").stdout)
        late = [problem for problem in stage.problems() if problem not in problems]
        for problem in late:
            page.problem(problem)
        page.line()
        failed = bool(problems or late or unanswered)
        if failed:
            found = f"problems told by agents: {len(problems) + len(late)}"
            page.problem(f"{found}; ports where not every request was answered: {unanswered}")
        else:
            page.fact("every manifest was taken, and every request answered")
        return int(failed)


def plans_of(host: Host) -> list[Plan]:
    """What the agent on a host has planned."""
    items = json.loads(host.run("ipvs-agent", "status", "-o", "json").stdout)["items"]
    return [Plan(item) for item in items if item["kind"] == "VirtualServicePlan"]


def prepare(network: Network, plans: list[Plan], page: Page) -> None:
    """Real servers listen, VIPs are held, and where nobody announces a VIP the router knows the way."""
    hosts = {address.split("/")[0]: host for host in network for port in host.plan.ports for address in port.addresses}
    wanted = {listener for plan in plans for listener in plan.listeners()}
    for address in sorted({address for address, _, _ in wanted} - hosts.keys()):
        page.line(f"real server {address} is no host of this network: it does not answer", DIM)
    by_port: dict[tuple[str, int], dict[str, Host]] = {}
    for address, protocol, port in wanted:
        if address in hosts:
            by_port.setdefault((protocol, port), {})[hosts[address].name] = hosts[address]
    for (protocol, port), servers in by_port.items():
        serve(servers.values(), port, protocol.lower())
    for plan in plans:
        for vip, holder in plan.holders.items():
            if holder in network.hosts:
                take(network[holder], vip, page)
            elif plan.directors and plan.directors[0] in network.hosts:
                family = 6 if ":" in vip else 4
                way = network[plan.directors[0]].address("lan", family)
                network["router"].run("ip", "route", "replace", vip, "via", way)
                page.line(f"nobody announces {vip}: the router was told to send it to {plan.directors[0]}", DIM)


def take(holder: Host, vip: str, page: Page) -> None:
    """Wait until the host has the VIP; say so if it does not."""
    try:
        await_condition(lambda: vip in holder.run("ip", "-o", "addr").stdout.replace("/", " ").split(), 15, vip)
    except AssertionError:
        page.problem(f"{holder.name} has not taken {vip}")


def asked(network: Network, endpoint: Endpoint, page: Page) -> bool:
    """Ask one VIP and port and show who answered; whether all were answered."""
    client = network["client"]
    tally = clients(client, REQUESTS, endpoint.address, endpoint.port, endpoint.protocol.lower(), timeout=1, at_once=5)
    page.line(str(endpoint), BOLD)
    page.bars({name: tally.answers[name] for name in (*SERVERS, *AGENTS) if tally.answers[name]})
    for kind, count in tally.errors.items():
        page.problem(f"{count} of {REQUESTS}: {kind}")
    return not tally.errors
