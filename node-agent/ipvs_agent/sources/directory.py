"""A directory of manifests as a set of objects that changes, read so that nothing is lost by accident.

Only files that changed are read again, and only what they touch is looked at. An object disappears only when a readable
set without it was seen for ``SETTLE`` seconds: a broken file, a file caught while an editor replaces it, an empty or a
vanished directory never remove anything. An object that is there with a mistake in it is there: what was read of it
before stays in force.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from ipvs_api.manifests import ManifestError, Severity, read_manifest
from ipvs_api.meta import ObjectKey
from ipvs_api.objects import Declared, key_of

SUFFIXES = (".yaml", ".yml", ".json")

SETTLE = 1.0
"""Seconds that an object has to be missing before it counts as removed."""


class _Signature(NamedTuple):
    inode: int
    size: int
    modified: int


class _File(NamedTuple):
    """``objects``: by key, the line and a hash of each object. ``refused``: those with a mistake.

    ``complete``: every object of the file is known by name.
    """

    signature: _Signature
    objects: dict[ObjectKey, tuple[int, int]]
    refused: frozenset[ObjectKey] = frozenset()
    errors: tuple[ManifestError, ...] = ()
    complete: bool = True


@dataclass(frozen=True)
class Changes:
    """What one look at the directory brought.

    ``complete``: the whole set could be read. ``unread``: objects that are there with a mistake in them, of which
    nothing was ever read. ``recheck``: seconds until it wants another look; None: not on its own.
    """

    put: tuple[Declared, ...] = ()
    removed: tuple[ObjectKey, ...] = ()
    errors: tuple[ManifestError, ...] = ()
    complete: bool = False
    recheck: float | None = None
    unread: frozenset[ObjectKey] = frozenset()


class ManifestDirectory:
    """The files of ``path`` (not of its subdirectories) that end in ``SUFFIXES`` and do not begin with a dot.

    ``known``: objects from before this process; they too disappear only from a readable set.
    """

    def __init__(self, path: Path, known: Iterable[ObjectKey] = ()) -> None:
        self.path = path
        self._files: dict[str, _File] = {}
        self._troubled: set[str] = set()
        """Files with errors, with refused objects or not complete: few."""
        self._holders: dict[ObjectKey, tuple[str, ...]] = {}
        self._doubles: set[ObjectKey] = set()
        self._taken: dict[ObjectKey, int] = {}
        self._lost: set[ObjectKey] = set(known)
        """Known objects that no file holds now."""
        self._since: dict[ObjectKey, float] = {}
        self._unsettled: set[str] = set()

    def look(self, now: float, names: frozenset[str] | None = None) -> Changes:
        """Read what changed since the last look. ``now``: seconds of a monotonic clock.

        ``names``: the only files that can have changed; None: any.
        """
        try:
            signatures = dict(self._signatures(names))
        except OSError as error:
            return self._nothing(f"cannot be read: {error.strerror}")
        touched: set[ObjectKey] = set()
        fresh: dict[tuple[str, ObjectKey], Declared] = {}
        before = self._files.keys() if names is None else self._files.keys() & names
        for name in before - signatures.keys():
            touched |= self._replace(name, None)
        looked = self._unsettled if names is None else self._unsettled & names
        self._unsettled -= looked - signatures.keys()
        for name, signature in sorted(signatures.items()):
            known = self._files.get(name)
            if known is None or known.signature != signature:
                touched |= self._read(name, signature, fresh)
        if not self._files and not self._unsettled:
            return self._nothing("holds no manifest (*.yaml, *.yml, *.json)")
        put = tuple(self._put(touched, fresh))
        return self._changes(put, now)

    def place(self, key: ObjectKey) -> str:
        """Where an object is, as ``DIR/web.yaml:12``; the directory where no file holds it."""
        for name in self._holders.get(key, ()):
            return f"{self.path / name}:{self._files[name].objects[key][0]}"
        return str(self.path)

    def _signatures(self, names: frozenset[str] | None) -> Iterator[tuple[str, _Signature]]:
        if names is None:
            for entry in os.scandir(self.path):
                if _counts(entry.name) and entry.is_file():
                    yield entry.name, _signature(entry.stat())
            return
        self.path.stat()
        for name in filter(_counts, names):
            try:
                yield name, _signature((self.path / name).stat())
            except FileNotFoundError:
                continue

    def _nothing(self, problem: str) -> Changes:
        self._since.clear()
        words = f"{problem}; what was read before stays in force. Put manifests there, or take services out one by one"
        return Changes(errors=(ManifestError(str(self.path), 0, 0, f"directory {words}"),))

    def _read(self, name: str, signature: _Signature, fresh: dict[tuple[str, ObjectKey], Declared]) -> set[ObjectKey]:
        """Take a file in; the objects it touches. One that changes while it is read wants another look."""
        known, path = self._files.get(name), self.path / name
        self._unsettled.discard(name)
        try:
            data = path.read_bytes()
            if _signature(path.stat()) != signature:
                self._unsettled.add(name)
                return set()
        except FileNotFoundError:
            self._unsettled.add(name)
            return set()
        except OSError as error:
            problem = ManifestError(str(path), 0, 0, f"cannot be read: {error.strerror}; check its permissions")
            kept = known.objects if known is not None else {}
            return self._replace(name, _File(signature, kept, errors=(problem,), complete=False))
        manifest = read_manifest(data, str(path))
        objects = {}
        for located in manifest.objects:
            key = key_of(located.object)
            fresh[name, key] = located.object
            objects[key] = located.line, hash(msgspec.msgpack.encode(located.object))
        refused = frozenset(
            error.key for error in manifest.errors if error.key is not None and error.key not in objects
        )
        if known is not None:
            kept = known.objects if not manifest.complete else {k: v for k, v in known.objects.items() if k in refused}
            objects = {**kept, **objects}
        errors = tuple(error for error in manifest.errors if error.severity is Severity.ERROR)
        return self._replace(name, _File(signature, objects, refused, errors, manifest.complete))

    def _replace(self, name: str, file: _File | None) -> set[ObjectKey]:
        """Put a file in the place of what it was (None: it is gone). The objects whose holders may have changed."""
        old = self._files.pop(name, None)
        if file is not None:
            self._files[name] = file
        self._troubled.discard(name)
        if file is not None and (file.errors or file.refused or not file.complete):
            self._troubled.add(name)
        had = old.objects.keys() if old is not None else set()
        has = file.objects.keys() if file is not None else set()
        for key in had | has:
            holders = {*self._holders.get(key, ())} - {name} | ({name} if key in has else set())
            if holders:
                self._holders[key] = tuple(sorted(holders))
                self._lost.discard(key)
            else:
                self._holders.pop(key, None)
                self._lost.add(key)
            (self._doubles.add if len(holders) > 1 else self._doubles.discard)(key)
        return set(had | has)

    def _put(self, touched: set[ObjectKey], fresh: dict[tuple[str, ObjectKey], Declared]) -> Iterator[Declared]:
        """Objects that are not what was taken before."""
        for key in sorted(touched):
            holders = self._holders.get(key)
            if not holders:
                continue
            name = holders[0]
            _, digest = self._files[name].objects[key]
            if self._taken.get(key) == digest:
                continue
            if (name, key) in fresh:
                self._taken[key] = digest
                yield fresh[name, key]
            elif key not in self._files[name].refused:
                # Another file had it first and has it no more: this one is read again.
                self._replace(name, self._files[name]._replace(signature=_Signature(0, 0, 0)))
                self._unsettled.add(name)

    def _changes(self, put: tuple[Declared, ...], now: float) -> Changes:
        errors = [error for name in sorted(self._troubled) for error in self._files[name].errors]
        for key in sorted(self._doubles):
            (first, line), *others = [(name, self._files[name].objects[key][0]) for name in self._holders[key]]
            words = f"is in {self.path / first} line {line} already, which is the one that counts; remove one of them"
            errors += [ManifestError(str(self.path / n), at, 1, words, "metadata.name", key) for n, at in others]
        refused = {key for name in self._troubled for key in self._files[name].refused}
        complete = bool(self._holders) and not self._unsettled
        complete = complete and all(self._files[name].complete for name in self._troubled)
        removed: list[ObjectKey] = []
        if complete:
            self._since = {key: self._since.get(key, now) for key in self._lost - refused}
            removed = sorted(key for key, since in self._since.items() if now - since >= SETTLE)
            for key in removed:
                del self._since[key]
                self._lost.discard(key)
                self._taken.pop(key, None)
        else:
            self._since.clear()
        recheck = SETTLE if self._unsettled or self._since else None
        unread = frozenset(refused - self._taken.keys())
        return Changes(put, tuple(removed), tuple(errors), complete, recheck, unread)


def _counts(name: str) -> bool:
    return name.endswith(SUFFIXES) and not name.startswith(".")


def _signature(status: os.stat_result) -> _Signature:
    return _Signature(status.st_ino, status.st_size, status.st_mtime_ns)
