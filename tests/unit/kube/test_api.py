"""Requests and what becomes of them: bodies, refusals told apart, answers that are none."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipvs_kube.api import Api, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import IPVS_NODES, PLANS, PODS

from .scripted import Answer, ScriptedServer, listed, refusal, scripted, thing


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as made:
        yield made


@pytest.fixture
def api(server: ScriptedServer, tmp_path: Path) -> Iterator[Api]:
    made = connect(server.kubeconfig(tmp_path), user_agent="tests")
    yield made
    made.close()


REFUSALS: dict[str, tuple[Answer, set[str]]] = {
    "not found": (Answer(refusal(404, "NotFound"), 404), {"not_found"}),
    "a path that is not served": (Answer(b"404 page not found\n", 404), {"not_found"}),
    "there already": (Answer(refusal(409, "AlreadyExists"), 409), {"already_exists"}),
    "another version": (Answer(refusal(409, "Conflict"), 409), {"conflict"}),
    "too old": (Answer(refusal(410, "Expired"), 410), {"gone"}),
    "ill-formed": (Answer(refusal(422, "Invalid"), 422), {"invalid"}),
    "not understood": (Answer(refusal(400, "BadRequest"), 400), {"invalid"}),
    "no right": (Answer(refusal(403, "Forbidden"), 403), {"forbidden"}),
    "nobody": (Answer(refusal(401, "Unauthorized"), 401), {"forbidden"}),
    "broken": (Answer(refusal(500, "InternalError"), 500), set()),
    "a proxy's page": (Answer(b"<html>Bad gateway</html>", 502), set()),
    "cut off": (Answer(b"{", length=1000), {"unreachable"}),
}
KINDS = ("unreachable", "not_found", "already_exists", "conflict", "gone", "invalid", "forbidden")


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals_are_told_apart(server: ScriptedServer, api: Api, name: str) -> None:
    answer, expected = REFUSALS[name]
    server.others = [answer]
    with pytest.raises(ApiError) as raised:
        api.get(PODS, "ns", "a")
    assert {kind for kind in KINDS if getattr(raised.value, kind)} == expected


def test_a_refusal_says_what_was_asked_and_in_the_servers_words_why(server: ScriptedServer, api: Api) -> None:
    server.others = [Answer(refusal(403, "Forbidden", "pods is forbidden"), 403)]
    with pytest.raises(ApiError) as raised:
        api.get(PODS, "ns", "a")
    assert str(raised.value) == "GET /api/v1/namespaces/ns/pods/a: pods is forbidden (403 Forbidden)"


def test_a_refusal_that_is_no_status_is_told_as_it_is(server: ScriptedServer, api: Api) -> None:
    server.others = [Answer(b"<html>Bad gateway</html>", 502)]
    with pytest.raises(ApiError, match=r"<html>Bad gateway</html> \(502 Bad Gateway\)"):
        api.get(PODS, "ns", "a")


@pytest.mark.parametrize(
    ("answer", "seconds"),
    [
        (Answer(refusal(429, "TooManyRequests"), 429, {"Retry-After": "7"}), 7.0),
        (Answer(refusal(503, "ServerTimeout", retryAfterSeconds=3), 503), 3.0),
        (Answer(refusal(503, "ServerTimeout"), 503, {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}), None),
        (Answer(refusal(500, "InternalError"), 500), None),
    ],
    ids=["a header", "in the status", "a date", "nothing"],
)
def test_when_to_come_again_is_known_where_it_was_said(
    server: ScriptedServer, api: Api, answer: Answer, seconds: float | None
) -> None:
    server.others = [answer]
    with pytest.raises(ApiError) as raised:
        api.get(PODS, "ns", "a")
    assert raised.value.retry_after == seconds


def test_a_server_that_is_not_there_is_unreachable_and_named(server: ScriptedServer, api: Api) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ApiError) as raised:
        api.get(PODS, "ns", "a")
    assert raised.value.unreachable
    assert f"no answer from {server.url}" in str(raised.value)


def test_a_redirection_is_no_answer(server: ScriptedServer, api: Api) -> None:
    server.others = [Answer(b"", 302, {"Location": f"{server.url}/elsewhere"}), Answer(b'{"secret": 1}')]
    with pytest.raises(ApiError) as raised:
        api.get(PODS, "ns", "a")
    assert raised.value.status == 302
    assert len(server.asked) == 1


def test_a_list_is_asked_for_in_pages_with_its_selectors(server: ScriptedServer, api: Api) -> None:
    server.lists = [Answer(listed(thing("a", 1), more="next")), Answer(listed(thing("b", 2)))]
    pages = list(api.pages(PODS, "ns", label_selector="x", field_selector="y=z"))
    assert [json.loads(bytes(item))["metadata"]["name"] for page in pages for item in page.items] == ["a", "b"]
    assert [(each.query.get("labelSelector"), each.query.get("fieldSelector")) for each in server.asked] == [
        ("x", "y=z")
    ] * 2


WRITES: dict[str, tuple[Any, str, str, str, dict[str, str]]] = {
    "apply": (
        lambda api: api.apply(PLANS, "ns", "a.b.0", {"spec": {}}, "me"),
        "PATCH",
        "/apis/ipvs.dev/v1alpha1/namespaces/ns/virtualserviceplans/a.b.0",
        "application/apply-patch+yaml",
        {"fieldManager": "me", "force": "true"},
    ),
    "apply a status": (
        lambda api: api.apply(IPVS_NODES, "", "n", {}, "me", subresource="status"),
        "PATCH",
        "/apis/ipvs.dev/v1alpha1/ipvsnodes/n/status",
        "application/apply-patch+yaml",
        {"fieldManager": "me", "force": "true"},
    ),
    "create": (
        lambda api: api.create(IPVS_NODES, "", {}, "me"),
        "POST",
        "/apis/ipvs.dev/v1alpha1/ipvsnodes",
        "application/json",
        {"fieldManager": "me"},
    ),
    "merge": (
        lambda api: api.merge(PODS, "ns", "a", {}, "me"),
        "PATCH",
        "/api/v1/namespaces/ns/pods/a",
        "application/merge-patch+json",
        {"fieldManager": "me"},
    ),
    "replace": (
        lambda api: api.replace(PODS, "ns", "a", {}, "me"),
        "PUT",
        "/api/v1/namespaces/ns/pods/a",
        "application/json",
        {"fieldManager": "me"},
    ),
    "delete": (
        lambda api: api.delete(PODS, "ns", "a", uid="u", resource_version="5"),
        "DELETE",
        "/api/v1/namespaces/ns/pods/a",
        "application/json",
        {},
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_a_write_goes_where_it_belongs(server: ScriptedServer, api: Api, name: str) -> None:
    write, method, path, content, query = WRITES[name]
    write(api)
    (asked,) = server.asked
    assert (asked.method, asked.path, asked.query) == (method, path, query)
    assert asked.headers["content-type"] == content
    assert asked.headers["user-agent"] == "tests"
