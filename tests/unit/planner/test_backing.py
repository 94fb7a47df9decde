"""Endpoints in their places: which node is in front of them, how they are reached, and who may not be named."""

from typing import Any

import pytest

from ipvs_api.core import EndpointSlice, Node
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled
from ipvs_planner.snapshot import Snapshot

from .backed import core, fronting, note, served, slice_, space
from .worlds import BASE, WEB, compiled, group, node, notes, plan, reasons, roles

PODS = ("10.1.2.5@rs1", "10.1.2.6@rs1", "10.1.3.5@rs2", "10.1.1.5@lb1")
"""Two behind rs1, one behind rs2, one on the director itself."""


def backed(*endpoints: str, trusted: bool = True, more: tuple[Any, ...] = (), **spec: Any) -> Compiled:
    return compiled(*BASE, core(), slice_(endpoints=endpoints), *more, fronting(**spec), trusted=trusted)


def hops(result: Compiled) -> dict[str, tuple[tuple[str, ...], int]]:
    """By node in front of a second hop: where directors forward to, and with what share."""
    return {
        backend.node: (backend.addresses, sum(server.weight for server in backend.servers))
        for each in result.plans
        for backend in each.spec.backends
        if backend.role == "SecondHop"
    }


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_directors_forward_to_nodes_weighted_by_their_ready_pods(forwarding: str) -> None:
    result = backed(*PODS, "10.1.3.6@rs2 no", forwarding=forwarding)
    assert hops(result) == {
        "lb1": (("10.0.0.1", "2001:db8:1::1"), 1),
        "rs1": (("10.0.0.11", "2001:db8:1::11"), 2),
        "rs2": (("10.0.0.12", "2001:db8:1::12"), 1),
    }
    assert set(plan(result).metadata.labels) == {"node.ipvs.dev/lb1", "node.ipvs.dev/rs1", "node.ipvs.dev/rs2"}


def test_the_directors_own_pods_are_real_servers_of_the_same_service() -> None:
    """Directors reach theirs by NAT, the others' by DR: which, each agent knows by the node's name."""
    result = backed(*PODS, forwarding="DR")
    assert roles(result)["10.1.1.5"] == "SecondHop lb1"
    assert [director.node for director in plan(result).spec.directors] == ["lb1"]


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
@pytest.mark.parametrize(("asked", "becomes"), [("rr", "wrr"), ("lc", "wlc"), ("sed", "sed"), ("sh", "sh")])
def test_shares_need_a_scheduler_that_looks_at_weights(asked: str, becomes: str, forwarding: str) -> None:
    for endpoints in (PODS, PODS[:1], ()):
        result = backed(*endpoints, scheduler=asked, forwarding=forwarding)
        assert plan(result).spec.scheduler == becomes, "it does not change as pods come and go"
        assert ("SchedulerChanged" in notes(result)) == (asked != becomes)
    assert plan(backed(*PODS, scheduler=asked)).spec.scheduler == asked, "under NAT each pod is a real server"


@pytest.mark.parametrize("forwarding", ["NAT", "DR", "TUN"])
def test_ports_are_mapped_by_nat_and_by_the_second_hop(forwarding: str) -> None:
    assert served(backed("10.1.2.5@rs1", forwarding=forwarding)) == {"10.1.2.5": (8080,)}


PLACES = [
    # endpoint, forwarding → role and node; what is told
    ("10.1.2.5@rs1", "DR", "SecondHop rs1", ""),
    ("10.1.2.5", "DR", "SecondHop rs1", "names no node; by its address it is taken for one of Node rs1"),
    ("10.1.2.5@gone", "DR", "SecondHop rs1", "names Node gone, which is not there"),
    ("10.7.7.7@rs1", "DR", "SecondHop rs1", ""),  # a network of pods that Nodes do not tell of
    ("10.1.3.5@rs1", "DR", "SecondHop rs1", ""),  # its slice knows better than the podCIDR
    ("10.0.0.11@rs1", "DR", "SecondHop rs1", ""),  # host network: its port may differ
    ("10.0.0.11@rs1", "NAT", "Host rs1", ""),
    ("10.0.0.11@rs2", "DR", "SecondHop rs1", ""),  # whose address it is, is not a matter of opinion
    ("10.1.2.5@rs1", "NAT", "SecondHop rs1", ""),
    ("10.9.9.9", "NAT", "Machine", "names no node; by its address it is a machine outside"),
]


