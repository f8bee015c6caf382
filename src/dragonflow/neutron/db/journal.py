"""The journal: which objects' rows in the DF DB may be out of date. Written in the transaction of Neutron's change."""

from __future__ import annotations

import uuid
from collections.abc import Collection
from typing import Any, NamedTuple

import sqlalchemy as sa
from neutron_lib.db import api as db_api

from dragonflow.neutron.db.clock import Now
from dragonflow.neutron.db.models import JournalEntry
from dragonflow.neutron.db.retry import retry_deadlocks


class Entry(NamedTuple):
    """An object whose rows may be out of date; ``attempts`` have failed so far."""

    seq: int
    kind: str
    id: str
    parent: str
    attempts: int


def record(context: Any, kind: str, id: str, parent: str) -> None:
    """Say that the object changed, in the transaction that changes it."""
    context.session.execute(sa.insert(JournalEntry).values(kind=kind, object_id=id, parent=parent, created_at=Now()))


@retry_deadlocks
def record_all(context: Any, objects: Collection[tuple[str, str, str]]) -> None:
    """Say that these (kind, id and parent) may be out of date though Neutron did not change them, in a transaction of its own."""
    rows = [dict(zip(("kind", "object_id", "parent"), each, strict=True)) for each in objects]
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(sa.insert(JournalEntry.__table__).values(created_at=Now()), rows)


@retry_deadlocks
def claim(context: Any, lease: float, limit: int = 100) -> list[Entry]:
    """Take up to ``limit`` due entries in their order and keep others from them for ``lease`` seconds.

    A claim only spares double work: two who write the same object harm nobody, because the DF DB compares revisions.
    """
    claimant = str(uuid.uuid4())
    due = sa.select(JournalEntry.seq).where(JournalEntry.due <= Now()).order_by(JournalEntry.seq).limit(limit)
    with db_api.CONTEXT_READER.using(context):
        seqs = context.session.scalars(due).all()
    if not seqs:
        return []
    taken = sa.and_(JournalEntry.seq.in_(seqs), JournalEntry.due <= Now())
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(
            sa.update(JournalEntry).where(taken).values(due=Now() + lease, claimant=claimant),
            execution_options={"synchronize_session": False},
        )
    mine = (
        sa.select(
            JournalEntry.seq, JournalEntry.kind, JournalEntry.object_id, JournalEntry.parent, JournalEntry.attempts
        )
        .where(JournalEntry.seq.in_(seqs), JournalEntry.claimant == claimant)
        .order_by(JournalEntry.seq)
    )
    with db_api.CONTEXT_READER.using(context):
        return [Entry(*row) for row in context.session.execute(mine)]


@retry_deadlocks
def done(context: Any, seqs: Collection[int]) -> None:
    """Strike the entries: the DF DB holds what Neutron held after they were written."""
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(
            sa.delete(JournalEntry).where(JournalEntry.seq.in_(seqs)),
            execution_options={"synchronize_session": False},
        )


@retry_deadlocks
def postpone(context: Any, seqs: Collection[int], delay: float, failed: bool = True) -> None:
    """Give the entries back: anybody may take them ``delay`` seconds from now."""
    with db_api.CONTEXT_WRITER.using(context):
        context.session.execute(
            sa.update(JournalEntry)
            .where(JournalEntry.seq.in_(seqs))
            .values(due=Now() + delay, claimant=None, attempts=JournalEntry.attempts + int(failed)),
            execution_options={"synchronize_session": False},
        )


@retry_deadlocks
def waiting(context: Any) -> set[tuple[str, str]]:
    """Kind and id of the objects that have an entry, whoever has claimed it."""
    with db_api.CONTEXT_READER.using(context):
        rows = context.session.execute(sa.select(JournalEntry.kind, JournalEntry.object_id).distinct())
        return {tuple(row) for row in rows}


@retry_deadlocks
def waits(context: Any, kind: str, id: str) -> bool:
    """Whether the object has an entry, whoever has claimed it."""
    mine = sa.select(JournalEntry.seq).where(JournalEntry.object_id == id, JournalEntry.kind == kind).limit(1)
    with db_api.CONTEXT_READER.using(context):
        return context.session.scalar(mine) is not None


@retry_deadlocks
def pending(context: Any) -> int:
    """How many entries still wait, whoever has claimed them."""
    with db_api.CONTEXT_READER.using(context):
        return int(context.session.scalar(sa.select(sa.func.count()).select_from(JournalEntry)))
