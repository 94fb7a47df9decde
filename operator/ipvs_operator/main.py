"""``ipvs-operator``: run, release-agents, test, version."""

import argparse
import os
import platform
import sys
import uuid
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from ipvs_kube.pod import own_namespace
from ipvs_operator import logs

AGENT_PODS = "app.kubernetes.io/name=ipvs-operator,app.kubernetes.io/component=agent"
HEALTH_PORT = 8081
WORKERS = 16

_RUN = """Make plans for the nodes from VirtualServices, and tell in their status what the nodes report.
Stopping the operator leaves traffic alone; nothing new is planned until one runs again."""


_RELEASE = """Before an uninstall, have the pods of the agents' DaemonSet release their nodes, and wait for it.
What is ours in the kernels goes, and traffic through virtual addresses with it. Helm's hook runs this."""


_TEST = """In a pod, ask through an address of each DirectorGroup for this pod itself, and look whether the directors
counted it. Helm's test runs this."""

TEST_PODS = "app.kubernetes.io/name=ipvs-operator,app.kubernetes.io/component=test"


def parser() -> argparse.ArgumentParser:
    """The command line, for ``--help`` and the documentation's tests."""
    top = argparse.ArgumentParser("ipvs-operator", description="Linux Virtual Server for Kubernetes: the operator.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="COMMAND")
    run = verbs.add_parser("run", help=_RUN.split(".")[0] + ".", description=_RUN)
    run.add_argument("--namespace", help="the operator's own, where plans and the lease live; default: its pod's")
    run.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: the pod's service account, else yours")
    run.add_argument("--context", default="", help="of the kubeconfig; default: its current one")
    run.add_argument("--identity", help="this operator's name in the lease; default: its pod's or host's")
    run.add_argument("--workers", type=_number(1, 256), default=WORKERS, help="requests at a time; %(default)s")
    run.add_argument("--health-port", type=_number(0, 65535), default=HEALTH_PORT, help="%(default)s; 0 for none")
    run.add_argument(
        "--agent-pods",
        default=AGENT_PODS,
        metavar="SELECTOR",
        help="labels of the agents' pods; a node's report counts only while the pod there is ready. Empty where agents "
        "do not run as pods. Default: %(default)s",
    )
    run.add_argument(
        "--no-leader-election", action="store_true", help="work at once; only where no other operator runs"
    )
    run.add_argument("--log-level", choices=logs.LEVELS, default="info", help="%(default)s")
    run.add_argument("--log-format", choices=logs.FORMATS, default="text", help="%(default)s")
    release = verbs.add_parser("release-agents", help=_RELEASE.split(".")[0] + ".", description=_RELEASE)
    release.add_argument("--namespace", help="of the DaemonSet; default: this pod's")
    release.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: the pod's account, else yours")
    release.add_argument("--context", default="", help="of the kubeconfig; default: its current one")
    release.add_argument("--daemonset", default="ipvs-agent", metavar="NAME", help="%(default)s")
    release.add_argument("--agent-pods", default=AGENT_PODS, metavar="SELECTOR", help="default: %(default)s")
    release.add_argument("--timeout", type=_number(1, 86400), default=240, metavar="SECONDS", help="%(default)s")
    test = verbs.add_parser("test", help=_TEST.split(".")[0] + ".", description=_TEST)
    test.add_argument("--namespace", help="of the agents and of this pod; default: this pod's")
    test.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: the pod's account, else yours")
    test.add_argument("--context", default="", help="of the kubeconfig; default: its current one")
    test.add_argument("--own-labels", default=TEST_PODS, metavar="LABELS", help="of this pod; default: %(default)s")
    test.add_argument("--agent-pods", default=AGENT_PODS, metavar="SELECTOR", help="default: %(default)s")
    test.add_argument("--timeout", type=_number(1, 86400), default=60, metavar="SECONDS", help="%(default)s")
    verbs.add_parser("version", help="Print the version.")
    return top


def _number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"a number from {least} to {most}, not {text!r}")
        return int(text)

    return parse


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 asked to stop; 1 a new start is needed (told on standard error); 2 usage, configuration."""
    usage = parser()
    options = usage.parse_args(arguments)
    if options.verb == "version":
        sys.stdout.write(f"ipvs-operator {version('ipvs-operator')}\n")
        return 0
    namespace = options.namespace or own_namespace()
    if not namespace:
        usage.error(f"{options.verb}: no namespace is known: say --namespace, or set POD_NAMESPACE")
    if options.verb == "release-agents":
        from ipvs_operator import uninstall

        return uninstall.main(options, namespace)
    if options.verb == "test":
        from ipvs_operator import trial

        return trial.main(options, namespace)
    return _run(options, namespace)


def _run(options: argparse.Namespace, namespace: str) -> int:
    import asyncio  # here, so that usage is told at once
    import logging

    from ipvs_kube.api import KubeConfigError
    from ipvs_operator.app import Operator, Options

    logs.set_up(options.log_level, options.log_format)
    name = options.identity or os.environ.get("POD_NAME") or platform.node()
    made = Options(
        namespace=namespace,
        kubeconfig=options.kubeconfig,
        context=options.context,
        identity=f"{name}_{uuid.uuid4().hex[:12]}",  # a new start is another holder of the lease
        workers=options.workers,
        health_port=options.health_port,
        agent_pods=options.agent_pods,
        elects=not options.no_leader_election,
    )

    async def work() -> int:
        return await Operator(made).run()

    try:
        code = asyncio.run(work())
    except (KubeConfigError, OSError) as error:
        sys.stderr.write(f"ipvs-operator run: {error}\n")
        return 2
    logging.shutdown()
    os._exit(code)  # a request that hangs in its thread would keep the process for half a minute


if __name__ == "__main__":
    sys.exit(main())
