"""Agents without kernels: they do at once whatever their plans say, and report as real ones do.

What a report says is made by the agent's own code; one thread speaks for all nodes of a test.
"""

import queue
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from ipvs_agent.desired.share import Finding, Reason, Severity
from ipvs_agent.facts import Host, Interface, InterfaceAddress
from ipvs_agent.ledger import Owner
from ipvs_agent.publish import MANAGER
from ipvs_agent.report import Standing, report
from ipvs_api.core import Node
from ipvs_api.labels import node_label
from ipvs_api.meta import number_of
from ipvs_api.node import IPVSNode, IPVSNodeStatus
from ipvs_api.plan import ServerRole, VirtualServicePlan, VirtualServicePlanSpec
from ipvs_api.virtualservice import Forwarding
from ipvs_kube.api import Api, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.reflector import Change, Gone, Put, Reflector, Replaced
from ipvs_kube.resources import IPVS_NODES, NODES, PLANS

AGAIN_SECONDS = 0.1
"""After a report that could not be written, until the next attempt."""

Step = Callable[[], None]


@dataclass
class _Agent:
    """One node: what it has been told, what it still has, and how it misbehaves."""

    host: Host
    plans: dict[str, VirtualServicePlan] = field(default_factory=dict)
    observed: str = ""
    stored: IPVSNodeStatus | None = None
    """None: there is no IPVSNode."""
    silent: bool = False
    lagging: bool = False
    keeps: bool = False
    failing: dict[Owner, Finding] = field(default_factory=dict)
    leaving: set[tuple[Owner, str]] = field(default_factory=set)
    draining: dict[tuple[Owner, str], str] = field(default_factory=dict)

    @property
    def node(self) -> str:
        return self.host.node


