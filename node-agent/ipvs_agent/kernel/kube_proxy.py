"""kube-proxy in IPVS mode beside us: it deletes IPVS services that it does not know, but for those of addresses that
its configuration excludes. That it tells on the node, unless somebody forbade it (``--metrics-bind-address``)."""

import http.client
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network, summarize_address_range

import msgspec

from ipvs_api.addresses import parse_range

LINK = "kube-ipvs0"
"""Where it keeps its addresses; other modes have none, but leave it there."""

HOST, PORT, PATH = "127.0.0.1", 10249, "/configz"
SECONDS = 1.0

Network = IPv4Network | IPv6Network


class Ipvs(msgspec.Struct):
    exclude: list[str] | None = msgspec.field(name="excludeCIDRs", default=None)


class Configuration(msgspec.Struct):
    """``KubeProxyConfiguration``, as far as it matters here."""

    mode: str = ""
    ipvs: Ipvs = msgspec.field(default_factory=Ipvs)


class _Told(msgspec.Struct):
    configuration: Configuration = msgspec.field(name="kubeproxy.config.k8s.io")


def ask() -> Configuration | None:
    """What kube-proxy on this host says of itself; None where nobody says it."""
    connection = http.client.HTTPConnection(HOST, PORT, timeout=SECONDS)
    try:
        connection.request("GET", PATH)
        return msgspec.json.decode(connection.getresponse().read(), type=_Told).configuration
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None
    finally:
        connection.close()


def objection(told: Configuration | None, ranges: Iterable[str]) -> str:
    """Why kube-proxy's IPVS mode and our virtual addresses do not go together, and the remedy; empty: they do.

    ``ranges``: of all virtual addresses that may be here, as DirectorGroups write them.
    """
    if told is not None and told.mode != "ipvs":
        return ""
    wanted = sorted({network for text in ranges for network in _networks(text)}, key=str)
    excluded = [] if told is None else [ip_network(text, strict=False) for text in told.ipvs.exclude or ()]
    lacking = [network for network in wanted if not any(_within(network, one) for one in excluded)]
    if not lacking:
        return ""
    known = "" if told is not None else f", which does not tell its configuration on {HOST}:{PORT}"
    return (
        f"link {LINK} exists: kube-proxy in IPVS mode{known} manages this host's IPVS too and deletes services it does "
        f"not know; set ipvs.excludeCIDRs in its configuration so that it has {', '.join(map(str, lacking))}, and "
        "ipvs.strictARP to true, and restart it; or use its nftables mode"
    )


def _networks(text: str) -> Iterator[Network]:
    found = parse_range(text)
    if found.version == 4:
        yield from summarize_address_range(IPv4Address(found.first), IPv4Address(found.last))
    else:
        yield from summarize_address_range(IPv6Address(found.first), IPv6Address(found.last))


def _within(network: Network, other: Network) -> bool:
    if isinstance(network, IPv4Network):
        return isinstance(other, IPv4Network) and network.subnet_of(other)
    return isinstance(other, IPv6Network) and network.subnet_of(other)
