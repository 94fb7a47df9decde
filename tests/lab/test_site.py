"""A site: programs of this machine and hosts inside a lab kernel are neighbours."""

import subprocess
import sys
from pathlib import Path

import pytest

from ipvs_lab.machine import Job, Machine, environment, inside
from ipvs_lab.run import choose_kernel
from ipvs_lab.site import ADDRESS, Site

pytestmark = pytest.mark.skipif(bool(inside()), reason="a lab kernel does not run in a lab kernel")

SERVER = f"""
import http.server, socketserver
class Tell(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(self.client_address[0].encode())
    def log_message(self, *arguments): pass
with http.server.HTTPServer(("{ADDRESS}", 8080), Tell) as server:
    print("ready", flush=True)
    server.serve_forever()
"""

INSIDE = f"""
from urllib.request import urlopen
from ipvs_lab.net import Network, Topology
topology = Topology()
topology.lan("management")
topology.host("a", management="10.200.0.11/24")
topology.host("b", management="10.200.0.12/24")
with Network(topology) as net:
    net.uplink("management")
    for name in "ab" * 3:
        print(net[name].call(lambda: urlopen("http://{ADDRESS}:8080", timeout=10).read().decode()), flush=True)
    print(net["a"].run("ping", "-c", "1", "-W", "5", "10.200.0.12").returncode, flush=True)
"""


def test_hosts_of_a_lab_kernel_reach_a_native_server_and_each_other(tmp_path: Path) -> None:
    script = tmp_path / "inside.py"
    script.write_text(INSIDE)
    with Site() as site:
        command = [*site.prefix, sys.executable, "-c", SERVER]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            job = Job([sys.executable, str(script)], str(tmp_path), environment("kernel"))
            with Machine(choose_kernel(native=False), job, nic=site.plug()) as machine:
                outcome = machine.wait(60)
                told = (machine.directory / "stdout").read_text() + (machine.directory / "stderr").read_text()
            server.kill()
    assert outcome.status == 0, told
    assert told.splitlines() == ["10.200.0.11", "10.200.0.12"] * 3 + ["0"]


def test_two_sites_know_nothing_of_each_other() -> None:
    with Site() as one, Site() as two:
        one.run("ip", "addr", "add", "10.200.0.99/24", "dev", "br0")
        assert "10.200.0.99" not in two.run("ip", "addr").stdout
