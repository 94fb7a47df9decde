"""Whatever changes: the composed transaction, done by nft and listed again, gives the rows that were wanted.

``Nft`` below understands the commands that we write as nft and the kernel do, refusals included: what is not there
cannot be deleted, one key has one value, intervals do not overlap, a chain that is gone to cannot be deleted.
"""

import json
import re
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvs_agent.nft import listing, script
from ipvs_agent.nft.batch import Batch
from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.fields import PROTOCOLS
from ipvs_agent.nft.script import ElementChange, HopChange, Script
from ipvs_agent.nft.state import Mirror
from ipvs_agent.nft.static import needed
from ipvs_agent.rows import HopKey, HopRow, HopTarget, NftKey, NftRow
from ipvs_agent.table import Change, diff


@dataclass
class Table:
    """``sets``: types, and values by key, as text. ``chains``: rules as text."""

    sets: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)
    chains: dict[str, list[str]] = field(default_factory=dict)


class Nft:
    """Tables by family."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}

    def run(self, text: str) -> None:
        """One transaction: all or, on ValueError, nothing."""
        before = self.copied()
        try:
            lines = iter(text.splitlines())
            for line in lines:
                words = line.split()
                if words[1] == "element":
                    body = []
                    while (entry := next(lines)) != "}":
                        body.append(entry.removesuffix(","))
                    for entry in body:
                        self.element(words[0], words[2], words[4], entry)
                else:
                    self.command(line, words)
        except (ValueError, KeyError):
            self.tables = before
            raise

    def copied(self) -> dict[str, Table]:
        return {
            family: Table(
                {name: (kind, dict(values)) for name, (kind, values) in table.sets.items()},
                {name: list(rules) for name, rules in table.chains.items()},
            )
            for family, table in self.tables.items()
        }

    def command(self, line: str, words: list[str]) -> None:
        verb, kind, family, name = words[0], words[1], words[2], words[4] if len(words) > 4 else ""
        if kind == "table":
            if verb == "add":
                self.tables.setdefault(family, Table())
            else:
                del self.tables[family]
            return
        table = self.tables[family]
        match verb, kind:
            case "add", "set" | "map":
                table.sets.setdefault(name, (line.partition("{")[2].rstrip(" }"), {}))
            case "add", "chain":
                table.chains.setdefault(name, [])
            case "flush", "chain":
                table.chains[name].clear()
            case "delete", "chain":
                if any(value == f"goto {name}" for _, values in table.sets.values() for value in values.values()):
                    raise ValueError(f"chain {name} is in use")
                del table.chains[name]
            case "add", "rule":
                table.chains[name].append(" ".join(words[5:]))
            case _:
                raise ValueError(line)

    def element(self, verb: str, family: str, name: str, entry: str) -> None:
        declared, values = self.tables[family].sets[name]
        key, _, value = entry.partition(" : ") if " : " in declared else (entry, "", "")
        if verb == "delete":
            del values[key]
            return
        if values.get(key, value) != value:
            raise ValueError(f"{key} has another value")
        if value.startswith("goto ") and value.removeprefix("goto ") not in self.tables[family].chains:
            raise ValueError(f"no chain for {entry}")
        *head, last = key.split(" . ")
        if "interval" in declared:
            for other in values:
                *their_head, their_last = other.split(" . ")
                if head == their_head and key != other and overlap(last, their_last):
                    raise ValueError(f"{key} overlaps {other}")
        values[key] = value

    def listings(self) -> dict[str, str]:
        """``nft -j -n list table`` of each family."""
        return {family: json.dumps({"nftables": listed(table)}) for family, table in self.tables.items()}


def overlap(one: str, other: str) -> bool:
    return ip_network(one).overlaps(ip_network(other))


def listed(table: Table) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"name": "ipvs-operator", "handle": 1}},
    ]
    for name, (declared, values) in table.sets.items():
        key_type, _, value_type = declared.partition(";")[0].partition(" : ")
        types = key_type.removeprefix("typeof ").split(" . ")
        elements = [listed_element(types, key, value) for key, value in values.items()]
        body: dict[str, Any] = {"name": name, "type": types, "handle": 2} | ({"elem": elements} if elements else {})
        found.append({"map": body | {"map": value_type}} if value_type else {"set": body})
    for number, name in enumerate(table.chains):
        found.append({"chain": {"name": name, "handle": 100 + number}})
    for name, rules in table.chains.items():
        found += [{"rule": {"chain": name, "handle": 3, **listed_rule(name, rule)}} for rule in rules]
    return found


def listed_element(types: list[str], key: str, value: str) -> Any:
    parts = [listed_part(kind, part) for kind, part in zip(types, key.split(" . "), strict=True)]
    entry = parts[0] if len(parts) == 1 else {"concat": parts}
    if not value:
        return entry
    return [entry, {"goto": {"target": value[5:]}} if value.startswith("goto ") else value]


def listed_part(kind: str, part: str) -> Any:
    if kind == "meta l4proto":
        return PROTOCOLS[part]
    if kind.endswith("dport"):
        return int(part)
    if "/" in part:
        address, length = part.split("/")
        return {"prefix": {"addr": address, "len": int(length)}}
    return part.strip('"')


def listed_rule(chain: str, rule: str) -> dict[str, Any]:
    if rule == "counter":
        return {"expr": [{"counter": None}]}
    if chain.startswith("mss-"):
        return {"expr": [{"mangle": {"key": "tcp option", "value": int(rule.split()[-1])}}]}
    if not chain.startswith("hop-"):
        return {"expr": [{"other": rule}]}
    rule, _, comment = rule.partition(' comment "')
    commented = {"comment": comment.rstrip('"')} if comment else {}
    if rule == "drop":
        return {"expr": [{"drop": None}], **commented}
    if rule.startswith("ct mark set"):
        return {"expr": [{"mangle": int(rule.split()[-1], 16)}]}
    place = re.search(r"dnat (?:ip to ([\d.]+)|ip6 to \[([\da-f:]+)\]):(\d+)$", rule)
    assert place, rule
    words = rule.partition(" meta l4proto")[0].split()
    choice = [{"match": [int(word) for word in words if word.isdigit()]}] if words[0] in ("numgen", "jhash") else []
    dnat = {"dnat": {"addr": place[1] or place[2], "port": int(place[3])}}
    return {"expr": [*choice, {"match": "meta l4proto"}, dnat], **commented}


VIPS = {4: ["192.0.2.10", "192.0.2.11"], 6: ["2001:db8::10"]}
PREFIXES = ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "10.128.0.0/9", "0.0.0.0/0", "203.0.113.0/24"]
plain = st.one_of(
    st.builds(
        NftKey, st.just("open4"), st.tuples(st.sampled_from(VIPS[4]), st.sampled_from(["tcp", "sctp"]), st.just(80))
    ),
    st.builds(NftKey, st.just("untracked6"), st.tuples(st.just(VIPS[6][0]), st.just("udp"), st.integers(1, 3))),
    st.builds(NftKey, st.just("client_interfaces"), st.tuples(st.sampled_from(["eth0", "eth0.5"]))),
    st.builds(NftKey, st.just("hop_clients4"), st.tuples(st.sampled_from(PREFIXES))),
    st.builds(
        NftKey,
        st.just("sources4"),
        st.tuples(st.sampled_from(VIPS[4]), st.sampled_from(["tcp", "udp"]), st.just(80), st.sampled_from(PREFIXES)),
    ),
)
elements = st.dictionaries(plain, st.just(NftRow()), max_size=12).flatmap(
    lambda sets: st.fixed_dictionaries(
        {},
        optional={
            NftKey("mss4", (VIPS[4][0],)): st.sampled_from([NftRow((1400,)), NftRow((1360,))]),
            NftKey("mss6", (VIPS[6][0],)): st.sampled_from([NftRow((1400,)), NftRow((1360,))]),
            NftKey("own4", ("eth0",)): st.sampled_from([NftRow(("192.0.2.1",)), NftRow(("192.0.2.2",))]),
            NftKey("return4", ("02:00:00:00:00:01", "10.0.0.1", "tcp", 80)): st.builds(
                lambda path: NftRow((path,)), st.integers(1, 7)
            ),
        },
    ).map(lambda maps: sets | maps)
)
macs = st.lists(st.sampled_from(["02:00:00:00:00:01", "02:00:00:00:00:02"]), unique=True).map(sorted).map(tuple)
links = st.lists(st.sampled_from(["ivt-1", "ivt-2"]), unique=True).map(sorted).map(tuple)


def hop_rows(version: int) -> st.SearchStrategy[HopRow]:
    addresses = ["10.0.0.1", "10.0.0.2", "10.0.0.3"] if version == 4 else ["2001:db8::1", "2001:db8::2"]
    target = st.builds(HopTarget, st.sampled_from(addresses), st.just(8080), st.integers(1, 5))
    targets = st.lists(target, unique_by=lambda target: target[:2]).map(tuple)
    return st.builds(HopRow, targets, st.booleans(), macs, links)


hops = st.fixed_dictionaries(
    {},
    optional={
        HopKey(4, VIPS[4][0], "tcp", 80): hop_rows(4),
        HopKey(4, VIPS[4][1], "sctp", 80): hop_rows(4),
        HopKey(6, VIPS[6][0], "udp", 53): hop_rows(6),
    },
)
Wanted = tuple[dict[NftKey, NftRow], dict[HopKey, HopRow]]
states = st.tuples(elements, hops)


def change(nft: Nft, mirror: Mirror, wanted: Wanted) -> None:
    """What ``NftTable.write`` does when all goes well."""
    element_changes = diff(wanted[0], mirror.elements)
    hop_changes = diff(wanted[1], mirror.hops)
    features = Batch(frozenset(), tuple(element_changes), tuple(hop_changes)).with_needed(()).features
    composed = script.compose(mirror, features, element_changes, hop_changes)
    nft.run(composed.text)
    mirror.features |= features
    mirror.apply(element_changes, hop_changes)


def unfolded(found: dict[NftKey, NftRow], wanted: dict[NftKey, NftRow]) -> dict[NftKey, NftRow]:
    """With the wanted prefixes that lie inside found ones, which the kernel cannot tell apart."""
    inside = {
        key: row
        for key, row in wanted.items()
        if key.set in ("sources4", "hop_clients4")
        and any(
            other.set == key.set
            and other.element[:-1] == key.element[:-1]
            and ip_network(str(key.element[-1])).subnet_of(ip_network(str(other.element[-1])))  # type: ignore[arg-type]
            for other in found
        )
    }
    return found | inside


def stamped(nft: Nft) -> None:
    """As after our own write: every table bears the fingerprint of its own listing."""
    for family, fingerprint in listing.read(nft.listings()).fingerprints.items():
        chains = nft.tables[family].chains
        for name in [name for name in chains if name.startswith("stamp-")]:
            del chains[name]
        chains[listing.stamp(fingerprint)] = []


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(st.lists(states, min_size=1, max_size=4))
def test_any_sequence_of_changes_ends_in_what_was_wanted(wanted: list[Wanted]) -> None:
    nft, mirror = Nft(), Mirror()
    for state in wanted:
        change(nft, mirror, state)
        stamped(nft)
        found = listing.read(nft.listings())
        assert (found.damage, found.outdated) == ("", False)
        assert unfolded(found.mirror.elements, state[0]) == state[0]
        assert found.mirror.hops == state[1]
        assert mirror.elements == state[0]
        assert mirror.features >= needed(state[0], state[1])
        assert found.mirror.features == mirror.features


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(states, states)
def test_changes_also_start_from_what_a_listing_shows(before: Wanted, after: Wanted) -> None:
    """An agent that has just started knows nothing but the kernel's listing."""
    nft = Nft()
    change(nft, Mirror(), before)
    mirror = listing.read(nft.listings()).mirror
    change(nft, mirror, after)
    stamped(nft)
    found = listing.read(nft.listings())
    assert (found.damage, found.outdated) == ("", False)
    assert unfolded(found.mirror.elements, after[0]) == after[0]
    assert found.mirror.hops == after[1]


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(states)
def test_nothing_to_change_is_no_transaction(state: Wanted) -> None:
    nft, mirror = Nft(), Mirror()
    change(nft, mirror, state)
    again: list[ElementChange] = [Change(key, None, row) for key, row in state[0].items()]
    hop_again: list[HopChange] = [Change(key, None, row) for key, row in state[1].items()]
    assert script.compose(mirror, mirror.features, again, hop_again).lines == []


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(states)
def test_a_replacement_makes_the_same_tables_anew(state: Wanted) -> None:
    nft, mirror = Nft(), Mirror()
    change(nft, mirror, state)
    stamped(nft)
    before = nft.copied()
    for table in nft.tables.values():
        for rules in table.chains.values():
            rules.append("counter")
    families = list(nft.tables)
    nft.run(script.replacement(mirror, families).text)
    stamped(nft)
    assert {family: needed_part(table) for family, table in nft.tables.items()} == {
        family: needed_part(table) for family, table in before.items()
    }


