"""What is wrong with a manifest is told with place, object, field, what was found and what is allowed."""

import pytest

from ipvs_api.manifests import read_manifest
from ipvs_api.meta import ObjectKey

from .texts import SERVICE, WEB, told, with_line, written


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
        ("{apiVersion: ipvs.dev/v1alpha1, kind: {a: [b]}, metadata: {name: web}}", "kind: expected text"),
        ("{apiVersion: 1, kind: VirtualService}", "apiVersion: expected text"),
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


def test_a_document_that_cannot_be_read_leaves_the_others() -> None:
    other = SERVICE.replace("name: web", "name: other")
    manifest = read_manifest(f"{SERVICE}---\nspec: {{ports: [\n---\n{other}".encode(), "file.yaml")
    assert [located.key.name for located in manifest.objects] == ["web", "other"]
    assert [located.line for located in manifest.objects] == [1, 14]
    assert [error.line for error in manifest.errors] == [13]
    assert not manifest.complete


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


@pytest.mark.slow
def test_many_faulty_documents_are_told_in_time_that_grows_with_their_number() -> None:
    text = "---\n".join(SERVICE.replace("web", f"web-{number}").replace("80", "0") for number in range(500))
    manifest = read_manifest(text.encode(), "file.yaml")
    assert [error.line for error in manifest.errors] == [7 + 11 * number for number in range(500)]
