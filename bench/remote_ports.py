"""Ports of other regions: how soon packets reach a new one, and what many changes of them cost.

    .venv/bin/python bench/remote_ports.py [--rounds 40] [--seconds 15] [--commits 200] [--only api|load] [--json]

Needs root.

``api``: a lab of two regions, each a real Neutron and a host. A VM of region1 sends a ping every 5 ms to a VM of region2, whose
port is made in region1's Neutron again and again, and deleted; that of the VM of region1 is known in region2. Timed from sending
the request until the first answer is back; what Neutron itself took to answer stands beside it. ``first``: no port of the other
region was there before, so both chassis have just made the tunnel, or make it now. ``further``: it stands. The guests know
each other's MACs, so that no guest's patience is measured.

``load``: one controller on real Open vSwitch, with 1,000 known ports of its region and 1,000 of another, as in
bench/controller.py. Meanwhile a second process moves ports between ten chassis of the other region, 1,000 a second in 200
commits: none (``quiet``), ports of a network that this chassis doesn't need (``elsewhere``), or of the network of its VMs
(``here``). Neutron's journal commits each port by itself; a writer that does so (``--commits 1000``) takes most of one of two
cores. First each goes on for some seconds, for the shares of a core; then the kinds take turns from one plug to the next, so
that whatever else the machine does meets them alike. A plug is timed to the barrier, from the plug itself (``whole``) and from
OVSDB's word of the OpenFlow port, where our part begins; the next begins 0.3 s after the kind has changed. ``elsewhere`` has all
that the writer itself costs a machine of two cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from controller import CHASSIS, LOCAL, Bench
from dragonflow.lab import Lab, Vm
from dragonflow.lab.system import wait_until
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Alive, FixedIP, LogicalPort, LogicalSwitch, RemoteEnd, Row, encode, remote_chassis
from dragonflow.neutron.dfdb import DfDb
from dragonflow.store.protocol import Key, Put, Txn
from idle import _shares

NAME = "remote"
REMOTE, RATE, VTEPS = 1000, 1000, 10
"""Ports of the other region, their updates a second, and its chassis."""

KINDS, NETWORKS = ("quiet", "elsewhere", "here"), (None, "other", "net")
"""What is moved: nothing, ports of a network that the chassis doesn't need, or of that of its VMs."""

SETTLING = 0.3
"""Seconds of moves before a plug."""

SILENT, SETTLED = 0.5, 5.0
"""Seconds without an answer after which a port that was deleted is out of reach; until a tunnel's BFD session surely is up."""


class Place:
    """A region with a VM of its own on a stretched network."""

    def __init__(self, lab: Lab, region: str, address: str) -> None:
        self.lab, self.region = lab, region
        self.neutron = lab.region(region).neutron.client()
        self.network = self.make("network", name="stretched")
        self.make("subnet", network_id=self.network["id"], cidr="10.91.0.0/24", ip_version=4)
        owner = {"device_owner": "compute:nova", "device_id": str(uuid.uuid4()), "binding:host_id": "host1"}
        self.port = self.make("port", network_id=self.network["id"], fixed_ips=[{"ip_address": address}], **owner)
        self.vm: Vm = lab.plug(self.port["id"], "host1", region=region)
        wait_until(lambda: self.status(self.port["id"]) == "ACTIVE", "the port to be ACTIVE", 60, 0.05)

    def make(self, kind: str, **body: Any) -> dict[str, Any]:
        made: dict[str, Any] = self.neutron.post(f"/{kind}s", json={kind: body}).json()[kind]
        return made

    def status(self, port: str) -> str:
        return str(self.neutron.get(f"/ports/{port}").json()["port"]["status"])

    def announce(self, other: Place, **changed: Any) -> str:
        """Make a port of the other region here: its VM's, but for what is ``changed``."""
        profile = {
            "port_key": "remote_port",
            "host_ip": self.lab.host("host1", other.region).vtep,
            "network_type": other.network["provider:network_type"],
            "segmentation_id": other.network["provider:segmentation_id"],
        }
        port = {
            "network_id": self.network["id"],
            "mac_address": other.vm.mac,
            "fixed_ips": [{"ip_address": other.vm.ips[0]}],
            "device_owner": "dragonflow:remote_port",
            "binding:profile": profile,
        }
        return str(self.make("port", **(port | changed))["id"])

    def delete(self, port: str) -> None:
        self.neutron.delete(f"/ports/{port}")

    def knows(self, other: Place) -> None:
        neighbour = (
            "ip",
            "neigh",
            "replace",
            other.vm.ips[0],
            "lladdr",
            other.vm.mac,
            "dev",
            "eth0",
            "nud",
            "permanent",
        )
        self.lab.exec(self.port["id"], *neighbour)


