"""``dragonflow events`` and ``show port`` with a real controller on a real Open vSwitch."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from running import BINDING, DRAGONFLOW, NET, PORT, Host, until

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Chassis
from dragonflow.store.protocol import Delete, Key, Txn

H2, H3 = (Chassis(id=name, tunnel_ip=address) for name, address in (("h2", "192.0.2.2"), ("h3", "192.0.2.3")))
OTHER = msgspec.structs.replace(PORT, id="p2", key=3, mac="fa:16:3e:00:00:02")
OTHER_BINDING = msgspec.structs.replace(BINDING, id="p2")


@pytest.fixture
def host(vswitch: VSwitch, tmp_path: Path) -> Host:
    """Its network is followed for p2's sake, so p1 stays in sight when it moves away."""
    host = Host(vswitch, tmp_path)
    host.write(NET, H2, H3, PORT, BINDING, OTHER, OTHER_BINDING)
    return host


class Follower:
    """Reads `dragonflow events --follow --json`, and checks that places balance."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._places: dict[str, Any] = {}

    def until(self, *wanted: str) -> list[dict[str, Any]]:
        """Read on until each of these was seen, and return them in the order of their coming.

        Of models it is ``EVENT MODEL ID``, of places ``EVENT ID``; or a notice.
        """
        missing, found = list(wanted), []
        while missing:
            assert self._process.stdout is not None
            line = json.loads(self._process.stdout.readline())
            self._book(line)
            word = line.get("notice") or " ".join(_words(line))
            if word in missing:
                missing.remove(word)
                found.append(line)
        return found

    def _book(self, line: dict[str, Any]) -> None:
        if line.get("notice") == "restarted":
            self._places.clear()
        if line.get("place") is None:
            return
        change, port = line["event"].rpartition("_")[2], line["id"]
        before = self._places.pop(port, None)
        if change == "created":
            assert before is None
        else:
            assert before == line["before" if change == "updated" else "place"]
        if change != "deleted":
            self._places[port] = line["place"]


def _words(event: dict[str, Any]) -> tuple[str, ...]:
    return (event["event"], *(() if event["place"] else (event["model"],)), event["id"])


@contextlib.contextmanager
def following(host: Host) -> Iterator[Follower]:
    command = [DRAGONFLOW, "events", "--follow", "--json", "--last", "1000", "--config-file", str(host.config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield Follower(process)
    finally:
        process.kill()
        process.communicate(timeout=10)


def shown(host: Host) -> list[dict[str, Any]]:
    command = [DRAGONFLOW, "show", "port", "p1", "--json", "--config-file", str(host.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    places: list[dict[str, Any]] = json.loads(done.stdout)["places"]
    return places


def test_a_port_on_its_way_through_chassis_gives_balanced_events_when_its_flows_stand(host: Host) -> None:
    with host.controller():
        until(lambda: host.status()["in_sync"], "the controller to be in sync")
        with following(host) as it:
            it.until("created LogicalSwitch net", *("created LogicalPort " + port for port in ("p1", "p2")))
            host.plug()
            tap, local = it.until("created OvsPort vm1", "local_created p1")
            ofport = local["place"]["ofport"]
            assert f"in_port={ofport}" in host.vswitch.ofctl("dump-flows", "br-int", "table=0", "--no-names")
            assert (tap["port"], local["port"], local["chassis"]) == ("p1", "p1", "h1")
            assert 0 < local["latency"] < 5
            assert local["revision"] > 0
            until(lambda: shown(host)[0]["basis"] == "seen", "the controller to be asked")
            assert shown(host)[0]["place"] == {"kind": "local", "ofport": ofport}
            moved = msgspec.structs.replace(PORT, chassis="h2", generation=2, revision=2)
            host.write(moved)
            row, gone, remote = it.until("updated LogicalPort p1", "local_deleted p1", "remote_created p1")
            assert set(row["fields"]) == {"chassis", "generation", "revision"}
            assert gone["place"] == local["place"]
            assert row["revision"] == gone["revision"] == remote["revision"] > local["revision"]
            assert (remote["place"]["chassis"], remote["place"]["address"]) == ("h2", "192.0.2.2")
            assert "set_field:192.0.2.2->tun_dst" in host.vswitch.ofctl("dump-flows", "br-int")
            host.write(msgspec.structs.replace(moved, chassis="h3", generation=3, revision=3))
            (onward,) = it.until("remote_updated p1")
            assert (onward["before"]["chassis"], onward["place"]["chassis"]) == ("h2", "h3")
            host.in_store(lambda store: store.commit(Txn((Delete(Key("net:net", "LogicalPort", "p1")),))))
            deleted, place = it.until("deleted LogicalPort p1", "remote_deleted p1")
            assert deleted["revision"] == place["revision"] > onward["revision"]


def test_following_survives_a_restart_of_the_controller_which_sees_all_anew(host: Host) -> None:
    host.vswitch.add_bridge("br-int")
    host.plug()
    with contextlib.ExitStack() as stack:
        with host.controller():
            until(lambda: host.status()["in_sync"], "the controller to be in sync")
            it = stack.enter_context(following(host))
            it.until("local_created p1")
        with host.controller():
            away, restarted, _ = it.until("away", "restarted", "local_created p1")
            assert (away["notice"], restarted["notice"], restarted["chassis"]) == ("away", "restarted", "h1")
            until(lambda: host.status()["in_sync"], "the second controller to be in sync")
            assert host.status()["mods_since_start"] == 0
