"""Pods behind nodes under DR and TUN: the node rewrites VIP:port to a local pod, and conntrack answers as the VIP."""

from typing import Any

import pytest
from tests.kernel.conftest import INVALID_DROP, MakeSite, Site, node, virtual_service

from ipvs_lab.net import Crowd, Topology, ask, await_condition, clients, serve

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
PODS = {"director": 1, "node1": 2, "node2": 3}
"""How many pods a node has; the director has one of its own."""


def cluster(*, routed: bool) -> Topology:
    """A director and two nodes, each with pods behind it. ``routed``: the nodes are behind another router."""
    topology = Topology()
    for lan in ("clients", "lan", "servers"):
        topology.lan(lan)
    topology.host("client", clients="198.51.100.2/24 2001:db8:1::2/64", via="198.51.100.1 2001:db8:1::1")
    beyond: tuple[str, ...] = ("10.0.0.0/24 via 192.0.2.3", "2001:db8:3::/64 via 2001:db8:2::3")
    router: dict[str, Any] = {"clients": "198.51.100.1/24 2001:db8:1::1/64", "lan": "192.0.2.1/24 2001:db8:2::1/64"}
    topology.host("router", **router, routes=beyond, forwarding=True)
    edge: dict[str, Any] = {"lan": "192.0.2.3/24 2001:db8:2::3/64", "servers": "10.0.0.1/24 2001:db8:3::1/64"}
    topology.host("edge", **edge, via="192.0.2.1 2001:db8:2::1", forwarding=True)
    for number, name in enumerate(PODS):
        topology.lan(f"pods{number}")
        ports: dict[str, Any] = {"lan": f"192.0.2.10{number}/24 2001:db8:2::10{number}/64"}
        via, routes = "192.0.2.1 2001:db8:2::1", beyond
        if routed and name != "director":
            ports = {"servers": f"10.0.0.10{number}/24 2001:db8:3::10{number}/64"}
            via, routes = "10.0.0.1 2001:db8:3::1", ()
        ports[f"pods{number}"] = f"10.244.{number}.1/24 2001:db8:244:{number}::1/64"
        topology.host(name, **ports, via=via, routes=routes)
        for pod in range(PODS[name]):
            port: dict[str, Any] = {f"pods{number}": f"10.244.{number}.1{pod}/24 2001:db8:244:{number}::1{pod}/64"}
            topology.host(f"{name}-pod{pod}", **port, via=f"10.244.{number}.1 2001:db8:244:{number}::1")
    return topology


def pods(*nodes: str) -> list[str]:
    return [f"{name}-pod{pod}" for name in nodes or PODS for pod in range(PODS[name])]


def declare_nodes(lvs: Site, *directors: str) -> None:
    """Each with its pods behind it."""
    for number, name in enumerate(PODS):
        own = [lvs[name].address(family=version) for version in (4, 6)]
        behind = [f"10.244.{number}.0/24", f"2001:db8:244:{number}::/64"]
        lvs.put(node(name, own, director=name in directors, pod_cidrs=behind))


def make(site: MakeSite, forwarding: str, family: int, **spec: object) -> Site:
    """Every pod serves 8080; the virtual service is port 80."""
    lvs = site(cluster(routed=forwarding == "TUN"))
    declare_nodes(lvs, "director")
    rips = lvs.servers(*pods(), family=family)
    lvs.put(virtual_service("web", VIP[family], "80:8080", rips, forwarding=forwarding, **spec))
    lvs.start()
    serve([lvs[name] for name in pods()], 8080)
    return lvs


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_pods_share_evenly_see_the_client_and_their_nodes_answer_as_the_vip(
    site: MakeSite, forwarding: str, family: int
) -> None:
    lvs = make(site, forwarding, family)
    vip, client = VIP[family], lvs["client"].address(family=family)
    with lvs["director"].capture("eth0", "tcp port 80") as passed:
        told = clients(lvs["client"], 60, vip, 80)
    assert told.answers == dict.fromkeys(pods(), 10), str(told)
    assert told.seen == {name: {client} for name in pods()}
    answered = {p.destination_port for p in passed.packets() if p.source == vip}
    assert len(answered) == 10, "only for the director's own pod: the others' answers do not pass"
    for name in ("node1", "node2"):
        assert vip not in lvs.held(name)
    for name in PODS:
        lvs[name].run("nft", "-f", "-", stdin=INVALID_DROP)
    told = clients(lvs["client"], 30, vip, 80)
    assert told.answers == dict.fromkeys(pods(), 5), f"beside somebody who drops invalid packets\n{told}"


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_pods_and_nodes_that_call_their_own_vip_are_served(site: MakeSite, forwarding: str) -> None:
    lvs = make(site, forwarding, 4)
    for name in ("node1", "node2"):
        for caller in (name, *pods(name)):
            told = clients(lvs[caller], 6, VIP[4], 80, timeout=1)
            assert set(told.answers) <= set(pods(name)), "its own node's"
            assert told.answers.total() == 6, f"{caller}\n{told}"
    told = clients(lvs["director-pod0"], 6, VIP[4], 80, timeout=1)
    assert told.answers.total() == 6, f"director-pod0\n{told}"


