"""An API server as a source of plans: what the operator wrote for this node, and this node's report back to it.

What is in force stays whenever something cannot be known: while the API server is away, while the definition of plans
is not there, while a plan cannot be read. Only a list without a plan, or a deletion, takes it away.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Generic, NamedTuple, TypeVar

import msgspec

from ipvs_agent.ledger import Owner
from ipvs_agent.publish import Publisher
from ipvs_agent.sources.gathered import Gathered, Slice, decode_slice, number_of
from ipvs_agent.sources.source import Judgement, Update
from ipvs_api.labels import node_label
from ipvs_api.meta import ObjectMeta
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus
from ipvs_api.plan import VirtualServicePlanSpec
from ipvs_kube.api import Api
from ipvs_kube.changes import Reader
from ipvs_kube.reflector import Absent, Bookmark, Change, Gone, HasMeta, Put, Reflector, Replaced, Trouble
from ipvs_kube.resources import IPVS_NODES, PLANS, Resource

SETTLE, LONGEST = 0.1, 1.0
"""Seconds without a change, and from the first one, after which a plan of several slices is taken as it is: they are
written one after the other, and a real server may be in none of them in between."""


class Node(NamedTuple):
    """An IPVSNode. ``spec`` None: it cannot be read, ``problem`` says why."""

    metadata: ObjectMeta
    spec: IPVSNodeSpec | None
    status: IPVSNodeStatus
    problem: str = ""


class _Meta(msgspec.Struct):
    metadata: ObjectMeta


class _Spec(msgspec.Struct):
    spec: IPVSNodeSpec = IPVSNodeSpec()


class _Status(msgspec.Struct):
    status: IPVSNodeStatus = IPVSNodeStatus()


def decode_node(item: bytes | msgspec.Raw) -> Node:
    """An IPVSNode from JSON, each part as far as it can be read."""
    metadata = msgspec.json.decode(item, type=_Meta).metadata
    try:
        status = msgspec.json.decode(item, type=_Status).status
    except msgspec.ValidationError:
        status = IPVSNodeStatus()  # whoever wrote it, it is not what this agent says
    try:
        return Node(metadata, msgspec.json.decode(item, type=_Spec).spec, status)
    except msgspec.ValidationError as error:
        return Node(metadata, None, status, f"IPVSNode {metadata.name}: {error}; upgrade the agent on this node")


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
        self._earlier = set(stored)
        """Whose plans are in force since before this process, and not heard of yet."""
        self._gathered = Gathered()
        self._touched: dict[Owner, tuple[float, float]] = {}
        """Whose plans have changed, first and last (seconds)."""
        self._version = self._given = ""
        self._unreadable: dict[Owner, str] = {}
        self._reported: IPVSNodeStatus | None = None
        self._heard = False
        """What was reported before this process has been read."""
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
        plans = self._api.pages(PLANS, self._namespace, label_selector=node_label(self._node))
        self._plans.told([Reader(decode_slice, f"listing {PLANS}").whole(plans)])
        nodes = self._api.pages(IPVS_NODES, field_selector=f"metadata.name={self._node}")
        self._nodes.told([Reader(decode_node, f"listing {IPVS_NODES}").whole(nodes)])

    def renew(self) -> None:
        """A watch misses nothing."""

    def close(self) -> None:
        for reflector in self._reflectors:
            reflector.stop()
        self._publisher.stop()

    def publish(self, status: IPVSNodeStatus, *, settled: bool) -> None:
        """Not before all is known that this node should do."""
        if self._plans.listed and self._nodes.listed:
            self._publisher.put(status, settled=settled)

    def judgements(self) -> Mapping[tuple[str, str], Judgement]:
        """The operator's, and told where VirtualServices are."""
        return {}

    def look(self, now: float) -> Update:
        for change in self._nodes.take():
            self._take_node(change)
        for change in self._plans.take():
            self._take_plans(change, now)
        plans = dict(self._ripe(now))
        if not self._touched:
            self._given = self._version
        reported = None
        if self._plans.listed and self._nodes.listed:
            reported, self._reported = self._reported, None
        return Update(
            plans=plans,
            node=self._spec,
            errors=tuple(self._errors()),
            recheck=SETTLE if self._touched else None,
            reason="NotServed" if self._plans.absent or self._nodes.absent else "Unreadable",
            resource_version=self._given,
            unreadable=dict(self._unreadable),
            known=self._plans.listed and self._nodes.listed,
            reported=self._as_far_as(reported) if reported is not None else None,
        )

    def _as_far_as(self, reported: IPVSNodeStatus) -> IPVSNodeStatus:
        """Without a version that the API server has not come to again since its history was turned back."""
        if number_of(reported.observed_resource_version) <= number_of(self._version):
            return reported
        return msgspec.structs.replace(reported, observed_resource_version="")

    def _errors(self) -> Iterable[str]:
        for watched in (self._plans, self._nodes):
            if watched.absent:
                yield (
                    f"the API server does not serve {watched.resource}: apply the CustomResourceDefinitions (crds/); "
                    "what is programmed stays"
                )
        if self._spec_problem:
            yield self._spec_problem
        for owner, words in sorted(self._unreadable.items()):
            yield f"VirtualServicePlan of {owner or 'nobody known'}: {words}; what was in force stays"

    # the node itself

    def _take_node(self, change: Change) -> None:
        if isinstance(change, Replaced):
            node = next(iter(change.objects), None)
            status = node.status if node is not None else None
            listed = number_of(change.resource_version)
            if not self._heard:
                self._heard, self._reported = True, status
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

    # plans

    def _take_plans(self, change: Change, now: float) -> None:
        if isinstance(change, Replaced):
            self._replace(change, now)
        elif isinstance(change, Put):
            self._touch(self._gathered.put(change.object), now)
            self._version = change.resource_version
        elif isinstance(change, Gone):
            self._touch(self._gathered.remove(change.name), now)
            self._version = change.resource_version

    def _replace(self, change: Replaced[Slice], now: float) -> None:
        """All there is. The version moves only as far as something in it is new, so that a list alone is no news."""
        newest = max((number_of(each.metadata.resource_version) for each in change.objects), default=-1)
        gone = self._gathered.retain(each.metadata.name for each in change.objects)
        for each in change.objects:
            self._touch(self._gathered.put(each), now)
        gone |= {owner for owner in self._earlier if owner not in self._gathered}
        self._earlier = set()
        for owner in gone:
            self._touch(owner, now)
        known, listed = number_of(self._version), number_of(change.resource_version)
        if gone or max(known, newest) < 0 or listed < known:
            self._version = change.resource_version
        elif newest > known:
            self._version = str(newest)

    def _touch(self, owner: Owner | None, now: float) -> None:
        if owner is not None:
            first, _ = self._touched.get(owner, (now, now))
            self._touched[owner] = first, now

    def _ripe(self, now: float) -> Iterable[tuple[Owner, VirtualServicePlanSpec | None]]:
        """Plans to be given now, and what cannot be read."""
        for owner, (first, last) in list(self._touched.items()):
            if self._gathered.is_cut(owner) and now - last < SETTLE and now - first < LONGEST:
                continue
            self._unreadable.pop(owner, None)
            if owner in self._gathered:
                problem = self._gathered.problem(owner)
                plan = None if problem else self._gathered.plan(owner)
                if problem:
                    self._unreadable[owner] = problem
                if plan is None:
                    if problem or now - first >= LONGEST:
                        del self._touched[owner]
                    continue
                yield owner, plan
            else:
                yield owner, None
            del self._touched[owner]
