"""The chart, by Helm itself: what it renders is what deploy/ has, and a real API server takes it without a warning."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.apiserver.deployed import DEPLOY
from tests.conftest import Shown

from ipvs_api import yaml_reader
from ipvs_kube.api import Api, connect
from ipvs_kube.resources import PODS
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.kubernetes.helm import find_helm
from ipvs_lab.net.waiting import await_condition
from ipvs_operator.uninstall import DAEMON_SETS, releasing

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "ipvs-operator"
VALUES = {"default": (), "plain": (CHART / "ci/plain-values.yaml",), "full": (CHART / "ci/full-values.yaml",)}
RIGHTS = ("10-operator", "20-agent-policy", "30-agent", "40-users")
NAMESPACE = "ipvs-system"
WORKLOADS = {"Deployment", "DaemonSet", "Job", "Pod"}


class Helm:
    """Helm, with a home of its own."""

    def __init__(self, program: Path, plane: ControlPlane, home: Path) -> None:
        self._program, self._plane, self._home = program, plane, home

    def command(self, *arguments: str) -> list[str]:
        return [str(self._program), *arguments, f"--kubeconfig={self._plane.kubeconfig()}"]

    def environment(self) -> dict[str, str]:
        return os.environ | {"HOME": str(self._home), "NO_PROXY": "*", "no_proxy": "*"}

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=False, env=self.environment(), timeout=120
        )
        assert done.returncode == 0, f"helm {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def objects(self, case: str, namespace: str = NAMESPACE) -> list[dict[str, Any]]:
        """What a release would consist of, hooks included."""
        return documents(self("template", "ipvs", str(CHART), f"--namespace={namespace}", *value_files(case)))


def documents(text: str) -> list[dict[str, Any]]:
    return [document.value for document in yaml_reader.read(text.encode()).documents if document.value]


def value_files(case: str) -> list[str]:
    return [f"--values={path}" for path in VALUES[case]]


def named(objects: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(one["kind"], one["metadata"]["name"]): one for one in objects}


@pytest.fixture(scope="session")
def helm_program(shown: Shown) -> Path:
    with shown():
        return find_helm()


@pytest.fixture
def helm(helm_program: Path, control_plane: ControlPlane, tmp_path: Path) -> Helm:
    return Helm(helm_program, control_plane, tmp_path)


@pytest.fixture
def place(control_plane: ControlPlane, namespace: str) -> str:
    """A namespace as docs/install.md has it made."""
    control_plane.kubectl("label", "namespace", namespace, "pod-security.kubernetes.io/enforce=privileged")
    return namespace


@pytest.fixture
def admin(control_plane: ControlPlane) -> Iterator[Api]:
    made = connect(control_plane.kubeconfig())
    yield made
    made.close()


# What is rendered.


@pytest.mark.parametrize("case", VALUES)
def test_helm_has_nothing_against_the_chart(helm: Helm, case: str) -> None:
    told = helm("lint", "--strict", str(CHART), *value_files(case))
    assert "[WARNING]" not in told
    assert "0 chart(s) failed" in told


def test_values_that_the_schema_does_not_know_are_refused(helm: Helm) -> None:
    with pytest.raises(AssertionError, match="additional properties 'replica' not allowed"):
        helm("template", "ipvs", str(CHART), "--set=operator.replica=3")


def test_rights_are_those_of_deploy(helm: Helm) -> None:
    rendered = named(helm.objects("default"))
    for name in RIGHTS:
        for one in documents((DEPLOY / f"{name}.yaml").read_text()):
            assert rendered[one["kind"], one["metadata"]["name"]] == one


def test_workloads_are_those_of_deploy(helm: Helm) -> None:
    """But for the labels that tell of the release."""
    rendered = named(helm.objects("default"))
    deployed = named(documents((DEPLOY / "workloads/workloads.yaml").read_text()))
    assert {kind for kind, _ in deployed} == {"Deployment", "DaemonSet", "PodDisruptionBudget", "NetworkPolicy"}
    for key, one in deployed.items():
        labels = rendered[key]["metadata"]["labels"]
        for label in ("app.kubernetes.io/instance", "app.kubernetes.io/version", "helm.sh/chart"):
            del labels[label]
        assert rendered[key] == one, "run: make chart"


def test_kustomize_has_all_of_the_checkout(control_plane: ControlPlane) -> None:
    made = named(documents(control_plane.kubectl("kustomize", str(ROOT)).stdout))
    files = [*(ROOT / "crds").glob("*.yaml"), *DEPLOY.rglob("*.yaml")]
    assert made == named([one for path in files for one in documents(path.read_text())])


def test_no_other_rights_are_given(helm: Helm) -> None:
    """But those of the hooks, which are gone with them."""
    kinds = {"ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"}
    deployed = {key for name in RIGHTS for key in named(documents((DEPLOY / f"{name}.yaml").read_text()))}
    given = {key: one for key, one in named(helm.objects("default")).items() if key[0] in kinds}
    lasting = {key for key, one in given.items() if "helm.sh/hook" not in one["metadata"].get("annotations", {})}
    assert lasting == {key for key in deployed if key[0] in kinds}
    passing = {key: one for key, one in given.items() if key not in lasting}
    assert set(passing) == {
        *((kind, "ipvs-uninstall") for kind in ("Role", "RoleBinding")),
        *((kind, "ipvs-test") for kind in kinds),
    }
    for one in passing.values():
        assert one["metadata"]["annotations"]["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_definitions_are_those_of_the_checkout_and_are_kept(helm: Helm) -> None:
    rendered = {key[1]: one for key, one in named(helm.objects("default")).items() if key[0].startswith("Custom")}
    for path in (ROOT / "crds").glob("*.yaml"):
        (one,) = documents(path.read_text())
        made = rendered.pop(one["metadata"]["name"])
        assert made["metadata"]["annotations"].pop("helm.sh/resource-policy") == "keep"
        assert made == one
    assert rendered == {}


def test_the_namespace_is_the_releases(helm: Helm) -> None:
    text = helm("template", "ipvs", str(CHART), "--namespace=elsewhere")
    assert NAMESPACE not in text
    assert "system:serviceaccount:elsewhere:ipvs-agent" in text


def test_only_the_container_that_loads_modules_may_load_modules(helm: Helm) -> None:
    pod = named(helm.objects("default"))["DaemonSet", "ipvs-agent"]["spec"]["template"]["spec"]
    capabilities = {
        one["name"]: one["securityContext"]["capabilities"] for one in [*pod["initContainers"], *pod["containers"]]
    }
    assert capabilities == {
        "modules": {"drop": ["ALL"], "add": ["SYS_MODULE"]},
        "agent": {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]},
    }
    without = named(helm.objects("plain"))["DaemonSet", "ipvs-agent"]["spec"]["template"]["spec"]
    assert "initContainers" not in without
    assert "/lib/modules" not in json.dumps(without)


# What an API server says.


def dry_run(plane: ControlPlane, objects: list[dict[str, Any]]) -> "subprocess.CompletedProcess[str]":
    text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    ask = ("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors", "--filename=-")
    return plane.kubectl(*ask, stdin=text, check=False)


@pytest.fixture
def account(control_plane: ControlPlane, place: str) -> None:
    """Without it no pod of it is taken, not even for show."""
    control_plane.kubectl("create", "serviceaccount", "ipvs-test", f"--namespace={place}")


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("case", VALUES)
def test_an_api_server_takes_all_of_it_without_a_warning(
    helm: Helm, control_plane: ControlPlane, place: str, case: str
) -> None:
    level = "pod-security.kubernetes.io/warn=privileged"
    control_plane.kubectl("label", "namespace", place, level)
    done = dry_run(control_plane, helm.objects(case, place))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("account")
def test_all_but_the_agents_meet_the_restricted_level(helm: Helm, control_plane: ControlPlane, place: str) -> None:
    control_plane.kubectl("label", "namespace", place, "pod-security.kubernetes.io/warn=restricted")
    workloads = [one for one in helm.objects("default", place) if one["kind"] in WORKLOADS]
    assert {one["kind"] for one in workloads} == WORKLOADS
    refused = {one["kind"]: dry_run(control_plane, [one]).stderr for one in workloads}
    agents = refused.pop("DaemonSet")
    assert set(refused.values()) == {""}
    assert 'would violate PodSecurity "restricted:latest"' in agents
    assert "privileged (" not in agents  # hostNetwork, hostPath and capabilities, but no privileged container


# A release.


@pytest.fixture
def release(helm: Helm, definitions: ControlPlane, place: str) -> Iterator[str]:
    """Installed over definitions that somebody applied before, as after a change from plain manifests."""
    over = ("--take-ownership", "--force-conflicts")
    helm("install", "ipvs", str(CHART), f"--namespace={place}", *over)
    yield place
    if "ipvs" in helm("list", f"--namespace={place}", "--short"):
        helm("uninstall", "ipvs", f"--namespace={place}", "--no-hooks")


def test_an_upgrade_changes_what_it_says_and_nothing_else(
    helm: Helm, definitions: ControlPlane, release: str, admin: Api
) -> None:
    def generations() -> dict[str, int]:
        told = definitions.kubectl("get", "deployment,daemonset", f"--namespace={release}", "--output=json").stdout
        return {one["kind"]: one["metadata"]["generation"] for one in json.loads(told)["items"]}

    assert generations() == {"Deployment": 1, "DaemonSet": 1}
    helm("upgrade", "ipvs", str(CHART), f"--namespace={release}")
    assert generations() == {"Deployment": 1, "DaemonSet": 1}
    helm("upgrade", "ipvs", str(CHART), f"--namespace={release}", "--set=agent.logLevel=debug")
    assert generations() == {"Deployment": 1, "DaemonSet": 2}


def test_uninstalling_releases_the_nodes_first_and_keeps_the_definitions(
    helm: Helm, definitions: ControlPlane, release: str, admin: Api
) -> None:
    """The test does what the controllers of DaemonSets and Jobs would do, and runs what the hook's pod would run."""
    uninstall = subprocess.Popen(
        helm.command("uninstall", "ipvs", f"--namespace={release}"),
        env=helm.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with uninstall:
        try:
            job = f"--namespace={release}", "job/ipvs-uninstall"
            await_condition(
                lambda: definitions.kubectl("get", *job, check=False).returncode == 0, 60, what="the hook runs"
            )
            with hook(definitions, release, seconds=60) as running:
                await_condition(
                    lambda: daemon_set(admin, release)["metadata"]["generation"] == 2, 60, what="agents change"
                )
                pod = daemon_set(admin, release)["spec"]["template"]["spec"]
                roll_out(admin, release, ready=1)
                assert running.stdout is not None
                assert running.stdout.readline() == "1 nodes are not released yet\n"
                roll_out(admin, release, ready=2)
                assert running.wait(20) == 0
            assert [one["args"] for one in pod["initContainers"]] == [["release"]]
            (resting,) = pod["containers"]
            assert resting["command"][0] == "python3"
            assert pod["initContainers"][0]["volumeMounts"] == resting["volumeMounts"]
            assert uninstall.poll() is None
            finish(definitions, release)
            assert uninstall.wait(60) == 0, uninstall.stderr and uninstall.stderr.read()
        finally:
            uninstall.kill()
    kinds = "deployment,daemonset,job,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget"
    assert definitions.kubectl("get", kinds, f"--namespace={release}", "--output=name").stdout == ""
    assert len(definitions.kubectl("get", "crd", "--output=name").stdout.split()) == 5


def test_nodes_that_are_not_released_in_time_are_named(helm: Helm, definitions: ControlPlane, place: str) -> None:
    objects = [
        one
        for one in helm.objects("default", place)
        if (one["metadata"]["name"] == "ipvs-uninstall" and one["kind"] != "Job") or one["kind"] == "DaemonSet"
    ]
    definitions.kubectl(
        "apply", "--filename=-", stdin=json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})
    )
    api = connect(definitions.kubeconfig())
    labels = {"app.kubernetes.io/name": "ipvs-operator", "app.kubernetes.io/component": "agent"}
    pod = {"nodeName": "node-7", "serviceAccountName": "ipvs-uninstall", "containers": [{"name": "a", "image": "a"}]}
    api.create(PODS, place, {"metadata": {"name": "agent-7", "labels": labels}, "spec": pod}, "tests")
    with hook(definitions, place, seconds=1) as running:
        told, _ = running.communicate(timeout=20)
    api.close()
    assert running.returncode == 1
    assert "not every node was released within 1 s: node-7." in told
    assert "helm uninstall --no-hooks" in told


