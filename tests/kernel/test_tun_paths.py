"""TUN through a router, from manifests to what clients and wires saw: every encapsulation, both families, large
transfers, strangers kept out."""

import socket
import struct

import pytest
from tests.kernel.conftest import MakeSite, Site, echoed, virtual_service

from ipvs_lab.net import Capture, Host, LanPlan, ask, clients, serve
from ipvs_lab.topologies import far

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
SERVERS = ("rs1", "rs2", "rs3")
IP_HEADER = {4: 20, 6: 40}
GUE_PORT = 6080
BETWEEN = {"IPIP": 0, "GUE": 12, "GRE": 4}
"""Bytes between the outer and the inner IP header."""
OUTER = {"IPIP": {4: "ipip", 6: "ipv6"}, "GUE": {4: "udp", 6: "udp"}, "GRE": {4: "gre", 6: "gre"}}


def tunnel(kind: str) -> dict[str, str | int]:
    return {"type": kind, "port": GUE_PORT} if kind == "GUE" else {"type": kind}


def servers(lvs: Site) -> list[Host]:
    return [lvs[name] for name in SERVERS]


def announced_mss(capture: Capture, family: int) -> set[int]:
    """What SYN segments on an Ethernet interface announce: Linux puts the option first (RFC 9293, section 3.2)."""
    capture.packets()
    options = [frame.raw[14 + IP_HEADER[family] + 20 :] for frame in capture.frames]
    assert all(option[:2] == b"\x02\x04" for option in options)
    return {int.from_bytes(option[2:4]) for option in options}


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("kind", BETWEEN)
def test_tunnels_through_a_router_carry_large_transfers_and_replies_go_straight_back(
    site: MakeSite, kind: str, family: int
) -> None:
    lvs = site(far(), nodes=SERVERS)
    vip, rips = VIP[family], lvs.servers(*SERVERS, family=family)
    lvs.put(virtual_service("web", vip, 80, rips, forwarding="TUN", tunnel=tunnel(kind)))
    lvs.start()
    serve(servers(lvs), 80)
    client, router = lvs["client"], lvs["router"]
    syn_from_servers = f"src host {vip} and " + ("tcp[13] == 18" if family == 4 else "ip6[53] == 18")
    with lvs["director"].capture("eth0") as passed, router.capture("eth1", syn_from_servers) as accepted:
        told = clients(client, 12, vip, 80)
        assert [echoed(client, vip, 200_000) for _ in SERVERS] == [True] * 3
    assert told.answers == {"rs1": 4, "rs2": 4, "rs3": 4}, str(told)
    assert told.seen == {name: {client.address(family=family)} for name in SERVERS}
    assert {p.protocol for p in passed.packets() if p.destination in rips} == {OUTER[kind][family]}
    assert not [p for p in passed.packets() if p.source == vip and p.protocol == "tcp"], "replies do not pass"
    assert not [p for p in passed.packets() if p.fragment], "every segment fits"
    room = 1500 - IP_HEADER[family] - BETWEEN[kind]
    assert announced_mss(accepted, family) == {room - IP_HEADER[family] - 20}


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_clients_learn_what_a_datagram_through_a_tunnel_may_measure(site: MakeSite, family: int) -> None:
    lvs = site(far(), nodes=["rs1"])
    vip = VIP[family]
    lvs.put(virtual_service("dns", vip, "53/UDP", lvs.servers("rs1", family=family), forwarding="TUN"))
    lvs.start()
    serve(lvs["rs1"], 53, "udp")
    client = lvs["client"]
    with client.inside():
        sock = socket.socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(1)
        sock.connect((vip, 53))
        full = bytes(1500 - IP_HEADER[family] - 8)
        sock.send(full)
        with pytest.raises(OSError, match="Message too long"):
            sock.recv(100)
        assert f"mtu {1500 - IP_HEADER[family]}" in client.run("ip", "route", "get", vip).stdout
        sock.send(full)
        assert sock.recv(100).startswith(b"rs1 "), "in fragments now"


