"""What a real server must have in its kernel for a plan, by forwarding method."""

from dataclasses import replace
from typing import Any

from tests.unit.agent.plans import DIP, DIRECTOR_MAC, VIP, plan, real_server

from ipvs_agent.desired.share import Context, Share
from ipvs_agent.desired.whole import desired
from ipvs_agent.facts import Neighbour, Route, Routes
from ipvs_agent.rows import (
    VIP_LINK,
    AddressKey,
    FouKey,
    HopKey,
    HopTarget,
    NftKey,
    NftRow,
    RouteKey,
    RouteRow,
    RuleKey,
    RuleRow,
    SysctlRow,
)
from ipvs_api.plan import PlanBackend, PlanDirector, PlanServer, ServerRole
from ipvs_api.virtualservice import Forwarding, Persistence, ReturnPath, TunnelSpec, TunnelType

PODS = (PlanServer("10.244.1.1", (8080,), 2), PlanServer("10.244.1.2", (8080,)), PlanServer("10.244.1.3", (8080,), 0))
BEHIND = (PlanBackend(ServerRole.SECOND_HOP, PODS, "rs1", ("192.0.2.21",)),)
POD_ROUTES = Routes(
    (Route("192.0.2.0/24", "eth0"), Route("0.0.0.0/0", "eth0", "192.0.2.254"), Route("10.244.1.0/24", "cni0"))
)


def share_of(forwarding: Forwarding, where: Context | None = None, **more: Any) -> Share:
    return desired(plan(forwarding, **more), where or real_server())


def test_masqueraded_nat_asks_nothing_of_a_real_server() -> None:
    share = share_of(Forwarding.NAT)
    assert share.server.is_empty()
    assert share.director.is_empty()


def test_dr_to_a_host_is_a_silent_vip() -> None:
    share = share_of(Forwarding.DR)
    assert set(share.server.addresses) == {AddressKey(VIP_LINK, VIP)}
    assert share.server.links[VIP_LINK].kind == "dummy"
    assert NftKey("silent4", (VIP,)) in share.server.elements
    assert share.server.elements[NftKey("own4", ("eth0",))].value == ("192.0.2.21",)
    assert share.neighbours == {DIP}
    assert share.findings == []


def test_tun_to_a_host_is_a_tunnel_from_each_director_only() -> None:
    two = (PlanDirector("lb1", (DIP,)), PlanDirector("lb2", ("192.0.2.2",)))
    share = share_of(Forwarding.TUN, directors=two)
    tunnels = {name: row for name, row in share.server.links.items() if name != VIP_LINK}
    assert {(row.kind, row.local, row.remote) for row in tunnels.values()} == {
        ("ipip", "192.0.2.21", DIP),
        ("ipip", "192.0.2.21", "192.0.2.2"),
    }
    for name in tunnels:
        assert share.server.sysctls[f"net/ipv4/conf/{name}/rp_filter"] == SysctlRow(2)
        assert AddressKey(name, "192.0.2.21") in share.server.addresses
        assert NftKey("tunnel_links", (name,)) in share.server.elements
    assert share.server.elements[NftKey("mss4", (VIP,))].value == (1440,)


def test_gue_opens_its_port() -> None:
    share = share_of(Forwarding.TUN, tunnel=TunnelSpec(TunnelType.GUE, 6080))
    assert set(share.server.fou) == {FouKey(4, 6080)}
    assert share.server.elements[NftKey("mss4", (VIP,))].value == (1428,)


def test_the_second_hop_takes_what_comes_from_the_directors_mac() -> None:
    share = share_of(Forwarding.DR, real_server(routes=POD_ROUTES), backends=BEHIND)
    hop = share.server.hops[HopKey(4, VIP, "tcp", 80)]
    assert hop.targets == (HopTarget("10.244.1.1", 8080, 2), HopTarget("10.244.1.2", 8080, 1))
    assert hop.macs == (DIRECTOR_MAC,)
    assert hop.links == ()
    assert not hop.sticky
    assert share.server.addresses == {}
    assert set(share.server.sysctls) == {"net/ipv4/conf/cni0/forwarding", "net/ipv4/conf/eth0/forwarding"}


def test_the_second_hop_sends_to_pods_that_end_where_no_others_are_left() -> None:
    """Its director may not know yet; on a director, IPVS has others for what comes from itself."""
    ending = tuple(PlanServer(server.address, server.ports, 0) for server in PODS)
    for directors, hops in (({}, 1), ({"directors": (PlanDirector("lb1", (DIP,)), PlanDirector("rs1", ()))}, 0)):
        backends = (PlanBackend(ServerRole.SECOND_HOP, ending, "rs1", ("192.0.2.21",)),)
        share = share_of(Forwarding.DR, real_server(routes=POD_ROUTES), backends=backends, **directors)
        expected = tuple(HopTarget(server.address, 8080, 1) for server in PODS)
        assert [(hop.targets, hop.directed_only) for hop in share.server.hops.values()] == [(expected, True)] * hops


