"""The parts of a cluster, without one: images from nothing, a plan of addresses, the door to a host, who holds it."""

import hashlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipvs_lab.cluster import node_init
from ipvs_lab.cluster.cluster import Cluster
from ipvs_lab.cluster.hosts import REMOTE
from ipvs_lab.cluster.images import archive
from ipvs_lab.cluster.network import ClusterSite
from ipvs_lab.cluster.plan import CLIENT, CLIENTS, MOST, ROUTER, SERVERS, Spec, hosts, interface, pod_routes
from ipvs_lab.cluster.state import State
from ipvs_lab.kubernetes import node_programs
from ipvs_lab.kubernetes.ports import free_ports
from ipvs_lab.machine import LabError, inside
from ipvs_lab.net.waiting import await_condition

# Images.


def test_an_image_is_an_oci_archive_that_names_itself_and_whose_parts_are_what_they_are_called() -> None:
    with tarfile.open(fileobj=io.BytesIO(archive("example.test/one:2", "program", b"\x7fELF"))) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/")}
    assert {name: f"blobs/sha256/{hashlib.sha256(content).hexdigest()}" for name, content in blobs.items()} == {
        name: name for name in blobs
    }
    (named,) = json.loads(files["index.json"])["manifests"]
    assert named["annotations"]["io.containerd.image.name"] == "example.test/one:2"
    manifest = json.loads(files["blobs/" + named["digest"].replace(":", "/")])
    layer = files["blobs/" + manifest["layers"][0]["digest"].replace(":", "/")]
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        assert [(member.name, member.mode) for member in tar] == [("program", 0o755)]


def test_the_same_program_makes_the_same_image() -> None:
    assert archive("example.test/one:2", "program", b"program") == archive("example.test/one:2", "program", b"program")


# Programs.


def test_each_program_of_a_node_can_be_built_from_what_its_module_pins() -> None:
    imported = (node_programs.MODULE / "tools.go").read_text()
    assert [package for package in node_programs.PACKAGES.values() if f'_ "{package}"' not in imported] == []
    go_mod = (node_programs.MODULE / "go.mod").read_text()
    assert node_programs.directory().name.startswith(f"node-{node_programs.version(go_mod)}-")


# Addresses.


@pytest.mark.parametrize("networks", [1, 2])
def test_no_two_hosts_of_the_largest_cluster_share_an_address_or_a_subnet(networks: int) -> None:
    every = hosts(Spec(nodes=MOST, networks=networks))
    feet = [at for host in every for at in host.feet]
    assert len(feet) == {1: MOST + 1, 2: MOST + 3}[networks]
    assert len({*(at.address for at in feet), *(at.address6 for at in feet)}) == 2 * len(feet)
    assert [at for at in feet if at.address not in at.lan.network or at.address6 not in at.lan.network6] == []
    subnets = [subnet for host in every for subnet in host.pods]
    assert len(subnets) == len(set(subnets)) == 2 * MOST


def test_a_node_has_a_way_to_all_pods_but_its_own() -> None:
    every = hosts(Spec(nodes=2))
    assert pod_routes(every, "node1") == [
        "route add 10.244.2.0/24 via 10.200.0.12",
        "route add fd00:10:244:2::/64 via fd00:10:200::12",
    ]
    assert len(pod_routes(every, CLIENT)) == 4


def lines_of(name: str, spec: Spec) -> list[str]:
    every = hosts(spec)
    (host,) = (one for one in every if one.name == name)
    return interface(host, every)


def test_a_client_behind_a_router_has_a_way_through_it_and_no_other() -> None:
    assert lines_of(CLIENT, Spec(nodes=2, networks=2)) == [
        "addr add 10.201.0.2/24 dev vec0",
        "addr add fd00:10:201::2/64 dev vec0 nodad",
        "link set vec0 up",
        "route add default via 10.201.0.1",
        "route add default via fd00:10:201::1",
    ]


