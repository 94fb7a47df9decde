"""``ipvs-agent``: run, plan, status, release, load-modules.

Only what a subcommand needs is imported by it: an agent starts on slow machines too.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ipvs_agent import __version__

DEFAULT_STATE = Path("/var/lib/ipvs-operator")
DEFAULT_SOCKET = Path("/run/ipvs-operator/agent.sock")
DEFAULT_NAMESPACE = "ipvs-system"
DEFAULT_SYSCTLS = Path("/proc/sys")

_RUN = """Make this host the director or real server that manifests or an operator's plans make of it, and keep it so.
Stopping the agent leaves traffic alone; `ipvs-agent release` ends it."""
_PLAN = "Show what `run` would change on this host now. Nothing is written, to the kernel or to the state database."
_STATUS = "Show what this host directs and serves, what drains, and what does not work and why."
_RELEASE = """Take away all that is ours on this host, and only that: addresses, IPVS services, tunnels, routes, rules,
our nftables tables; switches get the values they had before. Stop the agent first."""
_MODULES = """Load kernel modules, as the init container of an agent's pod does. What cannot be loaded is told and no
error: the kernel may have it another way, and an agent that lacks something says so itself."""


def parser() -> argparse.ArgumentParser:
    """The command line, for ``--help`` and the documentation's tests."""
    top = argparse.ArgumentParser(
        "ipvs-agent", description="Linux Virtual Server on this host, from manifests or an API server."
    )
    top.add_argument("--version", action="version", version=f"ipvs-agent {__version__}")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    for verb, text, needs_source in (
        ("run", _RUN, True),
        ("plan", _PLAN, True),
        ("status", _STATUS, False),
        ("release", _RELEASE, False),
    ):
        command = verbs.add_parser(verb, help=text.split(".")[0] + ".", description=text)
        if needs_source:
            _add_source(command)
        command.add_argument(
            "--state-dir", type=Path, default=DEFAULT_STATE, metavar="DIR", help="default: %(default)s"
        )
        if verb in ("run", "release"):
            command.add_argument(
                "--sysctl-root",
                type=Path,
                default=Path(os.environ.get("SYSCTL_ROOT") or DEFAULT_SYSCTLS),
                metavar="DIR",
                help="where the host's /proc/sys is writable: a pod's own is not; default: $SYSCTL_ROOT, else "
                f"{DEFAULT_SYSCTLS}",
            )
        if verb in ("run", "status"):
            command.add_argument("--socket", type=Path, default=DEFAULT_SOCKET, metavar="PATH", help="%(default)s")
        if verb in ("plan", "status"):
            outputs = ("table", "json", "yaml", *(["ipvs"] if verb == "status" else []))
            command.add_argument("-o", "--output", choices=outputs, default="table")
        if verb == "run":
            command.add_argument(
                "--health-port",
                type=_port,
                default=0,
                metavar="PORT",
                help="/healthz and /readyz on 127.0.0.1; default: none",
            )
            command.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    modules = verbs.add_parser("load-modules", help=_MODULES.split(",")[0] + ".", description=_MODULES)
    modules.add_argument("names", nargs="+", metavar="MODULE")
    return top


def _add_source(command: argparse.ArgumentParser) -> None:
    """Where what is wanted comes from."""
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--manifests", type=Path, metavar="DIR", help="directory of YAML files")
    source.add_argument("--kubernetes", action="store_true", help="an API server, where an ipvs-operator makes plans")
    command.add_argument(
        "--node",
        default=os.environ.get("NODE_NAME", ""),
        help="this host's name, as its Node says; default: $NODE_NAME",
    )
    cluster = command.add_argument_group("with --kubernetes")
    cluster.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: this pod's account, else yours")
    cluster.add_argument("--context", default="", help="of the kubeconfig; default: its current one")
    cluster.add_argument("--namespace", help=f"the operator's; default: this pod's, else {DEFAULT_NAMESPACE}")


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"a number from 0 to 65535, not {text!r}")
    return int(text)


def _check(usage: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """What no option said; a usage error where that cannot be known, or options do not go together."""
    if not options.node:
        usage.error(f"{options.verb}: no node is known: say --node, or set NODE_NAME")
    if options.kubernetes:
        from ipvs_kube.pod import own_namespace

        options.namespace = options.namespace or own_namespace() or DEFAULT_NAMESPACE
        return
    for name in ("kubeconfig", "context", "namespace"):
        if getattr(options, name):
            usage.error(f"{options.verb}: --{name} goes with --kubernetes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done; 1 something is wrong with the manifests or the host (told on standard error); 2 usage."""
    usage = parser()
    options = usage.parse_args(arguments)
    if options.verb in ("run", "plan"):
        _check(usage, options)
    from ipvs_agent import commands
    from ipvs_agent.kernel.netlink import NetlinkError

    verbs: dict[str, Callable[[argparse.Namespace], int]] = {
        "run": commands.run,
        "plan": commands.plan,
        "status": commands.status,
        "release": commands.release,
        "load-modules": commands.load_modules,
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
