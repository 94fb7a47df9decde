"""What the classic LVS texts require of hosts and networks: checked there, mended where it can be, else told in words.

Every finding is read as a person reads it, in ``ipvs-agent status`` of the host that it concerns, and goes away with
its cause; what does not depend on it goes on.
"""

import time
from typing import Any

import pytest
from tests.kernel.commands import status_lacks, status_says
from tests.kernel.conftest import MakeSite, Site, node, virtual_service

from ipvs_lab.net import Topology, ask, await_condition, clients, serve
from ipvs_lab.topologies import far, one, two

VIP, VIP6 = "192.0.2.10", "2001:db8:2::10"


def make(site: MakeSite, topology: Topology, *servers: str, ready: bool = True, **spec: Any) -> Site:
    """Virtual service web on the VIP, port 80, real servers by name; agents on the director and on them."""
    lvs = site(topology, nodes=servers)
    lvs.put(virtual_service("web", VIP, 80, lvs.servers(*servers), **spec))
    lvs.start(ready=ready)
    serve([lvs[name] for name in servers], 80)
    return lvs


def test_a_dr_real_server_behind_a_router_is_told_and_left_out(site: MakeSite) -> None:
    lvs = site(far())
    lvs.put(virtual_service("web", VIP, 80, ["10.0.0.11", "192.0.2.3"], forwarding="DR"))
    lvs.put(virtual_service("other", "192.0.2.11", 80, ["10.0.0.12"]))
    lvs.start("director", ready=False)
    status_says(
        lvs,
        "director",
        "Networking=False RealServerNotOnLink",
        "real server 10.0.0.11: reached through router 192.0.2.3 on eth0, but direct routing needs it on the "
        "director's own network (L2)",
        "Use forwarding TUN or NAT",
    )
    assert [line for line in lvs["director"].ipvs() if f"-t {VIP}:80" in line] == [
        f"-A -t {VIP}:80 -s rr",
        f"-a -t {VIP}:80 -r 192.0.2.3:80 -g -w 1",
    ], "it would only make packets loop"
    serve(lvs["rs2"], 80)
    assert ask(lvs["client"], "192.0.2.11", 80).server == "rs2"
    lvs.edit("web", forwarding="TUN")
    status_lacks(lvs, "director", "Networking=False")


def test_a_real_server_without_a_route_to_it_is_told(site: MakeSite) -> None:
    topology = one()
    lvs = site(topology)
    lvs["director"].run("ip", "route", "del", "default")
    lvs.put(virtual_service("web", VIP, 80, ["203.0.113.5"], forwarding="TUN"))
    lvs.start("director", ready=False)
    status_says(lvs, "director", "RealServerUnreachable", "real server 203.0.113.5: this director has no route to it")


def test_a_silent_dr_real_server_is_told_and_comes_back(site: MakeSite) -> None:
    lvs = make(site, one(), "rs1", "rs2", forwarding="DR")
    lvs.net.unplug("rs2", "lan")
    lvs["director"].run("ip", "neigh", "flush", "all")
    status_says(
        lvs,
        "director",
        "Networking=False RealServerSilent",
        f"real server {lvs['rs2'].address()}: does not answer ARP on eth0; check that it is up and on that network",
    )
    time.sleep(65)
    told = [line for line in lvs.agents["director"].output().splitlines() if "Networking=" in line]
    assert len(told) == 2, f"True, then False, however often it is asked again: {told}"
    lvs.net.plug("rs2", "lan")
    status_lacks(lvs, "director", "RealServerSilent")
    assert clients(lvs["client"], 4, VIP, 80).answers == {"rs1": 2, "rs2": 2}


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_port_mapping_to_a_host_is_refused_at_once(site: MakeSite, forwarding: str) -> None:
    lvs = make(site, one(), "rs1", forwarding=forwarding)
    lvs.edit("web", ports=[{"name": "http", "port": 80, "targetPort": 8080}])
    lvs.settled(ready=False)
    status_says(
        lvs,
        "director",
        f"default/web: Accepted=False PortMapping: spec.ports: http maps 80 to 8080, but {forwarding} leaves the port",
        f"spec.backends.static[0] ({lvs['rs1'].address()})",
        "wanted the same port, or forwarding NAT",
        timeout=10,
    )
    assert ask(lvs["client"], VIP, 80).server == "rs1", "what was programmed before goes on"


