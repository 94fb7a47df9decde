"""``helm test``: a virtual service of each DirectorGroup, for this pod; a request through its address; and whether the
directors' IPVS counted it.

It is NAT, whose requests pass the director wherever they come from: with DR and TUN a node that serves answers its own
pods itself. What is made for it belongs to this pod, so that it goes with the pod if we cannot take it away.
"""

import argparse
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import msgspec

from ipvs_api.directorgroup import DirectorGroup
from ipvs_api.virtualservice import VirtualService
from ipvs_kube.api import Api, KubeConfigError, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.execute import execute
from ipvs_kube.resources import DIRECTOR_GROUPS, PODS, SERVICES, VIRTUAL_SERVICES

MANAGER = "ipvs-operator-test"
PORT = 8080
WORDS = b"ipvs-operator test\n"
CONNECT_SECONDS = 5.0
COUNTED_SECONDS = 10.0
"""The kernel publishes its counters every two seconds (``ip_vs_est.c``)."""
PERIOD = 0.5

NO_GROUP = """there is no DirectorGroup yet, so no address to test. Label the directors and apply one, with
free addresses of your network:

  kubectl label node NAME ipvs.dev/director=true
  kubectl apply -f examples/kubernetes/group.yaml
"""


class TrialError(Exception):
    """Says what does not work, and where."""


class Trial(NamedTuple):
    """Where, for whom, and for how long at the most."""

    api: Api
    namespace: str
    pod: dict[str, str]
    labels: dict[str, str]
    agent_pods: str
    seconds: float
    tell: Callable[[str], object]


def run(trial: Trial) -> int:
    """Exit status: 0 every group's address was answered; 1 one was not, or there is no group."""
    groups = [
        msgspec.json.decode(item, type=DirectorGroup)
        for page in trial.api.pages(DIRECTOR_GROUPS)
        for item in page.items
    ]
    if not groups:
        trial.tell(NO_GROUP)
        return 1
    failed = 0
    with answering(), made(trial, SERVICES, service(trial)):
        for group in groups:
            try:
                try_group(trial, group)
            except TrialError as error:
                trial.tell(f"DirectorGroup {group.metadata.name}: FAILED: {error}")
                failed += 1
    return 1 if failed else 0


def try_group(trial: Trial, group: DirectorGroup) -> None:
    """TrialError where it does not work."""
    name = group.metadata.name
    with made(trial, VIRTUAL_SERVICES, virtual_service(trial, name)) as created:
        ready = await_ready(trial, created)
        address = ready.status.addresses[0]
        directors = [address.director] if address.director else list(group.status.directors)
        pods = agents(trial, directors)
        before = scheduled(trial, pods, address.address)
        where = f"{address.address}:{PORT}"
        try:
            answer = ask(address.address)
        except OSError as error:
            raise TrialError(
                f"{where} does not answer a pod of {trial.pod['node']}: {error}. Directors: {', '.join(directors)}"
            ) from error
        if answer != WORDS:
            raise TrialError(f"somebody else answers on {where}: {answer!r}")
        after = await_more(trial, pods, address.address, before)
        trial.tell(
            f"DirectorGroup {name}: {where} answered a pod of {trial.pod['node']}; {', '.join(directors)} scheduled "
            f"{after - before} connections"
        )


def service(trial: Trial) -> dict[str, Any]:
    """Of this pod."""
    ports = [{"name": "test", "port": PORT, "targetPort": PORT}]
    return {"metadata": metadata(trial, "ipvs-test"), "spec": {"selector": trial.labels, "ports": ports}}


def virtual_service(trial: Trial, group: str) -> dict[str, Any]:
    """With an address that the group gives."""
    spec = {
        "directorGroup": group,
        "forwarding": "NAT",
        "ports": [{"name": "test", "port": PORT}],
        "backends": {"service": {"name": "ipvs-test"}},
        "drain": {"timeoutSeconds": 1},
    }
    return {"metadata": metadata(trial, f"ipvs-test-{group}"), "spec": spec}


def metadata(trial: Trial, name: str) -> dict[str, Any]:
    owner = {"apiVersion": "v1", "kind": "Pod", "name": trial.pod["name"], "uid": trial.pod["uid"]}
    return {"name": name, "namespace": trial.namespace, "ownerReferences": [owner]}


