"""Which addresses a VirtualService has, and the IPVSAddress objects that must say so before anybody uses them.

An address that is claimed stays with those it is claimed for, over restarts of the operator, restores of a backup and
everything that is made anew under its old name. New ones are the lowest that are free.
"""

from collections.abc import Collection, Iterator
from typing import NamedTuple

from ipvs_api.ipaddress import ADDRESS_OWNERS, AddressOwner, IPVSAddress
from ipvs_api.virtualservice import Forwarding, ReturnPath
from ipvs_planner.groups import GroupFacts
from ipvs_planner.index import Key
from ipvs_planner.intake import Intake
from ipvs_planner.packed import FAMILIES, Address, Packed, address_of, text_of
from ipvs_planner.pool import Claim
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.refusals import SHARING, address_conflicts, address_refusals, port_conflicts, unfit_address
from ipvs_planner.snapshot import ServiceFacts, Snapshot

NAMED_NODES = 10
"""At most this many nodes, and owners of an address, are named in a message."""


class Assignment(NamedTuple):
    """``claims``: for each of ``vips`` the claim as it has to be stored, but for its holders; none where nothing is
    claimed (a manifests directory). ``findings``: why it cannot have what it asks for; then the rest is without worth.
    """

    vips: tuple[Address, ...] = ()
    claims: tuple[Claim, ...] = ()
    findings: tuple[Finding, ...] = ()
    notes: tuple[Finding, ...] = ()

    @property
    def turns(self) -> tuple[int, ...]:
        """For each of ``vips``: which director has it (``Directors.holding``)."""
        return tuple(claim.turn for claim in self.claims) or (0,) * len(self.vips)


def assign(snapshot: Snapshot, key: Key, intake: Intake) -> Assignment:
    """The addresses of ``key``, whose group is there, can be used and admits it."""
    facts = snapshot.facts(key)
    if not snapshot.allocates or facts is None:
        return Assignment(intake.vips, findings=tuple(address_refusals(snapshot, key, intake)))
    group = snapshot.groups[intake.group]
    chosen = _requested if facts.asks is None else _allocated
    found = chosen(snapshot, key, intake, facts, group)
    return found._replace(findings=(*found.findings, *_beside_gateway(snapshot, intake, found)))


def to_claim(snapshot: Snapshot, assignment: Assignment, nodes: Collection[str]) -> tuple[IPVSAddress, ...]:
    """What has to be created (no uid) or updated (uid and resourceVersion of the stored one) before ``nodes`` are told
    of the addresses. Nodes that exist no more are taken off a claim when it is updated.
    """
    found = []
    for claim in assignment.claims:
        stored = snapshot.addresses.pool.claims.get(claim.address.packed)
        if stored is None or stored.owners != claim.owners or not set(nodes).issubset(stored.holders):
            there = (node for node in claim.holders if node in snapshot.nodes.facts)
            found.append(claim.with_holders({*nodes, *there}).object())
    return tuple(found)


class Released(NamedTuple):
    """``updates`` name one VirtualService less, or no holders; ``deletions`` would name no VirtualService. Both with
    uid and resourceVersion."""

    updates: tuple[IPVSAddress, ...] = ()
    deletions: tuple[IPVSAddress, ...] = ()


def release(snapshot: Snapshot, key: Key, *, settled: bool) -> Released:
    """The claims that ``key`` does not need any more, without it; those that stay its own though all is withdrawn,
    without holders.

    ``settled``: every node that its stored plans are labelled for has what they say and nothing else of it. Before that
    nothing is released; then, what they do not name, and all that they withdraw down to the last real server.
    """
    if not settled:
        return Released()
    pool, needed = snapshot.addresses.pool, _needed(snapshot, key)
    given_up = [pool.claims[address].without_owner(key) for address in pool.owned(key) if address not in needed]
    kept = [claim for claim in claimed_alone(snapshot, key) if claim.address.packed in needed and claim.holders]
    changed = [claim for claim in given_up if claim.owners]
    changed += [claim.with_holders(()) for claim in kept if _withdrawn(snapshot, key)]
    return Released(
        tuple(claim.object() for claim in changed),
        tuple(claim.object() for claim in given_up if not claim.owners),
    )


def claimed_alone(snapshot: Snapshot, key: Key) -> list[Claim]:
    """The claims of ``key`` that nobody else has a stored plan for: who their holders are is for ``key`` to say."""
    claims = (snapshot.addresses.pool.claims[address] for address in snapshot.addresses.pool.owned(key))
    return [claim for claim in claims if not any(other in snapshot.stored for other in claim.keys if other != key)]


