"""Since when nodes are behind."""

from ipvs_planner.index import Key
from ipvs_planner.lags import Lags

WEB, OTHER = Key("shop", "web"), Key("shop", "other")


def at(seconds: int) -> str:
    return f"2026-01-01T00:{seconds // 60:02}:{seconds % 60:02}Z"


def test_who_has_everything_is_not_behind() -> None:
    assert Lags().behind(WEB, {"lb1": 7, "lb2": 7}, {"lb1": 7, "lb2": 9}, at(0)) == {}


def test_one_that_is_stuck_is_behind_since_its_first_change_however_many_follow() -> None:
    lags = Lags()
    found = [lags.behind(WEB, {"lb1": 7 + second}, {"lb1": 6}, at(second)) for second in (0, 30, 60)]
    assert found == [{"lb1": 0}, {"lb1": 30}, {"lb1": 60}]
    assert lags.behind(WEB, {"lb1": 100}, {}, at(61)) == {"lb1": 61}, "and so is one that is not heard any more"


def test_one_that_follows_is_never_long_behind_though_it_never_has_everything() -> None:
    lags = Lags()
    found = [lags.behind(WEB, {"lb1": 7 + second}, {"lb1": 5 + second}, at(second)) for second in range(300)]
    assert max(seconds["lb1"] for seconds in found) <= 2


def test_it_begins_anew_once_everything_was_there() -> None:
    lags = Lags()
    lags.behind(WEB, {"lb1": 7}, {"lb1": 6}, at(0))
    assert lags.behind(WEB, {"lb1": 7}, {"lb1": 7}, at(50)) == {}
    assert lags.behind(WEB, {"lb1": 8}, {"lb1": 7}, at(100)) == {"lb1": 0}


def test_nodes_and_virtual_services_are_counted_apart() -> None:
    lags = Lags()
    lags.behind(WEB, {"lb1": 7, "lb2": 7}, {"lb2": 7}, at(0))
    lags.behind(OTHER, {"lb1": 7}, {}, at(20))
    assert lags.behind(WEB, {"lb1": 8, "lb2": 8}, {"lb2": 7}, at(30)) == {"lb1": 30, "lb2": 0}
    assert lags.behind(OTHER, {"lb1": 8}, {}, at(30)) == {"lb1": 10}


def test_what_is_not_remembered_begins_when_the_caller_says() -> None:
    lags = Lags()
    assert lags.behind(WEB, {"lb1": 7}, {}, at(90), since=at(0)) == {"lb1": 90}
    assert lags.behind(WEB, {"lb1": 9}, {"lb1": 7}, at(100), since=at(0)) == {"lb1": 0}, "it was reached"
