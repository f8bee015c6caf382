"""The loop: regions that fail, hang and come back; what it says of itself; who takes over."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fleet import Fleet
from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.config import ORCHESTRATOR, ORCHESTRATOR_OPTS, ConfigError, load
from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.protocol import PORT_STATUS, Message
from dragonflow.regions import worker
from dragonflow.regions.cloud import CloudError, Conflict, Unauthorized
from dragonflow.regions.consent import Place
from dragonflow.regions.hints import follow
from dragonflow.regions.main import Process
from dragonflow.regions.orchestrator import Orchestrator
from dragonflow.regions.settings import Bus, Settings
from dragonflow.regions.view import Underlay
from dragonflow.store import open_store
from dragonflow.store.blocking import Portal

MAIN = """
import sys
from dragonflow.regions.hints import follow
from dragonflow.regions.main import Process
from dragonflow.regions.settings import Settings
from dragonflow.regions.view import Underlay
from dragonflow.testing.clouds import FakeCloud
address = ("127.0.0.1", int(sys.argv[2]))
Process(Settings(regions={"a": Underlay()}, election=sys.argv[1], status_address=address), FakeCloud).run()
"""


def until(condition: Callable[[], object], seconds: float = 30.0) -> float:
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it did not come true in time"
        time.sleep(0.01)
    return time.monotonic() - began


@pytest.fixture
def fleet(monkeypatch) -> Fleet:
    for name in ("AGAIN", "GATHER"):
        monkeypatch.setattr(worker, name, 0.01)
    return Fleet("a", "b", "c")


@pytest.fixture
def places(fleet: Fleet) -> list[Place]:
    made = [fleet.network(name) for name in "abc"]
    fleet.name_each_other(*made)
    for number, place in enumerate(made):
        fleet.port(place, 10 + number)
    return made


def settings(fleet: Fleet, **options: object) -> Settings:
    values = {"period": 0.05, "concurrency": 2, "status_address": ("127.0.0.1", 0)}
    return Settings(regions=fleet.underlays, **(values | options))  # type: ignore[arg-type]


@pytest.fixture
def running(fleet: Fleet, places: list[Place]) -> Iterator[Orchestrator]:
    made = Orchestrator(settings(fleet), fleet.clouds.__getitem__)
    made.start()
    yield made
    made.stop()


def right(running: Orchestrator) -> bool:
    """Each region was seen, and there was nothing to do."""
    return all(it["up"] and not it["pending"] for it in running.status()["regions"].values())


def test_regions_come_to_agree_and_say_so(fleet, places, running):
    until(lambda: right(running) and all(len(fleet.announced(place)) == 2 for place in places))
    status = running.status()
    assert {it["state"] for it in status["stretches"]} == {"stretched"}
    assert status["regions"]["a"]["lag"] == 0.0
    (stretch, *_) = status["stretches"]
    assert [side["region"] for side in stretch["sides"]] == ["a", "b"]
    until(lambda: running.status()["stretches"][0]["sides"][0]["announced"] == 1)
    assert (stretch["sides"][0]["mtu"], stretch["sides"][0]["own_mtu"]) == (1442, 1442)
    assert not status["troubles"]
    json.dumps(status)


def test_a_change_is_followed_everywhere(fleet, places, running):
    until(lambda: right(running))
    port = fleet.port(places[0], 15)
    until(lambda: all(any(home.port == port.id for home in fleet.announced(place)) for place in places[1:]))
    fleet.change("a", port, host="h2")
    moved = "198.51.1.2"
    until(
        lambda: all(
            any(it.profile["host_ip"] == moved for it in fleet.announced(place).values()) for place in places[1:]
        )
    )


def test_a_region_that_hangs_or_is_away_hinders_no_other(fleet, places, running):
    until(lambda: right(running))
    cloud, hang = fleet.clouds["b"], threading.Event()
    networks = cloud.networks
    cloud.networks = lambda **filters: (hang.wait(20), networks(**filters))[1]  # type: ignore[method-assign]
    port = fleet.port(places[0], 16)
    until(lambda: any(home.port == port.id for home in fleet.announced(places[2])))
    assert not any(home.port == port.id for home in fleet.announced(places[1]))
    cloud.away = True
    hang.set()
    until(lambda: not running.status()["regions"]["b"]["up"])
    status = running.status()
    assert "away" in status["regions"]["b"]["error"]["error"]
    assert status["regions"]["b"]["lag"] > 0
    assert {it["state"] for it in status["stretches"]} == {"stretched", "unknown"}
    before = fleet.announced(places[0])
    second = fleet.port(places[2], 17)
    until(lambda: any(home.port == second.id for home in fleet.announced(places[0])))
    assert before.items() <= fleet.announced(places[0]).items()
    cloud.away = False
    until(lambda: {port.id, second.id} <= {home.port for home in fleet.announced(places[1])})


def test_what_fails_is_told_and_tried_again_less_and_less_often(fleet, places, running, caplog):
    until(lambda: right(running))
    cloud = fleet.clouds["b"]
    create = cloud.create_port
    tries = []

    def refuse(port):
        tries.append(time.monotonic())
        raise Conflict("b", "no room", "OverQuota")

    cloud.create_port = refuse
    port = fleet.port(places[0], 18)
    until(lambda: len(tries) == 4)
    assert tries[3] - tries[2] > tries[1] - tries[0]
    (failure,) = running.status()["failures"]
    assert (failure["region"], failure["times"]) in {("b", 3), ("b", 4)}
    assert "no room" in failure["error"]
    assert sum("no room" in record.message for record in caplog.records) == 1
    assert running.status()["regions"]["b"]["lag"] > 0
    cloud.create_port = create
    until(lambda: any(home.port == port.id for home in fleet.announced(places[1])))
    until(lambda: not running.status()["failures"])


def test_credentials_that_may_not_write_are_tried_once_a_turn(fleet, places, running):
    until(lambda: right(running))
    cloud = fleet.clouds["b"]
    tries = []

    def refuse(port):
        tries.append(port)
        raise Unauthorized("b", "403")

    cloud.create_port = refuse
    for last in range(40, 48):
        fleet.port(places[0], last)
    until(lambda: running.status()["regions"]["b"]["error"])
    tried = len(tries)  # by no more than two at a time, once a turn
    assert tried <= 2 * (running.status()["regions"]["b"]["error"]["times"] + 1)
    assert len(fleet.announced(places[2])) >= 2


def test_a_hint_is_reason_to_look(fleet, places):
    slow = Orchestrator(settings(fleet, period=60.0), fleet.clouds.__getitem__)
    slow.start()
    try:
        until(lambda: right(slow) or all(len(fleet.announced(place)) == 2 for place in places))
        port = fleet.port(places[0], 19)
        until(lambda: slow.hint("a") or any(home.port == port.id for home in fleet.announced(places[1])))
    finally:
        slow.stop()


def test_what_a_bus_tells_is_a_hint():
    portal, heard = Portal("test"), []
    follow(portal, {"a": Bus("memory://hints", "memory://hints")}, heard.append)
    bus = open_pubsub("memory://hints", open_store("memory://hints"))
    try:
        until(lambda: portal.run(lambda: bus.publish(Message(PORT_STATUS, ()))) or heard)
        assert set(heard) == {"a"}
    finally:
        portal.close()


def test_two_that_lead_at_once_do_no_harm(fleet, places):
    both = [Orchestrator(settings(fleet), fleet.clouds.__getitem__) for _ in range(2)]
    for each in both:
        each.start()
    try:
        for last in range(50, 60):
            fleet.port(places[last % 3], last)
        until(lambda: all(right(each) for each in both) and sum(len(fleet.announced(place)) for place in places) == 26)
        for place in places:
            fleet.announced(place)  # none is doubled
    finally:
        for each in both:
            each.stop()


def test_it_answers_status_and_metrics(fleet, places, monkeypatch):
    process = Process(settings(fleet), fleet.clouds.__getitem__)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    thread = threading.Thread(target=process.run)
    thread.start()
    try:
        url = "http://{}:{}".format(*process.address)
        get = lambda path: urllib.request.urlopen(url + path, timeout=10).read()  # noqa: E731
        until(lambda: len(json.loads(get("/status")).get("stretches", [])) == 3)
        status = json.loads(get("/status"))
        assert status["leads"]
        assert status["leader"] == status["name"]
        assert b'dragonflow_region_up{region="a"} 1.0' in get("/metrics")
        assert b"dragonflow_orchestrator_leads 1.0" in get("/metrics")
        with pytest.raises(urllib.error.HTTPError, match="404"):
            get("/")
    finally:
        process.stop()
        thread.join()


def test_another_takes_over_when_the_leader_is_killed(tmp_path: Path):
    processes, urls = [], []
    try:
        for number in range(2):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            with (tmp_path / f"{number}.log").open("wb") as log:
                command = [sys.executable, "-c", MAIN, f"sqlite://{tmp_path}/election.sqlite", str(port)]
                processes.append(subprocess.Popen(command, stderr=log))
            urls.append(f"http://127.0.0.1:{port}/status")

        def status(number: int) -> dict[str, Any]:
            try:
                with urllib.request.urlopen(urls[number], timeout=10) as answer:
                    return json.load(answer)
            except OSError:
                return {}

        until(lambda: any(status(number).get("leads") for number in range(2)), 60)
        leader = 0 if status(0).get("leads") else 1
        until(lambda: (status(1 - leader).get("leader") or "").endswith(f":{processes[leader].pid}"), 60)
        assert not status(1 - leader)["leads"]
        processes[leader].kill()
        took = until(lambda: status(1 - leader).get("leads"))
        assert took < 5.0 + 3.0, "5 s, and something for a busy machine"
        until(lambda: status(1 - leader)["regions"]["a"]["up"])
        processes[1 - leader].terminate()
        assert processes[1 - leader].wait(20) == 0
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_the_command_says_what_is_missing(tmp_path: Path):
    (tmp_path / "df.conf").write_text("[orchestrator]\n")
    done = CliRunner().invoke(app, ["orchestrator", "--config-file", str(tmp_path / "df.conf")])
    assert done.exit_code == 1
    assert "[orchestrator] regions: name the clouds" in done.output


# -- settings ------------------------------------------------------------------------------------------------------------


def of(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "df.conf").write_text(f"[orchestrator]\n{text}\n")
    return Settings.of(load([str(tmp_path / "df.conf")], ORCHESTRATOR_OPTS, section=ORCHESTRATOR)[ORCHESTRATOR])


def test_settings_are_read(tmp_path):
    found = of(
        tmp_path,
        "regions = a, b\npath_mtu = b:1400\nipsec = a\nelection = memory://x\nstatus_address = [::1]:9\n"
        "hints = a store sqlite:///x\nhints = b zmq+ipc:///y sqlite:///y",
    )
    assert found.regions == {"a": Underlay(None, True), "b": Underlay(1400, False)}
    assert found.hints == {"a": Bus("store", "sqlite:///x"), "b": Bus("zmq+ipc:///y", "sqlite:///y")}
    assert found.status_address == ("::1", 9)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "regions: name the clouds"),
        ("regions = a:b", "can't name a region"),
        ("regions = a\npath_mtu = b:1400", "path_mtu: 'b' is none"),
        ("regions = a\npath_mtu = a:big", "path_mtu: 'big' is no number"),
        ("regions = a\nipsec = b", "ipsec: 'b' is none"),
        ("regions = a\nelection = nonsense://", "election: "),
        ("regions = a\nstatus_address = 9599", "status_address: "),
        ("regions = a\nclouds_file = /nowhere/clouds.yaml", "clouds_file: there is no file"),
        ("regions = a\nhints = a zmq+ipc:///y", "hints: 'a': write REGION"),
        ("regions = a\nhints = a nonsense:// sqlite:///y", "hints: "),
    ],
)
def test_settings_that_are_wrong_are_refused_by_name(tmp_path, text, reason):
    with pytest.raises(ConfigError, match=reason):
        of(tmp_path, text)


def test_errors_name_their_region():
    assert str(CloudError("a", "x")) == "region a: x"
