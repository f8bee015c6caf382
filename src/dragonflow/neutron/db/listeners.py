"""What ML2 tells no driver: changes of a port's bindings, caught where SQLAlchemy writes them.

ML2 calls no precommit hook when a further binding (of a live migration) is made, changed or deleted. So the port's journal
entry and the generation of its binding hang on the writes to ``ml2_port_bindings`` themselves, in the same transaction.
"""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.plugins.ml2 import models as ml2_models
from neutron_lib import constants

from dragonflow.neutron.db.models import JournalEntry, PortGeneration

_IDENTITY = ("host", "vnic_type", "profile", "status")


def listen() -> None:
    """Catch binding changes from now on; saying so twice changes nothing."""
    for name, callback in _CALLBACKS.items():
        if not sa.event.contains(ml2_models.PortBinding, name, callback):
            sa.event.listen(ml2_models.PortBinding, name, callback)


def _inserted(_mapper: Any, connection: Any, binding: Any) -> None:
    if binding.status == constants.INACTIVE:
        _port_changed(connection, binding.port_id)
    else:
        _next_generation(connection, binding.port_id)


def _updated(_mapper: Any, connection: Any, binding: Any) -> None:
    attributes = sa.inspect(binding).attrs
    changed = {name for name in _IDENTITY if attributes[name].history.has_changes()}
    if binding.status == constants.INACTIVE or "status" in changed:
        _port_changed(connection, binding.port_id)
    if changed and binding.status != constants.INACTIVE:
        _next_generation(connection, binding.port_id)


def _deleted(_mapper: Any, connection: Any, binding: Any) -> None:
    if binding.status == constants.INACTIVE:
        _port_changed(connection, binding.port_id)


def _port_changed(connection: Any, port_id: str) -> None:
    values = sa.select(sa.literal("port"), models_v2.Port.id, models_v2.Port.network_id, sa.literal(time.time())).where(
        models_v2.Port.id == port_id
    )
    connection.execute(sa.insert(JournalEntry).from_select(["kind", "object_id", "parent", "created_at"], values))


def _next_generation(connection: Any, port_id: str) -> None:
    raised = connection.execute(
        sa.update(PortGeneration)
        .where(PortGeneration.port_id == port_id)
        .values(generation=PortGeneration.generation + 1)
    )
    if not raised.rowcount:
        connection.execute(sa.insert(PortGeneration).values(port_id=port_id, generation=1))


_CALLBACKS = {"after_insert": _inserted, "after_update": _updated, "after_delete": _deleted}
