"""Services and EndpointSlices in few words, and who serves behind them."""

from collections.abc import Iterable
from typing import Any

import msgspec

from ipvs_api.core import EndpointSlice, Namespace, Service
from ipvs_api.virtualservice import VirtualService
from ipvs_planner.compiled import Compiled

from .worlds import port

CONDITIONS = {"yes": True, "no": False, "nil": None}


def endpoint(text: str) -> dict[str, Any]:
    """``10.1.2.5@rs1``, and behind it what it says of ready, serving and terminating: ``no yes yes``; nothing: nil."""
    where, *conditions = text.split()
    address, _, node = where.partition("@")
    names = ("ready", "serving", "terminating")
    said = {name: CONDITIONS[each] for name, each in zip(names, conditions, strict=False)}
    return {"addresses": [address], "conditions": said, "nodeName": node}


def slice_port(text: str) -> dict[str, Any]:
    """``http:8080``, ``8080`` (without a name), ``dns:5353/UDP``, ``http:`` (every port)."""
    numbers, _, protocol = text.partition("/")
    name, colon, number = numbers.partition(":")
    if not colon:
        name, number = "", name
    return {"name": name, "protocol": protocol or "TCP", "port": int(number) if number else None}


def slice_(
    name: str = "web-1",
    endpoints: Iterable[str] = ("10.1.2.5@rs1", "10.1.3.5@rs2"),
    ports: Iterable[str] = ("http:8080",),
    *,
    of: str = "web",
    namespace: str = "shop",
    family: str = "IPv4",
    created: str = "",
    version: str = "",
) -> EndpointSlice:
    meta = {"name": name, "namespace": namespace, "creationTimestamp": created, "resourceVersion": version}
    value = {
        "metadata": meta | {"labels": {"kubernetes.io/service-name": of} if of else {}},
        "addressType": family,
        "endpoints": [endpoint(text) for text in endpoints],
        "ports": [slice_port(text) for text in ports],
    }
    return msgspec.convert(value, EndpointSlice)


def core(
    ports: Iterable[str] = ("http:80",),
    name: str = "web",
    *,
    namespace: str = "shop",
    families: Iterable[str] = ("IPv4",),
    version: str = "",
    **spec: Any,
) -> Service:
    """A Service of Kubernetes' own. Ports as ``slice_port`` reads them."""
    value = {
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": version},
        "spec": {"ports": [slice_port(text) for text in ports], "ipFamilies": list(families)} | spec,
    }
    return msgspec.convert(value, Service)


def space(name: str = "shop", *, version: str = "", **labels: str) -> Namespace:
    return msgspec.convert({"metadata": {"name": name, "resourceVersion": version, "labels": labels}}, Namespace)


def fronting(
    name: str = "web",
    of: str = "web",
    *,
    ports: Iterable[str] = ("80",),
    vips: Iterable[str] = ("192.0.2.10",),
    namespace: str = "shop",
    created: str = "",
    **spec: Any,
) -> VirtualService:
    """A VirtualService in front of a Service. Ports: ``80``, or with the Service's: ``80=http``, ``53/UDP=5353``."""
    whole = []
    for text in ports:
        number, _, wanted = text.partition("=")
        written = port(number) | {"targetPort": 0}
        whole.append(written | ({"servicePort": int(wanted) if wanted.isdecimal() else wanted} if wanted else {}))
    value = {
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": created, "generation": 1},
        "spec": {
            "directorGroup": "edge",
            "addresses": list(vips),
            "ports": whole,
            "backends": {"service": {"name": of}},
        }
        | spec,
    }
    return msgspec.convert(value, VirtualService)


def served(result: Compiled) -> dict[str, tuple[int, ...]]:
    """By real server: the port it listens on for each port of the virtual service, 0 where it serves that one not."""
    assert result.refusals == ()
    return {
        server.address: server.ports
        for plan in result.plans
        for backend in plan.spec.backends
        for server in backend.servers
    }


def note(result: Compiled, reason: str) -> str:
    """The words of the only note with that reason."""
    (found,) = (finding for finding in result.notes if finding.reason == reason)
    return found.message
