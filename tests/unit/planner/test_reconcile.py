"""From nothing to Ready and to gone, write by write; killed between any two of them; and two operators at once."""

from collections.abc import Callable
from typing import Any

import pytest

from ipvs_api.meta import ObjectKey

from .backed import core, fronting, slice_
from .fleet import NAMESPACE, ApiServer, Fleet, KilledError, Operator
from .worlds import BASE, group, node, service

LB2 = node("lb2", "10.0.0.2", director=True)
EDGE = group(allowedStaticBackends=["10.0.0.0/8"])
WORLD = (*BASE[1:], EDGE, LB2)


def writes_of(server: ApiServer) -> list[str]:
    return [
        f"{'-' if entry.object is None else ''}{entry.key.kind} {entry.key.name}"
        for entry in server.log
        if entry.key.kind in ("VirtualServicePlan", "IPVSAddress") or entry.key.name == "web"
    ]


def test_from_nothing_to_ready_and_to_gone() -> None:
    fleet = Fleet(*WORLD)
    operator = Operator(fleet.server)
    fleet.rest(operator)
    start = fleet.server.version
    fleet.put(service(vips=[], forwarding="DR"))
    operator.settle()
    (entry,) = fleet.server.of("IPVSAddress")
    assert (entry.spec.address, entry.spec.owners[0].name) == ("192.0.2.1", "web")
    assert entry.spec.holders == ("lb1", "lb2", "rs1", "rs2")
    assert fleet.ready() == {"web": "Unknown Pending"}
    fleet.rest(operator)
    assert fleet.ready() == {"web": "True Programmed"}
    assert fleet.agents["rs1"].roles(("shop", "web"))  # type: ignore[arg-type]
    fleet.remove("VirtualService", "web", "shop")
    fleet.rest(operator)
    assert fleet.server.of("VirtualServicePlan") == fleet.server.of("IPVSAddress") == []
    assert not any(agent.plans for agent in fleet.agents.values())
    assert writes_of(fleet.server)[:4] == [
        "VirtualService web",
        "IPVSAddress 192.0.2.1",
        "VirtualServicePlan shop.web.0",
        "VirtualService web",
    ]
    assert writes_of(fleet.server)[-2:] == ["-IPVSAddress 192.0.2.1", "-VirtualServicePlan shop.web.0"]
    assert fleet.server.version - start < 60, "a write for each step, not for each thought"


def test_what_is_right_is_not_written_again() -> None:
    fleet = Fleet(*WORLD, core(), slice_(), fronting(vips=[], forwarding="DR"), service("nat", ports=["81"]))
    fleet.rest(Operator(fleet.server))
    written = fleet.server.written
    assert set(fleet.ready().values()) == {"True Programmed"}
    again = Operator(fleet.server)
    again.settle()
    assert fleet.server.written == written


Step = Callable[[Fleet], None]


def put(*declared: Any) -> Step:
    return lambda fleet: fleet.put(*declared)


def remove(kind: str, name: str, namespace: str = "") -> Step:
    return lambda fleet: fleet.remove(kind, name, namespace)


