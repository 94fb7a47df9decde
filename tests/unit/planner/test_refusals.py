"""The table of refusals that drives the CRDs' CEL rules as well: what they refuse, the planner refuses too."""

from pathlib import Path
from typing import Any

import pytest

from ipvs_api import yaml_reader
from ipvs_api.core import Node
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.virtualservice import VirtualService
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.groups import group_facts
from ipvs_planner.index import Key
from ipvs_planner.reasons import Reason
from ipvs_planner.snapshot import Snapshot

from .worlds import unchecked

(DOCUMENT,) = yaml_reader.read((Path(__file__).parents[2] / "cases" / "refusals.yaml").read_bytes()).documents
BASE: dict[str, Any] = DOCUMENT.value["base"]
CASES: list[dict[str, Any]] = DOCUMENT.value["cases"]
SEEN = [case for case in CASES if case["reason"] is not None or "schema" not in case]
"""Without those that only a schema refuses: the planner never sees such an object."""

KINDS = {"VirtualService": VirtualService, "DirectorGroup": DirectorGroup}


def patched(value: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    result = dict(value) if isinstance(value, dict) else {}
    for key, part in patch.items():
        if part is None:
            result.pop(key, None)
        else:
            result[key] = patched(result.get(key), part)
    return result


def object_of(kind: str, patch: Any) -> Any:
    return unchecked(KINDS[kind], patched(BASE[kind], patch))


def snapshot_of(case: dict[str, Any]) -> Snapshot:
    snapshot = Snapshot()
    for node in BASE["nodes"]:
        snapshot.put(unchecked(Node, node))
    snapshot.put(object_of("DirectorGroup", {}))
    if "old" in case:
        old = object_of(case["kind"], case["old"])
        snapshot.put(old)
        key = Key(old.metadata.namespace, old.metadata.name)
        snapshot.hold(key, compile_virtual_service(snapshot, key).claims)
    for other in case.get("beside", ()):
        snapshot.put(object_of(other["kind"], other["patch"]))
    return snapshot


def found(case: dict[str, Any]) -> set[Reason]:
    written = object_of(case["kind"], case["patch"])
    if isinstance(written, DirectorGroup):
        return {finding.reason for finding in group_facts(written).findings}
    snapshot = snapshot_of(case)
    snapshot.put(written)
    result = compile_virtual_service(snapshot, Key(written.metadata.namespace, written.metadata.name))
    assert bool(result.refusals) != bool(result.plans)
    return {finding.reason for finding in result.refusals}


@pytest.mark.parametrize("case", SEEN, ids=[case["name"] for case in SEEN])
def test_a_case_has_its_reason(case: dict[str, Any]) -> None:
    if case["reason"] is None:
        assert found(case) == set()
    else:
        assert case["reason"] in found(case)


def test_every_cel_rule_is_a_refusal_of_the_planner_too() -> None:
    assert [case["name"] for case in CASES if case["rule"] is not None and case["reason"] is None] == []
    assert len([case for case in CASES if case["rule"] is not None]) > 20


REFUSALS = set(Reason) - {
    # What accepted virtual services, groups and nodes are told, and what statuses say.
    Reason.ACCEPTED,
    Reason.SCHEDULER_CHANGED,
    Reason.SCHEDULER_IGNORES_WEIGHTS,
    Reason.ONE_SERVER_PER_ADDRESS,
    Reason.HEALTH_NOT_CHECKED,
    Reason.FALLBACK_NOT_USED,
    Reason.CONNECTION_SYNC_NOT_USED,
    Reason.SOURCES_OF_ONE_FAMILY,
    Reason.NODE_ADDRESS_MISSING,
    Reason.SETTINGS_DISAGREE,
    Reason.TOO_MANY_GROUPS,
    Reason.TOO_MANY_DIRECTORS,
    Reason.PENDING,
    Reason.PROGRAMMED,
    Reason.PROGRAMMING_FAILED,
    Reason.LAGGING,
    Reason.NOT_SEEN_HERE,
    Reason.REPORT_TRUNCATED,
    Reason.NO_REAL_SERVERS,
    Reason.NODE_GONE,
    Reason.NODE_NOT_READY,
    Reason.NODE_REBOOTED,
    Reason.AGENT_NOT_READY,
    Reason.NOT_REPORTED,
    Reason.PREPARING,
    Reason.WITHDRAWING,
    Reason.REFUSED,
    # Backends that are a Service's (test_backing.py), and what a Service that asks for an address is told.
    Reason.SERVICE_EXTERNAL_NAME,
    Reason.SERVICE_NOT_FOUND,
    Reason.SERVICE_PORT_NOT_FOUND,
    Reason.ENDPOINT_UNUSABLE,
    Reason.ENDPOINT_WITHOUT_NODE,
    Reason.TERMINATING_SERVES,
    Reason.ANNOTATION_INVALID,
    Reason.SERVICE_UNSUPPORTED,
    Reason.VIRTUAL_SERVICE_EXISTS,
    Reason.CLIENT_ADDRESS_LOST,
    # Only where addresses are given and claimed.
    Reason.ADDRESSES_EXHAUSTED,
    Reason.ADDRESS_FULL,
    Reason.ADDRESS_FAMILY_MISSING,
    # More real servers than a schema lets through, or than a table should hold.
    Reason.TOO_MANY_SERVERS,
}


def test_every_refusal_has_a_case() -> None:
    assert {case["reason"] for case in CASES if case["reason"]} == REFUSALS
