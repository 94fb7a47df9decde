"""Operators that die at any moment, that sleep, that are two: no step of theirs is lost, and none is done twice."""

import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import unified_diff
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.apiserver.operators import operating
from tests.apiserver.world import Object, World

from ipvs_api.plan import VirtualServicePlan, VirtualServicePlanSpec
from ipvs_kube.api import connect
from ipvs_kube.errors import ApiError
from ipvs_kube.reflector import Change, Gone, Put, Reflector, Replaced
from ipvs_kube.resources import IPVS_ADDRESSES, IPVS_NODES, LEASES, PLANS, VIRTUAL_SERVICES
from ipvs_lab.net.waiting import await_condition

KUBELET = str(Path(__file__).with_name("kubelet.py"))


def without(value: Any, *names: str) -> Any:
    """A value without some fields, wherever they are."""
    if isinstance(value, dict):
        return {key: without(part, *names) for key, part in value.items() if key not in names}
    return [without(part, *names) for part in value] if isinstance(value, list) else value


def outcome(world: World) -> Object:
    """All that was written, but for times and what the API server makes up."""
    plans = {plan["metadata"]["name"]: (plan["metadata"]["labels"], plan["spec"]) for plan in world.plans()}
    status = world.status()
    status["conditions"] = sorted(status.get("conditions", []), key=lambda each: str(each["type"]))
    found = {
        "plans": plans,
        "claims": {each["metadata"]["name"]: each["spec"] for each in world.all(IPVS_ADDRESSES)},
        "nodes": {each["metadata"]["name"]: each["spec"] for each in world.all(IPVS_NODES)},
        "status": status,
    }
    return without(json.loads(json.dumps(found)), "uid", "lastTransitionTime")  # type: ignore[no-any-return]


def difference(one: Object, other: Object) -> str:
    before, after = (json.dumps(each, indent=1, sort_keys=True).splitlines() for each in (one, other))
    return "\n".join(unified_diff(before, after, lineterm="", n=8))


def life(world: World) -> Iterator[Object]:
    """What is there after each chapter of a VirtualService's life."""
    world.three_nodes()
    world.group()
    world.virtual_service(forwarding="DR")
    world.wait_ready()
    yield outcome(world)
    world.endpoints({"10.1.0.5": "director", "10.1.1.7": "worker-1"})
    await_condition(lambda: world.status()["nodes"].get("desired") == 2, what="worker-2 has no part any more")
    world.virtual_service(forwarding="TUN", tunnel={"type": "GUE", "port": 6080}, addressCount=2)
    await_condition(lambda: len(world.claims()) == 2, what="a second address")
    world.wait_ready()
    yield outcome(world)
    world.virtual_service()
    await_condition(lambda: len(world.claims()) == 1, what="one address is enough")
    world.wait_ready()
    yield outcome(world)
    world.delete(VIRTUAL_SERVICES, "web")
    await_condition(world.settled, what="all is cleared away")
    yield outcome(world)


def test_killed_after_every_write_it_comes_to_the_same_end(world: World) -> None:
    with operating(world.plane, world.system):
        undisturbed = list(life(world))
        world.dissolve()
    with operating(world.plane, world.system, program=(KUBELET, "--mortal"), ready=False) as operator:
        killed = list(life(world))
        deaths = [line for line in operator.log().splitlines() if line.startswith("killed after")]
        for chapter, (found, expected) in enumerate(zip(killed, undisturbed, strict=True)):
            if difference(expected, found):
                pytest.fail(f"chapter {chapter}:\n{difference(expected, found)}")
        # What cannot be left out: three nodes and a claim, a plan without and with traffic, a status; a plan without
        # worker-2; an address, a plan to prepare and one to send, a status; a plan, an address given back, a status; a
        # plan withdrawn and deleted, its address given back.
        assert len(deaths) >= 18
        for what in ("ipvsnodes", "ipvsaddresses", "virtualserviceplans", "ipvsvirtualservices/web/status"):
            assert any(what in line for line in deaths), f"never killed after a write of {what}"


