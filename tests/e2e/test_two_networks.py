"""Clients on a network of their own, behind a router: they are served through it by every forwarding method, answers of
DR and TUN pass it and no director, and it is told where an address has gone."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address
from typing import Any, NamedTuple

import pytest
from tests.conftest import Shown
from tests.e2e.lab import LabTestbed
from tests.e2e.testbed import CLIENT
from tests.e2e.world import FORWARDINGS, World, virtual_service

from ipvs_lab.cluster.plan import CLIENTS, ROUTER
from ipvs_lab.kubernetes.helm import find_helm
from ipvs_lab.machine import LabError, inside
from ipvs_lab.net.waiting import await_condition

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

FAMILIES = (4, 6)
FIRST, SECOND = "node1", "node2"
"""Directors. The first takes no pods: what comes from it is no answer of a real server."""
DRAIN_SECONDS, MOVED_SECONDS = 120, 60
"""For how long a director keeps connections that nobody ends; from a change of directors until the router has heard of
it."""
HOLD = """
import socket, sys
held = [socket.create_connection((vip, 80)) for vip in sys.argv[1:]]
print("held", flush=True)
sys.stdin.read()
"""
"""On the client: connections that stay open until its input ends."""
WATCH = """
table inet seen
delete table inet seen
table inet seen {
  set requests4 { typeof ip daddr; flags dynamic; counter; }
  set requests6 { typeof ip6 daddr; flags dynamic; counter; }
  set answers4 { typeof ip saddr . ether saddr; flags dynamic; }
  set answers6 { typeof ip6 saddr . ether saddr; flags dynamic; }
  chain forward {
    type filter hook forward priority 0
    iifname "vec1" tcp flags & (syn | ack) == syn add @requests4 { ip daddr }
    iifname "vec1" tcp flags & (syn | ack) == syn add @requests6 { ip6 daddr }
    iifname "vec0" add @answers4 { ip saddr . ether saddr }
    iifname "vec0" add @answers6 { ip6 saddr . ether saddr }
  }
}
"""
"""On the router: how many connections clients began, by address; from whose network cards answers came."""
REMEMBER = "3600000"
"""Milliseconds for which the router believes what it knows of its neighbours. Linux asks again after half a minute, by
itself; others wait for hours, and so all depends on what they are told."""


@pytest.fixture(scope="module")
def testbed(own_state: None, shown: Shown) -> Iterator[LabTestbed]:
    """Three nodes, a router, a client behind it."""
    with shown():
        made = LabTestbed("two-networks", 3, "none", networks=2)
    try:
        with shown():
            made.up()
        yield made
    finally:
        made.down()


@pytest.fixture(scope="module")
def world(testbed: LabTestbed, tmp_path_factory: pytest.TempPathFactory) -> World:
    """With the project in it; of the directors the first has the addresses."""
    made = World(testbed, find_helm(), tmp_path_factory.mktemp("helm"))
    made.kubectl("cordon", FIRST)
    made.make_namespace()
    made.install([FIRST, SECOND])
    assert FIRST not in made.pods_of("web").values()
    return made


Vips = dict[str, dict[int, str]]
"""By forwarding method and family."""


@pytest.fixture(scope="module")
def vips(world: World) -> Vips:
    """Each VirtualService is Ready, with TCP and UDP on port 80. They end with the cluster."""
    ports = [{"name": proto.lower(), "protocol": proto, "port": 80} for proto in ("TCP", "UDP")]
    made = {forwarding: world.vips() for forwarding in FORWARDINGS}
    spec = {"ports": ports, "drain": {"timeoutSeconds": DRAIN_SECONDS}}
    services = [
        virtual_service(f"by-{forwarding.lower()}", list(addresses.values()), forwarding=forwarding, **spec)
        for forwarding, addresses in made.items()
    ]
    world.apply(*services)
    for one in services:
        world.await_ready(one["metadata"]["name"])
    return made


def mac(world: World, node: str) -> str:
    return world.testbed.run(node, "cat", "/sys/class/net/vec0/address").stdout.strip()


# Requests and answers.


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("forwarding", FORWARDINGS)
def test_every_pod_answers_and_sees_the_client_that_the_docs_say(
    world: World, vips: Vips, forwarding: str, family: int, proto: str
) -> None:
    """docs/concepts.md: DR and TUN keep the client's address, NAT with Masquerade shows the director's."""
    answers = world.ask(vips[forwarding][family], 24, proto)
    assert {pod for pod, _ in answers} == set(world.pods_of("web"))
    seen = {address for _, address in answers}
    client = {4: "10.201.0.2", 6: "fd00:10:201::2"}[family]
    expected = world.addresses_of(FIRST) if forwarding == "NAT" else {client}
    assert seen <= expected
    assert {ip_address(address).version for address in seen} == {family}


class Stats(NamedTuple):
    """What IPVS counted of a virtual service."""

    connections: int
    packets_in: int
    packets_out: int


def stats(world: World, node: str, vip: str) -> Stats:
    """Of TCP on port 80, up to two seconds ago (net/netfilter/ipvs/ip_vs_est.c sums them up)."""
    shown = f"[{vip}]:80" if ":" in vip else f"{vip}:80"
    told = world.testbed.run(node, "ipvsadm", "-Ln", "--stats", "--exact", "-t", shown).stdout
    (line,) = (words for words in map(str.split, told.splitlines()) if words[:2] == ["TCP", shown])
    return Stats(*map(int, line[2:5]))


def await_scheduled(world: World, node: str, vip: str, before: Stats, count: int) -> Stats:
    """Until this director has counted so many connections more."""
    return await_condition(
        lambda: (now := stats(world, node, vip)).connections - before.connections >= count and now,
        30,
        f"{node} scheduled {count} connections to {vip}",
        every=0.5,
    )


def seen_by_router(world: World, what: str, family: int) -> list[Any]:
    """The elements of one of WATCH's sets."""
    told = world.testbed.run(ROUTER, "nft", "-j", "list", "set", "inet", "seen", f"{what}{family}").stdout
    (found,) = (one["set"] for one in json.loads(told)["nftables"] if "set" in one)
    return list(found.get("elem", ()))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("forwarding", FORWARDINGS)
