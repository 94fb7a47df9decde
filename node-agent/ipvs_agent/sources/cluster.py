"""An API server as a source of plans: what the operator wrote for this node, and this node's report back to it.

What is in force stays whenever something cannot be known: while the API server is away, while the definition of plans
is not there, while a plan cannot be read. Only a list without a plan, or a deletion, takes it away.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Generic, TypeVar

import msgspec

from ipvs_agent.ledger import Owner
from ipvs_agent.publish import MANAGER, Publisher
from ipvs_agent.sources.arriving import SETTLE, Arriving
from ipvs_agent.sources.gathered import Slice, decode_slice
from ipvs_agent.sources.node_object import Node, decode_node
from ipvs_agent.sources.source import Judgement, Update
from ipvs_api.labels import node_label
from ipvs_api.meta import number_of
from ipvs_api.node import IPVSNode, IPVSNodeSpec, IPVSNodeStatus
from ipvs_kube.api import Api, Page
from ipvs_kube.changes import Reader
from ipvs_kube.errors import ApiError
from ipvs_kube.reflector import Absent, Bookmark, Change, Gone, HasMeta, Put, Reflector, Replaced, Trouble
from ipvs_kube.resources import IPVS_NODES, PLANS, Resource

T = TypeVar("T", bound=HasMeta)


class _Watched(Generic[T]):
    """One resource: its changes as they came, and whether more can come."""

    def __init__(self, resource: Resource) -> None:
        self.resource = resource
        self.listed = False
        self.absent = False
        self.trouble: tuple[str, str] | None = None
        """Since when (RFC 3339), and why."""
        self._lock = threading.Lock()
        self._inbox: list[Change] = []

    def told(self, changes: list[Change]) -> None:
        """From the reflector's thread."""
        with self._lock:
            self._inbox += changes

    def take(self) -> list[Change]:
        with self._lock:
            changes, self._inbox = self._inbox, []
        for change in changes:
            if isinstance(change, Trouble):
                self.trouble = self.trouble or (_wall_clock(), change.words)
            else:
                self.trouble = None
                self.absent = isinstance(change, Absent) or (self.absent and isinstance(change, Bookmark))
                self.listed = self.listed or isinstance(change, Replaced)
        return changes


def _tell_all(watched: _Watched[T], reader: Reader[T], pages: Iterable[Page]) -> None:
    try:
        watched.told([reader.whole(pages)])
    except ApiError as error:
        if not error.not_found:
            raise
        watched.told([Absent()])


