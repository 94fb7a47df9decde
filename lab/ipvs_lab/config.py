"""The lab kernels' Kconfig fragments: what they ask for, whether a configuration has it, and a kernel's name in the
cache. Pure but for reading the fragments."""

import hashlib
import re
from pathlib import Path

FRAGMENT = Path(__file__).with_name("kernel.config")
KERNELS = {"builtin": (FRAGMENT,), "modular": (FRAGMENT, FRAGMENT.with_name("modular.config"))}
"""The lab's kernels by name. Of two fragments the later one has the last word."""

BUILTIN = "builtin"
CACHED = re.compile(r"kernel-(\d+(?:\.\d+)*)[^/]*-([0-9a-f]{12})$")


def fragment_of(kernel: str) -> str:
    """What a kernel asks for, an option a line."""
    return "".join(file.read_text() for file in KERNELS[kernel])


def parse(text: str) -> dict[str, str]:
    """Options and their values ("y", "m", "n", a number, a quoted string). An option that `is not set` is "n"; of one
    that is there twice the later value counts."""
    options = {}
    for line in text.splitlines():
        if match := re.match(r"# (CONFIG_\w+) is not set$", line):
            options[match[1]] = "n"
        elif match := re.match(r"(CONFIG_\w+)=(.*)$", line):
            options[match[1]] = match[2]
    return options


def lost(fragment: str, result: str) -> list[str]:
    """The fragment's lines that did not make it into a configuration, with what is there instead."""
    wanted, found = parse(fragment), parse(result)
    return [
        f"{option}={value} is {found.get(option, 'n')}"
        for option, value in wanted.items()
        if found.get(option, "n") != value
    ]


def fragment_hash(fragment: str) -> str:
    """12 hexadecimal digits of what the fragment asks for, whatever its comments and order."""
    lines = sorted(f"{option}={value}" for option, value in parse(fragment).items())
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]


def cache_name(version: str, fragment: str) -> str:
    """The directory of a kernel in the cache: a source version and a fragment."""
    return f"kernel-{re.sub(r'[^A-Za-z0-9.+]', '_', version)}-{fragment_hash(fragment)}"


def newest(names: list[str], fragment: str) -> str:
    """The directory in the cache with the newest kernel built from this fragment; "" if there is none."""
    usable = [
        (tuple(int(part) for part in match[1].split(".")), name)
        for name in names
        if (match := CACHED.match(name)) and match[2] == fragment_hash(fragment)
    ]
    return max(usable, default=((), ""))[1]
