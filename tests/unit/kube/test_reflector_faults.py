"""What no API server does when asked to: a reflector told of it by a scripted one."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvs_kube import reflector as module
from ipvs_kube.api import Api, connect
from ipvs_kube.changes import Gone, Put, Replaced, Trouble, Unreadable
from ipvs_kube.resources import PODS

from .scripted import (
    Answer,
    Ending,
    ScriptedServer,
    Stream,
    bookmark,
    error_event,
    event,
    listed,
    refusal,
    scripted,
    thing,
)
from .told import Told

pytestmark = pytest.mark.slow  # real time passes

SILENT = Stream((Ending.SILENCE,))
PAUSE = module.FIRST_PAUSE


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are the product's own where a test is about them."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.02)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted() as made:
        yield made


@pytest.fixture
def api(server: ScriptedServer, tmp_path: Path) -> Iterator[Api]:
    made = connect(server.kubeconfig(tmp_path))
    yield made
    made.close()


def test_half_a_line_at_the_end_is_told_once_by_the_next_watch(server: ScriptedServer, api: Api) -> None:
    whole, half = event("ADDED", thing("a", 11)), event("ADDED", thing("b", 12))
    server.watches = [Stream((whole + half[:40], Ending.CUT)), Stream((half, Ending.SILENCE))]
    with Told(api, PODS) as told:
        told.until_told("put b")
        assert told.words == ["all:", "put a", "put b"]
    assert [each.query["resourceVersion"] for each in server.watching()] == ["10", "11"]


def test_a_watch_that_breaks_goes_on_where_it_was_without_a_list(server: ScriptedServer, api: Api) -> None:
    server.watches = [Stream((event("ADDED", thing("a", 11)), Ending.CUT)), SILENT]
    with Told(api, PODS) as told:
        told.until_told("put a")
        told.until(lambda _: len(server.watching()) == 2)
        assert told.words == ["all:", "put a"]
    assert len(server.listing()) == 1
    assert server.watching()[1].query["resourceVersion"] == "11"


def test_a_bookmark_moves_on_where_the_next_watch_begins(server: ScriptedServer, api: Api) -> None:
    server.watches = [Stream((bookmark(77), Ending.CUT)), SILENT]
    with Told(api, PODS) as told:
        told.until(lambda _: len(server.watching()) == 2)
        assert told.words == ["all:", "up to 77"]
    assert server.watching()[1].query["resourceVersion"] == "77"
    assert len(server.listing()) == 1


def test_what_came_together_is_told_together(server: ScriptedServer, api: Api) -> None:
    lines = b"".join(event("ADDED", thing(f"t{number}", number)) for number in range(11, 111))
    server.watches = [Stream((lines, Ending.SILENCE))]
    with Told(api, PODS) as told:
        told.until_told("put t110")
        assert [len(batch) for batch in told.batches] == [1, 100]


def test_a_line_in_pieces_is_one_change(server: ScriptedServer, api: Api) -> None:
    line = event("ADDED", thing("a", 11, spec={"filler": "x" * 300_000}))
    pieces = tuple(line[at : at + 1000] for at in range(0, len(line), 1000))
    server.watches = [Stream((*pieces, Ending.SILENCE))]
    with Told(api, PODS) as told:
        told.until_told("put a")
        assert told.words == ["all:", "put a"]


def test_an_object_that_cannot_be_read_is_named_and_the_others_go_on(
    server: ScriptedServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    bad = thing("bad", 12)
    bad["metadata"]["labels"] = ["not", "a", "map"]
    server.lists = [Answer(listed(thing("a", 5), bad))]
    server.watches = [
        Stream((event("MODIFIED", bad), event("ADDED", thing("c", 13)), event("DELETED", bad), Ending.CUT)),
        SILENT,
    ]
    with Told(api, PODS) as told:
        told.until_told("gone bad")
        told.until(lambda _: len(server.watching()) == 2)
        replaced, changed, put, gone = told.changes
    assert isinstance(replaced, Replaced)
    assert [(each.namespace, each.name) for each in replaced.unreadable] == [("ns", "bad")]
    assert isinstance(changed, Unreadable)
    assert "labels" in changed.words
    assert isinstance(put, Put)
    assert isinstance(gone, Gone)
    assert server.watching()[1].query["resourceVersion"] == "12"
    assert "Pod ns/bad: Expected `object`, got `array` - at `$.metadata.labels`; it is passed over" in caplog.text


def test_many_objects_that_cannot_be_read_do_not_fill_the_log(
    server: ScriptedServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    server.lists = [Answer(listed(*({"metadata": {"name": f"t{number}", "labels": 1}} for number in range(100))))]
    with Told(api, PODS) as told:
        told.until_told("all:")
        assert len(told.changes[0].unreadable) == 100
    assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 6
    assert "Pod: 95 more cannot be read" in caplog.text


NO_LISTS = {
    "an error": Answer(refusal(500, "InternalError"), 500),
    "a page of a proxy": Answer(b"<html>Bad gateway</html>", 502),
    "a page of a portal": Answer(b"<html>Log in</html>"),
    "JSON of something else": Answer(b'{"status": "ok"}'),
    "a list of nobody knows when": Answer(b'{"metadata": {"resourceVersion": ""}, "items": []}'),
    "a list without its items": Answer(b'{"metadata": {"resourceVersion": "9"}}'),
    "nothing": Answer(b""),
    "half a list": Answer(listed(thing("a", 5))[:60], length=4000),
    "a redirection": Answer(b"", 302, {"Location": "/elsewhere"}),
    "not allowed": Answer(refusal(403, "Forbidden"), 403),
    "not now": Answer(refusal(429, "TooManyRequests"), 429),
    "a token of a list that has run out": Answer(refusal(410, "Expired"), 410),
}


@pytest.mark.parametrize("answer", NO_LISTS.values(), ids=NO_LISTS)
def test_a_list_that_failed_is_trouble_and_never_an_empty_list(
    server: ScriptedServer, api: Api, answer: Answer
) -> None:
    server.lists = [answer, answer, Answer(listed(thing("a", 5)))]
    with Told(api, PODS) as told:
        told.until_told("all: a")
        assert told.words == ["Trouble", "all: a"]


def test_an_empty_list_may_have_null_for_its_items(server: ScriptedServer, api: Api) -> None:
    server.lists = [Answer(b'{"metadata": {"resourceVersion": "9"}, "items": null}')]
    with Told(api, PODS) as told:
        told.until_told("all:")
    assert told.words == ["all:"]


def test_pages_are_one_list(server: ScriptedServer, api: Api) -> None:
    server.lists = [
        Answer(listed(thing("a", 5), more="then")),
        Answer(listed(thing("b", 5), more="at last")),
        Answer(listed(thing("c", 5))),
    ]
    with Told(api, PODS) as told:
        told.until_told("all: a b c")
    assert [each.query.get("continue") for each in server.listing()] == [None, "then", "at last"]


def test_a_list_whose_next_page_has_expired_begins_again(server: ScriptedServer, api: Api) -> None:
    server.lists = [
        Answer(listed(thing("a", 5), thing("b", 6), more="then")),
        Answer(refusal(410, "Expired"), 410),
        Answer(listed(thing("b", 6), version="20", more="then")),
        Answer(listed(thing("c", 15), version="20")),
    ]
    with Told(api, PODS) as told:
        told.until_told("all: b c")
        assert told.words == ["Trouble", "all: b c"]
    assert [each.query.get("continue") for each in server.listing()] == [None, "then", None, "then"]


@pytest.mark.parametrize(
    "refused",
    [Answer(refusal(410, "Expired"), 410), Stream((error_event(410, "Expired"),))],
    ids=["as the answer", "in the stream"],
)
def test_a_version_that_is_too_old_means_a_new_list_and_is_no_trouble(
    server: ScriptedServer, api: Api, refused: Answer | Stream
) -> None:
    server.lists = [Answer(listed(thing("a", 5))), Answer(listed(thing("b", 15), version="20"))]
    server.watches = [refused, SILENT]
    with Told(api, PODS) as told:
        told.until(lambda _: len(server.watching()) == 2)
        assert told.words == ["all: a", "all: b"]
    assert server.watching()[1].query["resourceVersion"] == "20"


def test_versions_that_are_always_too_old_do_not_keep_the_server_busy(
    server: ScriptedServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", PAUSE)
    server.watches = [Stream((error_event(410, "Expired"),))]
    with Told(api, PODS) as told:
        told.until_told("all:", times=3)
        time.sleep(1.5)
    assert len(server.listing()) <= 5


def test_what_came_before_an_error_in_the_stream_is_told_and_not_asked_for_again(
    server: ScriptedServer, api: Api
) -> None:
    server.watches = [
        Stream((event("ADDED", thing("a", 11)) + error_event(500, "InternalError"),)),
        Stream((event("ADDED", thing("b", 12)), Ending.SILENCE)),
    ]
    with Told(api, PODS) as told:
        told.until_told("put b")
        assert told.words == ["all:", "put a", "Trouble", "up to 11", "put b"]
    assert [each.query["resourceVersion"] for each in server.watching()] == ["10", "11"]


def test_a_line_that_is_no_event_is_trouble(server: ScriptedServer, api: Api) -> None:
    server.watches = [Stream((event("ADDED", thing("a", 11)) + b"proxy timeout\n",)), SILENT]
    with Told(api, PODS) as told:
        told.until_told("up to 11")
        assert told.words == ["all:", "put a", "Trouble", "up to 11"]


@pytest.mark.parametrize("ending", [(), (Ending.CUT,)], ids=["in order", "broken"])
def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_pause(
    server: ScriptedServer, api: Api, ending: tuple[Ending, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", PAUSE)
    server.watches = [Stream(ending)]
    with Told(api, PODS) as told:
        told.until_told("Trouble")
        time.sleep(1.5)
        trouble = next(change for change in told.changes if isinstance(change, Trouble))
    assert f"{server.url} ended the watch as soon as it had begun" in trouble.words
    assert len(server.watching()) <= 6


def test_a_silent_connection_is_given_up_and_is_no_trouble(
    server: ScriptedServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_SECONDS", 0.3)
    monkeypatch.setattr(module, "HEALTHY_SECONDS", 0.2)
    server.watches = [SILENT, Stream((event("ADDED", thing("a", 11)), Ending.SILENCE))]
    with Told(api, PODS) as told:
        told.until_told("put a")
        assert told.words == ["all:", "put a"]
    assert len(server.listing()) == 1


def test_the_server_is_left_alone_as_long_as_it_says(server: ScriptedServer, api: Api) -> None:
    server.lists = [Answer(refusal(429, "TooManyRequests"), 429, {"Retry-After": "1"}), Answer(listed())]
    with Told(api, PODS) as told:
        told.until_told("Trouble")
        since = time.monotonic()
        told.until_told("all:")
        assert time.monotonic() - since >= 0.9


def test_a_server_that_says_when_to_come_is_not_left_alone_for_longer_the_longer_it_was_away(
    server: ScriptedServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.3)
    away = Answer(refusal(503, "ServiceUnavailable"), 503)
    starting = Answer(refusal(429, "TooManyRequests"), 429, {"Retry-After": "0"})
    server.lists = [away, away, starting, starting, starting, Answer(listed())]
    with Told(api, PODS) as told:
        told.until(lambda _: len(server.listing()) == 3)
        since = time.monotonic()
        told.until_told("all:")
        assert time.monotonic() - since < 1.2


def test_trouble_is_told_once_until_something_else_is_wrong(server: ScriptedServer, api: Api) -> None:
    away, forbidden = Answer(refusal(503, "ServiceUnavailable"), 503), Answer(refusal(403, "Forbidden"), 403)
    server.lists = [away, away, forbidden, forbidden, Answer(listed())]
    with Told(api, PODS) as told:
        told.until_told("all:")
        assert told.words == ["Trouble", "Trouble", "all:"]
        first, second = (change for change in told.changes if isinstance(change, Trouble))
    assert "503" in first.words
    assert "403" in second.words


def test_a_resource_that_is_not_served_is_absent_and_nothing_is_said_to_be_gone(
    server: ScriptedServer, api: Api
) -> None:
    missing = Answer(b"404 page not found\n", 404)
    server.lists = [Answer(listed(thing("a", 5))), missing, missing, Answer(listed(thing("b", 6)))]
    server.watches = [missing, SILENT]
    with Told(api, PODS) as told:
        told.until_told("all: b")
        assert told.words == ["all: a", "Absent", "all: b"]


def test_a_sink_that_raises_is_told_everything_again(
    server: ScriptedServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    server.watches = [Stream((event("ADDED", thing("a", 11)), Ending.SILENCE)), SILENT]
    server.lists = [Answer(listed()), Answer(listed(thing("a", 11), version="11"))]
    told = Told(api, PODS)
    told.refuse = lambda changes: isinstance(changes[0], Put)
    with told:
        told.until_told("all: a")
        assert told.words == ["all:", "put a", "all: a"]
    assert "the sink cannot take this" in caplog.text


def test_a_sink_that_raises_when_told_of_trouble_does_not_blind_us(server: ScriptedServer, api: Api) -> None:
    server.lists = [Answer(refusal(503, "ServiceUnavailable"), 503), Answer(listed(thing("a", 5)))]
    told = Told(api, PODS)
    told.refuse = lambda changes: isinstance(changes[0], Trouble)
    with told:
        told.until_told("all: a")


def test_a_history_that_ends_before_what_was_told_is_listed_anew(
    server: ScriptedServer, api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    server.lists = [Answer(listed(thing("a", 90), version="100")), Answer(listed(thing("b", 40), version="50"))]
    server.watches = [Stream((bookmark(101), Ending.CUT)), SILENT]
    server.looks = [Answer(listed(version="50"))]
    with Told(api, PODS, label_selector="x=y", field_selector="metadata.name=z") as told:
        told.until(lambda _: len(server.watching()) == 2)
        assert told.words == ["all: a", "up to 101", "all: b"]
    assert server.watching()[1].query["resourceVersion"] == "50"
    selectors = {(each.query.get("labelSelector"), each.query.get("fieldSelector")) for each in server.asked}
    assert selectors == {("x=y", "metadata.name=z")}
    assert "has not come to version 101" in caplog.text


def test_a_watch_that_ends_in_its_time_costs_no_other_request(
    server: ScriptedServer, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WATCH_SECONDS", (0, 0))
    server.watches = [Stream((bookmark(11),)), Stream((bookmark(12),)), SILENT]
    with Told(api, PODS) as told:
        told.until(lambda _: len(server.watching()) == 3)
    assert len(server.asked) == 4


def test_stopping_takes_no_time_although_the_server_says_nothing(server: ScriptedServer, api: Api) -> None:
    with Told(api, PODS) as told:
        told.until(lambda _: server.watching())
        since = time.monotonic()
        told.reflector.stop()
        told.reflector.join(20)
        assert time.monotonic() - since < 1.0
        told.forget()
    assert told.changes == []
