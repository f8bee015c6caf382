"""The way back: this chassis's own rows of the DF DB say what is, whatever was lost in between.

Level-triggered: the rows that should stand (the chassis itself, the status of each port bound here, the state of each tunnel to
another region) are compared with those that stand in the replica, and the difference is written. No lost write, lost row or
restart changes what should stand.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from dragonflow.apps.wiring import bridge_of, interfaces, is_standby, physical_ofport, standby_ofport
from dragonflow.controller.replica import Replica
from dragonflow.controller.view import Me
from dragonflow.model import (
    KINDS,
    PHYSICAL_TYPES,
    ROUTER_GATEWAY,
    Alive,
    Binding,
    Chassis,
    FloatingIp,
    LogicalPort,
    LogicalSwitch,
    OvsPort,
    PortStatus,
    Row,
    TunnelState,
    encode,
    remote_vtep,
    status_scope,
)
from dragonflow.observe import metrics
from dragonflow.pipeline.facts import Local, Locality
from dragonflow.pubsub.protocol import PORT_STATUS, Message, PubSub
from dragonflow.store.protocol import Delete, Key, Put, Record, Store, StoreError, Txn
from dragonflow.store.standing import Standing

LOG = logging.getLogger(__name__)

_BATCH = 100
"""Status rows a transaction: what etcd's default of 128 operations a transaction allows, with room."""

_LONGEST_REASON = 500
"""Characters of a reason, so that a batch stays far below etcd's 1.5 MB a request."""

_BACKOFF = (0.1, 1.0)
"""Seconds to wait after the first failed write, and at the most: statuses are right again soon after an outage."""


class Claim(msgspec.Struct, frozen=True):
    """What this chassis may say of a port, once the barrier has confirmed the flows of ``revision``.

    ``reason`` says why a port is DOWN; ``ofport`` is where an ACTIVE one is wired; ``owner`` is the floating IP (its id) whose
    port it is.
    """

    network: str
    generation: int
    status: Literal["ACTIVE", "DOWN"]
    revision: int
    reason: str = ""
    ofport: int | None = None
    owner: str = ""


def claims(
    me: Me, replica: Replica, locality: Callable[[str], Locality | None], serving: Collection[str] = ()
) -> dict[str, Claim]:
    """What to say of the ports that are bound to this chassis, if the switch confirms what was just rendered.

    Of a port that is only prepared here (an inactive binding) ACTIVE says that it is wired. Of a floating IP's own port it says,
    for the binding of the port that it stands for, that the floating IP works; while it doesn't, nothing is said of it. Nor is
    of routers' gateways, of floating IPs that only forward ports, and of ports of other regions, but by the chassis that serves
    them: these have no binding, so their generation is 0.
    """
    said, chassis = {}, me.chassis
    for binding in replica.where(Binding, host=chassis):
        port = replica.get(LogicalPort, binding.id)
        if port is None or port.generation != binding.generation:
            continue
        if binding.active != (port.chassis == chassis) or not (binding.active or is_standby(port, chassis)):
            continue  # one of both rows is older than the other
        revision = replica.revision(LogicalPort, port.id)
        if binding.active:
            place = locality(port.id)
            ofport = place.ofport if isinstance(place, Local) else None
        else:
            ofport = standby_ofport(port, chassis, replica)
        if ofport is not None and port.admin_up and _cut_off(port, me, replica) is None:
            said[port.id] = Claim(port.network, port.generation, "ACTIVE", revision, ofport=ofport)
        else:
            said[port.id] = Claim(port.network, port.generation, "DOWN", revision, _why_down(port, me, replica))
        for floating in replica.where(FloatingIp, fixed_port=port.id) if binding.active else ():
            if isinstance(locality(floating.port), Local):
                revision = replica.revision(FloatingIp, floating.id)
                said[floating.port] = Claim(floating.network, port.generation, "ACTIVE", revision, owner=floating.id)
    for served in serving:
        port = replica.get(LogicalPort, served)
        if port is not None and (port.device_owner == ROUTER_GATEWAY or remote_vtep(port.chassis) is not None):
            said[served] = Claim(port.network, 0, "ACTIVE", replica.revision(LogicalPort, served))
        elif port is not None and port.is_floating and served not in said:
            revision = replica.revision(FloatingIp, port.device_id)
            said[served] = Claim(port.network, 0, "ACTIVE", revision, owner=port.device_id)
    return said


