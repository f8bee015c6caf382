"""For operators: with whom this chassis has BFD sessions, how they are, and since when. Flows rest on ``OvsPort.bfd`` itself."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

from dragonflow.apps.wiring import is_peer_port, peer_name, remote_peer_name
from dragonflow.controller.replica import Replica
from dragonflow.model import TUNNEL_TYPES, Chassis, OvsPort, RemoteChassis
from dragonflow.observe import metrics

LOG = logging.getLogger(__name__)

UP, DOWN, WAITING = "up", "down", "never up"
"""How a session can be; the last one as long as the other end hasn't answered at all."""


class _Session(NamedTuple):
    state: str
    since: float


class Sessions:
    """Is told of every interface that comes, changes or goes. ``now`` tells seconds of the epoch."""

    def __init__(self, replica: Replica, now: Callable[[], float]) -> None:
        self._replica = replica
        self._now = now
        self._of: dict[str, _Session] = {}

    def take(self, present: Iterable[OvsPort], gone: Iterable[str]) -> None:
        """These interfaces are new or changed, and those are gone. What a session becomes is logged and counted."""
        for name in gone:
            self._of.pop(name, None)
        for port in present:
            if is_peer_port(port):
                self._note(port.id, port.bfd or WAITING)
        counted = Counter(session.state for session in self._of.values())
        for state in (UP, DOWN, WAITING):
            metrics.BFD_SESSIONS.labels(state).set(counted[state])

    def status(self) -> dict[str, str]:
        """Every session by its chassis, or by its interface where no row says whose that is."""
        names = self._names()
        shown = {names.get(name, name): session for name, session in self._of.items()}
        return {chassis: f"{state} since {_clock(since)}" for chassis, (state, since) in sorted(shown.items())}

    def _note(self, name: str, state: str) -> None:
        before = self._of.get(name)
        if before is not None and before.state == state:
            return
        self._of[name] = _Session(state, self._now())
        level = logging.WARNING if state == DOWN else logging.INFO
        if before is not None or state != WAITING:
            LOG.log(level, "BFD session with %s is %s", self._names().get(name, name), state)

    def _names(self) -> dict[str, str]:
        names = {peer_name(chassis.id): chassis.id for chassis in self._replica.all(Chassis)}
        for remote in self._replica.all(RemoteChassis):
            for how in (None, "psk", "certificates"):
                names.update({remote_peer_name(it, remote.vtep, how): f"{remote.id} ({it})" for it in TUNNEL_TYPES})
        return names


def _clock(at: float) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at))
