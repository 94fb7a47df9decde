"""Links, addresses, GUE ports, routes, rules and switches on a real kernel, checked with ``ip`` and ``sysctl``."""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from ipvs_agent.kernel.addresses import AddressesTable
from ipvs_agent.kernel.fou import FouTable
from ipvs_agent.kernel.links import LinksTable
from ipvs_agent.kernel.routes import RoutesTable
from ipvs_agent.kernel.rtnetlink import RouteSocket, route_socket
from ipvs_agent.kernel.rules import RulesTable
from ipvs_agent.kernel.sysctls import SysctlsTable
from ipvs_agent.rows import (
    VIP_LINK,
    AddressKey,
    AddressRow,
    FouKey,
    FouRow,
    LinkRow,
    RouteKey,
    RouteRow,
    RuleKey,
    RuleRow,
    SysctlRow,
)
from ipvs_agent.table import Change, Table, Verdict, diff
from ipvs_lab.net import Host, Network, Topology, await_condition

MakeNetwork = Callable[[Topology], Network]
State = Mapping[Any, Any]

FOREIGN = """
link add foreign0 type dummy
link set foreign0 up alias keep-me
link add foreign-tun type ipip local 192.0.2.2 remote 192.0.2.99
link add foreign1 group 11800 type dummy
link add foreign2 type dummy
link set foreign2 alias ipvs-operator
addr add 192.0.2.200/32 dev eth0
addr add 192.0.2.201/24 dev eth0
addr add 198.51.100.7/32 dev foreign0
addr add 2001:db8:2::200/128 dev eth0 nodad
route add 10.77.0.0/16 via 192.0.2.254 dev eth0
route add default via 192.0.2.254 dev eth0 table 11801 metric 77 proto static
rule add fwmark 0x100000/0x700000 lookup 200 priority 11800
rule add from 10.0.0.0/8 lookup 201 priority 11800
fou add port 6666 gue
fou add port 6667 ipproto 4
"""


@pytest.fixture
def host(network: MakeNetwork) -> Host:
    topology = Topology()
    topology.lan("lan")
    topology.host("node", lan="192.0.2.2/24 2001:db8:2::2/64")
    return network(topology)["node"]


@pytest.fixture
def sock(host: Host) -> Iterator[RouteSocket]:
    with host.call(route_socket) as opened:
        yield opened


@pytest.fixture
def fou(host: Host) -> Iterator[FouTable]:
    with host.inside():
        table = FouTable()
        yield table
        table.close()


def put(table: Table[Any, Any], desired: State) -> None:
    """One pass of the loop: read, difference, write; nothing may be refused."""
    outcomes = table.write(diff(desired, table.read()))
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


def some(numbers: random.Random, pool: list[tuple[Any, Callable[[random.Random], Any]]]) -> State:
    """A random part of the keys, each with a random row."""
    return {key: make(numbers) for key, make in numbers.sample(pool, numbers.randint(0, len(pool)))}


def assert_reaches_every_state(table: Table[Any, Any], states: list[State]) -> None:
    """``apply(observed, diff(desired, observed)) == desired``, from whatever the state before was."""
    for number, desired in enumerate(states):
        put(table, desired)
        assert table.read() == desired, f"state {number}"
        assert diff(desired, table.read()) == []


LINK_POOL: list[tuple[str, Callable[[random.Random], LinkRow]]] = [
    (VIP_LINK, lambda _: LinkRow("dummy")),
    *(
        (f"ivt-{n}", lambda r, n=n: LinkRow(r.choice(("ipip", "gre")), "192.0.2.2", f"192.0.2.{n}"))
        for n in (31, 32, 33)
    ),
    *(
        (f"ivt-{n}", lambda r, n=n: LinkRow("ipip", "192.0.2.2", f"192.0.2.{n}", r.choice((5555, 6080))))
        for n in (41, 42)
    ),
    *(
        (f"ivt-6{n}", lambda r, n=n: LinkRow(r.choice(("ip6tnl", "ip6gre")), "2001:db8:2::2", f"2001:db8:2::{n}"))
        for n in (51, 52)
    ),
    ("ivt-661", lambda r: LinkRow("ip6tnl", "2001:db8:2::2", "2001:db8:2::61", r.choice((5555, 6080)))),
]

ADDRESS_POOL: list[tuple[AddressKey, Callable[[random.Random], AddressRow]]] = [
    *((AddressKey(link, f"192.0.2.{n}"), lambda _: AddressRow()) for link in ("eth0", VIP_LINK) for n in (10, 11, 12)),
    *(
        (AddressKey(link, f"2001:db8:2::{n}"), lambda r: AddressRow(deprecated=r.random() < 0.5))
        for link in ("eth0", VIP_LINK)
        for n in (10, 11, 12)
    ),
]

FOU_POOL: list[tuple[FouKey, Callable[[random.Random], FouRow]]] = [
    (FouKey(family, port), lambda _: FouRow()) for family in (4, 6) for port in (5555, 6080, 65535)
]

