"""A controller on real Open vSwitch: cold start, restart, plug → barrier, plug → status message, memory.

    .venv/bin/python bench/controller.py [--known 100,1000,10000] [--plugs 100]

Needs root: OVS runs in user space in a network namespace of its own. The DF DB is SQLite, the bus ZeroMQ, both in a temporary
directory. All known ports lie in one Geneve network, spread evenly over 100 chassis (the worst case for flooding); 100 of them
are bound here. A VM's interface is a patch port without a peer, which gets an OpenFlow port but needs no device.

- cold start: from exec of `dragonflow controller` (Python's start and imports included) until it says that the switch is in sync
- restart: the same again with unchanged rows, and how many flow mods it sent
- plug → barrier: from the OVSDB transaction that adds the interface (OVS's own time included) to the confirmed local_created
- plug → message: the same until the status message reaches a subscriber in another process of this machine
- memory: resident set of the controller after the cold start
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Binding, Chassis, FixedIP, LogicalPort, LogicalSwitch, Row, encode
from dragonflow.observe.control import ControlError, ask
from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.protocol import PORT_STATUS
from dragonflow.store import open_store
from dragonflow.store.protocol import Key, Put, Txn

CHASSIS = 100
LOCAL = 100
ME = "chassis-0"


def rows(known: int) -> list[Row]:
    made: list[Row] = [
        LogicalSwitch(id="net", key=1, network_type="geneve", segmentation_id=7, mtu=1442, revision=1),
        *(Chassis(id=f"chassis-{n}", tunnel_ip=f"192.0.2.{n + 1}") for n in range(1, CHASSIS)),
    ]
    for n in range(known):
        local = n < LOCAL
        host = ME if local else f"chassis-{1 + n % (CHASSIS - 1)}"
        mac = f"fa:16:3e:{n >> 16:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
        ip = f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}"
        made.append(
            LogicalPort(
                id=port_id(n),
                key=n + 1,
                network="net",
                mac=mac,
                fixed_ips=(FixedIP("subnet-4", ip), FixedIP("subnet-6", f"2001:db8::{n + 1:x}")),
                chassis=host,
                generation=1,
                device_owner="compute:nova",
                vif_type="ovs",
                security_groups=("group",),
                revision=1,
            )
        )
        if local:
            made.append(Binding(id=port_id(n), host=ME, network="net", generation=1))
    return made


def port_id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012x}"


class Bench:
    def __init__(self, directory: Path, switch: VSwitch) -> None:
        self.directory = directory
        self.switch = switch
        self.store_url = f"sqlite://{directory}/dfdb.sqlite"
        self.pubsub_url = f"zmq+ipc://{directory}/bus"
        self.control = str(directory / "control.sock")
        self.config = directory / "dragonflow.conf"
        self.config.write_text(
            f"[df]\nhost = {ME}\ntunnel_ip = 192.0.2.1\nstore_url = {self.store_url}\npubsub_url = {self.pubsub_url}\n"
            f"ovsdb_connection = unix:{switch.db_sock}\nopenflow_connection = unix:{switch.openflow('br-int')}\n"
            f"datapath_type = netdev\ncontrol_socket = {self.control}\n"
        )

    async def fill(self, known: int) -> None:
        store = open_store(self.store_url)
        puts = [Put(Key(row.scope, type(row).__name__, row.id), encode(row)) for row in rows(known)]
        for start in range(0, len(puts), 1000):
            await store.commit(Txn(tuple(puts[start : start + 1000])))
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
        try:
            return bool(self.status()["in_sync"])
        except ControlError:
            return False

    def status(self) -> dict[str, object]:
        answer: dict[str, object] = ask(self.control, "status", timeout=30)
        return answer

    async def plug(self, plugs: Sequence[int]) -> tuple[list[float], list[float]]:
        """Seconds from the OVSDB transaction to the barrier, as the status row says it, and to the message's arrival."""
        store = open_store(self.store_url)
        bus = open_pubsub(self.pubsub_url, store)
        _, writer = await asyncio.open_unix_connection(str(self.switch.db_sock), limit=1 << 24)
        barriers, messages = [], []
        async with aclosing(bus.subscribe([PORT_STATUS])) as news:
            first = asyncio.ensure_future(anext(news))
            await asyncio.sleep(1)  # for ZeroMQ to connect: nothing tells a subscriber that it has
            for number in plugs:
                began = time.time()
                writer.write(json.dumps(_add_interface(number)).encode())
                message = await first
                messages.append(time.time() - began)
                (record,) = [it for it in message.records if it.key.id == port_id(number)]
                assert record.data is not None
                barriers.append(json.loads(record.data)["at"] - began)
                first = asyncio.ensure_future(anext(news))
                await asyncio.sleep(0.02)
            first.cancel()
            await asyncio.wait([first])
        writer.close()
        await bus.close()
        await store.close()
        return barriers, messages


