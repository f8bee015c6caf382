"""A chassis for tests: a real Open vSwitch, the real switch and engine, and a world that the test sets by hand."""

from __future__ import annotations

import asyncio
import itertools
import os
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from msgspec.structs import replace

from dragonflow.apps import APPS
from dragonflow.controller.announce import AGAIN, Heralds, announce
from dragonflow.controller.answer import Answerer
from dragonflow.controller.drops import DropLog
from dragonflow.controller.engine import Engine, Settled
from dragonflow.controller.events import Confirmed
from dragonflow.controller.holders import PERIOD as HOLDERS_PERIOD
from dragonflow.controller.holders import Holders
from dragonflow.controller.neighbours import PERIOD, Neighbours
from dragonflow.controller.replica import Object, Replica
from dragonflow.controller.view import Me, View
from dragonflow.lab import system
from dragonflow.lab.vswitch import VSwitch
from dragonflow.model import Binding, Holder, LogicalPort, OvsPort, Row, decode, holder_scope
from dragonflow.pipeline.fields import Field
from dragonflow.pubsub.none import NoPubSub
from dragonflow.store.memory import MemoryStore
from dragonflow.switch import Switch
from dragonflow.switch.openflow.connection import Connection
from dragonflow.switch.readback import read_back
from dragonflow.testing import worlds
from dragonflow.testing.audit import audit
from dragonflow.testing.worlds import World

BRIDGE = "br-int"

_serial = itertools.count()


class TestChassis:
    """The controller's loop by hand: ``now(rows…)`` changes the world and returns when the switch has confirmed it."""

    __test__ = False

    def __init__(self, vswitch: VSwitch, me: Me = worlds.ME, store: MemoryStore | None = None) -> None:
        self.vswitch = vswitch
        self.store = store or MemoryStore()
        self.me = me
        self.replica = Replica()
        self.engine = Engine(APPS, self.replica, me)
        self._news = asyncio.Event()
        self.neighbours = Neighbours(self.replica, self._news.set)
        self.replica.reset_scope(holder_scope(me.chassis), (), 0)
        worlds.load(self.replica, worlds.OPEN, worlds.STATELESS)
        self.holders = Holders(self.store, NoPubSub(), self.replica, me.chassis, self._news.set)
        self.drops = DropLog(me.chassis, self.replica, self._packets, self._news.set)
        handlers = {**self.neighbours.handlers(), **self.holders.handlers(), **self.drops.handlers()}
        self.answerer = Answerer(APPS, self.view, handlers)
        self._revision = itertools.count(1)
        self._vms: list[str] = []
        self.switch = Switch(
            f"unix:{vswitch.openflow(BRIDGE)}",
            f"unix:{vswitch.db_sock}",
            BRIDGE,
            datapath_type="netdev",
            on_ports=self._ports,
            on_connect=self._news.set,
            on_packet=self.answerer.take,
            on_read=self.neighbours.recall,
        )

        self.heralds = Heralds(self.view, self.switch.send)

    def view(self) -> View:
        """The world as handlers see it."""
        return View(self.replica, self.engine.places, self.me, self.engine.serving)

    async def _packets(self, table: int) -> list[tuple[dict[Field, int], int]]:
        return await self.switch.packets(table)

    def _ports(self, present: list[OvsPort], gone: list[str]) -> None:
        for port in present:
            self.replica.upsert_port(port)
        for name in gone:
            self.replica.remove_port(name)
        self._news.set()

    async def now(self, *objects: Object, gone: tuple[Object, ...] = ()) -> Settled:
        """Take in rows and removals, and sync. Ports bring their bindings, as in Neutron."""
        self.load(*objects)
        for it in gone:
            assert isinstance(it, Row)
            self.replica.remove(type(it), it.id, next(self._revision))
            if isinstance(it, LogicalPort):
                self._bind(replace(it, chassis=None, standby=()))
        return await self.sync()

    def load(self, *objects: Object) -> None:
        """Take them in, and leave it at that."""
        for it in objects:
            worlds.load(self.replica, it, revision=next(self._revision))
            if isinstance(it, LogicalPort):
                self._bind(it)

    def _bind(self, port: LogicalPort) -> None:
        here = [it for it in worlds.bindings(port) if it.host == self.me.chassis]
        known = self.replica.get(Binding, port.id)
        if here and known is None:
            worlds.load(self.replica, *here, revision=next(self._revision))
        elif known is not None and not here:
            self.replica.remove(Binding, port.id, next(self._revision))

    async def sync(self) -> Settled:
        settled = self.engine.settle()
        for owner, facts in settled.facts.items():
            self.switch.want(owner, facts)
        await self.switch.sync()
        assert not self.switch.degraded, self.switch.degraded
        confirmed = Confirmed(settled.changes, settled.events, 0.0, {})
        self.drops.confirmed(confirmed)
        self.heralds(confirmed)
        return settled

    async def until(self, condition: Callable[[], bool]) -> None:
        """Sync at every news until it holds."""
        async with asyncio.timeout(20):
            while True:
                await self.sync()
                if condition():
                    return
                await self._news.wait()
                self._news.clear()

    async def live(self) -> None:
        """Sync at every news and send what is due unasked, as the controller does, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(announce(self.neighbours.tick, self.view, self.switch.send, PERIOD))
            group.create_task(announce(self.holders.tick, self.view, self.switch.send, HOLDERS_PERIOD))
            group.create_task(self.holders.run())
            group.create_task(self._follow_holders())
            group.create_task(announce(self.heralds.unasked, self.view, self.switch.send, AGAIN))
            while True:
                self._news.clear()
                await self.sync()
                await self._news.wait()

    async def _follow_holders(self) -> None:
        """Take in what all chassis write: the one kind of row that a test leaves to them."""
        async for changes in self.store.watch({holder_scope("*"): 0}):
            for record in changes.records:
                if record.key.scope not in self.replica.scopes:
                    self.replica.reset_scope(record.key.scope, (), 0)
                if record.data is None:
                    self.replica.remove(Holder, record.key.id, record.revision, record.key.scope)
                else:
                    self.replica.upsert(decode(record.key.kind, record.key.id, record.data), record.revision)
            self._news.set()

    async def vm(self, port: LogicalPort, *addresses: str) -> str:
        """Plug a namespace for the port; returns its name. Addresses carry a prefix length; no ND or DAD happens for them."""
        name, tap = f"dfv-{os.getpid()}-{next(_serial)}", f"tap{next(_serial)}"
        system.netns_add(name)
        self._vms.append(name)
        host = self.vswitch.netns
        assert host is not None
        system.sysctl(
            name, {"net/ipv6/conf/default/accept_dad": "1", "net/ipv6/conf/default/router_solicitations": "0"}
        )
        system.ip(name, f"link add eth0 address {port.mac} type veth peer name {tap} netns {host}")
        system.offload_off(name, "eth0")
        system.offload_off(host, tap)
        system.ip(host, f"link set {tap} up")
        system.ip(name, "link set eth0 up", *(f"address add {it} dev eth0 nodad" for it in addresses))
        set_ids = f"external_ids:iface-id={port.id}"
        self.vswitch.vsctl("add-port", BRIDGE, tap, "--", "set", "Interface", tap, set_ids)
        await self.until(lambda: self.engine.locality(port.id) is not None or port.chassis != self.me.chassis)
        return name

    def trace(self, flow: str) -> str:
        """What the switch would do with a packet."""
        return self.vswitch.appctl("ofproto/trace", BRIDGE, flow)

    def flows(self) -> str:
        """The switch's flows and groups in words, without what changes by itself, in order."""
        options = ("--no-stats", "--no-names")
        flows = [line.strip() for line in self.vswitch.ofctl("dump-flows", BRIDGE, *options).splitlines()]
        groups = []
        for line in self.vswitch.ofctl("dump-groups", BRIDGE, "--no-names").splitlines():
            head, *buckets = line.strip().split(",bucket=")
            groups.append(",bucket=".join((head, *sorted(buckets))))
        wanted = [line for line in (*flows, *groups) if line and not line.startswith(("OFPST_", "NXST_"))]
        return "\n".join(sorted(wanted)) + "\n"

    def hits(self, table: int) -> int:
        """Packets that went through the table's flows of non-zero priority."""
        lines = self.vswitch.ofctl("dump-flows", BRIDGE, f"table={table}").splitlines()
        return sum(
            int(it.split("n_packets=")[1].split(",")[0])
            for it in lines
            if "n_packets=" in it and "priority=0" not in it
        )

    async def differences(self) -> tuple[str, ...]:
        """How the switch differs from what the oracle computes from the same world."""
        connection = await Connection.open(f"unix:{self.vswitch.openflow(BRIDGE)}")
        try:
            return audit(World.held_by(self.replica, self.me), await read_back(connection))
        finally:
            connection.close()

    def leave(self, vm: str) -> None:
        """The VM outlives this controller; who asks for that removes it."""
        self._vms.remove(vm)

    def remove(self) -> None:
        for name in self._vms:
            system.netns_delete(name)