@pytest.mark.parametrize(("endpoint", "forwarding", "role", "told"), PLACES)
def test_an_endpoint_is_where_its_address_or_its_slice_says(
    endpoint: str, forwarding: str, role: str, told: str
) -> None:
    result = backed(endpoint, forwarding=forwarding)
    address = endpoint.partition("@")[0]
    assert roles(result) == {address: role}
    assert notes(result) == ({"EndpointWithoutNode"} if told else set())
    assert not told or f"{address} {told}" in note(result, "EndpointWithoutNode")


def test_a_machine_outside_takes_packets_itself_so_ports_that_would_be_mapped_do_not_serve() -> None:
    outside = slice_(endpoints=["10.9.9.9", "10.1.2.5@rs1"], ports=["http:80", "https:8443"])
    front = fronting(ports=["80=http", "443=https"], forwarding="DR")
    result = compiled(*BASE, core(["http:80", "https:443"]), outside, front)
    assert served(result) == {"10.9.9.9": (80, 0), "10.1.2.5": (80, 8443)}
    assert "10.9.9.9 for port 443-https" not in note(result, "PortMapping")
    assert "10.9.9.9 for port 443: it listens on 8443, but DR leaves 443 as it is" in note(result, "PortMapping")
    nothing = backed("10.9.9.9", forwarding="DR")
    assert served(nothing) == {}
    assert notes(nothing) == {"PortMapping"}


ALLOWED = group(allowedStaticBackends=["10.9.9.0/24"])


@pytest.mark.parametrize("endpoint", ["10.9.9.9", "10.9.9.9@rs1"])
def test_whoever_writes_slices_by_hand_cannot_send_traffic_where_the_group_does_not_allow(endpoint: str) -> None:
    refused = backed(endpoint, "10.1.2.5@rs1", trusted=False)
    assert served(refused) == {"10.1.2.5": (8080,)}
    assert "Left out: 10.9.9.9, which is no Node's and in no podCIDR" in note(refused, "StaticBackendNotAllowed")
    assert "(none)" in note(refused, "StaticBackendNotAllowed")
    allowed = backed(endpoint, "10.1.2.5@rs1", trusted=False, more=(ALLOWED,))
    assert served(allowed).keys() == {"10.9.9.9", "10.1.2.5"}


def test_the_virtual_services_own_address_is_no_endpoint() -> None:
    result = backed("192.0.2.10@rs1", "10.1.2.5@rs1")
    assert served(result) == {"10.1.2.5": (8080,)}
    assert "192.0.2.10, the virtual service's own address" in note(result, "BackendIsAddress")


def test_one_packet_leaves_out_what_its_director_would_reach_by_nat() -> None:
    datagrams = slice_(endpoints=PODS, ports=["dns:5353/UDP"])
    front = fronting(ports=["53/UDP"], forwarding="DR", onePacket=True)
    result = compiled(*BASE, core(["dns:53/UDP"]), datagrams, front)
    assert served(result).keys() == {"10.1.2.5", "10.1.2.6", "10.1.3.5"}
    assert "10.1.1.5 on lb1, which directs as well" in note(result, "OnePacketForwarding")


def test_endpoints_behind_a_node_without_an_address_of_their_family_are_left_out() -> None:
    single = node("rs3", "10.0.0.13", pods=["10.1.4.0/24", "fd00:4::/64"])
    six = slice_("web-6", ["fd00:4::5@rs3", "2001:db8:1::11@rs1"], family="IPv6")
    dual = core(families=["IPv4", "IPv6"])
    front = fronting(vips=["192.0.2.10", "2001:db8::10"], forwarding="DR")
    result = compiled(*BASE, single, dual, slice_(endpoints=["10.1.4.5@rs3"]), six, front)
    assert served(result).keys() == {"10.1.4.5", "2001:db8:1::11"}
    assert "fd00:4::5 is behind Node rs3, which has no IPv6 address" in note(result, "NodeAddressMissing")
    assert result.servers == (3, 2)


def gateway(name: str, of: str, group_name: str, vip: str) -> Any:
    return fronting(name, of, vips=[vip], directorGroup=group_name, nat={"returnPath": "Gateway"})


