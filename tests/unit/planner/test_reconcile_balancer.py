"""What a Service of type LoadBalancer is told as its VirtualService fares, and what becomes of both."""

from typing import Any

import msgspec
import pytest

from ipvs_api.core import Service
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualService
from ipvs_planner.index import Key
from ipvs_planner.reconcile_balancer import balancers, reconcile_balancer
from ipvs_planner.snapshot import Snapshot
from ipvs_planner.writes import Reconciliation, Verb, Write

WEB = Key("shop", "web")
NOON, LATER = "2026-01-01T12:00:00Z", "2026-01-01T13:00:00Z"


class Cluster:
    """A Service and what the operator makes of it: writes are stored as an API server would."""

    def __init__(self, **spec: Any) -> None:
        self.snapshot = Snapshot(plan_namespace="system", allocates=True)
        self.service: dict[str, Any] = {
            "metadata": {"name": "web", "namespace": "shop", "uid": "service-1"},
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerClass": "ipvs.dev/edge",
                "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
            }
            | spec,
            "status": {},
        }
        self.put_service()

    def put_service(self, **metadata: Any) -> None:
        self.service["metadata"] |= metadata
        self.snapshot.put(msgspec.convert(self.service, Service))

    def annotate(self, **annotations: str) -> None:
        self.put_service(annotations={f"ipvs.dev/{name}": text for name, text in annotations.items()})

    def put_virtual_service(self, value: dict[str, Any]) -> None:
        self.snapshot.put(msgspec.convert({"metadata": {}} | value, VirtualService))

    def reconcile(self, now: str = NOON) -> Reconciliation:
        """Carry out the writes, too."""
        result = reconcile_balancer(self.snapshot, WEB, now)
        for write in result.writes:
            self._store(write)
        return result

    def _store(self, write: Write) -> None:
        if write.kind == "Service":
            self.service["status"] = msgspec.to_builtins(write.status)
            self.put_service()
        elif write.verb is Verb.DELETE:
            self.snapshot.remove("VirtualService", "shop", "web")
        else:
            self.made = msgspec.structs.replace(write.metadata, uid="virtual-1", generation=1)
            assert write.spec is not None
            self.spec = write.spec
            self.reported()

    def reported(self, ready: str = "Unknown", accepted: str = "True", reason: str = "Pending", *vips: str) -> None:
        """The VirtualService's status, of its current generation; without a status where there are no VIPs."""
        said = [
            {"type": kind, "status": status, "reason": why, "message": f"{kind} of it."}
            for kind, status, why in (
                ("Accepted", accepted, "Accepted" if accepted == "True" else reason),
                ("Ready", ready, reason),
            )
        ]
        status = {"observedGeneration": 1, "conditions": said, "addresses": [{"address": vip} for vip in vips]}
        value = VirtualService(self.made, self.spec)  # type: ignore[arg-type]
        if vips:
            value = msgspec.convert(msgspec.to_builtins(value) | {"status": status}, VirtualService)
        self.snapshot.put(value)

    def ready(self) -> None:
        """As most are most of the time."""
        assert [str(write) for write in self.reconcile().writes] == ["Apply VirtualService shop/web"]
        self.reported("True", "True", "Programmed", "192.0.2.10")
        self.reconcile()
        assert self.ingress == ["192.0.2.10"]

    @property
    def ingress(self) -> list[str]:
        found = self.service["status"].get("loadBalancer", {}).get("ingress", [])
        assert all(each["ipMode"] == "Proxy" for each in found)
        return [each["ip"] for each in found]

    def condition(self, kind: str) -> dict[str, Any]:
        conditions = self.service["status"].get("conditions", [])
        return next((each for each in conditions if each["type"] == f"ipvs.dev/{kind}"), {})


def words(result: Reconciliation) -> list[str]:
    return [str(write) for write in result.writes]


def test_nothing_is_told_before_the_virtual_service_has_been_looked_at() -> None:
    cluster = Cluster()
    assert words(cluster.reconcile()) == ["Apply VirtualService shop/web"]
    assert words(cluster.reconcile()) == []
    assert cluster.service["status"] == {}