def test_requests_pass_the_router_and_answers_the_director_only_with_nat(
    world: World, vips: Vips, forwarding: str, family: int
) -> None:
    vip = vips[forwarding][family]
    before = stats(world, FIRST, vip)
    world.testbed.run(ROUTER, "nft", "-f", "-", stdin=WATCH)
    answered = {pod for pod, _ in world.ask(vip, 24)}
    after = await_scheduled(world, FIRST, vip, before, 24)
    asked = {one["elem"]["val"]: one["elem"]["counter"]["packets"] for one in seen_by_router(world, "requests", family)}
    senders = {one["concat"][1] for one in seen_by_router(world, "answers", family) if one["concat"][0] == vip}
    assert asked[vip] >= 24
    if forwarding == "NAT":
        assert senders == {mac(world, FIRST)}
        assert after.packets_out - before.packets_out >= 24
    else:
        pods = world.pods_of("web")
        assert senders == {mac(world, pods[pod]) for pod in answered}
        assert after.packets_out == 0


# Another director.


def neighbours(world: World, vips: Vips) -> dict[str, tuple[str, str]]:
    """What the router knows of these addresses: whose they are, and how sure it is."""
    wanted = {vip for pair in vips.values() for vip in pair.values()}
    told = json.loads(world.testbed.run(ROUTER, "ip", "-json", "neigh", "show", "dev", "vec0").stdout)
    return {one["dst"]: (one.get("lladdr", ""), one["state"][0]) for one in told if one["dst"] in wanted}


def make_router_remember(world: World, vips: Vips, node: str) -> None:
    """It knows each address as this node's, and will not ask again."""
    for family in ("ipv4", "ipv6"):
        setting = f"net.{family}.neigh.vec0.base_reachable_time_ms={REMEMBER}"
        world.testbed.run(ROUTER, "sysctl", "--write", setting)
    world.testbed.run(ROUTER, "ip", "neigh", "flush", "dev", "vec0")
    for pair in vips.values():
        for vip in pair.values():
            world.ask(vip, 1)
    known = neighbours(world, vips)
    assert len(known) == len(FORWARDINGS) * len(FAMILIES)
    assert {sure for _, sure in known.values()} == {"REACHABLE"}, known
    assert {owner for owner, _ in known.values()} == {mac(world, node)}, known


