"""Several virtual services that want one thing, one after another. ``World`` holds what was planned, as callers do."""

from ipvs_planner.index import Key

from .worlds import BASE, World, group, node, service

OLD, NEW = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"
CORE = group("core", addresses=["192.0.2.0/28", "198.51.100.0/28"])
GATEWAY = {"nat": {"returnPath": "Gateway"}}


def message(world: World, name: str) -> str:
    (result,) = (result for key, result in world.results.items() if str(key) == name)
    return " ".join(finding.message for finding in result.refusals)


def test_the_oldest_has_a_port_and_the_other_is_told_who() -> None:
    world = World(*BASE)
    world.snapshot.put(service("a", created=NEW))
    assert world.put(service("b", created=OLD)) == {Key("shop", "a"), Key("shop", "b")}
    assert world.outcomes() == {"shop/a": "AddressConflict", "shop/b": "Planned"}
    assert "192.0.2.10 TCP 80 belongs to VirtualService shop/b" in message(world, "shop/a")


def test_of_two_equally_old_the_first_by_name_has_it_and_an_unknown_age_is_the_youngest() -> None:
    def first(*services: object) -> set[str]:
        world = World(*BASE)
        affected = {key for each in services for key in world.snapshot.put(each)}  # type: ignore[arg-type]
        world._settle(affected)
        return {name for name, outcome in world.outcomes().items() if outcome == "Planned"}

    assert first(service("b", created=OLD), service("a", created=OLD)) == {"shop/a"}
    assert first(service("b"), service("a")) == {"shop/a"}
    assert first(service("b", created=NEW), service("a")) == {"shop/b"}


def test_the_holder_keeps_the_address_when_an_older_claimant_appears() -> None:
    world = World(*BASE, service("young", created=NEW))
    world.put(service("ancient", created=OLD))
    assert world.outcomes() == {"shop/ancient": "AddressConflict", "shop/young": "Planned"}
    assert "which is programmed with it" in message(world, "shop/ancient")


def test_the_next_gets_it_when_the_holder_goes_or_moves_to_another_port() -> None:
    world = World(*BASE, service("a"), service("b"))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "AddressConflict"}
    world.put(service("a", ports=["81"]))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "Planned"}
    world.put(service("a"))
    assert world.outcomes() == {"shop/a": "AddressConflict", "shop/b": "Planned"}
    world.remove("VirtualService", "b", "shop")
    assert world.outcomes() == {"shop/a": "Planned"}


def test_protocols_and_ports_are_apart_within_one_namespace() -> None:
    world = World(
        *BASE, service("a", ports=["53", "53/UDP"]), service("b", ports=["54"]), service("c", ports=["53/SCTP"])
    )
    assert set(world.outcomes().values()) == {"Planned"}
    world.put(service("d", ports=["55", "53/UDP"]))
    assert world.outcomes()["shop/d"] == "AddressConflict"
    assert "192.0.2.10 UDP 53" in message(world, "shop/d")


def test_another_namespace_gets_no_port_of_the_address() -> None:
    world = World(*BASE, service("a"), service("b", namespace="zoo", ports=["443"]))
    assert world.outcomes() == {"shop/a": "Planned", "zoo/b": "AddressConflict"}
    assert "belongs to VirtualService shop/a" in message(world, "zoo/b")
    world.remove("VirtualService", "a", "shop")
    assert world.outcomes() == {"zoo/b": "Planned"}
    world.put(service("a"))
    assert world.outcomes() == {"shop/a": "AddressConflict", "zoo/b": "Planned"}


def test_another_group_gets_no_port_of_the_address_since_its_directors_would_answer_for_it_too() -> None:
    world = World(*BASE, CORE, service("a"), service("b", group="core", ports=["443"]))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "AddressConflict"}