def test_after_an_uninstall_that_failed_an_upgrade_brings_the_agents_back(
    helm: Helm, definitions: ControlPlane, release: str, admin: Api
) -> None:
    """The DaemonSet is made anew: what the hook wrote there is not Helm's to take away."""
    before = daemon_set(admin, release)["spec"]
    admin.merge(DAEMON_SETS, release, "ipvs-agent", releasing(daemon_set(admin, release)), "tests")
    assert daemon_set(admin, release)["spec"] != before
    definitions.kubectl("delete", "daemonset", "ipvs-agent", f"--namespace={release}", "--wait=false")
    helm("upgrade", "ipvs", str(CHART), f"--namespace={release}")
    assert daemon_set(admin, release)["spec"] == before


# Helm's test: what its pod says where there is nothing to ask. That packets pass is in tests/e2e.


@pytest.fixture
def tester(helm: Helm, definitions: ControlPlane, place: str) -> Iterator[Callable[[], tuple[int, str]]]:
    """Runs what the test's pod would run, with its token; its exit status and words."""
    objects = [
        one for one in helm.objects("default", place) if one["metadata"]["name"] == "ipvs-test" and one["kind"] != "Pod"
    ]
    text = json.dumps({"kind": "List", "apiVersion": "v1", "items": objects})
    definitions.kubectl("apply", "--filename=-", stdin=text)
    file = definitions.token_kubeconfig("test", definitions.service_account_token(place, "ipvs-test"))
    program = [str(Path(sys.executable).parent / "ipvs-operator"), "test"]
    options = [f"--kubeconfig={file}", f"--namespace={place}", "--timeout=1"]
    own = {"POD_NAME": "ipvs-test", "POD_UID": "5e6ce6c5-0d8a-4f6f-a1e5-6c4f0c2d3a11", "POD_NODE": "node-1"}

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [*program, *options], capture_output=True, text=True, check=False, timeout=60, env=os.environ | own
        )
        assert done.stderr == ""
        return done.returncode, done.stdout

    yield run
    definitions.kubectl("delete", "clusterrole,clusterrolebinding", "ipvs-test")


