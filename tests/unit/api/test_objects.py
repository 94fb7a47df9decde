"""The types and the schemas accept and refuse the same objects: good ones, and good ones with something wrong."""

import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipvs_api.explain import faults
from ipvs_api.objects import Refusal, decode
from ipvs_api.yaml_reader import read

GOOD = Path(__file__).parents[2] / "cases" / "good"
OBJECTS = [
    document.value
    for name in ("virtualservices.yaml", "directorgroups.yaml")
    for document in read((GOOD / name).read_bytes()).documents
]

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([31, 32, 33, 64, 128, 129, 255, 256, 604_800, 604_801, 65_535, 65_536, 2**31 - 1, 2**31, 2**63])
    | st.floats()
    | st.sampled_from(["", "TCP", "tcp", "None", "a" * 63, "a" * 64, "a" * 253, "a" * 254, "a.b", "-a", "a\n", "80"])
    | st.sampled_from(["10.0.0.1", "10.0.0.1\n", "10.0.0.0/8", "::1", "::/0", "1.2.3.4-1.2.3.5", "web-1", "é"])
)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.sampled_from(["name", "x"]), SCALARS, max_size=2)


def places(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Every field and list member below spec and metadata."""
    members: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [step for key, part in members for step in ((*path, key), *places(part, (*path, key)))]


@st.composite
def spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A good object, changed in up to two places."""
    value = copy.deepcopy(draw(st.sampled_from(OBJECTS)))
    for _ in range(draw(st.integers(0, 2))):
        within = [
            path for path in places(value) if path[0] in ("spec", "metadata") and path[:2] != ("metadata", "name")
        ]
        path = draw(st.sampled_from(within))
        parent: Any = value
        for step in path[:-1]:
            parent = parent[step]
        key: Any = path[-1]
        match draw(st.sampled_from(["replace", "remove", "repeat", "add"])):
            case "replace":
                parent[key] = draw(VALUES)
            case "remove":
                del parent[key]
            case "repeat" if isinstance(parent, list):
                parent.append(copy.deepcopy(parent[key]))
            case _ if isinstance(parent, dict):
                parent[draw(st.sampled_from(["x", "weight", "port", "Port"]))] = draw(VALUES)
    return dict(value)


@pytest.mark.slow
@settings(max_examples=80)
@given(spoilt())
@example(OBJECTS[0] | {"spec": OBJECTS[0]["spec"] | {"unknown": None}})
@example(OBJECTS[-1] | {"spec": {"addresses": ["192.0.2.1"], "announcement": {"none": {"unknown": 1}}}})
def test_an_object_is_refused_by_its_type_exactly_when_its_schema_finds_a_fault(value: dict[str, Any]) -> None:
    before = copy.deepcopy(value)
    decoded = decode(value)
    written = {name: part for name, part in value.items() if name != "status"}
    found = faults(value["kind"], written)
    assert isinstance(decoded, Refusal) == bool(found), found
    if isinstance(decoded, Refusal):
        assert list(decoded.faults) == found
    assert repr(value) == repr(before), "what was read is left as it was"
