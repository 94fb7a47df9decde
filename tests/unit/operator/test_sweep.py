"""What no watch has told: deletions that were lost, a watch that is blind, an API server that forgot."""

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import msgspec
import pytest

from ipvs_api.meta import ObjectKey
from ipvs_kube.api import Api
from ipvs_operator import crds
from ipvs_operator.declared import Declared
from ipvs_operator.items import Item
from ipvs_operator.store import Store
from ipvs_operator.sweep import Listed, Sweep, all_known, forget_lost, missing
from ipvs_planner.snapshot import Declared as Object

from ..planner.worlds import group, service


def key(name: str = "web", kind: str = "VirtualService") -> ObjectKey:
    return ObjectKey(kind, "shop" if kind == "VirtualService" else "", name)


def listed(there: Mapping[str, int], version: str, kind: str = "VirtualService") -> Listed:
    return Listed(kind, {key(name, kind): number for name, number in there.items()}, version)


def at(version: str, declared: Any) -> Any:
    return msgspec.structs.replace(
        declared, metadata=msgspec.structs.replace(declared.metadata, resource_version=version)
    )


class Knowing:
    """A store, and what it marked since it was last looked at."""

    def __init__(self, *declared: Object) -> None:
        self.marked: list[str] = []
        self.store = Store("ipvs-system", self._mark, judges_pods=False)
        for each in declared:
            self.store.put(each)
        self.marked.clear()

    def _mark(self, item: Item, *, bulk: bool = False) -> None:
        self.marked.append(str(item))


def test_what_is_not_listed_any_more_is_forgotten_unless_it_is_younger_than_the_list() -> None:
    knowing = Knowing(at("5", service("lost")), at("6", service("there")), at("20", service("young")))
    forgotten = forget_lost(knowing.store, [listed({"there": 6}, "10")])
    assert forgotten == [key("lost")]
    assert knowing.store.known("VirtualService") == {key("there"), key("young")}
    assert "VirtualService shop/lost" in knowing.marked
    assert forget_lost(knowing.store, [listed({"there": 6}, "10")]) == []


def test_kinds_are_swept_each_for_itself() -> None:
    knowing = Knowing(at("5", service()), at("6", group()))
    assert forget_lost(knowing.store, [listed({}, "10", "DirectorGroup")]) == [key("edge", "DirectorGroup")]
    assert knowing.store.known("VirtualService") == {key()}


def test_what_is_listed_and_has_not_come_is_missing() -> None:
    knowing = Knowing(at("5", service()))
    assert missing(knowing.store, [listed({"web": 7, "api": 6}, "10")]) == [key("api")]


@pytest.mark.slow
def test_what_is_gone_before_it_came_is_not_waited_for_and_nothing_is_listed_again_while_news_come() -> None:
    knowing = Knowing()
    lists = [{"web": 7, "api": 6, "lost": 5}, {"web": 7, "api": 6}]
    coming = [at("6", service("api")), at("7", service("web"))]
    told: list[str] = []

    async def names() -> list[Listed]:
        return [listed(lists.pop(0), "10")]

    def tell(words: list[str]) -> None:
        told.extend(words)
        assert coming or lists == [{"web": 7, "api": 6}], "listed again too early"
        if coming:
            knowing.store.put(coming.pop(0))

    asyncio.run(all_known(knowing.store, names, list, tell))
    assert lists == []
    assert [words.split(" ", 1)[0] for words in told] == ["3", "2", "1", "1"]


def test_a_watch_is_blind_where_something_has_not_come_from_one_sweep_to_the_next() -> None:
    knowing, sweep = Knowing(at("5", service())), Sweep()
    assert sweep.broken(knowing.store, [listed({"web": 7}, "10")]) == "", "it may be on its way"
    why = sweep.broken(knowing.store, [listed({"web": 7}, "12")])
    assert why == "VirtualService shop/web has not come at version 7 by its watch"


