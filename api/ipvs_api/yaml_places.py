"""Where single nodes of a YAML document stand, for those who have to be told."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from yaml.error import YAMLError
from yaml.events import (
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamStartEvent,
)

from ipvs_api.yaml_events import Path, Place, events


class Node(NamedTuple):
    """Where a node stands, and the key before it (the same place for what has no key)."""

    value: Place
    key: Place


class _Open:
    """A mapping or sequence on the way; ``key``: of the value that comes next, in a mapping."""

    __slots__ = ("index", "is_mapping", "key", "key_place", "path")

    def __init__(self, path: Path, is_mapping: bool) -> None:
        self.path = path
        self.is_mapping = is_mapping
        self.index = 0
        self.key: str | None = None
        self.key_place: Place | None = None


def locate(text: str, start_line: int, paths: Collection[Path]) -> dict[Path, Node]:
    """Where each of ``paths`` stands in ``text``, one document that starts in ``start_line`` of its file.

    For what is not there (a field that is missing, a member of an alias), the nearest parent that is.
    """
    wanted = {path[:length] for path in paths for length in range(len(path) + 1)}
    found = {(): Node(Place(start_line, 1), Place(start_line, 1))} | _find(text, start_line, wanted)
    return {path: _nearest(found, path) for path in paths}


def _nearest(found: Mapping[Path, Node], path: Path) -> Node:
    if path in found:
        return found[path]
    length = next(length for length in range(len(path) - 1, -1, -1) if path[:length] in found)
    parent = found[path[:length]].value
    return Node(parent, parent)


def _find(text: str, start_line: int, wanted: Collection[Path]) -> dict[Path, Node]:
    found: dict[Path, Node] = {}
    stack: list[_Open] = []
    next_event = events(text)
    while True:
        try:
            event: Any = next_event()
        except YAMLError:
            return found
        if event is None or isinstance(event, DocumentEndEvent):
            return found
        place = Place(start_line + event.start_mark.line, event.start_mark.column + 1)
        top = stack[-1] if stack else None
        if isinstance(event, MappingEndEvent | SequenceEndEvent):
            stack.pop()
            continue
        if isinstance(event, StreamStartEvent | DocumentStartEvent):
            continue
        if top is not None and top.is_mapping and top.key is None:
            top.key, top.key_place = event.value, place
            continue
        path: Path = ()
        key_place = place
        if top is not None:
            path = (*top.path, top.index if top.key is None else top.key)
            key_place = top.key_place or place
            top.index, top.key, top.key_place = top.index + 1, None, None
        if path in wanted and path not in found:
            found[path] = Node(place, key_place)
        if isinstance(event, MappingStartEvent | SequenceStartEvent):
            stack.append(_Open(path, isinstance(event, MappingStartEvent)))
