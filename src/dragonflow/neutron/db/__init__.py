"""Dragonflow's own tables in Neutron's SQL database, their alembic branch and the statements on them."""

from dragonflow.neutron.db.journal import Entry, claim, done, pending, postpone, record, waiting
from dragonflow.neutron.db.listeners import listen
from dragonflow.neutron.db.models import JournalEntry, PortGeneration
from dragonflow.neutron.db.ports import PortNow, generation, generations, ports_now, revision

__all__ = [
    "Entry",
    "JournalEntry",
    "PortGeneration",
    "PortNow",
    "claim",
    "done",
    "generation",
    "generations",
    "listen",
    "pending",
    "ports_now",
    "postpone",
    "record",
    "revision",
    "waiting",
]
