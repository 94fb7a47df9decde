"""Before an uninstall: the agents' pods stop working and release their nodes instead, and somebody waits for that.

The DaemonSet itself carries it out: its template gets ``ipvs-agent release`` as the one container to succeed first. So
it reaches every node with an agent, runs with the agent's own rights, after the agent has ended, and is tried again
where it fails. Nothing of it happens on a mere rollout.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec

from ipvs_kube.api import Api, KubeConfigError, connect
from ipvs_kube.errors import ApiError
from ipvs_kube.resources import PODS, Resource

DAEMON_SETS = Resource("apps", "v1", "daemonsets", "DaemonSet", True)
AGENT = "agent"
"""The container's name in the DaemonSet."""

REST = "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); signal.sigwait({signal.SIGTERM})"
"""For Python: do nothing until it is asked to end. A pod is ready only with a container that goes on."""

MANAGER = "ipvs-operator-uninstall"
PERIOD = 1.0
"""Seconds between two looks at the DaemonSet."""


def releasing(daemon_set: dict[str, Any]) -> dict[str, Any]:
    """The merge patch that makes agents' pods release their nodes, all at once. ValueError: it is not the agents'."""
    pod = daemon_set["spec"]["template"]["spec"]
    found = next((one for one in pod["containers"] if one["name"] == AGENT), None)
    if found is None:
        raise ValueError(f"the DaemonSet has no container named {AGENT}")
    kept = {key: value for key, value in found.items() if not key.endswith("Probe") and key not in ("command", "args")}
    spec = {
        "initContainers": [kept | {"name": "release", "args": ["release"]}],
        "containers": [kept | {"command": ["python3", "-c", REST]}],
    }
    rollout = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "100%", "maxSurge": 0}}
    return {"spec": {"updateStrategy": rollout, "template": {"spec": spec}}}


def left(daemon_set: dict[str, Any]) -> int | None:
    """On how many nodes, at most, the release is not over; None while nobody has looked at the new template yet."""
    status = daemon_set.get("status", {})
    if status.get("observedGeneration", 0) < daemon_set["metadata"]["generation"]:
        return None
    wanted, made, ready = (
        int(status.get(name, 0)) for name in ("desiredNumberScheduled", "updatedNumberScheduled", "numberReady")
    )
    return min(wanted, 2 * wanted - made - ready)  # some that are ready may be old


def release_agents(
    api: Api, namespace: str, name: str, agent_pods: str, seconds: float, tell: Callable[[str], object]
) -> int:
    """Have every agent release its node. Exit status: 0 done, or there are no agents; 1 not within ``seconds``."""
    end = time.monotonic() + seconds
    try:
        found = msgspec.json.decode(api.get(DAEMON_SETS, namespace, name))
    except ApiError as error:
        if not error.not_found:
            raise
        tell(f"there is no DaemonSet {namespace}/{name}: nothing to release")
        return 0
    found = msgspec.json.decode(api.merge(DAEMON_SETS, namespace, name, releasing(found), MANAGER))
    told: int | None = None
    while (count := left(found)) != 0:
        if count is not None and count != told:
            told = count
            tell(f"{count} nodes are not released yet")
        if time.monotonic() > end:
            nodes = ", ".join(_unfinished(api, namespace, agent_pods)) or "no pod was made for it"
            tell(
                f"not every node was released within {seconds:g} s: {nodes}. Where a node is gone for good, or kernels "
                "may stay as they are, uninstall without hooks (helm uninstall --no-hooks)"
            )
            return 1
        time.sleep(PERIOD)
        try:
            found = msgspec.json.decode(api.get(DAEMON_SETS, namespace, name))
        except ApiError as error:
            if not error.unreachable:
                raise
    tell("every node is released")
    return 0


def _unfinished(api: Api, namespace: str, agent_pods: str) -> list[str]:
    """Nodes whose agent's pod is not ready."""
    pods = [
        msgspec.json.decode(item)
        for page in api.pages(PODS, namespace, label_selector=agent_pods)
        for item in page.items
    ]
    return sorted(
        pod["spec"].get("nodeName", "?")
        for pod in pods
        if not any(
            one["type"] == "Ready" and one["status"] == "True" for one in pod.get("status", {}).get("conditions", ())
        )
    )


def main(options: argparse.Namespace, namespace: str) -> int:
    """``ipvs-operator release-agents``."""

    def tell(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    try:
        api = connect(options.kubeconfig, options.context)
        return release_agents(api, namespace, options.daemonset, options.agent_pods, options.timeout, tell)
    except (ApiError, KubeConfigError, ValueError) as error:
        sys.stderr.write(f"ipvs-operator release-agents: {error}\n")
        return 1
