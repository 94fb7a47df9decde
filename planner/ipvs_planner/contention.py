"""Who gets what several virtual services ask for: the holder, then whom an IPVSAddress names, then the oldest, then the
first by name.

A claim counts when its VirtualService could have what it asks for: it is well-formed, its group is there, usable,
admits its namespace and contains the address. So nobody blocks an address that would be refused to him anyway.

An address belongs to one namespace and group (several directors answering for one address is no sharing); within them
each protocol and port belongs to one virtual service. Where an IPVSAddress is there, whose the address is stands in it.
Replies of one real server's endpoint go to one gateway.
"""

from collections.abc import Iterable

from ipvs_planner.claims import Dispute, Winner
from ipvs_planner.index import Key, Owner
from ipvs_planner.packed import Endpoint, Packed, address_of
from ipvs_planner.snapshot import Snapshot


def address_owner(snapshot: Snapshot, address: Packed) -> Winner | None:
    """Who an address belongs to; None: nobody whose claim counts."""
    claims = (_claim_on_address(snapshot, key, address) for key in snapshot.stakes.addresses[address])
    return _decided(snapshot, ("address", address, None), claims)


def owner_of(snapshot: Snapshot, address: Packed) -> Owner | None:
    """The namespace and group that may use an address; None: nobody's claim counts, or nobody disputes it."""
    claim = snapshot.addresses.pool.claims.get(address)
    if claim is not None:
        return claim.owner
    first = address_owner(snapshot, address) if snapshot.stakes.addresses.disputed(address) else None
    return first.owner if first is not None else None


def vip_winner(snapshot: Snapshot, vip: Endpoint, owner: Owner) -> Winner | None:
    """Who of an address's owner gets one protocol and port."""
    claims = (_claim_on_vip(snapshot, key, vip) for key in snapshot.stakes.vips[vip])
    own = (claim for claim in claims if claim is not None and claim.owner == owner)
    return _decided(snapshot, ("vip", vip, owner), own)


def return_winner(snapshot: Snapshot, end: Endpoint) -> Winner | None:
    """Who decides which gateway the replies of a real server's endpoint go to."""
    claims = (_claim_on_return(snapshot, key, end) for key in snapshot.stakes.returns[end])
    return _decided(snapshot, ("return", end, None), claims)


def _decided(snapshot: Snapshot, dispute: Dispute, claims: Iterable[Winner | None]) -> Winner | None:
    """The best of ``claims``, looked at once between two changes: where a thousand ask for one port, so do they all."""
    if dispute not in snapshot.decided:
        snapshot.decided[dispute] = _best(claims)
    return snapshot.decided[dispute]


def gateway(snapshot: Snapshot, group: str, family: int) -> str:
    """Where NAT ``Gateway`` replies of that family go; empty: nowhere."""
    directors = snapshot.directors.get(group)
    return directors.gateways.get(family, "") if directors is not None else ""


def _best(claims: Iterable[Winner | None]) -> Winner | None:
    return min((claim for claim in claims if claim is not None), key=lambda claim: claim.standing, default=None)


def _claim_on_address(snapshot: Snapshot, key: Key, address: Packed) -> Winner | None:
    vips = {vip for stake in snapshot.stakes_of(key) for vip in stake.vips if address_of(vip) == address}
    return _best(_claim_on_vip(snapshot, key, vip) for vip in vips)


def _claim_on_vip(snapshot: Snapshot, key: Key, vip: Endpoint) -> Winner | None:
    facts, held = snapshot.facts(key), snapshot.held(key)
    has = vip in held.vips
    if facts is None:
        return Winner(key, Owner(key.namespace, held.group), True, "") if has else None
    moving = held.group not in ("", facts.owner.group)
    if has and (facts.broken or moving):
        # It stays programmed as it was until it can be accepted again.
        return Winner(key, Owner(key.namespace, held.group), True, facts.created)
    if moving or vip not in facts.vips or not snapshot.admits(facts.owner, address_of(vip), holds=has):
        return None
    claim = snapshot.addresses.pool.claims.get(address_of(vip))
    return Winner(key, facts.owner, has, facts.created, claim is not None and claim.names(key))


def _claim_on_return(snapshot: Snapshot, key: Key, end: Endpoint) -> Winner | None:
    facts, held = snapshot.facts(key), snapshot.held(key)
    has = end in held.returns
    if facts is None or (has and (facts.broken or held.group != facts.owner.group)):
        return Winner(key, Owner(key.namespace, held.group), True, facts.created if facts else "") if has else None
    if end not in facts.returns or not all(_wins(snapshot, key, facts.owner, vip) for vip in facts.vips):
        return None
    return Winner(key, facts.owner, has, facts.created)


def _wins(snapshot: Snapshot, key: Key, owner: Owner, vip: Endpoint) -> bool:
    if owner_of(snapshot, address_of(vip)) not in (None, owner):
        return False
    winner = vip_winner(snapshot, vip, owner)
    return winner is not None and winner.key == key
