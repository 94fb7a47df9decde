"""VIPs on their way to a real network: asked for there, taken where nobody answers for them, announced. Pure."""

from collections.abc import Collection, Iterable, Iterator

from ipvs_agent.rows import AddressKey


class Placing:
    """Which addresses may be taken. Those on links that nobody outside hears of (``ipvs0``, tunnels) ask nobody.

    ``held``       in the kernel, and answered for by this host
    ``to_probe``   the network is to be asked whether they are free (RFC 5227)
    ``to_announce`` have just been taken
    """

    def __init__(self) -> None:
        self.held: set[AddressKey] = set()
        self.to_probe: set[AddressKey] = set()
        self.to_announce: set[AddressKey] = set()
        self._asked: set[AddressKey] = set()
        self._vacant: set[AddressKey] = set()

    def adopt(self, keys: Iterable[AddressKey]) -> None:
        """What stands in the kernel already needs no probe."""
        self.held |= {key for key in keys if not key.is_silent}

    def may_take(self, key: AddressKey) -> bool:
        """False: it has to be asked for first, and is among ``to_probe`` now."""
        if key.is_silent or key in self.held or key in self._vacant:
            return True
        self.to_probe.add(key)
        return False

    def taken(self, key: AddressKey) -> None:
        """It is in the kernel."""
        self._vacant.discard(key)
        if not key.is_silent:
            self.held.add(key)
            self.to_announce.add(key)

    def left(self, key: AddressKey) -> None:
        """It is to be in the kernel no more."""
        self.held.discard(key)
        self.to_announce.discard(key)

    def unanswered(self) -> Iterator[AddressKey]:
        """Addresses of which nothing is known yet."""
        yield from self.to_probe
        yield from self._asked

    def take_probes(self) -> frozenset[AddressKey]:
        """Addresses to ask the network for; what it answers goes to ``answered``."""
        keys, self.to_probe = frozenset(self.to_probe), set()
        self._asked |= keys
        return keys

    def answered(self, keys: Collection[AddressKey], vacant: Iterable[AddressKey]) -> None:
        """Of all those asked for, the ones that nobody has."""
        self._asked.difference_update(keys)
        self._vacant.update(vacant)

    def take_announcements(self) -> frozenset[AddressKey]:
        keys, self.to_announce = frozenset(self.to_announce), set()
        return keys
