"""What annotations of ours on a Service say, for which a Service has no field: text to values of a VirtualServiceSpec.

Every one that begins with ``ipvs.dev/`` must be known and must say something that can be done: what is wrong is refused
with the nearest that would not be, and never taken for a default. Others' annotations are none of our business.
"""

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from enum import StrEnum
from typing import Any, NamedTuple

from msgspec import inspect

from ipvs_api.meta import Shape
from ipvs_api.virtualservice import (
    Drain,
    Forwarding,
    HealthCheckType,
    Persistence,
    ReturnPath,
    Scheduler,
    SchedulerFlag,
    TunnelSpec,
    TunnelType,
    VirtualServiceSpec,
)
from ipvs_planner.backends import CLASS_PREFIX
from ipvs_planner.packed import Address, parse_address
from ipvs_planner.reasons import Finding, Reason


class Wrong(NamedTuple):
    """``found``: what of the text is wrong. ``wanted``: in words. ``close``: what was meant, perhaps."""

    found: str
    wanted: str
    close: str = ""


class Kind(NamedTuple):
    """``field``: of a VirtualService, that says the same. ``wanted``: what may be said, in words."""

    field: str
    wanted: str
    parse: Callable[[str], Any]
    """To the field's value, or to what is Wrong."""


class Said(NamedTuple):
    """``values``: by the annotation's name without prefix; those only that can be used."""

    values: Mapping[str, Any]
    findings: tuple[Finding, ...]


def read(annotations: Mapping[str, str]) -> Said:
    values: dict[str, Any] = {}
    findings: list[Finding] = []
    for name, text in sorted(annotations.items()):
        if not name.startswith(CLASS_PREFIX):
            continue
        short = name.removeprefix(CLASS_PREFIX)
        kind = KNOWN.get(short)
        if kind is None:
            findings.append(_unknown(short))
            continue
        value = kind.parse(text.strip())
        if isinstance(value, Wrong):
            hint = f"; did you mean {value.close}?" if value.close else ""
            findings.append(wrong(short, f"found {value.found!r}, wanted {value.wanted}{hint}"))
        else:
            values[short] = value
    return Said(values, tuple(findings))


def wrong(short: str, words: str) -> Finding:
    return Finding(Reason.ANNOTATION_INVALID, f"metadata.annotations[{CLASS_PREFIX}{short}]: {words}")


def _unknown(short: str) -> Finding:
    close = _close(short, KNOWN)
    known = ", ".join(sorted(KNOWN))
    hint = f"did you mean {CLASS_PREFIX}{close}?" if close else f"known under {CLASS_PREFIX} are {known}"
    return wrong(short, f"there is no such annotation; {hint}")


def _close(text: str, known: Iterable[str]) -> str:
    """The nearest, whatever the case; empty: nothing is near."""
    folded = {each.casefold(): each for each in known}
    found = get_close_matches(text.casefold(), folded, n=1)
    return folded[found[0]] if found else ""


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _choice(field: str, choices: type[StrEnum]) -> Kind:
    wanted = _listed(choices)

    def parse(text: str) -> StrEnum | Wrong:
        return choices(text) if text in set(choices) else Wrong(text, wanted, _close(text, choices))

    return Kind(field, wanted, parse)


def _number(field: str, shape: type[Shape], attribute: str) -> Kind:
    """Within the bounds that the type has."""
    bounds = next(each.type for each in inspect.type_info(shape).fields if each.name == attribute)  # type: ignore[attr-defined]
    least, most = bounds.ge, bounds.le
    wanted = f"a whole number from {least} to {most}"

    def parse(text: str) -> int | Wrong:
        digits = text.isascii() and text.isdecimal() and len(text) <= len(str(most))
        return int(text) if digits and least <= int(text) <= most else Wrong(text, wanted)

    return Kind(field, wanted, parse)


def _switch(field: str) -> Kind:
    wanted = "true or false"

    def parse(text: str) -> bool | Wrong:
        return text == "true" if text in ("true", "false") else Wrong(text, wanted, _close(text, ("true", "false")))

    return Kind(field, wanted, parse)


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")] if text else []


def _flags(text: str) -> tuple[SchedulerFlag, ...] | Wrong:
    words = _words(text)
    for word in words:
        if word not in set(SchedulerFlag):
            return Wrong(word, FLAGS_WANTED, _close(word, SchedulerFlag))
    return tuple(SchedulerFlag(word) for word in words)


def _addresses(text: str) -> tuple[Address, ...] | Wrong:
    found: list[Address] = []
    for word in _words(text) or [""]:
        address = parse_address(word)
        if isinstance(address, str):
            return Wrong(word, f"{ADDRESSES_WANTED} ({address})")
        found.append(address)
    return tuple(dict.fromkeys(found))


FLAGS_WANTED = f"{_listed(SchedulerFlag)}, or both with a comma between them, or nothing for none"
ADDRESSES_WANTED = "unicast addresses, at most one IPv4 and one IPv6, with a comma between them"

KNOWN: Mapping[str, Kind] = {
    "addresses": Kind("spec.addresses", ADDRESSES_WANTED, _addresses),
    "address-count": _number("spec.addressCount", VirtualServiceSpec, "address_count"),
    "forwarding": _choice("spec.forwarding", Forwarding),
    "return-path": _choice("spec.nat.returnPath", ReturnPath),
    "tunnel-type": _choice("spec.tunnel.type", TunnelType),
    "tunnel-port": _number("spec.tunnel.port", TunnelSpec, "port"),
    "scheduler": _choice("spec.scheduler", Scheduler),
    "scheduler-flags": Kind("spec.schedulerFlags", FLAGS_WANTED, _flags),
    "persistence-timeout-seconds": _number("spec.persistence.timeoutSeconds", Persistence, "timeout_seconds"),
    "persistence-ipv4-prefix-length": _number("spec.persistence.ipv4PrefixLength", Persistence, "ipv4_prefix_length"),
    "persistence-ipv6-prefix-length": _number("spec.persistence.ipv6PrefixLength", Persistence, "ipv6_prefix_length"),
    "one-packet": _switch("spec.onePacket"),
    "health-check": _choice("spec.healthCheck.type", HealthCheckType),
    "drain-timeout-seconds": _number("spec.drain.timeoutSeconds", Drain, "timeout_seconds"),
}
"""By their names without prefix."""
