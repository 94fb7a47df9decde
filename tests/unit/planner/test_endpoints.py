"""From a Service's EndpointSlices to real servers: who serves, on which port, and what is told of the rest."""

from collections.abc import Iterable
from itertools import permutations, product

import pytest

from ipvs_api.core import EndpointSlice, Service
from ipvs_api.plan import PLAN_SERVERS, SLICE_SERVERS
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled
from ipvs_planner.snapshot import Declared, Snapshot

from .backed import core, fronting, note, served, slice_
from .worlds import BASE, WEB, compiled, node, notes, reasons

READY = "10.1.3.5@rs2"
YOUNG, OLD = "2026-02-01T00:00:00Z", "2026-01-01T00:00:00Z"
DUAL = ("192.0.2.10", "2001:db8::10")


def planned(
    *slices: EndpointSlice, service: Service | None = None, ports: Iterable[str] = ("80",), **spec: object
) -> Compiled:
    return compiled(*BASE, service or core(), *slices, fronting(ports=ports, **spec))  # type: ignore[arg-type]


CONDITIONS = list(product(("nil", "yes", "no"), repeat=3))


@pytest.mark.parametrize(("ready", "serving", "terminating"), CONDITIONS)
def test_who_is_ready_serves_and_who_is_terminating_only_where_nobody_is(
    ready: str, serving: str, terminating: str
) -> None:
    """As ``k8s.io/api/discovery/v1`` says what nil means: ready and serving true, terminating false."""
    said = f"10.1.2.5@rs1 {ready} {serving} {terminating}"
    alone, beside = planned(slice_(endpoints=[said])), planned(slice_(endpoints=[said, READY]))
    going = ready == "no" and terminating == "yes"
    last_resort = going and serving != "no"
    assert ("10.1.2.5" in served(alone)) == (ready != "no" or last_resort)
    assert ("10.1.2.5" in served(beside)) == (ready != "no")
    assert notes(beside) == set()
    assert notes(alone) == ({"TerminatingServes"} if last_resort else set())
    assert alone.servers.total == (0 if going and not last_resort else 1), "what is still to serve is counted"
    assert beside.servers.total == (1 if going else 2)
    assert beside.servers.healthy == (2 if ready != "no" else 1)


def test_terminating_endpoints_take_over_for_each_port_and_family_alone() -> None:
    """The new version serves http only; https is served by the old one, which is going."""
    new = slice_("web-new", ["10.1.2.5@rs1"], ["http:8080"])
    old = slice_("web-old", ["10.1.3.5@rs2 no yes yes"], ["http:8080", "https:8443"])
    result = planned(new, old, service=core(["http:80", "https:443"]), ports=["80", "443"])
    assert served(result) == {"10.1.2.5": (8080, 0), "10.1.3.5": (0, 8443)}
    assert "port 443: 1 that are terminating" in note(result, "TerminatingServes")
    six = slice_("web-6", ["fd00::5@rs1 no yes yes"], family="IPv6")
    both = compiled(*BASE, core(families=["IPv4", "IPv6"]), new, six, fronting(vips=DUAL))
    assert served(both) == {"10.1.2.5": (8080,), "fd00::5": (8080,)}
    assert "No IPv6 endpoint is ready" in note(both, "TerminatingServes")


def test_the_youngest_of_slices_that_differ_about_an_address_is_believed() -> None:
    young = slice_("web-a", ["10.1.2.5@rs1"], ["http:8080"], created=YOUNG)
    old = slice_("web-b", ["10.1.2.5@rs2"], ["http:9090"], created=OLD)
    for order in permutations((young, old)):
        result = planned(*order)
        assert served(result) == {"10.1.2.5": (8080,)}
        assert result.plans[0].spec.backends[0].node == "rs1"
        assert result.servers == (1, 1)


def test_an_address_that_is_going_in_one_slice_and_ready_in_another_is_ready() -> None:
    """As kube-proxy merges duplicates: a pod moves between slices, and the old entry goes a moment later."""
    young = slice_("web-a", ["10.1.2.5@rs1 no yes yes"], created=YOUNG)
    old = slice_("web-b", ["10.1.2.5@rs1"], created=OLD)
    for order in permutations((young, old)):
        assert served(planned(*order)) == {"10.1.2.5": (8080,)}
        assert notes(planned(*order)) == set()


