"""Which addresses virtual services get, keep and give up, as an operator and an API server see it."""

import msgspec
import pytest

from ipvs_api.ipaddress import ADDRESS_OWNERS, AddressOwner
from ipvs_api.meta import ObjectMeta
from ipvs_planner.assign import orphans, release
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Outcome
from ipvs_planner.group_status import compile_group
from ipvs_planner.index import Key
from ipvs_planner.snapshot import Declared, Snapshot

from .claim_server import ClaimServer, Operator, changed, gone, operator, restarted, said, texts
from .worlds import BASE, WEB, group, node, service

OLD, NEW = "2026-01-01T00:00:00Z", "2026-06-01T00:00:00Z"
SMALL = group(addresses=["192.0.2.1-192.0.2.2"])
CORE = group("core", addresses=["198.51.100.0/28"])
GATEWAY = {"nat": {"returnPath": "Gateway"}}


def unasked(name: str = "web", **fields: object) -> Declared:
    """A VirtualService that names no address."""
    return service(name, **{"vips": (), **fields})  # type: ignore[arg-type]


def holders(made: Operator, name: str = "web") -> dict[str, str]:
    """By address: the director that has it."""
    (result,) = (result for key, result in made.results.items() if key.name == name)
    return {entry.address: entry.holder for entry in result.plans[0].spec.addresses}


def test_the_lowest_free_address_is_claimed_first_and_then_planned() -> None:
    made = Operator(ClaimServer(), *BASE, unasked(uid="u1"))
    first = compile_virtual_service(made.snapshot, WEB)
    assert texts(first.claiming) == ["192.0.2.1"]
    assert first.claiming[0].spec.owners == (AddressOwner("web"),)
    assert first.claiming[0].spec.holders == ("lb1",)
    made.settle()
    assert made.outcomes() == {"shop/web": "192.0.2.1"}
    assert made.writes == 1, "one write for a claim"
    assert changed(made, unasked("other")).outcomes() == {"shop/other": "192.0.2.2", "shop/web": "192.0.2.1"}


def test_without_allocation_an_address_must_be_named_and_nothing_is_claimed() -> None:
    snapshot = Snapshot(trusted=True)
    for each in (*BASE, unasked(), service("named")):
        snapshot.put(each)
    assert said(compile_virtual_service(snapshot, WEB)) == "AddressRequired"
    named = compile_virtual_service(snapshot, Key("shop", "named"))
    assert (said(named), named.claiming) == ("192.0.2.10", ())


def test_what_a_host_a_gateway_a_real_server_or_somebody_elses_request_has_is_not_given() -> None:
    taken = [
        group(addresses=["192.0.2.0/28"], gatewayAddresses=["192.0.2.1"]),
        node("router", "192.0.2.2"),
        service("other", vips=["192.0.2.7"], servers=["192.0.2.3"]),
        service("asks", vips=["192.0.2.4"], scheduler="rr", schedulerFlags=["Port"]),
        service("asks-well", vips=["192.0.2.5"]),
    ]
    made = operator(*BASE, *taken, unasked("a"), unasked("b"))
    assert made.outcomes()["shop/a"] == "192.0.2.4", "who is refused as he is written asks for nothing"
    assert made.outcomes()["shop/b"] == "192.0.2.6"


def test_who_could_not_have_an_address_anyway_keeps_it_from_nobody() -> None:
    shop_only = {"from": "Selector", "selector": {"matchLabels": {"kubernetes.io/metadata.name": "shop"}}}
    edge = group(addresses=["192.0.2.1-192.0.2.9"], allowedNamespaces=shop_only, allowedStaticBackends=["10.0.0.0/8"])
    core = group("core", addresses=["198.51.100.0/28"])
    squatters = [
        service("foreign", namespace="zoo", vips=["192.0.2.1"]),
        service("outside", group="core", vips=["192.0.2.2"]),
        service("groupless", group="nowhere", vips=["192.0.2.3"]),
    ]
    made = operator(*BASE, edge, core, *squatters, unasked(), trusted=False)
    assert made.outcomes()["shop/web"] == "192.0.2.1"


