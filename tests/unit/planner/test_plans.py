"""What an accepted VirtualService becomes."""

import msgspec
import pytest

from ipvs_api.labels import node_label
from ipvs_api.plan import PLAN_SERVERS, SLICE_SERVERS
from ipvs_api.virtualservice import Persistence, Scheduler, SchedulerFlag, VirtualService
from ipvs_planner.compiled import Compiled, Outcome, accepted_condition

from .worlds import BASE, WEB, compiled, group, node, notes, plan, reasons, roles, service, unchecked

ROLES = [
    # real server, forwarding → role and node
    ("10.0.0.11", "NAT", "Host rs1"),
    ("10.0.0.11", "DR", "Host rs1"),
    ("10.0.0.11", "TUN", "Host rs1"),
    ("10.1.2.7", "NAT", "SecondHop rs1"),
    ("10.1.2.7", "DR", "SecondHop rs1"),
    ("10.1.2.7", "TUN", "SecondHop rs1"),
    ("10.0.0.1", "NAT", "Host lb1"),
    ("10.0.0.1", "DR", "SecondHop lb1"),
    ("10.0.0.1", "TUN", "SecondHop lb1"),
    ("10.1.1.7", "DR", "SecondHop lb1"),
    ("10.9.9.9", "NAT", "Machine"),
    ("10.9.9.9", "DR", "Machine"),
]


@pytest.mark.parametrize(("address", "forwarding", "role"), ROLES)
def test_a_real_servers_role_follows_from_whose_address_it_is(address: str, forwarding: str, role: str) -> None:
    assert roles(compiled(*BASE, service(servers=[address], forwarding=forwarding))) == {address: role}


def test_the_narrowest_pod_network_decides() -> None:
    wide = node("wide", "10.0.0.21", pods=["10.1.0.0/16"])
    for world in ((*BASE, wide), (wide, *BASE)):
        assert roles(compiled(*world, service(servers=["10.1.2.7", "10.1.200.7"]))) == {
            "10.1.2.7": "SecondHop rs1",
            "10.1.200.7": "SecondHop wide",
        }


def test_of_two_nodes_with_one_address_the_first_by_name_has_it() -> None:
    twin = node("a-twin", "10.0.0.11")
    assert roles(compiled(*BASE, twin, service(servers=["10.0.0.11"]))) == {"10.0.0.11": "Host a-twin"}


def test_directors_are_told_the_addresses_of_the_node_in_front_of_a_second_hop() -> None:
    (backend,) = plan(compiled(*BASE, service(servers=["10.1.2.7"], forwarding="DR"))).spec.backends
    assert backend.addresses == ("10.0.0.11", "2001:db8:1::11")


def test_ports_are_mapped_by_nat_and_by_the_second_hop() -> None:
    for forwarding, address in (("NAT", "10.0.0.11"), ("NAT", "10.9.9.9"), ("DR", "10.1.2.7"), ("TUN", "10.0.0.1")):
        result = compiled(*BASE, service(servers=[address], ports=["80:8080", "443"], forwarding=forwarding))
        assert plan(result).spec.backends[0].servers[0].ports == (8080, 443)
        assert [entry.port for entry in plan(result).spec.ports] == [80, 443]


def test_one_real_server_that_takes_packets_itself_refuses_port_mapping_for_all() -> None:
    mixed = service(servers=["10.1.2.7", "10.0.0.12"], ports=["80:8080"], forwarding="DR")
    assert reasons(compiled(*BASE, mixed)) == {"PortMapping"}


def test_one_packet_scheduling_refuses_a_real_server_that_its_director_reaches_by_nat() -> None:
    def one_packet(address: str) -> set[str]:
        return reasons(compiled(*BASE, service(servers=[address], ports=["53/UDP"], forwarding="DR", onePacket=True)))

    assert one_packet("10.1.1.7") == one_packet("10.0.0.1") == {"OnePacketForwarding"}
    assert one_packet("10.1.2.7") == one_packet("10.0.0.11") == set()


