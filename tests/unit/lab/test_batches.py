from ipvs_lab.batches import Batch, Case, Setting, split


def cases(*nodeids: str, setting: Setting = Setting.VIRTUAL) -> list[Case]:
    return [Case(nodeid, setting) for nodeid in nodeids]


def test_a_module_stays_together_and_in_order() -> None:
    tests = cases("a.py::z", "a.py::b", "b.py::x")
    assert split(tests, 2, {}) == [
        [Batch(Setting.VIRTUAL, tuple(tests[:2]))],
        [Batch(Setting.VIRTUAL, tuple(tests[2:]))],
    ]


def test_the_longest_module_gets_a_worker_of_its_own() -> None:
    tests = cases("a.py::t", "b.py::t", "c.py::t")
    first, second = split(tests, 2, {"a.py::t": 1.0, "b.py::t": 9.0, "c.py::t": 1.0})
    assert first == [Batch(Setting.VIRTUAL, (tests[1],))]
    assert second == [Batch(Setting.VIRTUAL, (tests[0], tests[2]))]


def test_each_setting_needs_a_kernel_of_its_own() -> None:
    tests = cases("a.py::v") + cases("a.py::r", setting=Setting.REAL)
    (batches,) = split(tests, 1, {})
    assert {(batch.setting, batch.cases) for batch in batches} == {
        (Setting.VIRTUAL, (tests[0],)),
        (Setting.REAL, (tests[1],)),
    }


def test_every_test_runs_once_however_many_workers() -> None:
    tests = cases("a.py::1", "a.py::2", "b.py::1", "c.py::1")
    for workers in range(1, 6):
        ran = [case for batches in split(tests, workers, {}) for batch in batches for case in batch.cases]
        assert sorted(ran, key=lambda case: case.nodeid) == tests


def test_nothing_to_run_needs_no_kernel() -> None:
    assert split([], 2, {}) == []
