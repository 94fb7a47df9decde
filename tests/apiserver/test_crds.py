"""The CRDs on a real API server: what they refuse and let pass, and what they fill in.

What is refused and what passes is the table that the planner and the rules' own unit tests are held to as well.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from ipvs_api.schemas import CRD_FILES
from ipvs_kube.api import Api, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import CRDS, OURS, Resource
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition

from ..unit.api.test_cel import BASE, CASES, RULES, judged, patched

MANAGER = "somebody"
NAMESPACE = "default"
"""Of objects that are judged and not kept."""
RESOURCES = {resource.kind: resource for resource in OURS}
RULES_BY_NAME = {(rule.kind, str(rule)): rule for rule in RULES}
NAMED = {case["name"]: case for case in CASES}
BY_RULE = [name for name, case in NAMED.items() if case["rule"]]
BY_SCHEMA = [name for name, case in NAMED.items() if "schema" in case]
TAKEN = [name for name, case in NAMED.items() if not case["rule"] and "schema" not in case]


@pytest.fixture(scope="module")
def api(definitions: ControlPlane) -> Iterator[Api]:
    made = connect(definitions.kubeconfig())
    await_condition(lambda: all(served(made, resource) for resource in OURS), what="all of our kinds are served")
    yield made
    made.close()


def served(api: Api, resource: Resource) -> bool:
    """A moment after its definition is established."""
    try:
        return bool(api.newest(resource))
    except ApiError as error:
        if not error.not_found:
            raise
        return False


# What is refused, and what passes.


def written(case: dict[str, Any], patch: Any) -> dict[str, Any]:
    made: dict[str, Any] = patched(BASE[case["kind"]], patch)
    if RESOURCES[case["kind"]].namespaced:
        made["metadata"] = {**made["metadata"], "namespace": NAMESPACE}
    return made


def send(api: Api, name: str) -> None:
    """Have a case judged as kubectl would: unknown fields are refused, and nothing is kept. ApiError."""
    case = NAMED[name]
    resource, body = RESOURCES[case["kind"]], written(case, case["patch"])
    query = {"dryRun": "All", "fieldValidation": "Strict", "fieldManager": MANAGER}
    if "old" not in case:
        api.request("POST", resource.path(NAMESPACE), query, body)
        return
    old = written(case, case["old"])
    stored = msgspec.json.decode(api.create(resource, NAMESPACE, old, MANAGER))
    try:
        body["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
        api.request("PUT", resource.path(NAMESPACE, body["metadata"]["name"]), query, body)
    finally:
        api.delete(resource, NAMESPACE, old["metadata"]["name"])


def refusal(api: Api, name: str) -> str:
    """Why a case is refused: `<field>: <words>`, several of them in brackets."""
    with pytest.raises(ApiError) as caught:
        send(api, name)
    assert caught.value.invalid
    told = caught.value.message
    return told.partition(" is invalid: ")[2] or told


@pytest.mark.parametrize("name", BY_RULE)
def test_a_rule_refuses_in_its_own_words_at_its_own_field(api: Api, name: str) -> None:
    rule = RULES_BY_NAME[NAMED[name]["kind"], NAMED[name]["rule"]]
    told = re.fullmatch(r"(\S+): Invalid value: (?:\".*\": )?(.*)", refusal(api, name))
    assert told is not None, "something else refuses it too"
    assert re.sub(r"\[\d+]", "[]", told[1]) == ".".join(rule.where).replace(".[]", "[]") + rule.field_path
    assert told[2] == rule.message


@pytest.mark.parametrize("name", BY_SCHEMA)
def test_the_schema_refuses_and_names_the_field(api: Api, name: str) -> None:
    told, field = refusal(api, name), NAMED[name]["schema"]
    item = field.rpartition(".")[0]  # of two with one key, the API server names the second
    assert re.search(rf"(\[|\"|^|, ){re.escape(field)}[:\"]", told) or f"{item}: Duplicate value" in told


@pytest.mark.parametrize("name", TAKEN)
def test_what_is_not_to_be_refused_is_taken(api: Api, name: str) -> None:
    send(api, name)


def test_every_rule_of_the_server_has_a_refused_and_a_taken_case(api: Api) -> None:
    served = set()
    for kind in CRD_FILES:
        definition = msgspec.json.decode(api.get(CRDS, "", str(RESOURCES[kind])))
        (version,) = definition["spec"]["versions"]
        served |= {(kind, *each) for each in rules(version["schema"]["openAPIV3Schema"])}
    assert {(rule.kind, rule.expression, rule.message) for rule in RULES} == served
    refused = {(NAMED[name]["kind"], NAMED[name]["rule"]) for name in BY_RULE}
    taken = {held for name in TAKEN for held in judged(name).held}
    assert refused == RULES_BY_NAME.keys()
    assert taken >= RULES_BY_NAME.keys()


def rules(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for rule in schema.get("x-kubernetes-validations", ()):
        yield rule["rule"], rule["message"]
    for part in (*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else ())):
        yield from rules(part)


# What is filled in.


def test_a_virtual_service_is_complete_and_not_ready_before_anybody_has_seen_it(api: Api, namespace: str) -> None:
    spec = {
        "directorGroup": "edge",
        "ports": [{"name": "http", "port": 80}],
        "backends": {"static": [{"address": "10.0.0.11"}]},
    }
    body = {"metadata": {"name": "web"}, "spec": spec}
    stored = msgspec.json.decode(api.create(RESOURCES["VirtualService"], namespace, body, MANAGER))
    assert stored["spec"] == {
        "directorGroup": "edge",
        "addressCount": 1,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "forwarding": "NAT",
        "nat": {"returnPath": "Masquerade"},
        "tunnel": {"type": "IPIP"},
        "scheduler": "wlc",
        "onePacket": False,
        "backends": {"static": [{"address": "10.0.0.11", "weight": 1}]},
        "healthCheck": {"type": "TCP", "intervalSeconds": 2, "timeoutSeconds": 1, "rise": 2, "fall": 3},
        "drain": {"timeoutSeconds": 60},
    }
    (ready,) = stored["status"]["conditions"]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "Unknown", "Pending")


def test_parts_that_are_opened_are_filled_in(api: Api, namespace: str) -> None:
    spec = {
        "directorGroup": "edge",
        "ports": [{"name": "http", "port": 80}],
        "persistence": {},
        "healthCheck": {"fall": 5},
        "backends": {"service": {"name": "web"}},
    }
    body = {"metadata": {"name": "web"}, "spec": spec}
    stored = msgspec.json.decode(api.create(RESOURCES["VirtualService"], namespace, body, MANAGER))["spec"]
    assert stored["persistence"] == {"timeoutSeconds": 300, "ipv4PrefixLength": 32, "ipv6PrefixLength": 128}
    assert stored["healthCheck"] == {"type": "TCP", "intervalSeconds": 2, "timeoutSeconds": 1, "rise": 2, "fall": 5}


def test_a_director_group_is_for_all_namespaces_and_not_ready_before_anybody_has_seen_it(api: Api) -> None:
    body = {
        "metadata": {"name": "filled-in"},
        "spec": {"addresses": ["192.0.2.0/28"], "announcement": {"vrrp": {"virtualRouterIDs": [51]}}},
    }
    try:
        stored = msgspec.json.decode(api.create(RESOURCES["DirectorGroup"], "", body, MANAGER))
    finally:
        api.delete(RESOURCES["DirectorGroup"], "", "filled-in")
    assert stored["spec"]["allowedNamespaces"] == {"from": "All"}
    vrrp = {"advertisementIntervalMilliseconds": 100, "preempt": False, "unicast": False}
    assert stored["spec"]["announcement"]["vrrp"] == {"virtualRouterIDs": [51], **vrrp}
    (ready,) = stored["status"]["conditions"]
    assert (ready["type"], ready["status"], ready["reason"]) == ("Ready", "Unknown", "Pending")
