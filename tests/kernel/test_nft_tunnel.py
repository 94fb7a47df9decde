"""What comes out of our tunnels may only go to VIPs, only directors send GUE, and segments fit into the tunnel."""

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from ipaddress import ip_address

import pytest

from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.rows import HopKey, HopRow, HopTarget, NftKey, NftRow
from ipvs_agent.table import Change, Verdict
from ipvs_lab.net import Host, Network, Topology, ask, serve

MakeNetwork = Callable[[Topology], Network]

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
DIRECTOR = {4: "192.0.2.2", 6: "2001:db8:2::2"}
SERVER = {4: "192.0.2.11", 6: "2001:db8:2::11"}
STRANGER = {4: "192.0.2.66", 6: "2001:db8:2::66"}
CLIENT = {4: "192.0.2.1", 6: "2001:db8:2::1"}
POD = {4: "10.0.0.11", 6: "2001:db8:10::11"}
LINK = "ivt-00000001"
GUE_PORT = 6080
FAMILIES = pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
AF = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture(params=[4, 6], ids=["IPv4", "IPv6"])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
def net(network: MakeNetwork, family: int) -> Network:
    """A real server with a tunnel from the director, the VIP on the tunnel's link, and a pod behind it."""
    topology = Topology()
    topology.lan("lan")
    topology.lan("pods")
    topology.host("client", lan="192.0.2.1/24 2001:db8:2::1/64")
    topology.host("director", lan="192.0.2.2/24 2001:db8:2::2/64")
    topology.host("stranger", lan="192.0.2.66/24 2001:db8:2::66/64")
    pods = "10.0.0.1/24 2001:db8:10::1/64"
    topology.host("server", lan="192.0.2.11/24 2001:db8:2::11/64", pods=pods, forwarding=True)
    topology.host("pod", pods="10.0.0.11/24 2001:db8:10::11/64", via="10.0.0.1 2001:db8:10::1")
    net = network(topology)
    server = net["server"]
    mode = {4: "ipip", 6: "ip6ip6"}[family]
    server.run(
        "ip", f"-{family}", "tunnel", "add", LINK, "mode", mode, "local", SERVER[family], "remote", DIRECTOR[family]
    )
    server.run("ip", "link", "set", LINK, "up")
    server.hold(LINK, VIP[family], deprecated=True)
    return net


def write(host: Host, *elements: tuple[str, *tuple[str | int, ...]], **maps: tuple[str, int]) -> None:
    """Add elements, each its set's name and its parts; of maps with their values."""
    changes = [Change(NftKey(name, tuple(parts)), None, NftRow()) for name, *parts in elements]
    changes += [Change(NftKey(name, (key,)), None, NftRow((value,))) for name, (key, value) in maps.items()]
    with NftTable() as table:
        outcomes = host.call(table.write, changes)
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


