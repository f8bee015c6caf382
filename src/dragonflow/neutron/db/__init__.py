"""Dragonflow's own tables in Neutron's SQL database, their alembic branch and the statements on them."""

from dragonflow.neutron.db.blocks import block, unblock
from dragonflow.neutron.db.events import Owed, accepted, of_nova, owe, owed, put_off, refused, strike
from dragonflow.neutron.db.journal import Entry, claim, done, pending, postpone, record, record_all, waiting, waits
from dragonflow.neutron.db.listeners import RECORDED, StaleTurn, fenced, listen
from dragonflow.neutron.db.models import JournalEntry, OwedEvent, PortGeneration
from dragonflow.neutron.db.ports import (
    PortNow,
    StandbyNow,
    generation,
    generations,
    ports_mark,
    ports_now,
    revision,
    standby_now,
)

__all__ = [
    "RECORDED",
    "Entry",
    "JournalEntry",
    "Owed",
    "OwedEvent",
    "PortGeneration",
    "PortNow",
    "StaleTurn",
    "StandbyNow",
    "accepted",
    "block",
    "claim",
    "done",
    "fenced",
    "generation",
    "generations",
    "listen",
    "of_nova",
    "owe",
    "owed",
    "pending",
    "ports_mark",
    "ports_now",
    "postpone",
    "put_off",
    "record",
    "record_all",
    "refused",
    "revision",
    "standby_now",
    "strike",
    "unblock",
    "waiting",
    "waits",
]