def test_a_router_has_a_foot_in_each_network_and_knows_no_pod() -> None:
    assert lines_of(ROUTER, Spec(nodes=2, networks=2)) == [
        "addr add 10.200.0.3/24 dev vec0",
        "addr add fd00:10:200::3/64 dev vec0 nodad",
        "link set vec0 up",
        "addr add 10.201.0.1/24 dev vec1",
        "addr add fd00:10:201::1/64 dev vec1 nodad",
        "link set vec1 up",
    ]


def test_a_node_reaches_the_clients_network_through_the_router_where_there_is_one() -> None:
    one, two = (lines_of("node1", Spec(nodes=2, networks=networks)) for networks in (1, 2))
    assert [line for line in two if line not in one] == [
        "route add 10.201.0.0/24 via 10.200.0.3",
        "route add fd00:10:201::/64 via fd00:10:200::3",
    ]
    assert set(one) < set(two)


@pytest.fixture
def site() -> Iterator[ClusterSite]:
    """Of a cluster with two networks, without its kernels."""
    if inside():
        pytest.skip("a site is outside")
    with ClusterSite(hosts(Spec(nodes=1, networks=2))) as made:
        yield made


def cables(site: ClusterSite) -> dict[str, list[str]]:
    """By bridge, the states of the cables in it."""
    told = json.loads(site.run("ip", "-json", "link", "show", "type", "veth").stdout)
    found: dict[str, list[str]] = {}
    for link in told:
        if "master" in link:
            found.setdefault(link["master"], []).append("up" if "UP" in link["flags"] else "down")
    return found


def test_a_routers_cables_are_in_both_networks_and_pulled_one_by_one_or_together(site: ClusterSite) -> None:
    servers, clients = SERVERS.bridge, CLIENTS.bridge
    assert cables(site) == {servers: ["up", "up"], clients: ["up", "up"]}
    assert [device.partition(":")[0] for device in site.nic(ROUTER).devices] == ["vec0", "vec1"]
    site.link(ROUTER, "down", CLIENTS.name)
    assert sorted(cables(site)[clients]) == ["down", "up"]
    assert cables(site)[servers] == ["up", "up"]
    site.link(ROUTER, "down")
    assert sorted(cables(site)[servers]) == sorted(cables(site)[clients]) == ["down", "up"]
    site.link(ROUTER, "up")
    assert cables(site) == {servers: ["up", "up"], clients: ["up", "up"]}


def test_the_control_plane_has_no_foot_in_the_clients_network(site: ClusterSite) -> None:
    told = json.loads(site.run("ip", "-json", "address", "show", "scope", "global").stdout)
    assert {link["ifname"] for link in told if link["addr_info"]} == {SERVERS.bridge, "lo"}
    for address, gateway in (("10.201.0.2", "10.200.0.3"), ("fd00:10:201::2", "fd00:10:200::3")):
        (way,) = json.loads(site.run("ip", "-json", "route", "get", address).stdout)
        assert way["gateway"] == gateway


# The door to a host.


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A host's door, on this machine; its port."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # as on a host, also where pytest runs under nohup
    (port,) = free_ports(1)
    directory = tmp_path_factory.mktemp("door")
    programs = node_init.Programs({"sleeper": ["sleep", "1000"]}, directory)
    host = {"address": "127.0.0.1", "port": port, "secret": "right"}
    threading.Thread(target=node_init.serve, args=(host, programs), daemon=True).start()
    await_condition(lambda: ask(port, {"argv": ["true"], "environment": {}}).returncode == 0)
    yield port
    signal.signal(signal.SIGHUP, before)


def command(port: int, request: dict[str, object]) -> tuple[list[str], dict[str, str]]:
    request = {"secret": "right"} | request
    argv = [sys.executable, "-I", "-S", str(REMOTE), "127.0.0.1", str(port)]
    return argv, os.environ | {"IPVS_LAB_REQUEST": json.dumps(request)}


def ask(port: int, request: dict[str, object], stdin: str = "") -> "subprocess.CompletedProcess[str]":
    argv, env = command(port, request)
    return subprocess.run(argv, env=env, input=stdin, capture_output=True, text=True, check=False, timeout=30)


