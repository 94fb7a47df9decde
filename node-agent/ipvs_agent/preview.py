"""What a pass would do, told before it is done. Pure."""

from typing import NamedTuple

from ipvs_agent.drain import drained_row
from ipvs_agent.rows import ServiceKey, ServiceRow
from ipvs_agent.services import HEAD_SIZE, destination_key, destinations_of, unpack_destination, unpack_head
from ipvs_agent.words import endpoint, name_service

SHOWN_SERVERS = 10


class Preview(NamedTuple):
    """One change that a pass would make. ``action``: add, change, drain or remove."""

    action: str
    what: str
    detail: str = ""


def preview_service(key: ServiceKey, have: ServiceRow | None, want: ServiceRow | None) -> Preview | None:
    """What would be written to one IPVS service; None: nothing, also where what is to go drains already."""
    name = f"service {name_service(key)}"
    if have is None:
        return Preview("add", name, _whole(want)) if want is not None else None
    if want is None and len(have) == HEAD_SIZE:
        return Preview("remove", name, "nothing wants it any more")
    row, leaving = drained_row(key, have[:HEAD_SIZE] if want is None else want, have, {})
    if row == have:
        return None
    if want is None:
        return Preview("drain", name, "nothing wants it any more")
    return Preview("change", name, ", ".join(_changes(have, row, set(leaving))))


def _whole(row: ServiceRow) -> str:
    servers = [unpack_destination(packed) for packed in destinations_of(row)]
    listed = ", ".join(f"{endpoint(server)} weight {server.weight}" for server in servers[:SHOWN_SERVERS])
    return f"{unpack_head(row).scheduler} to {listed}{', …' if len(servers) > SHOWN_SERVERS else ''}"


def _changes(have: ServiceRow, row: ServiceRow, leaving: set[bytes]) -> list[str]:
    words = ["scheduler, flags or persistence"] if have[:HEAD_SIZE] != row[:HEAD_SIZE] else []
    before = {destination_key(packed): packed for packed in destinations_of(have)}
    after = {destination_key(packed): packed for packed in destinations_of(row)}
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) == after.get(name):
            continue
        state = "drained" if name in leaving else "added" if name not in before else "changed"
        server = unpack_destination(after.get(name) or before[name])
        words.append(f"real server {endpoint(server)} {state if name in after else 'deleted'}")
    return words
