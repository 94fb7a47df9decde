"""A node without power, and an API server that is away."""

import time

from tests.e2e.world import World

from ipvs_lab.net.waiting import await_condition

PROMISED = 65
"""Seconds: docs/kubernetes.md, "When something is down"."""
AWAY = 120
"""Seconds without an API server."""


def test_the_pods_of_a_node_without_power_leave_in_time_and_serve_again_when_it_is_back(
    web: World, vips: dict[str, str]
) -> None:
    node = web.testbed.nodes[-1]
    pods = web.pods_of("web")
    others = {pod for pod, where in pods.items() if where != node}
    assert 0 < len(others) < len(pods)
    web.testbed.power_off(node)
    off = time.monotonic()
    try:
        left = {len(others)}
        await_condition(lambda: web.served(vips.values()) == left, PROMISED, "its real servers leave", 0.5)
        print(f"real servers of a node without power left after {time.monotonic() - off:.1f} s")
        for vip in vips.values():
            assert {pod for pod, _ in web.ask(vip, 12)} <= others
    finally:
        web.testbed.power_on(node)
    on = time.monotonic()
    whole = {len(pods)}
    await_condition(lambda: web.served(vips.values()) == whole, 180, "they are back", 0.5)
    print(f"a node that is Ready again serves after {time.monotonic() - on:.1f} s")
    for vip in vips.values():
        assert {pod for pod, _ in web.ask(vip, 24)} == set(web.pods_of("web"))


def test_without_an_api_server_traffic_goes_on_and_a_later_change_converges(web: World, vips: dict[str, str]) -> None:
    with web.load(vips.values(), 50) as seen:
        web.testbed.stop_api()
        try:
            time.sleep(AWAY)  # the time is what is tested
        finally:
            web.testbed.start_api()
        web.kubectl("scale", "deployment/web", "--replicas=8")
        whole = {8}
        await_condition(lambda: web.served(vips.values()) == whole, 180, "eight pods are served", 0.5)
    web.whole(seen)
    assert set(seen.result.answers) >= set(web.pods_of("web"))
