# ruff: noqa: D102 - a test's name is its docstring
"""What ``protocol.py`` promises, as tests. Every driver passes them unchanged.

A driver's test module says how to get at a fresh store, and inherits the rest::

    class TestRedis(StoreConformance):
        @pytest.fixture
        async def ground(self): ...  # yields a Ground

Needs pytest with pytest-asyncio in its auto mode. Nothing here sleeps to let something happen: tests wait for revisions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import pytest

from dragonflow.store.protocol import (
    ABSENT,
    Changes,
    Check,
    Compacted,
    Conflict,
    Delete,
    Key,
    LeaseExpired,
    Put,
    Record,
    Store,
    Txn,
    Unavailable,
    Watch,
)

T = TypeVar("T")


class Ground:
    """One empty store for one test, and what can be done to it from outside. Optional hooks that are None skip their tests."""

    patience: float = 10.0
    """Seconds after which a test that waits for something has failed."""
    ttl: float = 0.3
    """The shortest lease that the store can give, in seconds."""
    most_writes: int = 100
    """How many rows a transaction may have at least."""
    largest: int = 1_000_000
    """How many bytes a record may have at least."""
    compact: Callable[[], AbstractAsyncContextManager[None]] | None = None
    """Forget the history up to now."""
    outage: Callable[[], AbstractAsyncContextManager[None]] | None = None
    """The store is out of reach while in the context."""
    forgetful: bool = False
    """After an outage all has to be read anew, because the store may have lost what it told."""

    async def client(self) -> Store:
        """A further client, as if in another process. The ground closes it in the end."""
        raise NotImplementedError


class Follower:
    """Reads a watch in the background and keeps what it was told."""

    def __init__(self, store: Store, scopes: Collection[str], after: int, ground: Ground) -> None:
        self._ground = ground
        self.changes: list[Changes] = []
        self._news = asyncio.Event()
        self._task = asyncio.create_task(self._follow(store, scopes, after))

    async def _follow(self, store: Store, scopes: Collection[str], after: int) -> None:
        try:
            async with contextlib.aclosing(store.watch(dict.fromkeys(scopes, after))) as watch:
                async for changes in watch:
                    self.changes.append(changes)
                    self._news.set()
        finally:
            self._news.set()

    @property
    def records(self) -> list[Record]:
        """All records told so far."""
        return [record for changes in self.changes for record in changes.records]

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait until it is so; the watch's own end is raised here."""
        async with asyncio.timeout(self._ground.patience):
            while not done():
                if self._task.done():
                    await self._task
                    raise AssertionError("the watch ended")
                self._news.clear()
                await self._news.wait()

    async def told(self, key: Key, revision: int) -> None:
        """Wait until this was told of the key."""
        await self.until(lambda: any(record.key == key and record.revision >= revision for record in self.records))

    async def end(self) -> None:
        """Stop reading, as readers do: by cancellation."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def outcome(self) -> BaseException | None:
        """Wait for the watch's own end and tell how it ended."""
        async with asyncio.timeout(self._ground.patience):
            return (await asyncio.gather(self._task, return_exceptions=True))[0]


A, B, C = Key("net:a", "Thing", "1"), Key("net:a", "Thing", "2"), Key("net:b", "Thing", "1")


def put(*keys: Key, data: bytes = b"x", checks: tuple[Check, ...] = (), lease: str | None = None) -> Txn:
    """A transaction that writes the same to all keys."""
    return Txn(tuple(Put(key, data, lease) for key in keys), checks)


def state(records: Collection[Record]) -> dict[Key, tuple[bytes | None, int]]:
    """Records as a dictionary; a key that comes twice is an error."""
    found = {record.key: (record.data, record.revision) for record in records}
    assert len(found) == len(records), "a key came twice"
    return found


