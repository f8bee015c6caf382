"""QoS policies in Neutron's tables: the journal entries of their changes, and of their rules'.

Which port or network has which policy is part of the port's or the network's own change, which ML2's hooks see.
"""

from __future__ import annotations

from typing import Any

from neutron.db.qos.models import QosBandwidthLimitRule, QosDscpMarkingRule, QosPolicy

from dragonflow.neutron.db.listeners import WRITES, listen, write_plain_entry

QOS_KIND = "qos"


def listen_to_qos() -> None:
    """Catch the writes to policies and their rules."""
    listen((model, name, callback) for model, callback in _LISTENERS for name in WRITES)


def _policy_changed(_mapper: Any, connection: Any, policy: Any) -> None:
    _record(connection, policy, policy.id)


def _rule_changed(_mapper: Any, connection: Any, rule: Any) -> None:
    _record(connection, rule, rule.qos_policy_id)


def _record(connection: Any, written: Any, policy: str) -> None:
    write_plain_entry(connection, written, QOS_KIND, policy, policy)


_LISTENERS = (
    (QosPolicy, _policy_changed),
    (QosBandwidthLimitRule, _rule_changed),
    (QosDscpMarkingRule, _rule_changed),
)
