"""Stages and tables. A table states which stage it stands in and what becomes of a packet that no flow matches."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from dragonflow.pipeline.action import Action
    from dragonflow.pipeline.facts import Flow
    from dragonflow.pipeline.match import Match

SLOTS = 8
"""Tables a stage may hold."""


class Stage(IntEnum):
    """The order of a packet's way. A table may send packets on only to later tables."""

    CLASSIFICATION = 0
    RESOLUTION = 4
    SWITCHING = 12
    DELIVERY = 24


class Table(msgspec.Struct, frozen=True):
    """A flow table: ``slot`` is its place within the stage; ``miss`` the table that unmatched packets go to (None: drop)."""

    name: str
    stage: Stage
    slot: int = 0
    miss: Table | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.slot < SLOTS:
            raise ValueError(f"table {self.name}: slot {self.slot} is not within 0 … {SLOTS - 1}")
        if self.miss is not None and self.miss.number <= self.number:
            raise ValueError(f"table {self.name}: a miss must lead to a later table, not to {self.miss.name}")

    @property
    def number(self) -> int:
        """The OpenFlow table id."""
        return self.stage * SLOTS + self.slot

    def flow(self, priority: int, match: Match, *actions: Action, goto: Table | None = None) -> Flow:
        """A flow of this table: the actions are done at once, then the packet goes on to ``goto`` (None: ends here)."""
        from dragonflow.pipeline.facts import Flow

        if goto is not None and goto.number <= self.number:
            raise ValueError(f"table {self.name}: a flow can't go back to {goto.name}")
        return Flow(self.number, priority, match, actions, None if goto is None else goto.number)