def test_a_watch_that_brings_something_late_is_not_blind() -> None:
    knowing, sweep = Knowing(at("5", service())), Sweep()
    assert sweep.broken(knowing.store, [listed({"web": 7, "api": 8}, "10")]) == ""
    knowing.store.put(at("7", service()))
    assert sweep.broken(knowing.store, [listed({"web": 11}, "12")]) == "", "api is gone, web has changed once more"
    knowing.store.put(at("11", service()))
    assert sweep.broken(knowing.store, [listed({"web": 11}, "14")]) == ""


def test_an_api_server_that_was_set_back_to_a_backup_is_found() -> None:
    knowing, sweep = Knowing(at("5", service())), Sweep()
    assert sweep.broken(knowing.store, [listed({"web": 5}, "10")]) == ""
    assert "gone back from version 10 to 9" in sweep.broken(knowing.store, [listed({"web": 5}, "9")])


def test_versions_that_are_no_numbers_accuse_nobody() -> None:
    knowing, sweep = Knowing(at("a5", service())), Sweep()
    for version in ("a10", "a9", "10", "a1"):
        assert sweep.broken(knowing.store, [listed({"web": -1}, version)]) == ""


def raw(version: str, **spec: Any) -> dict[str, Any]:
    value: dict[str, Any] = msgspec.to_builtins(at(version, service()))
    return {"kind": "VirtualService", **value, "spec": value["spec"] | spec}


def test_events_are_taken_in_and_those_of_an_unknown_shape_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    knowing, relisted = Knowing(), list[bool]()
    declared = Declared(cast("Api", None), knowing.store, lambda: relisted.append(True))
    declared.take(None, raw("5"))
    assert knowing.store.version(key()) == 5
    assert relisted == [True], "an object of a list: others may be gone"
    declared.take("MODIFIED", raw("7", scheduler="round-robin"))
    assert "VirtualService shop/web cannot be read and is passed over" in caplog.text
    assert knowing.store.version(key()) == 7, "it has come"
    assert knowing.store.snapshot.service(("shop", "web")) is not None, "and is planned as it was"  # type: ignore[arg-type]
    declared.take("DELETED", raw("6"))
    assert knowing.store.version(key()) == 7, "late news of one that was made anew"
    declared.take("DELETED", raw("8"))
    assert knowing.store.version(key()) is None
    assert relisted == [True]


GOOD = {"metadata": {"name": "x", "annotations": {"ipvs.dev/schema-revision": str(crds.REVISION)}}}
ESTABLISHED = {"status": {"conditions": [{"type": "Established", "status": "True"}]}}
DEFINITIONS: list[tuple[dict[str, Any] | None, str]] = [
    (GOOD | ESTABLISHED, ""),
    (GOOD | ESTABLISHED | {"metadata": {"name": "x", "annotations": {crds.REVISION_ANNOTATION: "999"}}}, ""),
    (None, "is not there: kubectl apply"),
    (GOOD, "is not established yet"),
    (GOOD | {"status": {"conditions": None}}, "is not established yet"),
    (GOOD | {"status": {"conditions": [{"type": "Established", "status": "False"}]}}, "is not established yet"),
    (ESTABLISHED | {"metadata": {"name": "x"}}, "is not set, wanted is"),
    (ESTABLISHED | {"metadata": {"name": "x", "annotations": {crds.REVISION_ANNOTATION: "0"}}}, "is 0, wanted is"),
    (ESTABLISHED | {"metadata": {"name": "x", "annotations": {crds.REVISION_ANNOTATION: "new"}}}, "is new, wanted is"),
    (GOOD | ESTABLISHED | {"metadata": GOOD["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, "deleted"),
]


@pytest.mark.parametrize(("definition", "words"), DEFINITIONS)
def test_a_definition_is_judged_in_words_that_name_it_and_the_remedy(
    definition: dict[str, Any] | None, words: str
) -> None:
    there = msgspec.convert(definition, crds.Definition) if definition is not None else None
    said = crds.judge("ipvsnodes.ipvs.dev", there)
    assert words in said
    assert bool(said) == bool(words)
    assert not said or said.startswith("CustomResourceDefinition ipvsnodes.ipvs.dev is ")
    assert not said or "kubectl " in said
