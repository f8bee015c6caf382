"""A stand-in for Nova's metadata API: ``nova_metadata.py ADDRESS PORT SECRET``. Run as a file: so it starts in a moment.

A request is checked as ``nova.api.metadata.handler`` does it behind Neutron's proxies: 400 where a header is missing, 403 for a
wrong signature. The answer to any path is JSON: what the headers say of the instance, and what the request was.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

PORT = 8775


class NovaMetadata(ThreadingHTTPServer):
    """The server, and the secret that it shares with the proxies."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, port: int, secret: str) -> None:
        self.secret = secret.encode()
        super().__init__((address, port), Handler)


class Handler(BaseHTTPRequestHandler):
    """Answers as Nova does, as far as proxies can tell."""

    protocol_version = "HTTP/1.1"
    server: NovaMetadata

    def do_GET(self) -> None:
        """Say whose request it is."""
        asked = {name: self.headers.get_all(name, []) for name in ("X-Instance-ID", "X-Tenant-ID", "X-Forwarded-For")}
        signatures = self.headers.get_all("X-Instance-ID-Signature", [])
        if any(len(values) != 1 for values in (*asked.values(), signatures)):
            self._answer(400, {"error": f"each once, please: {asked}"})
            return
        instance, project, address = (values[0] for values in asked.values())
        expected = hmac.new(self.server.secret, instance.encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, signatures[0]):
            self._answer(403, {"error": "Invalid proxy request signature."})
            return
        length = int(self.headers.get("Content-Length", 0))
        said = {"instance": instance, "project": project, "address": address}
        body = self.rfile.read(length).decode(errors="replace")
        self._answer(200, {**said, "method": self.command, "path": self.path, "body": body})

    do_POST = do_PUT = do_GET  # noqa: N815 - these names are http.server's

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    NovaMetadata(sys.argv[1], int(sys.argv[2]), sys.argv[3]).serve_forever()
