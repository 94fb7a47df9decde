"""When to try again what did not work."""

import pytest

from ipvs_agent.desired.share import Reason
from ipvs_agent.troubles import Troubles

WHERE = ("addresses", "192.0.2.10 on eth0")


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (Reason.KERNEL_REFUSED, [1, 2, 4, 8, 16, 32, 60, 60]),
        (Reason.ADDRESS_IN_USE, [1, 2, 4, 8, 8, 8, 8, 8]),
    ],
)
def test_pauses_double_up_to_a_longest(reason: Reason, expected: list[float]) -> None:
    troubles, now = Troubles(), 100.0
    pauses = []
    for _ in expected:
        troubles.add(WHERE, ("web",), reason, "why", now)
        due = troubles.next_due()
        assert due is not None
        assert troubles.waiting(WHERE, due - 0.1)
        assert troubles.due(due) == [WHERE]
        pauses.append(due - now)
        now = due
    assert pauses == expected


def test_only_what_is_not_known_yet_is_news() -> None:
    troubles = Troubles()
    assert troubles.add(WHERE, ("web",), Reason.ADDRESS_IN_USE, "held by one", 0)
    assert not troubles.add(WHERE, ("web",), Reason.ADDRESS_IN_USE, "held by one", 1)
    assert troubles.add(WHERE, ("web",), Reason.ADDRESS_IN_USE, "held by another", 3)
    assert WHERE in troubles
    assert troubles.clear(WHERE)
    assert WHERE not in troubles
    assert troubles.add(WHERE, ("web",), Reason.ADDRESS_IN_USE, "held by another", 0), "it begins anew"
