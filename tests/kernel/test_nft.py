"""Our nftables tables among other people's: made, changed, mended and taken away by whole transactions."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipvs_agent.kernel import nft_program
from ipvs_agent.kernel.nft import NftTable
from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.state import NftState
from ipvs_agent.rows import HopKey, HopRow, HopTarget, NftKey, NftRow
from ipvs_agent.table import Change, Outcome, Verdict, diff
from ipvs_lab.net import Host, Network, Topology

MakeNetwork = Callable[[Topology], Network]

FOREIGN = """
table inet firewall {
    set open4 { type ipv4_addr; elements = { 192.0.2.1 } }
    chain guard { type filter hook input priority 10; ip saddr @open4 counter packets 3 bytes 7 accept; }
}
table ip nat {
    chain post { type nat hook postrouting priority 100; oifname "eth9" masquerade; }
}
table arp filter {
    chain in { type filter hook input priority 0; policy accept; }
}
table ip6 ipvs-operator {
    comment "somebody else's, of another family"
}
"""
VIP = "192.0.2.10"
ELEMENTS = {
    NftKey("client_interfaces", ("eth0",)): NftRow(),
    NftKey("guarded4", (VIP,)): NftRow(),
    NftKey("open4", (VIP, "tcp", 80)): NftRow(),
    NftKey("open6", ("2001:db8::10", "sctp", 80)): NftRow(),
    NftKey("sources4", (VIP, "tcp", 80, "203.0.113.0/24")): NftRow(),
    NftKey("sources4", (VIP, "udp", 80, "203.0.113.7")): NftRow(),
    NftKey("sources6", ("2001:db8::10", "sctp", 80, "::/0")): NftRow(),
    NftKey("untracked4", (VIP, "udp", 53)): NftRow(),
    NftKey("masquerade4", (VIP, "tcp", 81)): NftRow(),
    NftKey("hop_targets4", ("10.0.0.11",)): NftRow(),
    NftKey("hop_clients6", ("2001:db8:10::/64",)): NftRow(),
    NftKey("return4", ("02:00:00:00:02:00", "10.0.0.11", "udp", 53)): NftRow((7,)),
    NftKey("no_redirects", ("eth0.5",)): NftRow(),
    NftKey("tunnel_links", ("ivt-00000001",)): NftRow(),
    NftKey("tunnel_vips6", ("2001:db8::10",)): NftRow(),
    NftKey("mss4", (VIP,)): NftRow((1400,)),
    NftKey("mss6", ("2001:db8::10",)): NftRow((1380,)),
    NftKey("gue_ports", (6080,)): NftRow(),
    NftKey("gue_sources4", ("192.0.2.2", 6080)): NftRow(),
    NftKey("silent4", (VIP,)): NftRow(),
    NftKey("own4", ("eth0",)): NftRow(("192.0.2.11",)),
}
TARGETS = (HopTarget("10.0.0.11", 8080), HopTarget("10.0.0.12", 8080, 3))
HOPS = {
    HopKey(4, VIP, "tcp", 80): HopRow(TARGETS, False, ("02:00:00:00:02:00", "02:00:00:00:03:00"), ("ivt-00000001",)),
    HopKey(4, VIP, "udp", 53): HopRow(TARGETS, True, (), ("ivt-00000001",)),
    HopKey(6, "2001:db8::10", "sctp", 80): HopRow((HopTarget("2001:db8:10::11", 8080),), True, ("02:00:00:00:02:00",)),
    HopKey(6, "2001:db8::11", "tcp", 1): HopRow((), False, ("02:00:00:00:02:00",)),
    HopKey(6, "2001:db8::11", "tcp", 2): HopRow(
        (HopTarget("2001:db8:10::11", 8080),), False, ("02:00:00:00:02:00",), directed_only=True
    ),
}


@pytest.fixture
def host(network: MakeNetwork) -> Host:
    topology = Topology()
    topology.lan("lan")
    topology.host("host", lan="192.0.2.11/24")
    return network(topology)["host"]


@pytest.fixture
def table() -> Iterator[NftTable]:
    with NftTable() as table:
        yield table


def make(
    host: Host, table: NftTable, elements: dict[NftKey, NftRow] | None = None, hops: dict[HopKey, HopRow] | None = None
) -> list[Outcome[NftKey | HopKey | Feature]]:
    """Make the tables hold exactly this; what did not work."""
    state = host.call(table.read)
    outcomes = host.call(table.write, diff(elements or {}, state.elements), diff(hops or {}, state.hops))
    return [outcome for outcome in outcomes if outcome.verdict is not Verdict.DONE]


def seen_anew(host: Host) -> NftState:
    """What an agent that has just started finds."""
    with NftTable() as fresh:
        return host.call(fresh.read)


def ours(host: Host) -> str:
    found = [
        host.run("nft", "-s", "list", "table", family, "ipvs-operator", check=False).stdout
        for family in ("inet", "arp")
    ]
    return "".join(found)


def test_what_was_written_is_read_back_by_a_new_agent(host: Host, table: NftTable) -> None:
    assert make(host, table, ELEMENTS, HOPS) == []
    state = seen_anew(host)
    assert state.elements == ELEMENTS
    assert state.hops == HOPS
    assert state.features == frozenset(Feature)
    assert (state.damage, state.outdated) == ("", False)
    assert make(host, table, ELEMENTS, HOPS) == []


def test_removing_everything_leaves_the_features_and_deleting_nothing_at_all(host: Host, table: NftTable) -> None:
    before = host.dump()
    make(host, table, ELEMENTS, HOPS)
    assert make(host, table) == []
    state = seen_anew(host)
    assert (state.elements, state.hops, state.features) == ({}, {}, frozenset(Feature))
    assert host.call(table.delete) == ""
    assert host.call(table.read) == NftState()
    assert before.difference(host.dump()) == ""


def test_other_peoples_tables_stay_as_they_are(host: Host, table: NftTable) -> None:
    host.run("nft", "-f", "-", stdin=FOREIGN)
    theirs = host.run("nft", "-a", "list", "ruleset").stdout
    make(host, table, ELEMENTS, HOPS)
    host.run("nft", "flush", "chain", "inet", "ipvs-operator", "guard")
    assert host.call(table.read).damage
    make(host, table, ELEMENTS, HOPS)
    assert host.call(table.read).damage == ""
    assert host.run("nft", "-a", "list", "ruleset").stdout.startswith(theirs)
    assert host.call(table.delete) == ""
    assert host.run("nft", "-a", "list", "ruleset").stdout == theirs


def test_adding_a_feature_leaves_the_rules_of_others_in_place(host: Host, table: NftTable) -> None:
    host.call(table.write, (), (), [Feature.MASQUERADE, Feature.GUARD])
    before = host.run("nft", "-a", "list", "table", "inet", "ipvs-operator").stdout
    rules = re.findall(r"^.* # handle \d+$", before.replace("stamp-", "# stamp-"), re.MULTILINE)
    host.call(table.write, (), (), [Feature.SECOND_HOP, Feature.SILENCE])
    after = host.run("nft", "-a", "list", "table", "inet", "ipvs-operator").stdout
    assert [rule for rule in rules if rule not in after and "stamp" not in rule] == []
    assert seen_anew(host).outdated is False


DAMAGES = {
    "a chain flushed": "flush chain inet ipvs-operator guard4",
    "a rule added": "add rule inet ipvs-operator guard counter",
    "a rule put before ours": "insert rule inet ipvs-operator masq accept",
    "a chain added": "add chain inet ipvs-operator theirs { type filter hook input priority 5; policy drop; }",
    "a policy changed": "add chain inet ipvs-operator guard { policy drop; }",
    "a set added": "add set inet ipvs-operator theirs { type ipv4_addr; }",
    "the stamp removed": "delete chain inet ipvs-operator STAMP",
    "a hop's rule removed": "flush chain inet ipvs-operator hop-tcp-192.0.2.10-80",
    "a hop's rule added": "add rule inet ipvs-operator hop-tcp-192.0.2.10-80 counter",
    "a hop's choice changed": (
        "replace rule inet ipvs-operator hop-tcp-192.0.2.10-80 handle HANDLE"
        ' numgen inc mod 4 < 3 meta l4proto tcp dnat ip to 10.0.0.11:8080 comment "1"'
    ),
    "a hop's element removed": "delete element inet ipvs-operator hops4 { 192.0.2.10 . tcp . 80 }",
    "an element to no hop": "add element inet ipvs-operator hop_macs4 { 02:00:00:00:09:09 . 192.0.2.9 . tcp . 80 }",
    "a size changed": "add rule inet ipvs-operator mss-1400 tcp option maxseg size set 500",
    "an element that expires": 'add element inet ipvs-operator guarded4 { 192.0.2.99 comment "x" }',
    "ARP rules flushed": "flush chain arp ipvs-operator silence-out",
    "the ARP table removed": "delete table arp ipvs-operator",
    "all of it removed": "delete table inet ipvs-operator; delete table arp ipvs-operator",
    "everybody's rules flushed": "flush ruleset",
    "the table put to sleep": "add table inet ipvs-operator { flags dormant; }",
}


@pytest.mark.parametrize("command", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_others_do_to_our_rules_is_found_and_mended(host: Host, table: NftTable, command: str) -> None:
    make(host, table, ELEMENTS, HOPS)
    before = ours(host)
    stamp = re.search(r"stamp-[-.0-9a-f]+", before)
    assert stamp
    handle = re.search(r"numgen inc mod 4 .* handle (\d+)", host.run("nft", "-a", "list", "ruleset").stdout)
    assert handle
    host.run("nft", command.replace("STAMP", stamp[0]).replace("HANDLE", handle[1]))
    assert ours(host) != before
    state = host.call(table.read)
    assert state.damage or state.outdated
    assert make(host, table, ELEMENTS, HOPS) == []
    assert sorted(ours(host).splitlines()) == sorted(before.splitlines())
    state = seen_anew(host)
    assert (state.elements, state.hops) == (ELEMENTS, HOPS)
    assert (state.damage, state.outdated) == ("", False)


def test_elements_and_hops_changed_by_others_are_plain_differences(host: Host, table: NftTable) -> None:
    make(host, table, ELEMENTS, HOPS)
    chain = "inet ipvs-operator hop-udp-192.0.2.10-53"
    host.run(
        "nft",
        "delete element inet ipvs-operator open4 { 192.0.2.10 . tcp . 80 };"
        "add element inet ipvs-operator guarded4 { 192.0.2.99 };"
        "delete element arp ipvs-operator own4 { eth0 };"
        "add element arp ipvs-operator own4 { eth0 : 192.0.2.99 };"
        "delete element inet ipvs-operator hop_macs4 { 02:00:00:00:03:00 . 192.0.2.10 . tcp . 80 };"
        f"flush chain {chain};"
        f"add rule {chain} ct mark set ct mark | 0x00080000;"
        f'add rule {chain} meta l4proto udp dnat ip to 10.0.0.99:53 comment "1"',
    )
    state = host.call(table.read)
    assert (state.damage, state.outdated) == ("", False)
    changed = {change.key for change in diff(ELEMENTS, state.elements)}
    assert {(key.set, key.element[0]) for key in changed} == {
        ("open4", VIP),
        ("guarded4", "192.0.2.99"),
        ("own4", "eth0"),
    }
    assert len(diff(HOPS, state.hops)) == 2
    make(host, table, ELEMENTS, HOPS)
    state = seen_anew(host)
    assert (state.elements, state.hops) == (ELEMENTS, HOPS)


def test_rules_of_another_version_are_replaced_and_their_elements_kept(host: Host, table: NftTable) -> None:
    make(host, table, ELEMENTS, HOPS)
    before = ours(host)
    for family in ("inet", "arp"):
        listed = host.run("nft", "list", "table", family, "ipvs-operator").stdout
        stamp = re.search(r"stamp-[-.0-9a-f]+", listed)
        assert stamp
        host.run(
            "nft", f"delete chain {family} ipvs-operator {stamp[0]}; add chain {family} ipvs-operator stamp-00000000-0"
        )
    host.run("nft", "delete rule inet ipvs-operator guard4 handle " + handle_of(host, "guard4"))
    with NftTable() as upgraded:
        state = host.call(upgraded.read)
        assert (state.outdated, state.damage) == (True, "")
        assert (state.elements, state.hops) == (ELEMENTS, HOPS)
        assert host.call(upgraded.write) == []
        assert host.call(upgraded.read).outdated is False
    assert sorted(ours(host).splitlines()) == sorted(before.splitlines())


def handle_of(host: Host, chain: str) -> str:
    """The first rule's."""
    listed = host.run("nft", "-a", "list", "chain", "inet", "ipvs-operator", chain).stdout
    found = re.search(r"^\t\t.* # handle (\d+)$", listed, re.MULTILINE)
    assert found
    return found[1]


