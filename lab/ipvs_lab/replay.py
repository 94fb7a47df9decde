"""What tests in a lab kernel tell the pytest outside, as JSON lines, and the order in which it is retold.

Records, by their `kind`:

    start, finish   nodeid      a test begins, ends
    report          nodeid, data   pytest's own serialized report of one phase
    warning         message, category, filename, lineno, when, nodeid
    error           text        something went wrong outside any test
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Write one record. Closing the file brings it out of the kernel's cache, so that it survives the kernel."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


class Reader:
    """Reads the records that another process appends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rest = b""
        self.offset = 0

    def read(self) -> list[Record]:
        """The whole records that have come since the last time."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as file:
            file.seek(self.offset)
            data = file.read()
        self.offset += len(data)
        *lines, self.rest = (self.rest + data).split(b"\n")
        return [json.loads(line) for line in lines]


class Order:
    """Brings records of several kernels into an order that reads well: module after module, each in one piece.

    One module at a time is retold as it happens; what the others say waits until that module is done.
    """

    def __init__(self, nodeids: Iterable[str]) -> None:
        """`nodeids`: all tests that will be told about."""
        self.open: dict[str, set[str]] = {}
        for nodeid in nodeids:
            self.open.setdefault(module_of(nodeid), set()).add(nodeid)
        self.waiting: dict[str, list[Record]] = {}
        self.current = ""

    def feed(self, record: Record) -> Iterator[Record]:
        """Take one record; the records to retell now."""
        module = module_of(record["nodeid"])
        if module not in self.open:  # an error or warning of no test in particular
            yield record
            return
        self.waiting.setdefault(module, []).append(record)
        if not self.current:
            self.current = module
        while self.current:
            for one in self.waiting.pop(self.current, []):
                yield one
                if one["kind"] == "finish":
                    self.open[self.current].discard(one["nodeid"])
            if self.open[self.current]:
                return
            self.current = next(iter(self.waiting), "")

    def rest(self) -> Iterator[Record]:
        """Everything that still waits."""
        for records in self.waiting.values():
            yield from records
        self.waiting.clear()


def module_of(nodeid: str) -> str:
    """The file of a test."""
    return nodeid.split("::")[0]
