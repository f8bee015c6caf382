"""What operators see of BFD sessions."""

from __future__ import annotations

import logging

import pytest
from prometheus_client import REGISTRY

from dragonflow.apps.wiring import peer_name
from dragonflow.controller.replica import Replica
from dragonflow.controller.sessions import Sessions, _clock
from dragonflow.testing import worlds


def counted() -> list[float | None]:
    return [REGISTRY.get_sample_value("dragonflow_bfd_sessions", {"state": it}) for it in ("up", "down", "never up")]


def test_sessions_are_told_by_chassis_with_what_they_are_and_since_when(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    replica, clock = Replica(), [1000.0]
    worlds.load(replica, worlds.chassis("h2", "192.0.2.2"), worlds.chassis("h3", "192.0.2.3"))
    tested = Sessions(replica, lambda: clock[0])
    tested.take([worlds.peer_port("h2", None), worlds.peer_port("h3", None), worlds.tunnel_port()], [])
    assert tested.status() == dict.fromkeys(("h2", "h3"), f"never up since {_clock(1000.0)}")
    assert (counted(), caplog.messages) == ([0, 0, 2], [])

    clock[0] = 2000.0
    tested.take([worlds.peer_port("h2", bfd="up"), worlds.peer_port("h3")], [])
    assert tested.status() == {"h2": f"up since {_clock(2000.0)}", "h3": f"never up since {_clock(1000.0)}"}
    clock[0] = 3000.0
    tested.take([worlds.peer_port("h2", bfd="down"), worlds.peer_port("h9", bfd="up")], [peer_name("h3")])
    assert tested.status() == {
        "h2": f"down since {_clock(3000.0)}",
        peer_name("h9"): f"up since {_clock(3000.0)}",
    }
    assert counted() == [1, 1, 0]
    assert caplog.messages == [
        "BFD session with h2 is up",
        "BFD session with h2 is down",
        f"BFD session with {peer_name('h9')} is up",
    ]
