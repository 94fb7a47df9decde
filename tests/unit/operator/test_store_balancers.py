"""Which news have a Service's load balancer looked at again."""

from typing import Any

import msgspec
import pytest

from ipvs_api.core import Service
from ipvs_api.meta import ObjectKey
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualService
from ipvs_operator.items import Item, Work
from ipvs_operator.store import Store

BALANCER = Item(Work.BALANCER, "shop", "web")
OWNER = {"apiVersion": "v1", "kind": "Service", "name": "web", "uid": "service-1", "controller": True}


class Marks:
    """A store, and what it has marked since the last look."""

    def __init__(self) -> None:
        self.marked: list[Item] = []
        self.store = Store("system", self._mark, judges_pods=False)
        self._version = 0

    def _mark(self, item: Item, *, bulk: bool = False) -> None:
        self.marked.append(item)

    def put(self, kind: Any, value: dict[str, Any], **metadata: Any) -> bool:
        """Whether the load balancer was marked."""
        self._version += 1
        meta = {"name": "web", "namespace": "shop", "uid": "1", "resourceVersion": str(self._version)} | metadata
        self.marked.clear()
        self.store.put(msgspec.convert({"metadata": meta} | value, kind))
        return BALANCER in self.marked

    def service(self, status: dict[str, Any] | None = None, type_: str = "LoadBalancer", **metadata: Any) -> bool:
        balancer = {"loadBalancerClass": "ipvs.dev/edge"} if type_ == "LoadBalancer" else {}
        spec = {"type": type_, "ports": [{"name": "http", "port": 80}], **balancer}
        return self.put(Service, {"spec": spec, "status": status or {}}, **{"uid": "service-1"} | metadata)

    def virtual_service(self, status: dict[str, Any] | None = None, **metadata: Any) -> bool:
        spec = {
            "directorGroup": "edge",
            "ports": [{"name": "http", "port": 80}],
            "backends": {"service": {"name": "web"}},
        }
        return self.put(VirtualService, {"spec": spec} | ({"status": status} if status else {}), **metadata)


def test_a_service_that_asks_for_no_load_balancer_marks_none() -> None:
    marks = Marks()
    assert not marks.service(type_="ClusterIP")
    assert not marks.virtual_service()
    assert not marks.virtual_service({"observedGeneration": 1})


def test_news_of_the_service_count_where_they_are_news_to_a_load_balancer() -> None:
    marks = Marks()
    assert marks.service()
    assert not marks.service(labels={"seen": "yes"}, annotations={"kubectl.kubernetes.io/restartedAt": "now"})
    assert marks.service(annotations={"ipvs.dev/scheduler": "rr"})
    assert marks.service({"conditions": [{"type": "ipvs.dev/Ready", "status": "True"}]})
    assert marks.service({"conditions": [{"type": "ipvs.dev/Ready", "status": "True"}]}, type_="ClusterIP")
    assert marks.service(type_="ClusterIP")
    assert not marks.service(type_="ClusterIP", labels={"seen": "yes"})


def test_every_word_on_its_virtual_service_counts() -> None:
    marks = Marks()
    marks.service()
    assert marks.virtual_service(ownerReferences=[OWNER])
    assert not marks.virtual_service(ownerReferences=[OWNER], labels={"seen": "yes"})
    assert marks.virtual_service({"observedGeneration": 1}, ownerReferences=[OWNER])
    marks.marked.clear()
    marks.store.remove(ObjectKey("VirtualService", "shop", "web"))
    assert BALANCER in marks.marked


def test_what_is_left_of_an_earlier_virtual_service_is_waited_for() -> None:
    marks = Marks()
    marks.service()
    spec = {
        "virtualService": {"namespace": "shop", "name": "web", "uid": "virtual-0"},
        "directorGroup": "other",
        "addresses": [{"address": "192.0.2.10"}],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        "forwarding": "NAT",
        "scheduler": "wlc",
        "directors": [{"node": "lb1", "addresses": ["10.0.0.1"]}],
        "backends": [],
    }
    marks.put(VirtualServicePlan, {"spec": spec}, name="shop.web.0", namespace="system")
    marks.marked.clear()
    marks.store.remove(ObjectKey("VirtualServicePlan", "system", "shop.web.0"))
    assert BALANCER in marks.marked


@pytest.mark.parametrize("left", ["both", "the virtual service", "a status"])
def test_everything_has_what_is_there_and_what_is_left(left: str) -> None:
    marks = Marks()
    if left == "both":
        marks.service()
    if left == "a status":
        marks.service({"conditions": [{"type": "ipvs.dev/Ready", "status": "True"}]}, type_="ClusterIP")
    else:
        marks.virtual_service(ownerReferences=[OWNER])
    assert list(marks.store.everything()).count(BALANCER) == 1
