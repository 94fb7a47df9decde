"""What kubectl shows of our kinds: columns, categories, texts; and that it takes the examples."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from ipvs_api.schemas import CRD_FILES, openapi_schema
from ipvs_kube.api import Api, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import OURS
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition

from ..unit.api.test_crds import fields

ROOT = Path(__file__).parents[2]
MANAGER = "somebody"
RESOURCES = {resource.kind: resource for resource in OURS}


@pytest.fixture(scope="module")
def plane(control_plane: ControlPlane) -> ControlPlane:
    """An API server with our definitions, as `kubectl apply -f crds/` brings them."""
    control_plane.kubectl("apply", f"--filename={ROOT / 'crds'}")
    definitions = [f"customresourcedefinition/{resource}" for resource in OURS]
    control_plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", *definitions)

    def known() -> bool:
        """To kubectl, by their short names, with their descriptions: a moment after they are established."""
        told = (control_plane.kubectl("explain", name, check=False) for name in ("ivs", "dg", "ivsp", "ipvsnodes"))
        return all("DESCRIPTION" in each.stdout for each in told)

    await_condition(known, 20, "kubectl knows our kinds")
    return control_plane


@pytest.fixture(scope="module")
def api(plane: ControlPlane) -> Iterator[Api]:
    made = connect(plane.kubeconfig())
    yield made
    made.close()


READY = {
    "type": "Ready",
    "status": "True",
    "reason": "Programmed",
    "message": "All is well.",
    "lastTransitionTime": "2026-11-24T03:00:00Z",
}
SHOWN: dict[str, dict[str, Any]] = {
    "VirtualService": {
        "spec": {
            "directorGroup": "edge",
            "addresses": ["192.0.2.10"],
            "forwarding": "DR",
            "ports": [{"name": "http", "port": 80}],
            "backends": {"service": {"name": "web"}},
        },
        "status": {"conditions": [READY], "summary": {"vip": "192.0.2.10", "healthy": "6/6", "nodes": "3/3"}},
    },
    "DirectorGroup": {
        "spec": {"addresses": ["192.0.2.0/28"], "announcement": {"static": {}}},
        "status": {"conditions": [READY], "addresses": {"total": 16, "used": 1}},
    },
    "VirtualServicePlan": {
        "spec": {
            "virtualService": {"namespace": "shop", "name": "web"},
            "directorGroup": "edge",
            "addresses": [{"address": "192.0.2.10"}],
            "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
            "forwarding": "DR",
            "scheduler": "wlc",
            "slice": 0,
            "withdrawn": False,
            "directors": [],
            "backends": [],
        },
    },
    "IPVSNode": {
        "spec": {},
        "status": {
            "conditions": [READY],
            "counts": {"plans": 1, "programmed": 1, "failures": 0},
            "agentVersion": "0.1.0",
            "kernelVersion": "7.2.12",
        },
    },
    "IPVSAddress": {
        "spec": {
            "address": "2001:db8::1",
            "directorGroup": "edge",
            "namespace": "shop",
            "owners": [{"name": "web"}],
        },
    },
}
TABLES = {
    "ivs": """\
NAME   VIP          FORWARDING   SCHEDULER   HEALTHY   NODES   READY   AGE
shown  192.0.2.10   DR           wlc         6/6       3/3     True    _""",
    "dg": """\
NAME   ADDRESSES   USED   READY   AGE
shown  16          1      True    _""",
    "ivsp": """\
NAME   NAMESPACE   VIRTUALSERVICE   SLICE   FORWARDING   WITHDRAWN   SCHEDULER   AGE
shown  shop        web              0       DR           false       wlc         _""",
    "ipvsnodes": """\
NAME   READY   PLANS   PROGRAMMED   FAILURES   AGENT   KERNEL   AGE
shown  True    1       1            0          0.1.0   7.2.12   _""",
    "ipvsaddresses": """\
