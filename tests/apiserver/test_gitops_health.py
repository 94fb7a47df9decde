"""What Argo CD, by our script in its own Lua, and Flux, by kstatus, make of objects as an API server has them; and
whether their own objects in examples/gitops are what they take.

Of Argo CD's Application only the chart's values are tried: its definition comes with no part that could be used alone.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.apiserver.world import World
from tests.conftest import Shown
from tests.documents import ROOT
from tests.e2e import steps

from ipvs_api import yaml_reader
from ipvs_kube.resources import DIRECTOR_GROUPS, VIRTUAL_SERVICES, Resource
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.kubernetes.gitops import find_gitops
from ipvs_lab.kubernetes.helm import find_helm
from ipvs_lab.net.waiting import await_condition

GITOPS = ROOT / "examples" / "gitops"
HEALTHY, UNDER_WAY, REFUSED = ("Healthy", "Current"), ("Progressing", "InProgress"), ("Degraded", "Failed")
FAILED = ("Degraded", "InProgress")
"""kstatus knows failure as Stalled only: what a node may mend is under way to it."""

Object = dict[str, Any]


@pytest.fixture(scope="session")
def gitops(shown: Shown) -> Path:
    with shown():
        return find_gitops()


@pytest.fixture(scope="module")
def scripts(control_plane: ControlPlane) -> Iterator[dict[str, str]]:
    """The ConfigMap of Argo CD after the document's command: health by kind."""
    control_plane.kubectl("create", "namespace", "argocd")
    control_plane.kubectl("create", "configmap", "argocd-cm", "--namespace=argocd", "--from-literal=url=https://argo")
    environment = os.environ | {
        "PATH": f"{control_plane.programs}:{os.environ['PATH']}",
        "KUBECONFIG": str(control_plane.kubeconfig()),
        "NO_PROXY": "*",
    }
    (command,) = steps.ARGO_CD.commands
    subprocess.run(["bash", "-c", command.text], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    told = control_plane.kubectl("get", "configmap", "argocd-cm", "--namespace=argocd", "--output=json").stdout
    data = json.loads(told)["data"]
    assert data.pop("url") == "https://argo"
    yield {key.removeprefix("resource.customizations.health."): script for key, script in data.items()}
    control_plane.remove_namespace("argocd")


class Judges:
    """What both say of an object."""

    def __init__(self, program: Path, scripts: dict[str, str], directory: Path) -> None:
        self._program, self._directory = program, directory
        for kind, script in scripts.items():
            (directory / kind).write_text(script)

    def __call__(self, stored: Object | None) -> tuple[str, str]:
        assert stored is not None
        group = stored["apiVersion"].partition("/")[0]
        command = [str(self._program), "health", str(self._directory / f"{group}_{stored['kind']}")]
        done = subprocess.run(command, input=json.dumps([stored]), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        (told,) = json.loads(done.stdout)
        return told["argo"], told["flux"]

    def come_to(self, world: World, verdict: tuple[str, str], resource: Resource = VIRTUAL_SERVICES) -> None:
        """Until both say so."""
        name = "web" if resource is VIRTUAL_SERVICES else "default"

        def look() -> bool:
            stored = world.get(resource, name)
            assert (told := self(stored)) == verdict, f"{told}: {stored}"
            return True

        await_condition(look, 20, f"{resource.kind} is {verdict}", 0.2)


@pytest.fixture
def judges(gitops: Path, scripts: dict[str, str], tmp_path: Path) -> Judges:
    return Judges(gitops, scripts, tmp_path)


def test_argo_cd_is_told_of_both_kinds_and_of_its_own(scripts: dict[str, str], judges: Judges) -> None:
    ours = {f"{resource.group}_{resource.kind}" for resource in (VIRTUAL_SERVICES, DIRECTOR_GROUPS)}
    assert set(scripts) == {*ours, "argoproj.io_Application"}
    application = objects(GITOPS / "argocd/application.yaml")[0]
    assert judges(application)[0] == "Progressing"
    for health in ("Healthy", "Degraded"):
        assert judges(application | {"status": {"health": {"status": health}}})[0] == health


def test_what_no_operator_has_seen_is_under_way(world: World, judges: Judges) -> None:
    world.group()
    world.virtual_service(servers=["10.0.0.2"])
    assert judges(world.get(VIRTUAL_SERVICES, "web")) == UNDER_WAY
    assert judges(world.get(DIRECTOR_GROUPS, "default")) == UNDER_WAY


def test_what_clients_get_answers_from_is_healthy(shop: World, judges: Judges) -> None:
    shop.node("director", "10.0.0.1", director=True)
    shop.group()
    shop.virtual_service(servers=["10.0.0.2"])
    judges.come_to(shop, HEALTHY)
    judges.come_to(shop, HEALTHY, DIRECTOR_GROUPS)
    stored = shop.get(VIRTUAL_SERVICES, "web")
    assert stored is not None
    stored["metadata"]["generation"] += 1
    assert judges(stored) == UNDER_WAY


def test_a_change_is_under_way_until_every_node_has_it(shop: World, judges: Judges) -> None:
    shop.three_nodes()
    shop.group()
    shop.virtual_service()
    judges.come_to(shop, HEALTHY)
    shop.agents.lag("worker-1")
    shop.virtual_service(forwarding="DR")
    shop.says("Ready", "Unknown", "Pending")
    judges.come_to(shop, UNDER_WAY)
    shop.agents.recover("worker-1")
    judges.come_to(shop, HEALTHY)


def test_what_a_director_cannot_do_is_degraded(shop: World, judges: Judges) -> None:
    shop.node("director", "10.0.0.1", director=True)
    shop.group()
    shop.virtual_service(servers=["10.0.0.2"])
    judges.come_to(shop, HEALTHY)
    shop.agents.fail("director", f"{shop.namespace}/web", "there is no interface eth9; name another")
    shop.says("Ready", "False", "InterfaceMissing")
    judges.come_to(shop, FAILED)


def test_what_no_waiting_will_mend_has_failed(shop: World, judges: Judges) -> None:
    shop.node("director", "10.0.0.1", director=True)
    shop.group()
    shop.virtual_service(servers=["203.0.113.1"])  # which the group does not allow
    shop.says("Stalled", "True")
    judges.come_to(shop, REFUSED)


# Objects of theirs.


def objects(*files: Path) -> list[Object]:
    return [one.value for file in files for one in yaml_reader.read(file.read_bytes()).documents if one.value]


def test_flux_takes_its_objects(gitops: Path) -> None:
    theirs = [one for one in objects(*GITOPS.glob("flux/*.yaml")) if one["kind"] != "Namespace"]
    assert {one["kind"] for one in theirs} == {"GitRepository", "Kustomization", "HelmRelease"}
    wrong = theirs[0] | {"spec": theirs[0]["spec"] | {"intervall": "1m"}}
    done = subprocess.run(
        [str(gitops), "flux"], input=json.dumps([*theirs, wrong]), capture_output=True, text=True, check=True
    )
    *told, refused = json.loads(done.stdout)
    assert told == [""] * len(theirs)
    assert 'unknown field "intervall"' in refused


def test_the_chart_takes_their_values(tmp_path: Path) -> None:
    (release,) = (one for one in objects(GITOPS / "flux/release.yaml") if one["kind"] == "HelmRelease")
    application = objects(GITOPS / "argocd/application.yaml")[0]["spec"]["source"]
    chart, values = release["spec"]["chart"]["spec"]["chart"], release["spec"]["values"]
    assert (application["path"], application["helm"]["valuesObject"]) == (chart, values)
    file = tmp_path / "values.yaml"
    file.write_text(json.dumps(values))
    command = [str(find_helm()), "template", application["helm"]["releaseName"], str(ROOT / chart), f"--values={file}"]
    told = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"HOME": str(tmp_path)})
    for part in ("operator", "agent"):
        assert f'image: "{values[part]["image"]["repository"]}:' in told.stdout
