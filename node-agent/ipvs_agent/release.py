"""``ipvs-agent release``: take away all that is ours on this host, and only that.

Unlike stopping the agent, which leaves traffic alone, this ends it: announcements and addresses first, then what stood
behind them; switches get the values they had before us, parents before what they derive.
"""

from collections.abc import Iterator
from typing import Any

from ipvs_agent.converge import describe
from ipvs_agent.kernel.whole import Kernel
from ipvs_agent.rows import SysctlRow
from ipvs_agent.services_pass import name_service
from ipvs_agent.store import Store
from ipvs_agent.table import Change, Outcome, Verdict


def release(kernel: Kernel, store: Store) -> Iterator[tuple[str, str]]:
    """Yields what was done, or why it could not be: (thing, problem), problem empty when it is gone."""
    for name in ("addresses", "rules", "routes"):
        yield from _remove(kernel, name, kernel.table(name).read())
    owned = store.services()
    services = {key: row for key, row in kernel.ipvs.read(owned).items() if key in owned}
    for outcome in kernel.ipvs.write([Change(key, row, None) for key, row in services.items()]):
        yield f"service {name_service(outcome.key)}", _problem(outcome)
    for table in kernel.nft.delete():
        yield f"nftables table {table}", ""
    ports = store.fou_ports()
    yield from _remove(kernel, "fou", {key: row for key, row in kernel.fou.read().items() if key in ports})
    yield from _remove(kernel, "links", kernel.links.read())
    yield from _restore_switches(kernel, store)


def _remove(kernel: Kernel, name: str, rows: dict[Any, Any]) -> Iterator[tuple[str, str]]:
    for outcome in kernel.table(name).write([Change(key, row, None) for key, row in rows.items()]):
        yield describe(name, outcome.key), _problem(outcome)


def _restore_switches(kernel: Kernel, store: Store) -> Iterator[tuple[str, str]]:
    """A value that somebody changed after us is theirs and stays."""
    remembered = store.sysctls()
    now = kernel.sysctls.read(remembered)
    changes = []
    for path, entry in sorted(remembered.items(), key=lambda item: (not _is_parent(item[0]), item[0])):
        row = now.get(path)
        if row is None or row.value == entry.found:
            continue
        if row.value != entry.wrote:
            yield describe("sysctls", path), f"is {row.value}, neither what was found nor what we wrote; left alone"
            continue
        changes.append(Change(path, row, SysctlRow(entry.found)))
    for outcome in kernel.sysctls.write(changes):
        yield describe("sysctls", outcome.key), _problem(outcome)


def _is_parent(path: str) -> bool:
    """Switches whose writing changes others: ``ip_forward``, and what is ``all`` or ``default``."""
    return path == "net/ipv4/ip_forward" or "/all/" in path or "/default/" in path


def _problem(outcome: Outcome[Any]) -> str:
    return "" if outcome.verdict is Verdict.DONE else outcome.message or outcome.verdict.value
