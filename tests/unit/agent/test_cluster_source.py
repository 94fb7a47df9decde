"""The agent's source at an API server that answers as none would when asked to; what it does at a real one is told in
tests/apiserver."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.unit.kube.scripted import Answer, Ending, ScriptedServer, Stream, event, listed, refusal, scripted

from ipvs_agent.sources.cluster import ClusterSource
from ipvs_agent.sources.node_object import decode_node
from ipvs_api.labels import plan_name
from ipvs_api.meta import ObjectMeta
from ipvs_api.node import IPVSNode, IPVSNodeSpec, IPVSNodeStatus, NodeGroup
from ipvs_api.plan import Owner, VirtualServicePlan
from ipvs_kube.api import connect
from ipvs_kube.errors import ApiError
from ipvs_lab.net.waiting import await_condition

from .plans import plan

pytestmark = pytest.mark.slow  # real connections

PLANS_PATH = "/apis/ipvs.dev/v1alpha1/namespaces/lvs/virtualserviceplans"
NODES_PATH = "/apis/ipvs.dev/v1alpha1/ipvsnodes"
AWAY = Answer(refusal(503, "ServiceUnavailable"), 503)
ABSENT = Answer(b"404 page not found\n", 404)


def plan_object(name: str, version: int, **fields: Any) -> dict[str, Any]:
    meta = ObjectMeta(plan_name("shop", name, 0), "lvs", resource_version=str(version))
    made = VirtualServicePlan(meta, plan(virtual_service=Owner("shop", name)))
    value: dict[str, Any] = msgspec.to_builtins(made)
    value["spec"] |= fields
    return value


def node_object(version: int, observed: str = "") -> dict[str, Any]:
    status = IPVSNodeStatus(boot_id="boot", observed_resource_version=observed)
    made = IPVSNode(ObjectMeta("lb1", resource_version=str(version)), IPVSNodeSpec((NodeGroup("g", ()),)), status)
    value: dict[str, Any] = msgspec.to_builtins(made)
    return value


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as made:
        made.lists_of = {PLANS_PATH: [Answer(listed())], NODES_PATH: [Answer(listed(node_object(5)))]}
        yield made


Make = Callable[..., ClusterSource]


@pytest.fixture
def make(server: ScriptedServer, tmp_path: Path) -> Iterator[Make]:
    made: list[ClusterSource] = []

    def start(*stored: str, watch: bool = True) -> ClusterSource:
        api = connect(server.kubeconfig(tmp_path))
        made.append(ClusterSource(api, "lb1", "lvs", stored, IPVSNodeSpec()))
        if watch:
            made[-1].watch(lambda: None)
        return made[-1]

    yield start
    for source in made:
        source.close()


def until_known(source: ClusterSource) -> set[str]:
    """Look until all is known; whose plans are gone."""
    gone: set[str] = set()

    def known() -> bool:
        update = source.look(time.monotonic())
        gone.update(owner for owner, plan in update.plans.items() if plan is None)
        return update.known

    await_condition(known, 10, "all is known")
    return gone


def reports(server: ScriptedServer) -> list[str]:
    return [each.path for each in server.asked if each.method == "PATCH"]


@pytest.mark.parametrize("path", [PLANS_PATH, NODES_PATH])
@pytest.mark.parametrize("answer", [AWAY, ABSENT], ids=["away", "absent"])
def test_nothing_is_known_or_reported_before_everything_has_been_listed(
    server: ScriptedServer, make: Make, path: str, answer: Answer
) -> None:
    server.lists_of[path] = [answer]
    source = make()

    def told() -> bool:
        update = source.look(time.monotonic())
        assert not update.known
        assert update.resource_version == ""
        source.publish(IPVSNodeStatus(boot_id="boot"), settled=True)
        other = ({PLANS_PATH, NODES_PATH} - {path}).pop()
        return bool(source.away or update.errors) and any(each.path == other for each in server.watching())

    await_condition(told, 10)
    server.lists_of[path] = [Answer(listed(*([node_object(5)] if path == NODES_PATH else [])))]
    until_known(source)
    assert reports(server) == []
    source.publish(IPVSNodeStatus(boot_id="boot", kernel_version="7"), settled=True)
    await_condition(lambda: reports(server) == [f"{NODES_PATH}/lb1/status"])


def test_what_was_in_force_stays_while_the_plans_are_not_served(server: ScriptedServer, make: Make) -> None:
    server.lists_of[PLANS_PATH] = [ABSENT]
    source = make("shop/web")
    await_condition(lambda: source.look(0).errors)
    update = source.look(0)
    assert update.reason == "NotServed"
    (error,) = update.errors
    assert error.startswith("the API server does not serve virtualserviceplans.ipvs.dev: apply the CustomResource")
    assert error.endswith("(crds/); what is programmed stays")
    assert update.plans == {}
    server.lists_of[PLANS_PATH] = [Answer(listed())]
    assert until_known(source) == {"shop/web"}


def test_the_report_before_this_process_is_given_once_with_how_far_it_had_come(
    server: ScriptedServer, make: Make
) -> None:
    server.lists_of[NODES_PATH] = [Answer(listed(node_object(9, observed="8")))]
    server.lists_of[PLANS_PATH] = [Answer(listed(plan_object("web", 3)))]
    source = make("shop/web", watch=False)
    source.read()
    first, second = source.look(0), source.look(0)
    assert first.reported is not None
    assert first.reported.observed_resource_version == first.resource_version == "8"
    assert second.reported is None


def test_a_report_of_a_history_that_is_not_there_any_more_has_no_version(server: ScriptedServer, make: Make) -> None:
    server.lists_of[NODES_PATH] = [Answer(listed(node_object(9, observed="800")))]
    source = make(watch=False)
    source.read()
    update = source.look(0)
    assert update.reported is not None
    assert (update.reported.boot_id, update.reported.observed_resource_version) == ("boot", "")
    assert update.resource_version == "10"


def test_a_plan_that_cannot_be_read_is_told_and_what_was_in_force_stays(server: ScriptedServer, make: Make) -> None:
    broken = plan_object("web", 3, forwarding="Teleport")
    server.lists_of[PLANS_PATH] = [Answer(listed(broken))]
    server.watches = [Stream((event("MODIFIED", plan_object("web", 12)), Ending.SILENCE))]
    source = make("shop/web")
    assert until_known(source) == set()
    update = source.look(0)
    while not update.plans:
        assert update.reason == "Unreadable"
        (error,) = update.errors
        assert error.startswith("VirtualServicePlan of shop/web: shop.web.0: this agent cannot read it: Invalid enum")
        assert error.endswith("; upgrade the agent on this node; what was in force stays")
        assert list(update.unreadable) == ["shop/web"]
        update = source.look(0)
    assert (update.errors, dict(update.unreadable)) == ((), {})
    assert update.resource_version == "12"


def test_a_bookmark_is_no_news(server: ScriptedServer, make: Make) -> None:
    mark = event("BOOKMARK", {"kind": "VirtualServicePlan", "metadata": {"resourceVersion": "500"}})
    server.lists_of[PLANS_PATH] = [Answer(listed(plan_object("web", 3)))]
    server.watches = [Stream((mark, Ending.CUT)), Stream((mark, Ending.CUT)), Stream((Ending.SILENCE,))]
    source = make("shop/web")
    until_known(source)
    await_condition(lambda: len(server.watching()) >= 4)
    update = source.look(0)
    assert update.resource_version == "3"
    assert update.plans == {}


def test_reading_once_fails_where_the_server_is_away(server: ScriptedServer, make: Make) -> None:
    server.lists_of[PLANS_PATH] = [AWAY]
    with pytest.raises(ApiError):
        make(watch=False).read()


def test_a_node_object_is_read_as_far_as_it_can_be() -> None:
    value = node_object(5, observed="4")
    whole = decode_node(json.dumps(value).encode())
    assert (whole.spec, whole.status.observed_resource_version) == (IPVSNodeSpec((NodeGroup("g", ()),)), "4")
    newer = decode_node(json.dumps(value | {"spec": {"groups": [{"name": "g", "addresses": "all"}]}}).encode())
    assert newer.spec is None
    assert newer.problem.startswith("IPVSNode lb1: Expected `array`, got `str`")
    assert newer.problem.endswith("upgrade the agent on this node")
    assert newer.status.observed_resource_version == "4"
    odd = decode_node(json.dumps(value | {"status": {"counts": "many"}}).encode())
    assert (odd.spec, odd.status) == (whole.spec, IPVSNodeStatus())