class Agents:
    """``system``: the operator's namespace. ``on`` says on which nodes they run."""

    def __init__(self, kubeconfig: Path, system: str) -> None:
        self._api = connect(kubeconfig, user_agent="agents")
        self._agents: dict[str, _Agent] = {}
        self._steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._plans: dict[str, VirtualServicePlan] = {}
        self._nodes: dict[str, IPVSNodeStatus] = {}
        self._version = ""
        decode_plan = msgspec.json.Decoder(VirtualServicePlan).decode
        decode_node = msgspec.json.Decoder(IPVSNode).decode
        self._reflectors: tuple[Reflector[VirtualServicePlan], Reflector[IPVSNode]] = (
            Reflector(self._api, PLANS, decode_plan, self._sink(self._take_plan), namespace=system),
            Reflector(self._api, IPVS_NODES, decode_node, self._sink(self._take_node)),
        )
        self._thread = threading.Thread(target=self._run, name="agents", daemon=True)

    def start(self) -> None:
        self._thread.start()
        for reflector in self._reflectors:
            reflector.start()

    def stop(self) -> None:
        for reflector in self._reflectors:
            reflector.stop()
        self._steps.put(None)
        self._thread.join()
        for reflector in self._reflectors:
            reflector.join(5)
        self._api.close()

    # what a test says

    def on(self, *nodes: str) -> None:
        """Start an agent on each of these Nodes, which have to be there: it takes boot ID and addresses of them."""
        for host in [self._host(name) for name in nodes]:
            self._do(lambda host=host: self._start(host))  # type: ignore[misc]

    def reboot(self, node: str) -> None:
        """The node has booted: its agent begins with what the Node says now."""
        host = self._host(node)
        self._do(lambda: self._start(host))

    def silence(self, node: str) -> None:
        """It takes plans in, and reports nothing."""
        self._change(node, silent=True)

    def lag(self, node: str) -> None:
        """It reports, and comes to no new plan."""
        self._change(node, lagging=True)

    def fail(self, node: str, owner: Owner, message: str, real_server: str = "") -> None:
        """It cannot do what the plans of ``owner`` (``namespace/name``) ask."""
        finding = Finding(Reason.INTERFACE_MISSING, message, real_server, Severity.FAILURE)
        self._do(lambda: self._agents[node].failing.update({owner: finding}))

    def keep(self, node: str) -> None:
        """Connections go on there: what no plan wants any more stays, and is reported as draining and leaving."""
        self._change(node, keeps=True)

    def drained(self, node: str) -> None:
        """The last of these connections has ended."""

        def end() -> None:
            agent = self._agents[node]
            agent.keeps = False
            agent.leaving.clear()
            agent.draining.clear()

        self._do(end)

    def recover(self, node: str) -> None:
        """Nothing is wrong there any more: neither silent, nor lagging, nor failing."""

        def mend() -> None:
            agent = self._agents[node]
            agent.silent = agent.lagging = False
            agent.failing.clear()
            agent.observed = self._newest(agent, agent.observed)

        self._do(mend)

    def told(self, node: str) -> dict[Owner, VirtualServicePlanSpec]:
        """The plans that it has been told; of one with several slices, any."""
        return {_owner(plan): plan.spec for plan in dict(self._agents[node].plans).values()}

    # what happens

    def _host(self, name: str) -> Host:
        node = msgspec.json.decode(self._api.get(NODES, "", name), type=Node)
        own = tuple(InterfaceAddress(each.address, 24) for each in node.status.addresses if each.type == "InternalIP")
        number = sum(name.encode()) % 256
        link = Interface(2, "eth0", mac=f"02:00:00:00:00:{number:02x}", addresses=own)
        return Host(name, node.status.node_info.boot_id, "7.2.0-agents", {"eth0": link})

    def _start(self, host: Host) -> None:
        agent = _Agent(host, stored=self._nodes.get(host.node))
        label = node_label(host.node)
        agent.plans = {name: plan for name, plan in self._plans.items() if label in plan.metadata.labels}
        agent.observed = self._version
        self._agents[host.node] = agent

    def _change(self, node: str, **what: bool) -> None:
        self._do(lambda: self._agents.update({node: replace(self._agents[node], **what)}))  # type: ignore[arg-type]

    def _do(self, step: Step) -> None:
        """Have it done in the thread that speaks for all, and wait for that."""
        done = threading.Event()

        def do() -> None:
            try:
                step()
            finally:
                done.set()

        self._steps.put(do)
        assert done.wait(10), "the agents' thread does not answer"

    def _sink(self, take: Callable[[Change], None]) -> Callable[[list[Change]], None]:
        def tell(changes: list[Change]) -> None:
            for change in changes:
                self._steps.put(lambda change=change: take(change))  # type: ignore[misc]

        return tell

    def _run(self) -> None:
        step = self._steps.get()
        while step is not None:
            step()
            late = self._steps.empty() and not self._report_all(self._agents.values())
            step = _nothing
            with suppress(queue.Empty):
                step = self._steps.get(timeout=AGAIN_SECONDS if late else None)

    def _take_plan(self, change: Change) -> None:
        if isinstance(change, Replaced):
            there = {plan.metadata.name: plan for plan in change.objects}
            lost, known = set(self._plans) - set(there), self._plans
            self._version = self._version or change.resource_version
            for name in lost:
                self._without(name, change.resource_version)
            for plan in there.values():
                before = known.get(plan.metadata.name)
                if before is None or before.metadata.resource_version != plan.metadata.resource_version:
                    self._with(plan)
        elif isinstance(change, Put):
            self._with(change.object)
        elif isinstance(change, Gone):
            self._without(change.name, change.resource_version)

    def _with(self, plan: VirtualServicePlan) -> None:
        name, version = plan.metadata.name, plan.metadata.resource_version
        self._plans[name] = plan
        self._version = version
        for agent in self._agents.values():
            if node_label(agent.node) in plan.metadata.labels:
                self._tell(agent, version, {**agent.plans, name: plan})
            elif name in agent.plans:
                self._tell(agent, version, {key: kept for key, kept in agent.plans.items() if key != name})

    def _without(self, name: str, version: str) -> None:
        self._plans.pop(name, None)
        self._version = version
        for agent in self._agents.values():
            if name in agent.plans:
                self._tell(agent, version, {key: kept for key, kept in agent.plans.items() if key != name})

    def _tell(self, agent: _Agent, version: str, plans: dict[str, VirtualServicePlan]) -> None:
        if agent.keeps:
            now = _now()
            agent.leaving |= _has(agent.plans.values(), agent.node)
            agent.draining |= dict.fromkeys(_destinations(agent.plans.values(), agent.node), now)
        agent.plans = plans
        agent.leaving -= _has(plans.values(), agent.node)
        for key in _destinations(plans.values(), agent.node):
            agent.draining.pop(key, None)
        if not agent.lagging:
            agent.observed = version

    def _newest(self, agent: _Agent, known: str) -> str:
        versions = [known, *(plan.metadata.resource_version for plan in agent.plans.values())]
        return max(versions, key=number_of)

    def _take_node(self, change: Change) -> None:
        if isinstance(change, Replaced):
            self._nodes = {node.metadata.name: node.status for node in change.objects}
        elif isinstance(change, Put):
            self._nodes[change.object.metadata.name] = change.object.status
        elif isinstance(change, Gone):
            self._nodes.pop(change.name, None)
        for agent in self._agents.values():
            agent.stored = self._nodes.get(agent.node)

    def _report_all(self, agents: Iterable[_Agent]) -> bool:
        """Whether all that was to be said has been."""
        unsaid = [agent for agent in agents if not _report(self._api, agent)]
        return not unsaid