def test_clients_behind_the_node_take_its_second_hop() -> None:
    where = replace(real_server(routes=POD_ROUTES), behind=("10.244.1.0/24", "2001:db8:244::/64"))
    share = share_of(Forwarding.DR, where, backends=BEHIND)
    assert NftKey("hop_clients4", ("10.244.1.0/24",)) in share.server.elements
    assert not any(key.set == "hop_clients6" for key in share.server.elements), "there is no IPv6 address of it"
    assert not share.server.hops[HopKey(4, VIP, "tcp", 80)].directed_only


def test_the_second_hop_out_of_a_tunnel_goes_by_its_links() -> None:
    share = share_of(Forwarding.TUN, real_server(routes=POD_ROUTES), backends=BEHIND, persistence=Persistence())
    hop = share.server.hops[HopKey(4, VIP, "tcp", 80)]
    assert hop.macs == ()
    assert hop.links == tuple(share.server.links)
    assert hop.sticky


def test_links_of_several_directors_are_in_the_order_in_which_the_kernel_is_read() -> None:
    """Else every audit would find the second hop changed."""
    some = tuple(PlanDirector(f"lb{number}", (f"192.0.2.{number}",)) for number in range(1, 9))
    share = share_of(Forwarding.TUN, real_server(routes=POD_ROUTES), backends=BEHIND, directors=some)
    links = share.server.hops[HopKey(4, VIP, "tcp", 80)].links
    assert len(links) == 8
    assert links == tuple(sorted(share.server.links))


def test_reported_macs_are_taken_as_they_are() -> None:
    told = (PlanDirector("lb1", ("198.51.100.1",), ("02:aa:00:00:00:01",)),)
    share = share_of(Forwarding.DR, real_server(neighbours={}), backends=BEHIND, directors=told)
    assert share.server.hops[HopKey(4, VIP, "tcp", 80)].macs == ("02:aa:00:00:00:01",)


def test_a_director_that_does_not_answer_is_told() -> None:
    share = share_of(Forwarding.DR, real_server(neighbours={DIP: Neighbour("eth0", failed=True)}), backends=BEHIND)
    assert share.server.hops == {}
    (finding,) = share.findings
    assert finding.reason == "DirectorUnresolved"
    assert "lb1" in finding.message


def test_dr_from_another_network_is_told() -> None:
    share = share_of(Forwarding.DR, directors=(PlanDirector("lb1", ("10.9.9.9",)),))
    assert [finding.reason for finding in share.findings] == ["DirectorNotOnLink"]


def test_a_default_route_through_the_director_is_told_under_dr() -> None:
    routes = Routes((Route("192.0.2.0/24", "eth0"), Route("0.0.0.0/0", "eth0", DIP)))
    share = share_of(Forwarding.DR, real_server(routes=routes))
    (finding,) = share.findings
    assert finding.reason == "GatewayIsDirector"
    assert DIP in finding.message


def test_the_way_back_is_a_marked_route_through_the_gateway() -> None:
    where = real_server()
    where = Context(where.host, where.groups, {(4, DIP): 3})
    share = share_of(Forwarding.NAT, where, return_path=ReturnPath.GATEWAY, gateways=(DIP,))
    assert share.server.elements == {NftKey("return4", (DIRECTOR_MAC, "192.0.2.21", "tcp", 80)): NftRow((3,))}
    assert share.server.routes == {RouteKey(4, 11803, "default"): RouteRow(DIP, "eth0")}
    assert share.server.rules == {RuleKey(4, 11803, 0x0030_0000, 0x0070_0000): RuleRow(11803)}


def test_a_gateway_behind_a_router_is_told() -> None:
    share = share_of(Forwarding.NAT, return_path=ReturnPath.GATEWAY, gateways=("10.9.9.9",))
    assert [finding.reason for finding in share.findings] == ["GatewayNotOnLink"]


def test_an_eighth_gateway_is_told() -> None:
    share = share_of(Forwarding.NAT, return_path=ReturnPath.GATEWAY, gateways=(DIP,))
    assert [finding.reason for finding in share.findings] == ["TooManyGateways"]


def test_strict_reverse_path_filtering_is_loosened_where_the_host_has_two_homes() -> None:
    two = Routes((Route("192.0.2.0/24", "eth0"), Route("0.0.0.0/0", "eth1", "203.0.113.1")))
    strict = {"net/ipv4/conf/all/rp_filter": 1, "net/ipv4/conf/eth0/rp_filter": 0}
    share = share_of(Forwarding.DR, real_server(routes=two, sysctls=strict))
    assert share.server.sysctls == {"net/ipv4/conf/eth0/rp_filter": SysctlRow(2)}
    for alone in (strict, {}):
        one_home = real_server(sysctls=alone) if alone else real_server(routes=two)
        assert share_of(Forwarding.DR, one_home).server.sysctls == {}
