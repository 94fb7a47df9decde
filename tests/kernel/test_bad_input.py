"""Bad manifests: an error that names file, line, object and field; everything else stays programmed and serves."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from tests.kernel.commands import status_says
from tests.kernel.conftest import MakeSite, Manifest, Site, director_group, node, virtual_service

from ipvs_lab.net import ask, await_condition, clients, serve
from ipvs_lab.topologies import one

VIP, BAD = "192.0.2.10", "192.0.2.20"
RIP, RIP6 = "192.0.2.101", "2001:db8:2::101"
"""rs1's."""


def bad(*ports: str, servers: tuple[str, ...] = (RIP,), **spec: Any) -> Manifest:
    """A virtual service that somebody writes beside the good one."""
    return virtual_service("bad", BAD, [*ports] or [443], servers, **spec)


SECOND = director_group("second", ["192.0.2.100/30"], gatewayAddresses=["192.0.2.251"])
RIVAL = bad("80", addresses=["192.0.2.100"], directorGroup="second", nat={"returnPath": "Gateway"})
VRRP = {"vrrp": {"virtualRouterIDs": [51]}}

OBJECTS: dict[str, tuple[list[Manifest], str]] = {
    "one-packet with NAT": ([bad("53/UDP", onePacket=True)], "OnePacketForwarding: spec.onePacket"),
    "port mapping with DR to a host": ([bad("443:8443", forwarding="DR")], "PortMapping: spec.ports: p443-tcp maps"),
    "a VIP and port that another has": (
        [bad("80", addresses=[VIP])],
        f"AddressConflict: spec.ports: {VIP} TCP 80 belongs to VirtualService default/web",
    ),
    "a VIP outside the group": (
        [bad(addresses=["203.0.113.1"])],
        "AddressOutsideGroup: spec.addresses: found 203.0.113.1, wanted an address of DirectorGroup default",
    ),
    "mixed families": ([bad(servers=(RIP6,))], "MixedFamilies: spec."),
    "an unknown group": ([bad(directorGroup="nosuch")], "GroupNotFound: spec.directorGroup: found 'nosuch'"),
    "two gateways for one real server": (
        [SECOND, RIVAL],
        f"GatewayAmbiguous: spec.backends.static: replies of {RIP} TCP 80 would go to gateway 192.0.2.251, but Virtual",
    ),
    "a way to announce that is not there": (
        [director_group("odd", ["198.51.100.64/28"], announcement=VRRP)],
        "DirectorGroup odd: AnnouncementUnsupported",
    ),
    "a node with an address that is none": (
        [node("odd", ["192.0.2.300"])],
        "Node odd: status.addresses[0].address: found",
    ),
}

GOOD_TEXT = yaml.safe_dump(bad())
TEXTS = {
    "unreadable YAML": ("kind: [VirtualService\n  spec: {\n", "bad.yaml:"),
    "an unknown field": (GOOD_TEXT.replace("scheduler: rr", "shceduler: rr"), 'default/bad: spec.shceduler: unknown'),
    "a wrong type": (GOOD_TEXT.replace("port: 443", "port: https"), "default/bad: spec.ports[0].port: "),
    "a port out of range": (GOOD_TEXT.replace("port: 443", "port: 70000"), "spec.ports[0].port: found 70000"),
    "a key twice": (GOOD_TEXT + "kind: VirtualService\n", "kind: this key occurs twice"),
    "an unknown kind": (GOOD_TEXT.replace("kind: VirtualService", "kind: VirtualServices"), "did you mean"),
    "a second definition of web": (
        yaml.safe_dump(virtual_service("web", "192.0.2.30", 8080, [RIP])),
        "VirtualService default/web: metadata.name: is in",
    ),
    "no YAML at all": ("\x00\x01\x02", "bad.yaml"),
}  # fmt: skip


@pytest.fixture
def serving(site: MakeSite) -> Iterator[Site]:
    """web, NAT Gateway, serves on the director; every test must leave it untouched."""
    lvs = site(one(), nodes=["rs1"])
    lvs.put(virtual_service("web", VIP, 80, [RIP], nat={"returnPath": "Gateway"}))
    lvs.start()
    serve(lvs["rs1"], 80)
    untouched = untouched_by(lvs)
    yield lvs
    assert untouched_by(lvs) == untouched
    assert ask(lvs["client"], VIP, 80).server == "rs1"


def untouched_by(lvs: Site) -> tuple[list[str], str, set[str]]:
    """What of the director's kernel no bad manifest may change."""
    return lvs["director"].ipvs(), lvs["director"].nft(), lvs.held("director")


def mended(lvs: Site) -> None:
    """Wait until there is nothing to complain of."""
    await_condition(lambda: "Manifests=False" not in lvs.agent("director", "status"), 60, "no errors", every=0.5)


def test_objects_that_cannot_be_done_are_told_with_file_object_and_field(serving: Site) -> None:
    path = serving.directory / "bad.yaml"
    before = untouched_by(serving)
    for name, (objects, words) in OBJECTS.items():
        path.write_text(yaml.safe_dump_all(objects))
        text = status_says(serving, "director", "Manifests=False Invalid", words, timeout=10)
        assert str(path) in text, name
        assert untouched_by(serving) == before, name
        assert ask(serving["client"], VIP, 80).server == "rs1", name
        assert f"ERROR {path}:" in serving.agents["director"].output(), name
        path.unlink()
        mended(serving)


def test_texts_that_cannot_be_read_are_told_with_file_line_and_field(serving: Site) -> None:
    path = serving.directory / "zbad.yaml"
    before = untouched_by(serving)
    for name, (text, words) in TEXTS.items():
        path.write_text(text)
        said = status_says(serving, "director", "Manifests=False Invalid", words, timeout=10)
        assert f"{path}:" in said, name
        assert untouched_by(serving) == before, name
        path.unlink()
        mended(serving)


