"""Nothing that happens to pods, agents, kubelets or operators is noticed by clients: 200 requests a second, each on a
connection of its own, and none fails."""

import os
from collections.abc import Mapping

from tests.e2e.world import NAMESPACE, PARTS, World

from ipvs_lab.net.waiting import await_condition

RATE = int(os.environ.get("IPVS_E2E_RATE", "200"))
Vips = Mapping[str, str]


def scale(world: World, vips: Vips, replicas: int) -> None:
    """Scaled, and every director knows."""
    world.kubectl("scale", "deployment/web", f"--replicas={replicas}")
    await_condition(lambda: len(world.pods_of("web")) == replicas, 180, f"{replicas} pods", 0.5)
    await_condition(lambda: world.served(vips.values()) == {replicas}, 120, f"{replicas} pods served", 0.5)


def pod_on(world: World, part: str, node: str = "") -> str:
    """The name of a pod of ours that is not about to end."""
    where = [f"--field-selector=spec.nodeName={node}"] if node else []
    pods = world.get("pods", f"--namespace={NAMESPACE}", f"--selector={PARTS}{part}", *where)["items"]
    name: str = next(pod["metadata"]["name"] for pod in pods if "deletionTimestamp" not in pod["metadata"])
    return name


def kill(world: World, node: str, program: str) -> None:
    """Kill a process of a node's pods by its id, as a crash would end it."""
    found = world.testbed.run(node, "pgrep", "--full", f"bin/{program} run").stdout.split()
    world.testbed.run(node, "kill", "-KILL", *found)


def restarts(world: World, pod: str) -> int:
    status = world.get("pod", pod, f"--namespace={NAMESPACE}")["status"]
    count: int = sum(one["restartCount"] for one in status["containerStatuses"])
    return count


def test_a_deployment_is_scaled_down_and_up_and_rolled(web: World, vips: Vips) -> None:
    old = set(web.pods_of("web"))
    with web.load(vips.values(), RATE) as seen:
        scale(web, vips, 2)
        scale(web, vips, 10)
        web.kubectl("rollout", "restart", "deployment/web")
        web.rolled("deployment/web")
        await_condition(lambda: web.served(vips.values()) == {10}, 120, "new pods everywhere", 0.5)
    web.whole(seen)
    new = set(web.pods_of("web"))
    assert not new & old
    assert new <= set(seen.result.answers)


def test_agents_are_rolled(web: World, vips: Vips) -> None:
    before = pod_on(web, "agent")
    with web.load(vips.values(), RATE) as seen:
        web.kubectl("rollout", "restart", "daemonset/ipvs-agent", f"--namespace={NAMESPACE}")
        web.rolled("daemonset/ipvs-agent", NAMESPACE)
    web.whole(seen)
    assert pod_on(web, "agent") != before


def test_the_agent_of_the_director_is_killed_and_comes_back(web: World, vips: Vips) -> None:
    director = web.testbed.nodes[0]
    pod = pod_on(web, "agent", director)
    before = restarts(web, pod)
    with web.load(vips.values(), RATE) as seen:
        kill(web, director, "ipvs-agent")
        await_condition(lambda: restarts(web, pod) == before + 1, 60, "the agent starts again", 0.5)
        web.rolled("daemonset/ipvs-agent", NAMESPACE)
        scale(web, vips, 5)
    web.whole(seen)


def test_a_director_has_no_kubelet(web: World, vips: Vips) -> None:
    director = web.testbed.nodes[0]
    with web.load(vips.values(), RATE) as seen:
        web.testbed.stop_kubelet(director)
        try:
            scale(web, vips, 4)  # its agent works on
        finally:
            web.testbed.start_kubelet(director)
    web.whole(seen)


def test_operators_are_killed(web: World, vips: Vips) -> None:
    """Both at once; changes wait until one is back."""
    with web.load(vips.values(), RATE) as seen:
        web.kubectl("delete", "pods", f"--namespace={NAMESPACE}", f"--selector={PARTS}operator", "--force",
                    "--grace-period=0")  # fmt: skip
        web.rolled("deployment/ipvs-operator", NAMESPACE)
        scale(web, vips, 7)
    web.whole(seen)


def test_the_release_is_upgraded(web: World, vips: Vips) -> None:
    """Every pod of ours is replaced."""
    before = {pod_on(web, "agent"), pod_on(web, "operator")}
    with web.load(vips.values(), RATE) as seen:
        web.chart("upgrade", *(f"--set={part}.podAnnotations.upgraded=yes" for part in ("agent", "operator")))
        web.rolled("daemonset/ipvs-agent", NAMESPACE)
        web.rolled("deployment/ipvs-operator", NAMESPACE)
    web.whole(seen)
    assert not before & {pod_on(web, "agent"), pod_on(web, "operator")}