def _withdrawn(snapshot: Snapshot, key: Key) -> bool:
    """What is stored for it withdraws everything down to the last real server."""
    plans = snapshot.stored.of(key)
    return bool(plans) and all(plan.spec.withdrawn and not plan.spec.backends for plan in plans)


def orphans(snapshot: Snapshot) -> set[Key]:
    """Whom claims name though they are not there and have no stored plan: deleted while nobody looked."""
    return {
        key for key in snapshot.addresses.pool.owners() if snapshot.facts(key) is None and not snapshot.held(key).vips
    }


def _needed(snapshot: Snapshot, key: Key) -> set[Packed]:
    """What ``key`` is programmed with and what it asks for, as far as it can be known and had.

    An address that was given to it stays its own while it is there, even where its group cannot give it now: nothing
    else remembers which one it was.
    """
    facts, pool = snapshot.facts(key), snapshot.addresses.pool
    needed = set() if _withdrawn(snapshot, key) else {address_of(vip) for vip in snapshot.held(key).vips}
    if facts is None:
        return needed
    if facts.broken:
        return needed.union(pool.owned(key))
    own = [address for address in pool.owned(key) if pool.claims[address].owner == facts.owner]
    if facts.asks is not None:
        return needed.union(snapshot.addresses.kept(key) if snapshot.addresses.may_ask(facts.owner) else own)
    group, asked = snapshot.groups.get(facts.owner.group), {address_of(vip) for vip in facts.vips}
    usable = group is not None and not group.findings
    return needed | {
        address
        for address in own
        if address in asked and not (usable and not snapshot.admits(facts.owner, address, holds=True))
    }


def _requested(snapshot: Snapshot, key: Key, intake: Intake, facts: ServiceFacts, group: GroupFacts) -> Assignment:
    claims: list[Claim] = []
    findings: list[Finding] = []
    for vip in intake.vips:
        claim = snapshot.addresses.pool.claims.get(vip.packed)
        refused = unfit_address(snapshot, group, vip, f"spec.addresses: found {vip.text}")
        if not refused and claim is not None:
            refused = _claimed(snapshot, key, facts, claim)
        elif not refused:
            refused = address_conflicts(snapshot, key, vip.packed)
        findings += refused or port_conflicts(snapshot, key, vip.packed)
        claims.append((claim or Claim(vip, facts.owner, ())).with_owner(key, intake.uid))
    return Assignment(intake.vips, tuple(claims), tuple(findings))


def _claimed(snapshot: Snapshot, key: Key, facts: ServiceFacts, claim: Claim) -> list[Finding]:
    """Why ``key`` cannot have, or share, what is claimed already."""
    if claim.owner == facts.owner and claim.names(key):
        return []
    owners = ", ".join(map(str, claim.keys[:NAMED_NODES])) or "nobody"
    who = f"{claim.address.text} belongs to VirtualService {owners} (DirectorGroup {claim.owner.group})"
    if not any(_asks_for(snapshot, other, claim) for other in claim.keys):
        return [Finding(Reason.ADDRESS_CONFLICT, f"spec.addresses: {who}, which is giving it up; {_until(claim)}")]
    if claim.owner != facts.owner:
        return [Finding(Reason.ADDRESS_CONFLICT, f"spec.addresses: {who}; {SHARING}")]
    if len(claim.owners) < ADDRESS_OWNERS:
        return []
    found = f"spec.addresses: {claim.address.text} is shared by {len(claim.owners)} VirtualServices"
    return [Finding(Reason.ADDRESS_FULL, f"{found}, wanted at most {ADDRESS_OWNERS}; use another address")]


def _asks_for(snapshot: Snapshot, key: Key, claim: Claim) -> bool:
    facts = snapshot.facts(key)
    if facts is None or facts.owner != claim.owner:
        return False
    return facts.broken or any(address_of(vip) == claim.address.packed for vip in facts.vips)


def _until(claim: Claim) -> str:
    nodes = ", ".join(claim.holders[:NAMED_NODES])
    more = f" and {len(claim.holders) - NAMED_NODES} more" if len(claim.holders) > NAMED_NODES else ""
    return (
        f"it is free when no node has it any more, which these may: {nodes or 'none'}{more}. A node that does not come "
        "back is forgotten when its Node is deleted or tainted node.kubernetes.io/out-of-service"
    )


