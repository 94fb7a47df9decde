"""What may reach a VIP: declared ports from allowed sources, pings; and nothing of the hosts that hold it."""

from typing import Any

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service

from ipvs_lab.net import Topology, clients, serve
from ipvs_lab.topologies import far, one, two

VIP = {4: "192.0.2.10", 6: "2001:db8:2::10"}
BOTH = f"{VIP[4]} {VIP[6]}"
METHODS = [
    pytest.param(two, {"forwarding": "NAT"}, id="NAT-Masquerade"),
    pytest.param(two, {"forwarding": "NAT", "nat": {"returnPath": "Gateway"}}, id="NAT-Gateway"),
    pytest.param(one, {"forwarding": "DR"}, id="DR"),
    pytest.param(far, {"forwarding": "TUN"}, id="TUN"),
]


def dual(lvs: Site, *names: str) -> list[str]:
    return [*lvs.servers(*names), *lvs.servers(*names, family=6)]


def errors(lvs: Site, target: str, port: int, proto: str = "tcp", **more: Any) -> dict[str, int]:
    return dict(clients(lvs["client"], 1, target, port, proto, timeout=2, **more).errors)


@pytest.mark.parametrize(("make", "spec"), METHODS)
def test_other_ports_of_a_vip_are_refused_and_never_the_hosts_own_daemons(
    site: MakeSite, make: Any, spec: dict[str, Any]
) -> None:
    lvs = site(make(), nodes=["rs1"], gatewayAddresses=["10.0.0.1", "2001:db8:3::1"])
    lvs.put(virtual_service("web", BOTH, [80, "53/UDP"], dual(lvs, "rs1"), **spec))
    for proto in ("tcp", "udp"):
        serve([lvs["director"], lvs["rs1"]], 22, proto)
    lvs.start()
    serve(lvs["rs1"], 80)
    serve(lvs["rs1"], 53, "udp")
    for family, vip in VIP.items():
        assert clients(lvs["client"], 2, vip, 80).answers == {"rs1": 2}
        assert clients(lvs["client"], 2, vip, 53, "udp").answers == {"rs1": 2}
        for port, proto in ((22, "tcp"), (81, "tcp"), (53, "tcp"), (22, "udp"), (80, "udp")):
            assert errors(lvs, vip, port, proto) == {"refused": 1}, f"{vip} {port} {proto}"
        own = lvs["director"].address(family=family)
        assert clients(lvs["client"], 1, own, 22).answers == {"director": 1}, "its own address is its own business"
        lvs["client"].run("ping", "-c1", "-W1", vip)


@pytest.mark.parametrize(("make", "spec"), METHODS)
def test_only_allowed_sources_connect(site: MakeSite, make: Any, spec: dict[str, Any]) -> None:
    lvs = site(make(), nodes=["rs1"], gatewayAddresses=["10.0.0.1", "2001:db8:3::1"])
    allowed = ["198.51.100.2/32", "198.51.100.32/28", "2001:db8:1::2/128"]
    lvs.put(virtual_service("web", BOTH, [80, "53/UDP"], dual(lvs, "rs1"), allowedSources=allowed, **spec))
    lvs.put(virtual_service("open", BOTH, 81, dual(lvs, "rs1"), **spec))
    others = {4: "198.51.100.3", 6: "2001:db8:1::3"}
    lvs["client"].hold("eth0", "198.51.100.3/24", "198.51.100.40/24", "2001:db8:1::3/64")
    lvs.start()
    for port, proto in ((80, "tcp"), (81, "tcp"), (53, "udp")):
        serve(lvs["rs1"], port, proto)
    for family, vip in VIP.items():
        client, other = lvs["client"].address(family=family), others[family]
        for port, proto in ((80, "tcp"), (53, "udp")):
            assert clients(lvs["client"], 1, vip, port, proto, sources=[client]).answers == {"rs1": 1}
            assert errors(lvs, vip, port, proto, sources=[other]) == {"timeout": 1}
        assert clients(lvs["client"], 1, vip, 81, sources=[other]).answers == {"rs1": 1}, "another service's business"
    assert clients(lvs["client"], 1, VIP[4], 80, sources=["198.51.100.40"]).answers == {"rs1": 1}
    lvs.edit("web", allowedSources=["198.51.100.3/32"])
    lvs.settled()
    assert errors(lvs, VIP[4], 80, sources=["198.51.100.2"]) == {"timeout": 1}
    assert clients(lvs["client"], 1, VIP[4], 80, sources=["198.51.100.3"]).answers == {"rs1": 1}


def announced_by_nobody() -> Topology:
    """Two directors and a real server on one LAN, behind the router."""
    topology = one()
    topology.host("director2", lan="192.0.2.3/24 2001:db8:2::3/64", via="192.0.2.1 2001:db8:2::1")
    return topology


@pytest.mark.parametrize("spec", [{"forwarding": "NAT"}, {"forwarding": "DR"}], ids=["NAT", "DR"])
def test_without_announcement_vips_are_silent_and_every_director_takes_what_is_routed_to_it(
    site: MakeSite, spec: dict[str, Any]
) -> None:
    directors = ("director", "director2")
    lvs = site(announced_by_nobody(), directors=directors, nodes=["rs1", "rs2"], announcement={"none": {}})
    lvs.put(virtual_service("web", BOTH, 80, dual(lvs, "rs1", "rs2"), **spec))
    lvs.start()
    serve([lvs["rs1"], lvs["rs2"]], 80)
    router = lvs["router"]
    for name in directors:
        shown = lvs[name].run("ip", "-br", "addr", "show", "dev", "ipvs0").stdout
        assert f"{VIP[4]}/32" in shown
        assert f"{VIP[6]}/128" in shown
    asked = router.run("arping", "-c2", "-w2", "-I", "eth1", VIP[4], check=False)
    assert "Received 0 response" in asked.stdout, asked.stdout
    assert not clients(lvs["client"], 1, VIP[4], 80).answers
    for name in directors:
        for family, vip in VIP.items():
            router.run("ip", "route", "replace", vip, "via", lvs[name].address(family=family))
            with lvs[name].capture("eth0", "tcp port 80") as seen:
                assert clients(lvs["client"], 4, vip, 80).answers == {"rs1": 2, "rs2": 2}
            assert [p for p in seen.packets() if p.destination == vip and p.direction == "in"]
            assert errors(lvs, vip, 22) == {"refused": 1}, "guarded there too"
