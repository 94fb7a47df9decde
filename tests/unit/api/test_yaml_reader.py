"""YAML to plain values: nothing is guessed, nothing grows, and what cannot be read is told with its place."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ipvs_api import yaml_places, yaml_reader
from ipvs_api.yaml_builder import MAX_DEPTH
from ipvs_api.yaml_events import python_events
from ipvs_api.yaml_places import locate
from ipvs_api.yaml_reader import Reading, read


@pytest.fixture(params=["libyaml", "python"])
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With libyaml's parser and with PyYAML's own."""
    if request.param == "python":
        monkeypatch.setattr(yaml_reader, "events", python_events)
        monkeypatch.setattr(yaml_places, "events", python_events)
    elif not yaml.__with_libyaml__:
        pytest.skip("PyYAML without libyaml")


def values(text: str) -> list[Any]:
    reading = read(text.encode())
    assert reading.unreadable == ()
    return [document.value for document in reading.documents]


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("80", 80),
        ("+80", 80),
        ("-1", -1),
        ("0", 0),
        ("123456789012345678", 123456789012345678),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1.0e3", 1000.0),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        ("!!str 80", "80"),
        ("!!int 80", 80),
        ("! 80", "80"),
        ('"80"', "80"),
        ("'null'", "null"),
        ('""', ""),
    ],
)
def test_numbers_truth_values_null_and_text(scalar: str, value: object) -> None:
    (found,) = values(f"a: {scalar}")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "scalar",
    [
        "2001:10:20:30:40:50:1:2",
        "1:30",
        "22:22",
        "2026-01-02",
        "2026-01-02T03:04:05Z",
        "010",
        "0o10",
        "0x50",
        "0b1",
        "1_000",
        "1e3",
        "12e7",
        ".nan",
        ".inf",
        "-.INF",
        "NaN",
        "yes",
        "no",
        "on",
        "off",
        "Yes",
        "y",
        "10.0.0.1",
        "1.",
        "=",
        "9" * 5000,
        "1.0e9999",
    ],
)
def test_what_other_readers_make_numbers_dates_or_truth_of_is_text(scalar: str) -> None:
    assert values(f"a: {scalar}") == [{"a": scalar}]


@pytest.mark.usefixtures("parser")
def test_keys_are_text() -> None:
    assert values("80: a\nyes: b\nnull: c\n1.5: d") == [{"80": "a", "yes": "b", "null": "c", "1.5": "d"}]


@pytest.mark.usefixtures("parser")
def test_a_key_that_occurs_twice_is_told_with_its_place_and_the_first_one_counts() -> None:
    (document,) = read(b"a:\n  - b: 1\n    c: 2\n    b: {d: 3, d: 4}\na: {e: 1, e: 2}\n").documents
    assert document.value == {"a": [{"b": 1, "c": 2}]}
    assert document.repeated == (
        (("a", 0, "b"), (4, 5)),
        (("a", 0, "b", "d"), (4, 15)),
        (("a",), (5, 1)),
        (("a", "e"), (5, 11)),
    )


@pytest.mark.usefixtures("parser")
def test_several_documents_with_comments_directives_and_ends() -> None:
    text = "# words\n%YAML 1.1\n---\na: 1\n...\n---\n--- {b: 2}\n--- # none\n---\n- c\n"
    assert values(text) == [{"a": 1}, None, {"b": 2}, None, ["c"]]


@pytest.mark.usefixtures("parser")
def test_lines_of_documents_and_of_list_members() -> None:
    documents = read(b"\n# words\n---\n\nitems:\n- a: 1\n- 2\n-\n  b: {c: 3}\n---\nd: 4\n").documents
    assert [document.line for document in documents] == [5, 11]
    assert documents[0].item_lines == {0: 6, 2: 9}
    assert documents[1].item_lines == {}


@pytest.mark.usefixtures("parser")
def test_aliases_and_merge_keys() -> None:
    text = """\
        base: &base {a: 1, b: 2}
        other: &other {b: 3, c: 4}
        same: *base
        merged: {<<: *base, b: 5}
        both: {<<: [*base, *other], d: 6}
        plain: {"<<": 7}
        name: &name text
        again: *name
    """
    (found,) = values(text)
    assert found["same"] == {"a": 1, "b": 2}
    assert found["merged"] == {"a": 1, "b": 5}
    assert found["both"] == {"a": 1, "b": 2, "c": 4, "d": 6}
    assert found["plain"] == {"<<": 7}
    assert found["again"] == "text"


@pytest.mark.usefixtures("parser")
def test_anchors_end_with_their_document() -> None:
    reading = read(b"a: &x 1\n---\nb: *x\n---\nc: 3\n")
    assert [document.value for document in reading.documents] == [{"a": 1}, {"c": 3}]
    assert [(bad.place, "*x" in bad.message) for bad in reading.unreadable] == [((3, 4), True)]


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join(lines)


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    "text",
    [
        laughs(9),
        laughs(6) + "\nb:\n" + "- {<<: *a5}\n" * 100,
        "a: &a [*a]",
        "a: &a {b: {<<: *a}}",
    ],
    ids=["a billion laughs", "laughs by merging", "a list in itself", "a mapping merged into itself"],
)
def test_a_small_text_cannot_become_large_or_endless(text: str) -> None:
    (bad,) = read(text.encode()).unreadable
    assert "values in one file" in bad.message or "alias" in bad.message or "<<" in bad.message


