"""Tables, JSON and YAML of what ``status`` and ``plan`` found. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from ipvs_agent.preview import Preview
from ipvs_agent.view import View
from ipvs_api import API_VERSION
from ipvs_api.meta import Condition, ConditionStatus


def table(rows: Iterable[Sequence[str]]) -> str:
    """Columns as wide as they need to be, three spaces between them, as kubectl prints them."""
    lines = [tuple(row) for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    return "".join("   ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() + "\n" for row in lines)


def as_list(items: Sequence[Any]) -> dict[str, Any]:
    """A ``v1`` List, as ``kubectl get -o json`` gives several objects."""
    return {"apiVersion": "v1", "kind": "List", "items": list(items)}


def _typed(kind: str, item: Any) -> dict[str, Any]:
    """An object with the type that encoding leaves out as a default."""
    return {"apiVersion": API_VERSION, "kind": kind, **msgspec.to_builtins(item)}


def encoded(value: Any, output: str) -> str:
    """``json`` (indented) or ``yaml``."""
    plain = msgspec.to_builtins(value)
    if output == "json":
        return msgspec.json.format(msgspec.json.encode(plain), indent=2).decode() + "\n"
    import yaml

    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=120)


def show_status(view: View, output: str) -> str:
    """The node and its virtual services; ``json`` and ``yaml`` have the shapes that a cluster has, ``ipvs`` what the
    kernel counts, in JSON."""
    if output == "ipvs":
        return encoded(view.kernel, "json")
    if output != "table":
        items: list[tuple[str, Any]] = [("IPVSNode", view.node)]
        items += [("VirtualService", service) for service in view.services]
        items += [("VirtualServicePlan", plan) for plan in view.plans]
        return encoded(as_list([_typed(kind, item) for kind, item in items]), output)
    parts = [_node(view), _services(view), _kernel(view), _conditions(view), f"{view.away}\n" if view.away else ""]
    return "\n".join(part for part in parts if part)


def _condition(conditions: Sequence[Condition], kind: str) -> str:
    return next((condition.status.value for condition in conditions if condition.type == kind), "Unknown")


def _node(view: View) -> str:
    status = view.node.status
    counts = status.counts
    head = ("NODE", "READY", "DIRECTING", "SERVING", "DRAINING", "FAILURES", "KERNEL", "AGENT")
    row = (
        view.node.metadata.name,
        _condition(status.conditions, "Ready"),
        *(str(count) for count in (counts.directing, counts.serving, counts.draining, counts.failures)),
        status.kernel_version,
        status.agent_version if view.running else f"{status.agent_version} (not running)",
    )
    return table([head, row])


def _services(view: View) -> str:
    if not view.services:
        return "No virtual services.\n"
    plans = {(p.spec.virtual_service.namespace, p.spec.virtual_service.name): p.spec for p in view.plans}
    servers: Counter[tuple[str, str]] = Counter()
    for each in view.plans:
        owner = each.spec.virtual_service
        servers[owner.namespace, owner.name] += sum(len(backend.servers) for backend in each.spec.backends)
    rows = [("VIRTUALSERVICE", "VIP", "FORWARDING", "SCHEDULER", "REALSERVERS", "READY")]
    for service in view.services:
        key = (service.metadata.namespace, service.metadata.name)
        plan = plans.get(key)
        rows.append(
            (
                f"{service.metadata.namespace}/{service.metadata.name}",
                ",".join(entry.address for entry in plan.addresses) if plan is not None else "-",
                plan.forwarding if plan is not None else "-",
                plan.scheduler if plan is not None else "-",
                str(servers[key]) if plan is not None else "-",
                _condition(service.status.conditions, "Ready"),
            )
        )
    return table(rows)


def _kernel(view: View) -> str:
    if not view.kernel:
        return ""
    leaving = {server.address for server in view.node.status.draining}
    rows = [("IPVS", "FORWARDING", "WEIGHT", "ACTIVE", "INACTIVE", "SCHEDULED", "")]
    for service in view.kernel:
        rows.append((f"{service.name} {service.scheduler}", "", "", "", "", "", ""))
        for server in service.servers:
            address = (
                f"[{server.address}]:{server.port}" if ":" in server.address else f"{server.address}:{server.port}"
            )
            rows.append(
                (
                    f"  -> {address}",
                    server.forwarding,
                    str(server.weight),
                    str(server.active),
                    str(server.inactive),
                    str(server.scheduled),
                    "draining" if server.address in leaving and not server.weight else "",
                )
            )
    return table(rows)


def _conditions(view: View) -> str:
    """What is not as it should be, and what there is to know."""
    lines = [
        f"{condition.type}={condition.status} {condition.reason}: {condition.message}"
        for condition in view.node.status.conditions
        if condition.status is not ConditionStatus.TRUE or condition.message
    ]
    told: dict[str, list[str]] = {}
    for service in view.services:
        for condition in service.status.conditions:
            if condition.message and (condition.status is not ConditionStatus.TRUE or condition.type == "Accepted"):
                words = f"{condition.type}={condition.status} {condition.reason}: {condition.message}"
                told.setdefault(words, []).append(f"{service.metadata.namespace}/{service.metadata.name}")
    lines += [f"{_few(names)}: {words}" for words, names in told.items()]
    return "\n".join(lines) + "\n" if lines else ""


def _few(names: Sequence[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def show_preview(node: str, changes: Sequence[Preview], output: str, source: str) -> str:
    """What would be added (+), changed (~) and removed (-), in the order in which it would be written.

    ``source``: what says so, in a word.
    """
    if output != "table":
        return encoded([_as_mapping(change) for change in changes], output)
    if not changes:
        return f"{node}: nothing to do, the kernel is as the {source} want it\n"
    signs = {"add": "+", "change": "~", "remove": "-", "drain": "v"}
    lines = [
        f"{signs[change.action]} {change.what}{': ' + change.detail if change.detail else ''}" for change in changes
    ]
    return "\n".join([*lines, f"{node}: {len(changes)} changes; nothing was written"]) + "\n"


def _as_mapping(change: Preview) -> Mapping[str, str]:
    return {"action": change.action, "what": change.what, "detail": change.detail}
