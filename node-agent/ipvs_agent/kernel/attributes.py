"""Netlink attributes (``include/uapi/linux/netlink.h``): pack them, walk them, read the same few out of many messages.

The kernel writes all messages of one kind with the same attributes at the same places. So a layout is learnt from the
first message by a walk, with the bytes of every attribute header, and a later message of the same length whose headers
agree is read by one ``struct`` call. What does not agree is walked and learnt: a new attribute, another order, padding
of other machines or a longer name cost one slow message, never a wrong value.
"""

import struct
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

HEADER = struct.Struct("=HH")
KIND_MASK = 0x3FFF
"""Without ``NLA_F_NESTED`` and ``NLA_F_NET_BYTEORDER``."""

Path = tuple[int, ...]
"""Attribute numbers from the outermost nest to the attribute."""


class MalformedMessageError(ValueError):
    """A message that is not what its sender's documentation says."""


def attribute(kind: int, value: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return HEADER.pack(HEADER.size + len(value), kind) + value + bytes(-len(value) % 4)


def walk(message: bytes, nests: frozenset[Path]) -> Iterator[tuple[Path, int, int]]:
    """Path, start and length of every attribute's value; inside those of ``nests``, too (the nest comes first)."""
    pending: list[tuple[Path, int, int]] = [((), 0, len(message))]
    while pending:
        parent, at, end = pending.pop()
        while at + HEADER.size <= end:
            length, kind = HEADER.unpack_from(message, at)
            if length < HEADER.size or at + length > end:
                raise MalformedMessageError(
                    f"attribute {kind & KIND_MASK} claims {length} bytes where {end - at} are left"
                )
            path = (*parent, kind & KIND_MASK)
            start = at + HEADER.size
            yield path, start, length - HEADER.size
            if path in nests:
                pending.append((path, start, at + length))
            at += (length + 3) & ~3


class _Layout(NamedTuple):
    """``mask``, ``headers``: of the first ``checked`` bytes, as little-endian numbers. ``order``: offsets to fields."""

    checked: int
    mask: int
    headers: int
    values: struct.Struct
    order: "itemgetter[Any]"


class Reader:
    """Reads ``fields`` (path and ``struct`` code in native byte order, at least two) out of messages.

    ``s`` as a code takes the value as it is, whatever its length. A field that a message lacks is None.
    """

    def __init__(self, fields: Sequence[tuple[Path, str]]) -> None:
        self._fields = dict(fields)
        self._nests = frozenset(path[:depth] for path, _ in fields for depth in range(1, len(path)))
        self._layouts: dict[int, list[_Layout]] = {}

    def read(self, message: bytes) -> tuple[Any, ...]:
        """The values, in the order of the fields; MalformedMessageError where one has another length than its code."""
        for layout in self._layouts.get(len(message), ()):
            if int.from_bytes(message[: layout.checked], "little") & layout.mask == layout.headers:
                break
        else:
            layout = self._learn(message)
            self._layouts.setdefault(len(message), []).append(layout)
        found: tuple[Any, ...] = layout.order((*layout.values.unpack_from(message), None))
        return found

    def _learn(self, message: bytes) -> _Layout:
        mask = bytearray(len(message))
        places: list[tuple[int, Path, str]] = []
        for path, start, length in walk(message, self._nests):
            mask[start - HEADER.size : start] = b"\xff" * HEADER.size
            if path not in self._fields:
                continue
            code = self._fields[path]
            code = f"{length}s" if code == "s" else code
            if struct.calcsize("=" + code) != length:
                raise MalformedMessageError(f"attribute {path} has {length} bytes, not those of {code!r}")
            places.append((start, path, code))
        codes, at = ["="], 0
        for start, _, code in sorted(places):
            codes.append(f"{start - at}x{code}")
            at = start + struct.calcsize("=" + code)
        # What comes behind the last field matters only to a message that lacks a field: it may come there.
        checked = at if len(places) == len(self._fields) else len(message)
        paths = [path for _, path, _ in sorted(places)]
        order = [paths.index(path) if path in paths else len(paths) for path in self._fields]
        bits = int.from_bytes(mask[:checked], "little")
        headers = int.from_bytes(message[:checked], "little") & bits
        return _Layout(checked, bits, headers, struct.Struct("".join(codes)), itemgetter(*order))
