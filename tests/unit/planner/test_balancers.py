"""What a Service of type LoadBalancer asks for, and what is refused of it."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipvs_api.core import Service
from ipvs_api.meta import ObjectMeta
from ipvs_api.virtualservice import (
    Forwarding,
    HealthCheckType,
    Persistence,
    ReturnPath,
    Scheduler,
    SchedulerFlag,
    TunnelSpec,
    TunnelType,
    VirtualService,
    VirtualServiceSpec,
)
from ipvs_planner.annotations import KNOWN
from ipvs_planner.balancers import asked
from ipvs_planner.reasons import Reason
from ipvs_planner.written import take_in


def service(annotations: dict[str, str] | None = None, **spec: Any) -> Service:
    """Named web, of group edge, with a TCP port 80 named http. Annotations without their prefix."""
    value = {
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "annotations": {f"ipvs.dev/{name}": text for name, text in (annotations or {}).items()},
        },
        "spec": {
            "type": "LoadBalancer",
            "loadBalancerClass": "ipvs.dev/edge",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}],
        }
        | spec,
    }
    return msgspec.convert(value, Service)


def wanted(annotations: dict[str, str] | None = None, **spec: Any) -> VirtualServiceSpec:
    result = asked(service(annotations, **spec))
    assert result.refusals == ()
    assert result.spec is not None
    return result.spec


def refusal(annotations: dict[str, str] | None = None, **spec: Any) -> tuple[Reason, str]:
    """The only one."""
    result = asked(service(annotations, **spec))
    assert result.spec is None
    (only,) = result.refusals
    return only.reason, only.message


def test_a_service_without_more_asks_for_what_a_virtual_service_has_by_default() -> None:
    spec = wanted()
    plain = {
        "directorGroup": "edge",
        "ports": [{"name": "http", "port": 80, "servicePort": "http"}],
        "backends": {"service": {"name": "web"}},
    }
    assert spec == msgspec.convert(plain, VirtualServiceSpec)


def test_a_port_without_a_name_gets_one_and_is_found_by_its_number() -> None:
    (port,) = wanted(ports=[{"port": 53, "protocol": "UDP"}]).ports
    assert msgspec.to_builtins(port) == {"name": "udp-53", "port": 53, "protocol": "UDP"}


def test_every_port_of_a_service_is_one_of_its_virtual_service() -> None:
    ports = [
        {"name": "dns", "port": 53, "protocol": "UDP"},
        {"name": "dns-tcp", "port": 53, "protocol": "TCP"},
        {"name": "signalling", "port": 2905, "protocol": "SCTP"},
    ]
    found = wanted(ports=ports).ports
    assert [(port.name, port.protocol, port.port, port.service_port) for port in found] == [
        ("dns", "UDP", 53, "dns"),
        ("dns-tcp", "TCP", 53, "dns-tcp"),
        ("signalling", "SCTP", 2905, "signalling"),
    ]


def test_addresses_come_from_the_field_and_the_annotation() -> None:
    assert wanted(loadBalancerIP="192.0.2.10").addresses == ("192.0.2.10",)
    assert wanted({"addresses": "192.0.2.10, 2001:DB8::0:1"}).addresses == ("192.0.2.10", "2001:db8::1")
    both = wanted({"addresses": "2001:db8::1,192.0.2.10"}, loadBalancerIP="192.0.2.10")
    assert both.addresses == ("192.0.2.10", "2001:db8::1")


def test_source_ranges_are_canonical() -> None:
    ranges = ["2001:DB8::/32", " 203.0.113.0/24", "203.0.113.0/24 ", "10.1.2.3/8"]
    assert wanted(loadBalancerSourceRanges=ranges).allowed_sources == ("10.0.0.0/8", "203.0.113.0/24", "2001:db8::/32")


CLIENT_IP: dict[str, Any] = {
    "sessionAffinity": "ClientIP",
    "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
}


@pytest.mark.parametrize(
    ("annotations", "spec", "expected"),
    [
        ({}, {"sessionAffinity": "None"}, None),
        ({}, CLIENT_IP, Persistence(600)),
        ({}, {"sessionAffinity": "ClientIP"}, Persistence(10_800)),
        ({"persistence-timeout-seconds": "86401"}, CLIENT_IP, Persistence(86_401)),
        ({"persistence-timeout-seconds": "60"}, {}, Persistence(60)),
        ({"persistence-ipv4-prefix-length": "24"}, CLIENT_IP, Persistence(600, 24, 128)),
        ({"persistence-timeout-seconds": "60", "persistence-ipv6-prefix-length": "64"}, {}, Persistence(60, 32, 64)),
    ],
)
def test_persistence(annotations: dict[str, str], spec: dict[str, Any], expected: Persistence | None) -> None:
    assert wanted(annotations, **spec).persistence == expected


@pytest.mark.parametrize(
    ("annotations", "attribute", "value"),
    [
        ({"forwarding": "DR"}, "forwarding", Forwarding.DR),
        ({"forwarding": " TUN "}, "forwarding", Forwarding.TUN),
        ({"return-path": "Gateway"}, "nat.return_path", ReturnPath.GATEWAY),
        ({"tunnel-type": "GUE", "tunnel-port": "6080"}, "tunnel", TunnelSpec(TunnelType.GUE, 6080)),
        ({"scheduler": "mh"}, "scheduler", Scheduler.MH),
        ({"scheduler": "sh"}, "scheduler_flags", None),
        ({"scheduler": "sh", "scheduler-flags": ""}, "scheduler_flags", ()),
        ({"scheduler": "sh", "scheduler-flags": "Port, Fallback"}, "scheduler_flags", tuple(SchedulerFlag)[::-1]),
        ({"address-count": "2"}, "address_count", 2),
        ({"health-check": "None"}, "health_check.type", HealthCheckType.NONE),
        ({"drain-timeout-seconds": "0"}, "drain.timeout_seconds", 0),
        ({"one-packet": "false"}, "one_packet", False),
    ],
)
def test_annotations_say_what_a_service_cannot(annotations: dict[str, str], attribute: str, value: object) -> None:
    found: Any = wanted(annotations)
    for name in attribute.split("."):
        found = getattr(found, name)
    assert found == value


def test_one_packet_is_for_udp_without_nat() -> None:
    udp = [{"name": "dns", "port": 53, "protocol": "UDP"}]
    assert wanted({"one-packet": "true", "forwarding": "DR"}, ports=udp).one_packet
    said = "metadata.annotations[ipvs.dev/one-packet]: found true with forwarding NAT"
    assert refusal({"one-packet": "true"}, ports=udp)[1].startswith(said)
    words = "metadata.annotations: spec.ports[0].protocol: found TCP with onePacket, which is for UDP"
    assert refusal({"one-packet": "true", "forwarding": "DR"}) == (Reason.ANNOTATION_INVALID, words)


@pytest.mark.parametrize(
    ("annotation", "text", "words"),
    [
        ("forwarding", "dr", "found 'dr', wanted NAT, DR or TUN; did you mean DR?"),
        ("forwarding", "", "found '', wanted NAT, DR or TUN"),
        ("scheduler", "mhh", "did you mean mh?"),
        ("scheduler-flags", "port", "found 'port', wanted Fallback or Port, or both with a comma between them"),
        ("tunnel-port", "-1", "found '-1', wanted a whole number from 0 to 65535"),
        ("address-count", "9", "found '9', wanted a whole number from 1 to 8"),
        ("address-count", "1" * 5000, "wanted a whole number from 1 to 8"),
        ("drain-timeout-seconds", "60s", "found '60s', wanted a whole number from 0 to 604800"),
        ("drain-timeout-seconds", "\u0661", "wanted a whole number from 0 to 604800"),
        ("persistence-timeout-seconds", "0", "found '0', wanted a whole number from 1 to 2678400"),
        ("one-packet", "True", "found 'True', wanted true or false; did you mean true?"),
        ("addresses", "", "found '', wanted unicast addresses"),
        ("addresses", "192.0.2.10;192.0.2.11", "not an IP address"),
        ("addresses", "224.0.0.1", "a multicast address"),
        ("fowarding", "DR", "there is no such annotation; did you mean ipvs.dev/forwarding?"),
        ("colour", "red", "there is no such annotation; known under ipvs.dev/ are address-count, addresses, "),
        ("", "", "there is no such annotation"),
    ],
)
def test_a_wrong_annotation_is_refused_by_name(annotation: str, text: str, words: str) -> None:
    reason, message = refusal({annotation: text})
    assert reason is Reason.ANNOTATION_INVALID
    assert message.startswith(f"metadata.annotations[ipvs.dev/{annotation}]: ")
    assert words in message


@pytest.mark.parametrize(
    ("annotations", "spec", "words"),
    [
        ({"tunnel-type": "GUE"}, {}, "[ipvs.dev/tunnel-port]: found 0, GUE needs a UDP port"),
        ({"tunnel-port": "6080"}, {}, "[ipvs.dev/tunnel-port]: found 6080, IPIP has no port"),
        ({"scheduler-flags": "Port"}, {}, "[ipvs.dev/scheduler-flags]: found Port with scheduler wlc"),
        ({"address-count": "2", "addresses": "192.0.2.1"}, {}, "[ipvs.dev/address-count]: found 2 beside"),
        ({"address-count": "2"}, {"loadBalancerIP": "192.0.2.1"}, "[ipvs.dev/address-count]: found 2 beside"),
        ({"addresses": "192.0.2.1,192.0.2.2"}, {}, "[ipvs.dev/addresses]: found 192.0.2.2 beside 192.0.2.1"),
        ({"addresses": "192.0.2.2"}, {"loadBalancerIP": "192.0.2.1"}, "[ipvs.dev/addresses]: found 192.0.2.2 beside"),
        ({"persistence-ipv4-prefix-length": "24"}, {}, "[ipvs.dev/persistence-ipv4-prefix-length]: found 24 without"),
    ],
)
def test_annotations_that_do_not_go_together(annotations: dict[str, str], spec: dict[str, Any], words: str) -> None:
    reason, message = refusal(annotations, **spec)
    assert reason is Reason.ANNOTATION_INVALID
    assert message.startswith(f"metadata.annotations{words}")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"loadBalancerClass": "ipvs.dev/"}, "spec.loadBalancerClass: found 'ipvs.dev/', wanted ipvs.dev/ and"),
        ({"loadBalancerClass": "ipvs.dev/Edge"}, "spec.loadBalancerClass: found 'ipvs.dev/Edge'"),
        ({"loadBalancerIP": "nonsense"}, "spec.loadBalancerIP: found 'nonsense' (not an IP address)"),
        ({"loadBalancerSourceRanges": ["10.0.0.0/8", "all"]}, "spec.loadBalancerSourceRanges[1]: found 'all'"),
        (
            {
                "loadBalancerSourceRanges": [f"10.0.{number}.0/24" for number in range(128)]
                + ["::/0"] * 2
                + [f"10.1.{number}.0/24" for number in range(128)]
            },
            "spec.loadBalancerSourceRanges: found 257, wanted at most 256",
        ),
        ({"ports": []}, "spec.ports: found 0, wanted 1 to 64"),
        ({"ports": [{"name": f"p{n}", "port": n} for n in range(1, 66)]}, "spec.ports: found 65, wanted 1 to 64"),
        ({"ports": [{"port": 80, "protocol": "QUIC"}]}, "spec.ports[0].protocol: found 'QUIC', wanted TCP, UDP or"),
    ],
)
def test_what_of_a_service_cannot_be_done_is_told(spec: dict[str, Any], words: str) -> None:
    reason, message = refusal(**spec)
    assert reason is Reason.SERVICE_UNSUPPORTED
    assert message.startswith(words)


def test_all_that_is_wrong_is_told_at_once() -> None:
    result = asked(service({"forwarding": "dr", "colour": "red"}, loadBalancerIP="nonsense"))
    assert [str(finding.reason) for finding in result.refusals] == [
        "AnnotationInvalid",
        "AnnotationInvalid",
        "ServiceUnsupported",
    ]


def test_the_document_has_every_annotation_and_its_field() -> None:
    text = (Path(__file__).parents[3] / "docs" / "loadbalancer.md").read_text()
    rows = re.findall(r"^\| `ipvs\.dev/([-a-z0-9]+)` \|.*\| `([A-Za-z0-9.]+)` \|$", text, re.MULTILINE)
    assert [(name, f"spec.{field}") for name, field in rows] == [(name, kind.field) for name, kind in KNOWN.items()]


def test_annotations_of_others_are_none_of_our_business() -> None:
    others = {"ipvs.dev": "x", "my.ipvs.dev/forwarding": "y", "ipvs.device/scheduler": "z"}
    meta = ObjectMeta("web", "shop", annotations=others)
    assert asked(msgspec.structs.replace(service(), metadata=meta)) == asked(service())


@pytest.mark.parametrize(
    ("annotations", "lost"),
    [({}, True), ({"return-path": "Gateway"}, False), ({"forwarding": "DR"}, False), ({"forwarding": "TUN"}, False)],
)
def test_a_local_policy_without_the_clients_address_is_noted(annotations: dict[str, str], lost: bool) -> None:
    notes = asked(service(annotations, externalTrafficPolicy="Local")).notes
    assert [str(note.reason) for note in notes] == (["ClientAddressLost"] if lost else [])
    assert asked(service(annotations, externalTrafficPolicy="Cluster")).notes == ()


WORDS = [
    *("", "true", "false", "-1", "0", "1", "8", "24", "33", "128", "6080", "65536", "86400"),
    *("192.0.2.1", "192.0.2.1,2001:db8::1", "192.0.2.1,192.0.2.2", "::1", "Port", "Fallback,Port", "Port,Port"),
    *(str(word) for choices in (Forwarding, ReturnPath, TunnelType, Scheduler, HealthCheckType) for word in choices),
]
SPECS = st.fixed_dictionaries(
    {},
    optional={
        "loadBalancerIP": st.sampled_from(["", "192.0.2.1", "fe80::1"]),
        "loadBalancerSourceRanges": st.lists(st.sampled_from(["10.0.0.0/8", " ::/0", "10.0.0.1/8", "x"]), max_size=3),
        "sessionAffinity": st.sampled_from(["None", "ClientIP"]),
        "ports": st.sampled_from([[], [{"port": 53, "protocol": "UDP"}], [{"name": "a", "port": 1}] * 2]),
    },
)


@given(st.dictionaries(st.sampled_from([*KNOWN, "colour"]), st.sampled_from(WORDS) | st.text(), max_size=4), SPECS)
def test_what_is_not_refused_is_a_virtual_service(annotations: dict[str, str], spec: dict[str, Any]) -> None:
    """Whatever a Service says, it is refused with reasons or becomes what schema and rules let pass."""
    result = asked(service(annotations, **spec))
    assert (result.spec is None) == bool(result.refusals)
    if result.spec is not None:
        assert msgspec.convert(msgspec.to_builtins(result.spec), VirtualServiceSpec) == result.spec
        assert take_in(VirtualService(ObjectMeta("web", "shop"), result.spec)).findings == ()
