"""What others made on a host stays, byte for byte, whatever the agent does; what gets in our way is told and left."""

import time

import pytest
from tests.kernel.commands import differences, dumps, release_all, section, status_lacks, status_says
from tests.kernel.conftest import MakeSite, Site, virtual_service

from ipvs_lab.net import Host, Topology, ask, await_condition, clients, serve
from ipvs_lab.net.dumps import Dump
from ipvs_lab.topologies import one

VIP, VIP6 = "192.0.2.10", "2001:db8:2::10"
HOSTS = ("director", "rs1")
RAISED = {"conf/eth0/forwarding", "vs/conntrack", "vs/expire_nodest_conn", "send_redirects", "force_forwarding"}

BEFORE = """
ipvsadm -A -t 192.0.2.200:80 -s wlc -p 100
ipvsadm -a -t 192.0.2.200:80 -r 10.9.9.9:8080 -m -w 7 -x 5 -y 2
ipvsadm -A -u [2001:db8:2::200]:53 -s sh -b sh-port
ipvsadm -A -f 7 -s rr -o
ip link set eth0 alias uplink
ip link add mine index 900 type dummy
ip link set mine up alias ipvs-operators-friend
ip link add theirs index 901 type ipip local any remote 198.51.100.77
ip addr add 203.0.113.9/24 dev eth0
ip addr add 192.0.2.210/32 dev mine
ip -6 addr add 2001:db8:77::9/64 dev mine nodad
ip route add 198.18.0.0/15 via 192.0.2.1 proto static metric 7
ip route add 198.18.7.0/24 via 192.0.2.1 table 11800
ip route add blackhole 198.18.8.0/24 table 11801 proto 99
ip rule add from 203.0.113.9 lookup 77 priority 11800
ip -6 rule add fwmark 0x100000/0x700000 lookup 77 priority 11801
ip fou add port 7777 gue
nft add table inet mine
nft add chain inet mine ipvs-operator { type filter hook input priority 5 ; }
nft add rule inet mine ipvs-operator ip daddr 192.0.2.10 counter accept comment "ipvs-operator"
nft add table ip ipvs-operator-2
nft add set ip ipvs-operator-2 vips { type ipv4_addr ; elements = { 192.0.2.10 } ; }
sysctl -qw net.ipv4.conf.lo.arp_ignore=2 net.ipv4.conf.all.log_martians=1 net.ipv4.vs.drop_entry=1
"""
AFTER = """
ipvsadm -A -t 192.0.2.201:443 -s mh -b mh-fallback
ipvsadm -a -t 192.0.2.201:443 -r 192.0.2.102 -g -w 3
ip addr add 203.0.113.19/28 dev eth0 label eth0:by-hand
ip -6 addr add 2001:db8:78::9/128 dev lo
ip route add 198.19.0.0/16 via 192.0.2.1 proto 42
ip rule add to 198.19.1.0/24 lookup 78 priority 11799
nft add table arp mine
nft add chain arp mine input { type filter hook input priority 0 ; }
sysctl -qw net.ipv4.conf.lo.rp_filter=1
"""


def by_hand(host: Host, commands: str) -> None:
    host.run("sh", "-ec", "\n".join(_quoted(line) for line in commands.strip().splitlines()))


def _quoted(line: str) -> str:
    """For the shell: braces, semicolons and words in quotes of ``nft`` as they are."""
    return f"nft '{line.removeprefix('nft ')}'" if line.startswith("nft ") else line


def make(site: MakeSite, topology: Topology | None = None) -> Site:
    """DR, NAT and TUN services on one director and one real server, both families."""
    lvs = site(topology or one(), nodes=["rs1"], gatewayAddresses=["192.0.2.250"])
    rips = [lvs["rs1"].address(family=family) for family in (4, 6)]
    lvs.put(virtual_service("web", f"{VIP} {VIP6}", 80, rips, forwarding="DR"))
    lvs.put(virtual_service("nat", "192.0.2.11", "80:8080", rips[:1], nat={"returnPath": "Gateway"}))
    lvs.put(virtual_service("masquerade", "2001:db8:2::12", "80:8080", rips[1:]))
    lvs.put(virtual_service("tunnel", "192.0.2.13", "53/UDP", rips[:1], forwarding="TUN"))
    return lvs


