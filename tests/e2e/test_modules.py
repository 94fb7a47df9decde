"""Nodes whose kernels have IPVS, nftables and tunnels as modules, as distributions' kernels have: who loads them, and
what is said where nobody does.

The kernel may call modprobe itself for what it is asked for. It does not while ``kernel.modprobe`` is empty, as on some
hardened nodes: then what is loaded was loaded by somebody else.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Shown
from tests.e2e.world import as_list, deployment, director_group, service, virtual_service

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.images import WEB
from ipvs_lab.cluster.plan import CLIENT, Spec
from ipvs_lab.example import CHART, NAMESPACE, RELEASE, helm_command, image_values
from ipvs_lab.images import CHECKOUT
from ipvs_lab.machine import inside
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.places import LabPlace

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

NODES = ("node1", "node2")
NET_ADMIN, NET_RAW, SYS_MODULE = 12, 13, 16  # include/uapi/linux/capability.h
NFTABLES = "this kernel has no nftables: load its module (modprobe nf_tables) or use a kernel that has it"
ASK_NFTABLES = """
from ipvs_agent.kernel.nft_program import Generation, NftError
try:
    print(Generation().ask())
except NftError as error:
    print(error)
"""
SERVICES = {"direct": ("10.200.0.121", "DR", "mh"), "tunnelled": ("10.200.0.122", "TUN", "wlc")}
ON_DEMAND = {"ip_vs_mh", "ip_vs_wlc", "nft_ct", "ipip"}
"""What these need besides what every agent does."""

OURS = as_list(
    [
        director_group(["10.200.0.112/28"]),
        deployment("web", WEB, 2),
        service("web", "web"),
        *(
            virtual_service(name, [address], forwarding=forwarding, scheduler=scheduler)
            for name, (address, forwarding, scheduler) in SERVICES.items()
        ),
    ]
)


class Modular:
    """A cluster whose kernels call no modprobe until they are told to, and the chart in it."""

    def __init__(self) -> None:
        self.place = LabPlace(Cluster("modules"), Spec(nodes=len(NODES), kernel="modular"))
        self.cluster = self.place.cluster

    def start(self) -> None:
        self.images = self.place.load_images()
        self.begin()

    def begin(self) -> None:
        for node in NODES:
            self.kernel_loads_nothing(node)
            assert "ip_vs" not in self.loaded(node)

    def restart(self) -> None:
        """Without the chart, and with kernels that have loaded nothing."""
        self.helm("uninstall", RELEASE, "--ignore-not-found", "--wait")
        for node in NODES:
            self.cluster.kill(node)
            self.cluster.boot(node)
        self.cluster.await_ready(NODES)
        self.begin()

    def kernel_loads_nothing(self, host: str) -> None:
        self.cluster.exec(host, "tee", "/proc/sys/kernel/modprobe", stdin="\n")

    def kernel_loads(self, node: str) -> None:
        self.cluster.exec(node, "tee", "/proc/sys/kernel/modprobe", stdin="/sbin/modprobe\n")

    def loaded(self, node: str) -> set[str]:
        """The names of modules there."""
        return {line.split()[0] for line in self.cluster.exec(node, "cat", "/proc/modules").stdout.splitlines()}

    def put_back_modules(self, node: str) -> None:
        """Where they were taken away."""
        if self.cluster.exec(node, "mountpoint", "/lib/modules", check=False).returncode:
            source = json.loads((self.cluster.state.host(node) / "host.json").read_text())["modules"]
            self.cluster.exec(node, "mount", "--bind", source, "/lib/modules")

    def install(self, *values: str) -> None:
        """The chart, and no waiting for pods."""
        self.cluster.kubectl("apply", f"--filename={CHECKOUT / 'deploy/00-namespace.yaml'}")
        self.helm("install", RELEASE, str(CHART), *values, *image_values(self.images))

    def helm(self, *words: str) -> None:
        command, environment = helm_command(self.place, *words)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def pods(self) -> dict[str, Any]:
        """The agents' pods by node."""
        labels = "labelSelector=app.kubernetes.io/component%3Dagent"
        found = self.cluster.get(f"/api/v1/namespaces/{NAMESPACE}/pods?{labels}")["items"]
        return {pod["spec"]["nodeName"]: pod for pod in found}

    def agent(self, node: str) -> dict[str, Any]:
        """The state of the agent's container there: empty before there is one."""
        statuses = self.pods().get(node, {}).get("status", {}).get("containerStatuses", [{}])
        return dict(statuses[0])

    def said_of_modules(self, node: str) -> list[str]:
        """What the init container wrote, a line for each module."""
        name = self.pods()[node]["metadata"]["name"]
        return self.cluster.kubectl("logs", name, f"--namespace={NAMESPACE}", "--container=modules").stdout.splitlines()

    def conditions(self, node: str) -> dict[str, tuple[str, str, str]]:
        """Status, reason and message, by condition of the IPVSNode; empty before there is one."""
        # Right after its definition the API server asks to wait (429), which kubectl does.
        every = json.loads(self.cluster.kubectl("get", "ipvsnodes", "--output=json").stdout)["items"]
        status = next((one.get("status", {}) for one in every if one["metadata"]["name"] == node), {})
        told = status.get("conditions", ())
        return {one["type"]: (one["status"], one["reason"], one.get("message", "")) for one in told}

    def await_told(self, node: str, kind: str, status: str, reason: str, words: str = "") -> None:
        """Until a condition is so, with these words in its message."""

        def told() -> bool:
            found = self.conditions(node)
            assert found.get(kind, ())[:2] == (status, reason), found
            assert words in found[kind][2]
            return True

        await_condition(told, 120, f"{kind} of {node}: {reason}", every=1)

    def await_agent(self, node: str) -> None:
        await_condition(lambda: self.agent(node).get("ready"), 120, f"the agent of {node} is ready", every=0.5)