def test_each_real_servers_family_gets_an_address_of_those_the_group_has() -> None:
    both, v6 = ["10.0.0.11", "2001:db8:1::11"], ["2001:db8:1::11"]
    made = operator(*BASE, unasked("four"), unasked("both", servers=both), unasked("six", servers=v6))
    assert made.outcomes() == {
        "shop/both": "192.0.2.1 2001:db8::1",
        "shop/four": "192.0.2.2",
        "shop/six": "2001:db8::2",
    }
    only = operator(*BASE, SMALL, unasked("both", servers=both), unasked("six", servers=v6))
    assert set(only.outcomes().values()) == {"MixedFamilies"}
    assert "DirectorGroup edge has no IPv6 address to give" in only.message("shop/six")
    assert only.server.objects == {}


def test_several_addresses_are_spread_over_the_directors() -> None:
    directors = [node(f"lb{number}", f"10.0.0.{number}", director=True) for number in (2, 3)]
    made = operator(*BASE, *directors, unasked(addressCount=4, servers=["10.0.0.11", "2001:db8:1::11"]))
    assert holders(made) == {
        "192.0.2.1": "lb1",
        "192.0.2.2": "lb2",
        "192.0.2.3": "lb3",
        "192.0.2.4": "lb1",
        "2001:db8::1": "lb1",
        "2001:db8::2": "lb2",
        "2001:db8::3": "lb3",
        "2001:db8::4": "lb1",
    }
    changed(made, unasked("one"), service("joined", vips=["192.0.2.2"], ports=["81"]))
    assert holders(made, "one") == {"192.0.2.5": "lb1"}
    assert holders(made, "joined") == {"192.0.2.2": "lb2"}, "who shares it agrees on who has it"
    gone(made, "VirtualService", "web", "shop")
    assert holders(made, "joined") == {"192.0.2.2": "lb2"}, "also when the first owner is gone"
    changed(made, unasked(addressCount=2))
    assert holders(made) == {"192.0.2.1": "lb1", "192.0.2.3": "lb2"}


def test_more_and_fewer_addresses_change_none_of_those_that_stay() -> None:
    made = operator(*BASE, node("lb2", "10.0.0.2", director=True), unasked(addressCount=2), unasked("zz"))
    assert holders(made) == {"192.0.2.1": "lb1", "192.0.2.2": "lb2"}
    changed(made, unasked(addressCount=3))
    assert holders(made) == {"192.0.2.1": "lb1", "192.0.2.2": "lb2", "192.0.2.4": "lb1"}
    changed(made, unasked(addressCount=1))
    assert holders(made) == {"192.0.2.1": "lb1"}
    assert list(made.server.objects) == ["192.0.2.1", "192.0.2.3"]


def test_addresses_with_a_gateway_are_all_where_the_gateway_is() -> None:
    directors = (*BASE, node("lb2", "10.0.0.2", director=True))
    made = operator(*directors, unasked(addressCount=2, **GATEWAY))
    assert holders(made) == {"192.0.2.1": "lb1", "192.0.2.2": "lb1"}
    assert made.results[WEB].plans[0].spec.gateways == ("10.0.0.1",)
    spread = changed(operator(*directors, unasked(addressCount=2)), unasked(addressCount=2, **GATEWAY))
    assert spread.outcomes() == {"shop/web": "GatewayRequired"}
    assert "192.0.2.2 needs director lb1" in spread.message("shop/web")
    assert spread.results[WEB].outcome is Outcome.KEPT


def test_a_requested_address_is_claimed_too_and_kept_when_it_is_asked_for_no_more() -> None:
    made = operator(*BASE, service())
    assert made.server.owners() == {"192.0.2.10": "shop/web edge"}
    assert changed(made, unasked()).outcomes() == {"shop/web": "192.0.2.10"}
    assert changed(made, service(vips=["192.0.2.5"])).outcomes() == {"shop/web": "192.0.2.5"}
    assert list(made.server.objects) == ["192.0.2.5"], "the old one is given up"


def test_an_address_stays_over_a_restart_a_restore_and_a_new_creation_under_the_old_name() -> None:
    world = (*BASE, unasked("b"), unasked("c", addressCount=2), service("r"))
    made = operator(*BASE, unasked("a"))
    changed(made, *world)
    gone(made, "VirtualService", "a", "shop")
    before = made.outcomes()
    assert before == {"shop/b": "192.0.2.2", "shop/c": "192.0.2.3 192.0.2.4", "shop/r": "192.0.2.10"}
    again = restarted(made, *world)
    assert again.outcomes() == before
    assert again.writes == 0
    renewed = [
        msgspec.structs.replace(each, metadata=msgspec.structs.replace(each.metadata, uid="new"))
        for each in world[len(BASE) :]
    ]
    restored = restarted(made, *BASE, *renewed)
    assert restored.outcomes() == before
    assert {owner.uid for each in restored.server.objects.values() for owner in each.spec.owners} == {"new"}


