"""Our nftables tables in the kernel, by the ``nft`` program: read as JSON, written as text, one transaction a change.

Listing ten thousand elements takes 0.5 s, adding one 40 ms: so the rows are kept, and listed again only when the
ruleset's generation moved without us.
"""

import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from types import MappingProxyType

from ipvs_agent.kernel.nft_program import Generation, NftError, NftTimeoutError, list_table, run
from ipvs_agent.nft import errors, hops, listing, script
from ipvs_agent.nft.batch import Batch
from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.ruleset import RULES
from ipvs_agent.nft.script import ElementChange, HopChange, Owner, Script
from ipvs_agent.nft.sets import problem
from ipvs_agent.nft.state import Mirror, NftState
from ipvs_agent.nft.static import FAMILIES, needed
from ipvs_agent.rows import NFT_TABLE
from ipvs_agent.table import Outcome, Verdict

ROUNDS = 16
"""Transactions at most for one write: what is refused is left out, or the rest halved, and tried again."""


class NftTable:
    """Our tables in the network namespace of the thread that uses this object; one thread only."""

    def __init__(self) -> None:
        self._kernel = Generation()
        self._mirror = Mirror()
        self._raised: frozenset[Feature] = frozenset()
        self._families: frozenset[str] = frozenset()
        self._stamps: dict[str, tuple[str, ...]] = {}
        self._damage = ""
        self._outdated = False
        self._not_mended = ""
        self._generation: int | None = None
        self._commits = 0

    def close(self) -> None:
        """Let go of the socket; the tables stay."""
        self._kernel.close()

    def __enter__(self) -> "NftTable":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def generation(self) -> int:
        """A number that moves with every nftables transaction in this network namespace. NftError without nftables."""
        return self._kernel.ask()

    def read(self) -> NftState:
        """What our tables hold. NftError where they cannot be read."""
        self._refresh()
        return NftState(
            self._mirror.features,
            MappingProxyType(self._mirror.elements),
            MappingProxyType(self._mirror.hops),
            "; ".join(words for words in (self._damage, self._not_mended) if words),
            self._outdated,
        )

    def _refresh(self) -> None:
        generation = self.generation()
        if generation == self._generation:
            return
        for _ in range(5):
            before = generation
            texts = {family: text for family in FAMILIES if (text := list_table(family)) is not None}
            generation = self.generation()
            if generation == before:
                break
        found = listing.read(texts)
        self._mirror, self._stamps, self._families = found.mirror.sharing(self._mirror), found.stamps, frozenset(texts)
        self._damage, self._outdated, self._not_mended = found.damage, found.outdated, ""
        if lost := self._raised - found.mirror.features:
            names = ", ".join(sorted(feature.value for feature in lost))
            self._damage = self._damage or f"the rules of table {NFT_TABLE} for {names} were removed by somebody else"
        self._raised |= found.mirror.features
        self._generation = generation if generation == before else None

    def write(
        self,
        elements: Sequence[ElementChange] = (),
        changed_hops: Sequence[HopChange] = (),
        features: Iterable[Feature] = (),
    ) -> list[Outcome[Owner]]:
        """Make the changes, raise the features that they need (and ``features``), mend our tables where they need it.

        One transaction where all goes well. What is refused is left out and told; everything else is done.
        """
        outcomes: dict[Owner, Outcome[Owner]] = {}
        for change in elements:
            if refusal := problem(change.key, change.new):
                outcomes[change.key] = Outcome(change.key, Verdict.FAILED, refusal)
        for hop in changed_hops:
            if refusal := hops.invalid(hop.key, hop.new):
                outcomes[hop.key] = Outcome(hop.key, Verdict.FAILED, refusal)
        batch = Batch(frozenset(), tuple(elements), tuple(changed_hops)).without(outcomes)
        try:
            self._refresh()
        except NftError as failure:
            return [*outcomes.values(), *(Outcome(owner, Verdict.FAILED, str(failure)) for owner in batch.owners())]
        waiting, rounds = [batch.with_needed(features).raising(self._mirror.features)], ROUNDS
        while waiting:
            rounds -= 1
            for outcome in self._try(waiting.pop(), waiting, may_go_on=rounds > 0):
                outcomes[outcome.key] = outcome
        return list(outcomes.values())

    def _try(self, batch: Batch, waiting: list[Batch], *, may_go_on: bool) -> list[Outcome[Owner]]:
        """One transaction; on failure what can still be tried goes to ``waiting``."""
        after = self._after(batch)
        transaction = self._compose(batch, after)
        if transaction.lines:
            before, self._commits = self._generation, 0
            self._generation = None
            try:
                done = run("-f", "-", text=transaction.text)
            except NftTimeoutError as failure:
                return [Outcome(owner, Verdict.UNKNOWN, str(failure)) for owner in batch.owners()]
            except NftError as failure:
                return [Outcome(owner, Verdict.FAILED, str(failure)) for owner in batch.owners()]
            if done.returncode:
                self._generation = before
                return self._failed(batch, transaction, done.stderr, done.returncode, waiting if may_go_on else None)
            self._commits = 1
            self._stand(after)
            with suppress(NftError):
                generation = self.generation()
                if before is not None and generation == before + self._commits:
                    self._generation = generation  # nobody else's transaction came between
        self._mirror.apply(batch.elements, batch.hops)
        return [Outcome(owner, Verdict.DONE) for owner in batch.owners()]

    def _after(self, batch: Batch) -> frozenset[Feature]:
        """The features that stand after a write."""
        features = self._mirror.features | batch.features
        if self._damage or self._outdated:
            features |= self._raised | needed(self._mirror.elements, self._mirror.hops)
        return features

    def _compose(self, batch: Batch, features: frozenset[Feature]) -> Script:
        if self._damage or self._outdated:
            whole = Mirror(features, self._mirror.elements, self._mirror.hops)
            whole.apply(batch.elements, batch.hops)
            return script.replacement(whole, self._families)
        composed = script.compose(self._mirror, batch.features, batch.elements, batch.hops)
        for family in sorted({RULES[feature].family for feature in features - self._mirror.features}):
            # Until they are stamped anew, nothing claims that these rules are whole.
            for name in self._stamps.pop(family, ()):
                composed.add(f"delete chain {family} {NFT_TABLE} {name}")
        return composed

    def _stand(self, features: frozenset[Feature]) -> None:
        """Our tables stand with these features now, changed or replaced."""
        static = self._damage or self._outdated or features != self._mirror.features
        self._mirror.features = features
        self._raised |= features
        self._families = frozenset(RULES[feature].family for feature in features)
        self._damage, self._outdated, self._not_mended = "", False, ""
        if static:
            with suppress(NftError):
                self._stamp()

    def _stamp(self) -> None:
        """Write down what our rules look like when listed; without it the next reader takes them for outdated."""
        found = listing.read({family: list_table(family) or "" for family in self._families})
        marks = Script()
        for family, fingerprint in found.fingerprints.items():
            for name in found.stamps[family]:
                marks.add(f"delete chain {family} {NFT_TABLE} {name}")
            marks.add(f"add chain {family} {NFT_TABLE} {listing.stamp(fingerprint)}")
            self._stamps[family] = (listing.stamp(fingerprint),)
        if run("-f", "-", text=marks.text).returncode == 0:
            self._commits += 1

    def _failed(
        self, batch: Batch, transaction: Script, stderr: str, code: int, waiting: list[Batch] | None
    ) -> list[Outcome[Owner]]:
        """The culprits' outcomes, or everybody's when nothing can be tried any more (``waiting`` None)."""
        blamed = errors.culprits(transaction, stderr)
        if self._damage or self._outdated:
            self._not_mended = f"not mended: {errors.summary(stderr, code)}"
            for owner in blamed:  # what stood before, and the kernel refuses now
                self._mirror.forget(owner)
                self._raised -= {owner}
        rest = batch.without(blamed)
        if waiting is not None and blamed:
            waiting.append(rest)
        elif waiting is not None and len(batch) > 1:
            waiting += reversed(batch.halves())
            return []
        else:
            rest = Batch()
        left = set(rest.owners())
        why = next(iter(blamed.values()), errors.summary(stderr, code))
        return [Outcome(owner, Verdict.FAILED, blamed.get(owner, why)) for owner in batch.owners() if owner not in left]

    def delete(self) -> str:
        """Take our tables away, with every feature: connections that they masquerade or send on are cut.

        Why that failed, in words; empty when they are gone.
        """
        try:
            entries = json.loads(run("-j", "list", "tables").stdout)["nftables"]
            tables = [entry["table"] for entry in entries if "table" in entry]
            ours = [table["family"] for table in tables if table["name"] == NFT_TABLE and table["family"] in FAMILIES]
            done = run("-f", "-", text=script.removal(ours).text)
        except (NftError, ValueError) as failure:
            return f"nftables table {NFT_TABLE} could not be removed: {failure}"
        self._raised, self._generation = frozenset(), None
        return errors.summary(done.stderr, done.returncode) if done.returncode else ""
