"""A stand-in for Nova's API that takes the events Neutron sends: ``python -m dragonflow.lab.nova PORT FILE [KEYSTONE_URL]``.

Each event that it accepts becomes a line of JSON in FILE: what Neutron sent, and ``time``, seconds since the epoch at arrival.
A request is checked against the schema of Nova's own API, taken from the package ``nova``, in the microversion that the request
asks for, and answered as ``nova.api.openstack.compute.server_external_events`` does: 400 for the whole request, or a code for
each event and 207 if one failed. What is refused becomes a line in FILE.refused. Without the package nothing is checked; the log
and the field ``checked`` of each line say so.

FILE.servers may hold a JSON object that says which code (404: no such server; 422: it has no host) the events of which server
get; all other servers are there. With KEYSTONE_URL a request must carry a token that Keystone vouches for.
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, NamedTuple

EVENTS_PATH = "/os-server-external-events"
API_VERSION = (2, 90)
"""The newest microversion on offer."""

CACHE = Path("/var/cache/dragonflow-lab")
"""Where the schemas are kept between starts: to import them takes Nova five seconds."""

_MODULE = "nova.api.openstack.compute.schemas.server_external_events"


class Schema(NamedTuple):
    """What a request and its answer look like from the minor version ``since`` of API 2 on."""

    since: int
    request: dict[str, Any]
    response: dict[str, Any]


def nova_schemas() -> list[Schema]:
    """The schemas of Nova's API, oldest first; empty if Nova isn't installed."""
    try:
        cached = CACHE / f"nova-schemas-{metadata.version('nova')}.json"
    except metadata.PackageNotFoundError:
        return []
    try:
        return [Schema(*each) for each in json.loads(cached.read_text())]
    except (OSError, ValueError):
        module = import_module(_MODULE)
    names = {name: re.fullmatch(r"create(?:_v2(\d+))?", name) for name in dir(module)}
    found = sorted(
        Schema(int(match[1] or 0), getattr(module, name), getattr(module, name.replace("create", "create_response")))
        for name, match in names.items()
        if match
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    part = cached.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found))
    part.replace(cached)
    return found


class Check:
    """Checks requests, if it can; it begins to find out whether it can when it is made, and a first request may wait."""

    def __init__(self) -> None:
        pool = ThreadPoolExecutor(1)
        self._schemas: Future[list[Schema]] = pool.submit(nova_schemas)
        self._schemas.add_done_callback(_say)
        pool.shutdown(wait=False)

    @property
    def able(self) -> bool:
        """Whether anything is checked at all."""
        return bool(self._schemas.result())

    @cached_property
    def _jsonschema(self) -> Any:
        return import_module("jsonschema")  # Nova needs it, so it is there where Nova is

    def request(self, body: Any, minor: int) -> str | None:
        """What is wrong with a request, in Nova's words."""
        return self._look(body, minor, "request")

    def response(self, body: Any, minor: int) -> str | None:
        """What is wrong with an answer: then this stand-in isn't like Nova."""
        return self._look(body, minor, "response")

    def _look(self, body: Any, minor: int, which: str) -> str | None:
        valid = [schema for schema in self._schemas.result() if schema.since <= minor]
        if not valid:
            return None
        draft = self._jsonschema.Draft202012Validator
        error = next(draft(getattr(valid[-1], which), format_checker=draft.FORMAT_CHECKER).iter_errors(body), None)
        if error is None:
            return None
        if not error.path:
            return str(error.message)
        return f"Invalid input for field/attribute {error.path.pop()}. Value: {error.instance}. {error.message}"


def _say(schemas: Future[list[Schema]]) -> None:
    error = schemas.exception()
    if error is not None:
        print(f"requests can't be checked against Nova's schema: {error!r}", file=sys.stderr, flush=True)
    elif schemas.result():
        print(
            f"requests are checked against the schema of nova {metadata.version('nova')}", file=sys.stderr, flush=True
        )
    else:
        print("requests are NOT checked: the package nova is not installed", file=sys.stderr, flush=True)


