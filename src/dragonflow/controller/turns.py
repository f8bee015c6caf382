"""What a host does all the time, turn after turn: news becomes flows, the switch confirms them, and it is told (decision 0043).

    DF DB ──> Intake ──┐                                           ┌──> Audience
                       ├──> Replica ──> Engine ──> Switch, barrier ┤
    OVSDB ──> ports  ──┘                                           └──> the next turn

A turn takes in some rows, renders what changed and sends the difference. Rows wait for the next turn, and for a port that is
being plugged here; what OVSDB tells waits for nobody: it ends the taking in of rows, and is rendered also while the switch is
busy with the turn before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from dragonflow.controller.engine import Engine, Settled, Want
from dragonflow.controller.events import Confirmed, Unconfirmed
from dragonflow.controller.intake import Intake
from dragonflow.controller.replica import Replica
from dragonflow.controller.report import Claim, claims, without
from dragonflow.controller.topology import needed_scopes
from dragonflow.controller.view import Me
from dragonflow.model import OvsPort
from dragonflow.observe import metrics
from dragonflow.pipeline.facts import Owner
from dragonflow.store.protocol import Store
from dragonflow.switch import Disconnected, Switch
from dragonflow.switch.bundle import Synced

LOG = logging.getLogger(__name__)

_GIVE_WAY_AFTER = 0.002
"""Seconds that rendering may take before others on the loop have their turn."""

_TURN = 0.03
"""Seconds after which no more rows are taken in before what was rendered is sent."""

_LOCAL_FIRST = 0.03
"""Seconds that changed rows wait, at most, while a port that was plugged here becomes ACTIVE; then some of them have a turn."""


class Turn(NamedTuple):
    """A turn that the switch has confirmed with so many ``mods``; ``said`` is what this chassis may say of its ports now."""

    mods: int
    said: dict[str, Claim]
    confirmed: Confirmed


class Audience(Protocol):
    """Whoever has to know how the turns go."""

    @property
    def judging(self) -> bool:
        """Whether a port that was plugged here waits for its first verdict."""
        ...

    def complete(self) -> None:
        """All that is needed of the DF DB and OVSDB has arrived: the first turn begins."""
        ...

    def unsettled(self) -> None:
        """The switch is about to change."""
        ...

    def confirmed(self, turn: Turn) -> None:
        """The switch has it all."""
        ...

    def unconfirmed(self) -> None:
        """Rows were taken in, but there is no switch yet to confirm what follows from them."""
        ...


class Turns:
    """Sets ``news`` itself when there is more to do; whoever else has news sets it too."""

    def __init__(
        self,
        store: Store,
        replica: Replica,
        engine: Engine,
        switch: Switch,
        *,
        me: Me,
        news: asyncio.Event,
        audience: Audience,
    ) -> None:
        self._me, self._replica, self._engine, self._switch = me, replica, engine, switch
        self._news, self._audience = news, audience
        self._news.set()
        self.intake = Intake(store, replica, self._rows_came)
        self.confirmed = False
        """Whether the switch has all that was taken in up to the last turn."""
        self.complete = False
        """Whether all that is needed of the DF DB and OVSDB has ever arrived."""
        self._unconfirmed = Unconfirmed()
        self._rendering = False
        self._plugging = False
        """Whether OVSDB told of a guest's interface whose flows aren't confirmed yet."""
        self._plugged = asyncio.Event()
        """OVSDB told of one just now."""
        self._making = False
        """Whether vswitchd is still making it: what it is sent meanwhile keeps the interface, and then its flows, waiting."""
        self._patience: asyncio.TimerHandle | None = None
        self._impatient = False
        """Whether rows have waited for a plug long enough."""

    @property
    def degraded(self) -> dict[Owner, str]:
        """The owners that are not, or not wholly, as they should be, and why."""
        return {**self._engine.degraded, **{owner: str(why) for owner, why in self._switch.degraded.items()}}

    def broken(self) -> dict[str, str]:
        """The objects whose flows are left out, and why."""
        degraded = self.degraded
        owners = (*self._switch.degraded, *self._engine.broken)
        return {owner.id: f"{owner}: {degraded[owner]}" for owner in owners}

    def claims(self) -> dict[str, Claim]:
        """What to say of this chassis's ports, if the switch has what was rendered last."""
        return claims(self._me, self._replica, self._engine.locality, self._engine.serving)

    def ports_changed(self, present: Sequence[OvsPort], gone: Sequence[str]) -> None:
        """OVSDB tells which interfaces are there, or are otherwise than before, and which are not any more."""
        for port in present:
            self._replica.upsert_port(port)
        for name in gone:
            self._replica.remove_port(name)
        guests = [port for port in present if port.iface_id is not None]
        if guests:
            self._plugging = True
            self._making = all(port.ofport is None and port.error is None for port in guests)
            self._plugged.set()
        if not self._rendering:
            self._news.set()

    def judged(self) -> None:
        """A port may be done for which rows waited."""
        if self.intake.waiting:
            self._rows_came()

    async def run(self) -> None:
        """Turn news into confirmed flows for ever. Nothing is sent before both halves of the world are known (fail static)."""
        # what rests on no row: tunnel and patch ports can be made while rows are read
        self._engine.settle(self._switch.want)
        self._switch.ask_for_ports()
        while not (await self._follow_news() and self._switch.connected):
            self._audience.unconfirmed()
        LOG.info("in sync with the DF DB and OVSDB; taking over the switch")
        self.complete = True
        self._audience.complete()
        gc.disable()  # the first rendering makes much and drops nothing; looking for garbage would cost a third more
        confirmed = await self._turn()
        gc.enable()
        while not confirmed:
            await self._follow_news()
            confirmed = await self._turn()
        _tidy_memory()
        while True:
            await self._follow_news()
            await self._turn()

    # Who goes first

    def _rows_wait(self) -> bool:
        """Whether a port that was plugged here goes before them: a guest waits for it, and there may be many of them."""
        return self.complete and not self._impatient and (self._plugging or self._audience.judging)

    def _may_take(self) -> bool:
        """Whether there are rows to take in, and nobody goes before them."""
        return self.intake.waiting and not self._rows_wait()

    def _rows_came(self) -> None:
        """The intake has news: have it taken in, now or when it has waited long enough."""
        if not self._rows_wait():
            self._news.set()
        elif self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(_LOCAL_FIRST, self._lose_patience)

    def _lose_patience(self) -> None:
        self._patience = None
        self._impatient = self.intake.waiting
        self.judged()

    # A turn

    async def _follow_news(self) -> bool:
        """Wait for news, then follow the scopes that are needed. Returns whether all of them, and OVSDB, have arrived."""
        await self._news.wait()
        self._news.clear()
        if not self._rows_wait():
            self.intake.take()
        return await self._follow()

    async def _follow(self) -> bool:
        """Follow the scopes that are needed; returns what ``_follow_news`` does."""
        needed = needed_scopes(self._me.chassis, self._replica)
        await self.intake.follow(needed)
        return needed <= self.intake.arrived and self._switch.ovsdb_in_sync

    async def _turn(self) -> bool:
        """Render, send, and after the barrier tell. Returns False if the switch is away; its return is news."""
        self.confirmed = False
        self._audience.unsettled()
        began = time.perf_counter()
        waited = await self._render()
        said = self.claims()
        metrics.SETTLE_SECONDS.observe(time.perf_counter() - began - waited)
        with metrics.SYNC_SECONDS.time():
            synced, ahead = await self._send()
        self._plugging = bool(ahead) or self._plugged.is_set()
        if synced is None:
            self._audience.unconfirmed()
        else:
            self._confirm(synced, said)
        if ahead:
            self._audience.unsettled()
        for settled in ahead:
            for owner, facts in settled.facts.items():
                self._switch.want(owner, facts)
            self._unconfirmed.add(settled)
        return synced is not None

    async def _render(self) -> float:
        """Render what is news, and then more rows, until it is time to send. Returns for how many seconds it waited for vswitchd.

        What OVSDB tells meanwhile is rendered too, and then no more rows are taken in, so nobody's plug waits longer. Rows may
        come faster than they render.
        """
        over, waited, more = time.perf_counter() + _TURN, 0.0, False
        self._rendering = True
        while True:
            self._plugged.clear()
            self._unconfirmed.add(await self._settled(self._switch.want))
            await _give_way()
            if self._making and not waited and not self._plugged.is_set():
                waited = await self._wait_for_vswitchd()
            if time.perf_counter() > over + waited:
                break
            if self._plugged.is_set():
                continue
            if not self._may_take():
                break
            more = True
            self._news.clear()  # what it told of is rendered now
            self.intake.take()
        self._rendering = self._impatient = False
        if self._plugged.is_set():
            self._news.set()
        if more:
            await self._follow()
        return waited

    async def _wait_for_vswitchd(self) -> float:
        """Until the interface that it makes has an OpenFlow port, but not for long; returns for how many seconds."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(_LOCAL_FIRST):
                await self._plugged.wait()
        except TimeoutError:
            self._making = False
        return time.perf_counter() - began

    async def _settled(self, want: Want | None = None) -> Settled:
        """Settle the engine without keeping others on the loop waiting: leases want renewing while thousands of ports render."""
        steps, began = self._engine.settling(want), time.perf_counter()
        while True:
            try:
                next(steps)
            except StopIteration as end:
                settled: Settled = end.value
                return settled
            if time.perf_counter() - began > _GIVE_WAY_AFTER:
                await _give_way()
                began = time.perf_counter()

    async def _send(self) -> tuple[Synced | None, Sequence[Settled]]:
        """Send what was rendered, and return what the switch confirmed (None if it is away), and what was rendered meanwhile.

        For just when the switch gets a port it is slow to answer, and what OVSDB tells of it is best rendered then.
        """
        sending = asyncio.ensure_future(self._switch.sync())
        ahead: list[Settled] = []
        try:
            while not sending.done():
                self._plugged.clear()
                told = asyncio.ensure_future(self._plugged.wait())
                await asyncio.wait({sending, told}, return_when=asyncio.FIRST_COMPLETED)
                told.cancel()
                if not sending.done():
                    ahead.append(await self._settled())
            return sending.result(), ahead
        except Disconnected as error:
            LOG.info("switch away, flows wait: %s", error)
            return None, ahead
        finally:
            sending.cancel()

    def _confirm(self, synced: Synced, said: dict[str, Claim]) -> None:
        """The switch has what was sent: tell of it."""
        at, broken = self._replica.clock(), self.broken()
        self.confirmed = True
        metrics.OWNERS_DEGRADED.set(len(broken))
        self._audience.confirmed(Turn(synced.mods, without(broken, said), self._unconfirmed.confirm(at, broken)))
        self.judged()


async def _give_way() -> None:
    """Let others on the loop have their turn: what a socket has is taken in within three, so OVSDB can tell."""
    for _ in range(3):
        await asyncio.sleep(0)


def _tidy_memory() -> None:
    """After the start: give back what it left over, and let later collections pass over what will live on."""
    gc.collect()
    gc.freeze()
    with contextlib.suppress(OSError, AttributeError):  # a libc without malloc_trim keeps its memory
        ctypes.CDLL(None).malloc_trim(0)
