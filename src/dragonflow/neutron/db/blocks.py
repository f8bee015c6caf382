"""Provisioning blocks of many ports at once: what a port waits for before it may turn ACTIVE.

Neutron's own ``provisioning_blocks`` does the same for one port in two transactions; here many share one.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from neutron.db import models_v2
from neutron.db.models.provisioning_block import ProvisioningBlock
from neutron.db.provisioning_blocks import L2_AGENT_ENTITY
from neutron_lib.db import api as db_api

from dragonflow.neutron.db.retry import retry_deadlocks


@retry_deadlocks
def unblock(context: Any, ports: Collection[str]) -> list[str]:
    """The hosts of these ports are done. Returns the ports that wait for nothing else (DHCP, for instance)."""
    with db_api.CONTEXT_WRITER.using(context):
        found = _blocks(context, ports)
        ours = [attribute for attribute, entities in found.values() if L2_AGENT_ENTITY in entities]
        if ours:
            context.session.execute(
                sa.delete(ProvisioningBlock).where(
                    ProvisioningBlock.standard_attr_id.in_(ours), ProvisioningBlock.entity == L2_AGENT_ENTITY
                ),
                execution_options={"synchronize_session": False},
            )
        return [port for port, (_, entities) in found.items() if entities <= {L2_AGENT_ENTITY}]


@retry_deadlocks
def block(context: Any, ports: Collection[str]) -> None:
    """From now on these ports wait for their hosts."""
    with db_api.CONTEXT_WRITER.using(context):
        missing = [
            attribute for attribute, entities in _blocks(context, ports).values() if L2_AGENT_ENTITY not in entities
        ]
        if missing:
            lines = [{"standard_attr_id": attribute, "entity": L2_AGENT_ENTITY} for attribute in missing]
            context.session.execute(sa.insert(ProvisioningBlock), lines)


def _blocks(context: Any, ports: Collection[str]) -> dict[str, tuple[int, set[str]]]:
    """Of each port that exists: its standard attribute, and for whom it waits."""
    port = models_v2.Port
    query = (
        sa.select(port.id, port.standard_attr_id, ProvisioningBlock.entity)
        .outerjoin(ProvisioningBlock, ProvisioningBlock.standard_attr_id == port.standard_attr_id)
        .where(port.id.in_(ports))
    )
    found: dict[str, tuple[int, set[str]]] = {}
    for name, attribute, entity in context.session.execute(query):
        entities = found.setdefault(name, (attribute, set()))[1]
        if entity is not None:
            entities.add(entity)
    return found
