"""What nft says when it fails, in words for the person who can act."""

import re
from collections.abc import Iterable

from ipvs_agent.nft.features import Feature
from ipvs_agent.nft.ruleset import RULES
from ipvs_agent.nft.script import Owner, Script
from ipvs_agent.rows import NftKey

_LINE = re.compile(r"^/dev/stdin:(\d+):[\d-]+: (?:Error|error): (.*)$", re.MULTILINE)
_REFUSED = "Could not process rule: "
_MISSING = ("No such file or directory", "Operation not supported", "Protocol not supported", "Not supported")
OLDEST = "1.0.6"
"""Of nft, known to work."""


def culprits(script: Script, stderr: str) -> dict[Owner, str]:
    """What nft said about each line that has an owner; empty when it blames none."""
    found: dict[Owner, str] = {}
    for match in _LINE.finditer(stderr):
        owner = script.owner(int(match[1]))
        if owner is not None:
            found.setdefault(owner, words(owner, match[2]))
    return found


def words(owner: Owner | None, said: str) -> str:
    """One error with what to do about it. ``said``: nft's, without its place."""
    cause = said.removeprefix(_REFUSED)
    if isinstance(owner, Feature) and cause.startswith(_MISSING) and said != cause:
        return (
            f"this kernel cannot do nftables' {owner.value} rules ({cause}): it needs the options "
            f"{RULES[owner].kernel} besides NF_TABLES, built in or as modules that can be loaded"
        )
    if cause.startswith("syntax error"):
        return f"nft does not understand our rules ({cause}): version {OLDEST} or newer is needed, see nft --version"
    if "Operation not permitted" in cause:
        return f"nftables: {cause}: the agent needs CAP_NET_ADMIN"
    if isinstance(owner, NftKey) and cause.startswith(("No space left", "Too many open files")):
        return f"nftables set {owner.set} is full: {cause}"
    return f"nftables: {cause}"


def summary(stderr: str, code: int) -> str:
    """The first of nft's errors, for a transaction of which no line can be blamed."""
    lines: Iterable[str] = (line.strip() for line in stderr.splitlines())
    for line in lines:
        if "Error" in line or "error" in line:
            return words(None, re.sub(r"^.*?[Ee]rror: ", "", line))
    return f"nft ended with status {code}: {stderr.strip()[:200] or 'no message'}"
