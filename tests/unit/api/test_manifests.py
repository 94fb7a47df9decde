"""What people write becomes objects, or errors that say where, what was found and what is allowed."""

import json
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from ipvs_api.core import Node
from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.manifests import Manifest, Severity, merge, read_manifest
from ipvs_api.meta import ObjectKey
from ipvs_api.schemas import openapi_schema
from ipvs_api.virtualservice import UNSEEN, Forwarding, SchedulerFlag, VirtualService
from ipvs_api.yaml_reader import read

GOOD = Path(__file__).parents[2] / "cases" / "good"


def good(name: str) -> Manifest:
    return read_manifest((GOOD / name).read_bytes(), name)


def written(text: str) -> Manifest:
    return read_manifest(dedent(text).encode(), "file.yaml")


def told(manifest: Manifest) -> list[str]:
    return [str(error) for error in manifest.errors]


SERVICE = """\
apiVersion: ipvs.dev/v1alpha1
kind: VirtualService
metadata: {name: web}
spec:
  directorGroup: edge
  ports:
  - {name: http, port: 80}
  backends:
    static:
    - {address: 10.0.0.11}
"""
WEB = ObjectKey("VirtualService", "default", "web")


def with_line(line: str) -> Manifest:
    """A good virtual service with one more line under ``spec``, its eleventh."""
    return read_manifest(f"{SERVICE}  {line}\n".encode(), "file.yaml")


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
    ]
    assert [located.line for located in manifest.objects] == starts[:3]
    web, _, node = (located.object for located in manifest.objects)
    assert isinstance(web, VirtualService)
    assert isinstance(node, Node)
    assert (web.metadata.generation, web.metadata.uid) == (3, "0f2a3c9e-6d0f-4a53-9a38-0d6a4b0f3c11")
    assert node.spec.pod_cidrs == ("10.1.1.0/24",)
    assert [address.address for address in node.status.addresses] == ["10.0.0.1", "lb1"]
    assert told(manifest) == [f"cluster.yaml:{starts[3]}:3: Service shop/web: passed over: Service of v1 is not read"]
    assert manifest.errors[0].severity is Severity.NOTE


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


def test_all_errors_of_an_object_are_told_with_place_field_found_and_allowed() -> None:
    manifest = written("""\
        apiVersion: ipvs.dev/v1alpha1
        kind: VirtualService
        metadata:
          name: Web
          namespace: shop
          labels: {version: 1.10}
        spec:
          directorgroup: edge
          addresses: [192.0.2.10, 192.0.2.10]
          ports:
          - name: http
            port: 70000
            targetport: 80
            protocol: tcp
          - {name: http, port: "80"}
          - name: x
          forwarding: nat
          onePacket: yes
          backends:
            static:
            - address: web-1
              weight: 1
              weight: 2
            - 10.0.0.12
          persistence: {timeoutSeconds: 0}
          healthCheck: 5
    """)
    where = "VirtualService shop/Web: "
    name = "expected lower-case letters, digits, '-' and '.', with a letter or digit at both ends"
    assert [error.removeprefix("file.yaml:").replace(where, "") for error in told(manifest)] == [
        f'4:9: metadata.name: found "Web", {name}',
        '6:21: metadata.labels.version: found 1.1, expected text (in quotes: "1.1")',
        '8:3: spec: field "directorGroup" is missing',
        '8:3: spec.directorgroup: unknown field; did you mean "directorGroup"?',
        '9:27: spec.addresses[1]: found "192.0.2.10" again, it is spec.addresses[0] already',
        "12:11: spec.ports[0].port: found 70000, allowed: 1 to 65535",
        '13:5: spec.ports[0].targetport: unknown field; did you mean "targetPort"?',
        '14:15: spec.ports[0].protocol: found "tcp", allowed: TCP, UDP, SCTP; did you mean "TCP"?',
        '15:12: spec.ports[1].name: found "http" again, it is spec.ports[0].name already',
        '15:24: spec.ports[1].port: found "80", expected a whole number (without quotes and leading zeros)',
        '16:5: spec.ports[2]: field "port" is missing',
        '17:15: spec.forwarding: found "nat", allowed: NAT, DR, TUN; did you mean "NAT"?',
        '18:14: spec.onePacket: found "yes", expected true or false',
        '21:16: spec.backends.static[0].address: found "web-1", expected an IPv4 or IPv6 address',
        "23:7: spec.backends.static[0].weight: this key occurs twice",
        '24:7: spec.backends.static[1]: found "10.0.0.12", expected a mapping',
        "25:33: spec.persistence.timeoutSeconds: found 0, allowed: 1 to 2678400",
        "26:16: spec.healthCheck: found 5, expected a mapping",
    ]
    assert {error.key for error in manifest.errors} == {ObjectKey("VirtualService", "shop", "Web")}
    assert manifest.objects == ()


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("drain: {timeoutSeconds: 010}", 'found "010", expected a whole number (without quotes and leading zeros)'),
        ("drain: {timeoutSeconds: 1:30}", 'found "1:30", expected a whole number'),
        ("drain: {timeoutSeconds: 60.0}", "found 60.0, expected a whole number"),
        ("drain: {timeoutSeconds: .nan}", 'found ".nan", expected a whole number'),
        ("drain: {timeoutSeconds: true}", "found true, expected a whole number"),
        ("drain: {timeoutSeconds: -1}", "found -1, allowed: 0 to 604800"),
        ("drain: {timeoutSeconds: 99999999999999999999999}", "expected a whole number"),
        ("drain: [60]", "found a list, expected a mapping"),
        ("onePacket: 1", "found 1, expected true or false"),
        ("allowedSources: 10.0.0.0/8", 'found "10.0.0.0/8", expected a list'),
        ("allowedSources: [10.0.0.0]", "expected a prefix such as 192.0.2.0/24 or 2001:db8::/64"),
        ("addresses: [a, b, c]", "found 3 entries, allowed: at most 2"),
        ("addresses: [null]", "found nothing (null), expected text"),
        ('addresses: ["192.0.2.1\\n"]', 'found "192.0.2.1\\n", expected an IPv4 or IPv6 address'),
        ("addresses: [2026-01-02]", 'found "2026-01-02", expected an IPv4 or IPv6 address'),
        ("interface: eth0", "unknown field; allowed here: directorGroup, addresses,"),
        ("schedulerFlags: [Port, Port]", 'found "Port" again'),
    ],
)
def test_a_wrong_value_is_refused_in_words(line: str, error: str) -> None:
    (found,) = [told for told in with_line(line).errors if error in told.message]
    assert (found.line, found.key) == (11, WEB)
    assert with_line(line).objects == ()