def test_several_slices_are_one_service_and_slices_of_others_are_not() -> None:
    mine = [slice_(f"web-{number}", [f"10.1.2.{number}@rs1"]) for number in range(1, 4)]
    others = [
        slice_("other", ["10.1.2.50@rs1"], of="other"),
        slice_("else", ["10.1.2.51@rs1"], namespace="zoo"),
        slice_("nobody", ["10.1.2.52@rs1"], of=""),
    ]
    assert served(planned(*mine, *others)).keys() == {"10.1.2.1", "10.1.2.2", "10.1.2.3"}


def test_each_address_of_the_virtual_service_is_served_by_its_own_family() -> None:
    four, six = slice_("web-4", ["10.1.2.5@rs1"]), slice_("web-6", ["fd00::5@rs1"], family="IPv6")
    dual = core(families=["IPv4", "IPv6"])
    assert served(planned(four, six, service=dual)) == {"10.1.2.5": (8080,)}
    assert served(planned(four, six, service=dual, vips=["2001:db8::10"])) == {"fd00::5": (8080,)}
    assert served(planned(four, six, service=dual, vips=DUAL)) == {"10.1.2.5": (8080,), "fd00::5": (8080,)}
    single = planned(four, vips=DUAL)
    assert served(single) == {"10.1.2.5": (8080,)}
    assert "Nobody serves 2001:db8::10: Service web is IPv4 only" in note(single, "MixedFamilies")


PORTS: list[tuple[str, list[str], list[str], int | None, bool]] = [
    # the virtual service's, the Service's, the slice's → the real server's; which are not found
    ("80", ["http:80"], ["http:8080"], 8080, False),
    ("8000=http", ["http:80"], ["http:8080"], 8080, False),
    ("8000=80", ["http:80"], ["http:8080"], 8080, False),
    ("80", ["80"], ["8080"], 8080, False),
    ("80", ["http:80", "metrics:9100"], ["metrics:9100", "http:8080"], 8080, False),
    ("8000=metrics", ["http:80", "metrics:9100"], ["metrics:9101", "http:8080"], 9101, False),
    ("53/UDP", ["dns:53/UDP", "dns-tcp:53"], ["dns:5353/UDP", "dns-tcp:5354"], 5353, False),
    ("53", ["dns:53/UDP", "dns-tcp:53"], ["dns:5353/UDP", "dns-tcp:5354"], 5354, False),
    ("53=dns", ["dns:53/UDP"], ["dns:5353/UDP"], None, True),  # TCP is asked for
    ("8000", ["http:80"], ["http:8080"], None, True),
    ("80=https", ["http:80"], ["http:8080"], None, True),
    ("80=80", ["80:8080"], ["http:8080"], None, True),  # "80" is that port's name, not its number
    ("80", ["http:80"], ["web:8080"], None, True),  # no pod has the Service's port
    ("80", ["http:80"], ["http:8080/UDP"], None, True),
]


@pytest.mark.parametrize(("wanted", "has", "resolved", "number", "missing"), PORTS)
def test_a_port_is_the_services_by_name_or_number_and_protocol(
    wanted: str, has: list[str], resolved: list[str], number: int | None, missing: bool
) -> None:
    result = planned(slice_(endpoints=["10.1.2.5@rs1"], ports=resolved), service=core(has), ports=[wanted])
    assert served(result) == ({"10.1.2.5": (number,)} if number else {})
    assert notes(result) == ({"ServicePortNotFound"} if missing else set())
    if missing:
        assert "spec.ports[0].servicePort: " in note(result, "ServicePortNotFound")


def test_pods_of_two_versions_listen_where_their_own_slice_says() -> None:
    old, new = slice_("web-old", ["10.1.2.5@rs1"], ["http:8080"]), slice_("web-new", ["10.1.3.5@rs2"], ["http:9090"])
    assert served(planned(old, new)) == {"10.1.2.5": (8080,), "10.1.3.5": (9090,)}


UNUSABLE = [
    # slices → what is told of them
    (slice_("web-9", ["web.example.com"], family="FQDN"), "addressType: found FQDN (web.example.com)"),
    (slice_("web-9", ["10.1.2"]), "endpoints[0].addresses[0]: found '10.1.2', not an IP address"),
    (slice_("web-9", ["fd00::9"]), "found 'fd00::9', which is not of its addressType"),
    (slice_("web-9", ["169.254.1.1"]), "found '169.254.1.1', a link-local address"),
    (slice_("web-9", ["127.0.0.1"]), "found '127.0.0.1', a loopback address"),
    (slice_("web-9", ["10.1.2.9@rs1"], ["http:"]), "ports[0]: found every port"),
    (slice_("web-9", ["10.1.2.9@rs1"], ["http:0"]), "ports[0]: found TCP port 0"),
    (slice_("web-9", ["10.1.2.9@rs1"], ["http:80/DCCP"]), "ports[0]: found DCCP port 80"),
]