class Pings:
    """A ping every 5 ms; ``last`` is when the last answer came, and ``first_after`` waits for one."""

    def __init__(self, lab: Lab, source: str, target: str) -> None:
        command = ["ping", "-D", "-n", "-i", "0.005", target]
        self._process = subprocess.Popen(lab.vm_command(source, command), stdout=subprocess.PIPE, text=True)
        self._came = threading.Condition()
        self.last = 0.0
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if found := re.match(r"\[([\d.]+)\] \d+ bytes", line):
                with self._came:
                    self.last = float(found[1])
                    self._came.notify_all()

    def first_after(self, moment: float) -> float:
        with self._came:
            if not self._came.wait_for(lambda: self.last > moment, 60):
                raise SystemExit("no answer within 60 s")
            return self.last

    def until_silent(self) -> None:
        wait_until(lambda: time.time() - self.last > SILENT, "the port to be out of reach", 60, 0.02)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait()


def through_the_api(rounds: int, say: Callable[[str], None]) -> dict[str, list[float]]:
    """Seconds: by what stood before, until Neutron answered and until the first packet was back."""
    lab = Lab.up(NAME, hosts=1, regions=2, progress=say)
    try:
        near, far = Place(lab, "region1", "10.91.0.11"), Place(lab, "region2", "10.91.0.22")
        near.knows(far)
        far.knows(near)
        pings = Pings(lab, near.port["id"], far.vm.ips[0])
        found: dict[str, list[float]] = {}
        try:
            for kind in ("first", "further"):
                say(f"{rounds} rounds: {kind}")
                if kind == "further":
                    far.announce(near)
                    near.announce(far, mac_address="fa:16:3e:91:91:91", fixed_ips=[{"ip_address": "10.91.0.99"}])
                    time.sleep(SETTLED)
                for _ in range(rounds):
                    back = far.announce(near) if kind == "first" else None
                    pings.until_silent()
                    began = time.time()
                    port = near.announce(far)
                    answered = time.time()
                    found.setdefault(f"{kind} answered", []).append(answered - began)
                    found.setdefault(f"{kind} packet", []).append(pings.first_after(began) - began)
                    near.delete(port)
                    if back is not None:
                        far.delete(back)
        finally:
            pings.end()
    finally:
        lab.down()
    return found


def remote_port(number: int, network: str, turn: int) -> LogicalPort:
    vtep = f"203.0.113.{1 + (number + turn) % VTEPS}"
    return LogicalPort(
        id=f"{network}-{number}",
        key=100_000 + number + (REMOTE if network == "other" else 0),
        network=network,
        mac=f"fa:17:3e:00:{number >> 8:02x}:{number & 255:02x}",
        fixed_ips=(FixedIP("subnet-4", f"10.200.{number >> 8}.{number & 255}"),),
        chassis=remote_chassis(vtep),
        device_owner="dragonflow:remote_port",
        remote=RemoteEnd("west", "geneve", 99),
        revision=2 + turn,
    )


def put(row: Row) -> Put:
    return Put(Key(row.scope, type(row).__name__, row.id), encode(row))


def move(store: str, bus: str, moving: Any, moved: Any, commits: int) -> None:
    """Move ports of the network ``NETWORKS[moving]``, if any, until that is negative; in a process of its own."""
    dfdb = DfDb(store, bus)
    each = RATE // commits
    numbers = itertools.cycle(range(REMOTE))
    due = time.monotonic()
    for commit in itertools.count(1):
        time.sleep(max(0.0, due - time.monotonic()))
        due += 1 / commits
        if moving.value < 0:
            break
        if (network := NETWORKS[moving.value]) is not None:
            turn = 1 + commit * each // REMOTE
            txn = Txn(tuple(put(remote_port(number, network, turn)) for number in itertools.islice(numbers, each)))
            dfdb.tell(txn, dfdb.store.commit(txn))
            moved.value += each
    dfdb.close()


