"""The way back of NAT Gateway at the real server: flows from the director go back to it, all others directly."""

import socket
from collections.abc import Callable

import pytest

from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.rows import (
    RETURN_MARK_MASK,
    RETURN_MARK_SHIFT,
    ROUTE_TABLE_BASE,
    RULE_PRIORITY,
    NftKey,
    NftRow,
)
from ipvs_agent.table import Change, Verdict
from ipvs_lab.net import Crowd, Host, Network, Topology, ask, clients, serve

MakeNetwork = Callable[[Topology], Network]

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
DIRECTOR = {4: "192.0.2.2", 6: "2001:db8:2::2"}
SERVER = {4: "192.0.2.11", 6: "2001:db8:2::11"}
CLIENT = {4: "192.0.2.1", 6: "2001:db8:2::1"}
FAR = {4: "198.51.100.1", 6: "2001:db8:9::1"}
POD = {4: "10.0.0.11", 6: "2001:db8:10::11"}
DIRECTOR_MAC, SERVER_MAC, CLIENT_MAC = "02:00:00:00:04:00", "02:00:00:00:05:00", "02:00:00:00:01:00"
PATH = 3
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
PROTOCOLS = pytest.mark.parametrize("proto", ["tcp", "udp", "sctp"])
FLAG = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}


