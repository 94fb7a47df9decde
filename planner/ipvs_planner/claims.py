"""What virtual services need for themselves alone, who asks for it and who has it."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import ReturnPath
from ipvs_planner.index import Index, Key
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


class Owner(NamedTuple):
    """An address belongs to one namespace and, since the directors answer for it, to one group."""

    namespace: str
    group: str


class Stake(NamedTuple):
    """All that one virtual service asks for or has, under the owners it does so for (two while its group changes)."""

    owners: frozenset[Owner] = frozenset()
    vips: tuple[Endpoint, ...] = ()
    returns: tuple[Endpoint, ...] = ()

    @property
    def addresses(self) -> set[Packed]:
        return {address_of(vip) for vip in self.vips}


class Stakes:
    """Who has a stake in what."""

    def __init__(self) -> None:
        self._vips: Index[Endpoint] = Index()
        self._returns: Index[Endpoint] = Index()
        self._addresses: Index[Packed] = Index()
        self._owners: dict[Packed, dict[Owner, int]] = {}

    def replace(self, key: Key, old: Stake, new: Stake) -> None:
        for vip in old.vips:
            self._vips.discard(vip, key)
        for end in old.returns:
            self._returns.discard(end, key)
        for address in old.addresses:
            self._addresses.discard(address, key)
            owners = self._owners[address]
            for owner in old.owners:
                owners[owner] -= 1
                if not owners[owner]:
                    del owners[owner]
            if not owners:
                del self._owners[address]
        for vip in new.vips:
            self._vips.add(vip, key)
        for end in new.returns:
            self._returns.add(end, key)
        for address in new.addresses:
            self._addresses.add(address, key)
            owners = self._owners.setdefault(address, {})
            for owner in new.owners:
                owners[owner] = owners.get(owner, 0) + 1

    def on_address(self, address: Packed) -> tuple[Key, ...]:
        return self._addresses[address]

    def on_vip(self, vip: Endpoint) -> tuple[Key, ...]:
        return self._vips[vip]

    def on_return(self, end: Endpoint) -> tuple[Key, ...]:
        return self._returns[end]

    def vip_shared(self, vip: Endpoint) -> bool:
        return self._vips.shared(vip)

    def return_shared(self, end: Endpoint) -> bool:
        return self._returns.shared(end)

    def disputed(self, address: Packed) -> bool:
        """Several namespaces or groups have a stake in it."""
        return len(self._owners.get(address, ())) > 1

    def vip_rivals(self, stake: Stake) -> Iterator[Key]:
        """Whoever may win or lose a VIP when ``stake`` changes, its own virtual service among them."""
        for address in stake.addresses:
            if self.disputed(address):
                yield from self._addresses[address]
        for vip in stake.vips:
            if self._vips.shared(vip):
                yield from self._vips[vip]

    def return_rivals(self, stake: Stake) -> Iterator[Key]:
        """Whoever sends replies of the same real servers' endpoints to a gateway."""
        for end in stake.returns:
            if self._returns.shared(end):
                yield from self._returns[end]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stakes) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # compared as a value, never a key
