"""One cluster for all modules of the suite, with the project installed in it by its chart.

IPVS_E2E_PROXY    kube-proxy's mode in the lab: `nftables` by default; `none`, `iptables`, `ipvs`
IPVS_E2E_CLUSTER  a cluster of the lab by this name is used, made if it is not there, and left as it is then
IPVS_E2E_KIND     a cluster of kind by this name is used instead: see kind.py
IPVS_E2E_RATE     requests a second, where a machine has no time for 200: see test_steady.py
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Shown
from tests.e2e.dumps import Dumps, take_dumps
from tests.e2e.kind import KindTestbed
from tests.e2e.lab import LabTestbed
from tests.e2e.testbed import Testbed
from tests.e2e.world import DIRECTORS, FORWARDINGS, NAMESPACE, World, virtual_service

from ipvs_lab.kubernetes.helm import find_helm
from ipvs_lab.machine import inside
from ipvs_lab.net.waiting import await_condition


@pytest.fixture(scope="module")
def own_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Clusters that a module makes are known to nobody else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(scope="session")
def testbed(shown: Shown) -> Iterator[Testbed]:
    """Three nodes that are Ready and have the images."""
    if inside():
        pytest.skip("a lab kernel does not run in a lab kernel")
    kept, kind = (os.environ.get(f"IPVS_E2E_{what}", "") for what in ("CLUSTER", "KIND"))
    made: KindTestbed | LabTestbed
    with shown():
        if kind:
            made = KindTestbed(kind)
        else:
            proxy = os.environ.get("IPVS_E2E_PROXY", "nftables")
            made = LabTestbed(kept or f"e2e-{os.getpid()}", 3, proxy)
    try:
        with shown():
            made.up()
        yield made
    finally:
        if not kept:
            made.down()


@pytest.fixture(scope="session")
def before(testbed: Testbed) -> Dumps | None:
    """What the nodes' kernels had before anything was installed; None where something was."""
    there = testbed.kubectl("get", "namespace", NAMESPACE, "--ignore-not-found").stdout
    return None if there else take_dumps(testbed)


@pytest.fixture(scope="session")
def world(shown: Shown, testbed: Testbed, before: Dumps | None, tmp_path_factory: pytest.TempPathFactory) -> World:
    """Installed as docs/install.md has it, with a DirectorGroup, and six pods behind the Service `web`."""
    with shown():
        made = World(testbed, find_helm(), tmp_path_factory.mktemp("helm"))
    if before is not None:
        made.make_namespace()
    made.install(testbed.nodes[:DIRECTORS])
    return made


@pytest.fixture(scope="module")
def vips(world: World) -> Iterator[dict[str, str]]:
    """By forwarding method, an address whose VirtualService is Ready."""
    addresses = {forwarding: world.vips()[4] for forwarding in FORWARDINGS}
    services = [
        virtual_service(f"web-{forwarding.lower()}", [address], forwarding=forwarding)
        for forwarding, address in addresses.items()
    ]
    with world.declared(*services):
        for one in services:
            world.await_ready(one["metadata"]["name"])
        yield addresses


@pytest.fixture
def web(world: World) -> Iterator[World]:
    """Six pods are ready and nothing is wrong, before and after."""
    ready(world)
    yield world
    ready(world)


def ready(world: World) -> None:
    world.kubectl("scale", "deployment/web", "--replicas=6")
    world.rolled("deployment/web")
    await_condition(lambda: len(world.pods_of("web")) == 6, 120, "six pods", 0.5)
    for what in ("daemonset/ipvs-agent", "deployment/ipvs-operator"):
        world.rolled(what, NAMESPACE)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The project is uninstalled last."""
    items.sort(key=lambda item: Path(item.path).name == "test_uninstall.py" and item.path.parent.name == "e2e")