def _report(api: Api, agent: _Agent) -> bool:
    if agent.stored is None or agent.silent:
        return True
    specs = [plan.spec for plan in agent.plans.values()]
    standing = Standing(
        agent.host,
        plans=len({_owner(plan) for plan in agent.plans.values()}),
        directing=sum(any(each.node == agent.node for each in spec.directors) for spec in specs if not spec.withdrawn),
        serving=sum(any(each.node == agent.node for each in spec.backends) for spec in specs),
        findings={owner: [finding] for owner, finding in agent.failing.items() if _concerns(agent, owner)},
        drains=[(owner, address, since) for (owner, address), since in agent.draining.items()],
        leaving={owner for owner, _ in agent.leaving},
        observed=agent.observed,
    )
    status = report(standing, agent.stored, _now())
    if status == agent.stored:
        return True
    value = {"metadata": {"name": agent.node}, "status": msgspec.to_builtins(status)}
    try:
        api.apply(IPVS_NODES, "", agent.node, value, MANAGER, subresource="status")
    except ApiError:
        return False
    agent.stored = status
    return True


def _concerns(agent: _Agent, owner: Owner) -> bool:
    return any(_owner(plan) == owner for plan in agent.plans.values())


def _owner(plan: VirtualServicePlan) -> Owner:
    return f"{plan.spec.virtual_service.namespace}/{plan.spec.virtual_service.name}"


def _has(plans: Iterable[VirtualServicePlan], node: str) -> set[tuple[Owner, str]]:
    """The parts in virtual services for which a node has something in its kernel."""
    found = set()
    for plan in plans:
        if any(each.node == node for each in plan.spec.backends):
            found.add((_owner(plan), "real server"))
        if not plan.spec.withdrawn and any(each.node == node for each in plan.spec.directors):
            found.add((_owner(plan), "director"))
    return found


def _destinations(plans: Iterable[VirtualServicePlan], node: str) -> set[tuple[Owner, str]]:
    """Where a director sends to, as its IPVS has it."""
    found = set()
    for plan in plans:
        spec = plan.spec
        if spec.withdrawn or all(each.node != node for each in spec.directors):
            continue
        for backend in spec.backends:
            hops = backend.role is ServerRole.SECOND_HOP and spec.forwarding is not Forwarding.NAT
            addresses = backend.addresses if hops else [server.address for server in backend.servers]
            found |= {(_owner(plan), address) for address in addresses if backend.directed}
    return found


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _nothing() -> None:
    """Look only whether there is something to report."""