def _add_interface(number: int) -> dict[str, object]:
    name = f"vm{number}"
    interface = {
        "name": name,
        "type": "patch",
        "options": ["map", [["peer", f"nowhere{number}"]]],
        "external_ids": ["map", [["iface-id", port_id(number)]]],
    }
    add = [
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
    return {"method": "transact", "params": ["Open_vSwitch", *add], "id": number}


async def measure(known: int, plugs: int) -> dict[str, float]:
    netns = f"df-bench-{os.getpid()}"
    with tempfile.TemporaryDirectory(prefix="df-bench-") as name:
        directory = Path(name)
        subprocess.run(["ip", "netns", "add", netns], check=True)
        switch = VSwitch(directory / "ovs", netns)
        try:
            switch.start()
            bench = Bench(directory, switch)
            await bench.fill(known)
            async with bench.controller() as (process, cold):
                memory = _resident(process.pid)
                barriers, messages = await bench.plug(range(min(plugs, LOCAL, known)))
            async with bench.controller() as (_, restart):
                mods = bench.status()["mods_since_start"]
        finally:
            switch.stop()
            subprocess.run(["ip", "netns", "delete", netns], check=True)
    return {
        "known": known,
        "cold": cold,
        "restart": restart,
        "mods": float(str(mods)),
        "memory": memory,
        "barrier": median(barriers),
        "barrier99": _p99(barriers),
        "message": median(messages),
        "message99": _p99(messages),
    }


def _resident(pid: int) -> float:
    (line,) = [it for it in Path(f"/proc/{pid}/status").read_text().splitlines() if it.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def _p99(values: list[float]) -> float:
    return sorted(values)[max(0, round(len(values) * 0.99) - 1)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--known", default="100,1000,10000", help="numbers of known ports, with commas")
    parser.add_argument("--plugs", type=int, default=100, help="interfaces to plug at each number (at most 100)")
    options = parser.parse_args()
    table = Table(title="controller on real Open vSwitch", title_justify="left")
    for column in ("ports known", "cold start s", "restart s", "mods at restart", "RSS MiB"):
        table.add_column(column, justify="right")
    for column in ("plug → barrier p50 / p99 ms", "plug → message p50 / p99 ms"):
        table.add_column(column, justify="right")
    found = []
    for known in map(int, options.known.split(",")):
        result = asyncio.run(measure(known, options.plugs))
        found.append(result)
        table.add_row(
            f"{known:,}",
            f"{result['cold']:.2f}",
            f"{result['restart']:.2f}",
            f"{result['mods']:.0f}",
            f"{result['memory']:.0f}",
            f"{result['barrier'] * 1e3:.1f} / {result['barrier99'] * 1e3:.1f}",
            f"{result['message'] * 1e3:.1f} / {result['message99'] * 1e3:.1f}",
        )
    console = Console()
    console.print(table)
    ratio = found[-1]["barrier"] / found[0]["barrier"]
    console.print(
        f"plug → barrier with {found[-1]['known']:,} known : with {found[0]['known']:,} known = {ratio:.2f} : 1"
    )
    ovs = subprocess.run(["ovs-vswitchd", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    console.print(
        f"{ovs}, user space; CPython {platform.python_version()}, {os.cpu_count()} cores; SQLite, ZeroMQ (ipc)"
    )


if __name__ == "__main__":
    main()
