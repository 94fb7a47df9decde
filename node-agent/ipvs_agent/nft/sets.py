"""The sets and maps of our tables, and the way from rows to their elements and back.

One kernel set for each name below, but for ``sources``: nft 1.0.6 writes a byte-order conversion of one byte for
``meta l4proto`` in a set of intervals, which newer kernels refuse (``nft_byteorder_init``; tried on 7.2), so there is
one for each protocol. The table of all names, with what they are for, stands in ``ipvs_agent.nft.ruleset``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ipvs_agent.nft.fields import ADDRESS, INTERFACE, MAC, PORT, PREFIX, PROTOCOL, PROTOCOLS, Field, Part, number
from ipvs_agent.rows import NFT_TABLE, RETURN_PATHS, Element, HopKey, NftKey, NftRow

SOURCES = ("sources4", "sources6")
MSS_MAPS = ("mss4", "mss6")


def hop_chain(key: HopKey) -> str:
    """The chain of one virtual service and port. A colon would make nft's own listing unreadable to nft."""
    return f"hop-{key.protocol}-{key.address.replace(':', '_')}-{key.port}"


def hop_key(chain: str) -> HopKey:
    """What ``hop_chain`` made; ValueError for the name of another chain."""
    try:
        _, protocol, address, port = chain.split("-")
        version = 6 if "_" in address else 4
        key = HopKey(version, address.replace("_", ":"), protocol, int(port))
        flow_text((ADDRESS[version], PROTOCOL, PORT), key[1:])
    except ValueError as problem:
        raise ValueError(f"chain {chain} is not of a virtual service and port: {problem}") from None
    if hop_chain(key) != chain:
        raise ValueError(f"chain {chain} is not of a virtual service and port")
    return key


def _path_chain(path: Part) -> str:
    if not isinstance(path, int) or not 1 <= path <= RETURN_PATHS:
        raise ValueError(f"{path!r} is not a return path (1 to {RETURN_PATHS})")
    return f"return-{path}"


def _read_path(found: Any) -> int:
    path = int(found["goto"]["target"].removeprefix("return-"))
    _path_chain(path)
    return path


def _write_hop(chain: Part) -> str:
    hop_key(str(chain))
    return f"goto {chain}"


def mss_chain(mss: Part) -> str:
    """The chain that lowers TCP's maximum segment size to so many bytes, made with the first element that needs it.

    The size cannot be a map's plain value: nft 1.0.6 lists such a rule in words that it does not understand itself.
    """
    return f"mss-{number(64, 65535, mss)}"


def _read_mss(found: Any) -> int:
    return int(found["goto"]["target"].removeprefix("mss-"))


MSS = Field("size", lambda mss: f"goto {mss_chain(mss)}", _read_mss)
PATH = Field("path", lambda path: f"goto {_path_chain(path)}", _read_path)
HOP = Field("chain", _write_hop, lambda found: str(found["goto"]["target"]))


@dataclass(frozen=True)
class SetType:
    """``fields``: of a row's element; ``typeof``: the same in nft's expressions, with the value's where there is one.

    ``value``: what a map gives. ``interval``: the last field is a prefix. Expressions and not datatypes, since what
    nft 1.1 notes down about datatypes makes nft 1.0.6 crash when it lists them, whoever calls it on this host.
    """

    fields: tuple[Field, ...]
    typeof: str
    value: Field | None = None
    interval: bool = False
    family: str = "inet"


def _types() -> Iterator[tuple[str, SetType]]:
    yield "client_interfaces", SetType((INTERFACE,), "iifname")
    yield "no_redirects", SetType((INTERFACE,), "oifname")
    yield "tunnel_links", SetType((INTERFACE,), "iifname")
    yield "gue_ports", SetType((PORT,), "udp dport")
    for version, ip in ((4, "ip"), (6, "ip6")):
        address, prefix = ADDRESS[version], PREFIX[version]
        flow, to = (address, PROTOCOL, PORT), f"{ip} daddr . meta l4proto . th dport"
        yield f"guarded{version}", SetType((address,), f"{ip} daddr")
        yield f"open{version}", SetType(flow, to)
        yield f"restricted{version}", SetType(flow, to)
        yield f"sources{version}", SetType((*flow, prefix), f"{ip} daddr . th dport . {ip} saddr", interval=True)
        yield f"untracked{version}", SetType(flow, to)
        yield f"tracked{version}", SetType(flow, to)
        yield f"masquerade{version}", SetType(flow, to)
        yield f"hairpin{version}", SetType((address, address), f"{ip} saddr . {ip} daddr")
        yield f"hop_macs{version}", SetType((MAC, *flow), f"ether saddr . {to}")
        yield f"hop_links{version}", SetType((INTERFACE, *flow), f"iifname . {to}")
        yield f"hop_directed{version}", SetType(flow, to)
        yield f"hops{version}", SetType(flow, f"{to} : verdict", HOP)
        yield f"hop_targets{version}", SetType((address,), f"{ip} saddr")
        yield f"hop_clients{version}", SetType((prefix,), f"{ip} saddr", interval=True)
        yield f"return{version}", SetType((MAC, *flow), f"ether saddr . {to} : verdict", PATH)
        yield f"tunnel_vips{version}", SetType((address,), f"{ip} daddr")
        yield f"gue_sources{version}", SetType((address, PORT), f"{ip} saddr . udp dport")
        yield f"mss{version}", SetType((address,), f"{ip} saddr : verdict", MSS)
    yield "silent4", SetType((ADDRESS[4],), "arp saddr ip", family="arp")
    yield "own4", SetType((INTERFACE,), "oifname : arp saddr ip", ADDRESS[4], family="arp")


