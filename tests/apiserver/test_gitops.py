"""Tools that keep applying what is in a repository have the specs, the operator has the statuses, and neither gives the
other anything to do."""

import json
from typing import Any

import pytest
from tests.apiserver.world import DIRECTOR, World

from ipvs_kube.resources import DIRECTOR_GROUPS, VIRTUAL_SERVICES, Resource
from ipvs_lab.net.waiting import await_condition
from ipvs_operator.writer import STATUS_MANAGER

TOOL = "argocd"
GROUP: dict[str, Any] = {
    "apiVersion": "ipvs.dev/v1alpha1",
    "kind": "DirectorGroup",
    "metadata": {"name": "default"},
    "spec": {
        "nodeSelector": {"matchLabels": DIRECTOR},
        "addresses": ["192.0.2.0/28"],
        "allowedStaticBackends": ["10.0.0.0/8"],
        "announcement": {"static": {}},
    },
}
WEB: dict[str, Any] = {
    "apiVersion": "ipvs.dev/v1alpha1",
    "kind": "VirtualService",
    "metadata": {"name": "web"},
    "spec": {
        "directorGroup": "default",
        "addresses": ["192.0.2.10"],
        "scheduler": "wlc",
        "ports": [{"name": "http", "port": 80}],
        "backends": {"static": [{"address": "10.0.0.2"}]},
    },
}


@pytest.fixture
def repository(shop: World) -> World:
    """Two nodes; a group and a virtual service are kept by a tool, and the operator has made them ready."""
    shop.node("director", "10.0.0.1", director=True)
    shop.node("worker", "10.0.0.2")
    sync(shop, GROUP, WEB)
    shop.wait_ready()

    def counted() -> bool:
        """Counts in a status are written with some delay."""
        return bool(stored(shop, DIRECTOR_GROUPS, "default")["status"]["addresses"].get("used") == 1)

    await_condition(counted, what="the group's status has the address that is used")
    return shop


def sync(world: World, *objects: dict[str, Any]) -> None:
    """As such tools do it; a conflict with another manager is a failure, and so is a warning."""
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ["apply", "--server-side", f"--field-manager={TOOL}", "--filename=-", f"--namespace={world.namespace}"]
    assert world.plane.kubectl(*words, stdin=whole).stderr == ""


def differs(world: World, *objects: dict[str, Any]) -> str:
    """What such a tool would show as out of sync."""
    whole = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    words = ["diff", "--server-side", f"--field-manager={TOOL}", "--filename=-", f"--namespace={world.namespace}"]
    done = world.plane.kubectl(*words, stdin=whole, check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def stored(world: World, resource: Resource, name: str) -> dict[str, Any]:
    found = world.get(resource, name)
    assert found is not None
    return found


@pytest.mark.parametrize(("resource", "name"), [(VIRTUAL_SERVICES, "web"), (DIRECTOR_GROUPS, "default")])
def test_the_operator_has_the_status_and_nothing_else_of_what_others_declare(
    repository: World, resource: Resource, name: str
) -> None:
    managers = {entry["manager"]: entry for entry in stored(repository, resource, name)["metadata"]["managedFields"]}
    assert set(managers) == {TOOL, STATUS_MANAGER}
    assert managers[STATUS_MANAGER]["subresource"] == "status"
    assert set(managers[STATUS_MANAGER]["fieldsV1"]) == {"f:status"}
    assert set(managers[TOOL]["fieldsV1"]) == {"f:spec"}


def test_what_is_applied_again_changes_nothing(repository: World) -> None:
    before = repository.versions()
    for _ in range(3):
        sync(repository, GROUP, WEB)
    assert differs(repository, GROUP, WEB) == ""
    assert repository.versions() == before


def test_the_operator_adds_nothing_to_what_others_declare(repository: World) -> None:
    for resource, written in ((VIRTUAL_SERVICES, WEB), (DIRECTOR_GROUPS, GROUP)):
        found = stored(repository, resource, written["metadata"]["name"])
        added = found["metadata"].keys() & {"annotations", "labels", "finalizers", "ownerReferences"}
        assert added == set()
        assert found["metadata"]["generation"] == 1


def test_a_change_in_the_repository_meets_no_conflict(repository: World) -> None:
    changed = WEB | {"spec": WEB["spec"] | {"scheduler": "wrr", "backends": {"static": [{"address": "10.0.0.1"}]}}}
    assert "scheduler: wrr" in differs(repository, changed)
    sync(repository, changed)
    repository.wait_ready()
    assert differs(repository, changed) == ""
    sync(repository, WEB)
    repository.wait_ready()
    assert stored(repository, VIRTUAL_SERVICES, "web")["spec"]["scheduler"] == "wlc"


def test_what_leaves_the_repository_leaves_the_object(repository: World) -> None:
    more = WEB | {"spec": WEB["spec"] | {"allowedSources": ["203.0.113.0/24"], "persistence": {}}}
    sync(repository, more)
    repository.wait_ready()
    sync(repository, WEB)
    repository.wait_ready()
    spec = stored(repository, VIRTUAL_SERVICES, "web")["spec"]
    assert spec.keys() & {"allowedSources", "persistence"} == set()


def test_a_tool_that_waits_is_told_when_it_is_done(repository: World) -> None:
    """What kstatus, `kubectl wait` and health checks of such tools look at."""
    sync(repository, WEB | {"spec": WEB["spec"] | {"scheduler": "rr"}})
    repository.kubectl("wait", "ivs/web", "--for=condition=Ready", "--timeout=10s")

    def current() -> bool:
        web = stored(repository, VIRTUAL_SERVICES, "web")
        conditions = {each["type"]: each["status"] for each in web["status"]["conditions"]}
        assert web["status"]["observedGeneration"] == web["metadata"]["generation"], web["status"]
        assert not {"Reconciling", "Stalled"} & conditions.keys(), conditions
        return conditions["Ready"] == "True"

    await_condition(current, what="it is current, in the words of kstatus")
