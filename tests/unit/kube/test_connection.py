"""Who we are to the API server: from where that is known, and that it is read again when it is refused."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import Configuration

from ipvs_kube import connection
from ipvs_kube.api import Api, KubeConfigError, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.pod import own_namespace
from ipvs_kube.resources import PODS

from .scripted import Answer, ScriptedServer, Stream, refusal, scripted

pytestmark = pytest.mark.slow  # real connections

UNAUTHORIZED = Answer(refusal(401, "Unauthorized"), 401)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as made:
        yield made


def named_by(server: ScriptedServer) -> list[str]:
    return [asked.headers.get("authorization", "") for asked in server.asked]


def write(server: ScriptedServer, directory: Path, token: str) -> Path:
    return server.kubeconfig(directory, {"token": token})


def test_a_token_that_is_refused_is_read_again_and_the_request_repeated(server: ScriptedServer, tmp_path: Path) -> None:
    api = connect(write(server, tmp_path, "old"))
    server.others = [Answer(b"{}"), UNAUTHORIZED, Answer(b'{"ok": 1}')]
    api.get(PODS, "ns", "a")
    write(server, tmp_path, "new")
    assert api.get(PODS, "ns", "a") == b'{"ok": 1}'
    assert named_by(server) == ["Bearer old", "Bearer old", "Bearer new"]
    api.close()


def test_a_watch_that_is_refused_begins_with_new_credentials_too(server: ScriptedServer, tmp_path: Path) -> None:
    api = connect(write(server, tmp_path, "old"))
    server.watches = [UNAUTHORIZED, Stream((b"line\n",))]
    write(server, tmp_path, "new")
    response = api.request("GET", "/api/v1/pods", {"watch": "true"}, stream=True)
    assert b"".join(response.stream()) == b"line\n"
    assert named_by(server) == ["Bearer old", "Bearer new"]
    response.close()
    api.close()


def test_credentials_that_are_always_refused_are_not_read_for_every_request(
    server: ScriptedServer, tmp_path: Path
) -> None:
    api = connect(write(server, tmp_path, "old"))
    server.others = [UNAUTHORIZED]
    for _ in range(5):
        with pytest.raises(ApiError) as raised:
            api.get(PODS, "ns", "a")
        assert raised.value.forbidden
    assert len(server.asked) == 6, "one of five was repeated"
    api.close()


def test_they_are_read_again_after_a_while(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "RENEW_SECONDS", 0.1)
    api = connect(write(server, tmp_path, "old"))
    server.others = [UNAUTHORIZED, UNAUTHORIZED, UNAUTHORIZED, Answer(b"{}")]
    with pytest.raises(ApiError):
        api.get(PODS, "ns", "a")
    time.sleep(0.1)
    write(server, tmp_path, "new")
    assert api.get(PODS, "ns", "a") == b"{}"
    assert named_by(server)[-1] == "Bearer new"
    api.close()


def test_a_configuration_that_is_gone_or_half_written_leaves_what_was_known(
    server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connection, "RENEW_SECONDS", 0.0)
    file = write(server, tmp_path, "old")
    api = connect(file)
    server.others = [UNAUTHORIZED]
    for broken in ("", "{half", "[]"):
        file.write_text(broken)
        with pytest.raises(ApiError) as raised:
            api.get(PODS, "ns", "a")
        assert raised.value.status == 401
    file.unlink()
    with pytest.raises(ApiError):
        api.get(PODS, "ns", "a")
    assert "are refused, and there are no others" in caplog.text
    server.others = [Answer(b"{}")]
    assert api.get(PODS, "ns", "a") == b"{}"
    assert set(named_by(server)) == {"Bearer old"}
    api.close()


def test_many_threads_that_are_refused_read_them_once(server: ScriptedServer, tmp_path: Path) -> None:
    file, read = write(server, tmp_path, "old"), []

    def load() -> Configuration:
        read.append(file)
        return connection.load(file, "")

    api = Api(connection.Connection(load), "tests")
    write(server, tmp_path, "new")
    server.refused = {"Bearer old"}
    with ThreadPoolExecutor(8) as pool:
        answers = [task.result() for task in [pool.submit(api.get, PODS, "ns", "a") for _ in range(32)]]
    assert answers == [b"{}"] * 32
    assert len(read) == 2
    api.close()


def test_no_credentials_ask_as_nobody(server: ScriptedServer, tmp_path: Path) -> None:
    api = connect(server.kubeconfig(tmp_path))
    assert next(iter(api.pages(PODS))).resource_version == "10"
    assert named_by(server) == [""]
    api.close()


def test_a_plugins_token_is_used_and_asked_for_again_when_it_is_refused(server: ScriptedServer, tmp_path: Path) -> None:
    said = tmp_path / "said"
    said.write_text("first")
    plugin = tmp_path / "plugin"
    version = "client.authentication.k8s.io/v1"
    credential = {"apiVersion": version, "kind": "ExecCredential", "status": {"token": "TOKEN"}}
    plugin.write_text(f"#!/bin/sh\nprintf '%s' '{json.dumps(credential)}' | sed \"s/TOKEN/$(cat {said})/\"\n")
    plugin.chmod(0o755)
    user: dict[str, Any] = {"exec": {"apiVersion": version, "command": str(plugin), "interactiveMode": "Never"}}
    api = connect(server.kubeconfig(tmp_path, user))
    server.others = [Answer(b"{}"), UNAUTHORIZED, Answer(b"{}")]
    api.get(PODS, "ns", "a")
    said.write_text("second")
    api.get(PODS, "ns", "a")
    assert named_by(server) == ["Bearer first", "Bearer first", "Bearer second"]
    api.close()


@pytest.mark.parametrize("content", [None, "", "- a list\n", "{broken", "clusters: 5\n", "a: text"])
def test_what_is_no_configuration_is_said_to_be_none_and_where(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "config"
    if content is not None:
        file.write_text(content)
    with pytest.raises(KubeConfigError, match=f"no API server is configured: kubeconfig {file}"):
        connect(file)


def test_a_context_that_is_not_there_is_named(server: ScriptedServer, tmp_path: Path) -> None:
    with pytest.raises(KubeConfigError, match="elsewhere"):
        connect(write(server, tmp_path, "t"), "elsewhere")


def test_the_namespace_is_the_environments_or_the_pods_or_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "namespace"
    monkeypatch.setattr("ipvs_kube.pod.NAMESPACE", file)
    monkeypatch.delenv("POD_NAMESPACE", raising=False)
    assert own_namespace() == ""
    file.write_text("lvs\n")
    assert own_namespace() == "lvs"
    monkeypatch.setenv("POD_NAMESPACE", "other")
    assert own_namespace() == "other"


def test_others_get_the_same_server_and_credentials(server: ScriptedServer, tmp_path: Path) -> None:
    api: Api = connect(write(server, tmp_path, "t"))
    found: dict[str, Any] = api.connection(dict)
    assert (found["server"], found["scheme"], found["token"]) == (server.url, "Bearer", "t")
    api.close()
