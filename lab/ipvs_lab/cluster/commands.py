"""`ipvs-lab up`, `down`, `status`, `kubectl` and `exec`."""

import argparse
import os
import sys
from pathlib import Path

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.plan import CLIENT, MOST, PROXIES, ROUTER, Spec, hosts
from ipvs_lab.cluster.state import DEFAULT_NAME, all_names
from ipvs_lab.config import KERNELS
from ipvs_lab.machine import LabError


def add_commands(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command line."""
    up = commands.add_parser("up", help="a Kubernetes whose nodes are lab kernels; until `down`")
    up.add_argument("--image", type=Path, action="append", default=[], metavar="FILE",
                    help="a docker-archive or OCI archive for every node; several times if need be")  # fmt: skip
    up.set_defaults(act=act_up)
    example = commands.add_parser("example", help="up, with this checkout's chart and an example that a client asks")
    example.add_argument("--kind", nargs="?", const="kind", metavar="CLUSTER", help="in a cluster of kind instead")
    example.set_defaults(act=act_example)
    for command in (up, example):
        command.add_argument("--nodes", type=int, help=f"how many (default: {Spec().nodes})")
        command.add_argument("--kube-proxy", choices=PROXIES, help=f"its mode (default: {Spec().kube_proxy})")
        command.add_argument(
            "--networks", type=int, choices=(1, 2), help="2: the client on one of its own, behind a router (default: 1)"
        )
        command.add_argument("--kernel", choices=KERNELS, help=f"of all hosts (default: {Spec().kernel})")
        command.add_argument("--mem", help=f"ceiling of each node's memory (default: {Spec().memory})")
    down = commands.add_parser("down", help="end a cluster and remove all that is left of it")
    down.add_argument("--all", action="store_true", help="every one of yours")
    down.set_defaults(act=act_down)
    status = commands.add_parser("status", help="what a cluster consists of, and in which state")
    status.set_defaults(act=act_status)
    # A prefix that nobody uses: options are kubectl's, `--name` excepted where it comes first.
    kubectl = commands.add_parser(
        "kubectl", help="kubectl, as a cluster's administrator", add_help=False, prefix_chars="\0"
    )
    kubectl.set_defaults(act=act_kubectl)
    execute = commands.add_parser("exec", help="run a command as root on a host of a cluster")
    execute.add_argument("--node", default=CLIENT, metavar="NODE", help="where (default: %(default)s, a host beside)")
    execute.set_defaults(act=act_exec)
    for command in (up, example, down, status, execute):
        command.add_argument("--name", default=DEFAULT_NAME, help="of the cluster (default: %(default)s)")
    kubectl.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARG")
    execute.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD")


def asked(options: argparse.Namespace, cluster: Cluster) -> Spec:
    """What the command line says, for the rest what is there. LabError where that is no cluster."""
    default = cluster.spec()
    spec = Spec(
        options.nodes if options.nodes is not None else default.nodes,
        options.mem or default.memory,
        options.kube_proxy or default.kube_proxy,
        options.networks or default.networks,
        options.kernel or default.kernel,
    )
    if not 1 <= spec.nodes <= MOST:
        raise LabError(f"--nodes {spec.nodes}: one to {MOST}")
    return spec


def act_up(options: argparse.Namespace) -> int:
    """`ipvs-lab up`."""
    cluster = Cluster(options.name)
    cluster.up(asked(options, cluster), options.image)
    how_to_go_on(cluster, "ADDRESS")
    return 0


def act_example(options: argparse.Namespace) -> int:
    """`ipvs-lab example`."""
    from ipvs_lab.example import show
    from ipvs_lab.places import KindPlace, LabPlace

    if options.kind is not None:
        vip = show(KindPlace(options.kind))
        print(f"\nHow to go on:\n  kubectl get ivs,dg,ipvsnodes -A\n  curl http://{vip}/")
        print(f"  kind delete cluster --name {options.kind}")
        return 0
    cluster = Cluster(options.name)
    vip = show(LabPlace(cluster, asked(options, cluster)))
    how_to_go_on(cluster, vip)
    return 0


def how_to_go_on(cluster: Cluster, address: str) -> None:
    """What can be typed now."""
    program = os.path.relpath(sys.argv[0]) if "/" in sys.argv[0] else sys.argv[0]
    named = f" --name {cluster.name}" if cluster.name != DEFAULT_NAME else ""
    router = f"  {program} exec{named} --node {ROUTER} -- ip neigh                on the router between\n"
    print(
        f"\nCluster {cluster.name} is up. How to go on:\n"
        f"  {program} kubectl{named} get pods -A -o wide\n"
        f"  {program} exec{named} -- curl -s http://{address}/             as a client beside the cluster\n"
        f"  {program} exec{named} --node node1 -- ipvsadm -Ln           on a node, as root\n"
        f"{router if cluster.spec().networks > 1 else ''}"
        f"  export KUBECONFIG={cluster.kubeconfig}\n"
        f"  {program} down{named}"
    )


def act_down(options: argparse.Namespace) -> int:
    """`ipvs-lab down`: fine too where nothing is up."""
    for name in all_names() if options.all else [options.name]:
        gone = Cluster(name).down()
        print(f"cluster {name} is {'down' if gone else 'not there'}", file=sys.stderr)
    return 0


def act_status(options: argparse.Namespace) -> int:
    """`ipvs-lab status`; 1 if a host is not as it should be."""
    cluster = Cluster(options.name)
    status = cluster.status()
    ready = cluster.ready_nodes()
    well = True
    for planned in hosts(cluster.spec()):
        host = status["hosts"][planned.name]
        node = "" if not planned.pods else "Ready" if planned.name in ready else "NotReady"
        well = well and host["state"] == "on" and node != "NotReady"
        first, *others = [f"{at.address!s:13} {at.address6!s:20}" for at in planned.feet]
        print(f"{planned.name:8} {host['state']:7} {node:9} {first} {host['logs']}")
        for other in others:
            print(f"{'':26} {other}".rstrip())
    print(f"control plane: {status['control_plane']}\nKUBECONFIG={status['kubeconfig']}")
    others = [name for name in all_names() if name != options.name]
    print(f"other clusters: {', '.join(others)}" if others else "", end="\n" if others else "")
    return 0 if well else 1


def act_kubectl(options: argparse.Namespace) -> int:
    """`ipvs-lab kubectl`: kubectl takes this process's place."""
    arguments, name = options.arguments, DEFAULT_NAME
    if arguments[:1] == ["--name"] and len(arguments) > 1:
        _, name, *arguments = arguments
    cluster = Cluster(name)
    command = cluster.kubectl_command(*arguments)
    os.execve(command[0], command, cluster.kubectl_environment())


def act_exec(options: argparse.Namespace) -> int:
    """`ipvs-lab exec`: what runs the command takes this process's place, and exits as the command did."""
    argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
    if not argv:
        raise LabError("exec what? ipvs-lab exec --node node1 -- ipvsadm -Ln")
    command, environment = Cluster(options.name).command(options.node, *argv)
    os.execvpe(command[0], command, environment)
