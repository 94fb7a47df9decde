"""From what people declare to what nodes are told, and from what nodes report to a status that tells the truth."""

from dataclasses import dataclass

from tests.apiserver.operators import RunningOperator, operating
from tests.apiserver.world import Object, World

from ipvs_kube.resources import DIRECTOR_GROUPS, IPVS_NODES, NODES, VIRTUAL_SERVICES
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.net.waiting import await_condition

MANIFESTS = """
apiVersion: ipvs.dev/v1alpha1
kind: DirectorGroup
metadata: {name: default}
spec:
  nodeSelector: {matchLabels: {ipvs.dev/director: "true"}}
  addresses: [192.0.2.10-192.0.2.19]
  announcement: {static: {}}
---
apiVersion: ipvs.dev/v1alpha1
kind: VirtualService
metadata: {name: web}
spec:
  directorGroup: default
  forwarding: DR
  ports:
  - {name: http, port: 80}
  backends: {service: {name: web}}
"""

WRITTEN_FOR_ONE = ("VirtualService", "VirtualServicePlan", "IPVSAddress")


@dataclass
class Row:
    """A line of ``kubectl get``, by its headings."""

    cells: dict[str, str]

    @classmethod
    def of(cls, shown: str) -> "Row":
        heading, row = shown.strip().splitlines()
        starts = [heading.index(word) for word in heading.split()]
        ends = [*starts[1:], None]
        return cls(
            {heading[a:b].strip(): row[a:b].strip() for a, b in zip(starts, ends, strict=True)},
        )


def test_what_kubectl_applies_is_told_to_nodes_and_ready_when_they_have_it(shop: World) -> None:
    shop.three_nodes()
    shop.kubectl("apply", "--filename=-", stdin=MANIFESTS)
    shop.kubectl("wait", "ivs/web", "--for=condition=Ready", "--timeout=15s")
    shop.wait_ready()
    row = Row.of(shop.kubectl("get", "ivs", "web")).cells
    assert list(row) == ["NAME", "VIP", "FORWARDING", "SCHEDULER", "HEALTHY", "NODES", "READY", "AGE"]
    del row["AGE"]
    assert list(row.values()) == ["web", "192.0.2.10", "DR", "wlc", "6/6", "3/3", "True"]
    assert shop.status()["addresses"] == [{"address": "192.0.2.10", "director": "director"}]
    assert shop.claims() == {"192.0.2.10": ["web"]}
    (plan,) = shop.plans("web")
    assert plan["metadata"]["name"] == f"{shop.namespace}.web.0"
    backends = {each["node"]: [server["address"] for server in each["servers"]] for each in plan["spec"]["backends"]}
    assert backends == {
        "director": ["10.1.0.5", "10.1.0.6"],
        "worker-1": ["10.1.1.5", "10.1.1.6"],
        "worker-2": ["10.1.2.5", "10.1.2.6"],
    }
    assert all(each["directed"] for each in plan["spec"]["backends"])
    assert {label for label in plan["metadata"]["labels"] if label.startswith("node.ipvs.dev/")} == {
        "node.ipvs.dev/director",
        "node.ipvs.dev/worker-1",
        "node.ipvs.dev/worker-2",
    }
    shown = shop.kubectl("describe", "ivs", "web")
    assert "It is in the kernels of all nodes that have a part in it." in shown


