"""IPVSAddress objects as they are stored: who has claimed what."""

from collections.abc import Iterable, Iterator
from sys import intern

import msgspec

from ipvs_api.ipaddress import (
    ADDRESS_HOLDERS,
    AddressOwner,
    IPVSAddress,
    IPVSAddressSpec,
    address_object_name,
)
from ipvs_api.meta import ObjectMeta
from ipvs_planner.index import Key, Owner
from ipvs_planner.packed import Address, Packed, parse_address


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One IPVSAddress. ``uid`` and ``version`` (resource version) are empty until it is stored."""

    address: Address
    owner: Owner
    owners: tuple[AddressOwner, ...]
    holders: tuple[str, ...] = ()
    turn: int = 0
    uid: str = ""
    version: str = ""

    @property
    def keys(self) -> tuple[Key, ...]:
        return tuple(Key(self.owner.namespace, owner.name) for owner in self.owners)

    def names(self, key: Key) -> bool:
        return key.namespace == self.owner.namespace and any(owner.name == key.name for owner in self.owners)

    def with_owner(self, key: Key, uid: str) -> "Claim":
        """``key`` among the owners, with its current ``uid``, in its old place if it had one."""
        owners = {owner.name: owner for owner in self.owners} | {key.name: AddressOwner(key.name, uid)}
        return msgspec.structs.replace(self, owners=tuple(owners.values()))

    def without_owner(self, key: Key) -> "Claim":
        return msgspec.structs.replace(self, owners=tuple(owner for owner in self.owners if owner.name != key.name))

    def with_holders(self, nodes: Iterable[str]) -> "Claim":
        return msgspec.structs.replace(self, holders=tuple(sorted({*nodes}))[:ADDRESS_HOLDERS])

    def object(self) -> IPVSAddress:
        """To be created where it has no ``uid``, else to be written over the one it names."""
        return IPVSAddress(
            ObjectMeta(address_object_name(self.address.text), uid=self.uid, resource_version=self.version),
            IPVSAddressSpec(
                address=self.address.text,
                director_group=self.owner.group,
                namespace=self.owner.namespace,
                owners=self.owners,
                holders=self.holders,
                director_index=self.turn,
            ),
        )


def claim_of(stored: IPVSAddress) -> Claim | None:
    """Of the address that it is named by, since there cannot be two of one name; None where that is no address."""
    meta, spec = stored.metadata, stored.spec
    address = address_of_name(meta.name)
    if address is None:
        return None
    return Claim(
        address=address,
        owner=Owner(intern(spec.namespace), intern(spec.director_group)),
        owners=tuple({owner.name: owner for owner in spec.owners}.values()),
        holders=tuple(map(intern, spec.holders)),
        turn=spec.director_index,
        uid=meta.uid,
        version=meta.resource_version,
    )


def address_of_name(name: str) -> Address | None:
    """The address whose claim has that name; None: none has."""
    address = parse_address(name.replace("-", ":"))
    return None if isinstance(address, str) or address_object_name(address.text) != name else address


def concerned_by(before: Claim | None, after: Claim | None) -> set[Key]:
    """Whom a change of a claim concerns, of those it named and names: who came, went or was made anew; all of them
    where the claim came, went, is another's, or lost or got a holder, which is what they may have waited for."""
    had, have = ({*zip(each.keys, each.owners, strict=True)} if each is not None else set() for each in (before, after))
    same = before is not None and after is not None and before.owner == after.owner and before.turn == after.turn
    kept = same and before is not None and after is not None and set(before.holders) == set(after.holders)
    return {key for key, _ in (had ^ have if kept else had | have)}


class Pool:
    """Claims by address, by the VirtualServices they name and by group; and what is about to be claimed."""

    def __init__(self) -> None:
        self.claims: dict[Packed, Claim] = {}
        self.reserved: dict[Packed, Key] = {}
        """Chosen, and on its way to the API server."""
        self._chosen: dict[Key, tuple[Packed, ...]] = {}
        self._owned: dict[Key, tuple[Packed, ...]] = {}
        self._used: dict[str, int] = {}

    def put(self, claim: Claim) -> Claim | None:
        """The one that was in its place."""
        before = self.remove(claim.address.packed)
        self.unreserve(claim.address.packed)
        self.claims[claim.address.packed] = claim
        self._used[claim.owner.group] = self.used(claim.owner.group) + 1
        for key in claim.keys:
            self._owned[key] = tuple(sorted((*self.owned(key), claim.address.packed), key=by_family))
        return before

    def remove(self, address: Packed) -> Claim | None:
        claim = self.claims.pop(address, None)
        if claim is None:
            return None
        self._used[claim.owner.group] -= 1
        if not self._used[claim.owner.group]:
            del self._used[claim.owner.group]
        for key in claim.keys:
            self._owned[key] = tuple(other for other in self.owned(key) if other != address)
            if not self._owned[key]:
                del self._owned[key]
        return claim

    def reserve(self, address: Packed, key: Key) -> None:
        self.unreserve(address)
        self.reserved[address] = key
        self._chosen[key] = (*self.reserved_by(key), address)

    def unreserve(self, address: Packed) -> Key | None:
        """Whom it was reserved for."""
        key = self.reserved.pop(address, None)
        if key is not None:
            self._chosen[key] = tuple(other for other in self.reserved_by(key) if other != address)
            if not self._chosen[key]:
                del self._chosen[key]
        return key

    def reserved_by(self, key: Key) -> tuple[Packed, ...]:
        return self._chosen.get(key, ())

    def owned(self, key: Key) -> tuple[Packed, ...]:
        """Addresses whose claims name ``key``, under whatever group; sorted, IPv4 first."""
        return self._owned.get(key, ())

    def owners(self) -> Iterator[Key]:
        """Every VirtualService that a claim names."""
        return iter(self._owned)

    def used(self, group: str) -> int:
        """How many addresses are claimed under ``group``."""
        return self._used.get(group, 0)


def by_family(address: Packed) -> tuple[int, Packed]:
    return len(address), address