class Writer:
    """Another process that moves ports of the network that it is told; see ``move``."""

    def __init__(self, bench: Bench, commits: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._moving, self._moved = context.Value("q", 0), context.Value("q", 0)
        arguments = (bench.store_url, bench.pubsub_url, self._moving, self._moved, commits)
        self._process = context.Process(target=move, args=arguments)

    def __enter__(self) -> Writer:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._moving.value = -1
        self._process.join()

    async def begin(self, kind: str) -> None:
        """From now on it moves these; returns when it does."""
        self._moving.value = KINDS.index(kind)
        if NETWORKS[self._moving.value] is not None:
            before = self._moved.value
            while self._moved.value < before + RATE * SETTLING:
                await asyncio.sleep(0.02)
        else:
            await asyncio.sleep(SETTLING)

    @property
    def moved(self) -> int:
        """How many ports were moved so far."""
        return int(self._moved.value)


async def under_load(
    seconds: float, commits: int, rounds: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """By what is moved: milliseconds of plugs to the barrier; shares of controller and ovs-vswitchd; updates a second."""
    netns = f"df-bench-{os.getpid()}"
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="df-bench-") as name:
        subprocess.run(["ip", "netns", "add", netns], check=True)
        switch = VSwitch(Path(name) / "ovs", netns)
        try:
            taps = "".join(f"tuntap add vm{number} mode tap\n" for number in range(LOCAL))
            subprocess.run(["ip", "-n", netns, "-batch", "-"], input=taps.encode(), check=True)
            switch.start()
            bench = Bench(Path(name), switch)
            await bench.fill(1000, 1)
            rows: list[Row] = [
                LogicalSwitch(id="other", key=2, network_type="geneve", segmentation_id=8, mtu=1442, revision=1)
            ]
            rows += [Alive(id=f"chassis-{number}", since=0.0) for number in range(1, CHASSIS)]
            rows += [remote_port(number, network, 0) for network in ("net", "other") for number in range(REMOTE)]
            dfdb = DfDb(bench.store_url, bench.pubsub_url)
            for start in range(0, len(rows), 100):
                await asyncio.to_thread(dfdb.store.commit, Txn(tuple(map(put, rows[start : start + 100]))))
            dfdb.close()
            async with bench.controller() as (process, _):
                await bench.plug([0])  # from now on it follows the network
                with Writer(bench, commits) as writer:
                    for kind in KINDS:
                        say(f"{kind}: {seconds:.0f} s")
                        await writer.begin(kind)
                        before, began = writer.moved, time.monotonic()
                        shares = await _shares([process.pid, switch.pids["ovs-vswitchd"]], seconds)
                        rate = (writer.moved - before) / (time.monotonic() - began)
                        found[kind] = dict(zip(("controller", "vswitchd", "updates"), (*shares, rate), strict=True))
                    plugs = range(1, LOCAL)
                    for turn in range(1, rounds + 1):
                        say(f"{len(plugs)} plugs in turn, round {turn} of {rounds}")
                        plugged = await bench.plug(plugs, lambda number: writer.begin(KINDS[number % len(KINDS)]))
                        for number, plug in zip(plugs, plugged, strict=True):
                            kind = found[KINDS[number % len(KINDS)]]
                            kind.setdefault("barrier", []).append(plug.barrier * 1e3)
                            kind.setdefault("whole", []).append((plug.ovs + plug.barrier) * 1e3)
                        for number in plugs:
                            switch.vsctl("del-port", "br-int", f"vm{number}")
        finally:
            switch.stop()
            subprocess.run(["ip", "netns", "delete", netns], check=True)
    return found


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[max(0, round(len(values) * 0.99) - 1)]


def _show_api(console: Console, found: dict[str, list[float]]) -> None:
    table = Table(title="port made in Neutron → first packet, p50 / p99 ms", title_justify="left")
    for column in ("port", "Neutron's answer", "first packet", "after the answer"):
        table.add_column(column, justify="left" if column == "port" else "right")
    for kind in ("first", "further"):
        answered, packet = found[f"{kind} answered"], found[f"{kind} packet"]
        after = [one - other for one, other in zip(packet, answered, strict=True)]
        shown = (f"{median(it) * 1e3:.0f} / {_p99(it) * 1e3:.0f}" for it in (answered, packet, after))
        table.add_row(kind, *shown)
    console.print(table)


def _show_load(console: Console, found: dict[str, dict[str, Any]]) -> None:
    table = Table(title=f"{RATE} moves of remote ports a second", title_justify="left")
    for column in ("moved", "updates/s", "whole plug p50 / p99 ms", "our part", "controller %", "ovs-vswitchd %"):
        table.add_column(column, justify="left" if column == "moved" else "right")
    for kind, its in found.items():
        plugs = (f"{median(its[part]):.1f} / {_p99(its[part]):.1f}" for part in ("whole", "barrier"))
        shares = (f"{its[column]:.1f}" for column in ("controller", "vswitchd"))
        table.add_row(kind, f"{its['updates']:.0f}", *plugs, *shares)
    console.print(table)
    for part, what in (("whole", "whole plugs"), ("barrier", "our part of them")):
        here, elsewhere, quiet = (median(found[kind][part]) for kind in ("here", "elsewhere", "quiet"))
        console.print(f"{what}: here : elsewhere = {here / elsewhere:.2f}, elsewhere : quiet = {elsewhere / quiet:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40, help="api: ports made")
    parser.add_argument("--seconds", type=float, default=15.0, help="load: for the shares of a core")
    parser.add_argument("--commits", type=int, default=200, help="load: a second, for the 1,000 moves")
    parser.add_argument("--plug-rounds", type=int, default=3, help="load: of 99 plugs each")
    parser.add_argument("--only", choices=("api", "load"))
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    console = Console(stderr=chosen.json)
    console.print(f"{os.cpu_count()} cores, {platform.platform()}, Python {platform.python_version()}")
    result: dict[str, Any] = {}
    if chosen.only != "load":
        result["api"] = through_the_api(chosen.rounds, console.print)
        _show_api(console, result["api"])
    if chosen.only != "api":
        result["load"] = asyncio.run(under_load(chosen.seconds, chosen.commits, chosen.plug_rounds, console.print))
        _show_load(console, result["load"])
    if chosen.json:
        print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
