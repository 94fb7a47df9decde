"""Whatever is deleted, and whoever does not see it: what was made of it goes, in order, and nothing waits for ever."""

from collections.abc import Callable

import pytest
from tests.apiserver.operators import operating
from tests.apiserver.world import Object, World

from ipvs_kube.resources import (
    DIRECTOR_GROUPS,
    ENDPOINT_SLICES,
    IPVS_ADDRESSES,
    NODES,
    SERVICES,
    VIRTUAL_SERVICES,
)
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition


def serve(world: World) -> World:
    """A ready VirtualService by DR, in which all three nodes have a part."""
    world.three_nodes()
    world.group()
    world.virtual_service(forwarding="DR")
    world.wait_ready()
    return world


@pytest.fixture
def served(shop: World) -> World:
    return serve(shop)


def plan_of(world: World, name: str = "web") -> Object:
    (plan,) = world.plans(name)
    return plan["spec"]  # type: ignore[no-any-return]


def withdraws(world: World) -> Callable[[], bool]:
    return lambda: bool(plan_of(world).get("withdrawn"))


def claim_of(world: World, address: str) -> Object:
    found = world.get(IPVS_ADDRESSES, address)
    assert found is not None
    return found["spec"]  # type: ignore[no-any-return]


def test_users_objects_are_left_as_they_are_but_for_their_status(served: World) -> None:
    for resource, name in (
        (VIRTUAL_SERVICES, "web"),
        (DIRECTOR_GROUPS, "default"),
        (SERVICES, "web"),
        (ENDPOINT_SLICES, "web-1"),
        (NODES, "director"),
    ):
        stored = served.get(resource, name)
        assert stored is not None
        assert "finalizers" not in stored["metadata"], f"{resource} {name}"
        assert "annotations" not in stored["metadata"], f"{resource} {name}"


def test_real_servers_keep_their_role_until_the_directors_have_drained(served: World) -> None:
    served.agents.keep("director")
    served.delete(VIRTUAL_SERVICES, "web")
    await_condition(withdraws(served), what="the plan is withdrawn")
    served.service("probe")
    served.virtual_service("probe", servers=["10.1.1.5"])
    served.wait_ready("probe")  # the operator goes on meanwhile
    assert {each["node"] for each in plan_of(served)["backends"]} == {"director", "worker-1", "worker-2"}
    assert not any(each["directed"] for each in plan_of(served)["backends"])
    served.agents.drained("director")
    await_condition(lambda: served.plans("web") == [], what="the plan is gone")
    await_condition(lambda: served.claims() == {"192.0.2.11": ["probe"]}, what="the address is free")


def test_an_address_is_given_again_when_every_node_has_let_go_of_it(served: World) -> None:
    served.agents.keep("director")
    served.delete(VIRTUAL_SERVICES, "web")
    await_condition(withdraws(served), what="the plan is withdrawn")
    served.virtual_service("next", servers=["10.1.1.5"], addresses=["192.0.2.10"])
    refused = served.says("Accepted", "False", "AddressConflict", name="next")
    assert "which is giving it up" in refused["message"]
    assert "director" in refused["message"]
    served.agents.drained("director")
    served.wait_ready("next")
    assert served.claims() == {"192.0.2.10": ["next"]}


def test_a_node_that_is_deleted_is_not_waited_for(served: World) -> None:
    served.agents.keep("director")
    served.agents.keep("worker-1")
    served.delete(VIRTUAL_SERVICES, "web")
    await_condition(withdraws(served), what="the plan is withdrawn")
    served.delete(NODES, "director")
    await_condition(lambda: plan_of(served).get("backends") == [], what="real servers give their role up")
    assert served.claims() == {"192.0.2.10": ["web"]}, "worker-1 still has something of it"
    taint = [{"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"}]
    served.api.merge(NODES, "", "worker-1", {"spec": {"taints": taint}}, "kubectl")
    await_condition(served.settled, what="nobody waits for worker-1 either")


def test_a_group_that_is_deleted_in_use_takes_traffic_away_and_leaves_the_address(served: World) -> None:
    served.delete(DIRECTOR_GROUPS, "default")
    served.says("Ready", "False", "GroupNotFound")
    await_condition(lambda: served.plans() == [], what="the plan is gone")
    await_condition(lambda: "vip" not in served.status()["summary"], what="no address is told")
    assert claim_of(served, "192.0.2.10").get("holders", []) == []
    before = served.versions()
    served.virtual_service("other", servers=["10.1.1.5"])
    served.says("Accepted", "False", "GroupNotFound", name="other")
    after = served.versions()
    assert {key: after[key] for key in before if "web" in key[1]} == {
        key: version for key, version in before.items() if "web" in key[1]
    }
    served.group()
    served.wait_ready("web", "other")
    assert (served.address("web"), served.address("other")) == ("192.0.2.10", "192.0.2.11")


