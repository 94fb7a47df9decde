"""The static rules hang together, feature by feature, and the pure ones leave connection tracking off."""

import re

import pytest

from ipvs_agent.nft import ruleset
from ipvs_agent.nft.features import Chain, Feature
from ipvs_agent.nft.ruleset import RULES
from ipvs_agent.nft.sets import DERIVED, SETS, kernel_sets
from ipvs_agent.nft.static import commands, needed
from ipvs_agent.rows import HopKey, NftKey

TRACKING = {Feature.MASQUERADE, Feature.SECOND_HOP, Feature.RETURN}
IPVS_INPUT = 98
EVERY_FEATURE = pytest.mark.parametrize("feature", Feature)


def base_chains(feature: Feature) -> list[tuple[Chain, str, int]]:
    """With hook and priority."""
    found = []
    for chain in RULES[feature].chains:
        match = re.search(r"hook (\w+) priority (-?\d+)", chain.hook)
        if match:
            found.append((chain, match[1], int(match[2])))
    return found


@pytest.mark.parametrize("feature", [feature for feature in Feature if feature not in TRACKING])
def test_pure_features_do_not_turn_connection_tracking_on(feature: Feature) -> None:
    text = "\n".join(commands(feature))
    assert not re.search(r"\bct\b|type nat|masquerade|[ds]nat", text.replace("ipvs-operator masquerade", ""))


@EVERY_FEATURE
def test_rules_name_the_sets_that_are_declared_and_no_others(feature: Feature) -> None:
    rules = RULES[feature]
    named = {name for chain in rules.chains for rule in chain.rules for name in re.findall(r"@(\w+)", rule)}
    assert named == {kernel for name in rules.sets for kernel in kernel_sets(name)}
    assert {SETS[name].family for name in rules.sets} == {rules.family}


@EVERY_FEATURE
def test_older_and_newer_nft_can_list_each_others_tables(feature: Feature) -> None:
    """nft 1.0.6 crashes on what 1.1.3 notes down about datatypes and anonymous maps."""
    for line in commands(feature):
        assert not re.search(r"^add (set|map) .*\{ type |map \{", line)


@EVERY_FEATURE
def test_rules_go_to_chains_that_were_made_before(feature: Feature) -> None:
    chains = [chain.name for chain in RULES[feature].chains]
    assert len(set(chains)) == len(chains)
    wanted = {
        name for chain in RULES[feature].chains for rule in chain.rules for name in re.findall(r"goto (\S+)", rule)
    }
    assert {name.rstrip(",") for name in wanted} <= set(chains)
    lines = commands(feature)
    assert max(i for i, line in enumerate(lines) if line.startswith("add chain")) < min(
        i for i, line in enumerate(lines) if line.startswith("add rule")
    )


def test_chains_of_different_features_have_different_names() -> None:
    names = [chain.name for rules in RULES.values() for chain in rules.chains]
    assert len(set(names)) == len(names)
    assert [name for name in names if name.startswith(("hop-", "mss-", "stamp-"))] == []


def test_guard_and_masquerade_decide_before_ipvs_takes_the_packet() -> None:
    for feature in (Feature.GUARD, Feature.MASQUERADE):
        for chain, hook, priority in base_chains(feature):
            assert hook != "input" or 0 < priority < IPVS_INPUT, chain


@EVERY_FEATURE
def test_the_documented_table_is_what_the_rules_are(feature: Feature) -> None:
    """The one place where people look names up."""
    assert ruleset.__doc__
    (line,) = [line for line in ruleset.__doc__.splitlines() if line.startswith(f"| {feature.name} |")]
    for chain, hook, priority in base_chains(feature):
        assert re.search(rf"``{chain.name}``: ((nat|route) )?{hook} {priority}\b", line), chain
    documented = set(re.findall(r"``([\w-]+)``", line)) - {"arp"}
    sets = set(RULES[feature].sets)
    if feature is Feature.UNTRACKED:  # it names the second hop's sets, too
        sets -= DERIVED
    undocumented = {name for name in sets if name not in documented and name.rstrip("46") not in documented}
    assert undocumented == set()


@pytest.mark.parametrize("name", SETS)
def test_every_set_needs_exactly_one_feature(name: str) -> None:
    (feature,) = needed([NftKey(name, ())], [])
    assert name in RULES[feature].sets
    assert needed([], [HopKey(4, "192.0.2.1", "tcp", 80)]) == {Feature.SECOND_HOP}
    assert needed([NftKey("nothing", ())], []) == set()
