"""Old news: twice, late, in any order."""

from hypothesis import given
from hypothesis import strategies as st

from ipvs_api.meta import ObjectKey
from ipvs_operator.versions import REMEMBERED, Versions

KEY = ObjectKey("VirtualService", "shop", "web")


def test_the_same_version_is_no_news() -> None:
    versions = Versions()
    assert versions.put(KEY, 5)
    assert not versions.put(KEY, 5)
    assert not versions.put(KEY, 4)
    assert versions.put(KEY, 6)


def test_what_is_gone_does_not_come_back_by_late_news() -> None:
    versions = Versions()
    versions.put(KEY, 5)
    assert versions.remove(KEY, 9)
    assert not versions.put(KEY, 7)
    assert versions.of(KEY) is None
    assert versions.put(KEY, 10)


def test_a_late_deletion_does_not_remove_what_was_made_anew() -> None:
    versions = Versions()
    versions.put(KEY, 10)
    assert not versions.remove(KEY, 9)
    assert versions.of(KEY) == 10


def test_a_deletion_of_unknown_version_counts_for_what_is_known() -> None:
    versions = Versions()
    versions.put(KEY, 10)
    assert versions.remove(KEY, -1)
    assert not versions.put(KEY, 10)
    assert versions.put(KEY, 11)


def test_versions_that_are_no_numbers_are_always_news() -> None:
    versions = Versions()
    assert versions.put(KEY, -1)
    assert versions.put(KEY, -1)
    assert versions.remove(KEY, -1)
    assert versions.put(KEY, -1)


def test_deletions_are_not_remembered_for_ever() -> None:
    versions = Versions()
    for number in range(REMEMBERED + 1):
        versions.remove(ObjectKey("VirtualService", "shop", f"web-{number}"), 100)
    assert versions.put(ObjectKey("VirtualService", "shop", "web-0"), 50)
    assert not versions.put(ObjectKey("VirtualService", "shop", f"web-{REMEMBERED}"), 50)


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.randoms(use_true_random=False), st.integers(1, 3))
def test_any_order_of_one_objects_history_ends_where_it_ended(history: list[bool], random: object, times: int) -> None:
    """``history``: whether the object was there, at versions 1, 2, …; each told several times, in any order."""
    told = [(version, there) for version, there in enumerate(history, 1)] * times
    random.shuffle(told)  # type: ignore[attr-defined]
    versions = Versions()
    for version, there in told:
        if there:
            versions.put(KEY, version)
        else:
            versions.remove(KEY, version)
    assert versions.of(KEY) == (len(history) if history[-1] else None)
