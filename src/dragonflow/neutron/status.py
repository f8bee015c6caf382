"""The way back: what the hosts say of their ports becomes Neutron's port status. Done by the leader.

Level-triggered: a port's status follows from the row that the port's present host wrote for its present binding, and from
nothing that happened before. Messages and feeds only say where to look first; all ports are compared again and again.

A floating IP's status follows likewise from the row that is written of its own port, by the host of the port that it stands for.

A router's gateway, and a floating IP that forwards ports, are bound nowhere: the chassis find out for themselves which of them
serves it, and that one writes a row of the gateway's or the floating IP's own port, for generation 0. They are ACTIVE while any
says so. Of a gateway OVN shows the same in Neutron, and L2 agents do by binding it to their network node.

A port of another region is bound nowhere here, either. One of the chassis that reach it says likewise that it is ACTIVE, while
its own region does and the tunnel there isn't down.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Literal

from neutron.db import provisioning_blocks
from neutron_lib import constants
from neutron_lib.callbacks import registry, resources
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import directory

from dragonflow.model import PortStatus, status_scope
from dragonflow.neutron import db, l3
from dragonflow.neutron.agenda import Agenda
from dragonflow.neutron.db import FloatingNow, PortNow, StaleTurn, StandbyNow
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.keeper import TURN, Keeper
from dragonflow.neutron.nova import plugged_elsewhere
from dragonflow.neutron.outage import Outage, is_outage
from dragonflow.neutron.table import Table
from dragonflow.neutron.translate import UNBOUND_VIF_TYPES
from dragonflow.store.feed import ScopeReset
from dragonflow.store.protocol import Key

LOG = logging.getLogger(__name__)

DRIVER = "df"
"""Our name among ML2's drivers, as it stands in a port's binding levels."""

ACTIVE, DOWN = constants.PORT_STATUS_ACTIVE, constants.PORT_STATUS_DOWN
Turn = Literal["ACTIVE", "DOWN"]

SHARE = 20
"""Of the leader's time, at most one part in so many goes into comparing everything."""

AT_LEAST = 60.0
"""Seconds after which all ports are compared even if nothing seems to have changed."""

BATCH = 10
"""Ports at most that one thread takes on at a time."""

SLOW = 3.0
"""Seconds after which a thread counts as held up: another takes its place meanwhile."""

IDLE = 5.0
"""Seconds for which a thread waits for work before it looks whether it is still needed."""

MOST = 4
"""How many times the usual number of threads there are at the most, while some are held up."""


def turn(port: PortNow, row: PortStatus | None) -> Turn | None:
    """The status to which the port must turn now; None if it stands right or nobody may say.

    Only the host to which the port is bound now may say anything, and only about its present binding. A port that is switched
    off is DOWN whatever its host says. A router's interface is on no host and on all: it is ACTIVE as soon as all can know of it.
    Of what is bound nowhere see ``unbound_turn``.
    """
    if not port.routing and (not port.ours or port.vif_type in UNBOUND_VIF_TYPES):
        return None
    if not port.admin_up:
        return "DOWN" if port.status == ACTIVE else None
    if port.routing:
        return "ACTIVE" if port.status != ACTIVE and not port.unwritten else None
    if row is None or row.chassis != port.host or row.generation != port.generation or row.status == port.status:
        return None
    if row.status == "ACTIVE":
        return "ACTIVE"
    return "DOWN" if port.status == ACTIVE else None


def unbound_turn(port: PortNow, rows: Iterable[PortStatus]) -> Turn | None:
    """The status to which what is bound nowhere must turn now, by all rows of it that there are; None if it stands right.

    That is a router's gateway, or a port of another region.

    While one chassis takes over from another, two may have written a row, or none.
    """
    wanted: Turn = "ACTIVE" if port.admin_up and any(map(_serves, rows)) else "DOWN"
    return wanted if wanted != port.status else None


