"""One node's agent: a source of plans, what is wanted, the kernel, and the truth about it. No event loop here."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ipvs_agent.converge import Converger, Progress
from ipvs_agent.desired.settings import settings
from ipvs_agent.desired.share import Context
from ipvs_agent.facts import Host, Interface, Neighbour
from ipvs_agent.intent import Intent
from ipvs_agent.kernel import announce as wire
from ipvs_agent.kernel.notifications import Notifications
from ipvs_agent.kernel.whole import Kernel
from ipvs_agent.paths import found as found_paths
from ipvs_agent.report import Standing, report
from ipvs_agent.rows import LINK_ALIAS, AddressKey
from ipvs_agent.services import unpack_destination_key
from ipvs_agent.sources.manifests import ManifestsSource
from ipvs_agent.store import Store
from ipvs_api.node import REPORT_EXCEPTIONS, IPVSNodeSpec, IPVSNodeStatus

log = logging.getLogger(__name__)


def boot_clock() -> float:
    """Seconds since boot, suspended time included; durable times are meant on it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall_clock() -> str:
    """RFC 3339, seconds, UTC."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def at_wall_clock(boot_seconds: float) -> str:
    """The wall clock's time at ``boot_seconds`` of the boot clock."""
    at = datetime.now(UTC).timestamp() - (boot_clock() - boot_seconds)
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _without_ours(link: Interface) -> Interface:
    return link._replace(addresses=tuple(entry for entry in link.addresses if not entry.ours))


