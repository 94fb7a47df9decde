"""A difference per key is the whole algorithm: applying it gives what is wanted, and nothing twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvs_agent.table import diff

ROWS = st.dictionaries(st.integers(0, 20), st.integers(0, 3))


@given(ROWS, ROWS)
def test_applying_the_difference_gives_what_is_wanted(wanted: dict[int, int], found: dict[int, int]) -> None:
    state = dict(found)
    for change in diff(wanted, found):
        assert state.get(change.key) == change.old
        if change.new is None:
            del state[change.key]
        else:
            state[change.key] = change.new
    assert state == wanted


@pytest.mark.slow
@given(ROWS)
def test_what_is_right_is_left_alone(rows: dict[int, int]) -> None:
    assert diff(rows, dict(rows)) == []


@pytest.mark.slow
@given(ROWS, ROWS)
def test_additions_come_before_removals(wanted: dict[int, int], found: dict[int, int]) -> None:
    removals = [change.new is None for change in diff(wanted, found)]
    assert removals == sorted(removals)


def test_only_the_keys_asked_for_are_compared() -> None:
    assert [change.key for change in diff({1: 1, 2: 2}, {}, keys=[2])] == [2]