SCHEDULERS = [
    # asked for, forwarding, real servers → planned, notes
    ("rr", "NAT", ["10.1.2.7", "10.1.2.8"], "rr", set()),
    ("rr", "DR", ["10.1.2.7", "10.1.2.8"], "wrr", {"SchedulerChanged"}),
    ("lc", "TUN", ["10.1.2.7", "10.0.0.12"], "wlc", {"SchedulerChanged"}),
    ("rr", "DR", ["10.0.0.11", "10.0.0.12"], "rr", set()),
    ("sed", "DR", ["10.1.2.7", "10.1.2.8"], "sed", set()),
    ("rr", "NAT", ["10.0.0.11*2", "10.0.0.12"], "rr", {"SchedulerIgnoresWeights"}),
    ("lc", "NAT", ["10.0.0.11*2", "10.0.0.12"], "lc", {"SchedulerIgnoresWeights"}),
    ("rr", "NAT", ["10.0.0.11*0", "10.0.0.12"], "rr", set()),
    ("rr", "DR", ["10.1.2.7*2", "10.1.2.8"], "wrr", {"SchedulerChanged"}),
    ("wlc", "NAT", ["10.0.0.11*2", "10.0.0.12"], "wlc", set()),
    ("dh", "NAT", ["10.0.0.11", "10.0.0.12"], "dh", {"OneServerPerAddress"}),
    ("lblc", "NAT", ["10.0.0.11", "10.0.0.12"], "lblc", {"OneServerPerAddress"}),
    ("lblcr", "NAT", ["10.0.0.11", "10.0.0.12"], "lblcr", {"OneServerPerAddress"}),
    ("lblcr", "NAT", ["10.0.0.11"], "lblcr", set()),
]


@pytest.mark.parametrize(("asked", "forwarding", "servers", "planned", "told"), SCHEDULERS)
def test_a_scheduler_that_ignores_weights_is_replaced_or_told(
    asked: str, forwarding: str, servers: list[str], planned: str, told: set[str]
) -> None:
    result = compiled(*BASE, service(servers=servers, forwarding=forwarding, scheduler=asked))
    assert plan(result).spec.scheduler == planned
    assert notes(result) == told


FLAGS = [
    ("wlc", {}, ()),
    ("sh", {}, (SchedulerFlag.FALLBACK,)),
    ("mh", {}, (SchedulerFlag.FALLBACK,)),
    ("mh", {"schedulerFlags": []}, ()),
    ("sh", {"schedulerFlags": ["Port", "Fallback"]}, (SchedulerFlag.FALLBACK, SchedulerFlag.PORT)),
    ("sh", {"schedulerFlags": ["Port"]}, (SchedulerFlag.PORT,)),
]


@pytest.mark.parametrize(("scheduler", "written", "flags"), FLAGS)
def test_hashing_falls_back_unless_told_otherwise(
    scheduler: str, written: dict[str, list[str]], flags: tuple[SchedulerFlag, ...]
) -> None:
    assert plan(compiled(*BASE, service(scheduler=scheduler, **written))).spec.scheduler_flags == flags


def test_what_is_written_reaches_the_plan() -> None:
    written = service(
        forwarding="TUN",
        tunnel={"type": "GUE", "port": 6080},
        persistence={"timeoutSeconds": 60, "ipv4PrefixLength": 24},
        drain={"timeoutSeconds": 5},
        backends={"static": [{"address": "10.0.0.11", "weight": 7, "maxConnections": 9, "resumeConnections": 8}]},
    )
    spec = plan(compiled(*BASE, written)).spec
    assert (spec.tunnel.type, spec.tunnel.port) == ("GUE", 6080)
    assert spec.persistence == Persistence(60, 24, 128)
    assert spec.drain_timeout_seconds == 5
    assert spec.virtual_service.generation == 1
    ((only,),) = (backend.servers for backend in spec.backends)
    assert (only.weight, only.max_connections, only.resume_connections) == (7, 9, 8)


def test_addresses_and_prefixes_are_written_one_way() -> None:
    written = service(
        vips=["2001:DB8:0:0::1"],
        servers=["2001:db8:1:0::0011"],
        allowedSources=["2001:DB8:2:0::/64", "2001:db8:2::/64", "10.0.0.0/8"],
    )
    spec = plan(compiled(*BASE, written)).spec
    assert spec.addresses[0].address == "2001:db8::1"
    assert spec.backends[0].servers[0].address == "2001:db8:1::11"
    assert spec.allowed_sources == ("10.0.0.0/8", "2001:db8:2::/64")


def test_restricted_sources_shut_out_a_family_that_they_do_not_name_and_say_so() -> None:
    both = {"vips": ["192.0.2.1", "2001:db8::1"], "servers": ["10.0.0.11", "2001:db8:1::11"]}
    result = compiled(*BASE, service(**both, allowedSources=["10.0.0.0/8"]))
    (note,) = (finding for finding in result.notes if finding.reason == "SourcesOfOneFamily")
    assert "2001:db8::1" in note.message
    assert notes(compiled(*BASE, service(**both, allowedSources=["10.0.0.0/8", "2001:db8::/32"]))) == set()
    assert notes(compiled(*BASE, service(**both))) == set()


