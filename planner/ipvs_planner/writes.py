"""What a reconciliation asks to be written, as values."""

from enum import StrEnum
from typing import NamedTuple

import msgspec

from ipvs_api.meta import ObjectMeta


class Verb(StrEnum):
    CREATE = "Create"
    """It must not be there: who comes second is refused."""
    APPLY = "Apply"
    """Server-side apply; with ``metadata.uid`` over that very object, else it may be new."""
    STATUS = "Status"
    """Server-side apply of the status alone, on the object of ``metadata.uid``."""
    DELETE = "Delete"
    """That very object: ``metadata.uid``, and ``metadata.resourceVersion`` where it is named."""


class Write(NamedTuple):
    """``metadata``: name, namespace, the fences ``uid`` and ``resource_version``, and what an apply is to set."""

    verb: Verb
    kind: str
    metadata: ObjectMeta
    spec: msgspec.Struct | None = None
    status: msgspec.Struct | None = None

    def __str__(self) -> str:
        meta = self.metadata
        return f"{self.verb} {self.kind} {f'{meta.namespace}/' if meta.namespace else ''}{meta.name}"


class Event(NamedTuple):
    """Something to tell the owner of an object. ``warning``: it wants attention."""

    kind: str
    namespace: str
    name: str
    uid: str
    warning: bool
    reason: str
    message: str


class Reconciliation(NamedTuple):
    """``writes`` in order, each only after the one before it has succeeded. ``after``: seconds until time alone changes
    the verdict; None: never."""

    writes: tuple[Write, ...] = ()
    events: tuple[Event, ...] = ()
    after: float | None = None
