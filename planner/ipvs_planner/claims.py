"""What virtual services need for themselves alone, who asks for it and who has it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import ReturnPath
from ipvs_planner.index import Index, Key, Owner, Party
from ipvs_planner.packed import Endpoint, Packed, address_of, endpoint, parse_address


class Claims(NamedTuple):
    """What a plan has: ``vips`` (VIP, protocol, port), and ``returns``: the real servers' endpoints whose replies
    go to the gateway of ``group`` (NAT ``Gateway``). Both sorted."""

    group: str = ""
    vips: tuple[Endpoint, ...] = ()
    returns: tuple[Endpoint, ...] = ()


NOTHING = Claims()


def claims_of(plans: Iterable[VirtualServicePlan]) -> Claims:
    """The claims of one VirtualService's stored plans: what ``Snapshot.hold`` takes after a restart."""
    group = ""
    vips: set[Endpoint] = set()
    returns: set[Endpoint] = set()
    for plan in plans:
        spec = plan.spec
        group = spec.director_group
        addresses = [parsed for entry in spec.addresses if not isinstance(parsed := parse_address(entry.address), str)]
        vips |= {endpoint(vip.packed, port.protocol, port.port) for vip in addresses for port in spec.ports}
        if spec.return_path is ReturnPath.GATEWAY:
            returns |= set(_return_endpoints(plan))
    return Claims(group, tuple(sorted(vips)), tuple(sorted(returns)))


def _return_endpoints(plan: VirtualServicePlan) -> Iterator[Endpoint]:
    for server in (server for backend in plan.spec.backends for server in backend.servers):
        address = parse_address(server.address)
        if not isinstance(address, str):
            for port, number in zip(plan.spec.ports, server.ports, strict=False):
                if number:
                    yield endpoint(address.packed, port.protocol, number)


UNKNOWN_AGE = "~"
"""Sorts behind every timestamp: an object without one (manifests) is older than none."""

Dispute = tuple[str, bytes, Owner | None]
"""``address``, ``vip`` (of one owner) or ``return``, and which."""


class Winner(NamedTuple):
    """``holds``: it is programmed now. ``owner``: the namespace and group it has it under. ``claims``: an IPVSAddress
    names it."""

    key: Key
    owner: Owner
    holds: bool
    created: str
    claims: bool = False

    @property
    def standing(self) -> tuple[bool, bool, str, Key]:
        """What decides between claims: the smallest wins."""
        return (not self.holds, not self.claims, self.created or UNKNOWN_AGE, self.key)


class Stake(NamedTuple):
    """What one virtual service asks for, or has, under one owner."""

    party: Party
    vips: tuple[Endpoint, ...] = ()
    returns: tuple[Endpoint, ...] = ()

    @property
    def addresses(self) -> set[Packed]:
        return {address_of(vip) for vip in self.vips}


class Stakes:
    """Who has a stake in what."""

    def __init__(self) -> None:
        self.vips: Index[Endpoint] = Index()
        self.returns: Index[Endpoint] = Index()
        self.addresses: Index[Packed] = Index()

    def add(self, stake: Stake) -> None:
        for address in stake.addresses:
            self.addresses.add(address, stake.party)
        for vip in stake.vips:
            self.vips.add(vip, stake.party)
        for end in stake.returns:
            self.returns.add(end, stake.party)

    def discard(self, stake: Stake) -> None:
        for address in stake.addresses:
            self.addresses.discard(address, stake.party)
        for vip in stake.vips:
            self.vips.discard(vip, stake.party)
        for end in stake.returns:
            self.returns.discard(end, stake.party)

    def vip_rivals(self, stakes: Iterable[Stake]) -> set[Key]:
        """Whoever may win or lose a VIP when ``stakes`` change, their own virtual services among them."""
        vips = {vip for stake in stakes for vip in stake.vips}
        disputed = {address for address in map(address_of, vips) if self.addresses.disputed(address)}
        rivals = set().union(*(self.addresses[address] for address in disputed))
        return rivals.union(*(self.vips[vip] for vip in vips if self.vips.shared(vip)))

    def return_rivals(self, stakes: Iterable[Stake]) -> set[Key]:
        """Whoever sends replies of the same real servers' endpoints to a gateway of another owner."""
        ends = {end for stake in stakes for end in stake.returns}
        return set().union(*(self.returns[end] for end in ends if self.returns.disputed(end)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stakes) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # compared as a value, never a key
