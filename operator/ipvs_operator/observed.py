"""What the cluster observes, and what is ours: list-and-watch threads that feed the store.

Services are among it, although people declare them: every Service of the cluster may have a VirtualService's real
servers, and kopf would keep each object whole, as dicts, for as long as it is there.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec

from ipvs_api.core import EndpointSlice, Namespace, Node, Pod, Service
from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.meta import ObjectKey
from ipvs_api.node import IPVSNode
from ipvs_api.plan import VirtualServicePlan
from ipvs_kube.api import Api
from ipvs_kube.reflector import Absent, Change, Gone, Put, Reflector, Replaced, Trouble
from ipvs_kube.resources import (
    ENDPOINT_SLICES,
    IPVS_ADDRESSES,
    IPVS_NODES,
    NAMESPACES,
    NODES,
    OURS,
    PLANS,
    PODS,
    SERVICES,
    Resource,
)
from ipvs_operator.store import Store

log = logging.getLogger(__name__)


class Source(NamedTuple):
    """What is watched, where, and as what it is decoded."""

    resource: Resource
    type: Any
    namespace: str = ""
    label_selector: str = ""


def sources(namespace: str, agent_pods: str) -> list[Source]:
    """``namespace``: the operator's own. ``agent_pods``: a label selector, empty for none."""
    found = [
        Source(NODES, Node),
        Source(NAMESPACES, Namespace),
        Source(SERVICES, Service),
        Source(ENDPOINT_SLICES, EndpointSlice),
        Source(IPVS_NODES, IPVSNode),
        Source(IPVS_ADDRESSES, IPVSAddress),
        Source(PLANS, VirtualServicePlan, namespace),
    ]
    if agent_pods:
        found.append(Source(PODS, Pod, namespace, agent_pods))
    return found


class Observed:
    """All reflectors. ``broken`` is called in the loop's thread when the definition of one of our kinds is gone."""

    def __init__(self, api: Api, store: Store, watched: list[Source], broken: Callable[[str], None]) -> None:
        self._store, self._broken = store, broken
        self._loop = asyncio.get_running_loop()
        self._missing: dict[Resource, str] = {}
        """What has not been listed yet, and why not, as far as that is known."""
        self._reflectors = [self._reflector(api, source) for source in watched]

    def _reflector(self, api: Api, source: Source) -> Reflector[Any]:
        resource = source.resource
        self._missing[resource] = ""

        def tell(changes: list[Change]) -> None:
            """In the reflector's thread."""
            with suppress(RuntimeError):  # the loop is closed: this process is ending
                self._loop.call_soon_threadsafe(self._take, resource, changes)

        decode = msgspec.json.Decoder(source.type).decode
        return Reflector(api, resource, decode, tell, namespace=source.namespace, label_selector=source.label_selector)

    def start(self) -> None:
        for reflector in self._reflectors:
            reflector.start()

    def stop(self) -> None:
        for reflector in self._reflectors:
            reflector.stop()

    def missing(self) -> list[str]:
        """What has not been listed yet, in words; empty: everything has been."""
        return [f"{resource}: not listed yet{f': {why}' if why else ''}" for resource, why in self._missing.items()]

    def _take(self, resource: Resource, changes: list[Change]) -> None:
        kind = resource.kind
        for change in changes:
            if isinstance(change, Put):
                self._store.put(change.object)
            elif isinstance(change, Gone):
                self._store.remove(ObjectKey(kind, change.namespace, change.name), change.resource_version)
            elif isinstance(change, Replaced):
                self._store.replace(kind, change.objects, change.resource_version)
                self._missing.pop(resource, None)
            elif isinstance(change, Trouble) and resource in self._missing:
                self._missing[resource] = change.words
            elif isinstance(change, Absent) and resource in OURS:
                self._broken(f"{resource} is not served any more: was its CustomResourceDefinition deleted?")
