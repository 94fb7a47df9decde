"""Requests to the API server: configuration and credentials from the ``kubernetes`` package, bodies as bytes.

Every call is synchronous, may come from any thread and raises ``ApiError`` for whatever is no success.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import msgspec
import urllib3
from kubernetes import config
from kubernetes.client import ApiClient, Configuration

from ipvs_kube.errors import ApiError, error_of
from ipvs_kube.resources import Resource

CONNECT_SECONDS, ANSWER_SECONDS = 3.0, 30.0
PAGE = 500
"""Objects of one page of a list."""
CONNECTIONS = 40

APPLY = "application/apply-patch+yaml"  # JSON is YAML
METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"


class KubeConfigError(Exception):
    """There is no usable configuration; the text says where it was looked for."""


class _ListMeta(msgspec.Struct, rename="camel"):
    resource_version: str = ""
    continue_: str = msgspec.field(name="continue", default="")


class _List(msgspec.Struct):
    metadata: _ListMeta = msgspec.field(default_factory=_ListMeta)
    items: list[msgspec.Raw] | None = None


class Page(NamedTuple):
    """Part of a list: objects in JSON; all pages have the same ``resource_version``."""

    items: list[msgspec.Raw]
    resource_version: str


_PAGES = msgspec.json.Decoder(_List)


def connect(kubeconfig: Path | None = None, context: str = "", *, user_agent: str = "ipvs-operator") -> "Api":
    """The API server of a kubeconfig file, or of the cluster that this runs in, or of the user's own kubeconfig.

    KubeConfigError where there is none.
    """
    made = Configuration()
    try:
        if kubeconfig is None and not context:
            try:
                config.load_incluster_config(client_configuration=made)
            except config.ConfigException:
                config.load_kube_config(client_configuration=made)
        else:
            file = str(kubeconfig) if kubeconfig is not None else None
            config.load_kube_config(file, context or None, client_configuration=made)
    except (config.ConfigException, OSError) as error:
        where = f"kubeconfig {kubeconfig}" if kubeconfig is not None else "service account or kubeconfig"
        raise KubeConfigError(f"no API server is configured: {where}: {error}") from error
    made.connection_pool_maxsize = CONNECTIONS
    return Api(made, user_agent)


class Api:
    """One API server, as one user."""

    def __init__(self, configuration: Configuration, user_agent: str) -> None:
        self._configuration = configuration
        self._client = ApiClient(configuration)
        self._pool: urllib3.PoolManager = self._client.rest_client.pool_manager
        self.user_agent = user_agent

    @property
    def server(self) -> str:
        return str(self._configuration.host)

    def close(self) -> None:
        self._pool.clear()

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
        """The answer, whole, or with ``stream`` its beginning. ``timeout``: seconds to connect and between two bytes."""
        headers = {"Accept": accept, "User-Agent": self.user_agent}
        token = self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        if token:
            headers["Authorization"] = token
        if body is not None:
            headers["Content-Type"] = content
            body = body if isinstance(body, bytes) else msgspec.json.encode(body)
        url = f"{self.server}{path}" + (f"?{urlencode(query)}" if query else "")
        what = f"{method} {path}"
        try:
            response = self._pool.request(
                method,
                url,
                headers=headers,
                body=body,
                timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
                retries=False,
                redirect=False,
                preload_content=not stream,
            )
            if response.status < 300:
                return response
            told = response.data
            if stream:
                response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
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
            try:
                page = _PAGES.decode(answer.data)
            except (msgspec.DecodeError, msgspec.ValidationError) as error:
                raise ApiError(0, "Unreadable", f"GET {resource.path(namespace)}: not a list: {error}") from error
            yield Page(page.items or [], page.metadata.resource_version)
            if not page.metadata.continue_:
                return
            query["continue"] = page.metadata.continue_

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
    ) -> bytes:
        """Server-side apply, taking over fields that another manager has.

        ``metadata.uid`` and ``metadata.resourceVersion`` in ``value`` fence it: an object that is gone is not made
        again, one that has changed is not written. A field that the installed CRD lacks answers 500.
        """
        query = {"fieldManager": manager, "force": "true"}
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
