"""What is taken away drains: established connections end in peace, new ones go elsewhere, times are kept."""

import socket
import time
from collections.abc import Sequence

import pytest
from tests.kernel.conftest import MakeSite, Site, virtual_service
from tests.kernel.crowds import FLAG, SERVERS, VIP, Held, fork_agent, has, kill, serve_all

from ipvs_lab.net import await_condition, clients, serve
from ipvs_lab.topologies import one

LATE = 3.0
"""Seconds after its time within which a drain must be over: looked at every two seconds."""


@pytest.fixture
def lvs(site: MakeSite) -> Site:
    """A director and three real servers on one network, no agent yet."""
    made = site(one(), nodes=SERVERS)
    serve_all(made)
    return made


def static(lvs: Site, *names: str) -> dict[str, Sequence[dict[str, str]]]:
    return {"static": [{"address": rip} for rip in lvs.servers(*names)]}


def line(lvs: Site, name: str, method: str = "NAT", weight: int = 1) -> str:
    """A real server of ``web`` as ``ipvsadm -Sn`` shows it."""
    return f"-a -t {VIP[4]}:80 -r {lvs[name].address()}:80 {FLAG[method]} -w {weight}"


def rips(lvs: Site) -> set[str]:
    return {words.split()[4] for words in lvs["director"].ipvs() if words.startswith("-a")}


def gone(lvs: Site, name: str, timeout: float) -> float:
    """Seconds until a real server is no longer in the kernel."""
    started = time.monotonic()
    rip = f"{lvs[name].address()}:80"
    await_condition(lambda: rip not in rips(lvs), timeout, f"{name} is deleted", every=0.2)
    return time.monotonic() - started


@pytest.mark.parametrize("method", ["NAT", "DR"])
def test_a_drained_server_finishes_half_closed_downloads_and_is_deleted_once_quiet(lvs: Site, method: str) -> None:
    spec = {"forwarding": method, "drain": {"timeoutSeconds": 300}}
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers(*SERVERS), **spec))
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(downloads=30, size=200_000)  # twenty seconds each
    started = time.monotonic()
    assert held.report.by_server == dict.fromkeys(SERVERS, 10)
    lvs.edit("web", backends=static(lvs, "rs1", "rs2"))
    has(lvs, line(lvs, "rs3", method, 0))
    shown = lvs["director"].run("ipvsadm", "-Ln").stdout
    (counts,) = [words.split()[4:] for words in shown.splitlines() if lvs["rs3"].address() in words]
    assert counts == ["0", "10"], "half-closed connections are inactive ones for IPVS"
    assert clients(lvs["client"], 10, VIP[4], 80).answers == {"rs1": 5, "rs2": 5}
    gone(lvs, "rs3", 300)
    took = time.monotonic() - started
    report = held.crowd.finish()
    print(report)
    assert (report.intact, report.complete, report.bytes) == (30, 30, 30 * 200_000), str(report)
    assert 26 <= took <= 26 + 2 * LATE, f"twenty seconds of download and six of silence: {took:.1f} s"


def test_a_server_with_connections_that_do_not_end_is_deleted_at_its_timeout(lvs: Site) -> None:
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers(*SERVERS), drain={"timeoutSeconds": 25}))
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=30, streaming=3)
    lvs.edit("web", backends=static(lvs, "rs1", "rs2"))
    has(lvs, line(lvs, "rs3", weight=0))
    started = time.monotonic()
    time.sleep(20)
    held.check("20 of 25 seconds of drain")
    gone(lvs, "rs3", 30)
    took = time.monotonic() - started
    assert 24 <= took <= 25 + LATE, f"{took:.1f} s"
    report = held.crowd.check()
    print(report)
    assert (report.intact, set(report.by_server)) == (22, {"rs1", "rs2"}), str(report)
    assert all(words.startswith("idle on rs3") and "reset" in words for words in report.broken if "idle" in words)


def test_a_server_that_comes_back_during_its_drain_has_its_weight_again(lvs: Site) -> None:
    servers = [{"address": rip, "weight": weight} for rip, weight in zip(lvs.servers(*SERVERS), (1, 1, 5), strict=True)]
    spec = {"scheduler": "wrr", "drain": {"timeoutSeconds": 30}}
    lvs.put(virtual_service("web", VIP[4], 80, servers, **spec))
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=21)
    assert held.report.by_server["rs3"] == 15
    lvs.edit("web", backends={"static": servers[:2]})
    has(lvs, line(lvs, "rs3", weight=0))
    view = lvs.view("director")
    assert view is not None
    assert [server.address for server in view.node.status.draining] == [lvs["rs3"].address()]
    time.sleep(10)
    lvs.edit("web", backends={"static": servers})
    has(lvs, line(lvs, "rs3", weight=5), timeout=2)
    assert clients(lvs["client"], 7, VIP[4], 80).answers == {"rs1": 1, "rs2": 1, "rs3": 5}
    time.sleep(60)
    has(lvs, line(lvs, "rs3", weight=5), timeout=1)
    held.check("a drain that was called off")
    view = lvs.view("director")
    assert view is not None
    assert view.node.status.draining == ()


@pytest.mark.parametrize("restarted", ["restarted", "killed"])
def test_a_restart_in_the_middle_of_a_drain_keeps_its_deadline(lvs: Site, restarted: str) -> None:
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers(*SERVERS), drain={"timeoutSeconds": 60}))
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=9)
    lvs.edit("web", backends=static(lvs, "rs1", "rs2"))
    has(lvs, line(lvs, "rs3", weight=0))
    started = time.monotonic()
    time.sleep(20)
    if restarted == "killed":
        kill(lvs, "director")
    else:
        lvs.stop("director")
    time.sleep(10)
    fork_agent(lvs, "director")
    time.sleep(20)
    held.check("50 of 60 seconds of drain")
    gone(lvs, "rs3", 60)
    took = time.monotonic() - started
    assert 59 <= took <= 60 + LATE, f"{took:.1f} s"
    lvs.settled()


