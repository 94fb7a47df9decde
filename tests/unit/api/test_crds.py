"""The CRDs as an API server and ``kubectl`` meet them: bounded, described, with columns that show something."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipvs_api import API_VERSION
from ipvs_api.schemas import CRD_FILES, crd, crd_text, openapi_schema

CRDS = Path(__file__).parents[3] / "crds"


def fields(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every field below apiVersion, kind and metadata, which are the API server's."""
    for name, part in schema.get("properties", {}).items():
        if path or name not in ("apiVersion", "kind", "metadata"):
            yield from with_inner(part, f"{path}.{name}")


def with_inner(part: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, part
    yield from fields(part, path)
    for keyword, ending in (("items", "[]"), ("additionalProperties", ".*")):
        if keyword in part:
            yield from with_inner(part[keyword], path + ending)


def missing(part: dict[str, Any]) -> set[str]:
    """Bounds that a value of this type needs and this one does not have."""
    match part.get("type"):
        case "string":
            return set() if "enum" in part else {"maxLength"} - part.keys()
        case "integer":
            return {"minimum", "maximum"} - part.keys()
        case "array":
            return {"maxItems", "x-kubernetes-list-type"} - part.keys()
        case "object":
            return {"maxProperties"} - part.keys() if "additionalProperties" in part else set()
        case "boolean":
            return set()
        case None if part.get("x-kubernetes-int-or-string"):
            return {"minimum", "maximum", "maxLength"} - part.keys()
        case other:
            return {f"a known type, not {other}"}


def test_every_crd_of_the_repository_is_shipped_with_the_package() -> None:
    assert sorted(CRD_FILES.values()) == sorted(path.name for path in CRDS.glob("*.yaml"))
    for kind, name in CRD_FILES.items():
        assert crd_text(kind) == (CRDS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", CRD_FILES)
def test_every_list_text_and_number_is_bounded(kind: str) -> None:
    assert {path: gaps for path, part in fields(openapi_schema(kind)) if (gaps := missing(part))} == {}


def granular(part: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects in what the operator and agents apply that server-side apply goes into, field by field."""
    if part.get("x-kubernetes-map-type") == "atomic" or part.get("x-kubernetes-list-type") == "atomic":
        return
    yield path, part
    for name, inner in part.get("properties", {}).items():
        yield from granular(inner, f"{path}.{name}")
    if "items" in part:
        yield from granular(part["items"], f"{path}[]")


@pytest.mark.parametrize("kind", CRD_FILES)
def test_what_is_applied_without_any_field_is_taken_as_one_value(kind: str) -> None:
    """Where the fields of an object are owned one by one and all are given up, what is left is null, which is refused
    (structured-merge-diff v6): so what may be empty has to be atomic."""
    schema = openapi_schema(kind)["properties"]
    applied = {"status": schema.get("status", {})}
    if kind in ("VirtualServicePlan", "IPVSNode", "IPVSAddress"):
        applied["spec"] = schema["spec"]
    within = {path: part for name, whole in applied.items() for path, part in granular(whole, name)}
    objects = {path: part for path, part in within.items() if part.get("type") == "object" and path != "status"}
    assert [path for path, part in objects.items() if not part.get("required")] == []


@pytest.mark.parametrize("kind", CRD_FILES)
def test_every_field_is_described(kind: str) -> None:
    named = [(path, part) for path, part in fields(openapi_schema(kind)) if not path.endswith(("[]", ".*"))]
    assert [path for path, part in named if not part.get("description", "").endswith(".")] == []


@pytest.mark.parametrize("kind", CRD_FILES)
def test_a_described_range_is_the_schemas(kind: str) -> None:
    """Where a description says "0 to 64", so does the schema; "1 to 64" may leave out a 0 that means none."""
    for path, part in fields(openapi_schema(kind)):
        least = part.get("minimum", part.get("minItems"))
        most = part.get("maximum", part.get("maxItems"))
        for told_least, told_most in re.findall(r"\b(\d+) to (\d+)\b", part.get("description", "")):
            assert int(told_most) == most, path
            assert int(told_least) in (least, 1), path


@pytest.mark.parametrize("kind", CRD_FILES)
def test_names_and_version_are_those_of_the_types(kind: str) -> None:
    definition = crd(kind)
    names, group = definition["spec"]["names"], definition["spec"]["group"]
    (version,) = definition["spec"]["versions"]
    assert names["kind"] == kind
    assert f"{group}/{version['name']}" == API_VERSION
    assert definition["metadata"]["name"] == f"{names['plural']}.{group}"
    assert "ipvs" in names["categories"]


def test_the_plural_and_singular_of_virtual_services_leave_istio_its_own() -> None:
    names = crd("VirtualService")["spec"]["names"]
    assert {names["plural"], names["singular"], *names["shortNames"]}.isdisjoint(
        {"virtualservices", "virtualservice", "vs"}
    )


@pytest.mark.parametrize("kind", CRD_FILES)
def test_a_printer_column_shows_one_value_that_the_schema_has(kind: str) -> None:
    (version,) = crd(kind)["spec"]["versions"]
    for column in version["additionalPrinterColumns"]:
        path = re.sub(r"\[(0|\?\(@\.type==\"\w+\"\))\]", ".[]", column["jsonPath"])
        schema = openapi_schema(kind)
        for part in path.strip(".").split("."):
            if part == "creationTimestamp":
                schema = {"type": "date"}
            elif part == "[]":
                schema = schema["items"]
            else:
                schema = schema.get("properties", {}).get(part, {}) if part != "metadata" else {}
        assert schema.get("type") == column["type"], column["name"]


def test_those_with_a_status_have_it_as_a_subresource() -> None:
    for kind in CRD_FILES:
        (version,) = crd(kind)["spec"]["versions"]
        assert ("status" in openapi_schema(kind)["properties"]) == (version.get("subresources") == {"status": {}}), kind


def test_a_new_virtual_service_does_not_look_ready() -> None:
    (condition,) = openapi_schema("VirtualService")["properties"]["status"]["default"]["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("Ready", "Unknown", "Pending")
