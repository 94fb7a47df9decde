"""Every scheduler that the kernel has, from a manifest to who answered; and what hangs together with choosing a server:
persistence, thresholds, one-packet scheduling."""

import socket
import time
from collections import Counter
from collections.abc import Sequence

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service

from ipvs_lab.net import Host, Topology, ask, clients, serve
from ipvs_lab.topologies import far, one

VIP = "192.0.2.10"
SERVERS = ("rs1", "rs2", "rs3")
MANY = [f"198.51.100.{last}" for last in range(10, 70)]

SPLIT = {"rs1": 4, "rs2": 3, "rs3": 2}
EVEN = {"rs1": 3, "rs2": 3, "rs3": 3}
FIRST = {"rs1": 9}
HELD = {
    "rr": EVEN,
    "wrr": SPLIT,
    "lc": EVEN,
    "wlc": SPLIT,
    "sed": SPLIT,
    "nq": SPLIT,
    "ovf": {"rs1": 5, "rs2": 4},
    "fo": FIRST,
    "dh": None,
    "sh": None,
    "mh": None,
    "lblc": None,
    "lblcr": None,
    "twos": None,
}
"""How nine connections that one client holds spread over weights 4, 3 and 2; None: as the hash or the dice say.
``ovf`` fills the heaviest until it has more than its weight (``ip_vs_ovf_schedule``)."""


@pytest.fixture
def lvs(site: MakeSite) -> Site:
    """DR; every host serves any port from 8000 to 8013; the client has sixty more addresses."""
    made = site(one(), nodes=SERVERS)
    more = "".join(f"addr add {address}/24 dev eth0\n" for address in MANY)
    made["client"].run("ip", "-batch", "-", stdin=more)
    return made


def weighted(lvs: Site, *weights: int) -> list[dict[str, str | int]]:
    rips = lvs.servers(*SERVERS[: len(weights)])
    return [{"address": rip, "weight": weight} for rip, weight in zip(rips, weights, strict=True)]


def servers(lvs: Site) -> list[Host]:
    return [lvs[name] for name in SERVERS]


def hold(host: Host, port: int, count: int) -> tuple[Counter[str], list[socket.socket]]:
    """Connections one after the other, all of them left open; who answered how many."""
    held = []
    for _ in range(count):
        with host.inside():
            sock = socket.create_connection((VIP, port), 3)
        held.append(sock)
        sock.sendall(b"who\n")
    return Counter(sock.recv(100).split()[0].decode() for sock in held), held


def test_each_scheduler_is_accepted_read_back_and_splits_as_it_should(lvs: Site) -> None:
    ports = dict(zip(HELD, range(8000, 9000), strict=False))
    lvs.put(
        *(
            virtual_service(name, VIP, number, weighted(lvs, 4, 3, 2), forwarding="DR", scheduler=name)
            for name, number in ports.items()
        )
    )
    lvs.start()
    for number in ports.values():
        serve(servers(lvs), number)
    kernel = lvs["director"].ipvs()
    options = {"sh": " -b sh-fallback", "mh": " -b mh-fallback"}
    for name, number in ports.items():
        assert f"-A -t {VIP}:{number} -s {name}{options.get(name, '')}" in kernel
    for name, number in ports.items():
        spread, held = hold(lvs["client"], number, 9)
        for sock in held:
            sock.close()
        assert spread.total() == 9
        assert spread == (HELD[name] or spread), name
        if name in ("dh", "sh", "mh"):
            assert len(spread) == 1, f"{name}: one client of one address stays"


def by_client(lvs: Site, port: int = 80) -> dict[str, str]:
    """Which server each of many client addresses reaches."""
    told = clients(lvs["client"], len(MANY), VIP, port, sources=MANY)
    assert not told.errors, str(told)
    return {client: server for server, seen in told.seen.items() for client in seen}


def test_sh_brings_a_client_to_the_same_server_again(lvs: Site) -> None:
    lvs.put(virtual_service("web", VIP, 80, lvs.servers(*SERVERS), forwarding="DR", scheduler="sh"))
    lvs.start()
    serve(servers(lvs), 80)
    first = by_client(lvs)
    assert set(first.values()) == set(SERVERS)
    assert by_client(lvs) == first


def test_sh_and_mh_hash_the_port_too_where_told(lvs: Site) -> None:
    flags = {"forwarding": "DR", "schedulerFlags": ["Port"]}
    lvs.put(virtual_service("sh", VIP, 80, lvs.servers(*SERVERS), scheduler="sh", **flags))
    lvs.put(virtual_service("mh", VIP, 81, lvs.servers(*SERVERS), scheduler="mh", **flags))
    lvs.start()
    for number, name in ((80, "sh"), (81, "mh")):
        serve(servers(lvs), number)
        assert f"-A -t {VIP}:{number} -s {name} -b {name}-port" in lvs["director"].ipvs()
        assert len(clients(lvs["client"], 30, VIP, number).answers) == 3, "one address, many ports"


