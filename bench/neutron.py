"""Plug → ACTIVE through a real Neutron, beside what Neutron's own status update takes alone.

    .venv/bin/python bench/neutron.py [--ports 100] [--store sqlite|etcd|redis] [--json]

Needs root. Brings up a lab of its own (one region, one host, MariaDB, one API worker, the DF DB as `dragonflow lab` runs it),
makes the ports through the API, and takes it down at the end. Then, one after the other, in turn:

- ours: an interface (one end of a veth pair) is put on the integration bridge by one OVSDB transaction, as os-vif does. Time
  counts from just before the transaction is sent, so OVS's own part is in it. ``barrier`` is when the host's switch had
  confirmed the flows (the status row says when), ``message`` when the word arrives on the topic at a subscriber that stands
  where Neutron's server stands, ``committed`` when Neutron's SQL has the port ACTIVE, ``nova`` when Nova hears of it: Neutron
  sends its events at most once in ``send_events_interval`` (the lab sets 1 s), which is nearly all of that time here.
- alone: the same step of a port of the same kind, but bound to a host that exists in the DF DB only, so that nobody speaks for
  it. Another process with Neutron's plugin and without Dragonflow takes the port from DOWN to ACTIVE (``neutron_alone.py``).

``committed`` is found by asking the SQL database every 2 ms, and so up to 2 ms late; that is cheaper than the API, which would
slow the server down (a client that asks every 10 ms makes ``committed`` a third later). At the end the API must show every port
ACTIVE.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

import pymysql  # type: ignore[import-untyped]  # ships no types
from rich.console import Console
from rich.table import Table

from dragonflow.lab.host import INTEGRATION_BRIDGE, Host
from dragonflow.lab.lab import STORES, Lab
from dragonflow.lab.region import Region
from dragonflow.lab.system import ip, wait_until
from dragonflow.model import Alive, Chassis, PortStatus, Row, decode, encode, status_scope
from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.protocol import PORT_STATUS, Message, PubSub
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Store, Txn

NOBODY = "nobody"
"""The host of the ports that Neutron turns alone."""

BULK = 25
ASK = 0.002
IDLE = 0.1
TIMEOUT = 60.0
TICK = 1 / os.sysconf("SC_CLK_TCK")

News = asyncio.Queue[tuple[float, Message]]
PLUG = ("barrier", "message", "committed", "nova")


@dataclass
class Found:
    """Seconds, one for each port."""

    barrier: list[float] = field(default_factory=list)
    message: list[float] = field(default_factory=list)
    committed: list[float] = field(default_factory=list)
    nova: list[float] = field(default_factory=list)
    turned: list[float] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)
    alone_call: list[float] = field(default_factory=list)
    processor: float = 0.0
    alone_processor: list[float] = field(default_factory=list)


class Bench:
    def __init__(self, lab: Lab, store: Store, alone: subprocess.Popen[str]) -> None:
        self.lab = lab
        self.region: Region = lab.region()
        self.host: Host = next(iter(self.region.hosts.values()))
        self.store = store
        self.alone = alone
        self.found = Found()
        self.sql = pymysql.connect(
            unix_socket=str(self.region.mariadb.socket), user="root", database="neutron", autocommit=True
        )
        self.plugged: dict[str, float] = {}

    async def add_nobody(self) -> None:
        """A host as Neutron sees one, on which nothing runs."""
        lease = await self.store.grant_lease(3600)
        rows: tuple[Row, ...] = (Chassis(id=NOBODY, tunnel_ip="192.0.2.1"), Alive(id=NOBODY, since=time.time()))
        await self.store.commit(
            Txn(tuple(Put(key(row), encode(row), lease if isinstance(row, Alive) else None) for row in rows))
        )
        with self.region.neutron.client() as neutron:

            def known() -> bool:
                agents = neutron.get("/agents", params={"host": NOBODY}).json()["agents"]
                return any(agent["alive"] for agent in agents)

            wait_until(known, "Neutron to know the host that isn't there", TIMEOUT, 0.2)

    async def make_ports(self, number: int) -> tuple[list[str], list[str]]:
        """Bound ports: so many on the host, so many on nobody's."""
        with self.region.neutron.client() as neutron:
            network = neutron.post("/networks", json={"network": {"name": "bench"}}).json()["network"]["id"]
            subnet = {"network_id": network, "ip_version": 4, "cidr": "10.0.0.0/16"}
            neutron.post("/subnets", json={"subnet": subnet})
            made: dict[str, list[str]] = {self.host.name: [], NOBODY: []}
            for host, ids in made.items():
                for start in range(0, number, BULK):
                    body = [
                        {
                            "network_id": network,
                            "device_id": str(uuid.uuid4()),
                            "device_owner": "compute:nova",
                            "binding:host_id": host,
                        }
                        for _ in range(min(BULK, number - start))
                    ]
                    ports = neutron.post("/ports", json={"ports": body}).json()["ports"]
                    if any(port["binding:vif_type"] != "ovs" for port in ports):
                        raise SystemExit(f"ports could not be bound to {host}")
                    ids += [port["id"] for port in ports]
        ours, theirs = made[self.host.name], made[NOBODY]
        async with asyncio.timeout(TIMEOUT):
            while True:  # until the controller knows them all
                rows = (await self.store.snapshot([status_scope(self.host.name)])).records
                if {record.key.id for record in rows} >= set(ours):
                    return ours, theirs
                await asyncio.sleep(0.1)

    def make_interfaces(self, ports: Sequence[str]) -> None:
        for port in ports:
            ip(
                self.host.netns,
                f"link add {tap(port)} type veth peer name p{tap(port)}",
                f"link set {tap(port)} up",
            )

    def status(self, port: str) -> str:
        with self.sql.cursor() as cursor:
            cursor.execute("SELECT status FROM ports WHERE id = %s", (port,))
            (status,) = cursor.fetchone() or ("gone",)
        return str(status)

    def active(self, port: str) -> float:
        """When (seconds of the epoch) Neutron's SQL was first seen to have the port ACTIVE."""
        give_up = time.monotonic() + TIMEOUT
        while self.status(port) != "ACTIVE":
            if time.monotonic() > give_up:
                raise SystemExit(f"port {port} is not ACTIVE after {TIMEOUT:.0f} s")
            time.sleep(ASK)
        return time.time()

    def server_processor(self) -> float:
        """Seconds of processor time that the API server has used so far, its master process included."""
        master = self.region.neutron.daemon.pid
        return sum(processor_time(pid) for pid in (master, *children(master)) if pid is not None)

    async def plug(self, port: str, news: News, writer: asyncio.StreamWriter) -> None:
        self.status(port)  # the connection is warm, as the other one is
        used, began = self.server_processor(), time.time()
        writer.write(json.dumps(add_interface(tap(port), port)).encode())
        async with asyncio.timeout(TIMEOUT):
            arrived, row = await until_active(news, port)
        committed = self.active(port)
        self.plugged[port] = began
        self.found.barrier.append(row.at - began)
        self.found.message.append(arrived - began)
        self.found.committed.append(committed - began)
        self.found.turned.append(committed - arrived)
        await asyncio.sleep(IDLE)
        self.found.processor += self.server_processor() - used

    async def turn_alone(self, port: str) -> None:
        self.status(port)
        tell, hear = self.alone.stdin, self.alone.stdout
        assert tell is not None
        assert hear is not None
        print(port, file=tell, flush=True)
        committed = self.active(port)
        report = json.loads(hear.readline())
        self.found.alone.append(committed - report["began"])
        self.found.alone_call.append(report["took"])
        self.found.alone_processor.append(report["processor"])
        await asyncio.sleep(IDLE)

    async def run(self, ports: int, say: Console) -> Found:
        await self.add_nobody()
        ours, theirs = await self.make_ports(ports + 1)
        self.make_interfaces(ours)
        say.print(f"{len(ours) + len(theirs)} ports made")
        news: News = asyncio.Queue()
        bus = open_pubsub(self.region.settings["pubsub_url"], self.store)
        following = asyncio.create_task(follow(bus, news))
        await asyncio.sleep(1)  # for ZeroMQ to connect: nothing tells a subscriber that it has
        _, writer = await asyncio.open_unix_connection(str(self.host.switch.db_sock), limit=1 << 24)
        for number, (port, other) in enumerate(zip(ours, theirs, strict=True)):
            if number == 1:
                self.found = Found()  # the first of each only warms up
            await self.plug(port, news, writer)
            await self.turn_alone(other)
        writer.close()
        following.cancel()
        await asyncio.wait([following])
        await bus.close()
        await self.collect_nova(ours[1:])
        self.check([*ours, *theirs])
        return self.found

    async def collect_nova(self, ports: Sequence[str]) -> None:
        wanted = set(ports)

        def told() -> dict[str, float]:
            events = [event for event in self.lab.nova_events() if event["name"] == "network-vif-plugged"]
            return {event["tag"]: event["time"] for event in events}

        wait_until(lambda: wanted <= told().keys(), "Nova to hear of every port", TIMEOUT, 0.1)
        times = told()
        self.found.nova = [times[port] - self.plugged[port] for port in ports]

    def check(self, ports: Sequence[str]) -> None:
        with self.region.neutron.client() as neutron:
            listed = neutron.get("/ports", params={"status": "ACTIVE", "fields": "id"}).json()["ports"]
        missing = set(ports) - {port["id"] for port in listed}
        if missing:
            raise SystemExit(f"{len(missing)} ports are not ACTIVE in the API")