def floating_turn(floating: FloatingNow, rows: Iterable[PortStatus]) -> Turn | None:
    """The status to which a floating IP must turn now, by all rows of its own port that there are; None if it stands right.

    It is ACTIVE only while the host of the port that it stands for says so, for that port's present binding. If it forwards
    ports to several, or stands for one that is bound nowhere, any chassis may say so.
    """
    if floating.anywhere:
        serving = any(map(_serves, rows))
    else:
        present = (floating.host, floating.generation, "ACTIVE")
        serving = any((row.chassis, row.generation, row.status) == present for row in rows)
    wanted: Turn = "ACTIVE" if serving else "DOWN"
    return wanted if wanted != floating.status else None


def _serves(row: PortStatus) -> bool:
    """Whether a chassis says that it serves what is bound nowhere."""
    return row.generation == 0 and row.status == "ACTIVE"


class Neutron:
    """How a status is set in Neutron, so that Nova learns of it."""

    def ports(self, ids: Collection[str] | None = None) -> Iterable[PortNow]:
        """All ports, or these, as they are now."""
        return db.ports_now(get_admin_context(), DRIVER, ids, l3.providers())

    def mark(self) -> object:
        """Equals the one before if no port or binding has changed, as far as that can be told cheaply."""
        return db.ports_mark(get_admin_context())

    def standby(self, ids: Collection[str] | None = None) -> list[StandbyNow]:
        """The hosts prepared for ports that are bound elsewhere; of all ports, or of these."""
        return db.standby_now(get_admin_context(), DRIVER, ids)  # type: ignore[no-any-return]

    def floating(self, ports: Collection[str] | None = None) -> Collection[FloatingNow]:
        """The floating IPs whose status is ours to say, as they are now; of all, or of those with these ports of their own."""
        return list(db.floating_now(get_admin_context(), l3.providers(), ports))

    def turn_floating(self, floating: FloatingNow, status: Turn) -> None:
        """Turn a floating IP. One that is gone is no error."""
        l3.plugin().update_floatingip_status(get_admin_context(), floating.id, status)

    def turn(self, ports: Collection[PortNow], status: Turn) -> Collection[str]:
        """Turn the ports to ``status`` if they still have the bindings that ``ports`` tell of. One that is gone is no error.

        Returns the ids of those that wait for nobody else.

        They share the reading of the database and are written one by one, as ML2 does for an agent that tells of several:
        whatever hangs on a port's change hears of each. If it fails, some may have been turned.

        :raises StaleTurn: one was bound anew, or switched off; to that one nothing was done.
        """
        context = get_admin_context()
        ids = [port.id for port in ports]
        try:
            with db.fenced({port.id: port.generation for port in ports}):
                if status == DOWN:
                    db.block(context, ids)
                elif _others_listen():
                    self._complete(ids)
                    return ids
                else:
                    ids = db.unblock(context, ids)
                directory.get_plugin().update_port_statuses(context, dict.fromkeys(ids, status))
                return ids
        except StaleTurn:
            if status == ACTIVE:  # the block that was taken away on the way is the new binding's
                db.block(context, [port.id for port in self.ports(ids) if port.status != ACTIVE])
            raise

    @staticmethod
    def _complete(ids: Collection[str]) -> None:
        for port_id in ids:
            provisioning_blocks.provisioning_complete(
                get_admin_context(), port_id, resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
            )

    def set(self, port_id: str, status: Turn) -> None:
        """Turn the port, whatever its binding, if Neutron sees nothing against it. Not to be called inside a transaction."""
        if status == ACTIVE:
            self._complete([port_id])
        else:
            context = get_admin_context()
            db.block(context, [port_id])
            directory.get_plugin().update_port_status(context, port_id, DOWN)

    def plugged(self, port_id: str) -> None:
        """Tell Nova that the port works on a host to which it is being migrated."""
        plugged_elsewhere(port_id)


def _others_listen() -> bool:
    """Whether anybody but ML2 itself wants to hear that a port is provisioned: then Neutron's own way is the only one.

    Nobody does in Neutron 29. All that ML2 does then is what ``Neutron.turn`` does, at twice the cost, a port at a time.
    """
    callbacks = registry._get_callback_manager()._callbacks[resources.PORT]
    listeners = callbacks.get(provisioning_blocks.PROVISIONING_COMPLETE, ())
    return sum(len(each.pri_callbacks) for each in listeners) > 1


