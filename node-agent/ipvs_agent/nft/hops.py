"""The second hop of one virtual service and port: its chain, and the elements that lead there.

    chain hop-tcp-192.0.2.10-80 {
        ct mark set ct mark | 0x00080000
        numgen inc mod 3 < 1 meta l4proto tcp dnat ip to 10.0.0.1:8080 comment "1"
        meta l4proto tcp dnat ip to 10.0.0.2:8080 comment "2"
    }

Every rule takes its weight's part of what the rules before it have left: in turn, so that each round is exact, or by
a hash of the client's address. (One rule with a map would do, but nft 1.0.6 crashes when it lists anonymous maps that
nft 1.1 made.) Connection tracking keeps what was decided for a flow: other rules move new flows only.
"""

from collections.abc import Sequence
from typing import Any

from ipvs_agent.nft.sets import hop_chain, problem
from ipvs_agent.rows import HOP_MARK, HopKey, HopRow, HopTarget, NftKey, NftRow

SEED = 0x6970_7673
"""Of the hash that keeps clients where they are: fixed, so that a replaced chain sends them to the same targets."""

STICKY = "sticky"
"""In the comments of sticky rules, behind the weight: with one target there is nothing to see of either."""

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


def rules(key: HopKey, row: HopRow) -> list[str]:
    """The rules of the chain, in order.

    Without targets it drops: the client tries again, and is served once a pod is ready or the director has moved on.
    """
    if not row.targets:
        return [f'drop comment "{STICKY}"' if row.sticky else "drop"]
    ip, found = _IP[key.family], [f"ct mark set ct mark | {HOP_MARK:#010x}"]
    total = sum(target.weight for target in row.targets)
    taken = 0
    for target in row.targets:
        taken += target.weight
        if taken == total:
            choice = ""
        elif row.sticky:
            choice = f"jhash {ip} saddr mod {total} seed {SEED:#x} < {taken} "
        else:  # a rule's counter moves only with what reaches the rule
            choice = f"numgen inc mod {total - taken + target.weight} < {target.weight} "
        place = f"[{target.address}]:{target.port}" if key.family == 6 else f"{target.address}:{target.port}"
        comment = f"{target.weight} {STICKY}" if row.sticky else str(target.weight)
        found.append(f'{choice}meta l4proto {key.protocol} dnat {ip} to {place} comment "{comment}"')
    return found


def read_rules(rules: Sequence[dict[str, Any]]) -> tuple[tuple[HopTarget, ...], bool]:
    """Targets and stickiness that a chain's listed rules mean.

    Only what a version of nft is unlikely to tell in other words is looked at. ValueError where a rule was added or
    taken away; KeyError, IndexError, TypeError for shapes that no rule of ours has.
    """
    first, *others = rules
    if not others and "drop" in first["expr"][-1]:
        return (), first.get("comment") == STICKY
    if "mangle" not in first["expr"][-1] or not others:
        raise ValueError("a rule is missing")
    comments = [rule["comment"].split() for rule in others]
    sticky = comments[0][1:] == [STICKY]
    if any(comment[1:] != comments[0][1:] for comment in comments) or len(others[-1]["expr"]) != 2:
        raise ValueError("rules are missing")
    targets = []
    for rule, comment in zip(others, comments, strict=True):
        dnat = rule["expr"][-1]["dnat"]
        targets.append(HopTarget(dnat["addr"], int(dnat["port"]), int(comment[0])))
    return tuple(targets), sticky
