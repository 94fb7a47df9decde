"""Elements and second hops as nft's text and back from nft's JSON."""

import re
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvs_agent.nft import fields, hops
from ipvs_agent.nft.fields import PROTOCOLS, Field
from ipvs_agent.nft.overlaps import group_of, widest
from ipvs_agent.nft.sets import (
    HOP,
    MSS,
    PATH,
    SETS,
    element_text,
    hop_chain,
    hop_key,
    kernel_sets,
    problem,
    read_elements,
    value_text,
)
from ipvs_agent.nft.state import Mirror
from ipvs_agent.rows import HopKey, HopRow, HopTarget, NftKey, NftRow

addresses = {4: st.builds(str, st.builds(IPv4Address, st.integers(0, 2**32 - 1)))}
addresses[6] = st.builds(str, st.builds(IPv6Address, st.integers(0, 2**128 - 1)))
ports = st.integers(1, 65535)
protocols = st.sampled_from(sorted(PROTOCOLS))
macs = st.builds(lambda number: ":".join(f"{byte:02x}" for byte in number.to_bytes(6)), st.integers(0, 2**48 - 1))
interfaces = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_@*", min_size=1, max_size=15).filter(
    lambda name: not name.endswith("*")
)


def canonical(network: IPv4Network | IPv6Network) -> str:
    return str(network.network_address if network.prefixlen == network.max_prefixlen else network)


prefixes = {
    4: st.builds(
        lambda a, n: canonical(IPv4Network((a, n), strict=False)), st.integers(0, 2**32 - 1), st.integers(0, 32)
    ),
    6: st.builds(
        lambda a, n: canonical(IPv6Network((a, n), strict=False)), st.integers(0, 2**128 - 1), st.integers(0, 128)
    ),
}
hop_keys = st.sampled_from([4, 6]).flatmap(
    lambda version: st.builds(HopKey, st.just(version), addresses[version], protocols, ports)
)
VALUES: dict[Field, st.SearchStrategy[Any]] = {
    fields.INTERFACE: interfaces,
    fields.MAC: macs,
    fields.PROTOCOL: protocols,
    fields.PORT: ports,
    MSS: st.integers(64, 65535),
    PATH: st.integers(1, 7),
    HOP: hop_keys.map(hop_chain),
    **{fields.ADDRESS[version]: addresses[version] for version in (4, 6)},
    **{fields.PREFIX[version]: prefixes[version] for version in (4, 6)},
}
GOTO: dict[Field, Callable[[Any], str]] = {MSS: "mss-{}".format, PATH: "return-{}".format, HOP: str}


def listed(field: Field, part: Any) -> Any:
    """A part as ``nft -j -n`` lists it."""
    if field is fields.PROTOCOL:
        return PROTOCOLS[part]
    if field in GOTO:
        return {"goto": {"target": GOTO[field](part)}}
    if isinstance(part, str) and "/" in part:
        address, length = part.split("/")
        return {"prefix": {"addr": address, "len": int(length)}}
    return part


@pytest.mark.parametrize("name", SETS)
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_elements_come_back_from_a_listing(name: str, data: st.DataObject) -> None:
    kind = SETS[name]
    element = tuple(data.draw(VALUES[field]) for field in kind.fields)
    row = NftRow((data.draw(VALUES[kind.value]),) if kind.value else ())
    key = NftKey(name, element)
    assert problem(key, row) == ""
    kernel, text = element_text(key)
    assert kernel in kernel_sets(name)
    split = len(kernel_sets(name)) > 1
    parts = [
        listed(field, part)
        for field, part in zip(kind.fields, element, strict=True)
        if not (split and field is fields.PROTOCOL)
    ]
    assert len(text.split(" . ")) == len(parts)
    entry: Any = parts[0] if len(parts) == 1 else {"concat": parts}
    if kind.value:
        assert value_text(key, row).startswith(" : ")
        entry = [entry, listed(kind.value, row.value[0])]
    assert list(read_elements(kernel, [entry])) == [(key, row)]


@given(hop_keys)
def test_the_name_of_a_hops_chain_says_whose_it_is(key: HopKey) -> None:
    assert hop_key(hop_chain(key)) == key
    assert ":" not in hop_chain(key)


@pytest.mark.parametrize(
    "chain", ["hop-tcp-192.0.2.1", "hop-icmp-192.0.2.1-80", "hop-tcp-192.0.2.1-080", "hop-tcp-x-1"]
)
def test_chains_of_other_names_are_not_taken_for_hops(chain: str) -> None:
    with pytest.raises(ValueError, match=chain):
        hop_key(chain)


