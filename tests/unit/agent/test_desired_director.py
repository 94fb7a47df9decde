"""What a director must have in its kernel for a plan, by forwarding method and by what its host is like."""

import dataclasses
from typing import Any

import pytest
from msgspec.structs import replace
from tests.unit.agent.plans import DIP, VIP, context, hosts, plan

from ipvs_agent.desired.share import Severity, Share
from ipvs_agent.desired.whole import desired
from ipvs_agent.facts import Interface, InterfaceAddress, Neighbour, Route, Routes
from ipvs_agent.rows import VIP_LINK, AddressKey, NftKey, RouteKey, RuleKey, SysctlRow
from ipvs_agent.services import Destination, destinations_of, pack_key, unpack_destination, unpack_head
from ipvs_api.node import NodeGroup
from ipvs_api.plan import PlanAddress, PlanBackend, PlanDirector, PlanPort, PlanServer, ServerRole
from ipvs_api.virtualservice import (
    Forwarding,
    Persistence,
    Protocol,
    ReturnPath,
    Scheduler,
    SchedulerFlag,
    TunnelSpec,
    TunnelType,
)

FLOW = (VIP, "tcp", 80)
WEB = pack_key("TCP", VIP, 80)


def share_of(**more: Any) -> Share:
    return desired(plan(**more), context())


def servers(share: Share, key: bytes = WEB) -> list[Destination]:
    return [unpack_destination(packed) for packed in destinations_of(share.director.ipvs[key])]


def sets(share: Share) -> dict[str, set[tuple[str | int, ...]]]:
    found: dict[str, set[tuple[str | int, ...]]] = {}
    for key in share.director.elements:
        found.setdefault(key.set, set()).add(key.element)
    return found


def test_nat_masquerades_and_opens_the_port() -> None:
    share = share_of()
    assert servers(share) == [Destination("192.0.2.21", 80, 0, 1), Destination("192.0.2.22", 80, 0, 1)]
    assert set(share.director.addresses) == {AddressKey("eth0", VIP)}
    assert sets(share) == {
        "client_interfaces": {("eth0",)},
        "guarded4": {(VIP,)},
        "open4": {FLOW},
        "masquerade4": {FLOW},
    }
    assert share.director.sysctls["net/ipv4/vs/conntrack"] == SysctlRow(1, at_least=True)
    assert share.director.sysctls["net/ipv4/conf/eth0/forwarding"] == SysctlRow(1, at_least=True)
    assert share.director.sysctls["net/ipv4/conf/eth0/send_redirects"] == SysctlRow(0)
    assert share.findings == []


@pytest.mark.parametrize(
    ("forwarding", "behind", "accepts"),
    [
        (Forwarding.DR, ("10.244.0.0/24", "2001:db8:244::/64"), True),
        (Forwarding.TUN, ("10.244.0.0/24",), True),
        (Forwarding.DR, (), False),
        (Forwarding.DR, ("2001:db8:244::/64",), False),
        (Forwarding.NAT, ("10.244.0.0/24",), False),
    ],
)
def test_a_director_with_clients_behind_it_takes_answers_that_bear_the_vip(
    forwarding: Forwarding, behind: tuple[str, ...], accepts: bool
) -> None:
    share = desired(plan(forwarding), dataclasses.replace(context(), behind=behind))
    raised = share.director.sysctls.get("net/ipv4/conf/eth0/accept_local")
    assert raised == (SysctlRow(1, at_least=True) if accepts else None)


def test_dr_needs_no_forwarding_no_tracking_and_knows_its_next_hops() -> None:
    share = share_of(forwarding=Forwarding.DR)
    assert {d.forwarding for d in servers(share)} == {3}
    assert set(share.director.sysctls) == {"net/ipv4/vs/expire_nodest_conn"}
    assert sets(share)["untracked4"] == {FLOW}
    assert "masquerade4" not in sets(share)
    assert set(share.director.routes) == {RouteKey(4, 11800, "192.0.2.21/32"), RouteKey(4, 11800, "192.0.2.22/32")}
    assert set(share.director.rules) == {RuleKey(4, 11800, 0, 0, local=True)}


@pytest.mark.parametrize(("kind", "number", "port"), [("IPIP", 0, 0), ("GUE", 1, 6080), ("GRE", 2, 0)])
def test_tun_carries_its_tunnel_type(kind: str, number: int, port: int) -> None:
    share = share_of(forwarding=Forwarding.TUN, tunnel=TunnelSpec(TunnelType(kind), port))
    assert {(d.forwarding, d.tunnel_type, d.tunnel_port) for d in servers(share)} == {(2, number, port)}


