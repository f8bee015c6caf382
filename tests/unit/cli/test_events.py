"""``dragonflow events`` against a control socket: what is printed, and what happens when the controller goes and comes."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dragonflow.cli.main import app
from dragonflow.controller import events
from dragonflow.controller.events import KEPT, Confirmed, EventLog
from dragonflow.controller.locality import Moved, difference
from dragonflow.controller.replica import Change
from dragonflow.model import LogicalPort, LogicalSwitch, OvsPort
from dragonflow.observe.control import ControlServer, ask
from dragonflow.pipeline.facts import Distributed, Local, Remote

DRAGONFLOW = str(Path(sys.executable).with_name("dragonflow"))
PORT = LogicalPort(id="p1", key=1, network="n1", name="vm1", mac="fa:16:3e:00:00:01", chassis="h1", revision=1)
MOVED = LogicalPort(id="p1", key=1, network="n1", name="vm1", mac="fa:16:3e:00:00:01", chassis="h2", revision=2)
SWITCH = LogicalSwitch(id="n1", key=1, name="evil\x1b[2J\nnet", network_type="geneve", mtu=1442, revision=1)
TAP = OvsPort(id="tap1", ofport=5, iface_id="p1")
HISTORY = Confirmed(
    changes=(
        Change(LogicalSwitch, "n1", None, SWITCH, 3, 9.0),
        Change(OvsPort, "tap1", TAP, None, 0, 9.5),
        Change(LogicalPort, "p1", PORT, MOVED, 7, 9.9955),
    ),
    events=(
        *difference(Moved("p1", Local(5), Remote("h2", 100, "192.0.2.2"), 7, 9.75)),
        *difference(Moved("p1", Remote("h2", 100, "192.0.2.2"), Remote("h3", 8), 7, 9.75)),
        *difference(Moved("r1", None, Distributed(), 0, 9.75)),
    ),
    at=10.0,
    broken={"r1": "l3/LogicalRouter/r1: bad\ngroup"},
)

GOLDEN = """\
{"seq": 1, "at": 1600000000.25, "chassis": "h1", "event": "created", "model": "LogicalSwitch", "id": "n1", \
"name": "evil\\u001b[2J\\nnet", "port": null, "revision": 3, \
"latency": 1.0, "fields": [], "place": null, "before": null, "left_out": null}
{"seq": 2, "at": 1600000000.25, "chassis": "h1", "event": "deleted", "model": "OvsPort", "id": "tap1", \
"name": "", "port": "p1", "revision": 0, "latency": 0.5, "fields": [], "place": null, "before": null, "left_out": null}
{"seq": 3, "at": 1600000000.25, "chassis": "h1", "event": "updated", "model": "LogicalPort", "id": "p1", \
"name": "vm1", "port": "p1", "revision": 7, "latency": 0.0045, \
"fields": ["chassis", "revision"], "place": null, "before": null, "left_out": null}
{"seq": 4, "at": 1600000000.25, "chassis": "h1", "event": "local_deleted", "model": "LogicalPort", "id": "p1", \
"name": "vm1", "port": "p1", "revision": 7, "latency": 0.25, "fields": [], \
"place": {"kind": "local", "ofport": 5}, "before": null, "left_out": null}
{"seq": 5, "at": 1600000000.25, "chassis": "h1", "event": "remote_created", "model": "LogicalPort", "id": "p1", \
"name": "vm1", "port": "p1", "revision": 7, "latency": 0.25, "fields": [], \
"place": {"kind": "remote", "chassis": "h2", "ofport": 100, "address": "192.0.2.2"}, "before": null, "left_out": null}
{"seq": 6, "at": 1600000000.25, "chassis": "h1", "event": "remote_updated", "model": "LogicalPort", "id": "p1", \
"name": "vm1", "port": "p1", "revision": 7, "latency": 0.25, "fields": [], \
"place": {"kind": "remote", "chassis": "h3", "ofport": 8, "address": null}, \
"before": {"kind": "remote", "chassis": "h2", "ofport": 100, "address": "192.0.2.2"}, "left_out": null}
{"seq": 7, "at": 1600000000.25, "chassis": "h1", "event": "distributed_created", "model": "LogicalPort", "id": "r1", \
"name": "", "port": "r1", "revision": 0, "latency": 0.25, "fields": [], \
"place": {"kind": "distributed"}, "before": null, "left_out": "l3/LogicalRouter/r1: bad\\ngroup"}
"""

PEOPLE = """\
2020-09-13 12:26:40.250 h1 created             LogicalSwitch n1 "evil\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}net" (revision 3, 1000.0 ms)
2020-09-13 12:26:40.250 h1 deleted             OvsPort tap1 of port p1 (500.0 ms)
2020-09-13 12:26:40.250 h1 updated             LogicalPort p1 "vm1": chassis, revision (revision 7, 4.5 ms)
2020-09-13 12:26:40.250 h1 local_deleted       LogicalPort p1 "vm1" at OpenFlow port 5 (revision 7, 250.0 ms)
2020-09-13 12:26:40.250 h1 remote_created      LogicalPort p1 "vm1" on h2 by 192.0.2.2 (revision 7, 250.0 ms)
2020-09-13 12:26:40.250 h1 remote_updated      LogicalPort p1 "vm1" on h3, was on h2 by 192.0.2.2 (revision 7, 250.0 ms)
2020-09-13 12:26:40.250 h1 distributed_created LogicalPort r1 on every chassis (250.0 ms); flows left out: l3/LogicalRouter/r1: bad\N{REPLACEMENT CHARACTER}group
"""  # noqa: E501 - as people see it


class Served:
    """A control socket with an event log behind it, on a loop in a thread of its own."""

    def __init__(self, path: Path, run: str, log: EventLog | None = None) -> None:
        self.path = path
        self.log = log or EventLog("h1", run, lambda it: "vm1" if it == "p1" else "", now=lambda: 1_600_000_000.25)
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),))

    def __enter__(self) -> Served:
        self._thread.start()
        while not self.path.is_socket():
            time.sleep(0.001)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server is not None
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._server.cancel)
            self._thread.join(10)
            self._loop.close()

    async def _serve(self) -> None:
        server = ControlServer(str(self.path), {"events": self.log.kept}, {"events": self.log.follow})
        self._server = asyncio.create_task(server.run())
        await asyncio.wait([self._server])

    def until_followed(self) -> None:
        while not self.log.readers:
            time.sleep(0.001)

    def happen(self, confirmed: Confirmed = HISTORY) -> None:
        self._loop.call_soon_threadsafe(self.log.confirmed, confirmed)

    def plug(self, count: int) -> None:
        """So many events at once."""
        changes = [Change(OvsPort, f"tap{number}", None, TAP, 0, 9.0) for number in range(count)]
        self.happen(Confirmed(changes, (), 10.0, {}))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "control.sock"


def run(path: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["events", "--control-socket", str(path), *options])


def test_scripts_get_one_object_a_line(path: Path) -> None:
    with Served(path, "run1") as served:
        served.happen()
        assert run(path, "--json").stdout == GOLDEN
        assert run(path, "--json", "--last", "2").stdout == "".join(GOLDEN.splitlines(keepends=True)[-2:])
        assert run(path, "--last", "0").stdout == ""


def test_people_get_words_that_can_not_steer_their_terminal(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    with Served(path, "run1") as served:
        served.happen()
        assert run(path).stdout == PEOPLE


@pytest.mark.parametrize("options", [(), ("--follow",)])
def test_without_a_controller_there_is_a_message(path: Path, options: tuple[str, ...]) -> None:
    result = run(path, *options)
    assert result.exit_code == 1
    assert "no controller answers" in result.stderr


class Follower:
    """`dragonflow events --follow --json` as a process of its own."""

    def __init__(self, path: Path, *options: str) -> None:
        command = [DRAGONFLOW, "events", "--follow", "--json", "--control-socket", str(path), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate(timeout=10)

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def numbers(self, count: int) -> list[int]:
        """Of so many events."""
        return [self.line()["seq"] for _ in range(count)]

    def notice(self) -> str:
        return str(self.line()["notice"])


def test_following_begins_with_the_last_ones_and_goes_on_over_a_restart(path: Path) -> None:
    with Served(path, "run1") as first:
        first.plug(50)
        with Follower(path) as it:
            assert it.numbers(10) == list(range(41, 51))
            first.happen()
            assert it.numbers(7) == list(range(51, 58))
            first.__exit__()
            assert it.notice() == "away"
            with Served(path, "run2") as second:
                assert it.notice() == "restarted"
                second.plug(3)
                assert it.numbers(3) == [1, 2, 3]


def test_what_happened_before_the_connection_was_back_is_not_lost(path: Path) -> None:
    with Served(path, "run1") as served, Follower(path, "--last", "0") as it:
        served.until_followed()
        served.plug(2)
        assert it.numbers(2) == [1, 2]
        served.__exit__()
        assert it.notice() == "away"
        path.touch()  # somebody holds the name; nobody answers
        again = Served(path, "run1", served.log)
        again.log.confirmed(HISTORY)
        with again:
            assert it.notice() == "back"
            assert it.numbers(7) == list(range(3, 10))


def test_a_reader_that_sleeps_too_long_is_told_what_it_missed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backlog, count = 2_000, 20_000  # sockets hold a thousand events or so
    monkeypatch.setattr(events, "BACKLOG", backlog)
    with Served(path, "run1") as served, Follower(path, "--last", "0") as it:
        served.until_followed()
        it.process.send_signal(signal.SIGSTOP)
        for _ in range(count // backlog):
            served.plug(backlog)
        assert len(ask(str(path), "events")["events"]) == KEPT
        it.process.send_signal(signal.SIGCONT)
        expected, missed = 1, 0
        while expected <= count:
            line = it.line()
            if "notice" in line:
                assert line["notice"] == "missed"
                missed += line["count"]
                expected += line["count"]
            else:
                assert line["seq"] == expected
                expected += 1
        assert missed >= count // 2


def test_an_interrupt_ends_it_without_a_word(path: Path) -> None:
    with Served(path, "run1") as served, Follower(path) as it:
        served.until_followed()
        it.process.send_signal(signal.SIGINT)
        assert it.process.communicate(timeout=10) == ("", "")
        assert it.process.returncode == 0


def test_a_reader_of_the_output_may_go(path: Path) -> None:
    with Served(path, "run1") as served:
        served.plug(1000)
        command = f"{shlex.join([DRAGONFLOW, 'events', '--control-socket', str(path)])} | head -1"
        done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=20, check=True)
        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""
