"""``ipvs-agent release``: take away all that is ours on this host, and only that.

Unlike stopping the agent, which leaves traffic alone, this ends it: announcements and addresses first, then what stood
behind them; switches get the values they had before us, parents before what they derive.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

from ipvs_agent.kernel.nft_program import NftError
from ipvs_agent.kernel.whole import Kernel
from ipvs_agent.rows import NFT_TABLE, SysctlRow
from ipvs_agent.store import Store
from ipvs_agent.table import Change, Outcome, Verdict
from ipvs_agent.words import describe, name_service


class Released(NamedTuple):
    """One thing of ours: what became of it, in words; ``failed`` when it is there still."""

    thing: str
    words: str = "gone"
    failed: bool = False

    def __str__(self) -> str:
        return f"{self.thing}: {self.words}"


def release(kernel: Kernel, store: Store) -> Iterator[Released]:
    """Take everything away, and tell of each thing."""
    for name in ("addresses", "rules", "routes"):
        yield from _remove(kernel, name, kernel.table(name).read())
    owned = store.services()
    services = {key: row for key, row in kernel.ipvs.read(owned).items() if key in owned}
    for outcome in kernel.ipvs.write([Change(key, row, None) for key, row in services.items()]):
        yield _told(f"service {name_service(outcome.key)}", outcome)
    yield from _remove_nft(kernel)
    ports = store.fou_ports()
    yield from _remove(kernel, "fou", {key: row for key, row in kernel.fou.read().items() if key in ports})
    yield from _remove(kernel, "links", kernel.links.read())
    yield from _restore_switches(kernel, store)


def _remove(kernel: Kernel, name: str, rows: dict[Any, Any]) -> Iterator[Released]:
    for outcome in kernel.table(name).write([Change(key, row, None) for key, row in rows.items()]):
        yield _told(describe(name, outcome.key), outcome)


def _remove_nft(kernel: Kernel) -> Iterator[Released]:
    tables = f"nftables tables {NFT_TABLE}"
    try:
        kernel.nft.generation()
    except NftError:
        return  # a kernel without nftables has none of ours
    try:
        state = kernel.nft.read()
    except NftError as error:
        yield Released(tables, str(error), failed=True)
        return
    if state.features or state.elements or state.hops or state.damage:
        problem = kernel.nft.delete()
        yield Released(tables, problem or "gone", bool(problem))


def _restore_switches(kernel: Kernel, store: Store) -> Iterator[Released]:
    """A value that somebody changed after us is theirs and stays."""
    remembered = store.sysctls()
    now = kernel.sysctls.read(remembered)
    changes = []
    for path, entry in sorted(remembered.items(), key=lambda item: (not _is_parent(item[0]), item[0])):
        row = now.get(path)
        if row is None or row.value == entry.found:
            continue
        if row.value != entry.wrote:
            found = f"neither what was found ({entry.found}) nor what we wrote ({entry.wrote})"
            yield Released(describe("sysctls", path), f"is {row.value}, {found}; left to whoever set it")
            continue
        changes.append(Change(path, row, SysctlRow(entry.found)))
    for outcome in kernel.sysctls.write(changes):
        yield _told(describe("sysctls", outcome.key), outcome, f"back to {remembered[outcome.key].found}")


def _is_parent(path: str) -> bool:
    """Switches whose writing changes others: ``ip_forward``, and what is ``all`` or ``default``."""
    return path == "net/ipv4/ip_forward" or "/all/" in path or "/default/" in path


def _told(thing: str, outcome: Outcome[Any], done: str = "gone") -> Released:
    if outcome.verdict is Verdict.DONE:
        return Released(thing, done)
    return Released(thing, outcome.message or outcome.verdict.value, failed=True)
