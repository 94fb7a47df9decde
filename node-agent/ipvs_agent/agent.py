"""One node's agent: a source of plans, what is wanted, the kernel, and the truth about it. No event loop here."""

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Set
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from ipvs_agent.converge import Converger, Progress
from ipvs_agent.desired.settings import settings
from ipvs_agent.desired.share import Context, Finding, Reason, Severity
from ipvs_agent.facts import Host, Interface, Neighbour
from ipvs_agent.intent import Intent
from ipvs_agent.kernel import announce as wire
from ipvs_agent.kernel.genetlink import FamilyMissingError
from ipvs_agent.kernel.notifications import Notifications
from ipvs_agent.kernel.whole import Kernel
from ipvs_agent.ledger import Owner
from ipvs_agent.observed import Observed
from ipvs_agent.paths import found as found_paths
from ipvs_agent.preview import Preview
from ipvs_agent.report import NOT_LISTED, SourceState, Standing, report
from ipvs_agent.rows import LINK_ALIAS, AddressKey
from ipvs_agent.services import unpack_destination_key
from ipvs_agent.sources.source import Source, Update
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
    """Everything but waiting: the loop (or ``plan``, ``status``) calls it from the kernel thread.

    ``source`` None: only what was wanted last is known. ``sysctl_root``: where switches can be written.
    """

    def __init__(self, node: str, source: Source | None, store: Store, sysctl_root: Path = Path("/proc/sys")) -> None:
        self.node, self.source, self.store, self.clock = node, source, store, boot_clock
        self._sysctl_root = sysctl_root
        self.status = IPVSNodeStatus()
        self.spec = store.node_spec()
        self.audit_due = False
        self.errors: tuple[str, ...] = ()
        self.known = store.known_node() == node
        """What is wanted is known: from the source, or from an agent that ran here before. Until then the kernel keeps
        what it has: what nobody is known to want may be wanted."""
        self._problem = "Invalid"
        self._unreadable: Mapping[Owner, str] = {}
        self._observed = Observed()
        self._notifications: Notifications | None = None

    @property
    def to_probe(self) -> bool:
        return bool(self.converger.placing.to_probe)

    @property
    def to_announce(self) -> bool:
        return bool(self.converger.placing.to_announce)

    def open(self) -> Notifications:
        """Open the kernel, take up what is there. Returns the notifications to wait for. FamilyMissingError where it
        has no IPVS; this may be tried again then."""
        notifications = Notifications()
        try:
            self.start()
        except FamilyMissingError:
            notifications.close()
            raise
        self._notifications = notifications
        return notifications

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
        self.kernel = Kernel(self._sysctl_root)
        self._wanted_neighbours: set[str] = set()
        self._neighbours: dict[str, Neighbour] = {}
        host = self.kernel.host(self.node, self._wanted_neighbours)
        self.store.begin_boot(host.boot_id)
        self.store.put_node_name(self.node)
        paths = found_paths(self.kernel.routes.read())
        self.intent = Intent(self.store, self._context(host, paths), self.clock())
        self.intent.take_settings(settings(self.spec))
        self.converger = Converger(self.kernel, self.store, self.intent, self.clock)
        self._others = self._other_managers()
        self._look_at_host()

    def _other_managers(self) -> list[str]:
        """Those that matter where we direct."""
        ranges = [text for group in self.spec.groups if group.director for text in group.addresses]
        return self.kernel.other_managers(ranges)

    def close(self) -> None:
        """The kernel keeps what it has."""
        if self._notifications is not None:
            self._notifications.close()
        self.kernel.close()
        self.store.close()

    def _context(self, host: Host, paths: Mapping[tuple[int, str], int]) -> Context:
        """Values that switches had before us are what decisions are made from: ours must not look like the host's."""
        remembered = self.store.sysctls()
        before = {path: remembered[path].found for path in host.sysctls if path in remembered}
        own = Host(
            host.node,
            host.boot_id,
            host.kernel_version,
            {name: _without_ours(link) for name, link in host.interfaces.items() if link.alias != LINK_ALIAS},
            host.routes,
            self._remembered(host.neighbours),
            {**host.sysctls, **before},
        )
        return Context(own, {group.name: group for group in self.spec.groups}, paths, self.spec.pod_cidrs)

    def _remembered(self, found: Mapping[str, Neighbour]) -> dict[str, Neighbour]:
        """A neighbour that is being asked again is what it was until it answers, or is known not to."""
        for address in self._wanted_neighbours:
            now = found.get(address)
            if now is not None and (now.reachable or now.failed):
                self._neighbours[address] = now
        self._neighbours = {name: known for name, known in self._neighbours.items() if name in self._wanted_neighbours}
        return {**found, **self._neighbours}

    # what comes in

    def read_source(self) -> float | None:
        """Look at what is wanted now. Returns seconds until the source wants another look."""
        assert self.source is not None
        update = self.source.look(time.monotonic())
        for error in update.errors:
            if error not in self.errors:
                log.error("%s", error)
        self.errors, self._problem, self._unreadable = update.errors, update.reason, update.unreadable
        now = self.clock()
        self._note(update)
        if update.node != self.spec:
            self._take_spec(update.node, now)
        if update.plans:
            self.converger.touch(self.intent.apply(update.plans, now))
            if self.intent.unresolved:
                self._look_at_host()
        return update.recheck

    def _note(self, update: Update) -> None:
        """How far the source has come."""
        if update.known and not self.known:
            self.known = True
            self.store.put_known_node(self.node)
        if update.reported is not None:
            self.status = update.reported
            if update.reported.boot_id == self.intent.context.host.boot_id:
                self._observed.version = update.reported.observed_resource_version
        self._observed.arrive(update.plans, update.resource_version)

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
        if not self.known:
            return Progress(more=False, next_due=None)
        if self.audit_due:
            self.audit_due = False
            self.intent.unresolved |= self._wanted_neighbours
            self._others = self._other_managers()
            self.converger.audit()
            self._look_at_host()
        elif notified:
            self.converger.mark_stale(notified)
            self._look_at_host()
        return self.converger.step()

    def preview(self) -> list[Preview]:
        """What passes would change now."""
        return self.converger.preview() if self.known else []

    def take_probes(self) -> frozenset[AddressKey]:
        return self.converger.placing.take_probes()

    def take_announcements(self) -> frozenset[AddressKey]:
        return self.converger.placing.take_announcements()

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
        for link, addresses in self._by_interface(self.converger.placing.held.intersection(keys)):
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
        """The report after a pass; told in the log where a condition turned, and published."""
        before = {condition.type: condition for condition in self.status.conditions}
        outstanding = self._observed.settle(self.converger.outstanding(), REPORT_EXCEPTIONS)
        self.status = report(self.standing(outstanding), self.status, wall_clock())
        for condition in self.status.conditions:
            known = before.get(condition.type)
            if known is not None and known.reason == condition.reason in ("Repairing", "Programming"):
                continue  # the same, a step further on
            if known is None or (known.status, known.message) != (condition.status, condition.message):
                log.info("%s=%s %s: %s", condition.type, condition.status, condition.reason, condition.message)
        if self.source is not None:
            self.source.publish(self.status, settled=not outstanding)
        return self.status

    def _findings(self) -> Mapping[Owner, Collection[Finding]]:
        """What stands in the way of each plan, those among them that cannot be read."""
        if not self._unreadable:
            return self.intent.findings
        blocked = {
            owner: [*self.intent.findings.get(owner, ()), Finding(Reason.PLAN_UNREADABLE, words, "", Severity.BLOCK)]
            for owner, words in self._unreadable.items()
            if owner
        }
        return {**self.intent.findings, **blocked}

    def _source_state(self) -> SourceState:
        if self.source is None:
            return SourceState()
        if not self.known and not self.errors:
            return SourceState(self.source.condition, NOT_LISTED, ("what this node should do is not known yet",))
        return SourceState(self.source.condition, self._problem, self.errors)

    def standing(self, outstanding: Set[Owner]) -> Standing:
        """``outstanding``: owners some row of whom is not in the kernel as wanted, or still there."""
        services = self.converger.services
        return Standing(
            host=self.intent.context.host,
            plans=len(self.intent.drain_timeouts),
            directing=len(self.intent.directing),
            serving=len(self.intent.serving),
            findings=self._findings(),
            troubles=[trouble for _, trouble in self.converger.troubles],
            drains=[
                (owner, unpack_destination_key(name)[0], at_wall_clock(draining.since))
                for key, name, draining in services.draining()
                for owner in self.intent.owner_of("ipvs", key)[:1]
            ],
            outstanding=outstanding & self.intent.drain_timeouts.keys(),
            leaving=self.intent.leaving(self.converger.has),
            foreign=[*services.foreign, *self._others],
            source=self._source_state(),
            repairing=services.repairing,
            observed=self._observed.version,
        )
