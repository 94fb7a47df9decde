"""Plans as they arrive: sequences of lists, changes and time, and what is given to the host when."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvs_agent.ledger import Owner
from ipvs_agent.slices import together
from ipvs_agent.sources.arriving import LONGEST, SETTLE, Arriving
from ipvs_agent.sources.gathered import Slice, unread_slice
from ipvs_api.labels import plan_name
from ipvs_api.meta import ObjectMeta, number_of
from ipvs_api.plan import Owner as PlanOwner
from ipvs_api.plan import VirtualServicePlanSpec
from ipvs_kube.changes import Absent, Bookmark, Gone, Put, Replaced, Trouble, Unreadable

from .plans import hosts, plan

NOTHING: dict[Owner, VirtualServicePlanSpec | None] = {}


def spec(name: str, number: int = 0, slices: int = 1, last: int = 21) -> VirtualServicePlanSpec:
    return plan(virtual_service=PlanOwner("shop", name), slice=number, slices=slices, backends=hosts(last))


def slice_of(found: VirtualServicePlanSpec, version: int) -> Slice:
    owner = found.virtual_service
    meta = ObjectMeta(plan_name(owner.namespace, owner.name, found.slice), resource_version=str(version))
    return Slice(meta, f"{owner.namespace}/{owner.name}", found)


def put(found: VirtualServicePlanSpec, version: int) -> Put[Slice]:
    return Put(slice_of(found, version), str(version))


def gone(name: str, version: int, number: int = 0) -> Gone:
    return Gone("ipvs-system", f"shop.{name}.{number}", "", str(version))


def listed(version: int, *slices: Slice, **more: Any) -> Replaced[Slice]:
    return Replaced(slices, str(version), **more)


class Told:
    """An agent's view: what is in force, from what has been given."""

    def __init__(self, *stored: Owner) -> None:
        self.arriving = Arriving(stored)
        self.now = 0.0

    def tell(self, *changes: Any, after: float = 0.0) -> dict[Owner, VirtualServicePlanSpec | None]:
        self.now += after
        for change in changes:
            self.arriving.take(change, self.now)
        return dict(self.arriving.ripe(self.now))

    def begin(self, version: int, *slices: Slice, reported: str = "") -> bool:
        self.tell(listed(version, *slices))
        return self.arriving.go_on_from(reported)


def test_a_list_gives_what_is_there_and_takes_what_was_there_before() -> None:
    told = Told("shop/a", "shop/b")
    assert told.tell(listed(10, slice_of(spec("a"), 5))) == {"shop/a": spec("a"), "shop/b": None}


@pytest.mark.parametrize("change", [Absent(), Trouble("away"), Bookmark("12")])
def test_no_list_takes_nothing(change: Any) -> None:
    told = Told("shop/a")
    assert told.tell(change) == NOTHING
    told.begin(10, slice_of(spec("a"), 5))
    assert told.tell(change) == NOTHING
    assert told.arriving.given == "5"


def test_a_list_again_is_no_news() -> None:
    told = Told()
    told.begin(10, slice_of(spec("a"), 5))
    assert told.tell(listed(20, slice_of(spec("a"), 5))) == NOTHING
    assert told.arriving.given == "5"


def test_a_list_after_what_was_missed_gives_only_that() -> None:
    told = Told()
    told.begin(10, slice_of(spec("a"), 5), slice_of(spec("b"), 6), slice_of(spec("c"), 7))
    given = told.tell(listed(20, slice_of(spec("a"), 5), slice_of(spec("b", last=22), 15)))
    assert given == {"shop/b": spec("b", last=22), "shop/c": None}
    assert told.arriving.given == "20"


def test_changes_are_given_at_once() -> None:
    told = Told()
    told.begin(10)
    assert told.tell(put(spec("a"), 11)) == {"shop/a": spec("a")}
    assert told.arriving.given == "11"
    assert told.tell(gone("a", 12)) == {"shop/a": None}
    assert told.arriving.given == "12"


def test_a_plan_of_several_slices_waits_until_they_rest() -> None:
    told = Told()
    told.begin(10)
    assert told.tell(put(spec("a", 0, 2), 11)) == NOTHING
    assert told.tell(put(spec("a", 1, 2, last=22), 12), after=SETTLE / 2) == NOTHING
    assert told.tell(after=SETTLE / 2) == NOTHING
    assert told.arriving.given == "10"
    given = told.tell(after=SETTLE / 2)
    assert given == {"shop/a": together([spec("a", 0, 2), spec("a", 1, 2, last=22)])}
    assert told.arriving.given == "12"


def test_slices_that_never_rest_are_given_now_and_then() -> None:
    told = Told()
    told.begin(10, slice_of(spec("a", 1, 2), 9))
    times = 0
    for number in range(100):
        times += bool(told.tell(put(spec("a", 0, 2, last=21 + number % 2), 11 + number), after=SETTLE / 2))
    assert times == pytest.approx(100 * SETTLE / 2 / LONGEST, abs=1)


def test_other_plans_do_not_wait_for_one_that_does_and_the_version_does() -> None:
    told = Told()
    told.begin(10)
    told.tell(put(spec("a", 0, 2), 11))
    assert told.tell(put(spec("b"), 12)) == {"shop/b": spec("b")}
    assert told.arriving.given == "10"
    told.tell(after=SETTLE)
    assert told.arriving.given == "12"


