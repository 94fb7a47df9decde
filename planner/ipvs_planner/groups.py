"""DirectorGroups as the planner needs them: ranges, policy and announcement, parsed once."""

from collections.abc import Iterable, Mapping

import msgspec

from ipvs_api.addresses import AddressRange, parse_range
from ipvs_api.directorgroup import Announcement, DirectorGroup, KernelSettings, NamespacesFrom
from ipvs_api.meta import LabelSelector
from ipvs_api.node import AnnouncementKind
from ipvs_api.plan import PLAN_DIRECTORS, PlanDirector
from ipvs_planner.nodes import NodeFacts, Prefix, parse_prefix
from ipvs_planner.packed import V4, V6, Packed, parse_address
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.rooms import family_of, givable
from ipvs_planner.selectors import NAMESPACE_NAME, faults, keys, selects

SUPPORTED = (AnnouncementKind.STATIC, AnnouncementKind.NONE)


class GroupFacts(msgspec.Struct, frozen=True):
    """``findings``: what is wrong with the group as it is written; then the rest is what could be read of it.

    ``givable``: what of ``ranges`` is given to those who name no address, sorted, without overlaps; ``families``: the
    packed lengths of that, IPv4 first. ``admits``: the selector for namespaces, None for all. ``announcement`` None:
    not exactly one was named.
    """

    name: str
    generation: int
    selector: LabelSelector
    interface: str
    addresses: tuple[str, ...]
    ranges: tuple[AddressRange, ...]
    givable: tuple[AddressRange, ...]
    families: tuple[int, ...]
    admits: LabelSelector | None
    static_backends: tuple[Prefix, ...]
    announcement: AnnouncementKind | None
    gateways: tuple[str, ...]
    kernel: KernelSettings
    connection_sync: bool
    findings: tuple[Finding, ...]

    def contains(self, address: Packed) -> bool:
        version, value = (4 if len(address) == V4 else 6), int.from_bytes(address, "big")
        return any(span.version == version and span.first <= value <= span.last for span in self.ranges)

    def admits_namespace(self, namespace: str, labels: Mapping[str, str] | None) -> bool:
        """``labels`` of the Namespace; None: it is not known, only its name is."""
        if self.admits is None:
            return True
        if labels is None:
            return not self.namespace_labels and selects(self.admits, {NAMESPACE_NAME: namespace})
        return selects(self.admits, {**labels, NAMESPACE_NAME: namespace})

    @property
    def namespace_labels(self) -> tuple[str, ...]:
        """What ``allowedNamespaces`` looks at besides the name."""
        return tuple(sorted(keys(self.admits) - {NAMESPACE_NAME})) if self.admits is not None else ()

    def admits_backend(self, address: Packed) -> bool:
        return any(prefix.holds(address) for prefix in self.static_backends)

    @property
    def size(self) -> int:
        """How many addresses the ranges hold; overlaps count once."""
        total, reached = 0, (0, -1)
        for span in sorted(self.ranges):
            start = max(span.first, reached[1] + 1) if span.version == reached[0] else span.first
            total += max(0, span.last - start + 1)
            last = max(span.last, reached[1]) if span.version == reached[0] else span.last
            reached = (span.version, last)
        return total


class Directors(msgspec.Struct, frozen=True):
    """Who directs for a group now, sorted by name.

    ``gateways``: where NAT ``Gateway`` replies go, by family (packed length). ``matching``: how many Nodes the selector
    matches, ``PLAN_DIRECTORS`` of which are taken.
    """

    nodes: tuple[str, ...] = ()
    plan: tuple[PlanDirector, ...] = ()
    holder: str = ""
    gateways: dict[int, str] = {}
    matching: int = 0

    def holding(self, turn: int) -> str:
        """The director that has an address of that turn on its interface; empty where none does.

        ``turn`` (``directorIndex`` of the address's claim) counts a virtual service's addresses of one family, so that
        each director has some of them. Everything else has turn 0: the first director.
        """
        return self.nodes[turn % len(self.nodes)] if self.holder else ""