class Agent:
    """Everything but waiting: the loop (or ``plan``, ``status``) calls it from the kernel thread."""

    def __init__(self, node: str, manifests: Path | None, store: Store) -> None:
        self.node, self.store, self.clock = node, store, boot_clock
        self.source = (
            ManifestsSource(manifests, node, dict(store.plans()), store.node_spec()) if manifests is not None else None
        )
        self.status = IPVSNodeStatus()
        self.spec = store.node_spec()
        self.audit_due = False
        self.errors: tuple[str, ...] = ()
        self._notifications: Notifications | None = None

    @property
    def to_probe(self) -> bool:
        return bool(self.converger.to_probe)

    @property
    def to_announce(self) -> bool:
        return bool(self.converger.to_announce)

    def open(self) -> Notifications:
        """Open the kernel, take up what is there. Returns the notifications to wait for."""
        self._notifications = Notifications()
        self.start()
        return self._notifications

    @contextmanager
    def looking(self) -> Iterator[None]:
        """Without a loop, for commands that only look."""
        self.start()
        try:
            yield
        finally:
            self.close()

    def start(self) -> None:
        """Look at the host and at what is wanted; nothing is written to the kernel yet."""
        self.kernel = Kernel()
        self._wanted_neighbours: set[str] = set()
        self._neighbours: dict[str, Neighbour] = {}
        host = self.kernel.host(self.node, self._wanted_neighbours)
        self.store.begin_boot(host.boot_id)
        self.store.put_node_name(self.node)
        paths = found_paths(self.kernel.routes.read())
        self.intent = Intent(self.store, self._context(host, paths), self.clock())
        self.intent.take_settings(settings(self.spec))
        self.converger = Converger(self.kernel, self.store, self.intent, self.clock)
        self.converger.adopt_addresses()
        self._others = self.kernel.other_managers()
        self._look_at_host()

    def close(self) -> None:
        """The kernel keeps what it has."""
        if self._notifications is not None:
            self._notifications.close()
        self.kernel.close()
        self.store.close()

    def _context(self, host: Host, paths: Mapping[tuple[int, str], int]) -> Context:
        """Values that switches had before us are what decisions are made from: ours must not look like the host's."""
        before = {path: entry.found for path, entry in self.store.sysctls().items()}
        own = Host(
            host.node,
            host.boot_id,
            host.kernel_version,
            {name: _without_ours(link) for name, link in host.interfaces.items() if link.alias != LINK_ALIAS},
            host.routes,
            self._remembered(host.neighbours),
            {**host.sysctls, **before},
        )
        return Context(own, {group.name: group for group in self.spec.groups}, paths)

    def _remembered(self, found: Mapping[str, Neighbour]) -> dict[str, Neighbour]:
        """A neighbour that is being asked again is what it was until it answers, or is known not to."""
        for address in self._wanted_neighbours:
            now = found.get(address)
            if now is not None and (now.reachable or now.failed):
                self._neighbours[address] = now
        self._neighbours = {name: known for name, known in self._neighbours.items() if name in self._wanted_neighbours}
        return {**found, **self._neighbours}

    # what comes in

    def read_source(self, names: frozenset[str] | None = None) -> float | None:
        """Look at the manifests (the files ``names``; None: all). Returns seconds until they want another look."""
        assert self.source is not None
        update = self.source.look(time.monotonic(), names)
        for error in update.errors:
            if error not in self.errors:
                log.error("%s", error)
        self.errors = update.errors
        now = self.clock()
        if update.node != self.spec:
            self._take_spec(update.node, now)
        if update.plans:
            self.converger.touch(self.intent.apply(update.plans, now))
            if self.intent.unresolved:
                self._look_at_host()
        return update.recheck

    def _take_spec(self, spec: IPVSNodeSpec, now: float) -> None:
        self.spec = spec
        self.store.put_node_spec(spec)
        context = self._context(self.intent.context.host, self.intent.context.paths)
        self.converger.touch(self.intent.reconsider(context, now))
        self.converger.touch(self.intent.take_settings(settings(spec)))

    def take_notifications(self) -> set[str]:
        """Tables (and ``host``) that the kernel says have changed."""
        assert self._notifications is not None
        return set(self._notifications.drain(self._wanted_neighbours))

    def _look_at_host(self) -> None:
        """Read the host's facts again; work everything out anew where they differ."""
        self._wanted_neighbours = {address for address, count in self.intent.neighbours.items() if count > 0}
        if self.intent.unresolved:
            self.kernel.resolve(self.intent.unresolved)
            self.intent.unresolved.clear()
        host = self.kernel.host(self.node, self._wanted_neighbours)
        context = self._context(host, self.intent.context.paths)
        if context.host != self.intent.context.host:
            self.converger.touch(self.intent.reconsider(context, self.clock()))

    # what goes out

    def step(self, notified: set[str]) -> Progress:
        """One bounded piece of the pass."""
        if self.audit_due:
            self.audit_due = False
            self.intent.unresolved |= self._wanted_neighbours
            self._others = self.kernel.other_managers()
            self.converger.audit()
            self._look_at_host()
        elif notified:
            self.converger.mark_stale(notified)
            self._look_at_host()
        return self.converger.step()

    def take_probes(self) -> frozenset[AddressKey]:
        return self.converger.take_probes()

    def take_announcements(self) -> frozenset[AddressKey]:
        keys, self.converger.to_announce = frozenset(self.converger.to_announce), set()
        return keys

    def probe(self, keys: Collection[AddressKey]) -> dict[AddressKey, str]:
        """Why each address cannot be taken now, in words; empty where nobody answers for it (RFC 5227). Takes 0.6 s."""
        own = [link.mac for link in self.intent.context.host.interfaces.values()]
        found: dict[AddressKey, str] = {}
        for link, addresses in self._by_interface(keys):
            try:
                holders = wire.probe(link, addresses, own)
            except OSError as error:
                words = f"nobody could be asked on {link.name} whether it is free: {error.strerror}; it is not taken"
                found.update({AddressKey(link.name, address): words for address in addresses})
                continue
            for address in addresses:
                mac = holders.get(address)
                words = (
                    f"address {address} is already answered for by {mac} on {link.name}; it is not taken. Remove it "
                    "there, or choose another address"
                )
                found[AddressKey(link.name, address)] = words if mac is not None else ""
        return found

    def announce(self, keys: Collection[AddressKey]) -> None:
        """Tell the network that these addresses are here (gratuitous ARP, unsolicited neighbour advertisement)."""
        for link, addresses in self._by_interface(self.converger.held.intersection(keys)):
            try:
                wire.announce(link, addresses, routers=self._gateways())
            except OSError as error:
                log.warning("addresses could not be announced on %s: %s; it is tried again", link.name, error.strerror)

    def _by_interface(self, keys: Collection[AddressKey]) -> Iterator[tuple[Interface, list[str]]]:
        for name in sorted({key.interface for key in keys}):
            link = self.intent.context.host.interfaces.get(name)
            if link is not None:
                yield link, sorted(key.address for key in keys if key.interface == name)

    def _gateways(self) -> set[str]:
        return {address for group in self.spec.groups for address in group.gateway_addresses}

    def probed(self, answers: Mapping[AddressKey, str]) -> None:
        self.converger.probed(dict(answers))

    def make_report(self) -> IPVSNodeStatus:
        """The report after a pass; told in the log where a condition turned."""
        before = {condition.type: condition for condition in self.status.conditions}
        self.status = report(self.standing(), self.status, wall_clock())
        for condition in self.status.conditions:
            known = before.get(condition.type)
            if known is not None and known.reason == condition.reason in ("Repairing", "Programming"):
                continue  # the same, a step further on
            if known is None or (known.status, known.message) != (condition.status, condition.message):
                log.info("%s=%s %s: %s", condition.type, condition.status, condition.reason, condition.message)
        return self.status

    def _outstanding(self) -> set[str]:
        """Plans that are not in the kernel yet, one more than a report names at the most."""
        found: set[str] = set()
        for owner in self.converger.outstanding():
            found.add(owner)
            if len(found) > REPORT_EXCEPTIONS:
                break
        return found

    def standing(self) -> Standing:
        services = self.converger.services
        return Standing(
            host=self.intent.context.host,
            plans=len(self.intent.drain_timeouts),
            directing=len(self.intent.directing),
            serving=len(self.intent.serving),
            findings=self.intent.findings,
            troubles=[trouble for _, trouble in self.converger.troubles],
            drains=[
                (owner, unpack_destination_key(name)[0], at_wall_clock(draining.since))
                for key, name, draining in services.draining()
                for owner in self.intent.owner_of("ipvs", key)[:1]
            ],
            outstanding=self._outstanding(),
            foreign=[*services.foreign, *self._others],
            source_errors=self.errors,
            repairing=services.repairing,
        )
