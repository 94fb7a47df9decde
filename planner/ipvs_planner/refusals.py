"""Why a VirtualService cannot be done, as far as groups, nodes and other virtual services have a say."""

from collections.abc import Iterator, Sequence

from ipvs_api.plan import ServerRole
from ipvs_api.virtualservice import Forwarding
from ipvs_planner.claims import Winner
from ipvs_planner.contention import address_owner, gateway, return_winner, vip_winner
from ipvs_planner.groups import GroupFacts
from ipvs_planner.index import Key
from ipvs_planner.intake import Intake
from ipvs_planner.packed import FAMILIES, Address, Endpoint, Packed, address_of, describe, text_of
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.selectors import words
from ipvs_planner.servers import Placed
from ipvs_planner.snapshot import Snapshot

SHARING = "an address is shared, on other ports, only within one namespace and DirectorGroup"


def group_refusals(snapshot: Snapshot, key: Key, name: str) -> Iterator[Finding]:
    """The group is not there, not usable, has nobody to direct or does not admit the namespace."""
    group = snapshot.groups.get(name)
    if group is None:
        yield Finding(Reason.GROUP_NOT_FOUND, f"spec.directorGroup: found {name!r}, but there is no such DirectorGroup")
        return
    if group.findings:
        yield from (Finding(reason, f"DirectorGroup {name}: {message}") for reason, message in group.findings)
        return
    if not snapshot.lets_in(group, key.namespace):
        unknown = group.namespace_labels if key.namespace not in snapshot.backends.labels else ()
        yield Finding(
            Reason.NAMESPACE_NOT_ALLOWED,
            f"DirectorGroup {name} does not admit namespace {key.namespace}: spec.allowedNamespaces selects by "
            + (f"{', '.join(unknown)}, which is not known here" if unknown else words(group.admits)),
        )
    if not snapshot.directors[name].nodes:
        yield Finding(
            Reason.NO_DIRECTORS,
            f"DirectorGroup {name} has no directors: no Node matches spec.nodeSelector ({words(group.selector)})",
        )


def held_refusals(snapshot: Snapshot, key: Key, name: str) -> Iterator[Finding]:
    """What is programmed is for another group, or no longer inside its own group's ranges."""
    held = snapshot.held(key)
    if not held.group:
        return
    if held.group != name:
        yield Finding(
            Reason.GROUP_IMMUTABLE,
            f"spec.directorGroup: found {name!r}, but it is programmed for {held.group!r}; "
            "create another VirtualService and delete this one",
        )
        yield from group_refusals(snapshot, key, held.group)
    group = snapshot.groups.get(held.group)
    facts = snapshot.facts(key)
    if group is None or group.findings or not (held.group != name or (facts is not None and facts.broken)):
        return
    for address in sorted({address_of(vip) for vip in held.vips}):
        if not group.contains(address):
            yield _outside(f"programmed with {text_of(address)}", group)


def _outside(found: str, group: GroupFacts) -> Finding:
    return Finding(
        Reason.ADDRESS_OUTSIDE_GROUP,
        f"{found}, wanted an address of DirectorGroup {group.name} ({', '.join(group.addresses)})",
    )


def address_refusals(snapshot: Snapshot, key: Key, intake: Intake) -> Iterator[Finding]:
    """Where nothing allocates: no address, one that is not the group's to give, or one that somebody else has."""
    group = snapshot.groups[intake.group]
    if not intake.vips:
        yield Finding(
            Reason.ADDRESS_REQUIRED,
            f"spec.addresses: found none, wanted an address of DirectorGroup {group.name} "
            f"({', '.join(group.addresses)}); nothing here chooses one",
        )
    for vip in intake.vips:
        unfit = unfit_address(snapshot, group, vip, f"spec.addresses: found {vip.text}")
        yield from unfit or address_conflicts(snapshot, key, vip.packed) or port_conflicts(snapshot, key, vip.packed)


def unfit_address(snapshot: Snapshot, group: GroupFacts, vip: Address, found: str) -> list[Finding]:
    """Not one of the group's, or a node's own."""
    if not group.contains(vip.packed):
        return [_outside(found, group)]
    node = snapshot.nodes.whose(vip.packed)
    if node is None:
        return []
    return [
        Finding(
            Reason.ADDRESS_IS_NODE,
            f"{found}, Node {node.name}'s own address, whose other ports would be closed; "
            "wanted an address that no host has",
        )
    ]


def address_conflicts(snapshot: Snapshot, key: Key, address: Packed) -> list[Finding]:
    """Without a claim on it: another namespace or group has the address, or comes before."""
    facts = snapshot.facts(key)
    if facts is None or not snapshot.stakes.addresses.disputed(address):
        return []
    first = address_owner(snapshot, address)
    if first is None or first.owner == facts.owner:
        return []
    return [
        Finding(
            Reason.ADDRESS_CONFLICT,
            f"spec.addresses: {text_of(address)} belongs to {_why(first, key, facts.created)}; {SHARING}",
        )
    ]