def test_addresses_are_told_once_it_is_ready() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.reported("Unknown", "True", "Pending", "192.0.2.10")
    cluster.reconcile()
    assert (cluster.condition("Ready")["status"], cluster.ingress) == ("Unknown", [])
    cluster.reported("True", "True", "Programmed", "192.0.2.10")
    cluster.reconcile()
    assert (cluster.condition("Ready")["status"], cluster.ingress) == ("True", ["192.0.2.10"])
    assert words(cluster.reconcile()) == []


@pytest.mark.parametrize(
    ("ready", "accepted", "reason", "kept"),
    [
        ("Unknown", "True", "NodeNotReady", True),
        ("False", "True", "Lagging", True),
        ("False", "True", "NoRealServers", True),
        ("False", "False", "AddressesExhausted", True),
        ("False", "False", "NamespaceNotAllowed", False),
        ("False", "False", "AddressConflict", False),
        ("False", "False", "GroupNotFound", False),
    ],
)
def test_addresses_stay_as_long_as_they_are_programmed(ready: str, accepted: str, reason: str, kept: bool) -> None:
    cluster = Cluster()
    cluster.ready()
    cluster.reported(ready, accepted, reason, "192.0.2.10")
    cluster.reconcile()
    assert cluster.ingress == (["192.0.2.10"] if kept else [])
    assert (cluster.condition("Ready")["status"], cluster.condition("Ready")["reason"]) == (ready, reason)


def test_addresses_that_change_are_followed() -> None:
    cluster = Cluster()
    cluster.ready()
    cluster.reported("Unknown", "True", "Pending", "192.0.2.11", "2001:db8::1")
    cluster.reconcile()
    assert cluster.ingress == ["192.0.2.11", "2001:db8::1"]


def test_a_condition_keeps_its_time_while_its_status_is_the_same() -> None:
    cluster = Cluster()
    cluster.ready()
    cluster.reported("False", "True", "NoRealServers", "192.0.2.10")
    cluster.reconcile(LATER)
    assert cluster.condition("Accepted")["lastTransitionTime"] == NOON
    assert cluster.condition("Ready")["lastTransitionTime"] == LATER


def test_events_tell_what_has_turned_and_nothing_else() -> None:
    cluster = Cluster()
    cluster.reconcile()
    cluster.reported("True", "True", "Programmed", "192.0.2.10")
    told = cluster.reconcile().events
    assert [(event.kind, event.uid, event.warning, event.reason) for event in told] == [
        ("Service", "service-1", False, "Accepted"),
        ("Service", "service-1", False, "Programmed"),
    ]
    cluster.annotate(scheduler="wr")
    (only,) = cluster.reconcile().events
    assert (only.warning, only.reason) == (True, "AnnotationInvalid")
    assert "did you mean wrr?" in only.message
    cluster.annotate(scheduler="wrrr")
    assert cluster.reconcile().events == ()


def test_a_refused_service_keeps_what_it_has() -> None:
    cluster = Cluster()
    cluster.ready()
    cluster.annotate(colour="red")
    assert words(cluster.reconcile()) == ["Status Service shop/web"]
    assert cluster.ingress == ["192.0.2.10"]
    cluster.annotate()
    assert words(cluster.reconcile()) == ["Status Service shop/web"]
    assert cluster.condition("Accepted")["status"] == "True"


def test_notes_stand_before_what_the_virtual_service_says() -> None:
    cluster = Cluster(externalTrafficPolicy="Local")
    cluster.ready()
    note, rest = cluster.condition("Accepted")["message"].split("\n")
    assert note.startswith("spec.externalTrafficPolicy: Local asks for the client's address")
    assert rest == "Accepted of it."