PODS = ["10.1.1.5@lb1", "10.1.2.5@rs1", "10.1.2.6@rs1", "10.1.3.5@rs2"]
FRONT = {"vips": [], "ports": ["80", "443=https"]}
HTTPS = ["http:8080", "https:8443"]
STORIES: dict[str, list[Step]] = {
    "endpoints come and go": [
        put(core(["http:80", "https:443"]), slice_(endpoints=PODS[:3], ports=HTTPS)),
        put(fronting(forwarding="DR", **FRONT)),
        put(slice_(endpoints=PODS, ports=HTTPS)),
        put(slice_(endpoints=PODS[3:], ports=HTTPS)),
        remove("VirtualService", "web", "shop"),
    ],
    "forwarding changes and goes back": [
        put(core(), slice_(endpoints=PODS), fronting(vips=[])),
        put(fronting(vips=[], forwarding="DR")),
        put(fronting(vips=[], forwarding="TUN")),
        put(fronting(vips=[])),
    ],
    "addresses and groups": [
        put(service(vips=[], addressCount=2), service("other", vips=["192.0.2.3"], ports=["81"])),
        put(service("shared", vips=["192.0.2.3"], ports=["82"], forwarding="DR")),
        put(service(vips=["192.0.2.5"])),
        remove("DirectorGroup", "edge"),
        put(EDGE),
        remove("VirtualService", "other", "shop"),
    ],
    "nodes come and go": [
        put(service(vips=[], forwarding="DR", servers=["10.0.0.11", "10.0.0.12", "10.1.3.7"])),
        remove("Node", "rs2"),
        remove("Node", "lb1"),
        put(node("lb3", "10.0.0.3", director=True)),
        remove("VirtualService", "web", "shop"),
    ],
    "a Service of type LoadBalancer": [
        put(core(type="LoadBalancer", loadBalancerClass="ipvs.dev/edge"), slice_(endpoints=PODS)),
        put(slice_(endpoints=PODS[1:])),
        put(core(["http:81"], type="LoadBalancer", loadBalancerClass="ipvs.dev/edge")),
        put(core(["http:81"])),
    ],
    "deleted and made anew another way": [
        put(service(forwarding="DR")),
        lambda fleet: (fleet.remove("VirtualService", "web", "shop"), fleet.put(service(forwarding="TUN")))[0],
        lambda fleet: (fleet.remove("VirtualService", "web", "shop"), fleet.put(service(vips=["192.0.2.11"])))[0],
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("story", STORIES, ids=str)
def test_killed_between_any_two_writes_it_comes_to_the_same_end(story: str) -> None:
    fleet = Fleet(*WORLD)
    operator = Operator(fleet.server)
    fleet.rest(operator)
    for number, step in enumerate(STORIES[story]):
        before, written = fleet.copy(), fleet.server.written
        step(fleet)
        fleet.rest(operator)
        assert all(ready in ("True Programmed", "False GroupNotFound") for ready in fleet.ready().values())
        for writes in range(fleet.server.written - written):
            other = before.copy()
            step(other)
            other.server.budget = writes
            with pytest.raises(KilledError):
                other.rest(Operator(other.server))
            other.server.budget = None
            other.rest(Operator(other.server))
            assert other.state() == fleet.state(), f"step {number}, killed after {writes} writes"


def test_a_node_and_what_it_served_deleted_while_no_operator_was_there_hold_nothing_up() -> None:
    fleet = Fleet(*WORLD, service(forwarding="DR"))
    fleet.rest(Operator(fleet.server))
    for name in ("lb2", "rs2"):
        fleet.remove("Node", name)
    fleet.remove("VirtualService", "web", "shop")
    fleet.rest(Operator(fleet.server))
    assert fleet.server.of("VirtualServicePlan") == fleet.server.of("IPVSAddress") == []


def test_a_director_that_is_gone_is_told_of_what_stays_as_it_was_accepted() -> None:
    """Also by an operator that never knew the node."""
    fleet = Fleet(*WORLD, service(forwarding="DR"))
    fleet.rest(Operator(fleet.server))
    fleet.put(service(forwarding="DR", onePacket=True))
    fleet.remove("Node", "lb1")
    fleet.rest(Operator(fleet.server))
    (stored,) = fleet.server.of("VirtualService")
    told = {each.type: f"{each.status} {each.reason}" for each in stored.status.conditions}
    assert told["Accepted"] == told["Ready"] == "False OnePacketProtocol"
    assert told["Programmed"] == "Unknown NodeGone"


def test_who_was_deleted_while_no_operator_was_there_is_cleared_away() -> None:
    fleet = Fleet(*WORLD, service(forwarding="DR"), service("idle", vips=[], ports=["81"]))
    fleet.rest(Operator(fleet.server))
    for name in ("web", "idle"):
        fleet.remove("VirtualService", name, "shop")
    plan = ObjectKey("VirtualServicePlan", NAMESPACE, "shop.idle.0")
    fleet.server.remove(*plan[:1], plan.name, plan.namespace)
    again = Operator(fleet.server)
    again.settle()
    (first, second) = fleet.server.of("VirtualServicePlan")
    assert first.spec.withdrawn
    assert second.spec.withdrawn, "only its claim remembered that nodes may have it"
    fleet.rest(again)
    assert fleet.server.of("VirtualServicePlan") == fleet.server.of("IPVSAddress") == []


def changing(fleet: Fleet, operator: Operator, *, silent: str = "") -> list[str]:
    """What Ready says while real servers change every 20 s for three minutes: an agent reports one change when the next
    is written already. ``silent``: one that does not report."""
    said = []
    for turn in range(1, 10):
        for agent in fleet.agents.values():
            if agent.name != silent:
                agent.learn()
                agent.report()
        operator.now = f"2026-01-01T00:{turn * 20 // 60:02}:{turn * 20 % 60:02}Z"
        fleet.put(slice_(endpoints=[f"10.1.2.{5 + turn}@rs1", "10.1.3.5@rs2"]))
        operator.settle()
        said.append(fleet.ready()["web"])
    return said


def test_directors_that_follow_changes_are_ready_though_they_never_have_the_last() -> None:
    fleet = Fleet(*WORLD, core(), slice_(), fronting(forwarding="NAT"))
    operator = Operator(fleet.server)
    fleet.rest(operator)
    assert set(changing(fleet, operator)) == {"True Programmed"}
    assert set(changing(fleet, operator, silent="lb2")) == {"True Programmed"}, "it does not answer for the address"


def test_a_director_that_is_stuck_is_told_though_changes_go_on_and_by_the_next_operator_too() -> None:
    fleet = Fleet(*WORLD, core(), slice_(), fronting(forwarding="NAT"))
    operator = Operator(fleet.server)
    fleet.rest(operator)
    assert changing(fleet, operator, silent="lb1") == ["True Programmed"] * 3 + ["False Lagging"] * 6
    successor = Operator(fleet.server)
    successor.now = operator.now
    successor.settle()
    assert fleet.ready()["web"] == "False Lagging"
    fleet.rest(successor)
    assert fleet.ready()["web"] == "True Programmed"