def test_who_would_be_refused_anyway_blocks_nobody() -> None:
    shop_only = {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
    edge = group(allowedNamespaces=shop_only, allowedStaticBackends=["10.0.0.0/8"])
    squatters = [
        service("a-faulty", created=OLD, scheduler="rr", schedulerFlags=["Port"]),
        service("a-foreign", namespace="zoo", created=OLD),
        service("a-groupless", created=OLD, group="nowhere"),
        service("a-outside", created=OLD, group="core", vips=["192.0.2.10"]),
    ]
    core = group("core", addresses=["198.51.100.0/28"], allowedStaticBackends=["10.0.0.0/8"])
    world = World(*BASE, edge, core, *squatters, trusted=False)
    world.put(service("web", created=NEW))
    assert world.outcomes() == {
        "shop/a-faulty": "SchedulerFlags",
        "shop/a-groupless": "GroupNotFound",
        "shop/a-outside": "AddressOutsideGroup",
        "shop/web": "Planned",
        "zoo/a-foreign": "NamespaceNotAllowed",
    }


def test_a_slip_of_the_pen_leaves_what_is_programmed_and_its_address() -> None:
    world = World(*BASE, service("a"), service("b"))
    before = dict(world.stored)
    world.put(service("a", scheduler="rr", schedulerFlags=["Port"]))
    assert world.outcomes() == {"shop/a": "SchedulerFlags", "shop/b": "AddressConflict"}
    assert world.stored == before
    world.put(service("a", scheduler="rr"))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "AddressConflict"}


def test_a_slip_of_the_pen_in_the_group_leaves_everything_programmed() -> None:
    world = World(*BASE, service("a"), service("c", vips=["192.0.2.11"]))
    before = dict(world.stored)
    world.put(group(addresses=["192.0.2.0/33"]))
    assert set(world.outcomes().values()) == {"GroupInvalid"}
    assert world.stored == before
    world.put(service("b", created=OLD), CORE, service("d", group="core", created=OLD))
    assert world.outcomes()["shop/b"] == "GroupInvalid"
    assert world.outcomes()["shop/d"] == "AddressConflict", "the holder keeps it, though its group cannot say so now"
    world.put(group())
    assert world.outcomes() == {
        "shop/a": "Planned",
        "shop/b": "AddressConflict",
        "shop/c": "Planned",
        "shop/d": "AddressConflict",
    }


def test_a_group_that_cannot_be_used_claims_nothing_new() -> None:
    world = World(*BASE, group(addresses=["192.0.2.0/33"]), service("a", created=OLD), CORE)
    world.put(service("b", group="core", created=NEW))
    assert world.outcomes() == {"shop/a": "GroupInvalid", "shop/b": "Planned"}


def test_a_shrinking_range_takes_the_address_away_and_whoever_may_gets_it() -> None:
    world = World(*BASE, CORE, service("a"), service("b", group="core"))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "AddressConflict"}
    world.put(group(addresses=["192.0.2.0/29"]))
    assert world.outcomes() == {"shop/a": "AddressOutsideGroup", "shop/b": "Planned"}
    assert {str(key) for key in world.stored} == {"shop/b"}


def test_a_refused_one_does_not_escape_a_shrinking_range_by_being_faulty() -> None:
    world = World(*BASE, service("a"))
    world.put(service("a", scheduler="rr", schedulerFlags=["Port"]))
    assert world.stored
    world.put(group(addresses=["192.0.2.0/29"]))
    assert not world.stored


def test_who_must_go_loses_everything_programmed() -> None:
    for change in (
        lambda world: world.remove("DirectorGroup", "edge"),
        lambda world: world.put(group(nodeSelector={"matchLabels": {"nobody": "has"}})),
        lambda world: world.put(node("lb1", "10.0.0.1")),
        lambda world: world.remove("Node", "lb1"),
    ):
        world = World(*BASE, service("a"))
        assert world.stored
        change(world)
        assert not world.stored
        world.put(*BASE)
        assert world.outcomes() == {"shop/a": "Planned"}


def test_a_change_of_group_is_refused_and_the_old_one_goes_on_serving() -> None:
    world = World(*BASE, CORE, service("a"))
    before = dict(world.stored)
    world.put(service("a", group="core", vips=["198.51.100.1"]))
    assert world.outcomes() == {"shop/a": "GroupImmutable"}
    assert world.stored == before
    world.put(service("b", created=OLD), service("c", group="core", vips=["198.51.100.1"]))
    assert world.outcomes()["shop/b"] == "AddressConflict", "its old address is still its own"
    assert world.outcomes()["shop/c"] == "Planned", "and the new one not yet"
    world.remove("DirectorGroup", "edge")
    assert world.outcomes()["shop/a"] == "AddressConflict", "with the old group gone it is what the new one makes of it"


