"""Where chassis place a port, as `dragonflow show port` tells it, and the events by which each came to it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from dragonflow.lab import Lab
from dragonflow.lab.system import wait_until
from dragonflow.observe.control import ask

from .conftest import HOSTS, Cloud

pytestmark = pytest.mark.usefixtures("audited")

DRAGONFLOW = str(Path(sys.executable).with_name("dragonflow"))


def show(lab: Lab, port_id: str, *asked: str) -> list[dict[str, Any]]:
    """Where each chassis places the port; the controllers of the hosts named are asked."""
    nobody = ["--control-socket", "/nonexistent"]  # but for these the DF DB has to do
    sockets = [option for name in asked for option in ("--control-socket", str(lab.host(name).control_socket))]
    command = [DRAGONFLOW, "show", "port", port_id, "--json", "--store-url", lab.region().store.url]
    done = subprocess.run([*command, *(sockets or nobody)], capture_output=True, text=True, timeout=30, check=True)
    places: list[dict[str, Any]] = json.loads(done.stdout)["places"]
    return places


def by_chassis(places: list[dict[str, Any]]) -> dict[str, tuple[str, str | None]]:
    """Kind of place, and the chassis where a remote one is."""
    return {
        it["chassis"]: ("none", None) if it["place"] is None else (it["place"]["kind"], it["place"].get("chassis"))
        for it in places
    }


def test_each_controller_sees_a_port_where_the_df_db_says_it_must_be_wherever_it_moves(lab: Lab, cloud: Cloud) -> None:
    network = cloud.network("10.1.0.0/24")
    moving, *others = (cloud.port(network, host) for host in ("host1", *HOSTS))
    for port in (moving, *others):
        cloud.plug(port)
    wait_until(lambda: cloud.active(moving, *others), "ACTIVE", 30)
    for host in ("host1", "host2"):
        if host != "host1":
            lab.migrate(moving["id"], host)
            wait_until(lambda: cloud.active(moving), "ACTIVE again", 20)
        wanted = {name: ("local", None) if name == host else ("remote", host) for name in HOSTS}
        wait_until(lambda wanted=wanted: by_chassis(show(lab, moving["id"], *HOSTS)) == wanted, "every chassis", 10)
        seen, worked_out = show(lab, moving["id"], *HOSTS), show(lab, moving["id"])
        assert [it["basis"] for it in seen] == ["seen"] * len(HOSTS)
        assert [it["notes"] for it in seen] == [[]] * len(HOSTS), "a controller contradicts the DF DB"
        assert by_chassis(worked_out) == wanted
        assert {it["chassis"] for it in worked_out if it["basis"] == "reported"} == {host}
    events: dict[str, list[str]] = defaultdict(list)
    for name in HOSTS:
        for event in ask(str(lab.host(name).control_socket), "events")["events"]:
            if event["id"] == moving["id"] and event["place"] is not None:
                events[name].append(event["event"])
    assert events["host1"] == ["local_created", "local_deleted", "remote_created"]
    assert [event for event in events["host2"] if event != "remote_updated"][-2:] == ["remote_deleted", "local_created"]
    assert events["host3"][:1] == ["remote_created"]
    assert events["host3"][-1:] == ["remote_updated"]
