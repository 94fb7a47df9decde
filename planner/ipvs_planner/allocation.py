"""What VirtualServices that name no address are to be given, what they have of it, and who waits for more."""

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from ipvs_api.ipaddress import IPVSAddress
from ipvs_planner.claims import Claims, Stakes
from ipvs_planner.groups import Directors, GroupFacts
from ipvs_planner.index import Index, Key, Owner
from ipvs_planner.intake import Intake
from ipvs_planner.nodes import Nodes
from ipvs_planner.packed import V4, V6, Endpoint, Packed, address_of, endpoint, parse_address
from ipvs_planner.pool import Claim, Pool, address_of_name, by_family, claim_of, concerned_by
from ipvs_planner.rooms import Room, Rooms
from ipvs_planner.waiting import NONE, Number, Waiting


class Asks(NamedTuple):
    """What a VirtualService without ``addresses`` asks for.

    ``number`` of each family. ``families``: those of its static real servers; ``service``: whose families count, where
    it has none. ``ports``: what follows the address in an endpoint.
    """

    number: int
    families: tuple[int, ...]
    service: str
    ports: tuple[bytes, ...]


def asks_of(intake: Intake) -> Asks | None:
    """None: it names its addresses."""
    if intake.vips:
        return None
    families = {len(server.packed) for server in intake.servers}
    ports = tuple(endpoint(b"", port.protocol, port.number) for port in intake.ports)
    return Asks(intake.address_count, tuple(sorted(families)), intake.service, ports)


class Asking(Protocol):
    """A VirtualService, as far as it matters here."""

    @property
    def owner(self) -> Owner: ...
    @property
    def created(self) -> str: ...
    @property
    def asks(self) -> Asks | None: ...


class Around(Protocol):
    """What else there is."""

    groups: dict[str, GroupFacts]
    directors: dict[str, Directors]
    nodes: Nodes
    stakes: Stakes
    servers: Index[Packed]

    def lets_in(self, group: GroupFacts, namespace: str) -> bool: ...
    def facts(self, key: Key) -> Asking | None: ...
    def held(self, key: Key) -> Claims: ...
    def admits(self, owner: Owner, address: Packed, *, holds: bool) -> bool: ...
    def service_families(self, namespace: str, name: str) -> tuple[int, ...] | None:
        """Packed lengths; None: there is no such Service."""


class Claimed(NamedTuple):
    """Whom a change of a claim concerns: ``owners`` it named or names, ``others`` who ask for its address, and those
    ``relieved``, for whom enough is free now."""

    owners: Iterable[Key] = ()
    others: Iterable[Key] = ()
    relieved: Iterable[Key] = ()


