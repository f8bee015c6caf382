"""Rows of the DF DB: what can't be read is refused at the door; what can be read ends no loop, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from random import Random
from typing import Any, NamedTuple

from dragonflow.apps import APPS
from dragonflow.apps.advertisement import Advertisement
from dragonflow.apps.door import Door
from dragonflow.controller.engine import Engine
from dragonflow.controller.holders import Holders
from dragonflow.controller.neighbours import Neighbours
from dragonflow.controller.probe import Planner
from dragonflow.controller.replica import Replica
from dragonflow.controller.report import claims
from dragonflow.controller.topology import needed_scopes
from dragonflow.controller.view import View
from dragonflow.model import CodecError, Row, decode, encode
from dragonflow.pubsub.memory import MemoryPubSub
from dragonflow.store.draft import transact
from dragonflow.store.keys import PORT, Exhausted, allocate, find, release
from dragonflow.store.memory import MemoryStore
from dragonflow.store.protocol import Key, Put, StoreCorrupt, Txn
from dragonflow.switch.ledger import Ledger
from dragonflow.testing import worlds
from dragonflow.testing.fuzz import disturbed, fuzz, mutated, nested

ROWS = sorted({encode(it): it for state in worlds.STATES.values() for it in state().rows}.items())


def test_bytes_are_read_or_refused() -> None:
    """Also such as end a parser that calls itself for each bracket."""
    good = [data for data, _ in ROWS]

    def make(random: Random) -> tuple[str, bytes]:
        data, row = random.choice(ROWS)
        data = mutated(random, [data, *random.sample(good, 2)])
        if random.random() < 0.05:
            data = data[: random.randrange(len(data) + 1)] + random.choice((b"", b'{"a":', b'"x":')) + nested()
        return type(row).__name__, data

    def check(made: tuple[str, bytes]) -> None:
        kind, data = made
        with contextlib.suppress(CodecError):
            encode(decode(kind, json_id(data), data))

    fuzz(3000, make, check)


def json_id(data: bytes) -> str:
    try:
        return str(json.loads(data)["id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "x"


class Disturbed(NamedTuple):
    """In a world one row is another."""

    world: str
    row: Row
    other: Row


def make(random: Random) -> Disturbed | None:
    """Keeps id and scope, for with others it would be refused, or be one of another network."""
    name = random.choice(sorted(worlds.STATES))
    row = random.choice(worlds.STATES[name]().rows)
    good: Mapping[str, Any] = json.loads(encode(row))
    other = disturbed(random, good)
    if not isinstance(other, Mapping):
        return None
    tree = {**good, **{key: it for key, it in other.items() if key not in ("id", "schema")}}
    try:
        data = json.dumps(tree).encode()
        return Disturbed(name, row, decode(type(row).__name__, row.id, data, row.scope))
    except (CodecError, UnicodeEncodeError):
        return None


class Ground:
    """A world with all loops that go over its rows, each taken a step at a time."""

    def __init__(self, name: str) -> None:
        world = worlds.STATES[name]()
        self.replica, self.me, self.revision = Replica(), world.me, 1
        worlds.load(self.replica, *world.objects)
        self.engine, self.ledger = Engine(APPS, self.replica, self.me), Ledger(lambda: 0.0)
        self.neighbours = Neighbours(self.replica, lambda: None)
        self.holders = Holders(MemoryStore(), MemoryPubSub(), self.replica, self.me.chassis, lambda: None)
        self.planner = Planner(self.replica, self.engine.locality, self.me, "tunnelled")
        self.step()
        self.before = self.flows()

    def takes(self, row: Row) -> None:
        self.revision += 1
        self.replica.upsert(row, self.revision)
        self.step()

    def step(self) -> None:
        for owner, facts in self.engine.settle().facts.items():
            self.ledger.set(owner, facts)
        self.ledger.difference()
        needed_scopes(self.me.chassis, self.replica)
        said = claims(self.me, self.replica, self.engine.locality, self.engine.serving)
        for port, claim in said.items():
            if claim.ofport is not None:
                self.planner.plan(port, claim.ofport)

    def flows(self) -> object:
        """What should be on the switch now."""
        difference = self.ledger.difference()
        return sorted(map(repr, (*difference.before, *difference.bundle))), self.engine.places

    def unasked(self) -> None:
        view = View(self.replica, self.engine.places, self.me, self.engine.serving)
        for each in (self.neighbours.tick, self.holders.tick, Door().unasked, Advertisement().unasked):
            list(each(view))
        list(self.holders._wanted((), ()))


def test_a_row_that_makes_no_sense_ends_no_loop_and_a_good_one_makes_all_as_it_was() -> None:
    grounds: dict[str, Ground] = {}

    def prepared(random: Random) -> Disturbed | None:
        """With the world in which it is to happen, which takes longer than the case itself."""
        made = make(random)
        if made is not None and made.world not in grounds:
            grounds[made.world] = Ground(made.world)
        return made

    def check(made: Disturbed | None) -> None:
        if made is None:
            return
        ground = grounds[made.world]
        try:
            ground.takes(made.other)
            ground.unasked()
        finally:
            ground.takes(made.row)
        assert ground.flows() == ground.before

    fuzz(1000, prepared, check)


async def test_a_pool_of_keys_that_is_damaged_says_so() -> None:
    """It gives nobody a key that is another's."""
    store = MemoryStore()
    for number in range(4):
        await _once(store, allocate, f"port{number}")
    await _once(store, release, "port1")
    good = {record.key: record.data or b"" for record in (await store.snapshot([PORT.scope])).records}
    made: list[tuple[Key, bytes]] = []
    fuzz(300, lambda random: _damage(random, good), made.append)
    for key, data in made:
        damaged = MemoryStore()
        await damaged.commit(Txn(tuple(Put(it, data if it == key else value) for it, value in good.items())))
        held = set[int]()
        for owner in ("port0", "port2", "port3", "port9"):
            with contextlib.suppress(StoreCorrupt, Exhausted):
                number = await _once(damaged, allocate if owner == "port9" else find, owner)
                assert number is None or isinstance(number, int)
                if key.kind == "KeyPool" and number is not None:
                    assert number not in held, f"{data!r} as {key} gives {owner} a key that is another's"
                    held.add(number)
        with contextlib.suppress(StoreCorrupt):
            await _once(damaged, release, "port2")


def _damage(random: Random, good: Mapping[Key, bytes]) -> tuple[Key, bytes]:
    key = random.choice(sorted(good))
    if random.random() < 0.5:
        return key, mutated(random, list(good.values()))
    tree = disturbed(random, json.loads(good[key]))
    return key, json.dumps(tree).encode()


async def _once(store: MemoryStore, work: Any, owner: str) -> Any:
    return (await transact(store, lambda draft: work(draft, PORT, owner)))[0]
