"""Services of type LoadBalancer, as their users see them."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.apiserver.operators import RunningOperator, operating
from tests.apiserver.world import SETTLE_SECONDS, Object, World

from ipvs_kube.resources import EVENTS, SERVICES, VIRTUAL_SERVICES
from ipvs_lab.net.waiting import await_condition

CLASS = "ipvs.dev/default"


@pytest.fixture
def balanced(shop: World) -> Iterator[World]:
    """A director, a worker, a group, and pods for Service web; Services go before the rest does."""
    furnish(shop)
    yield shop
    for service in shop.all(SERVICES, shop.namespace):
        shop.delete(SERVICES, service["metadata"]["name"])
    await_condition(lambda: not owned(shop), SETTLE_SECONDS, "what Services owned is gone")


def furnish(world: World) -> None:
    world.node("director", "10.0.0.1", director=True)
    world.node("worker", "10.0.0.2", pods="10.1.1.0/24")
    world.group()
    world.endpoints({"10.1.1.5": "worker"})


def balancer(world: World, name: str = "web", annotations: dict[str, str] | None = None, **spec: Any) -> Object:
    """Apply a Service that asks for a load balancer. Annotations without their prefix."""
    said = {f"ipvs.dev/{key}": text for key, text in (annotations or {}).items()}
    value = {
        "metadata": {"annotations": said, "labels": {"app": name}},
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": CLASS,
            "allocateLoadBalancerNodePorts": False,
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        }
        | spec,
    }
    return world.put(SERVICES, name, value)


def owned(world: World) -> list[Object]:
    """VirtualServices that a Service controls."""
    found = world.all(VIRTUAL_SERVICES, world.namespace)
    return [
        each for each in found if any(own["kind"] == "Service" for own in each["metadata"].get("ownerReferences", []))
    ]


def status(world: World, name: str = "web") -> Object:
    found = world.get(SERVICES, name)
    return found["status"] if found is not None else {}


def ingress(world: World, name: str = "web") -> list[Object]:
    found: list[Object] = status(world, name)["loadBalancer"].get("ingress", [])
    return found


def condition(world: World, kind: str, name: str = "web") -> Object:
    conditions = status(world, name).get("conditions", [])
    return next((each for each in conditions if each["type"] == f"ipvs.dev/{kind}"), {})


def await_balancer(world: World, *addresses: str, name: str = "web") -> None:
    """Until the Service tells these addresses (any, where none is named) and is ready."""

    def look() -> list[str]:
        assert condition(world, "Ready", name).get("status") == "True", status(world, name)
        told = [each["ip"] for each in ingress(world, name)]
        assert told == list(addresses) if addresses else told, told
        return told

    await_condition(look, SETTLE_SECONDS, f"Service {name} is balanced")


def says(world: World, kind: str, value: str, reason: str, name: str = "web") -> Object:
    def look() -> Object:
        found = condition(world, kind, name)
        assert (found.get("status"), found.get("reason")) == (value, reason), found
        return found

    return await_condition(look, SETTLE_SECONDS, f"Service {name}: {kind}={value} {reason}")


def virtual_service(world: World, name: str = "web") -> Object:
    found = world.get(VIRTUAL_SERVICES, name)
    assert found is not None
    return found


def test_a_service_gets_an_address_once_all_nodes_have_it(balanced: World) -> None:
    service = balancer(balanced)
    await_balancer(balanced)
    assert ingress(balanced) == [{"ip": balanced.address(), "ipMode": "Proxy"}]
    assert f" {balanced.address()} " in balanced.kubectl("get", "service", "web")
    meta = virtual_service(balanced)["metadata"]
    assert meta["labels"] == {"app.kubernetes.io/managed-by": "ipvs-operator"}
    assert "annotations" not in meta
    assert meta["ownerReferences"] == [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "name": "web",
            "uid": service["metadata"]["uid"],
            "controller": True,
        }
    ]
    assert condition(balanced, "Accepted")["reason"] == "Accepted"
    told = [(kind, reason) for kind, reason, _ in events(balanced)]
    assert told == [("Normal", "Accepted"), ("Normal", "Programmed")]


def events(world: World, name: str = "web") -> list[tuple[str, str, str]]:
    """Events on a Service."""
    found = [each for each in world.all(EVENTS, world.namespace) if each["regarding"]["kind"] == "Service"]
    found.sort(key=lambda each: int(each["metadata"]["resourceVersion"]))
    return [(each["type"], each["reason"], each["note"]) for each in found if each["regarding"]["name"] == name]


def test_all_that_a_service_says_is_in_its_virtual_service(balanced: World) -> None:
    balancer(
        balanced,
        annotations={"forwarding": "DR", "scheduler": "sh", "scheduler-flags": "Port", "drain-timeout-seconds": "5"},
        loadBalancerIP="192.0.2.15",
        loadBalancerSourceRanges=["203.0.113.0/24"],
        sessionAffinity="ClientIP",
    )
    await_balancer(balanced, "192.0.2.15")
    (plan,) = balanced.plans("web")
    spec = plan["spec"]
    assert [each["address"] for each in spec["addresses"]] == ["192.0.2.15"]
    assert (spec["forwarding"], spec["scheduler"], spec["schedulerFlags"]) == ("DR", "sh", ["Port"])
    assert spec["persistence"]["timeoutSeconds"] == 10_800
    assert spec["allowedSources"] == ["203.0.113.0/24"]
    assert spec["drainTimeoutSeconds"] == 5


def test_a_change_of_the_service_is_followed(balanced: World) -> None:
    balancer(balanced, annotations={"scheduler": "rr"}, sessionAffinity="ClientIP", loadBalancerIP="192.0.2.15")
    await_balancer(balanced, "192.0.2.15")
    assert "persistence" in virtual_service(balanced)["spec"]
    balancer(balanced, ports=[{"name": "http", "port": 443}], loadBalancerIP="192.0.2.16", sessionAffinity="None")
    await_balancer(balanced, "192.0.2.16")
    spec = virtual_service(balanced)["spec"]
    assert "persistence" not in spec
    assert spec["scheduler"] == "wlc"
    assert [(port["name"], port["port"]) for port in spec["ports"]] == [("http", 443)]


def test_a_wrong_annotation_is_told_and_leaves_what_is_programmed(balanced: World) -> None:
    balancer(balanced, annotations={"scheduler": "rr"})
    await_balancer(balanced)
    before = ingress(balanced), virtual_service(balanced)["spec"], balanced.plans("web")[0]["spec"]
    balancer(balanced, annotations={"scheduler": "rrr"})
    found = says(balanced, "Accepted", "False", "AnnotationInvalid")
    words = "metadata.annotations[ipvs.dev/scheduler]: found 'rrr', wanted rr, wrr, lc, "
    assert found["message"].startswith(words)
    assert found["message"].endswith("; did you mean rr?")
    assert condition(balanced, "Ready")["message"] == "What was accepted before stays as it is."
    assert (ingress(balanced), virtual_service(balanced)["spec"], balanced.plans("web")[0]["spec"]) == before
    told = await_condition(lambda: [each for each in events(balanced) if each[0] == "Warning"], what="an event")
    assert told[0][1:] == ("AnnotationInvalid", found["message"])
    balancer(balanced, annotations={"scheduler": "wrr"})
    says(balanced, "Accepted", "True", "Accepted")
    await_balancer(balanced)


def test_a_service_that_is_refused_from_the_start_gets_nothing(balanced: World) -> None:
    balancer(balanced, annotations={"colour": "red"})
    says(balanced, "Ready", "False", "AnnotationInvalid")
    assert ingress(balanced) == []
    assert owned(balanced) == []


def test_what_a_group_says_is_told_on_the_service(balanced: World) -> None:
    balancer(balanced, loadBalancerClass="ipvs.dev/other")
    found = says(balanced, "Accepted", "False", "GroupNotFound")
    assert found["message"].startswith("VirtualService web: spec.directorGroup: found 'other'")
    balanced.group("other", addresses=["192.0.2.40-192.0.2.41"])
    await_balancer(balanced, "192.0.2.40")
    balanced.group("other", addresses=["192.0.2.42-192.0.2.43"])
    says(balanced, "Accepted", "False", "AddressOutsideGroup")
    await_condition(lambda: ingress(balanced) == [], SETTLE_SECONDS, "its address is told no more")
    assert owned(balanced) != []


def test_somebody_elses_virtual_service_is_left_alone(balanced: World) -> None:
    made = balanced.virtual_service("web", ["10.0.0.2"])
    balanced.wait_ready()
    balancer(balanced)
    found = says(balanced, "Accepted", "False", "VirtualServiceExists")
    assert f"VirtualService {balanced.namespace}/web is there already" in found["message"]
    assert virtual_service(balanced)["metadata"]["generation"] == made["metadata"]["generation"]
    assert owned(balanced) == []
    balanced.delete(VIRTUAL_SERVICES, "web")
    await_balancer(balanced)
    assert len(owned(balanced)) == 1


def test_a_virtual_service_that_somebody_wants_to_go_with_a_service_is_theirs(balanced: World) -> None:
    service = balanced.service()
    reference = {"apiVersion": "v1", "kind": "Service", "name": "web", "controller": True}
    reference["uid"] = service["metadata"]["uid"]
    value = virtual_service_of(reference)
    balanced.put(VIRTUAL_SERVICES, "web", value)
    balanced.wait_ready()
    balanced.kubectl("annotate", "service", "web", "touched=yes")
    balanced.kubectl("annotate", "ivs", "web", "touched=yes")
    balancer(balanced, "later")
    balanced.endpoints({"10.1.1.5": "worker"}, "later")
    await_balancer(balanced, name="later")
    assert virtual_service(balanced)["metadata"]["annotations"] == {"touched": "yes"}
    balanced.delete(VIRTUAL_SERVICES, "web")


def virtual_service_of(reference: Object) -> Object:
    spec = {
        "directorGroup": "default",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        "backends": {"service": {"name": "web"}},
    }
    return {"metadata": {"ownerReferences": [reference]}, "spec": spec}


def test_everything_goes_with_the_service(balanced: World) -> None:
    balancer(balanced)
    await_balancer(balanced)
    balanced.delete(SERVICES, "web")
    await_condition(lambda: balanced.get(VIRTUAL_SERVICES, "web") is None, SETTLE_SECONDS, "it is gone")
    await_condition(balanced.settled, SETTLE_SECONDS, "no plan and no claim is left")


def test_a_service_that_wants_no_load_balancer_any_more(balanced: World) -> None:
    balancer(balanced)
    await_balancer(balanced)
    other = {"type": "Foreign", "status": "True", "reason": "Foreign", "lastTransitionTime": "2026-01-01T00:00:00Z"}
    add = [{"op": "add", "path": "/status/conditions/-", "value": other | {"message": ""}}]
    balanced.kubectl("patch", "service", "web", "--subresource=status", "--type=json", f"--patch={json.dumps(add)}")
    nothing = {"type": "ClusterIP", "loadBalancerClass": None, "allocateLoadBalancerNodePorts": None}
    balanced.kubectl("patch", "service", "web", f"--patch={json.dumps({'spec': nothing})}")
    await_condition(lambda: balanced.get(VIRTUAL_SERVICES, "web") is None, SETTLE_SECONDS, "it is gone")

    def cleared() -> bool:
        return [each["type"] for each in status(balanced)["conditions"]] == ["Foreign"] and not ingress(balanced)

    await_condition(cleared, SETTLE_SECONDS, "what was ours of its status is gone")


def test_a_service_made_anew_gets_a_virtual_service_of_its_own(balanced: World) -> None:
    balancer(balanced)
    await_balancer(balanced)
    first = virtual_service(balanced)
    balanced.kubectl("replace", "--force", "--filename=-", stdin=json.dumps(manifest(balanced)))
    await_condition(
        lambda: (
            (found := balanced.get(VIRTUAL_SERVICES, "web")) and found["metadata"]["uid"] != first["metadata"]["uid"]
        ),
        SETTLE_SECONDS,
        "another one",
    )
    await_balancer(balanced)
    owner = virtual_service(balanced)["metadata"]["ownerReferences"][0]
    service = balanced.get(SERVICES, "web")
    assert service is not None
    assert owner["uid"] == service["metadata"]["uid"]


def manifest(world: World) -> Object:
    spec = {"type": "LoadBalancer", "loadBalancerClass": CLASS, "ports": [{"name": "http", "port": 80}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": spec}


def test_another_class_is_another_group_once_the_first_has_let_go(balanced: World) -> None:
    balanced.group("other", addresses=["192.0.2.40-192.0.2.41"])
    balancer(balanced)
    await_balancer(balanced)
    first = ingress(balanced)[0]["ip"]
    balanced.agents.lag("director")
    nothing = {"type": "ClusterIP", "loadBalancerClass": None, "allocateLoadBalancerNodePorts": None}
    balanced.kubectl("patch", "service", "web", f"--patch={json.dumps({'spec': nothing})}")
    balancer(balanced, loadBalancerClass="ipvs.dev/other")
    await_condition(lambda: balanced.get(VIRTUAL_SERVICES, "web") is None, SETTLE_SECONDS, "the first one is gone")
    assert first in balanced.claims()
    assert ingress(balanced) == []
    balanced.agents.recover("director")
    await_balancer(balanced, "192.0.2.40")


def test_what_somebody_changes_in_the_virtual_service_is_put_right(balanced: World) -> None:
    balancer(balanced)
    await_balancer(balanced)
    balanced.kubectl("patch", "ivs", "web", "--type=merge", '--patch={"spec": {"scheduler": "rr", "onePacket": false}}')
    await_condition(lambda: virtual_service(balanced)["spec"]["scheduler"] == "wlc", SETTLE_SECONDS, "wlc again")
    balanced.delete(VIRTUAL_SERVICES, "web")
    await_condition(lambda: owned(balanced), SETTLE_SECONDS, "there is one again")
    await_balancer(balanced)


def test_what_is_right_is_not_written_again(balanced: World) -> None:
    balancer(balanced)
    await_balancer(balanced)
    balanced.wait_ready()
    before = virtual_service(balanced)["metadata"]["resourceVersion"], balanced.versions()
    balanced.kubectl("label", "service", "web", "seen=yes")
    version = balanced.get(SERVICES, "web")
    balancer(balanced, "other")
    balanced.endpoints({"10.1.1.6": "worker"}, "other")
    await_balancer(balanced, name="other")
    assert balanced.get(SERVICES, "web") == version
    assert virtual_service(balanced)["metadata"]["resourceVersion"] == before[0]


def test_a_namespace_that_is_being_deleted_is_no_fault(shop: World, operator: RunningOperator) -> None:
    furnish(shop)
    balancer(shop)
    await_balancer(shop)
    shop.kubectl("delete", "namespace", shop.namespace, "--wait=false")
    shop.delete(VIRTUAL_SERVICES, "web")
    await_condition(lambda: "is being terminated" in operator.log(), SETTLE_SECONDS, "it was tried to make another")
    shop.delete(SERVICES, "web")
    await_condition(shop.settled, SETTLE_SECONDS, "no plan and no claim is left")
    assert " ERROR " not in operator.log()


def test_what_changed_while_no_operator_ran_is_found_by_the_next(world: World) -> None:
    furnish(world)
    with operating(world.plane, world.system) as operator:
        for name in ("leaves", "turns", "stays"):
            balancer(world, name)
            world.endpoints({"10.1.1.5": "worker"}, name)
            await_balancer(world, name=name)
        stays = world.get(SERVICES, "stays")
        operator.kill()
        world.delete(SERVICES, "leaves")
        nothing = {"type": "ClusterIP", "loadBalancerClass": None, "allocateLoadBalancerNodePorts": None}
        world.kubectl("patch", "service", "turns", f"--patch={json.dumps({'spec': nothing})}")
        operator.start()
        await_condition(
            lambda: [each["metadata"]["name"] for each in owned(world)] == ["stays"], SETTLE_SECONDS, "only one is left"
        )
        await_condition(lambda: "conditions" not in status(world, "turns"), SETTLE_SECONDS, "its status is cleared")
        await_condition(lambda: len(world.claims()) == 1, SETTLE_SECONDS, "two addresses are free")
        assert world.get(SERVICES, "stays") == stays
