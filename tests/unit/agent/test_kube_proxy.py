"""What is said to people who run kube-proxy in IPVS mode beside us."""

import pytest

from ipvs_agent.kernel.kube_proxy import Configuration, Ipvs, objection

RANGES = ("192.0.2.0/28", "192.0.2.32-192.0.2.34", "2001:db8::10")


def ipvs(*excluded: str) -> Configuration:
    return Configuration("ipvs", Ipvs(list(excluded)))


@pytest.mark.parametrize(
    ("told", "lacking"),
    [
        (Configuration("ipvs"), "192.0.2.0/28, 192.0.2.32/31, 192.0.2.34/32, 2001:db8::10/128"),
        (ipvs("192.0.2.0/24"), "2001:db8::10/128"),
        (ipvs("192.0.2.0/29", "192.0.2.32/30", "::/0"), "192.0.2.0/28"),
        (ipvs("0.0.0.0/0"), "2001:db8::10/128"),
    ],
)
def test_networks_that_are_not_excluded_are_named(told: Configuration, lacking: str) -> None:
    words = objection(told, RANGES)
    assert f"set ipvs.excludeCIDRs in its configuration so that it has {lacking}, and ipvs.strictARP to true" in words


@pytest.mark.parametrize("told", [ipvs("0.0.0.0/0", "::/0"), Configuration("nftables"), Configuration("iptables")])
def test_nothing_is_said_where_all_are_excluded_or_another_mode_left_its_link(told: Configuration) -> None:
    assert objection(told, RANGES) == ""


def test_nothing_is_said_where_no_address_can_be_here() -> None:
    assert objection(Configuration("ipvs"), ()) == ""


def test_one_that_does_not_tell_its_configuration_is_taken_for_one_that_excludes_nothing() -> None:
    words = objection(None, RANGES)
    assert "does not tell its configuration on 127.0.0.1:10249" in words
    assert "192.0.2.0/28" in words
