"""What people write becomes objects, or errors that say where, what was found and what is allowed."""

import json
from pathlib import Path
from typing import Any

import pytest

from ipvs_api.core import Node, Service
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.manifests import Manifest, Severity, merge, read_manifest
from ipvs_api.meta import ObjectKey
from ipvs_api.schemas import openapi_schema
from ipvs_api.virtualservice import UNSEEN, Forwarding, SchedulerFlag, VirtualService
from ipvs_api.yaml_reader import read

from .texts import SERVICE, WEB, told, written

GOOD = Path(__file__).parents[2] / "cases" / "good"


def good(name: str) -> Manifest:
    return read_manifest((GOOD / name).read_bytes(), name)


@pytest.mark.parametrize("path", sorted(GOOD.iterdir()), ids=lambda path: path.name)
def test_good_manifests_are_read_without_an_error(path: Path) -> None:
    manifest = read_manifest(path.read_bytes(), path.name)
    assert [error for error in manifest.errors if error.severity is Severity.ERROR] == []
    assert manifest.objects
    assert manifest.complete


def used(schema: dict[str, Any], values: list[Any], path: str) -> dict[str, bool]:
    """For each field of a schema whether one of the values has it."""
    found: dict[str, bool] = {}
    for name, part in schema.get("properties", {}).items():
        inner = [value[name] for value in values if isinstance(value, dict) and name in value]
        found[f"{path}.{name}"] = bool(inner)
        members = [item for value in inner if isinstance(value, list) for item in value]
        found |= used(part, inner, f"{path}.{name}") | used(part.get("items", {}), members, f"{path}.{name}[]")
    return found


@pytest.mark.parametrize("kind", ["VirtualService", "DirectorGroup"])
def test_good_manifests_use_every_field_of_the_spec(kind: str) -> None:
    documents = [document.value for path in GOOD.iterdir() for document in read(path.read_bytes()).documents]
    values = [value for value in documents if isinstance(value, dict) and value["kind"] == kind]
    spec = used({"properties": {"spec": openapi_schema(kind)["properties"]["spec"]}}, values, kind)
    assert [path for path, is_used in spec.items() if not is_used] == []


def test_a_virtual_service_has_what_was_written_and_the_defaults_for_the_rest() -> None:
    smallest, web, dns, *_ = (located.object for located in good("virtualservices.yaml").objects)
    assert isinstance(smallest, VirtualService)
    assert isinstance(web, VirtualService)
    assert isinstance(dns, VirtualService)
    assert smallest.metadata.namespace == "default"
    assert smallest.spec.forwarding is Forwarding.NAT
    assert smallest.spec.scheduler_flags is None
    assert smallest.status == UNSEEN
    assert web.metadata.labels == {"team": "web", "version": "1.10"}
    assert web.spec.addresses == ("192.0.2.10", "2001:db8:10:20:30:40:50:1")
    assert web.spec.scheduler_flags == (SchedulerFlag.FALLBACK, SchedulerFlag.PORT)
    assert web.spec.backends.static is not None
    assert [(server.address, server.weight) for server in web.spec.backends.static] == [
        ("10.0.0.11", 3),
        ("2001:db8:1::11", 0),
    ]
    assert web.spec.drain.timeout_seconds == 0
    assert [port.service_port for port in dns.spec.ports] == ["dns-udp", 53]
    assert dns.spec.persistence is not None
    assert dns.spec.persistence.timeout_seconds == 300


def test_what_kubectl_gets_is_read_with_lines_and_other_kinds_are_noted() -> None:
    manifest = good("cluster.yaml")
    lines = (GOOD / "cluster.yaml").read_text().splitlines()
    starts = [number for number, line in enumerate(lines, 1) if line.startswith("- apiVersion:")]
    assert [str(located.key) for located in manifest.objects] == [
        "VirtualService shop/web",
        "DirectorGroup edge",
        "Node lb1",
        "Service shop/web",
    ]
    assert [located.line for located in manifest.objects] == starts
    web, _, node, service = (located.object for located in manifest.objects)
    assert isinstance(web, VirtualService)
    assert isinstance(node, Node)
    assert (web.metadata.generation, web.metadata.uid) == (3, "0f2a3c9e-6d0f-4a53-9a38-0d6a4b0f3c11")
    assert node.spec.pod_cidrs == ("10.1.1.0/24",)
    assert [address.address for address in node.status.addresses] == ["10.0.0.1", "lb1"]
    assert isinstance(service, Service)
    assert told(manifest) == []