def datagram(family: int, source: str, destination: str, port: int, payload: bytes) -> bytes:
    """An IP packet with UDP in it, checksums and all."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    udp = struct.pack(">HHHH", 4000, port, 8 + len(payload), 0) + payload
    pseudo = addresses + struct.pack(">IHH", len(udp), 0, socket.IPPROTO_UDP)
    udp = udp[:6] + struct.pack(">H", checksum(pseudo + udp)) + udp[8:]
    if family == 6:
        return struct.pack(">IHBB", 0x60000000, len(udp), socket.IPPROTO_UDP, 64) + addresses + udp
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 7, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + udp


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total >> 16) + (total & 0xFFFF)
    return ~total & 0xFFFF


def encapsulate(host: Host, family: int, destination: str, inner: bytes) -> None:
    """Send an inner packet from a host in an IPIP (or IPv6-in-IPv6) packet of its own."""
    protocol = socket.IPPROTO_IPIP if family == 4 else socket.IPPROTO_IPV6
    with host.inside(), socket.socket(AF[family], socket.SOCK_RAW, protocol) as sock:
        sock.sendto(inner, (destination, 0))


@contextlib.contextmanager
def listening(host: Host, family: int, port: int) -> Iterator[socket.socket]:
    with host.inside(), socket.socket(AF[family], socket.SOCK_DGRAM) as sock:
        sock.bind(("", port))
        sock.settimeout(1)
        yield sock


def heard(sock: socket.socket) -> bytes:
    try:
        return sock.recv(100)
    except TimeoutError:
        return b""


def test_only_vips_are_reached_through_our_tunnels(net: Network, family: int) -> None:
    """The director's host may be taken over, and inner addresses are anybody's: not the host's own, nor a pod's."""
    server, director = net["server"], net["director"]
    ways = {"vip": (server, VIP[family]), "own": (server, SERVER[family]), "pod": (net["pod"], POD[family])}

    def reached() -> set[str]:
        found = set()
        for name, (host, address) in ways.items():
            with listening(host, family, 7000) as sock:
                inner = datagram(family, CLIENT[family], address, 7000, name.encode())
                encapsulate(director, family, SERVER[family], inner)
                if heard(sock) == name.encode():
                    found.add(name)
        return found

    assert reached() == {"vip", "own", "pod"}
    write(server, ("tunnel_links", LINK), (f"tunnel_vips{family}", VIP[family]))
    assert reached() == {"vip"}


def test_strangers_find_no_way_into_our_tunnels(net: Network, family: int) -> None:
    write(net["server"], ("tunnel_links", LINK), (f"tunnel_vips{family}", VIP[family]))
    inner = datagram(family, CLIENT[family], VIP[family], 7000, b"hello")
    with listening(net["server"], family, 7000) as sock:
        encapsulate(net["director"], family, SERVER[family], inner)
        assert heard(sock) == b"hello"
        encapsulate(net["stranger"], family, SERVER[family], inner)
        assert heard(sock) == b""


def test_only_directors_may_send_gue(net: Network, family: int) -> None:
    """GUE may carry UDP or TCP itself, delivered with the outer addresses past everybody's firewall."""
    server = net["server"]
    server.run("ip", "fou", "add", "port", str(GUE_PORT), "gue", *(["-6"] if family == 6 else []))

    def smuggle(name: str) -> bytes:
        """A datagram to port 7000 in one to the GUE port: no IP header in between (draft-ietf-intarea-gue)."""
        source = (DIRECTOR if name == "director" else STRANGER)[family]
        segment = datagram(family, source, SERVER[family], 7000, name.encode())[20 if family == 4 else 40 :]
        gue = struct.pack(">BBH", 0, socket.IPPROTO_UDP, 0)
        with listening(server, family, 7000) as sock:
            with net[name].inside(), socket.socket(AF[family], socket.SOCK_DGRAM) as sender:
                sender.sendto(gue + segment, (SERVER[family], GUE_PORT))
            return heard(sock)

    assert (smuggle("director"), smuggle("stranger")) == (b"director", b"stranger")
    write(server, ("gue_ports", GUE_PORT), (f"gue_sources{family}", DIRECTOR[family], GUE_PORT))
    assert (smuggle("director"), smuggle("stranger")) == (b"director", b"")


def announced_mss(net: Network, target: str, port: int) -> int:
    """The maximum segment size in the SYN-ACK that the client got."""
    with net["client"].capture("eth0", "tcp" if ":" not in target else "ip6") as seen:
        ask(net["client"], target, port)
    for packet, frame in zip(seen.packets(), seen.frames, strict=True):
        if packet.flags == "SA":
            options = frame.raw[14 + (40 if ":" in target else 20) + 20 :]
            kind, length, mss = struct.unpack(">BBH", options[:4])
            assert (kind, length) == (2, 4)  # Linux puts it first
            return int(mss)
    raise AssertionError("no SYN-ACK")


def test_syn_acks_from_the_vip_ask_for_segments_that_fit(net: Network, family: int) -> None:
    client, server = net["client"], net["server"]
    serve(server, 80)
    host_route = f"{VIP[family]}/{32 if family == 4 else 128}"
    client.run("ip", "route", "add", host_route, "via", SERVER[family])
    usual = 1460 if family == 4 else 1440
    assert announced_mss(net, VIP[family], 80) == usual
    write(server, **{f"mss{family}": (VIP[family], 1400)})
    assert announced_mss(net, VIP[family], 80) == 1400
    assert announced_mss(net, SERVER[family], 80) == usual
    write(server, **{f"mss{family}": (VIP[family], 9000)})
    assert announced_mss(net, VIP[family], 80) == usual  # never raised


def test_syn_acks_of_pods_behind_the_second_hop_are_lowered_too(net: Network, family: int) -> None:
    """They bear the VIP only after source NAT."""
    server, client = net["server"], net["client"]
    serve(net["pod"], 8080)
    server.run("ip", "addr", "flush", "dev", LINK)
    client.run("ip", "route", "add", f"{VIP[family]}/{32 if family == 4 else 128}", "via", SERVER[family])
    hop = Change(
        HopKey(family, VIP[family], "tcp", 80),
        None,
        HopRow((HopTarget(POD[family], 8080),), macs=("02:00:00:00:01:00",)),
    )
    with NftTable() as table:
        server.call(table.write, [Change(NftKey(f"mss{family}", (VIP[family],)), None, NftRow((1360,)))], [hop])
    assert announced_mss(net, VIP[family], 80) == 1360
