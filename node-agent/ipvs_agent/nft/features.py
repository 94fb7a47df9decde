"""Features: what our tables can do, each a few chains with static rules and the sets that they name."""

from dataclasses import dataclass
from enum import Enum


class Feature(Enum):
    """What our tables can do. Raised when first needed, lowered only by ``release``.

    Removing the last nat chain would cut live connections (un-NAT stops with it).
    """

    GUARD = "guard"
    UNTRACKED = "untracked"
    MASQUERADE = "masquerade"
    SECOND_HOP = "second hop"
    RETURN = "return"
    NO_REDIRECTS = "no redirects"
    TUNNELS = "tunnels"
    SILENCE = "silence"


@dataclass(frozen=True)
class Chain:
    """``hook`` is empty for chains that others go to."""

    name: str
    rules: tuple[str, ...]
    hook: str = ""


@dataclass(frozen=True)
class Rules:
    """One feature. ``sets``: what its rules name; ``kernel``: the options (CONFIG_…, modules) it needs."""

    sets: tuple[str, ...]
    chains: tuple[Chain, ...]
    kernel: str
    family: str = "inet"
