"""Our policy rules: this packet mark, or this host's own packets, look up that table.

Kernel: ``net/core/fib_rules.c``.
"""

import errno
import struct
from collections.abc import Iterable, Sequence

from ipvs_agent.kernel import rtnetlink
from ipvs_agent.kernel.netlink import Reply, Request
from ipvs_agent.kernel.rtnetlink import FAMILY, RouteSocket, attributes, number, outcome_of, text
from ipvs_agent.rows import ROUTE_PROTOCOL, RuleKey, RuleRow
from ipvs_agent.table import Change, Outcome, Verdict

_TO_TABLE = 1  # FR_ACT_TO_TBL
_HEADER = struct.Struct("=BBBBBBBBI")  # struct fib_rule_hdr: family, dst_len, src_len, tos, table, -, -, action, flags
_FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIX, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL = (
    3,
    6,
    10,
    14,
    15,
    16,
    21,
)
_OURS = {_FRA_IIFNAME, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIX, _FRA_TABLE, _FRA_FWMASK, _FRA_PROTOCOL}
_LOCAL = "lo"  # the interface that packets of this host's own come in by
_NOTHING_SUPPRESSED = b"\xff\xff\xff\xff"  # the kernel always tells it


class RulesTable:
    """Rules of our protocol by family, priority, mark and mask."""

    def __init__(self, sock: RouteSocket) -> None:
        self._socket = sock

    def read(self, keys: Iterable[RuleKey] | None = None) -> dict[RuleKey, RuleRow]:
        """Ours only: our protocol, and nothing matched but the mark. NetlinkError when the kernel refuses the dump."""
        wanted = None if keys is None else set(keys)
        rows = {}
        for version, family in FAMILY.items():
            for body in self._socket.dump(rtnetlink.GETRULE, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                _, destination, source, tos, table, _, _, action, _ = _HEADER.unpack_from(body)
                found = attributes(body, _HEADER.size)
                if number(found.get(_FRA_PROTOCOL)) != ROUTE_PROTOCOL or action != _TO_TABLE:
                    continue
                if destination or source or tos or not found.keys() <= _OURS:
                    continue
                if found.get(_FRA_SUPPRESS_PREFIX, _NOTHING_SUPPRESSED) != _NOTHING_SUPPRESSED:
                    continue
                incoming = text(found.get(_FRA_IIFNAME))
                if incoming not in ("", _LOCAL):
                    continue
                # Neither is told where the rule matches every mark.
                mark, mask = number(found.get(_FRA_FWMARK)), number(found.get(_FRA_FWMASK))
                key = RuleKey(version, number(found.get(_FRA_PRIORITY)), mark, mask, incoming == _LOCAL)
                if wanted is None or key in wanted:
                    rows[key] = RuleRow(number(found.get(_FRA_TABLE), table))
        return rows

    def write(self, changes: Sequence[Change[RuleKey, RuleRow]]) -> list[Outcome[RuleKey]]:
        """As ``Table.write``. A rule cannot be changed: the new one is added, then the old one deleted."""
        steps = [
            (change.key, kind, row)
            for change in changes
            for kind, row in ((rtnetlink.NEWRULE, change.new), (rtnetlink.DELRULE, change.old))
            if row is not None
        ]
        replies = self._socket.exchange([_request(*step) for step in steps])
        worst: dict[RuleKey, Outcome[RuleKey]] = {}
        for (key, kind, row), reply in zip(steps, replies, strict=True):
            outcome = _outcome(key, kind, row, reply)
            if outcome.verdict is not Verdict.DONE:
                worst.setdefault(key, outcome)
        return [worst.get(change.key, Outcome(change.key, Verdict.DONE)) for change in changes]


def _request(key: RuleKey, kind: int, row: RuleRow) -> Request:
    attached: list[tuple[str, str | int]] = [
        ("FRA_PRIORITY", key.priority),
        ("FRA_FWMARK", key.mark),
        ("FRA_FWMASK", key.mask),
        ("FRA_TABLE", row.table),
        ("FRA_PROTOCOL", ROUTE_PROTOCOL),
    ]
    if key.local:
        attached.append(("FRA_IIFNAME", _LOCAL))
    flags = rtnetlink.F_CREATE | rtnetlink.F_EXCL if kind == rtnetlink.NEWRULE else 0
    fields = {"family": FAMILY[key.family], "action": _TO_TABLE}
    return Request(kind, flags, rtnetlink.rule_message(fields, attached))


def _outcome(key: RuleKey, kind: int, row: RuleRow, reply: Reply) -> Outcome[RuleKey]:
    """Ours is there already, or gone already: as good as done, since the kernel compares the protocol, too."""
    words = f"IPv{key.family} rule {key.priority}: fwmark {key.mark:#x}/{key.mask:#x} lookup {row.table}"
    if kind == rtnetlink.NEWRULE:
        return outcome_of(key, reply, f"{words} cannot be added", (errno.EEXIST,))
    return outcome_of(key, reply, f"{words} cannot be deleted", (errno.ENOENT,))
