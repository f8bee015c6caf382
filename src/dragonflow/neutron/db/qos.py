"""QoS policies in Neutron's tables: the journal entries of their changes, and of their rules'.

Which port or network has which policy is part of the port's or the network's own change, which ML2's hooks see.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from neutron.db.qos.models import QosBandwidthLimitRule, QosDscpMarkingRule, QosPolicy

from dragonflow.neutron.db.clock import Now
from dragonflow.neutron.db.listeners import write_entry

QOS_KIND = "qos"


def listen_to_qos() -> None:
    """Catch these writes from now on; saying so twice changes nothing."""
    for model, callback in _CALLBACKS:
        for name in ("after_insert", "after_update", "after_delete"):
            if not sa.event.contains(model, name, callback):
                sa.event.listen(model, name, callback)


def _policy_changed(_mapper: Any, connection: Any, policy: Any) -> None:
    _record(connection, policy, policy.id)


def _rule_changed(_mapper: Any, connection: Any, rule: Any) -> None:
    _record(connection, rule, rule.qos_policy_id)


def _record(connection: Any, written: Any, policy: str) -> None:
    values = sa.select(sa.literal(QOS_KIND), sa.literal(policy), sa.literal(policy), Now())
    write_entry(connection, written, values)


_CALLBACKS = (
    (QosPolicy, _policy_changed),
    (QosBandwidthLimitRule, _rule_changed),
    (QosDscpMarkingRule, _rule_changed),
)
