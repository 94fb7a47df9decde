"""Which events are told: not the same words again and again, and not more than an API server likes."""

from datetime import UTC, datetime

from ipvs_operator.events import BURST, PER_SECOND, REMEMBERED, REPEAT_SECONDS, Limiter, event_object
from ipvs_planner.writes import Event


def ready(name: str = "web", message: str = "It is in the kernels.") -> Event:
    return Event("VirtualService", "shop", name, "uid-1", False, "Programmed", message)


def admitted(limiter: Limiter, count: int, now: float) -> int:
    """Of so many that nobody has heard of."""
    return sum(limiter.admits(ready(f"web-{now}-{number}"), now) for number in range(count))


def test_the_same_words_on_the_same_object_are_told_again_only_after_a_while() -> None:
    limiter = Limiter(0.0)
    assert limiter.admits(ready(), 0.0)
    assert not limiter.admits(ready(), REPEAT_SECONDS - 1)
    assert limiter.admits(ready(message="Something else."), 1.0)
    assert limiter.admits(ready("api"), 1.0)
    assert limiter.admits(ready(), REPEAT_SECONDS)
    assert not limiter.admits(ready(), REPEAT_SECONDS + 1), "from then on anew"


def test_a_thousand_that_turn_at_once_are_told_of_in_part_and_then_at_a_steady_rate() -> None:
    limiter = Limiter(0.0)
    assert admitted(limiter, 1000, 0.0) == BURST
    assert admitted(limiter, 1000, 10.0) == 10 * PER_SECOND
    assert admitted(limiter, 1000, 10.0) == 0
    assert admitted(limiter, 1000, 10_000.0) == BURST, "what was saved up has a bound"


def test_what_was_not_told_for_want_of_room_is_told_when_there_is_some() -> None:
    limiter = Limiter(0.0)
    admitted(limiter, 1000, 0.0)
    assert not limiter.admits(ready(), 0.0)
    assert limiter.admits(ready(), 1.0)


def test_what_was_told_is_not_remembered_for_ever() -> None:
    limiter, now = Limiter(0.0), 0.0
    assert limiter.admits(ready("first"), now)
    for number in range(REMEMBERED):
        now += 1 / PER_SECOND
        assert limiter.admits(ready(f"web-{number}"), now)
    assert limiter.admits(ready("first"), now + 1)


def test_an_event_object_keeps_to_the_bounds_of_its_api() -> None:
    event = Event("DirectorGroup", "", "edge" * 60, "uid-1", True, "R" * 200, "words " * 400)
    made = event_object(event, datetime(2026, 1, 1, 12, tzinfo=UTC))
    assert len(made["note"]) <= 1024
    assert len(made["reason"]) <= 128
    assert len(made["metadata"]["generateName"]) <= 248
    assert made["metadata"]["namespace"] == "default", "of an object without a namespace"
    assert made["regarding"] | {} == {
        "apiVersion": "ipvs.dev/v1alpha1",
        "kind": "DirectorGroup",
        "namespace": "",
        "name": "edge" * 60,
        "uid": "uid-1",
    }
    assert (made["type"], made["eventTime"]) == ("Warning", "2026-01-01T12:00:00.000000Z")
