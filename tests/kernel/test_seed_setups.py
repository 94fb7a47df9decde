"""The set-ups that every LVS text begins with, from manifests to what clients and wires saw."""

import socket

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service

from ipvs_lab.net import Host, Topology, ask, clients, serve
from ipvs_lab.net.packets import Packet
from ipvs_lab.topologies import one, two

VIP = "192.0.2.10"
RIPS = ("10.0.0.11", "10.0.0.12", "10.0.0.13")
SERVERS = ("rs1", "rs2", "rs3")


def on(lvs: Site, *names: str) -> list[Host]:
    return [lvs[name] for name in names]


def beside() -> Topology:
    """One network for everybody, the client included."""
    topology = one()
    topology.host("neighbour", lan="192.0.2.50/24 2001:db8:2::50/64", via="192.0.2.1 2001:db8:2::1")
    return topology


def serve_plainly(host: Host, port: int) -> None:
    """A UDP server on 0.0.0.0 that leaves the source of its answers to the kernel, as simple ones do."""
    with host.inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("0.0.0.0", port))

    def answer() -> None:
        while True:
            _, client = sock.recvfrom(2048)
            sock.sendto(f"{host.name} {client[0]} {client[1]}\n".encode(), client)

    host.start(answer, "plain-udp", [sock.fileno()])
    sock.close()


def test_two_network_nat_serves_through_machines_whose_default_gateway_is_the_director(site: MakeSite) -> None:
    lvs = site(two())
    lvs.put(virtual_service("web", VIP, "80:8080", RIPS, nat={"returnPath": "Gateway"}))
    lvs.start()
    serve(on(lvs, *SERVERS), 8080)
    told = clients(lvs["client"], 30, VIP, 80)
    assert told.answers == {"rs1": 10, "rs2": 10, "rs3": 10}, str(told)
    assert told.seen == {name: {"198.51.100.2"} for name in SERVERS}, "the client's own address"
    assert f"-a -t {VIP}:80 -r 10.0.0.11:8080 -m -w 1" in lvs["director"].ipvs()


@pytest.mark.parametrize("gateway", ["10.0.0.254", "10.0.0.1"], ids=["floating", "the director's own"])
def test_two_network_nat_brings_replies_of_managed_servers_back_without_their_default_gateway(
    site: MakeSite, gateway: str
) -> None:
    topology = two()
    topology.host("dead-end", servers="10.0.0.2/24")
    lvs = site(topology, nodes=SERVERS, gatewayAddresses=[gateway])
    for host in on(lvs, *SERVERS):
        host.run("ip", "route", "replace", "default", "via", "10.0.0.2")
    lvs.put(virtual_service("web", VIP, "80:8080", RIPS, nat={"returnPath": "Gateway"}))
    lvs.start()
    serve(on(lvs, *SERVERS), 8080)
    told = clients(lvs["client"], 30, VIP, 80)
    assert told.answers == {"rs1": 10, "rs2": 10, "rs3": 10}, str(told)
    assert told.seen == {name: {"198.51.100.2"} for name in SERVERS}


def serve_both(host: Host) -> None:
    serve(host, 8080)
    serve_plainly(host, 8080)


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("path", ["Masquerade", "Gateway"])
def test_one_network_nat_serves_clients_behind_the_router_and_beside_the_servers(
    site: MakeSite, path: str, proto: str
) -> None:
    lvs = site(beside(), nodes=SERVERS)
    rips = lvs.servers(*SERVERS)
    lvs.put(virtual_service("web", VIP, f"80:8080/{proto.upper()}", rips, nat={"returnPath": path}))
    lvs.start()
    for host in on(lvs, *SERVERS):
        serve_both(host)
    for client in on(lvs, "client", "neighbour"):
        told = clients(client, 30, VIP, 80, proto, timeout=1)
        assert told.answers == {"rs1": 10, "rs2": 10, "rs3": 10}, str(told)
        source = client.address() if path == "Gateway" else "192.0.2.2"
        assert told.seen == {name: {source} for name in SERVERS}


