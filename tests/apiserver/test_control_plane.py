"""The control plane of the lab does what tests ask of it."""

import json
from pathlib import Path

import pytest

from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.machine import LabError

CRDS = Path(__file__).parents[2] / "crds"


def test_our_definitions_are_taken_without_a_warning(control_plane: ControlPlane) -> None:
    done = control_plane.kubectl("apply", "--server-side", f"--filename={CRDS}")
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == len(list(CRDS.glob("*.yaml")))


def test_a_user_without_rights_may_not_look(control_plane: ControlPlane) -> None:
    stranger = control_plane.kubeconfig("stranger", ())
    done = control_plane.kubectl("get", "nodes", kubeconfig=stranger, check=False)
    assert done.returncode == 1
    assert 'User "stranger" cannot list resource "nodes"' in done.stderr


def test_what_was_stored_is_there_after_the_api_server_was_away(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kill_api()
    with pytest.raises(LabError, match="refused"):
        control_plane.kubectl("get", "namespaces")
    control_plane.start_api()
    assert namespace in control_plane.kubectl("get", "namespaces").stdout


def test_an_old_version_is_gone_once_history_is_forgotten(control_plane: ControlPlane, namespace: str) -> None:
    listed = json.loads(control_plane.kubectl("get", "--raw", f"/api/v1/namespaces/{namespace}/configmaps").stdout)
    version = listed["metadata"]["resourceVersion"]
    for number in range(3):
        control_plane.kubectl("create", "configmap", f"one-{number}", f"--namespace={namespace}")
    control_plane.forget_history()
    path = f"/api/v1/namespaces/{namespace}/configmaps?watch=true&timeoutSeconds=5&resourceVersion={version}"
    done = control_plane.kubectl("get", "--raw", path, check=False)
    assert "too old resource version" in done.stdout + done.stderr or "Expired" in done.stdout + done.stderr


def test_two_control_planes_know_nothing_of_each_other(control_plane: ControlPlane, namespace: str) -> None:
    with ControlPlane() as other:
        assert namespace not in other.kubectl("get", "namespaces").stdout