def group_facts(group: DirectorGroup) -> GroupFacts:
    spec = group.spec
    faulty: list[str] = []
    ranges: dict[str, AddressRange] = {}
    for index, text in enumerate(spec.addresses):
        try:
            ranges[text] = parse_range(text)
        except ValueError as error:
            faulty.append(
                f"spec.addresses[{index}]: found {text!r} ({error}), "
                "wanted an address, a CIDR such as 192.0.2.0/28 or a range such as 192.0.2.32-192.0.2.40"
            )
    if not spec.addresses:
        faulty.append("spec.addresses: found none, wanted at least one address, CIDR or range")
    static_backends = []
    for index, text in enumerate(spec.allowed_static_backends):
        prefix = parse_prefix(text)
        if prefix is None:
            faulty.append(f"spec.allowedStaticBackends[{index}]: found {text!r}, wanted a CIDR such as 10.0.0.0/24")
        else:
            static_backends.append(prefix)
    gateways = []
    for index, text in enumerate(spec.gateway_addresses):
        address = parse_address(text)
        if isinstance(address, str):
            faulty.append(f"spec.gatewayAddresses[{index}]: found {text!r}, {address}; wanted a unicast address")
        else:
            gateways.append(address.text)
    faulty += faults(spec.node_selector, "spec.nodeSelector")
    admits: LabelSelector | None = None
    if spec.allowed_namespaces.from_ == NamespacesFrom.SELECTOR:
        admits = spec.allowed_namespaces.selector
        if admits is None:
            faulty.append("spec.allowedNamespaces.selector: found none, wanted one with from: Selector")
            admits = LabelSelector(match_labels={NAMESPACE_NAME: ""})
        faulty += faults(admits, "spec.allowedNamespaces.selector")
    elif spec.allowed_namespaces.selector is not None:
        faulty.append("spec.allowedNamespaces.selector: found one, which from: All does not look at; remove it")
    kind = _announcement(spec.announcement)
    given = givable(ranges.items())
    findings = [Finding(Reason.GROUP_INVALID, message) for message in faulty]
    if kind is None:
        findings.append(
            Finding(Reason.GROUP_INVALID, "spec.announcement: wanted exactly one of static, none, vrrp and bgp")
        )
    elif kind not in SUPPORTED:
        findings.append(
            Finding(
                Reason.ANNOUNCEMENT_UNSUPPORTED,
                f"spec.announcement: found {kind.lower()}, which this version does not have; wanted static or none",
            )
        )
    return GroupFacts(
        name=group.metadata.name,
        generation=group.metadata.generation,
        selector=spec.node_selector,
        interface=spec.interface,
        addresses=tuple(ranges),
        ranges=tuple(ranges.values()),
        givable=given,
        families=tuple(sorted({family_of(span) for span in given})),
        admits=admits,
        static_backends=tuple(static_backends),
        announcement=kind,
        gateways=tuple(gateways),
        kernel=spec.kernel,
        connection_sync=spec.connection_sync.enabled,
        findings=tuple(findings),
    )


def _announcement(announcement: Announcement) -> AnnouncementKind | None:
    named = [
        kind
        for kind, value in (
            (AnnouncementKind.STATIC, announcement.static),
            (AnnouncementKind.NONE, announcement.none),
            (AnnouncementKind.VRRP, announcement.vrrp),
            (AnnouncementKind.BGP, announcement.bgp),
        )
        if value is not None
    ]
    return named[0] if len(named) == 1 else None


def directors_of(group: GroupFacts, nodes: Iterable[NodeFacts]) -> Directors:
    """The directors among ``nodes``, the first ``PLAN_DIRECTORS`` by name.

    ``static``: the first is the holder of all VIPs but further ones of one virtual service. A gateway is the group's
    first ``gatewayAddresses`` entry of the family, else the first own address of that family of the holder (of
    ``none``: of the only director).
    """
    matching = sorted((node for node in nodes if selects(group.selector, node.labels)), key=lambda node: node.name)
    chosen = matching[:PLAN_DIRECTORS]
    holder = chosen[0].name if chosen and group.announcement is AnnouncementKind.STATIC else ""
    alone = chosen[0] if chosen and (holder or len(chosen) == 1) else None
    gateways = {}
    for family in (V4, V6):
        floating = next((text for text in group.gateways if (":" in text) == (family == V6)), "")
        gateway = floating or (alone.address(family) if alone is not None else "")
        if gateway:
            gateways[family] = gateway
    return Directors(
        nodes=tuple(node.name for node in chosen),
        plan=tuple(PlanDirector(node.name, node.addresses) for node in chosen),
        holder=holder,
        gateways=gateways,
        matching=len(matching),
    )
