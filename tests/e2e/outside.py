"""A machine outside the cluster, for tests: answers HTTP on port 8080 of every address as the lab's pods do, with
`outside` for a name. Runs as a plain file, and ends with its input."""

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    address_family = socket.AF_INET6  # and IPv4, as Linux has it

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = f"outside {self.client_address[0].removeprefix('::ffff:')}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *told: object) -> None:
        """Nothing: whoever asks knows what it got."""


if __name__ == "__main__":
    with Server(("::", 8080), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("ready", flush=True)
        sys.stdin.read()