def _allocated(snapshot: Snapshot, key: Key, intake: Intake, facts: ServiceFacts, group: GroupFacts) -> Assignment:
    findings, notes = _families(snapshot, key, intake, facts, group)
    chosen = snapshot.addresses.choose(key)
    if not chosen and not findings:
        findings.append(
            Finding(
                Reason.ADDRESSES_EXHAUSTED,
                f"spec.addresses: found none, and DirectorGroup {group.name} ({', '.join(group.addresses)}) has none "
                f"left: of {group.size} addresses {snapshot.addresses.givable(group.name)} can be given, and they are "
                "taken, or older VirtualServices wait for them; extend the group, or delete what is not needed",
            )
        )
    servers = {server.packed: server for server in intake.servers}
    vips = tuple(Address(address, text_of(address)) for address in chosen or ())
    for vip in vips:
        found = unfit_address(snapshot, group, vip, f"it was given {vip.text}")
        findings += found or port_conflicts(snapshot, key, vip.packed)
        if vip.packed in servers:
            findings.append(
                Finding(
                    Reason.BACKEND_IS_ADDRESS,
                    f"spec.backends.static[{servers[vip.packed].position}].address: found {vip.text}, which was given "
                    "to the virtual service itself; wanted a real server's",
                )
            )
    claims = tuple(_turned(snapshot, key, intake, facts, vips))
    return Assignment(vips, claims, tuple(findings), tuple(notes))


def _turned(
    snapshot: Snapshot, key: Key, intake: Intake, facts: ServiceFacts, vips: tuple[Address, ...]
) -> Iterator[Claim]:
    """The claims on ``vips``; each new one has the lowest turn that no other of its family has.

    All have the first where replies go to a gateway, which is on one director.
    """
    claims = snapshot.addresses.pool.claims
    turns = {(len(vip.packed), claims[vip.packed].turn) for vip in vips if vip.packed in claims}
    for vip in vips:
        claim = claims.get(vip.packed)
        if claim is None:
            family, turn = len(vip.packed), 0
            while (family, turn) in turns and not _by_gateway(intake):
                turn += 1
            turns.add((family, turn))
            claim = Claim(vip, facts.owner, (AddressOwner(key.name),), turn=turn)
        yield claim.with_owner(key, intake.uid)


def _families(
    snapshot: Snapshot, key: Key, intake: Intake, facts: ServiceFacts, group: GroupFacts
) -> tuple[list[Finding], list[Finding]]:
    """Refusals and notes where the group lacks addresses of a family."""
    findings, notes = [], []
    for server in intake.servers:
        family = len(server.packed)
        if family not in group.families:
            findings.append(
                Finding(
                    Reason.MIXED_FAMILIES,
                    f"spec.backends.static[{server.position}].address: found {server.text}, but DirectorGroup "
                    f"{group.name} has no {FAMILIES[family]} address to give ({', '.join(group.addresses)})",
                )
            )
            break
    service = facts.asks.service if facts.asks is not None else ""
    known = snapshot.service_families(key.namespace, service) if service else None
    missing = [FAMILIES[family] for family in known or () if family not in group.families]
    if missing:
        words = (
            f"Service {service} is {' and '.join(missing)}, and DirectorGroup {group.name} has no such address to give "
            f"({', '.join(group.addresses)})"
        )
        if len(missing) == len(known or ()):
            findings.append(Finding(Reason.MIXED_FAMILIES, f"spec.backends.service: {words}"))
        else:
            notes.append(Finding(Reason.ADDRESS_FAMILY_MISSING, f"{words}."))
    return findings, notes


def _by_gateway(intake: Intake) -> bool:
    return intake.forwarding is Forwarding.NAT and intake.return_path is ReturnPath.GATEWAY


def _beside_gateway(snapshot: Snapshot, intake: Intake, assignment: Assignment) -> Iterator[Finding]:
    """The floating address that replies go to is on one director, so all addresses must be there."""
    directors = snapshot.directors[intake.group]
    for vip, turn in zip(assignment.vips, assignment.turns, strict=True):
        if _by_gateway(intake) and directors.holding(turn) != directors.holder:
            yield Finding(
                Reason.GATEWAY_REQUIRED,
                f"spec.nat.returnPath: Gateway for {vip.text} needs director {directors.holder}, whose address replies "
                f"go to, but {directors.holding(turn)} has it, as one of several; use Masquerade, or create the "
                "VirtualService anew",
            )