class StoreConformance:
    """The tests. Each gets a fresh ``ground`` and its first client, ``store``."""

    @pytest.fixture
    async def ground(self) -> Ground:
        """The driver's own; see ``Ground``."""
        raise NotImplementedError

    @pytest.fixture
    async def store(self, ground: Ground) -> Store:
        """The first client."""
        return await ground.client()

    @pytest.fixture
    async def follow(self, ground: Ground) -> AsyncIterator[Callable[..., Follower]]:
        """Makes followers and ends them after the test."""
        made: list[Follower] = []

        def make(store: Store, scopes: Collection[str], after: int) -> Follower:
            made.append(Follower(store, scopes, after, ground))
            return made[-1]

        yield make
        for follower in made:
            await follower.end()

    # -- reading and writing -------------------------------------------------------------------------------------------

    async def test_a_fresh_store_is_empty_and_has_a_revision(self, store: Store) -> None:
        snapshot = await store.snapshot(["*"])
        assert snapshot.records == ()
        assert snapshot.revision >= 0

    async def test_what_was_put_is_read_by_all_clients(self, ground: Ground, store: Store) -> None:
        revision = await store.commit(put(A, data=b"hello"))
        for client in (store, await ground.client()):
            assert await client.get(A) == Record(A, b"hello", revision)
            assert await client.snapshot(["net:a"]) == await store.snapshot(["net:a"])
            assert (await client.snapshot(["net:a"])).records == (Record(A, b"hello", revision),)
            assert await client.get(B) is None

    async def test_revisions_grow_and_are_those_of_the_last_write(self, store: Store) -> None:
        first = await store.commit(put(A, B))
        second = await store.commit(put(B, data=b"y"))
        assert 0 < first < second
        snapshot = await store.snapshot(["net:a"])
        assert state(snapshot.records) == {A: (b"x", first), B: (b"y", second)}
        assert snapshot.revision >= second

    async def test_a_deleted_record_is_gone(self, store: Store) -> None:
        await store.commit(put(A, B))
        await store.commit(Txn((Delete(A),)))
        assert await store.get(A) is None
        assert [record.key for record in (await store.snapshot(["*"])).records] == [B]

    async def test_deleting_what_is_not_there_is_no_error(self, store: Store, follow: Callable[..., Follower]) -> None:
        before = (await store.snapshot(())).revision
        follower = follow(store, ["*"], before)
        assert await store.commit(Txn((Delete(A),))) >= before
        first = await store.commit(put(B))
        await follower.told(B, first)
        gone = await store.commit(Txn((Delete(B),)))
        await follower.told(B, gone)
        assert await store.commit(Txn((Delete(B),))) >= gone
        await follower.told(C, await store.commit(put(C)))
        assert [record.key for record in follower.records] == [B, B, C]

    async def test_an_empty_snapshot_tells_the_revision(self, store: Store) -> None:
        revision = await store.commit(put(A))
        snapshot = await store.snapshot(())
        assert snapshot.records == ()
        assert snapshot.revision >= revision

    async def test_bytes_come_back_as_they_were(self, ground: Ground, store: Store) -> None:
        for data in (
            b"",
            bytes(range(256)),
            "żółć ☃ 🐉".encode(),
            b"\0" * 100,
            bytes(1 + i % 251 for i in range(ground.largest)),
        ):
            revision = await store.commit(put(A, data=data))
            assert await store.get(A) == Record(A, data, revision)
            assert (await store.snapshot(["net:a"])).records == (Record(A, data, revision),)

    async def test_names_may_hold_any_text(self, store: Store, follow: Callable[..., Follower]) -> None:
        odd = [
            "żółć",
            "🐉",
            "a/b",
            "a b",
            "%",
            "_",
            "[a]",
            "?",
            "'",
            '"',
            "\\",
            "\n",
            "ÿ",
            "\ud7ff",
            "\ue000",
            "\U0010ffff",
        ]
        follower = follow(store, ["*"], (await store.snapshot(())).revision)
        keys = [Key(f"s{text}", f"k{text}", f"i{text}") for text in odd]
        revision = await store.commit(put(*keys))
        assert state((await store.snapshot(["*"])).records) == dict.fromkeys(keys, (b"x", revision))
        for key in keys:
            assert (await store.snapshot([key.scope])).records == (Record(key, b"x", revision),)
            assert Record(key, b"x", revision) in (await store.snapshot([key.scope + "*"])).records
            assert await store.get(key) == Record(key, b"x", revision)
        await follower.told(keys[-1], revision)
        assert state(follower.records) == dict.fromkeys(keys, (b"x", revision))

    @pytest.mark.parametrize(
        "bad", [Key("", "k", "i"), Key("s", "", "i"), Key("s", "k", ""), Key("s\0", "k", "i"), Key("s", "k", "\0")]
    )
    async def test_keys_that_are_none_are_refused(self, store: Store, bad: Key) -> None:
        for txn in (put(bad), Txn((Delete(bad),)), Txn((), (Check(bad, ABSENT),))):
            with pytest.raises(ValueError, match="key"):
                await store.commit(txn)
        with pytest.raises(ValueError, match="key"):
            await store.get(bad)

    async def test_a_star_in_a_key_s_scope_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="star"):
            await store.commit(put(Key("net:*", "k", "i")))

    @pytest.mark.parametrize("bad", ["", "a*b", "**", "a\0"])
    async def test_scopes_that_are_none_are_refused(self, store: Store, bad: str) -> None:
        with pytest.raises(ValueError, match="scope"):
            await store.snapshot([bad])
        with pytest.raises(ValueError, match="scope"):
            store.watch({bad: 0})

    # -- scopes --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("scopes", "expected"),
        [
            (["status:a"], {"status:a"}),
            (["status:*"], {"status:", "status:a", "status:ab", "status:żółć"}),
            (["status:a*"], {"status:a", "status:ab"}),
            (["status:a*", "status:*", "status:ab"], {"status:", "status:a", "status:ab", "status:żółć"}),
            (["*"], {"status", "status:", "status:a", "status:ab", "status:żółć", "statuszoo", "Status:a", "net:a"}),
            (["net:a", "status"], {"net:a", "status"}),
            (["nothing", "noth*"], set()),
            ([], set()),
        ],
    )
    async def test_scopes_are_names_or_prefixes(
        self, store: Store, follow: Callable[..., Follower], scopes: list[str], expected: set[str]
    ) -> None:
        everything = ["status", "status:", "status:a", "status:ab", "status:żółć", "statuszoo", "Status:a", "net:a"]
        start = (await store.snapshot(())).revision
        follower, everybody = follow(store, scopes, start), follow(store, ["*"], start)
        keys = [Key(scope, "Thing", "1") for scope in everything]
        revision = await store.commit(put(*keys))
        snapshot = await store.snapshot(scopes)
        assert set(state(snapshot.records)) == {Key(scope, "Thing", "1") for scope in expected}
        await everybody.told(keys[-1], revision)
        await follower.until(lambda: expected <= {record.key.scope for record in follower.records})
        assert {record.key.scope for record in follower.records} == expected

    # -- transactions --------------------------------------------------------------------------------------------------

    async def test_all_rows_of_a_commit_share_its_revision(self, ground: Ground, store: Store) -> None:
        keys = [Key(f"net:{i % 7}", "Thing", str(i)) for i in range(ground.most_writes)]
        revision = await store.commit(put(*keys))
        assert state((await store.snapshot(["*"])).records) == dict.fromkeys(keys, (b"x", revision))
        mixed: tuple[Put | Delete, ...] = (*(Delete(key) for key in keys[::2]), *(Put(key, b"y") for key in keys[1::2]))
        second = await store.commit(Txn(mixed))
        assert state((await store.snapshot(["*"])).records) == dict.fromkeys(keys[1::2], (b"y", second))

    async def test_no_key_may_be_written_twice(self, store: Store) -> None:
        for second in (Put(A, b"y"), Delete(A)):
            with pytest.raises(ValueError, match="twice"):
                await store.commit(Txn((Put(A, b"x"), second)))
        assert await store.get(A) is None

    async def test_checks_that_hold_let_pass(self, store: Store) -> None:
        first = await store.commit(put(A, checks=(Check(A, ABSENT), Check(C, ABSENT))))
        second = await store.commit(put(B, checks=(Check(A, first), Check(B, ABSENT))))
        assert await store.commit(Txn((Delete(A),), (Check(A, first), Check(B, second)))) > second
        await store.commit(put(A, checks=(Check(A, ABSENT),)))

    async def test_a_check_that_fails_names_itself_and_nothing_is_written(self, store: Store) -> None:
        old = await store.commit(put(A))
        new = await store.commit(put(A, data=b"new"))
        before = await store.snapshot(["*"])
        for check, found in (
            (Check(A, old), new),
            (Check(A, ABSENT), new),
            (Check(B, new), ABSENT),
            (Check(A, new + 1), new),
        ):
            with pytest.raises(Conflict) as conflict:
                await store.commit(Txn((Put(C, b"y"), Delete(A), Put(B, b"y")), (check,)))
            assert (conflict.value.key, conflict.value.expected, conflict.value.found) == (
                check.key,
                check.revision,
                found,
            )
        assert await store.snapshot(["*"]) == before

    async def test_a_deleted_record_is_absent_and_a_new_one_is_not_the_old(self, store: Store) -> None:
        old = await store.commit(put(A))
        await store.commit(Txn((Delete(A),)))
        with pytest.raises(Conflict):
            await store.commit(put(B, checks=(Check(A, old),)))
        await store.commit(put(A, checks=(Check(A, ABSENT),)))
        with pytest.raises(Conflict):
            await store.commit(put(B, checks=(Check(A, old),)))

    async def test_a_transaction_without_writes_only_checks(self, store: Store) -> None:
        revision = await store.commit(put(A))
        assert await store.commit(Txn(())) >= revision
        assert await store.commit(Txn((), (Check(A, revision),))) >= revision
        with pytest.raises(Conflict):
            await store.commit(Txn((), (Check(A, ABSENT),)))
        assert (await store.snapshot(["*"])).records == (Record(A, b"x", revision),)

    async def test_many_clients_count_without_losing_one(self, ground: Ground) -> None:
        async def count(client: Store) -> None:
            done = 0
            while done < 20:
                record = await client.get(A)
                number = int(record.data or b"") if record else 0
                check = Check(A, record.revision if record else ABSENT)
                try:
                    await client.commit(put(A, data=str(number + 1).encode(), checks=(check,)))
                    done += 1
                except Conflict:
                    await asyncio.sleep(0)

        clients = [await ground.client() for _ in range(4)]
        await asyncio.gather(*map(count, clients))
        record = await clients[0].get(A)
        assert record is not None
        assert record.data == b"80"

    async def test_no_snapshot_sees_half_a_commit(self, ground: Ground, store: Store) -> None:
        reader, done = await ground.client(), False
        await store.commit(put(A, B, C, data=b"0"))

        async def write() -> None:
            nonlocal done
            for i in range(100):
                await store.commit(put(A, B, C, data=str(i).encode()))
                await asyncio.sleep(0)
            done = True

        writing = asyncio.create_task(write())
        while not done:
            records = (await reader.snapshot(["*"])).records
            assert len(records) == 3
            assert len({(record.data, record.revision) for record in records}) == 1
            await asyncio.sleep(0)
        await writing

    # -- watching ------------------------------------------------------------------------------------------------------

    async def test_a_watch_tells_what_was_written_after_its_revision(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        start = await store.commit(put(A))
        follower = follow(await ground.client(), ["net:a"], start)
        await store.commit(put(C))
        first = await store.commit(put(B, data=b"b"))
        await follower.told(B, first)
        second = await store.commit(Txn((Delete(A),)))
        await follower.told(A, second)
        assert follower.records == [Record(B, b"b", first), Record(A, None, second)]
        assert [changes.revision for changes in follower.changes] == sorted(
            changes.revision for changes in follower.changes
        )

    async def test_a_watch_from_the_past_tells_what_was_missed(
        self, store: Store, follow: Callable[..., Follower]
    ) -> None:
        await store.commit(put(A, B))
        start = await store.commit(put(C))
        await store.commit(Txn((Delete(A),)))
        await store.commit(put(C, data=b"1"))
        revision = await store.commit(put(C, data=b"2"))
        follower = follow(store, ["*"], start)
        await follower.told(C, revision)
        assert [record.data for record in follower.records if record.key == A] == [None]
        assert [record for record in follower.records if record.key == C][-1] == Record(C, b"2", revision)
        assert not [record for record in follower.records if record.key == B]

    async def test_a_commit_is_never_split(self, ground: Ground, store: Store, follow: Callable[..., Follower]) -> None:
        start = (await store.snapshot(())).revision
        follower = follow(await ground.client(), ["net:*"], start)
        for i in range(50):
            revision = await store.commit(put(A, B, C, data=str(i).encode()))
        await follower.told(C, revision)
        for changes in follower.changes:
            by_key = {key: [r.revision for r in changes.records if r.key == key] for key in (A, B, C)}
            assert by_key[A] == by_key[B] == by_key[C]
            assert max(by_key[A]) <= changes.revision
            assert [r.revision for r in changes.records] == sorted(r.revision for r in changes.records)

    async def test_snapshot_then_watch_loses_and_repeats_nothing(
        self, ground: Ground, follow: Callable[..., Follower]
    ) -> None:
        """Readers that begin at any time while two writers write end with the same rows, each told once per revision."""
        writers, reader = [await ground.client(), await ground.client()], await ground.client()
        begun: list[tuple[dict[Key, tuple[bytes | None, int]], Follower]] = []

        async def write(client: Store, number: int) -> None:
            for i in range(100):
                keys = {Key(f"net:{(i * 7 + j * number) % 5}", "Thing", str((i + j) % 11)) for j in range(3)}
                writes = [
                    Delete(key) if (i + number) % 3 == 0 else Put(key, f"{number}.{i}".encode()) for key in sorted(keys)
                ]
                await client.commit(Txn(tuple(writes)))

        async def begin() -> None:
            for _ in range(10):
                snapshot = await reader.snapshot(["net:*"])
                begun.append((state(snapshot.records), follow(reader, ["net:*"], snapshot.revision)))
                await asyncio.sleep(0.005)

        await asyncio.gather(write(writers[0], 1), write(writers[1], 2), begin())
        last = await writers[0].commit(put(A, data=b"end"))
        truth = state((await reader.snapshot(["net:*"])).records)
        for rows, follower in begun:
            await follower.told(A, last)
            told = [(record.key, record.revision) for record in follower.records]
            assert len(told) == len(set(told)), "a change was told twice"
            for record in follower.records:
                before = rows.get(record.key)
                assert before is None or before[1] < record.revision, "old news after newer"
                rows[record.key] = (record.data, record.revision)
            assert {key: row for key, row in rows.items() if row[0] is not None} == truth

    async def test_watches_that_end_leave_nothing_behind(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        start = await store.commit(put(A))
        tasks = len(asyncio.all_tasks())
        followers = [follow(store, ["*"], start) for _ in range(50)]
        revision = await _written(ground, store, B)
        for follower in followers:
            await follower.told(B, revision)
            await follower.end()
        never_started = store.watch({"*": start})
        await never_started.aclose()
        await _written(ground, store, C)
        assert len(asyncio.all_tasks()) <= tasks

    async def test_scopes_come_and_go_while_it_waits(self, ground: Ground, store: Store) -> None:
        other = await ground.client()
        d, e = Key("net:d", "Thing", "1"), Key("net:e", "Thing", "1")
        missed = await store.commit(put(A, C, d))
        async with contextlib.aclosing(store.watch({"net:a": missed})) as watch:
            assert await _told(watch, ground, other, A) == {A}
            watch.add({"net:b": missed - 1, "net:d": missed})
            assert await _told(watch, ground, other, d, missed={C}) == {C, d}
            watch.drop(["net:a", "never added"])
            await other.commit(put(A))
            assert await _told(watch, ground, other, C) == {C}
            watch.add({"net:*": await other.commit(put(e))})
            assert await _told(watch, ground, other, e) == {e}

    async def test_a_wait_that_was_given_up_loses_nothing(self, ground: Ground, store: Store) -> None:
        other = await ground.client()
        seen: list[int] = []
        async with contextlib.aclosing(store.watch({"*": (await store.snapshot(())).revision})) as watch:
            for turn in range(30):
                waiting = asyncio.create_task(_next(watch))
                await asyncio.sleep(0.001 * (turn % 4))
                revision = await other.commit(put(A))
                await asyncio.sleep(0.001 * (turn % 3))
                waiting.cancel()
                for told in await asyncio.gather(waiting, return_exceptions=True):
                    if isinstance(told, Changes):
                        seen += [record.revision for record in told.records]
            while not seen or seen[-1] < revision:
                seen += [record.revision for record in (await _within(ground, _next(watch))).records]
        assert seen == sorted(set(seen))

    async def test_a_hint_does_no_harm(self, store: Store, follow: Callable[..., Follower]) -> None:
        follower = follow(store, ["*"], (await store.snapshot(())).revision)
        for _ in range(10):
            store.hint()
        await follower.told(A, await store.commit(put(A)))
        assert len(follower.records) == 1

    async def test_history_that_is_gone_is_said_so(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        if ground.compact is None:
            pytest.skip("no way to compact")
        start = await store.commit(put(A, B))
        await store.commit(Txn((Delete(A),)))
        async with ground.compact():
            pass
        with pytest.raises(Compacted):
            await asyncio.wait_for(_next(store.watch({"*": start})), ground.patience)
        snapshot = await store.snapshot(["*"])
        assert [record.key for record in snapshot.records] == [B]
        follower = follow(store, ["*"], snapshot.revision)
        await follower.told(C, await store.commit(put(C)))

    async def test_only_what_is_gone_is_said_to_be_so(self, ground: Ground, store: Store) -> None:
        if ground.compact is None:
            pytest.skip("no way to compact")
        start = await store.commit(put(A, B))
        await store.commit(Txn((Delete(A),)))
        async with ground.compact():
            pass
        now = await store.commit(put(C))
        async with contextlib.aclosing(store.watch({"net:a": start, "net:b": now})) as watch:
            with pytest.raises(Compacted) as gone:
                await _within(ground, _next(watch))
            assert gone.value.scopes == {"net:a"}
            assert await _told(watch, ground, store, C) == {C}
            watch.add({"net:a": (await store.snapshot(["net:a"])).revision})
            assert await _told(watch, ground, store, B) == {B}

    async def test_a_waiting_watch_survives_compaction(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        if ground.compact is None:
            pytest.skip("no way to compact")
        follower = follow(store, ["*"], await store.commit(put(A)))
        await follower.told(B, await store.commit(put(B)))
        async with ground.compact():
            pass
        await follower.told(C, await store.commit(put(C)))

    # -- leases --------------------------------------------------------------------------------------------------------

    async def test_what_hangs_on_a_lease_vanishes_with_it_in_one_commit(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        other = await ground.client()
        lease = await store.grant_lease(ground.ttl)
        revision = await store.commit(Txn((Put(A, b"x", lease), Put(C, b"x", lease), Put(B, b"x"))))
        follower = follow(other, ["*"], revision)
        await follower.until(lambda: len(follower.records) == 2)
        ended = follower.records[0].revision
        assert ended > revision
        assert sorted(follower.records, key=lambda record: record.key) == [
            Record(A, None, ended),
            Record(C, None, ended),
        ]
        assert [record.key for record in (await other.snapshot(["*"])).records] == [B]
        for write in (store.keep_alive(lease), store.commit(put(A, lease=lease)), other.keep_alive(lease)):
            with pytest.raises(LeaseExpired):
                await write
        assert await store.get(A) is None

    async def test_a_lease_lasts_while_it_is_kept_alive(self, ground: Ground, store: Store) -> None:
        lease, other = await store.grant_lease(ground.ttl), await store.grant_lease(ground.ttl)
        await store.commit(Txn((Put(A, b"x", lease), Put(B, b"x", other))))
        async with asyncio.timeout(ground.patience):
            while await store.get(B) is not None:
                await store.keep_alive(lease)
                await asyncio.sleep(ground.ttl / 10)
        await store.keep_alive(lease)
        assert await store.get(A) is not None

    async def test_revoking_deletes_at_once(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        lease = await store.grant_lease(60)
        revision = await store.commit(put(A, B, lease=lease))
        follower = follow(store, ["*"], revision)
        other = await ground.client()
        await other.revoke(lease)
        assert (await store.snapshot(["*"])).records == ()
        await follower.until(lambda: len(follower.records) == 2)
        assert len({record.revision for record in follower.records}) == 1
        await store.revoke(lease)
        with pytest.raises(LeaseExpired):
            await store.keep_alive(lease)

    async def test_an_unknown_lease_writes_nothing(self, store: Store) -> None:
        lease = await store.grant_lease(60)
        await store.revoke(lease)
        with pytest.raises(LeaseExpired):
            await store.commit(Txn((Put(B, b"x"), Put(A, b"x", lease))))
        assert (await store.snapshot(["*"])).records == ()
        await store.revoke(lease)

    async def test_a_record_hangs_on_the_lease_of_its_last_write(self, store: Store) -> None:
        first, second = await store.grant_lease(60), await store.grant_lease(60)
        await store.commit(put(A, B, C, lease=first))
        await store.commit(Txn((Put(A, b"free"), Put(B, b"other", second))))
        await store.revoke(first)
        assert {record.key for record in (await store.snapshot(["*"])).records} == {A, B}
        await store.revoke(second)
        assert {record.key for record in (await store.snapshot(["*"])).records} == {A}

    async def test_a_lease_outlives_the_client_that_asked_for_it(self, ground: Ground, store: Store) -> None:
        leaver = await ground.client()
        lease = await leaver.grant_lease(60)
        await leaver.commit(put(A, lease=lease))
        await leaver.close()
        assert await store.get(A) is not None
        await store.keep_alive(lease)
        await store.revoke(lease)
        assert await store.get(A) is None

    # -- trouble -------------------------------------------------------------------------------------------------------

    async def test_closing_ends_the_watches_and_refuses_the_rest(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        other = await ground.client()
        start = await store.commit(put(A))
        follower, survivor = follow(store, ["*"], start), follow(other, ["*"], start)
        await follower.told(B, await store.commit(put(B)))
        await store.close()
        assert await follower.outcome() is None
        with pytest.raises(Unavailable):
            await store.get(A)
        await store.close()
        await survivor.told(C, await other.commit(put(C)))

    async def test_an_outage_is_said_and_ends(
        self, ground: Ground, store: Store, follow: Callable[..., Follower]
    ) -> None:
        if ground.outage is None:
            pytest.skip("no way to make it unavailable")
        revision = await store.commit(put(A))
        follower = follow(store, ["*"], revision)
        await follower.told(B, await store.commit(put(B)))
        async with ground.outage():
            assert isinstance(await follower.outcome(), Unavailable)
            for request in (store.get(A), store.snapshot(["*"]), store.commit(put(C)), store.grant_lease(60)):
                with pytest.raises(Unavailable):
                    await request
            with pytest.raises(Unavailable):
                await _next(store.watch({"*": revision}))
        assert {record.key for record in (await store.snapshot(["*"])).records} >= {A, B}
        if ground.forgetful:
            revision = await store.commit(put(A))
        again = follow(store, ["*"], revision)
        await again.told(C, await store.commit(put(C)))

    async def test_a_watch_resumes_after_an_outage(self, ground: Ground, store: Store) -> None:
        """A store that is forgetful says first that all must be read anew."""
        if ground.outage is None:
            pytest.skip("no way to make it unavailable")
        revision = await store.commit(put(A))
        async with contextlib.aclosing(store.watch({"net:a": revision})) as watch:
            assert await _told(watch, ground, store, B) == {B}
            async with ground.outage():
                with pytest.raises(Unavailable):
                    await _within(ground, _next(watch))
            if ground.forgetful:
                with pytest.raises(Compacted) as anew:
                    await _told(watch, ground, store, A)
                watch.add(dict.fromkeys(anew.value.scopes, (await store.snapshot(["net:a"])).revision))
            assert await _told(watch, ground, store, A) == {A}


async def _next(watch: Watch) -> Changes:
    return await anext(watch)


async def _within(ground: Ground, work: Coroutine[Any, Any, T]) -> T:
    return await asyncio.wait_for(work, ground.patience)


async def _written(ground: Ground, store: Store, key: Key) -> int:
    """Write the key, again if the store, busy with what the test does beside, didn't say in time whether it is written."""
    async with asyncio.timeout(ground.patience):
        while True:
            with contextlib.suppress(Unavailable):
                return await store.commit(put(key))
            await asyncio.sleep(0.01)


async def _told(
    watch: Watch, ground: Ground, writer: Store, key: Key, missed: Collection[Key] = frozenset()
) -> set[Key]:
    """Write the key, and return the keys of all that the watch tells up to that, and up to what it ``missed`` of other scopes.

    A watch that is not back yet may say so.
    """
    revision, told, found = await writer.commit(put(key)), set[Key](), False
    async with asyncio.timeout(ground.patience):
        while True:
            try:
                changes = await _next(watch)
            except Unavailable:
                await asyncio.sleep(0.01)
                continue
            told |= {record.key for record in changes.records}
            found |= any(record.key == key and record.revision >= revision for record in changes.records)
            if found and told >= set(missed):
                return told