@pytest.fixture(scope="module")
def modular(own_state: None, shown: Shown) -> Iterator[Modular]:
    """Nothing is installed, and no module of ours is loaded."""
    made = Modular()
    try:
        with shown():
            made.start()
        yield made
    finally:
        made.cluster.down()


@pytest.fixture(scope="module")
def without(modular: Modular) -> Modular:
    """``modules.load: false``, and nobody else loads any."""
    modular.install("--set=modules.load=false")
    return modular


@pytest.fixture(scope="module")
def default(modular: Modular) -> Modular:
    """Freshly booted nodes with the chart's default values; on one of them the modules are not where they should be."""
    modular.restart()
    modular.cluster.exec("node2", "umount", "/lib/modules")
    modular.cluster.exec("node2", "rmdir", "/lib/modules")
    modular.cluster.kubectl("label", "node", "node1", "ipvs.dev/director=true")
    modular.install()
    modular.await_agent("node1")
    return modular


def lacks_ipvs(modular: Modular, node: str) -> None:
    """The agent is there, does nothing, and says why."""
    words = "this kernel has no IPVS: load its module (modprobe ip_vs) or use a kernel that has it"
    for kind in ("Ready", "KernelReady"):
        modular.await_told(node, kind, "False", "ModuleMissing", words)
    assert modular.agent(node)["ready"] is False
    assert "ip_vs" not in modular.loaded(node)


def test_modules_that_are_missing_are_named_and_noticed_when_they_are_loaded_by_hand(without: Modular) -> None:
    lacks_ipvs(without, "node1")
    before = without.pods()["node1"]
    assert "initContainers" not in before["spec"]
    without.cluster.exec("node1", "modprobe", "--all", "ip_vs", "nf_tables")
    without.await_told("node1", "Ready", "True", "Programmed")
    without.await_agent("node1")
    assert without.agent("node1")["restartCount"] == 0
    assert without.pods()["node1"]["metadata"]["uid"] == before["metadata"]["uid"]


