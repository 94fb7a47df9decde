"""How long clients wait on a cluster with kubelets, and what it costs, beside kube-proxy on the same nodes in the same
run. kube-proxy's part is a port of the director's own address (NodePort), since it announces no address."""

import re
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO

from tests.bench.apiserver.load import tell
from tests.bench.e2e.costs import Cost, costs
from tests.e2e.lab import LabTestbed
from tests.e2e.testbed import CLIENT
from tests.e2e.world import CLIENT_SCRIPT, FORWARDINGS, World, deployment, service, virtual_service

from ipvs_lab.net.waiting import await_condition

TIMES = 5
NODE_PORT = 30080
PROGRAMS = {"kube-proxy": "kube-proxy --config", "agent": "bin/ipvs-agent run", "operator": "bin/ipvs-operator run"}
"""Parts of their command lines."""
PERIOD = 60.0


class Moment:
    """When the first line came that has something, of what a process says."""

    def __init__(self, told: IO[str], sought: str = "") -> None:
        self.at = 0.0
        self._told, self._sought = told, re.compile(sought)
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def _listen(self) -> None:
        for line in self._told:
            if self._sought.search(line):
                self.at = time.monotonic()
                return

    def wait(self) -> float:
        self._thread.join()
        assert self.at, "it ended without"
        return self.at


@contextmanager
def asking(world: World, address: str, port: int) -> Iterator[Moment]:
    """A client asks an address 50 times a second; on return it was answered."""
    script = world.testbed.client_script(CLIENT_SCRIPT)
    with world.testbed.start(CLIENT, *script, "first", address, str(port)) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "asking\n"
            answered = Moment(running.stdout)
            yield answered
            answered.wait()
        finally:
            running.kill()


@contextmanager
def pod_ready(testbed: LabTestbed, app: str) -> Iterator[Moment]:
    """When the API server says that a pod is ready."""
    path = 'jsonpath={.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\\n"}'
    command = testbed.cluster.kubectl_command("get", "pods", f"--selector=app={app}", "--watch", f"--output={path}")
    environment = testbed.cluster.kubectl_environment()
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as watch:
        assert watch.stdout is not None
        try:
            yield Moment(watch.stdout, " True$")
        finally:
            watch.kill()


def shown(seconds: Sequence[float]) -> str:
    each = ", ".join(f"{one:.2f}" for one in sorted(seconds))
    return f"median {statistics.median(seconds):.2f} s ({each})"


def director(testbed: LabTestbed) -> str:
    return str(testbed.cluster.status()["hosts"][testbed.nodes[0]]["address"])


def node_port(name: str, app: str, port: int) -> dict[str, object]:
    ports = [{"name": "tcp", "port": 80, "targetPort": 8080, "nodePort": port}]
    made: dict[str, object] = service(name, app, type="NodePort", ports=ports)
    return made


def test_from_kubectl_apply_to_the_first_answer(world: World, testbed: LabTestbed) -> None:
    found = {}
    for forwarding in FORWARDINGS:
        took = []
        for number in range(TIMES):
            vip = world.vips()[4]
            one = virtual_service(f"new-{number}", [vip], forwarding=forwarding)
            with world.undeclaring(one), asking(world, vip, 80) as first:
                start = time.monotonic()
                world.apply(one)
            took.append(first.at - start)
        found[f"VirtualService, {forwarding}"] = shown(took)
    took = []
    for number in range(TIMES):
        other = node_port(f"new-{number}", "web", NODE_PORT + number)
        with world.undeclaring(other), asking(world, director(testbed), NODE_PORT + number) as first:
            start = time.monotonic()
            world.apply(other)
        took.append(first.at - start)
    found["Service of type NodePort"] = shown(took)
    tell(f"kubectl apply to the first answer, beside {testbed.cluster.name}", found)


def test_from_a_pod_that_is_ready_to_its_first_request(world: World, testbed: LabTestbed) -> None:
    """Nobody answers before: the pod is the only one. Both are asked at the same time."""
    found = {}
    for forwarding in FORWARDINGS:
        vip = world.vips()[4]
        name = f"alone-{forwarding.lower()}"
        alone = virtual_service(name, [vip], backends={"service": {"name": name}}, forwarding=forwarding)
        theirs = node_port(name, name, NODE_PORT)
        one = deployment(name, testbed.web, 1)
        by_us, by_them = [], []
        with world.undeclaring(one, theirs, alone):
            world.apply(one, theirs, alone)
            world.await_ready(name)
            for _ in range(TIMES):
                world.kubectl("scale", f"deployment/{name}", "--replicas=0")
                world.kubectl("wait", "pod", f"--selector=app={name}", "--for=delete", "--timeout=120s")
                await_condition(lambda at=vip: world.served([at]) == {0}, 60, "nobody serves", 0.2)
                with (
                    asking(world, vip, 80) as ours,
                    asking(world, director(testbed), NODE_PORT) as proxys,
                    pod_ready(testbed, name) as ready,
                ):
                    world.kubectl("scale", f"deployment/{name}", "--replicas=1")
                    at = ready.wait()
                by_us.append(ours.at - at)
                by_them.append(proxys.at - at)
        found[f"through a VIP, {forwarding}"] = shown(by_us)
        found[f"through a NodePort beside {forwarding}"] = shown(by_them)
    tell(f"a pod is ready to its first request, beside {testbed.cluster.name}", found)


def test_what_it_costs(world: World, testbed: LabTestbed) -> None:
    """Of each program on all nodes together: CPU of a minute without anything to do, and memory."""
    vips = [world.vips()[4] for _ in FORWARDINGS]
    services = [
        virtual_service(f"idle-{how.lower()}", [vip], forwarding=how)
        for how, vip in zip(FORWARDINGS, vips, strict=True)
    ]
    with world.declared(*services):
        for one in services:
            world.await_ready(one["metadata"]["name"])
        before = used(testbed)
        time.sleep(PERIOD)  # what is measured
        after = used(testbed)
    found = {
        name: {
            "CPU of a minute, s": round(sum(one.cpu for one in after[name]) - sum(one.cpu for one in before[name]), 2),
            "resident, MiB": [one.resident for one in after[name]],
        }
        for name in PROGRAMS
    }
    tell(f"what it costs, beside {testbed.cluster.name}", found)


def used(testbed: LabTestbed) -> dict[str, list[Cost]]:
    """By each program on all nodes."""
    return {
        name: [cost for node in testbed.nodes for cost in costs(testbed.cluster, node, words)]
        for name, words in PROGRAMS.items()
    }
