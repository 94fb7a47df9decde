"""`make cluster`: the chart, the example and answers through its address; again over what is there; and gone."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.example import NAMESPACE, REQUESTS
from ipvs_lab.machine import inside
from ipvs_lab.net.waiting import await_condition

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

NAME = "test-example"
PROGRAM = Path(sys.executable).parent / "ipvs-lab"


@pytest.fixture(scope="module")
def cluster(own_state: None) -> Iterator[Cluster]:
    """A name; what is made under it is gone afterwards."""
    made = Cluster(NAME)
    yield made
    made.down()


def run(verb: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([PROGRAM, verb, f"--name={NAME}", *arguments], capture_output=True, text=True, check=False)


def answers(told: str) -> dict[str, int]:
    """Of a bar chart."""
    return {name: int(count) for name, count in re.findall(r"^(web-\S+) +\u2588+ (\d+)$", told, re.MULTILINE)}


def test_the_example_answers_with_every_pod_and_says_how_to_go_on(cluster: Cluster) -> None:
    done = run("example", "--nodes=2")
    assert done.returncode == 0, done.stderr
    shares = answers(done.stdout)
    assert len(shares) == 6
    assert sum(shares.values()) == REQUESTS
    asked = re.search(r"ipvs-lab exec --name test-example -- (curl -s http://[0-9.]+/)", done.stdout)
    assert asked is not None
    assert run("exec", "--", *asked[1].split()).stdout.split()[0] in shares


def test_a_second_time_it_upgrades_what_is_there_and_answers_again(cluster: Cluster) -> None:
    pods = cluster.kubectl("get", "pods", f"--namespace={NAMESPACE}", "--output=name").stdout
    done = run("example")
    assert done.returncode == 0, done.stderr
    assert sum(answers(done.stdout).values()) == REQUESTS
    assert cluster.kubectl("get", "pods", f"--namespace={NAMESPACE}", "--output=name").stdout == pods
    revisions = cluster.kubectl("get", "secrets", f"--namespace={NAMESPACE}", "--output=name").stdout.split()
    assert [name.rpartition(".")[2] for name in revisions if "sh.helm.release" in name] == ["v1", "v2"]


def test_another_number_of_nodes_is_refused_with_the_way_out(cluster: Cluster) -> None:
    done = run("example", "--nodes=3")
    assert done.returncode == 2
    assert f"ipvs-lab down --name {NAME}" in done.stderr


def test_nothing_is_left_of_one_that_was_killed(cluster: Cluster) -> None:
    """Last: it ends the cluster."""
    holder = cluster.state.holder()
    assert holder is not None
    os.kill(holder, signal.SIGKILL)
    await_condition(lambda: cluster.state.holder() is None, 10)
    assert cluster.state.directory.exists()
    done = run("down")
    assert (done.returncode, done.stderr) == (0, f"cluster {NAME} is down\n")
    assert not cluster.state.directory.exists()
