"""Ports of other regions in Neutron's tables: what may not be written of them, whoever writes it.

Such a port is bound to no host here, and a few things need one: floating IPs, port forwardings, trunks, routers. Neutron has no
hook in which all of these could be refused, so it is done where SQLAlchemy writes them: the transaction fails, nothing is left.
The other way round, a port that has any of these does not become one of another region (``obstacle``).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron.db.models import l3 as l3_models
from neutron.db.models import port_forwarding as forwarding_models
from neutron.plugins.ml2 import models as ml2_models
from neutron.services.trunk.models import SubPort, Trunk
from neutron_lib import constants, exceptions
from neutron_lib.db import api as db_api

from dragonflow.neutron.db.listeners import listen
from dragonflow.neutron.profile import PORT_KEY, decoded, remote


class _Use(NamedTuple):
    """A table's column that names a port which must be bound here: for what, why, and what to do instead."""

    column: Any
    what: str
    why: str


_BY_ITS_OWN_ROUTER = "its answers leave by its own region's router. Use an address of that region"

_USES = (
    _Use(l3_models.FloatingIP.fixed_port_id, "floating IP", _BY_ITS_OWN_ROUTER),
    _Use(forwarding_models.PortForwarding.internal_neutron_port_id, "port forwarding", _BY_ITS_OWN_ROUTER),
    _Use(l3_models.RouterPort.port_id, "router", "a router's port is on no host. Give the router a port of its own"),
    _Use(Trunk.port_id, "trunk", "its trunk is where its VM is. Stretch the networks of its subports instead"),
    _Use(SubPort.port_id, "trunk", "a subport is where its parent is. Take a port of this region"),
)


def listen_to_remote_ports() -> None:
    """Refuse from now on what can't be. What is raised is ``InvalidInput``, for which Neutron's API answers 400."""
    listen((model, name, callback) for model, callback in _CALLBACKS for name in ("before_insert", "before_update"))


def obstacle(context: Any, port_id: str) -> str | None:
    """What keeps the port from becoming one of another region, and what to do about it; None if nothing does."""
    binding = ml2_models.PortBinding
    with db_api.CONTEXT_READER.using(context):
        for use in _USES:
            if context.session.scalar(sa.select(use.column).where(use.column == port_id).limit(1)) is not None:
                return f"the port has a {use.what}; take that from it first"
        further = sa.select(binding.host).where(binding.port_id == port_id, binding.status == constants.INACTIVE)
        host = context.session.scalar(further.limit(1))
    return None if host is None else f"the port is prepared for a migration to {host}; delete that binding first"


def _refuse(use: _Use) -> Any:
    def written(_mapper: Any, connection: Any, row: Any) -> None:
        port_id = getattr(row, use.column.key)
        if port_id and _changed(row, use.column.key) and _is_remote(connection, port_id):
            what = f"port {port_id} is one of another region and can have no {use.what} here: {use.why}"
            raise exceptions.InvalidInput(error_message=what)

    return written


def _is_remote(connection: Any, port_id: str) -> bool:
    binding = ml2_models.PortBinding.__table__
    found = sa.select(binding.c.profile, binding.c.host).where(
        binding.c.port_id == port_id, binding.c.status == constants.ACTIVE
    )
    return any(remote(decoded(text), host) for text, host in connection.execute(found))


def _binding_written(_mapper: Any, _connection: Any, binding: Any) -> None:
    if binding.host and PORT_KEY in decoded(binding.profile) and _changed(binding, "host", "profile"):
        what = (
            f"binding:host_id is {binding.host!r}: a port with a port_key in its binding:profile is on no host of this region. "
            "Unset one of them"
        )
        raise exceptions.InvalidInput(error_message=what)


def _changed(row: Any, *names: str) -> bool:
    attributes = sa.inspect(row).attrs
    return any(attributes[name].history.has_changes() for name in names)


_CALLBACKS = (
    (ml2_models.PortBinding, _binding_written),
    *((use.column.class_, _refuse(use)) for use in _USES),
)