@pytest.mark.parametrize(
    ("key", "row", "words"),
    [
        (NftKey("open4", ("192.0.2.1", "tcp", 0)), NftRow(), "0 is not a number from 1 to 65535"),
        (NftKey("open4", ("192.0.2.1", "icmp", 1)), NftRow(), "'icmp' is not one of tcp, udp, sctp"),
        (NftKey("open4", ("2001:db8::1", "tcp", 1)), NftRow(), "not an IPv4 address"),
        (NftKey("open6", ("2001:DB8::1", "tcp", 1)), NftRow(), "canonical form (2001:db8::1)"),
        (NftKey("open4", ("192.0.2.1", "tcp")), NftRow(), "2 parts where"),
        (NftKey("guarded4", ("192.0.2.1",)), NftRow((1,)), "holds no values"),
        (NftKey("own4", ("eth0",)), NftRow(), "holds one value"),
        (NftKey("return4", ("02:00:00:00:00:01", "192.0.2.1", "tcp", 1)), NftRow((8,)), "8 is not a return path"),
        (NftKey("hop_macs4", ("02:00:00:00:00:AA", "192.0.2.1", "tcp", 1)), NftRow(), "not a MAC address"),
        (NftKey("client_interfaces", ('eth0" ; flush ruleset ; "',)), NftRow(), "not the name of an interface"),
        (NftKey("client_interfaces", ("eth*",)), NftRow(), "not the name of an interface"),
        (NftKey("sources4", ("192.0.2.1", "tcp", 1, "2001:db8::/32")), NftRow(), "not an IPv4 prefix"),
        (NftKey("nothing", ()), NftRow(), "there is no set nothing"),
    ],
)
def test_elements_that_cannot_be_are_told_with_what_is_wrong(key: NftKey, row: NftRow, words: str) -> None:
    assert words in problem(key, row)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (HopRow((HopTarget("10.0.0.1", 80, 0),)), "weight 0"),
        (HopRow((HopTarget("2001:db8::1", 80),)), "not an IPv4 address"),
        (HopRow((HopTarget("10.0.0.1", 80), HopTarget("10.0.0.1", 80, 2))), "the same target twice"),
        (HopRow((), macs=("x",)), "not a MAC address"),
        (HopRow((), links=("a b",)), "not the name of an interface"),
    ],
)
def test_hops_that_cannot_be_are_told_with_what_is_wrong(row: HopRow, words: str) -> None:
    assert words in hops.invalid(HopKey(4, "192.0.2.1", "tcp", 80), row)


@given(st.lists(prefixes[4], max_size=12))
def test_the_widest_prefixes_cover_all_and_never_overlap(found: list[str]) -> None:
    keys = [NftKey("sources4", ("192.0.2.1", "tcp", 80, prefix)) for prefix in found]
    kept = [IPv4Network(prefix) for prefix in widest(keys)]
    assert all(not a.overlaps(b) for a in kept for b in kept if a is not b)
    assert all(any(IPv4Network(prefix).subnet_of(wide) for wide in kept) for prefix in found)
    assert {str(prefix) for prefix in kept} <= {str(IPv4Network(prefix)) for prefix in found}


def test_prefixes_overlap_only_within_one_service() -> None:
    one, other = (NftKey("sources4", ("192.0.2.1", "tcp", port, "10.0.0.0/8")) for port in (80, 81))
    assert group_of(one) != group_of(other)
    assert group_of(NftKey("open4", ("192.0.2.1", "tcp", 80))) is None


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(1, 3))
def test_every_round_of_a_hop_is_exact(weights: list[int], rounds: int) -> None:
    """By nft's semantics: rules in order, each with a counter of its own that moves when the rule is reached."""
    targets = tuple(HopTarget(f"10.0.0.{number}", 80, weight) for number, weight in enumerate(weights, 1))
    found = hops.rules(HopKey(4, "192.0.2.1", "tcp", 80), HopRow(targets))[1:]
    counters, hits = [0] * len(found), dict.fromkeys((target.address for target in targets), 0)
    for _ in range(rounds * sum(weights)):
        for number, rule in enumerate(found):
            match = re.match(r"numgen inc mod (\d+) < (\d+) ", rule)
            if match:
                value, counters[number] = counters[number], (counters[number] + 1) % int(match[1])
                if value >= int(match[2]):
                    continue
            hits[rule.split(" to ")[1].split(":")[0]] += 1
            break
    assert hits == {target.address: target.weight * rounds for target in targets}


def test_a_mirror_that_is_read_again_keeps_the_rows_that_are_in_use() -> None:
    def element(port: int) -> NftKey:
        return NftKey("guarded4", ("192.0.2.10", "tcp", port))

    known = Mirror(elements={element(80): NftRow(), element(81): NftRow(("old",))})
    read = Mirror(elements={element(80): NftRow(), element(81): NftRow(("new",)), element(82): NftRow()})
    shared = read.sharing(known)
    assert (shared.elements, shared.hops, shared.groups) == (read.elements, read.hops, read.groups)
    kept = {id(key) for key in known.elements}
    assert [key.element[2] for key in shared.elements if id(key) in kept] == [80]