def route_to_pods(lvs: Site) -> None:
    """As a cluster's network does: nodes forward, and know the way to each other's pods."""
    for number, name in enumerate(PODS):
        lvs[name].sysctl("net.ipv4.ip_forward", 1)
        lvs[name].sysctl("net.ipv6.conf.all.forwarding", 1)
        for other in set(range(len(PODS))) - {number}:
            for prefix, via in (("10.244.{}.0/24", "192.0.2.10{}"), ("2001:db8:244:{}::/64", "2001:db8:2::10{}")):
                lvs[name].run("ip", "route", "add", prefix.format(other), "via", via.format(other))


def routed(site: MakeSite, forwarding: str, family: int, serving: list[str]) -> tuple[Site, list[str]]:
    """With a cluster's routes; these pods serve. Real servers' addresses as the second."""
    lvs = site(cluster(routed=False))
    declare_nodes(lvs, "director")
    route_to_pods(lvs)
    rips = lvs.servers(*serving, family=family)
    lvs.put(virtual_service("web", VIP[family], "80:8080", rips, forwarding=forwarding))
    lvs.start()
    serve([lvs[name] for name in serving], 8080)
    return lvs, rips


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("forwarding", ["NAT", "DR", "TUN"])
def test_a_director_and_its_pods_are_served_by_others(site: MakeSite, forwarding: str, family: int) -> None:
    """Under DR and TUN the answers have the director's own address, the VIP, as their source."""
    serving = pods("node1", "node2")
    lvs, _ = routed(site, forwarding, family, serving)
    for name in PODS:
        lvs[name].run("nft", "-f", "-", stdin=INVALID_DROP)
    for caller in ("director-pod0", "director"):
        told = clients(lvs[caller], 10, VIP[family], 80, timeout=1)
        assert told.answers == dict.fromkeys(serving, 2), f"{caller}\n{told}"


@pytest.mark.parametrize("family", [4, 6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_a_pod_beside_those_that_serve_is_served(site: MakeSite, forwarding: str, family: int) -> None:
    """A director would send some of what it sends back to its node, where that is a flow that is known already."""
    serving = [name for name in pods() if name != "node1-pod1"]
    lvs, rips = routed(site, forwarding, family, serving)
    told = clients(lvs["node1-pod1"], 12, VIP[family], 80, timeout=1)
    assert told.answers == {"node1-pod0": 12}, str(told)
    ended = [
        {"address": rip, "weight": 0 if name == "node1-pod0" else 1} for name, rip in zip(serving, rips, strict=True)
    ]
    lvs.edit("web", backends={"static": ended})
    lvs.settled()
    told = clients(lvs["node1-pod1"], 12, VIP[family], 80, timeout=1)
    assert told.answers == dict.fromkeys([*pods("director"), *pods("node2")], 3), f"what ends takes nothing new\n{told}"


def test_a_pod_that_goes_keeps_its_connections_and_a_new_one_takes_its_share(site: MakeSite) -> None:
    lvs = make(site, "DR", 4)
    crowd = Crowd(lvs["client"], VIP[4], 80)
    opened = crowd.open(idle=12, streaming=12)
    assert opened.by_server == dict.fromkeys(pods(), 4), str(opened)
    left = [name for name in pods() if name != "node1-pod0"]
    lvs.edit("web", backends={"static": [{"address": rip} for rip in lvs.servers(*left)]})
    lvs.settled()
    told = clients(lvs["client"], 50, VIP[4], 80)
    assert told.answers == dict.fromkeys(left, 10), str(told)
    kept = crowd.check()
    assert kept.intact == 24, str(kept)


def test_sticky_schedulers_bring_a_client_to_the_same_pod(site: MakeSite) -> None:
    lvs = make(site, "DR", 4, scheduler="mh")
    assert len(clients(lvs["client"], 20, VIP[4], 80).answers) == 1
    assert ask(lvs["client"], VIP[4], 80).address == "198.51.100.2"


def test_a_director_whose_pod_is_gone_serves_other_directors_clients_elsewhere(site: MakeSite) -> None:
    """What comes with another director's MAC goes to local pods, while there are any: it may be that director's choice.
    A client on that host looks the same."""
    lvs = site(cluster(routed=False))
    declare_nodes(lvs, "director", "node1")
    route_to_pods(lvs)
    serving = [*pods("director"), *pods("node2")]
    lvs.put(virtual_service("web", VIP[4], "80:8080", lvs.servers(*serving), forwarding="DR"))
    lvs.start()
    gone = serve(lvs["director-pod0"], 8080)
    serve([lvs[name] for name in pods("node2")], 8080)
    client = lvs["node1-pod0"]
    assert clients(client, 6, VIP[4], 80).answers == {"director-pod0": 6}
    lvs.edit("web", backends={"static": [{"address": rip} for rip in lvs.servers(*pods("node2"))]})
    lvs.settled()
    gone.kill()
    await_condition(lambda: "hop-tcp" not in lvs["director"].nft(), 8, "no second hop")
    assert clients(client, 6, VIP[4], 80, timeout=1).answers == dict.fromkeys(pods("node2"), 2)
