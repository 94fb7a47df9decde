"""The union of what plans want: shared rows, raised switches, and a cost that does not grow with the owners."""

from hypothesis import given
from hypothesis import strategies as st

from ipvs_agent.ledger import Ledger
from ipvs_agent.rows import AddressKey, AddressRow, KernelState, SysctlRow

VIP = AddressKey("eth0", "192.0.2.10")


def wanting(*paths: tuple[str, int], vip: bool = False) -> KernelState:
    state = KernelState(sysctls={path: SysctlRow(value, at_least=True) for path, value in paths})
    if vip:
        state.addresses[VIP] = AddressRow()
    return state


def test_a_row_that_two_plans_want_stays_until_both_have_gone() -> None:
    ledger = Ledger()
    assert ledger.put("a/web", wanting(vip=True)) == {"addresses": {VIP}}
    assert ledger.put("a/mail", wanting(vip=True)) == {}
    assert ledger.put("a/web", None) == {}
    assert ledger.tables["addresses"].get(VIP) == AddressRow()
    assert ledger.put("a/mail", None) == {"addresses": {VIP}}
    assert ledger.tables["addresses"].get(VIP) is None


def test_a_switch_has_the_highest_value_that_anybody_wants() -> None:
    ledger = Ledger()
    ledger.put("a/web", wanting(("net/x", 1)))
    assert ledger.put("a/mail", wanting(("net/x", 2))) == {"sysctls": {"net/x"}}
    assert ledger.tables["sysctls"].get("net/x") == SysctlRow(2, at_least=True)
    assert ledger.put("a/mail", None) == {"sysctls": {"net/x"}}
    assert ledger.tables["sysctls"].get("net/x") == SysctlRow(1, at_least=True)


def test_a_changed_share_tells_only_what_it_changed() -> None:
    ledger = Ledger()
    ledger.put("a/web", wanting(("net/x", 1), ("net/y", 1)))
    assert ledger.put("a/web", wanting(("net/x", 1), ("net/z", 1))) == {"sysctls": {"net/y", "net/z"}}


OWNERS = st.sampled_from(["a", "b", "c", "d"])
PATHS = st.sampled_from(["x", "y", "z"])
SHARES = st.dictionaries(PATHS, st.integers(0, 3))


@given(st.lists(st.tuples(OWNERS, st.none() | SHARES), max_size=30))
def test_the_union_is_what_a_ledger_made_from_scratch_would_hold(
    steps: list[tuple[str, dict[str, int] | None]],
) -> None:
    ledger, last = Ledger(), {}
    for owner, share in steps:
        before = ledger.tables["sysctls"].rows()
        dirty = ledger.put(owner, wanting(*share.items()) if share is not None else None)
        last[owner] = share or {}
        after = ledger.tables["sysctls"].rows()
        expected: dict[str, int] = {}
        for wanted in last.values():
            for path, value in wanted.items():
                expected[path] = max(expected.get(path, 0), value)
        assert {path: row.value for path, row in after.items()} == expected
        changed = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
        assert dirty.get("sysctls", set()) == changed
        assert {path: set(ledger.tables["sysctls"].owners(path)) for path in after} == {
            path: {name for name, wanted in last.items() if path in wanted} for path in expected
        }