def port_conflicts(snapshot: Snapshot, key: Key, address: Packed) -> list[Finding]:
    """Another of the same namespace and group has a protocol and port of the address, or comes before."""
    facts = snapshot.facts(key)
    found = []
    for vip in facts.vips if facts is not None else ():
        if facts is None or address_of(vip) != address or not snapshot.stakes.vips.shared(vip):
            continue
        winner = vip_winner(snapshot, vip, facts.owner)
        if winner is not None and winner.key != key:
            found.append(
                Finding(
                    Reason.ADDRESS_CONFLICT,
                    f"spec.ports: {describe(vip)} belongs to {_why(winner, key, facts.created)}",
                )
            )
    return found


def _why(winner: Winner, key: Key, created: str) -> str:
    name = f"VirtualService {winner.key} (DirectorGroup {winner.owner.group})"
    if winner.holds:
        return f"{name}, which is programmed with it"
    if winner.claims:
        return f"{name}, which has the address"
    return f"{name}, which is older" if winner.created != created else f"{name}, which comes first by name"


def server_refusals(
    snapshot: Snapshot, intake: Intake, placed: Sequence[Placed], directors: Sequence[str]
) -> Iterator[Finding]:
    """Static real servers that may not be named, or that cannot take the traffic the way it is forwarded."""
    group = snapshot.groups[intake.group]
    if not snapshot.trusted:
        for server in intake.servers:
            if not group.admits_backend(server.packed):
                yield Finding(
                    Reason.STATIC_BACKEND_NOT_ALLOWED,
                    f"spec.backends.static[{server.position}].address: found {server.text}, wanted one inside "
                    f"DirectorGroup {group.name}'s spec.allowedStaticBackends "
                    f"({', '.join(prefix.text for prefix in group.static_backends) or 'none'})",
                )
    if intake.forwarding is Forwarding.NAT:
        return
    mapped = [port for port in intake.ports if port.target != port.number]
    for server, role, node, _ in placed:
        if mapped and role is not ServerRole.SECOND_HOP:
            yield Finding(
                Reason.PORT_MAPPING,
                f"spec.ports: {mapped[0].name} maps {mapped[0].number} to {mapped[0].target}, but {intake.forwarding} "
                f"leaves the port as it is and spec.backends.static[{server.position}] ({server.text}) takes packets "
                "itself; wanted the same port, or forwarding NAT",
            )
        if intake.one_packet and node is not None and node.name in directors:
            yield Finding(
                Reason.ONE_PACKET_FORWARDING,
                f"spec.backends.static[{server.position}]: {server.text} is on {node.name}, which directs as well and "
                "would reach it by NAT, where onePacket answers come from the real server's address",
            )
    for family in sorted({len(vip.packed) for vip in intake.vips}):
        own = [entry for entry in placed if len(entry.server.packed) == family]
        if own and not any(entry.reachable for entry in own):
            yield Finding(
                Reason.NODE_ADDRESS_MISSING,
                f"spec.backends.static: no real server can be reached over {FAMILIES[family]}: "
                f"{missing_address(own[0])}",
            )


def missing_address(entry: Placed) -> str:
    """A second hop whose node the directors cannot forward to."""
    node = entry.node.name if entry.node is not None else ""
    family = FAMILIES[len(entry.server.packed)]
    return f"{entry.server.text} is behind Node {node}, which has no {family} address of type InternalIP to forward to"


def gateway_refusals(snapshot: Snapshot, key: Key, intake: Intake) -> Iterator[Finding]:
    """NAT ``Gateway`` without a gateway, or with real servers whose replies go to another one."""
    if not intake.routed:
        return
    group, directors = snapshot.groups[intake.group], snapshot.directors[intake.group]
    for vip in intake.vips:
        family = len(vip.packed)
        if gateway(snapshot, intake.group, family):
            continue
        found = (
            f"director {directors.nodes[0]} has no {FAMILIES[family]} address of type InternalIP"
            if directors.holder or len(directors.nodes) == 1
            else f"{len(directors.nodes)} directors and none of them holds the address"
        )
        yield Finding(
            Reason.GATEWAY_REQUIRED,
            f"spec.nat.returnPath: Gateway for {vip.text} needs an address that real servers route back to: {found}; "
            f"name one under spec.gatewayAddresses of DirectorGroup {group.name}",
        )
    for end in intake.return_endpoints():
        other = other_gateway(snapshot, key, intake.group, end)
        if other:
            yield Finding(Reason.GATEWAY_AMBIGUOUS, f"spec.backends.static: {other}")


def other_gateway(snapshot: Snapshot, key: Key, group: str, end: Endpoint) -> str:
    """In words, why replies of a real server's endpoint cannot go to the gateway of ``group``; empty: they can."""
    winner = return_winner(snapshot, end) if snapshot.stakes.returns.disputed(end) else None
    if winner is None or winner.key == key:
        return ""
    family = len(address_of(end))
    mine, other = gateway(snapshot, group, family), gateway(snapshot, winner.owner.group, family)
    if mine == other:
        return ""
    return (
        f"replies of {describe(end)} would go to gateway {mine}, but VirtualService {winner.key} (DirectorGroup "
        f"{winner.owner.group}) has them go to {other or 'another one'}; use returnPath Masquerade, another port, or "
        "one DirectorGroup for both"
    )
