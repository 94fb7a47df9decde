"""What deploy/ lets agents and users do, asked with their own tokens: what must work works, the rest is refused."""

import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from tests.apiserver.deployed import (
    AGENT,
    CLAIM,
    GROUP,
    PLAN,
    SECRETS,
    SERVICE,
    SYSTEM,
    deployment,
    every,
    may_not,
    refused,
    with_token,
)

from ipvs_agent.sources.cluster import ClusterSource
from ipvs_api.labels import node_label
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus
from ipvs_kube.api import Api, connect
from ipvs_kube.resources import (
    DIRECTOR_GROUPS,
    IPVS_ADDRESSES,
    IPVS_NODES,
    NODES,
    PLANS,
    PODS,
    SERVICES,
    VIRTUAL_SERVICES,
)
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition

PLAN_OF_ONE = {"metadata": {"name": "shop.web.0", "labels": {node_label("one"): ""}}, "spec": PLAN}


@pytest.fixture(scope="module")
def deployed(definitions: ControlPlane) -> Iterator[ControlPlane]:
    with deployment(definitions, "one", "two") as made:
        yield made


@pytest.fixture
def admin(deployed: ControlPlane) -> Iterator[Api]:
    """The administrator. The nodes one and two have an IPVSNode, and there is a plan for node one."""
    made = connect(deployed.kubeconfig())
    for node in ("one", "two"):
        made.apply(IPVS_NODES, "", node, {"metadata": {"name": node}, "spec": {"groups": []}}, "tests")
    made.apply(PLANS, SYSTEM, "shop.web.0", PLAN_OF_ONE, "tests")
    yield made
    for resource in (PLANS, IPVS_NODES):
        for item in every(made, resource):
            meta = msgspec.json.decode(item)["metadata"]
            made.delete(resource, meta.get("namespace", ""), meta["name"])


@pytest.fixture
def agent(deployed: ControlPlane, admin: Api) -> Api:
    """The agent of node one, once the API server has heard of its rights and of the policy."""
    made = with_token(deployed, AGENT, "agent-one")
    await_condition(lambda: refused(lambda: report(made, "two")), what="the policy is in force")
    await_condition(lambda: not refused(lambda: report(made, "one")), what="the agent's rights are in force")
    return made


def report(api: Api, node: str) -> None:
    value = {"metadata": {"name": node}, "status": {"agentVersion": "0.1.0"}}
    api.apply(IPVS_NODES, "", node, value, "ipvs-agent", subresource="status")


# Agents.


def test_an_agent_is_told_its_plans_and_reports(admin: Api, agent: Api) -> None:
    source = ClusterSource(agent, "one", SYSTEM, (), IPVSNodeSpec())
    plans: dict[str, Any] = {}

    def look() -> bool:
        plans.update(source.look(0.0).plans)
        return bool(plans)

    def told() -> str:
        return str(msgspec.json.decode(admin.get(IPVS_NODES, "", "one"))["status"]["agentVersion"])

    source.watch(threading.Event().set)
    try:
        await_condition(look, what="the plan is listed")
        assert list(plans) == ["shop/web"]
        await_condition(lambda: source.look(0.0).known, what="the node is listed")
        source.publish(IPVSNodeStatus(agent_version="of this test"), settled=True)
        await_condition(lambda: told() == "of this test", what="the report is written")
        admin.delete(PLANS, SYSTEM, "shop.web.0")
        await_condition(lambda: look() and plans == {"shop/web": None}, what="the end of the plan is watched")
        assert source.away == ""
    finally:
        source.close()


def test_an_agent_does_not_speak_for_another_node(agent: Api) -> None:
    words = may_not(lambda: report(agent, "two"))
    assert "the agent of node one may write the status of IPVSNode one and nothing else" in words


def test_a_token_that_names_no_node_speaks_for_none(deployed: ControlPlane, agent: Api) -> None:
    nowhere = with_token(deployed, AGENT)
    for node in ("one", "two"):
        assert "the token does not say on which node the agent runs" in may_not(lambda node=node: report(nowhere, node))  # type: ignore[misc]