@asynccontextmanager
async def chassis(
    vswitch: VSwitch, me: Me = worlds.ME, *, audited: bool = True, store: MemoryStore | None = None
) -> AsyncIterator[TestChassis]:
    """A chassis that runs; at the end its switch must hold what the oracle computes, unless the test meddled with it."""
    vswitch.add_bridge(BRIDGE)
    it = TestChassis(vswitch, me, store)
    tasks = [asyncio.create_task(it.switch.run()), asyncio.create_task(it.answerer.run(it.switch.send))]
    try:
        async with asyncio.timeout(20):
            while not (it.switch.connected and it.switch.ovsdb_in_sync):
                await it._news.wait()
                it._news.clear()
        yield it
        different = await it.differences() if audited else ()
        assert different == (), different
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        it.remove()


def inside(vm: str, *command: str, timeout: float = 20) -> subprocess.CompletedProcess[str]:
    """Run a command in a VM's namespace."""
    full = ("ip", "netns", "exec", vm, *command)
    return subprocess.run(full, capture_output=True, text=True, timeout=timeout, check=False)


def reaches(vm: str, address: str, *options: Any) -> bool:
    """Whether one of three pings, 0.2 s apart, comes back."""
    return system.pings(vm, address, *map(str, options))


def loses(vm: str, address: str) -> bool:
    """Whether pings come back no more, sooner or later: for a moment the data path goes on by the flows before a change."""
    end = time.monotonic() + 15
    while reaches(vm, address):
        if time.monotonic() > end:
            return False
    return True


def neighbour(vm: str, address: str) -> str:
    """What the VM's kernel knows of its neighbour."""
    return inside(vm, "ip", "neigh", "show", address).stdout
