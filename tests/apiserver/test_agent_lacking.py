"""An agent whose kernel has no IPVS: this machine's own, where that is so."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ipvs_agent.kernel.genetlink import FamilyMissingError, GenericFamily
from ipvs_agent.report import report_lacking
from ipvs_api.node import IPVSNodeStatus
from ipvs_kube.api import connect
from ipvs_kube.resources import IPVS_NODES
from ipvs_lab.kubernetes.control_plane import ControlPlane

NODE = "lacking"


def lacking() -> str:
    """The kernel's words where it has no IPVS; empty where it has. Asking loads the module where that is allowed."""
    try:
        GenericFamily("IPVS", "ip_vs").close()
    except FamilyMissingError as missing:
        return str(missing.strerror)
    return ""


def test_a_kernel_without_ipvs_is_told_in_the_report_with_the_remedy_and_tells_no_new_time_when_told_again(
    definitions: ControlPlane, tmp_path: Path
) -> None:
    words = lacking()
    if not words:
        pytest.skip("this machine's kernel has IPVS")
    api = connect(definitions.kubeconfig())
    api.create(IPVS_NODES, "", {"metadata": {"name": NODE}, "spec": {}}, "tests")
    command = [
        *("unshare", "--user", "--map-root-user", str(Path(sys.executable).parent / "ipvs-agent"), "run"),
        *("--kubernetes", f"--node={NODE}", f"--kubeconfig={definitions.kubeconfig()}"),
        *(f"--state-dir={tmp_path}", f"--socket={tmp_path / 'agent.sock'}"),
    ]
    seen = []
    try:
        for _ in range(2):
            ended = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=60, env=os.environ | {"NO_PROXY": "*"}
            )
            assert ended.returncode == 1
            assert words in ended.stderr
            seen.append(api.get(IPVS_NODES, "", NODE))
            columns = definitions.kubectl("get", "ipvsnode", NODE, "--output=wide", "--no-headers").stdout.split()
            assert columns[1] == "False"
            assert "ModuleMissing" in columns
            assert words in definitions.kubectl("describe", "ipvsnode", NODE).stdout
    finally:
        api.delete(IPVS_NODES, "", NODE)
        api.close()
    assert "modprobe ip_vs" in words
    assert seen[0] == seen[1]


def test_a_node_that_lacks_a_module_has_nothing_in_its_kernel_whatever_it_reported_before() -> None:
    before = IPVSNodeStatus(boot_id="other", observed_resource_version="7")
    told = report_lacking("no IPVS", "6.1.0", "this", before, "2026-01-01T00:00:00Z")
    assert (told.boot_id, told.observed_resource_version, told.counts.programmed) == ("this", "", 0)
    assert {condition.type: condition.reason for condition in told.conditions} == {
        "Ready": "ModuleMissing",
        "KernelReady": "ModuleMissing",
    }