@contextmanager
def made(trial: Trial, resource: Any, value: dict[str, Any]) -> Iterator[bytes]:
    """An object for as long as the block takes. One that an earlier test left is taken over."""
    name = value["metadata"]["name"]
    try:
        yield trial.api.apply(resource, trial.namespace, name, value, MANAGER)
    finally:
        trial.api.delete(resource, trial.namespace, name)


@contextmanager
def answering() -> Iterator[None]:
    """This pod answers on PORT, in both families."""
    listening = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)

    def serve() -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return  # closed
            with connection:
                connection.sendall(WORDS)

    with listening:
        threading.Thread(target=serve, daemon=True).start()
        yield


def ask(address: str) -> bytes:
    """What is answered there; OSError where nothing is."""
    with socket.create_connection((address, PORT), CONNECT_SECONDS) as connection:
        return connection.makefile("rb").readline()


def await_ready(trial: Trial, created: bytes) -> VirtualService:
    """The virtual service once the nodes report it; TrialError with the operator's words where that takes too long."""
    end = time.monotonic() + trial.seconds
    found = msgspec.json.decode(created, type=VirtualService)
    while True:
        conditions = {one.type: one for one in found.status.conditions}
        current = found.status.observed_generation == found.metadata.generation
        ready = conditions.get("Ready")
        if current and ready is not None and ready.status == "True" and found.status.addresses:
            return found
        stalled = current and "Stalled" in conditions and conditions["Stalled"].status == "True"
        if stalled or time.monotonic() > end:
            words = [f"{one.type}={one.status} {one.reason}: {one.message}" for one in found.status.conditions]
            why = "is refused" if stalled else f"is not Ready after {trial.seconds:g} s"
            raise TrialError("\n  ".join([f"the virtual service {found.metadata.name} {why}", *words]))
        time.sleep(PERIOD)
        data = trial.api.get(VIRTUAL_SERVICES, trial.namespace, found.metadata.name)
        found = msgspec.json.decode(data, type=VirtualService)


def agents(trial: Trial, directors: list[str]) -> list[str]:
    """The agents' pods on these nodes; TrialError where one has none."""
    pods = [
        msgspec.json.decode(item)
        for page in trial.api.pages(PODS, trial.namespace, label_selector=trial.agent_pods)
        for item in page.items
    ]
    found = {pod["spec"].get("nodeName", ""): pod["metadata"]["name"] for pod in pods}
    if lacking := [node for node in directors if node not in found]:
        raise TrialError(f"no agent runs on {', '.join(lacking)}")
    return [found[node] for node in directors]


def scheduled(trial: Trial, pods: list[str], address: str) -> int:
    """Connections to the address that the kernels of these agents have scheduled. TrialError."""
    total = 0
    for pod in pods:
        done = execute(trial.api, trial.namespace, pod, "agent", ["ipvs-agent", "status", "--output", "ipvs"])
        if done.status:
            raise TrialError(f"{pod} does not tell its counters: {done.errors.strip()}")
        total += sum(
            server["scheduled"]
            for each in msgspec.json.decode(done.output)
            if each["address"] == address and each["port"] == PORT
            for server in each["servers"]
        )
    return total


def await_more(trial: Trial, pods: list[str], address: str, before: int) -> int:
    """The count once it has moved; TrialError where it does not."""
    end = time.monotonic() + COUNTED_SECONDS
    while (now := scheduled(trial, pods, address)) <= before:
        if time.monotonic() > end:
            raise TrialError(f"{address} answered, but IPVS of its directors counted no connection ({', '.join(pods)})")
        time.sleep(PERIOD)
    return now


def main(options: argparse.Namespace, namespace: str) -> int:
    """``ipvs-operator test``."""

    def tell(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    pod = {key: os.environ.get(f"POD_{key.upper()}", "") for key in ("name", "uid", "node")}
    labels = dict(label.split("=", 1) for label in options.own_labels.split(","))
    try:
        api = connect(options.kubeconfig, options.context)
        return run(Trial(api, namespace, pod, labels, options.agent_pods, options.timeout, tell))
    except (ApiError, KubeConfigError) as error:
        sys.stderr.write(f"ipvs-operator test: {error}\n")
        return 1