def test_an_address_stays_while_its_group_or_its_directors_are_away() -> None:
    made = operator(*BASE, unasked("a"), unasked())
    changed(gone(made, "VirtualService", "a", "shop"), unasked("b"))
    before = made.outcomes()
    assert before == {"shop/b": "192.0.2.1", "shop/web": "192.0.2.2"}
    for away, back in (
        (lambda: gone(made, "DirectorGroup", "edge"), BASE),
        (lambda: gone(made, "Node", "lb1"), BASE),
        (lambda: changed(made, group(addresses=["192.0.2.0/33"])), BASE),
        (lambda: changed(made, group(addresses=["192.0.2.1"])), BASE),
    ):
        away()
        assert made.outcomes()["shop/web"] in ("GroupNotFound", "NoDirectors", "GroupInvalid", "AddressOutsideGroup")
        gone(made, "VirtualService", "b", "shop")
        changed(made, unasked("new"))
        changed(made, *back, unasked("b"))
        assert made.outcomes()["shop/web"] == "192.0.2.2"
        gone(made, "VirtualService", "new", "shop")


def test_an_address_given_outside_the_groups_new_ranges_is_withdrawn_and_waits_for_them() -> None:
    made = operator(*BASE, unasked())
    changed(made, group(addresses=["198.51.100.0/28"]))
    assert made.outcomes() == {"shop/web": "AddressOutsideGroup"}
    assert made.results[WEB].outcome is Outcome.WITHDRAWN
    assert "it was given 192.0.2.1" in made.message("shop/web")
    assert changed(made, group()).outcomes() == {"shop/web": "192.0.2.1"}


def test_a_requested_address_outside_the_groups_new_ranges_is_anothers_to_have() -> None:
    core = group("core", addresses=["192.0.2.0/28"])
    made = operator(*BASE, core, service("a", created=OLD), service("b", group="core", created=NEW))
    assert made.outcomes() == {"shop/a": "192.0.2.10", "shop/b": "AddressConflict"}
    changed(made, group(addresses=["192.0.2.0/29"]))
    assert made.outcomes() == {"shop/a": "AddressOutsideGroup", "shop/b": "192.0.2.10"}


def test_a_claim_says_whose_an_address_is_whoever_is_older() -> None:
    made = operator(*BASE, service("young", created=NEW), service("c", vips=["192.0.2.3"], namespace="zoo"))
    changed(made, service("ancient", namespace="zoo", created=OLD), unasked())
    assert made.outcomes()["zoo/ancient"] == "AddressConflict"
    assert made.message("zoo/ancient") == (
        "spec.addresses: 192.0.2.10 belongs to VirtualService shop/young (DirectorGroup edge); "
        "an address is shared, on other ports, only within one namespace and DirectorGroup"
    )
    changed(made, service("ancient", namespace="zoo", created=OLD, vips=["192.0.2.1"]))
    assert "192.0.2.1 belongs to VirtualService shop/web" in made.message("zoo/ancient")


def test_an_address_that_is_being_given_up_is_nobodys_yet_and_it_is_said_what_is_awaited() -> None:
    made = operator(*BASE, service("a", forwarding="DR"))
    a, b = Key("shop", "a"), Key("shop", "b")
    made.remove("VirtualService", "a", "shop")
    changed_keys = made.snapshot.put(service("b", ports=["81"]))
    assert changed_keys == {b}
    result = compile_virtual_service(made.snapshot, b)
    assert said(result) == "AddressConflict"
    assert result.refusals[0].message == (
        "spec.addresses: 192.0.2.10 belongs to VirtualService shop/a (DirectorGroup edge), which is giving it up; it "
        "is free when no node has it any more, which these may: lb1, rs1, rs2. A node that does not come back is "
        "forgotten when its Node is deleted or tainted node.kubernetes.io/out-of-service"
    )
    assert release(made.snapshot, a, settled=False) == ((), ())
    assert made.snapshot.put(service("a", forwarding="DR")) >= {a, b}
    assert said(compile_virtual_service(made.snapshot, a)) == "192.0.2.10", "its own it has again at once"
    assert texts(compile_virtual_service(made.snapshot, b).claiming) == ["192.0.2.10"], "and it can be shared"
    made.remove("VirtualService", "a", "shop")
    made.dirty |= {a, b}
    made.settle()
    assert made.outcomes() == {"shop/b": "192.0.2.10"}


