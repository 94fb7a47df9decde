"""Which version of each object is known, so that nothing older is ever taken for news, whoever brings it when."""

from collections import OrderedDict, defaultdict
from collections.abc import KeysView

from ipvs_api.meta import ObjectKey

REMEMBERED = 16_384
"""This many deletions are remembered, against late news of what is gone."""


class Versions:
    """Resource versions as numbers; what is none (-1) is always news."""

    def __init__(self) -> None:
        self._there: defaultdict[str, dict[ObjectKey, int]] = defaultdict(dict)
        self._gone: OrderedDict[ObjectKey, int] = OrderedDict()

    def of(self, key: ObjectKey) -> int | None:
        """None: it is not there."""
        return self._there[key.kind].get(key)

    def known(self, kind: str) -> KeysView[ObjectKey]:
        """Every object of a kind that is there."""
        return self._there[kind].keys()

    def put(self, key: ObjectKey, version: int) -> bool:
        """Whether this is news."""
        if 0 <= version <= max(self._there[key.kind].get(key, -1), self._gone.get(key, -1)):
            return False
        self._gone.pop(key, None)
        self._there[key.kind][key] = version
        return True

    def remove(self, key: ObjectKey, version: int) -> bool:
        """Whether it is gone now; not where it is known to have been there after ``version``."""
        if 0 <= version < self._there[key.kind].get(key, -1):
            return False
        known = self._there[key.kind].pop(key, -1)
        self._gone[key] = max(version, known, self._gone.get(key, -1))
        self._gone.move_to_end(key)
        if len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)
        return True
