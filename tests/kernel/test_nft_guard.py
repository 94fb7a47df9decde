"""The port guard of our nftables table, as clients and captures see it."""

import socket
import struct
from collections.abc import Callable

import pytest

from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.rows import NftKey, NftRow
from ipvs_agent.table import Change, Verdict
from ipvs_lab.net import Host, Network, Topology, ask, clients, serve

MakeNetwork = Callable[[Topology], Network]

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
DIRECTOR = {4: "192.0.2.2", 6: "2001:db8:2::2"}
CLIENT = {4: "192.0.2.1", 6: "2001:db8:2::1"}
OTHER = {4: "192.0.2.7", 6: "2001:db8:2::7"}
SERVER = {4: "10.0.0.11", 6: "2001:db8:10::11"}
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])


def bracketed(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def guard(host: Host, *elements: tuple[str, *tuple[str | int, ...]]) -> None:
    """Add elements, each its set's name and its parts."""
    changes = [Change(NftKey(name, tuple(parts)), None, NftRow()) for name, *parts in elements]
    with NftTable() as table:
        outcomes = host.call(table.write, changes)
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


@pytest.fixture
def net(network: MakeNetwork) -> Network:
    """A NAT director with daemons of its own on every address; TCP 80 and UDP 53 are declared, in both families."""
    topology = Topology()
    topology.lan("outside")
    topology.lan("inside")
    topology.host("client", outside="192.0.2.1/24 192.0.2.7/24 2001:db8:2::1/64 2001:db8:2::7/64")
    topology.host(
        "director", outside="192.0.2.2/24 2001:db8:2::2/64", inside="10.0.0.1/24 2001:db8:10::1/64", forwarding=True
    )
    topology.host("server", inside="10.0.0.11/24 2001:db8:10::11/64", via="10.0.0.1 2001:db8:10::1")
    net = network(topology)
    director = net["director"]
    serve(net["server"], 8080)
    serve(net["server"], 5353, "udp")
    for proto in ("tcp", "udp"):
        serve(director, 22, proto, name="own-daemon")
    for family in (4, 6):
        vip, version = VIP[family], str(family)
        director.hold("eth0", vip)
        for flag, port, target in (("-t", 80, 8080), ("-u", 53, 5353)):
            director.run("ipvsadm", "-A", flag, bracketed(vip, port), "-s", "rr")
            director.run("ipvsadm", "-a", flag, bracketed(vip, port), "-r", bracketed(SERVER[family], target), "-m")
        guard(
            director,
            ("client_interfaces", "eth0"),
            (f"guarded{version}", vip),
            (f"open{version}", vip, "tcp", 80),
            (f"open{version}", vip, "udp", 53),
        )
    return net


@FAMILIES
def test_declared_ports_are_served(net: Network, family: int) -> None:
    assert ask(net["client"], VIP[family], 80).server == "server"
    assert ask(net["client"], VIP[family], 53, "udp").server == "server"


@FAMILIES
def test_undeclared_tcp_port_is_refused_by_the_vip_itself(net: Network, family: int) -> None:
    assert ask(net["client"], DIRECTOR[family], 22).server == "own-daemon"
    with net["client"].capture("eth0") as seen, pytest.raises(ConnectionRefusedError):
        ask(net["client"], VIP[family], 22)
    resets = [packet for packet in seen.packets() if "R" in packet.flags]
    assert [(packet.source, packet.source_port) for packet in resets] == [(VIP[family], 22)]


@FAMILIES
def test_undeclared_udp_port_gets_port_unreachable_from_the_vip(net: Network, family: int) -> None:
    assert ask(net["client"], DIRECTOR[family], 22, "udp").server == "own-daemon"
    with net["client"].capture("eth0") as seen, pytest.raises(ConnectionRefusedError):
        ask(net["client"], VIP[family], 22, "udp")
    errors = [packet for packet in seen.packets() if packet.protocol in ("icmp", "icmpv6") and packet.inner]
    unreachable = (3, 3) if family == 4 else (1, 4)
    assert [(packet.source, packet.type, packet.code) for packet in errors] == [(VIP[family], *unreachable)]


@FAMILIES
def test_only_client_facing_interfaces_are_guarded(net: Network, family: int) -> None:
    assert ask(net["server"], VIP[family], 22).server == "own-daemon"


@FAMILIES
def test_vip_answers_pings_and_neighbour_discovery(net: Network, family: int) -> None:
    client = net["client"]
    client.run("ip", "neigh", "flush", "all")
    client.run("ping", "-c1", "-W2", VIP[family])


@FAMILIES
def test_large_datagrams_in_fragments_pass_and_are_judged_whole(net: Network, family: int) -> None:
    """Only the first fragment has ports; the others must neither be refused nor let anything by."""
    client = net["client"]
    kind = socket.AF_INET6 if family == 6 else socket.AF_INET
    with client.capture("eth0") as seen, client.inside(), socket.socket(kind, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect((VIP[family], 53))
        sock.send(bytes(4000))
        assert sock.recv(100).startswith(b"server ")
    assert len([packet for packet in seen.packets() if packet.fragment and packet.direction == "out"]) >= 3
    assert [packet for packet in seen.packets() if packet.protocol == "icmp" or packet.inner] == []
    with client.inside(), socket.socket(kind, socket.SOCK_DGRAM) as sock:
        sock.settimeout(3)
        sock.connect((VIP[family], 22))
        sock.send(bytes(4000))
        with pytest.raises(ConnectionRefusedError):
            sock.recv(100)


@FAMILIES
def test_icmp_errors_about_a_connection_reach_its_real_server(net: Network, family: int) -> None:
    """A router's "packet too big" quotes VIP and client; IPVS sends it on, if the guard lets it in."""
    client, port = net["client"], 40001
    ask(client, VIP[family], 80, source=CLIENT[family], source_port=port)
    tcp = struct.pack(">HHIIBBHHH", 80, port, 1, 1, 0x50, 0x10, 1000, 0, 0)
    vip, me = (socket.inet_pton(socket.AF_INET6 if family == 6 else socket.AF_INET, a[family]) for a in (VIP, CLIENT))
    if family == 4:
        quoted = struct.pack(">BBHHHBBH", 0x45, 0, 40, 1, 0x4000, 60, 6, 0) + vip + me + tcp
        message = struct.pack(">BBHHH", 3, 4, 0, 0, 1400) + quoted
        total = sum(struct.unpack(f">{len(message) // 2}H", message))
        checksum = ~((total >> 16) + (total & 0xFFFF)) & 0xFFFF
        message = message[:2] + struct.pack(">H", checksum) + message[4:]
    else:
        quoted = struct.pack(">IHBB", 0x60000000, 20, 6, 60) + vip + me + tcp
        message = struct.pack(">BBHI", 2, 0, 0, 1400) + quoted  # the kernel fills in ICMPv6's checksum
    kind, protocol = (socket.AF_INET, socket.IPPROTO_ICMP) if family == 4 else (socket.AF_INET6, socket.IPPROTO_ICMPV6)
    with net["server"].capture("eth0") as seen, client.inside(), socket.socket(kind, socket.SOCK_RAW, protocol) as sock:
        sock.sendto(message, (VIP[family], 0))
        client.run("sleep", "0.1")
    too_big = [packet for packet in seen.packets() if packet.inner and packet.type == (3 if family == 4 else 2)]
    assert [packet.inner.source for packet in too_big if packet.inner] == [SERVER[family]]


@FAMILIES
def test_restricted_port_is_for_allowed_sources_only(net: Network, family: int) -> None:
    vip, version = VIP[family], str(family)
    prefix = "192.0.2.0/30" if family == 4 else "2001:db8:2::/126"
    guard(
        net["director"],
        (f"restricted{version}", vip, "tcp", 80),
        (f"sources{version}", vip, "tcp", 80, prefix),
        (f"sources{version}", vip, "tcp", 80, CLIENT[family]),  # inside the prefix
    )
    assert ask(net["client"], vip, 80, source=CLIENT[family]).server == "server"
    with pytest.raises(TimeoutError):
        ask(net["client"], vip, 80, source=OTHER[family])
    assert ask(net["client"], vip, 53, "udp", source=OTHER[family]).server == "server"
    with pytest.raises(ConnectionRefusedError):
        ask(net["client"], vip, 22, source=OTHER[family])


def test_narrower_sources_take_the_place_of_wider_ones(net: Network) -> None:
    """In whatever steps rows come and go: overlapping prefixes cannot both be in the kernel's set."""
    director, vip = net["director"], VIP[4]
    guard(director, ("restricted4", vip, "tcp", 80))
    with NftTable() as table:

        def change(source: str, old: NftRow | None, new: NftRow | None) -> None:
            changes = [Change(NftKey("sources4", (vip, "tcp", 80, source)), old, new)]
            assert {outcome.verdict for outcome in director.call(table.write, changes)} == {Verdict.DONE}

        change("192.0.2.0/24", None, NftRow())
        change("192.0.2.1", None, NftRow())
        assert ask(net["client"], vip, 80, source=OTHER[4]).server == "server"
        change("192.0.2.0/24", NftRow(), None)
        assert ask(net["client"], vip, 80, source=CLIENT[4]).server == "server"
        with pytest.raises(TimeoutError):
            ask(net["client"], vip, 80, source=OTHER[4])
        change("192.0.2.0/24", None, NftRow())
        assert ask(net["client"], vip, 80, source=OTHER[4]).server == "server"


def test_what_another_firewall_drops_gets_no_answer_from_us(net: Network) -> None:
    net["director"].run(
        "nft", "add table inet firewall; add chain inet firewall in { type filter hook input priority 0; }; "
        f"add rule inet firewall in ip saddr {OTHER[4]} drop"
    )  # fmt: skip
    seen = clients(net["client"], 2, VIP[4], 22, sources=(CLIENT[4], OTHER[4]))
    assert seen.errors == {"refused": 1, "timeout": 1}
