"""Netlink attributes (``include/uapi/linux/netlink.h``): pack them, walk them, read the same few out of many messages.

The kernel writes all messages of one kind with the same attributes at the same places. So a layout is learnt from the
first message by a walk, with the bytes of every attribute header, and later messages of the same length whose headers
agree are read by one ``struct`` call each. What does not agree is walked and learnt: a new attribute, another order,
padding of other machines or a longer name cost one slow message, never a wrong value.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any

HEADER = struct.Struct("=HH")
KIND_MASK = 0x3FFF
"""Without ``NLA_F_NESTED`` and ``NLA_F_NET_BYTEORDER``."""

_AT_ONCE = 16
"""Messages that are compared with a layout in one go."""

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


class _Layout:
    """Where the fields of one shape of message lie. ``checked``: bytes of it, from the start, whose headers count."""

    def __init__(self, message: bytes, checked: int, mask: bytes, codes: str, order: Sequence[int]) -> None:
        self._checked = checked
        self._message = message[:checked]
        self._mask = mask[:checked]
        self._padding = bytes(len(message) - checked)
        self._expected = {1: self._run(1)}
        self._values = struct.Struct(f"={codes}{len(message) - struct.calcsize('=' + codes)}x")
        as_written = list(order) == list(range(len(self._values.unpack(message))))
        self._order = None if as_written else itemgetter(*order)

    def _run(self, count: int) -> tuple[int, int]:
        """Mask and headers of ``count`` messages in a row, as numbers."""
        mask = int.from_bytes((self._mask + self._padding) * count, "little")
        return mask, mask & int.from_bytes((self._message + self._padding) * count, "little")

    def fits(self, messages: bytes, count: int) -> bool:
        """True when ``count`` messages of the layout's length, in a row, have all their headers where it has them."""
        expected = self._expected.get(count)
        if expected is None:
            expected = self._expected[count] = self._run(count)
        mask, headers = expected
        return int.from_bytes(messages if count > 1 else messages[: self._checked], "little") & mask == headers

    def values(self, messages: bytes) -> Iterable[tuple[Any, ...]]:
        """The fields of each."""
        found = self._values.iter_unpack(messages)
        order = self._order
        return found if order is None else (order((*values, None)) for values in found)


class Reader:
    """Reads ``fields`` (path and ``struct`` code in native byte order, at least two) out of messages.

    ``s`` as a code takes the value as it is, whatever its length. A field that a message lacks is None. Fastest where
    the fields are in the order in which the kernel writes them.
    """

    def __init__(self, fields: Sequence[tuple[Path, str]]) -> None:
        self._fields = dict(fields)
        self._nests = frozenset(path[:depth] for path, _ in fields for depth in range(1, len(path)))
        self._layouts: dict[int, list[_Layout]] = {}

    def read(self, message: bytes) -> tuple[Any, ...]:
        """The values, in the order of the fields; MalformedMessageError where one has another length than its code."""
        if not message:
            return (None,) * len(self._fields)
        (found,) = self._read(message, 1, len(message))
        return found

    def read_all(self, messages: Sequence[bytes]) -> Iterator[tuple[Any, ...]]:
        """As ``read``, of each: several at once as long as they have one shape."""
        for at in range(0, len(messages), _AT_ONCE):
            some = messages[at : at + _AT_ONCE]
            length = len(some[0])
            if all(len(message) == length for message in some):
                yield from self._read(b"".join(some), len(some), length)
            else:
                yield from map(self.read, some)

    def _read(self, messages: bytes, count: int, length: int) -> Iterable[tuple[Any, ...]]:
        for layout in self._layouts.get(length, ()):
            if layout.fits(messages, count):
                return layout.values(messages)
        if count > 1:
            return [self.read(messages[at : at + length]) for at in range(0, len(messages), length)]
        layout = self._learn(messages)
        self._layouts.setdefault(length, []).append(layout)
        return layout.values(messages)

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
        codes, at = "", 0
        for start, _, code in sorted(places):
            codes += f"{start - at}x{code}"
            at = start + struct.calcsize("=" + code)
        # What comes behind the last field matters only to a message that lacks a field: it may come there.
        checked = at if len(places) == len(self._fields) else len(message)
        paths = [path for _, path, _ in sorted(places)]
        order = [paths.index(path) if path in paths else len(paths) for path in self._fields]
        return _Layout(message, checked, bytes(mask), codes, order)
