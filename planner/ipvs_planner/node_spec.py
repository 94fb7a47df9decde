"""What one node is told as a whole: which groups it directs, which addresses plans may use on it, kernel settings."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ipvs_api.directorgroup import KernelSettings, Timeouts
from ipvs_api.node import AnnouncementKind, IPVSNodeSpec, NodeGroup
from ipvs_planner.groups import GroupFacts
from ipvs_planner.reasons import Finding, Reason
from ipvs_planner.snapshot import Snapshot

NODE_GROUPS = 64
"""At most this many groups in one node's spec; those it directs come first."""

NODE_PREFIXES = 16
"""At most this many podCIDRs; Kubernetes allows one of each family."""

_TIMEOUTS, _SETTINGS = msgspec.structs.fields(Timeouts), msgspec.structs.fields(KernelSettings)
"""Read once: it takes a tenth of a millisecond each time."""


class CompiledNode(NamedTuple):
    spec: IPVSNodeSpec
    notes: tuple[Finding, ...]


def compile_node(snapshot: Snapshot, node: str, previous: IPVSNodeSpec | None = None) -> CompiledNode:
    """The spec of ``node``'s IPVSNode. Any node may serve any group, so all groups' ranges are there.

    A group that cannot be used as written keeps the entry of ``previous``, since its virtual services stay as they are.
    """
    before = {entry.name: entry for entry in previous.groups} if previous is not None else {}
    entries = [_entry(snapshot, node, group) for group in snapshot.groups.values() if not group.findings]
    entries += [before[group.name] for group in snapshot.groups.values() if group.findings and group.name in before]
    entries.sort(key=lambda entry: (not entry.director, entry.name))
    directed = [group for name, group in sorted(snapshot.groups.items()) if node in snapshot.directors[name].nodes]
    kernel, notes = _merge(directed)
    facts = snapshot.nodes.facts.get(node)
    behind = tuple(prefix.text for prefix in facts.behind) if facts is not None else ()
    for problem in facts.problems if facts is not None else ():
        notes.append(Finding(Reason.MALFORMED_ADDRESS, f"Node {node}: {problem}"))
    if len(entries) > NODE_GROUPS:
        left_out = ", ".join(entry.name for entry in entries[NODE_GROUPS:])
        notes.append(Finding(Reason.TOO_MANY_GROUPS, f"Node {node} takes {NODE_GROUPS} groups; left out: {left_out}"))
    groups = tuple(sorted(entries[:NODE_GROUPS], key=lambda entry: entry.name))
    spec = IPVSNodeSpec(groups=groups, kernel=kernel, pod_cidrs=behind[:NODE_PREFIXES])
    return CompiledNode(spec, tuple(notes))


def disagreements(snapshot: Snapshot, group: str) -> tuple[Finding, ...]:
    """Settings that ``group`` and another one want differently on a director that they share."""
    shared = {
        tuple(name for name, directors in sorted(snapshot.directors.items()) if node in directors.nodes)
        for node in snapshot.directors[group].nodes
    }
    found = {
        finding: None
        for names in sorted(shared)
        for finding in _merge([snapshot.groups[name] for name in names])[1]
        if f"DirectorGroup {group} " in finding.message
    }
    return tuple(found)


def _entry(snapshot: Snapshot, node: str, group: GroupFacts) -> NodeGroup:
    directors = snapshot.directors[group.name]
    return NodeGroup(
        name=group.name,
        addresses=group.addresses,
        director=node in directors.nodes,
        interface=group.interface,
        announcement=group.announcement or AnnouncementKind.NONE,
        gateway_addresses=group.gateways,
        gateway_holder=bool(group.gateways) and node == (directors.holder or _only(directors.nodes)),
    )


def _only(nodes: Sequence[str]) -> str:
    return nodes[0] if len(nodes) == 1 else ""


def _merge(groups: Sequence[GroupFacts]) -> tuple[KernelSettings, list[Finding]]:
    """What any of ``groups`` (sorted by name) asks for. Where two disagree the first has it, and a finding says so."""
    chosen: dict[str, tuple[str, object]] = {}
    notes: list[Finding] = []
    for group in groups:
        for field, words, value in _asked(group.kernel):
            first, followed = chosen.setdefault(field, (group.name, value))
            if value != followed:
                found = (
                    f"spec.kernel.{words}: DirectorGroup {first} wants {_said(followed)} and is followed, "
                    f"DirectorGroup {group.name} wants {_said(value)}; a director of both has one value"
                )
                notes.append(Finding(Reason.SETTINGS_DISAGREE, found))
    values = {field: value for field, (_, value) in chosen.items()}
    times = {field: values.pop(field) for field in Timeouts.__struct_fields__ if field in values}
    timeouts = msgspec.structs.replace(Timeouts(), **times)
    return msgspec.structs.replace(KernelSettings(), timeouts=timeouts, **values), notes


def _asked(kernel: KernelSettings) -> Iterator[tuple[str, str, object]]:
    """Field, its name in a manifest, value: for everything that is asked for."""
    for info in _TIMEOUTS:
        seconds = getattr(kernel.timeouts, info.name)
        if seconds:
            yield info.name, f"timeouts.{info.encode_name}", seconds
    for info in _SETTINGS:
        value = getattr(kernel, info.name)
        if info.name != "timeouts" and value is not None:
            yield info.name, info.encode_name, value


def _said(value: object) -> str:
    return str(value).lower()
