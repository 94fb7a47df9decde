"""Requests from a client beside the cluster reach pods through a VIP, by every forwarding method."""

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from tests.e2e.testbed import CLIENT
from tests.e2e.world import DIRECTORS, FORWARDINGS, World, daemon_set, service, virtual_service

FAMILIES = (4, 6)

IN_POD = """
for space in $(ip netns list | cut -d" " -f1); do
    if ip -n "$space" address show | grep -q " $1/"; then exec ip netns exec "$space" sh -c "$0"; fi
done
"""
"""For ``sh -c``: a script in the network of the pod of an address."""


@contextmanager
def served(world: World, name: str, **spec: object) -> Iterator[dict[int, str]]:
    """A VirtualService that is Ready, with an address of each family."""
    vips = world.vips()
    with world.declared(virtual_service(name, list(vips.values()), **spec)):
        world.await_ready(name)
        yield vips


@pytest.fixture(scope="module", params=FORWARDINGS)
def forwarded(request: pytest.FixtureRequest, world: World) -> Iterator[tuple[str, dict[int, str]]]:
    """A VirtualService with TCP and UDP: how it forwards, and its addresses."""
    ports = [{"name": proto.lower(), "protocol": proto, "port": 80} for proto in ("TCP", "UDP")]
    with served(world, f"by-{request.param.lower()}", forwarding=request.param, ports=ports) as vips:
        yield request.param, vips


@pytest.mark.parametrize("proto", ["tcp", "udp"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_pod_answers_and_sees_the_client_that_the_docs_say(
    world: World, forwarded: tuple[str, dict[int, str]], family: int, proto: str
) -> None:
    """docs/concepts.md: DR and TUN keep the client's address, NAT with Masquerade shows one of the director's."""
    forwarding, vips = forwarded
    answers = world.ask(vips[family], 24, proto)
    pods = world.pods_of("web")
    assert {pod for pod, _ in answers} == set(pods)
    seen = {address for _, address in answers}
    director = world.testbed.nodes[0]
    expected = world.addresses_of(director if forwarding == "NAT" else CLIENT)
    assert seen <= expected
    assert {ip_address(address).version for address in seen} == {family}


def test_every_director_has_all_of_it_and_one_has_the_address(
    world: World, forwarded: tuple[str, dict[int, str]]
) -> None:
    """`announcement: static`: the first by name."""
    _, vips = forwarded
    nodes = world.testbed.nodes
    for vip in vips.values():
        assert [vip in world.addresses_of(node) for node in nodes] == [True, *[False] * (len(nodes) - 1)]
        for node in nodes[:DIRECTORS]:
            assert sum(world.real_servers(node, vip).values()) == 6
        assert world.real_servers(nodes[-1], vip) == {}


@pytest.fixture(scope="module")
def callers(world: World) -> Iterator[list[tuple[str, str]]]:
    """A pod on every node that is no real server, and the node itself: node, and the pod's address or nothing."""
    with world.declared(daemon_set("caller", world.testbed.web)):
        world.rolled("daemonset/caller")
        pods = world.get("pods", "--selector=app=caller")["items"]
        found = [(pod["spec"]["nodeName"], pod["status"]["podIP"]) for pod in pods]
        yield [*found, *((node, "") for node in world.testbed.nodes)]


@pytest.mark.parametrize("family", FAMILIES)
def test_pods_and_nodes_are_clients_too(
    world: World, forwarded: tuple[str, dict[int, str]], callers: list[tuple[str, str]], family: int
) -> None:
    """Whichever node they are on: a director, one with real servers of its own."""
    _, vips = forwarded
    vip = f"[{vips[family]}]" if family == 6 else vips[family]
    ask = f"for each in $(seq 12); do curl --silent --show-error --max-time 5 http://{vip}/ 2>&1; done"
    pods = set(world.pods_of("web"))
    for node, pod in callers:
        command = ("sh", "-c", IN_POD, ask, pod) if pod else ("sh", "-c", ask)
        lines = world.testbed.run(node, *command, timeout=120).stdout.splitlines()
        assert len(lines) == 12, f"{node} {pod}: {lines}"
        assert {line.split()[0] for line in lines} <= pods, f"{node} {pod}: {lines}"


@pytest.mark.parametrize("forwarding", FORWARDINGS)
def test_a_service_of_type_load_balancer_is_served(world: World, forwarding: str) -> None:
    vips = world.vips()
    balancer = service(
        f"public-{forwarding.lower()}", "web", type="LoadBalancer", loadBalancerClass="ipvs.dev/default",
        allocateLoadBalancerNodePorts=False,
    )  # fmt: skip
    balancer["metadata"]["annotations"] = {
        "ipvs.dev/addresses": ",".join(vips.values()),
        "ipvs.dev/forwarding": forwarding,
        "ipvs.dev/scheduler": "wrr",
        "ipvs.dev/drain-timeout-seconds": "10",
    }
    name = balancer["metadata"]["name"]
    with world.declared(balancer):
        world.kubectl(
            "wait", f"service/{name}", "--for=jsonpath={.status.loadBalancer.ingress[1].ip}", "--timeout=120s"
        )
        world.await_ready(name)
        ingress = world.get("service", name)["status"]["loadBalancer"]["ingress"]
        assert {(one["ip"], one["ipMode"]) for one in ingress} == {(vip, "Proxy") for vip in vips.values()}
        for vip in vips.values():
            assert {pod for pod, _ in world.ask(vip, 12)} == set(world.pods_of("web"))


def test_a_machine_outside_the_cluster_is_served_by_nat(world: World) -> None:
    with world.testbed.outside() as machine:
        static = [{"address": machine[family]} for family in FAMILIES]
        ports = [{"name": "tcp", "port": 80, "targetPort": 8080}]
        with served(world, "outside", ports=ports, backends={"static": static}) as vips:
            for family, vip in vips.items():
                answers = world.ask(vip, 4)
                assert {pod for pod, _ in answers} == {"outside"}
                director = world.addresses_of(world.testbed.nodes[0])
                assert {address for _, address in answers} <= director, family