def test_a_nat_gateway_that_is_not_on_the_real_servers_network_is_told_there(site: MakeSite) -> None:
    lvs = site(far(), nodes=["rs1"])
    lvs.put(virtual_service("web", VIP, 80, ["10.0.0.11"], nat={"returnPath": "Gateway"}))
    lvs.start(ready=False)
    status_says(
        lvs,
        "rs1",
        "Networking=False GatewayNotOnLink",
        "gateway 192.0.2.2: the route to it leads through 10.0.0.1",
        "use returnPath Masquerade or a gateway address on this host's network",
    )
    lvs.edit("web", nat={"returnPath": "Masquerade"})
    lvs.settled()
    serve(lvs["rs1"], 80)
    assert ask(lvs["client"], VIP, 80).server == "rs1"


def test_a_floating_gateway_outside_every_network_of_the_director_is_told_there(site: MakeSite) -> None:
    lvs = site(two(), gatewayAddresses=["10.99.0.1"])
    lvs.put(virtual_service("web", VIP, 80, ["10.0.0.11"], nat={"returnPath": "Gateway"}))
    lvs.start("director", ready=False)
    status_says(lvs, "director", "GatewayNotOnLink", "gateway address 10.99.0.1 of DirectorGroup default: no interface")


@pytest.mark.parametrize("family", [4, 6])
def test_a_dr_real_server_whose_default_gateway_is_the_director_is_told(site: MakeSite, family: int) -> None:
    lvs = site(one(), nodes=["rs1"])
    vip, dip, router = {4: (VIP, "192.0.2.2", "192.0.2.1"), 6: (VIP6, "2001:db8:2::2", "2001:db8:2::1")}[family]
    lvs["rs1"].run("ip", f"-{family}", "route", "replace", "default", "via", dip)
    lvs.put(virtual_service("web", vip, 80, lvs.servers("rs1", family=family), forwarding="DR"))
    lvs.start(ready=False)
    status_says(
        lvs,
        "rs1",
        "Networking=False GatewayIsDirector",
        f"default gateway {dip} is director director, which drops the answers of direct routing as martians",
        "set the default gateway to the clients' router, or use forwarding NAT",
    )
    lvs["rs1"].run("ip", f"-{family}", "route", "replace", "default", "via", router)
    status_lacks(lvs, "rs1", "GatewayIsDirector")
    serve(lvs["rs1"], 80)
    assert ask(lvs["client"], vip, 80).server == "rs1"


@pytest.mark.parametrize(
    ("where", "link", "words"),
    [
        ("rs1", "lo", "takes all of it for its own (192.0.2.0/24)"),
        ("rs1", "eth0", "looks for all of it behind eth0 (192.0.2.0/24)"),
        ("director", "lo", "takes all of it for its own (192.0.2.0/24)"),
    ],
)
def test_a_vip_with_its_whole_network_on_a_link_is_told(site: MakeSite, where: str, link: str, words: str) -> None:
    lvs = make(site, one(), "rs1", forwarding="DR")
    lvs[where].hold(link, f"{VIP}/24")
    status_says(
        lvs, where, "Networking=False VIPPrefix", words, f"ip address delete {VIP}/24 dev {link}", "make it /32"
    )
    lvs[where].run("ip", "addr", "del", f"{VIP}/24", "dev", link)
    status_lacks(lvs, where, "VIPPrefix")
    assert ask(lvs["client"], VIP, 80).server == "rs1"


def test_the_classic_hosts_vip_on_lo_does_no_harm_and_is_silenced(site: MakeSite) -> None:
    """Somebody followed the LVS-HOWTO by half: VIP/32 on lo, and nothing against answering ARP for it."""
    lvs = site(one(), nodes=["rs1"])
    lvs["rs1"].hold("lo", VIP)
    lvs.put(virtual_service("web", VIP, 80, lvs.servers("rs1"), forwarding="DR"))
    lvs.start()
    serve(lvs["rs1"], 80)
    mac = lvs["director"].links_by_name()["eth0"]["address"]
    with lvs["router"].capture("eth1", "arp") as seen:
        for _ in range(3):
            lvs["router"].run("ip", "neigh", "flush", "all")
            assert ask(lvs["client"], VIP, 80).server == "rs1"
    assert {p.source_mac for p in seen.packets() if p.source == VIP and p.type == 2} == {mac}


def test_the_path_mtu_of_a_tunnel_is_told_and_room_for_it_is_found(site: MakeSite) -> None:
    lvs = make(site, far(), "rs1", forwarding="TUN")
    status_says(
        lvs,
        "director",
        "Networking=True",
        "real server 10.0.0.11: the way to it carries 1500 bytes and IPIP adds 20, so clients learn path MTU 1480; "
        "raise the MTU of eth0 to 1520",
    )
    lvs["director"].run("ip", "link", "set", "eth0", "mtu", "1520")
    status_lacks(lvs, "director", "path MTU")


