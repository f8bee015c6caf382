"""What can happen to the file and its lock, and what the store makes of it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from dragonflow.store import UnknownStore, open_store
from dragonflow.store._common import Scopes
from dragonflow.store._sqlitefile import SqliteFile
from dragonflow.store.feed import Feed, ScopeReset
from dragonflow.store.protocol import (
    Compacted,
    Delete,
    Key,
    LeaseExpired,
    Put,
    StoreCorrupt,
    Txn,
    Unavailable,
)
from dragonflow.store.sqlite import SqliteStore

A, B = Key("net:a", "Thing", "1"), Key("net:a", "Thing", "2")


def put(key: Key, data: bytes = b"x", lease: str | None = None) -> Txn:
    return Txn((Put(key, data, lease),))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "dfdb.sqlite"


@contextlib.asynccontextmanager
async def opened(path: Path, **options: float) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(path, **options)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


def tear(path: Path) -> None:
    """Remove a closed DF DB."""
    for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        name.unlink(missing_ok=True)


async def test_the_files_are_for_their_owner_only(path: Path) -> None:
    mask = os.umask(0)
    try:
        async with opened(path / "deeper" / "db") as store:
            await store.commit(put(A))
            for name in ("db", "db-wal", "db-shm"):
                assert stat.S_IMODE((path / "deeper" / name).stat().st_mode) == 0o600
            assert stat.S_IMODE((path / "deeper").stat().st_mode) == 0o700
    finally:
        os.umask(mask)


async def test_nothing_is_opened_before_the_first_request(path: Path) -> None:
    store = SqliteStore(path)
    assert not path.exists()
    await store.close()
    assert not path.exists()


async def test_a_look_at_what_is_not_there_makes_nothing(path: Path) -> None:
    store = open_store(f"sqlite://{path}", create=False)
    with pytest.raises(Unavailable, match=r"there is no DF DB .*store_url"):
        await store.snapshot(["*"])
    assert not path.exists()
    async with opened(path) as maker:
        await maker.commit(put(A))
        assert await store.get(A) is not None
    await store.close()


async def test_what_was_written_is_there_after_reopening(path: Path) -> None:
    async with opened(path) as store:
        revision = await store.commit(put(A))
        deleted = await store.commit(Txn((Delete(B),)))
    async with opened(path) as store:
        record = await store.get(A)
        assert record is not None
        assert record.revision == revision
        assert await store.commit(put(B)) > deleted


# -- several processes ------------------------------------------------------------------------------------------------

COUNT = """
import asyncio, sys
from dragonflow.store.protocol import *
from dragonflow.store.sqlite import SqliteStore
async def main():
    store, key, done = SqliteStore(sys.argv[1]), Key("net:a", "Thing", "1"), 0
    while done < int(sys.argv[2]):
        record = await store.get(key)
        check = Check(key, record.revision if record else ABSENT)
        number = int(record.data) + 1 if record else 1
        try:
            await store.commit(Txn((Put(key, str(number).encode()),), (check,)))
        except Conflict:
            continue
        done += 1
        print(number, flush=True)
    await store.close()
