"""The IPVS table on a real kernel, checked with ``ipvsadm``."""

import errno
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from ipvs_agent.kernel.genetlink import FamilyMissingError, GenericFamily
from ipvs_agent.kernel.ipvs import IpvsTable
from ipvs_agent.kernel.ipvs_codec import MarkService
from ipvs_agent.kernel.timeouts import Timeouts
from ipvs_agent.services import (
    AF_INET,
    FLAG_FALLBACK,
    FLAG_ONE_PACKET,
    FLAG_PERSISTENT,
    FLAG_PORT,
    FWD_DIRECT,
    FWD_NAT,
    FWD_TUNNEL,
    TUNNEL_GRE,
    TUNNEL_GUE,
    TUNNEL_IPIP,
    Destination,
    Head,
    destination_key,
    pack_destination,
    pack_key,
    pack_row,
)
from ipvs_agent.table import Change, Verdict, diff
from ipvs_lab.net import Host, Network, Topology, ask, await_condition, serve

MakeNetwork = Callable[[Topology], Network]

SCHEDULERS = ("rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "mh", "sed", "nq", "fo", "ovf", "twos")
VIP, VIP6 = "192.0.2.10", "2001:db8:2::10"
KEY = pack_key("TCP", VIP, 80)
HEAD, HEAD6 = Head("wlc", 0, 0, 32), Head("wlc", 0, 0, 128)
RS1, RS2, RS3 = (Destination(f"10.0.0.1{n}", 8080, FWD_NAT, 1) for n in (1, 2, 3))


def row(*destinations: Destination, head: Head = HEAD) -> bytes:
    return pack_row(head, map(pack_destination, destinations))


@pytest.fixture
def director(network: MakeNetwork) -> Host:
    topology = Topology()
    topology.lan("lan")
    topology.host("director", lan="192.0.2.2/24 2001:db8:2::2/64 10.0.0.1/24")
    return network(topology)["director"]


@pytest.fixture
def table(director: Host) -> Iterator[IpvsTable]:
    with director.call(IpvsTable) as made:
        yield made


def write(table: IpvsTable, key: bytes, new: bytes | None, old: bytes | None = None) -> tuple[Verdict, str]:
    (outcome,) = table.write([Change(key, old, new)])
    assert outcome.key == key
    return outcome.verdict, outcome.message


DONE = (Verdict.DONE, "")


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_every_scheduler_is_taken_and_read_back(director: Host, table: IpvsTable, scheduler: str) -> None:
    wanted = row(RS1, RS2, head=Head(scheduler, 0, 0, 32))
    assert write(table, KEY, wanted) == DONE
    assert table.read([KEY]) == {KEY: wanted}
    assert director.ipvs() == [
        f"-A -t {VIP}:80 -s {scheduler}",
        f"-a -t {VIP}:80 -r 10.0.0.11:8080 -m -w 1",
        f"-a -t {VIP}:80 -r 10.0.0.12:8080 -m -w 1",
    ]


@pytest.mark.parametrize(("protocol", "option"), [("TCP", "-t"), ("UDP", "-u"), ("SCTP", "--sctp-service")])
def test_every_protocol_in_both_families(director: Host, table: IpvsTable, protocol: str, option: str) -> None:
    key, key6 = pack_key(protocol, VIP, 53), pack_key(protocol, VIP6, 53)
    wanted = {key: row(RS1), key6: row(Destination("2001:db8:2::11", 5353, FWD_NAT, 3), head=HEAD6)}
    assert {outcome.verdict for outcome in table.write(diff(wanted, {}))} == {Verdict.DONE}
    assert table.read() == wanted
    assert table.heads() == {key: wanted[key][:25], key6: wanted[key6][:25]}
    assert director.ipvs() == sorted(
        [
            f"-A {option} {VIP}:53 -s wlc",
            f"-a {option} {VIP}:53 -r 10.0.0.11:8080 -m -w 1",
            f"-A {option} [{VIP6}]:53 -s wlc",
            f"-a {option} [{VIP6}]:53 -r [2001:db8:2::11]:5353 -m -w 3",
        ]
    )


@pytest.mark.parametrize(
    ("address", "head", "told"),
    [
        (VIP, Head("rr", FLAG_PERSISTENT, 300, 24), "-s rr -p 300 -M 255.255.255.0"),
        (VIP6, Head("rr", FLAG_PERSISTENT, 60, 64), "-s rr -p 60 -M 64"),
        (VIP, Head("sh", FLAG_FALLBACK | FLAG_PORT, 0, 32), "-s sh -b sh-fallback,sh-port"),
        (VIP, Head("mh", FLAG_FALLBACK, 0, 32), "-s mh -b mh-fallback"),
        (VIP6, Head("mh", FLAG_PORT, 0, 128), "-s mh -b mh-port"),
        (VIP, Head("rr", FLAG_ONE_PACKET, 0, 32), "-s rr -o"),
    ],
)
def test_a_service_is_made_changed_and_told_with_all_its_fields(
    director: Host, table: IpvsTable, address: str, head: Head, told: str
) -> None:
    key, plain = pack_key("UDP", address, 53), row(head=HEAD if address == VIP else HEAD6)
    name = f"-A -u {VIP}:53" if address == VIP else f"-A -u [{VIP6}]:53"
    assert write(table, key, row(head=head)) == DONE
    assert director.ipvs() == [f"{name} {told}"]
    assert write(table, key, plain, old=row(head=head)) == DONE
    assert director.ipvs() == [f"{name} -s wlc"]
    assert table.read() == {key: plain}
    assert write(table, key, row(head=head), old=plain) == DONE
    assert director.ipvs() == [f"{name} {told}"]
    assert table.read() == {key: row(head=head)}


DESTINATIONS = [
    (RS1, "-m -w 1"),
    (RS1._replace(weight=0), "-m -w 0"),
    (RS1._replace(weight=65535), "-m -w 65535"),
    (RS1._replace(forwarding=FWD_DIRECT), "-g -w 1"),
    (RS1._replace(forwarding=FWD_TUNNEL, tunnel_type=TUNNEL_IPIP), "-i -w 1 --tun-type ipip"),
    (
        RS1._replace(forwarding=FWD_TUNNEL, tunnel_type=TUNNEL_GUE, tunnel_port=6080),
        "-i -w 1 --tun-type gue --tun-port 6080 --tun-nocsum",
    ),
    (RS1._replace(forwarding=FWD_TUNNEL, tunnel_type=TUNNEL_GRE), "-i -w 1 --tun-type gre --tun-nocsum"),
    (
        RS1._replace(forwarding=FWD_TUNNEL, tunnel_type=TUNNEL_GRE, tunnel_flags=1),
        "-i -w 1 --tun-type gre --tun-csum",
    ),
]


@pytest.mark.parametrize(("destination", "told"), DESTINATIONS)
def test_a_real_server_is_made_changed_in_place_and_told_with_all_its_fields(
    director: Host, table: IpvsTable, destination: Destination, told: str
) -> None:
    service, name = f"-A -t {VIP}:80 -s wlc", f"-a -t {VIP}:80 -r 10.0.0.11:8080"
    assert write(table, KEY, row(destination)) == DONE
    assert director.ipvs() == [service, f"{name} {told}"]
    before = destination
    for other, words in DESTINATIONS:
        assert write(table, KEY, row(other), old=row(before)) == DONE
        assert director.ipvs() == [service, f"{name} {words}"]
        assert table.read([KEY]) == {KEY: row(other)}
        before = other


def test_connection_thresholds_are_written_changed_and_read(director: Host, table: IpvsTable) -> None:
    def told() -> list[str]:
        lines = director.run("ipvsadm", "-Ln", "--thresholds").stdout.splitlines()
        return next(line for line in lines if "10.0.0.11:8080" in line).split()[2:5]

    limited = row(RS1._replace(upper=2**31 - 1, lower=2))
    assert write(table, KEY, limited) == DONE
    assert told() == [str(2**31 - 1), "2", "0"]
    assert table.read([KEY]) == {KEY: limited}
    assert write(table, KEY, row(RS1._replace(upper=7)), old=limited) == DONE
    assert told() == ["7", "0", "0"]


def test_a_real_server_of_the_other_family_is_reached_by_tunnel(director: Host, table: IpvsTable) -> None:
    wanted = row(Destination("2001:db8:2::11", 80, FWD_TUNNEL, 1))
    assert write(table, KEY, wanted) == DONE
    assert director.ipvs()[1] == f"-a -t {VIP}:80 -r [2001:db8:2::11]:80 -i -w 1 --tun-type ipip"
    assert table.read([KEY]) == {KEY: wanted}
    verdict, message = write(table, pack_key("TCP", VIP, 81), row(Destination("2001:db8:2::11", 80, FWD_NAT, 1)))
    assert verdict is Verdict.FAILED
    assert "TCP 192.0.2.10:81, real server [2001:db8:2::11]:80: a real server of the other address family" in message


def test_real_servers_are_added_changed_and_removed_in_one_write(director: Host, table: IpvsTable) -> None:
    old, new = row(RS1, RS2), row(RS2._replace(weight=5), RS3, head=Head("rr", 0, 0, 32))
    assert write(table, KEY, old) == DONE
    assert write(table, KEY, new, old=old) == DONE
    assert director.ipvs() == [
        f"-A -t {VIP}:80 -s rr",
        f"-a -t {VIP}:80 -r 10.0.0.12:8080 -m -w 5",
        f"-a -t {VIP}:80 -r 10.0.0.13:8080 -m -w 1",
    ]
    assert write(table, KEY, None, old=new) == DONE
    assert director.ipvs() == []
    assert table.read() == {}


def test_a_service_without_real_servers_is_read_and_a_missing_one_left_out(table: IpvsTable) -> None:
    missing = pack_key("TCP", VIP, 81)
    assert write(table, KEY, row()) == DONE
    assert table.read(iter([missing, KEY])) == {KEY: row()}
    assert table.activity([missing, KEY]) == {KEY: {}}


def test_a_service_with_more_real_servers_than_one_datagram_tells_is_read_whole(table: IpvsTable) -> None:
    wanted = row(*(Destination(f"10.9.{n >> 8}.{n & 255}", 80, FWD_NAT, n) for n in range(1, 1000)))
    assert write(table, KEY, wanted) == DONE
    assert table.read([KEY]) == {KEY: wanted}
    assert len(table.activity([KEY])[KEY]) == 999


def test_services_by_firewall_mark_are_left_alone_and_told(director: Host, table: IpvsTable) -> None:
    director.run("ipvsadm", "-A", "-f", "77", "-s", "sh")
    director.run("ipvsadm", "-a", "-f", "77", "-r", "10.0.0.11", "-g")
    before = director.ipvs()
    assert table.services() == ({}, [MarkService(AF_INET, 77, "sh")])
    assert table.read() == {}
    assert write(table, KEY, row(RS1)) == DONE
    assert write(table, KEY, None, old=row(RS1)) == DONE
    assert director.ipvs() == before


def test_a_service_that_somebody_made_first_is_left_as_it_is(director: Host, table: IpvsTable) -> None:
    director.run("ipvsadm", "-A", "-t", f"{VIP}:80", "-s", "rr")
    director.run("ipvsadm", "-a", "-t", f"{VIP}:80", "-r", "10.0.0.99:80", "-m")
    before = director.ipvs()
    verdict, message = write(table, KEY, row(RS1, RS2))
    assert (verdict, message) == (
        Verdict.UNKNOWN,
        f"TCP {VIP}:80: the service is there already, changed by somebody else meanwhile",
    )
    assert director.ipvs() == before


def test_a_service_that_somebody_removed_is_looked_at_again(director: Host, table: IpvsTable) -> None:
    old = row(RS1, RS2)
    for new in (None, row(RS1), row(RS1, RS2, RS3), row(RS1, RS2, head=Head("rr", 0, 0, 32))):
        verdict, message = write(table, KEY, new, old=old)
        assert verdict is Verdict.UNKNOWN
        assert f"TCP {VIP}:80" in message
        assert "the service is gone" in message
    assert director.ipvs() == []


@pytest.mark.parametrize(
    ("command", "new", "told"),
    [
        ("-d", row(RS1), "10.0.0.12:8080: the real server is gone"),
        ("-d", row(RS1, RS2._replace(weight=9)), "10.0.0.12:8080: the real server is gone"),
        ("-a", row(RS1, RS2, RS3), "10.0.0.13:8080: the real server is there already"),
    ],
)
def test_a_real_server_that_somebody_changed_is_looked_at_again(
    director: Host, table: IpvsTable, command: str, new: bytes, told: str
) -> None:
    old = row(RS1, RS2)
    assert write(table, KEY, old) == DONE
    address = "10.0.0.12:8080" if command == "-d" else "10.0.0.13:8080"
    director.run("ipvsadm", command, "-t", f"{VIP}:80", "-r", address, *(["-m"] if command == "-a" else []))
    verdict, message = write(table, KEY, new, old=old)
    assert verdict is Verdict.UNKNOWN
    assert told in message
    assert write(table, KEY, new, old=table.read([KEY])[KEY]) == DONE
    assert table.read([KEY]) == {KEY: new}


def test_an_unknown_scheduler_fails_with_its_module_and_makes_nothing(director: Host, table: IpvsTable) -> None:
    good = pack_key("TCP", VIP, 81)
    outcomes = table.write([Change(KEY, None, row(RS1, head=Head("maglev", 0, 0, 32))), Change(good, None, row(RS1))])
    assert [outcome.verdict for outcome in outcomes] == [Verdict.FAILED, Verdict.DONE]
    assert f"TCP {VIP}:80: the kernel has no scheduler maglev" in outcomes[0].message
    assert "modprobe ip_vs_maglev" in outcomes[0].message
    assert director.ipvs() == [f"-A -t {VIP}:81 -s wlc", f"-a -t {VIP}:81 -r 10.0.0.11:8080 -m -w 1"]
    verdict, message = write(table, good, row(RS1, head=Head("maglev", 0, 0, 32)), old=row(RS1))
    assert verdict is Verdict.FAILED
    assert "modprobe ip_vs_maglev" in message


@pytest.mark.parametrize(
    ("refused", "told"),
    [
        (RS2._replace(address="224.0.0.1"), "224.0.0.1:8080: 224.0.0.1 is not a unicast address"),
        (RS2._replace(weight=2**31), "10.0.0.12:8080: weight 2147483648 is above"),
        (RS2._replace(upper=1, lower=2), "10.0.0.12:8080: lower connection threshold 2 is above"),
        (RS2._replace(forwarding=FWD_TUNNEL, tunnel_type=TUNNEL_GUE), "10.0.0.12:8080: a GUE tunnel needs a port"),
    ],
)
def test_a_refused_real_server_fails_its_service_and_spares_the_others(
    director: Host, table: IpvsTable, refused: Destination, told: str
) -> None:
    verdict, message = write(table, KEY, row(RS1, refused, RS3))
    assert verdict is Verdict.FAILED
    assert message.startswith(f"TCP {VIP}:80, real server {told}")
    assert [line.split()[4] for line in director.ipvs()[1:]] == ["10.0.0.11:8080", "10.0.0.13:8080"]


def test_more_failures_than_one_are_counted(table: IpvsTable) -> None:
    refused = [RS1._replace(address=f"224.0.0.{n}") for n in range(1, 6)]
    verdict, message = write(table, KEY, row(*refused, RS1))
    assert verdict is Verdict.FAILED
    assert message.endswith("(and 4 more)")


def test_a_namespace_whose_lo_is_down_is_told(director: Host) -> None:
    program = f"""
from ipvs_agent.kernel.ipvs import IpvsTable
from ipvs_agent.table import Change
print(IpvsTable().write([Change({KEY!r}, None, {row(RS1)!r})])[0].message)
"""
    told = director.run("unshare", "-n", sys.executable, "-c", program).stdout
    assert f"TCP {VIP}:80, real server 10.0.0.11:8080: " in told
    assert "ip link set lo up" in told


def test_lost_answers_are_unknown_and_the_table_is_usable_afterwards(director: Host, table: IpvsTable) -> None:
    servers = [RS1._replace(address=f"10.9.0.{n}") for n in range(1, 151)]
    with director.call(IpvsTable, receive_buffer=48 << 10) as lossy:  # room for two reads, not for 150 errors
        verdict, message = write(lossy, KEY, row(), old=row(*servers))  # there is no such service
        assert verdict is Verdict.UNKNOWN
        assert "(and 149 more)" in message
        assert write(lossy, KEY, row(*servers)) == DONE
        assert lossy.read() == {KEY: row(*servers)}
    assert table.read() == {KEY: row(*servers)}


def test_what_was_not_heard_is_unknown(director: Host, table: IpvsTable) -> None:
    keys = [pack_key("TCP", VIP, port) for port in range(1, 201)]
    with director.call(IpvsTable, receive_buffer=1) as deaf:  # the kernel gives its least: 2 kB, an error or two
        assert write(deaf, keys[-1], row()) == DONE
        outcomes = deaf.write([Change(key, row(), None) for key in keys])
        assert {outcome.verdict for outcome in outcomes[-100:]} == {Verdict.UNKNOWN}
        assert "the kernel's answer was lost" in outcomes[-1].message
    assert table.read() == {}


def test_activity_counts_a_clients_connection(network: MakeNetwork) -> None:
    topology = Topology()
    topology.lan("lan")
    topology.host("client", lan="192.0.2.1/24")
    topology.host("director", lan=f"192.0.2.2/24 {VIP}/32")
    net = network(topology)
    serve([net["director"]], 8080)
    server = Destination("192.0.2.2", 8080, FWD_NAT, 1)
    with net["director"].call(IpvsTable) as table:
        assert write(table, KEY, row(server, RS2._replace(weight=0))) == DONE
        assert ask(net["client"], VIP, 80).server == "director"
        name, idle = (destination_key(pack_destination(one)) for one in (server, RS2))
        await_condition(lambda: table.activity([KEY])[KEY][name].scheduled == 1, what="the estimator's snapshot")
        found = table.activity([KEY])[KEY]
    assert found.keys() == {name, idle}
    assert found[name].active + found[name].inactive == 1
    assert found[name].packets_in >= 4
    assert found[name].packets_out >= 3
    assert found[name].bytes_in > 100
    assert found[idle].packets == 0


def test_timeouts_are_set_and_read(director: Host, table: IpvsTable) -> None:
    assert table.timeouts() == Timeouts(900, 120, 300)
    table.set_timeouts(Timeouts(tcp=1200, tcp_fin=0, udp=60))
    assert table.timeouts() == Timeouts(1200, 120, 60)
    assert "1200 120 60" in director.run("ipvsadm", "-Ln", "--timeout").stdout
    with pytest.raises(OSError, match="IPVS time-outs"):
        table.set_timeouts(Timeouts(tcp=2**31, tcp_fin=0, udp=0))


def test_information_is_that_of_the_kernel(director: Host, table: IpvsTable) -> None:
    first_line = director.run("ipvsadm", "-Ln").stdout.splitlines()[0]
    assert f"version {table.info().version} " in first_line
    assert f"size={table.info().connection_buckets})" in first_line


def test_a_kernel_without_the_family_is_told_with_its_module() -> None:
    with pytest.raises(FamilyMissingError, match=r"has no NOSUCH: load its module \(modprobe no_such\)"):
        GenericFamily("NOSUCH", "no_such")


def test_a_module_that_was_loaded_anew_is_found_again(director: Host, table: IpvsTable) -> None:
    family = table._family.identifier
    table._family.identifier = 999
    verdict, _ = write(table, KEY, row(RS1))
    assert verdict is Verdict.UNKNOWN
    assert table._family.identifier == family
    assert director.ipvs() == []
    table._family.identifier = 999
    assert table.read() == {}
    assert write(table, KEY, row(RS1)) == DONE
    assert len(director.ipvs()) == 2


def test_an_unprivileged_caller_is_told_what_is_missing(director: Host) -> None:
    program = f"""
from ipvs_agent.kernel.ipvs import IpvsTable
from ipvs_agent.table import Change
table = IpvsTable()
print(table.write([Change({KEY!r}, None, {row(RS1)!r})])[0].message)
try:
    table.read()
except OSError as failure:
    print(failure.errno)
"""
    told = director.run(
        "setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--reuid=1", sys.executable, "-c", program
    )  # fmt: skip
    assert "CAP_NET_ADMIN" in told.stdout
    assert str(errno.EPERM) in told.stdout.splitlines()


@pytest.mark.lab_timeout(300)
def test_five_thousand_services_are_written_and_read_and_ipvsadm_tells_the_same(
    director: Host, table: IpvsTable
) -> None:
    wanted, told = {}, []
    for n in range(5000):
        vip = f"10.1.{n >> 8}.{n & 255}"
        servers = [Destination(f"10.2.{n & 255}.{m}", 8080, FWD_NAT, m) for m in range(1, 11)]
        wanted[pack_key("TCP", vip, 80)] = row(*servers)
        told += [f"-a -t {vip}:80 -r {s.address}:8080 -m -w {s.weight}" for s in servers]
        told.append(f"-A -t {vip}:80 -s wlc")
    finished = [outcome for done in table.writing(diff(wanted, {})) for outcome in done.values()]
    assert len(finished) == 5000
    assert {outcome.verdict for outcome in finished} == {Verdict.DONE}
    assert table.read() == wanted
    # A dump of its own is incomplete while the kernel still resizes the table of services.
    await_condition(lambda: director.ipvs() == sorted(told), what="ipvsadm tells the same")
    keys = list(wanted)
    found = {}
    for at in range(0, 5000, 100):
        found |= table.read(keys[at : at + 100])
    assert found == wanted


@pytest.mark.realtime
def test_after_somebodys_flush_everything_is_written_again_about_as_fast_as_the_first_time(
    director: Host, table: IpvsTable
) -> None:
    wanted = {
        pack_key("TCP", f"10.1.{n >> 8}.{n & 255}", 80): row(
            *(Destination(f"10.2.{n & 255}.{m}", 8080, FWD_NAT, 1) for m in range(1, 11))
        )
        for n in range(2000)
    }

    def seconds_to_write() -> float:
        started = time.monotonic()
        assert {outcome.verdict for outcome in table.write(diff(wanted, {}))} == {Verdict.DONE}
        return time.monotonic() - started

    first = seconds_to_write()
    dumped = list(table.heads())
    assert set(dumped) == wanted.keys()
    director.run("ipvsadm", "-C")
    assert table.heads() == {}
    assert table.adding_order(wanted) == dumped[::-1]
    assert seconds_to_write() < 5 * first  # 40 times, where every destination is searched among all deleted ones
    assert table.read(wanted) == wanted
