"""Virtual services, roles and other people's rules on one host do not disturb each other."""

import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from tests.kernel.conftest import INVALID_DROP, MakeSite, Site, virtual_service

from ipvs_lab.net import Crowd, Packet, Topology, clients, serve
from ipvs_lab.topologies import one

VIP = "192.0.2.10"
SERVERS = ("rs1", "rs2", "rs3")
METHODS: dict[int, dict[str, Any]] = {
    80: {"forwarding": "NAT", "nat": {"returnPath": "Masquerade"}},
    81: {"forwarding": "NAT", "nat": {"returnPath": "Gateway"}},
    82: {"forwarding": "DR"},
    83: {"forwarding": "TUN"},
}
"""By port: every way to the same real servers, on one VIP and one director."""


def name_of(number: int) -> str:
    return f"way-{number}"


def put_all(lvs: Site) -> None:
    for number, spec in METHODS.items():
        lvs.put(virtual_service(name_of(number), VIP, number, lvs.servers(*SERVERS), **spec))
        serve([lvs[name] for name in SERVERS], number)


def hold_all(lvs: Site) -> list[Crowd]:
    """Held connections on every port: idle ones, streams, and downloads with a client that has said its last."""
    crowds = [Crowd(lvs["client"], VIP, number) for number in METHODS]
    for crowd in crowds:
        opened = crowd.open(idle=3, streaming=3, downloads=3)
        assert opened.by_server == {"rs1": 3, "rs2": 3, "rs3": 3}, str(opened)
    return crowds


def assert_all_serve(lvs: Site, ports: Iterable[int] = METHODS) -> None:
    for number in ports:
        told = clients(lvs["client"], 6, VIP, number, timeout=1)
        assert told.answers == {"rs1": 2, "rs2": 2, "rs3": 2}, f"port {number}\n{told}"
        seen = "192.0.2.2" if number == 80 else "198.51.100.2"
        assert told.seen == {name: {seen} for name in SERVERS}


def test_all_methods_on_one_vip_serve_and_one_that_goes_disturbs_none_of_the_others(site: MakeSite) -> None:
    lvs = site(one(), nodes=SERVERS)
    put_all(lvs)
    lvs.start()
    assert_all_serve(lvs)
    crowds = hold_all(lvs)
    lvs.remove("VirtualService", name_of(80))
    time.sleep(90)  # its drain is over
    assert not [line for line in lvs["director"].ipvs() if f"{VIP}:80 " in line]
    for number, crowd in zip(METHODS, crowds, strict=True):
        left = crowd.finish()
        if number != 80:
            assert (left.intact, left.complete) == (9, 3), f"port {number}\n{left}"
    assert_all_serve(lvs, METHODS.keys() - {80})
    assert clients(lvs["client"], 1, VIP, 80).errors == {"refused": 1}


@pytest.mark.parametrize("when", ["before", "after"])
def test_somebody_elses_drop_of_invalid_packets_does_no_harm(site: MakeSite, when: str) -> None:
    lvs = site(one(), nodes=SERVERS)
    put_all(lvs)
    if when == "before":
        for name in ("director", *SERVERS):
            lvs[name].run("nft", "-f", "-", stdin=INVALID_DROP)
    lvs.start()
    if when == "after":
        for name in ("director", *SERVERS):
            lvs[name].run("nft", "-f", "-", stdin=INVALID_DROP)
    assert_all_serve(lvs)
    for crowd in hold_all(lvs):
        time.sleep(5)
        left = crowd.finish()
        assert (left.intact, left.complete) == (9, 3), str(left)


def pair() -> Topology:
    """Two hosts that direct and serve, one that only serves, and a client behind a router."""
    topology = Topology()
    topology.lan("clients")
    topology.lan("lan")
    topology.host("client", clients="198.51.100.2/24 2001:db8:1::2/64", via="198.51.100.1 2001:db8:1::1")
    router: dict[str, Any] = {"clients": "198.51.100.1/24 2001:db8:1::1/64", "lan": "192.0.2.1/24 2001:db8:2::1/64"}
    topology.host("router", **router, forwarding=True)
    for number, name in enumerate(("lb1", "lb2", "rs1"), 2):
        address = f"192.0.2.{number}/24 2001:db8:2::{number}/64"
        topology.host(name, lan=address, via="192.0.2.1 2001:db8:2::1")
    return topology


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_hosts_that_direct_and_serve_one_service_do_not_loop(site: MakeSite, forwarding: str) -> None:
    lvs = site(pair(), directors=["lb1", "lb2"], nodes=["rs1"])
    vips = {4: VIP, 6: "2001:db8:2::10"}
    members = ("lb1", "lb2", "rs1")
    rips = [rip for family in vips for rip in lvs.servers(*members, family=family)]
    lvs.put(virtual_service("web", " ".join(vips.values()), 80, rips, forwarding=forwarding, scheduler="wrr"))
    lvs.start()
    serve([lvs[name] for name in members], 80)
    for family, vip in vips.items():
        with lvs["lb1"].capture("eth0") as first, lvs["lb2"].capture("eth0") as second:
            told = clients(lvs["client"], 30, vip, 80)
        assert told.answers == dict.fromkeys(members, 10), str(told)
        assert told.seen == {name: {lvs["client"].address(family=family)} for name in members}
        crossed = [
            Counter(p.direction for p in capture.packets() if "S" in (p.inner or p).flags and is_for(p, vip))
            for capture in (first, second)
        ]
        assert crossed[0] == {"in": 30, "out": 20}, "each comes once, and goes on once or stays"
        assert crossed[1] == {"in": 10}


def is_for(packet: Packet, vip: str) -> bool:
    """Going to a VIP, in a tunnel or without."""
    return (packet.inner or packet).destination == vip


def test_a_weighted_split_counts_hosts_that_direct_and_serve_like_any_other(site: MakeSite) -> None:
    lvs = site(pair(), directors=["lb1", "lb2"], nodes=["rs1"])
    weights = {"lb1": 1, "lb2": 2, "rs1": 3}
    servers = [{"address": lvs[name].address(), "weight": weight} for name, weight in weights.items()]
    lvs.put(virtual_service("web", VIP, 80, servers, forwarding="DR", scheduler="wrr"))
    lvs.start()
    serve([lvs[name] for name in weights], 80)
    told = clients(lvs["client"], 60, VIP, 80)
    assert told.answers == {"lb1": 10, "lb2": 20, "rs1": 30}, str(told)


@pytest.mark.parametrize("number", METHODS, ids=["Masquerade", "Gateway", "DR", "TUN"])
def test_a_real_servers_own_processes_reach_the_vip(site: MakeSite, number: int) -> None:
    lvs = site(one(), nodes=SERVERS)
    lvs.put(virtual_service("web", VIP, number, lvs.servers(*SERVERS), **METHODS[number]))
    lvs.start()
    serve([lvs[name] for name in SERVERS], number)
    for name in SERVERS:
        told = clients(lvs[name], 6, VIP, number, timeout=1)
        assert told.answers.total() == 6, f"{name}\n{told}"
        if METHODS[number]["forwarding"] != "NAT":
            assert told.answers == {name: 6}, "who owns the VIP serves itself"
        else:
            assert told.answers == {"rs1": 2, "rs2": 2, "rs3": 2}, "also itself"
