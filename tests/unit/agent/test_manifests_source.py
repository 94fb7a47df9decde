"""What one directory means for one node: errors with their places, and nothing lost at a start with a broken file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from ipvs_agent.sources.manifests import ManifestsSource, Update
from ipvs_api.node import IPVSNodeSpec
from ipvs_api.plan import VirtualServicePlanSpec

VIP = "192.0.2.10"
OBJECTS: dict[str, dict[str, Any]] = {
    "web": {
        "apiVersion": "ipvs.dev/v1alpha1",
        "kind": "VirtualService",
        "metadata": {"name": "web"},
        "spec": {
            "directorGroup": "default",
            "addresses": [VIP],
            "ports": [{"name": "http", "port": 80}],
            "healthCheck": {"type": "None"},
            "backends": {"static": [{"address": "10.0.0.11"}]},
        },
    },
    "group": {
        "apiVersion": "ipvs.dev/v1alpha1",
        "kind": "DirectorGroup",
        "metadata": {"name": "default"},
        "spec": {
            "nodeSelector": {"matchLabels": {"director": "true"}},
            "addresses": ["192.0.2.0/28"],
            "announcement": {"static": {}},
        },
    },
    "node": {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "lb1", "labels": {"director": "true"}},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]},
    },
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in OBJECTS:
        write(tmp_path, name)
    return tmp_path


def write(directory: Path, name: str, **spec: Any) -> Path:
    """Write an object anew, with other fields of its spec."""
    manifest = dict(OBJECTS[name])
    if spec:
        manifest["spec"] = {**manifest.get("spec", {}), **spec}
    path = directory / f"{name}.yaml"
    path.write_text(yaml.safe_dump(manifest, sort_keys=False))
    return path


def source(
    directory: Path,
    node: str = "lb1",
    stored: Mapping[str, VirtualServicePlanSpec] | None = None,
    spec: IPVSNodeSpec | None = None,
) -> ManifestsSource:
    return ManifestsSource(directory, node, stored or {}, spec or IPVSNodeSpec())


def programmed(directory: Path) -> tuple[dict[str, VirtualServicePlanSpec], IPVSNodeSpec]:
    """What an agent has on disk after the directory as it is now."""
    update = source(directory).look(0.0)
    assert update.errors == ()
    return {owner: plan for owner, plan in update.plans.items() if plan is not None}, update.node


def test_a_node_that_no_manifest_names_is_told_with_those_that_there_are(directory: Path) -> None:
    update = source(directory, "lb2").look(0.0)
    assert update.plans == {}
    (error,) = update.errors
    assert error == (
        f"{directory}: Node lb2: metadata.name: no Node of the name that --node gives is there, so nothing is planned "
        "for this host; found lb1; did you mean lb1?"
    )
    assert source(directory).look(0.0).errors == ()


def test_a_refusal_names_file_line_object_and_field(directory: Path) -> None:
    path = write(directory, "web", addresses=["203.0.113.1"])
    (error,) = source(directory).look(0.0).errors
    assert error.startswith(
        f"{path}:1: VirtualService default/web: AddressOutsideGroup: spec.addresses: found 203.0.113.1"
    )


def test_a_group_and_a_node_that_are_ill_written_are_told_though_nobody_uses_them(directory: Path) -> None:
    (directory / "web.yaml").unlink()
    group = write(directory, "group", addresses=["192.0.2.9-192.0.2.1"])
    node = directory / "node.yaml"
    node.write_text(node.read_text().replace("192.0.2.1", "192.0.2.300"))
    first, second = source(directory).look(0.0).errors
    assert first.startswith(f"{group}:1: DirectorGroup default: GroupInvalid: ")
    assert second.startswith(f"{node}:1: Node lb1: status.addresses[0].address: found '192.0.2.300'")


BROKEN = {
    "group with a mistake": ("group", {"addresses": 7}),
    "node with a mistake": ("node", {"podCIDRs": 7}),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_start_with_a_broken_group_or_node_changes_nothing_until_it_is_mended(directory: Path, case: str) -> None:
    stored, spec = programmed(directory)
    name, mistake = BROKEN[case]
    path = write(directory, name, **mistake)
    restarted = source(directory, stored=stored, spec=spec)
    update = restarted.look(0.0)
    assert update.plans == {}
    assert update.node == spec
    assert any(str(path) in error for error in update.errors)
    assert any("stays as it is, VirtualService default/web among them" in error for error in update.errors)
    write(directory, name)
    write(directory, "web", scheduler="lc")
    restarted.changed(None)
    update = restarted.look(1.0)
    assert update.errors == ()
    assert update.node == spec
    plan = update.plans["default/web"]
    assert plan is not None
    assert plan.scheduler == "lc"


def test_a_start_with_an_unreadable_file_goes_on_with_what_is_new(directory: Path) -> None:
    (directory / "odd.yaml").write_text("kind: [")
    update = source(directory).look(0.0)
    assert set(update.plans) == {"default/web"}


def removed(restarted: ManifestsSource) -> Update:
    restarted.look(0.0)
    return restarted.look(5.0)


def test_what_a_readable_directory_does_not_have_any_more_is_removed_after_a_start(directory: Path) -> None:
    stored, spec = programmed(directory)
    (directory / "web.yaml").unlink()
    assert removed(source(directory, stored=stored, spec=spec)).plans == {"default/web": None}