def test_gateway_nat_keeps_the_clients_address() -> None:
    share = share_of(return_path=ReturnPath.GATEWAY, gateways=(DIP,))
    assert "masquerade4" not in sets(share)
    assert share.director.sysctls["net/ipv4/conf/eth0/forwarding"] == SysctlRow(1, at_least=True)


def test_a_floating_gateway_is_where_the_real_servers_are() -> None:
    group = NodeGroup("default", ("192.0.2.0/28",), True, gateway_addresses=("192.0.2.200",), gateway_holder=True)
    there = context()
    there = type(there)(there.host, {"default": group})
    share = desired(plan(return_path=ReturnPath.GATEWAY, gateways=("192.0.2.200",)), there)
    assert AddressKey("eth0", "192.0.2.200") in share.director.addresses


def test_head_says_scheduler_flags_persistence_and_netmask() -> None:
    share = share_of(
        scheduler=Scheduler.SH,
        scheduler_flags=(SchedulerFlag.FALLBACK, SchedulerFlag.PORT),
        persistence=Persistence(600, 24, 64),
        one_packet=True,
    )
    assert unpack_head(share.director.ipvs[WEB]) == ("sh", 0x1 | 0x4 | 0x8 | 0x10, 600, 24)
    assert "net/ipv4/vs/expire_quiescent_template" in share.director.sysctls


def test_nobody_holds_it_so_it_is_silent_on_every_director() -> None:
    share = share_of(addresses=(PlanAddress(VIP),))
    assert set(share.director.addresses) == {AddressKey(VIP_LINK, VIP)}
    assert sets(share)["silent4"] == {(VIP,)}
    assert share.director.elements[NftKey("own4", ("eth0",))].value == (DIP,)


def test_a_standby_has_services_and_no_address() -> None:
    share = share_of(addresses=(PlanAddress(VIP, "lb2"),))
    assert share.director.ipvs
    assert share.director.addresses == {}


def test_what_real_servers_are_still_made_ready_for_is_not_served_yet() -> None:
    ports = (PlanPort("http", Protocol.TCP, 80), PlanPort("more", Protocol.TCP, 81, directed=False))
    both = tuple(replace(each, servers=(replace(each.servers[0], ports=(80, 81)),)) for each in hosts(21, 22))
    addresses = (PlanAddress(VIP, "lb1"), PlanAddress("192.0.2.11", "lb1", directed=False))
    share = share_of(forwarding=Forwarding.DR, ports=ports, backends=both, addresses=addresses)
    assert set(share.director.ipvs) == {WEB}
    assert {key.address for key in share.director.addresses} == {VIP}
    assert sets(share)["open4"] == {(VIP, "tcp", 80)}


def test_sources_are_the_allowed_ones_and_the_directors() -> None:
    share = share_of(allowed_sources=("203.0.113.0/24", "2001:db8::/32"))
    assert sets(share)["restricted4"] == {FLOW}
    assert {element[3] for element in sets(share)["sources4"]} == {"203.0.113.0/24", DIP}


def local_and_remote() -> tuple[PlanBackend, ...]:
    def node(name: str, own: str, *pods: str) -> PlanBackend:
        return PlanBackend(ServerRole.SECOND_HOP, tuple(PlanServer(pod, (8080,)) for pod in pods), name, (own,))

    return node("lb1", DIP, "10.244.1.1", "10.244.1.2"), node(
        "n2", "192.0.2.22", "10.244.2.1", "10.244.2.2", "10.244.2.3"
    )


def test_behind_a_second_hop_the_node_is_the_destination_and_its_own_servers_are_nat() -> None:
    share = share_of(forwarding=Forwarding.DR, backends=local_and_remote())
    assert sorted(servers(share)) == [
        Destination("10.244.1.1", 8080, 0, 1),
        Destination("10.244.1.2", 8080, 0, 1),
        Destination("192.0.2.22", 80, 3, 3),
    ]


def test_thresholds_of_a_node_are_its_servers_together() -> None:
    (_, remote) = local_and_remote()
    limited = replace(
        remote, servers=tuple(replace(s, max_connections=10, resume_connections=5) for s in remote.servers)
    )
    (there,) = servers(share_of(forwarding=Forwarding.DR, backends=(limited,)))
    assert (there.upper, there.lower) == (30, 15)
    mixed = replace(limited, servers=(replace(limited.servers[0], max_connections=0), *limited.servers[1:]))
    (there,) = servers(share_of(forwarding=Forwarding.DR, backends=(mixed,)))
    assert (there.upper, there.lower) == (0, 0)