def test_large_transfers_fit_into_a_narrow_network_of_real_servers(site: MakeSite) -> None:
    topology = far()
    topology.lans["servers"] = LanPlan("servers", mtu=1400)
    lvs = site(topology, nodes=["rs1"])
    rips = [*lvs.servers("rs1"), *lvs.servers("rs1", family=6)]
    lvs.put(virtual_service("web", " ".join(VIP.values()), 80, rips, forwarding="TUN"))
    lvs.start()
    serve(lvs["rs1"], 80)
    with lvs["edge"].capture("eth0", "icmp or icmp6") as errors:
        assert [echoed(lvs["client"], vip, 200_000) for vip in VIP.values()] == [True, True]
    assert not [p for p in errors.packets() if p.inner is not None], "clients were told in time"


def test_clients_learn_of_a_narrow_link_between_director_and_real_server(site: MakeSite) -> None:
    lvs = site(far(), nodes=["rs1"])
    lvs["edge"].run("ip", "route", "change", "10.0.0.0/24", "dev", "eth1", "mtu", "1300")
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers("rs1"), forwarding="TUN"))
    lvs.start()
    serve(lvs["rs1"], 80)
    assert [echoed(lvs["client"], VIP[4], 200_000) for _ in range(2)] == [True, True]
    assert "mtu 1280" in lvs["client"].run("ip", "route", "get", VIP[4]).stdout


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
def test_what_strangers_send_into_our_tunnels_is_dropped(site: MakeSite, family: int) -> None:
    topology = far()
    topology.host("stranger", servers="10.0.0.66/24 2001:db8:3::66/64", via="10.0.0.1 2001:db8:3::1")
    lvs = site(topology, nodes=["rs1"])
    vip, [rip] = VIP[family], lvs.servers("rs1", family=family)
    for number, kind in enumerate(BETWEEN, 80):
        lvs.put(virtual_service(kind.lower(), vip, number, [rip], forwarding="TUN", tunnel=tunnel(kind)))
        serve(lvs["rs1"], number)
    lvs.start()
    stranger = lvs["stranger"]
    stranger.hold("lo", vip)
    bracketed = "[{}]:{}" if family == 6 else "{}:{}"
    with lvs["rs1"].capture("") as seen:
        for number, kind in enumerate(BETWEEN, 80):
            assert clients(lvs["client"], 3, vip, number).answers == {"rs1": 3}
            service, server = bracketed.format(vip, number), bracketed.format(rip, number)
            words = [kind.lower(), *(["--tun-port", str(GUE_PORT)] if kind == "GUE" else [])]
            stranger.run("ipvsadm", "-A", "-t", service, "-s", "rr")
            stranger.run("ipvsadm", "-a", "-t", service, "-r", server, "-i", "--tun-type", *words)
            assert not clients(stranger, 2, vip, number, timeout=1).answers
    assert [p for p in seen.packets() if p.source == stranger.address(family=family)], "something was sent"
    entered = [p for p in seen.packets() if p.interface.startswith("ivt-") and p.direction == "in"]
    assert {p.source for p in entered} == {lvs["client"].address(family=family)}
    sent = [p for p in seen.packets() if p.direction == "out" and p.protocol == "tcp"]
    assert {p.destination for p in sent} == {lvs["client"].address(family=family)}


def test_strangers_cannot_hide_datagrams_in_gue(site: MakeSite) -> None:
    """GUE need not carry IP: what it carries is delivered with the outer addresses, past everybody's port filters."""
    topology = far()
    topology.host("stranger", servers="10.0.0.66/24", via="10.0.0.1")
    lvs = site(topology, nodes=["rs1"])
    [rip] = lvs.servers("rs1")
    lvs.put(virtual_service("web", VIP[4], 80, [rip], forwarding="TUN", tunnel=tunnel("GUE")))
    lvs.start()
    serve(lvs["rs1"], 53, "udp")
    hidden = struct.pack(">HHHH", 4000, 53, 8 + 4, 0) + b"who\n"
    with lvs["stranger"].inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock, lvs["rs1"].capture("eth0", "udp") as seen:
        sock.sendto(struct.pack(">BBH", 0, socket.IPPROTO_UDP, 0) + hidden, (rip, GUE_PORT))
        assert ask(lvs["stranger"], rip, 53, "udp").server == "rs1", "asked openly it answers"
    assert [p for p in seen.packets() if p.destination_port == GUE_PORT], "it was sent"
    assert not [p for p in seen.packets() if p.destination_port == 4000], "and not answered"
