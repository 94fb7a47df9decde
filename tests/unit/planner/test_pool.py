"""What an address pool knows: claims as stored, what of a group can be given, who waits for it."""

from ipaddress import IPv4Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvs_api.ipaddress import AddressOwner, IPVSAddress, IPVSAddressSpec, address_object_name
from ipvs_api.meta import ObjectMeta
from ipvs_planner.groups import group_facts
from ipvs_planner.index import Key, Owner
from ipvs_planner.packed import V4, V6, parse_address, text_of
from ipvs_planner.pool import Claim, Pool, address_of_name, claim_of, concerned_by
from ipvs_planner.rooms import Room
from ipvs_planner.waiting import NONE, Number, Waiting

from .worlds import group

GIVEN = [
    # ranges → the first ones given, how many
    (["192.0.2.0/29"], ["192.0.2.1", "192.0.2.2"], 6),
    (["192.0.2.0/30"], ["192.0.2.1", "192.0.2.2"], 2),
    (["192.0.2.0/31"], ["192.0.2.0", "192.0.2.1"], 2),
    (["192.0.2.0/32", "192.0.2.7"], ["192.0.2.0", "192.0.2.7"], 2),
    (["192.0.2.0-192.0.2.3"], ["192.0.2.0", "192.0.2.1"], 4),
    (["192.0.2.0/29", "192.0.2.7"], ["192.0.2.1", "192.0.2.2"], 7),
    (["192.0.2.0/25", "192.0.2.128/25"], ["192.0.2.1", "192.0.2.2"], 252),
    (["192.0.2.9-192.0.2.12", "192.0.2.2-192.0.2.10", "192.0.2.13"], ["192.0.2.2", "192.0.2.3"], 12),
    (["2001:db8::/126"], ["2001:db8::1", "2001:db8::2"], 3),
    (["2001:db8::/127"], ["2001:db8::", "2001:db8::1"], 2),
    (["2001:db8::/64"], ["2001:db8::1", "2001:db8::2"], 2**64 - 1),
    (["2001:db8::/64", "192.0.2.0/30"], ["192.0.2.1", "192.0.2.2"], 2**64 + 1),
    (["223.255.255.254-224.0.0.5"], ["223.255.255.254", "223.255.255.255"], 2),
    (["0.0.0.0/0"], ["1.0.0.0", "1.0.0.1"], 2**32 - 2 * 2**24 - 2**28 - 1),
    (["::/0"], ["::2", "::3"], 2**128 - 2 - 2**32 - 2**118 - 2**120),
    (["127.0.0.0/8"], [], 0),
]


@pytest.mark.parametrize(("addresses", "first", "size"), GIVEN)
def test_the_edges_of_networks_and_what_is_no_unicast_address_are_not_given(
    addresses: list[str], first: list[str], size: int
) -> None:
    facts = group_facts(group(addresses=addresses))
    rooms = [Room(family, facts.givable) for family in (V4, V6)]
    assert sum(room.size for room in rooms) == size
    assert [text_of(each) for room in rooms for each in room.lowest(2)][:2] == first
    assert facts.families == tuple(room.family for room in rooms if room.size)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 12)), min_size=1, max_size=5))
def test_what_is_given_is_in_the_ranges_and_can_be_parsed(spans: list[tuple[int, int]]) -> None:
    base = int(IPv4Address("223.255.255.230"))
    texts = [f"{IPv4Address(base + first)}-{IPv4Address(base + first + length)}" for first, length in spans]
    facts = group_facts(group(addresses=texts))
    listed = [text_of(each) for each in Room(V4, facts.givable)]
    assert listed == sorted(set(listed), key=ip_address)
    expected = {str(IPv4Address(base + first + n)) for first, length in spans for n in range(length + 1)}
    assert set(listed) == {text for text in expected if not isinstance(parse_address(text), str)}


