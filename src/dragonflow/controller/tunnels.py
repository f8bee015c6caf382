"""How the tunnels to chassis of other regions are: rows that Neutron shows to operators and to the orchestrator."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from dragonflow.apps.wiring import remote_peer_name, session
from dragonflow.controller.replica import Replica
from dragonflow.controller.underlay import Path, measure
from dragonflow.controller.view import Me
from dragonflow.model import TUNNEL_TYPES, OvsPort, RemoteChassis, TunnelState

LOG = logging.getLogger(__name__)

PERIOD = 30.0
"""Seconds between two measurements of a way."""

_TURN = 1.0
"""Seconds between two looks for ways that are due, so a new tunnel's is known soon."""

_AT_ONCE = 16
"""Ways that are measured at the same time."""


class Tunnels:
    """``states`` are the rows that should stand; ``on_news()`` is called when they may differ because of what was measured."""

    def __init__(self, replica: Replica, me: Me, on_news: Callable[[], None]) -> None:
        self._replica = replica
        self._me = me
        self._on_news = on_news
        self._paths: dict[str, Path] = {}
        self._due: dict[str, float] = {}
        self._trouble: str | None = None

    def states(self) -> Iterator[TunnelState]:
        """One for each chassis of another region that has ports of a followed network; ``at`` is left to the writer."""
        for remote in self._replica.all(RemoteChassis):
            path = self._paths.get(remote.vtep, Path())
            yield TunnelState(
                id=f"{self._me.chassis}/{remote.vtep}",
                chassis=self._me.chassis,
                remote_ip=remote.vtep,
                up=_up(remote.vtep, self._me, self._replica),
                rtt_ms=None if path.rtt is None else round(path.rtt * 1000, 2),
                mtu=path.mtu,
                at=0.0,
            )

    async def run(self) -> None:
        """Measure every way that is due, until cancelled."""
        while True:
            await self.measure()
            await asyncio.sleep(_TURN)

    async def measure(self) -> None:
        """Measure those that are due now."""
        vteps = {remote.vtep for remote in self._replica.all(RemoteChassis)}
        for gone in self._due.keys() - vteps:
            del self._due[gone]
            self._paths.pop(gone, None)
        due = sorted(vtep for vtep in vteps if self._due.get(vtep, 0.0) <= time.monotonic())
        for start in range(0, len(due), _AT_ONCE):
            batch = due[start : start + _AT_ONCE]
            for vtep, path in zip(batch, await asyncio.gather(*map(self._measure, batch)), strict=True):
                self._due[vtep] = time.monotonic() + PERIOD
                self._paths[vtep] = settled(self._paths.get(vtep), path)
        if due:
            self._on_news()

    async def _measure(self, vtep: str) -> Path:
        try:
            path = await measure(self._me.tunnel_ip, vtep)
        except (OSError, ValueError) as error:
            if self._trouble != str(error):
                LOG.warning("the way to %s can't be measured: %s", vtep, error)
            self._trouble = str(error)
            return Path()
        self._trouble = None
        return path


def settled(before: Path | None, now: Path) -> Path:
    """What to show: the old figure while the new one tells nothing new. So a steady way costs no writes."""
    if before is None or before.rtt is None or now.rtt is None or before.mtu != now.mtu:
        return now
    return before if abs(now.rtt - before.rtt) <= max(0.25 * before.rtt, 0.0005) else now


def _up(vtep: str, me: Me, replica: Replica) -> bool | None:
    """What BFD says of the tunnels there: False if one fell silent, True if all are heard, None while one was never heard."""
    names = (remote_peer_name(encapsulation, vtep, me.region_ipsec) for encapsulation in TUNNEL_TYPES)
    heard = [session(name, replica) for name in names if replica.get(OvsPort, name) is not None]
    if not heard or False in heard:
        return False if heard else None
    return None if None in heard else True
