"""What nodes report, whether it counts, and whom a new report concerns.

A report counts while its node is there, ready, in the same boot and has a living agent; what is not told by a report
that counts is unknown, never well.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import msgspec

from ipvs_api.core import Node, Pod
from ipvs_api.labels import node_label
from ipvs_api.meta import number_of
from ipvs_api.node import IPVSNode, IPVSNodeSpec, IPVSNodeStatus
from ipvs_planner.index import Key
from ipvs_planner.reasons import Reason
from ipvs_planner.stored import StoredPlans

OUT_OF_SERVICE = "node.kubernetes.io/out-of-service"
"""By this taint an administrator says that a node is shut down for good (Kubernetes 1.28, KEP-2268)."""


class Void(NamedTuple):
    """Why nothing is known of a node, in words that say what to do."""

    reason: Reason
    message: str


class Presence(msgspec.Struct, frozen=True, gc=False):
    """A Node as far as it vouches for its agent's reports. ``ready`` is the Ready condition's status."""

    uid: str = ""
    ready: str = ""
    boot_id: str = ""
    out_of_service: bool = False


def presence_of(node: Node) -> Presence:
    ready = next((each.status for each in node.status.conditions if each.type == "Ready"), "")
    shut_down = any(taint.key == OUT_OF_SERVICE for taint in node.spec.taints)
    return Presence(node.metadata.uid, ready, node.status.node_info.boot_id, shut_down)


class Touched(NamedTuple):
    """``keys`` to reconcile again; ``directors``: the node's addresses or MACs are not what they were."""

    keys: set[Key]
    directors: bool = False