@pytest.mark.usefixtures("parser")
def test_the_number_of_values_is_bounded_over_all_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_reader, "MAX_NODES", 10)
    assert [document.value for document in read(b"[1, 2]\n---\n[3, 4]\n---\n[5, 6]\n").documents] == [
        [1, 2],
        [3, 4],
        [5, 6],
    ]
    reading = read(b"[1, 2]\n---\n[3, 4, 5, 6, 7, 8, 9]\n---\n[5, 6]\n")
    assert [document.value for document in reading.documents] == [[1, 2], [5, 6]]
    assert [bad.place.line for bad in reading.unreadable] == [3]


@pytest.mark.slow
@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ("{a: ", "}"), ("- ", "")])
def test_depth_is_bounded(opening: str, closing: str) -> None:
    def nested(depth: int) -> Reading:
        return read((opening * depth + "x" + closing * depth).encode())

    assert nested(MAX_DEPTH).unreadable == ()
    assert [bad.message for bad in nested(20_000).unreadable] == [
        f"this document cannot be read: more than {MAX_DEPTH} levels in each other"
    ]


def test_size_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_reader, "MAX_BYTES", 10)
    reading = read(b"a: 1234567890")
    assert reading.documents == ()
    assert [bad.message for bad in reading.unreadable] == [
        "found 13 bytes, at most 10 are read: split it into several files"
    ]


@pytest.mark.usefixtures("parser")
@pytest.mark.parametrize(
    ("broken", "line", "column", "words"),
    [
        (b"a: b: c", 3, 5, "mapping values are not allowed"),
        (b"\ta: 1", 3, 1, "cannot start any token"),
        (b"a: [1, 2", 4, 1, ""),
        (b"a: 'text", 4, 1, "quoted scalar"),
        (b"a: *nothing", 3, 4, "alias *nothing"),
        (b"? [a]\n: b", 3, 3, "a key must be text"),
        (b"? *a\n: b", 3, 3, "a key must be text"),
        (b"a: !Ref b", 3, 4, "tag !Ref is not known"),
        (b"a: !!binary aGVsbG8=", 3, 4, "tag tag:yaml.org,2002:binary is not known"),
        (b"a: !!int x", 3, 4, "'x' is no int"),
        (b"a: !!set {b}", 3, 4, "tag tag:yaml.org,2002:set is not known"),
        (b"{<<: 1}", 3, 6, "<< takes a mapping"),
        (b"b: \x80", 3, 4, "byte 0x80 is no UTF-8; save the file as UTF-8"),
        (b"b: \x01", 3, 4, "control character U+0001"),
        (b"b: 1\nc: \x00", 4, 4, "control character U+0000"),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place_and_leaves_the_other_documents(
    broken: bytes, line: int, column: int, words: str
) -> None:
    reading = read(b"a: 1\n---\n" + broken + b"\n---\nc: \xc3\xa9\n")
    assert [document.value for document in reading.documents] == [{"a": 1}, {"c": "\u00e9"}]
    assert [document.line for document in reading.documents] == [1, 5 + broken.count(b"\n")]
    (bad,) = reading.unreadable
    assert bad.place == (line, column)
    assert words in bad.message


def test_a_byte_order_mark_is_no_part_of_the_text() -> None:
    assert values("\ufeffa: 1") == [{"a": 1}]


@pytest.mark.usefixtures("parser")
def test_places_of_nodes_and_of_their_keys() -> None:
    text = "# \u00e9\u20ac\na:\n  b: [x, {c: 1}]\n  d: &d {e: 2}\n  f: *d\n"
    paths = [("a",), ("a", "b"), ("a", "b", 1, "c"), ("a", "f"), ("a", "f", "e"), ("a", "missing"), ()]
    found = locate(text, 11, paths)
    assert {path: (tuple(node.key), tuple(node.value)) for path, node in found.items()} == {
        (): ((12, 1), (12, 1)),
        ("a",): ((12, 1), (13, 3)),
        ("a", "b"): ((13, 3), (13, 6)),
        ("a", "b", 1, "c"): ((13, 11), (13, 14)),
        ("a", "f"): ((15, 3), (15, 6)),
        ("a", "f", "e"): ((15, 6), (15, 6)),
        ("a", "missing"): ((13, 3), (13, 3)),
    }


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17), 10**17)
    | st.text(st.characters(exclude_categories=["Cs", "Cc"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc<-:", max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_what_is_dumped_is_read_again(value: object) -> None:
    dumped = yaml.safe_dump(value, allow_unicode=True)
    assert values(dumped) == [value]


@given(st.binary(max_size=200) | st.text(st.sampled_from("-:[]{}&*!<>|'\"%# \n\tab0.,?"), max_size=200).map(str.encode))
def test_any_bytes_are_read_or_told(data: bytes) -> None:
    reading = read(data)
    lines = data.count(b"\n") + data.count(b"\r") + len(data) + 2
    assert all(1 <= bad.place.line <= lines for bad in reading.unreadable)
    for document in reading.documents:
        assert 0 <= document.start <= document.end <= len(reading.text)