async def follow(bus: PubSub, news: News) -> None:
    """Note every message with the time of its arrival, in seconds of the epoch."""
    async with aclosing(bus.subscribe([PORT_STATUS])) as messages:
        async for message in messages:
            news.put_nowait((time.time(), message))


async def until_active(news: News, port: str) -> tuple[float, PortStatus]:
    """When the word came that the port works, and the word."""
    while True:
        arrived, message = await news.get()
        for record in message.records:
            if record.key.id == port and record.data is not None:
                row = decode(record.key.kind, record.key.id, record.data)
                if isinstance(row, PortStatus) and row.status == "ACTIVE":
                    return arrived, row


def key(row: Row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)


def tap(port: str) -> str:
    return f"tap{port[:11]}"


def add_interface(name: str, port: str) -> dict[str, object]:
    ids = [["iface-id", port], ["iface-status", "active"]]
    interface = {"name": name, "external_ids": ["map", ids]}
    add = [
        {"op": "insert", "table": "Interface", "uuid-name": "i", "row": interface},
        {"op": "insert", "table": "Port", "uuid-name": "p", "row": {"name": name, "interfaces": ["named-uuid", "i"]}},
        {
            "op": "mutate",
            "table": "Bridge",
            "where": [["name", "==", INTEGRATION_BRIDGE]],
            "mutations": [["ports", "insert", ["named-uuid", "p"]]],
        },
        {"op": "mutate", "table": "Open_vSwitch", "where": [], "mutations": [["next_cfg", "+=", 1]]},
    ]
    return {"method": "transact", "params": ["Open_vSwitch", *add], "id": port}


