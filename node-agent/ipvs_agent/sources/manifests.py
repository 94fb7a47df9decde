"""Manifests as a source of plans: what a directory holds is planned here as the operator would plan it for a
cluster.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path

from msgspec.structs import replace

from ipvs_agent.ledger import Owner
from ipvs_agent.slices import as_objects, together
from ipvs_agent.sources.directory import ManifestDirectory
from ipvs_agent.sources.source import Judgement, Update
from ipvs_agent.sources.watch import DirectoryWatch
from ipvs_api.meta import ObjectKey
from ipvs_api.node import IPVSNodeSpec, IPVSNodeStatus, NodeGroup
from ipvs_api.plan import VirtualServicePlanSpec
from ipvs_planner.claims import NOTHING, claims_of
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.index import Key
from ipvs_planner.node_spec import compile_node
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.snapshot import Snapshot

NAMED_NODES = 10
"""Nodes named, at the most, to somebody who gave the name of none."""


def owner_of(key: Key) -> Owner:
    return f"{key.namespace}/{key.name}"


def concerns(plan: VirtualServicePlanSpec, node: str) -> bool:
    """True where ``node`` directs for the plan or runs one of its real servers."""
    return any(d.node == node for d in plan.directors) or any(b.node == node for b in plan.backends)


class ManifestsSource:
    """Plans of one directory for one node."""

    condition = "Manifests"
    away = ""
    """Files are always near."""

    def __init__(
        self, path: Path, node: str, stored: Mapping[Owner, VirtualServicePlanSpec], spec: IPVSNodeSpec
    ) -> None:
        self.path, self.node, self._spec = path, node, spec
        self._stored: IPVSNodeSpec | None = spec
        """In force like the plans of ``_untouched``, and as long."""
        self.snapshot = Snapshot(trusted=True)
        self.refusals: dict[Key, Compiled] = {}
        """What was not accepted, without plans."""
        self.notes: dict[Key, tuple[Finding, ...]] = {}
        """What there is to know of accepted ones; equal notes are one object."""
        self._known_notes: dict[tuple[Finding, ...], tuple[Finding, ...]] = {}
        self._planned: set[Owner] = set(stored)
        self._untouched: set[Owner] = set(stored)
        """Planned before this process: they stay as they are until every group and node has been read once. A plan
        made without one of them could take away what serves."""
        self._waiting: set[Key] = set()
        keys = {owner: Key(*owner.split("/", 1)) for owner in stored}
        for owner, plan in stored.items():
            self.snapshot.hold(keys[owner], claims_of(as_objects(plan)))
        self._directory = ManifestDirectory(path, (ObjectKey("VirtualService", *key) for key in keys.values()))
        self._watch: DirectoryWatch | None = None
        self._changed: frozenset[str] | None = None
        """Files to look at; None: all."""
        self._lock = threading.Lock()

    def watch(self, wake: Callable[[], None]) -> None:
        """On the running event loop."""

        def told(names: frozenset[str] | None) -> None:
            self.changed(names)
            wake()

        self._watch = DirectoryWatch(self.path, told)

    def changed(self, names: frozenset[str] | None) -> None:
        """These files (None: any) may have changed; ``look`` will look at them."""
        with self._lock:
            self._changed = None if names is None or self._changed is None else self._changed | names

    def renew(self) -> None:
        if self._watch is not None:
            self._watch.renew()
        self.changed(None)

    def close(self) -> None:
        if self._watch is not None:
            self._watch.close()

    def publish(self, status: IPVSNodeStatus, *, settled: bool) -> None:
        """Nobody reads reports here but who asks this host."""

    def look(self, now: float) -> Update:
        """Read what changed and plan what it touches."""
        with self._lock:
            names, self._changed = self._changed, frozenset()
        changes = self._directory.look(now, names)
        if changes.recheck is not None:
            self.changed(None)
        whole = changes.complete and all(key.kind == "VirtualService" for key in changes.unread)
        affected: set[Key] = set()
        if whole:
            affected, self._waiting, self._untouched, self._stored = self._waiting, set(), set(), None
        for declared in changes.put:
            affected |= self.snapshot.put(declared)
        for kind, namespace, name in changes.removed:
            if kind == "VirtualService":
                affected.add(Key(namespace, name))
            affected |= self.snapshot.remove(kind, namespace, name)
        plans: dict[Owner, VirtualServicePlanSpec | None] = {}
        while affected:
            for key in sorted(affected):
                affected.discard(key)
                if owner_of(key) in self._untouched:
                    self._waiting.add(key)
                else:
                    affected |= self._plan(key, plans)
        spec = self._node_spec(complete=changes.complete)
        unknown = self._unknown_node() if whole else self._held_back()
        errors = (*(str(error) for error in changes.errors), *unknown, *self._refused(), *self._ill_written())
        return Update(plans, spec, errors, changes.recheck)

    def _plan(self, key: Key, plans: dict[Owner, VirtualServicePlanSpec | None]) -> set[Key]:
        """Compile one virtual service; whom else that concerns."""
        compiled = compile_virtual_service(self.snapshot, key)
        owner = owner_of(key)
        self.refusals.pop(key, None)
        self.notes.pop(key, None)
        if compiled.refusals:
            self.refusals[key] = replace(compiled, plans=())
        elif compiled.notes:
            self.notes[key] = self._known_notes.setdefault(compiled.notes, compiled.notes)
        if compiled.outcome is Outcome.KEPT:
            return set()
        plan = together([each.spec for each in compiled.plans]) if compiled.plans else None
        if plan is not None and concerns(plan, self.node):
            plans[owner] = plan
            self._planned.add(owner)
        elif owner in self._planned:
            plans[owner] = None
            self._planned.discard(owner)
        claims = compiled.claims if compiled.outcome is Outcome.PLANNED else NOTHING
        return self.snapshot.hold(key, claims)

    def judgements(self) -> dict[tuple[str, str], Judgement]:
        found = {}
        for key in self.refusals.keys() | self.notes.keys():
            refused, notes = self.refusals.get(key), _words(self.notes.get(key, ()))
            if refused is not None:
                found[key.namespace, key.name] = Judgement(
                    refused.outcome, refused.generation, _words(refused.refusals), notes
                )
            else:
                found[key.namespace, key.name] = Judgement(Outcome.PLANNED, notes=notes)
        return found

    def _unknown_node(self) -> Iterator[str]:
        """Nothing is planned for a host that no Node stands for."""
        known = sorted(self.snapshot.nodes.facts)
        if self.node in known or not (known or self.snapshot.groups):
            return
        close = get_close_matches(self.node, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        more = f" and {len(known) - NAMED_NODES} more" if len(known) > NAMED_NODES else ""
        yield (
            f"{self.path}: Node {self.node}: metadata.name: no Node of the name that --node gives is there, so nothing "
            f"is planned for this host; found {', '.join(known[:NAMED_NODES]) or 'no Node at all'}{more}{hint}"
        )

    def _held_back(self) -> Iterator[str]:
        if self._waiting:
            yield (
                f"{self.path}: what was programmed before the agent started stays as it is, VirtualService "
                f"{owner_of(min(self._waiting))} among them, until every DirectorGroup and Node can be read"
            )

    def _refused(self) -> list[str]:
        return [
            f"{self._place('VirtualService', *key)}: {finding.reason}: {finding.message}"
            for key, compiled in sorted(self.refusals.items())
            for finding in compiled.refusals
        ]

    def _ill_written(self) -> Iterator[str]:
        """Groups that cannot be used as they are, nodes part of which does not parse, groups that disagree."""
        for name, group in sorted(self.snapshot.groups.items()):
            for finding in group.findings:
                yield f"{self._place('DirectorGroup', '', name)}: {finding.reason}: {finding.message}"
        for name, node in sorted(self.snapshot.nodes.facts.items()):
            for problem in node.problems:
                yield f"{self._place('Node', '', name)}: {problem}"
        for finding in self._disagreements:
            yield f"{self.path}: {finding.reason}: {finding.message}"

    def _place(self, kind: str, namespace: str, name: str) -> str:
        """``DIR/web.yaml:12: VirtualService shop/web``."""
        key = ObjectKey(kind, namespace, name)
        return f"{self._directory.place(key)}: {key}"

    def _node_spec(self, *, complete: bool) -> IPVSNodeSpec:
        """The node's own settings; while something cannot be read, no group that was known is forgotten."""
        spec, notes = compile_node(self.snapshot, self.node, self._spec)
        self._disagreements = [finding for finding in notes if finding.reason is not Reason.MALFORMED_ADDRESS]
        if self._stored is not None and self._stored.groups:
            groups = _by_name(*spec.groups, *self._stored.groups)
            spec = replace(spec, groups=groups, kernel=self._stored.kernel)
        elif not complete:
            spec = replace(spec, groups=_by_name(*self._spec.groups, *spec.groups))
        self._spec = spec
        return spec


def _by_name(*groups: NodeGroup) -> tuple[NodeGroup, ...]:
    """Sorted; of several of one name the last."""
    found = {group.name: group for group in groups}
    return tuple(found[name] for name in sorted(found))


def _words(findings: Iterable[Finding]) -> tuple[tuple[str, str], ...]:
    return tuple((finding.reason.value, finding.message) for finding in findings)
