"""Plain values from the events of one YAML document."""

from typing import Any

from yaml.error import MarkedYAMLError
from yaml.events import AliasEvent, DocumentEndEvent, MappingEndEvent, MappingStartEvent, ScalarEvent, SequenceEndEvent

from ipvs_api.yaml_events import NextEvent, Path, Place
from ipvs_api.yaml_scalars import TAG, plain, tagged

MAX_NODES = 2_000_000
"""Of one text, aliases counted as what they stand for."""
MAX_DEPTH = 100
"""Of mappings and sequences in each other; Kubernetes' own objects need 40 at most."""


class _Open:
    """A mapping or sequence whose end has not come yet.

    ``key``: of the value that comes next, in a mapping; ``merging``: it is ``<<``. ``nodes``: the budget at its start.
    """

    __slots__ = ("anchor", "key", "mapping", "merged", "merging", "nodes", "sequence")

    def __init__(self, event: Any, nodes: int) -> None:
        self.mapping: dict[str, Any] | None = {} if type(event) is MappingStartEvent else None
        self.sequence: list[Any] = []
        self.key: str | None = None
        self.merging = False
        self.merged: list[tuple[Any, Any]] = []
        self.anchor: str | None = event.anchor
        self.nodes = nodes

    @property
    def value(self) -> Any:
        return self.sequence if self.mapping is None else self.mapping


class Builder:
    """The value of one document, and what there is to tell of its text.

    ``line``: of the root. ``item_lines``: of the mappings in a list under the root's ``items``, by index.
    ``repeated``: keys that their mapping has already; the first value is kept. ``nodes``: the budget that is left.
    """

    def __init__(self, first_line: int, nodes: int) -> None:
        self.first_line = first_line
        self.nodes = nodes
        self.value: Any = None
        self.line = first_line
        self.item_lines: dict[int, int] = {}
        self.repeated: list[tuple[Path, Place]] = []
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._stack: list[_Open] = []

    def build(self, next_event: NextEvent) -> Any:
        """Takes the events up to the document's end, which it returns. Raises ``MarkedYAMLError``."""
        stack = self._stack
        while True:
            event: Any = next_event()
            kind = type(event)
            if kind is MappingEndEvent or kind is SequenceEndEvent:
                self._close()
            elif kind is DocumentEndEvent:
                return event
            elif stack and stack[-1].key is None and stack[-1].mapping is not None:
                self._key(event, stack[-1], stack[-1].mapping)
            elif kind is ScalarEvent:
                self._add(self._scalar(event), 1, event)
            elif kind is AliasEvent:
                self._add(*self._alias(event), event)
            else:
                self._open(event)

    def _key(self, event: Any, parent: _Open, mapping: dict[str, Any]) -> None:
        if type(event) is not ScalarEvent:
            raise _refusal(event, "a key must be text")
        parent.key = event.value
        if parent.key == "<<" and event.implicit[0]:
            parent.merging = True
        elif parent.key in mapping:
            self.repeated.append((self._path(), self._place(event)))
        if event.anchor is not None:
            self._anchors[event.anchor] = (event.value, 1)
        self.nodes -= 1

    def _scalar(self, event: Any) -> Any:
        if event.tag is None:
            value = plain(event.value) if event.implicit[0] else event.value
        else:
            try:
                value = tagged(event.value, event.tag)
            except ValueError as error:
                raise _refusal(event, str(error)) from None
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, 1)
        return value

    def _alias(self, event: Any) -> tuple[Any, int]:
        if event.anchor not in self._anchors:
            raise _refusal(event, f"alias *{event.anchor} of nothing that is complete before it")
        return self._anchors[event.anchor]

    def _open(self, event: Any) -> None:
        if event.tag not in (None, "!", TAG + "map", TAG + "seq"):
            raise _refusal(event, f"tag {event.tag} is not known here")
        stack = self._stack
        if len(stack) == MAX_DEPTH:
            raise _refusal(event, f"more than {MAX_DEPTH} levels in each other")
        opened = _Open(event, self.nodes)
        if len(stack) == 2 and stack[0].key == "items" and stack[1].mapping is None and opened.mapping is not None:
            self.item_lines[len(stack[1].sequence)] = self._place(event).line
        self._add(opened.value, 1, event, complete=False)
        stack.append(opened)

    def _add(self, value: Any, size: int, event: Any, *, complete: bool = True) -> None:
        """Puts a value where it belongs; ``complete``: nothing more comes into it."""
        self.nodes -= size
        if self.nodes < 0:
            raise _refusal(event, f"more than {MAX_NODES} values in one file (aliases count as what they stand for)")
        if not self._stack:
            self.value, self.line = value, self._place(event).line
            return
        parent = self._stack[-1]
        if parent.mapping is None:
            parent.sequence.append(value)
            return
        if parent.merging:
            parent.merged.append((value, event))
        elif parent.key is not None and parent.key not in parent.mapping:
            parent.mapping[parent.key] = value
        if complete:
            parent.key, parent.merging = None, False

    def _close(self) -> None:
        closed = self._stack.pop()
        for value, event in closed.merged:
            _merge(closed.value, value, event)
        if closed.anchor is not None:
            self._anchors[closed.anchor] = (closed.value, closed.nodes - self.nodes)
        if self._stack:
            self._stack[-1].key, self._stack[-1].merging = None, False

    def _path(self) -> Path:
        return tuple(len(part.sequence) - 1 if part.key is None else part.key for part in self._stack)

    def _place(self, event: Any) -> Place:
        return Place(self.first_line + event.start_mark.line, event.start_mark.column + 1)


def _merge(mapping: dict[str, Any], value: Any, event: Any) -> None:
    """``<<``: what the named mappings have and this one has not; the first of several wins."""
    for source in value if isinstance(value, list) else [value]:
        if not isinstance(source, dict):
            raise _refusal(event, "<< takes a mapping or a list of mappings")
        for key, item in source.items():
            mapping.setdefault(key, item)


def _refusal(event: Any, problem: str) -> MarkedYAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
