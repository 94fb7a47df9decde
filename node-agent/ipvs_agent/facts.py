"""What a host is, as far as decisions need it: interfaces, routes, neighbours, switches.

Values only; reading is the kernel side's (``kernel/host.py``).
"""

import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import ip_address, ip_network
from typing import NamedTuple


class InterfaceAddress(NamedTuple):
    """``ours``: carries our protocol mark or sits on our link."""

    address: str
    prefix_length: int
    ours: bool = False


class Interface(NamedTuple):
    """One link. ``kind``: rtnetlink's (dummy, veth, ipip, …; empty for hardware). ``alias``: ``IFLA_IFALIAS``."""

    ifindex: int
    name: str
    mac: str = ""
    mtu: int = 1500
    up: bool = True
    loopback: bool = False
    noarp: bool = False
    kind: str = ""
    alias: str = ""
    addresses: tuple[InterfaceAddress, ...] = ()


class Route(NamedTuple):
    """A route of the main table. ``gateway`` empty: on-link. ``mtu`` 0: the interface's.

    ``interface`` empty: what goes there is refused (blackhole, unreachable, prohibit), as the routers of pod networks
    set up for ranges that they hold.
    """

    destination: str
    interface: str
    gateway: str = ""
    mtu: int = 0
    metric: int = 0


class Neighbour(NamedTuple):
    """``reachable``: REACHABLE, STALE, DELAY, PROBE or PERMANENT; ``failed``: FAILED. Neither: not yet known."""

    interface: str
    mac: str = ""
    reachable: bool = False
    failed: bool = False


class Routes:
    """Longest-prefix lookup over the main table; policy rules of others are not followed."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.all = routes
        self._by_length: dict[int, dict[int, dict[int, Route]]] = {4: {}, 6: {}}
        for route in sorted(routes, key=lambda route: -route.metric):
            network = ip_network(route.destination)
            table = self._by_length[network.version].setdefault(network.prefixlen, {})
            table[int(network.network_address)] = route
        self._lengths = {version: sorted(tables, reverse=True) for version, tables in self._by_length.items()}

    def lookup(self, address: str) -> Route | None:
        """The route the main table gives for ``address``; None: unreachable."""
        version, family, bits = (6, socket.AF_INET6, 128) if ":" in address else (4, socket.AF_INET, 32)
        value = int.from_bytes(socket.inet_pton(family, address), "big")
        for length in self._lengths[version]:
            route = self._by_length[version][length].get(value >> (bits - length) << (bits - length))
            if route is not None:
                return route if route.interface else None
        return None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Routes) and self.all == other.all

    __hash__ = None  # type: ignore[assignment]  # compared as a value, never a key


@dataclass(frozen=True)
class Host:
    """Everything decisions know about this host. ``neighbours``: by address, only those that were asked for.

    ``sysctls``: found values by path below ``/proc/sys``; a missing path does not exist in this kernel.
    """

    node: str
    boot_id: str = ""
    kernel_version: str = ""
    interfaces: Mapping[str, Interface] = field(default_factory=dict)
    routes: Routes = field(default_factory=lambda: Routes(()))
    neighbours: Mapping[str, Neighbour] = field(default_factory=dict)
    sysctls: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def own_addresses(self) -> dict[str, str]:
        """Interface by address, for every address that is not ours."""
        return {
            entry.address: link.name for link in self.interfaces.values() for entry in link.addresses if not entry.ours
        }

    def default_interface(self, version: int) -> str:
        """The interface of the default route of IPv4 (4) or IPv6 (6); empty without one."""
        route = self.routes.lookup("0.0.0.0" if version == 4 else "::")  # noqa: S104  # an address to look up
        return route.interface if route is not None else ""

    def default_gateway(self, version: int) -> str:
        """The router of the default route of that family; empty without one."""
        route = self.routes.lookup("0.0.0.0" if version == 4 else "::")  # noqa: S104  # an address to look up
        return route.gateway if route is not None else ""

    def own_address(self, interface: str, version: int) -> str:
        """The first address of that family on ``interface`` that is not ours and not link-local; empty without one."""
        link = self.interfaces.get(interface)
        for entry in link.addresses if link is not None else ():
            parsed = ip_address(entry.address)
            if parsed.version == version and not entry.ours and not parsed.is_link_local:
                return entry.address
        return ""