def test_what_the_service_does_not_control_is_left_alone() -> None:
    cluster = Cluster()
    spec = {"directorGroup": "edge", "ports": [], "backends": {"service": {"name": "web"}}}
    owners = [
        {"kind": "Service", "name": "other", "uid": "service-1", "apiVersion": "v1", "controller": True},
        {"kind": "Service", "name": "web", "uid": "service-1", "apiVersion": "v1"},
        {"kind": "Service", "name": "web", "uid": "service-0", "apiVersion": "v1", "controller": True},
        {
            "kind": "Service",
            "name": "web",
            "uid": "service-1",
            "apiVersion": "serving.knative.dev/v1",
            "controller": True,
        },
    ]
    for owner in owners:
        meta = {"name": "web", "namespace": "shop", "uid": "virtual-0", "ownerReferences": [owner]}
        cluster.put_virtual_service({"metadata": meta, "spec": spec | {"ports": [{"name": "http", "port": 80}]}})
        assert {write.kind for write in cluster.reconcile().writes} <= {"Service"}, owner
        assert cluster.condition("Accepted")["reason"] == "VirtualServiceExists"


@pytest.mark.parametrize("how", ["gone", "another type", "another class", "terminating"])
def test_the_virtual_service_goes_when_nobody_wants_it(how: str) -> None:
    cluster = Cluster()
    cluster.ready()
    if how == "gone":
        cluster.snapshot.remove("Service", "shop", "web")
    elif how == "another type":
        cluster.service["spec"]["type"] = "ClusterIP"
        cluster.put_service()
    elif how == "another class":
        cluster.service["spec"]["loadBalancerClass"] = "example.com/other"
        cluster.put_service()
    else:
        cluster.put_service(deletionTimestamp=NOON)
    assert balancers(cluster.snapshot) == {WEB}
    result = cluster.reconcile()
    deletion = result.writes[0]
    assert (deletion.verb, deletion.kind, deletion.metadata.uid) == (Verb.DELETE, "VirtualService", "virtual-1")
    assert words(result)[1:] == ([] if how == "gone" else ["Status Service shop/web"])
    assert cluster.reconcile().writes == ()


def test_a_service_of_another_uid_gets_another_virtual_service() -> None:
    cluster = Cluster()
    cluster.ready()
    cluster.service["status"] = {}
    cluster.put_service(uid="service-2")
    assert words(cluster.reconcile()) == ["Delete VirtualService shop/web"]
    assert words(cluster.reconcile()) == ["Apply VirtualService shop/web"]
    assert [owner.uid for owner in cluster.made.owner_references] == ["service-2"]


def test_another_group_is_another_virtual_service() -> None:
    cluster = Cluster()
    cluster.ready()
    cluster.service["spec"]["loadBalancerClass"] = "ipvs.dev/other"
    cluster.put_service()
    assert words(cluster.reconcile()) == ["Delete VirtualService shop/web"]
    assert words(cluster.reconcile()) == ["Status Service shop/web", "Apply VirtualService shop/web"]
    assert (cluster.ingress, cluster.condition("Ready")["status"]) == ([], "Unknown")


def test_a_virtual_service_for_another_group_waits_until_the_first_has_gone() -> None:
    cluster = Cluster(loadBalancerClass="ipvs.dev/other")
    spec = {
        "virtualService": {"namespace": "shop", "name": "web", "uid": "virtual-0"},
        "directorGroup": "edge",
        "addresses": [{"address": "192.0.2.10"}],
        "ports": [{"name": "http", "protocol": "TCP", "port": 80}],
        "forwarding": "NAT",
        "scheduler": "wlc",
        "directors": [{"node": "lb1", "addresses": ["10.0.0.1"]}],
        "backends": [],
    }
    meta = {"name": "shop.web.0", "namespace": "system", "uid": "plan-1", "resourceVersion": "7"}
    cluster.snapshot.put(msgspec.convert({"metadata": meta, "spec": spec}, VirtualServicePlan))
    assert words(cluster.reconcile()) == ["Status Service shop/web"]
    waiting = "It waits until the nodes have let go of what it had of DirectorGroup edge."
    assert (cluster.condition("Ready")["status"], cluster.condition("Ready")["message"]) == ("Unknown", waiting)
    assert words(cluster.reconcile()) == []
    cluster.snapshot.remove("VirtualServicePlan", "system", "shop.web.0")
    assert words(cluster.reconcile()) == ["Apply VirtualService shop/web"]
