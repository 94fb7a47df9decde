"""Runs in a lab kernel: a director with an agent, a client, two real servers; does what it is told over HTTP.

``agent_host.py KUBECONFIG``
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from ipvs_lab.net import Child, Network, Topology, clients, serve

CONTROL, PORT = "10.200.0.9", 8080
HEALTH_PORT = 9099
AGENT = (sys.executable, "-m", "ipvs_agent.main")


def topology() -> Topology:
    made = Topology()
    for lan in ("outside", "inside", "management"):
        made.lan(lan)
    made.host("client", outside="192.0.2.1/24")
    made.host("director", outside="192.0.2.2/24", inside="10.0.0.1/24", management="10.200.0.10/24")
    made.host("rs1", inside="10.0.0.11/24")
    made.host("rs2", inside="10.0.0.12/24")
    made.host("control", management=f"{CONTROL}/24")
    return made


class Orders:
    """Every method is an order; what it returns is the answer."""

    def __init__(self, net: Network, kubeconfig: str) -> None:
        self._net, self._director = net, net["director"]
        self._source = ("--kubernetes", "--kubeconfig", kubeconfig, "--node", "director")
        self._agent: Child | None = None

    def start(self, namespace: str) -> None:
        words = ("run", *self._source, "--namespace", namespace, "--health-port", str(HEALTH_PORT))
        self._agent = self._director.popen(*AGENT, *words, name="agent")

    def stop(self) -> int:
        assert self._agent is not None
        return self._agent.stop()

    def kill(self) -> int:
        assert self._agent is not None
        self._agent.kill()
        return self._agent.wait()

    def log(self) -> str:
        return self._agent.output() if self._agent is not None else ""

    def plan(self, namespace: str) -> tuple[int, str]:
        done = self._director.run(*AGENT, "plan", *self._source, "--namespace", namespace, check=False)
        return done.returncode, done.stdout + done.stderr

    def status(self) -> str:
        return self._director.run(*AGENT, "status", check=False).stdout

    def health(self, path: str) -> str:
        url = f"http://127.0.0.1:{HEALTH_PORT}{path}"
        return self._director.run("curl", "--silent", "--write-out", "%{http_code}", url, check=False).stdout

    def ipvs(self) -> list[str]:
        return self._director.ipvs()

    def run(self, *command: str) -> str:
        return self._director.run(*command).stdout

    def ask(self, count: int) -> dict[str, int]:
        found = clients(self._net["client"], count, "192.0.2.10", 80)
        return {**found.answers, **found.errors}


def main(kubeconfig: str) -> None:
    with Network(topology()) as net:
        net.uplink("management")
        for name in ("rs1", "rs2"):
            serve(net[name], 80)
        orders = Orders(net, kubeconfig)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                verb, *words = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                try:
                    status, answer = 200, getattr(orders, verb)(*words)
                except Exception as error:  # noqa: BLE001  # told to whoever gave the order
                    status, answer = 500, repr(error)
                body = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        server = net["control"].call(HTTPServer, (CONTROL, PORT), Handler)
        with server:
            server.serve_forever()


if __name__ == "__main__":
    main(sys.argv[1])