def test_an_address_is_shared_on_other_ports_within_one_namespace_and_group_by_who_asks_for_it() -> None:
    made = operator(*BASE, CORE, unasked("a"))
    changed(
        made,
        service("b", vips=["192.0.2.1"], ports=["81"]),
        service("c", vips=["192.0.2.1"], ports=["80/UDP"]),
        service("same-port", vips=["192.0.2.1"]),
        service("elsewhere", namespace="zoo", vips=["192.0.2.1"], ports=["82"]),
    )
    assert made.server.owners() == {"192.0.2.1": "shop/a,b,c edge"}
    assert made.outcomes()["shop/same-port"] == "AddressConflict"
    assert "192.0.2.1 TCP 80 belongs to VirtualService shop/a" in made.message("shop/same-port")
    assert made.outcomes()["zoo/elsewhere"] == "AddressConflict"
    assert "belongs to VirtualService shop/a, shop/b, shop/c (DirectorGroup edge)" in made.message("zoo/elsewhere")
    gone(made, "VirtualService", "a", "shop")
    assert made.outcomes()["shop/same-port"] == "192.0.2.1"
    assert made.server.owners() == {"192.0.2.1": "shop/b,c,same-port edge"}
    for name in ("b", "c", "same-port"):
        gone(made, "VirtualService", name, "shop")
    assert made.server.owners() == {"192.0.2.1": "zoo/elsewhere edge"}


def test_whom_a_claim_names_has_a_port_before_an_older_one_that_asks_for_it() -> None:
    made = Operator(ClaimServer(), *BASE, service("young", created=NEW))
    (claim,) = compile_virtual_service(made.snapshot, Key("shop", "young")).claiming
    made.snapshot.put(made.server.write(claim))
    made.put(service("ancient", created=OLD))
    assert "belongs to VirtualService shop/young (DirectorGroup edge), which has the address" in str(
        compile_virtual_service(made.snapshot, Key("shop", "ancient")).refusals
    )
    made.settle()
    assert made.outcomes() == {"shop/ancient": "AddressConflict", "shop/young": "192.0.2.10"}


@pytest.mark.slow
def test_an_address_is_shared_by_so_many_and_no_more() -> None:
    sharers = [service(f"s{number}", ports=[str(number)]) for number in range(1, ADDRESS_OWNERS + 1)]
    made = operator(*BASE, *sharers)
    changed(made, service("late", ports=["1000"]))
    assert made.outcomes()["shop/late"] == "AddressFull"
    assert f"192.0.2.10 is shared by {ADDRESS_OWNERS} VirtualServices" in made.message("shop/late")
    gone(made, "VirtualService", "s7", "shop")
    assert made.outcomes()["shop/late"] == "192.0.2.10"


def test_when_none_is_left_it_is_said_and_the_oldest_that_waits_gets_the_next() -> None:
    made = operator(*BASE, SMALL, unasked("a"), unasked("b"))
    changed(made, unasked("young", created=NEW), unasked("old", created=OLD), unasked("unknown"))
    assert made.outcomes()["shop/old"] == "AddressesExhausted"
    assert made.message("shop/old") == (
        "spec.addresses: found none, and DirectorGroup edge (192.0.2.1-192.0.2.2) has none left: of 2 addresses 2 can "
        "be given, and they are taken, or older VirtualServices wait for them; extend the group, or delete what is not "
        "needed"
    )
    gone(made, "VirtualService", "b", "shop")
    assert made.outcomes()["shop/old"] == "192.0.2.2"
    assert made.outcomes()["shop/young"] == "AddressesExhausted"
    gone(made, "VirtualService", "a", "shop")
    assert made.outcomes()["shop/young"] == "192.0.2.1"
    gone(made, "VirtualService", "old", "shop")
    assert made.outcomes()["shop/unknown"] == "192.0.2.2"