asyncio.run(main())
"""


def counter(path: Path, times: int) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", COUNT, str(path), str(times)], stdout=subprocess.PIPE, text=True)


async def test_processes_count_together_and_are_watched(path: Path) -> None:
    async with opened(path) as store:
        start = (await store.snapshot(())).revision
        counters = [counter(path, 60) for _ in range(3)]
        async with asyncio.timeout(60), contextlib.aclosing(store.watch({"*": start})) as watch:
            async for changes in watch:
                if changes.records[-1].data == b"180":
                    break
        numbers = sorted(int(line) for process in counters for line in process.communicate()[0].split())
        assert numbers == list(range(1, 181))


async def test_a_writer_that_is_killed_loses_nothing_it_was_told_is_written(path: Path) -> None:
    async with opened(path) as store:
        for _ in range(3):
            process = counter(path, 1_000_000)
            assert process.stdout is not None
            last = 0
            for _ in range(30):
                last = int(process.stdout.readline())
            process.kill()
            last = max([last, *(int(line) for line in process.stdout.read().split("\n")[:-1] if line)])
            process.wait()
            record = await store.get(A)
            assert record is not None
            assert record.data is not None
            assert int(record.data) in (last, last + 1)
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_whoever_is_left_ends_the_leases_of_the_dead(path: Path) -> None:
    async with opened(path) as store:
        async with opened(path) as dead:
            lease = await dead.grant_lease(0.1)
            revision = await dead.commit(put(A, lease=lease))
        async with asyncio.timeout(10), contextlib.aclosing(store.watch({"*": revision})) as watch:
            changes = await anext(watch)
        assert [(record.key, record.data) for record in changes.records] == [(A, None)]


def test_leases_of_another_boot_are_gone(path: Path) -> None:
    before = SqliteFile(path, history=10, patience=1, clock=lambda: 1e9, boot="before")
    lease = before.grant_lease(60)
    before.commit(put(A, lease=lease))
    before.close()
    after = SqliteFile(path, history=10, patience=1, clock=lambda: 1.0, boot="after")
    with pytest.raises(LeaseExpired):
        after.keep_alive(lease)
    assert after.expire()
    assert after.get(A) is None
    assert not after.expire()
    after.close()


def test_a_lease_whose_time_has_come_is_gone_before_anybody_sweeps_it(path: Path) -> None:
    now = 0.0
    file = SqliteFile(path, history=10, patience=1, clock=lambda: now)
    lease = file.grant_lease(10)
    now = 9.0
    file.keep_alive(lease)
    now = 18.9
    file.commit(put(A, lease=lease))
    now = 19.0
    for request in (lambda: file.keep_alive(lease), lambda: file.commit(put(B, lease=lease))):
        with pytest.raises(LeaseExpired):
            request()
    file.close()


def test_no_connection_is_carried_over_a_fork(path: Path) -> None:
    file = SqliteFile(path, history=10, patience=1)
    file.commit(put(A))
    child = os.fork()
    if child == 0:
        os._exit(0 if file._db is None and file.get(A) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert file.get(A) is not None
    file.close()


# -- locks ------------------------------------------------------------------------------------------------------------


async def test_a_lock_that_stays_is_an_outage_and_the_loop_goes_on(path: Path) -> None:
    async with opened(path, patience=0.3) as store:
        await store.commit(put(A))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            waiting = asyncio.create_task(store.commit(put(B)))
            turns = 0
            while not waiting.done():
                turns += 1
                await asyncio.sleep(0.005)
            assert turns > 10
            with pytest.raises(Unavailable, match=r"locked by another process for 0\.3 s"):
                await waiting
            assert await store.get(A) is not None, "readers don't wait for writers"
            other.execute("ROLLBACK")
        await store.commit(put(B))


async def test_a_lock_that_goes_is_waited_for(path: Path) -> None:
    async with opened(path) as store:
        await store.commit(put(A))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.1, lambda: other.execute("ROLLBACK")).start()
            await store.commit(put(B))


async def test_a_request_cancelled_before_its_turn_is_not_begun(path: Path) -> None:
    async with opened(path, patience=5) as store:
        await store.commit(put(A))
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            first = asyncio.create_task(store.commit(put(A, b"first")))
            second = asyncio.create_task(store.commit(put(B)))
            await asyncio.sleep(0.02)
            second.cancel()
            other.execute("ROLLBACK")
        await first
        assert await store.get(B) is None


# -- the file ---------------------------------------------------------------------------------------------------------


async def test_a_file_that_vanished_is_an_outage_and_no_empty_db(path: Path) -> None:
    async with opened(path) as store:
        await store.commit(put(A))
        path.unlink()
        for request in (store.get(A), store.snapshot(["*"]), store.commit(put(B))):
            with pytest.raises(Unavailable, match=r"vanished.*put it back"):
                await request
        assert not path.exists()
        async with opened(path) as late:
            with pytest.raises(Unavailable, match=r"vanished but .*-wal is there"):
                await late.get(A)
        assert not path.exists()


async def test_another_file_in_its_place_is_told_as_new_and_revisions_never_go_back(path: Path, tmp_path: Path) -> None:
    async with opened(tmp_path / "other") as other:
        await other.commit(put(B, b"restored"))
    async with opened(path) as store, opened(path) as bystander:
        for _ in range(20):
            revision = await store.commit(put(A))
        await bystander.snapshot(["*"])
        feed = Feed(store)
        await feed.add(["net:a"])
        await anext(feed)
        tear(path)
        os.rename(tmp_path / "other", path)
        async with asyncio.timeout(10):
            item = await anext(feed)
        assert isinstance(item, ScopeReset)
        assert [(record.key, record.data) for record in item.records] == [(B, b"restored")]
        assert item.revision > revision
        with pytest.raises(Compacted):
            await anext(bystander.watch({"*": revision}))
        assert await bystander.commit(put(A)) > item.revision
        await feed.aclose()


async def test_a_backup_put_back_is_noticed_though_it_is_the_same_store(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        await store.commit(put(A, b"old"))
    shutil.copy(path, tmp_path / "backup")
    async with opened(path) as store:
        revision = await store.commit(put(A, b"new"))
        watch = store.watch({"*": revision})
        waiting = asyncio.create_task(anext(watch))
        await asyncio.sleep(0.05)
        tear(path)
        shutil.copy(tmp_path / "backup", tmp_path / "again")
        os.rename(tmp_path / "again", path)
        with pytest.raises(Compacted):
            await asyncio.wait_for(waiting, 10)
        record = await store.get(A)
        assert record is not None
        assert record.data == b"old"
        assert await store.commit(put(B)) > revision + 1


def test_another_file_is_noticed_even_if_it_is_the_same_store_and_newer(path: Path, tmp_path: Path) -> None:
    """A backup that was put back, and written to by others until it had overtaken what we knew."""
    file = SqliteFile(path, history=10, patience=1)
    known = file.commit(put(A))
    file.close()
    shutil.copy(path, tmp_path / "copy")
    known = file.commit(put(A))
    copy = SqliteFile(tmp_path / "copy", history=10, patience=1)
    while copy.commit(put(B)) <= known:
        pass
    copy.close()
    tear(path)
    os.rename(tmp_path / "copy", path)
    with pytest.raises(Compacted):
        file.changes({"*": known})
    file.close()


def test_another_file_that_is_locked_is_still_known_as_another_later(path: Path, tmp_path: Path) -> None:
    file, other = SqliteFile(path, history=10, patience=0.05), SqliteFile(tmp_path / "other", history=10, patience=1)
    known = [file.commit(put(A)) for _ in range(5)][-1]
    other.commit(put(B))
    other.close()
    tear(path)
    os.rename(tmp_path / "other", path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable):
            file.get(A)
        db.execute("ROLLBACK")
    assert file.get(B) is not None
    assert file.snapshot(Scopes([])).revision > known
    file.close()


GARBAGE = b"\xde\xad\xbe\xef" * 4096


@pytest.mark.parametrize("content", [b"hello, I am a text file " * 100, GARBAGE])
async def test_a_file_that_is_no_database_says_what_to_do(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    async with opened(path) as store:
        for request in (store.get(A), store.commit(put(A)), store.snapshot(["*"])):
            with pytest.raises(StoreCorrupt, match=r"dfdb.sqlite.*restore a backup.*repair --fix"):
                await request
        assert path.read_bytes() == content
        tear(path)
        await store.commit(put(A))


async def test_a_damaged_page_is_told_and_a_restored_file_heals(path: Path, tmp_path: Path) -> None:
    async with opened(path) as store:
        for i in range(100):
            await store.commit(put(Key("net:a", "Thing", str(i)), b"x" * 1000))
    shutil.copy(path, tmp_path / "backup")
    with path.open("r+b") as file:
        for page in range(1, path.stat().st_size // 4096):
            file.seek(page * 4096)
            file.write(GARBAGE[:4096])
    async with opened(path) as store:
        with pytest.raises(StoreCorrupt, match=r"malformed.*restore a backup"):
            await store.snapshot(["*"])
        tear(path)
        os.rename(tmp_path / "backup", path)
        assert len((await store.snapshot(["*"])).records) == 100


async def test_another_program_s_file_is_left_alone(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE mine (x)")
    async with opened(path) as store:
        with pytest.raises(StoreCorrupt, match=r"some other program's SQLite file.*store_url"):
            await store.snapshot(["*"])
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]


async def test_a_newer_layout_asks_for_an_upgrade(path: Path) -> None:
    async with opened(path) as store:
        await store.commit(put(A))
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version = 99")
    async with opened(path) as store:
        with pytest.raises(StoreCorrupt, match=r"layout 99.*upgrade this host"):
            await store.get(A)


@pytest.mark.parametrize("damage", ["DROP TABLE record", "DELETE FROM store"])
async def test_tables_that_are_missing_are_corruption(path: Path, damage: str) -> None:
    async with opened(path) as store:
        await store.commit(put(A))
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute(damage)
            db.commit()
        with pytest.raises(StoreCorrupt, match="restore a backup"):
            await store.commit(put(A))


async def test_a_row_that_a_hand_wrote_as_text_is_read_as_bytes(path: Path) -> None:
    async with opened(path) as store:
        await store.commit(put(A))
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.execute("UPDATE record SET data = 'gärbage'")
            db.commit()
        assert [record.data for record in (await store.snapshot(["*"])).records] == ["gärbage".encode()]


async def test_a_directory_in_its_place_or_above_it_is_said_so(path: Path) -> None:
    path.mkdir()
    async with opened(path) as store:
        with pytest.raises(Unavailable, match="must be able to write"):
            await store.get(A)
    file = path / "file"
    file.touch()
    async with opened(file / "db") as store:
        with pytest.raises(Unavailable, match="must be able to write"):
            await store.get(A)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False, capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


async def test_a_full_disk_is_an_outage_that_ends_with_room(small_disk: Path) -> None:
    async with opened(small_disk / "db") as store:
        await store.commit(put(A))
        ballast = small_disk / "ballast"
        with contextlib.suppress(OSError):
            ballast.write_bytes(b"x" * 2**20)
        with pytest.raises(Unavailable, match=r"no space left.*free some"):
            await store.commit(put(B, b"x" * 300_000))
        assert [record.key for record in (await store.snapshot(["*"])).records] == [A]
        ballast.unlink()
        await store.commit(put(B, b"x" * 100_000))


async def test_a_read_only_disk_names_who_must_be_able_to_write(small_disk: Path) -> None:
    async with opened(small_disk / "db") as store:
        await store.commit(put(A))
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    async with opened(small_disk / "db") as store:
        with pytest.raises(Unavailable, match=f"uid {os.geteuid()} must be able to write"):
            await store.commit(put(B))
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
        await store.commit(put(B))


# -- history ----------------------------------------------------------------------------------------------------------


async def test_only_the_youngest_deletions_are_kept(path: Path) -> None:
    async with opened(path, history=10) as store:
        keys = [Key("net:a", "Thing", str(i)) for i in range(50)]
        for key in keys:
            await store.commit(put(key))
        start = (await store.snapshot(())).revision
        for key in keys[:40]:
            last = await store.commit(Txn((Delete(key),)))
        with pytest.raises(Compacted):
            await anext(store.watch({"*": start}))
        recent = await anext(store.watch({"*": last - 10}))
        assert len(recent.records) == 10
        assert len((await store.snapshot(["*"])).records) == 10
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM record WHERE data IS NULL").fetchone() == (10,)


async def test_watches_that_end_are_forgotten(path: Path) -> None:
    async with opened(path) as store:
        start = await store.commit(put(A))
        watches = [store.watch({"*": start}) for _ in range(3)]
        waiting = [asyncio.create_task(anext(watch)) for watch in watches]
        await store.commit(Txn(()))
        assert len(store._wakes) == 3
        for watch in watches:
            await watch.aclose()
        assert [type(end) for end in await asyncio.gather(*waiting, return_exceptions=True)] == [StopAsyncIteration] * 3
        assert not store._wakes


async def test_a_store_s_own_commits_wake_its_watches_at_once(path: Path) -> None:
    async with opened(path, poll=3600) as store:
        revision = await store.commit(put(A))
        waiting = asyncio.create_task(anext(store.watch({"*": revision})))
        await asyncio.sleep(0.1)  # so that it has looked, and found nothing
        await store.commit(put(B))
        async with asyncio.timeout(10):
            assert [record.key for record in (await waiting).records] == [B]


# -- URLs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["", "sqlite", "sqlite://", "sqlite:///", "sqlite://relative", "mysql://x", "memory://", "/a/b", "sqlite:///a?b=1"],
)
def test_an_unknown_url_names_the_option_and_what_to_write(url: str) -> None:
    with pytest.raises(UnknownStore, match=r"\[df\] store_url.*sqlite:///ABSOLUTE/PATH"):
        open_store(url)


async def test_urls_open_the_same_store(path: Path) -> None:
    for url in (f"sqlite://{path}", "memory://test_urls"):
        one, two = open_store(url), open_store(url)
        await one.commit(put(A))
        assert await two.get(A) == await one.get(A) is not None
        await one.close()
        await two.close()
