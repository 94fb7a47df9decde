"""Rows: what this agent wants in, and finds in, each kernel table.

A table maps a key to one comparable row; the same shapes hold what is desired and what is observed, so that a
difference per key is the whole algorithm. IPVS rows are packed bytes (``ipvs_agent.services``), because there may be
10,000 services with ten real servers each; everything else is small and readable.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

ROUTE_PROTOCOL = 118
"""``rtm_protocol`` and ``FRA_PROTOCOL`` of our routes and rules (``/etc/iproute2/rt_protos`` leaves it free)."""

ADDRESS_PROTOCOL = 118
"""``IFA_PROTO`` of our addresses (Linux 5.18, ``include/uapi/linux/if_addr.h``)."""

LINK_ALIAS = "ipvs-operator"
"""``IFLA_IFALIAS`` of our links: a link of our name without it is somebody else's."""

VIP_LINK = "ipvs0"
"""The dummy link that carries silent VIPs."""

TUNNEL_PREFIX = "ivt-"
"""Our tunnel links: this prefix and 8 hexadecimal digits of what they are."""

NFT_TABLE = "ipvs-operator"

ROUTE_TABLE_BASE = 11800
"""Routing table of a director's DR real servers; of return path *n* (1..7): this plus *n*."""

RULE_PRIORITY = 11800
"""Our rules stand before ``main`` (32766) and behind what administrators usually write below 10000."""

RETURN_MARK_MASK = 0x0070_0000
RETURN_MARK_SHIFT = 20
"""Bits of ct mark and packet mark that name the return path (1..7) of a NAT Gateway flow."""

MASQUERADE_MARK = 0x0080_0000
"""Bit of the ct mark: this flow belongs to a service whose NAT flows are masqueraded."""

HOP_MARK = 0x0008_0000
"""Bit of the ct mark: this flow took the second hop on this node."""

RETURN_PATHS = 7


class AddressKey(NamedTuple):
    """``address`` is canonical text; ours are always host prefixes (/32, /128)."""

    interface: str
    address: str

    @property
    def is_silent(self) -> bool:
        """On a link of ours, which nobody outside hears of: nothing to probe or to announce."""
        return self.interface == VIP_LINK or self.interface.startswith(TUNNEL_PREFIX)


class AddressRow(NamedTuple):
    """``deprecated``: ``preferred_lft 0``, so that IPv6 never chooses it as a source."""

    deprecated: bool = False


class LinkRow(NamedTuple):
    """``kind``: dummy, ipip, gre, ip6tnl or ip6gre. ``local``/``remote``: outer addresses, empty for any.

    ``encap_port``: GUE's UDP port, 0 without. ``intact`` is False only in what is observed: the link is ours, but down,
    without its alias or with altered settings.
    """

    kind: str
    local: str = ""
    remote: str = ""
    encap_port: int = 0
    intact: bool = True


class FouKey(NamedTuple):
    """A UDP port that decapsulates GUE. ``family``: 4 or 6."""

    family: int
    port: int


class FouRow(NamedTuple):
    pass


class RouteKey(NamedTuple):
    """``family``: 4 or 6. ``destination``: ``default`` or a prefix."""

    family: int
    table: int
    destination: str


class RouteRow(NamedTuple):
    gateway: str
    interface: str
    onlink: bool = True


class RuleKey(NamedTuple):
    """``local``: only for what this host sends itself, IPVS's packets among them (``iif lo``)."""

    family: int
    priority: int
    mark: int
    mask: int
    local: bool = False


class RuleRow(NamedTuple):
    table: int


TIMEOUTS = ("ipvs/timeout_tcp", "ipvs/timeout_tcp_fin", "ipvs/timeout_udp")
"""IPVS's own time-outs, in seconds, among the switches; they are set by netlink."""


class SysctlRow(NamedTuple):
    """One switch, by its path below ``/proc/sys``.

    ``at_least``: any found value from ``value`` up is as good and left alone; otherwise exactly ``value``. What was
    found before the first write is kept by the state database and restored by ``release``.
    """

    value: int
    at_least: bool = False


Element = tuple[str | int, ...]
"""One nftables set element; its parts are concatenated in order. Protocols in lower case, ports as numbers."""


class NftKey(NamedTuple):
    """``set``: a name from the table in ``ipvs_agent.nft.ruleset``; ``element``: what the element is found by."""

    set: str
    element: Element


class NftRow(NamedTuple):
    """``value``: what a map gives for the element; empty for sets."""

    value: Element = ()


class HopKey(NamedTuple):
    """The second hop of one virtual service and port on this node:

    chain ``hop-…`` that rewrites to the local servers.
    """

    family: int
    address: str
    protocol: str
    port: int


class HopTarget(NamedTuple):
    """``weight``: 1 or more; who is to get nothing is left out."""

    address: str
    port: int
    weight: int = 1


class HopRow(NamedTuple):
    """Who takes the hop, and where to.

    ``macs``: of the directors whose packets are rewritten (DR); ``links``: of ours that they come out of (TUN); both
    sorted. ``targets``: each address and port once; without any, new connections are dropped. ``sticky``: the same
    client address goes to the same target (persistence, sh, mh, dh); otherwise in turn. ``directed_only``: clients on
    this host do not take it, only what directors send.
    """

    targets: tuple[HopTarget, ...]
    sticky: bool = False
    macs: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    directed_only: bool = False


ServiceKey = bytes
"""Packed key of an IPVS service: see ``ipvs_agent.services``."""

ServiceRow = bytes
"""Packed IPVS service with its destinations: see ``ipvs_agent.services``."""


@dataclass(slots=True)
class KernelState:
    """Every table of one host, desired or observed. ``features`` of nftables are the chains that must stand."""

    links: dict[str, LinkRow] = field(default_factory=dict)
    sysctls: dict[str, SysctlRow] = field(default_factory=dict)
    fou: dict[FouKey, FouRow] = field(default_factory=dict)
    hops: dict[HopKey, HopRow] = field(default_factory=dict)
    elements: dict[NftKey, NftRow] = field(default_factory=dict)
    ipvs: dict[ServiceKey, ServiceRow] = field(default_factory=dict)
    routes: dict[RouteKey, RouteRow] = field(default_factory=dict)
    rules: dict[RuleKey, RuleRow] = field(default_factory=dict)
    addresses: dict[AddressKey, AddressRow] = field(default_factory=dict)

    def is_empty(self) -> bool:
        return not (
            self.ipvs
            or self.elements
            or self.addresses
            or self.sysctls
            or self.links
            or self.hops
            or self.routes
            or self.rules
            or self.fou
        )

    def compact(self) -> "KernelState":
        """Itself, never to be changed again, with one dict for all empty tables and one for all equal switches.

        Ten thousand shares are mostly empty tables, and want the same switches.
        """
        for name in self.__slots__:
            if not getattr(self, name):
                setattr(self, name, _EMPTY)
        if self.sysctls:
            self.sysctls = _SWITCHES.setdefault(tuple(sorted(self.sysctls.items())), self.sysctls)
        return self


_EMPTY: dict[Any, Any] = {}
_SWITCHES: dict[tuple[tuple[str, SysctlRow], ...], dict[str, SysctlRow]] = {}
