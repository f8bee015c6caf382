"""Rules of security groups by whom they speak of: worked out of the groups' rows, and kept nowhere else.

Rules of one group that differ only in protocols and ports make a class; those that allow all protocols one of their own. A class
becomes one conjunction: the ports that have the group, the addresses of the remote side, and the protocols with their ports.
Where anybody is meant, or anything, that dimension is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from dragonflow.model.rows import SecurityGroup, SecurityRule

NUMBERS = 1, (1 << 32) - 1
"""The numbers that classes of rules may have: those of conjunctions."""


class RuleClass(msgspec.Struct, frozen=True, kw_only=True):
    """A class of rules of security group ``group``; its id says all that makes it one. ``number`` is its own on this chassis."""

    id: str
    group: str
    direction: str
    ip_version: int
    remote_group: str | None
    anybody: bool
    anything: bool
    number: int

    @property
    def dimensions(self) -> int:
        """How many the conjunction has, the ports that have the group among them."""
        return 3 - self.anybody - self.anything

    @property
    def remote(self) -> str:
        """Whom the rules speak of: ``group …``, ``addresses …``, ``prefix …`` or ``anybody``."""
        return self.id.rpartition("|")[2]


def class_of(group: str, rule: SecurityRule) -> str:
    """The id of the rule's class."""
    kinds = (("group", rule.remote_group), ("addresses", rule.address_group), ("prefix", rule.prefix))
    remote = next((f"{kind} {name}" for kind, name in kinds if name is not None and not _is_anybody(rule)), "anybody")
    what = "anything" if rule.protocol is None else "some"
    return f"{group}|{rule.direction}|{rule.ip_version}|{what}|{remote}"


def _is_anybody(rule: SecurityRule) -> bool:
    named = rule.remote_group is not None or rule.address_group is not None
    return not named and (rule.prefix is None or rule.prefix.endswith("/0"))


def by_class(group: SecurityGroup) -> Mapping[str, tuple[SecurityRule, ...]]:
    """The group's rules by the ids of their classes."""
    found: dict[str, list[SecurityRule]] = {}
    for rule in group.rules:
        found.setdefault(class_of(group.id, rule), []).append(rule)
    return {name: tuple(rules) for name, rules in found.items()}


def rule_class(group: str, rules: Iterable[SecurityRule], number: int) -> RuleClass:
    """The class of these rules, which are all of one."""
    rule = next(iter(rules))
    return RuleClass(
        id=class_of(group, rule),
        group=group,
        direction=rule.direction,
        ip_version=rule.ip_version,
        remote_group=rule.remote_group,
        anybody=_is_anybody(rule),
        anything=rule.protocol is None,
        number=number,
    )
