"""Security groups and address groups in Neutron's tables: the journal entries of their changes.

Which port has which group is part of the port's own change, which ML2's hooks see.
"""

from __future__ import annotations

from typing import Any

from neutron.db.models.address_group import AddressAssociation, AddressGroup
from neutron.db.models.securitygroup import SecurityGroup, SecurityGroupRule

from dragonflow.neutron.db.listeners import WRITES, listen, write_plain_entry

SECURITY_GROUP_KIND = "secgroup"
ADDRESS_GROUP_KIND = "addrgroup"


def listen_to_security_groups() -> None:
    """Catch the writes to groups, their rules and addresses."""
    listen((model, name, callback) for model, callback in _LISTENERS for name in WRITES)


def _group_changed(_mapper: Any, connection: Any, group: Any) -> None:
    write_plain_entry(connection, group, SECURITY_GROUP_KIND, group.id, group.id)


def _rule_changed(_mapper: Any, connection: Any, rule: Any) -> None:
    group = rule.security_group_id
    write_plain_entry(connection, rule, SECURITY_GROUP_KIND, group, group)


def _address_group_changed(_mapper: Any, connection: Any, group: Any) -> None:
    write_plain_entry(connection, group, ADDRESS_GROUP_KIND, group.id, group.id)


def _address_changed(_mapper: Any, connection: Any, address: Any) -> None:
    group = address.address_group_id
    write_plain_entry(connection, address, ADDRESS_GROUP_KIND, group, group)


_LISTENERS = (
    (SecurityGroup, _group_changed),
    (SecurityGroupRule, _rule_changed),
    (AddressGroup, _address_group_changed),
    (AddressAssociation, _address_changed),
)