@pytest.mark.parametrize("path", ["Masquerade", "Gateway"])
def test_clients_who_talk_to_a_nat_real_server_directly_are_answered_directly(site: MakeSite, path: str) -> None:
    lvs = site(beside(), nodes=["rs1"])
    rip = lvs["rs1"].address()
    lvs.put(virtual_service("web", VIP, ["80:8080", "80:8080/UDP"], [rip], nat={"returnPath": path}))
    lvs.start()
    serve_both(lvs["rs1"])
    for proto in ("tcp", "udp"):
        assert ask(lvs["neighbour"], VIP, 80, proto).server == "rs1"
        with lvs["director"].capture("eth0", f"{proto} port 8080") as seen:
            for client in on(lvs, "neighbour", "client"):
                assert ask(client, rip, 8080, proto, timeout=1)[:2] == ("rs1", client.address())
        assert seen.packets() == [], "of flows that are none of the director's business"


@pytest.mark.parametrize("family", [4, 6])
def test_one_network_nat_sends_no_redirects(site: MakeSite, family: int) -> None:
    lvs = site(beside(), nodes=SERVERS)
    vip = {4: VIP, 6: "2001:db8:2::10"}[family]
    rips = lvs.servers(*SERVERS, family=family)
    lvs.put(virtual_service("web", vip, "80:8080", rips, nat={"returnPath": "Gateway"}))
    lvs.start()
    serve(on(lvs, *SERVERS), 8080)
    with lvs["director"].capture("eth0") as seen:
        told = clients(lvs["neighbour"], 30, vip, 80)
    assert told.answers == {"rs1": 10, "rs2": 10, "rs3": 10}, str(told)
    redirects = [p for p in seen.packets() if (p.protocol, p.type) in (("icmp", 5), ("icmpv6", 137))]
    assert redirects == []


def test_direct_routing_needs_no_forwarding_and_replies_do_not_pass_the_director(site: MakeSite) -> None:
    lvs = site(one(), nodes=SERVERS)
    lvs.put(virtual_service("web", VIP, 80, lvs.servers(*SERVERS), forwarding="DR"))
    lvs.start()
    serve(on(lvs, *SERVERS), 80)
    director = lvs["director"]
    with director.capture("eth0", "tcp port 80") as passed, lvs["router"].capture("eth1", "tcp port 80") as seen:
        told = clients(lvs["client"], 30, VIP, 80)
    assert told.answers == {"rs1": 10, "rs2": 10, "rs3": 10}, str(told)
    assert told.seen == {name: {"198.51.100.2"} for name in SERVERS}
    assert {p.destination for p in passed.packets()} == {VIP}, "requests only"
    answered = {p.source_mac for p in seen.packets() if p.source == VIP}
    assert answered == {mac(lvs[name]) for name in SERVERS}
    assert director.sysctl("net.ipv4.ip_forward") == "0"
    assert director.sysctl("net.ipv4.conf.eth0.forwarding") == "0"


def mac(host: Host, interface: str = "eth0") -> str:
    address: str = host.links_by_name()[interface]["address"]
    return address


def askers(packets: list[Packet], address: str) -> set[str]:
    """Hosts that asked with an address as their own."""
    return {p.source_mac for p in packets if p.protocol == "arp" and p.source == address and p.type == 1}


def test_only_the_director_answers_arp_for_a_direct_routing_vip(site: MakeSite) -> None:
    lvs = site(one(), nodes=SERVERS)
    lvs.put(virtual_service("web", VIP, 80, lvs.servers(*SERVERS), forwarding="DR"))
    lvs.start()
    serve(on(lvs, *SERVERS), 80)
    for name in ("rs1", "rs2", "rs3"):
        assert VIP in lvs.held(name)
    with lvs["router"].capture("eth1", "arp") as seen:
        for _ in range(3):
            for host in lvs.net:
                host.run("ip", "neigh", "flush", "all")
            assert clients(lvs["client"], 6, VIP, 80).answers.total() == 6
    answers = {p.source_mac for p in seen.packets() if p.source == VIP and p.type == 2}
    assert answers == {mac(lvs["director"])}
    assert askers(seen.packets(), VIP) <= {mac(lvs["director"])}, "real servers do not ask as the VIP either"
    assert [entry["lladdr"] for entry in lvs["router"].neighbours() if entry["dst"] == VIP] == [mac(lvs["director"])]
