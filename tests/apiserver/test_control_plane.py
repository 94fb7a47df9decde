"""The control plane of the lab does what tests ask of it."""

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.machine import Job, LabError, Machine, environment
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.run import choose_kernel
from ipvs_lab.site import ADDRESS, Site

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


def test_a_user_is_in_the_groups_that_were_asked_for(control_plane: ControlPlane) -> None:
    for groups in (["one"], ["two", "of/them"]):
        file = control_plane.kubeconfig("somebody", groups)
        told = json.loads(control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=file).stdout)
        assert told["status"]["userInfo"]["username"] == "somebody"
        assert told["status"]["userInfo"]["groups"] == [*groups, "system:authenticated"]


def run_pod(control_plane: ControlPlane, namespace: str, node: str) -> None:
    """A pod `agent` of the service account `agent` that is bound to a node."""
    control_plane.kubectl("create", "serviceaccount", "agent", f"--namespace={namespace}")
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "agent", "namespace": namespace},
        "spec": {
            "nodeName": node,
            "serviceAccountName": "agent",
            "containers": [{"name": "agent", "image": "agent"}],
        },
    }
    control_plane.kubectl("create", "--filename=-", stdin=json.dumps(pod))


def test_a_token_bound_to_a_pod_says_on_which_node_it_is(control_plane: ControlPlane, namespace: str) -> None:
    run_pod(control_plane, namespace, "worker-1")
    token = control_plane.service_account_token(namespace, "agent", pod="agent")
    file = control_plane.token_kubeconfig("agent", token)
    told = json.loads(control_plane.kubectl("auth", "whoami", "--output=json", kubeconfig=file).stdout)
    user = told["status"]["userInfo"]
    assert user["username"] == f"system:serviceaccount:{namespace}:agent"
    assert user["extra"]["authentication.kubernetes.io/node-name"] == ["worker-1"]


def test_a_namespace_goes_with_all_in_it(control_plane: ControlPlane) -> None:
    control_plane.kubectl("create", "namespace", "leaving")
    run_pod(control_plane, "leaving", "worker-1")
    control_plane.remove_namespace("leaving")
    left = control_plane.kubectl("get", "namespaces,pods,serviceaccounts", "--all-namespaces", "--output=json").stdout
    names = [(item["kind"], item["metadata"]["name"]) for item in json.loads(left)["items"]]
    assert [name for name in names if name[1] in ("leaving", "agent")] == []


def test_what_was_stored_is_there_after_the_api_server_was_away(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.kill_api()
    with pytest.raises(LabError, match="refused"):
        control_plane.kubectl("get", "namespaces")
    control_plane.start_api()
    assert namespace in control_plane.kubectl("get", "namespaces").stdout


def test_a_paused_server_says_nothing_until_it_goes_on(control_plane: ControlPlane, namespace: str) -> None:
    control_plane.pause()
    try:
        with pytest.raises(LabError, match=r"Timeout|timeout|deadline"):
            control_plane.kubectl("get", "namespace", namespace, "--request-timeout=1s")
    finally:
        control_plane.resume()
    assert namespace in control_plane.kubectl("get", "namespace", namespace).stdout


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


def test_a_server_that_does_not_start_shows_its_log(control_plane: ControlPlane) -> None:
    with (
        pytest.raises(LabError, match=r"kube-apiserver is not running(.|\n)*address already in use"),
        ControlPlane(port=control_plane.port),
    ):
        pass


def test_a_server_is_not_started_by_a_thread_that_would_take_it_along(control_plane: ControlPlane) -> None:
    problems: list[str] = []

    def start() -> None:
        try:
            control_plane.start_api()
        except LabError as problem:
            problems.append(str(problem))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert problems == ["kube-apiserver must be started from the main thread: it would end with this one"]


OWNER = """
from ipvs_lab.kubernetes.control_plane import ControlPlane
with ControlPlane() as plane:
    print(plane.directory, flush=True)
    input()
"""


def running_in(directory: Path) -> list[str]:
    """Programs that have a directory on their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:
            continue
        if any(str(directory) in word for word in words):
            found.append(Path(words[0]).name)
    return sorted(found)


def test_nothing_is_left_of_a_control_plane_whose_owner_was_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        assert owner.stdout is not None
        directory = Path(owner.stdout.readline().strip())
        assert running_in(directory) == ["etcd", "kube-apiserver"]
        owner.send_signal(signal.SIGKILL)
    await_condition(lambda: running_in(directory) == [], what="its programs end")
    unstarted = ControlPlane()
    unstarted.close()
    assert not directory.exists()


INSIDE = """
from ipvs_lab.net import Network, Topology
topology = Topology()
topology.lan("management")
topology.host("one", management="10.200.0.11/24")
topology.host("two", management="10.200.0.12/24")
with Network(topology) as net:
    net.uplink("management")
    for name in ("one", "two"):
        net[name].run("kubectl", "create", "configmap", name)
"""


def test_hosts_in_a_lab_kernel_reach_it(
    control_plane: ControlPlane, namespace: str, site: Site, tmp_path: Path
) -> None:
    script = tmp_path / "inside.py"
    script.write_text(INSIDE)
    configuration = control_plane.kubeconfig(address=ADDRESS)
    control_plane.kubectl("config", "set-context", "lab", f"--namespace={namespace}", kubeconfig=configuration)
    variables = environment("kernel", KUBECONFIG=str(configuration))
    variables["PATH"] += f":{control_plane.programs}"
    with Machine(
        choose_kernel(native=False), Job([sys.executable, str(script)], str(tmp_path), variables), nic=site.plug()
    ) as machine:
        outcome = machine.wait(60)
        told = (machine.directory / "stderr").read_text()
    assert outcome.status == 0, told
    names = control_plane.kubectl("get", "configmaps", f"--namespace={namespace}", "--output=name").stdout
    assert names.split() == ["configmap/one", "configmap/two"]


def test_a_site_cannot_offer_what_it_has_already(control_plane: ControlPlane, site: Site) -> None:
    with pytest.raises(LabError, match="exists"):
        site.offer(control_plane.port)


def test_a_script_in_a_lab_kernel_has_one_beside_it() -> None:
    command = [Path(sys.executable).with_name("ipvs-lab"), "run", "--api", "kubectl", "get", "--raw=/readyz"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "ok"), done.stderr
