import errno

from hypothesis import given
from hypothesis import strategies as st

from ipvs_lab.net.clients import Answer, Histogram, kind_of
from ipvs_lab.net.dumps import Dump, steady
from ipvs_lab.net.servers import PERIOD, pattern


def test_a_histogram_counts_answers_errors_and_who_was_seen() -> None:
    histogram = Histogram()
    for result in (Answer("rs1", "192.0.2.1", 1), Answer("rs1", "192.0.2.2", 2), "timeout"):
        histogram.add(result)
    assert histogram.answers == {"rs1": 2}
    assert histogram.errors == {"timeout": 1}
    assert histogram.seen == {"rs1": {"192.0.2.1", "192.0.2.2"}}


def test_bars_are_in_proportion() -> None:
    histogram = Histogram()
    for server, count in (("rs1", 40), ("rs2", 10)):
        for _ in range(count):
            histogram.add(Answer(server, "192.0.2.1", 1))
    histogram.add("refused")
    assert str(histogram).splitlines() == [f"rs1      {'█' * 40} 40", f"rs2      {'█' * 10} 10", "refused  ! 1"]


def test_histograms_add_up() -> None:
    one, other = Histogram(), Histogram()
    one.add(Answer("rs1", "192.0.2.1", 1))
    other.add(Answer("rs1", "192.0.2.2", 1))
    assert (one + other).answers == {"rs1": 2}
    assert (one + other).seen == {"rs1": {"192.0.2.1", "192.0.2.2"}}


def test_errors_have_words() -> None:
    assert kind_of(TimeoutError()) == "timeout"
    assert kind_of(ConnectionRefusedError(errno.ECONNREFUSED, "")) == "refused"
    assert kind_of(BrokenPipeError(errno.EPIPE, "")) == "reset"


@given(st.integers(0, 10 * PERIOD), st.integers(0, 3 * PERIOD), st.integers(0, 1000))
def test_the_pattern_is_the_same_however_it_is_cut(offset: int, first: int, second: int) -> None:
    assert pattern(offset, first) + pattern(offset + first, second) == pattern(offset, first + second)


def test_a_lost_block_shows_in_the_pattern() -> None:
    for size in (1, 4096, 65536):
        assert pattern(0, 100) != pattern(size, 100)


def test_equal_dumps_have_no_difference_and_others_name_the_section() -> None:
    before = Dump("rs1", {"ipvs": ("-A -t 192.0.2.10:80 -s rr",), "rules": ("0: from all lookup local",)})
    after = Dump("rs1", {"ipvs": ("-A -t 192.0.2.10:80 -s wlc",), "rules": ("0: from all lookup local",)})
    assert before.difference(before) == ""
    assert "rs1 ipvs" in before.difference(after)
    assert "+-A -t 192.0.2.10:80 -s wlc" in before.difference(after)
    assert "rules" not in before.difference(after)


def test_lifetimes_that_run_down_do_not_count_as_a_difference() -> None:
    lines = [f"valid_lft {seconds}sec preferred_lft forever" for seconds in (86400, 86399)]
    assert steady("addresses", lines[0]) == steady("addresses", lines[1])


def test_the_order_of_services_does_not_count_but_that_of_rules_does() -> None:
    assert steady("ipvs", "b\na") == steady("ipvs", "a\nb")
    assert steady("rules", "b\na") != steady("rules", "a\nb")