def test_a_server_whose_drain_ended_while_no_agent_ran_goes_when_one_starts(lvs: Site) -> None:
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers(*SERVERS), drain={"timeoutSeconds": 30}))
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=9)
    lvs.edit("web", backends=static(lvs, "rs1", "rs2"))
    has(lvs, line(lvs, "rs3", weight=0))
    lvs.stop("director")
    time.sleep(100)
    held.check("a drain that nobody ends")
    fork_agent(lvs, "director")
    assert gone(lvs, "rs3", 30) <= LATE


@pytest.mark.parametrize("method", ["NAT", "DR"])
def test_a_removed_udp_server_gets_no_packet_more(lvs: Site, method: str) -> None:
    serve_all(lvs, 53, "udp")
    lvs.put(virtual_service("dns", VIP[4], "53/UDP", lvs.servers(*SERVERS), forwarding=method))
    lvs.start()
    with lvs["client"].inside():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.settimeout(3)
        sock.connect((VIP[4], 53))

        def who() -> str:
            sock.send(b"who\n")
            return sock.recv(100).split()[0].decode()

        first = who()
        assert [who() for _ in range(5)] == [first] * 5, "the same port stays on its server"
        rest = [name for name in SERVERS if name != first]
        lvs.edit("dns", backends=static(lvs, *rest))
        await_condition(lambda: f"{lvs[first].address()}:53" not in rips(lvs), 5, "deleted at once", every=0.05)
        with lvs[first].capture("eth0", "udp port 53") as seen:
            assert {who() for _ in range(20)} <= set(rest)
        assert seen.packets() == []


@pytest.mark.parametrize("method", ["NAT", "DR"])
def test_a_removed_virtual_service_drains_and_then_all_of_it_goes(lvs: Site, method: str) -> None:
    empty = {name: lvs[name].dump().sections for name in ("director", *SERVERS)}
    spec = {"forwarding": method, "drain": {"timeoutSeconds": 120}}
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers(*SERVERS), **spec))
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(downloads=30, size=150_000)
    lvs.remove("VirtualService", "web")
    has(lvs, *(line(lvs, name, method, 0) for name in SERVERS))
    assert VIP[4] in lvs.held("director")
    told = clients(lvs["client"], 5, VIP[4], 80, timeout=2)
    assert not told.answers, f"nobody new is let in: {told}"
    report = held.crowd.finish()
    print(report)
    assert (report.intact, report.complete) == (30, 30), str(report)
    await_condition(lambda: not lvs["director"].ipvs(), 30, "the service goes once its servers are quiet")
    assert VIP[4] not in lvs.held("director")
    assert VIP[4] not in lvs["director"].nft(), "guard, masquerade and whatever else names it"
    time.sleep(130)  # a real server cannot know when directors have let go: it keeps its role for the drain time
    for name, before in empty.items():
        now = lvs[name].dump().sections
        same = ("ipvs", "links", "addresses", "routes", "routes IPv6", "rules", "rules IPv6")
        assert {section: now[section] for section in same} == {section: before[section] for section in same}, name
        assert VIP[4] not in lvs[name].nft(), name


def test_a_persistent_client_of_a_drained_server_goes_elsewhere_with_its_next_connection(lvs: Site) -> None:
    spec = {"persistence": {"timeoutSeconds": 600}, "drain": {"timeoutSeconds": 120}}
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers(*SERVERS), **spec))
    lvs.start()
    held = Held(lvs, VIP[4])
    held.open(idle=5, streaming=5)
    (server,) = held.report.by_server
    assert clients(lvs["client"], 5, VIP[4], 80).answers == {server: 5}
    rest = [name for name in SERVERS if name != server]
    lvs.edit("web", backends=static(lvs, *rest))
    has(lvs, line(lvs, server, weight=0))
    (other,) = clients(lvs["client"], 5, VIP[4], 80).answers
    assert other in rest
    held.check("draining the server that a client is bound to")
    assert clients(lvs["client"], 5, VIP[4], 80).answers == {other: 5}
    started = time.monotonic()
    gone(lvs, server, 200)
    assert time.monotonic() - started <= 120 + LATE


def test_two_services_with_drains_of_their_own_keep_their_own_times(lvs: Site) -> None:
    serve([lvs[name] for name in SERVERS], 8080)
    lvs.put(virtual_service("web", VIP[4], 80, lvs.servers(*SERVERS), drain={"timeoutSeconds": 20}))
    lvs.put(virtual_service("app", VIP[4], 8080, lvs.servers(*SERVERS), drain={"timeoutSeconds": 50}))
    lvs.start()
    crowds = {port: Held(lvs, VIP[4], port) for port in (80, 8080)}
    for held in crowds.values():
        held.open(idle=9)
    edited = {}
    for name in ("web", "app"):
        edited[name] = time.monotonic()
        lvs.edit(name, backends=static(lvs, "rs1", "rs2"))
    draining = {
        name: f"-a -t {VIP[4]}:{port} -r {lvs['rs3'].address()}:{port} {FLAG['NAT']} -w 0"
        for name, port in (("web", 80), ("app", 8080))
    }
    has(lvs, *draining.values())
    seen = time.monotonic()
    for name, timeout in (("web", 20), ("app", 50)):
        await_condition(
            lambda name=name: draining[name] not in lvs["director"].ipvs(), 60, f"{name} drained", every=0.2
        )
        ended = time.monotonic()
        assert timeout <= ended - edited[name], name
        assert ended - seen <= timeout + LATE, name
