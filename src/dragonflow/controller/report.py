"""The way back: this chassis's own rows of the DF DB say what is, whatever was lost in between.

Level-triggered: the rows that should stand (the chassis itself, the status of each port bound here) are compared with those that
stand in the replica, and the difference is written. No lost write, lost row or restart changes what should stand.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import msgspec

from dragonflow.controller.replica import Replica
from dragonflow.model import Alive, Binding, Chassis, LogicalPort, PortStatus, Row, encode
from dragonflow.observe import metrics
from dragonflow.pipeline.facts import Local, Locality
from dragonflow.pubsub.protocol import PORT_STATUS, Message, PubSub
from dragonflow.store.protocol import Delete, Key, LeaseExpired, Put, Record, Store, StoreError, Txn

LOG = logging.getLogger(__name__)

_BATCH = 100
"""Status rows a transaction: what etcd's default of 128 operations a transaction allows, with room."""

_BACKOFF = (0.1, 5.0)
"""Seconds to wait after the first failed write, and at the most."""


class Claim(msgspec.Struct, frozen=True):
    """What this chassis may say of a port, once the barrier has confirmed the flows of ``revision``."""

    network: str
    generation: int
    status: Literal["ACTIVE", "DOWN"]
    revision: int


def claims(chassis: str, replica: Replica, locality: Callable[[str], Locality | None]) -> dict[str, Claim]:
    """What to say of the ports that are actively bound to ``chassis``, if the switch confirms what was just rendered."""
    said = {}
    for binding in replica.where(Binding, host=chassis):
        port = replica.get(LogicalPort, binding.id)
        if port is None or not binding.active or port.chassis != chassis or port.generation != binding.generation:
            continue
        works = port.admin_up and isinstance(locality(port.id), Local)
        revision = replica.revision(LogicalPort, port.id)
        said[port.id] = Claim(port.network, port.generation, "ACTIVE" if works else "DOWN", revision)
    return said


def without(broken: Collection[str], said: Mapping[str, Claim]) -> dict[str, Claim]:
    """The same claims, but DOWN where an owner that serves the port or its network is degraded (``broken``: ids of objects)."""
    return {
        port: msgspec.structs.replace(claim, status="DOWN") if port in broken or claim.network in broken else claim
        for port, claim in said.items()
    }


class Report:
    """Writes the rows of ``chassis``: itself, and the status of the ports bound to it."""

    def __init__(
        self,
        store: Store,
        bus: PubSub,
        replica: Replica,
        chassis: Chassis,
        *,
        now: Callable[[], float],
    ) -> None:
        self._store = store
        self._bus = bus
        self._replica = replica
        self._chassis = chassis
        self._now = now
        self._claims: Mapping[str, Claim] | None = None
        self._wake = asyncio.Event()

    def confirmed(self, said: Mapping[str, Claim]) -> None:
        """The switch has confirmed: from now on these are the statuses that should stand."""
        self._claims = said
        self._wake.set()

    def wake(self) -> None:
        """Rows in the replica changed: compare again."""
        self._wake.set()

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
                LOG.warning("status not written, next try in %.1f s: %s", delay, error)
                self._wake.set()
                await asyncio.sleep(delay * random.uniform(0.8, 1.2))
                delay = min(delay * 2, most)
            else:
                delay = _BACKOFF[0]

    def _difference(self) -> list[tuple[Key, Row | None]]:
        """What to write: rows under their keys, None where the record should go."""
        different: list[tuple[Key, Row | None]] = []
        if self._chassis.scope not in self._replica.scopes:
            return different
        if self._replica.get(Chassis, self._chassis.id) != self._chassis:
            different.append((_key(self._chassis), self._chassis))
        if self._claims is None:
            return different
        for port, claim in self._claims.items():
            row = self._replica.get(PortStatus, port)
            if row is None or (row.generation, row.status, row.revision) != (
                claim.generation,
                claim.status,
                claim.revision,
            ):
                status = self._status(port, claim)
                different.append((_key(status), status))
        for row in self._replica.all(PortStatus):
            if row.id not in self._claims and self._replica.get(Binding, row.id) is None:
                different.append((_key(row), None))
        return different

    def _status(self, port: str, claim: Claim) -> PortStatus:
        return PortStatus(
            id=port,
            chassis=self._chassis.id,
            generation=claim.generation,
            status=claim.status,
            revision=claim.revision,
            at=self._now(),
        )

    async def _write(self, batch: Sequence[tuple[Key, Row | None]]) -> None:
        writes = tuple(Delete(key) if row is None else Put(key, encode(row)) for key, row in batch)
        revision = await self._store.commit(Txn(writes))
        metrics.STATUS_WRITES.inc(len(writes))
        for key, row in batch:
            if row is None:
                self._replica.remove(PortStatus, key.id, revision)
            else:
                self._replica.upsert(row, revision)
        statuses = tuple(
            Record(write.key, write.data if isinstance(write, Put) else None, revision)
            for write in writes
            if write.key.kind == "PortStatus"
        )
        if statuses:
            await self._bus.publish(Message(PORT_STATUS, statuses))


def _key(row: Row) -> Key:
    return Key(row.scope, type(row).__name__, row.id)


class Liveness:
    """Keeps this chassis's ``Alive`` row standing on a lease of ``ttl`` seconds, and takes it away at a clean end."""

    def __init__(self, store: Store, chassis: str, ttl: float, *, now: Callable[[], float]) -> None:
        self._store = store
        self._row = Alive(id=chassis, since=now())
        self._key = Key(self._row.scope, "Alive", chassis)
        self._ttl = ttl
        self._lease: str | None = None
        self._told = True

    async def run(self) -> None:
        """Renew until cancelled. An outage of the DF DB is waited out; a lost lease or row is made anew."""
        while True:
            try:
                await self._renew()
                self._told = True
            except StoreError as error:
                if self._told:
                    LOG.warning("liveness not renewed, trying on: %s", error)
                    self._told = False
            await asyncio.sleep(self._ttl / 4)

    async def _renew(self) -> None:
        if self._lease is not None:
            try:
                await self._store.keep_alive(self._lease)
                if await self._stands():
                    return
            except LeaseExpired:
                self._lease = None
        if self._lease is None:
            self._lease = await self._store.grant_lease(self._ttl)
        await self._store.commit(Txn((Put(self._key, encode(self._row), self._lease),)))

    async def _stands(self) -> bool:
        record = await self._store.get(self._key)
        if record is None or record.data is None:
            return False
        if record.data != encode(self._row):
            LOG.error("another controller calls itself %s too; give each host its own name ([df] host)", self._row.id)
        return True

    async def end(self) -> None:
        """Say that this chassis's controller is gone, if the DF DB can be told."""
        if self._lease is not None:
            try:
                await self._store.revoke(self._lease)
            except StoreError as error:
                LOG.info("liveness not withdrawn, it ends with its lease: %s", error)
