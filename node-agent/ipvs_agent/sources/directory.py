"""A directory of manifests as a set of objects that changes, read so that nothing is lost by accident.

Only files that changed are read again. An object disappears only when a readable set without it was seen twice,
``SETTLE`` seconds apart: a broken file, a file caught while an editor replaces it, an empty or a vanished directory
never remove anything. An object that is there with a mistake in it is there: what was read of it before stays in
force.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from ipvs_api.manifests import Located, ManifestError, Severity, read_manifest
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
    refused: frozenset[ObjectKey]
    errors: tuple[ManifestError, ...]
    complete: bool


@dataclass(frozen=True)
class Changes:
    """What one look at the directory brought.

    ``complete``: the whole set could be read. ``recheck``: seconds until it wants another look; None: not on its own.
    """

    put: tuple[Declared, ...] = ()
    removed: tuple[ObjectKey, ...] = ()
    errors: tuple[ManifestError, ...] = ()
    complete: bool = False
    recheck: float | None = None


class ManifestDirectory:
    """The files of ``path`` (not of its subdirectories) that end in ``SUFFIXES`` and do not begin with a dot.

    ``known``: objects from before this process; they too disappear only from a readable set.
    """

    def __init__(self, path: Path, known: Iterable[ObjectKey] = ()) -> None:
        self.path = path
        self._files: dict[Path, _File] = {}
        self._taken: dict[ObjectKey, int] = {}
        self._known: set[ObjectKey] = set(known)
        self._missing: dict[ObjectKey, float] = {}
        self._fresh: dict[tuple[Path, ObjectKey], Declared] = {}

    def look(self, now: float) -> Changes:
        """Read what changed since the last look. ``now``: seconds of a monotonic clock."""
        try:
            signatures = {
                Path(entry.path): _signature(entry.stat())
                for entry in os.scandir(self.path)
                if entry.name.endswith(SUFFIXES) and not entry.name.startswith(".") and entry.is_file()
            }
        except OSError as error:
            return self._nothing(f"cannot be read: {error.strerror}")
        if not signatures:
            return self._nothing("holds no manifest (*.yaml, *.yml, *.json)")
        settled = True
        for path, signature in sorted(signatures.items()):
            known = self._files.get(path)
            if known is None or known.signature != signature:
                settled &= self._read(path, signature)
        for path in self._files.keys() - signatures.keys():
            del self._files[path]
        changes = self._changes(now, settled=settled)
        self._fresh.clear()
        return changes

    def _nothing(self, problem: str) -> Changes:
        self._missing.clear()
        words = f"{problem}; what was read before stays in force. Put manifests there, or take services out one by one"
        return Changes(errors=(ManifestError(str(self.path), 0, 0, f"directory {words}"),))

    def _read(self, path: Path, signature: _Signature) -> bool:
        """False when the file changed while it was read: it wants another look."""
        known = self._files.get(path)
        try:
            data = path.read_bytes()
            if _signature(path.stat()) != signature:
                return False
        except FileNotFoundError:
            return False
        except OSError as error:
            problem = ManifestError(str(path), 0, 0, f"cannot be read: {error.strerror}; check its permissions")
            objects = known.objects if known is not None else {}
            self._files[path] = _File(signature, objects, frozenset(), (problem,), complete=False)
            return True
        manifest = read_manifest(data, str(path))
        read = {key_of(located.object): self._take(path, located) for located in manifest.objects}
        refused = frozenset(error.key for error in manifest.errors if error.key is not None and error.key not in read)
        if known is not None:
            kept = (
                known.objects
                if not manifest.complete
                else {key: known.objects[key] for key in refused & known.objects.keys()}
            )
            read = {**kept, **read}
        self._files[path] = _File(signature, read, refused, manifest.errors, manifest.complete)
        return True

    def _take(self, path: Path, located: Located[Declared]) -> tuple[int, int]:
        self._fresh[path, key_of(located.object)] = located.object
        return located.line, hash(msgspec.msgpack.encode(located.object))

    def _changes(self, now: float, *, settled: bool) -> Changes:
        errors = [error for file in self._files.values() for error in file.errors]
        found: dict[ObjectKey, tuple[Path, int, int]] = {}
        for path in sorted(self._files):
            for key, (line, digest) in self._files[path].objects.items():
                if key in found:
                    errors.append(_twice(key, found[key], path, line))
                else:
                    found[key] = (path, line, digest)
        put = []
        for key, (path, _, digest) in found.items():
            if self._taken.get(key) == digest:
                continue
            if (path, key) in self._fresh:
                put.append(self._fresh[path, key])
                self._taken[key] = digest
                self._known.add(key)
            elif key not in self._files[path].refused:
                # Another file had it first and has it no more: read this one again.
                del self._files[path]
                settled = False
                break
        refused = {key for file in self._files.values() for key in file.refused}
        complete = settled and bool(found) and all(file.complete for file in self._files.values())
        removed = self._removed(self._known - found.keys() - refused, now, complete=complete)
        recheck = SETTLE if not settled or self._missing else None
        bad = tuple(error for error in errors if error.severity is Severity.ERROR)
        return Changes(tuple(put), tuple(removed), bad, complete, recheck)

    def _removed(self, missing: set[ObjectKey], now: float, *, complete: bool) -> list[ObjectKey]:
        if not complete:
            self._missing.clear()
            return []
        self._missing = {key: self._missing.get(key, now) for key in missing}
        removed = sorted(key for key, since in self._missing.items() if now - since >= SETTLE)
        for key in removed:
            del self._missing[key]
            self._known.discard(key)
            self._taken.pop(key, None)
        return removed


def _signature(status: os.stat_result) -> _Signature:
    return _Signature(status.st_ino, status.st_size, status.st_mtime_ns)


def _twice(key: ObjectKey, first: tuple[Path, int, int], path: Path, line: int) -> ManifestError:
    words = f"is in {first[0]} line {first[1]} already, which is the one that counts; remove one of them"
    return ManifestError(str(path), line, 1, words, "metadata.name", key)
