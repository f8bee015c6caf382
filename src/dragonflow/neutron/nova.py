"""``network-vif-plugged`` until Nova has accepted it, although Neutron's notifier forgets an event that it could not deliver.

::

    port turns ACTIVE ── same transaction ──► df_owed_events ◄── struck ─┐
          │                                        │ due                 │ 200
          └─► Neutron's notifier ──► Nova ◄────────┘ sent again   answers as they pass by

Neutron goes on to send every event itself. What we add is the note of what is owed and a look at the answers, so nothing is
lost with a Nova API that is away, a notifier that gave up after a second, or a server that was killed before it sent. Nova may
learn of a plug twice; it ignores what it doesn't wait for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from neutron.notifiers.nova import VIF_PLUGGED
from neutron.plugins.ml2 import db as ml2_db
from neutron_lib.context import get_admin_context
from neutron_lib.db import api as db_api
from neutron_lib.plugins import directory

from dragonflow.neutron import db
from dragonflow.neutron.keeper import Keeper

LOG = logging.getLogger(__name__)

PATH = "/os-server-external-events"

LOOK = 1.0
"""Seconds between two looks for events that are due."""

AGAIN = 5.0
"""Seconds between two tries while Nova doesn't answer."""

REFUSED = 30.0
"""Seconds until the next try after Nova said that it has no such server, or no host for it."""

PATIENCE = 300.0
"""Seconds for which Nova itself waits (its default ``vif_plugging_timeout``): what it refused for so long is given up."""

EARLY = 0.5
"""Seconds by which an event may leave before the note of it is written: Neutron sends it a little before its commit."""


def plugged_elsewhere(port_id: str) -> None:
    """Tell Nova that a port works on a host to which it is being migrated: what ML2 does when an agent says so."""
    context = get_admin_context()
    port = ml2_db.get_port(context, port_id)
    notifier = _notifier()
    if port is None or notifier is None or not db.of_nova(port.device_id, port.device_owner):
        return
    with db_api.CONTEXT_WRITER.using(context):
        db.owe(context.session, port, standby=True)
    notifier.notify_port_active_direct(port)


def watch_answers() -> None:
    """Look at what Nova answers to Neutron's notifier in this process, from now on. Saying so twice changes nothing."""
    notifier = _notifier()
    if notifier is not None:
        hooks = notifier.session.session.hooks["response"]
        if _answered not in hooks:
            hooks.append(_answered)


def _notifier() -> Any:
    return getattr(directory.get_plugin(), "nova_notifier", None)


def _answered(response: Any, **_options: Any) -> None:
    """A hook of ``requests``: whatever happens here must not harm the one who waits for the response."""
    if not response.url.endswith(PATH) or response.status_code not in (200, 207):
        return
    try:
        sent = time.monotonic() - response.elapsed.total_seconds()
        events = [event for event in response.json()["events"] if event["name"] == VIF_PLUGGED]
        taken = {event["tag"] for event in events if event["code"] == 200}
        refused = {event["tag"] for event in events if event["code"] != 200} - taken
        context = get_admin_context()
        if taken:
            db.accepted(context, taken, sent + EARLY)
        if refused:
            db.refused(context, refused, PATIENCE, REFUSED)
    except Exception as error:
        LOG.warning("df: an answer of Nova's was not taken in, its events will be sent again: %r", error)


class NovaKeeper(Keeper):
    """Sends again what Nova has not accepted. Done by the leader, from ``start`` to ``stop``."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__("events that Nova must accept", clock)

    def _follow(self) -> None:
        while not self._stop.is_set():
            with self._step():
                self.look()
            self._outage.over()
            self._stop.wait(LOOK)

    def look(self) -> None:
        """Send what is due, and forget what is no longer so."""
        notifier = _notifier()
        if notifier is None:
            return
        context = get_admin_context()
        due = db.owed(context)
        gone = [event.seq for event in due if not event.stands]
        again = [event for event in due if event.stands]
        if gone:
            db.strike(context, gone)
        if again:
            db.put_off(context, [event.seq for event in again], AGAIN)
            LOG.info("df: Nova has not accepted the plug of %d ports, telling it again", len(again))
        for event in {event.port_id: event for event in again}.values():
            notifier.batch_notifier.queue_event(
                {"server_uuid": event.server_id, "name": VIF_PLUGGED, "status": "completed", "tag": event.port_id}
            )