SETS: Mapping[str, SetType] = dict(_types())

_HOP_SETS = ("hop_macs", "hop_links", "hop_directed", "hops")
DERIVED = frozenset(f"{name}{version}" for name in _HOP_SETS for version in (4, 6))
"""Sets whose elements follow from the second hops' rows; nobody else writes them."""


def kernel_sets(name: str) -> tuple[str, ...]:
    """What the kernel has for a set of ours."""
    if name in SOURCES:
        return tuple(f"sources_{protocol}{name[-1]}" for protocol in PROTOCOLS)
    return (name,)


_OUR_SETS = {kernel: name for name in SETS for kernel in kernel_sets(name)}


def declarations(name: str) -> list[str]:
    """nft's commands that make a set; nothing happens where it is there already."""
    kind = SETS[name]
    flags = " flags interval;" if kind.interval else ""
    command = "add map" if kind.value is not None else "add set"
    return [
        f"{command} {kind.family} {NFT_TABLE} {kernel} {{ typeof {kind.typeof};{flags} }}"
        for kernel in kernel_sets(name)
    ]


def flow_text(fields: tuple[Field, ...], element: Element) -> str:
    """An element as nft writes it; ValueError tells which part does not fit."""
    if len(fields) != len(element):
        raise ValueError(f"{len(element)} parts where {' . '.join(field.name for field in fields)} is expected")
    return " . ".join([field.write(part) for field, part in zip(fields, element, strict=True)])


def element_text(key: NftKey) -> tuple[str, str]:
    """The kernel's set and nft's text of an element; ValueError for one that cannot be."""
    kind = SETS.get(key.set)
    if kind is None:
        raise ValueError(f"there is no set {key.set}; sets are {', '.join(SETS)}")
    text = flow_text(kind.fields, key.element)
    if key.set in SOURCES:
        address, protocol, port, source = text.split(" . ")
        return f"sources_{protocol}{key.set[-1]}", f"{address} . {port} . {source}"
    return key.set, text


def value_text(key: NftKey, row: NftRow) -> str:
    """What follows an element's key in nft's text; ValueError for a value that the set cannot hold."""
    value = SETS[key.set].value
    if value is None:
        if row.value:
            raise ValueError(f"set {key.set} holds no values, found {row.value!r}")
        return ""
    if len(row.value) != 1:
        raise ValueError(f"map {key.set} holds one value for an element, found {row.value!r}")
    return f" : {value.write(row.value[0])}"


def problem(key: NftKey, row: NftRow | None) -> str:
    """Why an element cannot be in our tables, in words; empty when it can."""
    try:
        element_text(key)
        if row is not None:
            value_text(key, row)
    except ValueError as found:
        return f"nftables set {key.set} element {' . '.join(map(str, key.element))}: {found}"
    return ""


def read_elements(kernel_set: str, found: list[Any]) -> Iterator[tuple[NftKey, NftRow]]:
    """The rows that a set's listing holds.

    ValueError, KeyError or TypeError for elements that we cannot have made.
    """
    name = _OUR_SETS[kernel_set]
    kind, protocol = SETS[name], ""
    fields = kind.fields
    if name in SOURCES:
        protocol = kernel_set.removeprefix("sources_")[:-1]
        fields = (ADDRESS[int(name[-1])], PORT, PREFIX[int(name[-1])])
    for entry in found:
        value: Element = ()
        if kind.value is not None:
            entry, data = entry
            value = (kind.value.read(data),)
        if isinstance(entry, dict) and "elem" in entry:
            raise ValueError(f"an element with a comment, time-out or counter in {kernel_set}")
        parts = entry["concat"] if len(fields) > 1 else [entry]
        element = tuple([field.read(part) for field, part in zip(fields, parts, strict=True)])
        if protocol:
            element = (element[0], protocol, *element[1:])
        yield NftKey(name, element), NftRow(value)