def test_a_freed_address_touches_those_that_wait_and_can_have_it_and_nobody_else() -> None:
    made = operator(*BASE, SMALL, *(unasked(f"s{number}") for number in range(2)))
    changed(made, unasked("x", created=NEW), unasked("w", created=OLD))
    key = Key("shop", "s1")
    made.snapshot.remove("VirtualService", "shop", "s1")
    assert made.snapshot.remove("IPVSAddress", "", "192.0.2.2") == {key, Key("shop", "w")}


WAYS_OUT = [
    # what makes room for one that waits
    ("a node's own address", [node("router", "192.0.2.2")], node("router", "10.0.0.99"), None),
    ("a node", [node("router", "192.0.2.2")], None, ("Node", "router", "")),
    ("a request", [service("r", vips=["192.0.2.2"])], None, ("VirtualService", "r", "shop")),
    ("another request", [service("r", vips=["192.0.2.2"])], service("r", vips=["192.0.2.1"]), None),
    ("a real server", [unasked("r", servers=["192.0.2.2"])], unasked("r"), None),
    ("one that waited longer", [unasked("a0", addressCount=2)], None, ("VirtualService", "a0", "shop")),
    ("the group", [group(addresses=["192.0.2.1"])], group(), None),
    ("the group's gateway", [group(addresses=["192.0.2.1-192.0.2.2"], gatewayAddresses=["192.0.2.2"])], SMALL, None),
    ("another group", [group("core", addresses=["192.0.2.2"], gatewayAddresses=["192.0.2.2"])], CORE, None),
]


@pytest.mark.parametrize(("world", "put", "remove"), [way[1:] for way in WAYS_OUT], ids=[way[0] for way in WAYS_OUT])
def test_whatever_makes_room_is_noticed(
    world: list[Declared], put: Declared | None, remove: tuple[str, str, str] | None
) -> None:
    made = operator(*BASE, SMALL, *world, unasked("first"))
    changed(made, unasked("second"))
    refused = [name for name, outcome in made.outcomes().items() if outcome == "AddressesExhausted"]
    assert refused
    if put is not None:
        changed(made, put)
    if remove is not None:
        gone(made, *remove)
    left = [name for name, outcome in made.outcomes().items() if outcome == "AddressesExhausted"]
    assert len(left) < len(refused)


def test_all_or_nothing_is_given_and_who_wants_more_than_there_is_keeps_nobody_waiting() -> None:
    made = operator(*BASE, SMALL, unasked("a"))
    changed(made, unasked("greedy", created=OLD, addressCount=2), unasked("modest", created=NEW))
    assert made.outcomes() == {
        "shop/a": "192.0.2.1",
        "shop/greedy": "AddressesExhausted",
        "shop/modest": "192.0.2.2",
    }
    gone(made, "VirtualService", "a", "shop")
    gone(made, "VirtualService", "modest", "shop")
    assert made.outcomes() == {"shop/greedy": "192.0.2.1 192.0.2.2"}


def test_one_more_address_that_is_not_there_leaves_what_is_programmed() -> None:
    made = operator(*BASE, SMALL, unasked("a"), unasked("b"))
    changed(made, unasked("a", addressCount=2))
    assert made.outcomes()["shop/a"] == "AddressesExhausted"
    assert made.results[Key("shop", "a")].outcome is Outcome.KEPT


def test_what_two_groups_have_in_common_goes_to_who_claims_it_first() -> None:
    core = group("core", addresses=["192.0.2.1-192.0.2.3"])
    made = operator(*BASE, SMALL, core, unasked("a"), unasked("b", group="core"), unasked("c"))
    assert made.outcomes() == {"shop/a": "192.0.2.1", "shop/b": "192.0.2.2", "shop/c": "AddressesExhausted"}
    gone(made, "VirtualService", "b", "shop")
    assert made.outcomes()["shop/c"] == "192.0.2.2"


