"""Security groups: what members, rules, and rules that go cost.

    .venv/bin/python bench/firewall.py [--only members|rules|traffic|cut] [--rounds 3] [--seconds 2] [--json]

Engine and switch in this process, on real Open vSwitch in user space; rows are handed over as news, without a DF DB. Times run
from the news to the barrier. Needs root.

- ``members``: a group of 100, 1,000, 10,000 members with an IPv4 and an IPv6 address each, who may reach each other (two
  rules for anything) and TCP ports 5000 to 5100 of two ports here; then one member more, 200 times
- ``rules``: a group of 10, 100, 1,000 rules, half of them with a prefix of their own, half with a range of ports; then one more
- ``traffic``: iperf3 (one TCP connection), and TCP connections made and reset one after the other by one client, between two
  VMs here, without port security and with 1, 10, 100, 1,000 rules of which the last allows it: in
  turn; the median counts, as a share of none
- ``cut``: a TCP connection says a byte every millisecond, and the rule that allows it goes: until the last answer
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from dragonflow.apps import APPS
from dragonflow.controller.engine import Engine
from dragonflow.controller.replica import Object, Replica
from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import GroupMember, LogicalPort, OvsPort, SecurityGroup, SecurityRule
from dragonflow.switch import Switch
from dragonflow.testing import worlds

BRIDGE, GROUP, MORE, PORT = "br-int", "group", 200, 5201
EGRESS = tuple(SecurityRule("egress", version) for version in (4, 6))
A, B = (worlds.port(name, key, security_groups=(GROUP,)) for name, key in (("a", 11), ("b", 12)))

CONNECT = """
import socket, sys, time
end, count = time.monotonic() + float(sys.argv[2]), 0
while time.monotonic() < end:
    made = socket.create_connection((sys.argv[1], 5202), 5)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, bytes((1, 0, 0, 0, 0, 0, 0, 0)))
    made.close()
    count += 1
print(count / float(sys.argv[2]))
"""
ACCEPT = """
import socket
with socket.create_server(("", 5202), backlog=512) as server:
    print("ready", flush=True)
    while True:
        server.accept()[0].close()
"""
ECHO = """
import socket, socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while said := self.request.recv(99):
            self.request.sendall(said)
with socketserver.ThreadingTCPServer(("", 5203), Echo) as server:
    print("ready", flush=True)
    server.serve_forever()
"""
SAY = """
import socket, sys, time
asks = socket.create_connection((sys.argv[1], 5203), 5)
asks.setsockopt(6, 1, 1)
asks.settimeout(2)
try:
    while True:
        asks.sendall(b"?")
        asks.recv(1)
        print(time.time(), flush=True)
        time.sleep(0.001)
except TimeoutError:
    print("silence", flush=True)
