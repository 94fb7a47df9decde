"""Everything at once: kubectl apply, and a client far away is served by pods on three kernels; the status says so."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.cluster.conftest import (
    CLIENT,
    NODES,
    PORT,
    VIP,
    Cluster,
    director_group,
    endpoints,
    pods,
    rips,
    service,
    virtual_service,
)

from ipvs_lab.net import Crowd, Histogram, await_condition, clients

pytestmark = pytest.mark.lab_timeout(240)


def row(cluster: Cluster, name: str = "web") -> list[str]:
    """What ``kubectl get ivs`` says of it, without the age."""
    return cluster.kubectl("get", "ivs", name, "--no-headers").split()[:-1]


def shares(cluster: Cluster, count: int) -> dict[str, int]:
    told = clients(cluster["client"], count, VIP, 80)
    assert not told.errors, str(told)
    assert all(seen == {CLIENT} for seen in told.seen.values()), told.seen
    return dict(told.answers)


def test_from_kubectl_apply_to_traffic_to_status_and_back_to_clean_kernels(cluster: Cluster) -> None:
    began = time.monotonic()
    cluster.apply(
        director_group(),
        service(),
        endpoints(rips(pods())),
        virtual_service(forwarding="DR", drain={"timeoutSeconds": 5}),
    )
    cluster.ready()
    took = time.monotonic() - began
    assert row(cluster) == ["web", VIP, "DR", "wrr", "6/6", "3/3", "True"]
    assert shares(cluster, 60) == dict.fromkeys(pods(), 10), f"ready after {took:.1f} s"
    assert "web" in cluster.kubectl("describe", "ivs", "web")

    # Endpoints go and come under load: nobody is refused, nobody is cut off.
    crowd = Crowd(cluster["client"], VIP, 80)
    opened = crowd.open(idle=6, streaming=6)
    assert opened.intact == 12, str(opened)
    with requests(cluster) as told:
        cluster.apply(endpoints(rips([pods(name)[0] for name in NODES])))
        await_condition(lambda: row(cluster)[4:] == ["3/3", "3/3", "True"], 30, "three real servers")
        cluster.apply(endpoints(rips(pods())))
        await_condition(lambda: row(cluster)[4:] == ["6/6", "3/3", "True"], 30, "six real servers")
    assert not told.errors, str(told)
    assert told.answers.total() > 100
    kept = crowd.finish(30)
    assert kept.intact == 12, str(kept)

    # So does a new port: none of its packets reaches a node that does not know what to do with it.
    more = [{"name": "http", "port": 80}, {"name": "more", "port": 81, "servicePort": "http"}]
    with requests(cluster) as told, cluster["n1"].capture("eth0", "tcp dst port 81") as passed:
        cluster.apply(virtual_service(forwarding="DR", drain={"timeoutSeconds": 5}, ports=more))
        await_condition(lambda: answers(cluster, 81), 30, "port 81 is served", every=0)
        cluster.ready()
    assert not told.errors, str(told)
    lives = {(packet.source_port, packet.ttl) for packet in passed.packets() if packet.source == CLIENT}
    longest = max(Counter(port for port, _ in lives).values())
    assert longest <= 2, "what goes round in circles comes by again and again, each time with less to live"

    # The forwarding method changes: real servers first, so nobody is refused in between.
    with requests(cluster) as told:
        cluster.apply(virtual_service(forwarding="TUN", drain={"timeoutSeconds": 5}))
        await_condition(lambda: row(cluster)[2:] == ["TUN", "wrr", "6/6", "3/3", "True"], 60, "ready with TUN")
    assert not told.errors, str(told)
    assert shares(cluster, 60) == dict.fromkeys(pods(), 10)

    # The same pods by a Service that has nothing of ours in it but its class.
    cluster.apply(
        service("public", type="LoadBalancer", loadBalancerClass="ipvs.dev/default"), endpoints(rips(pods()), "public")
    )
    cluster.ready("public")
    await_condition(lambda: ingress(cluster) == [{"ip": "192.0.2.11", "ipMode": "Proxy"}], 30, "the Service's address")
    told = clients(cluster["client"], 60, "192.0.2.11", 80)
    assert told.answers == dict.fromkeys(pods(), 10), str(told)
    cluster.kubectl("delete", "service", "public")

    cluster.kubectl("delete", "ivs", "web")
    await_condition(lambda: leftovers(cluster) == [], 60, "plans and claims gone", every=0.5)
    for child in cluster.agents.values():
        assert child.running(), cluster.logs()
    for name in NODES:
        assert cluster[name].run("ipvsadm", "-Sn").stdout == "", name
        held = {entry["local"] for link in cluster[name].addresses() for entry in link["addr_info"]}
        assert VIP not in held, name


@contextmanager
def requests(cluster: Cluster) -> Iterator[Histogram]:
    """Steady requests, four at a time, for as long as the block lasts; afterwards what became of them."""
    told, ending = Histogram(), threading.Event()

    def ask() -> None:
        while not ending.is_set():
            more = clients(cluster["client"], 20, VIP, 80, at_once=4, interval=0.02)
            told.answers += more.answers
            told.errors += more.errors

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        yield told
    finally:
        ending.set()
        asking.join()


def ingress(cluster: Cluster) -> list[dict[str, str]]:
    status = cluster.get("service", "public")["status"]["loadBalancer"]
    return [{name: entry[name] for name in ("ip", "ipMode")} for entry in status.get("ingress", [])]


def answers(cluster: Cluster, port: int) -> bool:
    """One request, to whatever comes of it."""
    return bool(clients(cluster["client"], 1, VIP, port, timeout=1).answers)


def leftovers(cluster: Cluster) -> list[str]:
    names = cluster.kubectl("get", "virtualserviceplans,ipvsaddresses", "--all-namespaces", "--output=name")
    return names.split()


def test_an_operator_that_dies_is_not_missed_by_traffic_and_its_successor_goes_on(cluster: Cluster) -> None:
    backends = [{"address": address} for address in rips(pods())]
    ports = [{"name": "http", "port": 80, "targetPort": PORT}]
    group = director_group(allowedStaticBackends=["10.244.0.0/16"])
    cluster.apply(group, virtual_service(ports=ports, backends={"static": backends}))
    cluster.ready()
    assert row(cluster) == ["web", VIP, "NAT", "wrr", "unchecked", "1/1", "True"]
    assert dict(clients(cluster["client"], 60, VIP, 80).answers) == dict.fromkeys(pods(), 10)

    assert cluster.operator is not None
    cluster.operator.kill(9)
    cluster.apply(virtual_service(forwarding="DR", ports=ports, backends={"static": backends[1:]}))
    assert dict(clients(cluster["client"], 60, VIP, 80).answers) == dict.fromkeys(pods(), 10), "nobody has planned it"
    cluster.start_operator()
    await_condition(lambda: row(cluster)[2:] == ["DR", "wrr", "unchecked", "3/3", "True"], 60, "taken over, and ready")
    assert shares(cluster, 50) == dict.fromkeys(pods()[1:], 10)

    # Agents take away what is theirs and nothing else, whatever the operator goes on to want.
    for name in NODES:
        cluster.agents[name].stop()
        cluster.agent(name, "release")
    after = cluster.dump()
    for name in NODES:
        assert not cluster.before[name].difference(after[name]), name
