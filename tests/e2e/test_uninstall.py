"""Uninstalled, nothing of ours is in any kernel."""

import pytest
from tests.e2e.dumps import Dumps, differences, take_dumps
from tests.e2e.world import FORWARDINGS, NAMESPACE, ROOT, World, virtual_service

from ipvs_lab.net.waiting import await_condition


def test_every_kernel_is_as_before_the_installation(world: World, before: Dumps | None) -> None:
    """While virtual services of every kind are served. Last: nothing works afterwards."""
    if before is None:
        pytest.skip("something was installed before the suite began")
    vips = {forwarding: world.vips() for forwarding in FORWARDINGS}
    ports = [{"name": proto.lower(), "protocol": proto, "port": 80} for proto in ("TCP", "UDP")]
    for forwarding, addresses in vips.items():
        name = f"last-{forwarding.lower()}"
        world.apply(virtual_service(name, list(addresses.values()), forwarding=forwarding, ports=ports))
        world.await_ready(name)
        for address in addresses.values():
            world.ask(address, 6)
            world.ask(address, 6, "udp")
    during = differences(before, take_dumps(world.testbed))
    for vip in vips["NAT"].values():
        assert vip in during
    world.helm("uninstall", "ipvs", f"--namespace={NAMESPACE}", "--wait")
    world.kubectl("delete", f"--filename={ROOT / 'crds'}", "--timeout=120s")
    world.kubectl("delete", "deployment/web", "service/web")
    world.kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")
    await_condition(lambda: world.get("pods", "--all-namespaces")["items"] == [], 120, "no pod is left", 0.5)

    def same() -> bool:
        assert (changed := differences(before, take_dumps(world.testbed))) == "", changed
        return True

    await_condition(same, 60, "kernels are as before", 1)
