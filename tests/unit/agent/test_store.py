"""The state database: what is durable, what a reboot voids, and that what lingers comes back as it was."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.agent.plans import plan

from ipvs_agent.drain import Draining
from ipvs_agent.linger import Lingering
from ipvs_agent.rows import (
    AddressKey,
    AddressRow,
    FouKey,
    HopKey,
    HopRow,
    HopTarget,
    KernelState,
    LinkRow,
    NftKey,
    NftRow,
    RouteKey,
    RouteRow,
    RuleKey,
    RuleRow,
    SysctlRow,
)
from ipvs_agent.store import FoundSysctl, Store, StoreError, decode_state, encode_state

NAMES = st.text("abcdef0123456789.", min_size=1, max_size=8)
NUMBERS = st.integers(0, 65535)
STATES = st.builds(
    KernelState,
    links=st.dictionaries(NAMES, st.builds(LinkRow, NAMES, NAMES, NAMES, NUMBERS), max_size=3),
    sysctls=st.dictionaries(NAMES, st.builds(SysctlRow, NUMBERS, st.booleans()), max_size=3),
    elements=st.dictionaries(
        st.builds(NftKey, NAMES, st.tuples(NAMES, NUMBERS)), st.builds(NftRow, st.tuples(NAMES)), max_size=3
    ),
    hops=st.dictionaries(
        st.builds(HopKey, st.sampled_from([4, 6]), NAMES, NAMES, NUMBERS),
        st.builds(
            HopRow, st.lists(st.builds(HopTarget, NAMES, NUMBERS, NUMBERS), max_size=2).map(tuple), st.booleans()
        ),
        max_size=2,
    ),
    ipvs=st.dictionaries(st.binary(max_size=20), st.binary(max_size=40), max_size=3),
    routes=st.dictionaries(
        st.builds(RouteKey, st.sampled_from([4, 6]), NUMBERS, NAMES), st.builds(RouteRow, NAMES, NAMES), max_size=2
    ),
    rules=st.dictionaries(
        st.builds(RuleKey, st.sampled_from([4, 6]), NUMBERS, NUMBERS, NUMBERS, st.booleans()),
        st.builds(RuleRow, NUMBERS),
        max_size=2,
    ),
    addresses=st.dictionaries(st.builds(AddressKey, NAMES, NAMES), st.builds(AddressRow, st.booleans()), max_size=3),
)


@pytest.mark.slow
@given(STATES)
def test_what_lingers_is_read_back_as_it_was_written(state: KernelState) -> None:
    assert decode_state(encode_state(state)) == state


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state" / "state.db")


def again(store: Store) -> Store:
    return Store(store.path)


def test_everything_is_there_for_the_next_process(store: Store) -> None:
    store.begin_boot("one")
    store.put_plan("default/web", plan())
    store.own_services({b"key": 60.0})
    store.put_sysctl("net/x", FoundSysctl(0, 1))
    store.own_fou(FouKey(4, 6080))
    store.put_drain(b"key", b"server", Draining(10.0, 70.0))
    entry = Lingering("default/web", KernelState(sysctls={"net/x": SysctlRow(1)}), frozenset({b"key"}), 5.0)
    number = store.add_lingering(entry)
    next_process = again(store)
    next_process.begin_boot("one")
    assert dict(next_process.plans()) == {"default/web": plan()}
    assert next_process.services() == {b"key": 60.0}
    assert next_process.sysctls() == {"net/x": FoundSysctl(0, 1)}
    assert next_process.fou_ports() == {FouKey(4, 6080)}
    assert next_process.drains() == {(b"key", b"server"): Draining(10.0, 70.0)}
    assert next_process.lingering() == {number: entry}


def test_a_reboot_voids_what_belonged_to_the_kernel_and_keeps_the_plans(store: Store) -> None:
    store.begin_boot("one")
    store.put_plan("default/web", plan())
    store.own_services({b"key": 60.0})
    store.put_sysctl("net/x", FoundSysctl(0, 1))
    store.begin_boot("two")
    assert dict(store.plans()) == {"default/web": plan()}
    assert store.services() == {}
    assert store.sysctls() == {}


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    def fail() -> None:
        with store.transaction():
            store.own_services({b"key": 1.0})
            raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError):
        fail()
    assert store.services() == {}


def test_a_copy_leaves_no_trace(store: Store) -> None:
    store.own_services({b"key": 1.0})
    copy = Store.copy_of(store.path)
    copy.disown_services([b"key"])
    assert copy.services() == {}
    assert again(store).services() == {b"key": 1.0}


def test_a_copy_of_nothing_is_empty(tmp_path: Path) -> None:
    assert Store.copy_of(tmp_path / "none.db").services() == {}
    assert not (tmp_path / "none.db").exists()


def test_what_is_no_database_is_told_with_its_path(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    path.write_text("not a database, but long enough to look at: " * 10)
    with pytest.raises(StoreError, match=str(path)):
        Store(path)
