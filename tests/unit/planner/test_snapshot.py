"""Whom a change concerns: those, nobody else, and nobody twice."""

import pytest

from ipvs_planner.claims import NOTHING, claims_of
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled
from ipvs_planner.index import Key
from ipvs_planner.snapshot import Declared, Snapshot

from .worlds import BASE, World, group, node, service

CORE = group("core", addresses=["198.51.100.0/28"], nodeSelector={"matchLabels": {"core": "yes"}})
SERVICES = (
    service("own", servers=["10.0.0.11"]),
    service("pod", vips=["192.0.2.11"], servers=["10.1.2.7"]),
    service("outside", vips=["192.0.2.12"], servers=["10.9.9.9"]),
    service("core", group="core", vips=["198.51.100.1"], servers=["10.0.0.12"]),
)
BY_NAME = {each.metadata.name for each in SERVICES}
EDGE = {"own", "pod", "outside"}

CHANGES = [
    # what is put → names of those to compile again
    ("the same virtual service", SERVICES[0], set()),
    ("a virtual service", service("own", servers=["10.0.0.12"]), {"own"}),
    ("a virtual service of the same address, another port", service("new", ports=["81"]), {"new"}),
    ("a rival", service("new"), {"new", "own"}),
    ("the same group", BASE[0], set()),
    ("a group's policy", group(allowedStaticBackends=["10.0.0.0/8"]), EDGE),
    ("another group's range", group("core", addresses=["198.51.100.0/29"]), {"core"}),
    ("a group that nobody names", group("new"), set()),
    ("the same node", BASE[2], set()),
    ("a node's unrelated label", node("rs1", "10.0.0.11", "2001:db8:1::11", pods=["10.1.2.0/24"], rack="7"), set()),
    ("a node's own address", node("rs1", "10.0.0.99", pods=["10.1.2.0/24"]), {"own", "pod"}),
    (
        "a node's pod network",
        node("rs1", "10.0.0.11", "2001:db8:1::11", pods=["10.9.9.0/24"]),
        {"own", "pod", "outside"},
    ),
    ("a node with a narrower pod network", node("new", "10.0.0.50", pods=["10.1.2.0/28"]), {"pod"}),
    ("a node in front of nothing", node("new", "10.0.0.50", pods=["10.2.0.0/16", "fd00::/48"]), set()),
    ("a node with a wide pod network", node("new", "10.0.0.50", pods=["10.8.0.0/14"]), {"outside"}),
    ("a node that has an address of a virtual service", node("new", "192.0.2.11"), {"pod"}),
    ("a new director", node("lb2", "10.0.0.2", director=True), EDGE),
    ("a director that is one no more", node("lb1", "10.0.0.1", "2001:db8:1::1", pods=["10.1.1.0/24"]), EDGE),
    ("a director's address", node("lb1", "10.0.0.3", pods=["10.1.1.0/24"], director=True), EDGE),
    ("a director of another group", node("lb3", "10.0.0.3", core="yes"), {"core"}),
]


def results(snapshot: Snapshot) -> dict[Key, Compiled]:
    keys = list(snapshot.keys())
    return {key: compile_virtual_service(snapshot, key) for key in keys}


