"""What is known of the cluster, and what has to be reconciled since it changed. One thread's: the event loop's."""

from collections.abc import Iterable, Iterator, KeysView
from typing import Protocol

from ipvs_api.core import ServiceStatus
from ipvs_api.directorgroup import DirectorGroupStatus
from ipvs_api.meta import ObjectKey, number_of
from ipvs_api.virtualservice import VirtualServiceStatus
from ipvs_operator.items import Item, Work
from ipvs_operator.versions import Versions
from ipvs_planner.index import Key
from ipvs_planner.pool import address_of_name
from ipvs_planner.reconcile import orphaned
from ipvs_planner.reconcile_balancer import balancers
from ipvs_planner.snapshot import Declared, Snapshot


class Mark(Protocol):
    """Told each item that may have to be written. ``bulk``: nobody waits for it in particular."""

    def __call__(self, item: Item, *, bulk: bool = False) -> None: ...


class Store:
    """The planner's snapshot, kept up to date with news that may come twice, late or in any order."""

    def __init__(self, namespace: str, mark: Mark, *, judges_pods: bool) -> None:
        """``namespace``: of the plans. ``judges_pods``: a report counts only while its agent's pod is ready."""
        self.snapshot = Snapshot(plan_namespace=namespace, allocates=True)
        self.snapshot.reports.judges_pods = judges_pods
        self._mark = mark
        self._versions = Versions()

    def put(self, object_: Declared, *, by: Item | None = None) -> None:
        """Take an object in, unless this version of it or a newer one is known, or its deletion after that.

        ``by``: who has just written it, and so has no need to look at it again.
        """
        meta = object_.metadata
        key = ObjectKey(type(object_).__name__, meta.namespace, meta.name)
        if not self._versions.put(key, number_of(meta.resource_version)):
            return
        before = self._beyond(key)
        self._mark_services(self.snapshot.put(object_), by)
        self._mark_beyond(key, before)

    def pass_over(self, key: ObjectKey, version: str) -> None:
        """There is an object that cannot be read; what was known of it stays."""
        self._versions.put(key, number_of(version))

    def remove(self, key: ObjectKey, version: str = "") -> bool:
        """Forget an object that was gone at ``version``, unless it is known to have been there later.

        Whether something was forgotten.
        """
        if not self._versions.remove(key, number_of(version)):
            return False
        before = self._beyond(key)
        self._mark_services(self.snapshot.remove(*key))
        self._mark_beyond(key, before)
        return True

    def replace(self, kind: str, objects: Iterable[Declared], version: str) -> None:
        """All objects of a kind as they were at ``version``: forget those that are not among them."""
        there = set()
        for object_ in objects:
            there.add(ObjectKey(kind, object_.metadata.namespace, object_.metadata.name))
            self.put(object_)
        for key in self._versions.known(kind) - there:
            self.remove(key, version)

    def known(self, kind: str) -> KeysView[ObjectKey]:
        """Every object of a kind that is there."""
        return self._versions.known(kind)

    def version(self, key: ObjectKey) -> int | None:
        """The newest that is known of an object, -1 for one that cannot be compared; None: there is no such object."""
        return self._versions.of(key)

    def status(self, key: ObjectKey) -> VirtualServiceStatus | DirectorGroupStatus | ServiceStatus | None:
        """As it is stored, of a VirtualService, a DirectorGroup, or a Service that asks for a load balancer of ours."""
        if key.kind == "DirectorGroup":
            return self.snapshot.group_as_stored(key.name)[1]
        if key.kind == "Service":
            balancer = self.snapshot.backends.balancer(Key(key.namespace, key.name))
            return balancer.status if balancer is not None else None
        return self.snapshot.status(Key(key.namespace, key.name))

    def unreserve(self, address: str) -> None:
        """An IPVSAddress was made, or could not be."""
        self._mark_services(self.snapshot.unreserve(address))

    def everything(self) -> Iterator[Item]:
        """All there is to reconcile, what is gone but not yet cleared away included."""
        yield from self._cluster()
        for key in balancers(self.snapshot):
            yield Item(Work.BALANCER, *key)
        for key in (*orphaned(self.snapshot), *self.snapshot.keys()):
            yield Item(Work.SERVICE, *key)

    def _cluster(self) -> Iterator[Item]:
        for node in self.snapshot.reports.nodes():
            yield Item(Work.NODE, "", node)
        for group in self.snapshot.groups:
            yield Item(Work.GROUP, "", group)

    def _mark_services(self, keys: Iterable[Key], but: Item | None = None) -> None:
        for key in keys:
            item = Item(Work.SERVICE, *key)
            if item != but:
                self._mark(item)
            if self.snapshot.facts(key) is None and self.snapshot.backends.balancer_as_kept(key) is not None:
                self._mark(Item(Work.BALANCER, *key))  # what an earlier VirtualService left may have gone

    def _beyond(self, key: ObjectKey) -> tuple[object, object]:
        """What of an object concerns all nodes and groups, and what but itself, its group or its load balancer."""
        snapshot = self.snapshot
        if key.kind == "Node":
            presence = snapshot.reports.presence(key.name)
            return (snapshot.nodes.facts.get(key.name), presence.uid if presence is not None else None), None
        if key.kind == "DirectorGroup":
            return snapshot.groups.get(key.name), snapshot.group_as_stored(key.name)
        if key.kind == "IPVSNode":
            return None, (snapshot.reports.uid(key.name), snapshot.reports.spec(key.name))
        if key.kind == "IPVSAddress":
            address = address_of_name(key.name)
            claim = snapshot.addresses.pool.claims.get(address.packed) if address is not None else None
            return None, claim.owner.group if claim is not None else None
        if key.kind in ("Service", "VirtualService"):
            return None, snapshot.balancing(Key(key.namespace, key.name))
        return None, None

    def _mark_beyond(self, key: ObjectKey, before: tuple[object, object]) -> None:
        after = self._beyond(key)
        if before[0] != after[0]:
            for item in self._cluster():
                self._mark(item)
        elif before[1] == after[1]:
            return
        elif key.kind == "IPVSNode":
            self._mark(Item(Work.NODE, "", key.name))
        elif key.kind == "DirectorGroup":
            self._mark(Item(Work.GROUP, "", key.name))
        elif key.kind in ("Service", "VirtualService"):
            self._mark(Item(Work.BALANCER, key.namespace, key.name))
        else:
            for group in {before[1], after[1]} & self.snapshot.groups.keys():
                self._mark(Item(Work.GROUP, "", str(group)))