def test_a_new_start_writes_nothing_where_all_is_right(world: World) -> None:
    with operating(world.plane, world.system) as operator:
        world.three_nodes()
        world.group()
        for name in ("web", "other"):
            world.virtual_service(name, servers=["10.1.0.5", "10.1.1.5"], forwarding="DR")
            world.wait_ready(name)
        await_condition(lambda: world.used() == 2, what="the group's status")
        operator.kill()
        before = world.versions()
        operator.start()
        for name in ("later", "last"):  # by then all that was there has been looked at
            world.virtual_service(name, directorGroup="nobody")
            world.says("Accepted", "False", "GroupNotFound", name=name)
        after = world.versions()
        assert {key: after[key] for key in before} == before


def test_endpoints_that_come_and_go_while_no_operator_runs_are_caught_up_with(world: World) -> None:
    with operating(world.plane, world.system) as operator:
        world.three_nodes()
        world.group()
        world.virtual_service(forwarding="DR")
        world.wait_ready()
        before = world.plans("web")
        operator.kill()
        for number in range(20):
            world.endpoints({f"10.1.1.{number + 10}": "worker-1", f"10.1.2.{number + 10}": "worker-2"})
            world.endpoints({f"10.1.0.{number + 10}": "director"}, name=f"web-{number % 3 + 2}")
        assert world.plans("web") == before, "nodes hold what they have"
        operator.start()

        def served() -> list[str]:
            backends = world.plans("web")[0]["spec"]["backends"]
            return sorted(server["address"] for each in backends for server in each["servers"] if each["directed"])

        wanted = ["10.1.0.27", "10.1.0.28", "10.1.0.29", "10.1.1.29", "10.1.2.29"]
        await_condition(lambda: served() == wanted, what=f"{wanted} are served")
        world.wait_ready()


class History:
    """Every plan that ever was stored, while this watches."""

    def __init__(self, world: World) -> None:
        self._api = connect(world.plane.kubeconfig(), user_agent="history")
        decode = msgspec.json.Decoder(VirtualServicePlan).decode
        self._reflector = Reflector(self._api, PLANS, decode, self._take, namespace=world.system)
        self._there: dict[str, VirtualServicePlan] = {}
        self.specs: defaultdict[str, list[VirtualServicePlanSpec]] = defaultdict(list)
        self.given_twice: list[str] = []

    def _take(self, changes: list[Change]) -> None:
        for change in changes:
            for plan in change.objects if isinstance(change, Replaced) else ():
                self._put(plan)
            if isinstance(change, Put):
                self._put(change.object)
            elif isinstance(change, Gone):
                self._there.pop(change.name, None)

    def _put(self, plan: VirtualServicePlan) -> None:
        self._there[plan.metadata.name] = plan
        self.specs[plan.metadata.name].append(plan.spec)
        mine = {each.address for each in plan.spec.addresses}
        for name, other in self._there.items():
            shared = mine & {each.address for each in other.spec.addresses}
            if name != plan.metadata.name and shared:
                self.given_twice.append(f"{shared}: {name}, {plan.metadata.name}")

    def flapped(self) -> list[str]:
        """Plans that came back to what they had been before."""
        found = []
        for name, specs in self.specs.items():
            turns = specs[:1] + [after for before, after in pairwise(specs) if after != before]
            if len(turns) != len({msgspec.json.encode(spec) for spec in turns}):
                found.append(name)
        return found

    def __enter__(self) -> "History":
        self._reflector.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._reflector.stop()
        self._reflector.join(5)
        self._api.close()


def busy_shop(world: World, count: int) -> list[str]:
    """Virtual services that come one after the other, every third to stay only for a moment; the names of the rest."""
    world.node("director", "10.0.0.1", pods="10.1.0.0/24", director=True)
    world.node("worker", "10.0.0.2", pods="10.1.1.0/24")
    world.group(addresses=["192.0.2.0/24"])
    stay = []
    for number in range(count):
        name = f"web-{number:02}"
        world.virtual_service(name, servers=["10.1.0.5", "10.1.1.5"], forwarding="DR" if number % 2 else "NAT")
        stay.append(name)
        if number % 3 == 2:
            world.delete(VIRTUAL_SERVICES, stay.pop(0))
    return stay


def addresses_of(world: World) -> dict[str, str]:
    return {name: address for address, owners in world.claims().items() for name in owners}


