"""``ipvs-agent release``: hosts are as they were before the first run, as far as foreign tools can tell."""

import re
from typing import Any, NamedTuple

import pytest
from tests.kernel.commands import (
    Said,
    differences,
    dumps,
    ipvs_agent,
    release_all,
    state_files,
)
from tests.kernel.conftest import MakeSite, Site, node, virtual_service
from tests.kernel.crowds import kill

from ipvs_lab.net import Crowd, Topology, clients, serve
from ipvs_lab.topologies import far, one, two

VIPS = "192.0.2.10 2001:db8:2::10"
HOSTS = ("director", "rs1")


class Case(NamedTuple):
    """A way of forwarding, and the network that it is for. ``group``, ``spec``: fields of the manifests."""

    topology: Topology
    ports: str
    spec: dict[str, Any]
    group: dict[str, Any]


CASES = {
    "NAT Masquerade": Case(one(), "80:8080", {}, {}),
    "NAT Gateway": Case(
        two(),
        "80:8080",
        {"nat": {"returnPath": "Gateway"}},
        {"gatewayAddresses": ["10.0.0.254", "2001:db8:3::254"]},
    ),
    "DR": Case(one(), "80", {"forwarding": "DR", "persistence": {"timeoutSeconds": 300}}, {}),
    "DR announced by none": Case(one(), "80", {"forwarding": "DR"}, {"announcement": {"none": {}}}),
    "TUN IPIP": Case(far(), "80", {"forwarding": "TUN"}, {}),
    "TUN GUE": Case(far(), "80", {"forwarding": "TUN", "tunnel": {"type": "GUE", "port": 6080}}, {}),
    "TUN GRE": Case(far(), "80", {"forwarding": "TUN", "tunnel": {"type": "GRE"}}, {}),
}


def make(site: MakeSite, case: Case) -> Site:
    """Virtual service web, both families, on the director and rs1; agents do not run yet."""
    lvs = site(case.topology, nodes=["rs1"], **case.group)
    rips = [*lvs.servers("rs1"), *lvs.servers("rs1", family=6)]
    lvs.put(virtual_service("web", VIPS, case.ports, rips, **case.spec))
    return lvs


def serve_both(lvs: Site) -> None:
    for port in (80, 8080):
        serve(lvs["rs1"], port)


def answered(lvs: Site) -> list[int]:
    """How many of three clients were answered, for each VIP."""
    return [clients(lvs["client"], 3, vip, 80, timeout=1).answers.total() for vip in VIPS.split()]


@pytest.mark.parametrize("name", CASES)
def test_every_host_is_as_it_was_before_the_first_run(site: MakeSite, name: str) -> None:
    lvs = make(site, CASES[name])
    before = dumps(lvs, HOSTS)
    lvs.start()
    serve_both(lvs)
    if name == "DR announced by none":
        assert set(VIPS.split()) <= lvs.held("director")
    else:
        assert answered(lvs) == [3, 3], "else there would be little to release"
    release_all(lvs, HOSTS)
    assert differences(before, lvs) == ""
    for host in HOSTS:
        assert state_files(lvs[host]) in ([], ["lock"])


@pytest.mark.parametrize("forwarding", ["DR", "TUN"])
def test_a_second_hop_leaves_nothing_behind(site: MakeSite, forwarding: str) -> None:
    topology = one()
    topology.lan("pods")
    both = {"lan": "192.0.2.111/24 2001:db8:2::111/64", "pods": "10.244.1.1/24 2001:db8:244::1/64"}
    topology.host("node1", **both, via="192.0.2.1 2001:db8:2::1")
    topology.host("pod", pods="10.244.1.10/24 2001:db8:244::10/64", via="10.244.1.1 2001:db8:244::1")
    lvs = site(topology)
    lvs.put(node("node1", ["192.0.2.111", "2001:db8:2::111"], pod_cidrs=["10.244.1.0/24", "2001:db8:244::/64"]))
    rips = ["10.244.1.10", "2001:db8:244::10"]
    lvs.put(virtual_service("web", VIPS, "80:8080", rips, forwarding=forwarding))
    before = dumps(lvs, ("director", "node1"))
    lvs.start()
    serve(lvs["pod"], 8080)
    assert answered(lvs) == [3, 3]
    release_all(lvs, ("director", "node1"))
    assert differences(before, lvs) == ""


PLANTED = {
    "ipvs": "ipvsadm -A -t 192.0.2.77:80 -s rr",
    "addresses": "ip addr add 192.0.2.77/32 dev lo",
    "links": "ip link add planted type dummy",
    "routes": "ip route add 203.0.113.0/24 via 192.0.2.1 table 4321",
    "rules IPv6": "ip -6 rule add from 2001:db8:9::/64 lookup 4321",
    "nft": "nft add table inet planted",
    "fou": "ip fou add port 7777 gue",
    "sysctls": "sysctl -qw net.ipv4.vs.expire_nodest_conn=1",
}


