"""The pass over IPVS services: slices of them compared, written, read back; drains followed; others' left alone."""

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import chain
from time import perf_counter

from ipvs_agent.desired.share import Reason
from ipvs_agent.drain import INTERVAL, Draining, drained_row, is_done, observe
from ipvs_agent.intent import Intent
from ipvs_agent.kernel.ipvs import IpvsTable
from ipvs_agent.preview import Preview, preview_service
from ipvs_agent.rows import ServiceKey, ServiceRow
from ipvs_agent.services import (
    HEAD_SIZE,
    Activity,
    pack_address,
)
from ipvs_agent.store import Store
from ipvs_agent.table import Change, Verdict
from ipvs_agent.troubles import Troubles
from ipvs_agent.words import difference, foreign_words, name_service

log = logging.getLogger(__name__)

CHUNK = 25
"""Services compared, written and read back together."""

SLICE = 200
"""Services in one step at the most."""

SLICE_SECONDS = 0.1
"""... and a step stops between chunks after this time, since re-adding flushed destinations is slow (``ip_vs_ctl.c``,
the destination trash)."""

PROGRESS_SECONDS = 5.0
"""Between two lines of the log about a repair that goes on."""


class ServicesPass:
    """What is left to look at, urgent things first, and what is known of our services."""

    def __init__(
        self,
        table: IpvsTable,
        store: Store,
        intent: Intent,
        troubles: Troubles,
        clock: Callable[[], float],
    ) -> None:
        self._table, self._store, self._intent, self._troubles, self._clock = table, store, intent, troubles, clock
        self.owned = store.services()
        self._strangers: set[ServiceKey] = set()
        """Services that were in the kernel, and not ours, at the last audit."""
        self._lost: set[ServiceKey] = set()
        self._repaired = 0
        self._progress_told = 0.0
        self._drains: dict[ServiceKey, dict[bytes, Draining]] = {}
        for (service, name), draining in store.drains().items():
            self._drains.setdefault(service, {})[name] = draining
        self._looked: dict[ServiceKey, float] = dict.fromkeys(self._drains, 0.0)
        self._urgent: dict[ServiceKey, None] = {}
        self._background: dict[ServiceKey, None] = {}
        self._absent: set[ServiceKey] = set()
        self._expected: set[ServiceKey] = set()
        self._unready: defaultdict[bytes, set[ServiceKey]] = defaultdict(set)
        self._audited = False

    @property
    def more(self) -> bool:
        return bool(self._urgent or self._background)

    @property
    def repairing(self) -> int:
        """Services that somebody took away and that are not written again yet."""
        return len(self._lost)

    @property
    def waiting(self) -> int:
        """Services of an audit or a repair that are still to look at."""
        return len(self._background)

    def touch(self, keys: Iterable[ServiceKey]) -> None:
        """Services whose wanted row changed, or whose pause is over: before everything else."""
        for key in keys:
            self._urgent[key] = None
            self._expected.add(key)
            if self._intent.ledger.tables["ipvs"].get(key) is not None and key not in self.owned:
                self._unready[key[4:]].add(key)

    def audit(self) -> None:
        """Look at every service of ours, those that are missing first, and at who else is there."""
        heads = self._table.heads()
        wanted = self._intent.ledger.tables["ipvs"]
        missing = self._table.adding_order([key for key in wanted if key not in heads])
        self._absent = set(missing)
        self._background = dict.fromkeys(chain(missing, self._background))
        if not self._audited:
            for key in missing:
                self._unready[key[4:]].add(key)
            self._expected.update(wanted)  # an agent before us may have died between a decision and the kernel
        lost = {key for key in missing if key in self.owned} if self._audited else set()
        if fresh := len(lost - self._lost):
            log.warning("drift: %d services were gone; repairing", fresh)
            self._repaired = len(lost) if not self._lost else self._repaired + fresh
        self._lost = lost
        for key in wanted:
            self._background.setdefault(key)
        for key in tuple(self.owned):
            if key in heads:
                self._background.setdefault(key)
            elif wanted.get(key) is None:
                self._forget(key)
        self._strangers = {key for key in heads if key not in self.owned}
        self._audited = True

    @property
    def foreign(self) -> list[str]:
        """Others' services on our VIPs, in words."""
        if self._strangers.issubset(self.owned):
            return []
        wanted = self._intent.ledger.tables["ipvs"]
        vips = {key[4:] for key in wanted}
        near = sorted(key for key in self._strangers if key[4:] in vips and key not in self.owned)
        return [foreign_words(key, wanted=wanted.get(key) is not None) for key in near]

    def unready(self, address: str) -> bool:
        """True while a service of this VIP has not been read back yet."""
        return bool(self._unready.get(pack_address(address)[1]))

    def outstanding(self) -> Iterator[ServiceKey]:
        """Services whose wanted row has not been written and read back yet."""
        yield from self._urgent
        for keys in self._unready.values():
            yield from keys

    def is_without(self, address: str) -> bool:
        """True where not one of the services wanted of this VIP is in the kernel as ours."""
        packed = pack_address(address)[1]
        refused = {key for (table, key), _ in self._troubles if table == "ipvs" and key[4:] == packed}
        wanted = self._intent.ledger.tables["ipvs"]
        return bool(refused) and not any(key[4:] == packed and key not in refused for key in wanted)

    def next_due(self) -> float | None:
        """When a draining destination wants a look."""
        return min(self._looked.values()) + INTERVAL if self._looked else None

    def step(self) -> set[ServiceKey]:
        """Look at a slice. Returns services that have no destination left in the kernel."""
        now = self._clock()
        for key in [key for key, looked in self._looked.items() if now - looked >= INTERVAL]:
            self._urgent[key] = None
            self._expected.add(key)
        drained: set[ServiceKey] = set()
        started = perf_counter()
        seen: set[ServiceKey] = set()
        while len(seen) < SLICE and perf_counter() - started < SLICE_SECONDS:
            keys = self._next(seen)
            if not keys:
                break
            seen.update(keys)
            drained |= self._chunk(keys)
        self._tell_progress(now)
        return drained

    def _tell_progress(self, now: float) -> None:
        if self._repaired and not self._lost:
            log.warning("repair: done, %d services are back", self._repaired)
            self._repaired = 0
        elif self._lost and now - self._progress_told >= PROGRESS_SECONDS:
            self._progress_told = now
            log.info("repair: %d of %d services still to write", len(self._lost), self._repaired)

    def _next(self, seen: set[ServiceKey]) -> list[ServiceKey]:
        """The next chunk, each once; services that are to be deleted wait for ``remove``."""
        wanted = self._intent.ledger.tables["ipvs"]
        keys: dict[ServiceKey, None] = {}  # what an audit finds in its way is often urgent as well
        for key in chain(self._urgent, self._background):
            if len(keys) == CHUNK:
                break
            if key not in seen and wanted.get(key) is not None:
                keys[key] = None
        return list(keys)

    def remove(self) -> None:
        """Delete (or begin to drain) services that nothing wants any more, after their addresses have gone."""
        wanted = self._intent.ledger.tables["ipvs"]
        keys = [key for queue in (self._urgent, self._background) for key in queue if wanted.get(key) is None]
        for at in range(0, min(len(keys), SLICE), CHUNK):
            self._chunk(list(dict.fromkeys(keys[at : at + CHUNK])))

    def _chunk(self, keys: list[ServiceKey]) -> set[ServiceKey]:
        now = self._clock()
        wanted = self._intent.ledger.tables["ipvs"]
        found = self._table.read([key for key in keys if key not in self._absent])
        activities = self._table.activity([key for key in keys if key in self._looked])
        changes: list[Change[ServiceKey, ServiceRow]] = []
        claims: dict[ServiceKey, float] = {}
        for key in keys:
            want, have = wanted.get(key), found.get(key)
            if have is not None and key not in self.owned:
                self._is_foreign(key)
                continue
            if want is not None:
                timeout = self._timeout(key)
                if self.owned.get(key) != timeout:
                    claims[key] = timeout
            target = self._target(key, want, have, activities.get(key, {}), now)
            if target == have:
                self._done(key, have)
            elif self._troubles.waiting(("ipvs", key), now):
                self._drop(key)
            else:
                changes.append(Change(key, have, target))
        drift = self._drift(changes)
        if sum(change.old is None for change in drift) > 1:
            self.audit()  # somebody flushed while we looked: more will be gone, and one line of the log tells of all
            return set()
        self._tell_drift(drift)
        if claims:
            with self._store.transaction():
                self._store.own_services(claims)
            self.owned.update(claims)
        back = self._write(changes)
        empty = {key for key in keys if (row := back.get(key, found.get(key))) is not None and len(row) == HEAD_SIZE}
        return {key for key in empty if self._intent.is_lingering(key)}

    def _timeout(self, key: ServiceKey) -> float:
        for owner in self._intent.owner_of("ipvs", key):
            timeout = self._intent.drain_timeouts.get(owner)
            if timeout is not None:
                return timeout
        return self.owned.get(key, 0.0)

    def _target(
        self,
        key: ServiceKey,
        want: ServiceRow | None,
        have: ServiceRow | None,
        activity: Mapping[bytes, Activity],
        now: float,
    ) -> ServiceRow | None:
        """The row to have now: the wanted one and what drains beside it."""
        if have is None:
            self._follow(key, [], now)
            return want
        drains = self._drains.get(key, {})
        for name in drains:
            drains[name] = observe(drains[name], activity.get(name), now)
        done = {name: key in self._looked and is_done(drains[name], activity.get(name), now) for name in drains}
        row, leaving = drained_row(key, want if want is not None else have[:HEAD_SIZE], have, done)
        self._follow(key, leaving, now)
        if want is None and len(row) == HEAD_SIZE:
            return None
        return row

    def _follow(self, key: ServiceKey, leaving: Collection[bytes], now: float) -> None:
        """Record what drains, durably, before its weight is written."""
        known = self._drains.get(key, {})
        gone = [name for name in known if name not in leaving]
        fresh = {name: Draining(now, now + self._timeout(key)) for name in leaving if name not in known}
        if gone or fresh:
            with self._store.transaction():
                for name in gone:
                    self._store.put_drain(key, name, None)
                for name, draining in fresh.items():
                    self._store.put_drain(key, name, draining)
            left = {name: draining for name, draining in known.items() if name not in gone} | fresh
            if left:
                self._drains[key] = left
            else:
                self._drains.pop(key, None)
        if leaving:
            self._looked[key] = now
        else:
            self._looked.pop(key, None)

    def preview(self) -> list[Preview]:
        """What would be written to IPVS; nothing is."""
        wanted = self._intent.ledger.tables["ipvs"]
        found = self._table.read(key for key in {*self._background, *self._urgent} if key not in self._absent)
        views = []
        for key in sorted({*self._background, *self._urgent}):
            have = found.get(key)
            if have is not None and key not in self.owned:
                self._is_foreign(key)
            elif (view := preview_service(key, have, wanted.get(key))) is not None:
                views.append(view)
        return views

    def draining(self) -> Iterator[tuple[ServiceKey, bytes, Draining]]:
        """Every draining destination: its service, its key, its record."""
        for key, drains in self._drains.items():
            for name, draining in drains.items():
                yield key, name, draining

    def _write(self, changes: list[Change[ServiceKey, ServiceRow]]) -> dict[ServiceKey, ServiceRow]:
        if not changes:
            return {}
        outcomes = {outcome.key: outcome for outcome in self._table.write(changes)}
        back = self._table.read([change.key for change in changes])
        for change in changes:
            key, got = change.key, back.get(change.key)
            self._absent.discard(key)
            if got == change.new:
                self._done(key, got)
                continue
            outcome = outcomes[key]
            if outcome.verdict is Verdict.UNKNOWN:
                message = f"{outcome.message}; looking again"
            else:
                message = outcome.message or "the kernel does not show what was written; looking again"
            self._drop(key)
            owners = self._intent.owner_of("ipvs", key)
            if self._troubles.add(("ipvs", key), owners, Reason.KERNEL_REFUSED, message, self._clock()):
                log.warning("service %s (%s): %s", name_service(key), ", ".join(owners), message)
        return back

    def _done(self, key: ServiceKey, row: ServiceRow | None) -> None:
        self._drop(key)
        if self._troubles.clear(("ipvs", key)):
            log.info("service %s: now as wanted", name_service(key))
        if row is None and key in self.owned and self._intent.ledger.tables["ipvs"].get(key) is None:
            self._forget(key)

    def _drop(self, key: ServiceKey) -> None:
        self._urgent.pop(key, None)
        self._background.pop(key, None)
        self._expected.discard(key)
        self._lost.discard(key)
        waiting = self._unready.get(key[4:])
        if waiting is not None:
            waiting.discard(key)
            if not waiting:
                del self._unready[key[4:]]

    def _forget(self, key: ServiceKey) -> None:
        """Read-back shows it gone: it is nobody's now."""
        with self._store.transaction():
            self._store.disown_services((key,))
            for name in self._drains.pop(key, {}):
                self._store.put_drain(key, name, None)
        del self.owned[key]
        self._looked.pop(key, None)
        log.info("service %s: removed", name_service(key))

    def _is_foreign(self, key: ServiceKey) -> None:
        self._drop(key)
        self._strangers.add(key)
        message = foreign_words(key, wanted=True)
        owners = self._intent.owner_of("ipvs", key)
        if self._troubles.add(("ipvs", key), owners, Reason.FOREIGN_ENTRY, message, self._clock()):
            log.warning("%s", message)

    def _drift(self, changes: list[Change[ServiceKey, ServiceRow]]) -> list[Change[ServiceKey, ServiceRow]]:
        """Those among the changes that undo what somebody else did, and that are not known yet."""
        if not self._audited:
            return []
        return [
            change
            for change in changes
            if not (change.key in self._expected or change.key in self._lost or ("ipvs", change.key) in self._troubles)
            and (change.old is not None or change.key in self.owned)
        ]

    def _tell_drift(self, drift: list[Change[ServiceKey, ServiceRow]]) -> None:
        for change in drift:
            if change.old is None:
                log.warning("drift: service %s was gone; mended", name_service(change.key))
            else:
                log.warning("drift: service %s was changed (%s); mended", name_service(change.key), difference(change))