@pytest.mark.parametrize(("odd", "words"), UNUSABLE)
def test_what_nobody_can_be_sent_to_is_left_out_and_told_and_the_rest_serves(odd: EndpointSlice, words: str) -> None:
    result = planned(slice_(endpoints=["10.1.2.5@rs1"]), odd)
    assert served(result) == {"10.1.2.5": (8080,)}
    assert words in note(result, "EndpointUnusable")
    assert "EndpointSlice web-9" in note(result, "EndpointUnusable")


def test_slices_without_endpoints_and_without_ports_serve_nobody() -> None:
    for empty in (slice_(endpoints=[]), slice_(ports=[]), EndpointSlice(slice_().metadata, "IPv4", None, None)):
        result = planned(empty)
        assert result.plans[0].spec.backends == ()
        assert result.plans[0].spec.addresses[0].address == "192.0.2.10"


def test_an_external_name_is_refused_and_takes_away_what_was_programmed() -> None:
    result = planned(slice_(), service=core(type="ExternalName", externalName="web.example.com"))
    assert reasons(result) == {"ServiceExternalName"}
    assert result.outcome == "Withdrawn"
    assert "web.example.com" in result.refusals[0].message


def test_without_its_service_the_address_stays_and_nobody_serves_it() -> None:
    result = compiled(*BASE, slice_(), fronting())
    assert served(result) == {}
    assert result.servers == (0, 0)
    assert "found 'web', but there is no such Service" in note(result, "ServiceNotFound")


def test_a_service_without_selector_is_served_by_slices_made_by_hand() -> None:
    """``EndpointSlice`` of a person's hand: no node, conditions nil, a machine outside; where the group allows it."""
    by_hand = slice_("web-manual", ["10.9.9.9"], [":8080"])
    result = planned(by_hand, service=core([":80"]))
    assert served(result) == {"10.9.9.9": (8080,)}
    assert "10.9.9.9 names no node; by its address it is a machine outside" in note(result, "EndpointWithoutNode")


def result_of(order: Iterable[Declared]) -> Compiled:
    """Of objects that come one after another, each of which says whom it concerns."""
    snapshot = Snapshot(trusted=True)
    result = compile_virtual_service(snapshot, WEB)
    for each in order:
        concerned = snapshot.put(each)
        now = compile_virtual_service(snapshot, WEB)
        assert now == result or WEB in concerned
        result = now
    return result


def test_the_order_in_which_everything_appears_does_not_matter() -> None:
    pods = node("rs1", "10.0.0.11", pods=["10.1.2.0/24"])
    things = (fronting(), core(), slice_(endpoints=["10.1.2.5@rs1"]), pods, BASE[0])
    first, *others = [result_of((BASE[1], *order)) for order in permutations(things)]
    assert served(first) == {"10.1.2.5": (8080,)}
    assert all(other == first for other in others)


def test_of_more_endpoints_than_a_plan_holds_the_first_by_address_serve() -> None:
    addresses = [f"10.1.{high}.{low}" for high in range(2, 42) for low in range(256)]
    slices = [
        slice_(f"web-{start}", addresses[start : start + 1000], ["http:8080"])
        for start in range(0, len(addresses), 1000)
    ]
    result = planned(*reversed(slices))
    assert served(result).keys() == set(addresses[:PLAN_SERVERS])
    assert len(result.plans) == PLAN_SERVERS / SLICE_SERVERS
    assert "Service web has 10240 endpoints that serve" in note(result, "TooManyServers")
    assert result.servers == (10240, PLAN_SERVERS)


def test_a_slice_that_changes_its_service_changes_both() -> None:
    snapshot = Snapshot(trusted=True)
    for each in (*BASE, core(), core(name="api"), fronting(), fronting("api", "api", vips=["192.0.2.11"]), slice_()):
        snapshot.put(each)
    assert {key.name for key in snapshot.put(slice_(of="api"))} == {"web", "api"}
    assert served(compile_virtual_service(snapshot, WEB)) == {}
    assert {key.name for key in snapshot.remove("EndpointSlice", "shop", "web-1")} == {"api"}
