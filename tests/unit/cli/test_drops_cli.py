"""``dragonflow drops`` against a control socket: what is printed, and when it ends."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from dragonflow.cli.drops import packet
from dragonflow.cli.main import app
from dragonflow.controller.drops import Chunk, Drop, Unshown
from dragonflow.observe.control import ControlServer
from dragonflow.packet.headers import Headers

MACS = {"eth_src": "02:00:00:00:00:0b", "eth_dst": "02:00:00:00:00:0c"}
UDP = Headers(
    **MACS,  # type: ignore[arg-type]
    eth_type=0x0800,
    source="10.0.0.11",
    destination="10.0.0.12",
    protocol=17,
    source_port=5000,
    destination_port=53,
)
DROP = Drop(
    at=1_600_000_000.25,
    direction="ingress",
    port="p1",
    name="evil\x1b[2J",
    addresses=("10.0.0.12",),
    why="no rule",
    packet=UDP,
    count=3,
)


async def drops(of: Any) -> AsyncGenerator[Chunk, None]:
    if of["port"] not in (None, "p1"):
        raise ValueError(f"no port of h1 begins with {of['port']!r}")
    yield Chunk("h1", False, [], [])
    yield Chunk("h1", False, [], [])
    yield Chunk("h1", True, [DROP], [Unshown("p1", "ingress", 40)])
    while of["port"] is None:
        await asyncio.sleep(0.05)
        yield Chunk("h1", True, [], [])


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "control.sock"
    loop = asyncio.new_event_loop()
    server = loop.create_task(ControlServer(str(path), {}, {"drops": drops}).run())
    thread = threading.Thread(target=loop.run_until_complete, args=(asyncio.wait([server]),))
    thread.start()
    while not path.is_socket():
        time.sleep(0.001)
    yield path
    loop.call_soon_threadsafe(server.cancel)
    thread.join(10)
    loop.close()


def run(path: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["drops", "--control-socket", str(path), *options])


LINE = (
    '2020-09-13 12:26:40.250 ingress port p1 "evil\N{REPLACEMENT CHARACTER}[2J" (10.0.0.12): no rule: '
    "02:00:00:00:00:0b > 02:00:00:00:00:0c udp 10.0.0.11:5000 > 10.0.0.12:53 (3 times)\n"
)


def test_people_get_a_line_for_packets_that_are_alike_and_sums(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    found = run(path, "--seconds", "1")
    assert found.exit_code == 0
    assert found.stdout == LINE
    assert found.stderr.splitlines() == [
        "-- the switch of h1 doesn't have the flows yet; waiting for it",
        "-- watching h1",
        "-- port p1 ingress: 40 more, not shown",
        "-- port p1 ingress: 43 packets refused",
    ]


def test_scripts_get_one_object_a_line_and_an_end_is_an_error(path: Path) -> None:
    found = run(path, "--json", "--port", "p1", "--follow")
    assert found.exit_code == 1
    assert "has ended" in found.stderr
    waiting, watching, drop, unshown = map(json.loads, found.stdout.splitlines())
    assert [(it["notice"], it["chassis"]) for it in (waiting, watching)] == [("waiting", "h1"), ("watching", "h1")]
    assert (drop["chassis"], drop["port"], drop["count"], drop["packet"]["destination_port"]) == ("h1", "p1", 3, 53)
    assert "icmp_type" not in drop["packet"]
    assert unshown == {"notice": "unshown", "chassis": "h1", "port": "p1", "direction": "ingress", "count": 40}


def test_a_port_that_is_not_there_is_an_error_that_says_so(path: Path) -> None:
    found = run(path, "--port", "nobody")
    assert found.exit_code == 1
    assert "no port of h1 begins with 'nobody'" in found.stderr


@pytest.mark.parametrize(
    ("it", "expected"),
    [
        ({"eth_type": 0x88CC}, "? > ? EtherType 0x88cc"),
        (
            {"eth_type": 0x0806, "source": "10.0.0.1", "destination": "10.0.0.2", "claimed_mac": "m"},
            "? > ? arp 10.0.0.1 (m) > 10.0.0.2",
        ),
        (
            {"source": "fd00::1", "destination": "fd00::2", "protocol": 6, "source_port": 1, "destination_port": 2},
            "? > ? tcp [fd00::1]:1 > [fd00::2]:2",
        ),
        (
            {
                "source": "::",
                "destination": "ff02::1",
                "protocol": 58,
                "icmp_type": 135,
                "icmp_code": 0,
                "target": "fd00::9",
            },
            "? > ? icmpv6 :: > ff02::1 type 135 code 0 about fd00::9",
        ),
        ({"source": "10.0.0.1", "destination": "10.0.0.2", "protocol": 99}, "? > ? protocol 99 10.0.0.1 > 10.0.0.2"),
    ],
)
def test_a_packet_in_words(it: dict[str, Any], expected: str) -> None:
    assert packet(it) == expected
