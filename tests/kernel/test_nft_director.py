"""Masquerade, exemption from connection tracking and redirects on a director, with neighbours of every kind."""

import re
import time
from collections.abc import Callable

import pytest

from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.nft.features import Feature
from ipvs_agent.rows import MASQUERADE_MARK, NftKey, NftRow
from ipvs_agent.table import Change, Verdict
from ipvs_lab.net import Crowd, Host, Network, Topology, ask, clients, serve

MakeNetwork = Callable[[Topology], Network]

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
DIRECTOR = {4: "192.0.2.2", 6: "2001:db8:2::2"}
CLIENT = {4: "192.0.2.1", 6: "2001:db8:2::1"}
SERVER = {4: "192.0.2.11", 6: "2001:db8:2::11"}
DIRECT = {4: "192.0.2.12", 6: "2001:db8:2::12"}
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
NO_INVALID = """
add table inet fw
add chain inet fw in { type filter hook input priority 0; }
add rule inet fw in ct state invalid drop
"""


def bracketed(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def add(host: Host, *elements: tuple[str, *tuple[str | int, ...]]) -> None:
    """Add elements, each its set's name and its parts."""
    changes = [Change(NftKey(name, tuple(parts)), None, NftRow()) for name, *parts in elements]
    with NftTable() as table:
        outcomes = host.call(table.write, changes)
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


def direct(director: Host, vip: str, port: int, *destinations: str) -> None:
    director.run("ipvsadm", "-A", "-t", bracketed(vip, port), "-s", "rr")
    for destination in destinations:
        director.run("ipvsadm", "-a", "-t", bracketed(vip, port), "-r", *destination.split())


def count_tracked(host: Host) -> int:
    return int(host.sysctl("net.netfilter.nf_conntrack_count"))


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    """One network: ``server`` takes NAT, ``direct`` has the VIPs itself; the client is beside them."""
    topology = Topology()
    topology.lan("lan")
    topology.host("client", lan="192.0.2.1/24 2001:db8:2::1/64")
    quiet: dict[str, str | int] = {"net.ipv4.conf.all.send_redirects": 0, "net.ipv4.conf.eth0.send_redirects": 0}
    topology.host("director", lan="192.0.2.2/24 2001:db8:2::2/64", forwarding=True, sysctls=quiet)
    topology.host("server", lan="192.0.2.11/24 2001:db8:2::11/64")
    silent: dict[str, str | int] = {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
    topology.host("direct", lan="192.0.2.12/24 2001:db8:2::12/64", sysctls=silent)
    net = network(topology)
    for family in (4, 6):
        # An IPv6 VIP that is not deprecated would be chosen as the source of what is masqueraded.
        net["director"].hold("eth0", VIP[family], deprecated=True)
        net["direct"].hold("lo", VIP[family], deprecated=True)
    serve(net["server"], 8080)
    for port in (80, 81):
        serve(net["direct"], port)
    return net


@FAMILIES
def test_masquerade_beside_direct_routing_on_one_vip(net: Network, family: int) -> None:
    director, vip, version = net["director"], VIP[family], str(family)
    director.sysctl("net.ipv4.vs.conntrack", 1)
    direct(director, vip, 80, f"{bracketed(SERVER[family], 8080)} -m")
    direct(director, vip, 81, f"{bracketed(DIRECT[family], 81)} -g")
    with pytest.raises(TimeoutError):  # classic NAT cannot serve its real servers' own network
        ask(net["client"], vip, 80)
    add(director, (f"masquerade{version}", vip, "tcp", 80))
    masqueraded = clients(net["client"], 10, vip, 80)
    assert masqueraded.answers == {"server": 10}
    assert masqueraded.seen == {"server": {DIRECTOR[family]}}
    routed = clients(net["client"], 10, vip, 81)
    assert routed.seen == {"direct": {CLIENT[family]}}


@FAMILIES
def test_direct_destination_of_a_masqueraded_service_sees_the_client(net: Network, family: int) -> None:
    """A director that also serves has NAT and DR destinations in one service."""
    director, vip = net["director"], VIP[family]
    director.sysctl("net.ipv4.vs.conntrack", 1)
    serve(net["server"], 80)
    direct(director, vip, 80, f"{bracketed(SERVER[family], 80)} -m", f"{bracketed(DIRECT[family], 80)} -g")
    add(director, (f"masquerade{family}", vip, "tcp", 80))
    assert clients(net["client"], 10, vip, 80).seen == {"server": {DIRECTOR[family]}, "direct": {CLIENT[family]}}


def test_masquerade_keeps_the_other_bits_of_the_ct_mark(net: Network) -> None:
    director = net["director"]
    director.sysctl("net.ipv4.vs.conntrack", 1)
    direct(director, VIP[4], 80, f"{SERVER[4]}:8080 -m")
    add(director, ("masquerade4", VIP[4], "tcp", 80))
    director.run(
        "nft",
        "add table inet theirs; add chain inet theirs pre { type filter hook prerouting priority -150; };"
        "add rule inet theirs pre ct mark set 0x00000005",
    )
    ask(net["client"], VIP[4], 80)
    marks = re.findall(r"dport=80 .*mark=(\d+)", director.run("conntrack", "-L").stdout)
    assert [int(mark) for mark in marks] == [MASQUERADE_MARK | 5]


def test_masqueraded_connections_survive_a_replacement_of_the_table(net: Network) -> None:
    director = net["director"]
    director.sysctl("net.ipv4.vs.conntrack", 1)
    direct(director, VIP[4], 80, f"{SERVER[4]}:8080 -m")
    with NftTable() as table:
        director.call(table.write, [Change(NftKey("masquerade4", (VIP[4], "tcp", 80)), None, NftRow())])
        crowd = Crowd(net["client"], VIP[4], 80)
        assert crowd.open(idle=5, streaming=10).intact == 15
        director.run("nft", "add", "rule", "inet", "ipvs-operator", "masq", "counter")
        assert director.call(table.read).damage
        for _ in range(3):
            director.call(table.write)
            assert crowd.check().intact == 15
        assert director.call(table.read).damage == ""
    report = crowd.finish()
    assert report.intact == 15
    assert report.by_server == {"server": 15}
    assert ask(net["client"], VIP[4], 80).server == "server"


@FAMILIES
def test_direct_routing_lives_beside_somebody_who_drops_invalid(net: Network, family: int) -> None:
    director, vip = net["director"], VIP[family]
    director.sysctl("net.ipv4.vs.conntrack", 1)
    director.run("nft", "-f", "-", stdin=NO_INVALID)
    direct(director, vip, 80, f"{bracketed(DIRECT[family], 80)} -g")
    with pytest.raises(TimeoutError):  # the director sees only one direction of the flow
        ask(net["client"], vip, 80)
    add(director, (f"untracked{family}", vip, "tcp", 80))
    assert clients(net["client"], 10, vip, 80).answers == {"direct": 10}


def test_masqueraded_connections_go_on_when_their_service_turns_to_direct_routing(net: Network) -> None:
    """They need tracking, new ones must not be called invalid: the first have an entry, the others do not."""
    director, flow = net["director"], (VIP[4], "tcp", 80)
    director.sysctl("net.ipv4.vs.conntrack", 1)
    director.run("nft", "-f", "-", stdin=NO_INVALID)
    direct(director, VIP[4], 80, f"{SERVER[4]}:8080 -m")
    add(director, ("masquerade4", *flow))
    crowd = Crowd(net["client"], VIP[4], 80)
    assert crowd.open(idle=3, streaming=3).by_server == {"server": 6}
    director.run("ipvsadm", "-e", "-t", f"{VIP[4]}:80", "-r", f"{SERVER[4]}:8080", "-m", "-w", "0")
    director.run("ipvsadm", "-a", "-t", f"{VIP[4]}:80", "-r", f"{DIRECT[4]}:80", "-g")
    add(director, ("tracked4", *flow), ("untracked4", *flow))
    with NftTable() as table:
        director.call(table.write, [Change(NftKey("masquerade4", flow), NftRow(), None)])
    assert clients(net["client"], 5, VIP[4], 80).answers == {"direct": 5}
    assert crowd.check().intact == 6
    assert crowd.finish().intact == 6


def test_a_direct_routing_directors_table_leaves_connection_tracking_off(net: Network) -> None:
    director = net["director"]
    direct(director, VIP[4], 80, f"{DIRECT[4]}:80 -g")
    pure = [Feature.GUARD, Feature.UNTRACKED, Feature.SILENCE, Feature.NO_REDIRECTS, Feature.TUNNELS]
    with NftTable() as table:
        director.call(table.write, (), (), pure)
        add(director, ("client_interfaces", "eth0"), ("guarded4", VIP[4]), ("open4", VIP[4], "tcp", 80))
        add(director, ("untracked4", VIP[4], "tcp", 81))
        assert clients(net["client"], 5, VIP[4], 80).answers == {"direct": 5}
        net["client"].run("ping", "-c1", DIRECTOR[4])
        assert count_tracked(director) == 0
        director.call(table.write, (), (), [Feature.MASQUERADE])
        net["client"].run("ping", "-c1", DIRECTOR[4])
        assert count_tracked(director) > 0


@FAMILIES
def test_one_network_directors_redirects_do_not_leave(net: Network, family: int) -> None:
    """IPv6 forwarding sends them whatever sysctls say; the client would go to the real server past the director."""
    director, client = net["director"], net["client"]
    for name in ("all", "eth0"):
        director.sysctl(f"net.ipv4.conf.{name}.send_redirects", 1)
    length = 32 if family == 4 else 128
    client.run("ip", "route", "add", f"{SERVER[family]}/{length}", "via", DIRECTOR[family])
    kind = ("icmp", 5) if family == 4 else ("icmpv6", 137)

    def redirects() -> int:
        with client.capture("eth0") as seen:
            client.run("ping", "-c3", "-i0.5", SERVER[family])
        return len([packet for packet in seen.packets() if (packet.protocol, packet.type) == kind])

    assert redirects() > 0
    client.run("ip", "route", "flush", "cache")
    client.run("ip", "-6", "route", "flush", "cache")
    time.sleep(60)  # redirects to one host are rare by design: net.ipv4.route.redirect_silence
    add(director, ("no_redirects", "eth0"))
    assert redirects() == 0
