"""Plans as the API server has them: by VirtualService, and by the nodes that have yet to say that they took them in."""

from collections import defaultdict
from collections.abc import Iterable
from heapq import heappop, heappush
from sys import intern

import msgspec

from ipvs_api.labels import NODE_LABEL_PREFIX
from ipvs_api.meta import number_of
from ipvs_api.plan import VirtualServicePlan
from ipvs_planner.index import Key

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(VirtualServicePlan)


class StoredSlice(msgspec.Struct, frozen=True, gc=False):
    """One slice. ``labels``: the node labels it has."""

    name: str
    uid: str
    version: str
    labels: tuple[str, ...]
    encoded: bytes

    def plan(self) -> VirtualServicePlan:
        return _DECODER.decode(self.encoded)


class StoredPlans:
    """Kept encoded, about a kilobyte with ten real servers."""

    def __init__(self) -> None:
        self._slices: dict[Key, dict[str, StoredSlice]] = {}
        self._keys: dict[str, Key] = {}
        self._by_label: defaultdict[str, dict[Key, int]] = defaultdict(dict)
        self._heaps: defaultdict[str, list[tuple[int, Key]]] = defaultdict(list)
        self._decoded: tuple[Key, tuple[VirtualServicePlan, ...]] | None = None
        """What was asked for last: a reconciliation asks several times."""

    def __contains__(self, key: object) -> bool:
        return key in self._slices

    def keys(self) -> Iterable[Key]:
        return self._slices.keys()

    def of(self, key: Key) -> tuple[VirtualServicePlan, ...]:
        """The slices, by their number."""
        if self._decoded is None or self._decoded[0] != key:
            plans = (stored.plan() for stored in self._slices.get(key, {}).values())
            self._decoded = key, tuple(sorted(plans, key=lambda plan: plan.spec.slice))
        return self._decoded[1]

    def put(self, plan: VirtualServicePlan) -> Key:
        """Whose plan it is."""
        owner, meta = plan.spec.virtual_service, plan.metadata
        key = Key(intern(owner.namespace), owner.name)
        self.remove(meta.name)
        labels = tuple(sorted(intern(label) for label in meta.labels if label.startswith(NODE_LABEL_PREFIX)))
        stored = StoredSlice(meta.name, meta.uid, meta.resource_version, labels, _ENCODER.encode(plan))
        self._slices.setdefault(key, {})[meta.name] = stored
        self._keys[meta.name] = key
        self._decoded = None
        self._index(key, labels)
        return key

    def remove(self, name: str) -> Key | None:
        """Whose plan it was."""
        key = self._keys.pop(name, None)
        if key is None:
            return None
        stored = self._slices[key].pop(name)
        self._decoded = None
        if not self._slices[key]:
            del self._slices[key]
        self._index(key, stored.labels)
        return key

    def _index(self, key: Key, labels: Iterable[str]) -> None:
        newest: dict[str, int] = {}
        for each in self._slices.get(key, {}).values():
            number = number_of(each.version)
            newest |= {label: number for label in each.labels if newest.get(label, -1) < number}
        for label in labels:
            version = newest.get(label)
            if version is None:
                self._by_label[label].pop(key, None)
            elif self._by_label[label].get(key) != version:
                self._by_label[label][key] = version
                heappush(self._heaps[label], (version, key))

    def version(self, key: Key, label: str) -> int | None:
        """Up to where a node must have come to know all its slices of ``key``; None: it has none."""
        return self._by_label[label].get(key) if label in self._by_label else None

    def concerning(self, label: str) -> Iterable[Key]:
        """Everybody with a slice for that node."""
        return self._by_label[label].keys() if label in self._by_label else ()

    def passed(self, label: str, version: int) -> set[Key]:
        """Who waited for that node to come to ``version``; each is told once for each of its own versions."""
        heap, found = self._heaps[label], set()
        while heap and heap[0][0] <= version:
            reached, key = heappop(heap)
            if self._by_label[label].get(key) == reached:
                found.add(key)
        return found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StoredPlans) and self._slices == other._slices

    __hash__ = None  # type: ignore[assignment]  # compared as a value, never a key
