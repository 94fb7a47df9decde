"""Packed IPVS rows: what goes in comes out, equal means equal, and changing one thing changes one thing."""

from ipaddress import ip_address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipvs_agent.services import (
    AF_INET,
    AF_INET6,
    DESTINATION_SIZE,
    HEAD_SIZE,
    KEY_SIZE,
    Destination,
    Head,
    Key,
    destination_key,
    destinations_of,
    family_of,
    head_of,
    join_row,
    pack_address,
    pack_destination,
    pack_head,
    pack_key,
    pack_row,
    unpack_destination,
    unpack_destination_key,
    unpack_head,
    unpack_key,
    with_weight,
)
from ipvs_agent.table import diff

addresses = st.ip_addresses().map(str)
ports = st.integers(0, 65535)
counts = st.integers(0, 2**32 - 1)
keys = st.builds(Key, st.sampled_from(["TCP", "UDP", "SCTP"]), addresses, ports)
heads = st.builds(
    Head, st.sampled_from(["rr", "wlc", "lblcr", "mh", "twos"]), counts, counts, st.integers(0, 128)
)  # fmt: skip
destinations = st.builds(
    Destination,
    addresses, ports, st.integers(0, 4), counts, counts, counts, st.integers(0, 2), ports, st.integers(0, 3),
)  # fmt: skip


@settings(max_examples=50)
@given(keys)
def test_a_key_comes_back_as_it_went_in(key: Key) -> None:
    packed = pack_key(*key)
    assert unpack_key(packed) == key
    assert len(packed) == KEY_SIZE
    assert family_of(packed) == (AF_INET6 if ":" in key.address else AF_INET)


@settings(max_examples=50)
@given(destinations)
def test_a_destination_comes_back_as_it_went_in(destination: Destination) -> None:
    packed = pack_destination(destination)
    assert unpack_destination(packed) == destination
    assert len(packed) == DESTINATION_SIZE
    assert unpack_destination_key(destination_key(packed)) == (destination.address, destination.port)


@pytest.mark.slow
@settings(max_examples=50)
@given(heads, st.lists(destinations, max_size=5))
def test_a_row_holds_its_head_and_its_destinations(head: Head, found: list[Destination]) -> None:
    row = pack_row(head, map(pack_destination, found))
    assert unpack_head(row) == head
    assert head_of(row) == pack_head(head)
    assert len(row) == HEAD_SIZE + len(found) * DESTINATION_SIZE
    assert sorted(map(unpack_destination, destinations_of(row))) == sorted(found)
    assert join_row(head_of(row), destinations_of(row)) == row


@pytest.mark.slow
@settings(max_examples=50)
@given(heads, st.lists(destinations, min_size=2, max_size=6), st.randoms())
def test_rows_are_equal_whatever_order_the_real_servers_are_told_in(
    head: Head, found: list[Destination], random
) -> None:  # type: ignore[no-untyped-def]
    shuffled = list(found)
    random.shuffle(shuffled)
    assert pack_row(head, map(pack_destination, shuffled)) == pack_row(head, map(pack_destination, found))


@pytest.mark.slow
@settings(max_examples=50)
@given(st.lists(st.tuples(keys, heads, destinations), max_size=5))
def test_a_table_does_not_differ_from_itself(services: list[tuple[Key, Head, Destination]]) -> None:
    rows = {pack_key(*key): pack_row(head, [pack_destination(one)]) for key, head, one in services}
    assert diff(rows, dict(rows)) == []


@settings(max_examples=50)
@given(destinations, counts)
def test_another_weight_changes_nothing_but_the_weight(destination: Destination, weight: int) -> None:
    changed = with_weight(pack_destination(destination), weight)
    assert unpack_destination(changed) == destination._replace(weight=weight)


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.1/32", "010.0.0.1", "fe80::1%eth0", "::g", "web", "1.2.3.4\0"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"address|null"):
        pack_address(text)


@settings(max_examples=50)
@given(addresses)
def test_addresses_are_packed_as_the_kernel_holds_them(address: str) -> None:
    family, packed = pack_address(address)
    raw = ip_address(address).packed
    assert packed == raw + bytes(16 - len(raw))
    assert family == (AF_INET if len(raw) == 4 else AF_INET6)


def test_somebodys_service_of_another_protocol_has_a_key_that_can_be_told() -> None:
    packed = bytearray(pack_key("TCP", "192.0.2.1", 80))
    packed[1] = 47
    assert unpack_key(bytes(packed)) == Key("47", "192.0.2.1", 80)