def test_one_refused_change_does_not_stop_the_others(host: Host, table: NftTable) -> None:
    too_much = HopRow((HopTarget("10.0.0.11", 80, 2**32), HopTarget("10.0.0.12", 80)), False, ("02:00:00:00:02:00",))
    bad = {HopKey(4, VIP, "tcp", 99): too_much, HopKey(4, "192.0.2.300", "tcp", 99): HopRow(())}
    wrong = {NftKey("open4", (VIP, "tcp", 70000)): NftRow(), NftKey("nothing4", (VIP,)): NftRow()}
    failed = make(host, table, ELEMENTS | wrong, HOPS | bad)
    assert {outcome.key for outcome in failed} == bad.keys() | wrong.keys()
    assert all(outcome.message for outcome in failed)
    state = seen_anew(host)
    assert (state.elements, state.hops) == (ELEMENTS, HOPS)


def test_the_listing_is_spared_while_nobody_changes_anything(host: Host, table: NftTable) -> None:
    make(host, table, ELEMENTS, HOPS)
    generation = host.call(table.generation)
    state = host.call(table.read)
    assert make(host, table, ELEMENTS, HOPS) == []
    assert host.call(table.generation) == generation
    host.run("nft", "add table ip theirs")
    assert host.call(table.generation) == generation + 1
    assert host.call(table.read) == state


