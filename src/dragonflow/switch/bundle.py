"""Bring a switch to what the ledger wants: one atomic bundle, and a refusal costs only the owner that earned it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec

from dragonflow.pipeline.facts import Owner
from dragonflow.switch.connections import Cut
from dragonflow.switch.ledger import Change, Difference, Ledger, describe
from dragonflow.switch.openflow.connection import Connection, Disconnected, Refused
from dragonflow.switch.openflow.messages import Message, zone_flush

logger = logging.getLogger(__name__)


class Synced(msgspec.Struct, frozen=True):
    """What a sync did: ``mods`` messages changed the switch; ``refused`` are the owners that it would not take, and why."""

    mods: int
    refused: Mapping[Owner, str]
    cuts: tuple[Cut, ...] = ()
    """What was cut. For a moment the data path may go on by the flows before, and begin such connections anew."""


class _Refusal(Exception):
    """The switch refuses this change."""

    def __init__(self, change: Change, reason: str) -> None:
        super().__init__(reason)
        self.change, self.reason = change, reason


async def bring_up_to_date(connection: Connection, ledger: Ledger, *, sweep: bool) -> Synced:
    """Send the ledger's difference and confirm it. Owners whose facts are refused are left out, and the rest is tried again.

    Ends, because every turn but the last leaves out an owner more, or at least begins to send buckets one by one.

    :raises Disconnected: the connection went, or the switch refuses what no owner wants; the ledger must adopt anew.
    """
    refused: dict[Owner, str] = {}
    mods = 0
    finely = False
    cut: list[Cut] = []
    while difference := ledger.difference(sweep=sweep, finely=finely):
        try:
            mods += await _send(connection, ledger, difference)
            cut += await _cut(connection, difference.cuts)
            break
        except _Refusal as refusal:
            change = refusal.change
            if not finely and _has_buckets(change):
                finely = True  # then an error says which bucket it is
                continue
            owners = ledger.owners_of(change)
            if not owners:
                reason = f"the switch refuses {describe(change.kind, change.name)}: {refusal.reason}"
                connection.close(reason)
                raise Disconnected(reason) from refusal
            for owner in owners:
                logger.error("The switch refuses what %s wants: %s; going on without it", owner, refusal.reason)
                refused[owner] = refusal.reason
                ledger.refuse(owner, refusal.reason)
    return Synced(mods, refused, tuple(cut))


def _has_buckets(change: Change) -> bool:
    return isinstance(change.value, tuple) and len(change.value) > 1


async def _send(connection: Connection, ledger: Ledger, difference: Difference) -> int:
    if difference.bundle:
        try:
            await _bundle(connection, ledger, difference.bundle, difference.before)
        except Refused as error:
            logger.warning("A bundle was refused without a word why (%s); looking for the reason step by step", error)
            await _halve(connection, ledger, difference.bundle)
    else:
        await _one_by_one(connection, ledger, difference.before)
    await _one_by_one(connection, ledger, difference.after)
    return sum(
        len(change.messages) for part in (difference.before, difference.bundle, difference.after) for change in part
    )


async def _cut(connection: Connection, cuts: tuple[Cut, ...]) -> tuple[Cut, ...]:
    """Cut connections. Open vSwitch before 3.1 can only empty their whole zones."""
    if cuts and await connection.send([cut.message for cut in cuts]):
        await connection.send([zone_flush(zone) for zone in sorted({cut.zone for cut in cuts})])
        return ()
    return cuts


async def _one_by_one(connection: Connection, ledger: Ledger, changes: Sequence[Change]) -> None:
    """Send what can't ride in a bundle (meters), and what no message makes."""
    sent = _messages(changes)
    _judge(ledger, await connection.send(sent) if sent else (), changes)


async def _bundle(
    connection: Connection, ledger: Ledger, changes: Sequence[Change], before: Sequence[Change] = ()
) -> None:
    """:raises _Refusal: the switch names the change; :raises Refused: it names none."""
    refused = await connection.bundle(_messages(changes), _messages(before))
    _judge(ledger, refused, before, changes)
    ledger.confirm(changes)


def _judge(
    ledger: Ledger, refused: Sequence[Refused], single: Sequence[Change], bundled: Sequence[Change] = ()
) -> None:
    """Confirm what was done one by one. :raises _Refusal: the first that was refused; :raises Refused: it has no name."""
    changes = (*single, *bundled)
    refusals = {_change_at(changes, it.index): it for it in refused if it.index is not None}
    ledger.confirm(change for change in single if change not in refusals)
    for change, it in refusals.items():
        raise _Refusal(change, str(it)) from it
    for it in refused:
        raise it


async def _halve(connection: Connection, ledger: Ledger, changes: Sequence[Change]) -> None:
    """Find the change that makes a bundle fail, by smaller and smaller bundles in the same order.

    What goes through stays, so this gives up atomicity for getting on.
    """
    half = max(len(changes) // 2, 1)
    for part in (changes[:half], changes[half:]):
        try:
            if part:
                await _bundle(connection, ledger, part)
        except Refused as error:
            if len(part) == 1:
                raise _Refusal(part[0], str(error)) from error
            await _halve(connection, ledger, part)


def _messages(changes: Sequence[Change]) -> list[Message]:
    return [message for change in changes for message in change.messages]


def _change_at(changes: Sequence[Change], index: int) -> Change:
    """The change to which the message of this index belongs."""
    for change in changes:
        index -= len(change.messages)
        if index < 0:
            return change
    raise IndexError(index)
