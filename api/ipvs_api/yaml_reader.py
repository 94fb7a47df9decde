"""YAML (and JSON, as the YAML it is) to plain values, without YAML's surprises.

Plain scalars are null, true, false, a decimal number or text, nothing else: ``2001:10:20:30:40:50:1:2`` is no number in
base 60, ``2026-01-02`` no date, ``010`` neither 8 nor 10 but text; ``yes``, ``no``, ``on``, ``off`` and ``.nan`` are
text. A key is always text. A key that its mapping has already is told with its place. Aliases and merge keys work, and
count as much as what they stand for, so a small file cannot become a large one. A document that cannot be read does not
take the others of its text with it.

Values are built straight from the parser's events. Where single nodes stand is found in a second pass
(``yaml_places``), only when somebody has to be told.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from yaml.error import MarkedYAMLError, YAMLError
from yaml.events import DocumentStartEvent

from ipvs_api.yaml_builder import MAX_NODES, Builder
from ipvs_api.yaml_events import NextEvent, Path, Place, events

MAX_BYTES = 32 * 1024 * 1024
"""Of one text: 10,000 virtual services with 10 real servers each, as kubectl writes them, are 20 MiB."""


class Document(NamedTuple):
    """One document that could be read.

    ``line``: of its root, from 1. ``item_lines``: of the mappings in a list under the root's ``items``, by index.
    ``repeated``: keys that their mapping has already; the first value is the one that was read.
    ``start``, ``end``: where the document is in ``Reading.text``; ``start_line``: of ``start``, from 1.
    ``nodes_left``: of the text's budget.
    """

    value: Any
    line: int
    item_lines: Mapping[int, int]
    repeated: tuple[tuple[Path, Place], ...]
    start: int
    end: int
    start_line: int
    nodes_left: int


class Unreadable(NamedTuple):
    """A document that is no YAML, or more of it than we take."""

    place: Place
    message: str


class Reading(NamedTuple):
    text: str
    documents: tuple[Document, ...]
    unreadable: tuple[Unreadable, ...]


def read(data: bytes) -> Reading:
    """Every document of ``data`` (UTF-8) that can be read, and what cannot, with its place. Never raises."""
    if len(data) > MAX_BYTES:
        message = f"found {len(data)} bytes, at most {MAX_BYTES} are read: split it into several files"
        return Reading("", (), (Unreadable(Place(1, 1), message),))
    text = data.decode("utf-8-sig", errors="surrogateescape")
    try:
        return Reading(text, tuple(_documents(text, 0, 1, MAX_NODES)), ())
    except (YAMLError, UnicodeEncodeError):
        return _read_one_by_one(text)


def _read_one_by_one(text: str) -> Reading:
    """A text with something unreadable in it: each document as a text of its own."""
    documents: list[Document] = []
    unreadable: list[Unreadable] = []
    line = 1
    for start, end in _stretches(text):
        stretch = text[start:end]
        try:
            documents += _documents(stretch, start, line, documents[-1].nodes_left if documents else MAX_NODES)
        except (YAMLError, UnicodeEncodeError) as error:
            unreadable.append(_unreadable(error, stretch, line))
        line += _line_breaks(stretch)
    return Reading(text, tuple(documents), tuple(unreadable))


_SEPARATOR = re.compile(r"^---(?=\s|\Z)", re.MULTILINE)
_PROLOGUE = re.compile(r"(?:[ \t]*(?:#[^\n]*)?\n|%[^\n]*\n)*")
_LINE_BREAK = re.compile("\r\n|[\n\r\x85\u2028\u2029]")
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _stretches(text: str) -> Iterator[tuple[int, int]]:
    """``text`` cut at its document separators, which YAML allows at the start of a line in no other role."""
    start = 0
    for separator in _SEPARATOR.finditer(text):
        if _PROLOGUE.fullmatch(text, start, separator.start()) is None:
            yield start, separator.start()
            start = separator.start()
    yield start, len(text)


def _line_breaks(text: str) -> int:
    return sum(1 for _ in _LINE_BREAK.finditer(text))


def _unreadable(error: Exception, text: str, line: int) -> Unreadable:
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = Place(line + mark.line, mark.column + 1) if mark else Place(line, 1)
        context = f" ({error.context})" if error.context else ""
        return Unreadable(place, f"this document cannot be read: {error.problem}{context}")
    found = _UNPRINTABLE.search(text)
    if found is None:
        return Unreadable(Place(line, 1), f"this document cannot be read: {error}")
    place = Place(line + _line_breaks(text[: found.start()]), found.start() - text.rfind("\n", 0, found.start()))
    code = ord(found.group())
    if 0xDC80 <= code <= 0xDCFF:
        what = f"byte 0x{code - 0xDC00:02x} is no UTF-8; save the file as UTF-8"
    else:
        what = f"control character U+{code:04X}"
    return Unreadable(place, f"this document cannot be read: {what}")


def _documents(text: str, start: int, line: int, nodes: int) -> Iterator[Document]:
    """The documents of ``text``, which starts at that offset and in that line of the whole."""
    next_event = events(text)
    while (event := next_event()) is not None:
        if isinstance(event, DocumentStartEvent):
            yield (document := _document(event, next_event, start, line, nodes))
            nodes = document.nodes_left


def _document(opening: Any, next_event: NextEvent, start: int, line: int, nodes: int) -> Document:
    builder = Builder(line, nodes)
    ending = builder.build(next_event)
    return Document(
        value=builder.value,
        line=builder.line,
        item_lines=builder.item_lines,
        repeated=tuple(builder.repeated),
        start=start + opening.start_mark.index,
        end=start + ending.end_mark.index,
        start_line=line + opening.start_mark.line,
        nodes_left=builder.nodes,
    )
