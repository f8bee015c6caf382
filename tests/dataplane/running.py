"""A controller as a process, on a real Open vSwitch and a DF DB that the test writes in Neutron's stead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dragonflow.lab.vswitch import VSwitch, VSwitchError
from dragonflow.model import Binding, LogicalPort, LogicalSwitch, PortStatus, Row, decode, encode
from dragonflow.observe.control import ControlError, ask
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Record, Txn
from dragonflow.testing import founding
from dragonflow.testing.worlds import OPEN

DRAGONFLOW = str(Path(sys.executable).with_name("dragonflow"))
NET = LogicalSwitch(id="net", key=1, network_type="geneve", segmentation_id=7, mtu=1442, revision=1)
PORT = LogicalPort(
    id="p1",
    network="net",
    key=2,
    mac="fa:16:3e:00:00:01",
    chassis="h1",
    security_groups=("open",),
    generation=1,
    revision=1,
)
BINDING = Binding(id="p1", host="h1", network="net", generation=1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Host:
    """The host h1. Without ``store_url`` the DF DB is of SQLite."""

    def __init__(self, vswitch: VSwitch, directory: Path, store_url: str | None = None) -> None:
        self.vswitch = vswitch
        self.store_url = store_url or f"sqlite://{directory}/dfdb.sqlite"
        self.control = str(directory / "control.sock")
        self.metrics = f"127.0.0.1:{free_port()}"
        self.config = directory / "dragonflow.conf"
        self.log = directory / "controller.log"
        self.config.write_text(
            f"[df]\nhost = h1\ntunnel_ip = 192.0.2.1\nstore_url = {self.store_url}\npubsub_url = store\nlease_ttl = 2\n"
            f"ovsdb_connection = unix:{vswitch.db_sock}\nopenflow_connection = unix:{vswitch.openflow('br-int')}\n"
            f"datapath_type = netdev\ncontrol_socket = {self.control}\nmetrics_address = {self.metrics}\n"
        )

    @contextlib.contextmanager
    def controller(self) -> Iterator[subprocess.Popen[bytes]]:
        with self.log.open("ab") as log:
            running = subprocess.Popen([DRAGONFLOW, "controller", "--config-file", str(self.config)], stderr=log)
        try:
            yield running
        finally:
            running.terminate()
            assert running.wait(10) == 0, self.log.read_text()

    def write(self, *rows: Row, whole: bool = True) -> None:
        """Write rows, and the group that ports are in; and say then that the DF DB is ``whole``."""
        puts = tuple(Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in (*rows, OPEN))
        self.in_store(lambda store: store.commit(Txn(puts)))
        if whole:
            self.in_store(founding.found)

    def row(self, scope: str, kind: type[Row], id: str) -> Row | None:
        record: Record | None = self.in_store(lambda store: store.get(Key(scope, kind.__name__, id)))
        return None if record is None or record.data is None else decode(kind.__name__, id, record.data)

    def plug(self) -> None:
        """An interface for the port p1."""
        interface = ("--", "set", "Interface", "vm1", "type=internal", "external_ids:iface-id=p1")
        self.vswitch.vsctl("add-port", "br-int", "vm1", *interface)

    def flows(self) -> list[str]:
        """As they stand in the switch."""
        return sorted(self.vswitch.ofctl("dump-flows", "br-int", "--no-stats").splitlines()[1:])

    def status(self) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = ask(self.control, "status")
        except ControlError:
            return {"in_sync": False}
        return answer

    def in_store(self, work: Callable[[Any], Any]) -> Any:
        async def once() -> Any:
            store = open_store(self.store_url)
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(once())


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(0.02)


def status_of(host: Host) -> tuple[str, str]:
    row = host.row("status:h1", PortStatus, "p1")
    assert row is None or isinstance(row, PortStatus)
    return ("", "") if row is None else (row.status, row.reason)


def flow_count(host: Host) -> int:
    with contextlib.suppress(VSwitchError):
        return host.vswitch.ofctl("dump-flows", "br-int", "--no-stats").count("cookie=")
    return 0
