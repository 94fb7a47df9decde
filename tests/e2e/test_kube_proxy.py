"""Our virtual addresses beside kube-proxy in each of its modes: both work, and neither touches what the other made."""

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Shown
from tests.e2e.lab import exclude_from_kube_proxy
from tests.e2e.world import as_list, deployment, director_group, service, virtual_service

from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.images import WEB
from ipvs_lab.cluster.plan import CLIENT, Spec
from ipvs_lab.example import install
from ipvs_lab.machine import inside
from ipvs_lab.net.waiting import await_condition
from ipvs_lab.places import LabPlace

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

VIPS = {"direct": ("10.200.0.121", "fd00:10:200::121"), "masked": ("10.200.0.122", "fd00:10:200::122")}
RANGES = ["10.200.0.112/28", "fd00:10:200::100/120"]
CLIENTS = ("10.200.0.2", "fd00:10:200::2")
RULES = "-save | grep '^-A.*KUBE'"
MADE = {
    "nftables": ("nft --stateless list table ip kube-proxy", "nft --stateless list table ip6 kube-proxy"),
    "iptables": (f"iptables{RULES}", f"ip6tables{RULES}"),
    "ipvs": (f"iptables{RULES}", f"ip6tables{RULES}", "ip -o address show dev kube-ipvs0", "ipset save"),
}
"""What shows rules, addresses and sets of kube-proxy's."""


WEB_SERVERS = as_list([deployment("web", WEB, 4), service("web", "web")])
GROUP = director_group(RANGES)
OURS = as_list(
    [
        GROUP,
        *(
            virtual_service(name, list(VIPS[name]), forwarding=forwarding, scheduler="rr")
            for name, forwarding in (("direct", "DR"), ("masked", "NAT"))
        ),
    ]
)


class Beside:
    """A cluster with kube-proxy in one mode, the chart, and web servers; ``theirs``: what kube-proxy had on the
    director before anything of ours was there."""

    def __init__(self, mode: str) -> None:
        self.mode = mode
        self.cluster = Cluster(f"proxy-{mode}")
        self.theirs: list[str] = []

    def start(self) -> None:
        install(LabPlace(self.cluster, Spec(nodes=2, kube_proxy=self.mode)))
        self.cluster.kubectl("label", "node", "node1", "ipvs.dev/director=true")
        self.cluster.kubectl("apply", "--filename=-", stdin=WEB_SERVERS)
        self.cluster.kubectl("rollout", "status", "deployment/web", "--timeout=180s")
        for address in self.service_addresses():
            await_condition(
                lambda at=address: len(self.answering(at)) == 4, 60, f"all pods answer on {address}", every=1
            )
        self.theirs = self.proxys()

    def apply(self) -> None:
        self.cluster.kubectl("apply", "--filename=-", stdin=OURS)
        for name in VIPS:
            self.cluster.kubectl("wait", f"ivs/{name}", "--for=condition=Ready", "--timeout=120s")

    def delete(self) -> None:
        self.cluster.kubectl("delete", "ivs", *VIPS)
        await_condition(lambda: not self.ours(), 120, "the director lets go of its services", every=0.5)

    def ask(self, host: str, address: str, times: int = 1) -> list[str]:
        """What web servers answered there, each on a connection of its own: their names and the address they saw."""
        shown = rf"\[{address}\]" if ":" in address else address  # other brackets are ranges to curl
        curl = ("curl", "--silent", "--max-time", "5", "--header", "Connection: close", f"http://{shown}/?[1-{times}]")
        return self.cluster.exec(host, *curl, check=False, timeout=300).stdout.splitlines()

    def answering(self, address: str) -> set[str]:
        """Pods that kube-proxy of the director sends to; 40 requests leave out one of four once in 25,000 times."""
        return {line.split()[0] for line in self.ask("node1", address, 40)}

    def service_addresses(self) -> list[str]:
        return list(self.cluster.get("/api/v1/namespaces/default/services/web")["spec"]["clusterIPs"])

    def ipvs(self) -> list[str]:
        """The director's IPVS table, a line for each service and each real server."""
        return self.cluster.exec("node1", "ipvsadm", "--save", "--numeric").stdout.splitlines()

    def proxys(self) -> list[str]:
        """What kube-proxy made there, in words and sorted: in which order rules and elements stand is not its doing."""
        text = "\n".join(line for line in self.ipvs() if not is_ours(line))
        for command in MADE[self.mode]:
            text += self.cluster.exec("node1", "sh", "-c", command).stdout
        return sorted(re.split(r"[\s,]+", text))

    def ours(self) -> list[str]:
        return [line for line in self.ipvs() if is_ours(line)]

    def condition(self, kind: str) -> dict[str, Any]:
        """Of the director's node."""
        status = self.cluster.get("/apis/ipvs.dev/v1alpha1/ipvsnodes/node1").get("status", {})
        return next((one for one in status.get("conditions", ()) if one["type"] == kind), {})


