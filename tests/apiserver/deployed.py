"""What deploy/ makes on an API server, and how to ask there as one of those who get rights by it."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from ipvs_kube.api import Api, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import PODS, Resource
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_operator.main import AGENT_PODS

DEPLOY = Path(__file__).parents[2] / "deploy"
SYSTEM = "ipvs-system"
OPERATOR, AGENT = "ipvs-operator", "ipvs-agent"
"""Service accounts."""
SECRETS = Resource("", "v1", "secrets", "Secret", True)
AGENT_LABELS = dict(label.split("=") for label in AGENT_PODS.split(","))

SERVICE = {
    "directorGroup": "default",
    "ports": [{"name": "http", "port": 80}],
    "backends": {"service": {"name": "web"}},
}
CLAIM = {"address": "192.0.2.10", "directorGroup": "default", "namespace": "shop", "owners": [{"name": "web"}]}
GROUP = {"addresses": ["192.0.2.0/28"], "announcement": {"static": {}}}
PLAN = {
    "virtualService": {"namespace": "shop", "name": "web"},
    "directorGroup": "default",
    "addresses": [{"address": "192.0.2.10"}],
    "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
    "forwarding": "NAT",
    "scheduler": "wlc",
    "directors": [],
    "backends": [],
}


@contextmanager
def deployment(plane: ControlPlane, *nodes: str) -> Iterator[ControlPlane]:
    """`kubectl apply -f deploy/`, and the pod of an agent, `agent-NODE`, on each of ``nodes``."""
    plane.kubectl("apply", f"--filename={DEPLOY}")
    aggregate(plane)
    api = connect(plane.kubeconfig())
    for node in nodes:
        spec = {
            "nodeName": node,
            "serviceAccountName": AGENT,
            "containers": [{"name": "agent", "image": "agent"}],
        }
        pod = {"metadata": {"name": f"agent-{node}", "labels": AGENT_LABELS}, "spec": spec}
        api.create(PODS, SYSTEM, pod, "tests")
    api.close()
    try:
        yield plane
    finally:
        plane.remove_namespace(SYSTEM)
        plane.kubectl("delete", "--wait=false", "--ignore-not-found", f"--filename={DEPLOY}")


def aggregate(plane: ControlPlane) -> None:
    """Put the roles view, edit and admin together of all that is meant for them, as the controller manager would."""
    for role in ("view", "edit", "admin"):
        label = f"rbac.authorization.k8s.io/aggregate-to-{role}=true"
        parts = json.loads(plane.kubectl("get", "clusterroles", f"--selector={label}", "--output=json").stdout)
        rules = [rule for part in parts["items"] for rule in part["rules"] or []]
        plane.kubectl("patch", "clusterrole", role, "--type=merge", f"--patch={json.dumps({'rules': rules})}")


def with_token(plane: ControlPlane, account: str, pod: str = "") -> Api:
    """As a service account of the operator's namespace. ``pod``: with a token that was made for it."""
    token = plane.service_account_token(SYSTEM, account, pod)
    return connect(plane.token_kubeconfig(pod or account, token), user_agent=account)


def refused(ask: Callable[[], Any]) -> str:
    """Why the API server does not let us; empty: it does."""
    try:
        ask()
    except ApiError as error:
        if error.status != HTTPStatus.FORBIDDEN:
            raise
        return error.message
    return ""


def may_not(ask: Callable[[], Any]) -> str:
    words = refused(ask)
    assert words, "it was done"
    return words


def every(api: Api, resource: Resource, namespace: str = "") -> list[Any]:
    """A list of all objects; without ``namespace`` of all namespaces."""
    return [item for page in api.pages(resource, namespace) for item in page.items]