def test_nftables_are_named_too_where_they_are_missing(modular: Modular) -> None:
    """On the host that is no node: a kubelet may have them loaded, for iptables."""
    asked = (sys.executable, "-P", "-c", ASK_NFTABLES)
    modular.kernel_loads_nothing(CLIENT)
    assert modular.cluster.exec(CLIENT, *asked).stdout.strip() == NFTABLES
    modular.cluster.exec(CLIENT, "modprobe", "nf_tables")
    assert modular.cluster.exec(CLIENT, *asked).stdout.strip().isdecimal()


def test_a_kernel_that_may_loads_what_the_agent_asks_for(without: Modular) -> None:
    lacks_ipvs(without, "node2")
    without.kernel_loads("node2")
    without.await_told("node2", "Ready", "True", "Programmed")
    without.await_agent("node2")
    assert {"ip_vs", "nf_conntrack", "nf_tables"} <= without.loaded("node2")


def test_an_init_container_loads_what_every_agent_needs(default: Modular) -> None:
    assert default.said_of_modules("node1") == ["ip_vs: is there", "nf_conntrack: is there"]
    assert {"ip_vs", "nf_conntrack"} <= default.loaded("node1")


def test_the_init_container_alone_may_load_modules(default: Modular) -> None:
    for pod in default.pods().values():
        added = {
            one["name"]: one["securityContext"]["capabilities"]["add"]
            for kind in ("initContainers", "containers")
            for one in pod["spec"][kind]
        }
        assert added == {"modules": ["SYS_MODULE"], "agent": ["NET_ADMIN", "NET_RAW"]}
    process = default.cluster.exec("node1", "pgrep", "--full", "ipvs-agent run").stdout.split()
    assert len(process) == 1
    told = default.cluster.exec("node1", "grep", "^Cap", f"/proc/{process[0]}/status").stdout
    sets = {name: int(value, 16) for name, value in (line.split(":") for line in told.splitlines())}
    may = 1 << NET_ADMIN | 1 << NET_RAW
    assert (sets["CapEff"], sets["CapPrm"], sets["CapBnd"]) == (may, may, may)
    assert not may & 1 << SYS_MODULE


def test_a_node_without_modules_starts_its_agent_and_says_what_is_missing(default: Modular) -> None:
    """Until somebody loads it by hand."""
    lacks_ipvs(default, "node2")
    release = default.cluster.exec("node2", "uname", "-r").stdout.strip()
    words = f"modprobe: FATAL: Module ip_vs not found in directory /lib/modules/{release}"
    assert default.said_of_modules("node2")[0] == f"ip_vs: not loaded: {words}"
    default.put_back_modules("node2")
    default.cluster.exec("node2", "modprobe", "ip_vs")
    default.await_agent("node2")
    assert default.agent("node2")["restartCount"] == 0


@pytest.fixture(scope="module")
def served(default: Modular) -> Modular:
    """Virtual services, on nodes whose kernels load what they are asked for."""
    default.put_back_modules("node2")
    before = set[str]()
    for node in NODES:
        before |= default.loaded(node)
        default.kernel_loads(node)
    assert not before & ON_DEMAND
    default.cluster.kubectl("apply", "--filename=-", stdin=OURS)
    for name in SERVICES:
        default.cluster.kubectl("wait", f"ivs/{name}", "--for=condition=Ready", "--timeout=180s")
    return default


@pytest.mark.parametrize("name", SERVICES)
def test_a_client_is_answered_through_modules(served: Modular, name: str) -> None:
    address = SERVICES[name][0]
    curl = ("curl", "--silent", "--max-time", "5", "--header", "Connection: close", f"http://{address}/?[1-20]")
    answers = served.cluster.exec(CLIENT, *curl, check=False, timeout=150).stdout.splitlines()
    assert len(answers) == 20
    assert {line.split()[1] for line in answers} == {"10.200.0.2"}


def test_what_virtual_services_need_is_loaded_when_they_come(served: Modular) -> None:
    loaded = {node: served.loaded(node) for node in NODES}
    assert {f"ip_vs_{scheduler}" for _, _, scheduler in SERVICES.values()} <= loaded["node1"]
    assert set.union(*loaded.values()) >= ON_DEMAND