class StatusKeeper(Keeper):
    """Follows the status rows and turns ports, from ``start`` to ``stop``. ``period`` is in seconds.

    ::

        feed ── told ──► agenda ──► ``threads`` that look at a port as it is now, and turn it
        all ports ─ found ─┘

    One thread follows the feed and compares; it never turns a port itself, so nothing that is slow there holds it up.
    """

    def __init__(
        self,
        dfdb: DfDb,
        period: float,
        neutron: Any = None,
        clock: Callable[[], float] = time.monotonic,
        threads: int = 1,
    ) -> None:
        super().__init__("port statuses", clock)
        self._dfdb = dfdb
        self._period = period
        self._neutron = neutron or Neutron()
        self._rows: Table[PortStatus] = Table(PortStatus)
        self._agenda = Agenda()
        self._turning = Outage("turning ports")
        self._usual = threads
        self._crew = 0
        self._lock = threading.Lock()
        self._follower = 0
        self._right: object = None  # Neutron's mark when all were found right; None while any may be wrong
        self._compared = -math.inf
        self._plugged: set[StandbyNow] = set()
        self._all_told = False  # whether the rows are all there, so that one that is missing says something

    def start(self) -> None:
        """See ``Keeper``."""
        super().start()
        for _ in range(self._usual):
            self._hire()

    def stop(self) -> None:
        """See ``Keeper``."""
        self._agenda.close()
        super().stop()

    def stuck(self) -> float:
        """See ``Keeper``; but while any thread gets on, a port that hangs is that port's trouble alone."""
        now, steps = self._clock(), dict(self._steps)
        following = steps.pop(self._follower, now)
        all_held_up = self._crew >= MOST * self._usual and len(steps) >= self._crew
        return max(now - following, now - max(steps.values()) if all_held_up else 0.0)

    # -- one thread: what may have changed -----------------------------------------------------------------------------

    def _follow(self) -> None:
        self._follower = threading.get_ident()
        self._all_told, self._rows = False, Table(PortStatus)
        feed = self._dfdb.store.feed([status_scope("*")])
        due = self._clock()
        try:
            while not self._stop.is_set():
                news = feed.next(max(0.0, min(TURN, due - self._clock())))
                if news is not None:
                    changed = self._rows.apply(news)
                    if isinstance(news, ScopeReset):
                        self._right = None
                        due = (
                            self._clock()
                        )  # everything may be different, and comparing is the quickest way to find out
                    else:
                        self._agenda.told(key.id for key in changed)
                self._all_told = feed.in_sync
                if self._clock() >= due and feed.in_sync:
                    due = self._compare()
                self._relieve()
        finally:
            feed.close()

    def _compare(self) -> float:
        """Look at all ports, unless all were right and nothing has changed since; returns when to do so again."""
        began = self._clock()
        try:
            with self._step():
                mark = self._neutron.mark()
                if mark == self._right and began - self._compared < AT_LEAST:
                    return began + self._period
                self._right = mark
                wrong = [port.id for port in self._neutron.ports() if self._turn(port)]
                wrong += [floating.port for floating in self._neutron.floating() if self._floating_turn(floating)]
                standby = set(self._neutron.standby())
        except Exception as error:
            self._right = None
            return self._clock() + self._outage.failed(error)
        self._outage.over()
        self._compared = began
        self._plugged &= standby
        wrong += [other.id for other in standby if self._wired(other)]
        if wrong:
            self._right = None
            self._agenda.found(wrong)
        return self._clock() + max(self._period, SHARE * (self._clock() - began))

    def _relieve(self) -> None:
        """Where all threads are held up (Neutron itself waits long for a database that was away), others go on."""
        now = self._clock()
        held_up = sum(now - began > SLOW for began in list(self._steps.values()))
        if held_up:
            self._agenda.found(self._agenda.overdue())
        if len(self._agenda) and self._crew - held_up < self._usual and self._crew < MOST * self._usual:
            self._hire()

    # -- some threads: turning ports -----------------------------------------------------------------------------------

    def _hire(self) -> None:
        with self._lock:
            self._crew += 1
            number = self._crew
        self._begin(self._work, f"df-status-{number}")

    def _work(self) -> None:
        """Turn ports until stopped; one thread too many leaves when it has nothing to do."""
        while not self._stop.is_set():
            # While some are held up, one at a time: what a thread has in its hands beside the one that hangs would hang, too.
            most = 1 if self._crew > self._usual else min(BATCH, 1 + len(self._agenda) // self._usual)
            ids = self._agenda.take(most, IDLE)
            if not ids:
                with self._lock:
                    if self._crew > self._usual:
                        break
                continue
            try:
                self._examine(ids)
                self._turning.over()
            except Exception as error:
                self._right = None
                self._agenda.found(ids)
                self._stop.wait(self._turning.failed(error))
            finally:
                self._agenda.done(ids)
        with self._lock:
            self._crew -= 1

    def _examine(self, ids: Collection[str]) -> None:
        """Look at the ports as they are now and turn those that are wrong."""
        with self._step():
            ports = list(self._neutron.ports(ids))
        wrong: dict[Turn, list[PortNow]] = {"ACTIVE": [], "DOWN": []}
        for port in ports:
            status = self._turn(port)
            if status is not None:
                wrong[status].append(port)
        for status, some in wrong.items():
            self._turn_all(some, status)
        for port in ports:
            if port.migrating:
                self._tell_of_standby(port.id)
        guests = {port.id for port in ports if port.ours or port.remote}
        if self._all_told and (others := [port for port in ids if port not in guests]):
            self._turn_floating(others)

    def _turn(self, port: PortNow) -> Turn | None:
        if port.gateway or port.remote:
            return unbound_turn(port, self._rows.named(port.id)) if self._all_told else None
        return turn(port, self._row(port.id, port.host))

    def _floating_turn(self, floating: FloatingNow) -> Turn | None:
        return floating_turn(floating, self._rows.named(floating.port))

    def _turn_floating(self, ports: Collection[str]) -> None:
        """Look at the floating IPs with these ports of their own, and turn those that are wrong."""
        with self._step():
            for floating in self._neutron.floating(ports):
                status = self._floating_turn(floating)
                if status is not None:
                    self._neutron.turn_floating(floating, status)
                    LOG.info("df: floating IP %s is %s", floating.id, status)

    def _row(self, port_id: str, host: str) -> PortStatus | None:
        return self._rows.get(Key(status_scope(host), PortStatus.__name__, port_id))

    def _turn_all(self, ports: Sequence[PortNow], status: Turn) -> None:
        """Turn them together; or, if that fails for anything but an outage, one by one, so that one alone suffers for it."""
        if not ports or self._stop.is_set():
            return
        try:
            with self._step():
                turned = self._neutron.turn(ports, status)
        except Exception as error:
            if is_outage(error):
                raise
            if len(ports) > 1:
                for port in ports:
                    self._turn_all([port], status)
            elif isinstance(error, StaleTurn):
                LOG.info("df: not turned %s: %s", status, error)
                self._agenda.told([ports[0].id])
            else:
                self._right = None
                LOG.exception("df: port %s could not be turned %s and will be tried again", ports[0].id, status)
        else:
            for port in ports:
                if port.id in turned:
                    LOG.info("df: port %s on host %s is %s", port.id, port.host, status)

    def _wired(self, other: StandbyNow) -> bool:
        """Whether the host has the port wired, and Nova need yet be told."""
        row = self._row(other.id, other.host)
        return (
            other not in self._plugged
            and row is not None
            and (row.chassis, row.generation, row.status) == (other.host, other.generation, ACTIVE)
        )

    def _tell_of_standby(self, port_id: str) -> None:
        with self._step():
            for other in self._neutron.standby([port_id]):
                if self._wired(other):
                    self._neutron.plugged(other.id)
                    self._plugged.add(other)
                    LOG.info("df: port %s is wired on host %s, to which it is being migrated", other.id, other.host)
