"""The way back: what the hosts say of their ports becomes Neutron's port status. Done by the leader.

Level-triggered: a port's status follows from the row that the port's present host wrote for its present binding, and from
nothing that happened before. Messages and feeds only say where to look first; all ports are compared again and again.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal

from neutron.db import provisioning_blocks
from neutron_lib import constants
from neutron_lib.callbacks import resources
from neutron_lib.context import get_admin_context
from neutron_lib.plugins import directory

from dragonflow.model import PortStatus, status_scope
from dragonflow.neutron import db
from dragonflow.neutron.db import PortNow
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.keeper import TURN, Keeper
from dragonflow.neutron.table import Table
from dragonflow.neutron.translate import UNBOUND_VIF_TYPES
from dragonflow.store.protocol import Key

LOG = logging.getLogger(__name__)

DRIVER = "df"
"""Our name among ML2's drivers, as it stands in a port's binding levels."""

ACTIVE, DOWN = constants.PORT_STATUS_ACTIVE, constants.PORT_STATUS_DOWN
Turn = Literal["ACTIVE", "DOWN"]

SHARE = 20
"""Of the leader's time, at most one part in so many goes into comparing everything."""

BATCH = 20
"""Ports found wrong by comparing that are turned before looking for news again."""


def turn(port: PortNow, row: PortStatus | None) -> Turn | None:
    """The status to which the port must turn now; None if it stands right or nobody may say.

    Only the host to which the port is bound now may say anything, and only about its present binding. A port that is switched
    off is DOWN whatever its host says.
    """
    if not port.ours or port.vif_type in UNBOUND_VIF_TYPES:
        return None
    if not port.admin_up:
        return "DOWN" if port.status == ACTIVE else None
    if row is None or row.chassis != port.host or row.generation != port.generation or row.status == port.status:
        return None
    if row.status == "ACTIVE":
        return "ACTIVE"
    return "DOWN" if port.status == ACTIVE else None


class Neutron:
    """How a status is set in Neutron, so that Nova learns of it."""

    def ports(self, ids: Collection[str] | None = None) -> Iterable[PortNow]:
        """All ports, or these, as they are now."""
        return db.ports_now(get_admin_context(), DRIVER, ids)

    def set(self, port_id: str, status: Turn) -> None:
        """Turn the port. Must not be called inside a transaction. A port that is gone is no error."""
        context = get_admin_context()
        if status == "ACTIVE":
            provisioning_blocks.provisioning_complete(
                context, port_id, resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
            )
        else:
            provisioning_blocks.add_provisioning_component(
                context, port_id, resources.PORT, provisioning_blocks.L2_AGENT_ENTITY
            )
            directory.get_plugin().update_port_status(context, port_id, DOWN)


class StatusKeeper(Keeper):
    """Follows the status rows and turns ports, in a thread from ``start`` to ``stop``. ``period`` is in seconds."""

    def __init__(
        self,
        dfdb: DfDb,
        period: float,
        neutron: Any = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("status")
        self._dfdb = dfdb
        self._period = period
        self._neutron = neutron or Neutron()
        self._clock = clock
        self._rows: Table[PortStatus] = Table(PortStatus)

    def _follow(self) -> None:
        self._rows = Table(PortStatus)
        feed = self._dfdb.store.feed([status_scope("*")])
        due = self._clock()
        wrong: set[str] = set()
        try:
            while not self._stop.is_set():
                news = feed.next(0.0 if wrong else max(0.0, min(TURN, due - self._clock())))
                if news is not None:  # what was just told comes before what was found wrong by comparing
                    self._examine({key.id for key in self._rows.apply(news)})
                elif wrong:
                    some = set(itertools.islice(wrong, BATCH))
                    wrong -= some
                    self._examine(some)
                if self._clock() >= due and feed.in_sync:
                    began = self._clock()
                    wrong.update(port.id for port in self._neutron.ports() if self._turn(port))
                    due = self._clock() + max(self._period, SHARE * (self._clock() - began))
        finally:
            feed.close()

    def _turn(self, port: PortNow) -> Turn | None:
        return turn(port, self._rows.get(Key(status_scope(port.host), PortStatus.__name__, port.id)))

    def _examine(self, ids: Collection[str]) -> None:
        for port in list(self._neutron.ports(ids)):
            status = self._turn(port)
            if status is None:
                continue
            try:
                self._neutron.set(port.id, status)
                LOG.info("df: port %s on host %s is %s", port.id, port.host, status)
            except Exception:
                LOG.exception("df: port %s could not be turned %s and will be tried again", port.id, status)
