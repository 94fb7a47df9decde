"""An API server that knows IPVSAddress objects only, and operators that hear of them late."""

from collections.abc import Iterable

import msgspec

from ipvs_api.ipaddress import IPVSAddress
from ipvs_api.meta import ObjectMeta
from ipvs_planner.assign import orphans, release
from ipvs_planner.claims import NOTHING
from ipvs_planner.compile import compile_virtual_service
from ipvs_planner.compiled import Compiled, Outcome
from ipvs_planner.index import Key
from ipvs_planner.snapshot import Declared, Snapshot


class RefusedError(Exception):
    """409: it is there already, or is not what the writer thought."""


class ClaimServer:
    """Creates where there is nothing, writes over and deletes what has the uid and resourceVersion that it is told."""

    def __init__(self) -> None:
        self.objects: dict[str, IPVSAddress] = {}
        self.log: list[tuple[str, IPVSAddress | None]] = []
        """Names, and what they became."""

    def write(self, claim: IPVSAddress) -> IPVSAddress:
        """Create it (no uid) or update it. What could not be stored by a real one raises ValidationError."""
        meta = claim.metadata
        before = self.objects.get(meta.name)
        if not meta.uid and before is not None:
            raise RefusedError
        if meta.uid:
            self._check(before, meta)
        version = str(len(self.log) + 1)
        uid = meta.uid or f"uid-{version}"
        stored = msgspec.structs.replace(claim, metadata=ObjectMeta(meta.name, uid=uid, resource_version=version))
        stored = msgspec.json.decode(msgspec.json.encode(stored), type=IPVSAddress)
        if before is not None:
            assert unchanging(before) == unchanging(stored)
        self._store(meta.name, stored)
        return stored

    def delete(self, claim: IPVSAddress) -> None:
        self._check(self.objects.get(claim.metadata.name), claim.metadata)
        self._store(claim.metadata.name, None)

    def _check(self, stored: IPVSAddress | None, meta: ObjectMeta) -> None:
        if stored is None or (stored.metadata.uid, stored.metadata.resource_version) != (
            meta.uid,
            meta.resource_version,
        ):
            raise RefusedError

    def _store(self, name: str, stored: IPVSAddress | None) -> None:
        self.log.append((name, stored))
        if stored is None:
            del self.objects[name]
        else:
            self.objects[name] = stored

    def owners(self) -> dict[str, str]:
        """By address: ``shop/a,b edge``, namespace, VirtualServices and group."""
        specs = {name: each.spec for name, each in sorted(self.objects.items())}
        names = {name: ",".join(owner.name for owner in spec.owners) for name, spec in specs.items()}
        return {name: f"{spec.namespace}/{names[name]} {spec.director_group}" for name, spec in specs.items()}


def unchanging(claim: IPVSAddress) -> tuple[str, str, str, int]:
    spec = claim.spec
    return spec.address, spec.director_group, spec.namespace, spec.director_index


