"""What the documents tell people to type, typed: from the first command to the last, with nothing left of it.

Every walk begins on a cluster that has nothing of ours, and ends with kernels as they were before. What documents leave
to their reader is in TABLE and EXAMPLES.
"""

import base64
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Shown
from tests.documents import Command
from tests.e2e import steps
from tests.e2e.dumps import Dumps, differences, take_dumps
from tests.e2e.lab import OUTSIDE, LabTestbed
from tests.e2e.testbed import CLIENT
from tests.e2e.workstation import Workstation
from tests.e2e.world import NAMESPACE, World

from ipvs_lab.cluster.images import WEB
from ipvs_lab.cluster.plan import API_SERVICE
from ipvs_lab.kubernetes.helm import find_helm
from ipvs_lab.machine import inside
from ipvs_lab.net.waiting import await_condition

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

VIP, OUTSIDER, CLIENT_ADDRESS = "10.200.0.122", "10.200.0.1", "10.200.0.2"
TABLE = {
    "DR": "DR",  # a word of its own
    "REGISTRY": "registry.example",
    "OWNER": "owner",
    "NAME": "node1",
    "DIRECTORY": "../overlay",
    "FILE": "../kubeconfig",
    "192.0.2.0/28": "10.200.0.112/28",
    "192.0.2.10": VIP,
}
SHOWN = {"192.0.2.10": VIP.replace(".", r"\."), "192.0.2.1": r"10\.200\.0\.1(?:1[2-9]|2[0-7])"}
"""In output, 192.0.2.1 is any address of the group: the lowest that is free."""
EXAMPLES = {
    "group.yaml": {"[192.0.2.0/28]": "[10.200.0.112/28]", "[198.51.100.0/24]": "[10.200.0.0/24]"},
    "web.yaml": {"[192.0.2.10]": f"[{VIP}]"},
    "static.yaml": {"198.51.100.21": OUTSIDER, "198.51.100.22": CLIENT_ADDRESS, "8443": "8080"},
}
"""The addresses of one's own network, which examples/kubernetes asks for; and machines that speak HTTP on 8080."""
IMAGE = "docker.io/nginxinc/nginx-unprivileged:1.29"
"""Of the example. Nodes without a registry have the lab's own web server under that name."""
CTR = ("ctr", "--address=/run/node/containerd.sock", "--namespace=k8s.io")
FILE = "/run/token.kubeconfig"
BUILT_IN = {"helm install": "--set=modules.load=false"}
"""The lab's kernels have no modules."""


@pytest.fixture(scope="module")
def testbed(own_state: None, shown: Shown) -> Iterator[LabTestbed]:
    """Three nodes, with images of this checkout and of the example under the names that documents give them."""
    with shown():
        made = LabTestbed("documents", 3, "none")
    try:
        with shown():
            made.up()
        named = {f"{TABLE['REGISTRY']}/ipvs-{role}:0.1.0": one for role, one in made.images.items()}
        names = {name: f"{one.repository}:{one.tag}" for name, one in named.items()} | {IMAGE: WEB}
        for node in made.nodes:
            for name, old in names.items():
                made.run(node, *CTR, "images", "tag", "--force", old, name)
        yield made
    finally:
        made.down()


@pytest.fixture
def world(testbed: LabTestbed, tmp_path: Path) -> World:
    return World(testbed, find_helm(), tmp_path)


@pytest.fixture
def station(testbed: LabTestbed, world: World, tmp_path: Path) -> Iterator[Workstation]:
    """A copy of the checkout, with addresses of the lab in the example. In the end nothing is left in any kernel."""
    left = world.kubectl("get", f"namespace/{NAMESPACE}", "--ignore-not-found")
    assert left == "", "the walk before did not come to its end"
    before = take_dumps(testbed)
    made = Workstation(testbed, find_helm(), tmp_path, TABLE, SHOWN)
    for name, changes in EXAMPLES.items():
        made.edit(f"examples/kubernetes/{name}", changes)
    yield made
    left_over = ("deployment/web", "service/web", "service/web-public")  # the rest has gone with its definitions
    world.kubectl("delete", *left_over, "--ignore-not-found", "--timeout=120s")
    world.kubectl("label", "node", "node1", "ipvs.dev/director-")
    await_condition(lambda: world.get("pods", "--all-namespaces")["items"] == [], 120, "no pod is left", 0.5)
    assert world.kubectl("get", "crd", "--output=name") == ""
    await_condition(lambda: unchanged(before, testbed), 60, "kernels are as before", 1)


def unchanged(before: Dumps, testbed: LabTestbed) -> bool:
    assert (changed := differences(before, take_dumps(testbed))) == "", changed
    return True


def first_virtual_service(station: Workstation, world: World) -> None:
    """The example, and everything in it answers."""
    station.run(steps.FIRST)
    world.rolled("deployment/web")
    assert {name for name, _ in world.ask(VIP, 24)} == set(world.pods_of("web"))
    for name in ("legacy", "web-public"):
        world.await_ready(name)
    public = world.get("service", "web-public")["status"]["loadBalancer"]["ingress"][0]["ip"]
    assert {name for name, _ in world.ask(public, 24)} == set(world.pods_of("web"))
    legacy = world.get("ivs", "legacy")["status"]["addresses"][0]["address"]
    with machines(world.testbed):
        assert {name for name, _ in world.ask(legacy, 6, port=443)} == {"outside"}
    servers = world.real_servers("node1", legacy, port=443)
    assert servers == {f"{OUTSIDER}:8080": 2, f"{CLIENT_ADDRESS}:8080": 1}


