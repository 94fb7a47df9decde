"""The lab's own promises, kept on a real kernel."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ipvs_lab.net import CommandFailed, Crowd, Network, Topology, ask, await_condition, clients, serve
from ipvs_lab.topologies import TOPOLOGIES

Up = Callable[[Topology], Network]
VIP = "192.0.2.2"


@pytest.fixture
def net(network: Up) -> Network:
    """A client and two servers on one LAN, in both families."""
    topology = Topology()
    topology.lan("lan")
    for number, name in enumerate(("client", "rs1", "rs2"), 1):
        topology.host(name, lan=f"192.0.2.{number}/24 2001:db8::{number}/64")
    return network(topology)


def test_a_host_reaches_another_at_once_in_both_families(net: Network) -> None:
    for address in (VIP, "2001:db8::2"):
        net["client"].run("ping", "-c1", "-W1", address)


@pytest.mark.parametrize("name", ["nat", "dr", "tun"])
def test_named_topologies_carry_the_first_packet_to_the_service_network(name: str) -> None:
    for _ in range(4):
        with Network(TOPOLOGIES[name]()) as net:
            for address in (net["director"].address("lan"), net["director"].address("lan", family=6)):
                net["client"].run("ping", "-c1", "-W1", address)


def test_real_servers_of_the_far_topology_are_reached_through_the_router_between(network: Up) -> None:
    net = network(TOPOLOGIES["tun"]())
    assert "from 10.0.0.11" in net["director"].run("ping", "-c1", "-t2", "10.0.0.11").stdout
    assert "Time to live exceeded" in net["director"].run("ping", "-c1", "-t1", "10.0.0.11", check=False).stdout


def test_no_host_sees_another_hosts_links_or_the_bridges(net: Network) -> None:
    names = net["rs1"].call(os.listdir, "/sys/class/net")
    assert "eth0" in names
    assert not any(name in names for name in ("lan", "h1p0", "eth1"))


def test_hosts_have_names_and_directories_of_their_own(net: Network) -> None:
    assert net["rs1"].run("hostname").stdout == "rs1\n"
    state = Path("/var/lib/ipvs-operator/state")
    net["rs1"].call(state.write_text, "mine")
    assert net["rs1"].run("cat", str(state)).stdout == "mine"
    assert not net["rs2"].call(state.exists)
    assert not state.exists()


def test_a_network_is_gone_when_its_block_is_left(network: Up) -> None:
    topology = Topology()
    topology.lan("lan")
    topology.host("only", lan="192.0.2.1/24")
    for _ in range(3):
        with Network(topology) as net:
            child = net["only"].popen("sleep", "1000")
            assert Path("/run/netns/only").exists()
        assert list(Path("/run/netns").iterdir()) == []
        assert child.exit_code == -signal.SIGKILL


def test_frames_are_lost_while_a_host_is_impaired_and_not_after(net: Network) -> None:
    net.impair("rs1", "lan", loss="100%")
    assert net["client"].run("ping", "-c1", "-W1", VIP, check=False).returncode == 1
    net.impair("rs1", "lan")
    net["client"].run("ping", "-c1", "-W1", VIP)


def test_a_slow_lan_delays_each_frame(network: Up) -> None:
    topology = Topology()
    topology.lan("slow", delay="100ms")
    topology.host("one", slow="192.0.2.1/24")
    topology.host("two", slow="192.0.2.2/24")
    output = network(topology)["one"].run("ping", "-c2", "192.0.2.2").stdout
    assert "min/avg/max/mdev = 200." in output


def test_an_unplugged_host_sees_its_link_down(net: Network) -> None:
    net.unplug("rs1", "lan")
    await_condition(lambda: net["rs1"].run("cat", "/sys/class/net/eth0/carrier").stdout == "0\n", what="link down")
    net.plug("rs1", "lan")
    await_condition(lambda: net["rs1"].run("cat", "/sys/class/net/eth0/carrier").stdout == "1\n", what="link up")


def test_a_capture_sees_the_arp_exchange_before_the_first_ping(net: Network) -> None:
    with net["rs1"].capture("eth0", "arp") as seen:
        net["client"].run("ping", "-c1", VIP)
    request, reply = [packet for packet in seen.packets() if packet.protocol == "arp"][:2]
    assert (request.type, request.source, request.destination, request.direction) == (1, "192.0.2.1", VIP, "in")
    assert (reply.type, reply.source, reply.direction) == (2, VIP, "out")
    assert reply.source_mac == net["rs1"].links_by_name()["eth0"]["address"]


def test_a_capture_keeps_only_what_its_filter_lets_through(net: Network) -> None:
    with net["rs1"].capture("eth0", "icmp6 and ip6[40] == 128") as seen:
        net["client"].run("ping", "-c1", VIP)
        net["client"].run("ping", "-c3", "-i0.2", "2001:db8::2")
    assert [(packet.protocol, packet.type) for packet in seen.packets()] == [("icmpv6", 128)] * 3


def test_a_wrong_filter_is_told_and_not_taken_as_silence(net: Network) -> None:
    with pytest.raises(CommandFailed, match="syntax error"):
        net["rs1"].capture("eth0", "no such filter")


def test_a_capture_of_all_links_can_be_read_by_tcpdump(net: Network, tmp_path: Path) -> None:
    with net["rs1"].capture() as seen:
        net["client"].run("ping", "-c1", VIP)
    seen.write_pcap(tmp_path / "all.pcap")
    text = net["rs1"].run("tcpdump", "-nn", "-r", str(tmp_path / "all.pcap"), "icmp").stdout
    assert "192.0.2.1 > 192.0.2.2: ICMP echo request" in text


@pytest.mark.parametrize("proto", ["tcp", "udp", "sctp"])
@pytest.mark.parametrize("address", [VIP, "2001:db8::2"])
def test_a_server_says_who_it_is_and_whom_it_saw(net: Network, proto: str, address: str) -> None:
    serve([net["rs1"], net["rs2"]], 80, proto)
    answer = ask(net["client"], address, 80, proto, source_port=40000)
    assert (answer.server, answer.port) == ("rs1", 40000)
    assert answer.address == net["client"].address(family=6 if ":" in address else 4)


def test_curl_is_answered_as_well(net: Network) -> None:
    serve(net["rs1"], 80, name="web")
    assert net["client"].run("curl", "-s", f"http://{VIP}/").stdout.split()[:2] == ["web", "192.0.2.1"]


def test_many_clients_are_counted_by_the_server_that_answered(net: Network) -> None:
    director = net["rs1"]
    serve([net["rs1"], net["rs2"]], 8080)
    director.run("ipvsadm", "-A", "-t", f"{VIP}:80", "-s", "rr")
    for server in (VIP, "192.0.2.3"):
        director.run("ipvsadm", "-a", "-t", f"{VIP}:80", "-r", f"{server}:8080", "-m")
    director.sysctl("net.ipv4.ip_forward", 1)
    net["rs2"].run("ip", "route", "add", "192.0.2.1/32", "via", VIP)
    histogram = clients(net["client"], 20, VIP, 80, at_once=5)
    assert histogram.answers == {"rs1": 10, "rs2": 10}
    assert histogram.errors == {}
    assert histogram.seen == {"rs1": {"192.0.2.1"}, "rs2": {"192.0.2.1"}}
    assert director.ipvs()[0] == f"-A -t {VIP}:80 -s rr"


def test_clients_that_are_not_answered_are_counted_by_what_happened(net: Network) -> None:
    assert clients(net["client"], 3, VIP, 81).errors == {"refused": 3}
    net["rs1"].run("ip", "addr", "del", "192.0.2.2/24", "dev", "eth0")
    assert clients(net["client"], 2, VIP, 81, timeout=1).errors == {"timeout": 2}
    assert clients(net["client"], 1, "192.0.2.77", 81, timeout=10).errors == {"unreachable": 1}
    with pytest.raises(ConnectionRefusedError):
        ask(net["client"], "192.0.2.3", 81)


def test_clients_take_the_source_addresses_they_are_given(net: Network) -> None:
    net["client"].run("ip", "addr", "add", "192.0.2.51/24", "dev", "eth0")
    serve(net["rs1"], 80)
    seen = clients(net["client"], 4, VIP, 80, sources=("192.0.2.1", "192.0.2.51")).seen
    assert seen == {"rs1": {"192.0.2.1", "192.0.2.51"}}


def test_two_hundred_connections_are_held_and_every_byte_is_checked(net: Network) -> None:
    serve(net["rs1"], 80)
    crowd = Crowd(net["client"], VIP, 80)
    assert crowd.open(idle=70, streaming=70, downloads=70, size=30_000).intact == 210
    time.sleep(2)
    crowd.open(idle=5, streaming=5, downloads=5, size=10_000)
    report = crowd.finish()
    assert (report.opened, report.intact, report.complete) == (225, 225, 75)
    assert report.broken == []
    assert report.by_server == {"rs1": 225}
    assert report.bytes >= 70 * 30_000 + 5 * 10_000


def test_broken_connections_are_told_apart_from_whole_ones(net: Network) -> None:
    server = serve(net["rs1"], 80)
    crowd = Crowd(net["client"], VIP, 80)
    crowd.open(idle=2, streaming=2, downloads=2)
    server.kill()
    server.wait()
    report = crowd.check()
    assert (report.opened, report.intact) == (6, 0)
    assert {line.split()[0] for line in report.broken} == {"idle", "streaming", "download"}


def test_connections_that_nobody_accepts_are_broken_from_the_start(net: Network) -> None:
    report = Crowd(net["client"], VIP, 80).open(idle=1)
    assert report.broken == ["idle on nobody after 0 bytes: refused"]


def test_a_dump_is_equal_while_nothing_changes_and_shows_a_planted_difference(net: Network) -> None:
    host = net["rs1"]
    before = host.dump()
    assert before.difference(host.dump()) == ""
    plants: list[tuple[str, tuple[str, ...]]] = [
        ("ipvs", ("ipvsadm", "-A", "-t", f"{VIP}:80", "-s", "wlc")),
        ("ipvs timeouts", ("ipvsadm", "--set", "901", "0", "0")),
        ("links", ("ip", "link", "add", "planted", "type", "dummy")),
        ("addresses", ("ip", "addr", "add", "192.0.2.99/32", "dev", "lo")),
        ("routes", ("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.1", "table", "77")),
        ("routes IPv6", ("ip", "-6", "route", "add", "blackhole", "2001:db8:f::/48")),
        ("rules", ("ip", "rule", "add", "fwmark", "7", "table", "77")),
        ("rules IPv6", ("ip", "-6", "rule", "add", "fwmark", "7", "table", "77")),
        ("fou", ("ip", "fou", "add", "port", "5555", "gue")),
        ("nft", ("nft", "add", "table", "inet", "planted")),
        ("sysctls", ("sysctl", "-w", "net.ipv4.conf.eth0.rp_filter=2")),
    ]
    for section, command in plants:
        host.run(*command)
        after = host.dump()
        assert f"+++ rs1 {section}\n" in before.difference(after), section
        before = after


def test_a_forked_callable_runs_on_its_host_and_ends_as_it_says(net: Network) -> None:
    def agent(status: int) -> int:
        print("hello from", socket.gethostname())
        return status

    child = net["rs1"].fork(agent, 3, name="agent")
    assert child.wait() == 3
    assert child.output() == "hello from rs1\n"


def test_a_forked_callable_that_raises_leaves_its_traceback_in_the_log(net: Network) -> None:
    def agent() -> None:
        raise ValueError("no such director")

    child = net["rs1"].fork(agent)
    assert child.wait() == 1
    assert "ValueError: no such director" in child.output()


def test_a_child_is_signalled_and_waited_for(net: Network) -> None:
    child = net["rs1"].popen("sh", "-c", "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.1; done")
    await_condition(lambda: child.output() == "ready\n", what="the trap is set")
    assert child.running()
    assert child.stop() == 7
    assert child.output() == "ready\ncaught\n"
    assert not child.running()


def test_a_child_that_does_not_end_in_time_is_told_with_its_output(net: Network) -> None:
    child = net["rs1"].popen("sh", "-c", "echo stuck; sleep 100", name="sluggard")
    with pytest.raises(AssertionError, match=r"rs1: sluggard was still running after 5 s; it wrote:\nstuck"):
        child.wait(5)


def test_a_call_on_a_host_returns_its_value_also_from_a_process_of_its_own(net: Network) -> None:
    mine = os.getpid()
    assert net["rs1"].call(os.getpid) == mine
    assert net["rs1"].call_forked(os.getpid) != mine
    assert net["rs1"].call_forked(socket.gethostname) == "rs1"


def test_after_a_call_this_process_is_where_it_was(net: Network) -> None:
    before = {name: Path(f"/proc/self/ns/{name}").readlink() for name in ("net", "mnt", "uts")}, Path.cwd()
    with pytest.raises(CommandFailed, match="rs1: false: status 1"):
        net["rs1"].run("false")
    with pytest.raises(ZeroDivisionError):
        net["rs1"].call(lambda: 1 // 0)
    assert before == ({name: Path(f"/proc/self/ns/{name}").readlink() for name in ("net", "mnt", "uts")}, Path.cwd())


def test_an_hour_of_waiting_costs_nothing_in_virtual_time() -> None:
    before = time.monotonic()
    time.sleep(3600)
    assert 3600 <= time.monotonic() - before < 3700


def test_what_is_written_to_system_directories_stays_in_memory() -> None:
    mounts = {line.split()[1]: line.split()[2] for line in Path("/proc/mounts").read_text().splitlines()}
    assert (mounts["/etc"], mounts["/var"], mounts["/run"]) == ("overlay", "overlay", "tmpfs")


@pytest.mark.realtime
def test_a_test_with_the_mark_has_a_clock_that_runs_by_itself() -> None:
    before = time.monotonic()
    while time.monotonic() - before < 0.01:
        pass  # under virtual time this would never end
    assert "time-travel" not in Path("/proc/cmdline").read_text()
