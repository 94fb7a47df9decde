"""What deploy/ lets the operator do: all that it does, as a process with its own token, and nothing else."""

from collections.abc import Iterator

import pytest
from tests.apiserver.deployed import (
    GROUP,
    OPERATOR,
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
from tests.apiserver.operators import RunningOperator, operating
from tests.apiserver.world import World

from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import (
    CRDS,
    DIRECTOR_GROUPS,
    ENDPOINT_SLICES,
    IPVS_NODES,
    LEASES,
    NAMESPACES,
    NODES,
    OURS,
    PLANS,
    PODS,
    SERVICES,
    VIRTUAL_SERVICES,
)
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition
from ipvs_operator import crds
from ipvs_operator.main import AGENT_PODS
from ipvs_operator.writer import RESOURCES, fetch

DIRECTOR, WORKER = "one", "two"


@pytest.fixture(scope="module")
def deployed(definitions: ControlPlane) -> Iterator[ControlPlane]:
    with deployment(definitions, DIRECTOR, WORKER) as made:
        yield made


@pytest.fixture
def world(deployed: ControlPlane) -> Iterator[World]:
    made = World(deployed, "shop-of-rights", SYSTEM, shared=True)
    try:
        yield made
    finally:
        made.clean()


@pytest.fixture
def operator(deployed: ControlPlane, world: World) -> Iterator[RunningOperator]:
    """An operator as it is meant to run: with its own token, with others beside it, and with agents in pods."""
    kubeconfig = deployed.token_kubeconfig(OPERATOR, deployed.service_account_token(SYSTEM, OPERATOR))
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    for node in (DIRECTOR, WORKER):
        world.api.merge(PODS, SYSTEM, f"agent-{node}", ready, "tests", subresource="status")
    with operating(
        deployed, SYSTEM, kubeconfig=kubeconfig, elects=True, agent_pods=AGENT_PODS, log_level="debug"
    ) as made:
        yield made


def test_the_operator_does_all_its_work_with_the_rights_that_it_has(world: World, operator: RunningOperator) -> None:
    world.node(DIRECTOR, "10.0.0.1", pods="10.1.0.0/24", director=True)
    world.node(WORKER, "10.0.0.2", pods="10.1.1.0/24")
    world.group()
    world.virtual_service(servers=["10.0.0.2"], forwarding="DR")
    world.wait_ready()
    assert world.get(LEASES, OPERATOR, SYSTEM) is not None
    await_condition(world.events, what="events are told")
    https = [{"name": "https", "protocol": "TCP", "port": 443}]
    world.virtual_service("shares", servers=["10.0.0.2"], addresses=[world.address()], ports=https)
    world.virtual_service("refused", servers=["172.16.0.1"])
    world.service("public", type="LoadBalancer", loadBalancerClass="ipvs.dev/default")
    world.endpoints({"10.1.1.5": WORKER}, "public")
    world.wait_ready("shares", "public")
    world.says("Accepted", "False", "StaticBackendNotAllowed", name="refused")
    world.delete(SERVICES, "public")
    world.dissolve()
    assert operator.terminate() == 0
    told = operator.log().lower()
    assert [line for line in told.splitlines() if "forbidden" in line or "not enough permissions" in line] == []


@pytest.fixture
def api(deployed: ControlPlane) -> Api:
    """As the operator, once the API server has heard of its rights."""
    made = with_token(deployed, OPERATOR)
    await_condition(lambda: not refused(lambda: every(made, PLANS, SYSTEM)), what="the operator's rights are in force")
    return made


def test_the_operator_watches_what_people_declare_and_the_cluster_observes(api: Api) -> None:
    watched = dict.fromkeys((*OURS, NODES, NAMESPACES, SERVICES, ENDPOINT_SLICES), "")
    for resource, namespace in (watched | {PLANS: SYSTEM, PODS: SYSTEM}).items():
        every(api, resource, namespace)
        query = {"watch": "true", "timeoutSeconds": "1"}
        api.request("GET", resource.path(namespace), query, stream=True).close()


def test_the_operator_looks_at_our_definitions_only(api: Api) -> None:
    assert crds.problems(api) == []
    may_not(lambda: api.get(CRDS, "", "virtualservices.networking.istio.io"))
    may_not(lambda: every(api, CRDS))


@pytest.mark.parametrize("kind", RESOURCES)
def test_the_operator_looks_again_at_what_it_could_not_write(api: Api, kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        fetch(api, kind, SYSTEM, "nothing")
    assert caught.value.not_found


def test_the_operator_has_virtual_services_of_its_own_and_tells_their_services(
    deployed: ControlPlane, api: Api, namespace: str
) -> None:
    """Those of Services of type LoadBalancer."""
    deployed.kubectl("create", "service", "loadbalancer", "web", "--tcp=80", f"--namespace={namespace}")
    api.apply(VIRTUAL_SERVICES, namespace, "web", {"metadata": {"name": "web"}, "spec": SERVICE}, OPERATOR)
    longer = {"drain": {"timeoutSeconds": 1}}
    api.apply(VIRTUAL_SERVICES, namespace, "web", {"metadata": {"name": "web"}, "spec": SERVICE | longer}, OPERATOR)
    status = {"loadBalancer": {"ingress": [{"ip": "192.0.2.10", "ipMode": "Proxy"}]}}
    value = {"metadata": {"name": "web"}, "status": status}
    api.apply(SERVICES, namespace, "web", value, OPERATOR, subresource="status")
    api.delete(VIRTUAL_SERVICES, namespace, "web")


def test_the_operator_writes_plans_and_its_lease_in_its_own_namespace_only(api: Api, namespace: str) -> None:
    plan = {"metadata": {"name": "shop.web.0"}, "spec": PLAN}
    may_not(lambda: api.apply(PLANS, namespace, "shop.web.0", plan, OPERATOR))
    may_not(lambda: api.create(PLANS, namespace, plan, OPERATOR))
    may_not(lambda: api.delete(PLANS, namespace, "shop.web.0"))
    may_not(lambda: every(api, PLANS))
    may_not(lambda: api.create(LEASES, namespace, {"metadata": {"name": OPERATOR}, "spec": {}}, OPERATOR))
    may_not(lambda: api.get(LEASES, SYSTEM, "of-somebody-else"))
    may_not(lambda: every(api, PODS, namespace))


def test_the_operator_does_not_write_what_is_others(api: Api, namespace: str) -> None:
    report = {"metadata": {"name": "one"}, "status": {"agentVersion": "forged"}}
    may_not(lambda: api.apply(IPVS_NODES, "", "one", report, OPERATOR, subresource="status"))
    may_not(lambda: api.apply(DIRECTOR_GROUPS, "", "mine", {"metadata": {"name": "mine"}, "spec": GROUP}, OPERATOR))
    for resource in (SERVICES, ENDPOINT_SLICES, NODES, NAMESPACES, PODS, CRDS):
        may_not(lambda resource=resource: api.merge(resource, namespace, "x", {"metadata": {}}, OPERATOR))  # type: ignore[misc]
        may_not(lambda resource=resource: api.delete(resource, namespace, "x"))  # type: ignore[misc]
    for where in ("", SYSTEM, namespace):
        may_not(lambda where=where: every(api, SECRETS, where))  # type: ignore[misc]