def test_mh_moves_only_the_clients_of_a_server_that_leaves(lvs: Site) -> None:
    lvs.put(virtual_service("web", VIP, 80, lvs.servers(*SERVERS), forwarding="DR", scheduler="mh"))
    lvs.start()
    serve(servers(lvs), 80)
    before = by_client(lvs)
    assert set(before.values()) == set(SERVERS)
    lvs.put(virtual_service("web", VIP, 80, lvs.servers("rs1", "rs2"), forwarding="DR", scheduler="mh"))
    lvs.settled()
    draining = by_client(lvs)
    time.sleep(200)  # closed connections are over, and so is the drain
    assert not [line for line in lvs["director"].ipvs() if lvs["rs3"].address() in line]
    for after in (draining, by_client(lvs)):
        assert set(after.values()) == {"rs1", "rs2"}
        moved = [client for client in MANY if before[client] not in ("rs3", after[client])]
        assert len(moved) <= len(MANY) // 20, "few of those who had no reason to move"


NAMES = ("rr", "lc", "dh", "lblc", "lblcr", "wrr")


def test_what_a_scheduler_does_not_look_at_is_told(lvs: Site) -> None:
    for number, name in enumerate(NAMES, 8000):
        lvs.put(virtual_service(name, VIP, number, weighted(lvs, 2, 1), forwarding="DR", scheduler=name))
    lvs.start("director")
    text = lvs.agent("director", "status").splitlines()
    notes = {name: [line for line in text if f"default/{name}: Accepted" in line] for name in NAMES}
    assert "treats all weights above 0 alike; wrr looks at them" in notes["rr"][0]
    assert "treats all weights above 0 alike; wlc looks at them" in notes["lc"][0]
    for name in ("dh", "lblc", "lblcr"):
        assert f"{name} chooses by the destination address, so each address goes to one" in notes[name][0]
    assert not notes["wrr"]


def in_turn(lvs: Site, count: int, sources: Sequence[str] = ()) -> Counter[str]:
    told = clients(lvs["client"], count, VIP, 80, sources=sources)
    assert not told.errors, str(told)
    return told.answers


def test_persistence_keeps_a_network_of_clients_with_one_server_until_its_timeout(lvs: Site) -> None:
    lvs["client"].hold("eth0", "203.0.113.7")
    lvs["router"].run("ip", "route", "add", "203.0.113.7", "via", "198.51.100.2")
    persistence = {"timeoutSeconds": 300, "ipv4PrefixLength": 24}
    rips = lvs.servers(*SERVERS)
    lvs.put(virtual_service("web", VIP, 80, rips, forwarding="DR", persistence=persistence))
    lvs.start()
    serve(servers(lvs), 80)
    assert f"-A -t {VIP}:80 -s rr -p 300 -M 255.255.255.0" in lvs["director"].ipvs()
    [(first, count)] = in_turn(lvs, 12, MANY).items()
    assert count == 12
    [other] = in_turn(lvs, 3, ["203.0.113.7"])
    assert other != first, "rr went on for the next network"
    time.sleep(290)
    assert list(in_turn(lvs, 3, MANY)) == [first]
    time.sleep(600)
    assert list(in_turn(lvs, 3, MANY)) != [first], "forgotten, so rr went on"


def test_a_server_takes_no_more_than_its_connections_and_again_when_there_are_fewer(lvs: Site) -> None:
    limited = [{"address": lvs["rs1"].address(), "maxConnections": 3, "resumeConnections": 2}]
    lvs.put(virtual_service("web", VIP, 80, limited, forwarding="DR"))
    lvs.start()
    serve(servers(lvs), 80)
    thresholds = lvs["director"].run("ipvsadm", "-Ln", "--thresholds").stdout.split()
    assert thresholds[thresholds.index("192.0.2.101:80") :] == ["192.0.2.101:80", "3", "2", "0", "0"], "upper, lower"
    spread, held = hold(lvs["client"], 80, 3)
    assert spread == {"rs1": 3}
    with pytest.raises(ConnectionRefusedError):
        ask(lvs["client"], VIP, 80)
    lvs.edit("web", backends={"static": [*limited, {"address": lvs["rs2"].address()}]})
    lvs.settled()
    assert in_turn(lvs, 4) == {"rs2": 4}
    for sock in held[:2]:
        sock.close()
    time.sleep(150)  # closed ones count until they are forgotten
    assert in_turn(lvs, 8) == {"rs1": 2, "rs2": 6}, "one is held, two may come, and then it is full again"
    held[2].close()


@pytest.mark.parametrize(("forwarding", "topology"), [("DR", one()), ("TUN", far())], ids=["DR", "TUN"])
def test_one_packet_scheduling_sends_each_datagram_to_the_next_server(
    site: MakeSite, forwarding: str, topology: Topology
) -> None:
    lvs = site(topology, nodes=SERVERS)
    rips = lvs.servers(*SERVERS)
    lvs.put(virtual_service("dns", VIP, "53/UDP", rips, forwarding=forwarding, onePacket=True))
    lvs.put(virtual_service("flows", VIP, "54/UDP", rips, forwarding=forwarding))
    lvs.start()
    for number in (53, 54):
        serve(servers(lvs), number, "udp")
    assert f"-A -u {VIP}:53 -s rr -o" in lvs["director"].ipvs()
    told = clients(lvs["client"], 9, VIP, 53, "udp", source_ports=[5000])
    assert told.answers == EVEN, str(told)
    told = clients(lvs["client"], 9, VIP, 54, "udp", source_ports=[5000])
    assert len(told.answers) == 1, "without it, a client's port is a flow"