def test_ten_thousand_elements(host: Host, table: NftTable) -> None:
    many = {
        NftKey("open4", (f"198.18.{i >> 8}.{i & 255}", "tcp", port)): NftRow()
        for i in range(2500)
        for port in range(1, 5)
    }
    assert make(host, table, many) == []
    assert seen_anew(host).elements == many
    host.run("nft", "flush", "chain", "inet", "ipvs-operator", "guard")
    fewer = dict(list(many.items())[5000:])
    assert make(host, table, fewer) == []
    state = seen_anew(host)
    assert state.elements == fewer
    assert state.damage == ""


def test_a_missing_program_is_told(host: Host, table: NftTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    outcomes = host.call(table.write, [Change(NftKey("guarded4", (VIP,)), None, NftRow())])
    assert {outcome.verdict for outcome in outcomes} == {Verdict.FAILED}
    assert all("install nftables" in outcome.message for outcome in outcomes)


def nft_that(behaves: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a program before nft that runs shell commands on what nft is to read, in ``$input``."""
    program, real = directory / "nft", shutil.which("nft")
    program.write_text(f'#!/bin/sh\ninput=$(cat)\n{behaves}\nprintf "%s\\n" "$input" | exec {real} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_a_culprit_that_nft_does_not_name_is_found(
    host: Host, table: NftTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nft_that('case $input in *192.0.2.66*) echo "netlink: Error: odd" >&2; exit 1;; esac', tmp_path, monkeypatch)
    many = {NftKey("guarded4", (f"192.0.2.{number}",)): NftRow() for number in range(1, 101)}
    (failed,) = make(host, table, many | ELEMENTS, HOPS)
    assert failed.key == NftKey("guarded4", ("192.0.2.66",))
    assert "odd" in failed.message
    assert seen_anew(host).elements.keys() == (many | ELEMENTS).keys() - {failed.key}
    assert seen_anew(host).hops == HOPS


def test_a_feature_that_the_kernel_lacks_is_told_and_the_rest_is_done(
    host: Host, table: NftTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = """
line=$(printf '%s\n' "$input" | grep -n 'tcp reset' | head -1 | cut -d: -f1)
if [ "$line" ]; then
    echo "/dev/stdin:$line:1-9: Error: Could not process rule: No such file or directory" >&2
    exit 1
fi"""
    nft_that(refuse, tmp_path, monkeypatch)
    failed = make(host, table, ELEMENTS, HOPS)
    guard = {key for key in ELEMENTS if key.set.rstrip("46") in ("client_interfaces", "guarded", "open", "sources")}
    assert {outcome.key for outcome in failed} == guard | {Feature.GUARD}
    assert all("NFT_REJECT_INET" in outcome.message for outcome in failed)
    state = seen_anew(host)
    assert state.elements.keys() == ELEMENTS.keys() - guard
    assert (state.hops, state.features) == (HOPS, frozenset(Feature) - {Feature.GUARD})


def test_damage_that_cannot_be_mended_is_told(
    host: Host, table: NftTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(host, table, ELEMENTS, HOPS)
    host.run("nft", "flush", "chain", "inet", "ipvs-operator", "guard")
    with monkeypatch.context() as failing:
        nft_that('case $input in *"delete table"*) echo "netlink: Error: odd" >&2; exit 1;; esac', tmp_path, failing)
        assert host.call(table.write) == []
        assert "not mended: nftables: odd" in host.call(table.read).damage
    assert host.call(table.write) == []
    assert host.call(table.read).damage == ""


def test_an_nft_that_hangs_is_given_up_and_its_work_looked_at_again(
    host: Host, table: NftTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nft_program, "TIMEOUT", 2)
    assert make(host, table, ELEMENTS, HOPS) == []
    with monkeypatch.context() as hanging:
        nft_that(f'printf "%s\\n" "$input" | {shutil.which("nft")} "$@"; sleep 1000', tmp_path, hanging)
        change = Change(NftKey("guarded4", ("192.0.2.66",)), None, NftRow())
        (outcome,) = host.call(table.write, [change])
    assert outcome.verdict is Verdict.UNKNOWN
    assert change.key in host.call(table.read).elements


def test_a_dump_of_our_tables_can_be_loaded_again(host: Host, table: NftTable) -> None:
    """Administrators save the whole ruleset, ours included, and load it at boot."""
    make(host, table, ELEMENTS, HOPS)
    saved = host.run("nft", "list", "ruleset").stdout
    host.run("nft", "flush", "ruleset")
    host.run("nft", "-f", "-", stdin=saved)
    state = seen_anew(host)
    assert (state.elements, state.hops) == (ELEMENTS, HOPS)
    assert (state.damage, state.outdated) == ("", False)
