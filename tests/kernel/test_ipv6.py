"""All three forwarding methods over IPv6 and over both families at once; what IPv6 does differently."""

import socket
import struct
from ipaddress import ip_address
from typing import Any

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service

from ipvs_lab.net import Host, Topology, ask, await_condition, clients, serve
from ipvs_lab.topologies import far, one, two

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
BOTH = f"{VIP[4]} {VIP[6]}"
SERVERS = ("rs1", "rs2", "rs3")


def servers(lvs: Site) -> list[Host]:
    return [lvs[name] for name in SERVERS]


@pytest.mark.parametrize(
    ("topology", "spec", "target"),
    [
        pytest.param(two(), {"forwarding": "NAT"}, 8080, id="NAT-Masquerade"),
        pytest.param(two(), {"forwarding": "NAT", "nat": {"returnPath": "Gateway"}}, 8080, id="NAT-Gateway"),
        pytest.param(one(), {"forwarding": "DR"}, 80, id="DR"),
        pytest.param(far(), {"forwarding": "TUN"}, 80, id="TUN"),
    ],
)
def test_one_service_serves_both_families(
    site: MakeSite, topology: Topology, spec: dict[str, Any], target: int
) -> None:
    lvs = site(topology, nodes=SERVERS, gatewayAddresses=["10.0.0.1", "2001:db8:3::1"])
    rips = [*lvs.servers(*SERVERS), *lvs.servers(*SERVERS, family=6)]
    lvs.put(virtual_service("web", BOTH, f"80:{target}", rips, **spec))
    lvs.start()
    serve(servers(lvs), target)
    for family, vip in VIP.items():
        told = clients(lvs["client"], 12, vip, 80)
        assert told.answers == {"rs1": 4, "rs2": 4, "rs3": 4}, str(told)
        masquerade = spec == {"forwarding": "NAT"}
        seen = "10.0.0.1" if family == 4 else "2001:db8:3::1"
        assert told.seen["rs1"] == {seen if masquerade else lvs["client"].address(family=family)}
        flag = {"NAT": "m", "DR": "g", "TUN": "i"}[str(spec["forwarding"])]
        shown = f"{rips[0]}:{target}" if family == 4 else f"[{rips[3]}]:{target}"
        assert [line for line in lvs["director"].ipvs() if f"-r {shown} -{flag}" in line]


def test_only_the_director_answers_neighbour_solicitations_for_a_direct_routing_vip(site: MakeSite) -> None:
    lvs = site(one(), nodes=SERVERS)
    lvs.put(virtual_service("web", VIP[6], 80, lvs.servers(*SERVERS, family=6), forwarding="DR"))
    lvs.start()
    serve(servers(lvs), 80)
    with lvs["router"].capture("eth1", "icmp6") as seen:
        for _ in range(3):
            lvs["router"].run("ip", "-6", "neigh", "flush", "all")
            assert clients(lvs["client"], 3, VIP[6], 80).answers.total() == 3
    target = ip_address(VIP[6]).packed
    answers = {p.source_mac for p in seen.packets() if p.type == 136 and p.payload[:16] == target}
    assert answers == {lvs["director"].links_by_name()["eth0"]["address"]}


def test_a_vip_is_never_the_source_of_what_its_holders_send(site: MakeSite) -> None:
    lvs = site(one(), nodes=["rs1"])
    lvs.put(virtual_service("web", BOTH, 80, [*lvs.servers("rs1"), *lvs.servers("rs1", family=6)], forwarding="DR"))
    lvs.start()
    serve(lvs["client"], 9000, "tcp")
    for name in ("director", "rs1"):
        for family in (4, 6):
            answer = ask(lvs[name], lvs["client"].address(family=family), 9000)
            assert answer.address == lvs[name].address(family=family)


def advertise(router: Host, interface: str, lifetime: int = 1800) -> None:
    """One router advertisement without prefixes (RFC 4861, section 4.2)."""
    message = struct.pack(">BBHBBHII", 134, 0, 0, 64, 0, lifetime, 0, 0)
    with router.inside():
        sock = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.sendto(message, ("ff02::1", 0))


def learnt(host: Host) -> list[str]:
    routes = host.run("ip", "-6", "route", "show", "default", "proto", "ra").stdout
    return [line.split()[2] for line in routes.splitlines()]


def test_a_default_route_learnt_by_router_advertisement_stays_when_ipv6_nat_starts(site: MakeSite) -> None:
    lvs = site(two(), nodes=SERVERS)
    director = lvs["director"]
    director.run("ip", "-6", "route", "del", "default")
    advertise(lvs["router"], "eth1")
    await_condition(lambda: learnt(director), what="a default route by router advertisement")
    lvs.put(virtual_service("web", VIP[6], "80:8080", lvs.servers(*SERVERS, family=6)))
    lvs.start()
    serve(servers(lvs), 8080)
    assert clients(lvs["client"], 6, VIP[6], 80).answers == {"rs1": 2, "rs2": 2, "rs3": 2}
    [router] = learnt(director)
    director.run("ip", "-6", "route", "flush", "proto", "ra")
    advertise(lvs["router"], "eth1")
    await_condition(lambda: learnt(director) == [router], what="advertisements still being listened to")
    assert clients(lvs["client"], 3, VIP[6], 80).answers == {"rs1": 1, "rs2": 1, "rs3": 1}


def test_persistence_takes_an_ipv6_network_for_one_client(site: MakeSite) -> None:
    lvs = site(one(), nodes=SERVERS)
    lvs["client"].hold("eth0", *(f"2001:db8:1::{last}/64" for last in range(20, 30)))
    rips = lvs.servers(*SERVERS, family=6)
    lvs.put(virtual_service("web", VIP[6], 80, rips, forwarding="DR", persistence={"ipv6PrefixLength": 64}))
    lvs.start()
    serve(servers(lvs), 80)
    assert f"-A -t [{VIP[6]}]:80 -s rr -p 300 -M 64" in lvs["director"].ipvs()
    told = clients(lvs["client"], 10, VIP[6], 80, sources=[f"2001:db8:1::{last}" for last in range(20, 30)])
    assert list(told.answers.values()) == [10], str(told)
