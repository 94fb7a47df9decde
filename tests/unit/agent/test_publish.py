"""When a report is written: sequences of what is to be said, what is stored and time."""

from collections.abc import Iterable
from typing import Any

import pytest

from ipvs_agent.publish import FIRST_UNSETTLED, PERIOD, UNSETTLED, Draft
from ipvs_api.node import IPVSNodeStatus


def status(text: str) -> IPVSNodeStatus:
    return IPVSNodeStatus(boot_id=text)


class Desk:
    """A draft at a time, and an API server that stores what is written."""

    def __init__(self) -> None:
        self.draft = Draft()
        self.now = 100.0
        self.version = 10
        self.written: list[tuple[float, str]] = []

    def see(self, text: str | None) -> None:
        self.version += 1
        self.draft.seen(self.version, status(text) if text is not None else None)

    def want(self, text: str, *, settled: bool = True) -> None:
        self.draft.want(status(text), self.now, settled=settled)

    def wait(self, seconds: float) -> None:
        """Time passes; what is due is written at once."""
        end = self.now + seconds
        while (left := self.draft.due(self.now)) is not None and self.now + left <= end:
            self.now += left
            wanted = self.draft.wanted
            assert wanted is not None
            self.version += 1
            self.draft.wrote(wanted, self.version, wanted, self.now)
            self.written.append((round(self.now - 100.0, 3), wanted.boot_id))
        self.now = end


Steps = Iterable[tuple[str, Any]]

SEQUENCES: dict[str, tuple[Steps, list[tuple[float, str]]]] = {
    "nothing before it is known what is stored": ([("want", "a"), ("wait", 60)], []),
    "nothing where there is no object": ([("see", None), ("want", "a"), ("wait", 60)], []),
    "what differs, at once": ([("see", ""), ("want", "a"), ("wait", 60)], [(0, "a")]),
    "what is stored already, never": ([("see", "a"), ("want", "a"), ("wait", 60), ("want", "a"), ("wait", 60)], []),
    "one write for changes within a period": (
        [("see", ""), ("want", "a"), ("wait", 0), ("want", "b"), ("wait", 0.5), ("want", "c"), ("wait", 60)],
        [(0, "a"), (PERIOD, "c")],
    ),
    "a change and its return within a period": (
        [("see", ""), ("want", "a"), ("wait", 0), ("want", "b"), ("wait", 0.5), ("want", "a"), ("wait", 60)],
        [(0, "a")],
    ),
    "what another wrote over it, again": (
        [("see", ""), ("want", "a"), ("wait", 5), ("see", "x"), ("wait", 60)],
        [(0, "a"), (5, "a")],
    ),
    "an object that was made again, at once": (
        [("see", ""), ("want", "a"), ("wait", 0), ("see", None), ("wait", 0.1), ("see", ""), ("wait", 60)],
        [(0, "a"), (0.1, "a")],
    ),
    "an object that is gone, not": ([("see", ""), ("see", None), ("want", "a"), ("wait", 60)], []),
    "under way at the start, not before it is done": (
        [("see", "x"), ("busy", "a"), ("wait", 10), ("busy", "b"), ("wait", 10), ("want", "c"), ("wait", 60)],
        [(20, "c")],
    ),
    "under way at the start and for long": (
        [("see", "x"), ("busy", "a"), ("wait", FIRST_UNSETTLED - 1), ("busy", "b"), ("wait", 10)],
        [(FIRST_UNSETTLED, "b")],
    ),
    "under way later, done in time": (
        [("see", "x"), ("want", "a"), ("wait", 5), ("busy", "b"), ("wait", 0.5), ("want", "c"), ("wait", 60)],
        [(0, "a"), (5.5, "c")],
    ),
    "under way later, for long": (
        [("see", "x"), ("want", "a"), ("wait", 5), ("busy", "b"), ("wait", 3.5), ("want", "c"), ("wait", 60)],
        [(0, "a"), (5 + UNSETTLED, "b"), (8.5, "c")],
    ),
}


@pytest.mark.parametrize("name", SEQUENCES)
def test_what_is_written_when(name: str) -> None:
    steps, expected = SEQUENCES[name]
    desk = Desk()
    for verb, what in steps:
        if verb == "busy":
            desk.want(what, settled=False)
        else:
            getattr(desk, verb)(what)
    assert desk.written == expected


def test_a_thousand_changes_under_way_are_a_handful_of_writes() -> None:
    desk = Desk()
    desk.see("")
    desk.want("first")
    for number in range(1000):
        desk.want(str(number), settled=False)
        desk.wait(0.005)
    desk.want("last")
    desk.wait(60)
    assert len(desk.written) <= 8
    assert desk.written[-1][1] == "last"


def test_an_older_version_than_what_was_written_is_no_news() -> None:
    desk = Desk()
    desk.see("")
    desk.want("a")
    desk.wait(0)
    desk.draft.seen(desk.version - 1, status(""))
    desk.wait(60)
    assert desk.written == [(0, "a")]


def test_what_a_server_restored_from_a_backup_has_is_true() -> None:
    desk = Desk()
    desk.see("")
    desk.want("a")
    desk.wait(5)
    desk.draft.forget()
    desk.version = 3
    desk.see("old")
    desk.wait(60)
    assert desk.written == [(0, "a"), (5, "a")]


def test_a_report_that_the_server_keeps_in_other_words_is_written_once() -> None:
    draft = Draft()
    draft.seen(1, status(""))
    draft.want(status("a"), 0, settled=True)
    draft.wrote(status("a"), 2, status("A"), 0)
    draft.seen(2, status("A"))
    assert draft.due(100) is None
    draft.want(status("b"), 100, settled=True)
    assert draft.due(100) == 0
    draft.want(status("a"), 100, settled=True)
    draft.seen(3, status("x"))
    assert draft.due(100) == 0


def test_a_write_that_failed_waits_as_long_as_it_is_told_and_longer_ones_are_not_cut_short() -> None:
    draft = Draft()
    draft.seen(1, status(""))
    draft.want(status("a"), 0, settled=True)
    draft.failed(0, 8.0)
    assert draft.due(0) == 8.0
    draft.want(status("b"), 1, settled=True)
    assert draft.due(1) == 7.0
    assert draft.due(8) == 0