def _wall_clock() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class ClusterSource:
    """Plans of one node, as one API server has them.

    ``namespace``: the operator's, where plans live. ``stored`` and ``spec``: what this node was told before; they are
    in force until the API server is heard of.
    """

    condition = "Plans"

    def __init__(self, api: Api, node: str, namespace: str, stored: Iterable[Owner], spec: IPVSNodeSpec) -> None:
        self._api, self._node, self._namespace = api, node, namespace
        self._spec, self._spec_problem = spec, ""
        self._arriving = Arriving(stored)
        self._reported: IPVSNodeStatus | None = None
        """Before this process."""
        self._taken_up = self._known = False
        self._node_version = -1
        self._plans: _Watched[Slice] = _Watched(PLANS)
        self._nodes: _Watched[Node] = _Watched(IPVS_NODES)
        self._publisher = Publisher(api, node)
        self._reflectors: list[Reflector[Slice] | Reflector[Node]] = []

    @property
    def away(self) -> str:
        for watched in (self._plans, self._nodes):
            if watched.trouble is not None:
                since, words = watched.trouble
                return f"No news from the API server since {since} ({words}). What is programmed stays."
        return ""

    def watch(self, wake: Callable[[], None]) -> None:
        def sink(watched: "_Watched[Slice] | _Watched[Node]") -> Callable[[list[Change]], None]:
            def told(changes: list[Change]) -> None:
                watched.told(changes)
                wake()

            return told

        self._reflectors = [
            Reflector(
                self._api,
                PLANS,
                decode_slice,
                sink(self._plans),
                namespace=self._namespace,
                label_selector=node_label(self._node),
            ),
            Reflector(
                self._api, IPVS_NODES, decode_node, sink(self._nodes), field_selector=f"metadata.name={self._node}"
            ),
        ]
        for reflector in self._reflectors:
            reflector.start()
        self._publisher.start()

    def read(self) -> None:
        """What there is now, for one look, instead of ``watch``. ApiError where it cannot be read."""
        self._arriving.settle = 0.0  # no more comes
        plans = self._api.pages(PLANS, self._namespace, label_selector=node_label(self._node))
        _tell_all(self._plans, Reader(decode_slice, f"listing {PLANS}"), plans)
        nodes = self._api.pages(IPVS_NODES, field_selector=f"metadata.name={self._node}")
        _tell_all(self._nodes, Reader(decode_node, f"listing {IPVS_NODES}"), nodes)

    def renew(self) -> None:
        """A watch misses nothing."""

    def close(self) -> None:
        for reflector in self._reflectors:
            reflector.stop()
        self._publisher.stop()

    def publish(self, status: IPVSNodeStatus, *, settled: bool) -> None:
        """Not before all is known that this node should do."""
        if self._known:
            self._publisher.put(status, settled=settled)

    def tell(self, change: Callable[[IPVSNodeStatus], IPVSNodeStatus]) -> None:
        """Write a report made of the one that is stored, now and once. ApiError."""
        stored = IPVSNodeStatus()
        for page in self._api.pages(IPVS_NODES, field_selector=f"metadata.name={self._node}"):  # an agent may not get
            for item in page.items:
                stored = msgspec.json.decode(item, type=IPVSNode).status
        value = {"metadata": {"name": self._node}, "status": msgspec.to_builtins(change(stored))}
        self._api.apply(IPVS_NODES, "", self._node, value, MANAGER, subresource="status")

    def judgements(self) -> Mapping[tuple[str, str], Judgement]:
        """The operator's, and told where VirtualServices are."""
        return {}

    def look(self, now: float) -> Update:
        for change in self._nodes.take():
            self._take_node(change)
        for change in self._plans.take():
            self._arriving.take(change, now)
        plans = dict(self._arriving.ripe(now))
        reported = None
        if not self._taken_up and self._plans.listed and self._nodes.listed:
            self._taken_up, reported = True, self._take_up()
        version = self._arriving.given if self._taken_up else ""
        self._known = self._known or bool(version)
        return Update(
            plans=plans,
            node=self._spec,
            errors=tuple(self._errors()),
            recheck=SETTLE if self._arriving.waiting else None,
            reason="NotServed" if self._plans.absent or self._nodes.absent else "Unreadable",
            resource_version=version,
            unreadable=dict(self._arriving.unreadable),
            known=self._known,
            reported=reported,
        )

    def _take_up(self) -> IPVSNodeStatus | None:
        """What the agent before this process reported; without a version that history does not reach any more."""
        reported = self._reported
        reaches = self._arriving.go_on_from(reported.observed_resource_version if reported is not None else "")
        if reported is None or reaches:
            return reported
        return msgspec.structs.replace(reported, observed_resource_version="")

    def _errors(self) -> Iterator[str]:
        for watched in (self._plans, self._nodes):
            if watched.absent:
                yield (
                    f"the API server does not serve {watched.resource}: apply the CustomResourceDefinitions (crds/); "
                    "what is programmed stays"
                )
        if self._spec_problem:
            yield self._spec_problem
        for owner, words in sorted(self._arriving.unreadable.items()):
            whose = f" of {owner}" if owner else ""
            yield f"VirtualServicePlan{whose}: {words}; what was in force stays"

    def _take_node(self, change: Change) -> None:
        if isinstance(change, Replaced):
            node = next(iter(change.objects), None)
            status = node.status if node is not None else None
            listed = number_of(change.resource_version)
            if not self._taken_up:
                self._reported = status
            self._take_spec(node)
            self._publisher.seen(listed, status, turned_back=listed < self._node_version)
            self._node_version = listed
        elif isinstance(change, Put):
            self._take_spec(change.object)
            self._node_version = number_of(change.resource_version)
            self._publisher.seen(self._node_version, change.object.status)
        elif isinstance(change, Gone):
            self._node_version = number_of(change.resource_version)
            self._publisher.seen(self._node_version, None)

    def _take_spec(self, node: Node | None) -> None:
        """One that is gone is made again by the operator; until then the node is told what it was told."""
        self._spec_problem = node.problem if node is not None else ""
        if node is not None and node.spec is not None:
            self._spec = node.spec
