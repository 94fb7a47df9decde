"""How the demo reads a gap out of many attempts, and what its page looks like."""

import pytest

from ipvs_lab.demo.newcomers import Attempt, answered_for, gap
from ipvs_lab.demo.page import Page
from ipvs_lab.demo.story import gap_words


def good(started: float) -> Attempt:
    return Attempt(started, 0.01, "rs1", "")


def late(started: float) -> Attempt:
    return Attempt(started, 1.02, "rs1", "")


def failed(started: float) -> Attempt:
    return Attempt(started, 0.01, "", "refused")


def test_gap_reaches_from_the_first_attempt_that_suffered_to_the_first_good_one_after_the_last() -> None:
    attempts = [good(9.0), good(10.1), late(10.2), good(10.3), failed(10.4), good(10.5), good(10.6)]
    seen = gap(attempts, since=10.0)
    assert (seen.tried, seen.late, dict(seen.failed)) == (6, 1, {"refused": 1})
    assert seen.begins == pytest.approx(0.2)
    assert seen.milliseconds == 300


def test_gap_knows_nothing_of_what_was_before_the_change() -> None:
    assert gap([late(8.0), failed(9.0), good(10.1)], since=10.0).milliseconds == 0


def test_attempts_are_taken_by_their_start_not_by_their_end() -> None:
    attempts = [good(10.3), good(10.4), late(10.1)]  # the late one was over last
    assert gap(attempts, since=10.0).milliseconds == 200


def test_answered_for_counts_from_the_last_attempt_that_suffered() -> None:
    attempts = [good(10.0), late(11.0), good(11.5), good(12.0), good(13.0)]
    assert answered_for(attempts, since=10.0) == pytest.approx(1.5)
    assert answered_for([*attempts, failed(14.0)], since=10.0) == 0.0
    assert answered_for([], since=10.0) == 0.0


def test_gap_is_told_in_words_and_only_where_there_is_one() -> None:
    assert gap_words(gap([good(10.0), good(10.1)], since=10.0)).endswith("2 since the edit: all answered at once")
    words = gap_words(gap([good(10.0), failed(10.1), late(10.2), good(10.4)], since=10.0))
    assert "1 had to wait for a second, 1 failed (refused)" in words
    assert "a gap of 300 ms, 100 ms after the edit" in words


def test_page_has_colours_only_where_they_are_wanted(capsys: pytest.CaptureFixture[str]) -> None:
    for colour in (False, True):
        page = Page(0.0, colour=colour)
        page.heading("Title")
        page.fact("it holds")
        page.problem("it does not")
        page.bars({"rs1": 4, "rs2": 2, "rs3": 0})
        assert ("\033[" in capsys.readouterr().out) is colour


def test_bars_are_as_long_as_counts_are_large(capsys: pytest.CaptureFixture[str]) -> None:
    Page(0.0, colour=False).bars({"rs1": 50, "rs2": 25, "rs3": 0})
    lengths = [line.count("█") for line in capsys.readouterr().out.splitlines()]
    assert lengths == [40, 20, 0]
