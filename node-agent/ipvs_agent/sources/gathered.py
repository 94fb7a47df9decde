"""Plan slices as the API server last told of them, by name and by VirtualService. Pure.

A slice that this agent cannot read takes nothing away: operator, agents and CRDs are never the same version at once.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from ipvs_agent.ledger import Owner
from ipvs_agent.slices import together
from ipvs_api.labels import OBJECT_NAME_LENGTH, plan_name
from ipvs_api.meta import ObjectMeta, number_of
from ipvs_api.plan import FEATURES, VirtualServicePlan, VirtualServicePlanSpec
from ipvs_api.plan import Owner as PlanOwner


class Slice(NamedTuple):
    """``spec`` None: it cannot be read, ``problem`` says why. ``owner`` empty: not even whose it is is known."""

    metadata: ObjectMeta
    owner: Owner
    spec: VirtualServicePlanSpec | None
    problem: str = ""


class _HeadSpec(msgspec.Struct, rename="camel"):
    virtual_service: PlanOwner
    requires: tuple[str, ...] = ()


class _Head(msgspec.Struct):
    spec: _HeadSpec


class _Named(msgspec.Struct):
    metadata: ObjectMeta


_PLANS = msgspec.json.Decoder(VirtualServicePlan)
_HEADS = msgspec.json.Decoder(_Head)
_NAMES = msgspec.json.Decoder(_Named)


def decode_slice(item: bytes | msgspec.Raw) -> Slice:
    """A VirtualServicePlan from JSON. msgspec.ValidationError where it has no name."""
    try:
        plan = _PLANS.decode(item)
        return Slice(plan.metadata, _owner(plan.spec.virtual_service), plan.spec)
    except msgspec.ValidationError as error:
        problem = f"this agent cannot read it: {error}; upgrade the agent on this node"
    metadata = _NAMES.decode(item).metadata
    try:
        spec = _HEADS.decode(item).spec
    except msgspec.ValidationError:
        return unread_slice(metadata.name, metadata.resource_version, problem)
    missing = sorted(set(spec.requires) - FEATURES)
    if missing:
        problem = f"it needs {', '.join(missing)}, which this agent does not know; upgrade the agent on this node"
    return Slice(metadata, _owner(spec.virtual_service), None, problem)


def unread_slice(name: str, version: str, problem: str) -> Slice:
    """One of which no more than its name can be read, which says whose it is unless it was too long."""
    namespace, _, rest = name.partition(".")
    service, _, number = rest.rpartition(".")
    known = number.isdecimal() and plan_name(namespace, service, int(number)) == name and len(name) < OBJECT_NAME_LENGTH
    return Slice(ObjectMeta(name, resource_version=version), f"{namespace}/{service}" if known else "", None, problem)


def _owner(owner: PlanOwner) -> Owner:
    return f"{owner.namespace}/{owner.name}"


class _Kept(NamedTuple):
    """``encoded``: None for a plan of one slice, which nobody asks for again."""

    owner: Owner
    version: str
    problem: str
    encoded: bytes | None


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(VirtualServicePlanSpec)


class Gathered:
    """What is kept of slices: of plans with several, all of them, since each says a part."""

    def __init__(self) -> None:
        self._slices: dict[str, _Kept] = {}
        self._names: defaultdict[Owner, set[str]] = defaultdict(set)
        self._fresh: dict[str, VirtualServicePlanSpec] = {}
        """Single slices that ``plan`` has not given yet."""

    def put(self, found: Slice) -> set[Owner]:
        """Whose plans have changed."""
        name, version = found.metadata.name, found.metadata.resource_version
        before = self._slices.get(name)
        if before is not None and before.version == version:
            return set()
        owner = found.owner or (before.owner if before is not None else "")
        changed = {owner}
        if before is not None and before.owner != owner:
            changed |= self.remove(name)
        several = found.spec is not None and (found.spec.slices > 1 or bool(self._names[owner] - {name}))
        encoded = _ENCODER.encode(found.spec) if several else None
        self._slices[name] = _Kept(owner, version, found.problem, encoded)
        self._names[owner].add(name)
        self._fresh.pop(name, None)
        if found.spec is not None and not several:
            self._fresh[name] = found.spec
        return changed

    def remove(self, name: str) -> set[Owner]:
        """Whose plans have changed."""
        kept = self._slices.pop(name, None)
        self._fresh.pop(name, None)
        if kept is None:
            return set()
        self._names[kept.owner].discard(name)
        if not self._names[kept.owner]:
            del self._names[kept.owner]
        return {kept.owner}

    def retain(self, names: Iterable[str]) -> set[Owner]:
        """Forget all slices but these; whose plans that changes."""
        return {owner for name in self._slices.keys() - set(names) for owner in self.remove(name)}

    def __contains__(self, owner: object) -> bool:
        return owner in self._names

    def is_cut(self, owner: Owner) -> bool:
        """It comes in several slices, which are not written in one go."""
        return any(self._slices[name].encoded is not None for name in self._names.get(owner, ()))

    def problem(self, owner: Owner) -> str:
        """Why its plan cannot be read; empty when it can."""
        problems = ((name, self._slices[name].problem) for name in sorted(self._names.get(owner, ())))
        return next((f"{name}: {problem}" for name, problem in problems if problem), "")

    def plan(self, owner: Owner) -> VirtualServicePlanSpec | None:
        """What its slices say together; None where one of them is known by name only: it is about to come anew.

        Of a plan of one slice it is given once.
        """
        found = []
        for name in sorted(self._names.get(owner, ()), key=lambda name: number_of(self._slices[name].version)):
            kept = self._slices[name]
            spec = _DECODER.decode(kept.encoded) if kept.encoded is not None else self._fresh.pop(name, None)
            if spec is None:
                return None
            found.append(spec)
        return together(found) if found else None
