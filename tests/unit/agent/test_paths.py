"""Numbers of return paths: they never move, there are seven, and idle ones are given again."""

from tests.unit.agent.plans import DIP, plan

from ipvs_agent.paths import allocate, found, gateways_of
from ipvs_agent.rows import RouteKey, RouteRow
from ipvs_api.virtualservice import Forwarding, ReturnPath


def four(*last: int) -> set[tuple[int, str]]:
    return {(4, f"10.0.0.{n}") for n in last}


def test_the_lowest_free_number_by_family() -> None:
    paths = allocate({(4, "10.0.0.1"): 2}, four(2, 3) | {(6, "2001:db8::1")}, four(1))
    assert paths == {(4, "10.0.0.1"): 2, (4, "10.0.0.2"): 1, (4, "10.0.0.3"): 3, (6, "2001:db8::1"): 1}


def test_an_eighth_gets_none_while_all_are_used() -> None:
    seven = allocate({}, four(*range(1, 8)), set())
    assert (4, "10.0.0.9") not in allocate(seven, four(9), four(*range(1, 8)))


def test_an_idle_one_is_given_again() -> None:
    seven = allocate({}, four(*range(1, 8)), set())
    again = allocate(seven, four(9), four(*range(1, 7)))
    assert again[4, "10.0.0.9"] == seven[4, "10.0.0.7"]
    assert (4, "10.0.0.7") not in again


def test_the_kernels_routes_tell_them_after_a_restart() -> None:
    routes = {
        RouteKey(4, 11803, "default"): RouteRow("10.0.0.1", "eth0"),
        RouteKey(4, 11800, "10.0.0.5/32"): RouteRow("10.0.0.5", "eth0"),
    }
    assert found(routes) == {(4, "10.0.0.1"): 3}


def test_only_a_real_server_of_a_gateway_plan_needs_one() -> None:
    ours = plan(return_path=ReturnPath.GATEWAY, gateways=(DIP,))
    assert gateways_of(ours, "rs1") == {(4, DIP)}
    assert gateways_of(ours, "lb1") == set()
    assert gateways_of(ours, "elsewhere") == set()
    assert gateways_of(plan(Forwarding.DR), "rs1") == set()