def test_a_removed_virtual_service_can_hold_its_address_until_the_nodes_have_let_go() -> None:
    world = World(*BASE, service("a"), service("b"))
    (held,) = (result.claims for key, result in world.results.items() if key.name == "a")
    key = next(key for key in world.results if key.name == "a")
    world.snapshot.remove("VirtualService", "shop", "a")
    world.results.pop(key)
    world._settle(world.snapshot.hold(key, held))
    assert world.outcomes() == {"shop/b": "AddressConflict"}
    world._settle(world.snapshot.hold(key, held._replace(vips=(), returns=(), group="")))
    assert world.outcomes() == {"shop/b": "Planned"}


FLOATING = (
    group(gatewayAddresses=["10.0.0.251"]),
    group("core", addresses=["198.51.100.0/28"], gatewayAddresses=["10.0.0.252"]),
)


def test_replies_of_one_endpoint_go_to_one_gateway() -> None:
    world = World(*BASE, *FLOATING)
    world.put(service("a", **GATEWAY))
    world.put(service("b", group="core", vips=["198.51.100.1"], created=OLD, **GATEWAY))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "GatewayAmbiguous"}
    assert "10.0.0.11 TCP 80 would go to gateway 10.0.0.252" in message(world, "shop/b")
    assert "go to 10.0.0.251" in message(world, "shop/b")
    world.put(service("b", group="core", vips=["198.51.100.1"], ports=["81:80"], servers=["10.0.0.12"], **GATEWAY))
    assert world.outcomes()["shop/b"] == "GatewayAmbiguous", "it is the real server's port that counts"
    world.put(service("b", group="core", vips=["198.51.100.1"], ports=["80:81"], **GATEWAY))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "Planned"}


def test_one_gateway_for_two_groups_or_masquerade_beside_a_gateway_is_no_ambiguity() -> None:
    other = service("b", group="core", vips=["198.51.100.1"], **GATEWAY)
    one_gateway = group("core", addresses=["198.51.100.0/28"], gatewayAddresses=["10.0.0.251"])
    world = World(*BASE, FLOATING[0], one_gateway, service("a", **GATEWAY), other)
    assert set(world.outcomes().values()) == {"Planned"}
    world = World(*BASE, *FLOATING, service("a"), other)
    assert set(world.outcomes().values()) == {"Planned"}
    protocols = service("b", group="core", vips=["198.51.100.1"], ports=["80/UDP"], **GATEWAY)
    world = World(*BASE, *FLOATING, service("a", **GATEWAY), protocols)
    assert set(world.outcomes().values()) == {"Planned"}


def test_a_gateway_that_moves_makes_an_ambiguity_and_ends_it() -> None:
    other = service("b", group="core", vips=["198.51.100.1"], **GATEWAY)
    world = World(*BASE, group("core", addresses=["198.51.100.0/28"]), service("a", **GATEWAY), other)
    assert set(world.outcomes().values()) == {"Planned"}, "both groups have the same director"
    world.put(group("core", addresses=["198.51.100.0/28"], gatewayAddresses=["10.0.0.252"]))
    assert world.outcomes() == {"shop/a": "Planned", "shop/b": "GatewayAmbiguous"}
    world.remove("VirtualService", "a", "shop")
    assert world.outcomes() == {"shop/b": "Planned"}


def test_who_has_no_address_decides_no_gateway() -> None:
    world = World(*BASE, *FLOATING, service("holder", servers=["10.0.0.12"]))
    world.put(service("a", created=OLD, servers=["10.0.0.11"], **GATEWAY))
    world.put(service("b", group="core", vips=["198.51.100.1"], created=NEW, servers=["10.0.0.11"], **GATEWAY))
    assert world.outcomes() == {
        "shop/a": "AddressConflict GatewayAmbiguous",
        "shop/b": "Planned",
        "shop/holder": "Planned",
    }
    world.remove("VirtualService", "holder", "shop")
    assert world.outcomes() == {"shop/a": "GatewayAmbiguous", "shop/b": "Planned"}


def test_a_node_that_takes_an_address_as_its_own_does_not_cut_what_is_programmed() -> None:
    world = World(*BASE, service("a"))
    before = dict(world.stored)
    world.put(node("rs1", "192.0.2.10"))
    assert world.outcomes() == {"shop/a": "AddressIsNode"}
    assert world.stored == before
