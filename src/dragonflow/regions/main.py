"""The orchestrator's process: it stands for election, leads or stands by, and answers how things are."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from dragonflow import secrecy
from dragonflow.config import ORCHESTRATOR
from dragonflow.observe.metrics import LEADS
from dragonflow.regions.cloud import Cloud, RegionApi
from dragonflow.regions.hints import follow
from dragonflow.regions.orchestrator import Orchestrator
from dragonflow.regions.settings import Settings
from dragonflow.store.blocking import BlockingStore, Portal
from dragonflow.store.election import Election, office

KEY = office("orchestrator")


class Process:
    """One instance; ``api`` gives a region's API by its name. :raises OSError: the status address can't be bound."""

    def __init__(self, settings: Settings, api: Callable[[str], RegionApi] | None = None) -> None:
        self._settings = settings
        self._api = api or (lambda name: Cloud(name, files=settings.clouds_files, timeout=settings.timeout))
        self._portal = Portal("orchestrator")
        self._duty: Orchestrator | None = None
        self._stop = threading.Event()
        self.name = f"{socket.gethostname()}:{os.getpid()}"
        self._election: Election | None = None
        if settings.election is not None:
            store = BlockingStore(self._portal, settings.election)
            self._election = Election(
                store, self._take_office, settings.lease_ttl, key=KEY, name=self.name, does="orchestrates"
            )
        self._server = _Server(settings.status_address, self.status)

    @property
    def address(self) -> tuple[str, int]:
        """Where it answers."""
        host, port = self._server.server_address[:2]
        return str(host), int(port)

    def run(self) -> None:
        """Until SIGTERM or SIGINT. What is announced stays: another instance, or this one later, goes on with it."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        threading.Thread(target=self._server.serve_forever, name="status", daemon=True).start()
        for option, url in self._settings.urls:
            secrecy.warn_if_in_clear(f"[{ORCHESTRATOR}] {option}", url)
        follow(self._portal, self._settings.hints, self._hint)
        if self._election is None:
            duty = self._take_office()
            duty.start()
            self._stop.wait()
            duty.stop()
        else:
            self._election.run()
        self._server.shutdown()
        self._portal.close()

    def stop(self) -> None:
        """Have ``run`` return."""
        self._stop.set()
        if self._election is not None:
            self._election.stop()

    def status(self) -> dict[str, Any]:
        """Of the leader: all there is to say; of others: who leads."""
        duty, leads = self._duty, self._leads()
        status = {"name": self.name, "leads": leads, "leader": self._election.leader if self._election else self.name}
        return status | duty.status() if duty is not None and leads else status

    def _leads(self) -> bool:
        leads = self._election is None or self._election.leads.is_set()
        LEADS.set(leads)
        return leads

    def _take_office(self) -> Orchestrator:
        """Each time in office begins with nothing but what the regions say."""
        self._duty = Orchestrator(self._settings, self._api)
        return self._duty

    def _hint(self, region: str) -> None:
        if self._duty is not None and self._leads():
            self._duty.hint(region)


class _Server(ThreadingHTTPServer):
    """Answers ``/status`` and ``/metrics``."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], status: Callable[[], dict[str, Any]]) -> None:
        self.status = status
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Answer)


class _Answer(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Whatever was asked."""
        match self.path:
            case "/status":
                self._say(200, "application/json", json.dumps(self.server.status()).encode())
            case "/metrics":
                self.server.status()  # says whether it leads
                self._say(200, CONTENT_TYPE_LATEST, generate_latest())
            case _:
                self._say(404, "text/plain", b"there are /status and /metrics\n")

    def log_message(self, format: str, *args: Any) -> None:
        """Who looks is nothing to tell of."""

    def _say(self, code: int, kind: str, content: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
