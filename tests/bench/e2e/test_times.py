"""How long clients wait for what was declared, on a cluster with kubelets."""

import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from tests.e2e.testbed import CLIENT
from tests.e2e.world import CLIENT_SCRIPT, FORWARDINGS, World, virtual_service

TIMES = 5


class First:
    """When the first answer came, and who gave it."""

    def __init__(self) -> None:
        self.at, self.who = 0.0, ""

    def listen(self, told: IO[str]) -> None:
        self.who = told.readline().strip()
        self.at = time.monotonic()


@contextmanager
def asking(world: World, address: str, port: int) -> Iterator[First]:
    """A client asks an address 50 times a second; on return it was answered."""
    script = world.testbed.client_script(CLIENT_SCRIPT)
    found = First()
    with world.testbed.start(CLIENT, *script, "first", address, str(port)) as running:
        assert running.stdout is not None
        try:
            assert running.stdout.readline() == "asking\n"
            answered = threading.Thread(target=found.listen, args=(running.stdout,))
            answered.start()
            yield found
            answered.join()
            assert found.who
        finally:
            running.kill()


def tell(what: str, seconds: list[float]) -> None:
    shown = ", ".join(f"{each:.2f}" for each in sorted(seconds))
    print(f"\n{what}: median {statistics.median(seconds):.2f} s ({shown})", flush=True)


def test_from_kubectl_apply_to_the_first_answer(world: World) -> None:
    for forwarding in FORWARDINGS:
        took = []
        for number in range(TIMES):
            vip = world.vips()[4]
            one = virtual_service(f"new-{number}", [vip], forwarding=forwarding)
            with world.undeclaring(one), asking(world, vip, 80) as first:
                start = time.monotonic()
                world.apply(one)
            took.append(first.at - start)
        tell(f"kubectl apply of a VirtualService with {forwarding} to the first answer", took)
