"""Requests to the API server: configuration and credentials from the ``kubernetes`` package, bodies as bytes.

Every call is synchronous, may come from any thread and raises ``ApiError`` for whatever is no success.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes.client import Configuration

from ipvs_kube.connection import Connection, KubeConfigError, load
from ipvs_kube.errors import ApiError, error_of
from ipvs_kube.resources import Resource

__all__ = ["ANSWER_SECONDS", "CONNECT_SECONDS", "PAGE", "Api", "KubeConfigError", "Page", "connect"]

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 30.0
PAGE = 500
"""Objects of one page of a list."""

APPLY = "application/apply-patch+yaml"  # JSON is YAML
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: Annotated[str, msgspec.Meta(min_length=1)]
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta
    items: list[msgspec.Raw] | None
    """Required: whatever else answers with JSON must not be taken for an empty list."""


class Page(NamedTuple):
    """Part of a list: objects in JSON; all pages have the same ``resource_version``."""

    items: list[msgspec.Raw]
    resource_version: str


T = TypeVar("T")

_PAGES = msgspec.json.Decoder(_List)


def connect(kubeconfig: Path | None = None, context: str = "", *, user_agent: str = "ipvs-operator") -> "Api":
    """The API server of a kubeconfig file, or of the cluster that this runs in, or of the user's own kubeconfig.

    KubeConfigError where there is none.
    """
    return Api(Connection(partial(load, kubeconfig, context)), user_agent)


class Api:
    """One API server, as one user."""

    def __init__(self, connection: Connection, user_agent: str) -> None:
        self._connection = connection
        self.user_agent = user_agent

    @property
    def server(self) -> str:
        return self._connection.server

    def connection(self, make: Callable[..., T]) -> T:
        """The same server and credentials for another client: ``make`` gets them under the names that kopf's
        ``ConnectionInfo`` has."""
        made = self._connection.configuration
        scheme, _, token = self._connection.authorization().rpartition(" ")
        return make(
            server=self.server,
            ca_path=made.ssl_ca_cert,
            insecure=not made.verify_ssl,
            username=made.username or None,
            password=made.password or None,
            scheme=scheme or None,
            token=token or None,
            certificate_path=made.cert_file,
            private_key_path=made.key_file,
        )

    def credentials(self) -> tuple[Configuration, str]:
        """The same server for the ``kubernetes`` package's own clients, and the header `Authorization`, which is empty
        for a certificate."""
        return self._connection.configuration, self._connection.authorization()

    def close(self) -> None:
        self._connection.close()

    def request(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        *,
        content: str = "application/json",
        accept: str = "application/json",
        timeout: tuple[float, float] = (CONNECT_SECONDS, ANSWER_SECONDS),
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """The answer, with ``stream`` only its beginning. ``timeout``: seconds to connect and between two bytes."""
        headers = {"Accept": accept, "User-Agent": self.user_agent}
        if body is not None:
            headers["Content-Type"] = content
            body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        where = path + (f"?{urlencode(query)}" if query else "")
        what = f"{method} {path}"
        response = None
        try:
            response = self._connection.send(method, where, headers, body, timeout, stream=stream)
            if response.status < 300:
                return response
            told = response.data
            if stream:
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if response is not None:
                response.close()  # its answer broke off: nobody can use the connection any more
            raise ApiError(0, "Unreachable", f"{what}: no answer from {self.server}: {error}") from error
        raise error_of(response.status, response.headers, told, what)

    def pages(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        metadata_only: bool = False,
    ) -> Iterator[Page]:
        """Every object there is, page by page. ApiError ``gone`` in between: begin again."""
        query = {"limit": str(PAGE), "labelSelector": label_selector, "fieldSelector": field_selector}
        query = {name: value for name, value in query.items() if value}
        accept = METADATA_ONLY if metadata_only else "application/json"
        while True:
            answer = self.request("GET", resource.path(namespace), query, accept=accept)
            page = _page(answer.data, f"GET {resource.path(namespace)}")
            yield Page(page.items or [], page.metadata.resource_version)
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

    def newest(
        self, resource: Resource, namespace: str = "", *, label_selector: str = "", field_selector: str = ""
    ) -> str:
        """The resourceVersion that a list has now; at most one object is looked at."""
        query = {"limit": "1", "labelSelector": label_selector, "fieldSelector": field_selector}
        query = {name: value for name, value in query.items() if value}
        answer = self.request("GET", resource.path(namespace), query, accept=METADATA_ONLY)
        return _page(answer.data, f"GET {resource.path(namespace)}").metadata.resource_version

    def get(self, resource: Resource, namespace: str, name: str) -> bytes:
        return self.request("GET", resource.path(namespace, name)).data

    def create(self, resource: Resource, namespace: str, value: Mapping[str, Any], manager: str) -> bytes:
        query = {"fieldManager": manager}
        return self.request("POST", resource.path(namespace), query, _whole(resource, value)).data

    def apply(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        value: Mapping[str, Any],
        manager: str,
        *,
        subresource: str = "",
        force: bool = True,
    ) -> bytes:
        """Server-side apply. ``force``: take over fields that another manager has; else that is a ``conflict``.

        ``metadata.uid`` and ``metadata.resourceVersion`` in ``value`` fence it: an object that is gone is not made
        again, one that has changed is not written. A field that the installed CRD lacks answers 500.
        """
        query = {"fieldManager": manager, "force": str(force).lower()}
        path = resource.path(namespace, name, subresource)
        return self.request("PATCH", path, query, _whole(resource, value), content=APPLY).data

    def merge(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        value: Mapping[str, Any],
        manager: str,
        *,
        subresource: str = "",
    ) -> bytes:
        """A merge patch (RFC 7386)."""
        path = resource.path(namespace, name, subresource)
        content = "application/merge-patch+json"
        return self.request("PATCH", path, {"fieldManager": manager}, dict(value), content=content).data

    def replace(self, resource: Resource, namespace: str, name: str, value: Mapping[str, Any], manager: str) -> bytes:
        """The whole object; ``metadata.resourceVersion`` fences it."""
        path = resource.path(namespace, name)
        return self.request("PUT", path, {"fieldManager": manager}, _whole(resource, value)).data

    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str = "", resource_version: str = ""
    ) -> bytes:
        """Only the object with this ``uid`` and ``resource_version``, where given; ApiError ``conflict`` otherwise."""
        fences = {"uid": uid, "resourceVersion": resource_version}
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {key: value for key, value in fences.items() if value},
        }
        return self.request("DELETE", resource.path(namespace, name), body=options).data


def _whole(resource: Resource, value: Mapping[str, Any]) -> dict[str, Any]:
    return {"apiVersion": resource.api_version, "kind": resource.kind, **value}


def _page(data: bytes, what: str) -> _List:
    try:
        return _PAGES.decode(data)
    except ValueError as error:
        raise ApiError(0, "Unreadable", f"{what}: the answer is not a list: {error}") from error
