"""Why the kernel refuses an IPVS entry, in words for the person who can mend it. Pure.

The kernel answers with a number whose meaning depends on the request (``ip_vs_ctl.c``). ``refusals`` tells beforehand
what it would not take; ``judge`` reads its answer.
"""

import errno
from collections import Counter
from ipaddress import ip_address

from ipvs_agent.kernel.ipvs_codec import (
    DEL_DEST,
    DEL_SERVICE,
    NEW_DEST,
    NEW_SERVICE,
    SET_DEST,
    SET_SERVICE,
    command_of,
    named_destination,
)
from ipvs_agent.kernel.netlink import UNKNOWN, Reply
from ipvs_agent.rows import ServiceKey, ServiceRow
from ipvs_agent.services import (
    AF_INET,
    FLAG_PERSISTENT,
    FWD_TUNNEL,
    TUNNEL_GUE,
    destination_key,
    destinations_of,
    family_of,
    unpack_destination,
    unpack_destination_key,
    unpack_head,
    unpack_key,
)
from ipvs_agent.table import Change, Verdict

LONGEST_TIMEOUT = 31 * 86400
"""Seconds of persistence, the limit of ``ipvsadm``; the kernel counts ticks of up to 1 ms in 32 bits."""

_INT_MAX = 2**31 - 1

_LOOK_AGAIN = {
    (NEW_SERVICE, errno.EEXIST): "the service is there already",
    (SET_SERVICE, errno.ESRCH): "the service is gone",
    (DEL_SERVICE, errno.ESRCH): "the service is gone",
    (NEW_DEST, errno.EEXIST): "the real server is there already",
    (NEW_DEST, errno.ESRCH): "the service is gone",
    (SET_DEST, errno.ENOENT): "the real server is gone",
    (SET_DEST, errno.ESRCH): "the service is gone",
    (DEL_DEST, errno.ENOENT): "the real server is gone",
    (DEL_DEST, errno.ESRCH): "the service is gone",
}
"""Somebody changed the table since it was read."""


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def service_name(key: ServiceKey) -> str:
    """``TCP 192.0.2.10:80``."""
    protocol, address, port = unpack_key(key)
    return f"{protocol} {_endpoint(address, port)}"


def destination_name(packed: bytes) -> str:
    """``10.0.0.11:8080``, of a packed destination or its key."""
    return _endpoint(*unpack_destination_key(packed))


def head_refusals(key: ServiceKey, row: ServiceRow) -> list[str]:
    """What the kernel would not take in a service's head, a sentence each; empty when it is fine."""
    scheduler, flags, timeout, netmask = unpack_head(row)
    widest, shortest = (32, 0) if family_of(key) == AF_INET else (128, 1)
    found = []
    if not scheduler or len(scheduler) > 15:
        found.append(f"scheduler {scheduler!r} is not a name of 1 to 15 letters")
    if flags & FLAG_PERSISTENT and not 1 <= timeout <= LONGEST_TIMEOUT:
        found.append(f"persistence of {timeout} s is not between 1 s and 31 days")
    if not shortest <= netmask <= widest:
        found.append(f"persistence prefix length {netmask} is not between {shortest} and {widest}")
    return found


def destination_refusals(key: ServiceKey, packed: bytes) -> list[str]:
    """What the kernel would not take in one destination, a sentence each; empty when it is fine."""
    destination = unpack_destination(packed)
    address = ip_address(destination.address)
    tunnelled = destination.forwarding == FWD_TUNNEL
    found = []
    if destination.weight > _INT_MAX:
        found.append(f"weight {destination.weight} is above {_INT_MAX}")
    if destination.upper > _INT_MAX:
        found.append(f"upper connection threshold {destination.upper} is above {_INT_MAX}")
    if destination.lower > destination.upper:
        found.append(
            f"lower connection threshold {destination.lower} is above the upper threshold {destination.upper}"
        )  # fmt: skip
    if destination.tunnel_type == TUNNEL_GUE and not destination.tunnel_port:
        found.append("a GUE tunnel needs a port other than 0")
    if family_of(packed) != family_of(key) and not tunnelled:
        found.append("a real server of the other address family is reached by tunnel only")
    if address.is_multicast or address.is_unspecified or (address.version == 6 and address.is_link_local):
        found.append(f"{address} is not a unicast address that other hosts can have")
    return found


def refusals(key: ServiceKey, row: ServiceRow) -> list[str]:
    """What the kernel would not take in a service, a sentence each, naming the real server; empty when it is fine."""
    destinations = destinations_of(row)
    count = Counter(map(destination_key, destinations))
    return [
        *head_refusals(key, row),
        *(f"real server {destination_name(name)} is there {times} times" for name, times in count.items() if times > 1),
        *(
            f"real server {destination_name(packed)}: {reason}"
            for packed in destinations
            for reason in destination_refusals(key, packed)
        ),
    ]


def judge(change: Change[ServiceKey, ServiceRow], message: bytes, reply: Reply) -> tuple[Verdict, str]:
    """What the answer to one of the change's messages, an error, means for the change, and the words for it."""
    command, name = command_of(message), named_destination(message)
    what = (
        service_name(change.key)
        if name is None
        else f"{service_name(change.key)}, real server {destination_name(name)}"
    )
    if reply.error == UNKNOWN:
        return Verdict.UNKNOWN, f"{what}: {reply.words}"
    if (command, reply.error) in _LOOK_AGAIN:
        return Verdict.UNKNOWN, f"{what}: {_LOOK_AGAIN[command, reply.error]}, changed by somebody else meanwhile"
    return Verdict.FAILED, f"{what}: {_reason(change, command, name, reply)}"


def _reason(change: Change[ServiceKey, ServiceRow], command: int, name: bytes | None, reply: Reply) -> str:
    error, row = reply.error, change.new
    if error == errno.EPERM:
        return "not permitted: it takes CAP_NET_ADMIN in the initial user namespace"
    if error == errno.EAFNOSUPPORT:
        return "this kernel's IPVS has no IPv6 (CONFIG_IP_VS_IPV6, or IPv6 is disabled)"
    if row is not None and name is None:
        scheduler = unpack_head(row).scheduler
        if error == errno.ENOENT:
            return f"the kernel has no scheduler {scheduler}: load it (modprobe ip_vs_{scheduler}) or choose another"
        if error == errno.EINVAL and (known := head_refusals(change.key, row)):
            return "; ".join(known)
    if row is not None and command in (NEW_DEST, SET_DEST) and error in (errno.EINVAL, errno.ERANGE):
        packed = next(packed for packed in destinations_of(row) if destination_key(packed) == name)
        if known := destination_refusals(change.key, packed):
            return "; ".join(known)
        if family_of(packed) != family_of(change.key):
            return "address families cannot be mixed while a connection sync daemon runs (ipvsadm --list --daemon)"
        return "the kernel does not take it for a unicast address (where lo is down it takes none: ip link set lo up)"
    return reply.words