def test_forwarding_is_raised_where_replies_arrive_and_mended_when_somebody_lowers_it(site: MakeSite) -> None:
    lvs = site(two())
    lvs.put(virtual_service("web", VIP, 80, ["10.0.0.11"], nat={"returnPath": "Gateway"}))
    director = lvs["director"]
    assert director.sysctl("net.ipv4.conf.eth1.forwarding") == "0"
    lvs.start("director")
    serve(lvs["rs1"], 80)
    assert ask(lvs["client"], VIP, 80).server == "rs1"
    assert director.sysctl("net.ipv4.ip_forward") == "0", "only the interface where replies arrive"
    director.sysctl("net.ipv4.conf.eth1.forwarding", 0)
    await_condition(lambda: director.sysctl("net.ipv4.conf.eth1.forwarding") == "1", 70, "forwarding again", every=1)
    assert ask(lvs["client"], VIP, 80).server == "rs1"
    assert "drift: sysctl net.ipv4.conf.eth1.forwarding was changed; mended" in lvs.agents["director"].output()


@pytest.mark.parametrize("strict", ["all", "eth1"])
def test_a_dual_homed_dr_real_servers_strict_rp_filter_is_loosened_on_one_link(site: MakeSite, strict: str) -> None:
    topology = one()
    topology.lan("inside")
    del topology.hosts["director"]
    topology.host("director", lan="192.0.2.2/24", inside="10.0.0.1/24", via="192.0.2.1")
    topology.host("dual", lan="192.0.2.120/24", inside="10.0.0.20/24", via="192.0.2.1")
    lvs = site(topology)
    dual = lvs["dual"]
    dual.sysctl(f"net.ipv4.conf.{strict}.rp_filter", 1)
    lvs.put(node("dual", ["10.0.0.20"]))
    lvs.put(virtual_service("web", VIP, 80, ["10.0.0.20"], forwarding="DR"))
    lvs.start()
    serve(dual, 80)
    assert clients(lvs["client"], 3, VIP, 80, timeout=1).answers == {"dual": 3}
    found = {name: dual.sysctl(f"net.ipv4.conf.{name}.rp_filter") for name in ("all", "eth0", "eth1")}
    assert found == {"all": "0", "eth0": "0"} | {strict: "1"} | {"eth1": "2"}


@pytest.mark.parametrize("vip", [VIP, VIP6])
def test_an_address_that_somebody_else_has_is_not_taken_and_told_with_his_mac(site: MakeSite, vip: str) -> None:
    lvs = site(one(), nodes=["rs1"])
    thief = lvs["rs3"]
    thief.hold("eth0", vip)
    serve(thief, 80)
    lvs.put(virtual_service("web", vip, 80, lvs.servers("rs1", family=6 if ":" in vip else 4), forwarding="DR"))
    lvs.put(virtual_service("other", "192.0.2.11", 80, lvs.servers("rs1")))
    lvs.start(ready=False)
    mac = thief.links_by_name()["eth0"]["address"]
    status_says(
        lvs,
        "director",
        "Networking=False AddressInUse",
        f"address {vip} is already answered for by {mac} on eth0; it is not taken. Remove it there, or choose another",
    )
    assert vip not in lvs.held("director")
    serve(lvs["rs1"], 80)
    assert ask(lvs["client"], vip, 80).server == "rs3", "his connections are none of our business"
    assert ask(lvs["client"], "192.0.2.11", 80).server == "rs1"
    thief.run("ip", "addr", "del", f"{vip}/{128 if ':' in vip else 32}", "dev", "eth0")
    lvs.settled(timeout=120)
    lvs["router"].run("ip", "neigh", "flush", "all")
    assert ask(lvs["client"], vip, 80).server == "rs1"


def test_a_director_that_real_servers_cannot_see_is_told_there(site: MakeSite) -> None:
    lvs = site(far(), nodes=["rs1"])
    lvs.put(virtual_service("web", VIP, 80, ["10.0.0.11"], forwarding="DR"))
    lvs.start("rs1", ready=False)
    status_says(lvs, "rs1", "DirectorNotOnLink", "director director (192.0.2.2) is not on a network of this host")


def test_a_client_interface_that_is_not_there_is_told(site: MakeSite) -> None:
    lvs = site(one(), interface="eth7")
    lvs.put(virtual_service("web", VIP, 80, lvs.servers("rs1")))
    lvs.start("director", ready=False)
    status_says(lvs, "director", "InterfaceMissing", "interface eth7 does not exist", "spec.interface of DirectorGroup")