@given(
    st.sampled_from([["192.0.2.0/28"], ["192.0.2.0-192.0.2.4", "192.0.2.8-192.0.2.12"], ["192.0.2.5"]]),
    st.lists(st.tuples(st.integers(0, 15), st.booleans(), st.integers(0, 4)), max_size=60),
)
def test_the_lowest_free_ones_are_found_whatever_was_taken_and_given_back(
    addresses: list[str], steps: list[tuple[int, bool, int]]
) -> None:
    room = Room(V4, group_facts(group(addresses=addresses)).givable)
    every, taken = list(room), set()
    for last, take, count in steps:
        address = bytes([192, 0, 2, last])
        if room.holds(address):
            (taken.add if take else taken.discard)(address)
            room.mark(address, taken=take)
        else:
            assert address not in every
        free = [each for each in every if each not in taken]
        assert room.lowest(count) == free[:count]
        assert room.free == len(free)


LACKS = st.builds(Number, st.integers(0, 2), st.integers(0, 1))
AGES = st.sampled_from(["", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"])
KEYS = st.sampled_from([Key("shop", name) for name in "abcdef"])


def served(there: dict[Key, tuple[str, Number]], free: Number) -> set[Key]:
    """As anybody would do it by hand."""
    found = set()
    for key in sorted(there, key=lambda each: (there[each][0] or "~", each)):
        lack = there[key][1]
        if lack.v4 <= free.v4 and lack.v6 <= free.v6:
            free = Number(free.v4 - lack.v4, free.v6 - lack.v6)
            found.add(key)
    return found


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), KEYS, AGES, LACKS),
            st.tuples(st.just("ask"), KEYS),
            st.tuples(st.just("serve"), KEYS),
            st.tuples(st.just("free"), st.integers(0, 4), st.integers(0, 2)),
        ),
        max_size=60,
    )
)
def test_the_oldest_are_served_first_and_whoever_was_refused_is_told_when_it_is_his_turn(steps: list[tuple]) -> None:  # type: ignore[type-arg]
    waiting, free = Waiting(), Number(2, 1)
    there: dict[Key, tuple[str, Number]] = {}
    refused: set[Key] = set()
    for what, *values in steps:
        if what == "put":
            key, created, lack = values
            waiting.put(key, created, lack)
            there.pop(key, None)
            if lack != NONE:
                there[key] = (created, lack)
        elif what == "free":
            free = Number(*values)
        elif what == "serve" and values[0] in served(there, free):
            lack = there.pop(values[0])[1]
            waiting.put(values[0], "", NONE)
            free = Number(free.v4 - lack.v4, free.v6 - lack.v6)
        elif what == "ask" and values[0] in there:
            (key,) = values
            assert waiting.gets(key, free) == (key in served(there, free))
            (refused.discard if key in served(there, free) else refused.add)(key)
        refused &= there.keys()
        told = waiting.relieved(free)
        assert told >= refused & served(there, free)
        assert told <= served(there, free)
        refused -= told
        assert len(waiting) == len(there)


def stored(name: str, *owners: str, uid: str = "1", version: str = "7", holders: tuple[str, ...] = ()) -> IPVSAddress:
    return IPVSAddress(
        ObjectMeta(name, uid=uid, resource_version=version),
        IPVSAddressSpec("192.0.2.99", "edge", "shop", tuple(AddressOwner(each) for each in owners), holders, 1),
    )


@given(st.ip_addresses())
def test_a_claim_is_found_by_its_name(address: object) -> None:
    parsed = parse_address(str(address))
    name = address_object_name(str(address))
    assert address_of_name(name) == (None if isinstance(parsed, str) else parsed)


@pytest.mark.parametrize(
    "name", ["web", "192.0.2", "192.0.2.01", "2001-DB8--1", "2001-db8--", "0-0-0-0-0-0-0-1", "-", ""]
)
def test_what_is_not_named_as_an_address_claims_nothing(name: str) -> None:
    assert address_of_name(name) is None
    assert claim_of(stored(name or "x", "a")) is None


def test_a_claim_is_on_the_address_of_its_name_whatever_else_it_says() -> None:
    claim = claim_of(stored("192.0.2.5", "a", "b", holders=("lb1",)))
    assert claim is not None
    assert claim.address.text == "192.0.2.5"
    assert claim.keys == (Key("shop", "a"), Key("shop", "b"))
    made = claim.object()
    assert (made.metadata.name, made.metadata.uid, made.metadata.resource_version) == ("192.0.2.5", "1", "7")
    assert made.spec == IPVSAddressSpec(
        "192.0.2.5", "edge", "shop", (AddressOwner("a"), AddressOwner("b")), ("lb1",), director_index=1
    )


