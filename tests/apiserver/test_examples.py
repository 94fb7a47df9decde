"""The examples for Kubernetes, as a user applies them: what kubectl shows afterwards."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.apiserver.world import World

from ipvs_kube.resources import SERVICES
from ipvs_lab.net.waiting import await_condition

ALL = Path(__file__).parents[2] / "examples"
EXAMPLES = ALL / "kubernetes"
PODS = {
    "10.1.0.5": "director",
    "10.1.0.6": "director",
    "10.1.1.5": "worker-1",
    "10.1.1.6": "worker-1",
    "10.1.2.5": "worker-2",
    "10.1.2.6": "worker-2",
}


@pytest.fixture
def applied(shop: World) -> Iterator[World]:
    """Three nodes, one of them labelled; the examples; and what the endpoints controller would make of the pods."""
    shop.node("director", "10.0.0.1", pods="10.1.0.0/24", director=True)
    shop.node("worker-1", "10.0.0.2", pods="10.1.1.0/24")
    shop.node("worker-2", "10.0.0.3", pods="10.1.2.0/24")
    shop.kubectl("apply", f"--filename={EXAMPLES}")
    shop.endpoints(PODS)
    shop.endpoints(PODS, "web-public")
    yield shop
    shop.delete(SERVICES, "web-public")


@pytest.mark.parametrize("name", ["demo", "features", "kubernetes"])
def test_what_hosts_read_from_a_directory_an_api_server_takes_too(shop: World, name: str) -> None:
    """Nodes included; without a warning. Not by server-side apply, which takes a Node's addresses of one type for one
    (kubernetes/kubernetes#101029)."""
    strict = ("--dry-run=server", "--validate=strict", "--warnings-as-errors")
    told = shop.kubectl("apply", *strict, f"--filename={ALL / name}").splitlines()
    declared = "".join(path.read_text() for path in (ALL / name).glob("*.yaml")).count("\nkind: ")
    assert len(told) == declared > 0


def row(world: World, name: str) -> list[str]:
    """Of `kubectl get ivs`, without the age."""
    return world.kubectl("get", "ivs", name, "--no-headers").split()[:-1]


def test_six_pods_behind_one_address(applied: World) -> None:
    applied.wait_ready("web")
    assert row(applied, "web") == ["web", "192.0.2.10", "DR", "wlc", "6/6", "3/3", "True"]


def test_machines_outside_the_cluster(applied: World) -> None:
    applied.wait_ready("legacy")
    name, vip, *rest = row(applied, "legacy")
    assert (name, vip.rpartition(".")[0]) == ("legacy", "192.0.2")
    assert rest == ["NAT", "wrr", "unchecked", "1/1", "True"]


def test_a_service_of_type_load_balancer(applied: World) -> None:
    applied.wait_ready("web-public")
    name, vip, *rest = row(applied, "web-public")
    assert (name, rest) == ("web-public", ["NAT", "wlc", "6/6", "1/1", "True"])

    def external() -> str:
        return applied.kubectl("get", "service", "web-public", "--no-headers").split()[3]

    await_condition(lambda: external() == vip, what=f"the Service's EXTERNAL-IP is {vip}")
    ingress = "jsonpath={.status.loadBalancer.ingress[*].ipMode}"
    assert applied.kubectl("get", "service", "web-public", f"--output={ingress}") == "Proxy"


def test_kubectl_wait_and_describe_say_how_it_is(applied: World) -> None:
    applied.kubectl("wait", "ivs/web", "--for=condition=Ready", "--timeout=15s")
    await_condition(lambda: "Programmed" in {reason for _, reason, _ in applied.events("web")}, what="it is told")
    told = " ".join(applied.kubectl("describe", "ivs", "web").split())
    assert "Message: 3 of 3 nodes have it." in told
    assert "Message: It is in the kernels of all nodes that have a part in it." in told
    assert "Director: director" in told
    _, _, events = told.partition("Events:")
    assert "ipvs.dev/operator It is in the kernels of all nodes that have a part in it." in events
