"""Switches below ``/proc/sys`` (``Documentation/networking/ip-sysctl.rst``): read those asked for, write what differs.

No switch is anybody's own, so there is no dump and nothing to delete: a switch that is no longer wanted is given its
found value back by a row of its own.
"""

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ipvs_agent.rows import SysctlRow
from ipvs_agent.table import Change, Outcome, Verdict


def satisfies(wanted: SysctlRow, found: int) -> bool:
    """Whether a found value needs no write."""
    return found >= wanted.value if wanted.at_least else found == wanted.value


def settle(desired: Mapping[str, SysctlRow], observed: Mapping[str, SysctlRow]) -> dict[str, SysctlRow]:
    """``observed`` with the wanted row in place of every found one that satisfies it: a difference is what to write."""
    return {
        path: desired[path] if path in desired and satisfies(desired[path], found.value) else found
        for path, found in observed.items()
    }


def in_order(changes: Iterable[Change[str, SysctlRow]]) -> list[Change[str, SysctlRow]]:
    """Parents before what the kernel derives from them.

    ``ip_forward`` and ``conf/all`` write through to every interface. ``accept_ra`` goes before forwarding where it is
    raised and behind it where it is lowered: forwarding with ``accept_ra`` 1 forgets the default route that a router
    advertised (``addrconf_fixup_forwarding``).
    """
    return sorted(changes, key=_rank)


def _rank(change: Change[str, SysctlRow]) -> int:
    parts = change.key.split("/")
    if parts[-1] == "accept_ra":
        return 0 if change.new is not None and change.new.value > 1 else 9
    if change.key == "net/ipv4/ip_forward":
        return 1
    if len(parts) == 5 and parts[2] == "conf":
        return {"all": 2, "default": 3}.get(parts[3], 4)
    return 4


class SysctlsTable:
    """Switches by path, as ``net/ipv4/conf/eth0/rp_filter`` (slashes only: names of interfaces may hold dots).

    ``root``: where the host's ``/proc/sys`` is; a pod sees its own read-only and has the host's mounted elsewhere.
    """

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._root = root

    def value(self, path: str) -> int | None:
        """The value found; None where the kernel has no such switch, or it is no number."""
        try:
            return int((self._root / path).read_bytes())
        except (OSError, ValueError):
            return None

    def is_of_nothing(self, path: str) -> bool:
        """True for a switch of an interface that does not exist."""
        match path.split("/"):
            case ["net", "ipv4" | "ipv6", "conf", interface, _]:
                return not any(
                    (self._root / "net" / family / "conf" / interface).exists() for family in ("ipv4", "ipv6")
                )
        return False

    def read(self, keys: Iterable[str] | None = None) -> dict[str, SysctlRow]:
        """What ``keys`` are, as exact rows; what the kernel lacks is left out. None: nothing, see the module's text."""
        return {path: SysctlRow(found) for path in keys or () if (found := self.value(path)) is not None}

    def write(self, changes: Sequence[Change[str, SysctlRow]]) -> list[Outcome[str]]:
        """As ``Table.write``, but in the order of ``in_order``. What is no longer wanted stays as it is."""
        return [self._write(change.key, change.new) for change in in_order(changes)]

    def _write(self, path: str, wanted: SysctlRow | None) -> Outcome[str]:
        if wanted is None:
            return Outcome(path, Verdict.DONE)
        found = self.value(path)
        if found is not None and satisfies(wanted, found):
            return Outcome(path, Verdict.DONE)  # a parent brought it along
        try:
            descriptor = os.open(self._root / path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, b"%d\n" % wanted.value)
            finally:
                os.close(descriptor)
        except OSError as failure:
            return Outcome(path, Verdict.FAILED, _words(path, wanted, found, failure, self._root))
        if (after := self.value(path)) is None or not satisfies(wanted, after):
            return Outcome(path, Verdict.FAILED, f"{path}: wrote {wanted.value}, and the kernel has {after}")
        return Outcome(path, Verdict.DONE)


def _words(path: str, wanted: SysctlRow, found: int | None, failure: OSError, root: Path) -> str:
    name = path.replace("/", ".") if "." not in path else path
    if failure.errno == errno.ENOENT:
        return f"{name} should be {wanted.value}, but this kernel or interface has no such switch (module not loaded?)"
    remedy = f"set it on the host (sysctl -w {name}={wanted.value})"
    if failure.errno == errno.EROFS:
        remedy += (
            f", or mount the host's /proc/sys/net writable and name it with --sysctl-root ({root} is read-only here)"
        )
    return f"{name} is {found}, should be {wanted.value}, and cannot be written ({failure.strerror}): {remedy}"