@pytest.mark.parametrize(("declared", "affected"), [change[1:] for change in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_concerns_those_that_it_touches(declared: Declared, affected: set[str]) -> None:
    snapshot = Snapshot(trusted=True)
    for each in (*BASE, CORE, *SERVICES):
        snapshot.put(each)
    before = results(snapshot)
    found = snapshot.put(declared)
    assert {key.name for key in found} == affected
    assert {key for key, result in results(snapshot).items() if result != before.get(key)} <= found
    assert snapshot.put(declared) == set(), "a second time it is no change"


REMOVALS = [
    (("VirtualService", "shop", "own"), {"own"}),
    (("VirtualService", "zoo", "own"), set()),
    (("DirectorGroup", "", "core"), {"core"}),
    (("DirectorGroup", "", "nowhere"), set()),
    (("Node", "", "rs1"), {"own", "pod"}),
    (("Node", "", "lb1"), EDGE),
    (("Node", "", "nobody"), set()),
    (("Service", "shop", "own"), set()),
]


@pytest.mark.parametrize(("removed", "affected"), REMOVALS)
def test_a_removal_concerns_those_that_it_touches(removed: tuple[str, str, str], affected: set[str]) -> None:
    snapshot = Snapshot(trusted=True)
    for each in (*BASE, CORE, *SERVICES):
        snapshot.put(each)
    assert {key.name for key in snapshot.remove(*removed)} == affected
    assert snapshot.remove(*removed) == set()


def test_keys_are_those_put_and_not_removed() -> None:
    snapshot = Snapshot(trusted=True)
    for each in SERVICES:
        snapshot.put(each)
    snapshot.remove("VirtualService", "shop", "own")
    assert set(snapshot.keys()) == {Key("shop", name) for name in BY_NAME - {"own"}}


def test_holding_what_is_held_concerns_nobody_and_losing_it_concerns_rivals() -> None:
    world = World(*BASE, service("a"), service("b"))
    a, b = Key("shop", "a"), Key("shop", "b")
    held = world.results[a].claims
    assert world.snapshot.hold(a, held) == set()
    assert world.snapshot.hold(a, NOTHING) == {a, b}
    assert world.snapshot.hold(b, held) == {a, b}


def names(keys: set[Key]) -> set[str]:
    return {key.name for key in keys}


def made(*declared: Declared) -> Snapshot:
    snapshot = Snapshot(trusted=True)
    for each in declared:
        snapshot.put(each)
    return snapshot


def test_a_removed_virtual_service_holds_nothing() -> None:
    snapshot = made(*BASE, service("a"), service("b"))
    snapshot.hold(Key("shop", "a"), compile_virtual_service(snapshot, Key("shop", "a")).claims)
    assert names(snapshot.remove("VirtualService", "shop", "a")) == {"a", "b"}
    assert compile_virtual_service(snapshot, Key("shop", "b")).plans


def test_a_groups_range_concerns_its_rivals_in_other_groups() -> None:
    other = group("core")
    snapshot = made(
        *BASE, other, service("a"), service("b", group="core"), service("c", group="core", vips=["192.0.2.1"])
    )
    assert names(snapshot.put(group(addresses=["192.0.2.0/29"]))) == {"a", "b"}
    assert compile_virtual_service(snapshot, Key("shop", "b")).plans


def test_a_group_concerns_what_is_programmed_for_it_though_it_wants_another_now() -> None:
    snapshot = made(*BASE, CORE, service("a"))
    snapshot.hold(Key("shop", "a"), compile_virtual_service(snapshot, Key("shop", "a")).claims)
    snapshot.put(service("a", group="core", vips=["198.51.100.1"]))
    assert names(snapshot.put(group(addresses=["192.0.2.0/29"]))) == {"a"}


def test_letting_go_of_the_old_group_concerns_who_may_have_the_new_one_then() -> None:
    snapshot = made(*BASE, CORE, node("lb3", "10.0.0.3", core="yes"), service("a"))
    key = Key("shop", "a")
    snapshot.hold(key, compile_virtual_service(snapshot, key).claims)
    snapshot.put(service("a", group="core", vips=["198.51.100.1"]))
    assert not compile_virtual_service(snapshot, key).plans
    assert snapshot.hold(key, NOTHING) == {key}
    assert compile_virtual_service(snapshot, key).plans


def test_who_wins_an_address_concerns_those_who_share_real_servers_behind_another_gateway() -> None:
    def gateway(name: str, created: str, **spec: object) -> Declared:
        return service(name, created=f"2026-0{created}-01T00:00:00Z", nat={"returnPath": "Gateway"}, **spec)  # type: ignore[arg-type]

    floating = group("core", addresses=["198.51.100.0/28"], gatewayAddresses=["10.0.0.252"])
    young = gateway("young", "3", group="core", vips=["198.51.100.1"], servers=["10.0.0.11"])
    oldest, old = gateway("oldest", "1", servers=["10.0.0.12"]), gateway("old", "2", servers=["10.0.0.11"])
    snapshot = made(*BASE, floating, young, oldest, old)
    assert compile_virtual_service(snapshot, Key("shop", "young")).plans
    assert names(snapshot.remove("VirtualService", "shop", "oldest")) == {"oldest", "old", "young"}
    assert not compile_virtual_service(snapshot, Key("shop", "young")).plans


def test_claims_of_stored_plans_are_those_that_were_compiled() -> None:
    several = service(
        vips=["192.0.2.1", "2001:db8::1"],
        ports=["80:8080", "53/UDP"],
        servers=[*(f"10.9.{net}.{host}" for net in range(3) for host in range(1, 200)), "2001:db8:1::11"],
        nat={"returnPath": "Gateway"},
    )
    world = World(*BASE, several)
    (result,) = world.results.values()
    assert len(result.plans) == 2
    assert claims_of(result.plans) == result.claims
    assert len(result.claims.vips) == 4
    assert claims_of(()) == NOTHING


def test_after_a_restart_the_holder_is_known_from_its_plans() -> None:
    world = World(*BASE, service("young", created="2026-06-01T00:00:00Z"))
    again = Snapshot(trusted=True)
    for key, plans in world.stored.items():
        again.hold(key, claims_of(plans))
    for each in (*BASE, service("ancient", created="2026-01-01T00:00:00Z"), service("young")):
        again.put(each)
    assert compile_virtual_service(again, Key("shop", "young")).plans
    assert not compile_virtual_service(again, Key("shop", "ancient")).plans


def test_a_node_turns_director_and_its_real_server_takes_the_second_hop() -> None:
    world = World(*BASE, service(forwarding="DR", servers=["10.0.0.11", "10.0.0.12"]))
    key = Key("shop", "web")

    def roles() -> list[tuple[str, str]]:
        return [(backend.node, backend.role) for backend in world.stored[key][0].spec.backends]

    assert roles() == [("rs1", "Host"), ("rs2", "Host")]
    world.put(node("rs1", "10.0.0.11", director=True))
    assert roles() == [("rs1", "SecondHop"), ("rs2", "Host")]
    assert [director.node for director in world.stored[key][0].spec.directors] == ["lb1", "rs1"]
    world.remove("Node", "lb1")
    assert [address.holder for address in world.stored[key][0].spec.addresses] == ["rs1"]
    world.put(node("rs1", "10.0.0.11"), BASE[1])
    assert roles() == [("rs1", "Host"), ("rs2", "Host")]