def taken(before: Dump, after: Dump) -> list[str]:
    """Lines of others that are not as they were: gone, or new without anything of ours in them."""
    changed = []
    for name in before.sections:
        if name == "sysctls":
            old, new = set(before.sections[name]), set(after.sections[name])
            changed += [line for line in sorted(old - new) if not any(part in line for part in RAISED)]
            continue
        rest = list(after.sections[name])
        for line in before.sections[name]:
            if line not in rest:
                changed.append(f"{name}: {line}")
            else:
                rest.remove(line)
    return changed


def lines(dump: Dump) -> set[tuple[str, str]]:
    """Every line with its section."""
    return {(name, line) for name, section in dump.sections.items() for line in section}


def serve_all(lvs: Site) -> None:
    for port in (80, 8080):
        serve(lvs["rs1"], port)
    serve(lvs["rs1"], 53, "udp")


def is_served(lvs: Site) -> None:
    for vip in (VIP, VIP6, "192.0.2.11", "2001:db8:2::12"):
        assert ask(lvs["client"], vip, 80).server == "rs1"
    assert ask(lvs["client"], "192.0.2.13", 53, "udp").server == "rs1"


def test_what_others_made_before_and_after_stays_byte_for_byte(site: MakeSite) -> None:
    lvs = make(site)
    for name in HOSTS:
        by_hand(lvs[name], BEFORE)
    before = dumps(lvs, HOSTS)
    made: dict[str, set[tuple[str, str]]] = {}
    lvs.start()
    serve_all(lvs)
    is_served(lvs)
    for name in HOSTS:
        programmed = lvs[name].dump()
        assert taken(before[name], programmed) == [], f"{name} after the first programming"
        by_hand(lvs[name], AFTER)
        made[name] = lines(lvs[name].dump()) - lines(programmed)
    working = dumps(lvs, HOSTS)
    director, rs1 = lvs["director"], lvs["rs1"]
    director.run("ipvsadm", "-D", "-t", f"{VIP}:80")
    director.run("ip", "addr", "del", f"{VIP}/32", "dev", "eth0")
    director.run("nft", "delete", "table", "inet", "ipvs-operator")
    rs1.run("ip", "addr", "del", f"{VIP}/32", "dev", "ipvs0")
    rs1.run("ip", "rule", "del", "priority", "11801", "fwmark", "0x100000/0x700000")
    time.sleep(70)
    for name in HOSTS:
        assert taken(working[name], lvs[name].dump()) == [], f"{name} after drift was mended"
    is_served(lvs)
    working = dumps(lvs, HOSTS)
    lvs.stop()
    lvs.start()
    assert differences(working, lvs) == "", "a restart changes nothing at all"
    release_all(lvs, HOSTS)
    for name in HOSTS:
        assert made[name] - lines(lvs[name].dump()) == set(), f"{name} after release"
        undo(lvs[name])
    assert differences(before, lvs) == ""


def undo(host: Host) -> None:
    """Take away what ``AFTER`` made; fails where something of it has gone."""
    by_hand(
        host,
        """
ipvsadm -D -t 192.0.2.201:443
ip addr del 203.0.113.19/28 dev eth0 label eth0:by-hand
ip -6 addr del 2001:db8:78::9/128 dev lo
ip route del 198.19.0.0/16 via 192.0.2.1 proto 42
ip rule del to 198.19.1.0/24 lookup 78 priority 11799
nft delete table arp mine
sysctl -qw net.ipv4.conf.lo.rp_filter=0
""",
    )


def test_a_foreign_service_on_our_vip_and_port_is_told_and_left_and_the_others_go_on(site: MakeSite) -> None:
    lvs = make(site)
    director = lvs["director"]
    by_hand(director, f"ipvsadm -A -t {VIP}:80 -s lc\nipvsadm -a -t {VIP}:80 -r 192.0.2.103 -g -w 5")
    lvs.start(ready=False)
    text = status_says(
        lvs,
        "director",
        "Coexistence=False ForeignEntry",
        f"IPVS service tcp {VIP}:80 is in the kernel already and not ours; it is left alone",
        f"ipvsadm -D -t {VIP}:80",
    )
    assert "Ready=False" in text
    time.sleep(90)
    assert [line for line in director.ipvs() if f"{VIP}:80" in line] == [
        f"-A -t {VIP}:80 -s lc",
        f"-a -t {VIP}:80 -r 192.0.2.103:80 -g -w 5",
    ]
    serve(lvs["rs1"], 8080)
    serve(lvs["rs1"], 80)
    for vip in (VIP6, "192.0.2.11", "2001:db8:2::12"):
        assert ask(lvs["client"], vip, 80).server == "rs1"
    director.run("ipvsadm", "-D", "-t", f"{VIP}:80")
    lvs.settled(timeout=120)
    assert ask(lvs["client"], VIP, 80).server == "rs1"
    status_lacks(lvs, "director", "Coexistence=False")