def test_what_this_version_does_not_do_is_not_passed_over_in_silence() -> None:
    def told(**spec: object) -> set[str]:
        return {str(finding.reason) for finding in compiled(*BASE, service(**spec)).notes}

    assert told() == {"HealthNotChecked"}
    assert told(healthCheck={"type": "None"}) == set()
    assert told(fallback={"address": "10.0.0.99", "port": 80}) == {"HealthNotChecked", "FallbackNotUsed"}


DIRECTORS = (node("lb2", "10.0.0.2", "2001:db8:1::2", director=True), node("lb0", "10.0.0.9", director=True))


def test_with_static_announcement_the_first_director_by_name_holds_every_address() -> None:
    spec = plan(compiled(*BASE, *DIRECTORS, service())).spec
    assert [director.node for director in spec.directors] == ["lb0", "lb1", "lb2"]
    assert [address.holder for address in spec.addresses] == ["lb0"]


def test_without_announcement_nobody_holds_an_address() -> None:
    spec = plan(compiled(*BASE, group(announcement="none"), *DIRECTORS, service())).spec
    assert [address.holder for address in spec.addresses] == [""]


V6 = {"vips": ["2001:db8::1"], "servers": ["2001:db8:1::11"]}
GATEWAYS = [
    # group, directors beside lb1, virtual service → gateways, or the reason against it
    (group(), (), {}, ("10.0.0.1",)),
    (group(), (), V6, ("2001:db8:1::1",)),
    (group(), DIRECTORS, {}, ("10.0.0.9",)),
    (group(), DIRECTORS, V6, "GatewayRequired"),
    (group(gatewayAddresses=["10.0.0.254", "10.0.0.253"]), DIRECTORS, {}, ("10.0.0.254",)),
    (group(gatewayAddresses=["2001:db8:1::fe"]), DIRECTORS, V6, ("2001:db8:1::fe",)),
    (group(announcement="none"), (), {}, ("10.0.0.1",)),
    (group(announcement="none"), DIRECTORS, {}, "GatewayRequired"),
    (group(announcement="none", gatewayAddresses=["10.0.0.254"]), DIRECTORS, {}, ("10.0.0.254",)),
]


@pytest.mark.parametrize(("owner", "others", "spec", "expected"), GATEWAYS)
def test_real_servers_route_back_to_the_groups_floating_address_or_to_the_holders(
    owner: object, others: tuple[object, ...], spec: dict[str, object], expected: object
) -> None:
    result = compiled(*BASE, *others, owner, service(nat={"returnPath": "Gateway"}, **spec))  # type: ignore[arg-type]
    if isinstance(expected, str):
        assert reasons(result) == {expected}
    else:
        assert plan(result).spec.gateways == expected


def test_a_return_path_means_nothing_where_nothing_is_translated() -> None:
    spec = plan(compiled(*BASE, service(forwarding="DR", nat={"returnPath": "Gateway"}))).spec
    assert (spec.return_path, spec.gateways) == ("Masquerade", ())


def concerned(result: Compiled) -> list[set[str]]:
    names = {node_label(name): name for name in ("lb1", "rs1", "rs2")}
    return [{names[label] for label in each.metadata.labels} for each in result.plans]


LABELS = [
    ({"forwarding": "NAT"}, {"lb1"}),
    ({"forwarding": "NAT", "nat": {"returnPath": "Gateway"}}, {"lb1", "rs1", "rs2"}),
    ({"forwarding": "DR"}, {"lb1", "rs1", "rs2"}),
    ({"forwarding": "TUN", "nat": {"returnPath": "Gateway"}}, {"lb1", "rs1", "rs2"}),
]


@pytest.mark.parametrize(("spec", "nodes"), LABELS)
def test_a_plan_is_labelled_for_the_nodes_that_have_something_to_do(spec: dict[str, object], nodes: set[str]) -> None:
    assert concerned(compiled(*BASE, service(servers=["10.0.0.11", "10.1.3.7", "10.9.9.9"], **spec))) == [nodes]


def test_many_real_servers_come_in_slices_sorted_by_node() -> None:
    pods = [f"10.1.{net}.{host}" for net in (3, 2) for host in range(1, 251)]
    machines = [f"10.9.0.{host}" for host in range(1, 102)]
    result = compiled(*BASE, service(servers=[*pods, *machines], forwarding="DR"))
    first, second = result.plans
    assert [each.metadata.name for each in result.plans] == ["shop.web.0", "shop.web.1"]
    assert [(each.spec.slice, each.spec.slices) for each in result.plans] == [(0, 2), (1, 2)]
    assert [(backend.node, len(backend.servers)) for backend in first.spec.backends] == [
        ("", 101),
        ("rs1", 250),
        ("rs2", SLICE_SERVERS - 351),
    ]
    assert [(backend.node, len(backend.servers)) for backend in second.spec.backends] == [("rs2", 101)]
    assert concerned(result) == [{"lb1", "rs1", "rs2"}, {"lb1", "rs2"}]
    listed = [backend.servers for each in result.plans for backend in each.spec.backends]
    assert sorted(server.address for servers in listed for server in servers) == sorted([*pods, *machines])


