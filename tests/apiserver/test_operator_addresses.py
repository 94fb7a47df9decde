"""Addresses: given, named, shared, refused, and given again."""

from tests.apiserver.world import World

from ipvs_kube.resources import VIRTUAL_SERVICES


def test_addresses_are_given_from_the_lowest_and_given_again_when_free(shop: World) -> None:
    shop.three_nodes()
    shop.group(addresses=["192.0.2.10", "192.0.2.11"])
    for name in ("one", "two"):
        shop.virtual_service(name, servers=["10.1.1.5"])
        shop.wait_ready(name)
    assert [shop.address("one"), shop.address("two")] == ["192.0.2.10", "192.0.2.11"]
    shop.virtual_service("three", servers=["10.1.1.5"])
    exhausted = shop.says("Accepted", "False", "AddressesExhausted", name="three")
    assert "192.0.2.10, 192.0.2.11" in exhausted["message"]
    assert shop.condition("Stalled", "three")["status"] == "True"
    shop.delete(VIRTUAL_SERVICES, "one")
    shop.wait_ready("three")
    assert shop.address("three") == "192.0.2.10"
    assert shop.claims() == {"192.0.2.10": ["three"], "192.0.2.11": ["two"]}


def test_who_has_an_address_is_named_to_whom_asks_for_it_too(shop: World) -> None:
    shop.three_nodes()
    shop.group()
    shop.virtual_service("first", servers=["10.1.1.5"], addresses=["192.0.2.15"])
    shop.wait_ready("first")
    other = shop.more_namespace(f"{shop.namespace}-other")
    shop.virtual_service("second", servers=["10.1.1.5"], addresses=["192.0.2.15"], namespace=other)
    refused = shop.says("Accepted", "False", "AddressConflict", name="second", namespace=other)
    assert f"192.0.2.15 belongs to VirtualService {shop.namespace}/first" in refused["message"]
    shop.wait_ready("first")
    assert shop.claims() == {"192.0.2.15": ["first"]}


def test_one_address_is_shared_by_different_ports_of_one_namespace(shop: World) -> None:
    shop.three_nodes()
    shop.group()
    tls = [{"name": "https", "protocol": "TCP", "port": 443}]
    shop.virtual_service("plain", servers=["10.1.1.5"], addresses=["192.0.2.15"])
    shop.virtual_service("tls", servers=["10.1.1.5"], addresses=["192.0.2.15"], ports=tls)
    shop.wait_ready("plain", "tls")
    assert shop.claims() == {"192.0.2.15": ["plain", "tls"]}
    shop.virtual_service("again", servers=["10.1.1.5"], addresses=["192.0.2.15"], ports=tls)
    refused = shop.says("Accepted", "False", "AddressConflict", name="again")
    assert f"{shop.namespace}/tls" in refused["message"]


def test_an_address_outside_the_group_is_refused(shop: World) -> None:
    shop.three_nodes()
    shop.group()
    shop.virtual_service(servers=["10.1.1.5"], addresses=["198.51.100.1"])
    refused = shop.says("Accepted", "False", "AddressOutsideGroup")
    assert "198.51.100.1" in refused["message"]
    assert "192.0.2.10-192.0.2.19" in refused["message"]
    assert shop.settled()


def test_several_addresses_are_spread_over_the_directors(shop: World) -> None:
    shop.node("lb-1", "10.0.0.1", director=True)
    shop.node("lb-2", "10.0.0.2", director=True)
    shop.node("worker", "10.0.0.3", pods="10.1.1.0/24")
    shop.group()
    shop.virtual_service(servers=["10.1.1.5"], addressCount=2)
    shop.wait_ready()
    assert shop.status()["addresses"] == [
        {"address": "192.0.2.10", "director": "lb-1"},
        {"address": "192.0.2.11", "director": "lb-2"},
    ]
