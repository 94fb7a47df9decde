"""The commands that raise features, and which features rows need."""

import hashlib
from collections.abc import Iterable, Iterator

from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.hops import rules
from ipvs_agent.nft.ruleset import RULES
from ipvs_agent.nft.sets import DERIVED, declarations, mss_chain
from ipvs_agent.rows import NFT_TABLE, HopKey, HopRow, HopTarget, NftKey

_OWNER = {name: feature for feature, what in RULES.items() for name in what.sets}
_OWNER |= dict.fromkeys(DERIVED, Feature.SECOND_HOP)
FAMILIES = ("inet", "arp")


def needed(elements: Iterable[NftKey], hops: Iterable[HopKey]) -> frozenset[Feature]:
    """The features that these elements and second hops need; elements of unknown sets need none."""
    found = {_OWNER[name] for name in {key.set for key in elements} if name in _OWNER}
    return frozenset(found | {Feature.SECOND_HOP} if any(True for _ in hops) else found)


def commands(feature: Feature) -> list[str]:
    """nft's commands that raise a feature in a table that may have others, whose sets they may share."""
    what = RULES[feature]
    table = f"{what.family} {NFT_TABLE}"
    lines = [f"add table {table}"]
    for name in what.sets:
        lines += declarations(name)
    lines += [
        f"add chain {table} {chain.name}" + (f" {{ {chain.hook} }}" if chain.hook else "") for chain in what.chains
    ]
    lines += [f"add rule {table} {chain.name} {rule}" for chain in what.chains for rule in chain.rules]
    return lines


def mss_commands(mss: int) -> list[str]:
    """The chain of one maximum segment size, new or made again.

    The kernel only ever lowers the option (``nft_exthdr_tcp_set_eval``, net/netfilter/nft_exthdr.c).
    """
    chain = f"inet {NFT_TABLE} {mss_chain(mss)}"
    return [f"add chain {chain}", f"flush chain {chain}", f"add rule {chain} tcp option maxseg size set {mss}"]


def _everything() -> Iterator[str]:
    for feature in Feature:
        yield from commands(feature)
    two = (HopTarget("192.0.2.1", 80), HopTarget("192.0.2.2", 80, 2))
    yield from mss_commands(1400)
    for targets in ((), two[:1], two):
        for sticky in (False, True):
            yield from rules(HopKey(4, "192.0.2.10", "tcp", 80), HopRow(targets, sticky))


VERSION = hashlib.blake2s("\n".join(_everything()).encode()).hexdigest()[:8]
"""Eight hexadecimal digits that change with any rule or set type of ours."""
