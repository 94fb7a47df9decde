"""An API server beside a lab kernel: it runs natively, and what runs in the kernel reaches it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import NamedTuple

from ipvs_lab.kubernetes.control_plane import ControlPlane
from ipvs_lab.machine import Job
from ipvs_lab.site import ADDRESS, Nic, Site

KERNEL_ADDRESS = "10.200.0.2/24"  # of the lab kernel itself; `Network.uplink` takes the card, and hosts have their own
CONNECT = f'ip addr add {KERNEL_ADDRESS} dev vec0 && ip link set vec0 up && exec "$@"'


class Beside(NamedTuple):
    """The job as it is to run, the network card that its kernel must have, and what is beside it."""

    job: Job
    nic: Nic
    plane: ControlPlane


@contextmanager
def api_beside(job: Job) -> Iterator[Beside]:
    """A control plane for as long as the block lasts. The job sees KUBECONFIG (an administrator's) and kubectl."""
    with ControlPlane() as plane, Site() as site:
        site.offer(plane.port)
        seen = {
            "KUBECONFIG": str(plane.kubeconfig(address=ADDRESS)),
            "PATH": f"{job.environment['PATH']}:{plane.programs}",
        }
        argv = ["sh", "-c", CONNECT, "sh", *job.argv]
        yield Beside(replace(job, argv=argv, environment=job.environment | seen), site.plug(), plane)
