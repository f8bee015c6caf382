from __future__ import annotations

import asyncio
import subprocess
import sys
from collections import deque
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dragonflow.store import keys
from dragonflow.store.draft import Draft, transact
from dragonflow.store.memory import MemoryStore
from dragonflow.store.protocol import Conflict, Key, Put, Store, StoreCorrupt, Txn
from dragonflow.store.sqlite import SqliteStore

SMALL = keys.Pool("small", 1, 3)
ROW = Key("net:a", "Thing", "1")


async def allocate(store: Store, owner: str, pool: keys.Pool = SMALL) -> int:
    number, _, _ = await transact(store, lambda draft: keys.allocate(draft, pool, owner))
    return number


async def release(store: Store, owner: str, pool: keys.Pool = SMALL) -> int | None:
    number, _, _ = await transact(store, lambda draft: keys.release(draft, pool, owner))
    return number


async def test_an_owner_has_one_key_and_keeps_it() -> None:
    store = MemoryStore()
    assert [await allocate(store, owner) for owner in "abab"] == [1, 2, 1, 2]
    assert await keys.find(Draft(store), SMALL, "b") == 2
    assert await keys.find(Draft(store), SMALL, "c") is None


async def test_the_key_that_was_freed_first_is_given_out_first() -> None:
    store = MemoryStore()
    for owner in "abc":
        await allocate(store, owner)
    assert [await release(store, owner) for owner in "bacb"] == [2, 1, 3, None]
    assert [await allocate(store, owner) for owner in "xyz"] == [2, 1, 3]


async def test_an_empty_pool_says_so_and_heals() -> None:
    store = MemoryStore()
    for owner in "abc":
        await allocate(store, owner)
    with pytest.raises(keys.Exhausted, match="all 3 keys of the pool 'small' are taken; d gets none"):
        await allocate(store, "d")
    await release(store, "b")
    assert await allocate(store, "d") == 2


async def test_row_and_keys_appear_and_vanish_in_one_commit() -> None:
    store = MemoryStore()

    async def make(draft: Draft) -> tuple[int, int]:
        numbers = await keys.allocate(draft, keys.NETWORK, "net"), await keys.allocate(draft, keys.PORT, "port")
        draft.put(ROW, b"%d.%d" % numbers)
        return numbers

    async def unmake(draft: Draft) -> None:
        await keys.release(draft, keys.NETWORK, "net")
        await keys.release(draft, keys.PORT, "port")
        draft.delete(ROW)

    numbers, draft, revision = await transact(store, make)
    assert numbers == (1, 1)
    assert {record.revision for record in (await store.snapshot(["*"])).records} == {revision}
    assert len(draft.writes) == 7
    _, _, revision = await transact(store, unmake)
    left = (await store.snapshot(["*"])).records
    assert not [record for record in left if record.key.kind in ("Thing", "KeyOwner")]
    assert {record.revision for record in left} == {revision}


async def test_many_keys_may_be_taken_and_given_back_in_one_draft() -> None:
    store = MemoryStore()

    async def churn(draft: Draft) -> list[int | None]:
        taken: list[int | None] = [await keys.allocate(draft, SMALL, owner) for owner in "abc"]
        freed = [await keys.release(draft, SMALL, owner) for owner in "ca"]
        again = [await keys.allocate(draft, SMALL, owner) for owner in "de"]
        return [*taken, *freed, *again]

    numbers, _, _ = await transact(store, churn)
    assert numbers == [1, 2, 3, 3, 1, 3, 1]
    assert [await keys.find(Draft(store), SMALL, owner) for owner in "abcde"] == [None, 2, None, 3, 1]


async def test_the_slower_of_two_drafts_begins_anew() -> None:
    store, runs = MemoryStore(), 0

    async def build(draft: Draft) -> int:
        nonlocal runs
        runs += 1
        number = await keys.allocate(draft, SMALL, "slow")
        if runs == 1:
            await allocate(store, "fast")
        return number

    number, _, _ = await transact(store, build)
    assert (number, runs) == (2, 2)


async def test_attempts_have_an_end() -> None:
    store = MemoryStore()

    async def hopeless(draft: Draft) -> None:
        await draft.get(ROW)
        await store.commit(Txn((Put(ROW, b"faster"),)))

    with pytest.raises(Conflict):
        await transact(store, hopeless, attempts=3)


@pytest.mark.parametrize(
    ("kind", "id", "data"),
    [
        ("KeyPool", "small", b'{"schema":"KeyPool/1","fresh":1}'),
        ("KeyPool", "small", b'{"schema":"KeyPool/1","fresh":3,"oldest":1,"youngest":1}'),
        ("KeyPool", "small", b"rubbish"),
        ("KeyPool", "small", b'{"schema":"KeyPool/2","fresh":3}'),
    ],
)
async def test_records_that_contradict_give_no_key_out(kind: str, id: str, data: bytes) -> None:
    store = MemoryStore()
    await allocate(store, "a")
    await allocate(store, "b")
    await store.commit(Txn((Put(Key(SMALL.scope, kind, id), data),)))
    with pytest.raises(StoreCorrupt, match="repair"):
        await allocate(store, "c")


