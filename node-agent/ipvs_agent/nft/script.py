"""One transaction for ``nft -f -``: every line that can fail alone knows whose change it is.

Text and not JSON, since nft tells line and column for text (``/dev/stdin:7:1-20: Error: …``) and nothing but
``internal:0:0-0`` for JSON; one element a line, so that the culprit among thousands is told at once. Elements are
removed before others are added: in one transaction nobody sees the gap, and intervals may take each other's place.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from ipvs_agent.nft import hops
from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.overlaps import Group, group_of, widest
from ipvs_agent.nft.sets import MSS_MAPS, SETS, element_text, hop_chain, value_text
from ipvs_agent.nft.state import Mirror
from ipvs_agent.nft.static import commands, mss_commands
from ipvs_agent.rows import NFT_TABLE, HopKey, HopRow, NftKey, NftRow
from ipvs_agent.table import Change

Owner = NftKey | HopKey | Feature
ElementChange = Change[NftKey, NftRow]
HopChange = Change[HopKey, HopRow]


@dataclass
class Script:
    """``owners``: of each line, None for those that fail only with a line that has one."""

    lines: list[str] = field(default_factory=list)
    owners: list[Owner | None] = field(default_factory=list)

    def add(self, line: str, owner: Owner | None = None) -> None:
        self.lines.append(line)
        self.owners.append(owner)

    def owner(self, number: int) -> Owner | None:
        """Whose line ``number`` (from 1) is."""
        return self.owners[number - 1] if 0 < number <= len(self.owners) else None

    @property
    def text(self) -> str:
        return "\n".join((*self.lines, ""))


@dataclass
class _Elements:
    """Lines to remove and to add, by family and kernel set."""

    removed: dict[tuple[str, str], list[tuple[str, Owner]]] = field(default_factory=dict)
    added: dict[tuple[str, str], list[tuple[str, Owner]]] = field(default_factory=dict)

    def remove(self, key: NftKey, owner: Owner) -> None:
        name, text = element_text(key)
        self.removed.setdefault((SETS[key.set].family, name), []).append((f"{text},", owner))

    def put(self, key: NftKey, row: NftRow, owner: Owner) -> None:
        name, text = element_text(key)
        line = f"{text}{value_text(key, row)},"
        self.added.setdefault((SETS[key.set].family, name), []).append((line, owner))

    def change(self, key: NftKey, old: NftRow | None, new: NftRow | None, owner: Owner) -> None:
        """An element's value cannot be changed in place."""
        if old == new:
            return
        if old is not None:
            self.remove(key, owner)
        if new is not None:
            self.put(key, new, owner)

    def write(self, script: Script) -> None:
        for verb, sets in (("delete", self.removed), ("add", self.added)):
            for (family, name), lines in sets.items():
                script.add(f"{verb} element {family} {NFT_TABLE} {name} {{")
                for line, owner in lines:
                    script.add(line, owner)
                script.add("}")


def compose(
    mirror: Mirror, features: Iterable[Feature], elements: Sequence[ElementChange], changed: Sequence[HopChange]
) -> Script:
    """What turns the tables of ``mirror`` into those with the changes; empty when nothing is to be done.

    The changes' ``old`` does not matter: what stands is the mirror's.
    """
    script = Script()
    for feature in Feature:  # their order is always the same
        if feature in features and feature not in mirror.features:
            for line in commands(feature):
                script.add(line, feature)
    batch = _Elements()
    gone = []
    for hop in changed:
        old = mirror.hops.get(hop.key)
        if hop.new is not None and (old is None or old[:2] != hop.new[:2]):
            _chain(script, hop.key, hop.new)
        before = hops.elements(hop.key, old) if old is not None else {}
        after = hops.elements(hop.key, hop.new) if hop.new is not None else {}
        for key in before.keys() | after.keys():
            batch.change(key, before.get(key), after.get(key), hop.key)
        if old is not None and hop.new is None:
            gone.append(hop.key)
    for mss in sorted(_new_sizes(mirror, elements)):
        for line in mss_commands(mss):
            script.add(line, Feature.TUNNELS)
    for change in _interval_changes(mirror, elements, batch):
        batch.change(change.key, mirror.elements.get(change.key), change.new, change.key)
    batch.write(script)
    for hop_key in gone:
        script.add(f"delete chain inet {NFT_TABLE} {hop_chain(hop_key)}", hop_key)
    return script


def _new_sizes(mirror: Mirror, changes: Sequence[ElementChange]) -> set[int]:
    """Segment sizes whose chains may be missing."""
    return {
        int(change.new.value[0])
        for change in changes
        if change.key.set in MSS_MAPS and change.new is not None and change.new != mirror.elements.get(change.key)
    }


def _chain(script: Script, key: HopKey, row: HopRow) -> None:
    script.add(f"add chain inet {NFT_TABLE} {hop_chain(key)}", key)
    script.add(f"flush chain inet {NFT_TABLE} {hop_chain(key)}", key)
    for rule in hops.rules(key, row):
        script.add(f"add rule inet {NFT_TABLE} {hop_chain(key)} {rule}", key)


def _interval_changes(mirror: Mirror, changes: Sequence[ElementChange], batch: _Elements) -> Iterator[ElementChange]:
    """Put what changes in sets of intervals into ``batch``; the changes of other sets come back."""
    touched: dict[Group, dict[NftKey, NftRow | None]] = {}
    for change in changes:
        group = group_of(change.key)
        if group is None:
            yield change
        else:
            touched.setdefault(group, {})[change.key] = change.new
    for group, news in touched.items():
        before = mirror.groups.get(group, set())
        after = (before | news.keys()) - {key for key, new in news.items() if new is None}
        old, new = widest(before), widest(after)
        culprit = next(iter(news))
        for prefix in old.keys() - new.keys():
            batch.remove(old[prefix], old[prefix] if old[prefix] in news else culprit)
        for prefix in new.keys() - old.keys():
            batch.put(new[prefix], NftRow(), new[prefix] if new[prefix] in news else culprit)


def removal(families: Iterable[str]) -> Script:
    """Our tables gone, where they are."""
    script = Script()
    for family in families:
        script.add(f"delete table {family} {NFT_TABLE}")
    return script


def replacement(mirror: Mirror, families: Iterable[str]) -> Script:
    """Our tables anew in place of those that stand in ``families``, in one transaction: nobody sees them gone.

    Tracked connections go on, since the new chains' hooks are registered before the old ones' are taken away
    (``nf_tables_addchain`` and ``nf_tables_commit``, net/netfilter/nf_tables_api.c): NAT never stops.
    """
    script = removal(families)
    everything = compose(
        Mirror(),
        mirror.features,
        [Change(key, None, row) for key, row in mirror.elements.items()],
        [Change(hop, None, row) for hop, row in mirror.hops.items()],
    )
    script.lines += everything.lines
    script.owners += everything.owners
    return script