def test_a_second_hop_without_an_address_of_the_family_is_left_out_and_named() -> None:
    only_v4 = node("rs4", "10.0.0.14", pods=["2001:db8:4::/64"])
    result = compiled(*BASE, only_v4, service(vips=V6["vips"], servers=["2001:db8:4::7", "2001:db8:1::11"]))
    assert len(roles(result)) == 2, "NAT forwards to the real server itself"
    result = compiled(
        *BASE, only_v4, service(vips=V6["vips"], servers=["2001:db8:4::7", "2001:db8:1::11"], forwarding="DR")
    )
    assert roles(result) == {"2001:db8:1::11": "Host rs1"}
    assert notes(result) == {"NodeAddressMissing"}
    result = compiled(*BASE, only_v4, service(vips=V6["vips"], servers=["2001:db8:4::7"], forwarding="DR"))
    assert reasons(result) == {"NodeAddressMissing"}


def test_a_real_server_outside_what_the_group_allows_is_the_administrators_business_only() -> None:
    assert reasons(compiled(*BASE, service(), trusted=False)) == {"StaticBackendNotAllowed"}
    allowed = group(allowedStaticBackends=["10.0.0.0/24"])
    assert reasons(compiled(*BASE, allowed, service(), trusted=False)) == set()
    assert reasons(compiled(*BASE, service(), trusted=True)) == set()


NAMESPACES = [
    ({"matchLabels": {"kubernetes.io/metadata.name": "shop"}}, ""),
    ({}, ""),
    ({"matchLabels": {"kubernetes.io/metadata.name": "zoo"}}, "kubernetes.io/metadata.name=zoo"),
    ({"matchExpressions": [{"key": "team", "operator": "DoesNotExist"}]}, "team, which is not known here"),
]


@pytest.mark.parametrize(("selector", "words"), NAMESPACES)
def test_namespaces_are_known_by_name_only_and_what_cannot_be_known_is_refused(
    selector: dict[str, object], words: str
) -> None:
    admits = group(allowedStaticBackends=["10.0.0.0/24"], allowedNamespaces={"from": "Selector", "selector": selector})
    result = compiled(*BASE, admits, service(), trusted=False)
    assert reasons(result) == ({"NamespaceNotAllowed"} if words else set())
    assert words in "".join(finding.message for finding in result.refusals)
    assert compiled(*BASE, admits, service(), trusted=True).outcome is Outcome.PLANNED


def test_every_fault_is_told_at_once() -> None:
    wrong = service(vips=["192.0.2.300"], servers=["10.0.0.11", "10.0.0.11"], scheduler="rr", schedulerFlags=["Port"])
    result = compiled(*BASE, wrong)
    assert reasons(result) == {"MalformedAddress", "DuplicateBackend", "SchedulerFlags"}
    condition = accepted_condition(result)
    assert condition.status == "False"
    assert "spec.addresses[0]" in condition.message
    assert "spec.backends.static[1]" in condition.message


def test_a_thousand_faults_fit_a_condition() -> None:
    many = service(servers=[f"10.0.{index // 250}.{300 + index}" for index in range(1000)])
    message = accepted_condition(compiled(*BASE, many)).message
    assert len(message) < 5000
    assert message.splitlines()[-1].startswith("and ")


@pytest.mark.slow
def test_more_real_servers_than_a_plan_holds_are_refused() -> None:
    addresses = [{"address": f"10.9.{index // 250}.{index % 250 + 1}"} for index in range(PLAN_SERVERS + 1)]
    value = msgspec.to_builtins(service()) | {
        "spec": msgspec.to_builtins(service().spec) | {"backends": {"static": addresses}}
    }
    assert reasons(compiled(*BASE, unchecked(VirtualService, value))) == {"TooManyServers"}


def test_what_is_not_there_is_withdrawn() -> None:
    result = compiled(*BASE)
    assert (result.key, result.outcome, result.plans, result.refusals) == (WEB, Outcome.WITHDRAWN, (), ())


def test_schedulers_of_the_kernel_are_all_planned() -> None:
    for scheduler in Scheduler:
        assert plan(compiled(*BASE, service(scheduler=scheduler))).spec.scheduler == scheduler
