"""What is wanted of this host: plans, the shares worked out from them, and what lingers after them.

Every change is durable in the state database before the kernel is touched, so a restart at any point sees either the
intent before or after it, with everything that has to linger.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from ipvs_agent.desired.share import Context, Finding, Severity, Share
from ipvs_agent.desired.whole import desired
from ipvs_agent.ledger import NODE, SERVER, Ledger, Owner
from ipvs_agent.linger import Lingering, directors_let_go, held_elsewhere, leave_behind, without_vips
from ipvs_agent.paths import allocate, gateways_of
from ipvs_agent.rows import KernelState, ServiceKey
from ipvs_agent.store import Store
from ipvs_api.plan import VirtualServicePlanSpec

Dirty = dict[str, set[Any]]
"""Keys by table whose wanted row changed."""


def _blocked(share: Share) -> bool:
    return any(finding.severity is Severity.BLOCK for finding in share.findings)


class Intent:
    """Plans by owner (``namespace/name``) turned into the rows of every kernel table."""

    def __init__(self, store: Store, context: Context, now: float) -> None:
        self.ledger = Ledger()
        self.context = context
        self.findings: dict[Owner, tuple[Finding, ...]] = {}
        self.drain_timeouts: dict[Owner, float] = {}
        """By plan in force, seconds."""
        self.directing: set[Owner] = set()
        self.serving: set[Owner] = set()
        self._store = store
        self._lingering = store.lingering()
        self._services: defaultdict[ServiceKey, set[int]] = defaultdict(set)
        self._vips: defaultdict[str, set[int]] = defaultdict(set)
        """What lingers by the VIPs with which it would answer clients."""
        self._parting: dict[tuple[str, Any], Owner] = {}
        """Rows that nobody wants any more, by who wanted them last, until the kernel has been seen without them."""
        self.neighbours: Counter[str] = Counter()
        """Addresses whose neighbour entries the shares need, by how many need them."""
        self.unresolved: set[str] = set()
        """Those that became needed since somebody last looked."""
        self._neighbours: dict[Owner, set[str]] = {}
        self.refused: dict[Owner, VirtualServicePlanSpec] = {}
        """Plans that this host cannot have (a finding BLOCKs them); what was before them stays in force."""
        for number, entry in self._lingering.items():
            self._linger(number, entry)
        for owner, plan in store.plans():
            self._adopt(owner, plan)
        self._resume([service for service in self._services if self._is_planned(service)])
        self.settle((), now)

    def _adopt(self, owner: Owner, plan: VirtualServicePlanSpec) -> None:
        self._number_paths(plan)
        share = self._share(plan)
        self._tell(owner, share)
        self._put(owner, share)
        self.drain_timeouts[owner] = float(plan.drain_timeout_seconds)

    def _share(self, plan: VirtualServicePlanSpec) -> Share:
        share = desired(plan, self.context)
        return Share(findings=share.findings, neighbours=share.neighbours) if _blocked(share) else share

    def _tell(self, owner: Owner, share: Share) -> None:
        self.findings.pop(owner, None)
        self.neighbours.subtract(self._neighbours.pop(owner, ()))
        if share.findings:
            self.findings[owner] = tuple(dict.fromkeys(share.findings))
        if share.neighbours:
            self._neighbours[owner] = share.neighbours
            self.unresolved |= {address for address in share.neighbours if self.neighbours[address] <= 0}
            self.neighbours.update(share.neighbours)

    def _put(self, owner: Owner, share: Share) -> Dirty:
        dirty = self._took(owner, self.ledger.put(owner, share.director))
        _join(dirty, self._took(owner, self.ledger.put(owner + SERVER, share.server)))
        for roles, state in ((self.directing, share.director), (self.serving, share.server)):
            (roles.discard if state.is_empty() else roles.add)(owner)
        return dirty

    def _took(self, owner: Owner, dirty: Dirty) -> Dirty:
        """Remember whose rows go, and forget it of those that are wanted again."""
        for table, keys in dirty.items():
            if table == "sysctls":
                continue  # only ever raised
            wanted = self.ledger.tables[table]
            for key in keys:
                if key in wanted:
                    self._parting.pop((table, key), None)
                else:
                    self._parting[table, key] = owner
        return dirty

    def _number_paths(self, plan: VirtualServicePlanSpec) -> None:
        wanted = gateways_of(plan, self.context.node)
        if wanted - self.context.paths.keys():
            used = {(key.family, row.gateway) for key, row in self.ledger.tables["routes"].rows().items()}
            paths = allocate(self.context.paths, wanted, used)
            self.context = replace(self.context, paths=paths)

    def apply(self, changes: Mapping[Owner, VirtualServicePlanSpec | None], now: float) -> Dirty:
        """Take new, changed and removed (None) plans. Durable when it returns; returns what to look at in the kernel.

        A plan that this host must refuse (a finding of severity BLOCK) leaves the one before in force.
        """
        dirty: Dirty = {}
        with self._store.transaction():
            for owner, plan in changes.items():
                before = self._store.plan(owner)
                refused = self.refused.pop(owner, None)
                if plan == (before if refused is None else refused):
                    if refused is not None:
                        self.refused[owner] = refused
                    continue
                if plan is None:
                    share, timeout = Share(), before.drain_timeout_seconds if before is not None else 0
                else:
                    self._number_paths(plan)
                    share, timeout = self._share(plan), plan.drain_timeout_seconds
                self._tell(owner, share)
                if plan is not None and _blocked(share):
                    self.refused[owner] = plan
                    continue
                self._store.put_plan(owner, plan)
                self.drain_timeouts.pop(owner, None)
                if plan is not None:
                    self.drain_timeouts[owner] = float(timeout)
                let_go = before is not None and plan is not None and directors_let_go(before, plan, self.context.node)
                _join(dirty, self._replace(owner, share, now, float(timeout), let_go=let_go))
                if plan is not None:
                    _join(dirty, self._yield(held_elsewhere(plan, self.context.node)))
        return dirty

    def _replace(self, owner: Owner, new: Share, now: float, timeout: float, *, let_go: bool = False) -> Dirty:
        nothing = KernelState()
        old = (self.ledger.share(owner) or nothing, self.ledger.share(owner + SERVER) or nothing)
        left = leave_behind(owner, old, (new.director, new.server), now, timeout, let_go=let_go)
        self._resume(new.director.ipvs.keys() & self._services.keys())
        dirty = self._put(owner, new)
        for entry in left:
            _join(dirty, self._linger(self._store.add_lingering(entry), entry))
        return dirty

    def _linger(self, number: int, entry: Lingering) -> Dirty:
        self._lingering[number] = entry
        for service in entry.services:
            self._services[service].add(number)
        for key in entry.state.addresses:
            if not key.is_silent:
                self._vips[key.address].add(number)
        return self._took(entry.owner, self.ledger.put(f"{entry.owner}~{number}", entry.state))

    def _yield(self, vips: frozenset[str]) -> Dirty:
        """Another director has these VIPs now: they linger no more, whatever is left of their services."""
        dirty: Dirty = {}
        for number in {number for vip in self._vips.keys() & vips for number in self._vips.pop(vip)}:
            entry = without_vips(self._lingering[number], vips)
            self._store.change_lingering(number, entry)
            _join(dirty, self._linger(number, entry))
        return dirty

    def _resume(self, services: Iterable[ServiceKey]) -> None:
        """A plan wants these again: what lingered for their sake waits for them no more."""
        for service in services:
            for number in self._services.pop(service):
                entry = self._lingering[number]
                left = Lingering(entry.owner, entry.state, entry.services - {service}, entry.deadline)
                self._lingering[number] = left

    def _is_planned(self, service: ServiceKey) -> bool:
        return any("~" not in owner for owner in self.ledger.tables["ipvs"].owners(service))

    def take_settings(self, state: KernelState) -> Dirty:
        """What the node as a whole is told, beside all plans."""
        return self.ledger.put(NODE, state)

    def reconsider(self, context: Context, now: float) -> Dirty:
        """Work every share out again for a host (or node settings) that changed."""
        dirty: Dirty = {}
        self.context = context
        with self._store.transaction():
            plans = {**dict(self._store.plans()), **self.refused}
            for owner, plan in plans.items():
                share = self._share(plan)
                self._tell(owner, share)
                if _blocked(share):
                    continue
                if self.refused.pop(owner, None) is not None:
                    self._store.put_plan(owner, plan)
                    self.drain_timeouts[owner] = float(plan.drain_timeout_seconds)
                _join(dirty, self._replace(owner, share, now, float(plan.drain_timeout_seconds)))
        return dirty

    def is_lingering(self, service: ServiceKey) -> bool:
        return service in self._services

    def settle(self, drained: Iterable[ServiceKey], now: float) -> Dirty:
        """Let go of what need not linger any more. ``drained``: services without destinations in the kernel."""
        dirty: Dirty = {}
        self._resume(set(drained) & self._services.keys())
        done = [n for n, entry in self._lingering.items() if not entry.services and entry.deadline <= now]
        with self._store.transaction():
            for number in done:
                entry = self._lingering.pop(number)
                for key in entry.state.addresses:
                    self._vips[key.address].discard(number)
                self._store.remove_lingering(number)
                _join(dirty, self._took(entry.owner, self.ledger.put(f"{entry.owner}~{number}", None)))
        return dirty

    def leaving(self, has: Callable[[str, Any], bool]) -> set[Owner]:
        """Whose rows are still here though no plan wants them. ``has``: whether a table's key is in the kernel."""
        self._parting = {row: owner for row, owner in self._parting.items() if has(*row)}
        return {*self._parting.values(), *(entry.owner for entry in self._lingering.values())}

    def next_deadline(self) -> float | None:
        """When something stops lingering by time."""
        return min((e.deadline for e in self._lingering.values() if not e.services), default=None)

    def wanted(self, table: str) -> Mapping[Any, Any]:
        return self.ledger.tables[table].rows()

    def owner_of(self, table: str, key: Any) -> tuple[Owner, ...]:
        """Plans that want the row, those it lingers for included; of one that nobody wants, who wanted it last."""
        owners = self.ledger.tables[table].owners(key)
        if not owners and (table, key) in self._parting:
            return (self._parting[table, key],)
        return tuple(dict.fromkeys(owner.partition("~")[0].removesuffix(SERVER) for owner in owners))


def _join(into: Dirty, more: Dirty) -> None:
    for table, keys in more.items():
        into.setdefault(table, set()).update(keys)
