"""The queue: once each, one worker a key, later and later after failures."""

import asyncio
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvs_operator.queue import FIRST_PAUSE, LONGEST_PAUSE, KeyedQueue, Keys


def taken(keys: Keys[str], now: float) -> list[str]:
    """All that can be worked on now; each is done at once."""
    found = []
    while (key := keys.take(now)) is not None:
        found.append(key)
        keys.done(key, now)
    return found


def test_what_is_added_again_while_it_waits_comes_once() -> None:
    keys: Keys[str] = Keys()
    for key in ("a", "b", "a"):
        keys.add(key, 0.0)
    assert taken(keys, 0.0) == ["a", "b"]


def test_a_key_that_is_worked_on_is_nobody_elses_and_comes_once_more_afterwards() -> None:
    keys: Keys[str] = Keys()
    keys.add("a", 0.0)
    assert keys.take(0.0) == "a"
    keys.add("a", 0.0)
    keys.add("a", 0.0)
    assert keys.take(0.0) is None
    keys.done("a", 0.0)
    assert taken(keys, 0.0) == ["a"]


def test_what_changes_now_comes_before_the_bulk_and_only_once() -> None:
    keys: Keys[str] = Keys()
    for key in ("a", "b", "c"):
        keys.add(key, 0.0, bulk=True)
    keys.add("c", 0.0)
    keys.add("c", 0.0, bulk=True)
    assert taken(keys, 0.0) == ["c", "a", "b"]


def test_a_delayed_key_comes_at_the_earliest_time_wished() -> None:
    keys: Keys[str] = Keys()
    keys.add("a", 0.0, 5.0)
    keys.add("a", 0.0, 2.0)
    keys.add("a", 0.0, 9.0)
    assert keys.due() == 2.0
    assert taken(keys, 1.9) == []
    assert taken(keys, 2.0) == ["a"]
    assert keys.due() is None
    assert taken(keys, 100.0) == []


def test_a_delayed_key_that_is_added_comes_at_once_and_not_again() -> None:
    keys: Keys[str] = Keys()
    keys.add("a", 0.0, 5.0)
    keys.add("a", 0.0)
    assert taken(keys, 0.0) == ["a"]
    assert taken(keys, 5.0) == []


def test_failures_wait_longer_each_time_up_to_a_bound_until_one_success() -> None:
    keys: Keys[str] = Keys()
    waits, now = [], 0.0
    for _ in range(14):
        keys.add("a", now)
        assert keys.take(now) == "a"
        keys.retry("a", now, chance=1.0)
        keys.done("a", now)
        due = keys.due()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits == pytest.approx([min(FIRST_PAUSE * 2**failures, LONGEST_PAUSE) for failures in range(14)])
    assert keys.take(now) == "a"
    keys.succeeded("a")
    keys.retry("a", now, chance=1.0)
    assert keys.due() == pytest.approx(now + FIRST_PAUSE)


def test_a_wait_that_the_api_server_asks_for_is_kept() -> None:
    keys: Keys[str] = Keys()
    keys.retry("a", 0.0, chance=0.0, at_least=7.0)
    assert taken(keys, 6.9) == []
    assert taken(keys, 7.0) == ["a"]


def test_it_is_settled_when_nothing_waits_runs_or_has_failed() -> None:
    keys: Keys[str] = Keys()
    assert keys.settled
    keys.add("a", 0.0)
    assert not keys.settled
    keys.take(0.0)
    assert not keys.settled
    keys.retry("a", 0.0, chance=0.0)
    keys.done("a", 0.0)
    assert not keys.settled
    assert taken(keys, 60.0) == ["a"]
    keys.succeeded("a")
    assert keys.settled


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["add", "bulk", "delay", "take", "done", "retry", "wait"]),
        st.sampled_from("abc"),
        st.floats(0.01, 3.0),
    ),
    max_size=60,
)


@given(STEPS)
def test_nothing_is_lost_and_no_key_has_two_workers(steps: list[tuple[str, str, float]]) -> None:
    """Whatever is wished for is taken after the wish, by one worker at a time."""
    keys: Keys[str] = Keys()
    now = 0.0
    working: set[str] = set()
    wished: dict[str, bool] = defaultdict(bool)
    for what, key, seconds in steps:
        if what in ("add", "bulk"):
            keys.add(key, now, bulk=what == "bulk")
            wished[key] = True
        elif what == "delay":
            keys.add(key, now, seconds)
            wished[key] = True
        elif what == "wait":
            now += seconds
        elif what == "take":
            got = keys.take(now)
            if got is not None:
                assert got not in working
                working.add(got)
                wished[got] = False
        elif key in working:
            if what == "retry":
                keys.retry(key, now, 0.5)
                wished[key] = True
            keys.done(key, now)
            working.discard(key)
    for key in working:
        keys.done(key, now)
    rest = taken(keys, now + LONGEST_PAUSE + 10)
    assert {key for key, wish in wished.items() if wish} <= set(rest)
    assert len(rest) == len(set(rest))


async def _drain(queue: KeyedQueue[int], into: list[int]) -> None:
    while (key := await queue.get()) is not None:
        into.append(key)
        await asyncio.sleep(0)
        queue.done(key)


def test_waiting_workers_get_what_is_added_and_end_when_it_is_closed() -> None:
    async def run() -> list[int]:
        queue: KeyedQueue[int] = KeyedQueue()
        found: list[int] = []
        workers = [asyncio.create_task(_drain(queue, found)) for _ in range(4)]
        await asyncio.sleep(0)
        for number in range(20):
            queue.add(number)
        queue.add(99, 0.02)
        while len(found) < 21:
            await asyncio.sleep(0.001)
        queue.close()
        await asyncio.gather(*workers)
        return found

    found = asyncio.run(run())
    assert sorted(found) == [*range(20), 99]


def test_a_delayed_key_wakes_a_worker_that_was_waiting_before() -> None:
    async def run() -> None:
        queue: KeyedQueue[str] = KeyedQueue()
        waiting = asyncio.create_task(queue.get())
        await asyncio.sleep(0)
        queue.add("late", 0.05)
        queue.add("soon", 0.01)
        assert await asyncio.wait_for(waiting, 5) == "soon"
        assert await asyncio.wait_for(queue.get(), 5) == "late"

    asyncio.run(run())