ROUTE_POOL: list[tuple[RouteKey, Callable[[random.Random], RouteRow]]] = [
    *(
        (RouteKey(4, 11800 + n, target), lambda r: RouteRow(f"192.0.2.{r.randint(3, 9)}", "eth0"))
        for n in (2, 3, 7)
        for target in ("default", "10.9.0.0/16")
    ),
    *(
        (RouteKey(6, 11800 + n, target), lambda r: RouteRow(f"2001:db8:2::{r.randint(3, 9)}", "eth0"))
        for n in (2, 3, 7)
        for target in ("default", "2001:db8:9::/48")
    ),
    (RouteKey(4, 11804, "10.8.0.0/16"), lambda _: RouteRow("", "eth0", onlink=False)),
    (RouteKey(6, 11804, "2001:db8:8::/48"), lambda _: RouteRow("", "eth0", onlink=False)),
]

RULE_POOL: list[tuple[RuleKey, Callable[[random.Random], RuleRow]]] = [
    (RuleKey(family, 11800, n << 20, 0x70_0000), lambda r: RuleRow(r.randint(11801, 11807)))
    for family in (4, 6)
    for n in range(1, 8)
]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_every_table_reaches_every_state_and_leaves_foreign_things_as_they_were(
    host: Host, sock: RouteSocket, fou: FouTable, seed: int
) -> None:
    host.run("ip", "-batch", "-", stdin=FOREIGN)
    before = host.dump()
    numbers = random.Random(seed)
    with host.inside():
        links, addresses, routes, rules = (
            table(sock) for table in (LinksTable, AddressesTable, RoutesTable, RulesTable)
        )
        foreign_ports = fou.read()

        assert_reaches_every_state(links, [some(numbers, LINK_POOL) for _ in range(8)])
        put(links, {VIP_LINK: LinkRow("dummy")})
        assert_reaches_every_state(addresses, [some(numbers, ADDRESS_POOL) for _ in range(8)])
        assert_reaches_every_state(fou, [{**foreign_ports, **some(numbers, FOU_POOL)} for _ in range(6)])
        assert_reaches_every_state(routes, [some(numbers, ROUTE_POOL) for _ in range(8)])
        assert_reaches_every_state(rules, [some(numbers, RULE_POOL) for _ in range(8)])

        assert before.difference(host.dump()) != ""
        for table in (rules, routes, addresses, links):
            put(table, {})
        put(fou, foreign_ports)
    assert before.difference(host.dump()) == ""


def test_reading_by_key_gives_what_is_there_of_them(host: Host, sock: RouteSocket, fou: FouTable) -> None:
    numbers = random.Random(4)
    with host.inside():
        put(LinksTable(sock), {VIP_LINK: LinkRow("dummy")})
        for table, pool in (
            (LinksTable(sock), LINK_POOL),
            (AddressesTable(sock), ADDRESS_POOL),
            (fou, FOU_POOL),
            (RoutesTable(sock), ROUTE_POOL),
            (RulesTable(sock), RULE_POOL),
        ):
            state = {key: make(numbers) for key, make in pool}
            put(table, state)
            there, missing = numbers.sample(pool, 2)
            put(table, {key: row for key, row in state.items() if key != missing[0]})
            assert table.read([there[0], missing[0]]) == {there[0]: state[there[0]]}


def test_foreign_addresses_are_told_and_left_alone(host: Host, sock: RouteSocket) -> None:
    host.run("ip", "-batch", "-", stdin=FOREIGN)
    before = host.dump()
    keys = [AddressKey("eth0", address) for address in ("192.0.2.200", "192.0.2.201", "2001:db8:2::200", "192.0.2.2")]
    with host.inside():
        addresses = AddressesTable(sock)
        assert addresses.read() == {}
        assert addresses.foreign([*keys, AddressKey("eth0", "192.0.2.10")]) == set(keys)
        outcomes = addresses.write([Change(key, None, AddressRow()) for key in keys])
        outcomes += addresses.write([Change(key, AddressRow(), None) for key in keys])
        outcomes += addresses.write([Change(key, AddressRow(), AddressRow(deprecated=True)) for key in keys])
    assert {outcome.verdict for outcome in outcomes} == {Verdict.FOREIGN}
    assert "192.0.2.200 is on eth0 already" in outcomes[0].message
    assert before.difference(host.dump()) == ""


def test_what_sits_on_our_link_is_ours_whoever_put_it_there(host: Host, sock: RouteSocket) -> None:
    with host.inside():
        put(LinksTable(sock), {VIP_LINK: LinkRow("dummy")})
        host.run("ip", "addr", "add", "198.51.100.9/32", "dev", VIP_LINK)
        addresses = AddressesTable(sock)
        assert addresses.read() == {AddressKey(VIP_LINK, "198.51.100.9"): AddressRow()}
        put(addresses, {})
        assert addresses.read() == {}


