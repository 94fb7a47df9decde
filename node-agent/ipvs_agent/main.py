"""``ipvs-agent``: run, plan, status, release.

Only what a subcommand needs is imported by it: an agent starts on slow machines too.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ipvs_agent import __version__

DEFAULT_STATE = Path("/var/lib/ipvs-operator")
DEFAULT_SOCKET = Path("/run/ipvs-operator/agent.sock")

_RUN = """Make this host the director or real server that the manifests make of it, and keep it so.
Stopping the agent leaves traffic alone; `ipvs-agent release` ends it."""
_PLAN = "Show what `run` would change on this host now. Nothing is written, to the kernel or to the state database."
_STATUS = "Show what this host directs and serves, what drains, and what does not work and why."
_RELEASE = """Take away all that is ours on this host, and only that: addresses, IPVS services, tunnels, routes, rules,
our nftables tables; switches get the values they had before. Stop the agent first."""


def parser() -> argparse.ArgumentParser:
    """The command line, for ``--help`` and the documentation's tests."""
    top = argparse.ArgumentParser("ipvs-agent", description="Linux Virtual Server on this host, from manifests.")
    top.add_argument("--version", action="version", version=f"ipvs-agent {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, text, needs_manifests in (
        ("run", _RUN, True),
        ("plan", _PLAN, True),
        ("status", _STATUS, False),
        ("release", _RELEASE, False),
    ):
        command = verbs.add_parser(verb, help=text.split(".")[0] + ".", description=text)
        if needs_manifests:
            command.add_argument("--manifests", type=Path, required=True, metavar="DIR", help="directory of YAML files")
            command.add_argument("--node", required=True, help="this host's name, as its Node manifest says")
        command.add_argument(
            "--state-dir", type=Path, default=DEFAULT_STATE, metavar="DIR", help="default: %(default)s"
        )
        if verb in ("run", "status"):
            command.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, metavar="PATH", help="%(default)s")
        if verb in ("plan", "status"):
            command.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
        if verb == "run":
            command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 1 something is wrong with the manifests or the host (told on standard error); 2 usage."""
    options = parser().parse_args(arguments)
    from ipvs_agent import commands
    from ipvs_agent.kernel.netlink import NetlinkError

    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": commands.run,
        "plan": commands.plan,
        "status": commands.status,
        "release": commands.release,
    }
    try:
        return verbs[options.verb](options)
    except (commands.CommandError, NetlinkError) as error:
        words = error.strerror if isinstance(error, NetlinkError) and error.strerror else error
        print(f"ipvs-agent {options.verb}: {words}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 0


if __name__ == "__main__":
    sys.exit(main())