def test_a_foreign_service_on_another_port_of_our_vip_is_told_and_left(site: MakeSite) -> None:
    lvs = make(site)
    lvs.start()
    by_hand(lvs["director"], f"ipvsadm -A -u {VIP}:4500 -s rr\nipvsadm -A -t [{VIP6}]:443 -s rr")
    status_says(
        lvs,
        "director",
        "Coexistence=False",
        f"IPVS service udp {VIP}:4500 is in the kernel already and not ours, its address is one of our VIPs",
        f"ipvsadm -D -u {VIP}:4500",
        f"ipvsadm -D -t [{VIP6}]:443",
    )
    assert f"-A -u {VIP}:4500 -s rr" in lvs["director"].ipvs()
    serve_all(lvs)
    is_served(lvs)
    lvs.remove("VirtualService", "web")
    await_condition(lambda: VIP not in lvs.held("director"), 30, "the VIP gone")
    time.sleep(60)
    assert [line for line in lvs["director"].ipvs() if f"{VIP}:" in line] == [f"-A -u {VIP}:4500 -s rr"]
    status_lacks(lvs, "director", "Coexistence=False")


def test_kube_proxy_in_ipvs_mode_is_told(site: MakeSite) -> None:
    lvs = make(site)
    lvs.start("director")
    by_hand(lvs["director"], "ip link add kube-ipvs0 type dummy")
    status_says(lvs, "director", "Coexistence=False", "kube-ipvs0 exists: kube-proxy", "excludeCIDRs")
    lvs["director"].run("ip", "link", "del", "kube-ipvs0")
    status_lacks(lvs, "director", "Coexistence=False")


def test_our_vip_on_the_interface_by_somebodys_hand_is_told_and_left(site: MakeSite) -> None:
    lvs = make(site)
    director = lvs["director"]
    director.hold("eth0", VIP)
    found = section(director, "addresses", rf"inet {VIP}/")
    lvs.start(ready=False)
    status_says(lvs, "director", "Coexistence=False", f"{VIP} is on eth0 already and not ours: remove it there")
    assert section(director, "addresses", rf"inet {VIP}/") == found
    serve(lvs["rs1"], 80)
    assert ask(lvs["client"], VIP6, 80).server == "rs1"
    director.run("ip", "addr", "del", f"{VIP}/32", "dev", "eth0")
    lvs.settled(timeout=120)
    assert ask(lvs["client"], VIP, 80).server == "rs1"


def test_a_foreign_link_of_our_name_is_told_and_left(site: MakeSite) -> None:
    lvs = make(site)
    by_hand(lvs["rs1"], "ip link add ipvs0 type dummy\nip link set ipvs0 up\nip addr add 203.0.113.77/32 dev ipvs0")
    found = section(lvs["rs1"], "addresses", "203.0.113.77")
    lvs.start(ready=False)
    status_says(lvs, "rs1", "Coexistence=False", "link ipvs0 (dummy) is there already and not ours", "ip link delete")
    assert VIP not in lvs.held("rs1"), "nothing of ours goes on it"
    assert section(lvs["rs1"], "addresses", "203.0.113.77") == found
    lvs["rs1"].run("ip", "link", "del", "ipvs0")
    lvs.settled(timeout=120)
    serve(lvs["rs1"], 80)
    assert clients(lvs["client"], 3, VIP, 80).answers == {"rs1": 3}


@pytest.mark.parametrize("kind", ["gue", "fou"])
def test_somebodys_own_udp_port_for_tunnels_is_left(site: MakeSite, kind: str) -> None:
    lvs = make(site)
    rs1 = lvs["rs1"]
    rs1.run("ip", "fou", "add", "port", "6080", *(["gue"] if kind == "gue" else ["ipproto", "4"]))
    before = rs1.dump()
    lvs.edit("tunnel", tunnel={"type": "GUE", "port": 6080})
    lvs.start(ready=False)
    if kind == "fou":
        status_says(lvs, "rs1", "Coexistence=False", "UDP port 6080 (IPv4) is taken", "choose another port")
    else:
        serve(rs1, 53, "udp")
        lvs.settled(timeout=90)
        assert ask(lvs["client"], "192.0.2.13", 53, "udp").server == "rs1"
    time.sleep(70)
    assert "drift" not in lvs.agents["rs1"].output()
    release_all(lvs, HOSTS)
    assert before.difference(rs1.dump()) == ""
