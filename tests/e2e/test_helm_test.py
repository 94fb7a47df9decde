"""`helm test`: what it says where packets take their way, where they do not, and that nothing is left of it."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.conftest import Shown

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.plan import Spec
from ipvs_lab.example import NAMESPACE, example, helm_command, install
from ipvs_lab.machine import inside
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.places import LabPlace

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

BROKEN = (
    "add table inet broken; add chain inet broken early { type filter hook prerouting priority -400 ; } ; "
    "add rule inet broken early tcp dport 8080 ip daddr 10.200.0.112/28 drop"
)


@pytest.fixture(scope="module")
def place(own_state: None, shown: Shown) -> Iterator[LabPlace]:
    """Two nodes, the first of them a director's, with the chart and a DirectorGroup."""
    cluster = Cluster("helm-test")
    made = LabPlace(cluster, Spec(nodes=2))
    try:
        with shown():
            install(made)
        cluster.kubectl("label", "node", "node1", "ipvs.dev/director=true")
        yield made
    finally:
        cluster.down()


@pytest.fixture(scope="module")
def group(place: LabPlace) -> None:
    text, _ = example(place.addresses)
    place.kubectl("apply", "--filename=-", stdin=text.partition("\n---\n")[0])


def helm_test(place: LabPlace) -> tuple[int, str]:
    """Its exit status and what the test's pod said."""
    command, environment = helm_command(place, "test", "ipvs", "--timeout=4m")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    told = place.kubectl("logs", f"--namespace={NAMESPACE}", "pod/ipvs-test").stdout
    return done.returncode, told


@contextmanager
def only(place: LabPlace, node: str) -> Iterator[None]:
    """New pods go to this node."""
    others = [name for name in place.cluster.nodes if name != node]
    place.kubectl("cordon", *others)
    try:
        yield
    finally:
        place.kubectl("uncordon", *others)


def test_without_a_group_it_says_what_to_apply(place: LabPlace) -> None:
    status, told = helm_test(place)
    assert status != 0
    assert told.startswith("there is no DirectorGroup yet")


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("node", ["node2", "node1"], ids=["beside", "director"])
def test_it_passes_where_the_director_counts_the_request_wherever_the_pod_runs(place: LabPlace, node: str) -> None:
    with only(place, node):
        status, told = helm_test(place)
    assert (status, told) == (
        0,
        f"DirectorGroup default: 10.200.0.113:8080 answered a pod of {node}; node1 scheduled 1 connections\n",
    )
    kinds = "ipvsvirtualservices,services,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings"
    left = place.kubectl("get", kinds, "--all-namespaces", "--output=name").stdout.split()
    assert [name for name in left if "ipvs-test" in name] == []
    await_condition(lambda: not ipvs(place), 60, "the director lets go")


@pytest.mark.usefixtures("group")
def test_it_fails_where_the_request_does_not_reach_the_director(place: LabPlace) -> None:
    place.cluster.exec("node1", "nft", BROKEN)
    try:
        with only(place, "node2"):
            status, told = helm_test(place)
    finally:
        place.cluster.exec("node1", "nft", "delete", "table", "inet", "broken")
    assert status != 0
    assert "DirectorGroup default: FAILED: 10.200.0.113:8080 does not answer a pod of node2: timed out" in told


@pytest.mark.usefixtures("group")
def test_it_fails_with_the_operators_words_where_no_node_is_a_director(place: LabPlace) -> None:
    place.kubectl("label", "node", "node1", "ipvs.dev/director-")
    try:
        status, told = helm_test(place)
    finally:
        place.kubectl("label", "node", "node1", "ipvs.dev/director=true")
    assert status != 0
    assert "FAILED: the virtual service ipvs-test-default is" in told
    assert "NoDirectors" in told


def ipvs(place: LabPlace) -> str:
    """The director's services."""
    return place.cluster.exec("node1", "ipvsadm", "--save", "--numeric").stdout
