"""A stand-in for Nova that takes the events Neutron sends it: ``python -m dragonflow.lab.nova PORT FILE``.

Each event becomes a line of JSON in FILE: what Neutron sent, and ``time``, seconds since the epoch at its arrival.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

EVENTS_PATH = "/os-server-external-events"
API_VERSION = "2.90"


class Handler(BaseHTTPRequestHandler):
    """Answers as Nova's API does, as far as Neutron asks."""

    protocol_version = "HTTP/1.1"
    file: ClassVar[Path]
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_POST(self) -> None:
        """Record events."""
        now = time.time()
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            events = json.loads(body)["events"]
            lines = "".join(json.dumps({"time": now, **event}) + "\n" for event in events)
        except (ValueError, KeyError, TypeError):
            self._answer(400, {"badRequest": {"code": 400, "message": "no events"}})
            return
        if not self.path.endswith(EVENTS_PATH):
            self._answer(404, {"itemNotFound": {"code": 404, "message": self.path}})
            return
        with self.lock, self.file.open("a") as file:
            file.write(lines)
        self._answer(200, {"events": [{**event, "code": 200} for event in events]})

    def do_GET(self) -> None:
        """Say which API this is: clients ask before their first call."""
        link = {"rel": "self", "href": f"http://{self.headers['Host']}/v2.1/"}
        version = {"id": "v2.1", "status": "CURRENT", "version": API_VERSION, "min_version": "2.1", "links": [link]}
        single = self.path.rstrip("/").endswith("v2.1")
        self._answer(200, {"version": version} if single else {"versions": [version]})

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(port: str, file: str) -> None:
    """Serve on a loopback port until the process ends."""
    Handler.file = Path(file)
    Handler.file.touch()
    server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
