"""The `ipvs-lab` command."""

import argparse
import signal
import sys
from pathlib import Path

from ipvs_lab import config, tools
from ipvs_lab.cluster.commands import add_commands
from ipvs_lab.doctor import report
from ipvs_lab.images import find_images
from ipvs_lab.kernel import find_kernel
from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.kubernetes.helm import find_helm
from ipvs_lab.kubernetes.programs import CONTROL_PLANE, PACKAGES, find_programs
from ipvs_lab.machine import LabError
from ipvs_lab.run import run_script
from ipvs_lab.shell import open_shell
from ipvs_lab.topologies import TOPOLOGIES

ENDING = {signal.SIGINT, signal.SIGTERM}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="ipvs-lab", description="Real kernels with IPVS, without root or Docker.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run a script as root in a lab kernel and exit as it did")
    run.add_argument("--native", action="store_true", help="in the machine's own kernel (root, and IPVS in it)")
    run.add_argument("--virtual-time", action="store_true", help="time in which nothing runs is skipped")
    run.add_argument("--api", action="store_true", help="with a Kubernetes API server beside it: $KUBECONFIG names it")
    run.add_argument("--mem", default="2G", help="ceiling of the kernel's memory (default: %(default)s)")
    run.add_argument("--timeout", type=float, metavar="S", help="kill the kernel after so many seconds")
    run.add_argument("--keep-output", type=Path, metavar="DIR", help="copy the kernel's console and job there")
    run.add_argument("script", help="an executable, or a .py file for the project's Python")
    run.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG")
    run.set_defaults(act=act_run)

    kernel = commands.add_parser("kernel", help="find the lab kernel, or build it once; prints where it is")
    kernel.add_argument("kind", nargs="?", choices=config.KERNELS, default=config.BUILTIN,
                        help="with IPVS and all that goes with it built in (default), or as modules")  # fmt: skip
    kernel.set_defaults(act=act_kernel)

    programs = commands.add_parser("kubernetes", help="find a control plane's programs, or build them once")
    programs.add_argument(
        "programs", nargs="*", metavar="PROGRAM", help=f"of {', '.join(PACKAGES)} (default: {', '.join(CONTROL_PLANE)})"
    )
    programs.set_defaults(act=act_kubernetes)

    api = commands.add_parser("api", help="a Kubernetes API server of your own, until ctrl-c")
    api.add_argument("--port", type=int, default=0, help="where it listens, on 127.0.0.1 (default: any that is free)")
    api.set_defaults(act=act_api)

    add_commands(commands)

    images = commands.add_parser("images", help="the project's images from this checkout, built if they are not there")
    images.set_defaults(act=act_images)

    helm = commands.add_parser("helm", help="find Helm, or build it once; prints where it is")
    helm.set_defaults(act=act_helm)

    doctor = commands.add_parser("doctor", help="say whether this machine can run the lab, and what to do if not")
    doctor.set_defaults(act=lambda options: report(sys.stdout.write))

    shell = commands.add_parser("shell", help="a network to try things in, with a prompt on every host")
    shell.add_argument("--native", action="store_true", help="in the machine's own kernel")
    shell.add_argument("topology", help=f"{', '.join(TOPOLOGIES)}, or a Python file with a Topology called `topology`")
    shell.set_defaults(act=lambda options: open_shell(options.topology, native=options.native))
    return top


def act_run(options: argparse.Namespace) -> int:
    """`ipvs-lab run`."""
    return run_script(
        options.script,
        options.arguments,
        native=options.native,
        virtual_time=options.virtual_time,
        api=options.api,
        memory=options.mem,
        timeout=options.timeout,
        keep_output=options.keep_output,
    )


def act_kernel(options: argparse.Namespace) -> int:
    """`ipvs-lab kernel`: everything that lab kernels and what runs in them need, made ready."""
    tools.ensure(tools.RUN)
    print(find_kernel(options.kind))
    return 0


def act_kubernetes(options: argparse.Namespace) -> int:
    """`ipvs-lab kubernetes`: the programs of a control plane, made ready; prints the directory."""
    if unknown := [name for name in options.programs if name not in PACKAGES]:
        raise LabError(f"no program of Kubernetes here is called {', '.join(unknown)}: there are {', '.join(PACKAGES)}")
    print(find_programs(tuple(options.programs) or CONTROL_PLANE))
    return 0


def act_images(options: argparse.Namespace) -> int:
    """`ipvs-lab images`: operator and agent; prints what a cluster calls each, and the archive to load there."""
    for image in find_images():
        print(image.name, image.archive)
    return 0


def act_helm(options: argparse.Namespace) -> int:
    """`ipvs-lab helm`."""
    print(find_helm())
    return 0


def act_api(options: argparse.Namespace) -> int:
    """`ipvs-lab api`: kube-apiserver and etcd in the foreground."""
    with ControlPlane(port=options.port) as plane:
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        print(f"export KUBECONFIG={plane.kubeconfig()} PATH={plane.programs}:$PATH", flush=True)
        print(f"{plane.url} is ready; ctrl-c ends it, and everything in it is gone", file=sys.stderr)
        signal.sigwait(ENDING)
    return 0


def main() -> None:
    """Exit as the command says; 2 with a sentence when a person has to mend something first."""
    options = parser().parse_args()
    try:
        sys.exit(options.act(options))
    except LabError as error:
        print(f"ipvs-lab: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