def test_a_token_that_was_made_for_a_node_speaks_for_it(deployed: ControlPlane, admin: Api, agent: Api) -> None:
    """For agents that do not run as pods."""
    admin.create(NODES, "", {"metadata": {"name": "one"}}, "tests")
    bound = ["--bound-object-kind=Node", "--bound-object-name=one"]
    try:
        token = deployed.kubectl("create", "token", AGENT, f"--namespace={SYSTEM}", *bound).stdout.strip()
        api = connect(deployed.token_kubeconfig("node-one", token))
        report(api, "one")
        may_not(lambda: report(api, "two"))
    finally:
        admin.delete(NODES, "", "one")


def test_an_agent_with_too_many_rights_still_writes_no_more_than_its_report(
    deployed: ControlPlane, admin: Api, agent: Api
) -> None:
    account = f"--serviceaccount={SYSTEM}:{AGENT}"
    deployed.kubectl("create", "clusterrolebinding", "too-much", "--clusterrole=cluster-admin", account)
    try:
        await_condition(lambda: not refused(lambda: every(agent, SECRETS)), what="the rights are in force")
        forged = {"status": {"agentVersion": "forged"}}
        two = msgspec.json.decode(admin.get(IPVS_NODES, "", "two"))
        may_not(lambda: agent.merge(IPVS_NODES, "", "two", forged, "x", subresource="status"))
        may_not(lambda: agent.request("PUT", IPVS_NODES.path("", "two", "status"), body=two | forged))
        may_not(lambda: agent.merge(IPVS_NODES, "", "one", {"metadata": {"labels": {"a": "b"}}}, "x"))
        may_not(lambda: agent.create(IPVS_NODES, "", {"metadata": {"name": "three"}, "spec": {}}, "x"))
        may_not(lambda: agent.delete(IPVS_NODES, "", "one"))
        may_not(lambda: agent.request("DELETE", IPVS_NODES.path()))
        agent.merge(IPVS_NODES, "", "one", {"status": {"agentVersion": "its own"}}, "x", subresource="status")
    finally:
        deployed.kubectl("delete", "clusterrolebinding", "too-much")
    await_condition(lambda: refused(lambda: every(agent, SECRETS)), what="the rights are gone")


def test_an_agent_writes_nothing_but_its_report(agent: Api) -> None:
    may_not(lambda: agent.apply(IPVS_NODES, "", "one", {"metadata": {"name": "one"}, "spec": {"groups": []}}, "x"))
    may_not(lambda: agent.delete(IPVS_NODES, "", "one"))
    may_not(lambda: agent.apply(PLANS, SYSTEM, "shop.web.0", PLAN_OF_ONE, "x"))
    may_not(lambda: agent.create(PLANS, SYSTEM, {"metadata": {"name": "forged"}, "spec": PLAN}, "x"))
    may_not(lambda: agent.delete(PLANS, SYSTEM, "shop.web.0"))
    may_not(lambda: agent.create(IPVS_ADDRESSES, "", {"metadata": {"name": "192.0.2.10"}, "spec": CLAIM}, "x"))
    may_not(lambda: agent.create(VIRTUAL_SERVICES, "default", {"metadata": {"name": "web"}, "spec": SERVICE}, "x"))
    may_not(lambda: agent.create(DIRECTOR_GROUPS, "", {"metadata": {"name": "default"}, "spec": GROUP}, "x"))


def test_an_agent_reads_nothing_but_plans_and_nodes_of_ours(agent: Api) -> None:
    for resource in (VIRTUAL_SERVICES, DIRECTOR_GROUPS, IPVS_ADDRESSES, NODES, SERVICES, SECRETS):
        may_not(lambda resource=resource: every(agent, resource))  # type: ignore[misc]
    for resource in (SECRETS, PODS):
        may_not(lambda resource=resource: every(agent, resource, SYSTEM))  # type: ignore[misc]
    may_not(lambda: every(agent, PLANS))
    may_not(lambda: every(agent, PLANS, "default"))


