"""Our dummy and tunnel links on a real kernel, checked with ``ip``."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipvs_agent.kernel.addresses import AddressesTable
from ipvs_agent.kernel.links import LinksTable
from ipvs_agent.kernel.rtnetlink import RouteSocket, route_socket
from ipvs_agent.rows import VIP_LINK, AddressKey, AddressRow, LinkRow
from ipvs_agent.table import Change, Table, Verdict, diff
from ipvs_lab.net import Host, Network, Topology

MakeNetwork = Callable[[Topology], Network]

FOREIGN = f"""
link add {VIP_LINK} type dummy
link add ivt-9 type dummy
link add foreign-tun type ipip local 192.0.2.2 remote 192.0.2.99
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


def put(table: Table[Any, Any], desired: dict[Any, Any]) -> None:
    """One pass of the loop: read, difference, write; nothing may be refused."""
    outcomes = table.write(diff(desired, table.read()))
    assert [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE] == []


def test_links_are_what_ip_says(host: Host, sock: RouteSocket) -> None:
    with host.inside():
        put(
            LinksTable(sock),
            {
                VIP_LINK: LinkRow("dummy"),
                "ivt-1": LinkRow("ipip", "192.0.2.2", "192.0.2.31"),
                "ivt-2": LinkRow("ipip", "192.0.2.2", "192.0.2.41", 5555),
                "ivt-3": LinkRow("ip6tnl", "2001:db8:2::2", "2001:db8:2::51"),
            },
        )
    shown = {link["ifname"]: link for link in host.links()}
    assert {"NOARP", "UP"} <= set(shown[VIP_LINK]["flags"])
    assert {shown[name]["ifalias"] for name in (VIP_LINK, "ivt-1", "ivt-2", "ivt-3")} == {"ipvs-operator"}
    ipip, gue, ipv6 = (shown[name]["linkinfo"]["info_data"] for name in ("ivt-1", "ivt-2", "ivt-3"))
    assert (ipip["local"], ipip["remote"], ipip["ttl"], ipip["pmtudisc"]) == ("192.0.2.2", "192.0.2.31", 64, True)
    assert (gue["encap"]["type"], gue["encap"]["dport"], gue["encap"]["sport"]) == ("gue", 5555, 0)
    assert (ipv6["proto"], ipv6["local"], ipv6["remote"]) == ("any", "2001:db8:2::2", "2001:db8:2::51")
    silent = [link for link in host.addresses() if link["ifname"] in (VIP_LINK, "ivt-1", "ivt-2", "ivt-3")]
    assert [link["addr_info"] for link in silent] == [[]] * 4


@pytest.mark.parametrize(
    "damage",
    [
        ("link", "set", VIP_LINK, "down"),
        ("link", "set", VIP_LINK, "arp", "on"),
        ("link", "set", VIP_LINK, "alias", "mine-now"),
        ("link", "set", "ivt-1", "down"),
        ("link", "set", "ivt-1", "type", "ipip", "ttl", "5"),
        ("link", "set", "ivt-6", "type", "ip6tnl", "mode", "ip6ip6"),
    ],
)
def test_a_damaged_link_is_mended_in_place(host: Host, sock: RouteSocket, damage: tuple[str, ...]) -> None:
    wanted = {
        VIP_LINK: LinkRow("dummy"),
        "ivt-1": LinkRow("ipip", "192.0.2.2", "192.0.2.31"),
        "ivt-6": LinkRow("ip6tnl", "2001:db8:2::2", "2001:db8:2::31"),
    }
    with host.inside():
        links = LinksTable(sock)
        put(links, wanted)
        put(AddressesTable(sock), {AddressKey(VIP_LINK, "192.0.2.10"): AddressRow()})
        before = host.dump()
        host.run("ip", *damage)
        assert [change.key for change in diff(wanted, links.read())] == [damage[2]]
        put(links, wanted)
        assert links.read() == wanted
    assert before.difference(host.dump()) == ""


def test_a_link_that_was_made_but_not_yet_named_is_known_as_ours(host: Host, sock: RouteSocket) -> None:
    host.run("ip", "link", "add", VIP_LINK, "group", "11800", "type", "dummy")
    with host.inside():
        links = LinksTable(sock)
        assert links.read() == {VIP_LINK: LinkRow("dummy", intact=False)}
        put(links, {VIP_LINK: LinkRow("dummy")})
    assert next(link for link in host.links() if link["ifname"] == VIP_LINK)["ifalias"] == "ipvs-operator"


def test_foreign_links_are_told_and_left_alone(host: Host, sock: RouteSocket) -> None:
    host.run("ip", "-batch", "-", stdin=FOREIGN)
    before = host.dump()
    with host.inside():
        links = LinksTable(sock)
        assert links.read() == {}
        taken, same_ends, gone = links.write(
            [
                Change(VIP_LINK, None, LinkRow("dummy")),
                Change("ivt-1", None, LinkRow("ipip", "192.0.2.2", "192.0.2.99")),
                Change("ivt-9", LinkRow("dummy"), None),
            ]
        )
    assert {taken.verdict, same_ends.verdict, gone.verdict} == {Verdict.FOREIGN}
    assert f"ip link delete {VIP_LINK}" in taken.message
    assert "foreign-tun" in same_ends.message
    assert before.difference(host.dump()) == ""


def test_one_peer_has_one_link_and_the_other_is_named(host: Host, sock: RouteSocket) -> None:
    with host.inside():
        links = LinksTable(sock)
        put(links, {"ivt-1": LinkRow("ipip", "192.0.2.2", "192.0.2.31")})
        (refused,) = links.write([Change("ivt-2", None, LinkRow("ipip", "192.0.2.2", "192.0.2.31", 5555))])
        put(
            links,
            {"ivt-1": LinkRow("ipip", "192.0.2.2", "192.0.2.31"), "ivt-2": LinkRow("gre", "192.0.2.2", "192.0.2.31")},
        )
    assert refused.verdict is Verdict.FAILED
    assert "ipip link ivt-1 has the outer addresses 192.0.2.2 and 192.0.2.31 already" in refused.message


def test_a_kind_that_the_kernel_lacks_is_told_with_its_module(host: Host, sock: RouteSocket) -> None:
    before = host.dump()
    with host.inside():
        (outcome,) = LinksTable(sock).write([Change("ivt-1", None, LinkRow("batadv"))])
    assert outcome.verdict is Verdict.FAILED
    assert "this kernel has no batadv links: load the module (modprobe batadv)" in outcome.message
    assert before.difference(host.dump()) == ""


def test_a_link_that_became_another_is_made_anew(host: Host, sock: RouteSocket) -> None:
    with host.inside():
        links = LinksTable(sock)
        put(links, {"ivt-1": LinkRow("ipip", "192.0.2.2", "192.0.2.31")})
        put(links, {"ivt-1": LinkRow("gre", "192.0.2.2", "192.0.2.32")})
    (shown,) = [link for link in host.links() if link["ifname"] == "ivt-1"]
    assert (shown["linkinfo"]["info_kind"], shown["linkinfo"]["info_data"]["remote"]) == ("gre", "192.0.2.32")