class Nova(ThreadingHTTPServer):
    """The server: where it writes, whom it knows, and who vouches for callers."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int, file: Path, keystone: str | None = None) -> None:
        self.check = Check()
        self._file = file
        self._refused = file.with_name(file.name + ".refused")
        self._servers = file.with_name(file.name + ".servers")
        self._keystone = keystone
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), Handler)
        file.touch()

    def code(self, server: str) -> int:
        """What an event of this server is answered with."""
        try:
            return int(json.loads(self._servers.read_text()).get(server, 200))
        except FileNotFoundError:
            return 200

    def note(self, lines: list[dict[str, Any]], *, refused: bool = False) -> None:
        """Write down what was accepted, or refused."""
        text = "".join(json.dumps(line) + "\n" for line in lines)
        with self._lock, (self._refused if refused else self._file).open("a") as file:
            file.write(text)

    def vouched(self, token: str | None) -> bool:
        """Whether the token is one of Keystone's; without a Keystone, anybody may call."""
        if self._keystone is None:
            return True
        if not token:
            return False
        headers = {"X-Auth-Token": token, "X-Subject-Token": token}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"{self._keystone}/auth/tokens", headers=headers)
            ) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            return False


class Handler(BaseHTTPRequestHandler):
    """Answers as Nova's API does, as far as Neutron asks."""

    protocol_version = "HTTP/1.1"
    server: Nova

    def do_POST(self) -> None:
        """Take events."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        minor = self._minor()
        if not self.server.vouched(self.headers.get("X-Auth-Token")):
            self._answer(
                401, {"error": {"code": 401, "title": "Unauthorized", "message": "The request has no valid token."}}
            )
        elif not self.path.endswith(EVENTS_PATH):
            self._answer(404, {"itemNotFound": {"code": 404, "message": "The resource could not be found."}})
        elif minor is None:
            self._answer(406, {"computeFault": {"code": 406, "message": "This version is not supported by the API."}})
        else:
            self._events(body, minor)

    def _events(self, body: bytes, minor: int) -> None:
        now, check = time.time(), self.server.check
        try:
            content = json.loads(body)
            wrong = check.request(content, minor)
            events = content["events"]
        except (ValueError, KeyError, TypeError):
            content, wrong, events = None, "The request has no events.", []
        if wrong is not None:
            self.server.note([{"time": now, "error": wrong, "body": body.decode(errors="replace")}], refused=True)
            self._answer(400, {"badRequest": {"code": 400, "message": wrong}})
            return
        answers = []
        for event in events:
            code = self.server.code(event.get("server_uuid", ""))
            answers.append({**event, "status": "completed" if code == 200 else "failed", "code": code})
        taken = [event for event, answer in zip(events, answers, strict=True) if answer["code"] == 200]
        self.server.note([{"time": now, "checked": check.able, **event} for event in taken])
        self.server.note([{"time": now, **answer} for answer in answers if answer["code"] != 200], refused=True)
        answer = {"events": answers}
        if (unlike := check.response(answer, minor)) is not None:
            raise AssertionError(f"Nova would not answer so: {unlike}")
        self._answer(200 if len(taken) == len(events) else 207, answer)

    def do_GET(self) -> None:
        """Say which API this is: clients ask before their first call."""
        link = {"rel": "self", "href": f"http://{self.headers['Host']}/v2.1/"}
        newest = "{}.{}".format(*API_VERSION)
        version = {"id": "v2.1", "status": "CURRENT", "version": newest, "min_version": "2.1", "links": [link]}
        single = self.path.rstrip("/").endswith("v2.1")
        self._answer(200, {"version": version} if single else {"versions": [version]})

    def _minor(self) -> int | None:
        """The minor version that the request asks for; None if there is none such."""
        asked = self.headers.get("OpenStack-API-Version", "").removeprefix("compute ")
        asked = asked or self.headers.get("X-OpenStack-Nova-API-Version", "2.1")
        match = re.fullmatch(r"2\.(\d+)", asked)
        if asked == "latest":
            return API_VERSION[1]
        return int(match[1]) if match and 1 <= int(match[1]) <= API_VERSION[1] else None

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(port: str, file: str, keystone: str | None = None) -> None:
    """Serve on a loopback port until the process ends."""
    Nova(int(port), Path(file), keystone).serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
