"""What a user does first, in a cluster that is there: the chart from this checkout, the example of the documentation,
and a client's answers through the virtual address. The same for a lab cluster and for kind."""

import json
import os
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Protocol

from ipvs_lab.cluster.images import WEB
from ipvs_lab.images import CHECKOUT
from ipvs_lab.machine import LabError
from ipvs_lab.net.clients import Answer, Histogram
from ipvs_lab.progress import run_with_progress, step

NAMESPACE, RELEASE = "ipvs-system", "ipvs"
CHART = CHECKOUT / "charts" / "ipvs-operator"
EXAMPLE = CHECKOUT / "examples" / "kubernetes"
NETWORK, IMAGE = IPv4Network("192.0.2.0/28"), "nginxinc/nginx-unprivileged:1.29"
"""As they stand in the example."""
REQUESTS = 60
INSTALL_SECONDS, READY_SECONDS = 240, 180
HEALTHY = "jsonpath={.status.summary.healthy}=6/6"


class Place(Protocol):
    """A cluster in which the example runs. ``addresses``: 16 that are free in its network. ``values``: of the chart,
    that it needs, for Helm's `--set`."""

    addresses: IPv4Network
    values: tuple[str, ...]
    kubeconfig: Path

    def kubectl(self, *arguments: str, stdin: str = "", check: bool = True) -> "subprocess.CompletedProcess[str]":
        """As administrator. LabError where it fails, with ``check``."""

    def helm(self) -> Path:
        """The program."""

    def load_images(self) -> dict[str, str]:
        """Put what the example needs onto all nodes; what they call those of `operator` and `agent`."""

    def ask(self, *argv: str) -> str:
        """What a command writes that runs as a client, beside the cluster; it may fail."""


def show(place: Place, tell: Callable[[str], object] = print) -> str:
    """All of it, again where it is there already; the VIP. LabError where a step fails or no answer comes."""
    install(place)
    vip = start(place)
    tell(f"\n{place.kubectl('get', 'ivs', 'web').stdout}")
    answers = ask(place, vip)
    tell(f"\n{REQUESTS} requests to http://{vip}/, and who answered:\n\n{answers}")
    if lacking := REQUESTS - answers.answers.total():
        raise LabError(f"{lacking} of {REQUESTS} requests to http://{vip}/ were not answered")
    return vip


def install(place: Place) -> None:
    """The chart, with this checkout's images; an upgrade where it is installed."""
    images = place.load_images()
    place.kubectl("apply", f"--filename={CHECKOUT / 'deploy/00-namespace.yaml'}")
    values = [*(f"--set={setting}" for setting in place.values), *image_values(images)]
    wait = ("--install", "--wait", f"--timeout={INSTALL_SECONDS}s")
    try:
        command, environment = helm_command(place, "upgrade", RELEASE, str(CHART), *wait, *values)
        run_with_progress(command, "installing the chart", env=environment)
    except LabError as error:
        where = f"--namespace={NAMESPACE}"
        told = [place.kubectl("get", what, where, check=False).stdout for what in ("pods", "events")]
        raise LabError("\n".join([str(error), *told])) from error


def image_values(images: dict[str, str]) -> list[str]:
    """Arguments of Helm: the images of `operator` and `agent`."""
    parts = ((part, *image.rpartition(":")[::2]) for part, image in images.items())
    return [f"--set={part}.image.repository={repository},{part}.image.tag={tag}" for part, repository, tag in parts]


def helm_command(place: Place, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """How to run Helm as administrator, in which environment."""
    home = place.kubeconfig.parent / "helm"
    places = {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}
    command = [str(place.helm()), *arguments, f"--namespace={NAMESPACE}", f"--kubeconfig={place.kubeconfig}"]
    return command, os.environ | places | {"NO_PROXY": "*", "no_proxy": "*"}


def start(place: Place) -> str:
    """The first node by name becomes a director; the example is applied, and serves with all its pods on return: at
    this address."""
    nodes = json.loads(place.kubectl("get", "nodes", "--output=json").stdout)["items"]
    director = min(nodes, key=_rank)["metadata"]["name"]
    place.kubectl("label", "node", director, "ipvs.dev/director=true", "--overwrite")
    text, vip = example(place.addresses)
    place.kubectl("apply", "--filename=-", stdin=text)
    with step("waiting for the example's pods"):
        place.kubectl("rollout", "status", "deployment/web", f"--timeout={READY_SECONDS}s")
    with step("waiting for the virtual service"):
        for condition in (HEALTHY, "condition=Ready"):
            wait = ("wait", "ivs/web", f"--for={condition}", f"--timeout={READY_SECONDS}s")
            if place.kubectl(*wait, check=False).returncode:
                told = place.kubectl("describe", "ivs/web", check=False).stdout
                raise LabError(f"the virtual service web has no {condition} after {READY_SECONDS} s:\n{told}")
    return vip


def _rank(node: dict[str, Any]) -> tuple[bool, int, str]:
    """Nodes that take pods come first, node9 before node10."""
    name = node["metadata"]["name"]
    return "node-role.kubernetes.io/control-plane" in node["metadata"].get("labels", {}), len(name), name


def example(addresses: IPv4Network) -> tuple[str, str]:
    """The group and the first virtual service of examples/kubernetes, with these 16 addresses and with an image that
    says who answers; and the VIP."""
    text = "---\n".join((EXAMPLE / name).read_text() for name in ("group.yaml", "web.yaml"))
    written, vip = f"[{NETWORK[10]}]", str(addresses[10])
    for old, new in ((str(NETWORK), str(addresses)), (written, f"[{vip}]"), (IMAGE, WEB)):
        if old not in text:
            raise LabError(f"{EXAMPLE} has no {old} any more")
        text = text.replace(old, new)
    return text, vip


def ask(place: Place, vip: str) -> Histogram:
    """Who answers how often, each request on a connection of its own."""
    with step(f"asking http://{vip}/ {REQUESTS} times"):
        alone = ("--header", "Connection: close")
        told = place.ask("curl", "--silent", "--max-time", "5", *alone, f"http://{vip}/?[1-{REQUESTS}]")
    answers = Histogram()
    for line in told.splitlines():
        server, address = line.split()
        answers.add(Answer(server, address, 0))
    return answers
