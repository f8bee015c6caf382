"""How a sync gets past refusals, with a switch that refuses on purpose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from dragonflow.pipeline import ApplyMeter, Bucket, Flow, Group, Meter, Output, match
from dragonflow.pipeline.facts import Owner
from dragonflow.switch.bundle import bring_up_to_date
from dragonflow.switch.ledger import Ledger
from dragonflow.switch.openflow.connection import Disconnected, Refused
from dragonflow.switch.openflow.errors import OpenFlowError
from dragonflow.switch.openflow.messages import Message


class Stubborn:
    """A connection to a switch that refuses bundles with a message of which ``bad`` is true, and may not say which."""

    def __init__(self, bad: Callable[[Message], bool], *, names: bool) -> None:
        self.bad, self.names = bad, names
        self.done: list[Message] = []
        self.closed = ""

    async def bundle(self, messages: Sequence[Message], before: Sequence[Message]) -> list[Refused]:
        sent = (*before, *messages)
        bad = [index for index, message in enumerate(sent) if self.bad(message)]
        self.done += (it for index, it in enumerate(sent) if index not in bad and (not bad or index < len(before)))
        return [Refused(OpenFlowError(it, "OFPBAC_BAD_ARGUMENT"), it if self.names else None) for it in bad]

    def close(self, reason: str) -> None:
        self.closed = reason


def owner(name: object) -> Owner:
    return Owner("app", "Thing", str(name))


def filled() -> Ledger:
    ledger = Ledger(now=lambda: 0.0)
    for number in range(20):
        bad = number in (7, 13)
        ledger.set(owner(number), [Flow(1, 66 if bad else 5, match(reg0=number), (Output(1),))])
    return ledger


def is_bad(message: Message) -> bool:
    """Flows of priority 66."""
    return message.type == 14 and message.body[22:24] == b"\0\x42"


@pytest.mark.parametrize("names", [True, False])
async def test_bad_owners_are_found_and_the_rest_gets_through(names: bool) -> None:
    ledger, connection = filled(), Stubborn(is_bad, names=names)
    synced = await bring_up_to_date(connection, ledger, sweep=True)  # type: ignore[arg-type]
    assert set(synced.refused) == {owner(7), owner(13)} == set(ledger.refused)
    assert len(connection.done) == 18
    assert not ledger.difference()


@pytest.mark.parametrize("names", [True, False])
async def test_a_switch_that_refuses_what_nobody_wants_is_left_and_read_anew(names: bool) -> None:
    ledger, connection = filled(), Stubborn(lambda message: message.body[17] == 4, names=names)  # DELETE_STRICT
    await bring_up_to_date(connection, ledger, sweep=True)  # type: ignore[arg-type]
    ledger.set(owner(1), [])
    with pytest.raises(Disconnected):
        await bring_up_to_date(connection, ledger, sweep=True)  # type: ignore[arg-type]
    assert "OFPBAC_BAD_ARGUMENT" in connection.closed


async def test_of_many_buckets_only_the_bad_one_is_left_out() -> None:
    ledger = Ledger(now=lambda: 0.0)
    ledger.set(owner("net"), [Group(1)])
    for number in range(1, 9):
        ledger.set(owner(number), [Bucket(1, number, (Output(0xBAD if number == 4 else number),))])
    connection = Stubborn(lambda message: b"\0\0\x0b\xad" in message.body, names=True)
    synced = await bring_up_to_date(connection, ledger, sweep=True)  # type: ignore[arg-type]
    assert set(synced.refused) == {owner(4)}


async def test_a_meter_that_is_refused_costs_its_owner_alone_and_the_others_are_made_once() -> None:
    ledger = filled()
    for number, rate in ((50, 100), (51, 666), (52, 100)):
        meter, use = Meter(number, rate, 10), Flow(1, 5, match(reg0=number), (ApplyMeter(number),))
        ledger.set(owner(number), [meter, use])
    connection = Stubborn(lambda message: message.type == 29 and b"\0\0\x02\x9a" in message.body, names=True)
    synced = await bring_up_to_date(connection, ledger, sweep=True)  # type: ignore[arg-type]
    assert set(synced.refused) == {owner(51)}
    assert sum(message.type == 29 for message in connection.done) == 2
    assert not ledger.difference()
