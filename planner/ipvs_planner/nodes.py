"""Nodes as the planner needs them: own addresses, what is behind them, labels."""

from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from typing import NamedTuple, TypeVar

import msgspec

from ipvs_api.core import Node
from ipvs_planner.packed import V4, V6, Packed, parse_address, text_of

NODE_ADDRESSES = 16
"""At most this many own addresses of one Node go into a plan."""


class Prefix(NamedTuple):
    """A CIDR: addresses of ``family`` (packed length) whose value shifted right by ``shift`` bits is ``network``."""

    family: int
    shift: int
    network: int

    def holds(self, address: Packed) -> bool:
        return len(address) == self.family and int.from_bytes(address, "big") >> self.shift == self.network

    @property
    def text(self) -> str:
        first = (self.network << self.shift).to_bytes(self.family, "big")
        return f"{text_of(first)}/{self.family * 8 - self.shift}"

    def addresses(self) -> Iterator[Packed]:
        first = self.network << self.shift
        return (value.to_bytes(self.family, "big") for value in range(first, first + (1 << self.shift)))


def parse_prefix(text: str) -> Prefix | None:
    """A CIDR without host bits; None for anything else."""
    if "/" not in text:
        return None
    try:
        network = ip_network(text)
    except ValueError:
        return None
    shift = network.max_prefixlen - network.prefixlen
    return Prefix(V4 if network.version == 4 else V6, shift, int(network.network_address) >> shift)


class NodeFacts(msgspec.Struct, frozen=True):
    """``own`` and ``addresses`` are the InternalIPs, packed and as text, in the Node's order; ``behind`` its podCIDRs.

    ``problems``: what of the Node does not parse; it is left out.
    """

    name: str
    labels: Mapping[str, str]
    own: tuple[Packed, ...]
    addresses: tuple[str, ...]
    behind: tuple[Prefix, ...]
    problems: tuple[str, ...]

    def address(self, family: int) -> str:
        """The first own address of that family (packed length); empty without one."""
        return next((text for packed, text in zip(self.own, self.addresses, strict=True) if len(packed) == family), "")


def node_facts(node: Node) -> NodeFacts:
    own: dict[Packed, str] = {}
    behind: list[Prefix] = []
    problems: list[str] = []
    for index, entry in enumerate(node.status.addresses):
        if entry.type == "InternalIP":
            parsed = parse_address(entry.address)
            if isinstance(parsed, str):
                problems.append(f"status.addresses[{index}].address: found {entry.address!r}, {parsed}")
            else:
                own[parsed.packed] = parsed.text
    for index, text in enumerate(node.spec.pod_cidrs):
        prefix = parse_prefix(text)
        if prefix is None:
            problems.append(f"spec.podCIDRs[{index}]: found {text!r}, wanted a CIDR such as 10.244.1.0/24")
        else:
            behind.append(prefix)
    if len(own) > NODE_ADDRESSES:
        problems.append(f"status.addresses: found {len(own)} of type InternalIP, the first {NODE_ADDRESSES} are used")
    return NodeFacts(
        name=node.metadata.name,
        labels=node.metadata.labels,
        own=tuple(own)[:NODE_ADDRESSES],
        addresses=tuple(own.values())[:NODE_ADDRESSES],
        behind=tuple(behind),
        problems=tuple(problems),
    )


class Nodes:
    """All Nodes, found by name, by own address and by the narrowest podCIDR around an address."""

    def __init__(self) -> None:
        self.facts: dict[str, NodeFacts] = {}
        self._own: dict[Packed, tuple[str, ...]] = {}
        self._behind: dict[int, dict[int, dict[int, tuple[str, ...]]]] = {V4: {}, V6: {}}

    def put(self, facts: NodeFacts) -> None:
        self.remove(facts.name)
        self.facts[facts.name] = facts
        for address in facts.own:
            _add(self._own, address, facts.name)
        for prefix in facts.behind:
            by_shift = self._behind[prefix.family]
            _add(by_shift.setdefault(prefix.shift, {}), prefix.network, facts.name)
            self._behind[prefix.family] = dict(sorted(by_shift.items()))

    def remove(self, name: str) -> None:
        facts = self.facts.pop(name, None)
        if facts is None:
            return
        for address in facts.own:
            _discard(self._own, address, name)
        for prefix in facts.behind:
            by_shift = self._behind[prefix.family]
            if prefix.shift in by_shift:
                _discard(by_shift[prefix.shift], prefix.network, name)
                if not by_shift[prefix.shift]:
                    del by_shift[prefix.shift]

    def addresses(self) -> Iterator[Packed]:
        """Every node's own."""
        return iter(self._own)

    def whose(self, address: Packed) -> NodeFacts | None:
        """The node that has this address itself; of several that say so, the first by name."""
        names = self._own.get(address)
        return self.facts[names[0]] if names else None

    def around(self, address: Packed) -> NodeFacts | None:
        """The node whose podCIDR holds the address: the narrowest podCIDR, then the first node by name."""
        value = int.from_bytes(address, "big")
        for shift, networks in self._behind[len(address)].items():
            names = networks.get(value >> shift)
            if names:
                return self.facts[names[0]]
        return None


T = TypeVar("T")


def _add(table: dict[T, tuple[str, ...]], value: T, name: str) -> None:
    table[value] = tuple(sorted({*table.get(value, ()), name}))


def _discard(table: dict[T, tuple[str, ...]], value: T, name: str) -> None:
    names = tuple(other for other in table.get(value, ()) if other != name)
    if names:
        table[value] = names
    else:
        table.pop(value, None)
