"""A controller on real Open vSwitch: its starts, a plug from OVSDB to the barrier and to the status message, memory.

    .venv/bin/python bench/controller.py [--known 100,1000,10000] [--plugs 100] [--addresses 2] [--probe tunnelled,off]

Needs root: OVS runs in user space in a network namespace of its own. The DF DB is SQLite, the bus ZeroMQ, both in a temporary
directory. All known ports lie in one Geneve network, spread evenly over 100 chassis (the worst case for flooding); 100 of them
are bound here. They are in one security group, which is like Neutron's default. A VM's interface is a
tap device that is there before it is plugged, as with Nova.

Starts, each from exec of `dragonflow controller` (Python's start and imports included) until it says that the switch is in sync:

- first start: OVSDB knows no bridge and no tunnel port
- restart: all is there and the rows are unchanged; also how many flow mods it sent
- cold start: the host was rebooted; bridge, tunnel and VM ports stand in OVSDB, the switch's tables are empty

A plug, one after the other, each when the last one's message has come:

- OVS: from the transaction that adds the interface until OVSDB tells its ofport; nobody's controller can know it earlier
- barrier: from there until the controller makes the status row, which it does when a barrier has confirmed the flows, and, with
  probes, when packets have shown that the port works; both ways are measured in turn on the same switch
- message: from there until the status message is at a subscriber in another process, by way of the DF DB
- all: the whole of it
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import (
    Binding,
    Chassis,
    FixedIP,
    GroupMember,
    LogicalPort,
    LogicalSwitch,
    Row,
    SecurityGroup,
    SecurityRule,
    encode,
)
from dragonflow.observe.control import ControlError, ask
from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.protocol import PORT_STATUS, Message
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Txn
from dragonflow.testing import founding

CHASSIS = 100
LOCAL = 100
ME = "chassis-0"


DEFAULT = (
    *(SecurityRule("egress", version) for version in (4, 6)),
    *(SecurityRule("ingress", version, remote_group="group") for version in (4, 6)),
)
"""The rules of Neutron's default group: all known ports are in it."""


