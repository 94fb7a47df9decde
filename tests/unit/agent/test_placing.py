"""A VIP is asked for before it is taken, and announced when it is."""

import pytest

from ipvs_agent.placing import Placing
from ipvs_agent.rows import AddressKey

VIP, OTHER = AddressKey("eth0", "192.0.2.10"), AddressKey("eth0", "192.0.2.11")
SILENT = AddressKey("ipvs0", "192.0.2.10")


def test_an_address_is_taken_after_the_network_was_asked_and_nobody_answered() -> None:
    placing = Placing()
    assert not placing.may_take(VIP)
    assert list(placing.unanswered()) == [VIP]
    assert placing.take_probes() == {VIP}
    assert placing.take_probes() == set(), "asked once"
    assert list(placing.unanswered()) == [VIP], "nothing is known yet"
    placing.answered({VIP}, {VIP})
    assert list(placing.unanswered()) == []
    assert placing.may_take(VIP)
    placing.taken(VIP)
    assert placing.held == {VIP}
    assert placing.take_announcements() == {VIP}
    assert placing.take_announcements() == set(), "announced once"


def test_one_that_somebody_has_is_asked_for_again() -> None:
    placing = Placing()
    assert not any([placing.may_take(VIP), placing.may_take(OTHER)])
    placing.answered(placing.take_probes(), {OTHER})
    assert placing.may_take(OTHER)
    assert not placing.may_take(VIP)
    assert placing.take_probes() == {VIP}


def test_a_free_address_that_was_taken_and_left_is_asked_for_again() -> None:
    placing = Placing()
    placing.may_take(VIP)
    placing.answered(placing.take_probes(), {VIP})
    placing.taken(VIP)
    placing.left(VIP)
    assert placing.take_announcements() == set()
    assert not placing.may_take(VIP)


@pytest.mark.parametrize("key", [VIP, SILENT])
def test_what_stands_already_and_what_is_silent_asks_nobody(key: AddressKey) -> None:
    placing = Placing()
    placing.adopt([VIP, SILENT])
    assert placing.held == {VIP}
    assert placing.may_take(key)
    assert list(placing.unanswered()) == []


def test_a_silent_address_is_not_announced() -> None:
    placing = Placing()
    placing.taken(SILENT)
    assert (placing.held, placing.take_announcements()) == (set(), set())