@contextmanager
def handing_over(world: World, every: float) -> Iterator[None]:
    """Take the lease away from whoever has it, again and again."""
    ended = threading.Event()

    def take_away() -> None:
        while not ended.wait(every):
            with suppress(ApiError):  # there is none yet
                world.api.merge(LEASES, world.system, "ipvs-operator", {"spec": {"holderIdentity": ""}}, "tests")

    thread = threading.Thread(target=take_away)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def turns_of(world: World) -> int:
    lease = world.get(LEASES, "ipvs-operator", world.system)
    return int(lease["spec"].get("leaseTransitions", 0)) if lease is not None else 0


def test_no_address_is_given_twice_and_no_plan_flaps_while_the_lease_changes_hands(world: World) -> None:
    """Sixty changes, one a second where the machine keeps up; each begins with a whole reconciliation of all there is.
    Both look at the lease ten times as often as in earnest, or it would not change hands each second."""
    hasty = (KUBELET, "--hasty")
    with (
        History(world) as history,
        operating(world.plane, world.system, name="one", elects=True, program=hasty),
        operating(world.plane, world.system, name="two", elects=True, program=hasty),
    ):
        with handing_over(world, every=1.0):
            stay = busy_shop(world, 18)
            await_condition(lambda: turns_of(world) >= 30, 200, "the lease changes hands")
            world.wait_ready(*stay)
            settled = {plan["metadata"]["name"]: plan["metadata"]["resourceVersion"] for plan in world.plans()}
            await_condition(lambda: turns_of(world) >= 60, 200, "the lease changes hands")
        after = {plan["metadata"]["name"]: plan["metadata"]["resourceVersion"] for plan in world.plans()}
        assert {name: after[name] for name in after} == {name: settled[name] for name in after}
        addresses = addresses_of(world)
        assert {name: world.address(name) for name in stay} == {name: addresses[name] for name in stay}
        assert history.given_twice == []
        assert history.flapped() == []


def test_two_that_both_think_they_lead_give_no_address_twice(world: World) -> None:
    with (
        History(world) as history,
        operating(world.plane, world.system, name="one"),
        operating(world.plane, world.system, name="two"),
    ):
        stay = busy_shop(world, 12)
        world.wait_ready(*stay)
        assert len({world.address(name) for name in stay}) == len(stay)
        assert history.given_twice == []


def test_another_takes_over_within_seconds_of_a_stop_and_twenty_of_a_kill(world: World) -> None:
    world.node("director", "10.0.0.1", pods="10.1.0.0/24", director=True)
    world.group()

    def seconds_until_served(name: str) -> float:
        began = time.monotonic()
        world.virtual_service(name, servers=["10.1.0.5"])
        await_condition(lambda: world.condition("Ready", name).get("status") == "True", 30, f"{name} is served")
        return time.monotonic() - began

    with operating(world.plane, world.system, name="one", elects=True) as one:
        await_condition(lambda: "one_" in one.log() and "works now" in one.log(), what="one leads")
        with operating(world.plane, world.system, name="two", elects=True) as two:
            assert seconds_until_served("web-1") < 5
            assert "works now" not in two.log()
            assert one.terminate() == 0
            assert seconds_until_served("web-2") < 5
            one.start()
            two.kill()
            assert seconds_until_served("web-3") < 20


def test_one_that_slept_while_another_took_over_ends_without_a_write(world: World) -> None:
    hasty = (KUBELET, "--hasty")
    world.node("director", "10.0.0.1", pods="10.1.0.0/24", director=True)
    world.group()
    with operating(world.plane, world.system, name="one", elects=True, program=hasty) as one:
        await_condition(lambda: "works now" in one.log(), what="one leads")
        with operating(world.plane, world.system, name="two", elects=True, program=hasty) as two:
            one.freeze()
            await_condition(lambda: "works now" in two.log(), what="two has taken over")
            world.virtual_service(servers=["10.1.0.5"])
            world.wait_ready()
            before = len(one.log())
            versions = world.versions()
            one.thaw()
            await_condition(lambda: "ended: 1" in one.log()[before:], what="one ends")
            assert world.versions() == versions
            assert " for VirtualService" not in one.log()