def needed_part(table: Table) -> tuple[dict[str, list[str]], dict[str, tuple[str, dict[str, str]]]]:
    """Without chains of segment sizes that nothing needs any more, which stay until a replacement."""
    used = {value.removeprefix("goto ") for _, values in table.sets.values() for value in values.values()}
    return {
        name: found for name, found in table.chains.items() if not name.startswith("mss-") or name in used
    }, table.sets


@pytest.mark.slow
@given(states)
@settings(max_examples=6, deadline=None)
def test_any_change_to_static_rules_changes_the_fingerprint(state: Wanted) -> None:
    nft = Nft()
    change(nft, Mirror(), state)
    stamped(nft)
    for table in nft.tables.values():
        for rules in table.chains.values():
            rules.append("counter")
            found = listing.read(nft.listings())
            assert found.damage or found.outdated
            rules.pop()


def test_every_line_that_can_fail_knows_whose_it_is() -> None:
    hop = HopKey(4, VIPS[4][0], "tcp", 80)
    row = HopRow((HopTarget("10.0.0.1", 80),), False, ("02:00:00:00:00:01",))
    source = NftKey("sources4", (VIPS[4][0], "tcp", 80, "10.0.0.0/8"))
    composed = script.compose(Mirror(), list(Feature), [Change(source, None, NftRow())], [Change(hop, None, row)])
    ownerless = {line for line, owner in zip(composed.lines, composed.owners, strict=True) if owner is None}
    assert ownerless == {line for line in composed.lines if line == "}" or line.startswith("add element")}
    assert composed.owner(composed.lines.index("192.0.2.10 . 80 . 10.0.0.0/8,") + 1) == source
    assert composed.owner(composed.lines.index("02:00:00:00:00:01 . 192.0.2.10 . tcp . 80,") + 1) == hop
    assert composed.owner(1) is Feature.GUARD
    assert Script().owner(7) is None


def test_the_model_refuses_what_the_kernel_refuses() -> None:
    nft = Nft()
    nft.run("add table inet x\nadd set inet x s { typeof ip saddr; flags interval; }")
    nft.run("add map inet x m { typeof iifname : verdict; }")
    nft.run("add element inet x s {\n10.0.0.0/8,\n}")
    for refused in (
        "add element inet x s {\n10.1.0.0/16,\n}",
        "delete element inet x s {\n10.1.0.0/16,\n}",
        'add element inet x m {\n"eth0" : goto nowhere,\n}',
        "add rule inet x nowhere drop",
    ):
        with pytest.raises((ValueError, KeyError)):
            nft.run(refused)
    assert nft.tables["inet"].sets["s"][1] == {"10.0.0.0/8": ""}
