"""Changes that go into one transaction, and how they are cut when it fails."""

from collections.abc import Iterable
from dataclasses import dataclass

from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.script import ElementChange, HopChange, Owner
from ipvs_agent.nft.static import needed
from ipvs_agent.rows import HopKey, NftKey


@dataclass(frozen=True)
class Batch:
    """``features``: to raise."""

    features: frozenset[Feature] = frozenset()
    elements: tuple[ElementChange, ...] = ()
    hops: tuple[HopChange, ...] = ()

    def __len__(self) -> int:
        return len(self.features) + len(self.elements) + len(self.hops)

    def owners(self) -> list[Owner]:
        return [*self.features, *(change.key for change in self.elements), *(change.key for change in self.hops)]

    def with_needed(self, features: Iterable[Feature]) -> "Batch":
        """Itself with ``features`` and those that what it adds needs."""
        wanted = needed(
            [change.key for change in self.elements if change.new is not None],
            [change.key for change in self.hops if change.new is not None],
        )
        return Batch(wanted.union(features), self.elements, self.hops)

    def raising(self, raised: frozenset[Feature]) -> "Batch":
        """Itself without the features that are raised already."""
        return Batch(self.features - raised, self.elements, self.hops)

    def without(self, owners: Iterable[Owner]) -> "Batch":
        """What is left without these; what needs a feature among them goes with it."""
        gone = set(owners)

        def stays(key: NftKey | HopKey) -> bool:
            features = needed([key], []) if isinstance(key, NftKey) else needed([], [key])
            return key not in gone and not features & gone

        return Batch(
            self.features - gone,
            tuple(change for change in self.elements if stays(change.key)),
            tuple(change for change in self.hops if stays(change.key)),
        )

    def halves(self) -> "tuple[Batch, Batch]":
        """Two batches of less, for one of at least two; features before what may need them."""
        if self.features and (self.elements or self.hops):
            return Batch(self.features), Batch(frozenset(), self.elements, self.hops)
        if self.features:
            first, *others = sorted(self.features, key=lambda feature: feature.value)
            return Batch(frozenset({first})), Batch(frozenset(others))
        if self.elements and self.hops:
            return Batch(elements=self.elements), Batch(hops=self.hops)
        if self.elements:
            cut = len(self.elements) // 2
            return Batch(elements=self.elements[:cut]), Batch(elements=self.elements[cut:])
        cut = len(self.hops) // 2
        return Batch(hops=self.hops[:cut]), Batch(hops=self.hops[cut:])
