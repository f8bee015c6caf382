"""What the controller is asked: whatever world, each flow that hands it a packet has its meter, and one bounds them all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from dragonflow.apps import APPS
from dragonflow.pipeline import Action, ApplyMeter, Bucket, Clone, Flow, Meter, Punt, PuntKind
from dragonflow.pipeline.punt import ALL, LIMITS
from dragonflow.testing import worlds
from dragonflow.testing.oracle import compile_world

STATES = sorted(worlds.STATES)


def punts(actions: Sequence[Action]) -> Iterator[tuple[Action | None, Punt]]:
    """Each punt, also within clones, with the first of the meters right before it: its own comes before one of all ports."""
    meter: Action | None = None
    for action in actions:
        if isinstance(action, Punt):
            yield meter, action
        elif isinstance(action, Clone):
            yield from punts(action.actions)
        meter = None if not isinstance(action, ApplyMeter) else meter or action


@pytest.mark.parametrize("state", STATES)
def test_nothing_is_punted_but_through_a_meter_of_its_kind_and_port(state: str) -> None:
    for owner, facts in compile_world(APPS, worlds.STATES[state]()).facts.items():
        meters = {fact.id: fact for fact in facts if isinstance(fact, Meter)}
        for fact in facts:
            for before, punt in punts(fact.actions) if isinstance(fact, Flow | Bucket) else ():
                assert isinstance(before, ApplyMeter), (owner, fact)
                meter, limit = meters[before.meter], LIMITS[PuntKind(punt.kind)]
                assert (meter.id >> 16, meter.rate, meter.burst) == (punt.kind, limit.rate, limit.burst), owner


def test_these_worlds_have_all_that_is_ever_punted_and_one_meter_bounds_it() -> None:
    """So the test above has seen them all; and every kind has a limit, and somebody who answers."""
    seen = set[int]()
    for state in STATES:
        facts = [fact for some in compile_world(APPS, worlds.STATES[state]()).facts.values() for fact in some]
        seen |= {punt.kind for fact in facts if isinstance(fact, Flow) for _, punt in punts(fact.actions)}
        assert facts.count(ALL) == 1
    assert seen == set(PuntKind) == set(LIMITS)


def test_a_guest_with_nothing_but_addresses_has_little_punted() -> None:
    """What ``LIMITS`` says of it; a thousand of them at once are what ``ALL`` is for."""
    found = {
        fact.id: fact.rate
        for facts in compile_world(APPS, worlds.STATES["routed"]()).facts.values()
        for fact in facts
        if isinstance(fact, Meter) and fact.id & 0xFFFF == worlds.tap("a", 5).ofport
    }
    punted = {number: rate for number, rate in found.items() if number >> 16 in set(PuntKind)}
    assert len(punted) <= 5
    assert sum(punted.values()) <= 61