NAME   ADDRESS       GROUP   NAMESPACE   OWNER   AGE
shown  2001:db8::1   edge    shop        web     _""",
}


@pytest.fixture
def shown(api: Api, namespace: str) -> Iterator[str]:
    """The namespace of one object of each kind, all of the name `shown`."""
    try:
        for kind, value in SHOWN.items():
            resource, body = RESOURCES[kind], {"metadata": {"name": "shown"}, "spec": value["spec"]}
            api.create(resource, namespace, body, MANAGER)
            if "status" in value:
                api.merge(resource, namespace, "shown", {"status": value["status"]}, MANAGER, subresource="status")
        yield namespace
    finally:
        for resource in OURS:
            with suppress(ApiError):
                api.delete(resource, namespace, "shown")


def rows(text: str) -> list[list[str]]:
    """Columns of kubectl's tables, without ages."""
    header, *lines = [line.split() for line in text.splitlines()]
    assert header[-1] == "AGE"
    return [header, *([*line[:-1], "_"] for line in lines)]


def test_kubectl_get_tells_what_is_of_interest(plane: ControlPlane, shown: str) -> None:
    for name, table in TABLES.items():
        told = plane.kubectl("get", name, "shown", f"--namespace={shown}").stdout
        assert rows(told) == rows(table), name


def test_the_columns_of_virtual_services_are_these(plane: ControlPlane, shown: str) -> None:
    header = plane.kubectl("get", "ivs", f"--namespace={shown}").stdout.splitlines()[0]
    assert header.split() == ["NAME", "VIP", "FORWARDING", "SCHEDULER", "HEALTHY", "NODES", "READY", "AGE"]
    wide = plane.kubectl("get", "ivs", f"--namespace={shown}", "--output=wide").stdout.splitlines()[0]
    assert wide.split() == [*header.split()[:-1], "REASON", "GROUP", "AGE"]


def test_a_virtual_service_that_nobody_has_seen_is_shown_as_unknown(
    plane: ControlPlane, api: Api, namespace: str
) -> None:
    body = {"metadata": {"name": "new"}, "spec": SHOWN["VirtualService"]["spec"]}
    api.create(RESOURCES["VirtualService"], namespace, body, MANAGER)
    told = plane.kubectl("get", "ivs", f"--namespace={namespace}").stdout
    assert rows(told)[1] == ["new", "DR", "wlc", "Unknown", "_"]


def test_kubectl_get_ipvs_has_all_of_our_kinds(plane: ControlPlane, shown: str) -> None:
    told = plane.kubectl("get", "ipvs", f"--namespace={shown}", "--output=name").stdout.split()
    assert set(told) >= {f"{kind.lower()}.ipvs.dev/shown" for kind in CRD_FILES}


@pytest.mark.parametrize("kind", CRD_FILES)
def test_every_field_is_explained_by_the_server(api: Api, kind: str) -> None:
    path = "/openapi/v3/apis/ipvs.dev/v1alpha1"
    schemas = json.loads(api.request("GET", path).data)["components"]["schemas"]
    served = dict(fields(schemas[f"dev.ipvs.v1alpha1.{kind}"]))
    for where, part in fields(openapi_schema(kind)):
        assert served[where].get("description") == part.get("description"), where
    named = [where for where in served if not where.endswith(("[]", ".*"))]
    assert len(named) > 5
    assert [where for where in named if not served[where].get("description", "").endswith(".")] == []


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("ivs", "one virtual address (VIP) with its ports"),
        ("ivs.spec.forwarding", "DR (direct routing) rewrites only the MAC address"),
        ("ivs.spec.backends.static.weight", "0 drains it"),
        ("ivs.status.nodes.failures.reason", "Why, in one word for programs."),
        ("dg.spec.announcement", "How packets for the virtual addresses come to a director."),
        ("ivsp.spec.withdrawn", "they drain and give the addresses up"),
        ("ipvsnodes.status.observedResourceVersion", "resource version"),
        ("ipvsaddresses.spec.holders", "The nodes that may have the address"),
    ],
)
def test_kubectl_explain_says_what_a_field_is_for(plane: ControlPlane, path: str, words: str) -> None:
    assert words in " ".join(plane.kubectl("explain", path).stdout.split())


# The examples.


def test_the_examples_are_taken(plane: ControlPlane, namespace: str) -> None:
    done = plane.kubectl(
        "apply", "--dry-run=server", f"--filename={ROOT / 'examples' / 'kubernetes'}", f"--namespace={namespace}"
    )
    assert done.stderr == ""
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == [
        "deployment.apps/web",
        "directorgroup.ipvs.dev/default",
        "service/web",
        "service/web-public",
        "virtualservice.ipvs.dev/legacy",
        "virtualservice.ipvs.dev/web",
    ]
