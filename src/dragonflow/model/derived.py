"""All that is worked out of rows and kept nowhere else: where networks are, and what rules of security groups speak of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dragonflow.model.numbering import Numbering
from dragonflow.model.presence import SEATED, Seated, seated
from dragonflow.model.rows import LogicalPort, Row, SecurityGroup
from dragonflow.model.rule_classes import NUMBERS, RuleClass, by_class, rule_class

Derived = Seated | RuleClass

DERIVED: tuple[type[Derived], ...] = (*SEATED, RuleClass)


def worked_out(rows: Iterable[Row]) -> Iterator[Derived]:
    """All that follows from these rows, as if they had come at once."""
    rows = tuple(rows)
    yield from seated(it for it in rows if isinstance(it, LogicalPort))
    groups = [it for it in rows if isinstance(it, SecurityGroup)]
    found = {name: (group.id, rules) for group in groups for name, rules in by_class(group).items()}
    for name, number in Numbering(*NUMBERS).change(found).items():
        if number is not None:
            yield rule_class(*found[name], number)
