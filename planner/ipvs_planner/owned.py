"""VirtualServices that were made for a Service of their name: whose they are, and what they say."""

from collections.abc import Iterable

import msgspec

from ipvs_api.meta import OwnerReference
from ipvs_api.virtualservice import VirtualService, VirtualServiceSpec
from ipvs_planner.index import Key

MANAGED = {"app.kubernetes.io/managed-by": "ipvs-operator"}
"""Labels of everything that the operator makes."""


class OwnedService(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """``service``: UID of the Service that controls it. ``made_here``: it is labelled as the operator's, who may delete
    it; else somebody wants it to go with the Service, no more."""

    uid: str
    generation: int
    service: str
    made_here: bool
    spec: VirtualServiceSpec


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(OwnedService)


class Owned:
    """Kept encoded, some 300 bytes each."""

    def __init__(self) -> None:
        self._kept: dict[Key, bytes] = {}

    def put(self, key: Key, service: VirtualService) -> None:
        self.remove(key)
        meta = service.metadata
        for owner in meta.owner_references:
            if _controls(owner) and owner.name == key.name:
                made_here = MANAGED.items() <= meta.labels.items()
                owned = OwnedService(meta.uid, meta.generation, owner.uid, made_here, service.spec)
                self._kept[key] = _ENCODER.encode(owned)

    def remove(self, key: Key) -> None:
        self._kept.pop(key, None)

    def of(self, key: Key) -> OwnedService | None:
        encoded = self._kept.get(key)
        return _DECODER.decode(encoded) if encoded is not None else None

    def as_kept(self, key: Key) -> bytes | None:
        """To be compared."""
        return self._kept.get(key)

    def keys(self) -> Iterable[Key]:
        return self._kept.keys()


def _controls(owner: OwnerReference) -> bool:
    return owner.controller and owner.kind == "Service" and owner.api_version == "v1"
