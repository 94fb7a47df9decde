from typing import Any

import pytest

from ipvs_lab.net.topology import Topology, host_batch, impairment, switch_batch, switch_tc_batch
from ipvs_lab.topologies import TOPOLOGIES


def two_networks() -> Topology:
    topology = Topology()
    topology.lan("outside")
    topology.lan("inside", delay="2ms", loss="1%", mtu=1400)
    topology.host("client", outside="192.0.2.1/24 2001:db8::1/64", via="192.0.2.2")
    topology.host("director", outside="192.0.2.2/24", inside="10.0.0.1/24", forwarding=True)
    return topology


def test_the_switch_gets_a_bridge_for_each_lan_and_a_cable_for_each_port() -> None:
    assert switch_batch(two_networks()).splitlines() == [
        "link add outside mtu 1500 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "link set outside up",
        "link add inside mtu 1400 type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        "link set inside up",
        "link add h1p0 mtu 1500 type veth peer name eth0 netns client address 02:00:00:00:01:00 mtu 1500",
        "link set h1p0 master outside up",
        "link add h2p0 mtu 1500 type veth peer name eth0 netns director address 02:00:00:00:02:00 mtu 1500",
        "link set h2p0 master outside up",
        "link add h2p1 mtu 1400 type veth peer name eth1 netns director address 02:00:00:00:02:01 mtu 1400",
        "link set h2p1 master inside up",
    ]


def test_a_host_gets_its_addresses_and_gateways_and_nothing_is_tentative() -> None:
    client = two_networks().hosts["client"]
    assert host_batch(1, client).splitlines() == [
        "addr add 192.0.2.1/24 dev eth0",
        "addr add 2001:db8::1/64 dev eth0 nodad",
        "addr add fe80::ff:fe00:100/64 dev eth0 nodad",
        "route add default via 192.0.2.2",
    ]


def test_frames_are_impaired_once_on_their_way_across_a_lan() -> None:
    assert switch_tc_batch(two_networks()) == "qdisc add dev h2p1 root netem limit 10000 delay 2ms loss 1%\n"


def test_nothing_to_impair_is_no_netem() -> None:
    assert impairment() == ""


def test_a_router_forwards_in_both_families() -> None:
    settings = two_networks().hosts["director"].sysctls
    assert settings == {"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1"}


@pytest.mark.parametrize(
    ("name", "lan", "address", "complaint"),
    [
        ("client", "outside", "192.0.2.9/24", "two hosts called client"),
        ("other", "nowhere", "192.0.2.9/24", "LAN nowhere, which is not there; LANs are outside, inside"),
        ("other", "outside", "192.0.2.9", "192.0.2.9 on outside needs a prefix length"),
        ("other", "outside", "192.0.2.999/24", "192.0.2.999"),
        ("switch", "outside", "192.0.2.9/24", "switch"),
    ],
)
def test_a_mistake_in_a_topology_is_told_with_its_name(name: str, lan: str, address: str, complaint: str) -> None:
    addresses: dict[str, Any] = {lan: address}
    with pytest.raises(ValueError, match=complaint):
        two_networks().host(name, **addresses)


@pytest.mark.parametrize("name", TOPOLOGIES)
def test_named_topologies_have_unique_addresses(name: str) -> None:
    hosts = TOPOLOGIES[name]().hosts
    assert {"client", "router", "director", "rs1", "rs2", "rs3"} <= hosts.keys()
    addresses = [address for host in hosts.values() for port in host.ports for address in port.addresses]
    assert len(addresses) == len(set(addresses))