def test_a_namespace_goes_with_all_that_was_made_for_it(served: World) -> None:
    other = served.more_namespace(f"{served.namespace}-other")
    for name in ("one", "two"):
        served.virtual_service(name, servers=["10.1.1.5"], namespace=other)
    served.wait_ready("one", "two", namespace=other)
    served.end_namespace(other)
    served.virtual_service("one", servers=["10.1.1.5"], scheduler="rr", namespace=other)
    served.wait_ready("one", namespace=other)  # while it is going, what is in it goes on
    served.remove_namespace(other)
    await_condition(lambda: served.claims() == {"192.0.2.10": ["web"]}, what="its addresses are free")

    def owners() -> set[str]:
        return {plan["spec"]["virtualService"]["namespace"] for plan in served.plans()}

    await_condition(lambda: owners() == {served.namespace}, what="its plans are gone, which go after their claims")


def test_what_was_deleted_while_no_operator_ran_is_cleared_away(world: World) -> None:
    with operating(world.plane, world.system) as operator:
        serve(world)
        for name in ("again", "going"):
            world.virtual_service(name, servers=["10.1.1.5"])
            world.wait_ready(name)
        assert operator.terminate() == 0
        (before,) = world.plans("web")
        for name in ("again", "going"):
            world.delete(VIRTUAL_SERVICES, name)
        made = world.virtual_service("again", servers=["10.1.1.6"])
        world.delete(NODES, "worker-2")
        world.endpoints({"10.1.0.5": "director", "10.1.1.5": "worker-1"})
        assert world.plans("web") == [before], "without an operator nothing is taken away"
        operator.start()
        world.wait_ready("web", "again")
        await_condition(lambda: world.claims() == {"192.0.2.10": ["web"], "192.0.2.11": ["again"]})
        assert world.plans("going") == []
        assert claim_of(world, "192.0.2.11")["owners"] == [{"name": "again", "uid": made["metadata"]["uid"]}]
        await_condition(lambda: {each["node"] for each in plan_of(world)["backends"]} == {"director", "worker-1"})


def test_what_was_deleted_while_the_api_server_restarted_is_cleared_away(world: World) -> None:
    with operating(world.plane, world.system) as operator:
        serve(world)
        world.virtual_service("stays", servers=["10.1.1.5"])
        world.wait_ready("stays")
        operator.freeze()
        world.delete(VIRTUAL_SERVICES, "web")
        world.plane.kill_api()
        world.plane.compact()
        world.plane.start_api()
        operator.thaw()
        await_condition(lambda: world.plans("web") == [], 60, "web is cleared away")
        assert world.claims() == {"192.0.2.11": ["stays"]}
        assert operator.runs
        world.virtual_service("later", servers=["10.1.1.5"])
        world.wait_ready("later", "stays")


def test_an_api_server_that_is_away_for_a_while_is_waited_for(world: World) -> None:
    with operating(world.plane, world.system) as operator:
        serve(world)
        before = world.plans("web")
        world.plane.kill_api()
        await_condition(lambda: "no answer from" in operator.log(), 20, "the operator has noticed")
        assert operator.ask("/healthz") == (200, "ok\n")
        world.plane.start_api()
        assert world.plans("web") == before
        world.virtual_service("later", servers=["10.1.1.5"])
        world.wait_ready("later", "web")
        assert operator.runs


@pytest.mark.parametrize("definition", ["ipvsvirtualservices", "virtualserviceplans", "ipvsaddresses"])
def test_a_definition_that_is_deleted_ends_the_operator_and_all_is_made_again(
    world: World, definitions: ControlPlane, definition: str
) -> None:
    with operating(world.plane, world.system) as operator:
        serve(world)
        definitions.kubectl("delete", "crd", f"{definition}.ipvs.dev")
        try:
            assert operator.wait() == 1
            assert definition in operator.log()
            operator.start(ready=False)
            await_condition(lambda: f"{definition}.ipvs.dev is not there" in operator.ask("/readyz")[1])
        finally:
            definitions.kubectl("apply", "--server-side", "--filename=crds")
        operator.await_ready()
        world.virtual_service(forwarding="DR")
        await_condition(lambda: world.claims() == {"192.0.2.10": ["web"]}, what="the address is claimed again")
        await_condition(lambda: len(world.plans("web")) == 1, what="nodes are told again")
        world.wait_ready()
