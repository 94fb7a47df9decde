"""The chart without Helm: what it copies is what the checkout has, and its values are what its schema allows."""

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft7Validator

from ipvs_api import yaml_reader
from ipvs_lab.images import DOCKERFILES, digest

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "charts" / "ipvs-operator"
CRDS = sorted((ROOT / "crds").glob("*.yaml"))
RIGHTS = sorted((ROOT / "deploy").glob("[1-4]0-*.yaml"))
NAMESPACE = "ipvs-system"
SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def read(path: Path) -> Any:
    return yaml_reader.read(path.read_bytes()).documents[0].value


def messages(values: Any) -> list[str]:
    """What the schema has against values."""
    return [error.message for error in Draft7Validator(SCHEMA).iter_errors(values)]


def undescribed(schema: dict[str, Any], value: Any, path: str = "") -> list[str]:
    """Values that are objects of fixed fields in the schema, or have fields there that they lack."""
    found = []
    properties = schema.get("properties")
    if properties is None:
        return []
    found += [f"{path}{name} is not in values.yaml" for name in properties if name not in value and name != "global"]
    for name, part in properties.items():
        inner = SCHEMA["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part
        if isinstance(value.get(name), dict):
            found += undescribed(inner, value[name], f"{path}{name}.")
    return found


@pytest.mark.parametrize("source", [*CRDS, *RIGHTS], ids=lambda path: path.name)
def test_the_chart_has_what_the_checkout_has(source: Path) -> None:
    copy = CHART / "files" / source.parent.name / source.name
    assert copy.read_text() == source.read_text(), "run: make chart"


def test_the_chart_has_no_definition_or_right_that_the_checkout_lacks() -> None:
    copies = {path.name for path in CHART.glob("files/*/*.yaml")}
    assert copies == {path.name for path in [*CRDS, *RIGHTS]}


@pytest.mark.parametrize("source", CRDS, ids=lambda path: path.name)
def test_each_definition_has_the_place_where_the_chart_says_that_it_is_kept(source: Path) -> None:
    assert source.read_text().count("\n  annotations:\n") == 1


@pytest.mark.parametrize("source", RIGHTS, ids=lambda path: path.name)
def test_the_namespace_stands_in_rights_where_a_namespace_is_meant(source: Path) -> None:
    """The chart puts the release's namespace there, by the text."""
    for line in source.read_text().splitlines():
        if NAMESPACE in line:
            assert f"namespace: {NAMESPACE}" in line or f"system:serviceaccount:{NAMESPACE}:" in line


@pytest.mark.parametrize("values", [CHART / "values.yaml", *sorted(CHART.glob("ci/*.yaml"))], ids=lambda p: p.name)
def test_values_are_what_the_schema_allows(values: Path) -> None:
    assert messages(read(values)) == []


def test_the_schema_describes_all_values_and_no_others() -> None:
    assert undescribed(SCHEMA, read(CHART / "values.yaml")) == []


@pytest.mark.parametrize(
    "values",
    [
        {"operatr": {}},
        {"operator": {"replica": 1}},
        {"operator": {"logLevel": "loud"}},
        {"agent": {"healthPort": 0}},
        {"agent": {"stateDir": "relative"}},
        {"agent": {"stateDir": "/"}},
        {"agent": {"maxUnavailable": "some"}},
        {"modules": {"names": []}},
        {"modules": {"names": ["ip_vs; reboot"]}},
        {"crds": {"keep": "yes"}},
    ],
    ids=str,
)
def test_mistakes_in_values_are_refused(values: Any) -> None:
    assert messages(values) != []


def test_the_chart_is_of_the_version_of_the_program() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = read(CHART / "Chart.yaml")
    assert (chart["version"], chart["appVersion"]) == (version, version)


@pytest.mark.parametrize("dockerfile", DOCKERFILES.values())
def test_an_image_is_another_when_what_it_is_made_of_is_another(tmp_path: Path, dockerfile: str) -> None:
    files = {
        ".dockerignore": "*\n!code\n**/__pycache__\n**/Dockerfile\n",
        dockerfile: "FROM scratch\n",
        "code/one.py": "1\n",
        "code/__pycache__/one.pyc": "",
        "other.py": "",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    before = digest(tmp_path, dockerfile)
    for name in ("code/__pycache__/one.pyc", "other.py"):
        (tmp_path / name).write_text("changed\n")
    assert digest(tmp_path, dockerfile) == before
    seen = {before}
    for name in (dockerfile, "code/one.py", "code/two.py"):
        (tmp_path / name).write_text("changed\n")
        seen.add(digest(tmp_path, dockerfile))
    assert len(seen) == 4