def rows(known: int, addresses: int) -> list[Row]:
    made: list[Any] = [
        LogicalSwitch(id="net", key=1, network_type="geneve", segmentation_id=7, mtu=1442, revision=1),
        SecurityGroup(id="group", rules=DEFAULT, revision=1),
        *(Chassis(id=f"chassis-{n}", tunnel_ip=f"192.0.2.{n + 1}") for n in range(1, CHASSIS)),
    ]
    for n in range(known):
        local = n < LOCAL
        host = ME if local else f"chassis-{1 + n % (CHASSIS - 1)}"
        mac = f"fa:16:3e:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
        ips = (
            FixedIP("subnet-4", f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"),
            FixedIP("subnet-6", f"2001:db8::{n + 1:x}"),
        )
        made.append(
            LogicalPort(
                id=port_id(n),
                key=n + 1,
                network="net",
                mac=mac,
                fixed_ips=ips[:addresses],
                chassis=host,
                generation=1,
                device_owner="compute:nova",
                vif_type="ovs",
                security_groups=("group",),
                revision=1,
            )
        )
        made.append(GroupMember(id=f"group/{port_id(n)}", group="group", port=port_id(n), addresses=made[-1].ips))
        if local:
            made.append(Binding(id=port_id(n), host=ME, network="net", generation=1))
    return made


def port_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


class Bench:
    """``store`` is the URL of an empty DF DB; without it there is one of SQLite in the directory."""

    def __init__(self, directory: Path, switch: VSwitch, store: str | None = None) -> None:
        self.known = 0
        self.directory = directory
        self.switch = switch
        self.store_url = store or f"sqlite://{directory}/dfdb.sqlite"
        self.pubsub_url = f"zmq+ipc://{directory}/bus"
        self.control = str(directory / "control.sock")
        self.config = directory / "dragonflow.conf"
        self.configure("tunnelled")

    def configure(self, probe: str) -> None:
        """For the controllers to come."""
        switch = self.switch
        self.config.write_text(
            f"[df]\nprobe = {probe}\n"
            f"host = {ME}\ntunnel_ip = 192.0.2.1\nstore_url = {self.store_url}\npubsub_url = {self.pubsub_url}\n"
            f"ovsdb_connection = unix:{switch.db_sock}\nopenflow_connection = unix:{switch.openflow('br-int')}\n"
            f"datapath_type = netdev\ncontrol_socket = {self.control}\n"
        )

    async def fill(self, known: int, addresses: int) -> None:
        self.known = known
        store = open_store(self.store_url)
        puts = [Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in rows(known, addresses)]
        for start in range(0, len(puts), 100):
            await store.commit(Txn(tuple(puts[start : start + 100])))
        await founding.found(store)
        await store.close()

    @asynccontextmanager
    async def controller(self) -> AsyncIterator[tuple[subprocess.Popen[bytes], float]]:
        """A running controller that is in sync, and how many seconds that took."""
        with (self.directory / "controller.log").open("ab") as log:
            began = time.perf_counter()
            process = subprocess.Popen(
                [str(Path(sys.executable).with_name("dragonflow")), "controller", "--config-file", str(self.config)],
                stderr=log,
            )
        try:
            while not await self._in_sync():
                if process.poll() is not None:
                    raise SystemExit((self.directory / "controller.log").read_text()[-2000:])
                await asyncio.sleep(0.005)
            yield process, time.perf_counter() - began
        finally:
            process.terminate()
            process.wait()

    async def _in_sync(self) -> bool:
        """In sync, with a place for every port of other chassis: on a first start those wait for the tunnel port."""
        try:
            status = self.status()
        except ControlError:
            return False
        return bool(status["in_sync"]) and int(str(status["places"])) >= self.known - LOCAL

    def status(self) -> dict[str, object]:
        answer: dict[str, object] = ask(self.control, "status", timeout=30)
        return answer

    async def plug(self, plugs: Sequence[int], before: Callable[[int], Awaitable[None]] | None = None) -> list[Plug]:
        """Plug one interface after the other, each when ``before`` has been called with its number."""
        store = open_store(self.store_url)
        bus = open_pubsub(self.pubsub_url, store)
        database = await _Ovsdb.open(self.switch.db_sock)
        done = []
        async with aclosing(bus.subscribe([PORT_STATUS])) as news:
            first = asyncio.ensure_future(anext(news))
            await asyncio.sleep(1)  # for ZeroMQ to connect: nothing tells a subscriber that it has
            for number in plugs:
                if before is not None:
                    await before(number)
                began = time.time()
                database.plug(number)
                while (barrier := _active_at(await first, number)) is None:
                    first = asyncio.ensure_future(anext(news))
                arrived = time.time()
                ready = await database.ready(number)
                done.append(Plug(ready - began, barrier - ready, arrived - barrier, arrived - began))
                first = asyncio.ensure_future(anext(news))
                await asyncio.sleep(random.uniform(0.02, 0.12))  # in step with nothing else
            first.cancel()
            await asyncio.wait([first])
        await database.close()
        await bus.close()
        await store.close()
        return done


def _active_at(message: Message, number: int) -> float | None:
    """When the controller made the row that says that the port is ACTIVE (seconds since 1970); None if the message has none."""
    rows = (json.loads(it.data) for it in message.records if it.data is not None and it.key.id == port_id(number))
    return next((float(row["at"]) for row in rows if row["status"] == "ACTIVE"), None)


class Plug(NamedTuple):
    """Seconds; see above."""

    ovs: float
    barrier: float
    message: float
    all: float


class _Ovsdb:
    """OVSDB by its own protocol (RFC 7047), so that no client library's time is measured."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ready: dict[str, asyncio.Future[float]] = {}
        self._task = asyncio.ensure_future(self._listen())
        self._send("monitor", ["Open_vSwitch", None, {"Interface": [{"columns": ["name", "ofport"]}]}], "monitor")

    @classmethod
    async def open(cls, path: Path) -> _Ovsdb:
        return cls(*await asyncio.open_unix_connection(str(path)))

    def plug(self, number: int) -> None:
        self._send("transact", ["Open_vSwitch", *_add_interface(number)], number)

    async def ready(self, number: int) -> float:
        """When the database told the interface's ofport (seconds since 1970)."""
        return await self._of(f"vm{number}")

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        self._writer.close()

    def _of(self, name: str) -> asyncio.Future[float]:
        return self._ready.setdefault(name, asyncio.get_running_loop().create_future())

    def _send(self, method: str, params: list[Any], id: object) -> None:
        self._writer.write(json.dumps({"method": method, "params": params, "id": id}).encode())

    async def _listen(self) -> None:
        """Messages follow each other with nothing in between, each a JSON object."""
        decoder = json.JSONDecoder()
        text = ""
        while data := await self._reader.read(1 << 20):
            now = time.time()
            text += data.decode()
            while text:
                try:
                    message, end = decoder.raw_decode(text)
                except json.JSONDecodeError:
                    break  # the rest is on its way
                text = text[end:]
                if message.get("method") == "update":
                    self._take(message["params"][1], now)

    def _take(self, update: dict[str, Any], now: float) -> None:
        for row in update.get("Interface", {}).values():
            new = row.get("new", {})
            if isinstance(new.get("ofport"), int) and new["ofport"] > 0 and not self._of(new["name"]).done():
                self._of(new["name"]).set_result(now)


def _add_interface(number: int) -> list[dict[str, object]]:
    name = f"vm{number}"
    interface = {"name": name, "external_ids": ["map", [["iface-id", port_id(number)]]]}
    return [
        {"op": "insert", "table": "Interface", "uuid-name": "i", "row": interface},
        {"op": "insert", "table": "Port", "uuid-name": "p", "row": {"name": name, "interfaces": ["named-uuid", "i"]}},
        {
            "op": "mutate",
            "table": "Bridge",
            "where": [["name", "==", "br-int"]],
            "mutations": [["ports", "insert", ["named-uuid", "p"]]],
        },
        {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]},
    ]


