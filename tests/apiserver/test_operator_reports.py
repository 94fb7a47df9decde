"""What nodes report, and what cannot be known of them, in a status that tells the truth."""

import pytest
from tests.apiserver.world import World

from ipvs_kube.resources import NODES
from ipvs_lab.net.waiting import await_condition


@pytest.fixture
def served(shop: World) -> World:
    """A ready VirtualService by DR: all three nodes have a part in it."""
    shop.three_nodes()
    shop.group()
    shop.virtual_service(forwarding="DR")
    shop.wait_ready()
    return shop


def test_a_node_that_is_not_ready_is_named_and_its_report_not_believed(served: World) -> None:
    served.node_says("worker-1", ready="Unknown")
    unknown = served.says("Programmed", "Unknown", "NodeNotReady")
    assert "2 of 3 nodes have it. worker-1 is not ready" in unknown["message"]
    assert served.condition("Ready")["status"] == "True", "the director still serves"
    served.node_says("worker-1")
    served.says("Programmed", "True")


def test_a_report_from_before_the_last_boot_does_not_count(served: World) -> None:
    served.node_says("director", boot="boot-2")
    assert "director has booted anew" in served.says("Ready", "Unknown", "NodeRebooted")["message"]
    served.agents.reboot("director")
    served.says("Ready", "True")


def test_a_node_that_cannot_do_it_says_why(served: World) -> None:
    served.agents.fail("worker-2", f"{served.namespace}/web", "there is no interface bond0; name another")
    failed = served.says("Programmed", "False", "ProgrammingFailed")
    assert "worker-2: there is no interface bond0" in failed["message"]
    (failure,) = served.status()["nodes"]["failures"]
    assert (failure["node"], failure["reason"]) == ("worker-2", "InterfaceMissing")
    assert served.status()["summary"]["nodes"] == "2/3"
    served.agents.fail("director", f"{served.namespace}/web", "there is no interface eth9; name another")
    served.says("Ready", "False", "InterfaceMissing")
    served.agents.recover("worker-2")
    served.agents.recover("director")
    served.says("Ready", "True")
    served.says("Programmed", "True")


def test_a_node_that_never_reported_keeps_it_from_being_ready(shop: World) -> None:
    shop.node("director", "10.0.0.1", director=True, agent=False)
    shop.node("worker", "10.0.0.2", pods="10.1.1.0/24")
    shop.group()
    shop.virtual_service(servers=["10.1.1.5"])
    silent = shop.says("Ready", "Unknown", "NotReported")
    assert silent["message"] == "director has never reported; is the agent running there?"
    shop.agents.on("director")
    shop.wait_ready()


def test_a_change_is_reconciling_until_every_node_has_it(served: World) -> None:
    served.agents.lag("worker-1")
    served.virtual_service(forwarding="DR", scheduler="sed")
    await_condition(lambda: served.condition("Reconciling").get("message") == "Waiting for worker-1.")
    assert served.status()["observedGeneration"] == 2
    assert served.says("Ready", "Unknown", "Pending")["message"] == "worker-1 has not reported the current plan."
    served.agents.recover("worker-1")
    served.wait_ready()
    assert served.status()["nodes"]["programmed"] == 3


def test_a_node_that_is_deleted_serves_no_more_and_is_not_waited_for(served: World) -> None:
    served.agents.silence("worker-2")
    served.delete(NODES, "worker-2")
    served.endpoints({"10.1.0.5": "director", "10.1.1.5": "worker-1"})
    await_condition(lambda: served.status()["summary"]["nodes"] == "2/2", what="two nodes are left")
    served.wait_ready()
    (plan,) = served.plans("web")
    assert {each["node"] for each in plan["spec"]["backends"]} == {"director", "worker-1"}


def test_a_director_that_is_deleted_is_followed_by_the_next(shop: World) -> None:
    shop.node("lb-1", "10.0.0.1", director=True)
    shop.node("lb-2", "10.0.0.2", director=True)
    shop.node("worker", "10.0.0.3", pods="10.1.1.0/24")
    shop.group()
    shop.virtual_service(servers=["10.1.1.5"])
    shop.wait_ready()
    shop.delete(NODES, "lb-1")
    await_condition(lambda: shop.status()["addresses"] == [{"address": "192.0.2.10", "director": "lb-2"}])
    shop.wait_ready()