class Reports:
    """Kept up to date with Nodes, IPVSNodes and the agents' pods. ``judges_pods``: those are known at all."""

    def __init__(self, stored: StoredPlans) -> None:
        self._stored = stored
        self.judges_pods = False
        self._presence: dict[str, Presence] = {}
        self._reports: dict[str, IPVSNodeStatus] = {}
        self._nodes: dict[str, tuple[str, IPVSNodeSpec]] = {}
        """UID and spec of the IPVSNodes."""
        self._pods: dict[str, tuple[str, bool]] = {}
        self._living: Counter[str] = Counter()
        """Agent pods that are ready, by node."""
        self._labels: dict[str, str] = {}
        """Node names by their labels."""

    def put_node(self, node: Node) -> set[Key]:
        name = node.metadata.name
        self._labels[node_label(name)] = name
        return self._changed({name}, lambda: self._presence.__setitem__(name, presence_of(node)))

    def remove_node(self, name: str) -> set[Key]:
        """A node that never reported is as if it had not been."""
        if name not in self._reports:
            self._labels.pop(node_label(name), None)
        return self._changed({name}, lambda: self._presence.pop(name, None))

    def put_pod(self, pod: Pod) -> set[Key]:
        """An agent's pod."""
        ready = any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions)
        return self._move(pod.metadata.name, pod.spec.node_name, ready and not pod.metadata.deletion_timestamp)

    def remove_pod(self, name: str) -> set[Key]:
        return self._move(name, "", False)

    def _move(self, name: str, node: str, ready: bool) -> set[Key]:
        before, was_ready = self._pods.get(name, ("", False))
        if (before, was_ready) == (node, ready):
            return set()

        def move() -> None:
            self._living[before] -= was_ready
            self._living[node] += ready
            self._pods.pop(name, None)
            if node:
                self._pods[name] = node, ready

        return self._changed({before, node} - {""}, move)

    def put_report(self, node: IPVSNode) -> Touched:
        name = node.metadata.name
        self._labels.setdefault(node_label(name), name)
        before, void = self._reports.get(name), self.void(name)
        self._reports[name] = node.status
        self._nodes[name] = node.metadata.uid, node.spec
        if before is None or void != self.void(name):
            return Touched(set(self._stored.concerning(node_label(name))), True)
        return self._compared(name, before, node.status)

    def remove_report(self, name: str) -> Touched:
        if self._reports.pop(name, None) is None:
            return Touched(set())
        self._nodes.pop(name, None)
        return Touched(set(self._stored.concerning(node_label(name))), True)

    def _compared(self, name: str, before: IPVSNodeStatus, after: IPVSNodeStatus) -> Touched:
        """Whom the difference of two reports that count concerns."""
        label = node_label(name)
        old, new = number_of(before.observed_resource_version), number_of(after.observed_resource_version)
        if new < old or before.truncated != after.truncated:
            return Touched(set(self._stored.concerning(label)), before.addresses != after.addresses)
        keys = self._stored.passed(label, new)
        keys |= {_key(each) for each in {*_named(before)} ^ {*_named(after)}}
        return Touched(keys, before.addresses != after.addresses)

    def _changed(self, nodes: set[str], change: Callable[[], object]) -> set[Key]:
        """Apply ``change``; everybody concerned by those of ``nodes`` whose reports count now and did not, or the
        reverse."""
        before = {node: (self.void(node), self.forgotten(node)) for node in nodes}
        change()
        flipped = [node for node, was in before.items() if was != (self.void(node), self.forgotten(node))]
        return {key for node in flipped for key in self._stored.concerning(node_label(node))}

    def report(self, node: str) -> IPVSNodeStatus | None:
        """The report, where it counts."""
        return None if self.void(node) is not None else self._reports.get(node)

    def uid(self, node: str) -> str:
        """Of its IPVSNode; empty where there is none."""
        return self._nodes[node][0] if node in self._nodes else ""

    def spec(self, node: str) -> IPVSNodeSpec | None:
        """What its IPVSNode tells it; None: there is none."""
        return self._nodes[node][1] if node in self._nodes else None

    def presence(self, node: str) -> Presence | None:
        """The Node; None: there is none."""
        return self._presence.get(node)

    def nodes(self) -> Iterable[str]:
        """Every Node there is."""
        return self._presence.keys()

    def name_of(self, label: str) -> str | None:
        """The node that a label of plans is for; None: nobody knows one."""
        return self._labels.get(label)

    def forgotten(self, node: str) -> bool:
        """Nobody waits for it: its Node is gone, or an administrator has said that it will not come back."""
        presence = self._presence.get(node)
        return presence is None or presence.out_of_service

    def void(self, node: str) -> Void | None:
        """Why a node's report does not count; None: it does."""
        presence, report = self._presence.get(node), self._reports.get(node)
        if presence is None:
            return Void(Reason.NODE_GONE, f"{node} is gone: there is no such Node.")
        if presence.out_of_service:
            return Void(Reason.NODE_GONE, f"{node} is out of service (taint {OUT_OF_SERVICE}).")
        if presence.ready in ("False", "Unknown"):
            return Void(
                Reason.NODE_NOT_READY,
                f"{node} is not ready: its Ready condition is {presence.ready}. Look at its kubelet and network; if "
                f"it will not come back, delete the Node or taint it {OUT_OF_SERVICE}.",
            )
        if report is None or not report.conditions:
            return Void(Reason.NOT_REPORTED, f"{node} has never reported; is the agent running there?")
        if presence.boot_id and report.boot_id and presence.boot_id != report.boot_id:
            return Void(Reason.NODE_REBOOTED, f"{node} has booted anew and not reported since.")
        if self.judges_pods and not self._living[node]:
            return Void(
                Reason.AGENT_NOT_READY, f"{node} has no agent pod that is ready; look at the agent's pod there."
            )
        return None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Reports):
            return False
        return (self._presence, self._reports, self._pods) == (other._presence, other._reports, other._pods)

    __hash__ = None  # type: ignore[assignment]  # compared as a value, never a key


def _named(report: IPVSNodeStatus) -> Iterator[msgspec.Struct]:
    yield from report.failures
    yield from report.draining
    yield from report.leaving
    yield from report.unhealthy


def _key(named: msgspec.Struct) -> Key:
    return Key(named.namespace, named.name)  # type: ignore[attr-defined]


def names(report: IPVSNodeStatus, key: Key) -> bool:
    """A report says that its node still has something of ``key`` that no plan wants; or may have, as it is cut off."""
    if any(_key(each) == key for each in report.leaving):
        return True
    return report.counts.leaving > len(report.leaving)


def drains(report: IPVSNodeStatus, key: Key, addresses: Iterable[str]) -> bool:
    """Connections to one of ``addresses`` go on there; or may, as the report is cut off."""
    wanted = set(addresses)
    if any(_key(each) == key and each.address in wanted for each in report.draining):
        return True
    return report.counts.draining > len(report.draining)
