"""Plan slices from JSON, and what is kept of them: nothing that cannot be read takes anything away."""

import json
from typing import Any

import msgspec
import pytest

from ipvs_agent.sources.gathered import Gathered, Slice, decode_slice, unread_slice
from ipvs_api.labels import plan_name
from ipvs_api.meta import ObjectMeta
from ipvs_api.plan import Owner, VirtualServicePlan, VirtualServicePlanSpec

from .plans import hosts, plan


def encoded(spec: VirtualServicePlanSpec, version: int = 1) -> dict[str, Any]:
    owner = spec.virtual_service
    meta = ObjectMeta(plan_name(owner.namespace, owner.name, spec.slice), resource_version=str(version))
    made: dict[str, Any] = msgspec.to_builtins(VirtualServicePlan(meta, spec))
    return made


def decoded(value: dict[str, Any]) -> Slice:
    return decode_slice(json.dumps(value).encode())


def put(gathered: Gathered, spec: VirtualServicePlanSpec, version: int) -> set[str]:
    return gathered.put(decoded(encoded(spec, version)))


def part(number: int, slices: int, last: int, **more: Any) -> VirtualServicePlanSpec:
    return plan(slice=number, slices=slices, backends=hosts(last), **more)


def addresses(found: VirtualServicePlanSpec | None) -> list[str]:
    assert found is not None
    return sorted(server.address for each in found.backends for server in each.servers)


def test_a_plan_is_read_as_it_is_written() -> None:
    assert decoded(encoded(plan(), 7)) == Slice(
        ObjectMeta("default.web.0", resource_version="7"), "default/web", plan()
    )


def test_a_field_that_a_newer_operator_adds_is_no_obstacle() -> None:
    value = encoded(plan())
    value["spec"]["newer"] = {"than": "this"}
    assert decoded(value).spec == plan()


def test_a_plan_that_needs_a_feature_is_read_and_left_to_the_host_to_refuse() -> None:
    assert decoded(encoded(plan(requires=("v1", "v9")))).spec == plan(requires=("v1", "v9"))


UNREADABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a new forwarding method": ({"forwarding": "Teleport"}, "Invalid enum value 'Teleport'"),
    "another type": ({"ports": "all"}, "Expected `array`, got `str`"),
    "another type, and a feature": (
        {"ports": "all", "requires": ["v1", "v9"]},
        "it needs v9, which this agent does not know; upgrade the agent on this node",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_plan_that_cannot_be_read_is_known_by_its_virtual_service_and_says_why(name: str) -> None:
    fields, words = UNREADABLE[name]
    value = encoded(plan(virtual_service=Owner("shop", "web")))
    value["spec"] |= fields
    found = decoded(value)
    assert (found.owner, found.spec) == ("shop/web", None)
    assert words in found.problem
    assert "upgrade the agent on this node" in found.problem


def test_a_plan_whose_head_cannot_be_read_is_known_by_its_name() -> None:
    value = encoded(plan(virtual_service=Owner("shop", "web.v2")))
    value["spec"] = {"everything": "else"}
    assert decoded(value).owner == "shop/web.v2"


@pytest.mark.parametrize("name", ["web", "web.x", "shop.web.01", plan_name("shop", "w" * 253, 0)])
def test_a_name_that_does_not_say_whose_it_is_is_nobodys(name: str) -> None:
    assert unread_slice(name, "1", "no").owner == ""


def test_what_has_no_name_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_slice(b'{"metadata": {}, "spec": {}}')


def test_the_same_version_again_is_no_change() -> None:
    gathered = Gathered()
    assert put(gathered, plan(), 5) == {"default/web"}
    assert put(gathered, plan(), 5) == set()
    assert put(gathered, plan(), 6) == {"default/web"}


def test_a_plan_of_one_slice_is_given_once_for_every_change() -> None:
    gathered = Gathered()
    put(gathered, plan(), 5)
    assert gathered.plan("default/web") == plan()
    assert gathered.plan("default/web") is None
    put(gathered, plan(drain_timeout_seconds=1), 6)
    assert gathered.plan("default/web") == plan(drain_timeout_seconds=1)


def test_a_plan_of_several_slices_is_given_whole_for_a_change_of_one() -> None:
    gathered = Gathered()
    put(gathered, part(0, 2, 21), 5)
    put(gathered, part(1, 2, 22), 6)
    assert addresses(gathered.plan("default/web")) == ["192.0.2.21", "192.0.2.22"]
    put(gathered, part(1, 2, 23), 7)
    assert addresses(gathered.plan("default/web")) == ["192.0.2.21", "192.0.2.23"]
    assert gathered.is_cut("default/web")


def test_a_plan_that_grows_waits_for_the_slice_that_was_alone() -> None:
    gathered = Gathered()
    put(gathered, part(0, 1, 21), 5)
    gathered.plan("default/web")
    put(gathered, part(1, 2, 22), 6)
    assert gathered.plan("default/web") is None
    put(gathered, part(0, 2, 21), 7)
    assert addresses(gathered.plan("default/web")) == ["192.0.2.21", "192.0.2.22"]


@pytest.mark.parametrize("removed_first", [True, False])
def test_a_plan_that_shrinks_to_one_slice_is_that_one(removed_first: bool) -> None:
    gathered = Gathered()
    put(gathered, part(0, 2, 21), 5)
    put(gathered, part(1, 2, 22), 6)
    if removed_first:
        assert gathered.remove("default.web.1") == {"default/web"}
    put(gathered, part(0, 1, 21), 7)
    if not removed_first:
        assert gathered.remove("default.web.1") == {"default/web"}
    assert addresses(gathered.plan("default/web")) == ["192.0.2.21"]


def test_a_plan_is_gone_with_its_last_slice() -> None:
    gathered = Gathered()
    put(gathered, part(0, 2, 21), 5)
    put(gathered, part(1, 2, 22), 6)
    gathered.remove("default.web.0")
    assert "default/web" in gathered
    gathered.remove("default.web.1")
    assert "default/web" not in gathered
    assert gathered.remove("default.web.1") == set()


def test_what_a_list_does_not_have_is_gone() -> None:
    gathered = Gathered()
    for name in ("a", "b", "c"):
        put(gathered, plan(virtual_service=Owner("shop", name)), 5)
    assert gathered.retain(["shop.b.0", "shop.new.0"]) == {"shop/a", "shop/c"}
    assert "shop/b" in gathered


def test_a_slice_that_cannot_be_read_any_more_is_still_there_and_says_why() -> None:
    gathered = Gathered()
    put(gathered, plan(), 5)
    gathered.plan("default/web")
    assert gathered.put(unread_slice("default.web.0", "6", "too new")) == {"default/web"}
    assert "default/web" in gathered
    assert gathered.problem("default/web") == "default.web.0: too new"
    put(gathered, plan(), 7)
    assert gathered.problem("default/web") == ""
    assert gathered.plan("default/web") == plan()


def test_a_slice_that_turns_out_to_be_somebodys_changes_both() -> None:
    gathered = Gathered()
    name = plan_name("shop", "w" * 253, 0)
    assert gathered.put(unread_slice(name, "5", "too new")) == {""}
    spec = plan(virtual_service=Owner("shop", "w" * 253))
    assert gathered.put(Slice(ObjectMeta(name, resource_version="6"), f"shop/{'w' * 253}", spec)) == {
        "",
        f"shop/{'w' * 253}",
    }
    assert "" not in gathered