def test_a_mistake_in_what_serves_leaves_it_in_force_also_after_a_restart(serving: Site) -> None:
    for kind, name, wrong in (
        ("VirtualService", "web", {"scheduler": "best"}),
        ("VirtualService", "web", {"forwarding": "DR", "ports": [{"name": "a", "port": 80, "targetPort": 81}]}),
        ("DirectorGroup", "default", {"addresses": ["192.0.2.0/33"]}),
        ("DirectorGroup", "default", {"addresses": "192.0.2.0/24"}),
        ("Node", "director", {"podCIDRs": 7}),
    ):  # fmt: skip
        before = untouched_by(serving)
        path = serving.directory / f"{kind}.{name}.yaml"
        good = path.read_text()
        manifest = yaml.safe_load(good)
        manifest["spec"].update(wrong)
        path.write_text(yaml.safe_dump(manifest))
        for _ in range(2):
            status_says(serving, "director", "Manifests=False", f"{kind} ", str(path), timeout=10)
            time.sleep(65)
            assert untouched_by(serving) == before, f"{kind} {name} {wrong}"
            assert ask(serving["client"], VIP, 80).server == "rs1"
            serving.stop()
            serving.start(ready=False)
        path.write_text(good)
        mended(serving)
        serving.settled()


def test_a_large_file_with_one_mistake_is_told_by_its_line_and_the_rest_is_taken(serving: Site) -> None:
    servers = [f"10.{i // 250}.{i % 250}.1" for i in range(2_400)]
    many = [virtual_service(f"s{n}", f"192.0.2.{40 + n}", 80, servers[n * 300 : n * 300 + 300]) for n in range(8)]
    for number, one_of_many in enumerate(many):
        one_of_many["spec"]["backends"]["static"] = [
            {"address": entry["address"], "weight": 1, "maxConnections": 0, "resumeConnections": 0}
            for entry in one_of_many["spec"]["backends"]["static"]
        ] + [{"address": f"10.77.{number}.1", "weight": "heavy" if number == 5 else 2}]
    text = yaml.safe_dump_all(many)
    line = next(number for number, words in enumerate(text.splitlines(), 1) if "heavy" in words)
    path = serving.directory / "many.yaml"
    path.write_text(text)
    assert len(text.splitlines()) > 9_000
    status_says(
        serving,
        "director",
        f"{path}:{line}:",
        "VirtualService default/s5: spec.backends.static[300].weight: ",
        timeout=30,
    )
    await_condition(
        lambda: "-a -t 192.0.2.47:80 -r 10.77.7.1:80 -m -w 2" in serving["director"].ipvs(), 30, "s7", every=1
    )
    assert not [words for words in serving["director"].ipvs() if "192.0.2.45:80" in words]
    path.unlink()
    await_condition(lambda: len(serving["director"].ipvs()) == 2, 200, "all gone but web", every=1)


def test_a_file_that_is_written_slowly_in_place_removes_nothing(serving: Site) -> None:
    path = serving.directory / "VirtualService.web.yaml"
    text = path.read_text()
    before = untouched_by(serving)
    with path.open("w") as slow:
        for line in text.splitlines(keepends=True):
            slow.write(line)
            slow.flush()
            time.sleep(5)
            assert untouched_by(serving) == before
    mended(serving)
    path.write_text("")
    time.sleep(0.5)
    path.write_text(text)
    time.sleep(5)
    assert untouched_by(serving) == before
    draft = path.with_suffix(".new")
    draft.write_text(text.replace("scheduler: rr", "scheduler: lc"))
    draft.rename(path)
    await_condition(lambda: f"-A -t {VIP}:80 -s lc" in serving["director"].ipvs(), 5, "a renamed file")
    path.write_text(text)
    await_condition(lambda: f"-A -t {VIP}:80 -s rr" in serving["director"].ipvs(), 5, "a file written at once")


def test_an_empty_directory_and_one_that_vanishes_remove_nothing(serving: Site) -> None:
    before = untouched_by(serving)
    kept = serving.directory.with_name("kept")
    shutil.copytree(serving.directory, kept)
    for path in serving.directory.iterdir():
        path.unlink()
    status_says(serving, "director", "Manifests=False", f"{serving.directory}: directory holds no manifest")
    shutil.rmtree(serving.directory)
    status_says(serving, "director", f"{serving.directory}: directory cannot be read: No such file", "stays in force")
    for _ in range(2):
        time.sleep(90)
        assert untouched_by(serving) == before
        assert ask(serving["client"], VIP, 80).server == "rs1"
        serving.stop("director")
        serving.start("director", ready=False)
    kept.rename(serving.directory)
    mended(serving)
    serving.edit("web", scheduler="lc")
    await_condition(lambda: f"-A -t {VIP}:80 -s lc" in serving["director"].ipvs(), 60, "changes count again")
    serving.edit("web", scheduler="rr")
    await_condition(lambda: f"-A -t {VIP}:80 -s rr" in serving["director"].ipvs(), 5, "at once, even")


def test_a_removed_file_is_a_removal(serving: Site) -> None:
    serving.put(bad())
    serving.settled()
    assert BAD in serving.held("director")
    serving.remove("VirtualService", "bad")
    await_condition(lambda: BAD not in serving.held("director"), 10, "the VIP gone")
    await_condition(lambda: not [w for w in serving["director"].ipvs() if BAD in w], 90, "the service gone", every=1)
    assert clients(serving["client"], 2, VIP, 80).answers == {"rs1": 2}
