"""The agent's source and its reports against a real API server; no kernel is needed for what they do."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ipvs_agent.ledger import Owner
from ipvs_agent.sources.cluster import ClusterSource
from ipvs_agent.sources.source import Update
from ipvs_api.labels import node_label, plan_name
from ipvs_api.meta import ObjectMeta
from ipvs_api.node import IPVSNode, IPVSNodeSpec, IPVSNodeStatus, NodeGroup, ReportCounts
from ipvs_api.plan import (
    Owner as PlanOwner,
)
from ipvs_api.plan import (
    PlanAddress,
    PlanBackend,
    PlanDirector,
    PlanPort,
    PlanServer,
    ServerRole,
    VirtualServicePlan,
    VirtualServicePlanSpec,
)
from ipvs_api.virtualservice import Forwarding, Protocol, Scheduler
from ipvs_kube.api import Api, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.reflector import Change, Put, Reflector
from ipvs_kube.resources import IPVS_NODES, PLANS
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.kubernetes.ports import free_ports
from ipvs_lab.net.waiting import await_condition

CRDS = Path(__file__).parents[2] / "crds"
OPERATOR = "ipvs-operator"


def apply_definitions(plane: ControlPlane) -> None:
    plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
    plane.kubectl("wait", "--for=condition=Established", f"--filename={CRDS}", "--timeout=30s")


def spec(name: str, last: int = 21, number: int = 0, slices: int = 1) -> VirtualServicePlanSpec:
    return VirtualServicePlanSpec(
        virtual_service=PlanOwner("shop", name),
        director_group="default",
        addresses=(PlanAddress("192.0.2.10", "lb1"),),
        ports=(PlanPort("http", Protocol.TCP, 80),),
        forwarding=Forwarding.NAT,
        scheduler=Scheduler.WRR,
        directors=(PlanDirector("lb1", ("192.0.2.1",)),),
        backends=(PlanBackend(ServerRole.HOST, (PlanServer(f"192.0.2.{last}", (80,)),), "rs"),),
        slice=number,
        slices=slices,
    )


class Operator:
    """Who writes plans and nodes."""

    def __init__(self, plane: ControlPlane, namespace: str, node: str) -> None:
        self.namespace, self.node = namespace, node
        self.api = connect(plane.kubeconfig())

    def plan(self, found: VirtualServicePlanSpec, *nodes: str) -> None:
        name = plan_name("shop", found.virtual_service.name, found.slice)
        meta = ObjectMeta(name, labels={node_label(node): "" for node in nodes or (self.node,)})
        value = msgspec.to_builtins(VirtualServicePlan(meta, found))
        self.api.apply(PLANS, self.namespace, name, value, OPERATOR)

    def delete(self, name: str, number: int = 0) -> None:
        self.api.delete(PLANS, self.namespace, plan_name("shop", name, number))

    def make_node(self, *ranges: str) -> None:
        made = IPVSNode(ObjectMeta(self.node), IPVSNodeSpec((NodeGroup("default", ranges or ("192.0.2.0/24",)),)))
        value = msgspec.to_builtins(made)
        value.pop("status", None)
        self.api.apply(IPVS_NODES, "", self.node, value, OPERATOR)

    def delete_node(self) -> None:
        self.api.delete(IPVS_NODES, "", self.node)

    def stored(self) -> IPVSNode:
        return msgspec.json.decode(self.api.get(IPVS_NODES, "", self.node), type=IPVSNode)


class Agent:
    """An agent that has at once in its kernel whatever comes, and reports it."""

    def __init__(self, api: Api, operator: Operator, before: "Agent | None" = None) -> None:
        self.plans: dict[Owner, VirtualServicePlanSpec | None] = dict(before.plans) if before is not None else {}
        known = before.update.node if before is not None else IPVSNodeSpec()
        self.source = ClusterSource(api, operator.node, operator.namespace, self.owners, known)
        self.given: list[Owner] = []
        self.observed = ""
        self.update = self.source.look(0)
        self.source.watch(lambda: None)

    @property
    def owners(self) -> set[Owner]:
        return {owner for owner, plan in self.plans.items() if plan is not None}

    def look(self) -> Update:
        self.update = update = self.source.look(time.monotonic())
        self.plans |= update.plans
        self.given += update.plans
        if update.reported is not None:
            self.observed = update.reported.observed_resource_version
        self.observed = update.resource_version or self.observed
        self.source.publish(self.status(), settled=True)
        return update

    def status(self) -> IPVSNodeStatus:
        counts = ReportCounts(plans=len(self.owners))
        return IPVSNodeStatus(boot_id="boot", observed_resource_version=self.observed, counts=counts)

    def until(self, holds: Callable[[], Any], what: str = "") -> None:
        """Look again and again until this holds."""

        def looked() -> Any:
            self.look()
            return holds()

        await_condition(looked, 30, what or f"in force: {self.owners}, {self.update}")

    def until_in_force(self, *names: str) -> None:
        self.until(lambda: self.update.known and self.owners == {f"shop/{name}" for name in names}, f"{names} in force")

    def has(self, name: str) -> list[str]:
        plan = self.plans.get(f"shop/{name}")
        return [server.address for each in plan.backends for server in each.servers] if plan is not None else []


class Line:
    """The way to the API server, which can be cut and mended."""

    def __init__(self, plane: ControlPlane, directory: Path) -> None:
        self._plane = plane
        (self._port,) = free_ports(1)
        config = json.loads(plane.kubeconfig().read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self._port}"
        self.kubeconfig = directory / "line.kubeconfig"
        self.kubeconfig.write_text(json.dumps(config))
        self._relay: subprocess.Popen[bytes] | None = None

    def mend(self) -> None:
        listen = f"TCP4-LISTEN:{self._port},bind=127.0.0.1,reuseaddr,fork"
        command = ["setpriv", "--pdeathsig", "KILL", "socat", listen, f"TCP4:127.0.0.1:{self._plane.port}"]
        self._relay = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL)

    def cut(self) -> None:
        if self._relay is not None:
            os.killpg(self._relay.pid, signal.SIGKILL)
            self._relay.wait()
        self._relay = None


class Writes:
    """How often an IPVSNode was written, whoever did."""

    def __init__(self, operator: Operator) -> None:
        self._versions: set[str] = set()
        decode = msgspec.json.Decoder(IPVSNode).decode
        self._listed = threading.Event()
        selector = f"metadata.name={operator.node}"
        self._reflector: Reflector[IPVSNode] = Reflector(
            operator.api, IPVS_NODES, decode, self._take, field_selector=selector
        )

    def _take(self, changes: list[Change]) -> None:
        self._versions |= {change.resource_version for change in changes if isinstance(change, Put)}
        self._listed.set()

    @property
    def count(self) -> int:
        return len(self._versions)

    def __enter__(self) -> "Writes":
        self._reflector.start()
        assert self._listed.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._reflector.stop()
        self._reflector.join(10)


@pytest.fixture(scope="module", autouse=True)
def definitions(control_plane: ControlPlane) -> None:
    apply_definitions(control_plane)


@pytest.fixture
def operator(control_plane: ControlPlane, namespace: str) -> Iterator[Operator]:
    made = Operator(control_plane, namespace, f"node-{namespace}")
    made.make_node()
    yield made
    control_plane.kubectl("delete", "ipvsnode", made.node, "--ignore-not-found")
    made.api.close()


MakeAgent = Callable[..., Agent]


@pytest.fixture
def start(operator: Operator, control_plane: ControlPlane) -> Iterator[MakeAgent]:
    """Starts an agent as whom a kubeconfig says, in place of one ``before`` it."""
    agents: list[Agent] = []

    def make(kubeconfig: Path | None = None, before: Agent | None = None) -> Agent:
        if before is not None:
            before.source.close()
        api = connect(kubeconfig or control_plane.kubeconfig(), user_agent="ipvs-agent")
        agents.append(Agent(api, operator, before))
        return agents[-1]

    yield make
    for agent in agents:
        agent.source.close()


def reported(agent: Agent, operator: Operator) -> None:
    """Wait until what the agent says is stored."""
    agent.until(lambda: operator.stored().status == agent.status(), "the report is stored")


def test_plans_of_this_node_come_change_and_go(operator: Operator, start: MakeAgent) -> None:
    operator.plan(spec("web"))
    operator.plan(spec("others"), "other")
    agent = start()
    agent.until_in_force("web")
    assert agent.update.node.groups[0].addresses == ("192.0.2.0/24",)
    operator.plan(spec("web", last=22))
    agent.until(lambda: agent.has("web") == ["192.0.2.22"])
    operator.plan(spec("others"), operator.node, "other")
    agent.until_in_force("web", "others")
    operator.plan(spec("web", last=22), "other")
    agent.until_in_force("others")
    operator.delete("others")
    agent.until_in_force()
    operator.make_node("198.51.100.0/24")
    agent.until(lambda: agent.update.node.groups[0].addresses == ("198.51.100.0/24",))


def test_a_report_says_how_far_plans_have_come_and_an_unchanged_state_is_not_written(
    operator: Operator, start: MakeAgent
) -> None:
    operator.plan(spec("web"))
    agent = start()
    agent.until_in_force("web")
    reported(agent, operator)
    stored = operator.stored()
    assert stored.status.counts.plans == 1
    plan = json.loads(operator.api.get(PLANS, operator.namespace, plan_name("shop", "web", 0)))
    assert stored.status.observed_resource_version == plan["metadata"]["resourceVersion"]
    with Writes(operator) as writes:
        operator.plan(spec("others"), "other")  # the API server's history goes on
        ended = time.monotonic() + 1.5
        agent.until(lambda: time.monotonic() > ended)
        again = start(before=agent)
        again.until(lambda: again.update.known)
        ended = time.monotonic() + 1.5
        again.until(lambda: time.monotonic() > ended)
        assert again.given == ["shop/web"]
        assert writes.count == 0
    assert operator.stored().metadata.resource_version == stored.metadata.resource_version


def test_a_restart_after_a_deletion_reports_nothing_new_either(operator: Operator, start: MakeAgent) -> None:
    operator.plan(spec("web"))
    operator.plan(spec("mail"))
    agent = start()
    agent.until_in_force("web", "mail")
    operator.delete("mail")
    agent.until_in_force("web")
    reported(agent, operator)
    with Writes(operator) as writes:
        again = start(before=agent)
        ended = time.monotonic() + 1.5
        again.until(lambda: again.update.known and time.monotonic() > ended)
        assert again.observed == agent.observed
        assert writes.count == 0


def test_a_burst_of_changes_is_a_handful_of_reports(operator: Operator, start: MakeAgent) -> None:
    names = [f"s{number}" for number in range(50)]
    agent = start()
    agent.until(lambda: agent.update.known)
    reported(agent, operator)
    with Writes(operator) as writes, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        tasks = [pool.submit(operator.plan, spec(name, last=21 + turn)) for turn in range(20) for name in names]
        agent.until(lambda: all(task.done() for task in tasks))
        for task in tasks:
            task.result()
        agent.until(lambda: all(agent.has(name) == ["192.0.2.40"] for name in names))
        reported(agent, operator)
        lasted = time.monotonic() - began
        assert len(agent.given) > 2 * len(names), "changes came one by one, not all at the end"
        assert writes.count <= lasted + 2, f"{writes.count} writes in {lasted:.1f} s"


def test_while_the_api_server_is_away_nothing_is_taken_and_it_is_told(
    operator: Operator, start: MakeAgent, control_plane: ControlPlane
) -> None:
    operator.plan(spec("web"))
    agent = start()
    agent.until_in_force("web")
    control_plane.kill_api()
    try:
        agent.until(lambda: agent.source.away)
        assert "No news from the API server since 20" in agent.source.away
        assert agent.source.away.endswith("What is programmed stays.")
        again = start(before=agent)
        again.until(lambda: again.source.away)
        assert not again.update.known
        assert again.owners == {"shop/web"}
        assert again.update.node == agent.update.node
    finally:
        control_plane.start_api()
    operator.plan(spec("mail"))
    again.until_in_force("web", "mail")
    again.until(lambda: not again.source.away)
    reported(again, operator)


@pytest.mark.parametrize("forget", [False, True], ids=["the history is there", "the history is forgotten"])
def test_what_changed_while_the_line_was_cut_comes_when_it_is_mended(
    operator: Operator, start: MakeAgent, control_plane: ControlPlane, tmp_path: Path, forget: bool
) -> None:
    line = Line(control_plane, tmp_path)
    line.mend()
    try:
        for name in ("stays", "changes", "goes"):
            operator.plan(spec(name))
        agent = start(line.kubeconfig)
        agent.until_in_force("stays", "changes", "goes")
        line.cut()
        operator.plan(spec("changes", last=22))
        operator.delete("goes")
        operator.plan(spec("comes"))
        agent.until(lambda: agent.source.away)
        assert agent.owners == {"shop/stays", "shop/changes", "shop/goes"}
        if forget:
            control_plane.forget_history()
        agent.given.clear()
        line.mend()
        agent.until_in_force("stays", "changes", "comes")
        assert agent.has("changes") == ["192.0.2.22"]
        assert sorted(agent.given) == ["shop/changes", "shop/comes", "shop/goes"]
        reported(agent, operator)
    finally:
        line.cut()


def test_a_server_restored_from_a_backup_is_believed(
    operator: Operator, start: MakeAgent, control_plane: ControlPlane
) -> None:
    operator.plan(spec("web"))
    agent = start()
    agent.until_in_force("web")
    reported(agent, operator)
    backup = control_plane.back_up()
    operator.plan(spec("web", last=22))
    operator.plan(spec("mail"))
    for number in range(20):
        operator.plan(spec("filler", last=30 + number), "other")
    agent.until_in_force("web", "mail")
    reported(agent, operator)
    control_plane.restore(backup)
    agent.until_in_force("web")
    agent.until(lambda: agent.has("web") == ["192.0.2.21"])
    reported(agent, operator)
    operator.plan(spec("web", last=23))
    agent.until(lambda: agent.has("web") == ["192.0.2.23"])
    reported(agent, operator)


def test_a_node_object_that_is_made_again_is_reported_to_again(operator: Operator, start: MakeAgent) -> None:
    agent = start()
    agent.until(lambda: agent.update.known)
    reported(agent, operator)
    operator.delete_node()
    with pytest.raises(ApiError, match="not found"):
        operator.stored()
    ended = time.monotonic() + 1.2
    agent.until(lambda: time.monotonic() > ended)
    assert agent.update.node.groups[0].addresses == ("192.0.2.0/24",), "it is told what it was told"
    with pytest.raises(ApiError, match="not found"):
        operator.stored()
    operator.make_node()
    reported(agent, operator)


def test_an_agent_without_rights_takes_nothing_and_begins_when_it_has_them(
    operator: Operator, start: MakeAgent, control_plane: ControlPlane
) -> None:
    operator.plan(spec("web"))
    agent = start(control_plane.kubeconfig("agent", [operator.namespace]))
    agent.until(lambda: agent.source.away)
    assert "cannot list resource" in agent.source.away
    assert not agent.update.known
    assert operator.stored().status == IPVSNodeStatus()
    for rule in rights(operator):
        control_plane.kubectl("create", *rule)
    agent.until_in_force("web")
    reported(agent, operator)
    for kind, name, *_ in rights(operator):
        if kind.startswith("cluster"):
            control_plane.kubectl("delete", kind, name)


def rights(operator: Operator) -> list[list[str]]:
    """All that docs/agent.md says an agent needs."""
    own, name = f"--namespace={operator.namespace}", f"agent-{operator.namespace}"
    group, node = f"--group={operator.namespace}", f"--resource-name={operator.node}"
    return [
        ["role", name, own, "--verb=list,watch", "--resource=virtualserviceplans.ipvs.dev"],
        ["rolebinding", name, own, group, f"--role={name}"],
        ["clusterrole", f"{name}-reads", "--verb=list,watch", "--resource=ipvsnodes.ipvs.dev", node],
        ["clusterrole", f"{name}-reports", "--verb=patch", "--resource=ipvsnodes.ipvs.dev/status", node],
        ["clusterrolebinding", f"{name}-reads", group, f"--clusterrole={name}-reads"],
        ["clusterrolebinding", f"{name}-reports", group, f"--clusterrole={name}-reports"],
    ]


def test_one_look_reads_what_there_is_with_plans_of_several_slices(
    operator: Operator, control_plane: ControlPlane
) -> None:
    operator.plan(spec("web", 21, 0, 2))
    operator.plan(spec("web", 22, 1, 2))
    source = ClusterSource(
        connect(control_plane.kubeconfig()), operator.node, operator.namespace, ["shop/gone"], IPVSNodeSpec()
    )
    source.read()
    update = source.look(0)
    assert update.known
    assert update.errors == ()
    assert update.plans["shop/gone"] is None
    whole = update.plans["shop/web"]
    assert whole is not None
    assert [server.address for each in whole.backends for server in each.servers] == ["192.0.2.21", "192.0.2.22"]


def test_without_the_definitions_nothing_is_taken_and_it_is_told_what_to_apply(
    operator: Operator, start: MakeAgent, control_plane: ControlPlane
) -> None:
    operator.plan(spec("web"))
    agent = start()
    agent.until_in_force("web")
    agent.source.close()
    for resource in (PLANS, IPVS_NODES):
        control_plane.kubectl("delete", "crd", str(resource))
    try:
        again = start(before=agent)
        again.until(lambda: len(again.update.errors) == 2)
        assert again.update.reason == "NotServed"
        assert "the API server does not serve virtualserviceplans.ipvs.dev: apply the Custom" in again.update.errors[0]
        assert again.owners == {"shop/web"}
        assert not again.update.known
    finally:
        apply_definitions(control_plane)
    operator.make_node()
    operator.plan(spec("web", last=22))
    again.until(lambda: again.has("web") == ["192.0.2.22"] and again.update.errors == ())
    reported(again, operator)


def test_a_running_agent_goes_on_with_definitions_that_were_deleted_and_made_again(
    operator: Operator, start: MakeAgent, control_plane: ControlPlane
) -> None:
    operator.plan(spec("web"))
    agent = start()
    agent.until_in_force("web")
    reported(agent, operator)
    control_plane.kubectl("delete", "crd", str(PLANS), str(IPVS_NODES))
    try:
        agent.until(lambda: len(agent.update.errors) == 2)
    finally:
        apply_definitions(control_plane)
    operator.make_node()
    operator.plan(spec("web", last=22))
    agent.until(lambda: agent.has("web") == ["192.0.2.22"] and agent.update.errors == ())
    reported(agent, operator)
