"""All that a host's kernel says about its network, told by other people's tools, as a value that can be compared."""

import difflib
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ipvs_lab.net.hosts import Host

COMMANDS = {
    "ipvs": ("ipvsadm", "-Sn"),
    "ipvs timeouts": ("ipvsadm", "-L", "--timeout"),
    "ipvs sync daemons": ("ipvsadm", "-L", "--daemon"),
    "links": ("ip", "-d", "link"),
    "addresses": ("ip", "-d", "addr"),
    "routes": ("ip", "-d", "route", "show", "table", "all"),
    "routes IPv6": ("ip", "-d", "-6", "route", "show", "table", "all"),
    "rules": ("ip", "rule"),
    "rules IPv6": ("ip", "-6", "rule"),
    "fou": ("ip", "fou", "show"),
    "nft": ("nft", "-s", "list", "ruleset"),
}
SORTED = {"ipvs", "routes", "routes IPv6"}
# What changes by itself: remaining lifetimes, and counters shown as settings.
VOLATILE_TEXT = re.compile(r"\b(\d+)(?=sec\b)")
VOLATILE_SYSCTLS = re.compile(
    r"net/(netfilter/nf_conntrack_count|ipv4/tcp_fastopen_key|ipv[46]/route/flush|core/netdev_rss_key"
    r"|ipv4/tcp_max_tw_buckets|.*/stable_secret)$"
)


@dataclass(frozen=True)
class Dump:
    """Named sections of lines. Equal dumps mean equal hosts, as far as the tools can tell."""

    host: str
    sections: dict[str, tuple[str, ...]]

    def difference(self, later: "Dump") -> str:
        """A unified diff from this dump to a later one; "" when they are equal."""
        text: list[str] = []
        for name in sorted({*self.sections, *later.sections}):
            before, after = self.sections.get(name, ()), later.sections.get(name, ())
            text += difflib.unified_diff(before, after, f"{self.host} {name}", f"{later.host} {name}", n=1, lineterm="")
        return "\n".join(text)

    def __str__(self) -> str:
        return "\n\n".join("\n".join((f"# {name}", *lines)) for name, lines in self.sections.items()) + "\n"


def steady(name: str, text: str) -> tuple[str, ...]:
    """Lines of a command's output that compare equal while nothing was changed."""
    lines = [VOLATILE_TEXT.sub("N", line.rstrip()) for line in text.splitlines()]
    return tuple(sorted(lines) if name in SORTED else lines)


def take_dump(host: "Host") -> Dump:
    """Ask every tool. A tool that fails says so in its section."""
    sections = {}
    for name, command in COMMANDS.items():
        done = host.run(*command, check=False)
        sections[name] = steady(name, done.stdout + (done.stderr if done.returncode else ""))
    sections["sysctls"] = host.call(read_sysctls)
    return Dump(host.name, sections)


def read_sysctls() -> tuple[str, ...]:
    """Every setting below /proc/sys/net of the calling thread's network, as `net/ipv4/ip_forward = 0`."""
    lines = []
    for directory, _, files in os.walk("/proc/sys/net"):
        for name in files:
            path = f"{directory}/{name}"
            setting = path.removeprefix("/proc/sys/")
            if VOLATILE_SYSCTLS.search(setting):
                continue
            try:
                descriptor = os.open(path, os.O_RDONLY)
                value = os.read(descriptor, 65536)
                os.close(descriptor)
            except OSError:
                continue  # write-only, or not to be read outside the first namespace
            lines.append(f"{setting} = {' '.join(value.decode(errors='replace').split())}")
    return tuple(sorted(lines))