def test_a_very_wrong_object_does_not_fill_the_log() -> None:
    servers = "\n".join(f"    - {{adress: 10.0.0.{number}}}" for number in range(200))
    manifest = read_manifest(f"{SERVICE}{servers}\n".encode(), "file.yaml")
    assert len(manifest.errors) == 101
    assert manifest.errors[0].message == "300 more faults of this object are not listed"


@pytest.mark.parametrize(
    ("api_version", "kind", "error"),
    [
        ("ipvs.dev/v1", "VirtualService", 'apiVersion: found "ipvs.dev/v1", expected ipvs.dev/v1alpha1'),
        ("ipvs.de/v1alpha1", "DirectorGroup", 'apiVersion: found "ipvs.de/v1alpha1", expected ipvs.dev/v1alpha1'),
        ("v1", "VirtualService", 'apiVersion: found "v1", expected ipvs.dev/v1alpha1'),
    ],
)
def test_another_version_of_a_kind_of_ours_is_refused_by_name(api_version: str, kind: str, error: str) -> None:
    manifest = written(f"apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: web}}\n")
    assert [found.rpartition("web: ")[2] for found in told(manifest)] == [error]
    assert manifest.errors[0].key is not None
    assert manifest.complete


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{apiVersion: ipvs.dev/v1alpha1, kind: VirtualServise}", 'kind: "VirtualServise" is unknown in ipvs.dev; did'),
        ("{kind: VirtualService}", 'field "apiVersion" is missing'),
        ("{apiVersion: ipvs.dev/v1alpha1}", 'field "kind" is missing'),
        ("{apiVersion: ipvs.dev/v1alpha1, kind: 7}", "kind: expected text"),
        ("just words", "expected an object"),
        ("- {apiVersion: v1, kind: Node}", "expected an object"),
        ("{apiVersion: v1, kind: Node}", 'field "metadata" is missing'),
        ("{apiVersion: v1, kind: Node, metadata: {name: 7}}", 'metadata.name: found 7, expected text (in quotes: "7")'),
        ("{apiVersion: v1, kind: Node, metadata: {generateName: a-}}", 'metadata: field "name" is missing'),
        ("a: [", "this document cannot be read: did not find expected node content"),
        ("{apiVersion: v1, kind: List, items: [7]}", "expected an object"),
    ],
)
def test_a_text_with_something_that_has_no_name_is_not_complete(text: str, error: str) -> None:
    manifest = read_manifest(f"{SERVICE}---\n{text}\n".encode(), "file.yaml")
    assert [located.key for located in manifest.objects] == [WEB]
    assert [error in found for found in told(manifest)] == [True]
    assert not manifest.complete


@pytest.mark.parametrize(
    ("api_version", "kind"),
    [
        ("networking.istio.io/v1", "VirtualService"),
        ("v1", "ConfigMap"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
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


def test_a_document_that_cannot_be_read_leaves_the_others() -> None:
    other = SERVICE.replace("name: web", "name: other")
    manifest = read_manifest(f"{SERVICE}---\nspec: {{ports: [\n---\n{other}".encode(), "file.yaml")
    assert [located.key.name for located in manifest.objects] == ["web", "other"]
    assert [located.line for located in manifest.objects] == [1, 14]
    assert [error.line for error in manifest.errors] == [13]
    assert not manifest.complete


@pytest.mark.parametrize("text", ["", "\n", "---\n---\n", "# only words\n", "kind: List\napiVersion: v1\nitems: []\n"])
def test_nothing_is_nothing(text: str) -> None:
    assert read_manifest(text.encode(), "file.yaml") == Manifest((), (), True)


def test_an_error_in_a_merged_or_aliased_part_is_told_where_it_is_used() -> None:
    manifest = written("""\
        apiVersion: ipvs.dev/v1alpha1
        kind: VirtualService
        metadata: {name: web, annotations: &wrong {a: b}}
        spec:
          directorGroup: edge
          ports: [{name: http, port: 80}]
          backends: *wrong
    """)
    assert told(manifest) == [
        "file.yaml:7:13: VirtualService default/web: spec.backends.a: unknown field; allowed here: service, static"
    ]


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


def test_many_faulty_documents_are_told_in_time_that_grows_with_their_number() -> None:
    text = "---\n".join(SERVICE.replace("web", f"web-{number}").replace("80", "0") for number in range(500))
    manifest = read_manifest(text.encode(), "file.yaml")
    assert [error.line for error in manifest.errors] == [7 + 11 * number for number in range(500)]
