"""A cluster of lab kernels: its pods answer, and what is done to its hosts happens."""

from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from tests.conftest import Shown

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.images import WEB
from ipvs_lab.cluster.plan import CLIENT, Spec
from ipvs_lab.machine import LabError, inside
from ipvs_lab.net.waiting import await_condition

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

POD = f"""
apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  containers: [{{name: web, image: "{WEB}", readinessProbe: {{httpGet: {{port: 8080}}, periodSeconds: 1}}}}]
"""
TOKEN = """
process=$(pgrep -x web)
files=/proc/$process/root
secrets=$files/var/run/secrets/kubernetes.io/serviceaccount
authorization="Authorization: Bearer $(cat $secrets/token)"
nsenter --target $process --net curl --silent --cacert $secrets/ca.crt --header "$authorization" \
  --max-time 10 https://10.96.0.1/api/v1/namespaces/default/pods
"""


@pytest.fixture(scope="module")
def cluster(own_state: None, shown: Shown) -> Iterator[Cluster]:
    """One node, with one pod that is ready."""
    made = Cluster("test")
    try:
        with shown():
            made.up(Spec(nodes=1))
        await_condition(lambda: made.kubectl("apply", "--filename=-", stdin=POD, check=False).returncode == 0, 30)
        made.kubectl("wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
        yield made
    finally:
        made.down()


def addresses(cluster: Cluster) -> list[str]:
    pod = cluster.get("/api/v1/namespaces/default/pods/web")
    return [each["ip"] for each in pod["status"]["podIPs"]]


def answer(cluster: Cluster, address: str) -> str:
    """What a client beside the cluster is told by a pod, "" for nothing."""
    shown = f"[{address}]" if ":" in address else address
    command = ("curl", "--silent", "--globoff", "--max-time", "1", f"http://{shown}:8080/")
    return cluster.exec(CLIENT, *command, check=False).stdout


def test_a_pod_tells_a_client_its_name_and_the_clients_own_address_in_both_families(cluster: Cluster) -> None:
    four, six = addresses(cluster)
    assert answer(cluster, four) == "web 10.200.0.2\n"
    assert answer(cluster, six) == "web fd00:10:200::2\n"
    ask = f"exec 3<>/dev/udp/{four}/8080; echo who >&3; head -n 1 <&3"
    assert cluster.exec(CLIENT, "bash", "-c", ask).stdout == "web 10.200.0.2\n"


def test_a_node_says_which_addresses_its_pods_have(cluster: Cluster) -> None:
    (node,) = cluster.get("/api/v1/nodes")["items"]
    subnets = [ip_network(subnet) for subnet in node["spec"]["podCIDRs"]]
    assert [any(ip_address(pod) in subnet for subnet in subnets) for pod in addresses(cluster)] == [True, True]


def test_a_pods_own_token_is_known_to_the_api_server_that_it_reaches_as_a_service(cluster: Cluster) -> None:
    assert "system:serviceaccount:default:default" in cluster.exec("node1", "sh", "-c", TOKEN).stdout


def test_kubectl_runs_a_command_in_a_pod_and_its_failure_is_told(cluster: Cluster) -> None:
    again = cluster.kubectl("exec", "web", "--", "/web", check=False)
    assert again.returncode == 1
    assert "address already in use" in again.stderr


def test_pods_serve_on_without_kubelet_and_api_server_and_a_node_that_hangs_or_has_no_cable_says_nothing(
    cluster: Cluster,
) -> None:
    address, _ = addresses(cluster)
    cluster.stop_program("node1", "kubelet")
    cluster.kill_api()
    assert answer(cluster, address) == "web 10.200.0.2\n"
    assert cluster.ready_nodes() == set()
    cluster.pause("node1")
    assert answer(cluster, address) == ""
    cluster.resume("node1")
    await_condition(lambda: answer(cluster, address), 10)
    cluster.unplug("node1")
    assert answer(cluster, address) == ""
    cluster.plug("node1")
    await_condition(lambda: answer(cluster, address), 10)
    cluster.start_api()
    cluster.start_program("node1", "kubelet")
    cluster.await_ready()


def test_a_node_that_was_switched_off_comes_back_as_an_empty_machine(cluster: Cluster) -> None:
    cluster.exec("node1", "touch", "/run/mark")
    cluster.kill("node1")
    assert cluster.status()["hosts"]["node1"]["state"] == "off"
    with pytest.raises(LabError, match="node1 is off"):
        cluster.exec("node1", "true")
    cluster.boot("node1")
    cluster.await_ready()
    assert cluster.exec("node1", "test", "-e", "/run/mark", check=False).returncode == 1


def test_nothing_is_left_of_a_cluster_that_is_down(cluster: Cluster) -> None:
    """Last: it ends the cluster."""
    holder, files = cluster.state.holder(), Path(cluster.status()["control_plane"])
    assert holder is not None
    below = children(holder)
    assert len(below) > 8
    assert cluster.down()
    await_condition(lambda: not any(map(runs, (holder, *below))), 10)  # an orphan's end is collected a moment later
    assert not cluster.state.directory.exists()
    assert not files.exists()


def runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(process: int) -> list[int]:
    """All processes below one."""
    try:
        direct = [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    except FileNotFoundError:
        return []
    return [each for child in direct for each in (child, *children(child))]