def test_the_version_goes_on_though_some_plan_always_waits() -> None:
    told = Told()
    told.begin(10)
    for number in range(100):
        told.tell(put(spec(f"s{number % 5}", 0, 2, last=21 + number % 7), 11 + number), after=SETTLE / 4)
        assert told.arriving.waiting
    assert number_of(told.arriving.given) >= 60


def test_nothing_has_been_given_before_the_first_list_has_been() -> None:
    told = Told()
    told.begin(10, slice_of(spec("a", 0, 2), 5), slice_of(spec("b"), 7))
    assert told.arriving.given == ""
    told.tell(after=SETTLE)
    assert told.arriving.given == "7"


def test_what_was_reported_before_is_gone_on_from() -> None:
    told = Told("shop/a")
    assert told.begin(10, slice_of(spec("a"), 5), reported="8")
    assert told.arriving.given == "8"


def test_what_changed_meanwhile_is_news() -> None:
    told = Told("shop/a")
    assert told.begin(10, slice_of(spec("a"), 9), reported="8")
    assert told.arriving.given == "9"


def test_what_went_meanwhile_is_news() -> None:
    told = Told("shop/a")
    assert told.begin(10, reported="8")
    assert told.arriving.given == "10"


def test_without_a_report_and_plans_the_list_is_where_it_begins() -> None:
    told = Told()
    assert told.begin(10)
    assert told.arriving.given == "10"


def test_a_report_from_another_history_is_not_gone_on_from() -> None:
    told = Told("shop/a")
    assert not told.begin(10, slice_of(spec("a"), 5), reported="80")
    assert told.arriving.given == "5"


def test_a_history_turned_back_counts_anew_though_versions_are_the_same() -> None:
    told = Told()
    told.begin(100, slice_of(spec("a"), 50), slice_of(spec("b"), 60))
    told.tell(put(spec("c"), 150))
    assert told.tell(listed(70, slice_of(spec("a", last=22), 50), slice_of(spec("b"), 60))) == {
        "shop/a": spec("a", last=22),
        "shop/b": spec("b"),
        "shop/c": None,
    }
    assert told.arriving.given == "70"


def test_what_cannot_be_read_is_named_and_stays() -> None:
    told = Told("shop/a", "shop/b")
    unread = Unreadable("ipvs-system", "shop.b.0", "6", "what is this")
    assert told.tell(listed(10, slice_of(spec("a"), 5), unreadable=(unread,))) == {"shop/a": spec("a")}
    assert told.arriving.go_on_from("")
    assert told.tell(Unreadable("ipvs-system", "shop.a.0", "11", "nor this")) == NOTHING
    assert told.arriving.unreadable == {
        "shop/a": "shop.a.0: this agent cannot read it: nor this",
        "shop/b": "shop.b.0: this agent cannot read it: what is this",
    }
    assert told.tell(put(spec("b"), 12), gone("a", 13)) == {"shop/b": spec("b"), "shop/a": None}
    assert told.arriving.unreadable == {}


def test_while_one_is_there_that_may_be_anybodys_nothing_of_before_is_taken() -> None:
    told = Told("shop/a", "shop/b")
    nobody = unread_slice("odd", "7", "what is this")
    assert told.tell(listed(10, slice_of(spec("a"), 5), nobody)) == {"shop/a": spec("a")}
    assert told.tell(listed(20, slice_of(spec("a"), 5))) == {"shop/b": None}


Step = tuple[str, int, int]

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "write", "delete", "relist", "wait", "repeat"]), st.integers(0, 3), st.integers(0, 40)
    ),
    max_size=40,
)


@pytest.mark.slow
@given(STEPS)
def test_whatever_order_things_are_told_in_what_is_given_is_what_is_there(steps: list[Step]) -> None:
    told, there, version = Told("shop/s0", "shop/gone"), dict[str, Slice](), 10
    in_force: dict[Owner, VirtualServicePlanSpec | None] = {"shop/s0": None, "shop/gone": None}
    in_force |= told.tell(listed(version))
    last: Any = Bookmark("10")
    for verb, which, number in steps:
        version += 1
        name = f"s{which % 3}"
        if verb == "write":
            slices = 1 + number % 3
            for part in range(slices):
                version += 1
                found = slice_of(spec(name, part, slices, last=21 + (number + part) % 8), version)
                there[found.metadata.name] = found
                last = Put(found, str(version))
                in_force |= told.tell(last)
            for part in range(slices, 3):
                if there.pop(plan_name("shop", name, part), None) is not None:
                    version += 1
                    in_force |= told.tell(gone(name, version, part))
        elif verb == "delete":
            for part in range(3):
                if there.pop(plan_name("shop", name, part), None) is not None:
                    version += 1
                    last = gone(name, version, part)
                    in_force |= told.tell(last)
        elif verb == "relist":
            in_force |= told.tell(listed(version, *there.values()))
        elif verb == "repeat":
            in_force |= told.tell(last)
        else:
            in_force |= told.tell(after=number / 20)
    in_force |= told.tell(after=SETTLE)
    in_force |= told.tell(after=LONGEST)
    wanted: dict[Owner, list[Slice]] = {}
    for found in sorted(there.values(), key=lambda found: number_of(found.metadata.resource_version)):
        wanted.setdefault(found.owner, []).append(found)
    assert {owner: found for owner, found in in_force.items() if found is not None} == {
        owner: together([each.spec for each in several if each.spec is not None]) for owner, several in wanted.items()
    }
    assert not told.arriving.waiting
