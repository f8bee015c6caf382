"""Neutron's notifier with credentials: a real Keystone gives the token and the address, and Nova's stand-in asks it who calls."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from keystone_server import PASSWORD
from region import Region, region, until

KEYSTONE = Path(__file__).with_name("keystone_server.py")


@pytest.fixture(scope="module")
def keystone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Its URL, with /v3."""
    directory = tmp_path_factory.mktemp("keystone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = directory / "log"
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-P", str(KEYSTONE), str(directory), str(port)], stdout=file, stderr=file
        )
    url = f"http://127.0.0.1:{port}/v3"

    def answers() -> bool:
        assert process.poll() is None, log.read_text()[-2000:]
        try:
            return bool(urllib.request.urlopen(url).status == 200)
        except OSError:
            return False

    try:
        until(answers, 90, "Keystone")
        yield url
    finally:
        process.kill()
        process.wait()


def ask(url: str, body: dict[str, Any], token: str | None = None) -> Any:
    headers = {"Content-Type": "application/json"} | ({"X-Auth-Token": token} if token else {})
    return urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers))


def register_nova(keystone: str, url: str) -> None:
    """Put Nova into the catalogue, as an operator does."""
    domain = {"id": "default"}
    user = {"name": "admin", "domain": domain, "password": PASSWORD}
    scope = {"project": {"name": "admin", "domain": domain}}
    identity = {"methods": ["password"], "password": {"user": user}}
    token = ask(f"{keystone}/auth/tokens", {"auth": {"identity": identity, "scope": scope}}).headers["X-Subject-Token"]
    service = json.load(ask(f"{keystone}/services", {"service": {"type": "compute", "name": "nova"}}, token))
    endpoint = {"service_id": service["service"]["id"], "interface": "public", "region_id": "RegionOne", "url": url}
    ask(f"{keystone}/endpoints", {"endpoint": endpoint}, token)


def owed(made: Region) -> int:
    with made.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT COUNT(*) FROM df_owed_events").scalar_one()


def test_events_need_a_token_and_those_that_had_none_are_sent_by_the_next_server(keystone):
    with region() as made:
        register_nova(keystone, f"http://127.0.0.1:{made.nova_port}/v2.1")
        made.nova_arguments = [keystone]
        made.start_nova()
        made.chassis("h1")
        made.nova_auth = {
            "auth_type": "password",
            "auth_url": keystone,
            "username": "admin",
            "password": "wrong",
            "project_name": "admin",
            "user_domain_id": "default",
            "project_domain_id": "default",
            "region_name": "RegionOne",
        }
        (first,) = made.start_servers(1)
        ports = made.ports(first, made.network(first), 3)
        made.say("ACTIVE", ports)
        until(lambda: made.all_are("ACTIVE", ports), what="statuses, whatever becomes of the events")
        until(lambda: "Failed to notify nova on events" in first.log.read_text(), what="Neutron's complaint")
        assert made.plugged() == []
        assert owed(made) == len(ports)
        first.end()
        made.nova_auth["password"] = PASSWORD
        (second,) = made.start_servers(1)
        until(lambda: set(ports) <= set(made.plugged()), what="Nova to know")
        until(lambda: owed(made) == 0)
        assert made.refused() == []
        assert re.search(r"df: Nova has not accepted the plug of 3 ports", second.log.read_text())
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"http://127.0.0.1:{made.nova_port}/v2.1/os-server-external-events", {"events": []})
