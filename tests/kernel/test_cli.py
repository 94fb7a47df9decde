"""``ipvs-agent`` at a prompt: what its commands say, in which shapes, and what they leave alone."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.kernel.commands import (
    STATE,
    differences,
    dumps,
    ipvs_agent,
    manifests_of,
    state_files,
    status_says,
)
from tests.kernel.conftest import MakeSite, Site, virtual_service

from ipvs_api.node import IPVSNode
from ipvs_api.plan import VirtualServicePlan
from ipvs_api.virtualservice import VirtualServiceStatus
from ipvs_lab.net import Crowd, Host, await_condition, serve
from ipvs_lab.topologies import one

VIP, VIP6 = "192.0.2.10", "2001:db8:2::10"
VERBS = ("run", "plan", "status", "release")


def make(site: MakeSite) -> Site:
    """DR on the director and rs1, both families; nothing runs yet."""
    lvs = site(one(), nodes=["rs1"])
    rips = [*lvs.servers("rs1", "rs2"), lvs["rs1"].address(family=6)]
    lvs.put(virtual_service("web", f"{VIP} {VIP6}", 80, rips, forwarding="DR", drain={"timeoutSeconds": 600}))
    return lvs


def state_of(host: Host) -> dict[str, tuple[int, bytes]]:
    """Every file of the state directory: when it was written, and what it holds."""
    with host.inside():
        return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in STATE.iterdir()}


def test_plan_shows_what_would_change_and_writes_nothing(site: MakeSite) -> None:
    lvs = make(site)
    before = dumps(lvs, ("director", "rs1"))
    said = ipvs_agent(lvs["director"], "plan", *manifests_of(lvs, "director"))
    assert said.status == 0
    assert said.errors == ""
    for line in (
        f"+ service tcp {VIP}:80: rr to 192.0.2.101:80 weight 1, 192.0.2.102:80 weight 1",
        f"+ service tcp [{VIP6}]:80: rr to [2001:db8:2::101]:80 weight 1",
        f"+ address {VIP} on eth0",
        "~ sysctl net.ipv4.vs.expire_nodest_conn: 0 → 1",
    ):
        assert line in said.output.splitlines(), said.output
    assert said.output.splitlines()[-1].endswith("changes; nothing was written")
    assert state_files(lvs["director"]) == []
    changes = json.loads(ipvs_agent(lvs["rs1"], "plan", *manifests_of(lvs, "rs1"), "-o", "json").output)
    assert {"action": "add", "what": "link ipvs0", "detail": "dummy"} in changes
    assert {"action": "add", "what": f"address {VIP} on ipvs0", "detail": ""} in changes
    assert differences(before, lvs) == ""
    assert state_files(lvs["rs1"]) == []


def test_plan_beside_a_running_agent_says_nothing_to_do_or_what_was_edited(site: MakeSite) -> None:
    lvs = make(site)
    lvs.start()
    before = dumps(lvs, ("director",))
    said = ipvs_agent(lvs["director"], "plan", *manifests_of(lvs, "director"))
    assert said == (0, "director: nothing to do, the kernel is as the manifests want it\n", "")
    said = ipvs_agent(lvs["director"], "plan", *manifests_of(lvs, "director"), "-o", "yaml")
    assert yaml.safe_load(said.output) == []
    lvs.stop()
    state = state_of(lvs["director"])
    heavier = {"static": [{"address": lvs["rs1"].address(), "weight": 7}]}
    lvs.edit("web", scheduler="wlc", backends=heavier, addresses=[VIP])
    said = ipvs_agent(lvs["director"], "plan", *manifests_of(lvs, "director"))
    assert said.status == 0
    words = f"~ service tcp {VIP}:80: scheduler, flags or persistence, real server 192.0.2.101:80 changed, "
    assert words + "real server 192.0.2.102:80 drained" in said.output, said.output
    assert f"~ service tcp [{VIP6}]:80: real server [2001:db8:2::101]:80 drained" in said.output, said.output
    assert differences(before, lvs) == ""
    assert state_of(lvs["director"]) == state, "the state database neither"


def test_plan_tells_bad_manifests_on_standard_error_and_by_its_status(site: MakeSite) -> None:
    lvs = make(site)
    (lvs.directory / "bad.yaml").write_text(
        "apiVersion: ipvs.dev/v1alpha1\nkind: VirtualService\nmetadata: {name: bad}\n"
    )
    said = ipvs_agent(lvs["director"], "plan", *manifests_of(lvs, "director"))
    assert said.status == 1
    assert f'{lvs.directory}/bad.yaml:1:1: VirtualService default/bad: field "spec" is missing' in said.errors
    assert f"+ address {VIP} on eth0" in said.output, "the rest is planned all the same"
    for node, words in (("director2", "did you mean director?"), ("nosuch", "found director, rs1")):
        said = ipvs_agent(lvs["director"], "plan", "--manifests", str(lvs.directory), "--node", node)
        assert said.status == 1
        assert f"Node {node}: metadata.name: no Node of the name that --node gives is there" in said.errors
        assert words in said.errors
    said = ipvs_agent(lvs["director"], "plan", "--manifests", "/nowhere", "--node", "director")
    assert said.status == 1
    assert "/nowhere: directory cannot be read: No such file or directory" in said.errors


def test_run_for_an_unknown_node_says_so_and_begins_when_the_node_comes(site: MakeSite) -> None:
    lvs = make(site)
    path = lvs.directory / "Node.director.yaml"
    kept = path.read_text()
    path.unlink()
    lvs.agents["director"] = lvs["director"].fork(ipvs_agent_run, lvs, "director", name="agent")
    words = "Node director: metadata.name: no Node of the name that --node gives is there, so nothing is planned"
    await_condition(lambda: lvs.view("director"), 30, "an agent")
    status_says(lvs, "director", "Ready=False", "Manifests=False Invalid", words, "found rs1")
    assert f"ERROR {lvs.directory}: {words}" in lvs.agents["director"].output()
    assert VIP not in lvs.held("director")
    assert lvs["director"].ipvs() == []
    path.write_text(kept)
    lvs.settled()
    assert VIP in lvs.held("director")


def ipvs_agent_run(lvs: Site, name: str) -> int:
    from tests.kernel.conftest import run_agent

    return run_agent("run", *manifests_of(lvs, name))


def decoded(text: str, output: str) -> dict[str, list[Any]]:
    """Items of a List by their kind, as the types of the API."""
    found = json.loads(text) if output == "json" else yaml.safe_load(text)
    assert (found["apiVersion"], found["kind"]) == ("v1", "List")
    items: dict[str, list[Any]] = {}
    for item in found["items"]:
        assert item.pop("apiVersion") == "ipvs.dev/v1alpha1"
        kind = item.pop("kind")
        types = {"IPVSNode": IPVSNode, "VirtualServicePlan": VirtualServicePlan}
        if kind == "VirtualService":
            items.setdefault(kind, []).append(msgspec.convert(item["status"], VirtualServiceStatus))
        else:
            items.setdefault(kind, []).append(msgspec.convert(item, types[kind]))
    return items


@pytest.mark.parametrize("running", [True, False], ids=["with an agent", "without an agent"])
def test_status_is_a_table_and_has_the_shapes_of_a_cluster(site: MakeSite, running: bool) -> None:
    lvs = make(site)
    lvs.start()
    serve(lvs["rs1"], 80)
    crowd = Crowd(lvs["client"], VIP6, 80)
    crowd.open(idle=2)
    lvs.edit(
        "web",
        backends={
            "static": [{"address": lvs["rs1"].address()}],
        },
        addresses=[VIP],
    )
    lvs.settled()
    if not running:
        lvs.stop()
    draining = {"address": "2001:db8:2::101", "port": 80, "forwarding": "DR", "weight": 0, "active": 2, "inactive": 0}

    def counted() -> None:
        """The kernel publishes its counters every two seconds."""
        servers = [
            server for each in json.loads(lvs.agent("director", "status", "-o", "ipvs")) for server in each["servers"]
        ]
        assert draining | {"scheduled": 2} in servers

    await_condition(lambda: counted() is None, 10, every=1)
    before, state = dumps(lvs, ("director",)), state_of(lvs["director"])
    lines = [line.split() for line in lvs.agent("director", "status").splitlines()]
    assert lines[0][:6] == ["NODE", "READY", "DIRECTING", "SERVING", "DRAINING", "FAILURES"]
    assert lines[1][:4] == ["director", "True", "1", "0"]
    assert (lines[1][-2:] == ["(not", "running)"]) is not running
    assert ["default/web", VIP, "DR", "rr", "1", "True"] in lines
    assert ["->", "192.0.2.101:80", "DR", "1", "0", "0", "0"] in lines
    assert ["->", "192.0.2.102:80", "DR", "0", "0", "0", "0", "draining"] in lines
    assert ["->", "[2001:db8:2::101]:80", "DR", "0", "2", "0", "2", "draining"] in lines
    for output in ("json", "yaml"):
        items = decoded(lvs.agent("director", "status", "-o", output), output)
        (node,), (service,), (plan,) = items["IPVSNode"], items["VirtualService"], items["VirtualServicePlan"]
        assert node.metadata.name == "director"
        assert {c.type: c.status for c in node.status.conditions}["Ready"] == "True"
        assert node.status.counts.directing == 1
        assert {"192.0.2.2", "2001:db8:2::2"} <= {entry.address for entry in node.status.addresses}
        assert service.addresses[0].address == VIP
        assert service.summary.vip == VIP
        assert [entry.address for entry in plan.spec.addresses] == [VIP]
    if not running:
        assert state_of(lvs["director"]) == state
    assert differences(before, lvs) == "", "looking changes nothing"
    crowd.close()


def test_status_where_nothing_is_says_so(site: MakeSite) -> None:
    lvs = make(site)
    said = ipvs_agent(lvs["director"], "status")
    assert said.status == 1
    assert said.errors == (
        "ipvs-agent status: no agent answers on /run/ipvs-operator/agent.sock and there is no "
        "/var/lib/ipvs-operator/state.db: nothing of ours is here\n"
    )


@pytest.mark.parametrize("verb", ["run", "plan", "release"])
def test_commands_that_need_root_say_so(site: MakeSite, verb: str) -> None:
    lvs = make(site)
    options = () if verb == "release" else manifests_of(lvs, "director")
    said = ipvs_agent(lvs["director"], verb, *options, prelude=lambda: os.seteuid(65534))
    assert said.status == 1
    assert "needs root (CAP_NET_ADMIN and CAP_NET_RAW in the initial user namespace)" in said.errors


def test_a_state_directory_that_cannot_be_used_is_told(site: MakeSite) -> None:
    lvs = make(site)
    Path("/run/file").write_text("")
    said = ipvs_agent(lvs["director"], "run", *manifests_of(lvs, "director"), "--state-dir", "/run/file")
    assert said.status == 1
    assert "state directory /run/file: File exists; choose another with --state-dir" in said.errors
    said = ipvs_agent(lvs["director"], "run", *manifests_of(lvs, "director"), "--state-dir", "/proc/nowhere")
    assert said.status == 1
    assert "state directory /proc/nowhere: No such file or directory; choose another" in said.errors
    lvs["director"].run("mkdir", "-p", "/run/broken")
    Path("/run/broken/state.db").write_text("This is no database, whatever its name.\n" * 100)
    said = ipvs_agent(lvs["director"], "run", *manifests_of(lvs, "director"), "--state-dir", "/run/broken")
    assert said.status == 1
    assert "state database /run/broken/state.db: file is not a database" in said.errors


def test_a_second_agent_is_refused_and_the_first_goes_on(site: MakeSite) -> None:
    lvs = make(site)
    lvs.start()
    said = ipvs_agent(lvs["director"], "run", *manifests_of(lvs, "director"))
    assert said.status == 1
    assert "another ipvs-agent is at work with /var/lib/ipvs-operator; stop it first" in said.errors
    assert lvs.agents["director"].running()
    assert "NODE" in lvs.agent("director", "status"), "its socket is still its own"


def test_help_names_every_command_and_option_in_words(site: MakeSite) -> None:
    host = site(one())["director"]

    def help_of(*words: str) -> str:
        done = host.run(sys.executable, "-m", "ipvs_agent.main", *words, "--help")
        return " ".join(done.stdout.split())

    top = help_of()
    for verb in VERBS:
        assert verb in top
    assert "Stopping the agent leaves traffic alone; `ipvs-agent release` ends it." in help_of("run")
    assert "Nothing is written, to the kernel or to the state database." in help_of("plan")
    assert "default: /var/lib/ipvs-operator" in help_of("status")
    assert "Stop the agent first." in help_of("release")
    assert host.run(sys.executable, "-m", "ipvs_agent.main", "plan", check=False).returncode == 2