def test_a_vip_of_ipv6_answers_at_once_and_is_never_a_source(network: MakeNetwork) -> None:
    topology = Topology()
    topology.lan("lan")
    topology.host("node", lan="2001:db8:2::2/64")
    topology.host("peer", lan="2001:db8:2::3/64")
    net = network(topology)
    # Nearer to the peer's address than the node's own: source selection (RFC 6724, rule 8) would take it.
    vip = "2001:db8:2::3:1"
    with net["node"].inside(), route_socket() as opened:
        put(AddressesTable(opened), {AddressKey("eth0", vip): AddressRow(deprecated=True)})
    # Duplicate address detection would take a second at least.
    groups = ("ip", "-6", "maddr", "show", "dev", "eth0")
    await_condition(lambda: "ff02::1:ff03:1" in net["node"].run(*groups).stdout, timeout=0.5, what="it listens")
    net["peer"].run("ping", "-c1", "-W1", vip)
    source = net["node"].json("ip", "-j", "route", "get", "2001:db8:2::3")[0]["prefsrc"]
    assert source == "2001:db8:2::2"
    (entry,) = [address for link in net["node"].addresses() for address in link["addr_info"] if address["local"] == vip]
    assert entry["deprecated"] is True
    assert "tentative" not in entry


def test_routes_and_rules_of_others_in_our_tables_are_told_and_left_alone(host: Host, sock: RouteSocket) -> None:
    host.run("ip", "route", "add", "10.9.0.0/16", "via", "192.0.2.254", "table", "11801", "proto", "static")
    before = host.dump()
    key, row = RouteKey(4, 11801, "10.9.0.0/16"), RouteRow("192.0.2.9", "eth0")
    with host.inside():
        routes = RoutesTable(sock)
        assert routes.read() == {}
        (added,) = routes.write([Change(key, None, row)])
        (deleted,) = routes.write([Change(key, row, None)])
        (nowhere,) = routes.write([Change(key, None, RouteRow("192.0.2.9", "eth7"))])
    assert added.verdict is Verdict.FOREIGN
    assert deleted.verdict is Verdict.DONE  # it is not there: that of others does not count
    assert nowhere.verdict is Verdict.FAILED
    assert "no interface eth7" in nowhere.message
    assert before.difference(host.dump()) == ""


def test_the_same_rule_by_somebody_elses_hand_stays_when_ours_goes(host: Host, sock: RouteSocket) -> None:
    host.run("ip", "rule", "add", "fwmark", "0x300000/0x700000", "lookup", "11803", "priority", "11800")
    before = host.dump()
    with host.inside():
        rules = RulesTable(sock)
        assert rules.read() == {}
        put(rules, {RuleKey(4, 11800, 0x30_0000, 0x70_0000): RuleRow(11803)})
        assert before.difference(host.dump()) != ""
        put(rules, {})
    assert before.difference(host.dump()) == ""


def test_a_port_that_is_in_use_is_told(host: Host, fou: FouTable) -> None:
    host.run("ip", "-batch", "-", stdin=FOREIGN)
    before = host.dump()
    with host.inside():
        plain_fou, gone = fou.write([Change(FouKey(4, 6667), None, FouRow()), Change(FouKey(4, 7777), FouRow(), None)])
    assert plain_fou.verdict is Verdict.FOREIGN
    assert "6667" in plain_fou.message
    assert gone.verdict is Verdict.DONE
    assert before.difference(host.dump()) == ""


def test_switches_are_raised_parents_first_and_only_as_far_as_needed(host: Host) -> None:
    forwarding, own = "net/ipv4/conf/all/forwarding", "net/ipv4/conf/eth0/forwarding"
    host.sysctl("net/ipv4/conf/eth0/rp_filter", 2)
    with host.inside():
        table = SysctlsTable()
        found = table.read([own, forwarding, "net/ipv4/conf/eth0/rp_filter", "net/ipv4/conf/eth7/rp_filter"])
        assert found == {
            own: SysctlRow(0),
            forwarding: SysctlRow(0),
            "net/ipv4/conf/eth0/rp_filter": SysctlRow(2),
        }
        # The parent writes through to the interface; the interface's own value must come after it to stand.
        table.write([Change(own, SysctlRow(0), SysctlRow(0)), Change(forwarding, SysctlRow(0), SysctlRow(1))])
        table.write([Change("net/ipv4/conf/eth0/rp_filter", SysctlRow(2), SysctlRow(1, at_least=True))])
        (missing,) = table.write([Change("net/ipv4/conf/eth7/rp_filter", None, SysctlRow(1))])
    assert host.sysctl(forwarding) == "1"
    assert host.sysctl(own) == "0"
    assert host.sysctl("net/ipv4/conf/eth0/rp_filter") == "2"
    assert missing.verdict is Verdict.FAILED
    assert "no such switch" in missing.message