def test_helms_test_says_what_to_apply_where_there_is_no_group(tester: Callable[[], tuple[int, str]]) -> None:
    status, told = tester()
    assert status == 1
    assert told.startswith("there is no DirectorGroup yet")
    assert "kubectl apply -f examples/kubernetes/group.yaml" in told


def test_helms_test_names_the_group_whose_virtual_service_is_not_ready_and_leaves_nothing(
    tester: Callable[[], tuple[int, str]], definitions: ControlPlane, place: str
) -> None:
    """No operator runs."""
    definitions.kubectl("apply", f"--filename={ROOT / 'examples/kubernetes/group.yaml'}")
    try:
        status, told = tester()
    finally:
        definitions.kubectl("delete", "directorgroup", "default")
    assert status == 1
    assert "DirectorGroup default: FAILED: the virtual service ipvs-test-default is not Ready after 1 s" in told
    assert "Ready=Unknown Pending" in told
    left = definitions.kubectl("get", "ipvsvirtualservices,services", f"--namespace={place}", "--output=name")
    assert left.stdout == ""


def hook(plane: ControlPlane, namespace: str, seconds: int) -> "subprocess.Popen[str]":
    """What the hook's pod runs, with its token."""
    file = plane.token_kubeconfig("uninstall", plane.service_account_token(namespace, "ipvs-uninstall"))
    program = [str(Path(sys.executable).parent / "ipvs-operator"), "release-agents"]
    options = [f"--kubeconfig={file}", f"--namespace={namespace}", f"--timeout={seconds}"]
    return subprocess.Popen([*program, *options], stdout=subprocess.PIPE, text=True)


def daemon_set(api: Api, namespace: str) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(api.get(DAEMON_SETS, namespace, "ipvs-agent"))
    return found


def roll_out(api: Api, namespace: str, ready: int) -> None:
    """On two nodes."""
    status = {
        "observedGeneration": 2,
        "desiredNumberScheduled": 2,
        "currentNumberScheduled": 2,
        "updatedNumberScheduled": 2,
        "numberMisscheduled": 0,
        "numberReady": ready,
    }
    api.merge(DAEMON_SETS, namespace, "ipvs-agent", {"status": status}, "tests", subresource="status")


def finish(plane: ControlPlane, namespace: str) -> None:
    """The hook's Job, as its controller would."""
    conditions = [{"type": kind, "status": "True"} for kind in ("SuccessCriteriaMet", "Complete")]
    times = {"startTime": "2026-01-01T00:00:00Z", "completionTime": "2026-01-01T00:00:01Z"}
    status = json.dumps({"status": times | {"conditions": conditions, "succeeded": 1}})
    where = ("job/ipvs-uninstall", f"--namespace={namespace}", "--subresource=status", "--type=merge")
    plane.kubectl("patch", *where, f"--patch={status}")
