"""The state database: what the kernel cannot tell, durable before it is needed.

IPVS entries bear no mark, so the services we own are named here *before* their first write and forgotten only after a
read-back shows them gone. With them: the last plans (a reboot without an API server still serves), the values that
sysctls had before us, GUE ports we opened, drains under way and what lingers. SQLite in WAL mode,
``synchronous=FULL``: 0.2 ms a transaction. What belongs to a kernel is void after a reboot (another boot ID).
"""

import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ipvs_agent.drain import Draining
from ipvs_agent.ledger import TABLES
from ipvs_agent.linger import Lingering
from ipvs_agent.rows import (
    AddressKey,
    AddressRow,
    FouKey,
    FouRow,
    HopKey,
    HopRow,
    KernelState,
    LinkRow,
    NftKey,
    NftRow,
    RouteKey,
    RouteRow,
    RuleKey,
    RuleRow,
    ServiceKey,
    SysctlRow,
)
from ipvs_api.node import IPVSNodeSpec
from ipvs_api.plan import VirtualServicePlanSpec

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE plans (owner TEXT PRIMARY KEY, plan BLOB NOT NULL);
CREATE TABLE services (key BLOB PRIMARY KEY, drain REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE sysctls (path TEXT PRIMARY KEY, found INTEGER NOT NULL, wrote INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE fou (family INTEGER, port INTEGER, PRIMARY KEY (family, port)) WITHOUT ROWID;
CREATE TABLE drains (service BLOB, destination BLOB, since REAL, deadline REAL, PRIMARY KEY (service, destination))
  WITHOUT ROWID;
CREATE TABLE lingering (id INTEGER PRIMARY KEY, owner TEXT NOT NULL, state BLOB NOT NULL, services BLOB NOT NULL,
  deadline REAL NOT NULL);
"""

_KERNEL_TABLES = ("services", "sysctls", "fou", "drains", "lingering")

_ROW_TYPES: dict[str, Any] = {
    "links": list[tuple[str, LinkRow]],
    "sysctls": list[tuple[str, SysctlRow]],
    "fou": list[tuple[FouKey, FouRow]],
    "hops": list[tuple[HopKey, HopRow]],
    "elements": list[tuple[NftKey, NftRow]],
    "ipvs": list[tuple[bytes, bytes]],
    "routes": list[tuple[RouteKey, RouteRow]],
    "rules": list[tuple[RuleKey, RuleRow]],
    "addresses": list[tuple[AddressKey, AddressRow]],
}


class FoundSysctl(NamedTuple):
    """``found``: the value before our first write; ``wrote``: what we last wrote."""

    found: int
    wrote: int


class StoreError(Exception):
    """The state database cannot be used; the message names the file, what was found and what to do."""


def encode_state(state: KernelState) -> bytes:
    return msgspec.msgpack.encode({name: list(rows.items()) for name in TABLES if (rows := getattr(state, name))})


def decode_state(data: bytes) -> KernelState:
    parts = msgspec.msgpack.decode(data, type=dict[str, msgspec.Raw])
    return KernelState(
        **{name: dict(msgspec.msgpack.decode(raw, type=_ROW_TYPES[name])) for name, raw in parts.items()}
    )


class Store:
    """One open state database.

    Every public method that writes is durable when it returns, or within ``transaction``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._create()
            self._plan = msgspec.json.Decoder(VirtualServicePlanSpec)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(
                f"state database {path}: {error}; it must be on a writable file system and readable by this user "
                "(--state-dir chooses another place)"
            ) from error

    @classmethod
    def copy_of(cls, path: Path) -> "Store":
        """The database at ``path`` in memory, empty where there is none: what is tried on it leaves no trace."""
        copy = cls(Path(":memory:"))
        if path.exists():
            try:
                # Opening a database in WAL mode leaves files beside it, unless it says that nobody writes.
                how = "mode=ro" if path.with_name(path.name + "-wal").exists() else "immutable=1"
                with closing(sqlite3.connect(f"file:{path}?{how}", uri=True)) as original:
                    original.backup(copy._db)
            except sqlite3.Error as error:
                raise StoreError(
                    f"state database {path}: {error}; check that it is a state database of ours"
                ) from error
        return copy

    def _create(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            with self.transaction():
                for statement in _SCHEMA.split(";"):
                    if statement.strip():
                        self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise StoreError(
                f"state database {self.path} has schema {version}, this agent knows {SCHEMA_VERSION}; "
                "run the agent version that wrote it, or release with it first"
            )

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All writes inside become durable together, or not at all. Transactions inside are part of the outer one."""
        if self._db.in_transaction:
            yield
            return
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def begin_boot(self, boot_id: str) -> None:
        """Forget what belonged to the kernel of another boot."""
        row = self._db.execute("SELECT value FROM meta WHERE name='boot_id'").fetchone()
        if row is not None and row[0] == boot_id:
            return
        with self.transaction():
            for table in _KERNEL_TABLES:
                self._db.execute(f"DELETE FROM {table}")  # noqa: S608  # names of ours
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('boot_id', ?)", (boot_id,))

    # plans

    def plans(self) -> Iterator[tuple[str, VirtualServicePlanSpec]]:
        for owner, plan in self._db.execute("SELECT owner, plan FROM plans"):
            yield owner, self._plan.decode(plan)

    def plan(self, owner: str) -> VirtualServicePlanSpec | None:
        row = self._db.execute("SELECT plan FROM plans WHERE owner=?", (owner,)).fetchone()
        return self._plan.decode(row[0]) if row is not None else None

    def put_plan(self, owner: str, plan: VirtualServicePlanSpec | None) -> None:
        if plan is None:
            self._db.execute("DELETE FROM plans WHERE owner=?", (owner,))
        else:
            self._db.execute("INSERT OR REPLACE INTO plans VALUES (?, ?)", (owner, msgspec.json.encode(plan)))

    def node_name(self) -> str:
        """Whose agent wrote this; empty before the first run."""
        row = self._db.execute("SELECT value FROM meta WHERE name='node'").fetchone()
        return str(row[0]) if row is not None else ""

    def put_node_name(self, name: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('node', ?)", (name,))

    def known_node(self) -> str:
        """For whom all that is wanted has been known once; empty for nobody."""
        row = self._db.execute("SELECT value FROM meta WHERE name='known'").fetchone()
        return str(row[0]) if row is not None else ""

    def put_known_node(self, name: str) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('known', ?)", (name,))

    def node_spec(self) -> IPVSNodeSpec:
        row = self._db.execute("SELECT value FROM meta WHERE name='node_spec'").fetchone()
        return msgspec.json.decode(row[0], type=IPVSNodeSpec) if row is not None else IPVSNodeSpec()

    def put_node_spec(self, spec: IPVSNodeSpec) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('node_spec', ?)", (msgspec.json.encode(spec).decode(),))

    # ownership

    def services(self) -> dict[ServiceKey, float]:
        """Every IPVS service that is ours, with its drain timeout in seconds."""
        return dict(self._db.execute("SELECT key, drain FROM services"))

    def own_services(self, services: Mapping[ServiceKey, float]) -> None:
        self._db.executemany("INSERT OR REPLACE INTO services VALUES (?, ?)", services.items())

    def disown_services(self, keys: Iterable[ServiceKey]) -> None:
        self._db.executemany("DELETE FROM services WHERE key=?", [(key,) for key in keys])

    def sysctls(self) -> dict[str, FoundSysctl]:
        rows = self._db.execute("SELECT path, found, wrote FROM sysctls")
        return {path: FoundSysctl(found, wrote) for path, found, wrote in rows}

    def put_sysctl(self, path: str, value: FoundSysctl | None) -> None:
        if value is None:
            self._db.execute("DELETE FROM sysctls WHERE path=?", (path,))
        else:
            self._db.execute("INSERT OR REPLACE INTO sysctls VALUES (?, ?, ?)", (path, *value))

    def fou_ports(self) -> set[FouKey]:
        return {FouKey(*row) for row in self._db.execute("SELECT family, port FROM fou")}

    def own_fou(self, key: FouKey) -> None:
        self._db.execute("INSERT OR REPLACE INTO fou VALUES (?, ?)", key)

    def disown_fou(self, key: FouKey) -> None:
        self._db.execute("DELETE FROM fou WHERE family=? AND port=?", key)

    # what goes on

    def drains(self) -> dict[tuple[ServiceKey, bytes], Draining]:
        rows = self._db.execute("SELECT service, destination, since, deadline FROM drains")
        return {(service, name): Draining(since, deadline) for service, name, since, deadline in rows}

    def put_drain(self, service: ServiceKey, destination: bytes, draining: Draining | None) -> None:
        if draining is None:
            self._db.execute("DELETE FROM drains WHERE service=? AND destination=?", (service, destination))
        else:
            row = (service, destination, draining.since, draining.deadline)
            self._db.execute("INSERT OR REPLACE INTO drains VALUES (?, ?, ?, ?)", row)

    def lingering(self) -> dict[int, Lingering]:
        rows = self._db.execute("SELECT id, owner, state, services, deadline FROM lingering")
        return {
            number: Lingering(
                owner, decode_state(state), frozenset(msgspec.msgpack.decode(services, type=list[bytes])), deadline
            )
            for number, owner, state, services, deadline in rows
        }

    def add_lingering(self, entry: Lingering) -> int:
        """Returns the number it is known by."""
        row = (entry.owner, encode_state(entry.state), msgspec.msgpack.encode(sorted(entry.services)), entry.deadline)
        cursor = self._db.execute("INSERT INTO lingering (owner, state, services, deadline) VALUES (?, ?, ?, ?)", row)
        assert cursor.lastrowid is not None
        return cursor.lastrowid

    def change_lingering(self, number: int, entry: Lingering) -> None:
        """Only its state."""
        self._db.execute("UPDATE lingering SET state=? WHERE id=?", (encode_state(entry.state), number))

    def remove_lingering(self, number: int) -> None:
        self._db.execute("DELETE FROM lingering WHERE id=?", (number,))