def bracketed(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    """One network with a client, a router to a far client, a director and a server; a pod behind the server."""
    topology = Topology()
    topology.lan("lan")
    topology.lan("far")
    topology.lan("pods")
    topology.host("client", lan="192.0.2.1/24 2001:db8:2::1/64")
    far = "198.51.100.254/24 2001:db8:9::254/64"
    topology.host("router", lan="192.0.2.254/24 2001:db8:2::254/64", far=far, forwarding=True)
    topology.host("far", far="198.51.100.1/24 2001:db8:9::1/64", via="198.51.100.254 2001:db8:9::254")
    default = "192.0.2.254 2001:db8:2::254"
    quiet: dict[str, str | int] = {"net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.eth0.send_redirects": 0}
    routes = ("10.0.0.0/24 via 192.0.2.11", "2001:db8:10::/64 via 2001:db8:2::11")
    lan = "192.0.2.2/24 2001:db8:2::2/64"
    topology.host("director", lan=lan, via=default, routes=routes, forwarding=True, sysctls=quiet)
    pods = "10.0.0.1/24 2001:db8:10::1/64"
    topology.host("server", lan="192.0.2.11/24 2001:db8:2::11/64", pods=pods, via=default, forwarding=True)
    topology.host("pod", pods="10.0.0.11/24 2001:db8:10::11/64", via="10.0.0.1 2001:db8:10::1")
    net = network(topology)
    for family in (4, 6):
        # As the director's own table would have it over IPv6: no redirects to a network neighbour.
        net["director"].run("nft", "-f", "-", stdin=NO_REDIRECTS)
        net["director"].hold("eth0", VIP[family])
    return net


NO_REDIRECTS = """
add table inet quiet
add chain inet quiet out { type filter hook output priority 0; }
add rule inet quiet out icmpv6 type nd-redirect drop
"""


def direct(director: Host, family: int, address: str, proto: str) -> None:
    director.run("ipvsadm", "-A", FLAG[proto], bracketed(VIP[family], 80), "-s", "rr")
    director.run("ipvsadm", "-a", FLAG[proto], bracketed(VIP[family], 80), "-r", bracketed(address, 8080), "-m")


def route_back(server: Host, family: int) -> None:
    """What the agent's other tables do: marked packets to the director."""
    table, mark = str(ROUTE_TABLE_BASE + PATH), f"{PATH << RETURN_MARK_SHIFT:#x}/{RETURN_MARK_MASK:#x}"
    gateway = ["default", "via", DIRECTOR[family], "dev", "eth0", "table", table]
    server.run("ip", f"-{family}", "route", "add", *gateway)
    server.run("ip", f"-{family}", "rule", "add", "priority", str(RULE_PRIORITY), "fwmark", mark, "lookup", table)


def mark_flows(server: Host, family: int, address: str, proto: str) -> None:
    key = NftKey(f"return{family}", (DIRECTOR_MAC, address, proto, 8080))
    with NftTable() as table:
        outcomes = server.call(table.write, [Change(key, None, NftRow((PATH,)))])
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


@PROTOCOLS
@FAMILIES
def test_clients_beside_the_server_and_far_ones_are_answered_through_the_director(
    net: Network, family: int, proto: str
) -> None:
    direct(net["director"], family, SERVER[family], proto)
    serve(net["server"], 8080, proto)
    with pytest.raises(OSError):  # noqa: PT011  # classic NAT: nothing or a refusal
        ask(net["client"], VIP[family], 80, proto)
    route_back(net["server"], family)
    mark_flows(net["server"], family, SERVER[family], proto)
    for name, address in (("client", CLIENT), ("far", FAR)):
        histogram = clients(net[name], 5, VIP[family], 80, proto)
        assert histogram.answers == {"server": 5}
        assert histogram.seen == {"server": {address[family]}}


@PROTOCOLS
@FAMILIES
def test_a_pods_answers_go_back_through_the_director(net: Network, family: int, proto: str) -> None:
    direct(net["director"], family, POD[family], proto)
    serve(net["pod"], 8080, proto)
    route_back(net["server"], family)
    mark_flows(net["server"], family, POD[family], proto)
    for name, address in (("client", CLIENT), ("far", FAR)):
        assert clients(net[name], 5, VIP[family], 80, proto).seen == {"pod": {address[family]}}


def answer_without_care(address: str) -> None:
    """A UDP server on the any-address that does not look where it was asked at."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 8080))
        while True:
            _, client = sock.recvfrom(100)
            sock.sendto(f"careless {client[0]} {client[1]}\n".encode(), client)


def test_udp_server_that_does_not_choose_its_source_is_served(net: Network) -> None:
    """Its answer has no source yet when the route is looked up, so no rule on the source could catch it."""
    direct(net["director"], 4, SERVER[4], "udp")
    net["server"].fork(answer_without_care, "0.0.0.0")
    route_back(net["server"], 4)
    mark_flows(net["server"], 4, SERVER[4], "udp")
    assert clients(net["client"], 5, VIP[4], 80, "udp").answers == {"careless": 5}


@FAMILIES
def test_who_talks_to_the_server_itself_is_answered_directly(net: Network, family: int) -> None:
    direct(net["director"], family, SERVER[family], "tcp")
    serve(net["server"], 8080)
    route_back(net["server"], family)
    mark_flows(net["server"], family, SERVER[family], "tcp")
    with net["client"].capture("eth0", "tcp port 8080") as seen:
        assert ask(net["client"], SERVER[family], 8080).server == "server"
    came_from = {packet.source_mac for packet in seen.packets() if packet.direction == "in"}
    assert came_from == {SERVER_MAC}
    with net["server"].capture("eth0", "tcp port 8080") as seen:
        assert ask(net["client"], VIP[family], 80).server == "server"
    assert {packet.destination_mac for packet in seen.packets() if packet.direction == "out"} == {DIRECTOR_MAC}


def test_other_bits_of_both_marks_stay(net: Network) -> None:
    server = net["server"]
    direct(net["director"], 4, SERVER[4], "tcp")
    serve(server, 8080)
    route_back(server, 4)
    mark_flows(server, 4, SERVER[4], "tcp")
    mark = PATH << RETURN_MARK_SHIFT | 0x5
    server.run(
        "nft",
        "add table inet theirs;"
        "add chain inet theirs pre { type filter hook prerouting priority -160; };"
        "add rule inet theirs pre ct mark set ct mark | 0x5;"
        "add chain inet theirs out { type filter hook output priority -160; };"
        "add rule inet theirs out tcp sport 8080 meta mark set 0x5;"
        "add chain inet theirs post { type filter hook postrouting priority 0; };"
        f"add rule inet theirs post tcp sport 8080 meta mark {mark:#x} ct mark {mark:#x} counter",
    )
    assert ask(net["client"], VIP[4], 80).server == "server"
    counted = server.run("nft", "list", "chain", "inet", "theirs", "post").stdout
    assert "counter packets 0 " not in counted


def test_connections_that_were_there_before_the_rules_follow_the_director_too(net: Network) -> None:
    """An agent that starts late, or a table that somebody deleted: the director's next packet names the path."""
    server = net["server"]
    direct(net["director"], 4, SERVER[4], "tcp")
    serve(server, 8080)
    route_back(server, 4)
    mark_flows(server, 4, SERVER[4], "tcp")
    crowd = Crowd(net["far"], VIP[4], 80)
    assert crowd.open(idle=6).intact == 6
    server.run("nft", "delete", "table", "inet", "ipvs-operator")
    server.run("conntrack", "-F")
    mark_flows(server, 4, SERVER[4], "tcp")
    assert crowd.check().intact == 6
    assert crowd.finish().intact == 6
