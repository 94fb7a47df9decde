"""The pass: compare what is wanted with what the kernel has, write the difference, read it back.

Bounded steps: each handles every dirty row of the small tables and a slice of IPVS services, so that a repair of
thousands leaves room for drains and changes between its slices. Order on one host: additions from the ground up (links,
switches, GUE ports, nftables, IPVS, routes, rules, addresses), removals the other way round, so a VIP comes last and
goes first. Runs on the kernel thread, without an event loop.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipvs_agent.desired.share import Reason
from ipvs_agent.gue_ports import GuePorts
from ipvs_agent.intent import Dirty, Intent
from ipvs_agent.kernel.nft_program import NftError
from ipvs_agent.kernel.sysctls import satisfies
from ipvs_agent.kernel.whole import Kernel
from ipvs_agent.ledger import Owner
from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.state import NftState
from ipvs_agent.placing import Placing
from ipvs_agent.preview import Preview
from ipvs_agent.rows import AddressKey, HopKey, NftKey, SysctlRow
from ipvs_agent.services_pass import ServicesPass
from ipvs_agent.store import FoundSysctl, Store
from ipvs_agent.table import Change, Outcome, Table, Verdict, diff
from ipvs_agent.troubles import Troubles
from ipvs_agent.words import describe, values

log = logging.getLogger(__name__)

SMALL = ("links", "sysctls", "fou", "routes", "rules", "addresses")
NFT = ("elements", "hops")
PLACING_PERIOD = 1.0
"""Seconds between two rounds of new addresses while services are still being written: each probes for half a second."""

NFT_UNUSABLE = NftKey("", ())
"""Stands for nftables as a whole where it cannot be used."""

DIRECTORS_GROUND = ("links", "elements", "hops")
"""What must stand before a VIP: silence or guard, its link; besides at least one of its services."""


@dataclass(frozen=True)
class Progress:
    """``more``: call ``step`` again at once. ``next_due``: when there will be something to do, by the clock."""

    more: bool
    next_due: float | None


class Converger:
    """One host's kernel and what is wanted of it."""

    def __init__(self, kernel: Kernel, store: Store, intent: Intent, clock: Callable[[], float]) -> None:
        self.kernel, self.store, self.intent, self.clock = kernel, store, intent, clock
        self.troubles = Troubles()
        self.services = ServicesPass(kernel.ipvs, store, intent, self.troubles, clock)
        self.placing = Placing()
        self._tables: dict[str, Table[Any, Any]] = {name: kernel.table(name) for name in SMALL}
        self._tables["fou"] = GuePorts(kernel.fou, store, lambda: intent.wanted("fou").keys())
        self._small: dict[str, dict[Any, Any]] = {name: {} for name in SMALL}
        self._nft = NftState()
        self._stale: set[str] = set()
        self._dirty: dict[str, set[Any]] = {name: set() for name in (*SMALL, *NFT)}
        self._expected: dict[str, set[Any]] = {name: set() for name in (*SMALL, *NFT)}
        self._found = store.sysctls()
        self._started = False
        self._placed = 0.0
        self.placing.adopt(kernel.addresses.read())
        self.audit()

    # what to look at

    def touch(self, dirty: Dirty) -> None:
        """Rows whose wanted state changed."""
        for table, keys in dirty.items():
            if table == "ipvs":
                self.services.touch(keys)
            else:
                self._dirty[table] |= keys
                self._expected[table] |= keys

    def mark_stale(self, tables: Iterable[str]) -> None:
        """The kernel told that these tables changed (or lost count): compare them whole."""
        self._stale.update("elements" if name == "hops" else name for name in tables if name in self._dirty)

    def audit(self) -> None:
        """Compare everything: what no notification tells (IPVS) or a lost one would have."""
        self.mark_stale((*SMALL, *NFT))
        self.services.audit()

    def outstanding(self) -> Iterator[Owner]:
        """Plans some row of which is not written and read back yet, with repetitions."""
        for name, keys in self._dirty.items():
            for key in keys:
                yield from self.intent.owner_of(name, key)
        for key in self.services.outstanding():
            yield from self.intent.owner_of("ipvs", key)
        for key in self.placing.unanswered():
            yield from self.intent.owner_of("addresses", key)

    def has(self, table: str, key: Any) -> bool:
        """The kernel had this row of ours when it was last read."""
        return key in self.services.owned if table == "ipvs" else key in self._found_rows(table)

    # the pass

    def step(self) -> Progress:
        """Do some of what there is to do."""
        now = self.clock()
        for table, key in self.troubles.due(now):
            if key == NFT_UNUSABLE:
                self.mark_stale(("elements",))
            elif table == "ipvs":
                self.services.touch((key,))
            else:
                self._dirty[table].add(key)
        self.touch(self.intent.settle((), now))
        self._refresh()
        for name in ("links", "sysctls", "fou"):
            self._write(name, ups=True)
        self._write_nft(ups=True)
        for name in ("routes", "rules"):
            self._write(name, ups=True)
        drained = self.services.step()
        self.touch(self.intent.settle(drained, now))
        if not self.services.more or now - self._placed >= PLACING_PERIOD:
            self._placed = now
            self._write("addresses", ups=True)
        self._write("addresses", ups=False)
        self._write_nft(ups=False)
        self.services.remove()
        for name in ("rules", "routes", "fou", "links"):
            self._write(name, ups=False)
        self._started = True
        more = self.services.more or any(self._dirty.values())
        dues = (self.services.next_due(), self.troubles.next_due(), self.intent.next_deadline())
        return Progress(more, min((due for due in dues if due is not None), default=None))

    def preview(self) -> list[Preview]:
        """What the passes would change, in their order; nothing is written."""
        self._refresh()
        ground = ("links", "sysctls", "fou", "elements", "hops", "routes", "rules")
        ups = [view for name in ground for view in self._preview(name, ups=True)]
        ups += self.services.preview()
        ups += self._preview("addresses", ups=True)
        order = ("addresses", "elements", "hops", "rules", "routes", "fou", "links")
        return ups + [view for name in order for view in self._preview(name, ups=False)]

    def _preview(self, name: str, *, ups: bool) -> Iterator[Preview]:
        for change in sorted(self._changes(name, ups=ups), key=lambda change: describe(name, change.key)):
            action = "remove" if change.new is None else "add" if change.old is None else "change"
            yield Preview(action, describe(name, change.key), values(change) if name in ("sysctls", "links") else "")

    def _refresh(self) -> None:
        """Read the stale tables again, and look at whatever differs."""
        stale, self._stale = self._stale, set()
        for name in stale & set(SMALL):
            self._small[name] = self._read(name)
            self._compare(name)
        if stale & set(NFT):
            self._refresh_nft()

    def _read_nft(self) -> NftState | None:
        """None, and a trouble of everybody who needs it, where nftables cannot be used on this host."""
        where = ("elements", NFT_UNUSABLE)
        try:
            state = self.kernel.nft.read()
        except NftError as error:
            wanted = self.intent.ledger.tables["elements"]
            owners = tuple(sorted({owner for key in wanted for owner in self.intent.owner_of("elements", key)}))
            if self.troubles.add(where, owners, Reason.KERNEL_REFUSED, str(error), self.clock()):
                log.error("%s", error)
            return None
        self.troubles.clear(where)
        self._nft = state
        return state

    def _refresh_nft(self) -> None:
        state = self._read_nft()
        if state is None:
            return
        damage = state.damage
        if damage:
            log.warning("drift: our nftables tables: %s; mended", damage)
        elif state.outdated:
            log.info("our nftables tables are another version's; replaced")
        if damage or state.outdated:
            self.kernel.nft.write()
            self._read_nft()
        for name in NFT:
            self._compare(name)
            if damage:
                self._expected[name] |= self._dirty[name]  # gone with their table, which has been told

    def _read(self, name: str) -> dict[Any, Any]:
        if name == "sysctls":
            return dict(self.kernel.sysctls.read(self.intent.wanted("sysctls").keys() | self._found.keys()))
        return dict(self._tables[name].read())

    def _found_rows(self, name: str) -> Mapping[Any, Any]:
        """What the kernel had when it was last read; of nftables, what its table keeps in step with every write."""
        if name in self._small:
            return self._small[name]
        return self._nft.elements if name == "elements" else self._nft.hops

    def _compare(self, name: str) -> None:
        mirror = self._found_rows(name)
        wanted = self.intent.ledger.tables[name]
        for key in mirror.keys() | set(wanted):
            if not self._is_right(name, key):
                self._dirty[name].add(key)

    def _wanted(self, name: str, key: Any) -> Any:
        row = self.intent.ledger.tables[name].get(key)
        if name == "sysctls" and row is None and key in self._found:
            # Switches are only raised while the agent is here; ``release`` restores them.
            return SysctlRow(self._found[key].wrote)
        return row

    def _is_right(self, name: str, key: Any) -> bool:
        wanted, found = self._wanted(name, key), self._found_rows(name).get(key)
        if name == "sysctls" and wanted is not None and found is not None:
            return satisfies(wanted, found.value)
        return bool(wanted == found)

    # small tables

    def _changes(self, name: str, *, ups: bool) -> list[Change[Any, Any]]:
        """Dirty rows of one direction that really differ; the others are done with."""
        ledger, mirror, now = self.intent.ledger.tables[name], self._found_rows(name), self.clock()
        kept = self._found if name == "sysctls" else ()
        dirty = {key for key in self._dirty[name] if (key in ledger or key in kept) is ups}
        if name == "sysctls" and ups:
            for key in self._dirty[name] - dirty:  # wanted no more, and never raised by us
                self._settled(name, key)
            if unread := dirty - mirror.keys():
                self._small[name].update(self.kernel.sysctls.read(unread))
                dirty -= self._without_interface(dirty - mirror.keys())
        wanted = {key: row for key in dirty if (row := self._wanted(name, key)) is not None}
        found = {key: mirror[key] for key in dirty if key in mirror}
        if name == "sysctls":  # a value that satisfies what is wanted counts as that
            found |= {key: wanted[key] for key in wanted.keys() & found.keys() if self._is_right(name, key)}
        differing = diff(wanted, found, dirty)
        for key in dirty - {change.key for change in differing}:
            self._settled(name, key)
        changes = []
        for change in differing:
            if self.troubles.waiting((name, change.key), now):
                self._dirty[name].discard(change.key)
            else:
                changes.append(Change(change.key, mirror.get(change.key), change.new))
        return changes

    def _without_interface(self, paths: set[str]) -> set[str]:
        """Switches whose interface is gone, as that of a pod that has ended: there is nothing to set or to put back.

        A new interface is told by the kernel (``RTM_NEWNETCONF``), and begins with values of its own.
        """
        gone = {path for path in paths if self.kernel.sysctls.is_of_nothing(path)}
        if known := gone & self._found.keys():
            with self.store.transaction():
                for path in known:
                    del self._found[path]
                    self.store.put_sysctl(path, None)
        for path in gone:
            self._dirty["sysctls"].discard(path)
            self._expected["sysctls"].discard(path)
            self.troubles.clear(("sysctls", path))
        return gone

    def _settled(self, name: str, key: Any) -> None:
        self._dirty[name].discard(key)
        self._expected[name].discard(key)
        if self.troubles.clear((name, key)):
            log.info("%s: now as wanted", describe(name, key))

    def _write(self, name: str, *, ups: bool) -> None:
        changes = self._changes(name, ups=ups)
        if name == "addresses" and ups:
            changes = self._ready(changes)
        if not changes:
            return
        self._tell_drift(name, changes)
        if name == "sysctls":
            changes = self._remember(changes)
        outcomes = self._tables[name].write(changes)
        back = self._tables[name].read([change.key for change in changes])
        self._take_back(name, changes, outcomes, back)
        if name == "addresses":
            for change in changes:
                if not ups:
                    self.placing.left(change.key)
                elif change.key in back:
                    self.placing.taken(change.key)
        if name == "links" and ups:
            self._after_links({change.key for change in changes})

    def _take_back(
        self,
        name: str,
        changes: list[Change[Any, Any]],
        outcomes: Sequence[Outcome[Any]],
        back: Mapping[Any, Any],
        because: str = "",
    ) -> None:
        """Believe the kernel's read-back, not the write; tell what is still not as wanted.

        ``because``: why rows could not be written that no outcome names.
        """
        told = {outcome.key: outcome for outcome in outcomes}
        for change in changes:
            key = change.key
            if name in self._small:
                self._small[name].pop(key, None)
                if key in back:
                    self._small[name][key] = back[key]
            outcome = told.get(key)
            if self._is_right(name, key):
                self._settled(name, key)
                continue
            self._dirty[name].discard(key)
            foreign = outcome is not None and outcome.verdict is Verdict.FOREIGN
            message = outcome.message if outcome is not None else because
            self._trouble(
                name,
                key,
                Reason.FOREIGN_ENTRY if foreign else Reason.KERNEL_REFUSED,
                message or f"the kernel has {back.get(key)} after writing {change.new}; somebody else changes it too",
            )

    def _trouble(self, name: str, key: Any, reason: Reason, message: str) -> None:
        owners = self.intent.owner_of(name, key)
        if self.troubles.add((name, key), owners, reason, message, self.clock()):
            log.warning("%s (%s): %s", describe(name, key), ", ".join(owners), message)

    def _tell_drift(self, name: str, changes: list[Change[Any, Any]]) -> None:
        """Somebody changed what we had made: say so once, as it is mended."""
        if not self._started:
            return
        for change in changes:
            if change.key not in self._expected[name] and (name, change.key) not in self.troubles:
                what = "was gone" if change.old is None else "was changed" if change.new is not None else "appeared"
                log.warning("drift: %s %s; mended", describe(name, change.key), what)

    def _remember(self, changes: list[Change[Any, Any]]) -> list[Change[Any, Any]]:
        """Keep the value a switch had before us, durably, before writing it."""
        kept = []
        with self.store.transaction():
            for change in changes:
                if change.old is not None and change.new is not None:
                    before = self._found.get(change.key)
                    entry = FoundSysctl(change.old.value if before is None else before.found, change.new.value)
                    self._found[change.key] = entry
                    self.store.put_sysctl(change.key, entry)
                kept.append(change)
        return kept

    def _after_links(self, names: set[str]) -> None:
        """A link that was made (anew) has neither the switches nor the addresses of the one before."""
        switches = self._small["sysctls"]
        for path in [path for path in switches if not names.isdisjoint(path.split("/"))]:
            del switches[path]
            self._dirty["sysctls"].add(path)
            self._expected["sysctls"].add(path)
        self._small["addresses"] = self._read("addresses")
        self._compare("addresses")
        self._expected["addresses"] |= {key for key in self._dirty["addresses"] if key.interface in names}

    # addresses

    def _ready(self, changes: list[Change[AddressKey, Any]]) -> list[Change[AddressKey, Any]]:
        """Those whose ground stands and, on a real network, that nobody else answers for."""
        blocked = self.troubles.blocking(DIRECTORS_GROUND)
        ready = []
        for change in changes:
            key = change.key
            owners = self.intent.owner_of("addresses", key)
            if (owners and all(owner in blocked for owner in owners)) or self.services.is_without(key.address):
                self._dirty["addresses"].discard(key)
                self._trouble("addresses", key, Reason.KERNEL_REFUSED, "waits for what must stand before it")
            elif self.services.unready(key.address):
                continue
            elif self.placing.may_take(key):
                ready.append(change)
            else:
                self._dirty["addresses"].discard(key)
        return ready

    def probed(self, answers: Mapping[AddressKey, str]) -> None:
        """Why each address cannot be taken, in words; empty where it can."""
        vacant = {key for key, problem in answers.items() if not problem}
        self.placing.answered(answers.keys(), vacant)
        self._dirty["addresses"] |= vacant
        for key in answers.keys() - vacant:
            self._trouble("addresses", key, Reason.ADDRESS_IN_USE, answers[key])

    # nftables

    def _write_nft(self, *, ups: bool) -> None:
        elements, hops = self._changes("elements", ups=ups), self._changes("hops", ups=ups)
        if not elements and not hops:
            return
        self._tell_drift("elements", elements)
        self._tell_drift("hops", hops)
        outcomes = self.kernel.nft.write(elements, hops)
        state = self._read_nft()
        if state is None:
            return
        because = "; ".join(o.message for o in outcomes if isinstance(o.key, Feature) and o.message)
        told = {kind: [o for o in outcomes if isinstance(o.key, kind)] for kind in (NftKey, HopKey)}
        self._take_back("elements", elements, told[NftKey], state.elements, because)
        self._take_back("hops", hops, told[HopKey], state.hops, because)