def test_what_is_on_its_way_to_the_api_server_is_given_to_nobody_else() -> None:
    made = Operator(ClaimServer(), *BASE, SMALL, unasked("a"), unasked("b"), unasked("c"))
    a, b, c = (Key("shop", name) for name in "abc")
    for key, address in ((a, "192.0.2.1"), (b, "192.0.2.2")):
        (claim,) = compile_virtual_service(made.snapshot, key).claiming
        assert claim.spec.address == address
        made.snapshot.reserve(address, key)
    assert texts(compile_virtual_service(made.snapshot, a).claiming) == ["192.0.2.1"], "asked again it says the same"
    assert said(compile_virtual_service(made.snapshot, c)) == "AddressesExhausted"
    made.snapshot.remove("VirtualService", "shop", "b")
    assert made.snapshot.unreserve("192.0.2.2") == {c}
    assert texts(compile_virtual_service(made.snapshot, c).claiming) == ["192.0.2.2"]
    assert made.snapshot.unreserve("192.0.2.2") == set()


def test_nodes_that_may_get_an_address_are_on_its_claim_before_they_are_told() -> None:
    made = operator(*BASE, unasked(forwarding="DR", servers=["10.0.0.11"]))
    assert made.server.objects["192.0.2.1"].spec.holders == ("lb1", "rs1")
    made.put(unasked(forwarding="DR", servers=["10.0.0.12"]))
    (claim,) = compile_virtual_service(made.snapshot, WEB).claiming
    assert claim.spec.holders == ("lb1", "rs1", "rs2"), "who had it may have it still"
    made.settle()
    gone(made, "Node", "rs1")
    assert made.server.objects["192.0.2.1"].spec.holders == ("lb1", "rs1", "rs2"), "that alone is no reason to write"
    changed(made, unasked(forwarding="DR", servers=["10.0.0.12"]), node("lb2", "10.0.0.2", director=True))
    assert made.server.objects["192.0.2.1"].spec.holders == ("lb1", "lb2", "rs2")


def test_a_claim_that_somebody_deleted_is_made_again_on_the_address_that_is_programmed() -> None:
    made = operator(*BASE, unasked("a"), unasked())
    made.server.delete(made.server.objects["192.0.2.1"])
    made.server.delete(made.server.objects["192.0.2.2"])
    made.hear()
    changed(made, unasked("b"))
    assert made.outcomes() == {"shop/a": "192.0.2.1", "shop/b": "192.0.2.3", "shop/web": "192.0.2.2"}


def test_a_claim_that_somebody_edited_is_mended() -> None:
    made = operator(*BASE, unasked())
    changed(made, service("sharer", vips=["192.0.2.1"], ports=["81"]))
    stored = made.server.objects["192.0.2.1"]
    made.server.write(msgspec.structs.replace(stored, spec=msgspec.structs.replace(stored.spec, holders=())))
    made.hear()
    made.settle()
    assert made.server.objects["192.0.2.1"].spec.holders == ("lb1",)
    stored = made.server.objects["192.0.2.1"]
    one = (AddressOwner("sharer"),)
    made.server.write(msgspec.structs.replace(stored, spec=msgspec.structs.replace(stored.spec, owners=one)))
    made.hear()
    made.settle()
    assert made.outcomes() == {"shop/sharer": "192.0.2.1", "shop/web": "192.0.2.2"}


def test_two_addresses_that_two_operators_claimed_for_one_are_too_many_and_one_is_given_back() -> None:
    server = ClaimServer()
    one, two = (Operator(server, *BASE, unasked()) for _ in range(2))
    two.snapshot.reserve("192.0.2.1", Key("shop", "somebody"))
    (first,) = compile_virtual_service(one.snapshot, WEB).claiming
    (second,) = compile_virtual_service(two.snapshot, WEB).claiming
    assert texts([first, second]) == ["192.0.2.1", "192.0.2.2"]
    server.write(first)
    server.write(second)
    one.hear()
    one.settle()
    assert one.outcomes() == {"shop/web": "192.0.2.1"}
    assert list(server.objects) == ["192.0.2.1"]


def test_a_virtual_service_deleted_while_nobody_looked_is_found_by_its_claim() -> None:
    made = changed(operator(*BASE, unasked("a"), unasked("b")), service("c", vips=["192.0.2.1"], ports=["81"]))
    late = Operator(made.server, *BASE, unasked("b"))
    late.hear()
    assert orphans(late.snapshot) == {Key("shop", "a"), Key("shop", "c")}
    late.start()
    assert late.server.owners() == {"192.0.2.2": "shop/b edge"}
    assert orphans(late.snapshot) == set()


