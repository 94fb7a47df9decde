"""From ``nft -j -n list table`` to rows, and whether the tables are as we made them.

Rules, chains and set types are static, so one fingerprint of their listing, taken after our own write, tells whether
anybody touched them. It stands in the table itself as the name of an empty chain, ``stamp-VERSION-NFT-FINGERPRINT``:
an agent that starts can tell whether what it finds is whole, and of its own version. Another version of nft may list
the same rules in other words; its tables are replaced, too.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ipvs_agent.nft import hops
from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.ruleset import RULES
from ipvs_agent.nft.sets import DERIVED, SETS, hop_key, kernel_sets, read_elements
from ipvs_agent.nft.state import Mirror
from ipvs_agent.nft.static import VERSION
from ipvs_agent.rows import NFT_TABLE, Element, HopKey, HopRow, HopTarget, NftKey, NftRow

_STAMP, _HOP, _MSS = "stamp-", "hop-", "mss-"
_KERNEL_SETS = frozenset(kernel for name in SETS for kernel in kernel_sets(name))


@dataclass
class Listing:
    """``fingerprints``: of the static part, by the family of each table that stands. ``damage``: see ``NftState``."""

    mirror: Mirror
    fingerprints: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, tuple[str, ...]] = field(default_factory=dict)
    damage: str = ""
    outdated: bool = False


def stamp(fingerprint: str) -> str:
    """The name of the chain that says: these rules are ours, of this version, and whole."""
    return f"{_STAMP}{VERSION}-{fingerprint}"


def _same_version(name: str, fingerprint: str) -> bool:
    return name.startswith(stamp(fingerprint.partition("-")[0]))


@dataclass
class _Table:
    """One table's listing, taken apart."""

    nft: str = ""
    static: list[Any] = field(default_factory=list)
    chains: set[str] = field(default_factory=set)
    stamps: list[str] = field(default_factory=list)
    rules: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    elements: dict[NftKey, NftRow] = field(default_factory=dict)
    strange: str = ""


def _objects(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in json.loads(text)["nftables"]:
        yield from entry.items()


def _take_apart(text: str) -> _Table:
    table = _Table()
    for kind, body in _objects(text):
        if kind == "metainfo":
            table.nft = re.sub(r"[^\w.]", "", str(body.get("version")))
            continue
        name = body.get("chain") if kind == "rule" else body.get("name")
        name = str(name)
        if kind in ("set", "map", "element"):
            found = body.pop("elem", [])
            if name in _KERNEL_SETS:
                try:
                    table.elements.update(read_elements(name, found))
                except (ValueError, KeyError, TypeError) as problem:
                    table.strange = f"set {name} holds what is not ours ({problem})"
        elif kind == "chain":
            table.chains.add(name)
        if kind == "chain" and name.startswith(_STAMP):
            table.stamps.append(name)
        elif kind == "chain" and name.startswith((_HOP, _MSS)):
            table.rules.setdefault(name, [])
        elif kind == "rule" and name.startswith((_HOP, _MSS)):
            table.rules.setdefault(name, []).append(body)
        elif kind != "element":
            body.pop("handle", None)
            table.static.append({kind: body})
    return table


def _fingerprint(table: _Table) -> str:
    """nft's version and a hash. A table lists its chains and sets in the order in which they were made."""
    text = json.dumps(table.static, sort_keys=True, separators=(",", ":"))
    return f"{table.nft}-{hashlib.blake2s(text.encode(), digest_size=6).hexdigest()}"


def _features(chains: set[str], family: str) -> frozenset[Feature]:
    return frozenset(
        feature
        for feature, rules in RULES.items()
        if rules.family == family and any(chain.name in chains for chain in rules.chains)
    )


def read(texts: Mapping[str, str]) -> Listing:
    """``texts``: JSON by family of each table of ours that stands."""
    listing = Listing(Mirror())
    elements: dict[NftKey, NftRow] = {}
    features: frozenset[Feature] = frozenset()
    found_hops: dict[HopKey, HopRow] = {}
    for family, text in texts.items():
        try:
            table = _take_apart(text)
        except ValueError as problem:  # nft 1.0.6 breaks off in the middle of a table that somebody set dormant
            listing.damage = f"table {family} {NFT_TABLE} cannot be listed ({problem})"
            listing.stamps[family] = ()
            continue
        features |= _features(table.chains, family)
        fingerprint = _fingerprint(table)
        listing.fingerprints[family] = fingerprint
        listing.stamps[family] = tuple(table.stamps)
        if table.stamps != [stamp(fingerprint)]:
            if any(_same_version(name, fingerprint) for name in table.stamps):
                listing.damage = f"rules, chains or sets of table {family} {NFT_TABLE} were changed by somebody else"
            else:
                listing.outdated = True
        derived = {key: row for key, row in table.elements.items() if key.set in DERIVED}
        elements |= {key: row for key, row in table.elements.items() if key.set not in DERIVED}
        table_hops, strange = _hops(table.rules, derived)
        found_hops |= table_hops
        if strange := strange or table.strange or _clamps(table.rules):
            listing.damage = f"table {family} {NFT_TABLE}: {strange}"
    listing.mirror = Mirror(features, elements, found_hops)
    return listing


def _clamps(chains: Mapping[str, list[dict[str, Any]]]) -> str:
    """What is wrong with the chains that lower TCP's maximum segment size."""
    for chain, rules in chains.items():
        if not chain.startswith(_MSS):
            continue
        values = [statement.get("mangle", {}).get("value") for rule in rules for statement in rule["expr"]]
        if len(rules) != 1 or chain.removeprefix(_MSS) not in map(str, values):
            return f"chain {chain} is not as it was made"
    return ""


def _hops(
    chains: Mapping[str, list[dict[str, Any]]], derived: Mapping[NftKey, NftRow]
) -> tuple[dict[HopKey, HopRow], str]:
    """The second hops that are whole, and what is wrong with others."""
    found: dict[HopKey, HopRow] = {}
    decided: dict[HopKey, tuple[tuple[HopTarget, ...], bool]] = {}
    strange = ""
    for chain, rules in chains.items():
        if not chain.startswith(_HOP):
            continue
        try:
            decided[hop_key(chain)] = hops.read_rules(rules)
        except (ValueError, KeyError, IndexError, TypeError) as problem:
            strange = f"chain {chain} is not as it was made ({problem!r})"
    arrivals: dict[tuple[str, Element], list[str]] = {}
    for key in derived:
        if key.set.startswith(("hop_macs", "hop_links")):
            arrivals.setdefault((key.set, key.element[1:]), []).append(str(key.element[0]))
    accounted = 0
    for hop, (targets, sticky) in decided.items():
        macs = arrivals.get((f"hop_macs{hop.family}", hop[1:]), ())
        links = arrivals.get((f"hop_links{hop.family}", hop[1:]), ())
        directed_only = NftKey(f"hop_directed{hop.family}", hop[1:]) in derived
        row = HopRow(targets, sticky, tuple(sorted(macs)), tuple(sorted(links)), directed_only)
        expected = hops.elements(hop, row)
        if any(derived.get(key) != value for key, value in expected.items()):
            strange = f"no element leads to the second hop of {hop.protocol} {hop.address} port {hop.port}"
            continue
        accounted += len(expected)
        found[hop] = row
    if not strange and accounted != len(derived):
        strange = "elements lead to a second hop that is not there"
    return found, strange
