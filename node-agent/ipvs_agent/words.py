"""Rows and changes in words an administrator knows. Pure."""

from typing import Any

from ipvs_agent.rows import TIMEOUTS, ServiceKey, ServiceRow, SysctlRow
from ipvs_agent.services import (
    HEAD_SIZE,
    Destination,
    destination_key,
    destinations_of,
    unpack_destination,
    unpack_key,
)
from ipvs_agent.table import Change


def name_service(key: ServiceKey) -> str:
    """``tcp 192.0.2.1:80``, ``udp [2001:db8::1]:53``."""
    protocol, address, port = unpack_key(key)
    return f"{protocol.lower()} {f'[{address}]' if ':' in address else address}:{port}"


def endpoint(server: Destination) -> str:
    """``10.0.0.11:8080``, ``[2001:db8::1]:53``."""
    return f"[{server.address}]:{server.port}" if ":" in server.address else f"{server.address}:{server.port}"


def foreign_words(key: ServiceKey, *, wanted: bool) -> str:
    """``wanted``: a plan wants this very service; else only its address."""
    name = name_service(key)
    flag = {"tcp": "-t", "udp": "-u", "sctp": "--sctp-service"}[name.partition(" ")[0]]
    found = "" if wanted else ", its address is one of our VIPs, of which only declared ports are open to clients"
    return (
        f"IPVS service {name} is in the kernel already and not ours{found}; it is left alone. Delete it where it comes "
        f"from (by hand: ipvsadm -D {flag} {name.partition(' ')[2]})"
    )


def values(change: Change[Any, Any]) -> str:
    """Found and wanted values, in words."""

    def words(row: Any) -> str:
        if isinstance(row, SysctlRow):
            return str(row.value)
        return " ".join(str(part) for part in row or () if part and part is not True)

    return f"{words(change.old)} → {words(change.new)}" if change.old is not None else words(change.new)


def describe(table: str, key: Any) -> str:
    """A row's name in words an administrator knows."""
    match table:
        case "addresses":
            return f"address {key.address} on {key.interface}"
        case "links":
            return f"link {key}"
        case "sysctls":
            return f"IPVS {key.partition('/')[2]}" if key in TIMEOUTS else f"sysctl {key.replace('/', '.')}"
        case "fou":
            return f"GUE port {key.port} (IPv{key.family})"
        case "routes":
            return f"route {key.destination} in table {key.table} (IPv{key.family})"
        case "rules":
            return f"rule {key.priority} (IPv{key.family})"
        case "hops":
            return f"second hop of {key.protocol} {key.address} port {key.port}"
        case _:
            return f"nftables set {key.set} element {' . '.join(map(str, key.element))}"


def difference(change: Change[ServiceKey, ServiceRow]) -> str:
    """What somebody changed, destination by destination."""
    old, new = change.old or b"", change.new or b""
    had = {destination_key(packed): packed for packed in destinations_of(old)}
    want = {destination_key(packed): packed for packed in destinations_of(new)}
    words = []
    if old[:HEAD_SIZE] != new[:HEAD_SIZE]:
        words.append("scheduler, flags or persistence")
    for name in sorted(had.keys() | want.keys()):
        if had.get(name) == want.get(name):
            continue
        server = unpack_destination(want.get(name) or had[name])
        state = "gone" if name not in had else "added" if name not in want else "changed"
        words.append(f"real server {endpoint(server)} {state}")
    return ", ".join(words)
