from pathlib import Path

from ipvs_lab.replay import Order, Reader, Record, append


def story(nodeid: str) -> list[Record]:
    return [{"kind": kind, "nodeid": nodeid} for kind in ("start", "report", "finish")]


def retold(order: Order, records: list[Record]) -> list[Record]:
    return [one for record in records for one in order.feed(record)]


def test_one_module_is_retold_as_it_happens() -> None:
    order = Order(["a.py::one", "a.py::two"])
    records = story("a.py::one")
    for record in records:
        assert list(order.feed(record)) == [record]


def test_modules_that_run_at_once_are_retold_one_after_the_other() -> None:
    order = Order(["a.py::one", "a.py::two", "b.py::one"])
    one, two, other = story("a.py::one"), story("a.py::two"), story("b.py::one")
    assert retold(order, one) == one
    assert retold(order, other) == []
    assert retold(order, two) == two + other


def test_what_waits_at_the_end_is_not_forgotten() -> None:
    order = Order(["a.py::one", "a.py::two", "b.py::one"])
    retold(order, story("a.py::one"))
    retold(order, story("b.py::one"))
    assert list(order.rest()) == story("b.py::one")


def test_an_error_outside_any_test_is_retold_too() -> None:
    order = Order(["a.py::one"])
    error: Record = {"kind": "error", "nodeid": "c.py", "text": "cannot be imported"}
    assert retold(order, [*story("a.py::one"), error]) == [*story("a.py::one"), error]


def test_records_are_read_as_they_are_written(tmp_path: Path) -> None:
    reader = Reader(tmp_path / "reports")
    assert reader.read() == []
    append(tmp_path / "reports", {"kind": "start", "nodeid": "a.py::ü"})
    assert reader.read() == [{"kind": "start", "nodeid": "a.py::ü"}]
    assert reader.read() == []


def test_half_a_record_waits_for_its_other_half(tmp_path: Path) -> None:
    path = tmp_path / "reports"
    reader = Reader(path)
    path.write_bytes(b'{"kind": "sta')
    assert reader.read() == []
    with path.open("ab") as file:
        file.write(b'rt"}\n')
    assert reader.read() == [{"kind": "start"}]
