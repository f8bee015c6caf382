"""Stages and tables. A table states its contract, and refuses flows that don't keep it where they are written."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING

from dragonflow.pipeline.facts import Flow
from dragonflow.pipeline.fields import FIELDS, Field
from dragonflow.pipeline.registers import Bits

if TYPE_CHECKING:
    from dragonflow.pipeline.action import Action
    from dragonflow.pipeline.match import Match, Shape

SLOTS = 8
"""Tables a stage may hold."""


class Stage(IntEnum):
    """The order of a packet's way. A table may send packets on only to later tables."""

    CLASSIFICATION = 0
    EGRESS = 1
    QOS = 2
    HEARING = 3
    RESOLUTION = 4
    SERVICES = 6
    ROUTING = 8
    SWITCHING = 12
    INGRESS = 20
    DELIVERY = 24
    RULES = 28


class Table:
    """A flow table and its contract. Tables are compared by identity: there is one object of each.

    ``purpose`` is a sentence for ``docs/pipeline.md``. ``matches`` are the fields, or named bits of them, that flows may match.
    ``next`` are the tables to which flows may lead; ``miss`` is the one that unmatched packets go to (None: they are dropped).
    ``slot`` is the table's place within its stage.

    :raises ValueError: a slot that doesn't exist, or a way that doesn't lead forward.
    """

    __slots__ = (
        "_allowed",
        "_approved",
        "matches",
        "miss",
        "name",
        "next",
        "number",
        "purpose",
        "slot",
        "stage",
        "ways",
    )

    def __init__(
        self,
        name: str,
        stage: Stage,
        slot: int = 0,
        *,
        purpose: str,
        matches: Iterable[Bits | str] = (),
        next: Iterable[Table] = (),
        miss: Table | None = None,
    ) -> None:
        if not 0 <= slot < SLOTS:
            raise ValueError(f"table {name}: slot {slot} is not within 0 … {SLOTS - 1}")
        self.name, self.stage, self.slot, self.purpose, self.miss = name, stage, slot, purpose, miss
        self.matches, self.next = tuple(matches), tuple(next)
        self.number = stage * SLOTS + slot
        """The OpenFlow table id."""
        self.ways = (*self.next, *((miss,) if miss is not None else ()))
        """All tables to which packets may go on."""
        for way in self.ways:
            if way.number <= self.number:
                raise ValueError(f"table {name}: the way must lead to a later table, not to {way.name}")
        self._approved: set[Shape] = set()
        self._allowed: dict[Field, int] = {}
        for it in self.matches:
            field, mask = (FIELDS[it], FIELDS[it].full) if isinstance(it, str) else (FIELDS[it.field], it.mask)
            self._allowed[field] = self._allowed.get(field, 0) | mask

    def __repr__(self) -> str:
        return f"<Table {self.number} {self.name}>"

    def flow(self, priority: int, match: Match, *actions: Action, goto: Table | None = None) -> Flow:
        """A flow of this table: the actions are done at once, then the packet goes on to ``goto`` (None: ends here).

        :raises ValueError: a match or a way that isn't in the contract; names the table and the field.
        """
        if goto is not None and goto not in self.ways:
            raise ValueError(f"table {self.name}: its contract has no way to {goto.name}")
        if match.shape not in self._approved:
            self._check(match.shape)
            self._approved.add(match.shape)
        return Flow(self.number, priority, match, actions, None if goto is None else goto.number)

    def _check(self, shape: Shape) -> None:
        for field, mask in shape.fields:
            if mask & ~self._allowed.get(field, 0):
                raise ValueError(f"table {self.name}: its contract doesn't let flows match {field.name}")