"""


class Host:
    """Engine and switch on a real Open vSwitch, and the VMs there."""

    def __init__(self, vswitch: VSwitch) -> None:
        self.vswitch = vswitch
        self._replica = Replica()
        self._engine = Engine(APPS, self._replica, worlds.ME)
        self._revision = itertools.count(1)
        self._news = asyncio.Event()
        places = f"unix:{vswitch.openflow(BRIDGE)}", f"unix:{vswitch.db_sock}", BRIDGE
        self.switch = Switch(*places, datapath_type="netdev", on_ports=self._ports, on_connect=self._news.set)

    def _ports(self, present: list[OvsPort], gone: list[str]) -> None:
        for port in present:
            self._replica.upsert_port(port)
        for name in gone:
            self._replica.remove_port(name)
        self._news.set()

    async def now(self, *objects: Object) -> float:
        """Take in rows. Returns the seconds until the barrier."""
        began = time.perf_counter()
        for it in objects:
            worlds.load(self._replica, it, revision=next(self._revision))
        await self._sync()
        return time.perf_counter() - began

    async def _sync(self) -> None:
        self._engine.settle(self.switch.want)
        await self.switch.sync()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await self._news.wait()
                self._news.clear()
                if self.switch.connected and self.switch.ovsdb_in_sync:
                    await self._sync()

    async def plug(self, port: LogicalPort, netns: str) -> None:
        """A namespace for the port. It knows the MAC of the other."""
        other, tap = (B if port.id == "a" else A), f"tap-{port.id}"
        system.netns_add(netns)
        assert self.vswitch.netns is not None
        system.ip(netns, f"link add eth0 address {port.mac} type veth peer name {tap} netns {self.vswitch.netns}")
        system.offload_off(netns, "eth0")
        system.offload_off(self.vswitch.netns, tap)
        system.ip(self.vswitch.netns, f"link set {tap} up")
        system.ip(netns, "link set eth0 up", f"address add {port.ips[0]}/16 dev eth0")
        system.ip(netns, f"neigh replace {other.ips[0]} lladdr {other.mac} dev eth0 nud permanent")
        ids = f"external_ids:iface-id={port.id}"
        self.vswitch.vsctl("add-port", BRIDGE, tap, "--", "set", "Interface", tap, ids)
        await self.until(lambda: self._engine.locality(port.id) is not None)

    @property
    def flows(self) -> int:
        """How many flows the bridge has."""
        return int(self.vswitch.ofctl("dump-aggregate", BRIDGE).split("flow_count=")[1].split()[0])


@asynccontextmanager
async def host() -> AsyncIterator[tuple[Host, list[str]]]:
    """A host with the two ports plugged in: it, and the namespaces of their VMs."""
    netns = f"df-bench-{os.getpid()}"
    vms = [f"{netns}-{port.id}" for port in (A, B)]
    with tempfile.TemporaryDirectory(prefix="df-bench-") as name:
        system.netns_add(netns)
        vswitch = VSwitch(Path(name) / "ovs", netns)
        try:
            vswitch.start()
            vswitch.add_bridge(BRIDGE)
            it = Host(vswitch)
            running = asyncio.create_task(it.switch.run())
            await it.until(lambda: it.switch.connected and it.switch.ovsdb_in_sync)
            await it.now(worlds.network(), group(()), A, B, *worlds.bindings(A), *worlds.bindings(B))
            for port, vm in zip((A, B), vms, strict=True):
                await it.plug(port, vm)
            yield it, vms
            running.cancel()
            await asyncio.wait([running])
        finally:
            vswitch.stop()
            for each in (*vms, netns):
                subprocess.run(["ip", "netns", "delete", each], check=False, capture_output=True)


def group(rules: Sequence[SecurityRule], **fields: Any) -> SecurityGroup:
    return SecurityGroup(id=GROUP, rules=(*EGRESS, *rules), revision=1, **fields)


def member(number: int) -> GroupMember:
    addresses = f"10.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}", f"fd00::{number + 1:x}"
    return GroupMember(id=f"{GROUP}/{number}", group=GROUP, port=str(number), addresses=addresses)


def some_rules(count: int) -> list[SecurityRule]:
    """Half speak of prefixes, half of ranges of ports; none allows what the VMs do."""
    return [
        SecurityRule("ingress", 4, 6, 22, 22, prefix=f"198.18.{number >> 8}.{number & 255}/32")
        if number % 2
        else SecurityRule("ingress", 4, 6, 10_000 + 9 * number, 10_005 + 9 * number)
        for number in range(count)
    ]


async def members(say: Callable[[str], None]) -> list[dict[str, Any]]:
    found = []
    anything = [SecurityRule("ingress", version, remote_group=GROUP) for version in (4, 6)]
    ports = [SecurityRule("ingress", version, 6, 5000, 5100, remote_group=GROUP) for version in (4, 6)]
    for count in (100, 1_000, 10_000):
        say(f"{count} members")
        async with host() as (it, _):
            await it.now(group([*anything, *ports]))
            before, base, used = resident(), it.flows, resident(it.vswitch)
            cold = await it.now(*map(member, range(count)))
            flows = it.flows - base
            figures = {"flows": flows, "all at once": cold, "MiB here": resident() - before}
            figures["MiB of vswitchd"] = resident(it.vswitch) - used
            more = [await it.now(member(count + number)) for number in range(MORE)]
        found.append({"members": count, **figures, "one more": p50_p99(more)})
    return found


async def rules(say: Callable[[str], None]) -> list[dict[str, Any]]:
    found = []
    for count in (10, 100, 1_000):
        say(f"{count} rules")
        async with host() as (it, _):
            base = it.flows
            cold = await it.now(group(some_rules(count)))
            flows, more = it.flows - base, []
            for number in range(20):
                more.append(await it.now(group(some_rules(count + 2 + 2 * (number % 2)))))
        found.append({"rules": count, "flows": flows, "all at once": cold, "two more or less": p50_p99(more)})
    return found


async def traffic(rounds: int, seconds: float, say: Callable[[str], None]) -> list[dict[str, Any]]:
    kinds: dict[str, int | None] = {"none": None, **{str(count): count for count in (1, 10, 100, 1_000)}}
    speeds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    async with host() as (it, (a, b)):
        with serving(b, "iperf3", "-s", "--forceflush", "-p", str(PORT)), serving(b, sys.executable, "-c", ACCEPT):
            for turn in range(rounds):
                for kind, count in kinds.items():
                    say(f"round {turn + 1} of {rounds}: {kind} rules")
                    secured = count is not None
                    last = SecurityRule("ingress", 4, 6, PORT, PORT + 2)
                    wanted = group([*some_rules((count or 1) - 1), last])
                    await it.now(wanted, *(replace(port, port_security=secured) for port in (A, B)))
                    options = ("-c", B.ips[0], "-p", str(PORT), "-t", str(seconds), "-J")
                    report = json.loads(await inside(a, "iperf3", *options))
                    rate = float(await inside(a, sys.executable, "-c", CONNECT, B.ips[0], str(seconds)))
                    speeds[kind].append((report["end"]["sum_received"]["bits_per_second"] / 1e6, rate))
    medians = {kind: [median(it) for it in zip(*speeds[kind], strict=True)] for kind in kinds}
    none = medians["none"]
    return [
        {
            "rules": kind,
            "Mbit/s": round(its[0]),
            "of none": its[0] / none[0],
            "connections/s": round(its[1]),
            "of none's": its[1] / none[1],
        }
        for kind, its in medians.items()
    ]


async def cut(rounds: int, say: Callable[[str], None]) -> list[dict[str, Any]]:
    taken = []
    allows = SecurityRule("ingress", 4, 6, 5203, 5203)
    async with host() as (it, (a, b)):
        with serving(b, sys.executable, "-c", ECHO):
            for turn in range(rounds):
                say(f"round {turn + 1} of {rounds}: a rule goes")
                await it.now(group([allows]))
                command = ("ip", "netns", "exec", a, sys.executable, "-c", SAY, B.ips[0])
                talk = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
                assert talk.stdout is not None
                for _ in range(300):
                    await talk.stdout.readline()
                removed = time.time()
                await it.now(group([]))
                last = removed
                while (line := (await talk.stdout.readline()).strip()) != b"silence":
                    last = max(last, float(line))
                await talk.wait()
                taken.append(last - removed)
    return [{"rounds": rounds, "rule gone to last answer": p50_p99(taken)}]


class serving:  # noqa: N801 - used as a function
    """A server in a namespace, as a context; those in Python say when they listen."""

    def __init__(self, vm: str, *command: str) -> None:
        self._command = ["ip", "netns", "exec", vm, *command]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


async def inside(vm: str, *command: str) -> str:
    """What a command says in a namespace, while the switch is served."""
    done = await asyncio.create_subprocess_exec("ip", "netns", "exec", vm, *command, stdout=asyncio.subprocess.PIPE)
    said, _ = await done.communicate()
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {said.decode()}")
    return said.decode()


def resident(vswitch: VSwitch | None = None) -> float:
    """MiB of this process, or of ovs-vswitchd."""
    pid = os.getpid() if vswitch is None else vswitch.pids["ovs-vswitchd"]
    (line,) = [it for it in Path(f"/proc/{pid}/status").read_text().splitlines() if it.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


def p50_p99(values: Sequence[float]) -> str:
    """In milliseconds."""
    ordered = sorted(values)
    return f"{median(ordered) * 1e3:.1f} / {ordered[max(0, round(len(ordered) * 0.99) - 1)] * 1e3:.1f} ms"


def show(title: str, found: Sequence[dict[str, Any]]) -> None:
    table = Table(title=title, title_justify="left")
    for column in found[0]:
        table.add_column(column, justify="right")
    for row in found:
        table.add_row(*(f"{it:.2f}" if isinstance(it, float) else str(it) for it in row.values()))
    Console().print(table)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("members", "rules", "traffic", "cut"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    def say(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    kinds = {
        "members": lambda: members(say),
        "rules": lambda: rules(say),
        "traffic": lambda: traffic(options.rounds, options.seconds, say),
        "cut": lambda: cut(10 * options.rounds, say),
    }
    found = {kind: await run() for kind, run in kinds.items() if options.only in (None, kind)}
    if options.json:
        print(json.dumps({"machine": f"{os.cpu_count()} cores, Python {platform.python_version()}", **found}))
        return
    for kind, rows in found.items():
        show(kind, rows)


if __name__ == "__main__":
    asyncio.run(main())