def test_a_virtual_service_that_is_refused_for_its_real_servers_has_its_address_and_no_plan() -> None:
    made = operator(*BASE, unasked(forwarding="DR", ports=["80:8080"]))
    assert made.outcomes() == {"shop/web": "PortMapping"}
    assert made.server.owners() == {"192.0.2.1": "shop/web edge"}
    assert changed(made, unasked(forwarding="DR")).outcomes() == {"shop/web": "192.0.2.1"}
    changed(made, unasked(servers=["192.0.2.1"]))
    assert made.outcomes() == {"shop/web": "BackendIsAddress"}


def test_who_waits_behind_an_older_one_is_told_when_that_goes_though_nothing_was_given_back() -> None:
    made = operator(*BASE, SMALL, unasked("a"))
    young = Key("shop", "young")
    for leave in (
        lambda: made.snapshot.remove("VirtualService", "shop", "old"),
        lambda: made.snapshot.put(unasked("old", created=OLD, group="core")),
        lambda: made.snapshot.put(unasked("old", created=OLD, scheduler="rr", schedulerFlags=["Port"])),
        lambda: made.snapshot.put(service("old", created=OLD, vips=["192.0.2.1"], ports=["81"])),
    ):
        made.snapshot.put(unasked("old", created=OLD))
        made.snapshot.put(unasked("young", created=NEW))
        assert said(compile_virtual_service(made.snapshot, young)) == "AddressesExhausted"
        assert young in leave()
        assert texts(compile_virtual_service(made.snapshot, young).claiming) == ["192.0.2.2"]


def test_who_is_programmed_for_another_group_waits_for_no_address_of_this_one() -> None:
    made = operator(
        *BASE,
        SMALL,
        CORE,
        node("lb3", "10.0.0.3", director=True),
        unasked("a"),
        service("moves", group="core", vips=["198.51.100.1"]),
    )
    made.put(unasked("moves", created=OLD))
    made.settle()
    assert made.outcomes()["shop/moves"] == "GroupImmutable"
    assert changed(made, unasked("young", created=NEW)).outcomes()["shop/young"] == "192.0.2.2"


def test_a_claim_under_another_group_is_not_taken_over_by_who_is_made_anew_there() -> None:
    core = group("core", addresses=["192.0.2.0/28"])
    made = operator(*BASE, core, service())
    key = Key("shop", "web")
    made.snapshot.remove("VirtualService", "shop", "web")
    made.snapshot.put(service(group="core"))
    result = compile_virtual_service(made.snapshot, key)
    assert said(result) == "AddressConflict"
    assert "192.0.2.10 belongs to VirtualService shop/web (DirectorGroup edge), which is giving it up" in str(result)
    made.dirty.add(key)
    made.settle()
    assert made.outcomes() == {"shop/web": "192.0.2.10"}
    assert made.server.owners() == {"192.0.2.10": "shop/web core"}


def test_a_port_of_a_shared_address_is_refused_to_whom_the_address_was_given_too() -> None:
    made = changed(operator(*BASE, unasked("a")), service("b", vips=["192.0.2.1"], ports=["81"]))
    changed(made, unasked("a", ports=["80", "81"]))
    assert made.outcomes() == {"shop/a": "AddressConflict", "shop/b": "192.0.2.1"}
    assert "192.0.2.1 TCP 81 belongs to VirtualService shop/b" in made.message("shop/a")


def test_claims_that_are_heard_of_before_what_they_are_for_count_as_much() -> None:
    made = operator(*BASE, unasked("young", created=NEW))
    late = Operator(made.server)
    late.hear()
    late.put(*BASE, service("ancient", created=OLD, vips=["192.0.2.1"]), unasked("young", created=NEW))
    late.settle()
    assert late.outcomes() == {"shop/ancient": "AddressConflict", "shop/young": "192.0.2.1"}


def test_a_slip_of_the_pen_gives_no_address_back_though_nothing_is_programmed() -> None:
    made = operator(*BASE, unasked("a"), unasked("b"))
    ill = restarted(made, *BASE, unasked("a", scheduler="rr", schedulerFlags=["Port"]), unasked("b"))
    assert ill.outcomes() == {"shop/a": "SchedulerFlags", "shop/b": "192.0.2.2"}
    assert ill.server.owners() == {"192.0.2.1": "shop/a edge", "192.0.2.2": "shop/b edge"}
    assert changed(ill, unasked("a")).outcomes() == {"shop/a": "192.0.2.1", "shop/b": "192.0.2.2"}


