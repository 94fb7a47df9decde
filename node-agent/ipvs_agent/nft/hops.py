"""The second hop of one virtual service and port: its chain, and the elements that lead there.

    chain hop-tcp-192.0.2.10-80 {
        meta l4proto tcp ct mark set ct mark | 0x00080000 dnat ip to numgen inc mod 3 map {
            0 : 10.0.0.1 . 8080, 1-2 : 10.0.0.2 . 8080 }
    }

Connection tracking keeps what was decided for a flow: replacing the chain's rule moves new flows only.
"""

from collections.abc import Sequence
from typing import Any

from ipvs_agent.nft.sets import hop_chain, problem
from ipvs_agent.rows import HOP_MARK, NFT_TABLE, HopKey, HopRow, HopTarget, NftKey, NftRow

SEED = 0x6970_7673
"""Of the hash that keeps clients where they are: fixed, so that a replaced chain sends them to the same targets."""

STICKY = "sticky"
"""Comment of a sticky rule, since with one target there is nothing to hash."""

_IP = {4: "ip", 6: "ip6"}


def elements(key: HopKey, row: HopRow) -> dict[NftKey, NftRow]:
    """What leads packets from the directors' MACs and out of their tunnels into the chain."""
    flow = key[1:]
    found = {NftKey(f"hop_macs{key.family}", (mac, *flow)): NftRow() for mac in row.macs}
    found |= {NftKey(f"hop_links{key.family}", (link, *flow)): NftRow() for link in row.links}
    found[NftKey(f"hops{key.family}", flow)] = NftRow((hop_chain(key),))
    return found


def invalid(key: HopKey, row: HopRow | None) -> str:
    """Why a second hop cannot be, in words; empty when it can."""
    place = f"second hop of {key.protocol} {key.address} port {key.port}"
    if key.family not in _IP:
        return f"{place}: family {key.family!r} is neither 4 nor 6"
    if row is None:
        return problem(NftKey(f"hops{key.family}", key[1:]), None)
    for element, value in elements(key, row).items():
        if found := problem(element, value):
            return found
    for target in row.targets:
        if found := problem(NftKey(f"open{key.family}", (target.address, key.protocol, target.port)), None):
            return f"{place}, target {target.address}:{target.port}: {found}"
        if target.weight < 1:
            return f"{place}, target {target.address}:{target.port}: weight {target.weight} is not 1 or more"
    if len({target[:2] for target in row.targets}) != len(row.targets):
        return f"{place}: the same target twice"
    return ""


def rule(key: HopKey, row: HopRow) -> str:
    """The one rule of the chain.

    Without targets it drops: the client tries again, and is served once a pod is ready or the director has moved on.
    """
    if not row.targets:
        statement = "drop"
    else:
        statement = f"ct mark set ct mark | {HOP_MARK:#010x} dnat {_IP[key.family]} to {_destination(key, row)}"
    comment = f' comment "{STICKY}"' if row.sticky else ""
    return f"add rule inet {NFT_TABLE} {hop_chain(key)} meta l4proto {key.protocol} {statement}{comment}"


def _destination(key: HopKey, row: HopRow) -> str:
    if len(row.targets) == 1 and row.targets[0].weight == 1:
        target = row.targets[0]
        return f"[{target.address}]:{target.port}" if key.family == 6 else f"{target.address}:{target.port}"
    slots, at = [], 0
    for target in row.targets:
        last = at + target.weight - 1
        place = str(at) if last == at else f"{at}-{last}"
        slots.append(f"{place} : {target.address} . {target.port}")
        at = last + 1
    choice = f"jhash {_IP[key.family]} saddr mod {at} seed {SEED:#x}" if row.sticky else f"numgen inc mod {at}"
    return f"{choice} map {{ {', '.join(slots)} }}"


def read_rule(rules: Sequence[dict[str, Any]]) -> tuple[tuple[HopTarget, ...], bool]:
    """Targets and stickiness that a chain's listed rules mean.

    Only what a version of nft is unlikely to tell in other words is looked at. ValueError where a rule was added or
    taken away; KeyError, TypeError for shapes that no rule of ours has.
    """
    (only,) = rules
    sticky = only.get("comment") == STICKY
    statements = {name: body for statement in only["expr"] for name, body in statement.items()}
    if "drop" in statements:
        return (), sticky
    dnat = statements["dnat"]
    if isinstance(dnat["addr"], str):
        return (HopTarget(dnat["addr"], dnat["port"]),), sticky
    targets: list[HopTarget] = []
    at = 0
    for slot, place in dnat["addr"]["map"]["data"]["set"]:
        first, last = (slot, slot) if isinstance(slot, int) else slot["range"]
        if first != at:
            raise ValueError(f"slot {at} is missing")
        address, port = place["concat"]
        targets.append(HopTarget(address, port, last - first + 1))
        at = last + 1
    return tuple(targets), sticky
