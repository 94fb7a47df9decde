"""Where text from people becomes objects: YAML or JSON in, frozen types out, and every error with its place.

What is understood: our ``VirtualService`` and ``DirectorGroup`` and core/v1 ``Node``, one or many to a text, also as
members of a ``List`` (what ``kubectl get -o yaml`` writes). Every other kind is passed over with a note, since a dump
of a cluster holds many; but what is in our API group, or has the name of one of our kinds and no API group that is
known to have it too, is an error. ``status`` of our kinds is passed over: nobody writes it by hand.

An object is refused as a whole. What is not seen here (addresses that do not parse, fields that exclude each other) the
planner refuses, as CEL rules do in a cluster.
"""

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Any, Generic, NamedTuple, TypeVar

from ipvs_api.explain import Fault, field_text
from ipvs_api.meta import ObjectKey
from ipvs_api.objects import Declared, Refusal, decode, key_of
from ipvs_api.yaml_events import Path
from ipvs_api.yaml_places import locate
from ipvs_api.yaml_reader import Document, read

T = TypeVar("T", bound=Declared)


class Severity(StrEnum):
    """``Error``: something was not taken. ``Note``: it was passed over, as it should be."""

    ERROR = "Error"
    NOTE = "Note"


class ManifestError(NamedTuple):
    """What is wrong with a text, an object or a field of it: where, what was found, what is allowed.

    ``line``, ``column``: from 1, both 0 where there is no text. ``key``: the object, None where its kind or name cannot
    be told. ``path``: the field (``spec.ports[0].port``), empty for the object or text as a whole.
    """

    source: str
    line: int
    column: int
    message: str
    path: str = ""
    key: ObjectKey | None = None
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        """``web.yaml:12:11: VirtualService shop/web: spec.ports[0].port: found 70000, allowed: 1 to 65535``."""
        where = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        parts = (where, self.key, self.path, self.message)
        return ": ".join(str(part) for part in parts if part)


class Located(NamedTuple, Generic[T]):
    """An object and the line of ``source`` where it starts, from 1."""

    object: T
    source: str
    line: int

    @property
    def key(self) -> ObjectKey:
        return key_of(self.object)


class Manifest(NamedTuple):
    """What one text holds. ``complete``: every object in it is known by name.

    Then what is neither among ``objects`` nor the ``key`` of an error is not in the text. When it is False, what could
    not be read may be any object.
    """

    objects: tuple[Located[Declared], ...]
    errors: tuple[ManifestError, ...]
    complete: bool


class Merged(NamedTuple):
    """What several texts hold together.

    ``refused``: objects that are there by name and could not be taken. ``complete``: all texts are.
    """

    objects: Mapping[ObjectKey, Located[Declared]]
    refused: frozenset[ObjectKey]
    errors: tuple[ManifestError, ...]
    complete: bool


def read_manifest(text: bytes, source: str) -> Manifest:
    """The objects of one text, and what is wrong with the others. ``source`` names the text in errors. Never raises."""
    reading = read(text)
    objects: list[Located[Declared]] = []
    errors = [ManifestError(source, *bad.place, bad.message) for bad in reading.unreadable]
    for document in reading.documents:
        refused: list[tuple[Path, Refusal]] = []
        for value, path, line in _members(document):
            decoded = _decode(value, path, document)
            if isinstance(decoded, Refusal):
                refused.append((path, decoded))
            else:
                objects.append(Located(decoded, source, line))
        if refused:
            errors += _errors(refused, document, reading.text, source)
    errors.sort(key=lambda error: (error.line, error.column))
    complete = all(error.key is not None or error.severity is Severity.NOTE for error in errors)
    return Manifest(tuple(objects), tuple(errors), complete)


def merge(manifests: Iterable[Manifest]) -> Merged:
    """All objects by their identity. Of an object that is there twice the first is taken, and an error names both."""
    objects: dict[ObjectKey, Located[Declared]] = {}
    errors: list[ManifestError] = []
    complete = True
    for manifest in manifests:
        errors += manifest.errors
        complete = complete and manifest.complete
        for located in manifest.objects:
            first = objects.setdefault(located.key, located)
            if first is not located:
                message = f"the same object is in {first.source}:{first.line}, and that one is used; remove one of them"
                errors.append(ManifestError(located.source, located.line, 1, message, key=located.key))
    refused = {error.key for error in errors if error.key and error.severity is Severity.ERROR}
    return Merged(objects, frozenset(refused - objects.keys()), tuple(errors), complete)


def _members(document: Document) -> Iterator[tuple[Any, Path, int]]:
    """The document's root, or the members of the list that it is: value, path in the document, line."""
    root = document.value
    if root is None:
        return
    kind = root.get("kind") if isinstance(root, dict) else None
    items = root.get("items") if isinstance(root, dict) else None
    if not (isinstance(root, dict) and isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        yield root, (), document.line
        return
    inherited = {} if kind == "List" else {"apiVersion": root.get("apiVersion"), "kind": kind.removesuffix("List")}
    for index, item in enumerate(items):
        value = inherited | item if isinstance(item, dict) else item
        yield value, ("items", index), document.item_lines.get(index, document.line)


def _decode(value: Any, path: Path, document: Document) -> Declared | Refusal:
    decoded = decode(value)
    found = tuple(
        Fault(where[len(path) :], "this key occurs twice", of_key=True, place=place)
        for where, place in document.repeated
        if where[: len(path)] == path
    )
    if not found:
        return decoded
    if isinstance(decoded, Refusal):
        return decoded if decoded.passed_over else decoded._replace(faults=found + decoded.faults)
    return Refusal(key_of(decoded), found)


def _errors(refused: list[tuple[Path, Refusal]], document: Document, text: str, source: str) -> Iterator[ManifestError]:
    paths = [(*path, *fault.path) for path, refusal in refused for fault in refusal.faults]
    nodes = locate(text[document.start : document.end], document.start_line, paths)
    for path, refusal in refused:
        severity = Severity.NOTE if refusal.passed_over else Severity.ERROR
        for fault in refusal.faults:
            node = nodes[(*path, *fault.path)]
            place = fault.place or (node.key if fault.of_key else node.value)
            yield ManifestError(source, *place, fault.message, field_text(fault.path), refusal.key, severity)
