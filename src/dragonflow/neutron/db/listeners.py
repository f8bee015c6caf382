"""What ML2 tells no driver, caught where SQLAlchemy writes it: a port's bindings, and the moment in which its status turns.

ML2 calls no precommit hook when a further binding (of a live migration) is made, changed or deleted. So the port's journal
entry and the generation of its binding hang on the writes to ``ml2_port_bindings`` themselves, in the same transaction. Nor does
it ask anybody before a status is written: so the writes to ``ports`` are where a turn is held to the generation it was decided
for (``fenced``), and where it is noted that Nova must learn of it (``db.events``).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants
from neutron_lib.callbacks import events, registry
from sqlalchemy import orm

from dragonflow.neutron.db.clock import Now
from dragonflow.neutron.db.events import owe
from dragonflow.neutron.db.models import JournalEntry, PortGeneration

RECORDED = "df_journal"
"""The resource whose ``AFTER_CREATE`` tells, after the commit, of journal entries that no hook of ML2 knows of."""

WRITES = ("after_insert", "after_update", "after_delete")
"""SQLAlchemy's names of the writes to a model's table."""

Listener = tuple[type[Any], str, Callable[[Any, Any, Any], None]]
"""A model, one of ``WRITES`` or another event of its mapper, and whom to call then, in the same transaction."""

_IDENTITY = ("host", "vnic_type", "profile", "status")


class StaleTurn(Exception):
    """The port was bound anew, or switched off, since it was decided to turn it: nothing was written."""


class _Fence(threading.local):
    generations: Mapping[str, int] = {}
    held: str | None = None


_fence = _Fence()


@contextlib.contextmanager
def fenced(generations: Mapping[str, int]) -> Iterator[None]:
    """While this stands, this thread can't change these ports' statuses but for these generations of their bindings, nor turn one
    ACTIVE that is switched off.

    What decides is locked until the status is committed, so nothing comes in between.

    :raises StaleTurn: at the end, if it was tried; Neutron's callbacks swallow what is raised in the middle.
    """
    _fence.generations, _fence.held = generations, None
    try:
        yield
    finally:
        _fence.generations = {}
    if _fence.held:
        raise StaleTurn(_stale(_fence.held, generations[_fence.held]))


def listen(listeners: Iterable[Listener]) -> None:
    """Catch these writes from now on; saying so twice changes nothing."""
    for model, name, callback in listeners:
        if not sa.event.contains(model, name, callback):
            sa.event.listen(model, name, callback)


def listen_to_ports() -> None:
    """Catch the writes to ports and their bindings."""
    listen(_LISTENERS)


def _binding_inserted(_mapper: Any, connection: Any, binding: Any) -> None:
    if binding.status == constants.INACTIVE:
        _port_changed(connection, binding)
    else:
        _next_generation(connection, binding.port_id)


def _binding_updated(_mapper: Any, connection: Any, binding: Any) -> None:
    attributes = sa.inspect(binding).attrs
    changed = {name for name in _IDENTITY if attributes[name].history.has_changes()}
    if binding.status == constants.INACTIVE or "status" in changed:
        _port_changed(connection, binding)
    if changed and binding.status != constants.INACTIVE:
        _next_generation(connection, binding.port_id)


def _binding_deleted(_mapper: Any, connection: Any, binding: Any) -> None:
    if binding.status == constants.INACTIVE:
        _port_changed(connection, binding)


def _port_changed(connection: Any, binding: Any) -> None:
    port = models_v2.Port
    values = sa.select(sa.literal("port"), port.id, port.network_id, Now()).where(port.id == binding.port_id)
    write_entry(connection, binding, values)


def write_entry(connection: Any, written: Any, values: Any) -> None:
    """A journal entry in the transaction that writes the object ``written``, and a word to the journal after its commit.

    ``values`` is a select of kind, id, parent and time.
    """
    connection.execute(sa.insert(JournalEntry).from_select(["kind", "object_id", "parent", "created_at"], values))
    session = orm.object_session(written)
    if session is not None:
        sa.event.listen(session, "after_commit", _tell, once=True)


def write_plain_entry(connection: Any, written: Any, kind: str, id: str, parent: str) -> None:
    """As ``write_entry``, where nothing has to be looked up."""
    write_entry(connection, written, sa.select(sa.literal(kind), sa.literal(id), sa.literal(parent), Now()))


def _tell(_session: Any) -> None:
    registry.publish(RECORDED, events.AFTER_CREATE, None, payload=events.EventPayload(None))


def _next_generation(connection: Any, port_id: str) -> None:
    raised = connection.execute(
        sa.update(PortGeneration)
        .where(PortGeneration.port_id == port_id)
        .values(generation=PortGeneration.generation + 1)
    )
    if not raised.rowcount:
        connection.execute(sa.insert(PortGeneration).values(port_id=port_id, generation=1))


def _status_before(_mapper: Any, connection: Any, port: Any) -> None:
    expected = _fence.generations.get(port.id)
    if expected is None or not sa.inspect(port).attrs.status.history.has_changes():
        return
    ports, generations = models_v2.Port.__table__, PortGeneration.__table__
    locked = (
        sa.select(ports.c.admin_state_up, sa.func.coalesce(generations.c.generation, 0))
        .outerjoin(generations, generations.c.port_id == ports.c.id)
        .where(ports.c.id == port.id)
        .with_for_update()
    )
    now = connection.execute(locked).one_or_none()
    if now is None:
        return
    enabled, generation = now
    if generation != expected or (port.status == constants.PORT_STATUS_ACTIVE and not enabled):
        _fence.held = port.id
        raise StaleTurn(_stale(port.id, expected))


def _stale(port_id: str, generation: int) -> str:
    return f"port {port_id} has been bound anew since generation {generation}, or switched off"


def _status_after(_mapper: Any, connection: Any, port: Any) -> None:
    if port.status == constants.PORT_STATUS_ACTIVE and sa.inspect(port).attrs.status.history.has_changes():
        owe(connection, port)


_LISTENERS: tuple[Listener, ...] = (
    (ml2_models.PortBinding, "after_insert", _binding_inserted),
    (ml2_models.PortBinding, "after_update", _binding_updated),
    (ml2_models.PortBinding, "after_delete", _binding_deleted),
    (models_v2.Port, "before_update", _status_before),
    (models_v2.Port, "after_update", _status_after),
)