def test_an_endpoint_whose_replies_go_to_anothers_gateway_is_left_out_until_they_do_not() -> None:
    core_group = group("core", addresses=["198.51.100.0/28"], gatewayAddresses=["10.0.0.252"])
    snapshot = Snapshot(trusted=True)
    slices = slice_("web-1", ["10.1.2.5@rs1", "10.1.3.5@rs2"]), slice_("api-1", ["10.1.2.5@rs1"], of="api")
    first, second = gateway("api", "api", "core", "198.51.100.1"), gateway("web", "web", "edge", "192.0.2.10")
    for each in (*BASE, core_group, core(), core(name="api"), *slices, first):
        snapshot.put(each)
    holder = compile_virtual_service(snapshot, WEB._replace(name="api"))
    snapshot.hold(holder.key, holder.claims)
    snapshot.put(second)
    result = compile_virtual_service(snapshot, WEB)
    assert served(result) == {"10.1.3.5": (8080,)}
    assert "replies of 10.1.2.5 TCP 8080 would go to gateway 10.0.0.1" in note(result, "GatewayAmbiguous")
    snapshot.remove("EndpointSlice", "shop", "api-1")
    left = compile_virtual_service(snapshot, holder.key)
    assert WEB in snapshot.hold(holder.key, left.claims)
    assert served(compile_virtual_service(snapshot, WEB)).keys() == {"10.1.2.5", "10.1.3.5"}


NODES: list[tuple[Node, set[str]]] = [
    (node("rs1", "10.0.0.11", "2001:db8:1::11", pods=["10.1.2.0/24"], rack="7"), set()),
    (node("rs1", "10.0.0.19", pods=["10.1.2.0/24"]), {"web"}),
    (node("rs9", "10.0.0.19", pods=["10.1.9.0/24"]), set()),
    (node("gone", "10.0.0.19"), {"web"}),
    (node("rs9", "10.1.3.5"), {"web"}),
    (node("rs9", "10.0.0.19", pods=["10.8.0.0/16"]), {"web"}),
]


@pytest.mark.parametrize(("changed", "concerned"), NODES)
def test_a_node_concerns_those_whose_endpoints_it_has_or_is_named_by(changed: Node, concerned: set[str]) -> None:
    snapshot = Snapshot(trusted=True)
    named = slice_(endpoints=["10.1.2.5@rs1", "10.1.3.5@rs2", "10.7.7.7@gone", "10.8.0.7"])
    other = fronting("other", "other", vips=["192.0.2.11"])
    for each in (*BASE, core(), core(name="other"), named, fronting(forwarding="DR"), other):
        snapshot.put(each)
    before = compile_virtual_service(snapshot, WEB)
    assert {key.name for key in snapshot.put(changed)} == concerned
    assert (compile_virtual_service(snapshot, WEB) == before) == (not concerned)


def test_a_namespace_is_admitted_by_its_labels_when_they_are_known() -> None:
    choosy = group(allowedNamespaces={"from": "Selector", "selector": {"matchLabels": {"team": "web"}}})
    snapshot = Snapshot()
    elsewhere = fronting("else", namespace="zoo", vips=["192.0.2.11"])
    for each in (*BASE, choosy, core(), slice_(endpoints=PODS), fronting(), elsewhere):
        snapshot.put(each)
    assert reasons(compile_virtual_service(snapshot, WEB)) == {"NamespaceNotAllowed"}
    assert "team, which is not known here" in compile_virtual_service(snapshot, WEB).refusals[0].message
    assert snapshot.put(space(team="web")) == {WEB}
    assert served(compile_virtual_service(snapshot, WEB))
    assert snapshot.put(space(team="web")) == set()
    assert snapshot.put(space(team="shop")) == {WEB}
    result = compile_virtual_service(snapshot, WEB)
    assert reasons(result) == {"NamespaceNotAllowed"}
    assert result.outcome == "Withdrawn"
    assert "team=web" in result.refusals[0].message
    assert snapshot.remove("Namespace", "", "shop") == {WEB}


def test_an_endpoint_concerns_those_who_name_its_service_and_nobody_else() -> None:
    snapshot = Snapshot(trusted=True)
    fronts = (fronting(), fronting("twin", vips=["192.0.2.11"]), fronting("other", "other", vips=["192.0.2.12"]))
    for each in (*BASE, core(), slice_(), *fronts):
        snapshot.put(each)
    changed: list[EndpointSlice] = [slice_(endpoints=["10.1.2.5@rs1"]), slice_(endpoints=["10.1.2.5@rs1 no"])]
    for each in changed:
        assert {key.name for key in snapshot.put(each)} == {"web", "twin"}
        assert snapshot.put(each) == set()
    assert snapshot.put(core()) == set()
    assert {key.name for key in snapshot.put(core(["http:81"]))} == {"web", "twin"}
    assert {key.name for key in snapshot.remove("Service", "shop", "web")} == {"web", "twin"}