def test_an_owner_is_refreshed_in_its_place_and_taken_off() -> None:
    claim = claim_of(stored("192.0.2.5", "a", "b"))
    assert claim is not None
    again = claim.with_owner(Key("shop", "a"), "new")
    assert again.owners == (AddressOwner("a", "new"), AddressOwner("b"))
    assert again.without_owner(Key("shop", "a")).keys == (Key("shop", "b"),)
    assert claim.names(Key("shop", "a"))
    assert not claim.names(Key("zoo", "a"))


def claim(address: str, owner: Owner, *owners: AddressOwner, holders: tuple[str, ...] = ()) -> Claim:
    parsed = parse_address(address)
    assert not isinstance(parsed, str)
    return Claim(parsed, owner, owners, holders)


EDGE = Owner("shop", "edge")
A, B, C = (Key("shop", name) for name in "abc")
CHANGES = [
    # owners and holders before, after → whom of them it concerns
    (None, claim("192.0.2.5", EDGE, AddressOwner("a"), AddressOwner("b")), {A, B}),
    (claim("192.0.2.5", EDGE, AddressOwner("a")), None, {A}),
    (claim("192.0.2.5", EDGE, AddressOwner("a")), claim("192.0.2.5", EDGE, AddressOwner("a"), AddressOwner("b")), {B}),
    (
        claim("192.0.2.5", EDGE, AddressOwner("a", "1"), AddressOwner("b")),
        claim("192.0.2.5", EDGE, AddressOwner("a", "2"), AddressOwner("b")),
        {A},
    ),
    (claim("192.0.2.5", EDGE, AddressOwner("a")), claim("192.0.2.5", EDGE, AddressOwner("a"), holders=("lb1",)), {A}),
    (claim("192.0.2.5", EDGE, AddressOwner("a"), holders=("lb1",)), claim("192.0.2.5", EDGE, AddressOwner("a")), {A}),
    (claim("192.0.2.5", EDGE, AddressOwner("a")), claim("192.0.2.5", Owner("shop", "core"), AddressOwner("a")), {A}),
]


@pytest.mark.parametrize(("before", "after", "concerned"), CHANGES)
def test_a_changed_claim_concerns_who_came_or_went(before: Claim, after: Claim, concerned: set[Key]) -> None:
    assert concerned_by(before, after) == concerned


def test_a_pool_knows_claims_by_address_owner_and_group() -> None:
    pool = Pool()
    pool.put(claim("2001:db8::1", EDGE, AddressOwner("a")))
    pool.put(claim("192.0.2.9", EDGE, AddressOwner("a"), AddressOwner("b")))
    pool.put(claim("192.0.2.10", Owner("zoo", "core"), AddressOwner("a")))
    assert [text_of(each) for each in pool.owned(A)] == ["192.0.2.9", "2001:db8::1"]
    assert [text_of(each) for each in pool.owned(Key("zoo", "a"))] == ["192.0.2.10"]
    assert (pool.used("edge"), pool.used("core"), pool.used("nowhere")) == (2, 1, 0)
    pool.put(claim("192.0.2.9", Owner("shop", "core"), AddressOwner("c")))
    pool.remove(bytes([192, 0, 2, 10]))
    assert set(pool.owners()) == {A, C}
    assert (pool.used("edge"), pool.used("core")) == (1, 1)


def test_a_reservation_ends_when_the_claim_is_there() -> None:
    pool = Pool()
    first, second = (ip_network("192.0.2.0/24")[last].packed for last in (1, 2))
    pool.reserve(first, A)
    pool.reserve(second, A)
    assert pool.reserved_by(A) == (first, second)
    pool.put(claim("192.0.2.1", EDGE, AddressOwner("b")))
    assert pool.reserved_by(A) == (second,)
    assert pool.unreserve(second) == A
    assert pool.unreserve(second) is None
    assert pool.reserved_by(A) == ()