def _cut_off(port: LogicalPort, me: Me, replica: Replica) -> str | None:
    """What is missing between the port and the physical network that it belongs to; None if nothing is."""
    network = replica.get(LogicalSwitch, port.network)
    if network is None or network.network_type not in PHYSICAL_TYPES:
        return None
    bridge = bridge_of(network, me.bridge_mappings)
    if bridge is None:
        return f"no bridge for physical network {network.physical_network} in [df] bridge_mappings of {me.chassis}"
    if physical_ofport(network, me.bridge_mappings, replica) is None:
        return f"bridge {bridge} of physical network {network.physical_network} is missing or can't be joined to br-int"
    return None


def _why_down(port: LogicalPort, me: Me, replica: Replica) -> str:
    """In words for operators: what keeps the port from having a place here, or from being of use there."""
    return "switched off (admin_state_up is false)" if not port.admin_up else _why_not_here(port, me, replica)


def _why_not_here(port: LogicalPort, me: Me, replica: Replica) -> str:  # noqa: PLR0911 - a list of reasons
    network = replica.get(LogicalSwitch, port.network)
    if network is None:
        return f"network {port.network} has no row in the DF DB"
    if not network.admin_up:
        return f"network {port.network} is switched off (admin_state_up is false)"
    if (cut_off := _cut_off(port, me, replica)) is not None:
        return cut_off
    if port.parent is not None:
        return f"the parent port of its trunk, {port.parent}, is not here"
    if interfaces(port, replica):
        return "no app gives the port a place here"
    for interface in replica.where(OvsPort, iface_id=port.id):
        if interface.error:
            return f"interface {interface.id} doesn't work: {interface.error}"
    return "not plugged: no interface of the integration bridge with its iface-id has an OpenFlow port"


def without(broken: Mapping[str, str], said: Mapping[str, Claim]) -> dict[str, Claim]:
    """The same claims, but DOWN where an owner that serves the port or its network is degraded.

    ``broken`` maps ids of objects to what is wrong with them.
    """
    told = dict(said)
    if broken:
        for port, claim in said.items():
            wrong = broken.get(port) or broken.get(claim.network) or broken.get(claim.owner)
            if wrong is not None and claim.status == "ACTIVE":
                told[port] = msgspec.structs.replace(claim, status="DOWN", reason=f"flows left out: {wrong}")
    return told