class Operator:
    """Does with a snapshot what it answers. Plans are stored (held) at once and let go of at once."""

    def __init__(self, server: ClaimServer, *declared: Declared, trusted: bool = True) -> None:
        self.server = server
        self.heard = 0
        self.snapshot = Snapshot(trusted=trusted, allocates=True)
        self.dirty: set[Key] = set()
        self.results: dict[Key, Compiled] = {}
        self.writes = 0
        self.put(*declared)

    def put(self, *declared: Declared) -> None:
        for each in declared:
            self.dirty |= self.snapshot.put(each)

    def remove(self, kind: str, name: str, namespace: str = "") -> None:
        """A VirtualService that goes leaves its plan behind until it is worked on."""
        key = Key(namespace, name)
        held = self.snapshot.held(key) if kind == "VirtualService" else NOTHING
        self.dirty |= self.snapshot.remove(kind, namespace, name)
        self.dirty |= self.snapshot.hold(key, held) if held != NOTHING else set()

    def hear(self, count: int | None = None) -> None:
        """What happened on the server next: ``count`` changes, or all."""
        until = len(self.server.log) if count is None else min(self.heard + count, len(self.server.log))
        for name, stored in self.server.log[self.heard : until]:
            known = self.snapshot.addresses.pool.claims
            newest = max(
                (int(each.version) for each in known.values() if each.object().metadata.name == name), default=0
            )
            if stored is None:
                self.dirty |= self.snapshot.remove("IPVSAddress", "", name)
            elif int(stored.metadata.resource_version) >= newest:
                self.dirty |= self.snapshot.put(stored)
        self.heard = until

    def work(self, key: Key) -> bool:
        """One reconcile. False: something was refused, it has to be done again."""
        self.dirty.discard(key)
        result = compile_virtual_service(self.snapshot, key)
        for claim in result.claiming:
            self.snapshot.reserve(claim.spec.address, key)
        for claim in result.claiming:
            if not self._write(claim):
                self.dirty.add(key)
                return False
        if result.claiming:
            self.dirty.add(key)
            return True
        self.results[key] = result
        if result.outcome is not Outcome.KEPT:
            self.dirty |= self.snapshot.hold(key, result.claims)
        self.let_go(key)
        if self.snapshot.facts(key) is None:
            self.results.pop(key, None)
        return True

    def let_go(self, key: Key) -> None:
        released = release(self.snapshot, key, settled=True)
        for claim in released.updates:
            self._write(claim)
        for claim in released.deletions:
            self.writes += 1
            try:
                self.server.delete(claim)
            except RefusedError:
                self._look(claim.metadata.name)
            else:
                self.dirty |= self.snapshot.remove("IPVSAddress", "", claim.metadata.name)

    def settle(self) -> None:
        for _ in range(2000):
            if not self.dirty:
                return
            self.work(min(self.dirty))
        raise AssertionError(f"never settles: {self.dirty}")

    def start(self) -> None:
        """After the first lists have been taken."""
        self.hear()
        self.dirty |= {*self.snapshot.keys(), *orphans(self.snapshot)}
        self.settle()

    def _write(self, claim: IPVSAddress) -> bool:
        self.writes += 1
        try:
            self.dirty |= self.snapshot.put(self.server.write(claim))
        except RefusedError:
            self._look(claim.metadata.name)
            self.dirty |= self.snapshot.unreserve(claim.spec.address)
            return False
        return True

    def _look(self, name: str) -> None:
        stored = self.server.objects.get(name)
        if stored is not None:
            self.dirty |= self.snapshot.put(stored)
        else:
            self.dirty |= self.snapshot.remove("IPVSAddress", "", name)

    def outcomes(self) -> dict[str, str]:
        """By name: its addresses, or the reasons against it."""
        return {str(key): said(result) for key, result in sorted(self.results.items())}

    def message(self, name: str) -> str:
        (result,) = (result for key, result in self.results.items() if str(key) == name)
        return " ".join(finding.message for finding in result.refusals)


def said(result: Compiled) -> str:
    if result.refusals:
        return " ".join(sorted({finding.reason for finding in result.refusals}))
    return " ".join(entry.address for entry in result.plans[0].spec.addresses)


def operator(*declared: Declared, trusted: bool = True) -> Operator:
    """One operator with a server of its own, come to rest."""
    found = Operator(ClaimServer(), *declared, trusted=trusted)
    found.settle()
    return found


def changed(operator: Operator, *declared: Declared) -> Operator:
    operator.put(*declared)
    operator.settle()
    return operator


def gone(operator: Operator, kind: str, name: str, namespace: str = "") -> Operator:
    operator.remove(kind, name, namespace)
    operator.settle()
    return operator


def restarted(before: Operator, *declared: Declared) -> Operator:
    """A new operator: everything declared, the claims as stored, no plans."""
    after = Operator(before.server, *declared, trusted=before.snapshot.trusted)
    after.start()
    return after


def texts(claims: Iterable[IPVSAddress]) -> list[str]:
    return [claim.spec.address for claim in claims]
