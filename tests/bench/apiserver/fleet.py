"""What is seen of a cluster by watching it, and the agents of many nodes: they report what they are told as done."""

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from time import monotonic, perf_counter
from typing import Any, Self

import msgspec
from tests.bench.apiserver.load import SHOP, SYSTEM, node_name

from ipvs_agent.facts import Host, Interface, InterfaceAddress
from ipvs_agent.publish import MANAGER, PERIOD
from ipvs_agent.report import Standing, report
from ipvs_api.labels import NODE_LABEL_PREFIX, node_label
from ipvs_api.node import IPVSNodeStatus
from ipvs_kube.api import Api
from ipvs_kube.errors import ApiError
from ipvs_kube.reflector import Change, Gone, Put, Reflector, Replaced
from ipvs_kube.resources import IPVS_NODES, PLANS, VIRTUAL_SERVICES, Resource


class Meta(msgspec.Struct, rename="camel"):
    name: str
    resource_version: str
    generation: int = 0
    labels: dict[str, str] = {}


class _Condition(msgspec.Struct):
    type: str
    status: str


class _Status(msgspec.Struct, rename="camel"):
    observed_generation: int = 0
    conditions: list[_Condition] = []


class Seen(msgspec.Struct):
    """As little as possible of an object: this is to cost the machine next to nothing."""

    metadata: Meta
    status: _Status = msgspec.field(default_factory=_Status)

    @property
    def settled(self) -> bool:
        """A VirtualService is ready, and nothing goes on with it."""
        said = {each.type: each.status for each in self.status.conditions}
        current = self.status.observed_generation == self.metadata.generation
        return current and said.get("Ready") == "True" and said.get("Reconciling", "False") == "False"


class Watch:
    """Counts what happens to the objects of a kind, and when. ``told``: given each of them, in the watch's thread."""

    def __init__(
        self, api: Api, resource: Resource, namespace: str = "", told: Callable[[Seen], None] | None = None
    ) -> None:
        self.changes: Counter[str] = Counter()
        self.at: dict[str, float] = {}
        self.last = 0.0
        self.there: dict[str, bool] = {}
        """By name: whether it is settled."""
        self.unsettled: set[str] = set()
        self._told = told
        decode = msgspec.json.Decoder(Seen).decode
        self._reflector: Reflector[Any] = Reflector(api, resource, decode, self._take, namespace=namespace)
        self._reflector.start()

    def _take(self, changes: list[Change]) -> None:
        now = perf_counter()
        for change in changes:
            if isinstance(change, Replaced):
                for each in change.objects:
                    self._put(each, now)
            elif isinstance(change, Put):
                self._put(change.object, now)
            elif isinstance(change, Gone):
                self.there.pop(change.name, None)
                self.unsettled.discard(change.name)

    def _put(self, seen: Seen, now: float) -> None:
        name = seen.metadata.name
        self.at[name] = self.last = now
        self.changes[name] += 1
        self.there[name] = seen.settled
        (self.unsettled.discard if seen.settled else self.unsettled.add)(name)
        if self._told is not None:
            self._told(seen)

    def stop(self) -> None:
        self._reflector.stop()
        self._reflector.join(5)


class _Agent:
    def __init__(self, number: int) -> None:
        address = (InterfaceAddress(f"10.0.{number // 250}.{number % 250 + 1}", 16),)
        link = Interface(2, "eth0", mac=f"02:00:00:00:{number // 256:02x}:{number % 256:02x}", addresses=address)
        self.host = Host(node_name(number), "boot-1", "7.2.0-bench", {"eth0": link})
        self.stored = IPVSNodeStatus()
        self.known = False
        """There is an IPVSNode to report in."""
        self.observed = "1"
        self.not_before = 0.0


class Fleet:
    """The agents of nodes ``0`` to ``nodes``, one thread for all; each reports once a second at most, as real ones do.

    ``plans`` and ``services``: what happens to these objects meanwhile.
    """

    def __init__(self, api: Api, nodes: int) -> None:
        self._api = api
        self._agents = {node_name(number): _Agent(number) for number in range(nodes)}
        self._labels = {node_label(name): agent for name, agent in self._agents.items()}
        self._turn = threading.Condition()
        self._dirty: dict[str, _Agent] = {}
        self._stopped = False
        self.reports = 0
        self._thread = threading.Thread(target=self._run, name="fleet", daemon=True)
        self._thread.start()
        self.plans = Watch(api, PLANS, SYSTEM, self._plan)
        self.services = Watch(api, VIRTUAL_SERVICES, SHOP)
        self._nodes = Watch(api, IPVS_NODES, told=self._node)

    @property
    def quiet(self) -> bool:
        """Everything is ready, and nobody has anything more to say."""
        return not self.services.unsettled and not self._dirty

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for watch in (self.plans, self.services, self._nodes):
            watch.stop()
        with self._turn:
            self._stopped = True
            self._turn.notify()
        self._thread.join()

    def _plan(self, seen: Seen) -> None:
        with self._turn:
            for label in seen.metadata.labels:
                if label.startswith(NODE_LABEL_PREFIX) and (agent := self._labels.get(label)) is not None:
                    agent.observed = seen.metadata.resource_version
                    self._dirty[agent.host.node] = agent
            self._turn.notify()

    def _node(self, seen: Seen) -> None:
        agent = self._agents[seen.metadata.name]
        if not agent.known:
            with self._turn:
                agent.known = True
                self._dirty[agent.host.node] = agent
                self._turn.notify()

    def _run(self) -> None:
        while (agent := self._next()) is not None:
            standing = Standing(agent.host, plans=0, directing=0, serving=0, observed=agent.observed)
            status = report(standing, agent.stored, datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
            name = agent.host.node
            value = {"metadata": {"name": name}, "status": msgspec.to_builtins(status)}
            try:
                self._api.apply(IPVS_NODES, "", name, value, MANAGER, subresource="status")
            except ApiError:
                with self._turn:
                    self._dirty[name] = agent
            else:
                agent.stored = status
                self.reports += 1
            agent.not_before = monotonic() + PERIOD

    def _next(self) -> _Agent | None:
        """Whoever has waited longest and may report now; None: that was all."""
        with self._turn:
            while not self._stopped:
                waiting = [agent for agent in self._dirty.values() if agent.known]
                first = min(waiting, key=lambda agent: agent.not_before, default=None)
                left = first.not_before - monotonic() if first is not None else None
                if first is not None and left is not None and left <= 0:
                    del self._dirty[first.host.node]
                    return first
                self._turn.wait(left)
        return None