def is_ours(line: str) -> bool:
    return any(f" {address}:80" in line or f"[{address}]:80" in line for pair in VIPS.values() for address in pair)


def answered(beside: Beside) -> None:
    """Every address of ours answers a client with all pods, and kube-proxy's answer a node."""
    pods = {pod["metadata"]["name"] for pod in beside.cluster.get("/api/v1/namespaces/default/pods")["items"]}
    assert len(pods) == 4
    for name, addresses in VIPS.items():
        for address, client in zip(addresses, CLIENTS, strict=True):
            answers = beside.ask(CLIENT, address, 40)
            assert len(answers) == 40, (name, address)
            assert {line.split()[0] for line in answers} == pods, (name, address, Counter(answers))
            if name == "direct":
                assert {line.split()[1] for line in answers} == {client}
    for address in beside.service_addresses():
        for node in ("node1", "node2"):
            answers = beside.ask(node, address, 40)
            assert {line.split()[0] for line in answers} == pods, (node, address)
            assert len(answers) == 40, (node, address)


def lost(before: list[str], now: list[str]) -> dict[str, int]:
    """What was there before and is not now."""
    return dict(Counter(before) - Counter(now))


def change_services(beside: Beside) -> None:
    """Have kube-proxy write all its rules anew, and see them: another Service comes and answers."""
    beside.cluster.kubectl("expose", "deployment/web", "--name=other", "--port=80", "--target-port=8080")
    address = beside.cluster.get("/api/v1/namespaces/default/services/other")["spec"]["clusterIP"]
    await_condition(lambda: beside.ask("node1", address), 60, "kube-proxy serves another Service", every=0.5)
    beside.cluster.kubectl("delete", "service", "other")
    await_condition(lambda: not beside.ask("node1", address), 60, "kube-proxy lets go of it", every=0.5)


@pytest.fixture(scope="module", params=["nftables", "iptables", "ipvs"])
def beside(request: pytest.FixtureRequest, own_state: None, shown: Shown) -> Iterator[Beside]:
    """One cluster after the other."""
    made = Beside(request.param)
    try:
        with shown():
            made.start()
        if made.mode == "ipvs":
            says_what_to_set(made)
            exclude(made)
        made.apply()
        yield made
    finally:
        made.cluster.down()


def says_what_to_set(beside: Beside) -> None:
    """As kube-proxy is without our settings: the condition of a director names them."""
    beside.cluster.kubectl("apply", "--filename=-", stdin=as_list([GROUP]))
    seen = await_condition(
        lambda: (found := beside.condition("Coexistence")).get("status") == "False" and found, 60, "the agent notices"
    )
    assert seen["reason"] == "ForeignEntry"
    assert f"set ipvs.excludeCIDRs in its configuration so that it has {', '.join(RANGES)}" in seen["message"]
    assert "ipvs.strictARP to true" in seen["message"]


def exclude(beside: Beside) -> None:
    """Set what the condition says."""
    exclude_from_kube_proxy(beside.cluster, RANGES)
    await_condition(lambda: beside.condition("Coexistence").get("status") == "True", 120, "the agent notices")


def test_addresses_of_both_answer(beside: Beside) -> None:
    answered(beside)


def test_ours_answer_after_kube_proxy_has_written_its_rules_again(beside: Beside) -> None:
    before = beside.ours()
    assert before
    change_services(beside)
    assert beside.ours() == before
    answered(beside)


def test_what_kube_proxy_made_is_untouched_when_ours_come_and_go(beside: Beside) -> None:
    """Last: it takes the virtual services away."""
    with_ours = beside.proxys()  # and what kube-proxy has not cleared away yet of the other Service: an empty chain
    assert lost(beside.theirs, with_ours) == {}
    beside.delete()
    without = beside.proxys()
    assert (lost(with_ours, without), lost(without, with_ours)) == ({}, {})
    for address in beside.service_addresses():
        assert len(beside.ask("node2", address, 20)) == 20