def test_a_planted_difference_is_seen(site: MakeSite) -> None:
    """The test of these tests: what they compare sees each kind of thing that could be left behind."""
    host = site(one())["director"]
    for name, command in PLANTED.items():
        before = host.dump()
        host.run(*command.split())
        assert f"--- director {name}" in before.difference(host.dump()), command


def test_release_is_refused_while_the_agent_runs_and_has_nothing_to_do_the_second_time(site: MakeSite) -> None:
    lvs = make(site, CASES["DR"])
    before = dumps(lvs, HOSTS)
    lvs.start()
    working = lvs["director"].dump()
    said = ipvs_agent(lvs["director"], "release")
    assert said.status == 1
    assert "another ipvs-agent is at work with /var/lib/ipvs-operator; stop it first" in said.errors
    assert working.difference(lvs["director"].dump()) == ""
    release_all(lvs, HOSTS)
    assert ipvs_agent(lvs["director"], "release") == Said(0, "nothing of ours is here\n", "")
    assert differences(before, lvs) == ""
    assert state_files(lvs["director"]) in ([], ["lock"])


def test_release_says_what_it_took_away(site: MakeSite) -> None:
    lvs = make(site, CASES["NAT Masquerade"])
    lvs.start()
    lvs.stop()
    said = ipvs_agent(lvs["director"], "release")
    assert said.errors == ""
    for line in (
        "address 192.0.2.10 on eth0: gone",
        "service tcp 192.0.2.10:80: gone",
        "service tcp [2001:db8:2::10]:80: gone",
        "nftables tables ipvs-operator: gone",
        "sysctl net.ipv4.vs.conntrack: back to 0",
    ):
        assert line in said.output.splitlines(), said.output


def test_a_switch_that_somebody_changed_after_us_is_left_and_told(site: MakeSite) -> None:
    lvs = make(site, CASES["NAT Masquerade"])
    lvs.start("director")
    director = lvs["director"]
    assert director.sysctl("net.ipv4.vs.conntrack") == "1"
    lvs.stop()
    director.sysctl("net.ipv4.vs.expire_nodest_conn", 7)
    said = ipvs_agent(director, "release")
    assert "sysctl net.ipv4.vs.expire_nodest_conn: is 7, neither what was found (0) nor what we wrote (1); left" in (
        said.output + said.errors
    )
    assert said.status == 0, "all that is ours has gone; what is left is somebody's own"
    assert director.sysctl("net.ipv4.vs.expire_nodest_conn") == "7"
    assert director.sysctl("net.ipv4.vs.conntrack") == "0"
    assert state_files(director) in ([], ["lock"])


@pytest.mark.parametrize("name", ["NAT Masquerade", "NAT Gateway", "DR"])
def test_connections_and_drains_under_way_and_a_killed_agent_leave_nothing_either(site: MakeSite, name: str) -> None:
    lvs = make(site, CASES[name])
    before = dumps(lvs, HOSTS)
    lvs.start()
    serve_both(lvs)
    crowd = Crowd(lvs["client"], "192.0.2.10", 80)
    assert crowd.open(idle=10, streaming=10, downloads=10).intact == 30
    rip = lvs["rs1"].address()
    lvs.edit("web", addresses=["2001:db8:2::10"], backends={"static": [{"address": lvs["rs1"].address(family=6)}]})
    lvs.settled()
    assert re.search(rf"-r {rip}:\d+ -[mg] -w 0", "\n".join(lvs["director"].ipvs())), "it drains"
    for host in HOSTS:
        kill(lvs, host)
        assert ipvs_agent(lvs[host], "release").status == 0
    assert differences(before, lvs) == ""
    crowd.close()


def test_hosts_that_were_released_can_be_taken_into_service_again(site: MakeSite) -> None:
    lvs = make(site, CASES["TUN IPIP"])
    before = dumps(lvs, HOSTS)
    serve_both(lvs)
    for _ in range(2):
        lvs.start()
        assert answered(lvs) == [3, 3]
        release_all(lvs, HOSTS)
    assert differences(before, lvs) == ""


def test_release_without_the_state_database_says_what_it_cannot_know(site: MakeSite) -> None:
    lvs = make(site, CASES["DR"])
    lvs.start("director")
    lvs.stop()
    director = lvs["director"]
    said = ipvs_agent(director, "release", "--state-dir", "/run/elsewhere")
    assert said.status == 1
    assert "there was no /run/elsewhere/state.db, which knows our IPVS services" in said.errors
    assert "-A -t 192.0.2.10:80 -s rr -p 300" in director.ipvs(), "somebody else's, for all it knows"
    assert VIPS.split()[0] not in lvs.held("director")
