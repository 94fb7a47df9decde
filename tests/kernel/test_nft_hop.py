"""The second hop: packets that a director sends to a node are rewritten to the node's local servers."""

import errno
import socket
import time
from collections.abc import Callable

import pytest

from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.rows import HopKey, HopRow, HopTarget, NftKey, NftRow
from ipvs_agent.table import Change, Verdict
from ipvs_lab.net import Crowd, Host, Network, Topology, ask, clients, serve

MakeNetwork = Callable[[Topology], Network]

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
NODE = {4: "192.0.2.20", 6: "2001:db8:2::20"}
CLIENT = {4: "192.0.2.1", 6: "2001:db8:2::1"}
PODS = {4: "10.0.0.", 6: "2001:db8:10::"}
DIRECTOR_MAC = "02:00:00:00:02:00"
SO_MARK = 36
NO_INVALID = """
add table inet fw
add chain inet fw in { type filter hook input priority 0; }
add chain inet fw through { type filter hook forward priority 0; }
add rule inet fw in ct state invalid drop
add rule inet fw through ct state invalid drop
"""
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


def bracketed(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def write(
    host: Host, table: NftTable, *hops: Change[HopKey, HopRow], elements: tuple[tuple[str, str], ...] = ()
) -> None:
    changes = [Change(NftKey(name, (part,)), None, NftRow()) for name, part in elements]
    outcomes = host.call(table.write, changes, hops)
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


def hop(
    family: int,
    *pods: int,
    proto: str = "tcp",
    sticky: bool = False,
    weights: tuple[int, ...] = (1, 1),
    macs: tuple[str, ...] = (DIRECTOR_MAC,),
    links: tuple[str, ...] = (),
) -> Change[HopKey, HopRow]:
    """VIP port 80 to port 8080 of some of the pods 1, 2, 3."""
    targets = tuple(
        HopTarget(f"{PODS[family]}1{pod}", 8080, weight) for pod, weight in zip(pods, weights, strict=False)
    )
    return Change(HopKey(family, VIP[family], proto, 80), None, HopRow(targets, sticky, macs, links))


def add_vip(host: Host, family: int) -> None:
    # A VIP that is not deprecated would be the tunnel's outer source.
    host.hold("eth0", VIP[family], deprecated=True)


def direct(director: Host, family: int, flag: str = "-t", method: str = "-g") -> None:
    """The director of VIP port 80, with the node as its one destination."""
    add_vip(director, family)
    director.run("ipvsadm", "-A", flag, bracketed(VIP[family], 80), "-s", "rr")
    node = bracketed(NODE[family], 80)
    director.run("ipvsadm", "-a", flag, bracketed(VIP[family], 80), "-r", node, *method.split())


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    """Clients, a director and two nodes on one network; three pods behind the first node, on one link."""
    topology = Topology()
    topology.lan("lan")
    topology.lan("pods")
    topology.host("client", lan="192.0.2.1/24 192.0.2.7/24 2001:db8:2::1/64")
    routes = ("10.0.0.0/24 via 192.0.2.20", "2001:db8:10::/64 via 2001:db8:2::20")
    topology.host("director", lan="192.0.2.2/24 2001:db8:2::2/64", routes=routes)
    topology.host("node", lan="192.0.2.20/24 2001:db8:2::20/64", pods="10.0.0.1/24 2001:db8:10::1/64", forwarding=True)
    silent: dict[str, str | int] = {"net.ipv4.conf.all.arp_ignore": 1, "net.ipv4.conf.all.arp_announce": 2}
    topology.host("other-node", lan="192.0.2.30/24", sysctls=silent)
    for pod in (1, 2, 3):
        addresses = f"10.0.0.1{pod}/24 2001:db8:10::1{pod}/64"
        topology.host(f"pod{pod}", pods=addresses, via="10.0.0.1 2001:db8:10::1")
    net = network(topology)
    net["other-node"].hold("lo", VIP[4])
    serve(net["other-node"], 80)
    net["node"].run("sysctl", "-w", "net.ipv4.conf.all.send_redirects=0", "net.ipv4.conf.eth0.send_redirects=0")
    pods = [net[f"pod{pod}"] for pod in (1, 2, 3)]
    serve(pods, 8080)
    serve(pods, 8080, "udp")
    return net


@FAMILIES
def test_directors_packets_are_split_exactly_over_local_servers(net: Network, family: int) -> None:
    direct(net["director"], family)
    with NftTable() as table:
        write(net["node"], table, hop(family, 1, 2))
    with net["director"].capture("eth0") as seen:
        histogram = clients(net["client"], 12, VIP[family], 80)
    assert histogram.answers == {"pod1": 6, "pod2": 6}
    assert histogram.seen["pod1"] == {CLIENT[family]}
    answers = [packet for packet in seen.packets() if packet.protocol == "tcp" and packet.source == VIP[family]]
    assert answers == []  # they go from the node straight to the client


def test_weights_count(net: Network) -> None:
    direct(net["director"], 4)
    with NftTable() as table:
        write(net["node"], table, hop(4, 1, 2, weights=(1, 3)))
    assert clients(net["client"], 24, VIP[4], 80).answers == {"pod1": 6, "pod2": 18}


@FAMILIES
def test_datagrams_take_the_second_hop_and_come_back_from_the_vip(net: Network, family: int) -> None:
    direct(net["director"], family, "-u")
    with NftTable() as table:
        write(net["node"], table, hop(family, 1, 2, proto="udp"))
    assert clients(net["client"], 12, VIP[family], 80, "udp").answers == {"pod1": 6, "pod2": 6}


def test_nobody_but_the_director_reaches_the_second_hop(net: Network) -> None:
    node = net["node"]
    with NftTable() as table:
        write(node, table, hop(4, 1, 2, macs=("02:00:00:00:09:09",)))
        net["client"].run("ip", "route", "add", VIP[4], "via", NODE[4])
        with pytest.raises(TimeoutError):
            ask(net["client"], VIP[4], 80)
        client_mac = "02:00:00:00:01:00"
        write(node, table, hop(4, 1, 2, macs=(client_mac,)))
        assert ask(net["client"], VIP[4], 80).server in ("pod1", "pod2")


@FAMILIES
def test_tunnelled_packets_take_the_second_hop(net: Network, family: int) -> None:
    node, director, link = net["node"], net["director"], "ivt-00000001"
    direct(director, family, method="-i")
    mode, remote = ("ipip", "192.0.2.2") if family == 4 else ("ip6ip6", "2001:db8:2::2")
    tunnel = ["tunnel", "add", link, "mode", mode, "local", NODE[family], "remote", remote]
    node.run("ip", *(["-6"] if family == 6 else []), *tunnel)
    node.run("ip", "link", "set", link, "up")
    if family == 4:  # reverse path filtering drops everything on a link without any address (__fib_validate_source)
        node.hold(link, NODE[4])
        node.sysctl(f"net/ipv4/conf/{link}/rp_filter", 2)
    elements = (("tunnel_links", link), (f"tunnel_vips{family}", VIP[family]))
    with NftTable() as table:
        write(node, table, hop(family, 1, 2, macs=(), links=(link,)), elements=elements)
    histogram = clients(net["client"], 12, VIP[family], 80)
    assert histogram.answers == {"pod1": 6, "pod2": 6}
    assert histogram.seen["pod1"] == {CLIENT[family]}


@FAMILIES
def test_sticky_clients_keep_their_server_also_when_the_chain_is_made_again(net: Network, family: int) -> None:
    client = net["client"]
    base, length = ("192.0.2.", 24) if family == 4 else ("2001:db8:2::", 64)
    sources = [f"{base}{number}" for number in range(100, 116)]
    client.hold("eth0", *(f"{source}/{length}" for source in sources))
    direct(net["director"], family)

    def servers() -> dict[str, str]:
        return {source: ask(client, VIP[family], 80, source=source).server for source in sources}

    with NftTable() as table:
        write(net["node"], table, hop(family, 1, 2, sticky=True))
        first = servers()
        assert set(first.values()) == {"pod1", "pod2"}
        assert servers() == first
        write(net["node"], table, hop(family, 1))
        write(net["node"], table, hop(family, 1, 2, sticky=True))
        assert servers() == first


def test_established_connections_keep_their_server_when_the_targets_change(net: Network) -> None:
    direct(net["director"], 4)
    with NftTable() as table:
        write(net["node"], table, hop(4, 1))
        crowd = Crowd(net["client"], VIP[4], 80)
        assert crowd.open(idle=3, streaming=5).by_server == {"pod1": 8}
        write(net["node"], table, hop(4, 2))
        assert clients(net["client"], 3, VIP[4], 80).answers == {"pod2": 3}
        assert crowd.check().intact == 8
    report = crowd.finish()
    assert report.by_server == {"pod1": 8}
    assert report.intact == 8


def test_without_local_servers_clients_wait_until_one_is_back(net: Network) -> None:
    """A refusal would be final; a TCP client tries again after a second."""
    direct(net["director"], 4)
    with NftTable() as table:
        write(net["node"], table, hop(4))
        with pytest.raises(TimeoutError):
            ask(net["client"], VIP[4], 80)
        write(net["node"], table, hop(4, 1))
        assert ask(net["client"], VIP[4], 80).server == "pod1"
        key = HopKey(4, VIP[4], "tcp", 80)
        row = net["node"].call(table.read).hops[key]
        write(net["node"], table, Change(key, row, None))
        assert net["node"].call(table.read).hops == {}
    assert "hop-tcp" not in net["node"].nft()


@FAMILIES
def test_local_server_that_calls_its_own_vip_is_answered(net: Network, family: int) -> None:
    direct(net["director"], family)
    net["node"].run("ip", "route", "add", f"{VIP[family]}/{32 if family == 4 else 128}", "via", director_of(family))
    with NftTable() as table:
        write(net["node"], table, hop(family, 1, 2), elements=tuple(targets(family, 1, 2)))
    for pod in ("pod1", "pod2"):
        assert clients(net[pod], 4, VIP[family], 80).answers == {"pod1": 2, "pod2": 2}
    assert clients(net["node"], 4, VIP[family], 80).answers == {"pod1": 2, "pod2": 2}


@FAMILIES
def test_other_local_clients_are_answered_once_they_are_named(net: Network, family: int) -> None:
    """Their packets would come back from the director as a flow that connection tracking knows already."""
    direct(net["director"], family)
    net["node"].run("ip", "route", "add", f"{VIP[family]}/{32 if family == 4 else 128}", "via", director_of(family))
    with NftTable() as table:
        write(net["node"], table, hop(family, 1, 2), elements=tuple(targets(family, 1, 2)))
        with pytest.raises(OSError, match=r"."):
            ask(net["pod3"], VIP[family], 80)
        prefix = "10.0.0.0/24" if family == 4 else "2001:db8:10::/64"
        write(net["node"], table, elements=((f"hop_clients{family}", prefix),))
    assert clients(net["pod3"], 4, VIP[family], 80).answers == {"pod1": 2, "pod2": 2}


def test_marked_sockets_of_the_node_are_left_alone(net: Network) -> None:
    """A check of one real server through the VIP bears a mark for a fwmark service."""
    with NftTable() as table:
        write(net["node"], table, hop(4, 1))
    add_vip(net["director"], 4)
    with net["node"].capture("eth0", "tcp port 80") as seen, net["node"].inside(), socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, SO_MARK, 7)
        sock.setblocking(False)
        assert sock.connect_ex((VIP[4], 80)) == errno.EINPROGRESS
        time.sleep(0.5)
    assert {packet.destination for packet in seen.packets() if packet.flags == "S"} == {VIP[4]}


