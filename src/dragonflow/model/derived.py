"""All that is worked out of rows and kept nowhere else: where networks are, what rules of security groups speak of, and zones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dragonflow.model import rule_classes, zones
from dragonflow.model.numbering import Numbering
from dragonflow.model.presence import SEATED, Seated, seated
from dragonflow.model.rows import Binding, LogicalPort, Row, SecurityGroup
from dragonflow.model.rule_classes import RuleClass, by_class, rule_class
from dragonflow.model.zones import Zone

Derived = Seated | RuleClass | Zone

DERIVED: tuple[type[Derived], ...] = (*SEATED, RuleClass, Zone)


def worked_out(rows: Iterable[Row]) -> Iterator[Derived]:
    """All that follows from these rows, as if they had come at once."""
    rows = tuple(rows)
    yield from seated(it for it in rows if isinstance(it, LogicalPort))
    groups = [it for it in rows if isinstance(it, SecurityGroup)]
    found = {name: (group.id, rules) for group in groups for name, rules in by_class(group).items()}
    for name, number in Numbering(*rule_classes.NUMBERS).change(found).items():
        if number is not None:
            yield rule_class(*found[name], number)
    bound = {it.id for it in rows if isinstance(it, Binding)}
    for name, number in Numbering(*zones.NUMBERS).change(bound).items():
        if number is not None:
            yield Zone(id=name, number=number)
