"""The local controller: all parts and how they are joined. This is the only module that knows all of them.

    DF DB ──> Feed ──> Intake ──┐                                  ┌──> Prover ──> Report ──> DF DB, topic port_status
                        │       ├──> Replica ──> Engine ──> Switch ┤
    topology <──────────┘       │                  (apps)     │    └──> subscribers: metrics, EventLog
                                │                             │
    OVSDB ──> Switch.on_ports ──┘                             └──> Open vSwitch: one bundle, one barrier
                                                                        │
    Open vSwitch <── Switch.send <── Answerer (apps, Replica) <─────────┘  packets that flows punt
                                     Neighbours ──> Replica                who is in external networks
                                     Tunnels ──> Report                    ways to other regions, measured
                                     Holders ──> DF DB                     who holds shared addresses
                                     DropLog ──> Replica                   what is refused, while anybody looks

One task does all from the intake to the barrier (``Turns``), and only then is anybody told. Beside it the prover asks vswitchd
whether ports do work, the limiter has it keep routers to their share of connections, and the answerer answers packets.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec

from dragonflow import secrecy
from dragonflow.apps import APPS
from dragonflow.apps.advertisement import PERIOD, Advertisement
from dragonflow.apps.door import PERIOD as DOOR_PERIOD
from dragonflow.apps.door import Door
from dragonflow.controller.announce import AGAIN, Heralds, announce
from dragonflow.controller.answer import Answerer
from dragonflow.controller.drops import DropLog
from dragonflow.controller.engine import Engine
from dragonflow.controller.events import Confirmed, EventLog, Subscriber, tell
from dragonflow.controller.holders import PERIOD as HOLDER_PERIOD
from dragonflow.controller.holders import Holders
from dragonflow.controller.instances import instance_of
from dragonflow.controller.intake import NOT_WHOLE
from dragonflow.controller.ipsec import Watch
from dragonflow.controller.limits import Limiter
from dragonflow.controller.locality import plain
from dragonflow.controller.neighbours import PERIOD as NEIGHBOUR_PERIOD
from dragonflow.controller.neighbours import Neighbours
from dragonflow.controller.probe import Planner
from dragonflow.controller.proof import Prover
from dragonflow.controller.replica import Replica
from dragonflow.controller.report import Claim, Liveness, Report
from dragonflow.controller.sessions import Sessions
from dragonflow.controller.settings import Settings
from dragonflow.controller.tunnels import Tunnels
from dragonflow.controller.turns import Turn, Turns
from dragonflow.controller.view import View
from dragonflow.metadata import interface
from dragonflow.metadata.address import INTERFACE
from dragonflow.metadata.whose import Asker, Whose
from dragonflow.model import (
    Holder,
    Ipsec,
    LogicalPort,
    Neighbour,
    OvsPort,
    host_scope,
    status_scope,
)
from dragonflow.observe import metrics
from dragonflow.observe.control import ControlServer
from dragonflow.pipeline import PacketOut
from dragonflow.pipeline.fields import Field
from dragonflow.pubsub import open_pubsub
from dragonflow.pubsub.news import pass_hints
from dragonflow.store import open_store
from dragonflow.switch import Switch
from dragonflow.switch.unixctl import Unixctl

LOG = logging.getLogger(__name__)

SHUT_DOWN = "chassis shut down"
"""Why a port is DOWN whose chassis was told to go."""

_GIVE_WAY = 0.0005
"""Seconds that a thread computes before others get Python's lock. A commit of SQLite's thread takes it some ten times."""

_PATIENCE = 4.0
"""Seconds that a shutdown waits for the DF DB."""


class Controller:
    """A host's controller. Build it inside no loop, then ``run`` it in one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._name = settings.chassis.id
        # The driver makes the DF DB. If it is missing, wait for it, as for one that is not whole (see Intake).
        self._store = open_store(settings.store_url, create=False)
        self._bus = open_pubsub(settings.pubsub_url, self._store)
        self._replica = Replica()
        self._sessions = Sessions(self._replica, time.time)
        self._news = asyncio.Event()
        self._me = settings.me
        self._engine = Engine(APPS, self._replica, self._me)
        self._neighbours = Neighbours(self._replica, self._news.set)
        self._holders = Holders(self._store, self._bus, self._replica, self._name, self._news.set)
        self._drops = DropLog(self._name, self._replica, self._packets, self._news.set)
        handlers = {**self._neighbours.handlers(), **self._holders.handlers(), **self._drops.handlers()}
        self._answerer = Answerer(APPS, self._view, handlers)
        self._switch = Switch(
            settings.openflow,
            settings.ovsdb,
            settings.chassis.bridge,
            datapath_type=settings.chassis.datapath_type,
            tls=settings.ovs_tls,
            psk=settings.read_psk(),
            on_ports=self._ports,
            on_connect=self._news.set,
            on_packet=self._answerer.take,
            on_read=self._neighbours.recall,
        )
        self._turns = Turns(
            *(self._store, self._replica, self._engine, self._switch), me=self._me, news=self._news, audience=self
        )
        self._ipsec = (
            None
            if settings.region_ipsec is None
            else Watch(
                *(settings.region_ipsec, settings.chassis.datapath_type, settings.ovsdb),
                lambda: self._switch.other_config,
                self._found_ipsec,
            )
        )
        self._tunnels = Tunnels(self._replica, self._me, self._wake_report)
        self._report = Report(
            *(self._store, self._bus, self._replica, settings.chassis), now=time.time, tunnels=self._tunnels.states
        )
        self._liveness = Liveness(self._store, self._name, settings.lease_ttl, now=time.time)
        self._prover = Prover(
            Unixctl(settings.ovsdb, settings.vswitchd_control),
            settings.chassis.bridge,
            Planner(self._replica, self._engine.locality, self._me, settings.probe),
            self._replica,
            on_verdicts=self._proven,
            on_fault=self._doubt,
            now=time.time,
        )
        self._limiter = Limiter(
            Unixctl(settings.ovsdb, settings.vswitchd_control),
            settings.chassis.datapath_type,
            router=settings.connections_per_router,
            port=settings.connections_per_port,
        )
        self._log = EventLog(self._name, secrets.token_hex(8), self._name_of)
        self._control = ControlServer(
            settings.control_socket,
            {
                "status": self._status,
                "places": self._places,
                "ports": self._ovs_ports,
                "port": self._port,
                "shutdown": self._shut_down,
                "events": self._log.kept,
                "metadata": self._instance,
            },
            {"events": self._log.follow, "drops": self._drops.follow},
        )
        self._stop = asyncio.Event()
        self._shutting_down = False
        self._said: dict[str, Claim] = {}
        self._mods = 0
        self._heralds = Heralds(self._view, self._switch.send)
        self.subscribers: list[Subscriber] = [_count, self._log.confirmed, self._drops.confirmed, self._heralds]

    def _found_ipsec(self, found: Ipsec) -> None:
        self._replica.set_ipsec(found)
        self._news.set()

    async def _packets(self, table: int) -> list[tuple[dict[Field, int], int]]:
        return await self._switch.packets(table)

    def _wake_report(self) -> None:
        self._report.wake()

    def _view(self) -> View:
        """The world as handlers of packets see it, which record nothing."""
        return View(self._replica, self._engine.places, self._me, self._engine.serving)

    async def run(self) -> None:
        """Run until SIGTERM, SIGINT or a shutdown. The flows stay; the chassis isn't alive any more."""
        sys.setswitchinterval(_GIVE_WAY)
        metrics.IN_SYNC.set_function(lambda: self._in_sync)
        metrics.follow_bus(self._bus.stats)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)
        LOG.info("controller of %s, DF DB %s", self._name, secrecy.masked(self._settings.store_url))
        secrecy.warn_if_in_clear("[df] store_url", self._settings.store_url)
        secrecy.warn_if_in_clear("[df] pubsub_url", self._settings.pubsub_url)
        async with asyncio.TaskGroup() as group:
            parts = (
                self._turns.intake.run(),
                *((pass_hints(self._store, self._bus),) if self._store.needs_hints else ()),
                self._switch.run(),
                self._answerer.run(self._switch.send),
                announce(Advertisement().unasked, self._view, self._switch.send, PERIOD),
                announce(Door().unasked, self._view, self._switch.send, DOOR_PERIOD),
                announce(self._heralds.unasked, self._view, self._switch.send, AGAIN),
                announce(self._ask_neighbours, self._view, self._switch.send, NEIGHBOUR_PERIOD),
                announce(self._ask_holders, self._view, self._switch.send, HOLDER_PERIOD),
                self._turns.run(),
                self._prover.run(),
                self._limiter.run(),
                self._report.run(),
                self._tunnels.run(),
                *(() if self._ipsec is None else (self._ipsec.run(),)),
                self._holders.run(),
                self._liveness.run(),
                self._control.run(),
            )
            tasks = [group.create_task(part) for part in parts]
            await self._stop.wait()
            for task in tasks:
                task.cancel()
        await self._liveness.end()
        await self._bus.close()
        await self._store.close()
        LOG.info("ended; the flows stay")

    def _ask_neighbours(self, view: View) -> Iterator[PacketOut]:
        """Not before the switch has all: until then nobody is known to be here, in whose name to ask."""
        if self._turns.confirmed:
            yield from self._neighbours.tick(view)

    def _ask_holders(self, view: View) -> Iterator[PacketOut]:
        """Nor these: until then no port is known to be here."""
        if self._turns.confirmed:
            yield from self._holders.tick(view)

    def _ports(self, present: list[OvsPort], gone: list[str]) -> None:
        self._turns.ports_changed(present, gone)
        self._sessions.take(present, gone)

    # How the turns go

    @property
    def judging(self) -> bool:
        """See ``Audience``."""
        return self._prover.awaited

    def complete(self) -> None:
        """What was known of neighbours before this process began can be taken over now."""
        self._neighbours.begin()

    def unsettled(self) -> None:
        """What the prover sees meanwhile is no fault."""
        self._prover.unsettled()

    def unconfirmed(self) -> None:
        """Have reported what rests on rows alone."""
        self._report.wake()

    def confirmed(self, turn: Turn) -> None:
        """Prove what the switch has, report it, and tell of it."""
        self._mods += turn.mods
        metrics.MODS.inc(turn.mods)
        self._said = turn.said
        self._prover.settled(self._said, self._switch.connections, changed=turn.mods > 0)
        self._limiter.want(self._switch.zones, self._switch.connections)
        self._tell()
        tell(self.subscribers, turn.confirmed)

    def _tell(self) -> None:
        """Have reported what was confirmed and proven."""
        if not self._shutting_down:
            self._report.confirmed(self._prover.gate(self._said))

    def _proven(self) -> None:
        """There are verdicts."""
        self._tell()
        self._turns.judged()

    def _doubt(self) -> None:
        """A port doesn't work although its flows should stand: somebody else may have changed the switch."""
        self._switch.doubt()
        self._news.set()

    async def _shut_down(self) -> dict[str, Any]:
        """The chassis goes: say DOWN of all its ports, withdraw its liveness, end. The flows stay.

        Returns how many ports there are, and what the DF DB could not be told, in words.
        """
        LOG.info("shutting down: all ports of %s are reported DOWN", self._name)
        self._shutting_down = True
        said = self._turns.claims()
        down = {
            port: msgspec.structs.replace(claim, status="DOWN", reason=SHUT_DOWN, ofport=None)
            for port, claim in said.items()
        }
        self._report.confirmed(down)
        untold = ""
        if not {host_scope(self._name), status_scope(self._name)} <= self._turns.intake.arrived:
            untold = "the statuses of this chassis's ports are as they were: the DF DB has not been read yet"
        elif not await self._report.written(_PATIENCE):
            untold = f"the statuses of {len(down)} ports may not all be DOWN: {self._report.trouble or 'no answer'}"
        if untold:
            LOG.warning("%s", untold)
        await self._liveness.end()
        self._stop.set()
        return {"ports": len(down), "untold": untold}

    @property
    def _in_sync(self) -> bool:
        return (
            self._turns.intake.in_sync and self._turns.confirmed and self._switch.connected and not self._news.is_set()
        )

    async def _status(self) -> dict[str, Any]:
        """For operators: is it in sync, and what had to be left out."""
        return {
            "chassis": self._name,
            "in_sync": self._in_sync,
            "switch_connected": self._switch.connected,
            "ovsdb_in_sync": self._switch.ovsdb_in_sync,
            "df_db": self._df_db(),
            "statuses": self._report.trouble or "written",
            "bus": msgspec.to_builtins(self._bus.stats),
            "metadata": await self._metadata_proxy(),
            "probe": self._prover.status(),
            "connection_limits": self._limiter.status,
            "revision": self._turns.intake.revision,
            "mods_since_start": self._mods,
            "places": len(self._engine.places),
            "scopes": sorted(self._turns.intake.arrived),
            "bfd_sessions": self._sessions.status(),
            "neighbours": {it.id: it.mac for it in self._replica.all(Neighbour)},
            "shared_addresses": {it.place: it.port for it in self._replica.where(Holder, chassis=self._name)},
            "holders": self._holders.trouble or "written",
            "refused_rows": {str(key): reason for key, reason in self._turns.intake.refused.items()},
            "degraded": {str(owner): reason for owner, reason in self._turns.degraded.items()},
        }

    async def _metadata_proxy(self) -> str:
        """Whether anybody is there for guests who ask for metadata, and has no more to do than he can."""
        if not self._settings.metadata:
            return "not served: no [df] metadata_proxy_shared_secret"
        try:
            waiting = await asyncio.to_thread(interface.waiting)
        except OSError as error:
            return f"not known: {error}"
        if waiting is None:
            return f"nobody listens on {INTERFACE}: is dragonflow-metadata running?"
        return f"the proxy listens on {INTERFACE}; {waiting} connections wait for it"

    def _df_db(self) -> str:
        """Whether the DF DB can be read and is whole, and since when it doesn't answer."""
        trouble, reading = self._liveness.trouble, self._turns.intake.outage
        if trouble is None and reading is None:
            return f"{self._settings.store_url} {NOT_WHOLE}" if self._turns.intake.not_whole else "answers"
        since = "" if trouble is None else f" since {time.strftime('%H:%M:%S', time.localtime(trouble[1]))}"
        return f"away{since}: {reading or (trouble[0] if trouble else '')}"

    def _port(self, port: str) -> dict[str, Any]:
        """One port as seen from here: its place, what is said of it (nothing while it is being proven), its last proof."""
        place, claim = self._engine.locality(port), self._prover.gate(self._said).get(port)
        return {
            "chassis": self._name,
            "in_sync": self._in_sync,
            "place": None if place is None else plain(place),
            "said": None if claim is None else msgspec.to_builtins(claim),
            "probe": self._prover.of(port),
            "interfaces": [msgspec.to_builtins(it) for it in self._replica.where(OvsPort, iface_id=port)],
            "degraded": self._turns.broken().get(port),
        }

    def _instance(self, asker: Any) -> Any:
        """For the metadata proxy: whose port it is that asks. What is known stays known while the DF DB is away."""
        instance = instance_of(msgspec.convert(asker, Asker), self._view()) if self._turns.complete else None
        return Whose(instance, self._turns.complete)

    def _name_of(self, port: str) -> str:
        row = self._replica.get(LogicalPort, port)
        return "" if row is None else row.name

    def _places(self) -> dict[str, Any]:
        """Every port that has a place as seen from here."""
        return {port: plain(locality) for port, locality in self._engine.places.items()}

    def _ovs_ports(self) -> list[Any]:
        """The interfaces on the integration bridge as OVSDB tells them."""
        return [msgspec.to_builtins(port) for port in self._replica.all(OvsPort)]


def _count(confirmed: Confirmed) -> None:
    for event in confirmed.events:
        metrics.LOCALITY_EVENTS.labels(event.kind, event.change).inc()