def test_each_node_has_an_object_of_its_own_that_goes_with_it(shop: World) -> None:
    shop.three_nodes()
    shop.group()
    await_condition(lambda: len(shop.all(IPVS_NODES)) == 3)
    for name, directs in (("director", True), ("worker-1", False)):
        node = shop.get(NODES, name)
        assert node is not None

        def told(name: str = name, directs: bool = directs) -> bool:
            groups = (shop.get(IPVS_NODES, name) or {}).get("spec", {}).get("groups", [])
            return bool(
                [each for each in groups if each["name"] == "default" and each.get("director", False) is directs]
            )

        await_condition(told, what=f"{name} knows the group")
        mine = shop.get(IPVS_NODES, name)
        assert mine is not None
        (group,) = mine["spec"]["groups"]
        assert group["addresses"] == ["192.0.2.10-192.0.2.19"]
        (owner,) = mine["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["uid"]) == ("Node", name, node["metadata"]["uid"])


def test_a_group_tells_its_directors_and_what_is_used(shop: World) -> None:
    shop.three_nodes()
    shop.group()
    shop.virtual_service()
    shop.wait_ready()

    await_condition(lambda: shop.used() == 1, what="the group's status")
    stored = shop.get(DIRECTOR_GROUPS, "default")
    assert stored is not None
    assert stored["status"]["directors"] == ["director"]
    assert stored["status"]["addresses"] == {"total": 10, "used": 1}
    row = Row.of(shop.kubectl("get", "directorgroup", "default")).cells
    assert (row["ADDRESSES"], row["USED"], row["READY"]) == ("10", "1", "True")


def test_turns_are_told_in_events_once(shop: World) -> None:
    shop.three_nodes()
    shop.virtual_service()
    shop.says("Accepted", "False", "GroupNotFound")
    shop.group()
    shop.wait_ready()
    reasons = ["GroupNotFound", "Accepted", "Programmed"]
    await_condition(lambda: set(reasons) <= {reason for _, reason, _ in shop.events()}, what="events")
    told = [(kind, reason) for kind, reason, _ in shop.events()]
    assert sorted(told) == [("Normal", "Accepted"), ("Normal", "Programmed"), ("Warning", "GroupNotFound")]
    assert "default" in next(note for _, reason, note in shop.events() if reason == "GroupNotFound")


def test_nothing_is_written_while_nothing_changes(shop: World) -> None:
    shop.three_nodes()
    shop.group()
    shop.virtual_service()
    shop.wait_ready()
    await_condition(lambda: shop.used() == 1, what="the group's status")
    before = shop.versions()
    for number in range(5):  # heartbeats of a kubelet, and labels that concern nobody
        shop.api.merge(
            NODES,
            "",
            "worker-1",
            {"metadata": {"annotations": {"heartbeat": str(number)}, "labels": {"disk": f"{number}"}}},
            "kubelet",
        )
        shop.virtual_service()  # GitOps applies the same again and again
        shop.endpoints({"10.1.0.9": "director"}, service="other", name="other-1", port=number + 1)
    shop.virtual_service("later")
    shop.service("later")
    shop.endpoints({"10.1.0.7": "director"}, service="later")
    shop.wait_ready("later")
    after = shop.versions()
    unrelated = {key: version for key, version in before.items() if key[0] in WRITTEN_FOR_ONE}
    assert len(unrelated) == 3
    assert {key: after[key] for key in unrelated} == unrelated


def test_another_managers_apply_is_no_conflict_and_keeps_what_is_its_own(shop: World) -> None:
    shop.three_nodes()
    shop.group()
    shop.virtual_service()
    shop.wait_ready()
    stored = shop.get(VIRTUAL_SERVICES, "web")
    assert stored is not None
    managers = {each["manager"]: each.get("subresource", "") for each in stored["metadata"]["managedFields"]}
    assert managers == {"tests": "", "ipvs-operator-status": "status"}
    shop.kubectl("apply", "--server-side", "--field-manager=gitops", "--filename=-", stdin=MANIFESTS)
    shop.virtual_service(scheduler="rr", forwarding="DR")
    shop.wait_ready()
    assert shop.plans("web")[0]["spec"]["scheduler"] in ("rr", "wrr")


def test_what_is_taken_back_is_taken_back_on_the_nodes(shop: World) -> None:
    shop.three_nodes()
    shop.group(kernel={"timeouts": {"tcpSeconds": 600}})
    shop.virtual_service(forwarding="TUN", tunnel={"type": "GUE", "port": 6080}, persistence={"timeoutSeconds": 60})
    shop.wait_ready()

    def told() -> tuple[Object, Object, Object | None]:
        (plan,) = shop.plans("web")
        node = shop.get(IPVS_NODES, "director") or {"spec": {}}
        return (
            node["spec"].get("kernel", {}).get("timeouts", {}),
            plan["spec"]["tunnel"],
            plan["spec"].get("persistence"),
        )

    timeouts, tunnel, persistence = told()
    assert (timeouts["tcpSeconds"], tunnel["port"]) == (600, 6080)
    assert persistence is not None
    shop.group()
    shop.virtual_service(forwarding="TUN")

    def taken_back() -> bool:
        assert told() == ({}, {"type": "IPIP"}, None)
        return True

    await_condition(taken_back, what="all of it is taken back")
    shop.endpoints({})
    shop.says("Ready", "False", "NoRealServers")
    shop.endpoints({"10.1.1.5": "worker-1"})
    shop.wait_ready()


# around the operator


def test_it_says_how_it_is(operator: RunningOperator) -> None:
    assert operator.ask("/healthz") == (200, "ok\n")
    assert operator.ask("/livez") == (200, "ok\n")
    assert operator.ask("/readyz") == (200, "ok\n")
    assert operator.ask("/elsewhere")[0] == 404


def test_nothing_looks_ready_before_the_operators_first_visit(world: World) -> None:
    world.three_nodes()
    world.group()
    world.virtual_service()
    first = world.condition("Ready")
    assert (first["status"], first["reason"]) == ("Unknown", "Pending")
    with operating(world.plane, world.system):
        world.wait_ready()


def test_it_waits_for_the_definitions_and_says_what_to_do(world: World, definitions: ControlPlane) -> None:
    remedy = "kubectl apply --server-side -f crds/"
    nodes, files = "ipvsnodes.ipvs.dev", "--filename=crds"
    definitions.kubectl("delete", "crd", nodes)
    try:
        with operating(world.plane, world.system, ready=False) as operator:
            await_condition(lambda: operator.ask("/readyz")[0] == 503)
            absent = (503, f"CustomResourceDefinition {nodes} is not there: {remedy}\n")
            await_condition(lambda: operator.ask("/readyz") == absent, what="the remedy is named")
            assert operator.ask("/healthz") == (200, "ok\n")
            definitions.kubectl("apply", "--server-side", files)
            operator.await_ready()
            world.three_nodes()
            world.group()
            world.virtual_service()
            world.wait_ready()
    finally:
        definitions.kubectl("apply", "--server-side", files)


def test_definitions_of_another_version_are_named(world: World, definitions: ControlPlane) -> None:
    name = "virtualserviceplans.ipvs.dev"
    definitions.kubectl("annotate", "crd", name, "ipvs.dev/schema-revision=0", "--overwrite")
    try:
        with operating(world.plane, world.system, ready=False) as operator:
            await_condition(lambda: f"{name} is of another version" in operator.ask("/readyz")[1])
    finally:
        definitions.kubectl("apply", "--server-side", "--force-conflicts", "--filename=crds")