@contextlib.contextmanager
def machines(testbed: LabTestbed) -> Iterator[None]:
    """Two machines that are no nodes answer."""
    with testbed.outside(), testbed.start(CLIENT, *testbed.client_script(OUTSIDE)) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
            yield
        finally:
            other.kill()


def load_balancer(station: Workstation, world: World) -> None:
    """docs/loadbalancer.md, in a namespace of its own."""
    station.shell("kubectl create namespace shop")
    station.shell("kubectl config set-context --current --namespace=shop")
    station.shell(f"kubectl create deployment web --image={WEB} --replicas=2")
    (station.checkout / "service.yaml").write_text(station.written(steps.BALANCER))
    station.shell("kubectl apply -f service.yaml")
    station.run(steps.BALANCER_SHOWN)
    address = json.loads(station.shell("kubectl get service web -o json"))["status"]["loadBalancer"]["ingress"][0]["ip"]
    assert len({name for name, _ in world.ask(address, 8)}) == 2
    station.run(steps.ANNOTATION)
    station.shell("kubectl config set-context --current --namespace=default")
    station.shell("kubectl delete namespace shop --timeout=120s")


def test_helm(station: Workstation, world: World) -> None:
    station.run(steps.HELM_INSTALL, more=BUILT_IN)
    first_virtual_service(station, world)
    station.run(steps.HELM_TEST)
    load_balancer(station, world)
    station.run(steps.HELM_UPGRADE)
    world.ask(VIP, 12)
    station.run(steps.HELM_UNINSTALL)
    station.run(steps.REMOVE_DEFINITIONS)


def test_kustomize(station: Workstation, world: World) -> None:
    """The overlay takes the base out of a repository by its tag."""
    station.shell("git init --quiet && git add . && git -c user.name=a -c user.email=a@b.c commit --quiet -m 0.1.0")
    station.shell("git tag v0.1.0")
    overlay = station.checkout.parent / "overlay"
    overlay.mkdir()
    text = station.written(steps.OVERLAY) + station.written(steps.WITHOUT_MODULES)
    (overlay / "kustomization.yaml").write_text(text)
    station.run(steps.KUSTOMIZE_APPLY)
    first_virtual_service(station, world)
    station.run(steps.KUSTOMIZE_APPLY)  # as an upgrade
    release(station)
    station.run(steps.KUSTOMIZE_DELETE)


def test_manifests(station: Workstation, world: World) -> None:
    workloads = station.checkout / "deploy/workloads/workloads.yaml"
    text = workloads.read_text()
    start, end = text.index("      initContainers:\n"), text.index("      containers:\n      - name: agent\n")
    workloads.write_text(text[:start] + text[end:])
    station.run(steps.MANIFESTS_APPLY)
    first_virtual_service(station, world)
    station.run(steps.MANIFESTS_APPLY)
    release(station)
    station.run(steps.MANIFESTS_DELETE)


def release(station: Workstation) -> None:
    """With the definitions and all objects there: what only a node knows must go as well."""
    station.run(steps.RELEASE_NODES)


def test_without_images(station: Workstation, world: World, testbed: LabTestbed, tmp_path: Path) -> None:
    """The operator runs on the client's machine, an agent on each node, all with tokens that end."""
    station.run(steps.DEFINITIONS_AND_RIGHTS)
    (operator, agent), (for_operator, for_agent) = steps.WITHOUT_IMAGES.commands, steps.TOKENS.commands
    with contextlib.ExitStack() as running:
        files = {CLIENT: kubeconfig(station, for_operator)} | {
            node: kubeconfig(station, for_agent, NAME=node) for node in testbed.nodes
        }
        for host, text in files.items():
            testbed.run(host, "tee", FILE, stdin=text)
            command = station.text(operator if host == CLIENT else agent, FILE=FILE, NAME=host)
            running.enter_context(station.running(command, tmp_path / f"{host}.log", HOST=host))
        first_virtual_service(station, world)
        station.run(steps.UPGRADE)
        station.shell("kubectl delete -f examples/kubernetes/")
        plans = ("get", "ivsp", f"--namespace={NAMESPACE}", "--output=name")
        await_condition(lambda: world.kubectl(*plans) == "", 180, "no plan is left", 0.5)
    on_each_node, once = steps.UNINSTALL.commands
    for node in testbed.nodes:
        await_condition(lambda at=node: not agents(testbed, at), 30, f"{node}'s agent has ended", 0.2)
        station.shell(station.text(on_each_node), HOST=node)
    station.command(once)


def agents(testbed: LabTestbed, node: str) -> str:
    """Processes on a node."""
    return testbed.run(node, "pgrep", "--full", "ipvs-agent run", check=False).stdout


def kubeconfig(station: Workstation, command: Command, **other: str) -> str:
    """A file with the token that the command makes, for hosts of the cluster."""
    token = station.shell(station.text(command, **other)).strip()
    known = json.loads(station.kubeconfig.read_text())
    (cluster,) = known["clusters"]
    authority = Path(cluster["cluster"]["certificate-authority"]).read_bytes()
    cluster["cluster"] = {
        "server": f"https://{API_SERVICE}",
        "certificate-authority-data": base64.b64encode(authority).decode(),
    }
    (user,) = known["users"]
    user["user"] = {"token": token}
    return json.dumps(known)
