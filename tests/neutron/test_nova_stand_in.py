"""Nova's stand-in itself: whether it says what Nova would say."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dragonflow.lab.nova import EVENTS_PATH, Nova, nova_schemas

SERVER, PORT = "6ec1b1c3-4d6b-4a3b-9f06-3e2d4f3a8f11", "0f2c8f2e-8f3b-4d7b-9d44-58b8a3d1e2aa"
PLUGGED = {"name": "network-vif-plugged", "server_uuid": SERVER, "status": "completed", "tag": PORT}


@pytest.fixture
def nova(tmp_path: Path) -> Iterator[Nova]:
    server = Nova(0, tmp_path / "events")
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def post(nova: Nova, body: Any, version: str = "compute 2.1") -> tuple[int, Any]:
    url = f"http://127.0.0.1:{nova.server_address[1]}/v2.1{EVENTS_PATH}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"OpenStack-API-Version": version})
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_an_event_as_neutron_sends_it_is_taken(nova: Nova, tmp_path: Path):
    assert post(nova, {"events": [PLUGGED]}) == (200, {"events": [PLUGGED | {"code": 200}]})
    (line,) = map(json.loads, (tmp_path / "events").read_text().splitlines())
    assert line["checked"]
    assert line.items() >= PLUGGED.items()


@pytest.mark.parametrize(
    "events",
    [
        [],
        [PLUGGED | {"name": "network-vif-lost"}],
        [PLUGGED | {"server_uuid": "no-uuid"}],
        [PLUGGED | {"status": "perhaps"}],
        [PLUGGED | {"port": PORT}],
        [{"name": "network-vif-plugged"}],
        [PLUGGED | {"name": "volume-reimaged"}],
    ],
)
def test_what_novas_schema_refuses_is_refused(nova: Nova, tmp_path: Path, events: list[Any]):
    code, answer = post(nova, {"events": events})
    assert (code, answer["badRequest"]["code"]) == (400, 400)
    assert "error" in json.loads((tmp_path / "events.refused").read_text())
    assert (tmp_path / "events").read_text() == ""


def test_an_event_for_a_server_that_is_not_there_fails_alone(nova: Nova, tmp_path: Path):
    other = PLUGGED | {"server_uuid": "ffffffff-4d6b-4a3b-9f06-3e2d4f3a8f11"}
    (tmp_path / "events.servers").write_text(json.dumps({other["server_uuid"]: 404}))
    code, answer = post(nova, {"events": [PLUGGED, other]})
    assert code == 207
    assert [(event["code"], event["status"]) for event in answer["events"]] == [(200, "completed"), (404, "failed")]
    assert len((tmp_path / "events").read_text().splitlines()) == 1


def test_the_microversion_decides_which_schema_counts(nova: Nova):
    extended = {"name": "volume-extended", "server_uuid": SERVER, "tag": PORT, "status": "completed"}
    assert post(nova, {"events": [extended]})[0] == 400
    assert post(nova, {"events": [extended]}, "compute 2.51")[0] == 200
    assert post(nova, {"events": [PLUGGED]}, "compute 2.999")[0] == 406
    assert [schema.since for schema in nova_schemas()] == [0, 51, 76, 82, 93]
