"""Draining: weight 0, then deletion when nothing is active and nothing moves, or at the timeout. As sequences."""

import pytest

from ipvs_agent.drain import QUIET, Draining, drained_row, is_done, observe
from ipvs_agent.services import (
    Activity,
    Destination,
    Head,
    destination_key,
    destinations_of,
    pack_destination,
    pack_key,
    pack_row,
    unpack_destination,
)

HEAD = Head("wlc", 0, 0, 32)
TCP = pack_key("TCP", "192.0.2.10", 80)
UDP = pack_key("UDP", "192.0.2.10", 53)


def server(last: int, weight: int = 1) -> bytes:
    return pack_destination(Destination(f"10.0.0.{last}", 80, 0, weight))


def row(*servers: bytes) -> bytes:
    return pack_row(HEAD, list(servers))


def activity(active: int = 0, inactive: int = 0, packets: int = 0) -> Activity:
    return Activity(active, inactive, 0, 0, packets, 0, 0, 0)


def weights(packed: bytes) -> dict[str, int]:
    return {d.address: d.weight for d in map(unpack_destination, destinations_of(packed))}


def test_a_server_that_left_stays_at_weight_zero() -> None:
    wanted, leaving = drained_row(TCP, row(server(1)), row(server(1), server(2, weight=5)), {})
    assert weights(wanted) == {"10.0.0.1": 1, "10.0.0.2": 0}
    assert leaving == [destination_key(server(2))]


def test_a_server_that_is_done_goes() -> None:
    name = destination_key(server(2))
    wanted, leaving = drained_row(TCP, row(server(1)), row(server(1), server(2, weight=0)), {name: True})
    assert wanted == row(server(1))
    assert leaving == []


def test_a_server_that_comes_back_has_its_weight_at_once() -> None:
    wanted, leaving = drained_row(TCP, row(server(2, weight=7)), row(server(2, weight=0)), {})
    assert weights(wanted) == {"10.0.0.2": 7}
    assert leaving == []


def test_a_udp_server_goes_at_once() -> None:
    wanted, leaving = drained_row(UDP, row(server(1)), row(server(1), server(2)), {})
    assert wanted == row(server(1))
    assert leaving == []


STEPS = [
    # seconds since weight 0, what the kernel counts, may it go
    pytest.param([(0, activity(active=1), False), (300, activity(active=1), True)], id="idle connection: the timeout"),
    pytest.param([(0, activity(), False), (QUIET, activity(), True)], id="nothing there: once it was quiet"),
    pytest.param(
        [
            (0, activity(1, 0, 10), False),
            (2, activity(0, 1, 50), False),
            (4, activity(0, 1, 90), False),
            (6, activity(0, 1, 90), False),
            (10, activity(0, 1, 90), True),
        ],
        id="half-closed download: inactive for IPVS, but packets move",
    ),
    pytest.param(
        [(0, activity(0, 1, 5), False), (290, activity(0, 1, 900), False), (300, activity(0, 1, 990), True)],
        id="a download that never ends: the timeout",
    ),
    pytest.param([(0, activity(active=3), False), (2, None, True)], id="somebody deleted it"),
]


@pytest.mark.parametrize("steps", STEPS)
def test_when_a_draining_server_may_go(steps: list[tuple[float, Activity | None, bool]]) -> None:
    draining = Draining(since=1000.0, deadline=1300.0)
    for after, seen, gone in steps:
        draining = observe(draining, seen, 1000.0 + after)
        assert is_done(draining, seen, 1000.0 + after) is gone, f"after {after} s"