class Allocation:
    """Kept up to date with the claims and with what is ``Around``."""

    def __init__(self, around: Around) -> None:
        self._around = around
        self.pool = Pool()
        self._rooms = Rooms(self._taken, self._named)
        self._gateways: frozenset[Packed] = frozenset()
        self._waiting: dict[str, Waiting] = {}
        self._waits_in: dict[Key, str] = {}

    def put(self, stored: IPVSAddress) -> Claimed:
        claim = claim_of(stored)
        return self._replace(claim.address.packed, claim) if claim is not None else Claimed()

    def remove(self, name: str) -> Claimed:
        address = address_of_name(name)
        return self._replace(address.packed, None) if address is not None else Claimed()

    def _replace(self, address: Packed, claim: Claim | None) -> Claimed:
        """Of those who share the address it concerns who came or went."""
        before, chosen = self.pool.claims.get(address), self.pool.reserved.get(address)
        if claim == before:
            return Claimed()
        if claim is not None:
            self.pool.put(claim)
        else:
            self.pool.remove(address)
        owners = concerned_by(before, claim)
        others = self._around.stakes.addresses[address].difference(claim.keys if claim is not None else ())
        counted = owners if chosen is None else {*owners, chosen}
        return Claimed(owners, others, self.changed(counted, [address]))

    def reserve(self, address: str, key: Key) -> None:
        parsed = parse_address(address)
        if not isinstance(parsed, str) and parsed.packed not in self.pool.claims:
            self.pool.reserve(parsed.packed, key)
            self.changed([key], [parsed.packed])

    def unreserve(self, address: str) -> set[Key]:
        """Who was told that there is not enough for it, and there is now."""
        parsed = parse_address(address)
        key = self.pool.unreserve(parsed.packed) if not isinstance(parsed, str) else None
        return set() if key is None or isinstance(parsed, str) else self.changed([key], [parsed.packed])

    def behind(self, key: Key) -> set[Key]:
        """Who asks for an address that ``key`` has claimed, and does not share it."""
        claims = (self.pool.claims[address] for address in self.pool.owned(key))
        asking = (self._around.stakes.addresses[claim.address.packed].difference(claim.keys) for claim in claims)
        return set().union(*asking)

    def vips(self, key: Key, owner: Owner, asks: Asks) -> tuple[Endpoint, ...]:
        """What is claimed for ``key`` under ``owner``, with the ports that it asks for."""
        claimed = (address for address in self.pool.owned(key) if self.pool.claims[address].owner == owner)
        return tuple(sorted(address + port for address in claimed for port in asks.ports))

    def may_ask(self, owner: Owner) -> bool:
        """The owner's group can give addresses to its namespace."""
        group = self._around.groups.get(owner.group)
        if group is None or group.findings or not self._around.directors[owner.group].nodes:
            return False
        return self._around.lets_in(group, owner.namespace)

    def families(self, key: Key) -> tuple[int, ...]:
        """Of which families it is to have addresses, among those its group has; IPv4 first.

        Without its Service: of those it has already, else of the group's first.
        """
        facts = self._around.facts(key)
        if facts is None or facts.asks is None:
            return ()
        there = self._around.groups[facts.owner.group].families
        asked: tuple[int, ...] | None = facts.asks.families
        if facts.asks.service:
            asked = self._around.service_families(key.namespace, facts.asks.service)
        if asked is None:
            asked = tuple(len(address) for address in self.mine(key)) or there[:1]
        return tuple(family for family in there if family in asked)

    def wanted(self, key: Key) -> Number:
        """How many addresses it is to have; none where it names them, or may have none."""
        facts, held = self._around.facts(key), self._around.held(key)
        if facts is None or facts.asks is None or held.group not in ("", facts.owner.group):
            return NONE
        if not self.may_ask(facts.owner):
            return NONE
        families, number = self.families(key), facts.asks.number
        return Number(number if V4 in families else 0, number if V6 in families else 0)

    def mine(self, key: Key) -> list[Packed]:
        """What ``key`` has or is about to have, the best first to go on with: what it is programmed with, then what is
        claimed for it, then what it has chosen.
        """
        facts, held = self._around.facts(key), self._around.held(key)
        if facts is None:
            return []
        claims, reserved = self.pool.claims, self.pool.reserved_by(key)
        owned = [address for address in self.pool.owned(key) if claims[address].owner == facts.owner]
        if not held.vips and not reserved:
            return owned
        claimed = set(owned)
        programmed = {address_of(vip) for vip in held.vips} if held.group == facts.owner.group else set()
        found = claimed | {address for address in (*programmed, *reserved) if address not in claims}
        return sorted(found, key=lambda each: (each not in programmed, each not in claimed, by_family(each)))

    def choose(self, key: Key) -> list[Packed] | None:
        """The addresses that ``key`` is to have, sorted, IPv4 first: those it has, and the lowest free ones.

        None: not enough are free, or older ones wait for them.
        """
        chosen = list(self.kept(key))
        if key in self._waits_in:
            group = self._around.groups[self._waits_in[key]]
            rooms, waiting = self._of(group), self._waiting[group.name]
            if not waiting.gets(key, _free(rooms)):
                return None
            for family, number in waiting.lack(key).families():
                chosen += rooms[family].lowest(number)
        return sorted(chosen, key=by_family)

    def givable(self, group: str) -> int:
        """How many addresses of ``group`` can be given at all."""
        return sum(room.size for room in self._of(self._around.groups[group]).values())

    def changed(self, keys: Iterable[Key], addresses: Iterable[Packed]) -> set[Key]:
        """What each of ``keys`` asks for or has, and whether each of ``addresses`` is taken, may have changed: who was
        told that there is not enough for it, and there is now.
        """
        groups = self._rooms.mark(addresses)
        for key in keys:
            groups |= self._count(key)
        found: set[Key] = set()
        for name in groups & self._waiting.keys():
            if self._waiting[name].anybody_refused:
                found |= self._waiting[name].relieved(_free(self._of(self._around.groups[name])))
        return found

    def regrouped(self) -> set[Key]:
        """Groups, or whom they admit, have changed: everybody who was told that there is not enough for it."""
        self._rooms.clear()
        gateways = (parse_address(text) for group in self._around.groups.values() for text in group.gateways)
        self._gateways = frozenset(gateway.packed for gateway in gateways if not isinstance(gateway, str))
        return set().union(*(waiting.look_again() for waiting in self._waiting.values()))

    def _count(self, key: Key) -> set[str]:
        """The groups that ``key`` waited in and waits in now."""
        facts, lack = self._around.facts(key), self._lack(key)
        group = facts.owner.group if facts is not None and lack != NONE else ""
        before = self._waits_in.pop(key, "")
        if before and before != group:
            self._waiting[before].put(key, "", NONE)
            if not len(self._waiting[before]):
                del self._waiting[before]
        if facts is not None and group:
            self._waits_in[key] = group
            self._waiting.setdefault(group, Waiting()).put(key, facts.created, lack)
        return {before, group} - {""}

    def _lack(self, key: Key) -> Number:
        wanted = self.wanted(key)
        if wanted == NONE:
            return NONE
        have = [len(address) for address in self.mine(key)]
        return Number(max(0, wanted.v4 - have.count(V4)), max(0, wanted.v6 - have.count(V6)))

    def kept(self, key: Key) -> Iterator[Packed]:
        """What it has, as far as it is to have so many."""
        left = dict(self.wanted(key).families())
        for address in self.mine(key):
            if left.get(len(address)):
                left[len(address)] -= 1
                yield address

    def _of(self, group: GroupFacts) -> Mapping[int, Room]:
        return self._rooms.of(group.name, group.givable)

    def _taken(self, address: Packed) -> bool:
        """It is claimed or about to be, a host has it, or a VirtualService asks for it that could have it."""
        around = self._around
        if address in self.pool.claims or address in self.pool.reserved or address in self._gateways:
            return True
        if around.nodes.whose(address) is not None or around.servers[address]:
            return True
        return any(
            around.admits(owner, address, holds=False)
            or any(address_of(vip) == address for vip in around.held(key).vips)
            for owner, key in around.stakes.addresses.parties(address)
        )

    def _named(self) -> Iterator[Packed]:
        yield from self.pool.claims
        yield from self.pool.reserved
        yield from self._gateways
        yield from self._around.nodes.addresses()
        yield from self._around.servers
        yield from self._around.stakes.addresses


def _free(rooms: Mapping[int, Room]) -> Number:
    return Number(rooms[V4].free, rooms[V6].free)
