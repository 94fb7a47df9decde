"""An agent on a kernel, with an API server that comes and goes: what kubectl writes is in IPVS, and reported."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.lab.agent_host import CONTROL, PORT

from ipvs_api.labels import node_label
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.machine import Job, Machine, environment, inside
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.run import choose_kernel
from ipvs_lab.site import ADDRESS, Site

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

ROOT = Path(__file__).parents[2]
API = "ipvs.dev/v1alpha1"
VIP = "192.0.2.10"
SERVICE = f"-A -t {VIP}:80 -s rr"
BOTH = {"rs1": 5, "rs2": 5}


def real_server(last: int) -> str:
    return f"-a -t {VIP}:80 -r 10.0.0.{last}:80 -m -w 1"


class Host:
    """The lab kernel, and the API server beside it."""

    def __init__(self, plane: ControlPlane, site: Site, machine: Machine, namespace: str) -> None:
        self.plane, self.namespace = plane, namespace
        self._site, self._machine = site, machine

    def order(self, *words: Any) -> Any:
        """See ``agent_host.Orders``."""
        curl = [
            "curl",
            "--silent",
            "--show-error",
            "--max-time",
            "60",
            "--data-binary",
            "@-",
            f"http://{CONTROL}:{PORT}",
        ]
        told = subprocess.run(
            [*self._site.prefix, *curl], input=json.dumps(words), capture_output=True, text=True, check=False
        )
        assert told.returncode == 0, told.stderr + self._machine.last_words()
        return json.loads(told.stdout)

    def until(self, wanted: Any, *words: Any) -> None:
        """Until an order is answered with this, or with something that has it (a text)."""

        def answered() -> bool:
            answer = self.order(*words)
            assert answer == wanted or (isinstance(answer, str) and wanted in answer), answer
            return True

        try:
            await_condition(answered, 40, f"{words}: {wanted}", every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}\nThe agent:\n{self.order('log')}") from None

    def apply(self, value: dict[str, Any]) -> None:
        self.plane.kubectl("apply", "--server-side", "--filename=-", stdin=json.dumps({"apiVersion": API, **value}))

    def write_plan(self, *last: int) -> None:
        servers = [{"address": f"10.0.0.{number}", "ports": [80]} for number in last]
        self.apply(
            {
                "kind": "VirtualServicePlan",
                "metadata": {
                    "name": "shop.web.0",
                    "namespace": self.namespace,
                    "labels": {node_label("director"): ""},
                },
                "spec": {
                    "virtualService": {"namespace": "shop", "name": "web"},
                    "directorGroup": "default",
                    "addresses": [{"address": VIP, "holder": "director"}],
                    "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
                    "forwarding": "NAT",
                    "scheduler": "rr",
                    "directors": [{"node": "director", "addresses": ["192.0.2.2", "10.0.0.1"]}],
                    "backends": [{"role": "Machine", "servers": servers}],
                    "drainTimeoutSeconds": 1,
                },
            }
        )

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found = self.plane.kubectl("get", kind, name, f"--namespace={self.namespace}", "--output=json")
        value: dict[str, Any] = json.loads(found.stdout)
        return value

    def await_report(self, **counts: int) -> dict[str, Any]:
        """Until the node reports the plan as it is stored, and these counts; the IPVSNode."""

        def reported() -> dict[str, Any]:
            plan, node = self.get("virtualserviceplan", "shop.web.0"), self.get("ipvsnode", "director")
            status = node.get("status", {})
            assert status.get("observedResourceVersion") == plan["metadata"]["resourceVersion"], status
            assert {name: status["counts"][name] for name in counts} == counts
            return node

        return await_condition(reported, 40, "a report", every=0.2)


@pytest.fixture
def host(control_plane: ControlPlane, site: Site, namespace: str) -> Iterator[Host]:
    crds = f"--filename={ROOT / 'crds'}"
    control_plane.kubectl("apply", "--server-side", crds)
    control_plane.kubectl("wait", "--for=condition=Established", crds, "--timeout=30s")
    kubeconfig = str(control_plane.kubeconfig(address=ADDRESS))
    script = str(ROOT / "tests" / "lab" / "agent_host.py")
    job = Job([sys.executable, script, kubeconfig], str(ROOT), environment("kernel"))
    with Machine(choose_kernel(native=False), job, nic=site.plug()) as machine:
        made = Host(control_plane, site, machine, namespace)
        await_condition(lambda: made.order("ipvs") == [], 40, "the lab kernel")
        yield made
    control_plane.kubectl("delete", "ipvsnode", "director", "--ignore-not-found")


def conditions(node: dict[str, Any]) -> dict[str, str]:
    return {condition["type"]: condition["status"] for condition in node["status"]["conditions"]}


def test_plans_are_in_the_kernel_and_reported_whether_the_api_server_is_there_or_not(host: Host) -> None:
    group = {"name": "default", "addresses": ["192.0.2.0/28"], "director": True, "announcement": "Static"}
    host.apply(
        {"kind": "IPVSNode", "metadata": {"name": "director"}, "spec": {"groups": [group | {"interface": "eth0"}]}}
    )
    host.write_plan(11, 12)
    host.order("start", host.namespace)
    host.until([SERVICE, real_server(11), real_server(12)], "ipvs")
    host.until(BOTH, "ask", 10)
    node = host.await_report(plans=1, programmed=1, directing=1, failures=0)
    assert set(conditions(node).values()) == {"True"}
    assert {"Ready", "Plans"} <= set(conditions(node))
    host.until("ok\n200", "health", "/readyz")
    assert host.order("plan", host.namespace) == [0, "director: nothing to do, the kernel is as the plans want it\n"]

    host.order("kill")
    host.order("start", host.namespace)
    host.until("ok\n200", "health", "/readyz")

    host.plane.kill_api()
    try:
        host.until("No news from the API server since", "status")
        assert host.order("ask", 10) == BOTH
        assert host.order("health", "/healthz") == "ok\n200"
        # an agent that starts without an API server mends what went meanwhile
        assert host.order("stop") == 0
        host.order("run", "ipvsadm", "-C")
        host.order("run", "ip", "addr", "flush", "to", f"{VIP}/32")
        host.order("start", host.namespace)
        host.until([SERVICE, real_server(11), real_server(12)], "ipvs")
        host.until(BOTH, "ask", 10)
        host.until("ok\n200", "health", "/readyz")
        assert "No news from the API server since" in host.order("status")
    finally:
        host.plane.start_api()
    await_condition(lambda: "No news" not in host.order("status"), 40, "news", every=0.2)
    assert host.get("ipvsnode", "director") == node, "whatever happened, what there is to report is what it was"
    host.write_plan(12)
    host.until([SERVICE, real_server(12)], "ipvs")
    assert host.order("ask", 4) == {"rs2": 4}
    host.await_report(plans=1, programmed=1)
    host.plane.kubectl("delete", "virtualserviceplan", "shop.web.0", f"--namespace={host.namespace}")
    host.until([], "ipvs")
    assert VIP not in host.order("run", "ip", "addr")

    # one that knows neither leaves all as it is
    host.write_plan(11)
    host.await_report(plans=1, programmed=1)
    assert host.order("stop") == 0
    host.plane.kill_api()
    try:
        host.order("run", "sh", "-c", "rm /var/lib/ipvs-operator/*")
        host.order("start", host.namespace)
        host.until("Plans=False NotListed", "status")
        host.until("what is wanted of this node is not known yet: No news from the API server", "health", "/readyz")
        assert host.order("health", "/readyz").endswith("503")
        assert host.order("ipvs") == [SERVICE, real_server(11)]
        assert VIP in host.order("run", "ip", "addr")
        assert host.order("ask", 2) == {"rs1": 2}
    finally:
        host.plane.start_api()