class Report:
    """Writes the rows of ``chassis``: itself, the status of the ports bound to it, and what ``tunnels`` says of those now."""

    def __init__(
        self,
        store: Store,
        bus: PubSub,
        replica: Replica,
        chassis: Chassis,
        *,
        now: Callable[[], float],
        tunnels: Callable[[], Iterable[TunnelState]] = tuple,
    ) -> None:
        self._tunnels = tunnels
        self._store = store
        self._bus = bus
        self._replica = replica
        self._chassis = chassis
        self._now = now
        self._claims: Mapping[str, Claim] | None = None
        self._wake = asyncio.Event()
        self._done = asyncio.Event()
        self._since: float | None = None
        self.trouble: str | None = None
        """Why the rows can't be written now; None while they can."""

    def confirmed(self, said: Mapping[str, Claim]) -> None:
        """From now on these are the statuses that should stand. Of other ports bound here nothing is said: what stands stays."""
        self._claims = said
        self._since = self._since or time.monotonic()
        self.wake()

    def wake(self) -> None:
        """Rows in the replica changed: compare again."""
        self._done.clear()
        self._wake.set()

    async def written(self, seconds: float) -> bool:
        """Wait until all that should stand does, but no longer than so many seconds; returns whether it does."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._done.wait()
        return self._done.is_set()

    async def run(self) -> None:
        """Write what differs, as often as something changes; failed writes are tried again with backoff and jitter."""
        delay, most = _BACKOFF
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                different = self._difference()
                for start in range(0, len(different), _BATCH):
                    await self._write(different[start : start + _BATCH])
            except StoreError as error:
                metrics.STORE_FAILURES.inc()
                if self.trouble is None:
                    LOG.warning("port statuses can't be written, trying on: %s", error)
                self.trouble = str(error)
                self._wake.set()
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
                delay = min(delay * 2, most)
            else:
                self._all_written()
                delay = _BACKOFF[0]

    def _all_written(self) -> None:
        if self.trouble is not None:
            LOG.info("port statuses are written again")
            self.trouble = None
        if not self._wake.is_set():
            self._done.set()
            if self._since is not None:
                metrics.STATUS_SECONDS.observe(time.monotonic() - self._since)
                self._since = None

    def _difference(self) -> list[tuple[Key, Row | None]]:
        """What to write: rows under their keys, None where the record should go."""
        different: list[tuple[Key, Row | None]] = []
        if self._chassis.scope not in self._replica.scopes:
            return different
        if self._replica.get(Chassis, self._chassis.id) != self._chassis:
            different.append((_key(self._chassis), self._chassis))
        if self._claims is None or status_scope(self._chassis.id) not in self._replica.scopes:
            return different
        for port, claim in self._claims.items():
            row = self._replica.get(PortStatus, port)
            if row is None or not self._says(row, claim):
                status = self._status(port, claim)
                different.append((_key(status), status))
        for port in self._replica.ids(PortStatus):
            if port not in self._claims and self._replica.get(Binding, port) is None:
                different.append((Key(status_scope(self._chassis.id), PortStatus.__name__, port), None))
        return [*different, *self._tunnel_difference()]

    def _tunnel_difference(self) -> Iterator[tuple[Key, Row | None]]:
        wanted = {state.id: state for state in self._tunnels()}
        for name, state in wanted.items():
            row = self._replica.get(TunnelState, name)
            if row is None or msgspec.structs.replace(row, at=state.at) != state:
                yield _key(state), msgspec.structs.replace(state, at=self._now())
        for name in self._replica.ids(TunnelState):
            if name not in wanted:
                yield Key(status_scope(self._chassis.id), TunnelState.__name__, name), None

    def _says(self, row: PortStatus, claim: Claim) -> bool:
        return (row.chassis, row.generation, row.status, row.revision, row.reason) == (
            *(self._chassis.id, claim.generation, claim.status, claim.revision),
            claim.reason[:_LONGEST_REASON],
        )

    def _status(self, port: str, claim: Claim) -> PortStatus:
        return PortStatus(
            id=port,
            chassis=self._chassis.id,
            generation=claim.generation,
            status=claim.status,
            revision=claim.revision,
            at=self._now(),
            reason=claim.reason[:_LONGEST_REASON],
        )

    async def _write(self, batch: Sequence[tuple[Key, Row | None]]) -> None:
        writes = tuple(Delete(key) if row is None else Put(key, encode(row)) for key, row in batch)
        revision = await self._store.commit(Txn(writes))
        metrics.STATUS_WRITES.inc(len(writes))
        for key, row in batch:
            if row is None:
                self._replica.remove(KINDS[key.kind], key.id, revision)
            else:
                self._replica.upsert(row, revision)
        statuses = tuple(
            Record(write.key, write.data if isinstance(write, Put) else None, revision)
            for write in writes
            if write.key.kind == "PortStatus"
        )
        if statuses:
            try:
                await self._bus.publish(Message(PORT_STATUS, statuses))
            except Exception:  # the rows stand, and whoever compares finds them: only speed is lost
                LOG.exception("statuses are written, but could not be told on the bus")


def _key(row: Row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)


class Liveness:
    """Keeps this chassis's ``Alive`` row standing on a lease of ``ttl`` seconds, and takes it away at a clean end."""

    def __init__(self, store: Store, chassis: str, ttl: float, *, now: Callable[[], float]) -> None:
        self._store = store
        row = Alive(id=chassis, since=now())
        self._standing = Standing(_key(row), encode(row), ttl)
        self._ttl = ttl
        self._now = now
        self.trouble: tuple[str, float] | None = None
        """Why the DF DB doesn't answer and since when (seconds of the epoch, for people); None while it does."""

    async def run(self) -> None:
        """Renew until cancelled. An outage of the DF DB is waited out; a lost lease or row is made anew."""
        while True:
            try:
                await self._renew()
            except StoreError as error:
                if self.trouble is None:
                    LOG.warning("liveness can't be renewed, trying on: %s", error)
                self.trouble = (str(error), self._now() if self.trouble is None else self.trouble[1])
                await asyncio.sleep(min(self._ttl / 4, 1.0) * random.uniform(0.5, 1.0))
                continue
            if self.trouble is not None:
                LOG.info("liveness is renewed again")
                self.trouble = None
            await asyncio.sleep(self._ttl / 3)

    async def _renew(self) -> None:
        found = await self._standing.renew(self._store)
        if found is not None and found.data != self._standing.data:
            name = self._standing.key.id
            LOG.error("another controller calls itself %s too; give each host its own name ([df] host)", name)

    async def end(self, seconds: float = 2.0) -> None:
        """Say that this chassis's controller is gone, if the DF DB can be told within so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._standing.withdraw(self._store)
        except (StoreError, TimeoutError) as error:
            LOG.info("liveness not withdrawn, it ends with its lease: %s", error or "no answer")