def test_members_of_a_typed_list_have_its_kind() -> None:
    manifest = written("""\
        apiVersion: v1
        kind: NodeList
        items:
        - metadata: {name: lb1}
    """)
    assert [located.key for located in manifest.objects] == [ObjectKey("Node", "", "lb1")]


def test_json_is_read_as_well() -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "lb1", "labels": {"motto": "\u00e9 \t/ \\ 1e3"}}}
    (located,) = read_manifest(json.dumps(node, indent="\t").encode(), "file.json").objects
    assert located.object.metadata.labels == {"motto": "\u00e9 \t/ \\ 1e3"}


def test_fields_that_are_null_are_absent() -> None:
    manifest = written("""\
        apiVersion: ipvs.dev/v1alpha1
        kind: DirectorGroup
        metadata: {name: edge, creationTimestamp: null}
        spec:
          addresses: [192.0.2.0/28]
          interface:
          announcement: {static: {}, bgp: null}
        status: null
    """)
    assert told(manifest) == []
    (located,) = manifest.objects
    assert isinstance(located.object, DirectorGroup)
    assert located.object.spec.interface == ""


def test_status_is_nobodys_to_write_and_passed_over() -> None:
    assert told(read_manifest(SERVICE.encode() + b"status: {summary: 3, nonsense: true}\n", "file.yaml")) == []


def test_a_namespace_given_to_what_has_none_is_passed_over() -> None:
    group, node = written("""\
        {apiVersion: ipvs.dev/v1alpha1, kind: DirectorGroup, metadata: {name: edge, namespace: shop},
         spec: {addresses: [192.0.2.1], announcement: {none: {}}}}
        ---
        {apiVersion: v1, kind: Node, metadata: {name: lb1, namespace: shop}}
    """).objects
    assert group.key == ObjectKey("DirectorGroup", "", "edge")
    assert node.key == ObjectKey("Node", "", "lb1")


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("networking.istio.io/v1", "VirtualService"),
        ("v1", "ConfigMap"),
        ("discovery.k8s.io/v1beta1", "EndpointSlice"),
        ("management.example.com/v3", "Node"),
        ("ipvs.dev/v1alpha1", "VirtualServicePlan"),
        ("ipvs.dev/v1alpha1", "IPVSNode"),
    ],
)
def test_what_belongs_to_others_is_passed_over_with_a_note(api_version: str, kind: str) -> None:
    manifest = written(f"{{apiVersion: {api_version}, kind: {kind}, metadata: {{name: web}}, spec: {{a: 1, b: 2}}}}")
    assert [error.severity for error in manifest.errors] == [Severity.NOTE]
    assert manifest.objects == ()
    assert manifest.complete


@pytest.mark.parametrize("text", ["", "\n", "---\n---\n", "# only words\n", "kind: List\napiVersion: v1\nitems: []\n"])
def test_nothing_is_nothing(text: str) -> None:
    assert read_manifest(text.encode(), "file.yaml") == Manifest((), (), True)


def test_merging_keeps_the_first_of_two_and_names_both_places() -> None:
    first = read_manifest(f"# here\n{SERVICE}".encode(), "a.yaml")
    second = read_manifest(SERVICE.replace("port: 80", "port: 81").encode(), "b.yaml")
    merged = merge([first, second])
    assert {key: (located.source, located.line) for key, located in merged.objects.items()} == {WEB: ("a.yaml", 2)}
    (error,) = merged.errors
    assert str(error) == (
        "b.yaml:1:1: VirtualService default/web: the same object is in a.yaml:2, and that one is used; "
        "remove one of them"
    )
    assert merged.refused == frozenset()
    assert merged.complete


def test_merging_knows_what_is_there_and_refused_and_whether_something_may_be_missing() -> None:
    bad = read_manifest(SERVICE.replace("port: 80", "port: 0").encode(), "a.yaml")
    merged = merge([bad, good("directorgroups.yaml")])
    assert merged.refused == {WEB}
    assert len(merged.objects) == 4
    assert merged.complete
    assert not merge([bad, read_manifest(b"[", "c.yaml")]).complete