class Result(NamedTuple):
    """Seconds, flow mods, MiB. ``plugs`` by what is probed."""

    first: float
    restart: float
    mods: object
    cold: float
    memory: float
    plugs: dict[str, list[Plug]]


async def measure(known: int, plugs: int, addresses: int, probes: Sequence[str]) -> Result:
    netns = f"df-bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="df-bench-") as name:
        directory = Path(name)
        subprocess.run(["ip", "netns", "add", netns], check=True)
        switch = VSwitch(directory / "ovs", netns)
        try:
            taps = "".join(f"tuntap add vm{number} mode tap\n" for number in range(LOCAL))
            subprocess.run(["ip", "-n", netns, "-batch", "-"], input=taps.encode(), check=True)
            switch.start()
            bench = Bench(directory, switch)
            await bench.fill(known, addresses)
            plugged: dict[str, list[Plug]] = {}
            first = memory = 0.0
            numbers = range(min(plugs, LOCAL, known))
            for turn, probe in enumerate(probes):
                bench.configure(probe)
                async with bench.controller() as (process, began):
                    if turn == 0:
                        first, memory = began, _resident(process.pid)
                    plugged[probe] = await bench.plug(numbers[turn :: len(probes)])
            async with bench.controller() as (_, restart):
                mods = bench.status()["mods_since_start"]
            switch.restart_vswitchd()
            async with bench.controller() as (_, cold):
                pass
        finally:
            switch.stop()
            subprocess.run(["ip", "netns", "delete", netns], check=True)
    return Result(first, restart, mods, cold, memory, plugged)


def _resident(pid: int) -> float:
    (line,) = [it for it in Path(f"/proc/{pid}/status").read_text().splitlines() if it.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def _p50_p99(values: Sequence[float]) -> str:
    p99 = sorted(values)[max(0, round(len(values) * 0.99) - 1)]
    return f"{median(values) * 1e3:.1f} / {p99 * 1e3:.1f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", default="100,1000,10000", help="numbers of known ports, with commas")
    parser.add_argument("--plugs", type=int, default=LOCAL, help=f"interfaces to plug at each number (at most {LOCAL})")
    parser.add_argument("--addresses", type=int, choices=(1, 2), default=2, help="of each port: IPv4, or IPv6 as well")
    parser.add_argument("--probe", default="tunnelled,off", help="values of the option to compare, with commas")
    options = parser.parse_args()
    starts = _table("starts, s", "ports known", "first", "cold", "restart", "mods at restart", "RSS MiB")
    plugs = _table("a plug, p50 / p99 ms", "ports known", "probe", "OVS", "+ barrier", "+ message", "= all")
    barriers = {}
    for known in map(int, options.known.split(",")):
        it = asyncio.run(measure(known, options.plugs, options.addresses, options.probe.split(",")))
        seconds = (f"{value:.2f}" for value in (it.first, it.cold, it.restart))
        starts.add_row(f"{known:,}", *seconds, f"{it.mods}", f"{it.memory:.0f}")
        for probe, plugged in it.plugs.items():
            plugs.add_row(f"{known:,}", probe, *map(_p50_p99, zip(*plugged, strict=True)))
        barriers[known] = median(plug.barrier for plug in next(iter(it.plugs.values())))
    console = Console()
    console.print(starts, plugs)
    least, most = min(barriers), max(barriers)
    console.print(f"+ barrier with {most:,} known : with {least:,} known = {barriers[most] / barriers[least]:.2f} : 1")
    ovs = subprocess.run(["ovs-vswitchd", "--version"], capture_output=True, text=True, check=True)
    console.print(
        f"{ovs.stdout.splitlines()[0]}, user space; CPython {platform.python_version()}, {os.cpu_count()} cores; "
        f"SQLite, ZeroMQ (ipc); {options.addresses} addresses a port"
    )


if __name__ == "__main__":
    main()