def test_input_both_outputs_and_exit_status_pass_through_the_door(door: int) -> None:
    script = "cat; echo $WORD >&2; exit 7"
    done = ask(door, {"argv": ["sh", "-c", script], "environment": {"WORD": "aside"}}, "much\n" * 100_000)
    assert (done.returncode, done.stderr) == (7, "aside\n")
    assert done.stdout == "much\n" * 100_000


def test_a_signal_and_a_missing_program_are_told_as_a_shell_tells_them(door: int) -> None:
    assert ask(door, {"argv": ["sh", "-c", "kill -9 $$"], "environment": {}}).returncode == 137
    missing = ask(door, {"argv": ["no-such-program"], "environment": {}})
    assert missing.returncode == 127
    assert "no-such-program" in missing.stderr


def test_a_command_that_leaves_a_program_behind_ends(door: int) -> None:
    assert ask(door, {"argv": ["sh", "-c", "sleep 20 & echo started"], "environment": {}}).stdout == "started\n"


def test_a_command_ends_when_who_asked_for_it_is_killed(door: int, tmp_path: Path) -> None:
    script = f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; exec sleep 1000"
    argv, env = command(door, {"argv": ["sh", "-c", script], "environment": {}})
    with subprocess.Popen(argv, env=env, stdin=subprocess.PIPE) as asking:
        await_condition((tmp_path / "pid").exists)
        asking.kill()
    await_condition(lambda: not Path("/proc", (tmp_path / "pid").read_text().strip()).exists(), 10, "the end")


def test_the_door_stays_shut_without_the_secret(door: int, tmp_path: Path) -> None:
    done = ask(door, {"secret": "wrong", "argv": ["touch", f"{tmp_path}/in"], "environment": {}})
    assert done.returncode == 125
    assert not (tmp_path / "in").exists()


def test_a_host_that_dies_resets_the_connection_and_is_said_to_have_gone() -> None:
    def die() -> None:
        connection, _ = listening.accept()
        with connection, connection.makefile("rb") as incoming:
            incoming.readline()
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by a reset

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=die, daemon=True).start()
        done = ask(listening.getsockname()[1], {"argv": ["true"], "environment": {}})
    assert (done.returncode, done.stderr) == (125, "ipvs-lab: the host has gone\n")


def test_a_hosts_program_is_stopped_and_started(door: int) -> None:
    assert ask(door, {"start": "sleeper"}).returncode == 0
    assert ask(door, {"stop": "sleeper", "signal": 15}).returncode == 0
    assert ask(door, {"stop": "unknown", "signal": 15}).returncode == 127


# Who holds a cluster.


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> State:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return State("mine")


def test_a_cluster_is_held_by_one_process_until_that_has_ended(state: State) -> None:
    assert state.holder() is None
    held = state.hold()
    assert held is not None
    assert state.holder() == os.getpid()
    assert state.hold() is None
    os.close(held)
    assert state.holder() is None


def test_what_is_asked_of_a_cluster_that_is_not_up_names_the_way_out(state: State) -> None:
    with pytest.raises(LabError, match="ipvs-lab up --name mine"):
        Cluster("mine").status()
    assert not Cluster("mine").down()


def test_another_number_of_networks_than_there_are_is_refused_with_the_way_out(state: State) -> None:
    held = state.hold()
    assert held is not None
    state.write_spec(Spec(), [])
    with pytest.raises(LabError, match=r"is up with .*, 1 network, .* not with .*, 2 networks, .*: ipvs-lab down"):
        Cluster("mine").up(Spec(networks=2))
    os.close(held)


def test_a_cluster_that_was_made_before_there_were_two_networks_has_one(state: State) -> None:
    state.directory.mkdir(parents=True)
    old = {"spec": {"nodes": 2, "memory": "3G", "kube_proxy": "none"}, "images": []}
    (state.directory / "cluster.json").write_text(json.dumps(old))
    assert state.read_spec() == (Spec(nodes=2, networks=1), [])


def test_a_cluster_that_was_killed_is_removed(state: State) -> None:
    held = state.hold()
    assert held is not None
    os.close(held)
    assert Cluster("mine").down()
    assert not state.directory.exists()


@pytest.mark.parametrize("name", ["", "../x", "Upper", "-a", "a" * 40])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="cannot be a cluster's name"):
        State(name)