# Users.


def user(plane: ControlPlane, name: str, role: str, namespace: str) -> Api:
    """Who has a role in a namespace, once the API server has heard of that."""
    plane.kubectl("create", "rolebinding", name, f"--clusterrole={role}", f"--user={name}", f"--namespace={namespace}")
    made = connect(plane.kubeconfig(name, ()))
    await_condition(lambda: not refused(lambda: every(made, VIRTUAL_SERVICES, namespace)), what=f"{name} is {role}")
    return made


@pytest.mark.parametrize("role", ["admin", "edit"])
def test_who_may_edit_in_a_namespace_has_virtual_services_there(
    deployed: ControlPlane, namespace: str, role: str
) -> None:
    api = user(deployed, f"{role}-{namespace}", role, namespace)
    api.create(VIRTUAL_SERVICES, namespace, {"metadata": {"name": "web"}, "spec": SERVICE}, "user")
    api.apply(VIRTUAL_SERVICES, namespace, "web", {"metadata": {"name": "web"}, "spec": SERVICE}, "user")
    stored = msgspec.json.decode(api.get(VIRTUAL_SERVICES, namespace, "web"))
    api.replace(VIRTUAL_SERVICES, namespace, "web", stored, "user")
    api.delete(VIRTUAL_SERVICES, namespace, "web")
    assert every(api, VIRTUAL_SERVICES, namespace) == []


def test_who_may_view_a_namespace_sees_virtual_services_there(deployed: ControlPlane, namespace: str) -> None:
    api = user(deployed, f"view-{namespace}", "view", namespace)
    assert every(api, VIRTUAL_SERVICES, namespace) == []
    may_not(lambda: api.create(VIRTUAL_SERVICES, namespace, {"metadata": {"name": "web"}, "spec": SERVICE}, "user"))


def test_an_administrator_of_a_namespace_forges_nothing(deployed: ControlPlane, admin: Api, namespace: str) -> None:
    api = user(deployed, f"tenant-{namespace}", "admin", namespace)
    api.create(VIRTUAL_SERVICES, namespace, {"metadata": {"name": "web"}, "spec": SERVICE}, "user")
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Programmed"}]}}
    may_not(lambda: api.merge(VIRTUAL_SERVICES, namespace, "web", ready, "user", subresource="status"))
    for where in (namespace, SYSTEM):
        may_not(lambda where=where: api.create(PLANS, where, {"metadata": {"name": "forged"}, "spec": PLAN}, "user"))  # type: ignore[misc]
    may_not(lambda: api.apply(PLANS, SYSTEM, "shop.web.0", PLAN_OF_ONE, "user"))
    may_not(lambda: api.create(IPVS_ADDRESSES, "", {"metadata": {"name": "192.0.2.10"}, "spec": CLAIM}, "user"))
    may_not(lambda: api.create(IPVS_NODES, "", {"metadata": {"name": "three"}, "spec": {}}, "user"))
    may_not(lambda: report(api, "one"))
    may_not(lambda: api.create(DIRECTOR_GROUPS, "", {"metadata": {"name": "mine"}, "spec": GROUP}, "user"))


def test_an_administrator_of_a_namespace_sees_nothing_of_others(deployed: ControlPlane, namespace: str) -> None:
    api = user(deployed, f"curious-{namespace}", "admin", namespace)
    may_not(lambda: every(api, VIRTUAL_SERVICES, "default"))
    may_not(lambda: every(api, VIRTUAL_SERVICES))
    may_not(lambda: api.create(VIRTUAL_SERVICES, "default", {"metadata": {"name": "web"}, "spec": SERVICE}, "user"))
    for where in (namespace, SYSTEM):
        may_not(lambda where=where: every(api, PLANS, where))  # type: ignore[misc]
    for resource in (IPVS_NODES, IPVS_ADDRESSES):
        may_not(lambda resource=resource: every(api, resource))  # type: ignore[misc]