def processor_time(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) * TICK


def children(pid: int | None) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def alone(region: Region) -> Iterator[subprocess.Popen[str]]:
    """The process that turns ports without Dragonflow, ready."""
    script = Path(__file__).with_name("neutron_alone.py")
    conf = [str(region.directory / name) for name in ("neutron.conf", "ml2_conf.ini")]
    log: IO[str]
    with (region.directory / "alone.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-P", str(script), *conf],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise SystemExit((region.directory / "alone.log").read_text()[-2000:])
            yield process
        finally:
            process.kill()
            process.wait()


async def measure(lab: Lab, ports: int, say: Console) -> Found:
    with alone(lab.region()) as process:
        store = open_store(lab.region().store.url)
        try:
            return await Bench(lab, store, process).run(ports, say)
        finally:
            await store.close()


def summary(found: Found) -> dict[str, Any]:
    both: dict[str, Callable[[Sequence[float]], float]] = {"p50": median, "p99": p99}
    times = {
        name: {which: how(getattr(found, name)) * 1e3 for which, how in both.items()}
        for name in (*PLUG, "turned", "alone", "alone_call")
    }
    ports = len(found.alone)
    return {
        "ports": ports,
        "milliseconds": times,
        "processor_ms": {
            "server": found.processor / ports * 1e3,
            "alone": median(found.alone_processor) * 1e3,
        },
        "ratios": {
            name: {which: times[name][which] / times["alone"][which] for which in both}
            for name in ("turned", "committed")
        },
    }


def p99(values: Sequence[float]) -> float:
    return sorted(values)[max(0, round(len(values) * 0.99) - 1)]


ROWS = (
    ("barrier", "plug → flows confirmed on the host"),
    ("message", "plug → message where the server stands"),
    ("committed", "plug → ACTIVE in Neutron's SQL"),
    ("nova", "plug → Nova has the event (in batches)"),
    ("turned", "status message → ACTIVE in Neutron's SQL"),
    ("alone", "Neutron alone: DOWN → ACTIVE in its SQL"),
    ("alone_call", "Neutron alone: the whole call"),
)


def show(console: Console, result: dict[str, Any]) -> None:
    table = Table(title=f"plug → ACTIVE, {result['ports']} ports one at a time", title_justify="left")
    table.add_column("what")
    for column in ("p50 ms", "p99 ms", "p50 : alone", "p99 : alone"):
        table.add_column(column, justify="right")
    for name, words in ROWS:
        times, ratios = result["milliseconds"][name], result["ratios"].get(name)
        shown = [f"{ratios[which]:.2f}" for which in ("p50", "p99")] if ratios else ["", ""]
        table.add_row(words, f"{times['p50']:.1f}", f"{times['p99']:.1f}", *shown)
    console.print(table)
    used = result["processor_ms"]
    console.print(
        f"processor time a port: {used['server']:.0f} ms in the API server (its {IDLE * 1e3:.0f} ms of rest included), "
        f"{used['alone']:.0f} ms in Neutron alone"
    )
    console.print(result["conditions"])


def conditions(store: str) -> str:
    ovs, mariadb = (
        subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
        for program in ("ovs-vswitchd", "mariadbd")
    )
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    return (
        f"{ovs}, user space; {mariadb.split(' for ')[0]}; CPython {platform.python_version()}, {os.cpu_count()} cores, "
        f"load {load}; DF DB in {store}, ZeroMQ (ipc); one API worker"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ports", type=int, default=100, help="how many ports to plug, and to turn alone")
    parser.add_argument("--store", choices=STORES, default="sqlite", help="what the DF DB lies in")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    console = Console(stderr=options.json)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the lab is taken down then, too
    lab = Lab.up(f"bench-{os.getpid()}", hosts=1, store=options.store, progress=console.print)
    try:
        before = conditions(options.store)
        found = asyncio.run(measure(lab, options.ports, console))
    finally:
        lab.down()
    result = summary(found) | {"conditions": before}
    if options.json:
        print(json.dumps(result, indent=2))
    else:
        show(console, result)


if __name__ == "__main__":
    main()