def await_moved(world: World, vips: Vips, node: str) -> None:
    """Until the router sends all to this node; then that one serves."""
    card, began = mac(world, node), time.monotonic()

    def moved() -> bool:
        known = neighbours(world, vips)
        assert {owner for owner, _ in known.values()} == {card}, known
        return True

    await_condition(moved, MOVED_SECONDS, f"the router sends to {node}, {card}", every=0.2)
    print(f"the router sends to {node} after {time.monotonic() - began:.1f} s")
    for forwarding, pair in vips.items():
        for vip in pair.values():
            before = stats(world, node, vip)
            answers = world.ask(vip, 6)
            await_scheduled(world, node, vip, before, 6)
            if forwarding == "NAT":
                assert {address for _, address in answers} <= world.addresses_of(node)


@contextmanager
def held(world: World, vips: Vips) -> Iterator[None]:
    """A connection through each address is open."""
    every = [vip for pair in vips.values() for vip in pair.values()]
    with world.testbed.start(CLIENT, sys.executable, "-I", "-S", "-c", HOLD, *every) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "held\n"
            yield
        finally:
            running.kill()


def test_the_router_is_told_when_addresses_go_to_another_director_and_back(world: World, vips: Vips) -> None:
    """By the announcement: it would go on to send to the first, which forwards to whoever answers, as any node does.
    And the first lets the addresses go while it still has connections."""
    make_router_remember(world, vips, FIRST)
    try:
        with held(world, vips):
            world.kubectl("label", "node", FIRST, "ipvs.dev/director-")
            await_moved(world, vips, SECOND)
        make_router_remember(world, vips, SECOND)
    finally:
        world.kubectl("label", "node", FIRST, "ipvs.dev/director=true", "--overwrite")
    await_moved(world, vips, FIRST)


# The router itself.


def test_much_data_passes_the_router_whole_both_ways(testbed: LabTestbed) -> None:
    cluster, numbers = testbed.cluster, " ".join(map(str, range(100_000)))
    cluster.exec(CLIENT, "kubectl", "create", "configmap", "much", "--from-file=data=/dev/stdin", stdin=numbers)
    assert cluster.get("/api/v1/namespaces/default/configmaps/much")["data"]["data"] == numbers
    shown = cluster.exec(CLIENT, "kubectl", "get", "configmap", "much", "--output=jsonpath={.data.data}").stdout
    assert shown == numbers


def test_a_client_reaches_nothing_without_the_router_and_all_once_it_is_back(
    testbed: LabTestbed, world: World, vips: Vips
) -> None:
    cluster = testbed.cluster
    with pytest.raises(LabError, match="client has no cable into servers: it has one into clients"):
        cluster.unplug(CLIENT, "servers")
    cluster.unplug(ROUTER, CLIENTS.name)
    assert cluster.exec(CLIENT, "true", check=False).returncode == 125
    assert cluster.exec(ROUTER, "cat", "/sys/class/net/vec0/carrier").stdout == "1\n"
    cluster.plug(ROUTER, CLIENTS.name)
    await_reached(testbed)
    cluster.kill(ROUTER)
    assert cluster.status()["hosts"][ROUTER]["state"] == "off"
    cluster.boot(ROUTER)
    await_reached(testbed)
    for pair in vips.values():
        for vip in pair.values():
            world.ask(vip, 6)


def await_reached(testbed: LabTestbed) -> None:
    await_condition(
        lambda: testbed.cluster.exec(CLIENT, "true", check=False).returncode == 0, 60, "the client is reached"
    )


# A director that is lost.


def test_clients_are_served_by_the_next_director_once_a_dead_ones_node_is_deleted(
    testbed: LabTestbed, world: World, vips: Vips
) -> None:
    """docs/kubernetes.md, "When something is down". Last: the node stays away."""
    make_router_remember(world, vips, FIRST)
    testbed.power_off(FIRST)
    world.kubectl("delete", "node", FIRST)
    await_moved(world, vips, SECOND)
