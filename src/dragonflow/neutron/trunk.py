"""Dragonflow as a driver of Neutron's ``trunk`` plugin: what trunks may be, and what Neutron is to show of them.

The DF DB needs no help from here: a child's row follows from its parent's bindings (``db.trunks``), in the transaction that
changes them. What follows is for Neutron's users. The leader has each child bound to its parent's host, as the reference driver
does, so its status is that host's word; and keeps the trunk's own status true. Level-triggered: all trunks are compared again
and again, whatever happened to them.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from neutron.objects import trunk as trunk_objects
from neutron.services.trunk.drivers import base
from neutron_lib.api.definitions import portbindings
from neutron_lib.callbacks import events, registry, resources
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory
from neutron_lib.services.trunk import constants
from oslo_config import cfg

from dragonflow.model import PortStatus, decode, status_scope
from dragonflow.neutron import db
from dragonflow.neutron.binding import AGENT_TYPE
from dragonflow.neutron.db.retry import retry_deadlocks
from dragonflow.neutron.db.trunks import PortOfTrunk, TrunkNow
from dragonflow.neutron.dfdb import DfDb
from dragonflow.neutron.keeper import Keeper
from dragonflow.neutron.outage import is_outage
from dragonflow.neutron.status import ACTIVE, DOWN, DRIVER
from dragonflow.neutron.translate import UNBOUND_VIF_TYPES
from dragonflow.store.protocol import Key

LOG = logging.getLogger(__name__)

PERIOD = 1.0
"""Seconds between two comparisons of all trunks."""

SHARE = 20
"""Of the leader's time, at most one part in so many goes into that."""

AGAIN = 10.0
"""Seconds until a port that Neutron didn't let us bind is tried again."""

Said = Callable[[PortOfTrunk], PortStatus | None]
"""Finds what the host to which a port is bound says of it."""


class DragonflowTrunks(base.DriverBase):
    """Registers with the plugin, which starts with no driver that is loaded. Children are told apart by VLAN tags."""

    def __init__(self) -> None:
        interfaces = (portbindings.VIF_TYPE_OVS, portbindings.VIF_TYPE_VHOST_USER)
        super().__init__(DRIVER, interfaces, (constants.SEGMENTATION_TYPE_VLAN,), AGENT_TYPE, can_trunk_bound_port=True)

    @property
    def is_loaded(self) -> bool:
        """See ``DriverBase``."""
        return DRIVER in cfg.CONF.ml2.mechanism_drivers

    @property
    def rpc_required(self) -> bool:
        """See ``DriverBase``: nobody is told by RPC."""
        return False

    @registry.receives(resources.TRUNK_PLUGIN, [events.AFTER_INIT])
    def register(self, resource: str, event: str, trigger: Any, payload: object = None) -> None:
        """See ``DriverBase``."""
        super().register(resource, event, trigger, payload=payload)
        db.listen_to_trunks()


def plugin() -> Any:
    """Neutron's trunk plugin, or None."""
    return directory.get_plugin("trunk")


def wanted_host(trunk: TrunkNow) -> str:
    """Where the trunk's children belong; empty while the parent is nowhere."""
    return "" if trunk.parent.vif_type in UNBOUND_VIF_TYPES else trunk.parent.host


def wanted_status(trunk: TrunkNow, said: Said) -> str:
    """The status to show (the words are explained in ``neutron_lib.services.trunk.constants``).

    DOWN as long as the parent doesn't work; ERROR if a child can't be bound where the parent is; ACTIVE if all children work,
    but for those that are switched off; DEGRADED if the host says that one doesn't; else BUILD.
    """
    if trunk.parent.status != ACTIVE:
        return str(constants.TRUNK_DOWN_STATUS)
    if any(child.vif_type == portbindings.VIF_TYPE_BINDING_FAILED for child in trunk.children):
        return str(constants.TRUNK_ERROR_STATUS)
    host = wanted_host(trunk)
    missing = [it for it in trunk.children if it.admin_up and not (it.status == ACTIVE and it.host == host)]
    if not missing:
        return str(constants.TRUNK_ACTIVE_STATUS)
    words = [(child, said(child)) for child in missing]
    if any(word is not None and word.generation == it.generation and word.status == DOWN for it, word in words):
        return str(constants.TRUNK_DEGRADED_STATUS)
    return str(constants.TRUNK_BUILD_STATUS)


class TrunkKeeper(Keeper):
    """Binds children where their parents are, lets go those that left their trunks, and keeps trunks' statuses."""

    def __init__(self, dfdb: DfDb, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__("trunks", clock)
        self._dfdb = dfdb
        self._refused: dict[str, float] = {}

    def _follow(self) -> None:
        while not self._stop.is_set():
            if plugin() is None:
                self._stop.wait()
                return
            began = self._clock()
            with self._step():
                trunks = list(db.trunks_now(get_admin_context(), DRIVER))
                former = db.former_children(get_admin_context(), DRIVER)
            took = self._clock() - began
            moved = self.settle(trunks, former)
            self._outage.over()
            if not moved:
                self._stop.wait(max(PERIOD, SHARE * took))

    def settle(self, trunks: list[TrunkNow], former: list[PortOfTrunk]) -> int:
        """Set right what is wrong about these. Returns how many ports were bound, so are no more as they are told here."""
        moved = sum(self._bind(port, "", "") for port in former)
        for trunk in trunks:
            if trunk.parent.foreign or trunk.parent.turning or self._stop.is_set():
                continue
            host = wanted_host(trunk)
            for child in trunk.children:
                if not child.foreign and (child.host != host or (host and child.device_owner != _OWNER)):
                    moved += self._bind(child, host, _OWNER)
            with self._step():
                status = wanted_status(trunk, self._said)
                if status != trunk.status and _set_status(trunk, status):
                    LOG.info("df: trunk %s is %s", trunk.id, status)
        return moved

    def _bind(self, port: PortOfTrunk, host: str, owner: str) -> bool:
        """Have Neutron bind the port, as for any user. One that it refuses holds up no other."""
        if self._clock() < self._refused.get(port.id, 0.0):
            return False
        self._refused = {name: until for name, until in self._refused.items() if until > self._clock()}
        body = {"port": {portbindings.HOST_ID: host, "device_owner": owner}}
        try:
            with self._step():
                directory.get_plugin().update_port(get_admin_context(), port.id, body)
        except Exception as error:
            if is_outage(error):
                raise
            LOG.warning("df: port %s of a trunk could not be bound to host %r: %s", port.id, host, error)
            self._refused[port.id] = self._clock() + AGAIN
            return False
        return True

    def _said(self, port: PortOfTrunk) -> PortStatus | None:
        """What the port's host says; what can't be read says nothing."""
        record = self._dfdb.store.get(Key(status_scope(port.host), PortStatus.__name__, port.id))
        if record is None or record.data is None:
            return None
        try:
            row = decode(PortStatus.__name__, port.id, record.data)
        except ValueError:
            return None
        return row if isinstance(row, PortStatus) else None


_OWNER = constants.TRUNK_SUBPORT_OWNER


@retry_deadlocks
def _set_status(trunk: TrunkNow, status: str) -> bool:
    """Write the status, unless it is another by now than the one that was found wrong. Returns whether it was written."""
    context = get_admin_context()
    with db_api.CONTEXT_WRITER.using(context):
        found = trunk_objects.Trunk.get_object(context, id=trunk.id)
        if found is None or found.status != trunk.status:
            return False
        found.update(status=status)
    return True