def test_a_server_does_not_take_ports_it_does_not_serve() -> None:
    ports = (PlanPort("http", Protocol.TCP, 80), PlanPort("dns", Protocol.UDP, 53))
    one = PlanBackend(ServerRole.MACHINE, (PlanServer("192.0.2.21", (80, 0)), PlanServer("192.0.2.22", (0, 5353))))
    share = share_of(ports=ports, backends=(one,))
    assert [d.address for d in servers(share)] == ["192.0.2.21"]
    assert [(d.address, d.port) for d in servers(share, pack_key("UDP", VIP, 53))] == [("192.0.2.22", 5353)]


REQUIREMENTS = [
    ("DR behind a router", Forwarding.DR, "10.9.9.9", "RealServerNotOnLink", "192.0.2.254"),
    ("TUN without a route", Forwarding.TUN, "198.51.100.1", "RealServerUnreachable", "no route"),
]


@pytest.mark.parametrize(("name", "forwarding", "address", "reason", "found"), REQUIREMENTS, ids=lambda v: str(v)[:20])
def test_a_server_that_cannot_be_forwarded_to_is_left_out_and_told(
    name: str, forwarding: Forwarding, address: str, reason: str, found: str
) -> None:
    routes = Routes((Route("192.0.2.0/24", "eth0"), Route("10.0.0.0/8", "eth0", "192.0.2.254")))
    backends = (*hosts(21), PlanBackend(ServerRole.MACHINE, (PlanServer(address, (80,)),)))
    share = desired(plan(forwarding, backends=backends), context(routes=routes))
    assert address not in {d.address for d in servers(share)}
    (finding,) = [f for f in share.findings if f.severity is Severity.FAILURE]
    assert finding.reason == reason
    assert finding.real_server == address
    assert found in finding.message


def test_a_silent_real_server_is_told_and_kept() -> None:
    silent = {"192.0.2.21": Neighbour("eth0", failed=True)}
    share = desired(plan(Forwarding.DR), context(neighbours=silent))
    assert len(servers(share)) == 2
    assert [f.reason for f in share.findings] == ["RealServerSilent"]


def test_a_tunnel_that_shrinks_the_path_is_a_note() -> None:
    share = share_of(forwarding=Forwarding.TUN)
    assert {(f.reason, f.severity) for f in share.findings} == {("PathMTU", Severity.NOTE)}
    assert "1480" in share.findings[0].message


def test_without_a_client_facing_interface_nothing_is_programmed() -> None:
    share = desired(plan(), context(interfaces={}, routes=Routes(())))
    assert share.director.is_empty()
    assert [(f.reason, f.severity) for f in share.findings] == [("InterfaceMissing", Severity.BLOCK)]


def test_a_feature_that_this_agent_lacks_blocks_the_plan() -> None:
    share = share_of(requires=("v1", "quantum"))
    assert share.director.is_empty()
    assert "quantum" in share.findings[0].message


def test_ipv6_forwarding_is_the_interfaces_where_the_kernel_can() -> None:
    v6 = context(
        interfaces={"eth0": Interface(2, "eth0", addresses=(InterfaceAddress("2001:db8::1", 64),))},
        routes=Routes((Route("2001:db8::/64", "eth0"), Route("::/0", "eth0", "2001:db8::ff"))),
        sysctls={"net/ipv6/conf/eth0/force_forwarding": 0, "net/ipv6/conf/eth0/accept_ra": 1},
    )
    group = NodeGroup("default", ("2001:db8::/64",), director=True)
    ours = plan(
        addresses=(PlanAddress("2001:db8::10", "lb1"),),
        directors=(PlanDirector("lb1", ("2001:db8::1",)),),
        backends=(PlanBackend(ServerRole.MACHINE, (PlanServer("2001:db8::21", (80,)),)),),
    )
    share = desired(ours, type(v6)(v6.host, {"default": group}))
    assert "net/ipv6/conf/eth0/force_forwarding" in share.director.sysctls
    assert NftKey("no_redirects", ("eth0",)) in share.director.elements
    old = dataclasses.replace(v6.host, sysctls={"net/ipv6/conf/eth0/accept_ra": 1})
    share = desired(ours, type(v6)(old, {"default": group}))
    assert share.director.sysctls["net/ipv6/conf/all/forwarding"] == SysctlRow(1, at_least=True)
    assert share.director.sysctls["net/ipv6/conf/eth0/accept_ra"] == SysctlRow(2)