CHURN = """
import asyncio, sys
from dragonflow.store import keys
from dragonflow.store.draft import transact
from dragonflow.store.protocol import Key
from dragonflow.store.sqlite import SqliteStore
async def main():
    store, pool = SqliteStore(sys.argv[1]), keys.Pool("p", 1, 40)
    async def take(draft, owner):
        number = await keys.allocate(draft, pool, owner)
        key = Key("claims", "Claim", str(number))
        assert await draft.get(key) is None, f"{number} has two owners"
        draft.put(key, owner.encode())
    async def give(draft, owner):
        number = await keys.release(draft, pool, owner)
        draft.delete(Key("claims", "Claim", str(number)))
    async def work(owner):
        for _ in range(5):
            await transact(store, lambda draft: take(draft, owner))
            await transact(store, lambda draft: give(draft, owner))
        await transact(store, lambda draft: take(draft, owner))
    await asyncio.gather(*(work(f"{sys.argv[2]}.{i}") for i in range(4)))
    await store.close()
asyncio.run(main())
"""


async def test_processes_never_share_a_key(tmp_path: Path) -> None:
    path = tmp_path / "db"
    processes = [subprocess.Popen([sys.executable, "-c", CHURN, str(path), str(number)]) for number in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    store = SqliteStore(path)
    records = (await store.snapshot(["keys:p", "claims"])).records
    assert sum(record.key.kind == "Claim" for record in records) == 12
    assert sum(record.key.kind == "KeyOwner" for record in records) == 12
    await store.close()


class Pools(RuleBasedStateMachine):
    """Against the plainest model: a set of owners, and a queue of what was freed."""

    LAST = 5

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()  # one for all steps: to make a new one takes longer than a step
        self.run = self.loop.run_until_complete
        self.store = MemoryStore()
        self.pool = keys.Pool("p", 1, self.LAST)
        self.held: dict[str, int] = {}
        self.free: deque[int] = deque()
        self.fresh = 1
        self.pending: list[tuple[Draft, str]] = []

    def teardown(self) -> None:
        self.loop.close()

    @rule(owner=st.sampled_from("abcdefgh"))
    def take(self, owner: str) -> None:
        try:
            number = self.run(allocate(self.store, owner, self.pool))
        except keys.Exhausted:
            assert owner not in self.held
            assert len(self.held) == self.LAST
            return
        if owner in self.held:
            assert number == self.held[owner]
        elif self.free:
            assert number == self.free.popleft()
        else:
            assert number == self.fresh
            self.fresh += 1
        self.held[owner] = number

    @rule(owner=st.sampled_from("abcdefgh"))
    def give(self, owner: str) -> None:
        number = self.run(release(self.store, owner, self.pool))
        assert number == self.held.pop(owner, None)
        if number is not None:
            self.free.append(number)

    @rule(owner=st.sampled_from("abcdefgh"), back=st.booleans())
    def draft(self, owner: str, back: bool) -> None:
        """Begin a draft that will be committed later, or never."""
        draft = Draft(self.store)
        try:
            self.run((keys.release if back else keys.allocate)(draft, self.pool, owner))
        except keys.Exhausted:
            return
        self.pending.append((draft, owner))

    @precondition(lambda self: self.pending)
    @rule(data=st.data())
    def commit_late(self, data: st.DataObject) -> None:
        """A draft on old reads either fails or, where it read nothing that changed since, does what it would do now."""
        draft, owner = self.pending.pop(data.draw(st.integers(0, len(self.pending) - 1)))
        before = dict(self.held)
        try:
            self.run(self.store.commit(draft.txn()))
        except Conflict:
            return
        number = self.run(keys.find(Draft(self.store), self.pool, owner))
        if number == before.get(owner):
            return
        if number is None:
            self.free.append(self.held.pop(owner))
        else:
            expected = self.free.popleft() if self.free else self.fresh
            self.fresh = max(self.fresh, number + 1)
            assert number == expected
            self.held[owner] = number

    @invariant()
    def never_two_owners(self) -> None:
        records = self.run(self.store.snapshot([self.pool.scope])).records
        owners = {record.key.id: record.data for record in records if record.key.kind == "KeyOwner"}
        assert owners.keys() == self.held.keys()
        assert len(set(owners.values())) == len(owners)
        assert all(1 <= number <= self.LAST for number in self.held.values())


TestPools = Pools.TestCase
TestPools.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
