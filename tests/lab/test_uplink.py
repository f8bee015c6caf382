"""The way of a host to the store, open and cut; against a server of our own, in a namespace of our own."""

from __future__ import annotations

import os
import shutil
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dragonflow.lab import system
from dragonflow.lab.host import Uplink
from dragonflow.lab.system import LabError, wait_until
from dragonflow.lab.uplink import BLACKHOLE, OPEN, REFUSED, entered

NETNS = f"u{os.getpid()}-host1"


class Echo(socketserver.StreamRequestHandler):
    """Sends back what it gets, and ends where the other ends."""

    def handle(self) -> None:
        for line in self.rfile:
            self.wfile.write(line)


@pytest.fixture
def server() -> Iterator[int]:
    """The port of a server on the machine's loopback."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2: make setup")
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as made:
        made.daemon_threads = True
        threading.Thread(target=made.serve_forever, daemon=True).start()
        yield made.server_address[1]
        made.shutdown()


@pytest.fixture
def uplink(server: int, tmp_path: Path) -> Iterator[Uplink]:
    system.netns_add(NETNS)
    made = Uplink("uplink", tmp_path, tmp_path, NETNS, [server])
    try:
        made.start()
        yield made
    finally:
        made.daemon.kill()
        system.netns_delete(NETNS)


def connect(port: int, timeout: float = 5.0) -> socket.socket:
    """A connection from inside the namespace."""
    with entered(str(system.NETNS_DIR / NETNS)):
        made = socket.socket()
    made.settimeout(timeout)
    made.connect(("127.0.0.1", port))
    return made


def echoed(connection: socket.socket, text: bytes) -> bytes:
    connection.sendall(text)
    found = b""
    while len(found) < len(text) and (part := connection.recv(1 << 16)):
        found += part
    return found


def test_bytes_pass_in_full_and_the_end_too(uplink: Uplink, server: int) -> None:
    text = b"x" * 1_000_000 + b"\n"
    with connect(server) as connection:
        sending = threading.Thread(target=connection.sendall, args=(text,))
        sending.start()
        found = b""
        while len(found) < len(text):
            found += connection.recv(1 << 16)
        sending.join()
        assert found == text
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(1) == b""


def test_behind_a_black_hole_nothing_answers_and_nothing_is_lost(uplink: Uplink, server: int) -> None:
    with connect(server, 0.5) as old:
        assert echoed(old, b"before\n") == b"before\n"
        uplink.turn(BLACKHOLE)
        assert uplink.mode == BLACKHOLE
        old.sendall(b"within\n")
        with pytest.raises(TimeoutError):
            old.recv(1)
        with connect(server, 0.5) as new:
            new.sendall(b"new\n")
            with pytest.raises(TimeoutError):
                new.recv(1)
            uplink.turn(OPEN)
            for each in (old, new):
                each.settimeout(5)
            assert old.recv(100) == b"within\n"
            assert new.recv(100) == b"new\n"


def test_refused_resets_what_is_there_and_refuses_what_comes(uplink: Uplink, server: int) -> None:
    with connect(server) as old:
        assert echoed(old, b"before\n") == b"before\n"
        uplink.turn(REFUSED)
        with pytest.raises(ConnectionResetError):
            old.recv(1)
    with pytest.raises(ConnectionRefusedError):
        connect(server)
    uplink.turn(OPEN)
    with connect(server) as again:
        assert echoed(again, b"after\n") == b"after\n"


def test_a_server_that_is_away_ends_the_connection(uplink: Uplink, server: int, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        nobody = probe.getsockname()[1]
    uplink.daemon.kill()
    other = Uplink("other", tmp_path, tmp_path, NETNS, [nobody])
    other.start()
    try:
        with pytest.raises(ConnectionResetError), connect(nobody) as connection:
            connection.recv(1)
    finally:
        other.daemon.kill()


def test_without_an_uplink_it_says_how_to_get_one(uplink: Uplink) -> None:
    uplink.daemon.kill()
    wait_until(lambda: uplink.mode is None, "its end", 5)
    with pytest.raises(LabError, match="dragonflow lab start uplink"):
        uplink.turn(BLACKHOLE)


def test_an_idle_uplink_costs_nothing(uplink: Uplink, server: int) -> None:
    def ticks() -> int:
        fields = Path(f"/proc/{uplink.daemon.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    with connect(server) as connection:
        assert echoed(connection, b"x\n") == b"x\n"
        before = ticks()
        connection.settimeout(2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        assert ticks() - before <= 1
