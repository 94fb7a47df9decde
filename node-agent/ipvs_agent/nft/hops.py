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

from collections.abc import Iterator, Sequence
from typing import Any

from ipvs_agent.nft.sets import hop_chain, problem
from ipvs_agent.rows import HOP_MARK, HopKey, HopRow, HopTarget, NftKey, NftRow

SEED = 0x6970_7673
"""Of the hash that keeps clients where they are: fixed, so that a replaced chain sends them to the same targets."""

STICKY = "sticky"
"""In the comments of sticky rules, behind the weight: with one target there is nothing to see of either."""

_IP = {4: "ip", 6: "ip6"}


def elements(key: HopKey, row: HopRow) -> dict[NftKey, NftRow]:
    """What leads packets from the directors' MACs and out of their tunnels into the chain, and who is kept out."""
    flow = key[1:]
    found = {NftKey(f"hop_macs{key.family}", (mac, *flow)): NftRow() for mac in row.macs}
    found |= {NftKey(f"hop_links{key.family}", (link, *flow)): NftRow() for link in row.links}
    if row.directed_only:
        found[NftKey(f"hop_directed{key.family}", flow)] = NftRow()
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
    for target, (modulus, limit) in zip(row.targets, _choices(row.targets, sticky=row.sticky), strict=True):
        if not limit:
            choice = ""
        elif row.sticky:
            choice = f"jhash {ip} saddr mod {modulus} seed {SEED:#x} < {limit} "
        else:
            choice = f"numgen inc mod {modulus} < {limit} "
        place = f"[{target.address}]:{target.port}" if key.family == 6 else f"{target.address}:{target.port}"
        comment = f"{target.weight} {STICKY}" if row.sticky else str(target.weight)
        found.append(f'{choice}meta l4proto {key.protocol} dnat {ip} to {place} comment "{comment}"')
    return found


def _choices(targets: Sequence[HopTarget], *, sticky: bool) -> Iterator[tuple[int, int]]:
    """For each target's rule a modulus and the limit below which it takes the connection; 0, 0 for the last.

    A hash is the same in every rule, so its limits add up. A counter moves only with what reaches its rule, so each
    counts what is left of the round.
    """
    total, taken = sum(target.weight for target in targets), 0
    for target in targets:
        left, taken = total - taken, taken + target.weight
        if taken == total:
            yield 0, 0
        elif sticky:
            yield total, taken
        else:
            yield left, target.weight


def read_rules(rules: Sequence[dict[str, Any]]) -> tuple[tuple[HopTarget, ...], bool]:
    """Targets and stickiness that a chain's listed rules mean.

    What versions of nft might tell in other words is looked at for its numbers only. ValueError where a rule was
    changed, added or taken away; KeyError, IndexError, TypeError for shapes that no rule of ours has.
    """
    first, *others = rules
    if not others and "drop" in first["expr"][-1]:
        return (), first.get("comment") == STICKY
    if HOP_MARK not in set(_numbers(first["expr"])) or not others:
        raise ValueError("a rule is missing")
    comments = [rule["comment"].split() for rule in others]
    sticky = comments[0][1:] == [STICKY]
    targets = []
    for rule, comment in zip(others, comments, strict=True):
        if comment[1:] != comments[0][1:]:
            raise ValueError("sticky and other rules")
        dnat = rule["expr"][-1]["dnat"]
        targets.append(HopTarget(dnat["addr"], int(dnat["port"]), int(comment[0])))
    for rule, (modulus, limit) in zip(others, _choices(targets, sticky=sticky), strict=True):
        *matches, _ = rule["expr"]
        if len(matches) != (2 if limit else 1) or (limit and not {modulus, limit} <= set(_numbers(matches[0]))):
            raise ValueError("a rule was changed")
    return tuple(targets), sticky


def _numbers(listed: Any) -> Iterator[int]:
    """Every number in a part of a listing."""
    if isinstance(listed, int):
        yield listed
    elif isinstance(listed, dict | list):
        for part in listed.values() if isinstance(listed, dict) else listed:
            yield from _numbers(part)