def test_a_requested_address_stays_claimed_while_nobody_can_say_whether_the_group_has_it() -> None:
    made = operator(*BASE, service())
    gone(made, "DirectorGroup", "edge")
    assert made.server.owners() == {"192.0.2.10": "shop/web edge"}
    changed(made, group(addresses=["192.0.2.0/33"]))
    assert made.server.owners() == {"192.0.2.10": "shop/web edge"}


def test_nothing_is_given_back_while_a_stored_plan_names_it_or_a_node_may_have_it() -> None:
    made = operator(*BASE, service())
    made.snapshot.put(service(vips=["192.0.2.5"]))
    (claim,) = compile_virtual_service(made.snapshot, WEB).claiming
    made.snapshot.put(made.server.write(claim))
    held = made.snapshot.held(WEB)
    assert release(made.snapshot, WEB, settled=True) == ((), ())
    made.snapshot.hold(WEB, compile_virtual_service(made.snapshot, WEB).claims)
    assert release(made.snapshot, WEB, settled=False) == ((), ())
    assert texts(release(made.snapshot, WEB, settled=True).deletions) == ["192.0.2.10"]
    made.snapshot.hold(WEB, held)
    assert release(made.snapshot, WEB, settled=True) == ((), ())


def test_what_stored_plans_withdraw_down_to_the_last_real_server_is_given_back() -> None:
    made = operator(*BASE, service(forwarding="DR"))
    (plan,) = made.results[WEB].plans
    made.snapshot.remove("VirtualService", "shop", "web")
    for spec, given_back in (
        (plan.spec, []),
        (msgspec.structs.replace(plan.spec, withdrawn=True), []),
        (msgspec.structs.replace(plan.spec, withdrawn=True, backends=()), ["192.0.2.10"]),
    ):
        made.snapshot.put(msgspec.structs.replace(plan, spec=spec))
        assert texts(release(made.snapshot, WEB, settled=True).deletions) == given_back
    assert release(made.snapshot, WEB, settled=False) == ((), ())


def test_of_too_many_addresses_those_stay_that_are_programmed() -> None:
    made = operator(*BASE, unasked("a"), unasked())
    gone(made, "VirtualService", "a", "shop")
    assert made.outcomes() == {"shop/web": "192.0.2.2"}
    claim = msgspec.structs.replace(made.server.objects["192.0.2.2"], metadata=ObjectMeta("192.0.2.1"))
    spec = msgspec.structs.replace(claim.spec, address="192.0.2.1")
    made.server.write(msgspec.structs.replace(claim, spec=spec))
    made.hear()
    made.settle()
    assert made.outcomes() == {"shop/web": "192.0.2.2"}
    assert list(made.server.objects) == ["192.0.2.2"]


def test_who_has_not_the_claim_decides_no_gateway() -> None:
    floating = group("core", addresses=["198.51.100.0/28"], gatewayAddresses=["10.0.0.252"])
    made = Operator(ClaimServer(), *BASE, floating, service("young", created=NEW, servers=["10.0.0.12"]))
    (claim,) = compile_virtual_service(made.snapshot, Key("shop", "young")).claiming
    made.snapshot.put(made.server.write(claim))
    made.put(
        service("older", namespace="zoo", created=OLD, **GATEWAY),
        service("b", group="core", vips=["198.51.100.1"], created=NEW, **GATEWAY),
    )
    assert compile_virtual_service(made.snapshot, Key("shop", "b")).refusals == ()
    made.snapshot.remove("VirtualService", "shop", "young")
    assert compile_virtual_service(made.snapshot, Key("shop", "b")).refusals == (), "nor while it is being given up"
    made.put(service("young", created=NEW, servers=["10.0.0.12"]))
    made.settle()
    assert made.outcomes() == {
        "shop/b": "198.51.100.1",
        "shop/young": "192.0.2.10",
        "zoo/older": "AddressConflict GatewayAmbiguous",
    }


def test_a_group_says_how_many_of_its_addresses_are_in_use() -> None:
    made = operator(*BASE, unasked("a"), unasked("b", addressCount=2))
    changed(made, service("c", vips=["192.0.2.1"], ports=["81"]))
    status = compile_group(made.snapshot, "edge", None, OLD)
    assert status is not None
    assert (status.addresses.total, status.addresses.used) == (16 + 256, 3)
