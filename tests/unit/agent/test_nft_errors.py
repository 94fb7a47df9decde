"""What nft says, in words for the person who can act. The errors are nft 1.0.6's own."""

import pytest

from ipvs_agent.nft import errors
from ipvs_agent.nft.batch import Batch
from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.script import Script
from ipvs_agent.rows import HopKey, HopRow, NftKey, NftRow
from ipvs_agent.table import Change

OPEN = NftKey("open4", ("192.0.2.1", "tcp", 80))
SILENT = NftKey("silent4", ("192.0.2.1",))
HOP = HopKey(4, "192.0.2.1", "tcp", 80)


def test_every_line_that_nft_blames_is_told_to_its_owner() -> None:
    script = Script()
    script.add("add rule inet ipvs-operator guard4 meta l4proto tcp reject with tcp reset", Feature.GUARD)
    script.add("add element inet ipvs-operator open4 {")
    script.add("192.0.2.1 . tcp . 80,", OPEN)
    script.add("}")
    stderr = """/dev/stdin:1:55-75: Error: Could not process rule: No such file or directory
add rule inet ipvs-operator guard4 meta l4proto tcp reject with tcp reset
                                                    ^^^^^^^^^^^^^^^^^^^^^
/dev/stdin:3:1-20: Error: Could not process rule: File exists
192.0.2.1 . tcp . 80,
^^^^^^^^^^^^^^^^^^^^
/dev/stdin:4:1-1: Error: Could not process rule: File exists
"""
    found = errors.culprits(script, stderr)
    assert found.keys() == {Feature.GUARD, OPEN}
    assert "this kernel cannot do nftables' guard rules (No such file or directory)" in found[Feature.GUARD]
    assert "NFT_REJECT_INET" in found[Feature.GUARD]
    assert found[OPEN] == "nftables: File exists"


@pytest.mark.parametrize(
    ("stderr", "words"),
    [
        ("/dev/stdin:1:1-9: Error: syntax error, unexpected string\nadd zebra\n", "version 1.0.6 or newer is needed"),
        ("/dev/stdin:1:1-9: Error: Could not process rule: Operation not permitted\n", "the agent needs CAP_NET_ADMIN"),
        ("netlink: Error: cache initialization failed: Operation not permitted\n", "the agent needs CAP_NET_ADMIN"),
        ("netlink: Error: Could not process rule: Too many links\n", "nftables: Too many links"),
        ("Segmentation fault\n", "nft ended with status 139: Segmentation fault"),
        ("", "nft ended with status 139: no message"),
    ],
)
def test_errors_of_a_whole_transaction_are_told_with_a_remedy(stderr: str, words: str) -> None:
    assert words in errors.summary(stderr, 139)


def test_a_full_set_is_named() -> None:
    said = "Could not process rule: Too many open files in system"
    assert errors.words(OPEN, said) == "nftables set open4 is full: Too many open files in system"


BATCH = Batch(
    frozenset({Feature.GUARD, Feature.SILENCE, Feature.SECOND_HOP}),
    (Change(OPEN, None, NftRow()), Change(SILENT, None, NftRow())),
    (Change(HOP, None, HopRow(())),),
)


def test_what_needs_a_feature_that_cannot_be_goes_with_it() -> None:
    assert BATCH.without([Feature.GUARD]).owners() == [*(BATCH.features - {Feature.GUARD}), SILENT, HOP]
    assert set(BATCH.without([Feature.SECOND_HOP, OPEN]).owners()) == {Feature.GUARD, Feature.SILENCE, SILENT}


def test_halving_ends_at_single_changes_and_loses_none() -> None:
    waiting, singles = [BATCH], []
    while waiting:
        batch = waiting.pop(0)
        if len(batch) == 1:
            singles += batch.owners()
        else:
            halves = batch.halves()
            assert all(0 < len(half) < len(batch) for half in halves)
            waiting += halves
    assert sorted(map(repr, singles)) == sorted(map(repr, BATCH.owners()))