def test_a_host_that_directs_too_schedules_what_no_other_director_sent(net: Network) -> None:
    """The node is a director of the same service: its own server by NAT; the other director's packets hop."""
    node = net["node"]
    direct(net["director"], 4)
    node.hold("lo", VIP[4])
    node.run("sysctl", "-w", "net.ipv4.conf.all.arp_ignore=1", "net.ipv4.conf.all.arp_announce=2")
    node.run("ipvsadm", "-A", "-t", f"{VIP[4]}:80", "-s", "rr")
    node.run("ipvsadm", "-a", "-t", f"{VIP[4]}:80", "-r", "10.0.0.13:8080", "-m")
    with NftTable() as table:
        write(node, table, hop(4, 1, 2))
    assert clients(net["client"], 4, VIP[4], 80).answers == {"pod1": 2, "pod2": 2}
    net["client"].run("ip", "route", "add", VIP[4], "via", NODE[4])
    assert clients(net["client"], 4, VIP[4], 80).answers == {"pod3": 4}


def test_connections_of_the_second_hop_survive_when_the_node_becomes_the_director(net: Network) -> None:
    """Also where somebody drops what connection tracking calls invalid, and IPVS uses connection tracking."""
    node, director = net["node"], net["director"]
    direct(director, 4)
    node.sysctl("net.ipv4.vs.conntrack", 1)
    node.run("nft", "-f", "-", stdin=NO_INVALID)
    node.run("ipvsadm", "-A", "-t", f"{VIP[4]}:80", "-s", "rr")
    node.run("ipvsadm", "-a", "-t", f"{VIP[4]}:80", "-r", "10.0.0.13:8080", "-m")
    node.run("ipvsadm", "-a", "-t", f"{VIP[4]}:80", "-r", "192.0.2.30:80", "-g")
    with NftTable() as table:
        write(node, table, hop(4, 1, 2))
        rows = [NftKey(name, (VIP[4], "tcp", 80)) for name in ("untracked4", "tracked4")]
        crowd = Crowd(net["client"], VIP[4], 80)
        assert crowd.open(idle=4, streaming=4).intact == 8
        director.run("ip", "addr", "del", f"{VIP[4]}/32", "dev", "eth0")
        add_vip(node, 4)
        net["client"].run("ip", "neigh", "flush", "all")
        assert crowd.check().intact == 8
        # Its own scheduling: NAT to its pod, DR to the other node, whose flows are invalid from the second packet on.
        assert clients(net["client"], 4, VIP[4], 80).answers == {"pod3": 2}
        outcomes = node.call(table.write, [Change(key, None, NftRow()) for key in rows])
        assert {outcome.verdict for outcome in outcomes} == {Verdict.DONE}
        assert crowd.check().intact == 8
        assert clients(net["client"], 4, VIP[4], 80).answers == {"pod3": 2, "other-node": 2}
    report = crowd.finish()
    assert report.intact == 8
    assert report.by_server == {"pod1": 4, "pod2": 4}


def targets(family: int, *pods: int) -> list[tuple[str, str]]:
    return [(f"hop_targets{family}", f"{PODS[family]}1{pod}") for pod in pods]


def director_of(family: int) -> str:
    return "192.0.2.2" if family == 4 else "2001:db8:2::2"
