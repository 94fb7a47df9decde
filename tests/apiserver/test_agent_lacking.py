"""An agent whose kernel has no IPVS: this machine's own, where that is so."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.apiserver.deployed import AGENT, SYSTEM, deployment

from ipvs_agent.kernel.genetlink import FamilyMissingError, GenericFamily
from ipvs_agent.report import report_lacking
from ipvs_api.node import IPVSNodeStatus
from ipvs_kube.api import connect
from ipvs_kube.resources import IPVS_NODES
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.kubernetes.ports import free_ports
from ipvs_lab.net.waiting import await_condition

NODE = "lacking"
AS_ROOT = ("unshare", "--user", "--map-root-user", str(Path(sys.executable).parent / "ipvs-agent"))


def lacking() -> str:
    """The kernel's words where it has no IPVS; empty where it has. Asking loads the module where that is allowed."""
    try:
        GenericFamily("IPVS", "ip_vs").close()
    except FamilyMissingError as missing:
        return str(missing.strerror)
    return ""


@pytest.fixture
def deployed(definitions: ControlPlane) -> Iterator[str]:
    """Rights, and an agent's pod on our node; its name."""
    with deployment(definitions, NODE):
        yield f"agent-{NODE}"


def test_a_kernel_without_ipvs_is_told_in_the_report_with_the_remedy_and_tells_no_new_time_when_told_again(
    definitions: ControlPlane, deployed: str, tmp_path: Path
) -> None:
    """By an agent with the rights that agents have."""
    words = lacking()
    if not words:
        pytest.skip("this machine's kernel has IPVS")
    api = connect(definitions.kubeconfig())
    api.create(IPVS_NODES, "", {"metadata": {"name": NODE}, "spec": {}}, "tests")
    (port,) = free_ports(1)
    token = definitions.service_account_token(SYSTEM, AGENT, deployed)
    kubeconfig = definitions.token_kubeconfig("lacking", token)
    command = [
        *AS_ROOT,
        *("run", "--kubernetes", f"--node={NODE}", f"--kubeconfig={kubeconfig}", f"--namespace={SYSTEM}"),
        *(f"--state-dir={tmp_path}", f"--socket={tmp_path / 'agent.sock'}", f"--health-port={port}"),
    ]
    seen = []

    def told() -> str:
        columns = definitions.kubectl("get", "ipvsnode", NODE, "--output=wide", "--no-headers").stdout.split()
        assert "ModuleMissing" in columns, columns
        assert columns[1] == "False"
        return definitions.kubectl("describe", "ipvsnode", NODE).stdout

    try:
        for _ in range(2):
            with (tmp_path / "log").open("w") as log:
                agent = subprocess.Popen(command, stderr=log, env=os.environ | {"NO_PROXY": "*"})
            try:
                assert words in await_condition(lambda: asked(port, "/readyz") or None, 60, "an agent that waits")
                assert asked(port, "/healthz") == "ok"
                assert words in await_condition(told, 60, "a report")
            finally:
                agent.terminate()
                assert agent.wait(60) == 0
            assert (tmp_path / "log").read_text().count(words) == 1
            seen.append(api.get(IPVS_NODES, "", NODE))
    finally:
        api.delete(IPVS_NODES, "", NODE)
        api.close()
    assert "modprobe ip_vs" in words
    assert seen[0] == seen[1]


def asked(port: int, path: str) -> str:
    """What the agent answers a kubelet there; empty while it does not answer."""
    curl = ["curl", "--silent", "--noproxy", "*", f"http://127.0.0.1:{port}{path}"]
    return subprocess.run(curl, capture_output=True, text=True, check=False).stdout.strip()


def test_without_an_api_server_an_agent_on_a_kernel_without_ipvs_ends_with_the_remedy(tmp_path: Path) -> None:
    words = lacking()
    if not words:
        pytest.skip("this machine's kernel has IPVS")
    command = [*AS_ROOT, "run", f"--manifests={tmp_path}", f"--node={NODE}", f"--state-dir={tmp_path / 'state'}"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, ended.stderr) == (1, f"ipvs-agent run: {words}\n")


def test_a_kernel_without_ipvs_has_nothing_to_release(tmp_path: Path) -> None:
    words = lacking()
    if not words:
        pytest.skip("this machine's kernel has IPVS")
    for _ in range(2):
        command = [*AS_ROOT, "release", f"--state-dir={tmp_path}"]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (ended.returncode, ended.stdout) == (0, f"{words}\nnothing of ours is here\n")


def test_a_node_that_lacks_a_module_has_nothing_in_its_kernel_whatever_it_reported_before() -> None:
    before = IPVSNodeStatus(boot_id="other", observed_resource_version="7")
    told = report_lacking("no IPVS", "6.1.0", "this", before, "2026-01-01T00:00:00Z")
    assert (told.boot_id, told.observed_resource_version, told.counts.programmed) == ("this", "", 0)
    assert {condition.type: condition.reason for condition in told.conditions} == {
        "Ready": "ModuleMissing",
        "KernelReady": "ModuleMissing",
    }
