"""GUE ports as a table that knows which are ours: the kernel does not tell who made one, so the store does."""

from collections.abc import Callable, Collection, Iterable, Sequence

from ipvs_agent.rows import FouKey, FouRow
from ipvs_agent.store import Store
from ipvs_agent.table import Change, Outcome, Table, Verdict


class GuePorts:
    """Somebody else's port is as good where it is ``wanted``, and never taken away."""

    def __init__(self, table: Table[FouKey, FouRow], store: Store, wanted: Callable[[], Collection[FouKey]]) -> None:
        self._table, self._store, self._wanted = table, store, wanted

    def read(self, keys: Iterable[FouKey] | None = None) -> dict[FouKey, FouRow]:
        """Ours, and those that are wanted."""
        known = self._store.fou_ports().union(self._wanted())
        return {key: row for key, row in self._table.read(keys).items() if key in known}

    def write(self, changes: Sequence[Change[FouKey, FouRow]]) -> list[Outcome[FouKey]]:
        """As ``Table.write``. What is made is recorded before it is; nobody else's port is removed."""
        ours = self._store.fou_ports()
        changes = [change for change in changes if change.new is not None or change.key in ours]
        for change in changes:
            if change.new is not None:
                self._store.own_fou(change.key)
        outcomes = self._table.write(changes)
        there = self._table.read([change.key for change in changes])
        foreign = {outcome.key for outcome in outcomes if outcome.verdict is Verdict.FOREIGN}
        removed = {change.key for change in changes if change.new is None and change.key not in there}
        for key in foreign | removed:
            self._store.disown_fou(key)
        return outcomes
